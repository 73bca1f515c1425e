"""A plan as a LangGraph `StateGraph`: one node a step, one conditional edge a transition.

`compile_plan` is a pure function of the plan and its dependencies. Node names are step names
and edge labels are events, so that LangGraph's own drawing shows the plan as its author thinks
of it. Steps with an inside are subgraphs: a `foreach` (one task an item), a `parallel` block
(one node a step), an included plan, and, in long plans, each segment of consecutive steps,
since what a checkpoint costs grows with the number of nodes of its graph.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy, Send

from fractale.errors import CallError, TemplateError
from fractale.graph.calls import Visit
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.nodes import GaveUp, StepNode, leaf_node
from fractale.graph.outcome import DEFAULT_SUCCESS, CallResult, Decision, failed_by
from fractale.graph.scope import Needs, needs_of, step_values
from fractale.graph.state import ItemState, PlanState, Record, Spent, initial_state
from fractale.models import Usage
from fractale.plan.expressions import evaluate
from fractale.plan.model import FAILURE, SUCCESS, Expression, ForEach, Plan, Step

FLAT_STEPS = 32
SEGMENT_STEPS = 16
ENTRY = "goto"
LEFT_BY_SEGMENT = ("last", "status", "error", "outputs")

NodeFunction = Callable[[PlanState, Runtime[RunContext], RunnableConfig], Awaitable[PlanState]]
Graph = StateGraph[PlanState, RunContext, PlanState, PlanState]


def compile_plan(plan: Plan, dependencies: Dependencies) -> Graph:
    """The plan as a graph, not yet compiled: call ``.compile(checkpointer=…)`` on it.

    Args:
        plan: A plan without errors (`fractale.plan.check.check_plan`).
        dependencies: The outside world as the nodes will see it.

    Returns:
        A builder whose state is `PlanState` and whose context is `RunContext`. Start it with
        `fractale.graph.state.initial_state`.
    """
    return _build_level(plan, plan.steps, dependencies, top=True)


def node_of(plan: Plan, step: str) -> str:
    """The top-level node of the plan's graph that holds a step: itself, or its segment."""
    for name, group in _groups(plan.steps):
        if any(member.name == step for member in group):
            return name
    raise KeyError(step)


def _groups(steps: Sequence[Step]) -> list[tuple[str, Sequence[Step]]]:
    """The nodes of one level: single steps, or segments of about equal length."""
    if len(steps) <= FLAT_STEPS:
        return [(step.name, (step,)) for step in steps]
    size = SEGMENT_STEPS
    while size * FLAT_STEPS < len(steps):
        size *= SEGMENT_STEPS
    parts = [steps[i : i + size] for i in range(0, len(steps), size)]
    return [(f"{part[0].name}..{part[-1].name}", part) for part in parts]


def _build_level(plan: Plan, steps: Sequence[Step], deps: Dependencies, *, top: bool) -> Graph:
    builder = StateGraph(PlanState, context_schema=RunContext, input_schema=PlanState)
    groups = _groups(steps)
    home = {step.name: name for name, group in groups for step in group}
    members = frozenset(home)
    for name, group in groups:
        if len(group) == 1 and name == group[0].name:
            _add_step(builder, name, _node(plan, group[0], deps, members))
            exits = _exits_of_step(plan, group[0], home)
            router = _route_by_event(name)
        else:
            _add(builder, name, _segment(plan, group, deps, members))
            exits = _exits_of_segment(plan, group, home)
            router = _route_by_goto()
        builder.add_conditional_edges(name, router, exits)
    _add_entry(builder, plan, steps, home, top=top)
    return builder


def _add_entry(
    builder: Graph, plan: Plan, steps: Sequence[Step], home: Mapping[str, str], *, top: bool
) -> None:
    """The edge from START: to the first step, in a segment also to those jumped to."""
    first = steps[0].name
    if top:
        builder.add_edge(START, home[first])
        return
    entries = {target: home[target] for target in _jump_targets(plan, frozenset(home)) | {first}}

    def enter(state: PlanState) -> str | Send:
        target = state.get(ENTRY) or first
        if target in entries:
            return target
        # A person had a step tried again that no transition leads to from outside. A `Send`
        # reaches it without an edge in the drawing.
        return Send(home[target], state) if target in home else first

    builder.add_conditional_edges(START, enter, dict(sorted(entries.items())))


def _jump_targets(plan: Plan, inside: frozenset[str]) -> set[str]:
    """The steps inside that steps outside lead to."""
    return {
        target
        for step in plan.steps
        if step.name not in inside
        for target in _targets(plan, step).values()
        if target in inside
    }


def _targets(plan: Plan, step: Step) -> dict[str, str]:
    """Event → where it leads, for every event that the step can have."""
    events = {"success", "failure", *step.transitions, *(rule.event for rule in step.rules)}
    return {event: plan.target_of(step, event) for event in sorted(events)}


def _exits_of_step(plan: Plan, step: Step, home: Mapping[str, str]) -> dict[Hashable, str]:
    return {event: home.get(to, END) for event, to in _targets(plan, step).items()}


def _exits_of_segment(
    plan: Plan, group: Sequence[Step], home: Mapping[str, str]
) -> dict[Hashable, str]:
    """Step name or end → node, for everything outside that the segment can lead to."""
    inside = {step.name for step in group}
    targets = {t for step in group for t in _targets(plan, step).values()} - inside
    return {target: home.get(target, END) for target in sorted(targets)}


def _route_by_event(name: str) -> Callable[[PlanState], str]:
    def route(state: PlanState) -> str:
        return state["steps"][name]["event"]  # pyright: ignore[reportTypedDictNotRequiredAccess] - every record that a node writes has its event

    return route


def _route_by_goto() -> Callable[[PlanState], str]:
    def route(state: PlanState) -> str:
        status = state.get("status")
        if status is not None:
            return "failed" if status == "failed" else "success"
        return str(state.get(ENTRY))

    return route


def _add(builder: Graph, name: str, function: NodeFunction, **options: Any) -> None:
    cast("Any", builder).add_node(name, function, input_schema=PlanState, **options)


def _add_step(builder: Graph, name: str, node: StepNode) -> None:
    graph = node.inside

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        context = runtime.context or RunContext()
        return await node.visit(state, context, config, _tries(runtime))

    async def run_with_inside(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        # LangGraph finds a node's subgraph, to draw it and to show its state, among the free
        # variables of the node's function: so it is handed on from here.
        context = runtime.context or RunContext()
        return await node.visit(state, context, config, _tries(runtime), inside=graph)

    policy = None if node.step.foreach else retry_policy(node.step)
    function = run if graph is None else run_with_inside
    _add(builder, name, function, retry_policy=policy, metadata={"kind": node.step.kind})


def _tries(runtime: Runtime[RunContext]) -> int:
    return runtime.execution_info.node_attempt if runtime.execution_info else 1


def retry_policy(step: Step) -> RetryPolicy | None:
    """LangGraph's retry policy for a step: a node raises only what is to be tried again."""
    retry = step.retry
    if retry is None:
        return None
    return RetryPolicy(
        initial_interval=retry.delay,
        backoff_factor=retry.backoff,
        max_interval=retry.max_delay,
        max_attempts=retry.attempts,
        retry_on=CallError,
    )


def _node(plan: Plan, step: Step, deps: Dependencies, members: frozenset[str]) -> StepNode:
    node = leaf_node(plan, step, deps, members)
    if step.kind == "parallel":
        node = _parallel(node)
    elif step.plan is not None:
        node = _included(node, step.plan)
    return _foreach(node) if step.foreach else node


def _segment(
    plan: Plan, group: Sequence[Step], deps: Dependencies, outside: frozenset[str]
) -> NodeFunction:
    graph = _build_level(plan, group, deps, top=False).compile()
    inside = frozenset(step.name for step in group)
    needs = needs_of([value for step in group for value in step_values(step)])
    last_needs = needs_of([dict(plan.outputs)])

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        given = _part_of(state, inside, (needs, last_needs))
        after = cast("PlanState", await graph.ainvoke(given, config))
        steps = {n: r for n, r in after.get("steps", {}).items() if n in inside}
        update = PlanState(steps=steps, spent=after.get("spent", Spent()), goto=after.get(ENTRY))
        left = cast("dict[str, Any]", after)
        ended = {key: left[key] for key in LEFT_BY_SEGMENT if key in left}
        return cast("PlanState", {**update, **ended})

    return run


def _part_of(state: PlanState, inside: frozenset[str], needs: tuple[Needs, ...]) -> PlanState:
    """What a segment needs of the state: the records that its templates may read, no others."""
    records = state.get("steps", {})
    last = state.get("last")
    if all(need.steps is not None for need in needs):
        wanted = inside.union({last or ""}, *(need.steps or frozenset() for need in needs))
        records = {name: record for name, record in records.items() if name in wanted}
    given = PlanState(
        inputs=state.get("inputs", {}),
        steps=records,
        spent=Spent(),
        prefix=state.get("prefix", ""),
        goto=state.get(ENTRY),
    )
    if last is not None:
        given["last"] = last
    return given


def _included(node: StepNode, plan: Plan) -> StepNode:
    """A step that runs another plan as a subgraph of its own."""

    async def call(visit: Visit) -> CallResult:
        inputs = _inputs_of_included(plan, visit, node.deps)
        state = initial_state(inputs, prefix=f"{visit.path}/")
        try:
            after = cast("PlanState", await visit.inside.ainvoke(state, visit.config))
        except GaveUp as error:
            return CallResult(error=str(error), code=error.code)
        _charge(visit, after.get("spent", Spent()))
        error = None
        if after.get("status") != "success":
            error = after.get("error") or f"the included plan `{plan.name}` failed"
        outputs = _outputs_of_plan(plan, after, node.deps)
        return CallResult(outputs=outputs, error=error, code="plan" if error else None)

    return replace(node, perform=call, inside=compile_plan(plan, node.deps).compile())


def _inputs_of_included(plan: Plan, visit: Visit, deps: Dependencies) -> dict[str, Any]:
    aliases = {"goal", "prompt", "instruction"} - set(plan.inputs)
    given = {key: value for key, value in visit.inputs.items() if key not in aliases}
    defaults = {n: spec.default for n, spec in plan.inputs.items() if not spec.required}
    return {key: deps.outputs.put(value) for key, value in {**defaults, **given}.items()}


def _outputs_of_plan(plan: Plan, after: PlanState, deps: Dependencies) -> dict[str, Any]:
    """What the plan says that it returns; where it says nothing, its last step's outputs."""
    if plan.outputs:
        return deps.outputs.get(after.get("outputs") or {})
    last = after.get("last")
    record = after.get("steps", {}).get(last, Record()) if last else Record()
    return deps.outputs.get(record.get("outputs") or {})


def _charge(visit: Visit, spent: Spent) -> None:
    """Count what steps inside have used as this step's own."""
    visit.usage += Usage(
        input_tokens=spent.get("input_tokens", 0),
        output_tokens=spent.get("output_tokens", 0),
        cost=spent.get("cost", 0.0),
    )


def _parallel(node: StepNode) -> StepNode:
    """A block whose steps run at the same time, each a node of the block's graph."""
    block = node.step
    builder = StateGraph(PlanState, context_schema=RunContext, input_schema=PlanState)
    members = frozenset(step.name for step in block.steps)
    for step in block.steps:
        _add_step(builder, step.name, _node(node.plan, step, node.deps, members))
        builder.add_edge(START, step.name)
        builder.add_edge(step.name, END)

    async def call(visit: Visit) -> CallResult:
        given = PlanState(
            inputs=visit.state.get("inputs", {}),
            steps=visit.state.get("steps", {}),
            spent=Spent(),
            prefix=f"{visit.path}/",
        )
        after = cast("PlanState", await visit.inside.ainvoke(given, visit.config))
        _charge(visit, after.get("spent", Spent()))
        records = after.get("steps", {})
        visit.records = {name: records[name] for name in sorted(members)}
        outputs = {
            step.name: node.deps.outputs.get(records[step.name].get("outputs", {}))
            for step in block.steps
        }
        failed = [s.name for s in block.steps if records[s.name].get("outcome") == "failure"]
        if not failed or block.keep_going:
            return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS)
        names = ", ".join(f"`{name}`" for name in failed)
        first = records[failed[0]]
        reason = f"{names} failed: {first.get('error', '')}"
        return CallResult(
            outputs=outputs, matched=failed_by(first.get("decided_by", "error"), reason)
        )

    return replace(node, perform=call, inside=builder.compile())


def _foreach(node: StepNode) -> StepNode:
    """A step that runs once per item, each item a task of the step's graph."""
    foreach = node.step.foreach
    assert foreach is not None  # noqa: S101 - the caller looked
    leaf = replace(node, step=replace(node.step, foreach=None, when=None))

    async def call(visit: Visit) -> CallResult:
        items = _items_of(foreach, visit)
        if not items:
            return CallResult(outputs=[], matched=DEFAULT_SUCCESS)
        slots = asyncio.Semaphore(foreach.max_parallel or len(items))
        context = replace(visit.context, item_scope=visit.scope, slots=slots, item_path=visit.path)
        kept = [node.deps.outputs.put(visit.context.mask(item)) for item in items]
        after = await visit.inside.ainvoke({"items": kept}, visit.config, context=context)
        _charge(visit, after.get("spent", Spent()))
        results = [after["results"][str(index)] for index in range(len(items))]
        return _gather(node, results)

    return replace(node, perform=call, inside=_foreach_graph(leaf))


def _foreach_graph(leaf: StepNode) -> Any:
    graph = leaf.inside

    async def item(
        state: ItemState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> ItemState:
        async with runtime.context.slots:
            return await leaf.visit_item(state, runtime.context, config, _tries(runtime))

    async def item_with_inside(
        state: ItemState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> ItemState:
        context, tries = runtime.context, _tries(runtime)
        async with context.slots:
            return await leaf.visit_item(state, context, config, tries, inside=graph)

    builder: Any = StateGraph(ItemState, context_schema=RunContext)
    function = item if graph is None else item_with_inside
    policy = retry_policy(leaf.step)
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


def _items_of(foreach: ForEach, visit: Visit) -> list[Any]:
    """The items in order; for a mapping of lists, their product in the mapping's order."""
    items = foreach.items
    if not isinstance(items, Mapping):
        return _list_of(items, visit, "foreach")
    axes = [_list_of(part, visit, f"foreach.{name}") for name, part in items.items()]
    return [dict(zip(items, point, strict=True)) for point in itertools.product(*axes)]


def _list_of(items: Expression | Sequence[Any], visit: Visit, path: str) -> list[Any]:
    if not isinstance(items, Expression):
        return list(items)
    value = evaluate(items, visit.scope)
    if not isinstance(value, list):
        message = f"`{path}` must give a list, and gave {type(value).__name__}"
        raise TemplateError(message, position=items.position)
    return cast("list[Any]", value)


def _gather(node: StepNode, results: list[dict[str, Any]]) -> CallResult:
    """The items' outputs in order, and what they mean for the step.

    The step fails if any item failed, unless it keeps going; an event of its own that a rule
    gave an item is the step's event (the first such item's).
    """
    outputs = [_item_outputs(node, result) for result in results]
    failed = [i for i, result in enumerate(results) if result["outcome"] == "failure"]
    if failed and not node.step.keep_going:
        first = results[failed[0]]
        reason = f"{len(failed)} of {len(results)} items failed; item {failed[0]}: {first['error']}"
        return CallResult(outputs=outputs, matched=failed_by(first["decided_by"], reason))
    own = [r for r in results if r["event"] not in (SUCCESS, FAILURE)]
    if own:
        decision = Decision(
            outcome="success", event=own[0]["event"], decided_by="rule", reason=own[0]["reason"]
        )
        return CallResult(outputs=outputs, matched=decision)
    return CallResult(outputs=outputs, matched=DEFAULT_SUCCESS)


def _item_outputs(node: StepNode, result: dict[str, Any]) -> Any:
    outputs = node.deps.outputs.get(result["outputs"])
    if result["outcome"] == "failure" and isinstance(outputs, dict):
        return {**cast("dict[str, Any]", outputs), "error": result["error"]}
    return outputs
