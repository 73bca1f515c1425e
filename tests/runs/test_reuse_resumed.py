"""A run that is resumed, forked or repeated keeps what its steps took over."""

# ruff: noqa: ASYNC240 - these tests change files between processes of a run
from __future__ import annotations

from pathlib import Path

import pytest

from fractale.api import afork, aresume
from fractale.errors import UsageError
from fractale.store.cache import CacheStore
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer

PLAN = """
name: p
steps:
  - {name: a, tool: size, inputs: {path: in.dat}}
  - {name: wait, ask: Go on?}
  - {name: b, tool: size, inputs: {path: in.dat, n: "{{ steps.a.outputs.n }}"}}
outputs: {n: "{{ steps.b.outputs.n }}"}
"""


@pytest.fixture
def tools() -> FakeToolServer:
    made = FakeToolServer()

    @made.tool(read_only=True)
    def size(path: str, n: int = 0) -> dict:
        return {"n": n + len(Path(path).read_text())}

    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.dat").write_text("abc")
    return tmp_path


def reused(events) -> list[str]:
    return [e["step"] for e in events if e["event"] == "step_finished" and e.get("reused")]


async def test_a_resumed_run_reuses_as_it_was_started(run_plan, tools, settings, folder):
    del folder
    await run_plan(PLAN, tools=tools, reuse=True, answers={"wait": "yes"}, keep=True)
    run = await run_plan(PLAN, tools=tools, reuse=True, keep=True)
    assert (run.status, len(tools.calls)) == ("waiting", 2)
    CacheStore(settings.state_dir).prune()
    resumed = await aresume(run.result.run, replies={"wait": "yes"}, tools=tools, settings=settings)
    assert (resumed.status, resumed.outputs, len(tools.calls)) == ("success", {"n": 6}, 3)
    events = list(RunRecords(settings.state_dir).find(run.result.run).read_events())
    assert reused(events) == ["a"]
    later = await run_plan(PLAN, tools=tools, reuse=True, answers={"wait": "yes"})
    assert later.of("step_finished")[2]["reused"]["run"] == run.result.run


async def test_a_fork_keeps_the_steps_before_it(run_plan, tools, settings, folder):
    del folder
    first = await run_plan(PLAN, tools=tools, reuse=True, answers={"wait": "yes"}, keep=True)
    run = await run_plan(PLAN, tools=tools, reuse=True, answers={"wait": "yes"}, keep=True)
    Path("in.dat").write_text("abcd")
    forked = await afork(run.result.run, "b", tools=tools, settings=settings, reuse=True)
    assert (forked.status, forked.outputs) == ("success", {"n": 7})
    assert first.outputs == {"n": 6}


async def test_what_an_earlier_process_looked_up_counts_and_not_what_is_there_by_then(
    run_plan, tools, settings, folder
):
    """The look-up is in the journal: a call that was begun is not replaced by a result."""
    del folder
    asking = PLAN.replace("inputs: {path: in.dat}", "inputs: {path: in.dat}, approve: always")
    run = await run_plan(asking, tools=tools, reuse=True, keep=True)
    assert (run.status, tools.calls) == ("waiting", [])  # it looked, found nothing, and asks
    await run_plan(PLAN, tools=tools, reuse=True, answers={"wait": "yes"}, keep=True)
    before = len(tools.calls)
    resumed = await aresume(run.result.run, replies={"a": "yes"}, tools=tools, settings=settings)
    assert resumed.status == "waiting"  # now at the question of the plan
    assert len(tools.calls) == before + 1
    journal = RunRecords(settings.state_dir).find(run.result.run).journal.read_text()
    assert journal.count('"cache.look"') == 1


async def test_a_step_that_was_taken_over_asks_nobody(run_plan, tools, folder):
    del folder
    asking = PLAN.replace("inputs: {path: in.dat}", "inputs: {path: in.dat}, approve: always")
    answers = {"wait": "yes", "a": "yes"}
    await run_plan(asking, tools=tools, reuse=True, answers=answers)
    run = await run_plan(asking, tools=tools, reuse=True, answers={"wait": "yes"})
    assert (run.status, len(tools.calls)) == ("success", 2)


async def test_reuse_must_be_true_false_or_none(run_plan, tools):
    with pytest.raises(UsageError, match="`reuse` cannot be"):
        await run_plan(PLAN, tools=tools, reuse="yes")
