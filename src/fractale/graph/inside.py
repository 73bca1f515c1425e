"""Steps with an inside: an included plan, a parallel block, a foreach."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from fractale import questions
from fractale.errors import NotDone, TemplateError
from fractale.evidence import Notice
from fractale.graph.call import Attempt
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.interrupts import suspend
from fractale.graph.kinds import Compiler
from fractale.graph.limits import ConcurrencyLimit, Full
from fractale.graph.outcome import DEFAULT_SUCCESS, CallResult, Decision, failed_by
from fractale.graph.scope import labels_of, sources_data
from fractale.graph.state import ItemState, PlanState, Record, Spent, initial_state
from fractale.graph.step import AttemptsExceeded, StepNode, add_step, item_node, retry_policy
from fractale.models import Usage
from fractale.plan.expressions import evaluate
from fractale.plan.model import (
    FAILURE,
    MOST_ITEMS,
    MOST_JOBS,
    SUCCESS,
    Expression,
    ForEach,
    Plan,
)


def included(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that runs another plan as a subgraph of its own."""
    plan, compile_plan = node.step.plan, compiler.compile_plan
    assert plan is not None  # noqa: S101 - it is what makes a step an included one

    async def call(attempt: Attempt) -> CallResult:
        inputs, graph = _inputs_of_included(plan, attempt), attempt.inside
        if attempt.entry is not None:
            graph = compile_plan(plan, node.deps, attempt.entry.step).compile()
        return await run_plan_inside(attempt, plan, graph, inputs, attempt.context)

    below = node.deps.inside(node.step.name)
    return replace(node, perform=call, inside=compile_plan(plan, below, None).compile())


async def run_plan_inside(
    attempt: Attempt,
    plan: Plan,
    graph: Any,
    inputs: Mapping[str, Any],
    context: RunContext,
    config: RunnableConfig | None = None,
) -> CallResult:
    """Run a plan's graph inside a step; its end is the step's result.

    Args:
        graph: The plan, compiled without a saver: it takes the run's. In a fork that enters the
            plan in its middle, it begins there.
        inputs: The plan's inputs, secrets in the clear.
        context: The run as the steps inside see it.
        config: Of the node that runs it; None: the step's own.

    Raises:
        LimitReached: A limit of the run is used up.
    """
    deps = attempt.deps
    context, kept = context.with_inputs(inputs)
    given = {name: deps.outputs.put(value) for name, value in kept.items()}
    state, entry = initial_state(given, prefix=f"{attempt.path}/"), attempt.entry
    own = attempt.scope.get("inputs", {}) if context.run_inputs is None else context.run_inputs
    context = replace(context, entry=entry, run_inputs=own)
    if sources := sources_data(attempt.argument_sources):
        state["sources"] = sources
    if entry is not None:
        state = entry.into(state)
    try:
        after = cast(
            "PlanState", await graph.ainvoke(state, config or attempt.config, context=context)
        )
    except AttemptsExceeded as error:
        return CallResult(error=str(error), code=error.code)
    charge(attempt, after.get("spent", Spent()))
    attempt.seen.add(labels_of(*after.get("steps", {}).values()))
    outputs = _outputs_of_plan(plan, after, deps)
    if after.get("status") == "success":
        return CallResult(outputs=outputs)
    error = after.get("error") or f"the plan `{plan.name}` failed"
    code = NotDone.code if _last_record(after).get("decided_by") == "agent" else "plan"
    return CallResult(outputs=outputs, error=error, code=code)


def _inputs_of_included(plan: Plan, attempt: Attempt) -> dict[str, Any]:
    aliases = {"goal", "prompt", "instruction"} - set(plan.inputs)
    given = {key: value for key, value in attempt.inputs.items() if key not in aliases}
    defaults = {n: spec.default for n, spec in plan.inputs.items() if not spec.required}
    return {**defaults, **given}


def _outputs_of_plan(plan: Plan, after: PlanState, deps: Dependencies) -> dict[str, Any]:
    """What the plan says that it returns; where it says nothing, its last step's outputs."""
    if plan.outputs:
        return deps.outputs.get(after.get("outputs") or {})
    return deps.outputs.get(_last_record(after).get("outputs") or {})


def _last_record(after: PlanState) -> Record:
    last = after.get("last")
    return after.get("steps", {}).get(last, Record()) if last else Record()


def charge(attempt: Attempt, spent: Spent) -> None:
    """Count what steps inside have used as this step's own."""
    attempt.usage += Usage(
        input_tokens=spent.get("input_tokens", 0),
        output_tokens=spent.get("output_tokens", 0),
        cost=spent.get("cost", 0.0),
    )


def parallel(node: StepNode, compiler: Compiler) -> StepNode:
    """A block whose steps run at the same time, each a node of the block's graph."""
    block = node.step
    builder = StateGraph(PlanState, context_schema=RunContext, input_schema=PlanState)
    members = frozenset(step.name for step in block.steps)
    within = node.deps.inside(block.name)
    for step in block.steps:
        inner = compiler.node_of(node.plan, step, within, members)
        add_step(builder, step.name, inner)
        builder.add_edge(START, step.name)
        builder.add_edge(step.name, END)

    async def call(attempt: Attempt) -> CallResult:
        given = PlanState(
            inputs=attempt.state.get("inputs", {}),
            steps=attempt.state.get("steps", {}),
            spent=Spent(),
            prefix=f"{attempt.path}/",
            sources=attempt.state.get("sources", {}),
        )
        after = cast("PlanState", await attempt.inside.ainvoke(given, attempt.config))
        charge(attempt, after.get("spent", Spent()))
        records = after.get("steps", {})
        attempt.seen.add(labels_of(*(records[name] for name in members)))
        attempt.records = {name: records[name] for name in sorted(members)}
        outputs = {
            step.name: node.deps.outputs.get(records[step.name].get("outputs", {}))
            for step in block.steps
        }
        failed = [s.name for s in block.steps if records[s.name].get("outcome") == "failure"]
        if not failed:
            return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS)
        names = ", ".join(f"`{name}`" for name in failed)
        first = records[failed[0]]
        reason = f"{names} failed: {first.get('error', '')}"
        if block.keep_going and len(failed) < len(block.steps):
            words = f"{len(failed)} of {len(block.steps)} steps failed; {reason}"
            notices = (Notice(kind="failed", message=words),)
            return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS, notices=notices)
        return CallResult(
            outputs=outputs, matched=failed_by(first.get("decided_by", "error"), reason)
        )

    return replace(node, perform=call, inside=builder.compile())


def foreach(node: StepNode) -> StepNode:
    """A step that runs once per item, each item a task of the step's graph."""
    over = node.step.foreach
    assert over is not None  # noqa: S101 - the caller looked
    leaf = item_node(node)

    async def call(attempt: Attempt) -> CallResult:
        items = _items_of(over, attempt)
        if not items:
            return CallResult(outputs=[], matched=DEFAULT_SUCCESS)
        slots = ConcurrencyLimit(
            over.max_parallel or (MOST_JOBS if leaf.step.kind == "job" else MOST_ITEMS)
        )
        jobs: dict[str, Any] = {}
        if leaf.step.kind == "job":
            from fractale.graph.job_arrays import arrays_of_items  # few plans have a job

            jobs = await arrays_of_items(leaf, attempt, items, over.max_parallel)
        context = replace(
            attempt.context,
            item_scope=attempt.scope,
            item_flow=attempt.flow.for_items(over),
            slots=slots,
            item_path=attempt.path,
            **jobs,
        )
        kept = [node.deps.outputs.put(attempt.context.mask(item)) for item in items]
        after = await attempt.inside.ainvoke({"items": kept}, attempt.config, context=context)
        charge(attempt, after.get("spent", Spent()))
        results = [after["results"][str(index)] for index in range(len(items))]
        attempt.seen.add(labels_of(*results))
        return _gather(node, results)

    return replace(node, perform=call, inside=_foreach_graph(leaf))


def _foreach_graph(leaf: StepNode) -> Any:
    graph = leaf.inside

    async def item(
        state: ItemState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> ItemState:
        async with runtime.context.slots:
            return await leaf(state, runtime, config)

    # Only what has an inside may leave its job running, and hold its slot.

    async def item_with_inside(
        state: ItemState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> ItemState:
        context = runtime.context
        if state.get("index", 0) in context.arrays:  # its scheduler sees to how many run
            return await leaf(state, runtime, config, graph)
        try:
            async with context.slots:
                return await leaf(state, runtime, config, graph)
        except Full:
            suspend(questions.job_held(f"{context.item_path}[{state.get('index', 0)}]"))

    builder: Any = StateGraph(ItemState, context_schema=RunContext)
    function = item if graph is None else item_with_inside
    policy = retry_policy(leaf)
    builder.add_node("item", function, input_schema=ItemState, retry_policy=policy)
    builder.add_conditional_edges(START, _fan_out, ["item"])
    builder.add_edge("item", END)
    return builder.compile()


def _fan_out(state: ItemState) -> list[Send]:
    items = state.get("items", [])
    return [
        Send("item", ItemState(item=item, index=index, total=len(items)))
        for index, item in enumerate(items)
    ]


def _items_of(foreach: ForEach, attempt: Attempt) -> list[Any]:
    """The items in order; for a mapping of lists, their product in the mapping's order."""
    items = foreach.items
    if not isinstance(items, Mapping):
        return _list_of(items, attempt, "foreach")
    axes = [_list_of(part, attempt, f"foreach.{name}") for name, part in items.items()]
    return [dict(zip(items, point, strict=True)) for point in itertools.product(*axes)]


def _list_of(items: Expression | Sequence[Any], attempt: Attempt, path: str) -> list[Any]:
    if not isinstance(items, Expression):
        return list(items)
    value = evaluate(items, attempt.scope)
    if not isinstance(value, list):
        message = f"`{path}` must give a list, and gave {type(value).__name__}"
        raise TemplateError(message, position=items.position)
    return cast("list[Any]", value)


def _gather(node: StepNode, results: list[dict[str, Any]]) -> CallResult:
    """The items' outputs in order, and what they mean for the step.

    The step fails if any item failed, unless it keeps going; an event of its own that a rule
    gave an item is the step's event (the first such item's).
    """
    outputs = [item_outputs(node, result) for result in results]
    failed = [i for i, result in enumerate(results) if result["outcome"] == "failure"]
    reason = ""
    if failed:
        first = results[failed[0]]
        where = f"{len(failed)} of {len(results)} items failed; item {failed[0] + 1}"
        reason = f"{where}: {first['error']}"
        if not node.step.keep_going or len(failed) == len(results):
            return CallResult(outputs=outputs, matched=failed_by(first["decided_by"], reason))
    decision, own = DEFAULT_SUCCESS, [r for r in results if r["event"] not in (SUCCESS, FAILURE)]
    if own:
        decision = Decision(
            outcome="success", event=own[0]["event"], decided_by="rule", reason=own[0]["reason"]
        )
    notices = [Notice(kind="failed", message=reason)] if failed else []
    notices += [
        Notice(kind=notice["kind"], message=f"item {number}: {notice['message']}")
        for number, result in enumerate(results, 1)
        for notice in result.get("notices", ())
    ]
    return CallResult(outputs=outputs, matched=decision, notices=tuple(notices))


def item_outputs(node: StepNode, result: dict[str, Any]) -> Any:
    """The outputs of an item; of one that failed, with its error."""
    outputs = node.deps.outputs.get(result["outputs"])
    if result["outcome"] == "failure" and isinstance(outputs, dict):
        return {**cast("dict[str, Any]", outputs), "error": result["error"]}
    return outputs
