"""A run of a plan's graph that another process continues: nothing that decides is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

import fractale
from fractale import Dependencies, compile_plan
from fractale.errors import AnswerError
from fractale.models import Models
from fractale.settings import Settings
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.replies import Reply

THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}


def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(read_only=True)
    def look(where: str) -> dict:
        """Look."""
        return {"seen": f"a stranger wrote about {where}"}

    @server.tool
    def write(text: str) -> dict:
        """Write."""
        return {"written": text}

    @server.tool
    def erase(path: str) -> dict:
        """Erase."""
        return {"erased": path}

    return server


AGENT = """
name: agent
limits: {tokens: 1000}
steps: [{name: s, agent: , instruction: Look and write., tools: [look, write]}]
"""
LOOKS = Reply(tool_calls=[("look", {"where": "here"})], input_tokens=10, output_tokens=5)
WRITES = Reply(tool_calls=[("write", {"text": "it"})], input_tokens=10, output_tokens=5)
ENDS = Reply(text="done", input_tokens=10, output_tokens=5)


def graph(text: str, server: FakeToolServer, saver: Any, replies: list[Reply]):
    models = Models(Settings(), given=ScriptedModel(replies))
    deps = Dependencies(toolbox=server, models=models)
    return compile_plan(fractale.load(text), deps).compile(checkpointer=saver)


def sources(state: Any) -> list[str]:
    return [source["name"] for source in state.values["steps"]["s"].get("sources", [])]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_the_sources_and_the_usage_of_an_agent_that_waits(durability):
    saver, server = InMemorySaver(), tools()
    first = graph(AGENT, server, saver, [LOOKS, WRITES])
    waiting = await first.ainvoke({}, THREAD, durability=durability)
    assert waiting["__interrupt__"][0].value["tool"] == "write"
    again = graph(AGENT, server, saver, [ENDS])
    after = await again.ainvoke(
        Command(resume=True), THREAD, context={"limits": {"tokens": 32}}, durability=durability
    )
    assert after["status"] == "success"
    assert "fake.look" in sources(await again.aget_state(THREAD))
    assert [call.name for call in server.calls] == ["look", "write"]


async def test_tokens_of_the_step_that_waits_count_after_it_is_continued():
    saver, server = InMemorySaver(), tools()
    await graph(AGENT, server, saver, [LOOKS, WRITES]).ainvoke({}, THREAD)
    again = graph(AGENT, server, saver, [ENDS])
    context: Any = {"limits": {"tokens": 30}}
    after = await again.ainvoke(Command(resume=True), THREAD, context=context)
    assert (after["status"], after["error"]) == (
        "limit", "the run has used 30 tokens; its limit is 30",
    )  # fmt: skip
    assert (await again.ainvoke(None, THREAD))["status"] == "success"


async def test_an_approval_for_the_rest_of_the_run_outlasts_the_process():
    text = """
name: grants
steps:
  - {name: a, tool: erase, inputs: {path: a}, approve: ask}
  - {name: b, tool: write, inputs: {text: b}, approve: always}
  - {name: c, tool: erase, inputs: {path: c}, approve: ask}
"""
    saver, server = InMemorySaver(), tools()
    first = await graph(text, server, saver, []).ainvoke({}, THREAD)
    assert first["__interrupt__"][0].value["step"] == "a"
    second = await graph(text, server, saver, []).ainvoke(Command(resume="always"), THREAD)
    assert second["__interrupt__"][0].value["step"] == "b"
    third = await graph(text, server, saver, []).ainvoke(Command(resume="yes"), THREAD)
    assert third["status"] == "success"
    fresh = await graph(text, server, saver, []).ainvoke({}, THREAD)
    assert fresh["__interrupt__"][0].value["step"] == "a", "a new run asks again"


KILLED = """
import asyncio, os, sys
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
sys.path.insert(0, sys.argv[1])
import test_continued as here

async def main():
    server = here.tools()
    model_calls = []

    def replies(request):
        model_calls.append(request)
        if len(model_calls) == 2:
            os._exit(9)
        return here.LOOKS

    from fractale.models import Models
    from fractale.settings import Settings
    from fractale.testing import ScriptedModel
    import fractale
    deps = fractale.Dependencies(
        toolbox=server, models=Models(Settings(), given=ScriptedModel(replies))
    )
    async with AsyncSqliteSaver.from_conn_string("db") as saver:
        graph = fractale.compile_plan(fractale.load(here.AGENT), deps).compile(checkpointer=saver)
        await graph.ainvoke({}, here.THREAD)

asyncio.run(main())
"""


async def test_an_agent_that_a_kill_interrupted_may_have_read_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent)]
    killed = await asyncio.to_thread(subprocess.run, command, check=False)
    assert killed.returncode == 9
    server = tools()
    async with AsyncSqliteSaver.from_conn_string("db") as saver:
        again = graph(AGENT, server, saver, [ENDS])
        assert (await again.ainvoke(None, THREAD))["status"] == "success"
        assert "calls before a kill" in sources(await again.aget_state(THREAD))
        assert server.calls == []


PUBLISH = """
name: publish
inputs: {text: {default: safe}}
steps: [{name: s, tool: erase, approve: always, inputs: {path: "{{ inputs.text }}"}}]
"""


async def asked_again(after: Any, path: str, server: FakeToolServer) -> None:
    (question,) = after["__interrupt__"]
    assert question.value["arguments"] == {"path": path}
    assert "not asked yet" in question.value["problem"]
    assert server.calls == []


async def test_an_answer_counts_only_for_the_call_that_was_shown():
    saver, server = InMemorySaver(), tools()
    waiting = await graph(PUBLISH, server, saver, []).ainvoke({}, THREAD)
    assert waiting["__interrupt__"][0].value["arguments"] == {"path": "safe"}
    changed = graph(PUBLISH.replace("{{ inputs.text }}", "all"), server, saver, [])
    await asked_again(await changed.ainvoke(Command(resume="yes"), THREAD), "all", server)
    assert (await changed.ainvoke(Command(resume="yes"), THREAD))["status"] == "success"
    assert [call.arguments for call in server.calls] == [{"path": "all"}]


async def test_an_answer_does_not_count_for_a_state_that_was_changed_after_the_question():
    saver, server = InMemorySaver(), tools()
    plan = graph(PUBLISH, server, saver, [])
    await plan.ainvoke({}, THREAD)
    await plan.aupdate_state(THREAD, {"inputs": {"text": "all"}})
    await asked_again(await plan.ainvoke(Command(resume="yes"), THREAD), "all", server)
    assert (await plan.ainvoke(Command(resume="yes"), THREAD))["status"] == "success"


async def test_an_answer_before_the_question_is_none():
    saver, server = InMemorySaver(), tools()
    plan = graph(PUBLISH, server, saver, [])
    await plan.ainvoke({}, THREAD, interrupt_before=["s"])
    await asked_again(await plan.ainvoke(Command(resume="yes"), THREAD), "safe", server)
    assert (await plan.ainvoke(Command(resume="yes"), THREAD))["status"] == "success"


async def test_an_answer_does_not_count_for_another_definition_of_the_tool():
    saver, server = InMemorySaver(), tools()
    await graph(PUBLISH, server, saver, []).ainvoke({}, THREAD)
    server.describe("erase", description="Erase everything.")
    after = await graph(PUBLISH, server, saver, []).ainvoke(Command(resume="yes"), THREAD)
    await asked_again(after, "safe", server)


EDITED = """
name: edited
limits: {tokens: 40}
inputs: {text: {default: safe}}
steps:
  - {name: s, agent: , instruction: "Look. {{ inputs.text }}", tools: [look, write]}
  - {name: a, tool: erase, inputs: {path: a}, approve: ask}
  - {name: b, tool: write, inputs: {text: "{{ inputs.text }}"}, approve: always}
  - {name: c, tool: erase, inputs: {path: c}, approve: ask}
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_usage_and_approvals_outlast_an_edit_of_the_state(kind):
    saver, server = InMemorySaver(), tools()

    async def edit(plan: Any, values: Any) -> None:
        if kind == "async":
            await plan.aupdate_state(THREAD, values)
        else:
            plan.update_state(THREAD, values)

    await graph(EDITED, server, saver, [LOOKS, WRITES]).ainvoke({}, THREAD)
    again = graph(EDITED, server, saver, [ENDS])
    await edit(again, {"inputs": {"text": "other"}})
    plan = graph(EDITED, server, saver, [WRITES, ENDS])
    waiting = await plan.ainvoke(None, THREAD)  # the step begins anew
    assert waiting["__interrupt__"][0].value["step"] == "s"
    limited = await plan.ainvoke(Command(resume="yes"), THREAD)
    assert (limited["status"], limited["error"]) == (
        "limit", "the run has used 45 tokens; its limit is 40",
    )  # fmt: skip
    context: Any = {"limits": {"tokens": 1000}}
    after = await plan.ainvoke(None, THREAD, context=context)
    assert "fake.look" in sources(await plan.aget_state(THREAD))
    assert after["__interrupt__"][0].value["step"] == "a"
    after = await plan.ainvoke(Command(resume="always"), THREAD, context=context)
    assert after["__interrupt__"][0].value["step"] == "b"
    await edit(plan, {"inputs": {"text": "third"}})
    after = await plan.ainvoke(None, THREAD, context=context)
    assert after["__interrupt__"][0].value["arguments"] == {"text": "third"}
    after = await plan.ainvoke(Command(resume="yes"), THREAD, context=context)
    assert after["status"] == "success", after
    assert (await plan.aget_state(THREAD)).values["spent"]["steps"] == 4


BIG = 2**70


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_questions_with_integers_of_any_size(kind):
    server = FakeToolServer()
    kept: list[Any] = []

    @server.tool
    def keep(n: int, words: list) -> dict:
        """Keep."""
        kept.append((n, words))
        return {"n": n}

    text = """
name: big
inputs: {n: {type: integer}}
outputs: {n: "{{ steps.s.outputs.n }}"}
steps:
  - name: s
    tool: keep
    approve: always
    inputs: {n: "{{ inputs.n }}", words: [{"$json": "1"}, "{{ inputs.n }}", here]}
"""
    words = [{"$json": "1"}, BIG, "here"]
    async with AsyncSqliteSaver.from_conn_string(":memory:") as sqlite:
        plan = graph(text, server, InMemorySaver() if kind == "memory" else sqlite, [])
        waiting = await plan.ainvoke({"n": BIG}, THREAD)
        (asked,) = waiting["__interrupt__"]
        given = asked.value["arguments"]
        assert given["n"] == {"$json": str(BIG)}
        assert given["words"][1:] == [{"$json": str(BIG)}, "here"]
        with pytest.raises(AnswerError, match="over 64 bits"):
            await plan.ainvoke(Command(resume={"arguments": {**given, "n": BIG}}), THREAD)
        answer = {"arguments": {**given, "n": {"$json": str(BIG + 1)}}}
        after = await plan.ainvoke(Command(resume=answer), THREAD)
        assert after["status"] == "success", after
        assert kept == [(BIG + 1, words)]


@pytest.mark.parametrize("approval", ["always", "yes"])
async def test_an_approval_never_answers_the_next_question_of_its_call(approval):
    server, heard = FakeToolServer(), cast("list[Any]", [])

    @server.tool
    async def register() -> dict:
        """Register."""
        heard.append([(await server.elicit(each))["content"] for each in ("Name?", "Town?")])
        return {"done": True}

    text = "name: p\nsteps: [{name: s, tool: register, approve: ask}]\n"
    saver = InMemorySaver()
    after = await graph(text, server, saver, []).ainvoke({}, THREAD)
    for answer, asks in ((approval, "Name?"), ("Ada", "Town?")):
        after = await graph(text, server, saver, []).ainvoke(Command(resume=answer), THREAD)
        assert after["__interrupt__"][0].value["message"] == asks
    after = await graph(text, server, saver, []).ainvoke(Command(resume="Paris"), THREAD)
    assert after["status"] == "success", after
    assert heard == [[{"value": "Ada"}, {"value": "Paris"}]]
