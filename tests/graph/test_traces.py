"""Secret inputs in traces: no tracer sees one, whichever way a plan runs."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.graph import START, StateGraph
from langsmith import Client
from langsmith.run_helpers import tracing_context
from typing_extensions import TypedDict

import fractale
from fractale.graph.tracing import Values, masked_callbacks
from fractale.masking import Masker
from fractale.testing import Reply, ScriptedModel
from trace_server import trace_server

SECRET = "hunter2-of-the-tests"
PLAN = """
name: traced
inputs: {token: {secret: true}}
steps:
  - {name: use, tool: use, inputs: {token: "{{ inputs.token }}"}}
  - {name: lang, tool: lang, inputs: {token: "{{ inputs.token }}"}}
  - {name: nested, tool: nested, inputs: {token: "{{ inputs.token }}"}}
  - name: fails
    tool: fails
    inputs: {token: "{{ inputs.token }}"}
    transitions: {failure: words}
  - name: words
    agent: ask
    instruction: "The token is {{ inputs.token }}"
    tools: [give]
outputs: {said: "{{ steps.words.outputs.content }}"}
"""


def use(token: str) -> dict[str, Any]:
    """Use a token."""
    return {"said": f"got {token}", "long": len(token)}


@tool
def lang(token: str) -> str:
    """Use a token in a tool of LangChain."""
    return f"got {token}"


async def nested(token: str) -> dict[str, Any]:
    """Use a token in a runnable that the tool invokes."""
    await RunnableLambda(lambda given: f"inner {given['token']}").ainvoke({"token": token})
    return {"done": True}


@tool
def fails(token: str) -> str:
    """Fail with the token in the error."""
    raise ValueError(f"bad token {token}")


def give() -> dict[str, Any]:
    """Return the secret."""
    return {"value": SECRET}


TOOLS = [use, lang, nested, fails, give]


class Recorder(BaseCallbackHandler):
    """Keeps what a handler is shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.count = 0

    def on_chain_start(self, serialized: Any, inputs: Any, **keywords: Any) -> None:
        self.count += 1
        self.seen.append(f"chain {keywords.get('name')} {inputs!r}")

    def on_chain_end(self, outputs: Any, **_keywords: Any) -> None:
        self.seen.append(repr(outputs))

    def on_tool_start(self, serialized: Any, input_str: str, **keywords: Any) -> None:
        self.seen.append(f"tool {keywords.get('name')} {input_str} {keywords!r}")

    def on_tool_end(self, output: Any, **_keywords: Any) -> None:
        self.seen.append(repr(output))

    def on_tool_error(self, error: BaseException, **_keywords: Any) -> None:
        self.seen.append(repr(error))

    def on_chat_model_start(self, serialized: Any, messages: Any, **_keywords: Any) -> None:
        self.seen.append(repr(messages))

    def on_llm_end(self, response: Any, **_keywords: Any) -> None:
        self.seen.append(repr(response))


def model() -> ScriptedModel:
    return ScriptedModel([Reply(tool_calls=[("give", {})]), f"I saw {SECRET}"])


async def run(way: str, settings: Any, callbacks: list[Any]) -> Any:
    keywords: dict[str, Any] = {"tools": TOOLS, "model": model(), "settings": settings}
    if way == "arun":
        result = await fractale.arun(
            PLAN, secrets={"token": SECRET}, yes=True, callbacks=callbacks, **keywords
        )
        return result.status, result.error
    graph = fractale.plan_graph(PLAN, yes=True, **keywords)
    given: dict[str, Any] = {"token": SECRET}
    after = await graph.ainvoke(given, {"callbacks": callbacks})
    return after["status"], after.get("error")


EACH = pytest.mark.parametrize("way", ["arun", "plan_graph"])


@EACH
@pytest.mark.parametrize("given", [True, False])
async def test_langsmith_is_sent_no_secret(way, given, settings):
    with trace_server() as server:
        client = Client(api_url=server.url, api_key="none", auto_batch_tracing=False)
        callbacks = [LangChainTracer(client=client)] if given else []
        with tracing_context(enabled=True, client=client):  # as LANGSMITH_TRACING in a process
            assert await run(way, settings, callbacks) == ("success", None)
        client.flush()
        sent = server.all_bytes
    assert SECRET.encode() not in sent
    assert b"***" in sent
    assert b'"traced"' in sent  # the graph has the plan's name
    assert b'"lang"' in sent


def info(size_limit: int, *, compressed: bool) -> dict[str, Any]:
    """As LangSmith says it about itself."""
    return {
        "version": "0.12.0",
        "batch_ingest_config": {
            "use_multipart_endpoint": True,
            "size_limit": size_limit,
            "size_limit_bytes": 20_971_520,
            "scale_up_qsize_trigger": 1000,
            "scale_up_nthreads_limit": 16,
            "scale_down_nempty_trigger": 4,
        },
        "instance_flags": {"zstd_compression_enabled": compressed},
    }


def test_processes_that_are_traced_send_whole_traces_without_secrets(tmp_path):
    """One process for each kind of LangSmith; they share the imports."""
    child = Path(__file__).parents[1] / "support" / "langsmith_child.py"
    kinds = [info(limit, compressed=packed) for limit in (1, 100) for packed in (True, False)]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(trace_server(kind)) for kind in kinds]
        env = {n: v for n, v in os.environ.items() if not n.startswith("LANG")}
        env |= {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "none"}
        env |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        words = [sys.executable, child, tmp_path, *(server.url for server in servers)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    said = [line for line in done.stderr.splitlines() if "compression is not enabled" not in line]
    assert (done.returncode, said) == (0, [])
    for server in servers:
        sent_whole_traces(server.all_bytes)


def sent_whole_traces(sent: bytes) -> None:
    assert SECRET.encode() not in sent
    names = (b"traced", b"with_deep", b"lang", b"fails", b"nested", b"deep", b"task", b"reported")
    for name in names:
        assert b'"%s"' % name in sent, name
    started = set(re.findall(rb'name="post\.([0-9a-f-]{36})"', sent))
    ended = set(re.findall(rb'name="patch\.([0-9a-f-]{36})"', sent))
    assert ended <= started
    assert b".awrap_model_call" in sent, "LangChain reports it without a handler"
    traces = set(re.findall(rb'"trace_id":"([0-9a-f-]{36})"', sent))
    assert len(traces) == 4, "one trace a run"


@EACH
async def test_a_handler_of_the_caller_sees_no_secret_and_stays_itself(way, settings):
    recorder = Recorder()
    assert await run(way, settings, [recorder]) == ("success", None)
    shown = "\n".join(recorder.seen)
    assert SECRET not in shown
    assert "***" in shown
    assert recorder.count > 0
    assert recorder.seen[0].startswith("chain traced ")
    names = {text.split()[1] for text in recorder.seen if text.startswith(("chain ", "tool "))}
    assert {"words", "ask", "use", "lang", "fails", "give"} <= names
    assert "LangGraph" not in names


async def test_each_graph_in_a_run_is_named_by_its_step(settings, tmp_path):
    (tmp_path / "inner.yaml").write_text("name: inner\nsteps: [{name: deep, tool: give}]\n")
    (tmp_path / "plan.yaml").write_text(
        """
name: outer
steps:
  - {name: pair, parallel: [{name: left, tool: give}, {name: right, tool: give}]}
  - {name: each, tool: give, foreach: [1, 2]}
  - name: both
    parallel: [{name: up, tool: give, foreach: [1]}]
  - {name: all, plan: inner.yaml}
"""
        + "".join(f"  - {{name: s{n}, tool: give}}\n" for n in range(32))
    )

    def give() -> dict:
        return {"x": 1}

    recorder = Recorder()
    done = await fractale.arun(
        tmp_path / "plan.yaml", tools=[give], settings=settings, callbacks=[recorder], yes=True
    )
    assert done.ok, done.error
    names = {text.split()[1] for text in recorder.seen if text.startswith("chain ")}
    assert {"outer", "pair", "each", "both", "up", "all", "pair..s11"} <= names
    assert "LangGraph" not in names


def test_a_handler_of_opentelemetry_sees_no_secret(tmp_path):
    """In a process of its own: the instrumentation adds its handler to every callback manager."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "support" / "otel_child.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    spans = json.loads(done.stdout)
    text = json.dumps(spans)
    assert SECRET not in text
    assert "***" in text
    assert {"traced", "lang", "fails", "use"} <= {span["name"] for span in spans}


async def test_a_handler_of_a_variable_counts_once(settings):
    with get_usage_metadata_callback() as counted:
        await run("arun", settings, [Recorder()])
    [usage] = counted.usage_metadata.values() or [None]
    assert usage is None or usage["input_tokens"] > 0


def test_values_are_masked_in_any_form():
    mask = Values(Masker([SECRET]))
    message = HumanMessage(f"say {SECRET}", additional_kwargs={"a": [SECRET]})
    masked = mask({"m": [message], SECRET: (SECRET, 1)})
    assert SECRET not in repr(masked)
    assert isinstance(masked["m"][0], HumanMessage)
    assert message.content == f"say {SECRET}"
    plain = {"a": [1, "b", HumanMessage("c")]}
    assert mask(plain) is plain
    error = mask(ValueError(f"no {SECRET}"))
    assert (type(error).__name__, str(error)) == ("ValueError", "no ***")


def test_without_handlers_nothing_is_added():
    assert masked_callbacks(None, Masker([SECRET])) is None


async def inside_a_graph(way: str, settings: Any, config: Any) -> Any:
    """Run the plan in a node of another graph, whose callbacks reach the plan."""

    async def node(state: Any, config: RunnableConfig) -> Any:
        if way == "arun":
            status, error = await run("arun", settings, [])
            return {"status": status, "error": error}
        graph = fractale.plan_graph(
            PLAN, yes=True, tools=TOOLS, model=model(), settings=settings, secrets={"token": SECRET}
        )
        if way == "bound":
            graph = graph.with_config({"callbacks": config["callbacks"].handlers})
        return await graph.ainvoke({}, config if way == "node" else None)

    builder: Any = StateGraph(Outer)
    builder.add_node("plan", node)
    builder.add_edge(START, "plan")
    return await builder.compile(name="outer").ainvoke({}, config)


class Outer(TypedDict, total=False):
    status: str
    error: str | None


@pytest.mark.parametrize("way", ["node", "ambient", "bound", "arun"])
async def test_the_handlers_of_a_graph_around_a_plan_see_no_secret_and_each_run_once(way, settings):
    recorder = Recorder()
    after = await inside_a_graph(way, settings, {"callbacks": [recorder]})
    assert (after["status"], after.get("error")) == ("success", None)
    shown = "\n".join(recorder.seen)
    assert SECRET not in shown
    assert "***" in shown
    assert sum(line.startswith("chain lang ") for line in recorder.seen) == 1
    assert sum(line.startswith("chain outer ") for line in recorder.seen) == 1
