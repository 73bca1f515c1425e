"""Runs from Python as from the command line: started, resumed, forked, replayed, cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

import fractale
from fractale.errors import (
    AnswerError,
    InputError,
    UsageError,
)
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
