"""A chain: the steps inside a step, one after the other, as a subgraph.

Its state has the chain's own records only. The values around it, such as the plan's inputs and the
item of a foreach, reach its steps through the context of the run (`Outer`).
"""

from __future__ import annotations

from dataclasses import replace

from fractale.graph.call import Attempt
from fractale.graph.context import Outer
from fractale.graph.kinds import Compiler
from fractale.graph.kinds.include import run_inner
from fractale.graph.outcome import CallResult
from fractale.graph.state import initial_state
from fractale.graph.step import StepNode


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step whose outputs are those of the last step of its chain."""
    chain = node.step.chain
    assert chain is not None  # noqa: S101 - the kind's key gives it

    async def call(attempt: Attempt) -> CallResult:
        graph = attempt.inside
        if attempt.entry is not None:  # a fork that begins in the chain
            graph = compiler.build_graph(chain, node.deps, attempt.entry.step).compile()
        state = initial_state({}, prefix=f"{attempt.path}/")
        context = replace(attempt.context, outer=Outer(attempt.scope, attempt.flow))
        return await run_inner(attempt, chain, graph, state, context, compiler.build_graph)

    below = node.deps.inside(node.step.name)
    return replace(node, perform=call, inside=compiler.build_graph(chain, below, None).compile())
