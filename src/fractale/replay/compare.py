"""A replay against its record: event by event, up to the first that is another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeAlias

from fractale.errors import FractaleError
from fractale.events import Event
from fractale.replay.events import CALL_ENDS, CALL_STARTS, Data, Stream, Told, Visited
from fractale.replay.words import Divergence, another, missing, named, same, unknown

Resolve: TypeAlias = Callable[[Any], Any]

ANSWERS: Mapping[str, tuple[str, ...]] = {
    "tool_finished": ("text",),
    "model_finished": ("text",),
    "step_finished": ("reason", "error"),
    "item_finished": ("error",),
    "table": ("rows",),
    "run_finished": ("outputs", "error"),
}
"""What a loose comparison passes over: what was answered, and all that only repeats it."""

VISIT_ENDS = ("step_finished", "item_finished")
SPENT = ("input_tokens", "output_tokens", "cost", "tokens", "usage")


class Diverged(FractaleError):
    """Ends a replay at its first divergence."""

    code = "diverged"

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(divergence.message)
        self.divergence = divergence


class RecordEnds(FractaleError):
    """Ends a replay where the record of a run that was cut short ends."""

    code = "record-ends"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What counts.

    Args:
        loose: What tools and models answered does not, but only what came of it.
        live_tools, live_model: Which side is real.
    """

    loose: bool = False
    live_tools: bool = False
    live_model: bool = False


@dataclass(slots=True)
class _Lane:
    """The events of one visit, in their order."""

    events: list[Told] = field(default_factory=list[Told])
    left: list[int] = field(default_factory=list[int])

    def add(self, told: Told) -> None:
        self.left.append(len(self.events))
        self.events.append(told)


class Comparison:
    """Takes the events of a replay as they happen, and ends it at the first that differs.

    Steps and items that ran at the same time are compared each by itself, since they may be told
    in any order.

    Args:
        events: Of the record, as `as_one_process` gives them.
        ended: Whether the run came to an end; else its record may stop anywhere.
        then, now: Give the values that references in the record and in the replay stand for.

    Attributes:
        divergence: The first.
        matched: Events of the record that the replay told, too.
        of: Events of the record.
        waiting: What the recorded run waits for.
        cut: Where the record was found to end, of a run that was cut short.
    """

    def __init__(
        self, events: Iterable[Data], *, ended: bool, rules: Rules, then: Resolve, now: Resolve
    ) -> None:
        self.divergence: Divergence | None = None
        self.matched = 0
        self.ended = ended
        self.cut = ""
        self.waiting: list[Data] = []
        self._rules = rules
        self._then, self._now = then, now
        self._lanes: dict[Visited, _Lane] = {}
        self._ends: dict[str, Told] = {}
        self._keys: dict[str, str] = {}
        self._over = False
        record = Stream(elicitations=rules.live_tools)
        for event in events:
            if told := record.take(event):
                self._expect(told)
        self._record = record
        self._stream = Stream(elicitations=rules.live_tools)
        self.of = sum(len(lane.events) for lane in self._lanes.values()) + len(self._ends)

    def _expect(self, told: Told) -> None:
        self.waiting = told.data.get("waiting") or self.waiting
        if told.kind in CALL_ENDS and told.key:
            self._ends[told.key] = told
        else:
            self._lanes.setdefault(told.visit, _Lane()).add(told)

    # -- what the calls are looked up by --------------------------------------------------------

    def key_of(self, key: str) -> str | None:
        """The key in the record of a call that the replay has begun; None if no event has it."""
        return self._keys.get(key)

    def told_keys(self) -> set[str]:
        """The keys of the record's calls that events tell of."""
        return {told.key for lane in self._lanes.values() for told in lane.events if told.key}

    def goes_on(self, key: str) -> bool:
        """Whether the record goes on behind a call that has no result."""
        for lane in self._lanes.values():
            for index, told in enumerate(lane.events):
                if told.key == key:
                    return any(each > index for each in lane.left)
        return False

    def pass_over(self, step: str) -> tuple[list[Told], Told | None]:
        """Take what the record has inside of a step's visit that is in progress as it is.

        Returns:
            The events, with the ends of calls, and the one that ends the visit: None if the
            record has none. References in it are resolved.
        """
        lane = next(
            lane
            for visit, lane in self._lanes.items()
            if visit and visit[-1][0] == step and lane.left and 0 not in lane.left
        )
        left = [lane.events[index] for index in lane.left]
        end = next((told for told in left if told.kind in VISIT_ENDS), None)
        inner = left[: left.index(end)] if end else left
        keys = {told.key for told in inner if told.kind in CALL_STARTS}
        ends = [self._ends.pop(key) for key in list(self._ends) if key in keys]
        del lane.left[: len(inner)]
        self.matched += len(inner) + len(ends)
        if end is not None:
            end = replace(end, refs={name: self._then(ref) for name, ref in end.refs.items()})
        return [*inner, *ends], end

    # -- events ---------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Take an event of the replay.

        Raises:
            Diverged: It is another one than the record has there.
            RecordEnds: The record ends before it.
        """
        if self._over:
            return
        told = self._stream.take(json.loads(json.dumps(event.as_dict())))
        if told is None:
            return
        if told.kind in CALL_ENDS:
            self._end(told)
        elif told.kind == "run_finished":
            self._finish(told)
        else:
            self._step(told)

    def _step(self, told: Told) -> None:
        lane = self._lanes.get(told.visit)
        if lane is None or not lane.left:
            self._beyond(told)
        index = self._place(lane, told)
        expected = lane.events[index]
        self._hold(expected, told)
        lane.left.remove(index)
        if told.key and expected.key:
            self._keys[told.key] = expected.key

    def _place(self, lane: _Lane, told: Told) -> int:
        """The next event of a lane; of calls that ran at the same time, the one that is this."""
        first = lane.left[0]
        expected = lane.events[first]
        if told.kind not in CALL_STARTS or expected.kind not in CALL_STARTS:
            return first
        end = self._ends.get(expected.key or "")
        for index in lane.left:
            each = lane.events[index]
            beside = index == first or end is None or each.order < end.order
            if each.kind in CALL_STARTS and beside and not self._differs(each, told):
                return index
        return first

    def _end(self, told: Told) -> None:
        key = self._keys.get(told.key or "", "")
        expected = self._ends.get(key)
        if expected is None:
            self._beyond(told)
        self._hold(expected, told)
        del self._ends[key]

    def _finish(self, told: Told) -> None:
        left = self._leftover()
        if left is not None and left.kind != "run_finished":
            self.diverge(missing(left, told))
        self._step(told)
        self._over = True

    def _hold(self, expected: Told, told: Told) -> None:
        differs = self._differs(expected, told)
        if differs:
            self.diverge(self._other(expected, told, differs))
        self.matched += 1

    def _beyond(self, told: Told) -> NoReturn:
        """What to do with an event that the record does not have."""
        if not self.ended:
            self.ends(f"before {named(told)}")
        left = self._leftover()
        beside = left if left is not None and left.visit[:-1] == told.visit[:-1] else None
        self.diverge(unknown(told, beside))

    def ends(self, where: str) -> NoReturn:
        """End the replay where the record ends.

        Raises:
            RecordEnds: Always.
        """
        self._over = True
        self.cut = where
        raise RecordEnds(f"the record ends {where}")

    def diverge(self, divergence: Divergence) -> NoReturn:
        """End the replay at its first divergence.

        Raises:
            Diverged: Always.
        """
        if self.divergence is None:
            self.divergence = divergence
        self._over = True
        raise Diverged(self.divergence)

    # -- what differs ---------------------------------------------------------------------------

    def _differs(self, expected: Told, told: Told) -> list[str]:
        """The fields in which two events differ; ``kind`` where they are of other kinds."""
        if expected.kind != told.kind:
            return ["kind"]
        a, b = self._counted(expected, expected), self._counted(told, expected)
        found = [name for name in {**a, **b} if not same(a.get(name), b.get(name))]
        return found if self._rules.loose else [*found, *self._refs(expected, told)]

    def _counted(self, told: Told, expected: Told) -> dict[str, Any]:
        rules, data = self._rules, dict(told.data)
        passed: list[str] = []
        if rules.loose:
            passed += ANSWERS.get(told.kind, ())
        if rules.live_model:
            passed += [*SPENT, "model"]
        if expected.visit in self._record.reentered:
            passed.append("tokens")
        if self._record.resumed:
            passed.append("usage")
        for name in passed:
            data.pop(name, None)
        return data

    def _refs(self, expected: Told, told: Told) -> list[str]:
        return [
            name
            for name, ref in expected.refs.items()
            if ref != told.refs.get(name)
            and not same(self._then(ref), self._now(told.refs.get(name)))
        ]

    def _values(self, told: Told, names: Iterable[str], resolve: Resolve) -> dict[str, Any]:
        found = {**told.data, **{name: resolve(ref) for name, ref in told.refs.items()}}
        return {name: found[name] for name in names if name in found}

    def _other(self, expected: Told, told: Told, differs: list[str]) -> Divergence:
        """The divergence between two events that should be one."""
        recorded = self._values(expected, differs, self._then)
        now = self._values(told, differs, self._now)
        return another(expected, told, recorded, now)

    # -- the end --------------------------------------------------------------------------------

    def _leftover(self) -> Told | None:
        """The first event of the record that the replay has not told."""
        left = [lane.events[lane.left[0]] for lane in self._lanes.values() if lane.left]
        return min([*left, *self._ends.values()], key=lambda told: told.order, default=None)
