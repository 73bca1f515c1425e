"""One file per kind of step: what a step of that kind does once it is entered.

`fractale.graph.compile` makes a bare `StepNode` of each step and hands it to `build`. The kind
returns the same node with two things set:

- `perform`: the call of the step. It gets the `Attempt` and returns a `CallResult`.
- `inside`: the compiled graph below the step, for LangGraph to draw and checkpoint; None for a
  step that is a single call.

To add a kind, write a file here that has the kind's name and a function `build`.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fractale.graph.context import Dependencies

if TYPE_CHECKING:
    from fractale.graph.call import Attempt
    from fractale.graph.outcome import CallResult
    from fractale.graph.step import Graph, StepNode
    from fractale.plan.model import Plan, Step

Perform = Callable[["Attempt"], Awaitable["CallResult"]]
"""Makes the call of a step.

It raises CallError if the call failed, and LimitReached if a limit of the run is used up.
"""


CompilePlan = Callable[["Plan", Dependencies, "str | None"], "Graph"]
"""`fractale.graph.compile.compile_plan`: a plan as a graph that begins with the named step, or,
for None, with its first."""

NodeOf = Callable[["Plan", "Step", Dependencies, frozenset[str]], "StepNode"]
"""Makes the node of a step among the named steps of the same graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """What a kind needs to compile the steps inside one of its own."""

    compile_plan: CompilePlan
    node_of: NodeOf


Build = Callable[["StepNode", Compiler], "StepNode"]
"""Gives the node of a step what its kind does."""


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """The node of a step with what its kind does, once per item if the step has a `foreach`."""
    built = _builder_of(node.step)(node, compiler)
    if node.step.foreach is None:
        return built
    from fractale.graph.kinds.foreach import foreach

    return foreach(built)


def _builder_of(step: Step) -> Build:
    """The `build` of the kind's file, which is imported when a plan first has such a step."""
    name = "include" if step.kind == "plan" and step.plan is not None else step.kind
    return importlib.import_module(f"{__name__}.{name}").build
