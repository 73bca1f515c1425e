"""A step that runs another plan as a subgraph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig

from fractale.errors import NotDone
from fractale.graph.call import Attempt, labels_of
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.handlers import failures, handlers_graph, state_at_end
from fractale.graph.kinds import BuildGraph, Compiler
from fractale.graph.outcome import CallResult
from fractale.graph.state import PlanEnd, PlanState, Record, Spent, initial_state
from fractale.graph.step import AttemptsExceeded, StepNode
from fractale.plan.inputs import default_values
from fractale.plan.kinds import INSTRUCTION_INPUTS
from fractale.plan.model import Plan
from fractale.policy import to_data


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that runs the plan that it includes."""
    plan = node.step.plan
    assert plan is not None  # noqa: S101 - the caller looked

    async def call(attempt: Attempt) -> CallResult:
        graph = attempt.inside
        if attempt.entry is not None:  # a fork that begins in the plan
            graph = compiler.build_graph(plan, node.deps, attempt.entry.step)
            graph = graph.compile(name=node.step.name)
        inputs = given_inputs(plan, attempt.inputs)
        return await run_plan(attempt, plan, graph, inputs, attempt.context, compiler.build_graph)

    below = node.deps.inside(node.step.name)
    return replace(node, perform=call, inside=compiler.build_graph(plan, below, None).compile())


def given_inputs(plan: Plan, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of an included plan: its defaults, and those that the step gives."""
    aliases = set(INSTRUCTION_INPUTS) - set(plan.inputs)
    given = {key: value for key, value in inputs.items() if key not in aliases}
    return {**default_values(plan), **given}


async def run_plan(
    attempt: Attempt,
    plan: Plan,
    graph: Any,
    inputs: Mapping[str, Any],
    context: RunContext,
    build_graph: BuildGraph,
    config: RunnableConfig | None = None,
) -> CallResult:
    """Run a plan's graph inside a step. The end of the plan is the step's result.

    Args:
        graph: The plan, compiled without a saver: it uses the run's. For a fork that begins in the
            middle of the plan, the graph begins there.
        inputs: The plan's inputs, with secrets in the clear.
        context: The run as the steps of the plan see it.
        build_graph: As of `run_inner`.
        config: Of the node that runs the plan; None: the step's own.

    Raises:
        LimitReached: A limit of the run is used up.
    """
    deps = attempt.deps
    context, kept = context.with_inputs(inputs)
    given = {name: deps.outputs.put(value) for name, value in kept.items()}
    state = initial_state(given, prefix=f"{attempt.path}/")
    own = attempt.scope.get("inputs", {}) if context.run_inputs is None else context.run_inputs
    context = replace(context, run_inputs=own, outer=None)
    labeled = attempt.argument_sources.items()
    if sources := {name: to_data(labels) for name, labels in labeled if labels}:
        state["sources"] = sources
    return await run_inner(attempt, plan, graph, state, context, build_graph, config)


async def run_inner(
    attempt: Attempt,
    plan: Plan,
    graph: Any,
    state: PlanState,
    context: RunContext,
    build_graph: BuildGraph,
    config: RunnableConfig | None = None,
) -> CallResult:
    """Run the graph of a plan or a chain inside a step, from the state in which it begins.

    Args:
        build_graph: Compiles the steps of the plan's handlers.

    Raises:
        LimitReached: A limit of the run is used up.
    """
    deps, entry = attempt.deps, attempt.entry
    context = replace(context, entry=entry, again=attempt.is_again)
    if entry is not None:
        state = entry.into(state)
    try:
        after = cast(
            "PlanState", await graph.ainvoke(state, config or attempt.config, context=context)
        )
    except AttemptsExceeded as error:
        if plan.handlers:
            handlers: Any = handlers_graph(plan, deps, build_graph).compile()
            at = config or attempt.config
            await _handle(attempt, plan, (graph, handlers), state, error, context, at)
        return CallResult(error=str(error), code=error.code)
    attempt.charge(after.get("spent", Spent()))
    attempt.seen.add(labels_of(*after.get("steps", {}).values()))
    outputs = outputs_at_end(plan, after, deps)
    if after.get("status") == "success":
        return CallResult(outputs=outputs, notices=failures(plan, after))
    error = after.get("error") or f"the plan `{plan.name}` failed"
    code = NotDone.code if _last_record(after).get("decided_by") == "agent" else "plan"
    return CallResult(outputs=outputs, error=error, code=code)


async def _handle(
    attempt: Attempt,
    plan: Plan,
    graphs: tuple[Any, Any],
    state: PlanState,
    error: AttemptsExceeded,
    context: RunContext,
    config: RunnableConfig,
) -> None:
    """Run the handlers of a plan after one of its steps had no attempts left.

    LangGraph gives this second graph of the task a namespace of its own. If the task runs again,
    the first graph ends in the same way without a call.

    Args:
        graphs: Of the plan, and of its handlers.
    """
    graph, handlers = graphs
    try:
        left: Mapping[str, Any] = (await graph.aget_state(config)).values
    except ValueError:  # no checkpointer
        left = {}
    step = error.step.removeprefix(state.get("prefix", ""))
    ended = PlanEnd(outcome="failed", step=step, error=context.mask(error.message))
    given = state_at_end(plan, left or state, ended)
    after = cast("PlanState", await handlers.ainvoke(given, config, context=context))
    attempt.charge(after.get("spent", Spent()))


def outputs_at_end(plan: Plan, after: PlanState, deps: Dependencies) -> dict[str, Any]:
    """The plan's `outputs`. If it has none, the outputs of its last step; a list is a `result`."""
    found = after.get("outputs") if plan.outputs else _last_record(after).get("outputs")
    outputs: Any = deps.outputs.get({} if found is None else found)
    return {"result": outputs} if isinstance(outputs, list) else outputs


def _last_record(after: PlanState) -> Record:
    last = after.get("last")
    return after.get("steps", {}).get(last, Record()) if last else Record()
