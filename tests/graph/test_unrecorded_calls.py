"""The calls of a plan's graph without a record: none is made twice without asking."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain.tools import tool
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt.tool_node import ToolInvocationError
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from fractale import as_node, plan_graph
from fractale.compose import PlanFailed
from fractale.testing import ScriptedModel
from fractale.testing.replies import Reply
from servers.postgres import new_database

THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}
SAVERS = ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.real)]
DURABILITIES = ["sync", "async", "exit"]


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


class Own(TypedDict, total=False):
    ended: str


def composed(form: str, plan: str, saver: Any, options: dict[str, Any]) -> Any:
    """The plan alone, or as a node of another graph."""
    if form == "alone":
        return plan_graph(plan, checkpointer=saver, idle=60, **options)
    node = as_node(plan, outputs={"ended": lambda end: end["status"]}, idle=60, **options)
    builder: Any = StateGraph(Own)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=saver)


async def go_on(graph: Any, given: Any, durability: str) -> dict[str, Any]:
    """Run or continue a graph. Return its interrupts and its status."""
    try:
        after = await graph.ainvoke(given, THREAD, durability=durability)
    except PlanFailed as error:
        return {"status": error.status}
    return {"status": after.get("ended"), **after}


LIMITED = """
name: limited
servers: []
limits: {tokens: LIMIT}
steps:
  - name: each
    foreach: [done, cut, greedy]
    agent:
    tools: [write, look]
    instruction: "Take the item {{ item }}."
"""


class Items:
    """The parts of a foreach whose last item reaches a limit while the second one makes a call."""

    def __init__(self) -> None:
        self.writes: Counter[str] = Counter()
        self.looks = 0
        self.is_hanging = True
        self.began = asyncio.Event()
        self._done = asyncio.Event()

    async def write(self, word: str) -> dict:
        """Write a word."""
        self.writes[word] += 1
        if word == "cut" and self.is_hanging:
            self.began.set()
            await asyncio.Event().wait()
        return {"written": word}

    async def look(self) -> dict:
        """Look when the other items have come as far as they come."""
        self.looks += 1
        await self.began.wait()
        await self._done.wait()
        return {"looked": True}

    def reply(self, messages: Any) -> Reply:
        answered = sum(isinstance(each, ToolMessage) for each in messages)
        item = re.findall(r"the item (\w+)", repr(messages))[0]
        if item == "greedy":
            tokens = 100 if answered == 1 else 1
            if answered == 2:
                return Reply(text="greedy", input_tokens=tokens)
            return Reply(tool_calls=[("look", {})], input_tokens=tokens)
        if not answered:
            return Reply(tool_calls=[("write", {"word": item})], input_tokens=1)
        if item == "done":
            self._done.set()
        return Reply(text=item, input_tokens=1)


@pytest.mark.parametrize("form", ["alone", "node"])
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("kind", SAVERS)
async def test_a_limit_repeats_no_call_of_a_foreach(
    settings, tmp_path, request, kind, durability, form
):
    items = Items()
    options = {
        "settings": settings,
        "tools": [items.write, items.look],
        "model": ScriptedModel(items.reply),
        "yes": True,
    }
    async with opened(kind, tmp_path, request) as saver:
        low = composed(form, LIMITED.replace("LIMIT", "50"), saver, options)
        assert (await go_on(low, {}, durability))["status"] == "limit"
        assert items.writes == {"done": 1, "cut": 1}
        items.is_hanging = False
        high = composed(form, LIMITED.replace("LIMIT", "5000"), saver, options)
        waiting = await go_on(high, None, durability)
        (asked,) = waiting["__interrupt__"]
        assert (asked.value["kind"], asked.value["step"]) == ("in_doubt", "each[1]")
        assert items.writes == {"done": 1, "cut": 1}
        after = await go_on(high, Command(resume="again"), durability)
        assert after["status"] == "success", after
        assert items.writes == {"done": 1, "cut": 2}
        assert items.looks == 2


ASKING = """
name: asking
servers: []
steps: [{name: s, agent: clerk, instruction: Buy.}]
"""


def clerk(bought: list[str], *, ids: bool) -> Any:
    """A graph whose one node buys, and asks after that. LangGraph repeats the node."""

    @tool
    def buy(what: str) -> str:
        """Buy something."""
        bought.append(what)
        return f"bought {what}, the {len(bought)}. time"

    async def work(state: Any) -> Any:
        said: list[str] = []
        for what in ("tea", "tea"):
            # As a model that is asked again would, it gives the call another id.
            call = {"type": "tool_call", "name": "buy", "id": str(uuid4()), "args": {"what": what}}
            try:
                said.append(str(await buy.ainvoke(call if ids else call["args"])))
            except ToolInvocationError as error:  # as a node of tools does
                said.append(error.message)
        said.append(interrupt("Anything else?"))
        return {"messages": [AIMessage("; ".join(said))]}

    return StateGraph(MessagesState).add_node("work", work).add_edge(START, "work").compile()


@pytest.mark.parametrize("form", ["alone", "node"])
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("kind", SAVERS)
async def test_an_agent_that_asks_after_a_call_does_not_make_it_again(
    settings, tmp_path, request, kind, durability, form
):
    bought: list[str] = []
    options = {"settings": settings, "yes": True, "agents": {"clerk": clerk(bought, ids=True)}}
    async with opened(kind, tmp_path, request) as saver:
        first = composed(form, ASKING, saver, options)
        waiting = await go_on(first, {}, durability)
        assert waiting["__interrupt__"][0].value["kind"] == "interrupt"
        assert bought == ["tea", "tea"]
        again = composed(form, ASKING, saver, options)
        after = await go_on(again, Command(resume="no"), durability)
        assert after["status"] == "success", after
        assert bought == ["tea", "tea"]


async def test_an_agents_call_without_an_id_is_in_doubt_since_no_model_reads_its_result(settings):
    bought: list[str] = []
    options = {"settings": settings, "yes": True, "agents": {"clerk": clerk(bought, ids=False)}}
    graph = plan_graph(ASKING, checkpointer=InMemorySaver(), **options)
    await graph.ainvoke({}, THREAD)
    after = await graph.ainvoke(Command(resume="no"), THREAD)
    asked: list[str] = []
    while after["status"] is None:
        (each,) = after["__interrupt__"]
        asked.append(each.value["kind"])
        answer = "failed" if asked[-1] == "in_doubt" else "no"
        after = await graph.ainvoke(Command(resume={each.id: answer}), THREAD)
    assert (set(asked[:-1]), asked[-1]) == ({"in_doubt"}, "interrupt")
    assert (after["status"], bought) == ("success", ["tea", "tea"])


async def test_an_older_state_is_run_again_with_its_calls_and_the_latest_one_without(settings):
    bought: list[str] = []
    options = {"settings": settings, "yes": True, "agents": {"clerk": clerk(bought, ids=True)}}
    graph = plan_graph(ASKING, checkpointer=InMemorySaver(), **options)
    await graph.ainvoke({}, THREAD)
    waiting = (await graph.aget_state(THREAD)).config
    after = await graph.ainvoke(Command(resume="no"), waiting)
    assert (after["status"], len(bought)) == ("success", 2)
    await graph.ainvoke(None, waiting)
    assert len(bought) == 4


CUT = """
name: cut
servers: []
steps:
  - {name: first, tool: write, inputs: {word: first}}
  - {name: second, tool: write, inputs: {word: cut}}
"""


@pytest.mark.parametrize("form", ["alone", "node"])
@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("kind", SAVERS)
async def test_a_call_that_was_cancelled_is_in_doubt(
    settings, tmp_path, request, kind, durability, form
):
    items = Items()
    options = {"settings": settings, "tools": [items.write]}
    async with opened(kind, tmp_path, request) as saver:
        graph = composed(form, CUT, saver, options)
        task = asyncio.create_task(go_on(graph, {}, durability))
        await items.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        items.is_hanging = False
        again = composed(form, CUT, saver, options)
        waiting = await go_on(again, None, durability)
        (asked,) = waiting["__interrupt__"]
        assert (asked.value["kind"], asked.value["step"]) == ("in_doubt", "second")
        after = await go_on(again, Command(resume="success: {outputs: {written: cut}}"), durability)
        after = await go_on(again, Command(resume={"outputs": {"written": "cut"}}), durability)
        assert after["status"] == "success", after
        assert items.writes == {"first": 1, "cut": 1}
