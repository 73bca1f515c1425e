"""A plan in other graphs and agents: as a node with any state, and as a tool."""

from __future__ import annotations

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
from fractale.graph.state import PlanState
from fractale.testing import ScriptedModel
from fractale.testing.replies import Reply
from servers.postgres import new_database

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
    twice: int | None = None
    unit: str | None = None


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
    assert (after["twice"], after["unit"]) == (8, "kg" if state is Data else "s")


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


# -- one table -------------------------------------------------------------------------------------

TABLE = """
name: table
description: Doubles a number.
servers: []
inputs: {n: {type: integer}}
outputs: {twice: "{{ steps.a.outputs.n }}", said: "{{ steps.say.outputs.content }}"}
steps:
  - {name: a, tool: double, inputs: {n: "{{ inputs.n }}"}}
  - {name: say, agent: , instruction: Say it., tools: []}
  - name: both
    parallel:
      - {name: b, tool: keep, inputs: {n: "{{ steps.a.outputs.n }}"}, approve: always}
      - {name: c, tool: keep, inputs: {n: 3}, approve: POLICY}
"""
SAVERS = ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.real)]
MODES = ["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]
STREAMS: list[tuple[Any, bool]] = [
    (modes, inside) for modes in (MODES, *MODES) for inside in (False, True)
]
SHOWN = {
    "values": "8",
    "updates": "twice",
    "custom": "'event': 'step_finished', 'run': ",
    "messages": "content='eight.'",
    "tasks": "'triggers': ",
    "checkpoints": "'parent_config': ",
    "debug": "'type': 'task_result'",
}
INNER = ("custom", "messages")


@asynccontextmanager
async def opened(kind: str, path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Any]:
    if kind == "memory":
        yield InMemorySaver()
    elif kind == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(str(path / "db")) as saver:
            yield saver
    else:
        url = new_database(request.getfixturevalue("postgres"))
        postgres = pytest.importorskip("langgraph.checkpoint.postgres.aio")
        async with postgres.AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()
            yield saver


def composed_of(composed: str, plan: Any, saver: Any) -> tuple[Any, Any]:
    """The graph, and its input."""
    if composed == "alone":
        return plan, {"n": 4}
    if composed == "node":
        return graph_with(Own, as_node(plan, inputs={"n": "count"}), saver), {"count": 4}
    if composed == "subgraph":

        class State(TypedDict, total=False):
            n: int
            outputs: dict

        return graph_with(State, plan, saver), {"n": 4}
    replies = [Reply(tool_calls=[("table", {"n": 4})]), Reply(text="8.")] * len(STREAMS)
    return create_agent(ScriptedModel(replies), [as_tool(plan)], checkpointer=saver), {
        "messages": [("user", "Double 4.")]
    }


@pytest.mark.parametrize("questions", [0, 1, 2])
@pytest.mark.parametrize("composed", ["alone", "subgraph", "node", "tool"])
@pytest.mark.parametrize("kind", SAVERS)
async def test_savers_streams_questions_and_compositions(
    parts, tmp_path, request, kind, composed, questions
):
    """Each asks what there is to ask, is answered by id, streams everything, and ends alike."""
    options, made = parts
    text = TABLE.replace("POLICY", "always" if questions == 2 else "never")
    model = ScriptedModel([Reply(text="It is eight.")] * len(STREAMS))
    async with opened(kind, tmp_path, request) as saver:
        own = {"checkpointer": saver} if composed == "alone" else {}
        plan = plan_graph(text, model=model, yes=not questions, idle=60, **options, **own)
        graph, given = composed_of(composed, plan, saver)
        for number, (modes, inside) in enumerate(STREAMS):
            made.clear()
            thread: Any = {"configurable": {"thread_id": f"t{number}"}}
            seen = [
                c async for c in graph.astream(given, thread, stream_mode=modes, subgraphs=inside)
            ]
            state = await graph.aget_state(thread)
            asked = state.interrupts
            steps = sorted(each.value["step"] for each in asked)
            assert steps == ["both/b", "both/c"][:questions], state.values
            if questions:
                assert 8 not in made
                answers = Command(resume={each.id: True for each in asked})
                stream = graph.astream(answers, thread, stream_mode=modes, subgraphs=inside)
                seen += [chunk async for chunk in stream]
            assert sorted(made) == [3, 8]
            state = await graph.aget_state(thread)
            assert (state.next, "8" in repr(state.values)) == ((), True)
            for mode in MODES if modes is MODES else [modes]:
                found = [c for c in seen if mode == (c[-2] if modes is MODES else modes)]
                is_inner = composed != "alone" and mode in INNER
                assert (SHOWN[mode] in repr(found)) is (inside or not is_inner), (mode, found)


# -- the border ------------------------------------------------------------------------------------


async def test_a_graph_with_the_plans_own_keys_counts_each_step_once(parts):
    graph = plan_graph(PLAN, yes=True, **parts[0])
    builder: Any = StateGraph(PlanState)
    builder.add_node("one", graph)
    builder.add_node("other", graph)
    builder.add_edge(START, "one")
    builder.add_edge("one", "other")
    after = await builder.compile().ainvoke({"inputs": {"n": 4}, "spent": {"steps": 7}})
    assert (after["status"], after["outputs"]["twice"]) == ("success", 8)
    assert (after["spent"], after["steps"]) == ({"steps": 7}, {})


SECRET = """
name: whisper
servers: []
inputs: {token: {type: string, secret: true}, config: {type: object, default: {}}}
outputs: {size: "{{ steps.a.outputs.size }}"}
steps: [{name: a, tool: measure, inputs: {text: "{{ inputs.token }}"}, approve: always}]
"""
HUNTER = "hunter2-is-secret"


@dataclass
class Around:
    secrets: dict[str, str]
    user: str = "me"


@pytest.fixture
def measured(settings):
    heard: list[str] = []

    def measure(text: str) -> dict:
        """Measure."""
        heard.append(text)
        return {"size": len(text)}

    return {"settings": settings, "tools": [measure]}, heard


@pytest.mark.parametrize("context", [Around({"token": HUNTER}), {"secrets": {"token": HUNTER}}])
@pytest.mark.parametrize("composed", ["node", "subgraph", "function", "tool"])
async def test_secrets_come_from_the_context_of_the_graph_around(measured, context, composed):
    options, heard = measured
    saver = InMemorySaver()
    node: Any = as_node(SECRET, outputs={"twice": "size"}, **options)
    if composed == "subgraph":
        node = plan_graph(SECRET, **options)
    if composed == "function":
        node = as_node(SECRET, outputs={}, context=lambda around: {"yes": bool(around)}, **options)
    graph: Any = graph_with(Own, node, saver)
    given: Any = {"count": 1}
    if composed == "tool":
        calls = Reply(tool_calls=[("whisper", {"config": {"a": 1}})])
        model = ScriptedModel([calls, Reply(text="Done.")])
        graph = create_agent(model, [as_tool(SECRET, **options)], checkpointer=saver)
        given = {"messages": [("user", "Whisper.")]}
    after = await graph.ainvoke(given, THREAD, context=context)
    if composed != "function":
        assert HUNTER not in repr(after["__interrupt__"])
        await graph.ainvoke(Command(resume=True), THREAD, context=context)
    assert heard == [HUNTER]
    assert HUNTER not in repr(saver.storage)
    assert HUNTER.encode() not in repr(saver.blobs).encode()


async def test_a_missing_secret_is_an_error_that_names_it(measured):
    graph = graph_with(Own, as_node(SECRET, **measured[0]))
    with pytest.raises(InputError, match="secret input `token` is missing"):
        await graph.ainvoke({"count": 1}, context={"secrets": {"other": "x"}})


async def test_each_pass_of_a_loop_is_a_run_of_its_own(parts):
    options, made = parts

    class Loop(TypedDict, total=False):
        n: int
        twice: int

    builder: Any = StateGraph(Loop)
    node = as_node(PLAN, outputs={"n": "twice", "twice": "twice"}, **options)
    builder.add_node("plan", node)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda state: END if state["n"] > 10 else "plan")
    graph = builder.compile(checkpointer=InMemorySaver())
    after = await graph.ainvoke({"n": 3}, THREAD)
    for _ in range(2):
        assert after["__interrupt__"]
        after = await graph.ainvoke(Command(resume=True), THREAD)
    assert (made, after["n"]) == ([6, 12], 12)


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


async def test_wrong_arguments_are_the_tools_error_and_the_model_tries_again(measured, parts):
    wrong = [{"n": "x"}, {"n": 4, "m": 1}, {}, {"n": 4}]
    replies = [Reply(tool_calls=[("double_it", each)]) for each in wrong]
    model = ScriptedModel([*replies, Reply(text="8.")])
    agent = create_agent(model, [as_tool(PLAN, context=YES, **parts[0])])
    after = await agent.ainvoke({"messages": [("user", "Double 4.")]})
    found = [m for m in after["messages"] if isinstance(m, ToolMessage)]
    assert [message.status for message in found] == ["error", "error", "error", "success"]
    assert "must be of type integer" in found[0].content
    tool = as_tool(SECRET, context={"secrets": {"token": HUNTER}, "yes": True}, **measured[0])
    assert "token" not in tool.args
    call = {"type": "tool_call", "id": "1", "name": tool.name}
    assert (await tool.ainvoke({**call, "args": {"config": {"a": 1}}})).status == "success"
    assert (await tool.ainvoke({**call, "args": {"token": "of the model"}})).status == "error"
    assert measured[1] == [HUNTER]


async def test_the_plan_is_traced_inside_the_run_of_its_tool(parts):
    tool = as_tool(PLAN, context=YES, **parts[0])
    events = [event async for event in tool.astream_events({"n": 4}, version="v2")]
    (outer,) = [e for e in events if e["event"] == "on_tool_start" and e["name"] == "double_it"]
    (graph,) = [e for e in events if e["event"] == "on_chain_start" and e["name"] == "double it"]
    assert outer["run_id"] in graph["parent_ids"]
    assert {"a", "b"} <= {e["name"] for e in events if e["event"] == "on_chain_start"}


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
