"""Whether a run can go on as it was begun: its plan, its tools, its software."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fractale.errors import UsageError
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.flow import Flow
from fractale.plan.model import Plan, Step
from fractale.record.history import RecordedAttempt, RunHistory
from fractale.record.history_reader import read_history
from fractale.record.plans import plan_hash, plan_of
from fractale.record.snapshot import tool_hashes, versions
from fractale.runs.changes import PlanChange, changed_steps, plan_changes
from fractale.store.run_record import RunRecord
from fractale.toolbox import ToolInfo

MOST_CHANGES = 6
"""Changes that one message names."""


def plan_today(folder: RunRecord, head: Mapping[str, Any]) -> Plan:
    """The plan of a run as its file says now; where the file is gone, as it was kept.

    Raises:
        PlanError: It cannot be read.
    """
    file, kept = Path(str(head.get("file") or "")), folder.plan
    return load_plan(kept if kept.is_file() and not file.is_file() else file)


def unchanged_plan(folder: RunRecord, head: Mapping[str, Any]) -> Plan:
    """The plan that a run goes on with: today's, which must mean what it did.

    Raises:
        PlanError: It cannot be read.
        UsageError: It has changed since, with what did, and where a fork would take that up.
    """
    plan = plan_today(folder, head)
    if plan_hash(plan) == head.get("plan_hash"):
        return plan
    before = plan_of(folder, head)
    changes = plan_changes(before, plan) if before else None
    if changes == []:
        return plan
    told = f": {_listed(changes)}" if changes else ""
    raise UsageError(
        f"the plan {head['file']} has changed since run {folder.run_id} was started{told}",
        hint=_way_on(folder, plan, changes or []),
    )


def _listed(changes: Sequence[PlanChange]) -> str:
    shown = [str(change) for change in changes[:MOST_CHANGES]]
    more = len(changes) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _way_on(folder: RunRecord, plan: Plan, changes: Sequence[PlanChange]) -> str:
    ways = ["put the plan back as it was"]
    at = fork_step(read_history(folder), plan, changed_steps(changes))
    if at:
        ways.insert(0, f"go on with the changed plan: fractale fork {folder.run_id} --at {at}")
    if changes and all(change.name == "limits" for change in changes):
        ways.append("a limit is raised for one run with --limit NAME=VALUE")
    return "; or ".join(ways)


def fork_step(history: RunHistory, plan: Plan, changed: Iterable[str]) -> str | None:
    """The step of a plan at which a fork of a run takes up what changed.

    That is the first one that the run came to and that changed, or is the first after one that
    is gone; where the run came to none of them, the one where it stands. None if there is none.
    """
    names, due = {step.name for step in plan.steps}, set(changed)
    gone = False
    for attempt in history.attempts:
        gone = gone or (attempt.path in due and attempt.path not in names)
        if attempt.path in names and (gone or attempt.path in due):
            return attempt.path
    return next((name for name in _standing(history) if name in names), None)


def _standing(history: RunHistory, around: RecordedAttempt | None = None) -> Iterator[str]:
    """The names of the step that a run, or the plan inside an attempt, has to do next."""
    inside = [attempt for attempt in history.attempts if attempt.parent is around]
    if inside:
        last = inside[-1]
        if last.outcome is not None and last.next:
            yield last.next
        yield last.name
    elif around is None and (parent := history.head.get("parent")):
        yield str(parent["step"]).partition("/")[0]


def changed_tools(
    history: RunHistory, plan: Plan, tools: Sequence[ToolInfo]
) -> list[tuple[str, str]]:
    """Step and tool, for each tool with another schema that a step still to be done names.

    Args:
        tools: As the run would have them now. One that is not there is none that changed.
    """
    if history.status in ("success", "failed"):
        return []  # nothing is still to be done
    then, now = history.tools, tool_hashes(tools)
    changed = {name for name, digest in now.items() if then.get(name, digest) != digest}
    if not changed:
        return []
    names = {known: tool.name for tool in tools for known in (tool.name, tool.qualified_name)}
    return [
        (path, names[used])
        for path, step in _ahead(history, plan, None, "")
        for used in _named_tools(step)
        if names.get(used) in changed
    ]


def _named_tools(step: Step) -> tuple[str, ...]:
    """The tools that a step names itself; what a glob finds, its model sees as it is now."""
    own = (step.target,) if step.kind == "tool" and step.target else ()
    return (*own, *(step.tools or ()))


def _ahead(
    history: RunHistory, plan: Plan, around: RecordedAttempt | None, prefix: str
) -> Iterator[tuple[str, Step]]:
    """The steps of a plan that a run may still do something in, with their paths."""
    inside = [attempt for attempt in history.attempts if attempt.parent is around]
    names = {step.name for step in plan.steps}
    under_way = inside[-1] if inside and inside[-1].outcome is None else None
    stands = next((name for name in _standing(history, around) if name in names), None)
    flow = Flow(plan)
    for step in plan.steps:
        path = f"{prefix}{step.name}"
        if stands in (None, step.name) or flow.can_precede(stands, step.name):
            yield path, step
            attempt = under_way if under_way and under_way.name == step.name else None
            yield from _inside(history, step, attempt, path)


def _inside(
    history: RunHistory, step: Step, attempt: RecordedAttempt | None, path: str
) -> Iterator[tuple[str, Step]]:
    yield from ((f"{path}/{inner.name}", inner) for inner in step.steps)
    draft = history.drafts.get(path) if attempt else None
    plan = step.plan or (parse_plan(draft, f"draft of {path}") if draft else None)
    if plan is None:
        return
    if attempt is None or step.foreach:  # from its first step on, or of many items at once
        yield from ((f"{path}/{inner.name}", inner) for inner in plan.walk())
    else:
        yield from _ahead(history, plan, attempt, f"{path}/")


def refuse_changed_tools(history: RunHistory, plan: Plan, tools: Sequence[ToolInfo]) -> None:
    """See that the tools are those that the run was begun with.

    Raises:
        UsageError: One has another schema, and a step that is still to be done names it.
    """
    found = changed_tools(history, plan, tools)
    if not found:
        return
    told = ", ".join(f"step `{path}` uses `{tool}`" for path, tool in found[:MOST_CHANGES])
    at = fork_step(history, plan, ())
    fork = f"go on with them as they are: fractale fork {history.run} --at {at}; or "
    raise UsageError(
        f"tools take or give something else than when run {history.run} was started: {told}",
        hint=f"{fork if at else ''}bring back the versions that the run was begun with",
    )


def version_notice(head: Mapping[str, Any]) -> str | None:
    """What to tell of a run that goes on with other software than it was begun with."""
    then: Mapping[str, str] = head.get("versions") or {}
    other = [
        f"{name} {then[name]} → {number}"
        for name, number in versions().items()
        if name in then and _counts(name, then[name]) != _counts(name, number)
    ]
    if not other:
        return None
    return f"the run goes on with other versions than it was begun with: {', '.join(other)}"


def _counts(name: str, version: str) -> str:
    """The part of a version in which a difference may be felt."""
    if name == "fractale":
        return version
    parts = version.split(".")
    return ".".join(parts[:2] if name == "python" or parts[0] == "0" else parts[:1])
