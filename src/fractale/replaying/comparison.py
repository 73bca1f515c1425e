"""A replay compared with its record: the calls of each attempt, and its outcome.

Each attempt of a step has its own sequence of events, since steps and items that run at the same
time may end in any order. The first event that differs ends the replay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn, TypeAlias

from fractale.errors import FractaleError, without_positions
from fractale.events import SHORT_TEXT, Event
from fractale.masking import MASK
from fractale.record.diff import ValueChange, changes
from fractale.replaying.trace import (
    ATTEMPT_ENDS,
    CALL_ENDS,
    CALL_STARTS,
    AttemptPath,
    Data,
    TraceEvent,
    TraceReader,
)

Resolve: TypeAlias = Callable[[Any], Any]
What: TypeAlias = Literal["call", "arguments", "outcome", "path", "question"]

ANSWERS: Mapping[str, tuple[str, ...]] = {
    "tool_finished": ("text",),
    "model_finished": ("text",),
    "step_finished": ("reason", "error"),
    "item_finished": ("error",),
    "table": ("rows",),
    "run_finished": ("outputs", "error"),
}
"""Fields that a loose comparison ignores: answers of tools and models, and copies of them."""

USED = ("input_tokens", "output_tokens", "cost", "tokens", "usage", "model")
"""Fields that depend on the model: not compared if it is real."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which parts of events are compared.

    Args:
        loose: Whether the answers of tools and models are ignored.
        live_tools, live_model: Which side is real.
    """

    loose: bool = False
    live_tools: bool = False
    live_model: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first difference between a replay and its record.

    Args:
        what: A different call, arguments, outcome, path or question.
        message: The same as a sentence.
        step: The step's path; empty for the whole run.
        attempt: Which attempt of the step.
        recorded, now: Both sides, as far as they are known.
        changes: The places in them that differ.
    """

    what: What
    message: str
    step: str = ""
    attempt: int = 1
    recorded: Any = None
    now: Any = None
    changes: tuple[ValueChange, ...] = ()


class Diverged(FractaleError):
    """Ends a replay at its first divergence."""

    code = "diverged"

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(divergence.message)
        self.divergence = divergence


class RecordEnds(FractaleError):
    """Ends the replay of an interrupted run at the end of its record."""

    code = "record-ends"


class Comparison:
    """A listener that compares the events of a replay with those of the record.

    Args:
        events: Those of the record, as `as_one_process` gives them.
        ended: Whether the run came to an end; otherwise its record may stop anywhere.
        then, now: Resolve references of the record and of the replay to values.

    Attributes:
        divergence: The first one; None if there is none.
        matched: How many events of the record the replay has emitted, too.
        of: How many events the record has.
        waiting: The questions that the recorded run waits for.
        cut: Where the record of an interrupted run was found to end.
    """

    def __init__(
        self, events: Iterable[Data], *, ended: bool, rules: Rules, then: Resolve, now: Resolve
    ) -> None:
        self.divergence: Divergence | None = None
        self.matched = 0
        self.ended = ended
        self.rules = rules
        self.cut = ""
        self.waiting: list[Data] = []
        self._then, self._now = then, now
        self._over = False
        self._record = TraceReader(elicitations=rules.live_tools)
        self._replay = TraceReader(elicitations=rules.live_tools)
        self._left: dict[AttemptPath, list[TraceEvent]] = {}  # the expected events, by attempt
        self._calls: dict[str, TraceEvent] = {}  # by their key in the record
        self._made: dict[str, TraceEvent] = {}  # recorded calls, by their key in the replay
        self.of = 0
        for event in filter(None, map(self._record.take, events)):
            self.of += 1
            self.waiting = event.data.get("waiting") or self.waiting
            if event.kind in CALL_ENDS and event.key in self._calls:
                self._calls[event.key].end = event
                continue
            self._left.setdefault(event.path, []).append(event)
            if event.kind in CALL_STARTS and event.key:
                self._calls[event.key] = event

    # -- for the journal and for recorded sub-agents --------------------------------------------

    @property
    def call_keys(self) -> set[str]:
        """The keys of the record's calls that have events."""
        return set(self._calls)

    def key_of(self, key: str) -> str | None:
        """The key in the record of a call that the replay has begun; None if it has no events."""
        call = self._made.get(key)
        return call.key if call else None

    def continues_after(self, key: str) -> bool:
        """Whether the record has more of the attempt after a call, by its key in the record."""
        call = self._calls.get(key)
        return call is not None and any(
            event.order > call.order for event in self._left.get(call.path, ())
        )

    def accept_inside(self, step: str) -> tuple[list[TraceEvent], TraceEvent | None]:
        """Count the rest of a step's latest attempt as equal, up to its end.

        Returns:
            The events, and the end of the attempt with its references resolved; None if the record
            does not have it.
        """
        left = self._left.get(self._replay.path_of(step), [])
        end = next((event for event in left if event.kind in ATTEMPT_ENDS), None)
        inner = left[: left.index(end)] if end else left[:]
        ends = [event.end for event in inner if event.end]
        del left[: len(inner)]
        self.matched += len(inner) + len(ends)
        if end is not None:
            end = replace(end, refs={name: self._then(ref) for name, ref in end.refs.items()})
        return [*inner, *ends], end

    # -- events ---------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Compare an event of the replay.

        Raises:
            Diverged: The record has a different one there.
            RecordEnds: The record ends before it.
        """
        if self._over:
            return
        found = self._replay.take(json.loads(json.dumps(event.as_dict())))
        if found is None:
            return
        if found.kind == "run_finished":
            first = self._first_left()
            if first is not None and first.kind != "run_finished":
                self.diverge(_missing(first, found))
        expected = self._end_of(found) if found.kind in CALL_ENDS else self._next(found)
        if expected is None:
            self._unexpected(found)
        if differs := self._differs(expected, found):
            recorded = self._values(expected, differs, self._then)
            now = self._values(found, differs, self._now)
            self.diverge(_difference(expected, found, recorded, now))
        self.matched += 1
        self._over = found.kind == "run_finished"
        if found.kind in CALL_ENDS:
            self._made[found.key or ""].end = None
            return
        self._left[found.path].remove(expected)
        if found.key and expected.key:
            self._made[found.key] = expected

    def _end_of(self, found: TraceEvent) -> TraceEvent | None:
        """The recorded end of a call that the replay has begun."""
        call = self._made.get(found.key or "")
        return call.end if call else None

    def _next(self, found: TraceEvent) -> TraceEvent | None:
        """The next recorded event of the attempt; among concurrent calls, the equal one."""
        left = self._left.get(found.path)
        if not left:
            return None
        first = left[0]
        if found.kind in CALL_STARTS and first.kind in CALL_STARTS:
            for each in left:
                beside = each is first or first.end is None or each.order < first.end.order
                if each.kind in CALL_STARTS and beside and not self._differs(each, found):
                    return each
        return first

    def _unexpected(self, found: TraceEvent) -> NoReturn:
        """End the replay at an event that the record does not have."""
        if not self.ended:
            self.end(f"before {_name(found)}")
        first = self._first_left()
        beside = first if first is not None and first.path[:-1] == found.path[:-1] else None
        self.diverge(_unknown(found, beside))

    def _first_left(self) -> TraceEvent | None:
        left = [events[0] for events in self._left.values() if events]
        ends = [call.end for call in self._made.values() if call.end]
        return min([*left, *ends], key=lambda event: event.order, default=None)

    def end(self, where: str) -> NoReturn:
        """End the replay at the end of the record.

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

    # -- differences ---------------------------------------------------------------------------

    def _differs(self, expected: TraceEvent, found: TraceEvent) -> list[str]:
        """The fields in which two events differ; ``kind`` if their kinds differ."""
        if expected.kind != found.kind:
            return ["kind"]
        left_out = self._left_out(expected)
        if _gave_none(expected.data, expected.data.get("outputs")):
            left_out.add("outputs")
        names = [name for name in {**expected.data, **found.data} if name not in left_out]
        fields = [name for name in names if not same(expected.data.get(name), found.data.get(name))]
        if self.rules.loose:
            return fields
        return [
            *fields,
            *(name for name in expected.refs if self._differs_in(name, expected, found)),
        ]

    def _differs_in(self, name: str, expected: TraceEvent, found: TraceEvent) -> bool:
        then, now = expected.refs[name], found.refs.get(name)
        if then == now or (name == "outputs" and _gave_none(expected.data, self._then(then))):
            return False
        return not same(self._then(then), self._now(now))

    def _left_out(self, expected: TraceEvent) -> set[str]:
        left_out: set[str] = set()
        if self.rules.loose:
            left_out |= {*ANSWERS.get(expected.kind, ())}
        if self.rules.live_model:
            left_out |= {*USED}
        if expected.path in self._record.reentered:
            left_out.add("tokens")
        if self._record.resumed:
            left_out.add("usage")
        return left_out

    def _values(self, event: TraceEvent, names: Iterable[str], resolve: Resolve) -> dict[str, Any]:
        values = {**event.data, **{name: resolve(ref) for name, ref in event.refs.items()}}
        return {name: values[name] for name in names if name in values}


def _gave_none(data: Data, outputs: Any) -> bool:
    """Whether a run, or a step that includes a plan, failed and gave no outputs.

    Older records never have the outputs of a plan that failed.
    """
    failed = data.get("status") in ("failed", "limit") or data.get("outcome") == "failure"
    return failed and not outputs


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal, except for the positions of errors in files.

    True is not 1. A mask in the recorded text matches any text. A masked text may have been cut
    before or after its secret was replaced, so it is enough if its beginning matches.
    """
    return all(_alike(change) for change in changes(a, b))


def _alike(change: ValueChange) -> bool:
    a, b = change.a, change.b
    if not isinstance(a, str) or not isinstance(b, str):
        return False
    a, b = without_positions(a), without_positions(b)
    short, long = sorted((a, b), key=len)
    if a == b or (MASK in short and len(long) >= SHORT_TEXT and long.startswith(short)):
        return True
    return MASK in a and _fits(a, b)


def _fits(masked: str, text: str) -> bool:
    """Whether a text matches the masked one, with any text instead of each mask."""
    first, *pieces = masked.split(MASK)
    if not text.startswith(first):
        return False
    last, position = pieces.pop(), len(first)
    for piece in pieces:
        position = text.find(piece, position)
        if position < 0:
            return False
        position += len(piece)
    return text.endswith(last) and position + len(last) <= len(text)


# -- divergences as sentences -------------------------------------------------------------------


def _difference(
    expected: TraceEvent, found: TraceEvent, recorded: Mapping[str, Any], now: Mapping[str, Any]
) -> Divergence:
    """The divergence between two events that should be equal, by the fields that differ."""
    if expected.kind != found.kind:
        kinds: list[What] = [_kind_of(found), _kind_of(expected)]
        first: What = kinds[1] if kinds[0] == "path" else kinds[0]
        return Divergence(
            what="question" if "question" in kinds else first,
            message=f"{_where(found)}: the record has {_name(expected)}, the replay has "
            f"{_name(found)}",
            step=found.step,
            attempt=found.attempt,
            recorded=expected.data,
            now=found.data,
        )
    what, words = _what(expected, found, {*recorded, *now})
    if found.kind == "tool_started":
        recorded, now = expected.data, found.data
        if what == "arguments":
            recorded, now = recorded.get("arguments", {}), now.get("arguments", {})
    return Divergence(
        what=what,
        message=f"{_where(found)} {words}",
        step=found.step,
        attempt=found.attempt,
        recorded=dict(recorded),
        now=dict(now),
        changes=tuple(changes(dict(recorded), dict(now))),
    )


def _missing(left: TraceEvent, end: TraceEvent) -> Divergence:
    """The divergence if the replay ended before an event of the record."""
    error = f": {end.data['error']}" if end.data.get("error") else ""
    return Divergence(
        what="call" if left.kind in (*CALL_STARTS, *CALL_ENDS) else "path",
        message=f"{_where(left)}: the record has {_name(left)}, but the replay ended before it as "
        f"{end.data.get('status')}{error}",
        step=left.step,
        attempt=left.attempt,
        recorded=left.data,
    )


def _unknown(found: TraceEvent, left: TraceEvent | None) -> Divergence:
    """The divergence if the replay emitted an event that the record does not have.

    Args:
        left: The recorded event in its place, if it is known.
    """
    there = f"the record has {_name(left)}" if left else "the record has no event here"
    return Divergence(
        what=_kind_of(found),
        message=f"{_where(found)}: the replay has {_name(found)}; {there}",
        step=found.step,
        attempt=found.attempt,
        recorded=left.data if left else None,
        now=found.data,
    )


def _kind_of(event: TraceEvent) -> What:
    if event.kind in (*CALL_STARTS, *CALL_ENDS):
        return "call"
    return "question" if event.kind == "answered" else "path"


def _what(expected: TraceEvent, found: TraceEvent, differs: set[str]) -> tuple[What, str]:
    data, before = found.data, expected.data
    if found.kind == "tool_started":
        if {"tool", "agent"} & differs:
            return "call", f"calls `{data.get('tool')}`; the record has `{before.get('tool')}`"
        return "arguments", f"calls `{data.get('tool')}` with other arguments"
    if found.kind == "step_finished":
        if "inputs" in differs:
            return "arguments", "has other inputs"
        if {"outcome", "decided_by", "error", "reason", "code"} & differs:
            return "outcome", "has another outcome"
        if {"next", "event_name"} & differs:
            return "path", "leads to another step"
        return "outcome", "has other outputs"
    if found.kind in CALL_ENDS:
        return "outcome", f"gets another answer from `{data.get('tool') or data.get('model')}`"
    asked = f"asks {data.get('model')}; the record has {before.get('model')}"
    words: dict[str, tuple[What, str]] = {
        "model_started": ("call", asked),
        "answered": ("question", "asks another question, or gets another answer"),
        "step_started": ("path", "is entered from another step, or is another kind of step"),
        "item_finished": ("outcome", "has another outcome"),
        "run_finished": ("outcome", "has another outcome"),
    }
    return words.get(found.kind, ("outcome", f"has another {found.kind.replace('_', ' ')}"))


def _where(event: TraceEvent) -> str:
    if not event.step:
        return "the run"
    return f"step `{event.step}`" + (f", attempt {event.attempt}," if event.attempt > 1 else "")


def _name(event: TraceEvent) -> str:
    data = event.data
    words: dict[str, str] = {
        "run_finished": f"the end of the run, {data.get('status')}",
        "step_started": f"step `{event.step}`",
        "step_finished": f"the end of step `{event.step}`",
        "item_started": f"item `{event.step}`",
        "item_finished": f"the end of item `{event.step}`",
        "tool_started": f"a call of `{data.get('tool')}`",
        "tool_finished": f"the end of a call of `{data.get('tool')}`",
        "model_started": f"a question to {data.get('model')}",
        "model_finished": f"an answer of {data.get('model')}",
        "answered": "an answer of a user",
        "warning": f"a warning ({data.get('code')}: {data.get('message')})",
    }
    return words.get(event.kind, f"a {event.kind.replace('_', ' ')}")
