"""`fractale.plan_graph`: a plan with its tools and models as one graph of an application."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import fractale
from fractale.compose import SharedToolbox
from fractale.errors import InputError, PlanError, SettingsError, UsageError
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.replies import Reply
from servers.running import exists, stdio

PLAN = """
name: chain
servers: []
inputs: {nodes: {type: integer, default: 3}, token: {type: string, secret: true, required: false}}
outputs: {nodes: "{{ steps.b.outputs.n }}"}
steps:
  - {name: a, tool: count, inputs: {n: "{{ inputs.nodes }}"}}
  - {name: b, tool: count, inputs: {n: "{{ steps.a.outputs.n }}"}, approve: always}
"""
THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}


def count(n: int) -> dict:
    """Add one."""
    return {"n": n + 1}


async def test_python_functions_an_answer_and_another_process(settings):
    saver = InMemorySaver()

    def graph():
        return fractale.plan_graph(PLAN, tools=[count], settings=settings, checkpointer=saver)

    first = await graph().ainvoke({"nodes": 4}, THREAD)
    assert first["__interrupt__"][0].value["kind"] == "approval"
    after = await graph().ainvoke(Command(resume=True), THREAD)
    assert after == {"status": "success", "outputs": {"nodes": 6}, "error": None}


def test_sync_code_and_a_file(settings, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    graph = fractale.plan_graph(plan, tools=[count], settings=settings, yes=True)
    for _ in range(2):
        assert graph.invoke({"nodes": 4})["outputs"] == {"nodes": 6}


async def test_a_toolbox_that_is_open_stays_so_and_a_model_answers(settings):
    tools = FakeToolServer()
    tools.tool(count)
    text = PLAN + "  - {name: c, agent: , instruction: hi, tools: []}\n"
    model = ScriptedModel([Reply(text="hi")])
    events: list[str] = []
    graph = fractale.plan_graph(
        text,
        tools=tools,
        model=model,
        settings=settings,
        yes=True,
        limits={"steps": 3},
        on_event=lambda event: events.append(event.kind),
    )
    assert (await graph.ainvoke({}))["status"] == "success"
    assert (len(tools.calls), len(model.requests), events.count("step_finished")) == (2, 1, 3)


async def test_runs_at_the_same_time_share_one_server_which_ends_after_the_last(settings, tmp_path):
    settings = replace(settings, servers={"tools": stdio()})
    text = "name: p\nsteps: [{name: s, tool: pid}]\noutputs: {pid: '{{ steps.s.outputs.pid }}'}"
    graph = fractale.plan_graph(text, settings=settings)
    ends = await asyncio.gather(*(graph.ainvoke({}) for _ in range(4)))
    assert {after["error"] for after in ends} == {None}
    (pid,) = {after["outputs"]["pid"] for after in ends}
    assert not exists(int(pid))


class Opened:
    """Counts how often a toolbox is opened and closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.seen: list[str] = []

    async def __aenter__(self):
        self.seen.append("opened")
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return FakeToolServer()

    async def __aexit__(self, *error: object) -> None:
        self.seen.append("closed")


async def test_a_toolbox_is_opened_once_for_all_that_use_it():
    opened = Opened()
    shared = SharedToolbox(lambda: opened)
    with pytest.raises(RuntimeError, match="only during a run"):
        await shared.tools()
    async with shared.open() as one, shared.open() as other:
        assert one is other
        assert await shared.tools() == []
        assert opened.seen == ["opened"]
    assert opened.seen == ["opened", "closed"]
    async with shared.open():
        assert opened.seen == ["opened", "closed", "opened"]


async def test_a_toolbox_that_cannot_be_opened_is_tried_again():
    opened = Opened(SettingsError("no"))
    shared = SharedToolbox(lambda: opened, idle=60)
    for _ in range(2):
        with pytest.raises(SettingsError, match="no"):
            async with shared.open():
                raise AssertionError
    opened.error = None
    async with shared.open():
        pass
    assert opened.seen == ["opened"] * 3


def test_an_idle_toolbox_is_kept_for_the_next_and_closed_with_its_loop():
    opened = Opened()
    shared = SharedToolbox(lambda: opened, idle=60)

    async def twice() -> None:
        for _ in range(2):
            async with shared.open():
                pass
        assert opened.seen == ["opened"]

    asyncio.run(twice())
    assert opened.seen == ["opened", "closed"]
    asyncio.run(twice_of(shared))


async def test_a_cancelled_opening_does_not_hang_the_runs_that_wait_for_it():
    @asynccontextmanager
    async def opened():
        raise asyncio.CancelledError
        yield

    shared = SharedToolbox(opened)
    waiting = [asyncio.create_task(twice_of(shared)) for _ in range(2)]
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert [str(each) for each in found] == ["opening the plan's tools was cancelled"] * 2


async def twice_of(shared: SharedToolbox) -> None:
    async with shared.open():
        pass


async def test_what_is_wrong_is_said_at_once_or_before_a_run(settings):
    with pytest.raises(PlanError, match="unknown"):
        fractale.plan_graph("name: p\nsteps: [{name: s, tool: t, x: 1}]\n", settings=settings)
    with pytest.raises(InputError, match="`limits` has no key `step`"):
        fractale.plan_graph(PLAN, settings=settings, limits={"step": 3})
    with pytest.raises(UsageError, match="`tools` cannot be the function `count`") as wrong:
        fractale.plan_graph(PLAN, settings=settings, tools=count)  # pyright: ignore[reportArgumentType]
    assert wrong.value.hint == "give a list of functions and LangChain tools, or a toolbox"
    with pytest.raises(TypeError, match="'tolls'; did you mean `tools`"):
        fractale.plan_graph(PLAN, settings=settings, tolls=[count])  # pyright: ignore[reportCallIssue]
    with pytest.raises(PlanError, match="no server has the tool `count`"):
        await fractale.plan_graph(PLAN, settings=settings).ainvoke({})
