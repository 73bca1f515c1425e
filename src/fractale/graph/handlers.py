"""The steps that run at the end of a plan: its handlers ``on_failure`` and ``finally``.

Each handler is one node, with its steps as a graph inside. The nodes stand in two places:

- At the end of the graph of a plan, for applications and for a plan inside another one
  (`add_handlers`). There they run when the plan succeeded or failed.
- In a graph of their own, with a thread of its own, which begins with `state_at_end`
  (`handlers_graph`). `fractale.runs` runs that graph at every end: a plan that stopped at a limit
  keeps its own checkpoint, and continues from there.

Handlers do not change how the plan ended. If a handler cannot continue, it is reported as a
warning, and the next handler still runs. The handlers of a plan inside another one are bound by the
limits of the run as its other steps are: at a limit the run stops, and can be resumed there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import OVERWRITE
from langgraph.graph import END, START
from langgraph.runtime import Runtime

from fractale.errors import (
    AnswerError,
    FractaleError,
    LimitReached,
    ListenerError,
    NotRecorded,
    Stopped,
    StoreError,
)
from fractale.evidence import Notice
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.kinds import BuildGraph
from fractale.graph.state import PlanEnd, PlanState, Record, Spent, values_in
from fractale.graph.step import Graph, NodeFunction, add_node, new_graph
from fractale.plan.model import HANDLERS, Plan

ON_FAILURE: Final = HANDLERS[0]

GAVE_UP: Final = "handler"
"""The code of the warning that a handler could not continue, or ended as failed with a reason."""

OF_RUN: Final = (AnswerError, ListenerError, NotRecorded, Stopped, StoreError)
"""Errors that end the process of a run, and are not of a handler. The run can be resumed."""

OF_END: Final = ("status", "error", "outputs", "goto")
"""The parts of a plan's state that its end has used."""


def handlers_graph(plan: Plan, deps: Dependencies, build_graph: BuildGraph) -> Graph:
    """The graph of a plan's handlers alone, not yet compiled. Start it with `state_at_end`.

    Args:
        plan: A plan with handlers.
        build_graph: `fractale.graph.compile.build_graph`.
    """
    builder = new_graph()
    builder.add_edge(START, add_handlers(builder, plan, deps, build_graph))
    return builder


def add_handlers(builder: Graph, plan: Plan, deps: Dependencies, build_graph: BuildGraph) -> str:
    """Add the nodes of a plan's handlers to a graph, up to its end.

    Returns:
        The node at which every end of the plan enters them.
    """
    names = list(plan.handlers)
    for name, handler in plan.handlers.items():
        add_node(builder, name, _node(name, handler, deps.inside(name), build_graph))
    for name, following in zip(names, [*names[1:], END], strict=True):
        builder.add_edge(name, following)
    return names[0]


def _node(name: str, plan: Plan, deps: Dependencies, build_graph: BuildGraph) -> NodeFunction:
    """The node of a handler. ``on_failure`` does nothing unless the plan failed."""
    graph = build_graph(plan, deps, None).compile(name=name)
    own = {step.name for step in plan.walk()}
    reasoned = {step.name for step in plan.steps if step.reason is not None}

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        ended = state.get("ended") or _ended(state)
        if name == ON_FAILURE and ended.get("outcome") != "failed":
            return PlanState()
        context, path = runtime.context or RunContext(), f"{state.get('prefix', '')}{name}"
        given = _given({**state, "spent": Spent()}, cast("PlanEnd", {**ended, "handler": name}))
        given["prefix"] = f"{path}/"
        is_top, meter = not state.get("prefix"), context.meter
        if is_top:
            meter = meter.for_handlers(len(plan.steps))
        inside = replace(context, entry=None, meter=meter)
        try:
            after = cast("PlanState", await graph.ainvoke(given, config, context=inside))
        except OF_RUN:
            raise
        except FractaleError as error:
            if isinstance(error, LimitReached) and not is_top:
                raise
            context.emit("warning", step=path, code=GAVE_UP, message=error.message)
            return PlanState()
        last, said = after.get("last") or "", after.get("error")
        if after.get("status") == "failed" and said and last in reasoned:
            context.emit("warning", step=f"{path}/{last}", code=GAVE_UP, message=said)
        records = {n: r for n, r in after.get("steps", {}).items() if n in own}
        own_state = PlanState(steps=records, spent=after.get("spent", Spent()))
        return cast("PlanState", {**own_state, **values_in(after)})

    return run


def _ended(state: PlanState) -> PlanEnd:
    """How a plan ended whose state has its end."""
    error = state.get("error")
    if state.get("status") == "failed":
        return PlanEnd(outcome="failed", step=state.get("last"), error=error)
    return PlanEnd(outcome="success")


def _given(state: Mapping[str, Any], ended: PlanEnd) -> PlanState:
    """The state of a plan as that in which its handlers start."""
    known = {key: value for key, value in state.items() if key in PlanState.__annotations__}
    return cast("PlanState", {**known, **dict.fromkeys(OF_END), "ended": ended})


def is_same_end(ended: PlanEnd, other: PlanEnd) -> bool:
    """Whether two ends of a run are the same one: at one checkpoint, with one outcome."""
    return all(ended.get(key) == other.get(key) for key in ("outcome", "at", "step"))


def failures(plan: Plan, state: PlanState) -> tuple[Notice, ...]:
    """Notices of the steps of a plan's handlers that failed, which do not change the outcome."""
    records = state.get("steps", {})
    return tuple(
        Notice(kind="failed", message=f"{name}/{step.name}: {record.get('error') or 'failed'}")
        for name, handler in plan.handlers.items()
        for step in handler.steps
        if (record := records.get(step.name, Record())).get("outcome") == "failure"
    )


def state_at_end(
    plan: Plan,
    state: Mapping[str, Any],
    ended: PlanEnd,
    earlier: Mapping[str, Record] | None = None,
) -> dict[str, Any]:
    """The state in which the handlers of a plan start. A thread may have that of an earlier end.

    Args:
        state: The plan's state at its end.
        ended: How it ended.
        earlier: The records of the handlers at an earlier end of the same run. The attempts of
            their steps are counted on, but do not count for `max_attempts`.
    """
    records: dict[str, Record] = dict(state.get("steps") or {})
    steps = {step.name for handler in plan.handlers.values() for step in handler.walk()}
    for name, record in (earlier or {}).items():
        if name in steps and (made := record.get("attempts", 0)):
            records[name] = Record(attempts=made, inherited=made)
    given = _given(state, ended)
    return {**given, "steps": {OVERWRITE: records}, "spent": {OVERWRITE: {}}}
