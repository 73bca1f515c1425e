"""A program of a user, as pyright (strict) and mypy (strict) see it. It is checked, never run.

Each wrong use has comments that ignore its error. Both checkers report a comment that is not
needed, so an error that they no longer see is a failure. ``make check`` runs both.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, TypedDict, assert_type

from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

import fractale
from fractale import Event, Limits, Plan, PlanError, RunResult, Settings
from fractale.testing import FakeToolServer, ScriptedModel


@tool
def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def triple(n: int) -> int:
    """Triple a number."""
    return 3 * n


async def listen(event: Event) -> None:
    print(event.kind, event.data)


# -- runs --------------------------------------------------------------------------------------


def plans() -> None:
    plan = fractale.load("plan.yaml")
    assert_type(plan, Plan)
    assert_type(fractale.__version__, str)
    try:
        problems = fractale.validate(plan)
    except PlanError as error:
        problems = error.problems
    for problem in problems:
        assert_type(problem, fractale.Problem)
        assert_type(problem.code, str)


async def runs() -> None:
    result = await fractale.arun(
        "plan.yaml",
        {"nodes": 4},
        tools=[double, triple],
        registries=["tools.yaml"],
        model="openai:gpt-5",
        checkpointer=InMemorySaver(),
        store=InMemoryStore(),
        on_event=listen,
        answers={"submit": True},
        limits=Limits(steps=20),
        settings=Settings(),
        tags=["night"],
    )
    assert_type(result, RunResult)
    if result.status == "waiting":
        result = await fractale.aresume(result.run, answers={"submit": True})
    assert_type(result.outputs, dict[str, Any])
    assert_type(result.error, str | None)
    assert_type(await fractale.afork(result.run, "tune"), RunResult)
    assert_type(await fractale.areplay(result.run), fractale.Replayed)
    assert_type(await fractale.acancel(result.run), fractale.Cancelled)
    assert_type(fractale.list_runs(status="waiting"), list[fractale.RunRow])


async def streams() -> None:
    items = fractale.astream("plan.yaml", keep=True)
    assert_type(items, AsyncGenerator[Event | RunResult])
    async for item in items:
        if isinstance(item, Event):
            assert_type(item.data, dict[str, Any])
        else:
            assert_type(item, RunResult)


def waits() -> None:
    tools = FakeToolServer().answer("submit", {"job": 7})
    result = fractale.run("plan.yaml", tools=tools, model=ScriptedModel(["done"]))
    assert_type(result, RunResult)
    toolbox: fractale.Toolbox = tools
    print(toolbox)


def wrong_runs() -> None:
    fractale.run("plan.yaml", modle="openai:gpt-5")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fractale.run("plan.yaml", model=42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fractale.run("plan.yaml", tools=triple)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fractale.run("plan.yaml", limits=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fractale.run(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fractale.resume("-1", anwsers={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fractale.replay("-1", answers={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fractale.run("plan.yaml").otputs  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
    fractale.Limits(step=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fractale.aruns("plan.yaml")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


# -- graphs ------------------------------------------------------------------------------------


class Own(TypedDict):
    nodes: int
    speed: float


async def graphs() -> None:
    graph = fractale.plan_graph(
        "plan.yaml", tools=[double], checkpointer=InMemorySaver(), interrupt_before=["submit"]
    )
    assert_type(graph, fractale.PlanGraph)
    assert_type(graph.plan, Plan)
    after = await graph.ainvoke({"nodes": 4}, context={"yes": True, "limits": {"steps": 3}})
    print(after["status"], after["outputs"])

    builder = StateGraph(Own)
    node = fractale.as_node("plan.yaml", inputs={"nodes": "nodes"}, outputs={"speed": "speed"})
    builder.add_node("run", node)
    builder.add_edge(START, "run")
    own = builder.compile()
    print(await own.ainvoke({"nodes": 4, "speed": 0.0}))

    agent_tools: Sequence[BaseTool] = [fractale.as_tool("plan.yaml", name="tune")]
    print(agent_tools)


def wrong_graphs() -> None:
    fractale.plan_graph("plan.yaml", tols=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fractale.plan_graph("plan.yaml", tools=triple)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fractale.plan_graph("plan.yaml", checkpointer="memory")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fractale.as_node("plan.yaml", input={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fractale.as_node("plan.yaml", modle="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fractale.as_tool("plan.yaml", name=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
