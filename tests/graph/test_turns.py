"""Two calls that continue one waiting thread of a plan's graph make the approved call once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

import fractale
from fractale import AnswerError, UsageError
from fractale.graph.turns import turn_of
from fractale.settings import Settings

ONE = "name: p\nsteps: [{name: a, tool: call, inputs: {n: 1}, approve: always}]"
TWO = """
name: p
steps:
  - {name: a, tool: call, inputs: {n: 1}, approve: always}
  - {name: b, tool: call, inputs: {n: 2}, approve: always}
"""
PAIR = """
name: p
steps:
  - name: pair
    parallel:
      - {name: a, tool: call, inputs: {n: 1}, approve: always}
      - {name: b, tool: call, inputs: {n: 2}, approve: always}
"""
THREAD: Any = {"configurable": {"thread_id": "t"}}


@asynccontextmanager
async def saver_of(kind: str, tmp_path: Any):
    if kind == "memory":
        yield InMemorySaver()
        return
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        yield saver


class Calls(list[int]):
    """A tool that notes its calls."""

    def graph(self, plan: str, saver: Any, *, seconds: float = 0.05) -> Any:
        async def call(n: int) -> dict[str, int]:
            """Call."""
            self.append(n)
            await asyncio.sleep(seconds)
            return {"n": n}

        return fractale.plan_graph(plan, tools=[call], settings=Settings(), checkpointer=saver)


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("same_graph", [False, True])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_two_at_once_make_one_call(kind, same_graph, by_id, tmp_path):
    calls = Calls()
    async with saver_of(kind, tmp_path) as saver:
        graph = calls.graph(ONE, saver)
        other = graph if same_graph else calls.graph(ONE, saver)
        paused = await graph.ainvoke({}, THREAD)
        answer: Any = {paused["__interrupt__"][0].id: True} if by_id else True
        ends = await asyncio.gather(
            *(each.ainvoke(Command(resume=answer), THREAD) for each in (graph, other, graph))
        )
        assert [end["status"] for end in ends] == ["success"] * 3
        assert calls == [1]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_the_later_answer_is_never_one_to_the_next_question(kind, tmp_path):
    calls = Calls()
    async with saver_of(kind, tmp_path) as saver:
        graph = calls.graph(TWO, saver)
        await graph.ainvoke({}, THREAD)
        first, second = await asyncio.gather(
            *(graph.ainvoke(Command(resume=True), THREAD) for _ in range(2)), return_exceptions=True
        )
        assert first["__interrupt__"][0].value["step"] == "b"
        assert isinstance(second, AnswerError)
        assert "another call has continued this thread meanwhile" in str(second)
        assert calls == [1]
        assert (await graph.ainvoke(Command(resume=True), THREAD))["status"] == "success"
    assert calls == [1, 2]


async def test_two_questions_are_answered_by_two_calls_at_once():
    calls = Calls()
    graph = calls.graph(PAIR, InMemorySaver())
    paused = await graph.ainvoke({}, THREAD)
    ids = [each.id for each in paused["__interrupt__"]]
    await asyncio.gather(*(graph.ainvoke(Command(resume={each: True}), THREAD) for each in ids))
    assert (await graph.aget_state(THREAD)).values["status"] == "success"
    assert sorted(calls) == [1, 2]


def test_two_threads_of_a_sync_program_make_one_call(tmp_path):
    calls = Calls()
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        graph = calls.graph(ONE, saver)
        graph.invoke({}, THREAD)
        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(graph.invoke, Command(resume=True), THREAD) for _ in range(2)]
            assert [end.result()["status"] for end in ends] == ["success"] * 2
    assert calls == [1]


@pytest.mark.parametrize("mode", ["values", "updates"])
async def test_a_stream_that_is_left_at_a_question_holds_nobody(mode):
    calls = Calls()
    graph = calls.graph(TWO, InMemorySaver())
    await graph.ainvoke({}, THREAD)
    stream = graph.astream(Command(resume=True), THREAD, stream_mode=mode)
    async for chunk in stream:  # it stays open
        if "__interrupt__" in chunk:
            break
    again = await graph.ainvoke(Command(resume=True), THREAD)
    assert again["__interrupt__"][0].value["step"] == "b"  # the open stream has left no notes
    await stream.aclose()
    assert (await graph.ainvoke(Command(resume=True), THREAD))["status"] == "success"
    assert calls == [1, 2]


async def test_a_stream_that_is_left_in_the_middle_is_named():
    home = object()
    async with turn_of(home, "t") as held:
        held.shown(is_paused=False)
        with pytest.raises(UsageError, match="by a call whose stream is open"):
            async with turn_of(home, "t", patience=0.1):
                raise AssertionError
        async with turn_of(home, "another"), turn_of(object(), "t"):
            pass
    async with turn_of(home, "t", patience=0.1) as now:
        assert not now.waited


async def test_a_run_of_arun_ends_with_every_key_of_the_result():
    saver, calls = InMemorySaver(), Calls()
    graph = calls.graph(ONE, saver)
    tools = [graph_tool(calls)]
    known: Any = {"tools": tools, "settings": Settings(), "checkpointer": saver}
    first = await fractale.arun(ONE, run_id="r", **known)
    assert first.status == "waiting"
    thread: Any = {"configurable": {"thread_id": "r"}}
    asked = await graph.ainvoke(Command(resume=True), thread)  # it has not asked yet itself
    assert asked["error"] is None
    after = await graph.ainvoke(Command(resume=True), thread)
    assert after == {"status": "success", "outputs": {}, "error": None}


def graph_tool(calls: Calls) -> Any:
    async def call(n: int) -> dict[str, int]:
        """Call."""
        calls.append(n)
        return {"n": n}

    return call
