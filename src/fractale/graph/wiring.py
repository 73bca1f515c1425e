"""Putting the nodes of steps into a LangGraph builder.

Annotations are not postponed here: LangGraph would evaluate those of a node's function again for
every node.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy

from fractale.errors import CallError
from fractale.graph.context import RunContext
from fractale.graph.nodes import StepNode
from fractale.graph.state import PlanState

NodeFunction = Callable[[PlanState, Runtime[RunContext], RunnableConfig], Awaitable[PlanState]]
Graph = StateGraph[PlanState, RunContext, PlanState, PlanState]


def add_node(builder: Graph, name: str, function: NodeFunction, **options: Any) -> None:
    """Add a node whose input is the whole state."""
    cast("Any", builder).add_node(name, function, input_schema=PlanState, **options)


def add_step(builder: Graph, name: str, node: StepNode) -> None:
    """Add the node of a step, with LangGraph's own retries where the step says so."""
    policy = None if node.step.foreach else retry_policy(node)
    function = _Node(node) if node.inside is None else _node_with_inside(node)
    add_node(builder, name, function, retry_policy=policy, metadata={"kind": node.step.kind})


class _Node:
    """The node of a step without an inside.

    An object, since LangGraph disassembles a function to look for a subgraph in it: a third of
    what it takes to compile a long plan.
    """

    def __init__(self, node: StepNode) -> None:
        self._node = node

    async def __call__(
        self, state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        context = runtime.context or RunContext()
        return await self._node.attempt(state, context, config, tries_of(runtime))


def _node_with_inside(node: StepNode) -> NodeFunction:
    """The node of a step whose inside LangGraph is to find: to draw it and to show its state."""
    graph = node.inside  # found among the free variables of the function

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        context = runtime.context or RunContext()
        return await node.attempt(state, context, config, tries_of(runtime), inside=graph)

    return run


def tries_of(runtime: Runtime[RunContext]) -> int:
    """Which try of LangGraph's retry policy this is, from 1."""
    return runtime.execution_info.node_attempt if runtime.execution_info else 1


def retry_policy(node: StepNode) -> RetryPolicy | None:
    """LangGraph's retry policy for a step: a node raises only what is to be tried again."""
    retry, patient = node.step.retry, node.deps.patient
    if retry is None:
        return None
    return RetryPolicy(
        initial_interval=retry.delay if patient else 0,
        backoff_factor=retry.backoff,
        max_interval=retry.max_delay if patient else 0,
        max_attempts=retry.attempts,
        jitter=patient,
        retry_on=CallError,
    )
