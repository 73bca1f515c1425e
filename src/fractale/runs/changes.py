"""What changed in a plan between two readings of it, as far as it can matter to a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from fractale.plan.dump import plan_data, step_data
from fractale.plan.kinds import KINDS
from fractale.plan.model import FAILURE, SUCCESS, Plan, Step

What = Literal["step", "input", "output", "plan"]
How = Literal["new", "gone", "changed"]

UNSEEN = ("name", "description", "transitions", "parallel", "plan")
"""Keys of a step that are compared in another form, or that nothing in a run depends on."""
TABLES = ("inputs", "transitions")
"""Keys of a step of which each entry counts for itself."""
WHOLE = ("name", "agents", "servers", "limits")
"""What of a plan belongs to none of its steps."""


@dataclass(frozen=True, slots=True)
class PlanChange:
    """One thing in a plan that is not as it was.

    Args:
        name: The step's path, the input, the output, or a key of the plan.
        parts: What of a step or an input changed, such as ``inputs.time`` or ``rules``.
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
    """What of a plan is not as it was: its steps in their order, then the rest of it.

    Layout, comments, and descriptions that no model reads are no changes, nor is the path of an
    included plan that means the same.
    """
    return [
        *_compare("step", dict(_steps(before)), dict(_steps(now))),
        *_compare("input", _inputs(before), _inputs(now)),
        *_compare("output", _outputs(before), _outputs(now)),
        *_whole(before, now),
    ]


def changed_steps(changes: Sequence[PlanChange]) -> set[str]:
    """The names of the plan's own steps in which, or inside of which, something changed."""
    return {change.name.partition("/")[0] for change in changes if change.what == "step"}


def _compare(what: What, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[PlanChange]:
    """What is new or changed in the order of now, then what is gone."""
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
    """Path → what a step means, with the steps of blocks and of included plans."""
    for step in plan.steps:
        path = f"{prefix}{step.name}"
        yield path, {**_meaning(step), "transitions": _leads(plan, step)}
        yield from _inside(step, path)


def _inside(step: Step, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for inner in step.steps:
        yield f"{path}/{inner.name}", _meaning(inner)
        yield from _inside(inner, f"{path}/{inner.name}")
    if step.plan is not None:
        yield from _steps(step.plan, f"{path}/")


def _meaning(step: Step) -> dict[str, Any]:
    data = {key: value for key, value in step_data(step).items() if key not in UNSEEN}
    # The first rule that holds decides, and a sweep goes through its axes in their order.
    data["rules"] = [[rule.event, rule.expression.source] for rule in step.rules]
    if isinstance(data.get("foreach"), dict):
        data["foreach"] = list(data["foreach"].items())
    asks = step.judge or KINDS[step.kind].asks_model
    if asks and step.instruction is None and step.description:
        data["description"] = step.description  # stands in for an instruction
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
