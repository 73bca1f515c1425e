"""A step whose time is up is tried again only where that does nothing twice."""

from __future__ import annotations

import asyncio

import pytest

from fractale.testing import FakeToolServer, Reply, ScriptedModel

LONG = 60


class Slow:
    """Tools that note each call; the first of each hangs."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.server = FakeToolServer()

        async def note(text: str) -> dict:
            self.calls.append(text)
            if text == "slow" and self.calls.count(text) == 1:
                await asyncio.sleep(LONG)
            return {"noted": text}

        self.server.tool(name="change")(note)
        self.server.tool(name="look", read_only=True)(note)


@pytest.fixture
def slow() -> Slow:
    return Slow()


def agent(tools: str) -> str:
    return f"""
    name: p
    steps:
      - {{name: s, type: agent, instruction: do it, tools: [{tools}], timeout: 2s,
         retry: {{attempts: 3, delay: 0.01}}}}
    """


async def test_a_model_that_hangs_is_asked_again_and_no_call_is_repeated(run_plan, slow):
    turns = iter(
        [
            Reply(tool_calls=[("change", {"text": "one"})]),
            Reply(text="too late", delay=LONG),
            Reply(text="done"),
        ]
    )
    model = ScriptedModel(lambda _: next(turns))
    seen = await run_plan(agent("change"), tools=slow.server, model=model, yes=True)
    assert seen.status == "success", seen.result.error
    assert slow.calls == ["one"]
    assert [w["code"] for w in seen.of("warning")] == ["retry"]


async def test_an_agents_call_that_changes_nothing_is_made_again(run_plan, slow):
    model = ScriptedModel(
        lambda messages: (
            Reply(text="done")
            if messages[-1].type == "tool"
            else Reply(tool_calls=[("look", {"text": "slow"})])
        )
    )
    seen = await run_plan(agent("look"), tools=slow.server, model=model)
    assert seen.status == "success", seen.result.error
    assert slow.calls == ["slow", "slow"]


async def test_an_agents_call_that_may_change_something_is_not_made_again(run_plan, slow):
    model = ScriptedModel(lambda _: Reply(tool_calls=[("change", {"text": "slow"})]))
    seen = await run_plan(agent("change"), tools=slow.server, model=model, yes=True)
    assert seen.status == "failed"
    assert "the call of `change` may have been made, or not" in str(seen.result.error)
    assert slow.calls == ["slow"]


@pytest.mark.parametrize(("tool", "calls"), [("look", 2), ("change", 1)])
async def test_so_it_is_with_a_tool_step(run_plan, slow, tool, calls):
    plan = f"""
    name: p
    steps:
      - {{name: s, tool: {tool}, inputs: {{text: slow}}, timeout: 2s,
         retry: {{attempts: 3, delay: 0.01}}}}
    """
    seen = await run_plan(plan, tools=slow.server)
    assert seen.status == ("success" if calls == 2 else "failed")
    assert slow.calls == ["slow"] * calls
