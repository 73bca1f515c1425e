"""Tools from Python run as part of their node: its config, its state, its callbacks, its pauses."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.tools import InjectedState, InjectedStore, ToolRuntime, tool
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import InjectedToolCallId
from langchain_mcp_adapters.client import MultiServerMCPClient
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.errors import GraphInterrupt
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt
from mcp import types
from pydantic import BaseModel, field_validator
from typing_extensions import TypedDict

import fractale
from fractale.agents.subagent import Subagent
from fractale.errors import AnswerError
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies
from fractale.graph.state import initial_state
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.models import Models
from fractale.plan.build import parse_plan
from fractale.questions import Answers
from fractale.record.recordings import open_recording
from fractale.registry import build_server
from fractale.replaying.replay import replay
from fractale.runs import RunOptions, Workspace
from fractale.settings import Settings
from fractale.testing import FakeToolServer, Reply, ScriptedModel
from replays import trusting
from servers.running import FOLDER, stdio

ONE = "name: p\nsteps: [{name: s, tool: t}]\noutputs: {all: '{{ steps.s.outputs }}'}\n"
AGENT = "name: p\nsteps: [{name: s, type: agent, instruction: Do it., tools: [t]}]\n"
TOOLS_SERVER = FOLDER / "tools_server.py"
CALLS_T = Reply(tool_calls=[("t", {})])


@asynccontextmanager
async def compiled(text: str, *tools: Any, model: Any = None, **options: Any):
    server = build_server([], functions=tools)
    async with McpToolbox([EmbeddedServer(server=server)]) as box:
        models = Models(Settings(), given=model)
        builder = compile_plan(parse_plan(text), Dependencies(toolbox=box, models=models))
        yield builder.compile(checkpointer=InMemorySaver(), **options)


def thread(**more: Any) -> Any:
    return {"configurable": {"thread_id": "t", **more}}


async def outputs_of(graph: Any, config: Any | None = None) -> Any:
    state = await graph.ainvoke(initial_state({}), config or thread())
    assert state["status"] == "success", state.get("error")
    return await recorded(graph)


async def recorded(graph: Any) -> Any:
    """The outputs of the step in the state of the run."""
    return (await graph.aget_state(thread())).values["steps"]["s"]["outputs"]


# -- config, state, store -------------------------------------------------------------------------


def t_function(config: RunnableConfig) -> dict:
    return {"user": config["configurable"]["user"], "tags": config["tags"]}


async def t_global() -> dict:
    config = get_config()
    return {"user": config["configurable"]["user"], "tags": config["tags"]}


def named(function: Any) -> Any:
    function.__name__ = "t"
    return function


def as_tool(function: Any) -> Any:
    return tool("t", description="A tool.")(function)


@pytest.mark.parametrize("make", [named, as_tool])
@pytest.mark.parametrize("function", [t_function, t_global])
async def test_the_config_of_the_run_reaches_a_tool(make, function):
    async with compiled(ONE, make(function)) as graph:
        found = await outputs_of(graph, {**thread(user="ada"), "tags": ["night"]})
    assert found["user"] == "ada"
    assert "night" in found["tags"]


@pytest.mark.parametrize("make", [named, as_tool])
async def test_a_tool_sees_the_state_the_store_and_the_runtime(make):
    store = InMemoryStore()

    async def t(
        x: int,
        runtime: ToolRuntime,
        steps: Annotated[dict, InjectedState("steps")],
        kept: Annotated[Any, InjectedStore()],
        call: Annotated[str, InjectedToolCallId],
    ) -> dict:
        """A tool."""
        await kept.aput(("all",), "x", {"value": x})
        runtime.stream_writer({"x": x})
        assert runtime.tool_call_id == call
        return {"same": runtime.store is kept, "earlier": sorted(steps), "x": x}

    plan = "name: p\nsteps: [{name: a, tool: one}, {name: s, tool: t, inputs: {x: 3}}]\n"

    def one() -> int:
        return 1

    async with compiled(plan, one, make(t), store=store) as graph:
        stream = graph.astream(initial_state({}), thread(), stream_mode="custom")
        chunks = [chunk async for chunk in stream]
        found = await recorded(graph)
    assert found == {"same": True, "earlier": ["a"], "x": 3}
    assert {"x": 3} in chunks
    assert store.get(("all",), "x").value == {"value": 3}


async def test_what_the_run_sets_is_no_argument_of_the_tool():
    def t(x: int, runtime: ToolRuntime, config: RunnableConfig | None = None) -> int:
        return x

    async with McpToolbox([EmbeddedServer(server=build_server([], functions=[t]))]) as box:
        (info,) = await box.tools()
        outside = await box.call_tool("t", {"x": 1})
    assert list(info.input_schema["properties"]) == ["x"]
    assert outside.is_error
    assert "only a run of a plan" in outside.text


async def test_the_tool_of_an_agent_sees_the_agents_conversation():
    def t(runtime: ToolRuntime) -> dict:
        said = [each.type for each in runtime.state["messages"]]
        return {"said": said, "id": runtime.tool_call_id}

    model = ScriptedModel([CALLS_T, "done"])
    t.metadata = {"readOnlyHint": True}
    async with compiled(AGENT, t, model=model) as graph:
        state = await graph.ainvoke(initial_state({}), thread())
    assert state["status"] == "success", state.get("error")
    (answer,) = [m for m in model.requests[-1] if isinstance(m, ToolMessage)]
    assert answer.artifact["said"] == ["human", "ai"]
    assert answer.artifact["id"] == answer.tool_call_id


# -- pauses ---------------------------------------------------------------------------------------


class Asking(TypedDict):
    name: str


def inner_graph() -> Any:
    def ask(state: Asking) -> Asking:
        return {"name": interrupt({"question": "Name?"})}

    builder = StateGraph(Asking)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile()


def asks_itself(log: list[str]) -> Any:
    def t() -> dict:
        log.append("called")
        return {"name": interrupt({"question": "Name?"})}

    return t


def asks_by_graph(log: list[str]) -> Any:
    graph = inner_graph()

    async def t() -> dict:
        log.append("called")
        return await graph.ainvoke({"name": ""})

    return t


def asks_by_sync_graph(log: list[str]) -> Any:
    graph = inner_graph()

    def t() -> dict:
        log.append("called")
        return graph.invoke({"name": ""})

    return t


def asks_as_tool(log: list[str]) -> Any:
    graph = inner_graph()
    return graph.as_tool(name="t", description="Asks.", arg_types={"name": str})


ASKING = [asks_itself, asks_by_graph, asks_by_sync_graph, asks_as_tool]


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("make", ASKING)
async def test_an_interrupt_in_a_tool_is_a_question_of_the_run(make, by_id):
    plan = ONE.replace("tool: t", "tool: t, inputs: {name: x}") if make is asks_as_tool else ONE
    log: list[str] = []
    async with compiled(plan, make(log)) as graph:
        paused = await graph.ainvoke(initial_state({}), thread())
        (asked,) = paused["__interrupt__"]
        assert asked.value["kind"] == "interrupt"
        assert (asked.value["step"], asked.value["tool"]) == ("s", "t")
        assert asked.value["value"] == {"question": "Name?"}
        given = {asked.id: "Ada"} if by_id else "Ada"
        state = await graph.ainvoke(Command(resume=given), thread())
        assert state["status"] == "success", state.get("error")
        assert await recorded(graph) == {"name": "Ada"}


@pytest.mark.parametrize("make", ASKING[:2])
async def test_an_interrupt_in_the_tool_of_an_agent_pauses_the_run(make):
    t = make([])
    t.metadata = {"readOnlyHint": True}
    model = ScriptedModel([CALLS_T, "done"])
    async with compiled(AGENT, t, model=model) as graph:
        paused = await graph.ainvoke(initial_state({}), thread())
        (asked,) = paused["__interrupt__"]
        assert asked.value["value"] == {"question": "Name?"}
        state = await graph.ainvoke(Command(resume="Ada"), thread())
    assert state["status"] == "success", state.get("error")
    assert "Ada" in model.requests[-1][-1].text


async def test_a_fake_tool_asks_by_interrupt_too():
    tools = FakeToolServer()

    @tools.tool
    def t() -> dict:
        return {"name": interrupt("Name?")}

    graph = compile_plan(parse_plan(ONE), Dependencies(toolbox=tools)).compile(
        checkpointer=InMemorySaver()
    )
    paused = await graph.ainvoke(initial_state({}), thread())
    assert paused["__interrupt__"][0].value["value"] == "Name?"
    await graph.ainvoke(Command(resume="Ada"), thread())
    assert await recorded(graph) == {"name": "Ada"}


async def test_the_state_of_a_graph_that_stopped_at_a_question_is_no_answer():
    def t() -> dict:
        return {"__interrupt__": ["Name?"]}

    async with compiled(ONE, t) as graph:
        state = await graph.ainvoke(initial_state({}), thread())
    assert state["status"] == "failed"
    assert "stopped at an interrupt" in state["error"]


# -- commands -------------------------------------------------------------------------------------


def command(**more: Any) -> Any:
    @tool("t", description="A tool.")
    def t(call: Annotated[str, InjectedToolCallId]) -> Command:
        said = [ToolMessage("ran 3 cases", tool_call_id=call), HumanMessage("look at case 2")]
        return Command(update={"messages": said, "cases": 3}, **more)

    return t


async def test_the_update_of_a_command_is_the_answer():
    async with compiled(ONE, command()) as graph:
        found = await outputs_of(graph)
    assert found == {"cases": 3}


async def test_a_command_in_an_agent_loses_nothing():
    t = command()
    t.metadata = {"readOnlyHint": True}
    model = ScriptedModel([CALLS_T, "done"])
    async with compiled(AGENT, t, model=model) as graph:
        await graph.ainvoke(initial_state({}), thread())
    answer = model.requests[-1][-1]
    assert "ran 3 cases" in answer.text
    assert "look at case 2" in answer.text
    assert answer.artifact == {"cases": 3}


@pytest.mark.parametrize("more", [{"goto": "b"}, {"goto": "b", "graph": Command.PARENT}])
async def test_a_command_cannot_choose_the_next_step(more):
    async with compiled(ONE, command(**more)) as graph:
        state = await graph.ainvoke(initial_state({}), thread())
    assert state["status"] == "failed"
    assert "cannot choose a plan's next step" in state["error"]


# -- traces ---------------------------------------------------------------------------------------


class Recorder(AsyncCallbackHandler):
    """Keeps every run: name, kind and parent by id, and the order of starts and ends."""

    def __init__(self) -> None:
        self.runs: dict[Any, dict[str, Any]] = {}

    def _start(self, kind: str, name: str, run_id: Any, parent: Any, **more: Any) -> None:
        self.runs[run_id] = {"kind": kind, "name": name, "parent": parent, **more}

    async def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kwargs):
        self._start("chain", kwargs.get("name"), run_id, parent_run_id)

    async def on_chat_model_start(self, serialized, messages, *, run_id, parent_run_id=None, **k):
        self._start("model", k.get("name"), run_id, parent_run_id)

    async def on_tool_start(self, serialized, input_str, *, run_id, parent_run_id=None, **kwargs):
        self._start(
            "tool",
            serialized["name"],
            run_id,
            parent_run_id,
            inputs=kwargs.get("inputs"),
            metadata=kwargs.get("metadata"),
        )

    async def on_tool_end(self, output, *, run_id, **kwargs):
        self.runs[run_id]["output"] = output

    async def on_tool_error(self, error, *, run_id, **kwargs):
        self.runs[run_id]["error"] = error

    @property
    def tools(self) -> list[dict[str, Any]]:
        return [run for run in self.runs.values() if run["kind"] == "tool"]

    def above(self, run: dict[str, Any]) -> list[str]:
        """The names of a run's ancestors, the nearest first."""
        found = []
        while run["parent"] is not None:
            run = self.runs[run["parent"]]
            found.append(run["name"])
        return found


async def test_every_call_is_a_tool_run_of_one_trace():
    inner = inner_chain()

    def plain(x: int) -> int:
        return inner.invoke(x)

    @tool
    async def langchains(x: int) -> int:
        """A LangChain tool."""
        return await inner.ainvoke(x)

    def bad() -> None:
        raise ValueError("broken")

    plan = """
        name: p
        steps:
          - {name: a, tool: plain, inputs: {x: 1}}
          - {name: b, tool: langchains, inputs: {x: 2}}
          - {name: c, type: agent, instruction: Do it., tools: [plain, ask_person]}
          - {name: d, tool: bad, transitions: {failure: success}}
    """
    plain.metadata = {"readOnlyHint": True}
    model = ScriptedModel([Reply(tool_calls=[("plain", {"x": 3})]), "done"])
    seen = Recorder()
    async with compiled(textwrap.dedent(plan), plain, langchains, bad, model=model) as graph:
        state = await graph.ainvoke(initial_state({}), {**thread(), "callbacks": [seen]})
    assert state["status"] == "success", state.get("error")
    roots = [run for run in seen.runs.values() if run["parent"] is None]
    assert len(roots) == 1
    assert [run["name"] for run in seen.tools] == ["plain", "langchains", "plain", "bad"]
    assert [seen.above(run)[0] for run in seen.tools] == ["a", "b", "tools", "d"]
    assert "c" in seen.above(seen.tools[2])
    steps = [run["metadata"]["fractale_step"] for run in seen.tools]
    assert steps == ["a", "b", "c", "d"]
    inside = [seen.above(run)[0] for run in seen.runs.values() if run["name"] == "double"]
    assert inside == ["plain", "langchains", "plain"]
    assert [run["inputs"] for run in seen.tools] == [{"x": 1}, {"x": 2}, {"x": 3}, {}]
    assert isinstance(seen.tools[0]["output"], ToolMessage)
    assert "broken" in str(seen.tools[3]["error"])


def inner_chain() -> Any:
    return RunnableLambda(lambda x: 2 * x, name="double")


async def test_the_calls_of_a_servers_tools_are_tool_runs_too():
    seen = Recorder()
    plan = "name: p\nsteps: [{name: s, tool: rest, inputs: {seconds: 0.01}}]\n"
    async with McpToolbox([stdio("asking", "asking_server.py")]) as box:
        builder = compile_plan(parse_plan(plan), Dependencies(toolbox=box))
        graph = builder.compile()
        state = await graph.ainvoke(initial_state({}), {"callbacks": [seen]})
    assert state["status"] == "success", state.get("error")
    (run,) = seen.tools
    assert (run["name"], seen.above(run)) == ("rest", ["s", "p"])
    assert run["metadata"]["fractale_server"] == "asking"
    assert run["output"].content == "rested"


@pytest.mark.parametrize("make", [named, as_tool])
async def test_a_secret_argument_is_masked_in_a_tool_run(make):
    def t(password: str) -> str:
        return f"in as {password}"

    plan = """
        name: p
        inputs: {word: {secret: true}}
        steps: [{name: s, tool: t, inputs: {password: '{{ inputs.word }}'}}]
    """
    seen = Recorder()
    async with compiled(textwrap.dedent(plan), make(t)) as graph:
        config = {**thread(), "callbacks": [seen]}
        state = await graph.ainvoke({}, config, context={"secrets": {"word": "hunter2!"}})
    assert state["status"] == "success", state.get("error")
    (run,) = seen.tools
    assert run["inputs"] == {"password": "***"}
    assert "hunter2!" not in repr(seen.runs)


async def test_the_events_of_a_graph_show_its_steps_tools_and_tokens():
    def plain(x: int) -> int:
        return 2 * x

    plain.metadata = {"readOnlyHint": True}
    model = ScriptedModel([Reply(tool_calls=[("plain", {"x": 3})]), "all done"])
    plan = AGENT.replace("[t]", "[plain]")
    async with compiled(plan, plain, model=model) as graph:
        events = [e async for e in graph.astream_events(initial_state({}), thread(), version="v2")]
    kinds = {(e["event"], e["name"]) for e in events}
    assert {("on_tool_start", "plain"), ("on_tool_end", "plain"), ("on_chain_start", "s")} <= kinds
    assert any(e["event"] == "on_chat_model_stream" for e in events)


async def test_the_messages_of_a_graph_name_their_step():
    model = ScriptedModel(["all done"])
    async with compiled(AGENT.replace(", tools: [t]", ""), model=model) as graph:
        stream = graph.astream(initial_state({}), thread(), stream_mode="messages", subgraphs=True)
        found = [part async for _, part in stream]
    assert "".join(message.text for message, _ in found) == "all done"
    assert all("s" in str(metadata["langgraph_checkpoint_ns"]) for _, metadata in found)


# -- what a tool says about itself ----------------------------------------------------------------


@tool(extras={"readOnlyHint": True})
def by_extras() -> str:
    """A tool."""
    return "x"


def by_metadata() -> Any:
    made = as_tool(lambda: "x")
    made.metadata = {"readOnlyHint": True, "title": None, "idempotentHint": None}
    return made


def by_attribute() -> Any:
    def t() -> str:
        return "x"

    t.annotations = types.ToolAnnotations(readOnlyHint=True)
    return t


@pytest.mark.parametrize("make", [lambda: by_extras, by_metadata, by_attribute])
async def test_a_tool_from_python_can_say_that_it_only_reads(run_plan, make):
    found = make()
    name = getattr(found, "name", None) or found.__name__
    model = ScriptedModel([Reply(tool_calls=[(name, {})]), "done"])
    seen = await run_plan(AGENT.replace("[t]", f"[{name}]"), tools=[found], model=model)
    assert seen.result.status == "success"


# -- runs of fractale's own -----------------------------------------------------------------------


@pytest.mark.parametrize("make", ASKING[:2])
async def test_a_run_waits_for_the_question_of_a_tool(run_plan, make):
    log: list[str] = []
    seen = await run_plan(ONE, tools=[make(log)])
    assert seen.result.status == "waiting"
    (question,) = seen.result.waiting
    assert (question["kind"], question["step"], question["tool"]) == ("interrupt", "s", "t")
    assert question["value"] == {"question": "Name?"}
    answered = await run_plan(ONE, tools=[make(log)], answers={"s": "Ada"})
    assert answered.result.outputs == {"all": {"name": "Ada"}}
    assert answered.of("answered")[0]["answer"] == "Ada"


@pytest.fixture
def kept(settings: Settings) -> Any:
    """Start a recorded run, or resume it in another workspace, as another process would."""

    async def run(tools: Any, plan: str = ONE, resume: str | None = None, **options: Any) -> Any:
        loaded = parse_plan(textwrap.dedent(plan))
        async with Workspace.open(settings, loaded, tools=tools) as workspace:
            given = RunOptions(**options)
            if resume:
                return await workspace.runs.resume(resume, given)
            return await workspace.runs.start(loaded, {}, given)

    return run


@pytest.mark.parametrize("make", ASKING[:2])
async def test_a_recorded_run_continues_with_the_answer(kept, settings, make):
    log: list[str] = []
    first = await kept([make(log)])
    assert first.status == "waiting"
    # The call is not one with an unknown outcome, although it may not be made twice.
    (question,) = first.waiting
    assert question["kind"] == "interrupt"
    again = await kept([make(log)], resume=first.run)
    assert (again.status, again.waiting[0]["kind"]) == ("waiting", "interrupt")
    then = await kept([make(log)], resume=first.run, replies=Answers({"s": "Ada"}))
    assert then.outputs == {"all": {"name": "Ada"}}
    assert len(log) == 2
    with open_recording(then.record, settings=trusting(settings)) as recording:
        replayed = await replay(recording, settings)
    assert replayed.divergence is None, replayed.divergence


async def test_the_questions_of_items_and_blocks_are_asked_at_once(kept):
    def t(x: str) -> dict:
        first = interrupt(f"{x}: name?")
        return {"names": [first, interrupt(f"{x}: other name?")]}

    plan = """
        name: p
        steps:
          - {name: each, tool: t, foreach: [a, b], inputs: {x: '{{ item }}'}}
        outputs: {all: '{{ steps.each.outputs }}'}
    """
    first = await kept([t], plan)
    asked = {each["step"]: each["value"] for each in first.waiting}
    assert asked == {"each[0]": "a: name?", "each[1]": "b: name?"}
    one = {"each[0]": "Ada", "each[1]": "Bob"}
    second = await kept([t], plan, resume=first.run, replies=Answers(one))
    asked = {each["step"]: each["value"] for each in second.waiting}
    assert asked == {"each[0]": "a: other name?", "each[1]": "b: other name?"}
    other = {"each[0]": "Eve", "each[1]": "Max"}
    then = await kept([t], plan, resume=first.run, replies=Answers(other))
    assert then.status == "success", then.error
    names = [each["names"] for each in then.outputs["all"]]
    assert names == [["Ada", "Eve"], ["Bob", "Max"]]


class Size(BaseModel):
    nodes: int


async def test_an_answer_that_does_not_fit_its_schema_can_be_given_again():
    def t() -> dict:
        size = interrupt("How large?", response_schema=Size)
        return {"nodes": size.nodes}

    async with compiled(ONE, t) as graph:
        paused = await graph.ainvoke({}, thread())
        (asked,) = paused["__interrupt__"]
        assert asked.value["schema"]["properties"]["nodes"]["type"] == "integer"
        with pytest.raises(AnswerError, match="nodes"):
            await graph.ainvoke(Command(resume={"nodes": "many"}), thread())
        await graph.ainvoke(Command(resume={"nodes": 4}), thread())
        assert await recorded(graph) == {"nodes": 4}


class Even(BaseModel):
    nodes: int

    @field_validator("nodes")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


class Around(TypedDict, total=False):
    all: dict


@pytest.mark.parametrize("form", ["bare", "id", "bare, then id", "id, then bare"])
@pytest.mark.parametrize("composed", ["alone", "node"])
async def test_a_question_of_a_tool_is_asked_again_if_its_schema_refuses_the_answer(composed, form):
    def t() -> dict:
        size = interrupt("How large?", response_schema=Even)
        word = interrupt("Which word?", response_schema=str)
        return {"nodes": size.nodes, "word": word}

    server = FakeToolServer()
    server.tool(t)
    plan = ONE.replace("tool: t", "tool: t, approve: always")
    builder = compile_plan(parse_plan(plan), Dependencies(toolbox=server))
    graph: Any = builder.compile(checkpointer=InMemorySaver() if composed == "alone" else None)
    if composed == "node":
        outer = StateGraph(Around).add_node("plan", fractale.as_node(graph))
        graph = outer.add_edge(START, "plan").compile(checkpointer=InMemorySaver())
    state = await graph.ainvoke({}, thread())
    for answer, asks, problem in (
        ("yes", "How large?", None),
        ({"nodes": 3}, "How large?", "must be even"),
        ({"nodes": 5}, "How large?", "must be even"),
        ({"nodes": 4}, "Which word?", None),
    ):
        (asked,) = state["__interrupt__"]
        by_id = form == "id" or form.startswith("id") is (answer == "yes")
        resume = {asked.id: answer} if by_id and form != "bare" else answer
        state = await graph.ainvoke(Command(resume=resume), thread())
        (asked,) = state["__interrupt__"]
        assert asked.value["value"] == asks, asked
        assert (problem or "None") in str(asked.value.get("problem"))
    if composed == "node":  # alone, the answer is refused before it is stored
        state = await graph.ainvoke(Command(resume={asked.id: 3}), thread())
        (asked,) = state["__interrupt__"]
        assert "valid string" in asked.value["problem"]
    state = await graph.ainvoke(Command(resume={asked.id: "a"}), thread())
    found = state["outputs"]["all"] if composed == "alone" else state["all"]
    assert found == {"nodes": 4, "word": "a"}


@pytest.mark.parametrize(("approve", "answer"), [("always", True), ("ask", "always")])
async def test_an_approval_and_a_question_of_one_call_are_answered_in_order(approve, answer):
    plan = f"name: p\nsteps: [{{name: s, tool: t, approve: {approve}}}]\n"
    log: list[str] = []
    async with compiled(plan, asks_itself(log)) as graph:
        paused = await graph.ainvoke({}, thread())
        assert paused["__interrupt__"][0].value["kind"] == "approval"
        paused = await graph.ainvoke(Command(resume=answer), thread())
        assert paused["__interrupt__"][0].value["kind"] == "interrupt"
        await graph.ainvoke(Command(resume="Ada"), thread())
        assert await recorded(graph) == {"name": "Ada"}
    assert len(log) == 2


async def test_the_tools_of_a_multi_server_client_keep_what_they_say(run_plan):
    server = {"transport": "stdio", "command": sys.executable, "args": [str(TOOLS_SERVER)]}
    tools = await MultiServerMCPClient({"site": server}).get_tools()
    found = {each.name: each for each in tools}
    plan = """
        name: p
        steps:
          - {name: a, tool: echo, inputs: {value: {deep: [1]}}}
          - {name: b, tool: broken_part, transitions: {failure: success}}
        outputs: {all: '{{ steps.a.outputs }}'}
    """
    seen = Recorder()
    async with compiled(textwrap.dedent(plan), found["echo"], found["broken_part"]) as graph:
        state = await graph.ainvoke({}, {**thread(), "callbacks": [seen]})
    assert state["status"] == "success", state["error"]
    assert state["outputs"] == {"all": {"result": {"deep": [1]}}}
    assert [run["name"] for run in seen.tools] == ["echo", "broken_part"]
    assert [seen.above(run) for run in seen.tools] == [["a", "p"], ["b", "p"]]
    ran = await run_plan(textwrap.dedent(plan), tools=tools)
    assert ran.path == ["a:success", "b:failure"]


async def test_a_tool_may_run_a_plan_that_asks():
    inside = FakeToolServer().answer("rm", {"removed": 3})
    plan = "name: inner\nsteps: [{name: i, tool: rm, approve: always}]\noutputs: {n: 3}\n"
    inner = compile_plan(parse_plan(plan), Dependencies(toolbox=inside)).compile()

    async def t() -> dict:
        return await inner.ainvoke({})

    async with compiled(ONE, t) as graph:
        paused = await graph.ainvoke({}, thread())
        (asked,) = paused["__interrupt__"]
        assert (asked.value["kind"], asked.value["tool"]) == ("approval", "rm")
        assert inside.calls == []
        state = await graph.ainvoke(Command(resume={asked.id: True}), thread())
    assert state["outputs"]["all"]["outputs"] == {"n": 3}
    assert [call.name for call in inside.calls] == ["rm"]


async def test_the_stream_of_tools_has_every_call():
    def t() -> dict:
        return {"n": 3}

    async with compiled(ONE, t) as graph:
        chunks = [chunk async for chunk in graph.astream({}, thread(), stream_mode="tools")]
    assert (chunks[0]["event"], chunks[0]["tool_name"]) == ("tool-started", "t")
    assert chunks[-1]["event"] == "tool-finished"


def test_a_graph_that_is_not_async_asks_the_question_of_a_tool():
    def t() -> dict:
        return {"user": get_config()["configurable"]["user"], "name": interrupt("Name?")}

    tools = FakeToolServer()
    tools.tool(t)
    builder = compile_plan(parse_plan(ONE), Dependencies(toolbox=tools))
    graph = builder.compile(checkpointer=InMemorySaver())
    config = thread(user="ada")
    assert graph.invoke({}, config)["__interrupt__"][0].value["value"] == "Name?"
    state = graph.invoke(Command(resume="Ada"), config)
    assert state["outputs"] == {"all": {"user": "ada", "name": "Ada"}}


async def test_a_plan_graph_opens_its_tools_for_each_run_of_its_own():
    async def t(config: RunnableConfig, kept: Annotated[Any, InjectedStore()]) -> dict:
        await kept.aput(("runs",), config["configurable"]["thread_id"], {"done": True})
        return {"tags": config["tags"]}

    store, seen = InMemoryStore(), Recorder()
    graph = fractale.plan_graph(ONE, tools=[t], store=store, checkpointer=InMemorySaver())

    async def once(number: int) -> Any:
        config = {"configurable": {"thread_id": f"r{number}"}, "tags": [f"tag{number}"]}
        return await graph.ainvoke({}, {**config, "callbacks": [seen]})

    states = await asyncio.gather(*(once(number) for number in range(4)))
    tags = [state["outputs"]["all"]["tags"] for state in states]
    assert all(f"tag{number}" in found for number, found in enumerate(tags))
    assert all(sum("tag" in tag for tag in found) == 1 for found in tags)
    assert sorted(item.key for item in store.search(("runs",))) == ["r0", "r1", "r2", "r3"]
    assert [seen.above(run) for run in seen.tools] == [["s", "p"]] * 4


async def test_what_a_run_from_python_is_given_reaches_its_tools(run_plan):
    def t(config: RunnableConfig, kept: Annotated[Any, InjectedStore()]) -> dict:
        return {"tags": config["tags"], "store": type(kept).__name__}

    seen = Recorder()
    ran = await run_plan(ONE, tools=[t], store=InMemoryStore(), tags=["night"], callbacks=[seen])
    found = ran.result.outputs["all"]
    assert "night" in found["tags"]
    assert found["store"] == "InMemoryStore"
    assert [seen.above(run)[0] for run in seen.tools] == ["s"]


@pytest.mark.parametrize("junk", ["junk", 3, [3]])
@pytest.mark.parametrize("where", ["function", "tool", "fake", "agent", "code"])
async def test_an_interrupt_raised_by_hand_is_a_failure(where, junk):
    def t() -> dict:
        raise GraphInterrupt(junk)

    text, parts = ONE, {}
    if where in ("agent", "code"):
        text = "name: p\nsteps: [{name: s, agent: t, instruction: x}]\n"
    if where == "agent":
        builder = StateGraph(MessagesState).add_node("t", lambda _: t())
        parts["agents"] = {"t": builder.add_edge(START, "t").compile()}
    elif where == "code":

        async def run(arguments: Any, host: Any) -> Any:
            t()

        parts["agents"] = [Subagent(name="t", description="", input_schema={}, run=run)]
    elif where == "fake":
        parts["tools"] = FakeToolServer()
        parts["tools"].tool(t)
    else:
        parts["tools"] = [as_tool(t) if where == "tool" else t]
    done = await fractale.arun(text, settings=Settings(), yes=True, **parts)
    assert done.status == "failed"
    if where != "fake":
        assert "`GraphInterrupt` itself: to ask, call LangGraph's `interrupt(…)`" in done.error


# -- the context of the application ---------------------------------------------------------------


@dataclass
class Mine:
    user: str


@pytest.mark.parametrize("make", [named, as_tool])
@pytest.mark.parametrize("plan", [ONE, AGENT])
@pytest.mark.parametrize("composed", ["alone", "node", "subgraph", "tool"])
async def test_a_tool_sees_the_context_of_the_application(settings, composed, plan, make):
    seen: list[Any] = []

    def t(runtime: ToolRuntime[Any]) -> dict:
        """A tool."""
        seen.append(runtime.context)
        return {"n": 1}

    whole = plan.replace("steps:", "inputs: {key: {secret: true}}\nsteps:")
    replies = ScriptedModel([CALLS_T, "done"])
    options: Any = {"tools": [make(t)], "settings": settings, "yes": True, "model": replies}
    options["secrets"] = {"key": "hunter2"}
    if composed == "alone":
        graph: Any = fractale.plan_graph(whole, **options)
        context: Any = {"limits": {"steps": 9}, "secrets": {"key": "hunter3"}}
        await graph.ainvoke({}, context=context)
        assert seen == [{"limits": {"steps": 9}}]
        return
    if composed == "tool":
        calls = Reply(tool_calls=[("p", {})])
        tool_of_plan = fractale.as_tool(whole, **options)
        graph = create_agent(
            ScriptedModel([calls, "done"]), tools=[tool_of_plan], context_schema=Mine
        )
        given: Any = {"messages": [HumanMessage("Do it.")]}
    else:
        node = (fractale.as_node if composed == "node" else fractale.plan_graph)(whole, **options)
        outer: Any = StateGraph(Around, context_schema=Mine).add_node("plan", node)
        graph, given = outer.add_edge(START, "plan").compile(), {}
    await graph.ainvoke(given, context=Mine("ada"))
    assert seen == [Mine("ada")]
