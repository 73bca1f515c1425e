"""Answers from another process: the first valid one reaches the run that asks, exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from pydantic import create_model

from fractale.errors import AnswerError, UsageError
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.runs.actions import Actions, AlreadyAnswered, OpenQuestion
from fractale.runs.mailbox import Mail, Mailbox, key_of
from fractale.settings import Settings
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply
from fractale.testing.plan_run import PlanRun

GATE = """
name: p
steps:
  - {name: gate, ask: "Publish?", choices: [publish, drop], default: drop}
outputs: {said: "{{ steps.gate.outputs.answer }}"}
"""
ITEMS = """
name: p
steps:
  - {name: each, foreach: [a, b, c], ask: "Take {{ item }}?", choices: [take, leave]}
outputs: {said: "{{ steps.each.outputs }}"}
"""
ERASE = "name: p\nsteps: [{name: s, tool: erase, inputs: {path: a}, approve: always}]\n"
TWICE = """
name: p
steps: [{name: s, agent: ask, instruction: Erase a twice., tools: [erase]}]
"""


class Away:
    """A user who has left the terminal: the question stays open there."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    async def answer(self, question: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            self.closed += map(str, error.args)
            raise


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def erase(path: str) -> dict:
        """Erase a file."""
        return {"returncode": 0}

    return server


@pytest.fixture
def actions(settings: Settings) -> Actions:
    return Actions(settings, by="fractale web")


@contextlib.asynccontextmanager
async def running(run_plan: Callable[..., Any], plan: str, **more: Any) -> AsyncIterator[Any]:
    task = asyncio.ensure_future(run_plan(plan, run_id="one", keep=True, person=Away(), **more))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, UsageError):
            await task


async def asked(
    actions: Actions, number: int = 1, after: OpenQuestion | None = None
) -> list[OpenQuestion]:
    """The open questions, once there are so many, and none of them is `after`."""
    old = after.key if after else ""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(UsageError):
                found = actions.questions("one")
                if len(found) >= number and old not in [each.key for each in found]:
                    return found
            await asyncio.sleep(0.02)


async def test_an_answer_reaches_the_process_that_asks_and_the_record_says_whose(
    run_plan, actions, settings
):
    async with running(run_plan, GATE) as run:
        (question,) = await asked(actions)
        assert (question.step, question.held, question.turn) == ("gate", True, True)
        given = await actions.answer("one", question.key, "1")
        assert (given.answer, given.taken, given.started) == ("publish", True, None)
        seen: PlanRun = await run
    assert seen.outputs == {"said": "publish"}
    (answered,) = seen.of("answered")
    assert (answered["by"], answered["via"]) == ("person", "fractale web")
    assert answered["user"]
    lines = (settings.state_dir / "audit.jsonl").read_text().splitlines()
    audited = [each for line in lines if (each := json.loads(line))["what"] == "answer"]
    assert [(each["via"], each["user"]) for each in audited] == [("fractale web", answered["user"])]
    assert actions.questions("one") == []
    assert list((settings.state_dir / "runs" / "one" / "answers").iterdir()) == []
    with pytest.raises(AlreadyAnswered, match=r"`gate` was answered before, by .* in fractale web"):
        await actions.answer("one", "gate", "drop")


async def test_nonsense_is_refused_and_the_question_stays_open(run_plan, actions):
    async with running(run_plan, GATE):
        (question,) = await asked(actions)
        for wrong in ("banana", "9", "publish please"):
            with pytest.raises(AnswerError, match="is not a valid answer"):
                await actions.answer("one", question.key, wrong)
        with pytest.raises(AnswerError, match="no open question `gates`"):
            await actions.answer("one", "gates", "1")
        assert await asked(actions) == [question]


@pytest.mark.parametrize(
    ("says", "calls"), [("y", 1), ("n", 0), ('{"arguments": {"path": "b"}}', 1)]
)
async def test_an_approval_from_elsewhere(run_plan, actions, tools, says, calls):
    async with running(run_plan, ERASE, tools=tools) as run:
        (question,) = await asked(actions)
        assert question.question["arguments"] == {"path": "a"}
        await actions.answer("one", question.key, says)
        if says == "n":  # then the run asks about the failure
            (failed,) = await asked(actions, after=question)
            await actions.answer("one", failed.key, "quit")
        await run
    assert len(tools.calls) == calls


async def test_items_that_ask_at_once_are_answered_one_by_one(run_plan, actions):
    async with running(run_plan, ITEMS) as run:
        questions = await asked(actions, 3)
        with pytest.raises(AnswerError, match="`each` asks 3 questions"):
            await actions.answer("one", "each", "take")
        third = await actions.answer("one", "each[2]", "leave")
        assert not third.taken
        assert [bool(each.given) for each in actions.questions("one")] == [False, False, True]
        with pytest.raises(AlreadyAnswered, match="in fractale web"):
            await actions.answer("one", questions[2].key, "take")
        with pytest.raises(AnswerError):  # then none of them is answered
            await actions.answer_all("one", {"each[0]": "take", "each[1]": "banana"})
        await actions.answer_all("one", {"each[0]": "take", "each[1]": "take"})
        seen: PlanRun = await run
    assert [each["answer"] for each in seen.outputs["said"]] == ["take", "take", "leave"]


async def test_an_answer_to_a_call_is_not_used_for_the_next_call_of_the_same_kind(
    run_plan, actions, tools
):
    erase = Reply(tool_calls=[("erase", {"path": "a"})])
    model = ScriptedModel([erase, erase, "Done."])
    async with running(run_plan, TWICE, tools=tools, model=model):
        (first,) = await asked(actions)
        await actions.answer("one", first.key, "y")
        (second,) = await asked(actions, after=first)
        assert second.question["arguments"] == first.question["arguments"]
        with pytest.raises(AlreadyAnswered):
            await actions.answer("one", first.key, "y")
        assert len(tools.calls) == 1
        await actions.answer("one", second.key, "n")
        (failed,) = await asked(actions, after=second)
        assert failed.question["kind"] == "failure"
    assert len(tools.calls) == 1


async def test_a_file_of_another_kind_or_owner_is_not_an_answer(
    run_plan, actions, settings, tmp_path
):
    async with running(run_plan, GATE):
        (question,) = await asked(actions)
        folder = settings.state_dir / "runs" / "one" / "answers"
        assert folder.stat().st_mode & 0o777 == 0o700
        whole = Mail(step="gate", via="x", time=1.0, answer="publish")
        other = tmp_path / "other.json"
        other.write_text(
            json.dumps(
                {"step": "gate", "via": "x", "time": 1, "answer": "publish", "has_answer": True}
            )
        )
        place = folder / f"{question.key}.json"
        for make in (
            lambda: place.symlink_to(other),
            lambda: os.mkfifo(place),
            lambda: place.mkdir(),
            lambda: place.write_text("{"),
        ):
            make()
            assert Mailbox(RunRecords(settings.state_dir).find("one")).read(question.key) is None
            await asyncio.sleep(0.3)
            assert [each.key for each in actions.questions("one")] == [question.key]
            place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
        if os.geteuid() == 0:
            place.write_text(other.read_text())
            os.chown(place, 65534, -1)
            await asyncio.sleep(0.3)
            assert [each.key for each in actions.questions("one")] == [question.key]
            place.unlink()
        folder.chmod(0o777)
        Mailbox(RunRecords(settings.state_dir).find("one"))
        assert actions.questions("one") == []  # what it publishes is not believed, either
        folder.chmod(0o700)
        assert whole.who


def test_a_question_that_is_asked_again_has_another_key():
    question = {"kind": "question", "step": "s", "text": "?", "id": "a" * 32}
    keys = {key_of({**question, "number": 2}, number) for number in range(3)}
    assert len(keys) == 3
    assert key_of(question, 0) in keys
    assert key_of({**question, "text": "!"}, 0) not in keys


async def test_a_run_that_asks_can_be_cancelled(run_plan, actions):
    async with running(run_plan, GATE) as run:
        await asked(actions)
        outcome = await actions.cancel("one")
        assert (outcome.stopped, outcome.trouble) == (True, "")
        seen: PlanRun = await run
    assert seen.status == "waiting"
    assert actions.questions("one") == []  # a resume asks it again


async def test_the_first_answer_wins_also_against_the_user_of_the_process(
    run_plan, actions, settings
):
    """The user answers at the moment at which another process has."""

    class Late(Away):
        async def answer(self, question: Any) -> Any:
            (open_now,) = actions.questions("one")
            mail = Mail(step="gate", via="fractale top", time=1.0, answer="publish")
            assert (
                Mailbox(RunRecords(settings.state_dir).find("one")).put(open_now.key, mail) is None
            )
            return "drop"

    seen: PlanRun = await run_plan(GATE, run_id="one", keep=True, person=Late())
    assert seen.outputs == {"said": "publish"}
    assert [each["via"] for each in seen.of("answered")] == ["fractale top"]


DRAFTS = """
name: p
steps: [{name: made, type: plan, instruction: Erase a.}]
"""


async def test_a_draft_gets_feedback_from_elsewhere(run_plan, actions, tools):
    """The second draft is another question, with what changed."""

    def manager(messages: Any) -> Reply:
        text = str(messages)
        if "Write the steps." not in text:
            return Reply(text="nothing to find out")
        path = "b" if "take b" in text else "a"
        return Reply(data={"steps": [{"name": "go", "tool": "erase", "inputs": {"path": path}}]})

    async with running(run_plan, DRAFTS, tools=tools, model=ScriptedModel(manager)) as run:
        (first,) = await asked(actions)
        assert first.question["kind"] == "review"
        await actions.answer("one", first.key, "take b, please")
        (second,) = await asked(actions, after=first)
        assert "+" in second.question["changes"]
        await actions.answer("one", second.key, "reject")
        (failed,) = await asked(actions, after=second)
        await actions.answer("one", failed.key, "quit")
        seen: PlanRun = await run
    assert "a person rejected the draft" in seen.result.error
    assert tools.calls == []


async def test_a_secret_is_only_typed_where_the_run_asks(run_plan, actions, settings):
    server, login = FastMCP("asking"), create_model("Login", password=(str, ...))

    @server.tool
    async def unlock(ctx: Context) -> dict[str, Any]:
        """Unlock."""
        return {"action": (await ctx.elicit("The password?", response_type=login)).action}

    plan = "name: p\nsteps: [{name: s, tool: unlock}]\noutputs: {a: '{{ steps.s.outputs.action }}'}"
    async with (
        McpToolbox([EmbeddedServer(name="asking", server=server)]) as box,
        running(run_plan, plan, tools=box) as run,
    ):
        (question,) = await asked(actions)
        assert (question.step, question.turn) == ("s", True)
        assert "secret" in question.problem
        with pytest.raises(AnswerError, match="not taken from another process"):
            await actions.answer("one", question.key, "hunter2-canary")
        await actions.answer("one", question.key, "decline")
        seen: PlanRun = await run
    assert seen.outputs == {"a": "decline"}
    for file in settings.state_dir.rglob("*"):
        assert not file.is_file() or b"hunter2-canary" not in file.read_bytes(), file
