"""Everything that is wrong with a plan file, in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fractale.errors import PlanError, Problem
from fractale.plan.build import load_plan
from fractale.plan.check import check_plan
from fractale.plan.model import Plan


def plan_problems(load: Callable[[], Plan]) -> tuple[Plan | None, list[Problem]]:
    """Read a plan and check it, also where a part of it could not be read.

    Args:
        load: Reads the plan.

    Returns:
        The plan, or what could be read of it, and every problem in file order.
    """
    try:
        plan = load()
    except PlanError as error:
        more = check_plan(error.plan) if error.plan is not None else []
        told = {(p.position.file, p.position.line) for p in error.problems if p.position}
        # One finding per fault: what a line that could not be read leads to is not told as well.
        more = [p for p in more if p.position and (p.position.file, p.position.line) not in told]
        return error.plan, in_order([*error.problems, *more])
    return plan, check_plan(plan)


def file_problems(path: str | Path) -> tuple[Plan | None, list[Problem]]:
    """As `plan_problems`, of a file."""
    return plan_problems(lambda: load_plan(path))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems in the order of the files, each once."""
    return sorted(dict.fromkeys(problems), key=_place)


def _place(problem: Problem) -> tuple[str, int, int]:
    place = problem.position
    return (place.file, place.line, place.column) if place else ("", 0, 0)
