"""Two runs side by side: where they part, and what differs in each visit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from fractale.errors import NotRecorded
from fractale.pins import ToolChange, change_between
from fractale.record.diff_fork import ForkedFrom, from_fork
from fractale.record.history import RunHistory, Visit
from fractale.record.history_values import resolve
from fractale.record.offered import read_offered

RUN_DIR = "RUN_DIR"
"""Stands for each run's own folder, so that a path in it is no difference."""
OF_EACH_JOB = ("job_id", "submitted", "started", "ended", "seconds", "log_file")
"""What two jobs never have in common: times, and what a scheduler calls them."""


@dataclass(frozen=True, slots=True)
class Change:
    """One place where two JSON values differ; `missing` names the side that has nothing there.

    Args:
        path: Such as ``jobspec.nodes`` or ``[2].name``; empty for the whole value.
        missing: ``a``, ``b`` or nothing.
    """

    path: str
    a: Any
    b: Any
    missing: str = ""


@dataclass(slots=True, kw_only=True)
class VisitDiff:
    """One visit of a step in both runs, or in one of them.

    Args:
        number: Which visit of the step it is, from 1.
        changed: What differs, in the order in which it happened: ``inputs``, ``calls``,
            ``outputs``, ``outcome``, ``path`` (where it led, or that only one run has it).
    """

    path: str
    number: int
    a: Visit | None
    b: Visit | None
    changed: list[str] = field(default_factory=list[str])
    inputs: list[Change] = field(default_factory=list[Change])
    outputs: list[Change] = field(default_factory=list[Change])

    @property
    def parts(self) -> bool:
        """Whether the ways of the runs part here."""
        return "path" in self.changed


@dataclass(slots=True, kw_only=True)
class RunDiff:
    """What differs between two runs.

    Args:
        about: What was run: plan, its hash, inputs, models, versions, tools' schemas.
        visits: Every visit of either run, in the order of the first; of a run and its fork, those
            from the fork on, numbered as in the run that was forked.
        forked: Where one was forked from the other one.
        tools: The tools that both runs were offered, and that were described in another way.
    """

    a: RunHistory
    b: RunHistory
    about: list[Change]
    visits: list[VisitDiff]
    forked: ForkedFrom | None = None
    tools: list[ToolChange] = field(default_factory=list[ToolChange])

    @property
    def same(self) -> bool:
        """Whether nothing but time differs."""
        return (
            not self.about
            and not self.tools
            and self.first is None
            and self.a.status == self.b.status
        )

    @property
    def first(self) -> VisitDiff | None:
        """The first visit in which anything but time differs."""
        return next((visit for visit in self.visits if visit.changed), None)

    @property
    def parting(self) -> VisitDiff | None:
        """The first visit after which the runs went other ways."""
        return next((visit for visit in self.visits if visit.parts), None)


def diff_runs(a: RunHistory, b: RunHistory) -> RunDiff:
    """Compare two runs.

    Visits are paired by their step and by which visit of it they are, so that steps that ran at
    the same time may have been entered in any order.
    """
    ours, theirs, forked = from_fork(a, b)
    return RunDiff(
        a=a,
        b=b,
        about=list(changes(_about(a), _about(b))),
        visits=[_compare(a, b, one, other) for one, other in _pairs(ours, theirs)],
        forked=forked,
        tools=_tool_changes(a, b),
    )


def _tool_changes(a: RunHistory, b: RunHistory) -> list[ToolChange]:
    """The tools of both runs that changed; none where a record does not say what there was."""
    try:
        before = {tool.qualified_name: tool for tool in read_offered(a.folder).tools}
        now = {tool.qualified_name: tool for tool in read_offered(b.folder).tools}
    except NotRecorded:
        return []
    return [
        change_between(before[name].described, now[name])
        for name in before
        if name in now and before[name].definition != now[name].definition
    ]


def _about(history: RunHistory) -> dict[str, Any]:
    head = history.head
    inputs = {name: resolve(history.folder, value) for name, value in history.inputs.items()}
    return {
        "plan": head.get("plan"),
        "plan_hash": head.get("plan_hash"),
        "inputs": inputs,
        "models": history.models,
        "versions": dict(history.versions),
        "tools": dict(history.tools),
    }


def _pairs(
    ours: Sequence[Visit], theirs: Sequence[Visit]
) -> Iterator[tuple[Visit | None, Visit | None]]:
    """Both runs' visits in pairs: in the first one's order, the other's own where they come."""
    known = {(visit.path, visit.number) for visit in ours}
    there = {(visit.path, visit.number): place for place, visit in enumerate(theirs)}
    told = 0
    for visit in ours:
        place = there.get((visit.path, visit.number))
        if place is not None and place >= told:
            yield from _only_there(theirs[told:place], known)
            told = place + 1
        yield visit, None if place is None else theirs[place]
    yield from _only_there(theirs[told:], known)


def _only_there(
    theirs: Sequence[Visit], known: set[tuple[str, int]]
) -> Iterator[tuple[None, Visit]]:
    return ((None, v) for v in theirs if (v.path, v.number) not in known)


def _compare(a: RunHistory, b: RunHistory, one: Visit | None, other: Visit | None) -> VisitDiff:
    visit = one or other
    assert visit is not None  # noqa: S101 - a pair has at least one
    found = VisitDiff(path=visit.path, number=visit.number, a=one, b=other)
    if one is None or other is None:
        found.changed.append("path")
        return found
    ended = one.outcome is not None and other.outcome is not None  # else they are not known yet
    if ended:
        found.inputs = list(changes(_value(a, one.inputs), _value(b, other.inputs)))
    if ended and one.outputs_cut == other.outputs_cut:  # a whole value is none beside a short one
        whole = changes(_value(a, one.outputs), _value(b, other.outputs))
        found.outputs = [each for each in whole if not _is_of_each_job(visit, each)]
    differs = {
        "inputs": bool(found.inputs),
        "calls": _calls(a, one) != _calls(b, other),
        "outputs": bool(found.outputs),
        "outcome": (one.outcome, one.decided_by) != (other.outcome, other.decided_by),
        "path": (one.event, one.next) != (other.event, other.next),
    }
    found.changed = [what for what, differ in differs.items() if differ]
    return found


def _is_of_each_job(visit: Visit, change: Change) -> bool:
    """Whether two jobs differ in it that did the same; of a foreach the path has an index."""
    name = change.path.rpartition("].")[2] if change.path.startswith("[") else change.path
    return visit.kind == "job" and name in OF_EACH_JOB


def _calls(history: RunHistory, visit: Visit) -> list[Any]:
    """What was called with what; calls that ran at the same time may be told in any order."""
    return sorted(
        (call.kind, call.name, call.step, call.agent, repr(_value(history, call.arguments)))
        for call in visit.calls
    )


def _value(history: RunHistory, value: Any) -> Any:
    """A value in full, without the run's own folder in it."""
    return _without(resolve(history.folder, value), str(history.folder.path.absolute()))


def _without(value: Any, folder: str) -> Any:
    if isinstance(value, str):
        return value.replace(folder, RUN_DIR)
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {key: _without(each, folder) for key, each in table.items()}
    if isinstance(value, list):
        return [_without(each, folder) for each in cast("list[Any]", value)]
    return value


def changes(a: Any, b: Any, path: str = "") -> Iterator[Change]:
    """Where two JSON values differ, each place once."""
    if isinstance(a, dict) and isinstance(b, dict):
        yield from _of_tables(cast("dict[str, Any]", a), cast("dict[str, Any]", b), path)
    elif isinstance(a, list) and isinstance(b, list):
        yield from _of_lists(cast("list[Any]", a), cast("list[Any]", b), path)
    elif a != b or isinstance(a, bool) != isinstance(b, bool):
        yield Change(path, a, b)


def _of_lists(a: list[Any], b: list[Any], path: str) -> Iterator[Change]:
    """Item by item where there are as many; else as a whole: which one is new is not known."""
    if len(a) != len(b):
        yield Change(path, a, b)
        return
    for index, (one, other) in enumerate(zip(a, b, strict=True)):
        yield from changes(one, other, f"{path}[{index}]")


def _of_tables(a: dict[str, Any], b: dict[str, Any], path: str) -> Iterator[Change]:
    for key in dict.fromkeys([*a, *b]):
        place = f"{path}.{key}" if path else str(key)
        if key not in b:
            yield Change(place, a[key], None, missing="b")
        elif key not in a:
            yield Change(place, None, b[key], missing="a")
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
        "visits": [_visit(visit) for visit in diff.visits],
    }


def _side(history: RunHistory) -> dict[str, Any]:
    visits = len(history.visits)
    return {"run": history.run, "status": history.status, "visits": visits, "usage": history.usage}


def _place(visit: VisitDiff | None) -> dict[str, Any] | None:
    if visit is None:
        return None
    return {"step": visit.path, "visit": visit.number, "changed": visit.changed}


def _visit(visit: VisitDiff) -> dict[str, Any]:
    return {
        "step": visit.path,
        "visit": visit.number,
        "changed": visit.changed,
        "a": _of_visit(visit.a),
        "b": _of_visit(visit.b),
        "inputs": [_change(change) for change in visit.inputs],
        "outputs": [_change(change) for change in visit.outputs],
    }


def _of_visit(visit: Visit | None) -> dict[str, Any] | None:
    if visit is None:
        return None
    names = ("outcome", "event", "decided_by", "reason", "error", "next", "seconds", "tokens")
    return {name: getattr(visit, name) for name in names}


def _change(change: Change) -> dict[str, Any]:
    data: dict[str, Any] = {"path": change.path}
    if change.missing != "a":
        data["a"] = change.a
    if change.missing != "b":
        data["b"] = change.b
    return data
