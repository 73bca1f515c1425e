"""Putting the nodes of steps into a LangGraph builder."""

from __future__ import annotations

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
    graph = node.inside

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        context = runtime.context or RunContext()
        return await node.visit(state, context, config, tries_of(runtime))

    async def run_with_inside(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        # LangGraph finds a node's subgraph, to draw it and to show its state, among the free
        # variables of the node's function: so it is handed on from here.
        context = runtime.context or RunContext()
        return await node.visit(state, context, config, tries_of(runtime), inside=graph)

    policy = None if node.step.foreach else retry_policy(node)
    function = run if graph is None else run_with_inside
    add_node(builder, name, function, retry_policy=policy, metadata={"kind": node.step.kind})


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
