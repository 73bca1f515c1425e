"""A person's own ``langgraph.json`` with plans, under plain ``langgraph dev``, by the SDK."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command
from langgraph_sdk import get_sync_client

from servers.running import free_port

PATIENCE = 90.0
SECRET = "hunter2-is-secret"
OTHER_SECRET = "in-the-context-of-runs"  # the server itself keeps the context with the run

PLAN = """
name: chain
servers: [counted]
inputs:
  nodes: {type: integer, default: 3, description: How many}
  token: {type: string, secret: true}
limits: {steps: 7}
outputs: {nodes: "{{ steps.b.outputs.n }}", said: "{{ steps.c.outputs.content }}"}
steps:
  - {name: a, tool: count, inputs: {n: "{{ inputs.nodes }}"}}
  - name: block
    parallel:
      - {name: x, tool: count, inputs: {n: 1}}
      - {name: y, tool: look, inputs: {word: "{{ inputs.token }}"}}
  - {name: b, tool: count, approve: always, inputs: {n: "{{ steps.a.outputs.n }}"}}
  - {name: c, agent: , instruction: Say hi., tools: []}
"""
BATCH = """
name: batch
servers: []
outputs: {first: "{{ steps.one.outputs.log }}", all: "{{ steps.many.outputs }}"}
steps:
  - name: one
    job: {scheduler: local, command: echo one}
  - name: many
    foreach: [2, 3]
    job: {command: "echo {{ item }}"}
"""
CUT = """
name: cut
servers: []
outputs: {word: "{{ steps.second.outputs.word }}"}
steps:
  - {name: first, tool: write, inputs: {word: first}}
  - {name: second, tool: write, inputs: {word: second}}
"""
SERVER = """
from fastmcp import FastMCP

server = FastMCP("counted")

@server.tool(annotations={"readOnlyHint": True})
def look(word: str) -> dict:
    "Look."
    return {"seen": word}

server.run(show_banner=False)
"""
APP = '''
import asyncio
import pathlib

import fractale
from langchain.agents import create_agent
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from fractale import Dependencies, compile_plan
from fractale.models import Models
from fractale.settings import Settings
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.replies import Reply


def count(n: int) -> dict:
    """Add one."""
    return {"n": n + 1}


def model():
    return ScriptedModel([Reply(text="hi there")] * 50)


tools = FakeToolServer()
tools.tool(count)


@tools.tool
def look(word: str) -> dict:
    """Look."""
    return {"seen": word}


plan = fractale.load("chain.yaml")
deps = Dependencies(toolbox=tools, models=Models(Settings(), given=model()))
direct = compile_plan(plan, deps).compile()
whole = fractale.plan_graph(plan, tools=[count], model=model(), idle=60)


batch = fractale.plan_graph("batch.yaml")


async def write(word: str) -> dict:
    """Write a word, the second one only when it may."""
    with open("written", "a") as file:  # noqa: ASYNC230
        file.write(f"{word}\\n")
    while word == "second" and not pathlib.Path("go").exists():
        await asyncio.sleep(0.05)
    return {"word": word}


cut = fractale.plan_graph("cut.yaml", tools=[write], idle=60)
cut_node = fractale.as_node(cut, inputs={}, outputs={"status": lambda end: end["status"]})


class State(TypedDict, total=False):
    nodes: int
    status: str
    outputs: dict
    error: str


builder = StateGraph(State)
builder.add_node("plan", whole)
builder.add_edge(START, "plan")
builder.add_edge("plan", END)
own = builder.compile()


class Cells(TypedDict, total=False):
    cells: int
    figure: int


class Around(TypedDict, total=False):
    secrets: dict[str, str]


node = fractale.as_node(whole, inputs={"nodes": "cells"}, outputs={"figure": "nodes"})
around_cut = StateGraph(State).add_node("run", cut_node)
around_cut = around_cut.add_edge(START, "run").add_edge("run", END).compile()

held = StateGraph(Cells, context_schema=Around).add_node("run", node)
held = held.add_edge(START, "run").add_edge("run", END).compile()

calls = Reply(tool_calls=[("chain", {"nodes": 4})])
answers = [calls, Reply(text="It is six.")] * 50
agent = create_agent(ScriptedModel(answers), [fractale.as_tool(whole)])
'''
NAMES = ("direct", "whole", "own", "batch", "held", "agent", "cut", "around_cut")
GRAPHS = {name: f"./app.py:{name}" for name in NAMES}
GIVEN = {
    "whole": {"nodes": 4},
    "own": {"nodes": 4},
    "held": {"cells": 4},
    "agent": {"messages": [{"role": "user", "content": "Run the chain on 4."}]},
}


class Server:
    """``langgraph dev`` in a directory of its own, without any option that helps fractale."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        (folder / "langgraph.json").write_text(
            json.dumps({"dependencies": ["."], "graphs": GRAPHS})
        )
        (folder / "app.py").write_text(APP)
        (folder / "chain.yaml").write_text(PLAN)
        (folder / "batch.yaml").write_text(BATCH)
        (folder / "cut.yaml").write_text(CUT)
        (folder / "server.py").write_text(SERVER)
        own = folder / ".config" / "fractale"
        own.mkdir(parents=True)
        command = {"command": sys.executable, "args": [str(folder / "server.py")]}
        (own / "config.yaml").write_text(json.dumps({"servers": {"counted": command}}))
        env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "LANG"))}
        env |= {"HOME": str(folder), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        env |= {"FRACTALE_INPUT_TOKEN": SECRET, "LANGSMITH_TRACING": "false"}
        port = self.url.rpartition(":")[2]
        words = ["dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", port]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "langgraph_cli", *words],
                cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.client = get_sync_client(url=self.url, timeout=PATIENCE)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/ok", trust_env=False).status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(self.log())

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)

    def thread(self) -> str:
        return self.client.threads.create()["thread_id"]

    def run(self, thread: str, graph: str, given: Any = None, **more: Any) -> Any:
        return self.client.runs.wait(thread, graph, input=given, raise_error=False, **more)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("dev"))
    try:
        found.wait()
        yield found
        assert "Blocking call" not in found.log()
    finally:
        found.end()
    stored = list((found.folder / ".langgraph_api").rglob("*"))
    assert stored, "the server keeps its threads there"
    assert not [path for path in stored if path.is_file() and SECRET.encode() in path.read_bytes()]
    checkpoints = [path.read_bytes() for path in stored if "checkpoint" in path.name]
    assert checkpoints
    assert not [data for data in checkpoints if OTHER_SECRET.encode() in data]
    assert SECRET not in found.log()


def assistant(server: Server, graph: str) -> str:
    found = server.client.assistants.search(graph_id=graph)
    return found[0]["assistant_id"]


def test_schemas_graphs_and_subgraphs_answer(server):
    for name in ("direct", "whole"):
        found = server.client.assistants.get_schemas(assistant(server, name))
        assert found["input_schema"]["properties"] == {
            "nodes": {
                "title": "nodes", "type": "integer", "default": 3, "description": "How many",
            }
        }  # fmt: skip
        assert set(found["output_schema"]["properties"]) == {"status", "outputs", "error"}
        assert set(found["context_schema"]["properties"]) == {"secrets", "limits", "yes"}
        assert {"steps", "spent"} <= set(found["state_schema"]["properties"])
    for name, keys in (("own", {"nodes"}), ("held", {"cells"}), ("agent", {"messages"})):
        found = server.client.assistants.get_schemas(assistant(server, name))
        assert keys <= set(found["input_schema"]["properties"])
    insides = {"direct": "block", "whole": "block", "own": "plan|block", "held": "run|block"}
    for name, inside in insides.items():
        which = assistant(server, name)
        nodes = server.client.assistants.get_graph(which, xray=True)["nodes"]
        assert any(node["id"].endswith("block:y") for node in nodes)
        assert inside in server.client.assistants.get_subgraphs(which, recurse=True)


@pytest.mark.parametrize("graph", ["whole", "own", "held", "agent"])
def test_a_run_streams_waits_for_an_answer_and_ends(server, graph):
    thread = server.thread()
    given = GIVEN[graph]
    modes = ["values", "updates", "custom", "messages-tuple", "tasks", "checkpoints"]
    chunks = list(
        server.client.runs.stream(
            thread, graph, input=given, stream_mode=modes, stream_subgraphs=True
        )
    )
    kinds = Counter(chunk.event.partition("|")[0] for chunk in chunks)
    assert "error" not in kinds, server.log()
    assert {"metadata", "values", "updates", "custom", "tasks", "checkpoints"} <= set(kinds)
    custom = [chunk.data for chunk in chunks if chunk.event.startswith("custom")]
    started = [event["step"] for event in custom if event["event"] == "step_started"]
    assert sorted(started) == ["a", "b", "block", "block/x", "block/y"]
    state = server.client.threads.get_state(thread, subgraphs=True)
    (task,) = state["tasks"]
    (asked,) = task["interrupts"]
    assert (asked["value"]["kind"], asked["value"]["step"]) == ("approval", "b")
    assert server.client.threads.get(thread)["status"] == "interrupted"
    again = server.run(thread, graph, command={"resume": "perhaps"})
    assert "answer with" in again["__interrupt__"][0]["value"]["problem"]
    answers = {"decisions": [{"type": "edit", "edited_action": {"args": {"n": 10}}}]}
    chunks = list(
        server.client.runs.stream(
            thread,
            graph,
            command={"resume": {asked["id"]: answers}},
            stream_mode=["values", "messages-tuple"],
            stream_subgraphs=True,
        )
    )
    said = "".join(
        chunk.data[0]["content"] for chunk in chunks if chunk.event.startswith("messages")
    )
    assert "hi there" in said
    end = server.client.threads.get_state(thread)["values"]
    if graph in ("whole", "own"):
        assert (end["status"], end["outputs"]) == ("success", {"nodes": 11, "said": "hi there"})
    elif graph == "held":
        assert end == {"cells": 4, "figure": 11}
    else:
        kinds = [(message["type"], message["content"]) for message in end["messages"][-2:]]
        assert kinds == [("tool", '{"nodes": 11, "said": "hi there"}'), ("ai", "It is six.")]
    assert len(server.client.threads.get_history(thread, limit=20)) >= 2


@pytest.mark.parametrize("graph", ["direct", "whole"])
def test_limits_and_inputs(server, graph):
    thread = server.thread()
    context = {"limits": {"steps": 1}, "yes": True}
    if graph == "direct":
        context["secrets"] = {"token": OTHER_SECRET}
    after = server.run(thread, graph, {"nodes": 4}, context=context)
    assert (after["status"], after["error"]) == ("limit", "the run has entered 1 step, its limit")
    assert server.client.threads.get_state(thread)["next"] == ["block"]
    after = server.run(thread, graph, context={**context, "limits": {"steps": 9}})
    assert (after["status"], after["outputs"]["nodes"]) == ("success", 6)
    failed = server.run(server.thread(), graph, {"nodes": "x"}, context=context)
    assert "must be of type integer" in failed["__error__"]["message"]
    assert failed["__error__"]["error"] == "InputError"


def test_a_graph_elsewhere_uses_it_as_a_remote_graph(server):
    remote = RemoteGraph("whole", url=server.url)
    after = remote.invoke({"nodes": 1}, context={"yes": True})
    assert (after["status"], after["outputs"]["nodes"]) == ("success", 3)
    assert "block" in remote.get_graph(xray=True).nodes or remote.get_graph().nodes
    chunks = list(remote.stream({"nodes": 1}, stream_mode="updates", context={"yes": True}))
    assert [name for chunk in chunks for name in chunk] == ["a", "block", "b", "c"]


def test_an_assistant_has_a_context_and_crons_and_batches_run(server):
    made = server.client.assistants.create("whole", context={"yes": True, "limits": {"steps": 9}})
    after = server.run(server.thread(), made["assistant_id"], {"nodes": 2})
    assert (after["status"], after["outputs"]["nodes"]) == ("success", 4)
    runs = [{"assistant_id": made["assistant_id"], "input": {"nodes": n}} for n in range(3)]
    assert len(server.client.runs.create_batch(runs)) == 3
    cron = server.client.crons.create(made["assistant_id"], schedule="0 0 1 1 *", input={})
    assert server.client.crons.search(assistant_id=made["assistant_id"])
    server.client.crons.delete(cron["cron_id"])


def test_a_state_is_edited_and_an_old_one_run_again(server):
    thread = server.thread()
    server.run(thread, "whole", {"nodes": 2}, context={"yes": True})
    history = server.client.threads.get_history(thread, limit=20)
    (before,) = [state for state in history if state["next"] == ["b"]]
    server.client.threads.update_state(
        thread, {"inputs": {"nodes": 7}}, checkpoint_id=before["checkpoint"]["checkpoint_id"]
    )
    after = server.run(thread, "whole", context={"yes": True})
    assert (after["status"], after["outputs"]["nodes"]) == ("success", 4)
    values = server.client.threads.get_state(thread)["values"]
    assert (values["inputs"], values["spent"]["steps"]) == ({"nodes": 7}, 4)


def test_batch_jobs_do_not_block_the_server(server):
    after = server.run(server.thread(), "batch", {})
    assert after["status"] == "success", after
    assert after["outputs"]["first"] == "one\n"
    assert [each["log"] for each in after["outputs"]["all"]] == ["2\n", "3\n"]


def test_a_plan_in_an_own_graph_gets_secrets_and_its_state_is_edited(server):
    thread, context = server.thread(), {"secrets": {"token": "another-secret"}}
    first = server.run(thread, "held", {"cells": 4}, context=context)
    assert first["__interrupt__"][0]["value"]["arguments"] == {"n": 5}
    server.client.threads.update_state(thread, {"cells": 7})
    asked = server.run(thread, "held", None, context=context)["__interrupt__"]
    assert asked[0]["value"]["arguments"] == {"n": 8}
    after = server.run(thread, "held", command={"resume": True}, context=context)
    assert after == {"cells": 7, "figure": 9}
    values = [s["values"] for s in server.client.threads.get_history(thread, limit=20)]
    assert {"cells": 4} in values
    wrong = {"secrets": {"token": 5}}
    failed = server.run(server.thread(), "held", {"cells": 4}, context=wrong)
    message = failed["__error__"]["message"]
    assert message == "the secret input `token` must be text, and is of the type int"


def test_runs_are_joined_listed_cancelled_and_threads_found_and_copied(server):
    client = server.client
    threads = [server.thread() for _ in range(3)]
    runs = [client.runs.create(thread, "whole", input={"nodes": 4}) for thread in threads]
    for thread, run in zip(threads, runs, strict=True):
        client.runs.join(thread, run["run_id"])
        assert [each["run_id"] for each in client.runs.list(thread)] == [run["run_id"]]
    waiting = {each["thread_id"] for each in client.threads.search(status="interrupted", limit=50)}
    assert set(threads) <= waiting
    (asked,) = next(iter(client.threads.get(threads[0])["interrupts"].values()))
    assert asked["value"]["step"] == "b"
    copy = client.threads.copy(threads[0])
    copied = copy["thread_id"] if copy else max(client.threads.search(limit=1))["thread_id"]
    for thread in (threads[0], copied):
        after = server.run(thread, "whole", command={"resume": {asked["id"]: "yes"}})
        assert (after["status"], after["outputs"]["nodes"]) == ("success", 6)
    refused = server.run(threads[1], "whole", command={"resume": "no"})
    assert refused["status"] == "failed"
    run = client.runs.create(threads[2], "whole", command={"resume": True})
    chunks = list(client.runs.join_stream(threads[2], run["run_id"], stream_mode="values"))
    assert client.threads.get_state(threads[2])["values"]["status"] == "success", chunks


def test_a_remote_graph_asks_and_is_answered(server):
    remote = RemoteGraph("whole", url=server.url)
    thread = server.thread()
    config: Any = {"configurable": {"thread_id": thread}}
    first = remote.invoke({"nodes": 4}, config)
    assert first["__interrupt__"]
    (asked,) = remote.get_state(config).interrupts
    assert asked.value["step"] == "b"
    chunks = list(remote.stream(Command(resume={asked.id: True}), config, subgraphs=True))
    assert chunks
    assert remote.get_state(config).values["outputs"] == {"nodes": 6, "said": "hi there"}
    assert len(list(remote.get_state_history(config))) > 3


@pytest.mark.parametrize("graph", ["cut", "around_cut"])
def test_a_call_of_a_run_that_is_cancelled_is_in_doubt(server, graph):
    written, go = server.folder / "written", server.folder / "go"
    written.unlink(missing_ok=True)
    go.unlink(missing_ok=True)
    thread = server.thread()
    run = server.client.runs.create(thread, graph, input={})
    server.until(lambda: written.exists() and "second" in written.read_text())
    server.client.runs.cancel(thread, run["run_id"], wait=True)
    go.touch()
    (asked,) = server.run(thread, graph)["__interrupt__"]
    assert (asked["value"]["kind"], asked["value"]["step"]) == ("in_doubt", "second")
    after = server.run(thread, graph, command={"resume": {"outputs": {"word": "said"}}})
    assert after["status"] == "success", after
    if graph == "cut":
        assert after["outputs"] == {"word": "said"}
    assert written.read_text().split() == ["first", "second"]


def test_a_cron_runs_a_plan(server):
    client, thread = server.client, server.thread()
    which, context = assistant(server, "whole"), {"yes": True}
    cron = client.crons.create_for_thread(
        thread, which, schedule="* * * * *", input={"nodes": 4}, context=context
    )
    server.until(lambda: client.threads.get_state(thread)["values"].get("status"))
    client.crons.delete(cron["cron_id"])
    values = client.threads.get_state(thread)["values"]
    assert (values["status"], values["outputs"]["nodes"]) == ("success", 6)
