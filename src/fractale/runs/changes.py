"""Changes since a run began: its plan, its tools, its software.

A run is resumed only if its plan has the same meaning. The tools must also have the same
descriptions, if a step that may still run names them; see `own_parts` for those that are missing.
Other versions of the software are only reported. A fork runs the changed plan from a step on;
`fork_step` finds this step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fractale.errors import UsageError
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.dump import plan_data, step_data
from fractale.plan.flow import Flow
from fractale.plan.kinds import KINDS
from fractale.plan.model import FAILURE, SUCCESS, Plan, Step
from fractale.record.history import RecordedAttempt, RunHistory
from fractale.record.history_reader import read_history
from fractale.record.plans import plan_hash, plan_of
from fractale.record.snapshot import tool_hashes, versions
from fractale.runs.result import fork_command
from fractale.store.run_record import RunRecord
from fractale.toolbox import ToolInfo

MOST_CHANGES = 6
"""The most changes that one message names."""

What = Literal["step", "input", "output", "plan"]
How = Literal["new", "gone", "changed"]

UNSEEN = ("name", "description", "transitions", "parallel", "steps", "plan")
"""Keys of a step that are compared in another form, or that do not affect a run."""
TABLES = ("inputs", "transitions")
"""Keys of a step whose entries are compared one by one."""
WHOLE = ("name", "agents", "servers", "limits")
"""Keys of a plan that do not belong to any step."""


# -- the plan -------------------------------------------------------------------------------------


def plan_today(record: RunRecord, head: Mapping[str, Any]) -> Plan:
    """The plan of a run from its present file, or from the record if the file is gone.

    Raises:
        PlanError: The plan cannot be read.
    """
    file, kept = Path(str(head.get("file") or "")), record.plan
    return load_plan(kept if kept.is_file() and not file.is_file() else file)


def check_shown(plan: Plan, shown: str | None) -> None:
    """Check that a plan is still the one that the user was shown.

    Args:
        shown: Its `plan_hash`; None: the user was not shown one.

    Raises:
        UsageError: It has changed.
    """
    if shown is not None and plan_hash(plan) != shown:
        raise UsageError(
            f"the plan {plan.file} has changed since you saw what it would do; nothing was started",
            hint="look at it again",
        )


def unchanged_plan(record: RunRecord, head: Mapping[str, Any]) -> Plan:
    """The plan that a run is resumed with: the present plan, whose meaning must not have changed.

    Raises:
        PlanError: The plan cannot be read.
        UsageError: The plan has changed. The error lists the changes, and the step for a fork.
    """
    plan = plan_today(record, head)
    if plan_hash(plan) == head.get("plan_hash"):
        return plan
    before = plan_of(record, head)
    changes = plan_changes(before, plan) if before else None
    if changes == []:
        return plan
    which = f": {_listed(changes)}" if changes else ""
    raise UsageError(
        f"the plan {head['file']} has changed since run {record.run_id} was started{which}",
        hint=_ways_to_continue(record, plan, changes or []),
    )


def _listed(changes: Sequence[PlanChange]) -> str:
    shown = [str(change) for change in changes[:MOST_CHANGES]]
    more = len(changes) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _ways_to_continue(record: RunRecord, plan: Plan, changes: Sequence[PlanChange]) -> str:
    ways = ["restore the plan"]
    at = fork_step(read_history(record), plan, changed_steps(changes))
    if at:
        ways.insert(0, f"continue with the changed plan: {fork_command(record.run_id, at)}")
    if changes and all(change.name == "limits" for change in changes):
        ways.append("raise a limit for this run only: --limit NAME=VALUE")
    kept = f"\nthe plan as it was: {record.plan}" if record.plan.is_file() else ""
    return "; or ".join(ways) + kept


def fork_step(history: RunHistory, plan: Plan, changed: Iterable[str]) -> str | None:
    """The step of a plan at which a fork of a run uses the changes.

    It is the first step that the run entered and that changed, or the first after a step that was
    removed. If the run entered no such step, it is the step that is due. None without one.
    """
    names, due = {step.name for step in plan.steps}, set(changed)
    gone = False
    for attempt in history.attempts:
        gone = gone or (attempt.path in due and attempt.path not in names)
        if attempt.path in names and (gone or attempt.path in due):
            return attempt.path
    return next((name for name in _due(history) if name in names), None)


def _due(history: RunHistory, around: RecordedAttempt | None = None) -> Iterator[str]:
    """The names of the next steps of a run, or of the plan inside an attempt."""
    inside = [v for v in history.attempts if v.parent is around and not v.handler]
    if inside:
        last = inside[-1]
        if last.outcome is not None and last.next:
            yield last.next
        yield last.name
    elif around is None and (parent := history.head.get("parent")):
        yield str(parent["step"]).partition("/")[0]


# -- two readings of a plan, compared -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanChange:
    """One change in a plan.

    Args:
        name: The step's path, the input, the output, or a key of the plan.
        parts: The changed parts of a step or an input, such as ``inputs.time`` or ``rules``.
    """

    what: What
    name: str
    how: How = "changed"
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        kind = "" if self.what == "plan" else f"{self.what} "
        if self.how != "changed":
            return f"{kind}`{self.name}` is {self.how}"
        return f"{kind}`{self.name}`" + (f" ({', '.join(self.parts)})" if self.parts else "")


def plan_changes(before: Plan, now: Plan) -> list[PlanChange]:
    """The changes of a plan: its steps in their order, then the rest of the plan.

    Layout, comments, and descriptions that no model reads do not count. Neither does the path of an
    included plan with the same meaning.
    """
    return [
        *_compare("step", dict(_steps(before)), dict(_steps(now))),
        *_compare("input", _inputs(before), _inputs(now)),
        *_compare("output", _outputs(before), _outputs(now)),
        *_whole(before, now),
    ]


def changed_steps(changes: Sequence[PlanChange]) -> set[str]:
    """The names of the plan's own steps that changed, or that contain a changed step.

    They have the key of a handler for all steps of the handler.
    """
    return {change.name.partition("/")[0] for change in changes if change.what == "step"}


def _compare(what: What, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[PlanChange]:
    """The new and changed parts in their present order, then the removed parts."""
    for name, value in now.items():
        if name not in before:
            yield PlanChange(what, name, "new")
        elif value != before[name]:
            yield PlanChange(what, name, parts=tuple(_parts(before[name], value)))
    yield from (PlanChange(what, name, "gone") for name in before if name not in now)


def _parts(before: Any, now: Any) -> Iterator[str]:
    """The keys in which two values differ, one level deeper for a step's inputs."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return
    old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", now)
    for key in dict.fromkeys([*new, *old]):
        if old.get(key) == new.get(key):
            continue
        inner = list(_parts(old.get(key), new.get(key))) if key in TABLES else []
        yield from [f"{key}.{name}" for name in inner] or [key]


def _steps(plan: Plan, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path → the meaning of a step, with the steps of blocks, chains and included plans."""
    for step in plan.steps:
        path = f"{prefix}{step.name}"
        yield path, {**_meaning(step), "transitions": _leads(plan, step)}
        yield from _inner_steps(step, path)
    for name, handler in plan.handlers.items():
        yield from _steps(handler, f"{prefix}{name}/")


def _inner_steps(step: Step, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for inner in step.steps:
        yield f"{path}/{inner.name}", _meaning(inner)
        yield from _inner_steps(inner, f"{path}/{inner.name}")
    if step.inner is not None:
        yield from _steps(step.inner, f"{path}/")


def _meaning(step: Step) -> dict[str, Any]:
    data = {key: value for key, value in step_data(step).items() if key not in UNSEEN}
    # The first true rule decides, and a sweep goes through its axes in their order.
    data["rules"] = [[rule.event, rule.expression.source] for rule in step.rules]
    if isinstance(data.get("foreach"), dict):
        data["foreach"] = list(data["foreach"].items())
    asks = step.judge or KINDS[step.kind].asks_model
    if asks and step.instruction is None and step.description:
        data["description"] = step.description  # used as the instruction
    if step.plan is not None:
        included = {**_inputs(step.plan), **_outputs(step.plan)}
        data["plan"] = [included, [str(plan_data(step.plan).get(key)) for key in WHOLE]]
    return data


def _leads(plan: Plan, step: Step) -> dict[str, str]:
    events = dict.fromkeys([SUCCESS, FAILURE, *step.transitions])
    return {event: plan.target_of(step, event) for event in events}


def _inputs(plan: Plan) -> dict[str, dict[str, Any]]:
    names = ("type", "default", "enum", "minimum", "maximum", "required", "secret")
    return {name: {key: getattr(spec, key) for key in names} for name, spec in plan.inputs.items()}


def _outputs(plan: Plan) -> dict[str, Any]:
    return plan_data(plan).get("outputs") or {}


def _whole(before: Plan, now: Plan) -> Iterator[PlanChange]:
    old, new = plan_data(before), plan_data(now)
    for key in WHOLE:
        if old.get(key) != new.get(key):
            limits = _parts(old.get(key) or {}, new.get(key) or {}) if key == "limits" else ()
            yield PlanChange("plan", key, parts=tuple(limits))


# -- the tools ------------------------------------------------------------------------------------


def changed_tools(
    history: RunHistory, plan: Plan, tools: Sequence[ToolInfo]
) -> list[tuple[str, str]]:
    """Step and tool, for each tool whose schema changed, if a step that may still run names it.

    Args:
        tools: The run's present tools. A missing tool does not count as changed.
    """
    then, now = history.tools, tool_hashes(tools)
    changed = {name for name, digest in now.items() if then.get(name, digest) != digest}
    if not changed:
        return []
    names = {known: tool.name for tool in tools for known in (tool.name, tool.qualified_name)}
    return [
        (path, names[used])
        for path, step in steps_ahead(history, plan)
        for used in tools_named_by(step)
        if names.get(used) in changed
    ]


def tools_named_by(step: Step) -> tuple[str, ...]:
    """The tools that a step itself names. A model sees the present matches of a glob."""
    own = (step.target,) if step.kind == "tool" and step.target else ()
    return (*own, *(step.tools or ()))


def steps_ahead(history: RunHistory, plan: Plan) -> list[tuple[str, Step]]:
    """The steps of a run that may still run, with their paths; none of a run that has ended."""
    if history.status in ("success", "failed"):
        return []
    return list(_ahead(history, plan, None, ""))


def _ahead(
    history: RunHistory, plan: Plan, around: RecordedAttempt | None, prefix: str
) -> Iterator[tuple[str, Step]]:
    """The steps of a plan that may still run, with their paths."""
    inside = [v for v in history.attempts if v.parent is around and not v.handler]
    names = {step.name for step in plan.steps}
    under_way = inside[-1] if inside and inside[-1].outcome is None else None
    due = next((name for name in _due(history, around) if name in names), None)
    flow = Flow(plan)
    for step in plan.steps:
        path = f"{prefix}{step.name}"
        if due in (None, step.name) or flow.can_precede(due, step.name):
            yield path, step
            attempt = under_way if under_way and under_way.name == step.name else None
            yield from _inside(history, step, attempt, path)
    for name, handler in plan.handlers.items():  # they may still run until the run has ended
        yield from ((f"{prefix}{name}/{step.name}", step) for step in handler.walk())


def _inside(
    history: RunHistory, step: Step, attempt: RecordedAttempt | None, path: str
) -> Iterator[tuple[str, Step]]:
    yield from ((f"{path}/{inner.name}", inner) for each in step.steps for inner in each.walk())
    draft = history.drafts.get(path) if attempt else None
    plan = step.inner or (parse_plan(draft, f"draft of {path}") if draft else None)
    if plan is None:
        return
    # All of its steps may still run, or those of many items at once.
    if attempt is None or step.foreach:
        yield from ((f"{path}/{inner.name}", inner) for inner in plan.walk())
    else:
        yield from _ahead(history, plan, attempt, f"{path}/")


def refuse_changed_tools(history: RunHistory, plan: Plan, tools: Sequence[ToolInfo]) -> None:
    """Check that the tools have the same schemas as at the start of the run.

    Raises:
        UsageError: A tool has another schema, and a step that may still run names the tool.
    """
    found = changed_tools(history, plan, tools)
    if not found:
        return
    which = ", ".join(f"step `{path}` uses `{tool}`" for path, tool in found[:MOST_CHANGES])
    at = fork_step(history, plan, ())
    fork = f"continue with today's tools: {fork_command(history.run, at)}; or " if at else ""
    raise UsageError(
        f"the schemas of tools have changed since run {history.run} was started: {which}",
        hint=f"{fork}install the versions that the run was started with",
    )


# -- the software ---------------------------------------------------------------------------------


def version_notice(head: Mapping[str, Any]) -> str | None:
    """The warning about a run that is resumed with other software than at its start."""
    then: Mapping[str, str] = head.get("versions") or {}
    other = [
        f"{name} {then[name]} → {number}"
        for name, number in versions().items()
        if name in then and _counts(name, then[name]) != _counts(name, number)
    ]
    if not other:
        return None
    return f"the run continues with other versions than it was started with: {', '.join(other)}"


def _counts(name: str, version: str) -> str:
    """The part of a version in which a difference may matter."""
    if name == "fractale":
        return version
    parts = version.split(".")
    return ".".join(parts[:2] if name == "python" or parts[0] == "0" else parts[:1])
