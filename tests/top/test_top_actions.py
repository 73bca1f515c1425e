"""What the keys of `fractale top` do to real runs, and what they must not do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from fractale.cli.commands.top import ask
from fractale.record.history_reader import read_history
from fractale.render.text import Line, plain
from fractale.runs.actions import Actions, NotStarted
from fractale.settings import Settings
from fractale.store.locks import holder_of
from fractale.store.run_record import RunRecord
from fractale.top.app import TopApp
from fractale.top.dialogues import Done, guarded
from fractale.top.screens import GUARD_SECONDS
from made_runs import MadeRuns, wait_for
from top_runs import answered, typed, until


@pytest.fixture
def top(made: MadeRuns, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens `fractale top` on real runs; ``run`` is selected."""
    monkeypatch.chdir(made.folder)
    settings = replace(Settings(), state_dir=made.state_dir, environment=made.env)

    @asynccontextmanager
    async def opened(run: str, **environment: str) -> AsyncIterator[Any]:
        actions = Actions(settings, by="fractale top")
        app = TopApp(
            made.state_dir, actions, ask, place="~/melt", environment=environment, color=False
        )
        async with app.run_test(size=(100, 40)) as pilot:
            await until(pilot, "RUN ")
            await pilot.press("slash", *run, "enter")
            await until(pilot, f"\u203a{run}")
            yield pilot

    return opened


def ended(record: RunRecord) -> str:
    """Wait for the end of a run; returns its status."""
    wait_for(lambda: holder_of(record) is None, f"the end of run {record.run_id}")
    return read_history(record).status


async def test_an_approval_shows_the_exact_call_and_continues_the_run(
    top: Any, made: MadeRuns
) -> None:
    record = made.make("approval", "top-yes", code=4)
    async with top("top-yes") as pilot:
        await pilot.press("a", "y", "enter")  # typed before the call was on the screen
        screen = await until(pilot, "wants to call local.write", "#FLUX: -N2", "y once")
        assert "melt.flux.sh" in screen
        await pilot.pause(GUARD_SECONDS + 0.2)
        assert not answered(record)
        await typed(pilot, "y")
        await until(pilot, "answered: run top-yes resumes in the background")
        wait_for(lambda: read_history(record).status == "success", "the end of the run")
        (event,) = answered(record)
        assert (event["answer"], event["by"], event["via"]) == (True, "person", "fractale top")


async def test_a_no_is_a_no_and_leaving_answers_nothing(top: Any, made: MadeRuns) -> None:
    record = made.make("approval", "top-no", code=4)
    async with top("top-no") as pilot:
        await pilot.press("a")
        await until(pilot, "y once")
        await typed(pilot, "maybe")
        await until(pilot, "one of: y, a, n, e, ?")
        await pilot.press("escape")
        await until(pilot, "RUN ")
        assert not answered(record)
        await pilot.press("a")
        await until(pilot, "y once")
        await typed(pilot, "n")
        await until(pilot, "answered: run top-no")
        wait_for(lambda: read_history(record).status == "failed", "the end of the run")
        assert [event["answer"] for event in answered(record)] == [False]


async def test_a_question_that_is_answered_elsewhere_closes(top: Any, made: MadeRuns) -> None:
    record = made.make("question", "top-else", code=4)
    async with top("top-else") as pilot:
        await pilot.press("a")
        await until(pilot, "Which size should the box have?", "small")
        made.call("answer", "top-else", "pick=large")
        await until(pilot, "not done: it was answered elsewhere")
        assert [event["answer"] for event in answered(record)] == ["large"]


async def test_cancel_resume_and_fork(top: Any, made: MadeRuns) -> None:
    made.run("parent")
    with made.going("top-going") as process:
        record = made.record("top-going")
        async with top("top-going") as pilot:
            await until(pilot, "running", "hold")
            await pilot.press("c")
            await until(pilot, "cancel run top-going", "in progress")
            await typed(pilot, "")  # Enter is no
            await until(pilot, "nothing was cancelled")
            assert process.poll() is None
            await pilot.press("c")
            await until(pilot, "cancel run top-going")
            await typed(pilot, "y")
            await until(pilot, "cancelled run top-going")
            made.open_gate("top-going")
            assert ended(record) == "stopped"
            await until(pilot, "r resume")
            await pilot.press("r")
            await until(pilot, "resume it?")
            await typed(pilot, "y")
            await until(pilot, "resumed run top-going")
            wait_for(lambda: read_history(record).status == "success", "the end of the run")
            await pilot.press("escape", "slash", *"parent", "enter")
            await until(pilot, "\u203aparent")
            await pilot.press("f")
            await until(pilot, "before which step?", "first", "again")
            for line in ("1", "text", "text=seven", "", "y"):
                await typed(pilot, line)
            screen = await until(pilot, "started run")
            made_id = screen.partition("started run ")[2].split()[0]
            forked = made.record(made_id)
            wait_for(lambda: read_history(forked).status == "success", "the end of the fork")
            assert read_history(forked).inputs == {"text": "seven"}


async def test_a_run_is_followed_to_its_end(top: Any, made: MadeRuns) -> None:
    with made.going("top-live"):
        async with top("top-live") as pilot:
            await pilot.press("enter")
            await until(pilot, "wait", "running")
            made.open_gate("top-live")
            await until(pilot, "success", "came after")


async def test_what_was_refused_is_shown_with_the_lines_of_the_process_that_refused_it() -> None:
    class Talk:
        """A conversation on no screen."""

        def __init__(self) -> None:
            self.lines: list[str] = []

        def reopen(self) -> None:
            pass

        def show(self, *lines: Line) -> None:
            self.lines += map(plain, lines)

        async def line(self, asked: str) -> str:
            return asked

    async def refused() -> Done:
        raise NotStarted("the plan has changed", hint="fork it: fractale fork one\nthe plan: p\x1b")

    talk: Any = Talk()
    done = await guarded(talk, refused())
    below = ["  fork it: fractale fork one", "  the plan: p\\x1b"]
    assert talk.lines == ["", "  not done: the plan has changed", *below]
    assert done.words == "not done: the plan has changed"
