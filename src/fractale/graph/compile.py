"""A plan as a LangGraph `StateGraph`: one node per step, one conditional edge per transition.

`compile_plan` and `build_graph` are pure functions of the plan and its dependencies. Node names are
step names and edge labels are events. So LangGraph's drawing shows the plan as its author knows it.
`compile_plan` is for applications (`fractale.graph.plan_graph`). `build_graph` is the steps alone:
of a plan inside another one, and for `fractale.runs`.

Some nodes are subgraphs:

- A `foreach` has one task per item.
- A `parallel` block has one node per step.
- An included plan has its own graph.
- A long plan is split into segments of consecutive steps, since the cost of a checkpoint grows
  with the number of nodes of its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END, START
from langgraph.runtime import Runtime
from langgraph.types import Send

from fractale.graph.context import Dependencies, RunContext
from fractale.graph.handlers import add_handlers, handlers_graph
from fractale.graph.kinds import Compiler, build
from fractale.graph.plan_graph import PlanBuilder, RunSetup
from fractale.graph.state import PlanState, Spent, values_in
from fractale.graph.step import (
    Graph,
    Needs,
    NodeFunction,
    StepNode,
    add_node,
    add_step,
    bare_node,
    needs_of,
    new_graph,
    step_values,
    targets_of,
)
from fractale.plan.model import Plan, Step

FLAT_STEPS = 32
SEGMENT_STEPS = 16
NEXT = "goto"
"""The key of the state that names the step that is entered next, in another segment."""

LEFT_BY_SEGMENT = ("last", "status", "error", "outputs")


def compile_plan(
    plan: Plan, dependencies: Dependencies, *, setup: RunSetup | None = None
) -> PlanBuilder:
    """The plan as a graph, not yet compiled: call ``.compile(checkpointer=…)`` on it.

    Args:
        plan: A plan without errors (`fractale.plan.check.check_plan`).
        dependencies: The outside world as the nodes will see it.
        setup: What all runs of the graph begin with.

    Returns:
        A builder that compiles to a `PlanGraph`. Its input is the plan's inputs, or `initial_state`
        of them; its context a `PlanContext`; its result a `PlanOutput`.
    """
    builder = PlanBuilder(plan, dependencies.outputs, setup)
    graph, deps, end = cast("Graph", builder), dependencies.within(plan), END
    if plan.handlers:
        end = add_handlers(graph, plan, deps, build_graph)
        builder.handlers = handlers_graph(plan, deps, build_graph)
    _fill(graph, plan, plan.steps, deps, start=plan.steps[0].name, end=end)
    return builder


def build_graph(plan: Plan, dependencies: Dependencies, start: str | None = None) -> Graph:
    """The steps of the plan as a graph, not yet compiled.

    The caller does what a plan says about its run: inputs, secrets, limits.

    Args:
        plan: A plan without errors (`fractale.plan.check.check_plan`).
        dependencies: The outside world as the nodes will see it.
        start: The first step of a forked run; None: the plan's first. If it is set, the state must
            name it, too (`fractale.graph.state`).

    Returns:
        A builder whose state is `PlanState` and whose context is `RunContext`. Start it with
        `fractale.graph.state.initial_state`.
    """
    deps = dependencies.within(plan)
    return _build_level(plan, plan.steps, deps, start=start or plan.steps[0].name)


def build_inner_graph(plan: Plan, dependencies: Dependencies, start: str | None = None) -> Graph:
    """The steps of a plan inside another one, and its handlers. The same as `build_graph` else."""
    builder = new_graph()
    end = add_handlers(builder, plan, dependencies, build_graph) if plan.handlers else END
    start = start or plan.steps[0].name
    _fill(builder, plan, plan.steps, dependencies, start=start, end=end)
    return builder


def node_of(plan: Plan, step: str) -> str:
    """The top-level node of the plan's graph that has a step: its own node, or its segment."""
    for name, group in _groups(plan.steps):
        if any(member.name == step for member in group):
            return name
    raise KeyError(step)


def way_to(plan: Plan, step: str) -> list[str]:
    """The nodes that lead to a step of the plan, each inside the one before; the step is last.

    Raises:
        KeyError: The plan has no such step.
    """
    return [*_way(plan.steps, step)]


def _way(steps: Sequence[Step], step: str) -> Iterator[str]:
    for name, group in _groups(steps):
        if any(member.name == step for member in group):
            yield name
            if name != step:
                yield from _way(group, step)
            return
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


def _build_level(
    plan: Plan, steps: Sequence[Step], deps: Dependencies, *, start: str | None = None
) -> Graph:
    """The graph of a whole plan, which begins with `start`, or of a segment of the plan."""
    builder = new_graph()
    _fill(builder, plan, steps, deps, start=start)
    return builder


def _fill(
    builder: Graph,
    plan: Plan,
    steps: Sequence[Step],
    deps: Dependencies,
    *,
    start: str | None = None,
    end: str = END,
) -> None:
    """Add the steps and their edges to a builder.

    Args:
        end: The node at which the plan has ended.
    """
    groups = _groups(steps)
    home = {step.name: name for name, group in groups for step in group}
    members = frozenset(home)
    for name, group in groups:
        if len(group) == 1 and name == group[0].name:
            add_step(builder, name, _node(plan, group[0], deps, members))
            exits = _exits_of_step(plan, group[0], home, end)
            label = _event_of(name)
        else:
            add_node(builder, name, _segment(plan, group, deps, members))
            exits = _exits_of_segment(plan, group, home, end)
            label = _end_or_step
        builder.add_conditional_edges(name, Edge(label), exits)
    _add_entry(builder, plan, steps, home, start)


def _add_entry(
    builder: Graph,
    plan: Plan,
    steps: Sequence[Step],
    home: Mapping[str, str],
    start: str | None,
) -> None:
    """Add the edge from START: to one step, or in a segment to the first and the jump targets."""
    if start is not None:
        builder.add_edge(START, home[start])
        return
    first = steps[0].name
    entries = {target: home[target] for target in _jump_targets(plan, frozenset(home)) | {first}}

    async def enter(state: PlanState) -> str | Send:
        target = state.get(NEXT) or first
        if target in entries:
            return target
        # The user had a step tried again, but no outside transition leads to it. A `Send` reaches
        # the step without an edge in the drawing.
        return Send(home[target], state) if target in home else first

    builder.add_conditional_edges(START, enter, dict(sorted(entries.items())))


def _jump_targets(plan: Plan, inside: frozenset[str]) -> set[str]:
    """The steps inside that outside steps lead to."""
    return {
        target
        for step in plan.steps
        if step.name not in inside
        for target in targets_of(plan, step).values()
        if target in inside
    }


def _exits_of_step(
    plan: Plan, step: Step, home: Mapping[str, str], end: str
) -> dict[Hashable, str]:
    return {event: home.get(to, end) for event, to in targets_of(plan, step).items()}


def _exits_of_segment(
    plan: Plan, group: Sequence[Step], home: Mapping[str, str], end: str
) -> dict[Hashable, str]:
    """Step name or end → node, for everything outside that the segment can lead to."""
    inside = {step.name for step in group}
    targets = {t for step in group for t in targets_of(plan, step).values()} - inside
    return {target: home.get(target, end) for target in sorted(targets)}


def _node(plan: Plan, step: Step, deps: Dependencies, members: frozenset[str]) -> StepNode:
    compiler = Compiler(build_graph=build_inner_graph, node_of=_node)
    return build(bare_node(plan, step, deps, members), compiler)


def _segment(
    plan: Plan, group: Sequence[Step], deps: Dependencies, outside: frozenset[str]
) -> NodeFunction:
    graph = _build_level(plan, group, deps).compile(name=f"{group[0].name}..{group[-1].name}")
    inside = frozenset(step.name for step in group)
    needs = needs_of([value for step in group for value in step_values(step)])
    last_needs = needs_of([dict(plan.outputs)])

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        given = _part_of(state, inside, (needs, last_needs))
        after = cast("PlanState", await graph.ainvoke(given, config))
        steps = {n: r for n, r in after.get("steps", {}).items() if n in inside}
        update = PlanState(steps=steps, spent=after.get("spent", Spent()), goto=after.get(NEXT))
        left = cast("dict[str, Any]", after)
        if plan.value_names:
            update.update(values_in(after))
        ended = {key: left[key] for key in LEFT_BY_SEGMENT if key in left}
        return cast("PlanState", {**update, **ended})

    return run


def _part_of(state: PlanState, inside: frozenset[str], needs: tuple[Needs, ...]) -> PlanState:
    """The part of the state that a segment needs: the records that its templates may read."""
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
        goto=state.get(NEXT),
    )
    if last is not None:
        given["last"] = last
    if "sources" in state:
        given["sources"] = state["sources"]
    given.update(values_in(state))
    if "ended" in state:
        given["ended"] = state["ended"]
    return given


# Edges


class Edge(Runnable[PlanState, str]):
    """A conditional edge of a node: it reads the next label from the state.

    LangGraph accepts a runnable unchanged. It would wrap a function in a runnable that reads
    annotations at build time and changes threads at every step: a tenth of a step's time.

    Args:
        label: Returns the edge's label.
    """

    name = "edge"

    def __init__(self, label: Callable[[PlanState], str]) -> None:
        self._label = label

    def invoke(self, input: PlanState, config: RunnableConfig | None = None, **kwargs: Any) -> str:  # noqa: A002 - LangChain's name
        """The label of the edge to follow."""
        del config, kwargs
        return self._label(input)

    async def ainvoke(
        self,
        input: PlanState,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> str:
        """See `invoke`."""
        del config, kwargs
        return self._label(input)


def _event_of(step: str) -> Callable[[PlanState], str]:
    """The label after a step: the event of its last attempt."""
    return lambda state: state["steps"][step]["event"]  # pyright: ignore[reportTypedDictNotRequiredAccess] - every record that a node writes has its event


def _end_or_step(state: PlanState) -> str:
    """The label after a segment: the end that it reached, or the outside step that it leads to."""
    status = state.get("status")
    if status is not None:
        return "failed" if status == "failed" else "success"
    return str(state.get(NEXT))
