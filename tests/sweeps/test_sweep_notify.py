"""Notifications of a sweep: its end and its first question, and nothing for each run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fractale.settings import Settings
from fractale.settings.notify import Notify
from fractale.sweeps.driver import drive_here, opened_sweep
from fractale.sweeps.results import SweepView, view_of
from swept import ScriptedExecutor, done, made_sweep, settings_in

KEEPS = (
    "import pathlib, sys, time; pathlib.Path(f'sent-{time.time_ns()}').write_text(sys.stdin.read())"
)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Drives a sweep of five rows; returns its view and the messages, in their order."""
    monkeypatch.chdir(tmp_path)

    async def driven(
        act: Callable[..., Any] | None = None, *, stop: asyncio.Event | None = None, **entry: Any
    ) -> tuple[SweepView, list[dict[str, Any]]]:
        record = made_sweep(tmp_path, 5)
        wanted = {"on": ("end", "question"), "command": (sys.executable, "-c", KEEPS), **entry}
        settings: Settings = replace(settings_in(tmp_path), notify=(Notify(**wanted),))
        async with opened_sweep(record) as opened:
            await drive_here(opened, settings, executor=ScriptedExecutor(act), stop=stop)
        return view_of(record), _sent(tmp_path)

    return driven


def _sent(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("sent-*"))]


async def test_the_end_is_one_message_with_the_counts(sweep: Any) -> None:
    _, (message,) = await sweep()
    assert (message["event"], message["status"], message["sweep"]) == ("end", "success", "s")
    assert (message["counts"], message["rows"]) == ({"success": 5}, 5)
    assert message["text"].splitlines()[0].endswith("(sweep s): success · 5 success")


async def test_many_questions_are_one_message_and_no_end(sweep: Any) -> None:
    asks = ({"kind": "ask", "step": "review", "text": "Which?"},)

    def act(task: Any, _: int) -> Any:
        return done(task, "waiting", waiting=asks) if task.row % 2 else done(task)

    view, (message,) = await sweep(act)
    assert view.asking == 2
    assert (message["event"], message["status"]) == ("question", "waiting")
    assert "row 1 asks at `review`" in message["text"]
    assert message["next"] == ["fractale sweep answer s"]


async def test_a_failure_is_sent_to_who_wants_failures(sweep: Any) -> None:
    def act(task: Any, _: int) -> Any:
        return done(task, "failed", error="<@all> no") if task.row == 2 else done(task)

    _, (message,) = await sweep(act, on=("failure",))
    assert (message["event"], message["status"]) == ("failure", "failed")
    assert "1 failed" in message["text"]


async def test_a_sweep_that_the_user_stops_sends_nothing(sweep: Any) -> None:
    stop = asyncio.Event()

    def act(task: Any, _: int) -> Any:
        stop.set()
        return done(task)

    view, messages = await sweep(act, stop=stop)
    assert view.status == "stopped"
    assert messages == []


async def test_a_message_that_cannot_be_sent_is_a_warning_of_the_sweep(sweep: Any) -> None:
    view, messages = await sweep(command=("/no/such/program",))
    assert messages == []
    assert view.status == "success"
    assert "cannot be started" in view.warning
