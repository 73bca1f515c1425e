"""Steps that the manager plans at run time."""

from __future__ import annotations

from fractale.graph.inside import CompilePlan
from fractale.graph.nodes import StepNode


def planned(node: StepNode, compile_plan: CompilePlan) -> StepNode:
    """A step whose plan is drafted when the run reaches it."""
    del compile_plan
    return node
