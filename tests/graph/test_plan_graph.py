"""A plan's graph in an application: it means what the plan says, and runs as any graph."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from operator import add
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

import fractale
from fractale import Dependencies, RunContext, compile_plan, initial_state
from fractale.errors import InputError
from fractale.graph.plan_graph import RunSetup
from fractale.models import Models
from fractale.plan.model import Limits
from fractale.settings import Settings
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.replies import Reply

THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}

CHAIN = """
name: chain
inputs:
  nodes: {type: integer, default: 3, maximum: 10, description: How many}
limits: {steps: 3}
outputs: {nodes: "{{ steps.d.outputs.n }}"}
steps:
  - {name: a, tool: count, inputs: {n: "{{ inputs.nodes }}"}}
  - {name: b, tool: count, inputs: {n: "{{ steps.a.outputs.n }}"}}
  - {name: c, tool: count, inputs: {n: "{{ steps.b.outputs.n }}"}}
  - {name: d, tool: count, inputs: {n: "{{ steps.c.outputs.n }}"}}
"""
MORE = {"limits": {"steps": 20}}

SECRET = """
name: secret
inputs: {token: {type: string, secret: true}, who: me}
outputs: {said: "{{ steps.b.outputs.said }}"}
steps:
  - {name: a, tool: echo, inputs: {text: "{{ inputs.token }} of {{ inputs.who }}"}}
  - {name: b, tool: echo, inputs: {text: "{{ inputs.token }} again"}, approve: always}
"""
HUNTER = "hunter2-is-secret"


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def count(n: int) -> dict:
        """Add one."""
        return {"n": n + 1}

    @server.tool
    def echo(text: str) -> dict:
        """Say it."""
        return {"said": text, "returncode": 0}

    @server.tool
    def fail() -> dict:
        """Fail."""
        return {"returncode": 1}

    return server


def builder(text: str, tools: FakeToolServer, **more: Any):
    return compile_plan(fractale.load(text), Dependencies(toolbox=tools, **more))


def numbers(tools: FakeToolServer) -> list[int]:
    return [call.arguments["n"] for call in tools.calls]


# -- inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "first"),
    [({}, 3), ({"nodes": 4}, 4), (initial_state({}), 3), (initial_state({"nodes": 5}), 5)],
    ids=["defaults", "plain", "state with defaults", "state"],
)
@pytest.mark.parametrize("context", [None, RunContext()], ids=["no context", "run context"])
async def test_input_is_the_plans_inputs_with_their_defaults(tools, given, first, context):
    graph = builder(CHAIN.replace("steps: 3", "steps: 9"), tools).compile()
    after = await graph.ainvoke(given, context=context)
    assert after == {"status": "success", "outputs": {"nodes": first + 4}, "error": None}
    assert numbers(tools)[0] == first


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nodes": "x"}, "must be of type integer"),
        ({"nodes": 11}, "at most 10"),
        (initial_state({"nodes": "x"}), "must be of type integer"),
        ({"node": 4}, "no input `node`; did you mean `nodes`"),
        ({"inputs": {"node": 4}}, "no input `node`"),
        ([4], "is a mapping of its inputs"),
    ],
    ids=repr,
)
async def test_a_wrong_input_is_an_error_before_anything_runs(tools, given, words):
    graph = builder(CHAIN, tools).compile()
    with pytest.raises(InputError, match=words):
        await graph.ainvoke(given)
    assert tools.calls == []


async def test_a_plan_may_have_an_input_called_inputs(tools):
    text = "name: p\ninputs: {inputs: {type: object}}\noutputs: {all: '{{ inputs.inputs }}'}\n"
    graph = builder(text + "steps: [{name: s, tool: echo, inputs: {text: a}}]", tools).compile()
    for given in ({"inputs": {"a": 1}}, initial_state({"inputs": {"a": 1}})):
        assert (await graph.ainvoke(given))["outputs"] == {"all": {"a": 1}}


async def test_the_schemas_are_forms_of_json(tools):
    graph = builder(CHAIN, tools).compile()
    schema = graph.get_input_jsonschema()
    assert schema["properties"]["nodes"] == {
        "title": "nodes", "type": "integer", "default": 3, "maximum": 10, "description": "How many",
    }  # fmt: skip
    assert set(graph.get_output_jsonschema()["properties"]) == {"status", "outputs", "error"}
    assert set(graph.get_context_jsonschema()["properties"]) == {"secrets", "limits", "yes"}
    assert set(graph.get_input_schema().model_fields) == {"nodes"}
    assert graph.get_name() == "chain"
    assert (await graph.with_config(tags=["x"]).ainvoke({}, context=MORE))["status"] == "success"


# -- limits and ends -------------------------------------------------------------------------------


async def test_a_limit_is_a_status_and_a_higher_one_continues_without_redoing(tools):
    graph = builder(CHAIN, tools).compile(checkpointer=InMemorySaver())
    after = await graph.ainvoke({}, THREAD)
    assert (after["status"], after["outputs"]) == ("limit", {})
    assert "entered 3 steps, its limit" in after["error"]
    assert (await graph.aget_state(THREAD)).next == ("d",)
    assert (await graph.ainvoke(None, THREAD))["status"] == "limit"
    after = await graph.ainvoke(None, THREAD, context=MORE)
    assert after == {"status": "success", "outputs": {"nodes": 7}, "error": None}
    assert numbers(tools) == [3, 4, 5, 6]
    assert (await graph.aget_state(THREAD)).values["spent"]["steps"] == 4


async def test_steps_inside_steps_still_count_when_a_run_is_continued(tools):
    text = """
name: blocks
limits: {steps: 3}
steps:
  - name: block
    parallel: [{name: x, tool: count, inputs: {n: 1}}, {name: y, tool: count, inputs: {n: 2}}]
  - {name: b, tool: count, inputs: {n: 5}}
"""
    graph = builder(text, tools).compile(checkpointer=InMemorySaver())
    for _ in range(3):
        assert (await graph.ainvoke(None if tools.calls else {}, THREAD))["status"] == "limit"
    assert len(tools.calls) == 2
    assert (await graph.ainvoke(None, THREAD, context=MORE))["status"] == "success"


async def test_a_context_tightens_limits_too_and_a_run_context_has_the_plans(tools):
    graph = builder(CHAIN, tools).compile()
    after = await graph.ainvoke({}, context={"limits": {"steps": 1, "time": "2h"}})
    assert (after["status"], len(tools.calls)) == ("limit", 1)
    after = await graph.ainvoke({}, context=RunContext())
    assert (after["status"], len(tools.calls)) == ("limit", 4)


async def test_tokens_are_limited(tools):
    text = "name: p\nlimits: {tokens: 5}\nsteps:\n" + "".join(
        f"  - {{name: s{i}, agent: , instruction: hi, tools: []}}\n" for i in range(4)
    )
    model = ScriptedModel([Reply(text="hi", input_tokens=3, output_tokens=1)] * 4)

    graph = builder(text, tools, models=Models(Settings(), given=model)).compile()
    after = await graph.ainvoke({})
    assert (after["status"], len(model.requests)) == ("limit", 2)


@pytest.mark.parametrize(
    "context",
    [
        {"limits": {"step": 3}},
        {"limits": {"steps": 0}},
        {"limit": {"steps": 3}},
        {"secrets": {"a": "b"}},
        [],
        "x",
    ],
    ids=repr,
)
async def test_a_wrong_context_is_an_error(tools, context):
    with pytest.raises(InputError):
        await builder(CHAIN, tools).compile().ainvoke({}, context=context)


LOOP = """
name: loop
steps:
  - {name: s, tool: fail, max_attempts: 2, transitions: {failure: s}}
"""


@pytest.mark.parametrize("mode", ["values", "updates", ["values", "updates"]])
@pytest.mark.parametrize("subgraphs", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_attempts_that_are_used_up_are_a_status(tools, mode, subgraphs, version):
    graph = builder(LOOP, tools).compile(checkpointer=InMemorySaver())
    after = await graph.ainvoke({}, {"configurable": {"thread_id": "1"}})
    assert (after["status"], after["outputs"]) == ("failed", None)
    assert after["error"] == "step `s` was entered 2 times, its limit"
    chunks = [
        chunk
        async for chunk in graph.astream(
            {}, THREAD, stream_mode=mode, subgraphs=subgraphs, version=version
        )
    ]
    assert type(chunks[-1]) is type(chunks[0])
    assert len(chunks[-1]) == len(chunks[0])
    assert "2 times, its limit" in repr(chunks[-1])


async def test_a_plan_that_failed_is_a_status(tools):
    graph = builder("name: p\nsteps: [{name: s, tool: fail}]", tools).compile()
    after = await graph.ainvoke({})
    assert (after["status"], after["error"]) == ("failed", "returncode is 1")


async def test_each_input_on_a_thread_begins_a_run_of_its_own(tools):
    text = "name: p\nsteps: [{name: s, tool: fail, rules: {failure: [attempts >= 2]}}]\n"
    graph = builder(text, tools).compile(checkpointer=InMemorySaver())
    for _ in range(3):
        await graph.ainvoke({}, THREAD)
        values = (await graph.aget_state(THREAD)).values
        assert values["steps"]["s"]["attempts"] == 1
        assert values["spent"]["steps"] == 1


# -- secrets ---------------------------------------------------------------------------------------


class Stored:
    """Everything that a saver stores, as bytes."""

    def __init__(self, tmp_path) -> None:
        self._path = tmp_path / "checkpoints.sqlite"
        self._memory = InMemorySaver()

    @asynccontextmanager
    async def saver(self, kind: str):
        if kind == "memory":
            yield self._memory
        else:
            async with AsyncSqliteSaver.from_conn_string(str(self._path)) as saver:
                yield saver

    def data(self, kind: str) -> bytes:
        if kind == "memory":
            memory = self._memory
            return repr((dict(memory.storage), dict(memory.writes), dict(memory.blobs))).encode()
        with sqlite3.connect(self._path) as db:
            db.execute("pragma wal_checkpoint(truncate)")
        return self._path.read_bytes()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("given", "context"),
    [
        ({"token": HUNTER}, None),
        (initial_state({"token": HUNTER}), None),
        ({}, {"secrets": {"token": HUNTER}}),
        ({"who": f"the one with {HUNTER}"}, {"secrets": {"token": HUNTER}}),
    ],
    ids=["input", "state", "context", "in another input"],
)
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_no_checkpoint_has_a_secret(tools, tmp_path, kind, given, context, durability):
    stored = Stored(tmp_path)
    async with stored.saver(kind) as saver:
        graph = builder(SECRET, tools).compile(checkpointer=saver)
        first = await graph.ainvoke(given, THREAD, context=context, durability=durability)
        assert HUNTER not in repr(first)
        with pytest.raises(InputError, match="secret input `token` is missing"):
            await graph.ainvoke(Command(resume="yes"), THREAD)
        context = {"secrets": {"token": HUNTER}}
        after = await graph.ainvoke(
            Command(resume="yes"), THREAD, context=context, durability=durability
        )
    assert after["outputs"] == {"said": "*** again"}
    assert tools.calls[1].arguments == {"text": f"{HUNTER} again"}
    data = stored.data(kind)
    assert b"of me" in data or b"the one with" in data, "the state is there"
    assert HUNTER.encode() not in data


# -- streams and sync ------------------------------------------------------------------------------


async def test_events_are_the_custom_stream(tools):
    graph = builder(CHAIN, tools).compile()
    chunks = [chunk async for chunk in graph.astream({}, stream_mode="custom", context=MORE)]
    kinds = [chunk["event"] for chunk in chunks]
    assert kinds[:4] == ["step_started", "tool_started", "tool_finished", "step_finished"]
    assert len(kinds) == 16


@pytest.mark.parametrize("kind", ["none", "memory", "sqlite"])
def test_sync_invoke_and_stream_work_with_savers_of_sync_applications(tools, tmp_path, kind):
    def run(saver: Any) -> None:
        graph = builder(CHAIN, tools).compile(checkpointer=saver)
        after = graph.invoke({"nodes": 1}, THREAD)
        assert after["status"] == "limit"
        if saver is not None:
            after = graph.invoke(None, THREAD, context=MORE)
            assert (after["status"], numbers(tools)) == ("success", [1, 2, 3, 4])
            assert graph.get_state(THREAD).values["status"] == "success"
        updates = graph.stream({}, THREAD, stream_mode="updates", context=MORE)
        assert [*next(updates)] == ["a"]
        assert [name for update in updates for name in update] == ["b", "c", "d"]

    if kind == "sqlite":
        with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
            run(saver)
    else:
        run(InMemorySaver() if kind == "memory" else None)


async def test_sync_calls_on_a_loop_say_what_to_use(tools):
    with pytest.raises(RuntimeError, match="use `ainvoke` or `astream`"):
        builder(CHAIN, tools).compile().invoke({})


# -- in other graphs -------------------------------------------------------------------------------


class Own(TypedDict, total=False):
    nodes: int
    status: str
    outputs: dict
    spent: Annotated[int, add]
    steps: list
    seen: Annotated[list, add]


async def test_a_plan_is_a_node_of_a_graph_with_a_state_of_its_own(tools):
    plan = builder(CHAIN.replace("steps: 3", "steps: 4"), tools).compile()
    own = StateGraph(Own)
    own.add_node("first", plan)
    own.add_node("again", lambda s: {"nodes": s["outputs"]["nodes"], "seen": [s["status"]]})
    own.add_node("second", plan)
    own.add_edge(START, "first")
    own.add_edge("first", "again")
    own.add_edge("again", "second")
    own.add_edge("second", END)
    graph = own.compile(checkpointer=InMemorySaver())
    after = await graph.ainvoke({"nodes": 1, "spent": 5}, THREAD)
    assert after["outputs"] == {"nodes": 9}
    assert (after["spent"], after["seen"]) == (5, ["success"])
    assert graph.get_graph(xray=True).draw_mermaid()
    assert graph.get_input_jsonschema()


async def test_a_node_waits_for_its_answer_and_keeps_its_limits(tools):
    text = SECRET.replace("name: secret\n", "name: secret\nlimits: {steps: 2}\n")

    class State(TypedDict, total=False):
        token: str
        status: str
        error: str
        outputs: dict

    own = StateGraph(State)
    own.add_node("plan", builder(text, tools).compile())
    own.add_edge(START, "plan")
    graph = own.compile(checkpointer=InMemorySaver())
    waiting = await graph.ainvoke({"token": HUNTER}, THREAD)
    (interrupt,) = waiting["__interrupt__"]
    assert interrupt.value["kind"] == "approval"
    after = await graph.ainvoke(Command(resume={interrupt.id: True}), THREAD)
    assert after["outputs"] == {"said": "*** again"}
    assert len(tools.calls) == 2


async def test_limits_that_all_runs_of_a_graph_have(tools):

    events: list[str] = []
    setup = RunSetup(limits=Limits(steps=2), on_event=lambda event: events.append(event.kind))
    deps = Dependencies(toolbox=tools)
    graph = compile_plan(fractale.load(CHAIN), deps, setup=setup).compile()
    assert (await graph.ainvoke({}))["status"] == "limit"
    assert events.count("step_finished") == 2


async def test_yes_agrees_to_what_yes_covers_and_says_so(tools):
    graph = builder(SECRET, tools).compile(checkpointer=InMemorySaver())
    context: Any = {"yes": True, "secrets": {"token": HUNTER}}
    chunks = [c async for c in graph.astream({}, THREAD, context=context, stream_mode="custom")]
    (answered,) = [chunk for chunk in chunks if chunk["event"] == "answered"]
    assert (answered["by"], answered["answer"], answered["step"]) == ("yes", True, "b")
    assert HUNTER not in repr(chunks)
    assert len(tools.calls) == 2


async def test_a_listener_that_raises_cuts_off_no_call_and_is_an_error():
    calls: list[int] = []

    def count(n: int) -> dict[str, int]:
        """Count."""
        calls.append(n)
        return {"n": n}

    def listen(event: Any) -> None:
        if event.kind == "tool_finished":
            raise ValueError("full disk")

    text = "name: p\nsteps:\n" + "".join(
        f"  - {{name: {name}, tool: count, inputs: {{n: {n}}}}}\n"
        for n, name in ((1, "a"), (2, "b"))
    )
    plan = fractale.plan_graph(
        text, tools=[count], settings=Settings(), on_event=listen, checkpointer=InMemorySaver()
    )
    thread: dict[str, Any] = {"configurable": {"thread_id": "1"}}
    with pytest.raises(fractale.ListenerError, match="full disk"):
        await plan.ainvoke({}, thread)
    assert calls == [1, 2]
    assert (await plan.aget_state(thread)).values["status"] == "success"


@pytest.mark.parametrize("yes", ["no", "false", 0, [False], None])
async def test_only_true_approves_beforehand(yes):
    text = "name: p\nsteps: [{name: a, tool: count, approve: always}]"
    with pytest.raises(fractale.UsageError, match="`yes` cannot be"):
        fractale.plan_graph(text, settings=Settings(), yes=yes)
    with pytest.raises(fractale.UsageError, match="`yes` cannot be"):
        await fractale.arun(text, settings=Settings(), yes=yes)


async def test_a_plan_s_graph_continues_from_its_first_checkpoint():
    def count(n: int) -> dict[str, int]:
        """Count."""
        return {"n": n}

    text = "name: p\nsteps: [{name: a, tool: count, inputs: {n: 1}}]"
    plan = fractale.plan_graph(
        text, tools=[count], settings=Settings(), checkpointer=InMemorySaver()
    )
    thread: dict[str, Any] = {"configurable": {"thread_id": "1"}}
    await plan.ainvoke({}, thread)
    first = [state async for state in plan.aget_state_history(thread)][-1]
    assert first.next == ("__start__",)
    assert (await plan.ainvoke(None, first.config))["status"] == "success"


async def test_a_command_of_a_plain_function_is_an_error():
    def leaves() -> Any:
        """Leave."""
        return Command(goto="__end__")

    text = "name: p\nsteps: [{name: a, tool: leaves}]"
    after = await fractale.plan_graph(text, tools=[leaves], settings=Settings()).ainvoke({})
    assert after["status"] == "failed"
    assert "Command" in after["error"]
