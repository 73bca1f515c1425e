"""The meaning of a plan, before it runs: finds every error that can be known in advance.

`check_plan` needs the plan alone. `check_against_tools` also knows what the servers offer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

from fractale.errors import PlanError, Problem
from fractale.plan.build import load_plan
from fractale.plan.check_tools import check_against_tools
from fractale.plan.expressions import references
from fractale.plan.fields import MOST_PROBLEMS
from fractale.plan.flow import Flow
from fractale.plan.inputs import convert
from fractale.plan.kinds import INSTRUCTION_INPUTS, KINDS
from fractale.plan.model import Limits, Plan, Step
from fractale.plan.scope import Around, Scope, placed_steps
from fractale.plan.values import Template, Value, has_template, is_resource
from fractale.text import nearest

__all__ = ["check_against_tools", "check_plan", "file_problems", "in_order", "plan_problems"]


def check_plan(plan: Plan) -> list[Problem]:
    """Find the problems of a plan whose structure is valid.

    Args:
        plan: The plan, with the plans that it includes.

    Returns:
        Errors and warnings, in the order of the files. If there are very many, only the first ones.
    """
    found = dict.fromkeys(islice(_check(plan, "", None, set()), MOST_PROBLEMS))
    return in_order(found)


def plan_problems(load: Callable[[], Plan]) -> tuple[Plan | None, list[Problem]]:
    """Read a plan and check it, even if a part of it could not be read.

    Args:
        load: Reads the plan.

    Returns:
        The plan, or its readable parts, and every problem in file order.
    """
    try:
        plan = load()
    except PlanError as error:
        more = check_plan(error.plan) if error.plan is not None else []
        known = {(p.position.file, p.position.line) for p in error.problems if p.position}
        # One problem per fault: problems that follow from an unreadable line are left out.
        more = [p for p in more if p.position and (p.position.file, p.position.line) not in known]
        return error.plan, in_order([*error.problems, *more])
    return plan, check_plan(plan)


def file_problems(path: str | Path) -> tuple[Plan | None, list[Problem]]:
    """Check a file as `plan_problems` does."""
    return plan_problems(lambda: load_plan(path))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the files, each once: a fault in `defaults` concerns many steps."""
    found: dict[Any, Problem] = {}
    for problem in problems:
        at = problem.position or problem.path
        found.setdefault((problem.code, problem.message, problem.severity, at), problem)
    return sorted(found.values(), key=_file_order)


def _file_order(problem: Problem) -> tuple[str, int, int]:
    at = problem.position
    return (at.file, at.line, at.column) if at else ("", 0, 0)


def _check(
    plan: Plan,
    prefix: str,
    outer: Limits | None,
    seen: set[int],
    around: Around | None = None,
) -> Iterator[Problem]:
    """The problems of a plan and of the plans that it includes, each plan once.

    Args:
        around: Of a chain, the names around it.
    """
    seen.add(id(plan))
    yield from plan.warnings
    names = (around.placed.step.name, around.scope.steps) if around else None
    flow = Flow(plan, prefix, names)
    yield from flow.problems(outer)
    ends = {key: Flow(handler, prefix, key=key, of=plan) for key, handler in plan.handlers.items()}
    for of_handler in ends.values():
        yield from of_handler.problems(outer)
    scope = Scope(plan, flow, prefix, around, ends)
    yield from scope.problems()
    for placed in placed_steps(plan, prefix):
        for name, value in placed.step.inputs.items():
            yield from _resources(placed.step, value, f"{placed.path}.inputs.{name}", name)
        yield from KINDS[placed.step.kind].problems(placed.step, placed.path)
        yield from _files(placed.step, placed.path, plan)
        yield from _cache(placed.step, placed.path)
        if placed.step.chain is not None:
            inside = Around(scope, placed)
            yield from _check(placed.step.chain, f"{placed.path}.", outer, seen, inside)
        included = placed.step.plan
        if included is None:
            continue
        yield from _given(placed.step, included, placed.path)
        if id(included) not in seen:
            yield from _check(included, f"{placed.path}.plan.", plan.limits, seen)


def _files(step: Step, path: str, plan: Plan) -> Iterator[Problem]:
    """The files that a step creates and needs must be known for the step, or for each item."""
    order = "steps run in the order of the file: write `transitions` to change it"
    names = {each.name for each in plan.walk()}
    steps = [file for file in step.needs if isinstance(file, str) and file in names]
    if steps and not step.creates:
        message = f"`needs` names files, and `{steps[0]}` is a step; {order}"
        yield Problem("step-as-file", message, step.where("needs"), f"{path}.needs")
    elif step.needs and not step.creates:
        message = "`needs` has a meaning only beside `creates`: the files that are made from these"
        yield Problem("missing-key", message, step.where("needs"), f"{path}.needs")
    if not step.creates:
        return
    if step.job is not None and step.job.array is not None:
        message = "the elements of an array cannot be up to date one by one; write a `foreach`"
        yield Problem("misplaced-key", message, step.where("creates"), f"{path}.creates")
    read = {reference.path[0] for reference in references(list(step.creates))}
    if step.foreach is not None and not read & {"item", "index"}:
        message = "each item creates the same file; name the files by `item` or `index`"
        yield Problem("same-file", message, step.where("creates"), f"{path}.creates")


def _cache(step: Step, path: str) -> Iterator[Problem]:
    """Some steps do something new each time, and have no result that another run could take."""
    if step.cache is None or not step.cache.on:
        return
    message = None
    if step.until is not None:
        message = "`until` waits for something to change, so an earlier result says nothing"
    elif step.persist:
        message = "`persist` continues a conversation of this run, which no other run has"
    elif step.kind == "job" and step.foreach is not None:
        message = "the jobs of a `foreach` are submitted together and cannot be cached one by one"
    elif step.job is not None and step.job.array is not None:
        message = "the elements of an `array` cannot be cached one by one"
    if message is not None:
        yield Problem("misplaced-key", message, step.where("cache"), f"{path}.cache")


def _resources(step: Step, value: Value, path: str, name: str) -> Iterator[Problem]:
    """A mapping with the one key `resource` must name a resource."""
    if is_resource(value):
        uri = cast("dict[str, Value]", value)["resource"]
        if isinstance(uri, Template) or (isinstance(uri, str) and ":" in uri.strip(":")):
            return
        shown = uri if isinstance(uri, str) else type(uri).__name__
        message = f"`resource` is the URI of an MCP resource, as `server:uri`, not `{shown}`"
        yield Problem("bad-resource", message, step.where(f"inputs.{name}"), path)
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _resources(step, each, f"{path}.{key}", name)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _resources(step, each, f"{path}[{index}]", name)


def _given(step: Step, plan: Plan, path: str) -> Iterator[Problem]:
    """The inputs that a step gives to an included plan must match the inputs of that plan."""
    for name, value in step.inputs.items():
        where = step.where(f"inputs.{name}")
        at = f"{path}.inputs.{name}"
        if name in plan.inputs:
            _, wrong = (None, None) if has_template(value) else convert(plan.inputs[name], value)
            if wrong:
                yield Problem("bad-input", wrong, where, at)
        elif name not in INSTRUCTION_INPUTS:
            message = f"the plan `{plan.name}` has no input `{name}`"
            near = nearest(name, plan.inputs)
            yield Problem("unknown-input", message, where, at, suggestion=near)
    missing = [n for n, spec in plan.inputs.items() if spec.required and n not in step.inputs]
    for name in missing:
        message = f"the plan `{plan.name}` needs the input `{name}`: give it in `inputs`"
        length = len(step.target or "")
        yield Problem("missing-input", message, step.where("plan"), f"{path}.inputs", length or 1)
