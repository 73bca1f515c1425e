"""Events of a run for Python code: listeners, and streams of events and tokens."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

import pytest

import fractale
from fractale.errors import ListenerError, UsageError
from fractale.events import Event
from fractale.testing import ScriptedModel

THREE = """
name: three
steps:
  - {name: one, tool: say, inputs: {n: 1}}
  - {name: two, tool: say, inputs: {n: 2}}
  - {name: three, tool: say, inputs: {n: 3}}
outputs: {n: "{{ steps.three.outputs.n }}"}
"""
POEM = """
name: poem
steps: [{name: write, type: agent, instruction: Write a poem}]
outputs: {text: "{{ steps.write.outputs.content }}"}
"""


@pytest.fixture
def said() -> list[int]:
    return []


@pytest.fixture
def project(settings, said) -> dict[str, Any]:
    def say(n: int) -> dict[str, Any]:
        """Say a number."""
        said.append(n)
        return {"n": n}

    return {"settings": settings, "tools": [say]}


# -- listeners ------------------------------------------------------------------------------------


async def test_an_async_listener_is_awaited_in_the_order_of_the_events(project):
    plain: list[str] = []
    waited: list[str] = []

    async def listen(event: Event) -> None:
        # The first events take longest.
        await asyncio.sleep(0.05 / (len(waited) + 1))
        waited.append(event.kind)

    done = await fractale.arun(THREE, on_event=lambda e: plain.append(e.kind), **project)
    assert done.ok
    await fractale.arun(THREE, on_event=listen, **project)
    assert waited == plain
    assert waited[-1] == "run_finished"


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_listener_that_raises_ends_the_run_with_its_state_kept(project, said, is_async):
    heard: list[str] = []

    def listen(event: Event) -> None:
        heard.append(event.kind)
        if event.kind == "step_started" and event.data["step"] == "two":
            raise ValueError("no room")

    async def listen_async(event: Event) -> None:
        listen(event)

    with pytest.raises(ListenerError, match=r"`on_event` raised ValueError.*`two`.*no room") as got:
        await fractale.arun(
            THREE, keep=True, on_event=listen_async if is_async else listen, **project
        )
    assert isinstance(got.value.__cause__, ValueError)
    result = got.value.result
    assert result.status == "stopped"
    assert heard.count("step_started") == 2
    assert "run_finished" not in heard
    done = await fractale.aresume(result.run, **project)
    assert done.outputs == {"n": 3}
    assert said == [1, 2, 3]


async def test_a_listener_that_raises_at_the_end_is_an_error_too(project):
    def listen(event: Event) -> None:
        if event.kind == "run_finished":
            raise KeyError("late")

    with pytest.raises(ListenerError, match="KeyError") as got:
        await fractale.arun(THREE, on_event=listen, **project)
    assert got.value.result.ok


async def test_the_events_before_an_error_are_heard(project):
    heard: list[str] = []

    async def listen(event: Event) -> None:
        heard.append(event.kind)

    plan = "name: p\nsteps: [{name: s, tool: say, inputs: {n: 1}, approve: always}]\n"
    with pytest.raises(fractale.FractaleError, match="s"):
        await fractale.arun(plan, answers={"s": 17}, on_event=listen, **project)
    assert "run_finished" in heard


# -- streams --------------------------------------------------------------------------------------


async def test_a_stream_has_the_events_and_at_last_the_result(project):
    items = [item async for item in fractale.astream(THREE, **project)]
    *events, result = items
    assert isinstance(result, fractale.RunResult)
    assert result.outputs == {"n": 3}
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    assert kinds.count("step_finished") == 3


async def test_a_stream_has_tokens_as_they_come(settings):
    model = ScriptedModel(["roses are red"])
    text = ""
    async for item in fractale.astream(POEM, model=model, settings=settings):
        match item:
            case fractale.Event(kind="model_text"):
                text += item.data["text"]
            case fractale.RunResult():
                assert item.outputs == {"text": text}
    assert text == "roses are red"


async def test_a_stream_gives_events_while_the_run_is_in_progress(settings):
    go = asyncio.Event()

    async def wait() -> dict[str, Any]:
        """Wait."""
        await go.wait()
        return {"ok": True}

    plan = "{name: p, steps: [{name: s, tool: wait}]}"
    async for item in fractale.astream(plan, tools=[wait], settings=settings):
        if isinstance(item, Event) and item.kind == "tool_started":
            go.set()
    assert go.is_set()


async def test_a_stream_that_is_left_cancels_its_run(project, said):
    async with contextlib.aclosing(fractale.astream(THREE, keep=True, **project)) as items:
        async for item in items:
            if isinstance(item, Event) and item.kind == "step_finished":
                run = item.run
                break
    assert said == [1]
    (row,) = fractale.list_runs(settings=project["settings"])
    assert (row.id, row.status) == (run, "stopped")
    items = [item async for item in fractale.astream_resume(run, **project)]
    assert items[-1].outputs == {"n": 3}
    assert sorted(said) == [1, 2, 3]


async def test_a_stream_raises_what_a_run_raises(project):
    with pytest.raises(fractale.PlanError):
        [item async for item in fractale.astream("name: x\n", **project)]
    with pytest.raises(TypeError, match="astream"):
        fractale.astream(THREE, modle="x")  # pyright: ignore


def test_a_stream_without_async(project, said):
    seen: list[str] = []
    for item in fractale.stream(THREE, on_event=lambda e: seen.append(e.kind), **project):
        last = item
    assert last.outputs == {"n": 3}
    assert seen[-1] == "run_finished"
    for item in fractale.stream(THREE, keep=True, **project):
        if isinstance(item, Event) and item.kind == "step_finished":
            break
    run = fractale.list_runs(limit=1, settings=project["settings"])[0]
    *_, last = fractale.stream_resume(run.id, **project)
    assert last.ok


# -- in a running loop ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "instead"),
    [
        ("run", [THREE], r"await fractale\.arun\("),
        ("resume", ["-1"], r"await fractale\.aresume\("),
        ("fork", ["-1", "one"], r"await fractale\.afork\("),
        ("replay", ["-1"], r"await fractale\.areplay\("),
        ("cancel", ["-1"], r"await fractale\.acancel\("),
        ("stream", [THREE], r"async for item in fractale\.astream\("),
        ("stream_resume", ["-1"], r"async for item in fractale\.astream_resume\("),
    ],
)
async def test_in_a_notebook_a_twin_names_the_async_function(name, arguments, instead, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match=instead):
            getattr(fractale, name)(*arguments, settings=settings)
