"""Runs from Python as from the command line: started, resumed, forked, replayed, cancelled."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore

import fractale
from fractale.errors import AnswerError, InputError, PlanError, UsageError
from fractale.settings import Settings

LARGE = "x" * 50_000
ASKS = """
name: asks
inputs: {n: 1}
steps:
  - {name: make, tool: make, inputs: {n: "{{ inputs.n }}"}}
  - {name: send, tool: send, inputs: {text: "{{ steps.make.outputs.text }}"}, approve: always}
outputs: {size: "{{ steps.send.outputs.size }}", text: "{{ steps.make.outputs.text }}"}
"""
HELLO = "{name: hello, steps: [{name: say, tool: say}], outputs: {t: '{{ steps.say.outputs.t }}'}}"


def make(n: int) -> dict[str, Any]:
    """Make a text."""
    return {"text": LARGE, "n": n}


def send(text: str) -> dict[str, Any]:
    """Send a text."""
    return {"size": len(text)}


def say() -> dict[str, Any]:
    """Say hello."""
    return {"t": "hello"}


TOOLS = [make, send]


@pytest.fixture
def project(settings: Settings) -> dict[str, Any]:
    """The keywords of a run of the test's own."""
    return {"settings": settings, "tools": TOOLS}


# -- ids ------------------------------------------------------------------------------------------


async def test_every_run_has_an_id_of_its_own(settings):
    saver = InMemorySaver()
    plan = """
    name: p
    steps: [{name: s, tool: say, rules: {failure: "attempts >= 2"}}]
    """
    many = [
        fractale.arun(plan, tools=[say], checkpointer=saver, settings=settings) for _ in range(5)
    ]
    results = await asyncio.gather(*many)
    assert [each.status for each in results] == ["success"] * 5
    assert len({each.run for each in results}) == 5


async def test_an_id_in_use_names_the_way_to_continue(project):
    saver = InMemorySaver()
    await fractale.arun(ASKS, checkpointer=saver, run_id="a", **project)
    with pytest.raises(UsageError, match="there is a run `a`") as error:
        await fractale.arun(ASKS, checkpointer=saver, run_id="a", **project)
    assert "resume('a', plan=" in str(error.value.hint)


# -- resuming -------------------------------------------------------------------------------------


async def test_a_recorded_run_is_resumed_with_an_answer(project):
    first = await fractale.arun(ASKS, {"n": 2}, keep=True, **project)
    assert first.status == "waiting"
    with pytest.raises(AnswerError, match="no step `sned`"):
        await fractale.aresume(first.run, answers={"sned": True}, **project)
    second = await fractale.aresume(first.run, answers={"send": True}, **project)
    assert (second.run, second.status) == (first.run, "success")
    assert second.outputs == {"size": 50_000, "text": LARGE}


@pytest.mark.parametrize("key", ["answers", "replies"])
async def test_a_refusal_is_an_answer(project, key):
    first = await fractale.arun(ASKS, keep=True, **project)
    second = await fractale.aresume(first.run, **{key: {"send": "no"}}, **project)
    assert second.status == "failed"
    assert [s["name"] for s in second.steps] == ["make", "send"]


async def test_a_reply_must_fit_a_question(project):
    first = await fractale.arun(ASKS, keep=True, **project)
    with pytest.raises(AnswerError, match="answer"):
        await fractale.aresume(first.run, replies={"make": True}, **project)


async def test_a_limit_is_raised_on_resume(project):
    limit = fractale.Limits(steps=1)
    first = await fractale.arun(ASKS, keep=True, limits=limit, yes=True, **project)
    assert first.status == "limit"
    second = await fractale.aresume(first.run, limits=fractale.Limits(steps=5), yes=True, **project)
    assert second.status == "success"
    assert [step["name"] for step in second.steps] == ["make", "send"]


async def test_a_run_that_nobody_knows(project):
    with pytest.raises(UsageError, match="nobody") as error:
        await fractale.aresume("nobody", **project)
    assert "`plan` and `checkpointer`" in str(error.value.hint)
    with pytest.raises(UsageError, match="nobody"):
        await fractale.aresume("nobody", plan=ASKS, checkpointer=InMemorySaver(), **project)
    with pytest.raises(UsageError, match="without its checkpointer"):
        await fractale.aresume("nobody", plan=ASKS, **project)


async def test_a_changed_plan_is_not_resumed_on_a_checkpointer(project):
    saver = InMemorySaver()
    await fractale.arun(ASKS, checkpointer=saver, run_id="a", **project)
    other = ASKS.replace("approve: always", "approve: never")
    with pytest.raises(UsageError, match="has changed"):
        await fractale.aresume("a", plan=other, checkpointer=saver, **project)
    layout = f"# a comment\n{ASKS}"
    done = await fractale.aresume(
        "a", plan=layout, checkpointer=saver, answers={"send": True}, **project
    )
    assert done.outputs["size"] == 50_000


async def test_secrets_are_given_again(settings):
    plan = """
    name: p
    inputs: {token: {secret: true}}
    steps: [{name: s, tool: send, inputs: {text: "{{ inputs.token }}"}, approve: always}]
    outputs: {size: "{{ steps.s.outputs.size }}"}
    """
    known = {"settings": settings, "tools": [send]}
    with pytest.raises(InputError, match="give it in `secrets`"):
        await fractale.arun(plan, keep=True, **known)
    first = await fractale.arun(plan, keep=True, secrets={"token": "hunter2"}, **known)
    with pytest.raises(InputError, match="give it in `secrets`"):
        await fractale.aresume(first.run, answers={"s": True}, **known)
    again = {"answers": {"s": True}, "secrets": {"token": "hunter2"}}
    assert (await fractale.aresume(first.run, **again, **known)).outputs == {"size": 7}


# -- forks, replays, lists, cancelling -----------------------------------------------------------


NAMED = """
name: named
steps:
  - {name: keep, set: {n: 2}}
  - {name: make, tool: make, inputs: {n: "{{ values.n }}"}}
outputs: {n: "{{ values.n }}"}
"""


async def test_a_fork_takes_named_values(project):
    first = await fractale.arun(NAMED, keep=True, **project)
    fork = await fractale.afork(first.run, "make", values={"n": 5}, **project)
    assert (first.outputs, fork.outputs) == ({"n": 2}, {"n": 5})
    with pytest.raises(InputError, match="no step set it"):
        await fractale.afork(first.run, "make", values={"nn": 5}, **project)
    with pytest.raises(UsageError, match="`values` cannot be"):
        await fractale.afork(first.run, "make", values=["n"], **project)  # pyright: ignore


async def test_a_recorded_run_is_forked_and_replayed(project):
    first = await fractale.arun(ASKS, {"n": 2}, keep=True, yes=True, **project)
    fork = await fractale.afork(
        first.run,
        "send",
        inputs={"n": 3},
        outputs={"make": {"text": "short"}},
        new_id="mine",
        yes=True,
        **project,
    )
    assert (fork.run, fork.outputs) == ("mine", {"size": 5, "text": "short"})
    heard: list[str] = []
    replayed = await fractale.areplay(
        first.run, on_event=lambda e: heard.append(e.kind), settings=project["settings"]
    )
    assert replayed.equal
    assert heard[-1] == "run_finished"
    live = await fractale.areplay("mine", live="tools", **project)
    assert live.equal
    with pytest.raises(UsageError, match="exclude"):
        await fractale.areplay("mine", plan=ASKS, today=True, settings=project["settings"])
    with pytest.raises(TypeError, match=r"areplay\(\).*`lose`|areplay\(\).*lose"):
        await fractale.areplay("mine", lose=True)  # pyright: ignore
    with pytest.raises(UsageError, match="nobody"):
        await fractale.areplay("nobody", settings=project["settings"])


async def test_a_replay_shows_the_first_difference(project):
    first = await fractale.arun(ASKS, keep=True, yes=True, **project)
    other = ASKS.replace("inputs.n }}", "inputs.n + 1 }}")
    replayed = await fractale.areplay(first.run, plan=other, settings=project["settings"])
    assert not replayed.equal
    assert replayed.divergence is not None
    assert replayed.divergence.step == "make"


async def test_recorded_runs_are_listed(project):
    settings = project["settings"]
    assert fractale.list_runs(settings=settings) == []
    waits = await fractale.arun(ASKS, keep=True, **project)
    done = await fractale.arun(ASKS, keep=True, yes=True, **project)
    await fractale.arun(ASKS, **project)  # not recorded
    assert [row.id for row in fractale.list_runs(settings=settings)] == [done.run, waits.run]
    (row,) = fractale.list_runs(status="waiting", settings=settings)
    assert (row.id, row.waits_for) == (waits.run, "send")
    assert fractale.list_runs(plan="other*", settings=settings) == []


async def test_a_run_in_progress_is_cancelled_and_resumed(settings):
    begun, go = asyncio.Event(), asyncio.Event()

    async def make(n: int) -> dict[str, Any]:
        """Make."""
        begun.set()
        await go.wait()
        return {"text": "made"}

    known: dict[str, Any] = {"settings": settings, "tools": [make, send], "yes": True}
    run = asyncio.create_task(fractale.arun(ASKS, keep=True, run_id="long", **known))
    await begun.wait()
    cancelling = asyncio.create_task(fractale.acancel("long", settings=settings))
    while not (settings.state_dir / "runs/long/stop").exists():  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.01)
    await asyncio.sleep(1.2)  # the run looks for it every second
    go.set()
    assert (await run).status == "stopped"
    cancelled = await cancelling
    assert (cancelled.run, cancelled.stopped, list(cancelled.jobs)) == ("long", True, [])
    done = await fractale.aresume("long", **known)
    assert done.outputs == {"size": 4, "text": "made"}


async def test_the_batch_job_of_a_run_is_cancelled(settings):
    plan = """
    name: p
    steps:
      - {name: sleep, job: {script: "#!/bin/sh\\nsleep 300", scheduler: local}}
    """
    settings = replace(settings, environment={"PATH": os.environ["PATH"]})
    left = await fractale.arun(plan, keep=True, detach=True, yes=True, settings=settings)
    assert left.status == "waiting", left
    cancelled = await fractale.acancel(left.run, "sleep", settings=settings)
    assert [job.job.step for job in cancelled.jobs] == ["sleep"]
    assert not cancelled.failed
    with pytest.raises(UsageError, match="no step `slep`"):
        await fractale.acancel(left.run, "slep", settings=settings)


# -- with the command line ------------------------------------------------------------------------


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HOME": str(folder), "FRACTALE_STATE_DIR": str(folder / ".fractale")}
    return subprocess.run(
        [sys.executable, "-m", "fractale.cli", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a plan and a registry; the settings are read there."""
    (tmp_path / "plan.yaml").write_text(ASKS.replace("tool: ", "tool: local."))
    (tmp_path / "things.py").write_text(
        "def make(n: int) -> dict:\n    \"Make.\"\n    return {'text': 'made'}\n\n"
        "def send(text: str) -> dict:\n    \"Send.\"\n    return {'size': len(text)}\n"
    )
    (tmp_path / "tools.yaml").write_text("tools: [things.make, things.send]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / ".fractale"))
    return tmp_path


def test_the_command_line_and_python_continue_each_others_runs(desk):
    first = fractale.run("plan.yaml", registries=["tools.yaml"], keep=True)
    assert first.status == "waiting"
    done = command(desk, "resume", first.run, "--answer", "send=yes", "--json")
    assert done.returncode == 0, done.stderr
    begun = command(desk, "run", "plan.yaml", "-r", "tools.yaml", "--json", "--run-id", "mine")
    assert begun.returncode == 4, begun.stderr
    second = fractale.resume("mine", answers={"send": "yes"})
    assert second.outputs == {"size": 4, "text": "made"}
    fork = fractale.fork("mine", "send", outputs={"make": {"text": "longer"}}, yes=True)
    assert fork.outputs["size"] == 6
    assert fractale.replay(fork.run).equal
    assert fractale.cancel(fork.run).stopped


def test_a_strangers_run_is_not_resumed(desk, monkeypatch):
    monkeypatch.delenv("FRACTALE_TRUST_PROJECT")
    first = fractale.run("plan.yaml", registries=["tools.yaml"], keep=True)
    head = desk / ".fractale/runs" / first.run / "run.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "registries": ["/evil.yaml"]}))
    for call in (fractale.resume, fractale.cancel):
        with pytest.raises(fractale.FractaleError, match="did not start run"):
            call(first.run)
    with pytest.raises(fractale.FractaleError, match="did not start run"):
        fractale.fork(first.run, "send")


# -- LangChain's and LangGraph's own parts --------------------------------------------------------


class Recorder(BaseCallbackHandler):
    """Records the runs that LangChain reports."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[str], dict[str, Any]]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
        self.seen.append((more.get("name") or "", more["tags"] or [], more["metadata"] or {}))


async def test_callbacks_tags_and_metadata_reach_the_run_and_its_steps(project):
    recorder = Recorder()
    saver = InMemorySaver()
    done = await fractale.arun(
        ASKS,
        yes=True,
        callbacks=[recorder],
        tags=["mine"],
        metadata={"user": "me"},
        checkpointer=saver,
        **project,
    )
    assert done.ok
    names = [name for name, _, _ in recorder.seen]
    assert names[0] == "asks"
    assert {"make", "send"} <= {*names}
    assert all("mine" in tags for _, tags, _ in recorder.seen[:1])
    assert all(metadata["user"] == "me" for _, _, metadata in recorder.seen)
    found = await saver.aget_tuple({"configurable": {"thread_id": done.run}})
    assert found.metadata["user"] == "me"


async def test_agents_are_objects_and_see_the_store(settings):
    async def remember(state: MessagesState, runtime: Runtime) -> dict[str, Any]:
        assert runtime.store is not None
        await runtime.store.aput(("said",), "first", {"text": state["messages"][-1].content})
        return {"messages": [AIMessage("I remember")]}

    graph = StateGraph(MessagesState).add_node("remember", remember)
    graph = graph.add_edge("__start__", "remember").compile()
    store = InMemoryStore()
    plan = "{name: p, steps: [{name: s, agent: memory, instruction: blue}]}"
    for agents in ({"memory": graph}, [graph.with_config()]):
        if isinstance(agents, list):
            agents[0].name = "memory"
        known: dict[str, Any] = {"agents": agents, "store": store, "settings": settings}
        done = await fractale.arun(plan, keep=True, **known)
        assert done.ok, done.error
        assert (await fractale.areplay(done.run, agents=agents, settings=settings)).equal
    item = await store.aget(("said",), "first")
    assert "blue" in item.value["text"]


# -- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"model": 42}, "`model` cannot be the int `42`"),
        ({"model": object}, "`model` cannot be the type `object`"),
        ({"tools": say}, "`tools` cannot be the function `say`"),
        ({"tools": "tools.yaml"}, "`tools` cannot be the str `'tools.yaml'`"),
        ({"checkpointer": "sqlite"}, "`checkpointer` cannot be the str `'sqlite'`"),
        ({"answers": {"nope": True}}, "no step `nope`"),
        ({"answers": True}, "`answers` cannot be the bool `True`"),
        ({"inputs": 3}, "`inputs` cannot be the int `3`"),
        ({"plan": 42}, "`plan` cannot be the int `42`"),
    ],
)
async def test_wrong_values_are_named(settings, keywords, message):
    with pytest.raises(UsageError) as error:
        await fractale.arun(**{"plan": HELLO, "tools": [say], "settings": settings, **keywords})
    assert message in str(error.value)


def test_a_misspelt_keyword_is_named():
    with pytest.raises(
        TypeError, match=r"run\(\) got an unexpected keyword argument 'modle'.*model"
    ):
        fractale.run(HELLO, modle="x")  # pyright: ignore
    with pytest.raises(TypeError, match=r"afork\(\) got"):
        asyncio.run(fractale.afork("a", "b", setings=1))  # pyright: ignore


async def test_a_plan_on_one_line_is_no_path(settings, tmp_path, monkeypatch):
    done = await fractale.arun(HELLO, tools=[say], settings=settings)
    assert done.outputs == {"t": "hello"}
    assert [p.code for p in fractale.validate("name: x")] == ["missing-key"]
    with pytest.raises(PlanError, match="unreadable-file"):
        fractale.load("name.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a: b").write_text(HELLO)
    assert fractale.load("a: b").name == "hello"


async def test_one_registry_is_a_list_of_one(desk):
    done = await fractale.arun("plan.yaml", registries="tools.yaml", yes=True)
    assert done.outputs == {"size": 4, "text": "made"}
