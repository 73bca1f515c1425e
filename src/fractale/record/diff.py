"""Comparison of two runs: where their paths separate, and the differences in each attempt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from fractale.errors import NotRecorded
from fractale.pins import ToolChange, change_between
from fractale.record.history import RecordedAttempt, RunHistory, input_values, resolve
from fractale.record.snapshot import read_snapshot

RUN_DIR = "RUN_DIR"
"""Replaces each run's own directory, so that a path in it is not a difference."""
OF_EACH_JOB = ("job_id", "submitted", "started", "ended", "seconds", "log_file")
"""Outputs that always differ between two jobs: times and ids."""


@dataclass(frozen=True, slots=True)
class ValueChange:
    """One place where two JSON values differ.

    Args:
        path: Such as ``jobspec.nodes`` or ``[2].name``; empty for the whole value.
        missing: The side without a value there: ``a``, ``b``, or empty.
    """

    path: str
    a: Any
    b: Any
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedFrom:
    """Where one of two runs was forked from the other one.

    Args:
        fork: Which of them is the fork: ``a`` or ``b``.
        step: The step's path.
        before: How many attempts the other run had made; the fork has their results.
    """

    fork: str
    step: str
    visit: int  # the number of the attempt in the other run, from 1
    before: int


@dataclass(slots=True, kw_only=True)
class AttemptDiff:
    """One attempt of a step in both runs, or in one of them.

    Args:
        number: Which attempt of the step it is, from 1.
        changed: The parts that differ, in order of time: ``inputs``, ``calls``, ``outputs``,
            ``outcome``, ``path`` (the next step differs, or only one run has the attempt).
    """

    path: str
    number: int
    a: RecordedAttempt | None
    b: RecordedAttempt | None
    changed: list[str] = field(default_factory=list[str])
    inputs: list[ValueChange] = field(default_factory=list[ValueChange])
    outputs: list[ValueChange] = field(default_factory=list[ValueChange])

    @property
    def parts(self) -> bool:
        """Whether the runs' paths separate here."""
        return "path" in self.changed


@dataclass(slots=True, kw_only=True)
class RunDiff:
    """The differences between two runs.

    Args:
        about: The differences in their heads: plan, its hash, inputs, models, versions, tools'
            schemas.
        attempts: Those of either run, in the order of the first run. For a run and its fork, those
            from the fork on, numbered as in the run that was forked.
        forked: Where one was forked from the other one.
        tools: The tools that both runs were offered and whose definitions differ.
    """

    a: RunHistory
    b: RunHistory
    about: list[ValueChange]
    attempts: list[AttemptDiff]
    forked: ForkedFrom | None = None
    tools: list[ToolChange] = field(default_factory=list[ToolChange])

    @property
    def same(self) -> bool:
        """Whether only times differ."""
        return (
            not self.about
            and not self.tools
            and self.first is None
            and self.a.status == self.b.status
        )

    @property
    def first(self) -> AttemptDiff | None:
        """The first attempt in which something other than time differs."""
        return next((attempt for attempt in self.attempts if attempt.changed), None)

    @property
    def parting(self) -> AttemptDiff | None:
        """The first attempt after which the runs took different paths."""
        return next((attempt for attempt in self.attempts if attempt.parts), None)


def diff_runs(a: RunHistory, b: RunHistory) -> RunDiff:
    """Compare two runs.

    Attempts are paired by their step and by their number, so that steps that ran at the same time
    may have been entered in any order.
    """
    ours, theirs, forked = _from_fork(a, b)
    return RunDiff(
        a=a,
        b=b,
        about=list(changes(_about(a), _about(b))),
        attempts=[_compare(a, b, one, other) for one, other in _pairs(ours, theirs)],
        forked=forked,
        tools=_tool_changes(a, b),
    )


def _from_fork(
    a: RunHistory, b: RunHistory
) -> tuple[Sequence[RecordedAttempt], Sequence[RecordedAttempt], ForkedFrom | None]:
    """The attempts of two runs that can differ, with the same numbers for the same attempts.

    For a run and its fork these are the attempts from the fork on: earlier attempts are shared, and
    only the first run's record has them. The fork's attempts continue the numbers of the shared
    ones.
    """
    if _parent(b).get("run") == a.run:
        ours, theirs, at = _aligned(a, b, "b")
        return ours, theirs, at
    if _parent(a).get("run") == b.run:
        theirs, ours, at = _aligned(b, a, "a")
        return ours, theirs, at
    return a.attempts, b.attempts, None


def _parent(history: RunHistory) -> Mapping[str, Any]:
    return history.head.get("parent") or {}


def _aligned(
    parent: RunHistory, fork: RunHistory, side: str
) -> tuple[Sequence[RecordedAttempt], Sequence[RecordedAttempt], ForkedFrom]:
    step, number = str(_parent(fork).get("step")), int(_parent(fork).get("attempt") or 1)
    places = [(attempt.path, attempt.number) for attempt in parent.attempts]
    # A run can be forked at a step before which it stopped.
    place = places.index((step, number)) if (step, number) in places else len(places)
    around = list(_around(parent.attempts[place])) if place < len(places) else []
    before = [each for each in parent.attempts[:place] if not any(each is one for one in around)]
    kept = [*(_since(each, parent.attempts[place]) for each in around), *parent.attempts[place:]]
    made = Counter(attempt.path for attempt in before)
    counted = [
        replace(attempt, number=attempt.number + made[attempt.path]) for attempt in fork.attempts
    ]
    return kept, counted, ForkedFrom(fork=side, step=step, visit=number, before=len(before))


def _around(attempt: RecordedAttempt) -> Iterator[RecordedAttempt]:
    """The attempts around an attempt, the outermost first: the fork started them again."""
    if attempt.parent is not None:
        yield from _around(attempt.parent)
        yield attempt.parent


def _since(around: RecordedAttempt, attempt: RecordedAttempt) -> RecordedAttempt:
    """An attempt without the calls that it made before one inside of it."""
    return replace(around, calls=[each for each in around.calls if each.started >= attempt.started])


def _tool_changes(a: RunHistory, b: RunHistory) -> list[ToolChange]:
    """The tools of both runs that changed; none if a record has no tools."""
    try:
        before = {tool.qualified_name: tool for tool in read_snapshot(a.record).tools}
        now = {tool.qualified_name: tool for tool in read_snapshot(b.record).tools}
    except NotRecorded:
        return []
    return [
        change_between(before[name].described, now[name])
        for name in before
        if name in now and before[name].definition != now[name].definition
    ]


def _about(history: RunHistory) -> dict[str, Any]:
    head = history.head
    return {
        "plan": head.get("plan"),
        "plan_hash": head.get("plan_hash"),
        "inputs": input_values(history),
        "models": history.models,
        "versions": dict(history.versions),
        "tools": dict(history.tools),
    }


def _pairs(
    ours: Sequence[RecordedAttempt], theirs: Sequence[RecordedAttempt]
) -> Iterator[tuple[RecordedAttempt | None, RecordedAttempt | None]]:
    """Both runs' attempts in pairs, in the first run's order, with unpaired ones in between."""
    known = {(attempt.path, attempt.number) for attempt in ours}
    there = {(attempt.path, attempt.number): place for place, attempt in enumerate(theirs)}
    done = 0
    for attempt in ours:
        place = there.get((attempt.path, attempt.number))
        if place is not None and place >= done:
            yield from _only_there(theirs[done:place], known)
            done = place + 1
        yield attempt, None if place is None else theirs[place]
    yield from _only_there(theirs[done:], known)


def _only_there(
    theirs: Sequence[RecordedAttempt], known: set[tuple[str, int]]
) -> Iterator[tuple[None, RecordedAttempt]]:
    return ((None, v) for v in theirs if (v.path, v.number) not in known)


def _compare(
    a: RunHistory, b: RunHistory, one: RecordedAttempt | None, other: RecordedAttempt | None
) -> AttemptDiff:
    attempt = one or other
    assert attempt is not None  # noqa: S101 - a pair has at least one
    found = AttemptDiff(path=attempt.path, number=attempt.number, a=one, b=other)
    if one is None or other is None:
        found.changed.append("path")
        return found
    ended = one.outcome is not None and other.outcome is not None  # else not known yet
    if ended:
        found.inputs = list(changes(_value(a, one.inputs), _value(b, other.inputs)))
    if (
        ended and one.outputs_cut == other.outputs_cut
    ):  # a cut value cannot be compared with a whole one
        whole = changes(_value(a, one.outputs), _value(b, other.outputs))
        found.outputs = [each for each in whole if not _is_of_each_job(attempt, each)]
    differs = {
        "inputs": bool(found.inputs),
        "calls": _calls(a, one) != _calls(b, other),
        "outputs": bool(found.outputs),
        "outcome": (one.outcome, one.decided_by) != (other.outcome, other.decided_by),
        "path": (one.event, one.next) != (other.event, other.next),
    }
    found.changed = [what for what, differ in differs.items() if differ]
    return found


def _is_of_each_job(attempt: RecordedAttempt, change: ValueChange) -> bool:
    """Whether the change is in a time or id of a job; in a foreach its path has an index."""
    name = change.path.rpartition("].")[2] if change.path.startswith("[") else change.path
    return attempt.kind == "job" and name in OF_EACH_JOB


def _calls(history: RunHistory, attempt: RecordedAttempt) -> list[Any]:
    """The calls with their arguments, sorted: concurrent calls may be recorded in any order."""
    return sorted(
        (call.kind, call.name, call.step, call.agent, repr(_value(history, call.arguments)))
        for call in attempt.calls
    )


def _value(history: RunHistory, value: Any) -> Any:
    """The whole value, without the run's own directory in it."""
    return _without(resolve(history.record, value), str(history.record.path.absolute()))


def _without(value: Any, directory: str) -> Any:
    if isinstance(value, str):
        return value.replace(directory, RUN_DIR)
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {key: _without(each, directory) for key, each in table.items()}
    if isinstance(value, list):
        return [_without(each, directory) for each in cast("list[Any]", value)]
    return value


def changes(a: Any, b: Any, path: str = "") -> Iterator[ValueChange]:
    """The places where two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        yield from _of_tables(cast("dict[str, Any]", a), cast("dict[str, Any]", b), path)
    elif isinstance(a, list) and isinstance(b, list):
        yield from _of_lists(cast("list[Any]", a), cast("list[Any]", b), path)
    elif a != b or isinstance(a, bool) != isinstance(b, bool):
        yield ValueChange(path, a, b)


def _of_lists(a: list[Any], b: list[Any], path: str) -> Iterator[ValueChange]:
    """Item by item if both lists have the same length; otherwise the whole lists."""
    if len(a) != len(b):
        yield ValueChange(path, a, b)
        return
    for index, (one, other) in enumerate(zip(a, b, strict=True)):
        yield from changes(one, other, f"{path}[{index}]")


def _of_tables(a: dict[str, Any], b: dict[str, Any], path: str) -> Iterator[ValueChange]:
    for key in dict.fromkeys([*a, *b]):
        place = f"{path}.{key}" if path else str(key)
        if key not in b:
            yield ValueChange(place, a[key], None, missing="b")
        elif key not in a:
            yield ValueChange(place, None, b[key], missing="a")
        else:
            yield from changes(a[key], b[key], place)


# -- as JSON ------------------------------------------------------------------------------------


def diff_data(diff: RunDiff) -> dict[str, Any]:
    """A comparison as JSON."""
    return {
        "a": _side(diff.a),
        "b": _side(diff.b),
        "forked": asdict(diff.forked) if diff.forked else None,
        "same": diff.same,
        "about": [_change(change) for change in diff.about],
        "tools": [
            {"server": each.server, "tool": each.tool, "changed": each.parts, "diff": each.diff()}
            for each in diff.tools
        ],
        "first_difference": _place(diff.first),
        "parting": _place(diff.parting),
        "visits": [_attempt(attempt) for attempt in diff.attempts],
    }


def _side(history: RunHistory) -> dict[str, Any]:
    attempts = len(history.attempts)
    return {
        "run": history.run,
        "status": history.status,
        "visits": attempts,
        "usage": history.usage,
    }


def _place(attempt: AttemptDiff | None) -> dict[str, Any] | None:
    if attempt is None:
        return None
    return {"step": attempt.path, "visit": attempt.number, "changed": attempt.changed}


def _attempt(attempt: AttemptDiff) -> dict[str, Any]:
    return {
        "step": attempt.path,
        "visit": attempt.number,
        "changed": attempt.changed,
        "a": _of_attempt(attempt.a),
        "b": _of_attempt(attempt.b),
        "inputs": [_change(change) for change in attempt.inputs],
        "outputs": [_change(change) for change in attempt.outputs],
    }


def _of_attempt(attempt: RecordedAttempt | None) -> dict[str, Any] | None:
    if attempt is None:
        return None
    names = ("outcome", "event", "decided_by", "reason", "error", "next", "seconds", "tokens")
    return {name: getattr(attempt, name) for name in names}


def _change(change: ValueChange) -> dict[str, Any]:
    data: dict[str, Any] = {"path": change.path}
    if change.missing != "a":
        data["a"] = change.a
    if change.missing != "b":
        data["b"] = change.b
    return data
