"""Plans and runs in LangGraph's development server, spoken to as Studio speaks to it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.types import Command
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import APIStatusError
from starlette.exceptions import HTTPException

import forked
from fractale.errors import DependencyMissing, PlanError, UsageError
from fractale.plan.build import load_plan
from fractale.record.plans import plan_hash
from fractale.runs import Extensions
from fractale.settings import load_settings
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecords
from fractale.studio import any_plan, open_saver, prompt_graph, recorded_graph
from fractale.studio.launch import CORS, OPTIONS, Start, prepare
from fractale.studio.runs import RunEnded
from fractale.studio.saver import RunThreads, thread_of_id
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply
from servers.running import exists, free_port

HERE = Path(__file__).parents[2]
PATIENCE = 90.0

TOOLS = '''
import os, time

def note(text: str) -> dict:
    """Note a word."""
    while os.path.exists("hold-" + text):
        open("held-" + text, "w").close()
        time.sleep(0.02)
    with open("noted.txt", "a") as file:
        file.write(text + "\\n")
    return {"noted": text}
'''
REGISTRY = "tools: [{path: studio_tools.note, annotations: {idempotentHint: true}}]\n"
SERVER = """
import asyncio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

server = Server("counted")

@server.list_tools()
async def list_tools():
    hints = types.ToolAnnotations(readOnlyHint=True)
    return [types.Tool(name="look", inputSchema={"type": "object"}, annotations=hints)]

@server.call_tool()
async def call_tool(name, arguments):
    return {"seen": "all"}

async def serve():
    with open("sessions.txt", "a") as file:
        file.write("opened\\n")
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

asyncio.run(serve())
"""
PLANS = {
    "drafted": """
        name: drafted
        servers: []
        inputs: {word: {type: string, default: again, description: The last word.}}
        steps:
          - {name: made, type: plan, instruction: Note two words., tools: [note]}
          - {name: last, tool: note, inputs: {text: "{{ inputs.word }}"}}
        outputs: {said: "{{ steps.last.outputs.noted }}"}
        """,
    "asked": """
        name: asked
        servers: []
        steps:
          - {name: first, tool: note, inputs: {text: first}}
          - {name: second, tool: note, approve: always, inputs: {text: second}}
          - {name: third, tool: note, inputs: {text: "{{ steps.first.outputs.noted }}-third"}}
        outputs: {said: "{{ steps.third.outputs.noted }}"}
        """,
    "slow-one": """
        name: slow
        servers: []
        steps:
          - {name: before, tool: note, inputs: {text: before}}
          - {name: slow, tool: note, inputs: {text: slow}}
        """,
    "looking": """
        name: looking
        servers: [counted]
        steps: [{name: look, tool: look}]
        """,
    "failing": """
        name: failing
        servers: []
        steps:
          - name: never
            tool: note
            inputs: {text: x}
            rules: {failure: [noted == "x"]}
        """,
}
PLANS |= {
    "twice": """
        name: twice
        servers: []
        steps:
          - {name: one, tool: note, approve: always, inputs: {text: one}}
          - {name: two, tool: note, approve: always, inputs: {text: two}}
        """,
    "beside": """
        name: beside
        servers: []
        steps:
          - name: both
            parallel:
              - {name: left, tool: note, approve: always, inputs: {text: left}}
              - {name: right, tool: note, approve: always, inputs: {text: right}}
        """,
    "deep": """
        name: deep
        servers: []
        steps:
          - {name: each, type: plan, instruction: Do it., foreach: [1, 2]}
          - {name: block, parallel: [{name: made, type: plan, instruction: Do it.}]}
          - {name: again, type: plan, instruction: Do it.}
        """,
}
DRAFT = {
    "steps": [
        {"name": "one", "tool": "note", "inputs": {"text": "one"}},
        {"name": "two", "tool": "note", "inputs": {"text": "two"}},
    ]
}


class Studio:
    """A folder with plans, and the development server on them, to be killed and restarted."""

    def __init__(self, folder: Path, model: ModelServer) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "LANG"))}
        self._env |= {"OPENAI_BASE_URL": model.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        self._env |= {"FRACTALE_TRUST_PROJECT": "1"}
        self._env |= {"HOME": str(folder), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        (folder / "studio_tools.py").write_text(TOOLS)
        (folder / "tools.yaml").write_text(REGISTRY)
        (folder / "server.py").write_text(SERVER)
        for name, text in PLANS.items():
            (folder / f"{name}.yaml").write_text(text)
        settings = {"servers": {"counted": {"command": sys.executable, "args": ["server.py"]}}}
        own = folder / ".config" / "fractale"  # a project's servers are confined
        own.mkdir(parents=True)
        (own / "config.yaml").write_text(json.dumps(settings))
        self.client = get_sync_client(url=self.url, timeout=PATIENCE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        plans = [f"{name}.yaml" for name in PLANS]
        words = ["studio", *plans, "-r", "tools.yaml", "--model", "openai:scripted"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "fractale.cli",
                    *words,
                    "--no-browser",
                    "--port",
                    str(self.port),
                ],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(self._is_up, "the server did not start")

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ok", trust_env=False).status_code == 200
        return False

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(60)

    def until(self, condition: Any, otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{otherwise}\n{self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-6000:]

    def fractale(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A call of the command line in the folder, while the server is there."""
        return forked.run(words, cwd=self.folder, env=self._env)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def nodes(self, graph: str, **more: Any) -> set[str]:
        return {str(n["id"]) for n in self.client.assistants.get_graph(graph, **more)["nodes"]}

    def thread(self) -> str:
        return str(self.client.threads.create()["thread_id"])

    def run(self, thread: str, graph: str, given: Any = None, **more: Any) -> list[Any]:
        """The parts of a run's stream, to its end."""
        modes = {"stream_mode": ["updates"], "stream_subgraphs": True, **more}
        return list(self.client.runs.stream(thread, graph, input=given, **modes))

    def answer(self, thread: str, graph: str, answer: Any) -> list[Any]:
        return self.run(thread, graph, command={"resume": answer})

    def state(self, thread: str) -> dict[str, Any]:
        return dict(self.client.threads.get_state(thread, subgraphs=True))

    def waits(self, thread: str) -> list[dict[str, Any]]:
        """What the thread's run asks."""
        return [i["value"] for t in self.state(thread)["tasks"] for i in t["interrupts"]]


def model(request: ModelRequest) -> Reply:
    said = json.dumps(request.body)
    if "Write the steps." in said and "Plan this." in said:
        return Reply(data={"steps": [{"name": "tell", "agent": "ask", "instruction": "Tell."}]})
    if "Write the steps." in said:
        return Reply(data=DRAFT)
    if "Plan this." in said:
        return Reply(tool_calls=[("plan_steps", {"known": "nothing"})])
    return Reply(text="nothing to find out")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with ModelServer(model) as server:
        made = Studio(tmp_path_factory.mktemp("studio"), server)
        made.start()
        try:
            yield made
        finally:
            made.end()


def errors(parts: list[Any]) -> list[str]:
    return [str(part.data.get("message")) for part in parts if part.event == "error"]


def inner(state: dict[str, Any], *names: str) -> dict[str, Any]:
    """The state of the graph inside of the tasks of these names, one in the other."""
    for name in names:
        state = next(task for task in state["tasks"] if task["name"] == name)["state"]
    return state


# -- graphs ---------------------------------------------------------------------------------------


def test_a_plan_is_drawn_with_its_steps_and_says_what_it_takes(studio):
    assert studio.nodes("asked") == {"__start__", "first", "second", "third", "__end__"}
    found = {a["graph_id"]: a["assistant_id"] for a in studio.client.assistants.search()}
    assert set(found) == {"plan", "prompt", *(name.replace("-", "_") for name in PLANS)}
    schemas = studio.client.assistants.get_schemas(found["drafted"])
    assert schemas["input_schema"]["properties"]["word"]["default"] == "again"
    assert (
        "plan"
        in studio.client.assistants.get_schemas(found["plan"])["context_schema"]["properties"]
    )


def test_any_plan_is_drawn_where_an_assistant_names_it(studio):
    text = "name: t\nsteps: [{name: only, tool: note, inputs: {text: a}}]\n"
    made = studio.client.assistants.create("plan", context={"plan": text})
    assert "only" in studio.nodes(made["assistant_id"])
    wrong = studio.client.assistants.create(
        "plan", context={"plan": "name: t\nsteps: [{tol: x}]\n"}
    )
    with pytest.raises(APIStatusError, match="tol"):
        studio.nodes(wrong["assistant_id"])


def test_reading_opens_no_session_of_a_server_and_a_run_one(studio):
    thread = studio.thread()
    studio.nodes("looking", xray=True)
    studio.state(thread)
    assert studio.lines("sessions.txt") == []
    assert not errors(studio.run(thread, "looking", {}))
    assert studio.state(thread)["values"]["status"] == "success"
    studio.client.threads.get_history(thread)
    studio.nodes("looking", xray=True)
    assert studio.lines("sessions.txt") == ["opened"]


# -- a run with a draft, from the first step to the last, with a kill on the way ------------------


def test_a_drafted_run_is_streamed_answered_read_killed_and_ended(studio):
    thread = studio.thread()
    assert "made:run:one" not in studio.nodes("drafted", xray=True)
    parts = studio.run(thread, "drafted", {"word": "end"}, stream_mode=["updates", "custom"])
    told = [part.data["event"] for part in parts if part.event == "custom"]
    assert told[0] == "run_started"
    assert "model_finished" in told
    assert any(part.event.startswith("updates|made:") for part in parts)
    assert [asked["kind"] for asked in studio.waits(thread)] == ["review"]
    assert studio.client.threads.get(thread)["status"] == "interrupted"

    studio.answer(thread, "drafted", "accept")
    (asked,) = studio.waits(thread)
    assert (asked["kind"], asked["step"]) == ("approval", "made/one")
    assert {"made:run:one", "made:run:two"} <= studio.nodes("drafted", xray=True)
    before = studio.state(thread)
    assert inner(before, "made", "run")["next"] == ["one"]

    run = thread.rpartition("-")[2]
    shown = studio.client.assistants.create("plan", context={"run": run})
    assert "made:run:one" in studio.nodes(shown["assistant_id"], xray=True)
    assert run in studio.fractale("runs").stdout
    pid = studio.process.pid
    studio.end(signal.SIGKILL)
    assert not exists(pid)
    studio.start()

    listed = studio.client.threads.search(metadata={"run": run})
    assert [(t["thread_id"], t["metadata"]["graph_id"]) for t in listed] == [(thread, "drafted")]
    after = studio.state(thread)
    assert after == before
    assert {"made:run:one", "made:run:two"} <= studio.nodes("drafted", xray=True)

    drafts = studio.fractale("show", run, "--json").stdout
    parts = studio.answer(thread, "drafted", "always")
    assert any(part.event.startswith("updates|made:") and "|run:" in part.event for part in parts)
    values = studio.state(thread)["values"]
    assert (values["status"], values["outputs"]) == ("success", {"said": "end"})
    assert studio.lines("noted.txt")[-3:] == ["one", "two", "end"]
    assert json.loads(studio.fractale("show", run, "--json").stdout)["status"] == "success"
    assert drafts


# -- the same runs on the command line ------------------------------------------------------------


def test_a_run_of_the_command_line_is_found_and_answered(studio):
    ended = studio.fractale("run", "asked.yaml", "-r", "tools.yaml", "--run-id", "mine")
    assert ended.returncode == 4, ended.stderr
    (found,) = studio.client.threads.search(metadata={"run": "mine"})
    thread = found["thread_id"]
    assert thread == thread_of_id("mine")
    assert (found["metadata"]["plan"], found["metadata"]["graph_id"]) == ("asked", "asked")
    (asked,) = studio.waits(thread)
    assert asked["tool"] == "note"
    assert not errors(studio.answer(thread, "asked", "yes"))
    assert studio.state(thread)["values"]["outputs"] == {"said": "first-third"}
    shown = json.loads(studio.fractale("show", "mine", "--json").stdout)
    assert shown["status"] == "success"
    assert [visit["path"] for visit in shown["visits"]] == ["first", "second", "third"]


def test_a_run_of_studio_is_resumed_on_the_command_line(studio):
    thread = studio.thread()
    studio.run(thread, "asked", {})
    run = thread.rpartition("-")[2]
    ended = studio.fractale("resume", run, "--answer", "second=yes")
    assert ended.returncode == 0, ended.stderr
    assert studio.state(thread)["values"]["status"] == "success"


# -- history, forks, ends -------------------------------------------------------------------------


def test_history_and_a_fork_with_another_state(studio):
    thread = studio.thread()
    studio.run(thread, "asked", {})
    studio.answer(thread, "asked", "yes")
    history = studio.client.threads.get_history(thread)
    assert [state["next"] for state in history] == [
        [],
        ["third"],
        ["second"],
        ["first"],
        ["__start__"],
    ]
    then = history[1]
    steps = {"first": {**then["values"]["steps"]["first"], "outputs": {"noted": "other"}}}
    made = studio.client.threads.update_state(
        thread, {"steps": steps}, checkpoint=then["checkpoint"], as_node="second"
    )
    assert studio.state(thread)["next"] == ["third"]
    parts = studio.run(thread, "asked", checkpoint=made["checkpoint"])
    assert not errors(parts)
    assert studio.state(thread)["values"]["outputs"] == {"said": "other-third"}
    assert studio.fractale("show", thread.rpartition("-")[2]).returncode == 0

    noted = studio.lines("noted.txt")
    assert not errors(studio.run(thread, "asked", checkpoint=then["checkpoint"]))
    assert studio.state(thread)["values"]["outputs"] == {"said": "first-third"}
    assert studio.lines("noted.txt") == [*noted, "first-third"], "it is done once more"
    assert errors(studio.run(thread, "asked", {})) == [
        f"run {thread.rpartition('-')[2]} has started on this thread, and cannot get another input"
        " (open a new thread for a new run, or resume this run without an input)"
    ]


def test_a_cancelled_run_stops_and_can_go_on(studio):
    hold = studio.folder / "hold-slow"
    hold.touch()
    thread = studio.thread()
    order = studio.client.runs.create(thread, "slow_one", input={})
    studio.until((studio.folder / "held-slow").exists, "the step did not begin")
    held = studio.fractale("resume", thread.rpartition("-")[2])
    assert "held by process" in held.stderr
    studio.client.runs.cancel(thread, order["run_id"], wait=True)
    hold.unlink()
    row = json.loads(studio.fractale("show", thread.rpartition("-")[2], "--json").stdout)
    assert row["status"] == "stopped"
    assert not errors(studio.run(thread, "slow_one"))
    assert studio.state(thread)["values"]["status"] == "success"


def test_nothing_held_up_the_loop_of_the_server(studio):
    text = (studio.folder / "log").read_text(errors="replace")
    assert "Blocking call" not in text
    assert "blocking" not in text
    assert studio.state(studio.thread())["values"] == {}


# -- what its graphs do, without the server --------------------------------------------------------


class Here:
    """The graphs of a folder in this process, used as the server uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thread = str(uuid.uuid4())
        self.saver = open_saver()
        self.requests = 0

    async def graph(self, name: str, **fields: Any) -> Any:
        tools = {"registries": [self.folder / "tools.yaml"]}
        made = {"plan": any_plan, "prompt": prompt_graph}.get(name)
        factory = made(**tools) if made else recorded_graph(f"{name}.yaml", **tools)
        found = await factory({"configurable": fields})
        return found.copy({"checkpointer": self.saver})

    async def run(self, name: str, given: Any, request: str = "", **stream: Any) -> list[Any]:
        """The chunks of a run's stream; what the server orders once is one request."""
        self.requests += 1
        fields = {"thread_id": self.thread, "run_id": request or str(self.requests)}
        config = {"configurable": {**fields, **stream.pop("fields", {})}}
        modes = {"stream_mode": ["debug", "custom"], **stream}
        graph = await self.graph(name, thread_id=self.thread)
        return [chunk async for chunk in graph.astream(given, config, **modes)]

    async def state(self) -> Any:
        graph = await self.graph("plan", thread_id=self.thread)
        return await graph.aget_state({"configurable": {"thread_id": self.thread}})

    async def asked(self) -> list[str]:
        return [str(each.value["step"]) for each in (await self.state()).interrupts]


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("FRACTALE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "studio_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text(REGISTRY)
    for name, text in PLANS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return Here(tmp_path)


@pytest.fixture
def with_model(here, monkeypatch):
    with ModelServer(model) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        monkeypatch.setenv("OPENAI_API_KEY", "k-1234567890")
        monkeypatch.setenv("FRACTALE_LLM_MODEL", "openai:scripted")
        yield here


async def test_chunks_name_the_thread_of_the_server_and_tell_events(here):
    chunks = await here.run("asked", {}, subgraphs=True)
    assert {len(chunk) for chunk in chunks} == {3}
    found = [c for _, mode, c in chunks if mode == "debug" and c["type"] == "checkpoint"]
    places = {c["payload"]["config"]["configurable"]["thread_id"] for c in found}
    assert places == {here.thread}
    told = [c["event"] for _, mode, c in chunks if mode == "custom"]
    assert told[0] == "run_started"
    assert told[-1] == "run_finished"


async def test_what_is_no_answer_is_an_error_and_the_question_stays(here):
    await here.run("asked", {})
    with pytest.raises(RunEnded, match=r"`perhaps` is not a valid answer .* `second`"):
        await here.run("asked", Command(resume="perhaps"))
    with pytest.raises(RunEnded, match="not updates or jumps"):
        await here.run("asked", Command(goto="third"))
    assert await here.asked() == ["second"]
    await here.run("asked", None)
    assert await here.asked() == ["second"]
    with pytest.raises(RunEnded, match="a person refused"):
        await here.run("asked", Command(resume=False))
    with pytest.raises(RunEnded, match="0 questions wait: nothing"):
        await here.run("asked", Command(resume=True))


async def test_an_order_that_is_given_again_answers_nothing_a_second_time(here):
    await here.run("twice", {}, "a")
    await here.run("twice", {}, "a")
    assert await here.asked() == ["one"]
    await here.run("twice", Command(resume=True), "b")
    assert await here.asked() == ["two"]
    await here.run("twice", Command(resume=True), "b")
    assert await here.asked() == ["two"]
    await here.run("twice", Command(resume=True), "c")
    assert (await here.state()).values["status"] == "success"


async def test_several_questions_are_answered_by_their_ids(here):
    await here.run("beside", {})
    asked = (await here.state()).interrupts
    assert len(asked) == 2
    with pytest.raises(RunEnded, match="2 questions wait"):
        await here.run("beside", Command(resume="yes"))
    await here.run("beside", Command(resume={asked[0].id: "yes"}))
    (left,) = (await here.state()).interrupts
    await here.run("beside", Command(resume={left.id: "yes"}))
    assert (await here.state()).values["status"] == "success"


GATES = """
name: gates
steps:
  - name: gate
    ask: Publish?
    choices: [publish, {revise: What then?}]
    default: publish
    default_after: 1h
  - {name: size, ask: How big?, form: {type: object, properties: {n: {type: integer}, m: {}}}}
outputs: {gate: "{{ steps.gate.outputs }}", n: "{{ steps.size.outputs.n }}"}
""".replace("m: {}", "m: {type: string}")


async def test_a_plan_asks_in_studio_and_takes_words_and_fields(here):
    (here.folder / "gates.yaml").write_text(GATES)
    await here.run("gates", {})
    (asked,) = (await here.state()).interrupts
    assert asked.value["follow_up"] == {"revise": "What then?"}
    place = (await here.state()).config["configurable"]["checkpoint_id"]
    with pytest.raises(RunEnded, match="`no` is not a valid answer"):
        await here.run("gates", Command(resume="no"))
    await here.run("gates", Command(resume={"answer": "revise", "text": "shorter"}))
    with pytest.raises(RunEnded, match=r"is not (a )?valid"):
        await here.run("gates", Command(resume={"n": "many"}))
    await here.run("gates", Command(resume={"n": 3}))
    outputs = (await here.state()).values["outputs"]
    assert outputs == {"gate": {"answer": "revise", "text": "shorter"}, "n": 3}
    await here.run("gates", Command(resume="publish"), fields={"checkpoint_id": place})
    assert await here.asked() == ["size"]


async def test_another_answer_is_given_at_an_earlier_place(here):
    await here.run("asked", {})
    place = (await here.state()).config["configurable"]["checkpoint_id"]
    with pytest.raises(RunEnded, match="refused"):
        await here.run("asked", Command(resume="no"))
    await here.run("asked", Command(resume="yes"), fields={"checkpoint_id": place})
    assert (await here.state()).values["outputs"] == {"said": "first-third"}
    inside = {"checkpoint_id": place, "checkpoint_ns": "second:1"}
    with pytest.raises(RunEnded, match="inside of a step"):
        await here.run("asked", None, fields=inside)


async def test_a_run_that_fails_is_an_error_with_its_last_words(here):
    with pytest.raises(RunEnded, match="failed: "):
        await here.run("failing", {})
    assert (await here.state()).values["status"] == "failed"
    here.thread = str(uuid.uuid4())
    with pytest.raises(RunEnded, match="wrong"):
        await here.run("failing", {"wrong": 1})
    with pytest.raises(RunEnded, match="no run to resume"):
        await here.run("failing", None)


async def test_a_run_stops_at_a_breakpoint_and_goes_on(here):
    await here.run("asked", {}, interrupt_after=["first"])
    assert (await here.state()).next == ("second",)
    with pytest.raises(RunEnded, match="cannot get another input"):
        await here.run("asked", {"word": "x"})
    await here.run("asked", {})
    assert await here.asked() == ["second"]
    await here.run("asked", Command(resume=True))
    assert (await here.state()).values["status"] == "success"


async def test_a_reader_who_goes_away_ends_the_run_where_nothing_is_lost(here):
    (here.folder / "hold-slow").touch()
    graph = await here.graph("slow-one", thread_id=here.thread)
    config = {"configurable": {"thread_id": here.thread, "run_id": "1"}}
    stream = graph.astream({}, config, stream_mode=["custom"])
    async for _, event in stream:
        if event["event"] == "tool_started" and event["step"] == "slow":
            break
    await stream.aclose()
    (here.folder / "hold-slow").unlink()
    await here.run("slow-one", None)
    assert (await here.state()).values["status"] == "success"


async def test_a_state_is_not_changed_under_a_run(here):
    await here.run("asked", {})
    folder = RunRecords(Path(".fractale")).find("-1")
    graph = await here.graph("asked", thread_id=here.thread)
    config = {"configurable": {"thread_id": here.thread}}
    with RunLock(folder), pytest.raises(HTTPException, match="is held by process"):
        await graph.aupdate_state(config, {"error": "x"}, as_node="first")
    await here.saver.adelete_thread(here.thread)
    assert await here.asked() == ["second"]
    here.thread = str(uuid.uuid4())
    with pytest.raises(HTTPException, match="has no run yet"):
        await here.saver.aput({"configurable": {"thread_id": here.thread}}, {}, {}, {})
    assert [c async for c in here.saver.alist({"configurable": {"thread_id": here.thread}})] == []
    assert [c async for c in here.saver.alist(None)] == []


async def test_runs_in_postgresql_are_read_changed_and_ended(here, postgres, monkeypatch):
    monkeypatch.setenv("FRACTALE_STORE", postgres)
    here.saver = open_saver()
    await here.run("asked", {})
    assert await here.asked() == ["second"]
    place = (await here.state()).config["configurable"]["checkpoint_id"]
    await here.run("asked", Command(resume=True))
    await here.run("asked", Command(resume=True), fields={"checkpoint_id": place})
    assert (await here.state()).values["outputs"] == {"said": "first-third"}
    monkeypatch.delenv("FRACTALE_STORE")
    here.saver = open_saver()
    with pytest.raises(RunEnded, match="fractale studio --store postgresql://"):
        await here.run("asked", None)


async def test_a_prompt_is_planned_or_asked_directly(with_model):
    here = with_model
    await here.run("prompt", {"instruction": "What is there?", "direct": True})
    assert (await here.state()).values["outputs"] == {"answer": "nothing to find out"}
    here.thread = str(uuid.uuid4())
    await here.run("prompt", {"instruction": "Plan this.", "inputs": {"a": 1}})
    assert await here.asked() == ["plan"]
    here.thread = str(uuid.uuid4())
    with pytest.raises(RunEnded, match="prompt `x` not found on any server"):
        await here.run("prompt", {"prompt": "x"})
    drawn = (await here.graph("prompt")).get_graph(xray=True)
    assert {"ask", "plan:draft", "plan:review"} <= set(drawn.nodes)


async def test_any_plan_is_run_from_its_text(here):
    step = "{name: only, tool: note, inputs: {text: '{{ inputs.w }}'}}"
    text = f"name: t\ninputs: {{w: a}}\nsteps: [{step}]\n"
    await here.run("plan", {"plan": text, "inputs": {"w": "b"}})
    assert (await here.state()).values["steps"]["only"]["outcome"] == "success"
    assert (here.folder / "noted.txt").read_text() == "b\n"
    here.thread = str(uuid.uuid4())
    for given, said in (({}, "no plan was named"), ({"plan": text, "w": 1}, "unknown key `w`")):
        with pytest.raises(RunEnded, match=said):
            await here.run("plan", given)


async def test_drafts_are_drawn_wherever_they_lie(here):
    folder = RunRecords(Path(".fractale")).new("r")
    plan = load_plan(here.folder / "deep.yaml")
    folder.write_head({"plan": "deep", "file": plan.file, "plan_hash": plan_hash(plan)})
    inner = "name: x\nsteps: [{name: leaf, tool: note, inputs: {text: a}}]\n"
    for path in ("each[0]", "each[1]", "block/made", "again"):
        folder.keep_draft(path, inner)
    nested = "name: x\nsteps: [{name: once, type: plan, instruction: More.}]\n"
    folder.keep_draft("again", nested)
    folder.keep_draft("again/once", inner)
    drawn = set((await here.graph("deep", run="r")).get_graph(xray=True).nodes)
    wanted = {"each:item:run:leaf", "block:made:run:leaf", "again:run:once:run:leaf"}
    assert wanted <= drawn


# -- starting it, and names -----------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    return load_settings(environment, tmp_path)


def test_it_starts_on_this_machine_without_telling_anybody(own, tmp_path):
    (tmp_path / "my-plan.yaml").write_text("name: p\nsteps: [{name: a, tool: b}]\n")
    start = Start(
        plans=[Path("my-plan.yaml")],
        extensions=Extensions(registries=["t.yaml"]),
        browser=False,
    )
    words, environment = prepare(start, own.with_flags(model="openai:x"))
    assert words[1:4] == ["-m", "langgraph_cli", "dev"]
    assert "--allow-blocking" not in words
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert environment["LANGSMITH_TRACING"] == "false"
    assert environment["LANGGRAPH_CLI_NO_ANALYTICS"] == "1"
    assert environment["FRACTALE_LLM_MODEL"] == "openai:x"
    assert json.loads(environment[OPTIONS])["registries"] == [str(tmp_path / "t.yaml")]
    config = json.loads(Path(words[words.index("--config") + 1]).read_text())
    assert set(config["graphs"]) == {"plan", "prompt", "my_plan"}


def test_a_folder_with_its_own_graphs_keeps_them(own, tmp_path):
    (tmp_path / "langgraph.json").write_text('{"graphs": {"theirs": "./theirs.py:graph"}}')
    words, _ = prepare(Start(), own)
    config = json.loads(Path(words[words.index("--config") + 1]).read_text())
    assert config["graphs"] == {"theirs": "./theirs.py:graph"}
    assert config["http"]["app"].endswith("/.fractale/studio/graphs.py:app")  # with the gate
    assert "checkpointer" not in config
    (tmp_path / "a.yaml").write_text("name: p\nsteps: [{name: a, tool: b}]\n")
    words, _ = prepare(Start(plans=[Path("a.yaml")]), own)
    config = json.loads(Path(words[words.index("--config") + 1]).read_text())
    assert {"theirs", "a", "plan"} <= set(config["graphs"])


def test_plans_that_cannot_be_graphs_are_refused(own, tmp_path):
    (tmp_path / "bad.yaml").write_text("steps: [{tol: b}]\n")
    with pytest.raises(PlanError):
        prepare(Start(plans=[Path("bad.yaml")]), own)
    for name, why, hint in (
        ("1st.yaml", "`1st` is not a valid name of a graph", "begins with a letter"),
        ("plan.yaml", "`plan` is a name that the server uses", "reserved names: any_plan, app"),
        ("for.yaml", "it is a Python keyword", "rename the file"),
    ):
        (tmp_path / name).write_text("name: p\nsteps: [{name: a, tool: b}]\n")
        with pytest.raises(UsageError, match=why) as refused:
            prepare(Start(plans=[Path(name)]), own)
        assert hint in str(refused.value.hint)
    (tmp_path / "langgraph.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        prepare(Start(), own)


def test_without_the_extra_it_says_what_to_install(own):
    with pytest.raises(DependencyMissing) as caught:
        prepare(Start(), own, needed=["no_such_server"])
    assert "pip install 'fractale[studio]'" in str(caught.value.hint)


def test_the_python_of_a_langgraph_json_waits_for_trust(tmp_path):
    config = {
        "graphs": {"a": "./theirs.py:graph", "b": {"path": "./b.py:g", "description": "B: it"}},
        "http": {"app": "./theirs.py:app"},
        "env": ".env",
    }
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text('open("imported.txt", "w")\n')
    (tmp_path / "bad.yaml").write_text("name: p\nsteps: [{tol: b}]\n")
    known = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FRACTALE_TRUST_PROJECT": ""}

    def fractale(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return forked.run(words, cwd=tmp_path, env={**known, **env})

    def refused() -> None:
        done = fractale("studio", "bad.yaml")
        assert done.returncode == 2, done.stderr
        for words in ("./theirs.py:graph", "./theirs.py:app", "./b.py:g", "from .env"):
            assert words in done.stderr
        assert "B: it" not in done.stderr
        assert "fractale trust langgraph.json" in done.stderr

    def passes(*words: str, **env: str) -> None:
        assert "tol" in fractale("studio", "bad.yaml", *words, **env).stderr

    refused()
    passes("--trust-project")
    passes(FRACTALE_TRUST_PROJECT="1")
    assert "./b.py:g" in fractale("trust", "langgraph.json").stdout
    passes()
    for name in ("theirs.py", ".env", "b.py"):
        (tmp_path / name).write_text("# changed\n")
        refused()
        assert fractale("trust", "langgraph.json").returncode == 0
        passes()
    assert not (tmp_path / "imported.txt").exists()


def test_where_others_can_reach_it_it_has_a_token(own, tmp_path):
    for host, tells_users, wants in (
        ("127.0.0.1", True, False),
        ("127.0.0.1", False, True),
        ("0.0.0.0", True, True),
        ("login1", True, True),
    ):
        _, environment = prepare(Start(host=host), own, tells_users=tells_users)
        token = environment.get("FRACTALE_STUDIO_TOKEN")
        assert (token is not None) is wants
        assert environment.get("LANGGRAPH_MOUNT_PREFIX") == (f"/{token}" if wants else None)
    _, other = prepare(Start(host="login1"), own)
    assert other["FRACTALE_STUDIO_TOKEN"] != token  # each start has its own
    kept = replace(own, environment={**own.environment, "FRACTALE_STUDIO_TOKEN": "k" * 20})
    assert prepare(Start(), kept)[1]["LANGGRAPH_MOUNT_PREFIX"] == "/" + "k" * 20


def module(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"of_{Path(file).stem}", HERE / file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


async def test_the_graphs_of_this_project_are_those_of_its_plans(here):
    config = json.loads((HERE / "langgraph.json").read_text())
    graphs = config["graphs"].values()
    places = [graph["path"] if isinstance(graph, dict) else graph for graph in graphs]
    places += [config["checkpointer"]["path"], config["http"]["app"]]
    assert config["http"]["cors"] == CORS
    for place in places:
        file, _, name = place.partition(":")
        found = vars(module(file))[name]
        if file == "./graphs/plans.py":
            assert (await found({"configurable": {}})).get_input_jsonschema()["type"] == "object"


def test_threads_and_runs_find_each_other(tmp_path):
    folders = RunRecords(tmp_path)
    threads = RunThreads(folders)
    thread = "01a206f0-cbda-740d-a22d-d0c55a3a54ad"
    assert threads.run_of(thread) is None
    assert threads.id_for(thread) == "d0c55a3a54ad"
    folders.new("d0c55a3a54ad").write_head({"studio": {"thread": thread}})
    assert threads.run_of(thread).run_id == "d0c55a3a54ad"
    other = "01a206f0-cbda-740d-a22d-d0c55a3a54ad".replace("01a", "01b")
    assert threads.run_of(other) is None
    assert threads.id_for(other) == other
    folders.new("k7f3a").write_head({})
    assert threads.run_of(thread_of_id("k7f3a")).run_id == "k7f3a"
    assert threads.run_of(thread_of_id("gone")) is None
