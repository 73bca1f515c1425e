"""The steps that run at the end of a plan: its handlers ``on_failure`` and ``finally``.

They are a graph of their own, beside the graph of the plan's steps, with one node per handler and
the handler's steps inside. So a plan that stopped at a limit keeps its checkpoint, and continues
from there. A graph of handlers begins with `state_at_end`: the state of the plan, and how it ended.

Three callers run them: `fractale.runs.driver` for runs, `fractale.graph.plan_graph` for
applications, and `fractale.graph.kinds.include` for a plan inside another one.

Handlers do not change how the plan ended. A handler that gives up is reported as a warning, and the
next handler still runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import OVERWRITE
from langgraph.graph import END, START
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale.errors import LimitReached
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.kinds import BuildGraph
from fractale.graph.state import Ended, PlanState, Record, Spent
from fractale.graph.step import AttemptsExceeded, Graph, NodeFunction, add_node, new_graph
from fractale.plan.model import Plan

GAVE_UP: Final = "handler"
"""The code of the warning that a handler gave up."""

How = Literal["success", "failed", "limit", "cancelled"]


class EndState(TypedDict, total=False):
    """The parts of a plan's state that its end has already used."""

    status: Any
    error: Any
    outputs: Any
    goto: Any


def handlers_graph(plan: Plan, deps: Dependencies, build_graph: BuildGraph) -> Graph:
    """The graph of a plan's handlers, not yet compiled.

    Args:
        plan: A plan with handlers.
        build_graph: `fractale.graph.compile.build_graph`.
    """
    builder = new_graph()
    names = list(plan.handlers)
    for name, handler in plan.handlers.items():
        add_node(builder, name, _handler(name, handler, deps.inside(name), build_graph))
    if names[0] == "on_failure":
        first: dict[Any, str] = {"failed": names[0], "other": names[1] if names[1:] else END}
        builder.add_conditional_edges(START, _first, first)
    else:
        builder.add_edge(START, names[0])
    for name, following in zip(names, [*names[1:], END], strict=True):
        builder.add_edge(name, following)
    return builder


async def _first(state: PlanState) -> str:
    return "failed" if state.get("ended", Ended()).get("outcome") == "failed" else "other"


def _handler(name: str, plan: Plan, deps: Dependencies, build_graph: BuildGraph) -> NodeFunction:
    """The node of a handler."""
    graph = build_graph(plan, deps, None).compile()
    own = {step.name for step in plan.walk()}

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        path = f"{state.get('prefix', '')}{name}"
        given = cast("PlanState", {**state, "prefix": f"{path}/", "spent": Spent()})
        given["ended"] = cast("Ended", {**state.get("ended", Ended()), "handler": name})
        try:
            after = cast("PlanState", await graph.ainvoke(given, config))
        except (AttemptsExceeded, LimitReached) as error:
            context = runtime.context or RunContext()
            context.emit("warning", step=path, code=GAVE_UP, message=error.message)
            return PlanState()
        records = {n: r for n, r in after.get("steps", {}).items() if n in own}
        return PlanState(steps=records, spent=after.get("spent", Spent()), last=after.get("last"))

    return run


def state_at_end(
    plan: Plan, state: Mapping[str, Any], ended: Ended, earlier: Mapping[str, Record] | None = None
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
    given = {key: value for key, value in state.items() if key in PlanState.__annotations__}
    used = dict.fromkeys(EndState.__annotations__)
    return {
        **given,
        **used,
        "steps": {OVERWRITE: records},
        "spent": {OVERWRITE: {}},
        "ended": ended,
    }
