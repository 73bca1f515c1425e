"""The kinds of steps, one file each: the work of a step of that kind after its entry.

`fractale.graph.compile` makes a bare `StepNode` of each step and passes it to `build`. The kind
returns the same node with two fields set:

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


BuildGraph = Callable[["Plan", Dependencies, "str | None"], "Graph"]
"""`fractale.graph.compile.build_graph`: a plan as a graph. The graph begins with the named step,
or with the plan's first step for None."""

NodeOf = Callable[["Plan", "Step", Dependencies, frozenset[str]], "StepNode"]
"""Makes the node of a step. The names are those of the steps of the same graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """Compiles the steps inside a step, for the kinds that have such steps."""

    build_graph: BuildGraph
    node_of: NodeOf


Build = Callable[["StepNode", Compiler], "StepNode"]
"""Sets the work of a kind in the node of a step."""


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """The node of a step with its kind's work, made again if the step says so.

    With a `foreach`, this is done once per item.
    """
    built, step = _builder_of(node.step)(node, compiler), node.step
    if step.until is not None or (step.retry is not None and step.retry.on == "failure"):
        from fractale.graph.repeating import repeated

        built = repeated(built)
    if step.foreach is None:
        return built
    from fractale.graph.kinds.foreach import foreach

    return foreach(built)


def _builder_of(step: Step) -> Build:
    """The `build` of the kind's file, which is imported when a plan first has such a step."""
    name = "include" if step.kind == "plan" and step.plan is not None else step.kind
    return importlib.import_module(f"{__name__}.{name}").build
