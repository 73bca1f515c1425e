"""A plan in other graphs and agents: as a node with any state, and as a tool."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from pydantic import BaseModel
from typing_extensions import TypedDict

from fractale import as_node, as_tool, plan_graph
from fractale.compose import PlanFailed
from fractale.errors import InputError, UsageError
from fractale.testing import ScriptedModel
from fractale.testing.replies import Reply

PLAN = """
name: double it
description: Doubles a number, if a person agrees.
servers: []
inputs: {n: {type: integer, description: The number.}, unit: s}
outputs: {twice: "{{ steps.b.outputs.n }}", unit: "{{ inputs.unit }}"}
steps:
  - {name: a, tool: double, inputs: {n: "{{ inputs.n }}"}}
  - {name: b, tool: keep, inputs: {n: "{{ steps.a.outputs.n }}"}, approve: always}
"""
THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}
YES = {"yes": True}


@pytest.fixture
def parts(settings):
    made: list[int] = []

    def double(n: int) -> dict:
        """Double."""
        return {"n": 2 * n}

    def keep(n: int) -> dict:
        """Keep."""
        made.append(n)
        return {"n": n}

    return {"settings": settings, "tools": [double, keep]}, made


class Own(TypedDict, total=False):
    count: int
    twice: int
    unit: str
    note: str


@dataclass
class Data:
    n: int = 0
    twice: int = 0
    unit: str = "kg"


class Model(BaseModel):
    n: int = 0
    twice: int = 0
    unit: str = "kg"


def graph_with(state: Any, node: Any, saver: Any = None):
    builder: Any = StateGraph(state)
    builder.add_node("plan", node)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", END)
    return builder.compile(checkpointer=saver)


# -- as a node -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [Data, Model])
async def test_names_are_enough_for_any_form_of_state(parts, state):
    graph = graph_with(state, as_node(PLAN, context=YES, **parts[0]))
    after = await graph.ainvoke({"n": 4})
    assert (after["twice"], after["unit"]) == (8, "kg")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"n": "count"}, None),
        ({"n": lambda state: state["count"]}, {"twice": "twice", "note": "status"}),
        (lambda state: {"n": state["count"]}, lambda end: {"twice": end["outputs"]["twice"]}),
        ({"n": "count"}, {"twice": lambda end: end["outputs"]["twice"], "unit": "unit"}),
    ],
    ids=["keys", "a function each", "one function", "a function of the result"],
)
async def test_keys_and_functions_map_states(parts, inputs, outputs):
    node = as_node(PLAN, inputs=inputs, outputs=outputs, context=YES, **parts[0])
    after = await graph_with(Own, node).ainvoke({"count": 4, "note": "kept"})
    assert after["twice"] == 8
    looks = isinstance(outputs, dict) and "note" in outputs
    assert after["note"] == ("success" if looks else "kept")


MODES = ["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]


COMPOSED = ["alone", "subgraph", "node", "tool"]


@asynccontextmanager
async def saver_of(kind: str, path: Path) -> AsyncGenerator[Any]:
    if kind == "memory":
        yield InMemorySaver()
    elif kind == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            yield saver
    else:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(kind) as saver:
            await saver.setup()
            yield saver


@pytest.mark.parametrize("saver", ["memory", "sqlite"])
@pytest.mark.parametrize("composed", COMPOSED)
@pytest.mark.parametrize("modes", [*MODES, MODES], ids=[*MODES, "all"])
@pytest.mark.parametrize("subgraphs", [False, True], ids=["", "subgraphs"])
async def test_savers_modes_and_compositions(parts, tmp_path, saver, composed, modes, subgraphs):
    """One table: each combination asks, is answered by id, and ends with the same outputs."""
    async with saver_of(saver, tmp_path / "db") as opened:
        await _asks_and_ends(parts, opened, composed, modes, subgraphs)


@pytest.mark.parametrize("composed", COMPOSED)
@pytest.mark.parametrize("modes", [*MODES, MODES], ids=[*MODES, "all"])
async def test_postgresql(parts, tmp_path, postgres, composed, modes):
    async with saver_of(postgres, tmp_path) as opened:
        await _asks_and_ends(parts, opened, composed, modes, True)


async def _asks_and_ends(parts, saver: Any, composed: str, modes: Any, subgraphs: bool) -> None:
    options, made = parts
    own = {"checkpointer": saver} if composed == "alone" else {}
    plan = plan_graph(PLAN, **options, **own)
    graph, turn = _composed(composed, plan, saver)
    thread: Any = {"configurable": {"thread_id": uuid.uuid4().hex}}
    seen: list[Any] = []
    for _ in range(2):
        stream = graph.astream(turn, thread, stream_mode=modes, subgraphs=subgraphs)
        seen += [chunk async for chunk in stream]
        state = await graph.aget_state(thread)
        if state.interrupts:
            (asked,) = state.interrupts
            assert (asked.value["step"], made) == ("b", [])
            turn = Command(resume={asked.id: True})
    assert (state.interrupts, made) == ((), [8])
    assert "8" in repr(state.values)
    if modes == "custom" or modes is MODES:
        assert ("step_finished" in repr(seen)) is (composed == "alone" or subgraphs)
    if modes == "updates" and composed == "alone":
        names = [name for chunk in seen for name in (chunk[-1] if subgraphs else chunk)]
        assert names == ["a", "__interrupt__", "b"]


def _composed(composed: str, plan: Any, saver: Any) -> tuple[Any, Any]:
    if composed == "alone":
        return plan, {"n": 4}
    if composed == "node":
        return graph_with(Own, as_node(plan, inputs={"n": "count"}), saver), {"count": 4}
    if composed == "subgraph":

        class State(TypedDict, total=False):
            n: int
            outputs: dict

        return graph_with(State, plan, saver), {"n": 4}
    call = Reply(tool_calls=[("double_it", {"n": 4})])
    model = ScriptedModel([call, Reply(text="It is 8.")])
    agent = create_agent(model, [as_tool(plan)], checkpointer=saver)
    return agent, {"messages": [("user", "Double 4.")]}


def test_a_sync_graph_with_a_sync_saver(parts, tmp_path):
    options, made = parts
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        graph = graph_with(Own, as_node(PLAN, inputs={"n": "count"}, **options), saver)
        first = graph.invoke({"count": 4}, THREAD)
        assert first["__interrupt__"][0].value["kind"] == "approval"
        chunks = list(graph.stream(Command(resume="yes"), THREAD, subgraphs=True))
        assert graph.get_state(THREAD).values["twice"] == 8
    assert made == [8]
    assert len(chunks) > 1


async def test_a_plan_that_fails_raises_unless_its_status_is_looked_at(parts):
    text = PLAN.replace("tool: double", "tool: double, rules: {failure: [n > 9]}")
    for outputs in (None, {"twice": "twice"}):
        node = as_node(text, inputs={"n": "count"}, outputs=outputs, context=YES, **parts[0])
        with pytest.raises(PlanFailed, match="the plan `double it`: "):
            await graph_with(Own, node).ainvoke({"count": 5})
    node = as_node(text, inputs={"n": "count"}, outputs={"note": "error"}, context=YES, **parts[0])
    assert "n > 9" in (await graph_with(Own, node).ainvoke({"count": 5}))["note"]


async def test_a_limit_leaves_the_node_due_and_a_higher_one_continues_it(parts):
    options, made = parts
    saver = InMemorySaver()

    def graph(steps: int) -> Any:
        context: Any = {"yes": True, "limits": {"steps": steps}}
        node = as_node(PLAN, inputs={"n": "count"}, context=context, **options)
        return graph_with(Own, node, saver)

    low, high = graph(1), graph(5)
    with pytest.raises(PlanFailed, match="its limit") as caught:
        await low.ainvoke({"count": 4}, THREAD)
    assert caught.value.status == "limit"
    assert (await high.ainvoke(None, THREAD))["twice"] == 8
    assert made == [8]


def test_wrong_names_are_found_when_the_node_is_made(parts):
    with pytest.raises(InputError, match="no input `m`"):
        as_node(PLAN, inputs={"m": "count"}, **parts[0])
    with pytest.raises(InputError, match="no output `twise`") as caught:
        as_node(PLAN, outputs={"x": "twise"}, **parts[0])
    assert "did you mean `twice`" in str(caught.value.hint)
    with pytest.raises(UsageError, match="`tools` is for a plan"):
        as_node(plan_graph(PLAN, **parts[0]), tools=[])


def test_the_plan_is_drawn_inside_the_graph(parts):
    graph = graph_with(Own, as_node(PLAN, inputs={"n": "count"}, **parts[0]))
    assert {"plan:a", "plan:b"} <= set(graph.get_graph(xray=True).nodes)
    assert [name for name, _ in graph.get_subgraphs()] == ["plan"]


# -- as a tool -------------------------------------------------------------------------------------


async def test_a_tool_has_the_plans_form_and_answers_as_a_tool(parts):
    tool = as_tool(PLAN, context=YES, **parts[0])
    assert (tool.name, tool.description) == ("double_it", "Doubles a number, if a person agrees.")
    assert tool.args["n"]["type"] == "integer"
    call = {"type": "tool_call", "id": "1", "name": tool.name, "args": {"n": 4}}
    message = await tool.ainvoke(call)
    assert isinstance(message, ToolMessage)
    assert (message.status, message.content) == ("success", '{"twice": 8, "unit": "s"}')
    assert message.artifact["status"] == "success"
    text = PLAN.replace("tool: double", "tool: double, rules: {failure: [n > 9]}")
    failing = as_tool(text, **parts[0])
    message = await failing.ainvoke({**call, "args": {"n": 5}})
    assert message.status == "error"
    assert "n > 9" in message.content
    assert (await tool.ainvoke({"n": 2})) == '{"twice": 4, "unit": "s"}'
    assert tool.invoke is not None


async def test_an_agent_calls_two_plans_at_once_and_each_asks(parts):
    options, made = parts
    calls = Reply(tool_calls=[("double_it", {"n": 4}), ("double_it", {"n": 5})])
    model = ScriptedModel([calls, Reply(text="8 and 10.")])
    agent = create_agent(model, [as_tool(PLAN, **options)], checkpointer=InMemorySaver())
    first = await agent.ainvoke({"messages": [("user", "Both.")]}, THREAD)
    asked = {each.value["arguments"]["n"]: each.id for each in first["__interrupt__"]}
    assert set(asked) == {8, 10}
    after = await agent.ainvoke(Command(resume={asked[8]: True, asked[10]: False}), THREAD)
    found = [m for m in after["messages"] if isinstance(m, ToolMessage)]
    assert sorted(message.status for message in found) == ["error", "success"]
    assert isinstance(after["messages"][-1], AIMessage)
    assert made == [8]
