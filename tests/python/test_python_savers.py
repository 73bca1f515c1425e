"""Runs on LangGraph's own checkpointers: another process continues them, with all that they had."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

import fractale
import python_runs
from fractale.errors import UsageError
from fractale.testing import Reply, ScriptedModel
from python_runs import ASKS, HUGE, LARGE, open_saver
from servers.postgres import new_database


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "checkpoints.sqlite")
    return new_database(request.getfixturevalue("postgres"))


async def in_a_process(url: str, run_id: str, what: str) -> dict[str, Any]:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, python_runs.__file__, url, run_id, what), stdout=subprocess.PIPE
    )
    out, _ = await program.communicate()
    assert program.returncode == 0
    return json.loads(out)


async def test_another_process_continues_a_run_with_large_outputs(url):
    first = await in_a_process(url, "a", "begin")
    assert first["status"] == "waiting"
    second = await in_a_process(url, "a", "resume")
    assert second["status"] == "success"
    assert second["outputs"] == {"size": 50_000, "text": LARGE, "huge": HUGE, "big": 50_000}
    assert [step["name"] for step in second["steps"]] == ["make", "send"]
    again = await in_a_process(url, "a", "resume")
    assert again == second


async def test_the_state_in_a_checkpointer_is_readable_by_itself(url, settings):
    tools = [python_runs.make, python_runs.send]
    async with open_saver(url) as saver:
        done = await fractale.arun(
            ASKS, tools=tools, checkpointer=saver, run_id="a", settings=settings
        )
        assert done.status == "waiting"
        found = await saver.aget_tuple({"configurable": {"thread_id": "a"}})
    state = fractale.resolve(found.checkpoint["channel_values"])
    assert state["steps"]["make"]["outputs"] == {"text": LARGE, "huge": HUGE}


async def test_the_state_of_a_recorded_run_is_resolved_by_its_record(settings):
    tools = [python_runs.make, python_runs.send]
    saver = InMemorySaver()
    done = await fractale.arun(ASKS, tools=tools, checkpointer=saver, keep=True, settings=settings)
    found = await saver.aget_tuple({"configurable": {"thread_id": done.run}})
    values = found.checkpoint["channel_values"]
    assert values["steps"]["make"]["outputs"]["$ref"].startswith("sha256:")
    for run in (done.run, "-1"):
        state = fractale.resolve(values, run, settings=settings)
        assert state["steps"]["make"]["outputs"] == {"text": LARGE, "huge": HUGE}
    with pytest.raises(fractale.FractaleError, match="nobody"):
        fractale.resolve(values, "nobody", settings=settings)


async def test_a_model_and_its_tools_are_not_asked_again(url, settings):
    model = ScriptedModel([Reply(tool_calls=[("make", {})]), "made it"])
    asked: list[str] = []

    def made() -> dict[str, Any]:
        """Make."""
        asked.append("make")
        return {"ok": True}

    made.__name__ = "make"
    plan = """
    name: p
    steps:
      - {name: think, type: agent, instruction: Make it, tools: [make]}
    outputs: {text: "{{ steps.think.outputs.content }}"}
    """
    known: dict[str, Any] = {"tools": [made], "model": model, "settings": settings}
    async with open_saver(url) as saver:
        first = await fractale.arun(plan, checkpointer=saver, run_id="a", **known)
    assert (first.status, asked) == ("waiting", [])
    async with open_saver(url) as saver:
        done = await fractale.aresume(
            "a", plan=plan, checkpointer=saver, answers={"think": True}, **known
        )
    assert (done.outputs, asked) == ({"text": "made it"}, ["make"])
    assert len(model.requests) == 2


async def test_an_event_of_a_recorded_run_is_resolved_while_it_runs(settings):
    found: dict[str, Any] = {}
    tools = [python_runs.make, python_runs.send]
    async for item in fractale.astream(ASKS, tools=tools, keep=True, yes=True, settings=settings):
        if isinstance(item, fractale.Event) and item.kind == "step_finished":
            reference = item.data["outputs_ref"]
            found[item.data["step"]] = fractale.resolve(reference, item.run, settings=settings)
    assert found == {"make": {"text": LARGE, "huge": HUGE}, "send": {"size": 50_000}}


# -- savers of code that is not async -------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def sync_saver(request, tmp_path) -> Iterator[Any]:
    if request.param == "sqlite":
        from langgraph.checkpoint.sqlite import SqliteSaver

        made: Any = SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite"))
    else:
        from langgraph.checkpoint.postgres import PostgresSaver

        made = PostgresSaver.from_conn_string(new_database(request.getfixturevalue("postgres")))
    with made as saver:
        saver.setup()
        yield saver


def test_a_twin_takes_a_saver_that_is_not_async(sync_saver, settings):
    known: dict[str, Any] = {
        "tools": [python_runs.make, python_runs.send],
        "checkpointer": sync_saver,
        "settings": settings,
    }
    assert fractale.run(ASKS, run_id="a", **known).status == "waiting"
    done = fractale.resume("a", plan=ASKS, answers={"send": True}, **known)
    assert done.outputs["huge"] == HUGE
    *_, last = fractale.stream(ASKS, yes=True, **known)
    assert last.ok


async def test_an_async_function_names_the_saver_that_it_needs(sync_saver, settings):
    tools = [python_runs.make, python_runs.send]
    with pytest.raises(UsageError, match="no async methods") as error:
        await fractale.arun(ASKS, tools=tools, checkpointer=sync_saver, settings=settings)
    assert f"Async{type(sync_saver).__name__}" in str(error.value.hint)
