"""What a plan may do inside a step that bounds it."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

from fractale.plan.model import Approve, Plan, Step, StepKind

STRICTNESS: Final = ("always", "ask", None, "never")
CHOOSING: Final[frozenset[StepKind]] = frozenset({"prompt", "agent", "plan"})
"""Kinds of step in which a model chooses tools."""


def narrow(plan: Plan, tools: tuple[str, ...] | None, approve: Approve | None) -> Plan:
    """A plan whose steps may do no more than the step that it stands for.

    Args:
        tools: The globs of the step around it; None: all tools.
        approve: The step's word on approval; the stricter one of it and of each step holds.
    """
    return replace(plan, steps=tuple(_narrow_step(step, tools, approve) for step in plan.steps))


def _narrow_step(step: Step, tools: tuple[str, ...] | None, approve: Approve | None) -> Step:
    inner = tuple(_narrow_step(each, tools, approve) for each in step.steps)
    if step.kind == "parallel":
        return replace(step, steps=inner)
    stricter = min(step.approve, approve, key=STRICTNESS.index)
    chosen = both(step.tools, tools) if step.kind in CHOOSING else step.tools
    return replace(step, steps=inner, approve=stricter, tools=chosen)


def both(some: tuple[str, ...] | None, others: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Globs of what two lists of globs have in common; None lists everything.

    Of two globs that overlap, neither of which holds the other, nothing is kept.
    """
    if some is None or others is None:
        return others if some is None else some
    kept = [glob for glob in some if any(fnmatchcase(glob, other) for other in others)]
    kept += [other for other in others if any(fnmatchcase(other, glob) for glob in some)]
    return tuple(dict.fromkeys(kept))
