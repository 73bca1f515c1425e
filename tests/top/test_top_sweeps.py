"""Sweeps in `fractale top`: a line each, opened to their runs, and acted on as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from fractale.cli.commands.top import ask
from fractale.runs.actions import Actions
from fractale.settings import Settings
from fractale.sweeps.record import SweepLock, SweepRecords
from fractale.sweeps.results import SweepView, view_of
from fractale.top.app import TopApp
from made_runs import MadeRuns, wait_for
from made_sweeps import HOSTILE, run_records, sweep_record
from top_runs import screen_text, typed, until

APPROVED = """
name: Write the same
inputs: {seed: {type: integer, default: 1}}
steps:
  - {name: review, tool: write, approve: always, inputs: {path: top.out, text: the same}}
  - {name: test, tool: test_node, max_attempts: 1, inputs: {node: "{{ inputs.seed }}"}}
"""


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Any]:
    actions = Actions(settings, by="fractale top")
    app = TopApp(settings.state_dir, actions, ask, place="~/melt", environment={}, color=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, "RUN ")
        yield pilot


async def test_a_sweep_is_one_line_and_opens_to_its_runs(settings: Settings) -> None:
    ends = {i: {"used": {"node_hours": 1.4, "tokens": 10}} for i in range(6)}
    ends[6] = {"status": "failed", "error": "no potential", "failed_at": "relax"}
    sweep_record(settings.state_dir, "p4ab", [{"x": i} for i in range(10)], ends)
    run_records(settings.state_dir, "p4ab", 3)
    async with opened(settings) as pilot:
        screen = await until(pilot, "p4ab", "sweep melt", "▓▓▓▓▓░░░ 7/10")
        assert "p4ab.0" not in screen
        await until(pilot, "stopped · 7 of 10 rows done", "next: fractale sweep resume p4ab")
        assert "r resume" in screen_text(pilot)
        assert "f fork" not in screen_text(pilot)
        await pilot.press("f")
        await until(pilot, "open it, and fork one of its runs")
        await pilot.press("l")
        await until(pilot, "see the logs of its runs")
        await pilot.press("enter")
        screen = await until(pilot, "p4ab.0", "p4ab.1", "p4ab.2", "q back")
        assert "7/10" not in screen
        await pilot.press("enter")
        await until(pilot, "p4ab.", "↑↓ scroll")
        await pilot.press("q")
        await until(pilot, "p4ab.0", "p4ab.2")
        await pilot.press("escape")
        await until(pilot, "▓▓▓▓▓░░░ 7/10", "q leave")


async def test_a_driven_sweep_can_only_be_cancelled_and_shows_hostile_text_inert(
    settings: Settings,
) -> None:
    record = sweep_record(settings.state_dir, "held", [{"x": 1}], plan=HOSTILE)
    with SweepLock(record):
        async with opened(settings) as pilot:
            screen = await until(pilot, "held", "░░░░░░░░ 0/1", "c cancel")
            assert "r resume" not in screen
            assert not {"\x1b", "\x07", "\u202e"} & set(screen)


async def test_a_damaged_sweep_is_a_line_that_says_so(settings: Settings) -> None:
    sweep_record(settings.state_dir, "bad", [{"x": 1}]).ledger.write_text("{broken\n")
    async with opened(settings) as pilot:
        screen = await until(pilot, "unreadable", "is damaged")
        assert "r resume" not in screen
        assert "was removed" not in screen


# -- what the keys do to real sweeps


def now(made: MadeRuns, sweep: str) -> SweepView:
    return view_of(SweepRecords(made.state_dir).find(sweep))


@pytest.mark.real
async def test_one_answer_for_all_runs_then_retry_of_what_failed(
    made: MadeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.folder)
    (made.folder / "plans" / "approved.yaml").write_text(APPROVED)
    words = ("sweep", "plans/approved.yaml", "-r", "tools.yaml", "--over", "seed=1..3")
    made.call(*words, "--sweep-id", "top-sweep", codes=(4,))
    settings = replace(Settings(), state_dir=made.state_dir, environment=made.env)
    async with opened(settings) as pilot:
        await pilot.press("slash", *"top-sweep", "enter")
        await until(pilot, "\u203atop-sweep", "3 runs ask", "a answer")
        await pilot.press("a")
        await until(pilot, "3 runs of sweep top-sweep, rows 0-2", "wants to call local.write")
        await pilot.press("escape")
        await until(pilot, "RUN ")
        assert now(made, "top-sweep").asking == 3
        await pilot.press("a")
        await until(pilot, "y once")
        await typed(pilot, "y")
        await until(pilot, "answered for 3 runs of sweep top-sweep")
        wait_for(lambda: now(made, "top-sweep").status == "failed", "the end of the sweep")
        await until(pilot, "r retry")
        await pilot.press("r")
        await typed(pilot, "y")
        await until(pilot, "1 failed row of sweep top-sweep begin again")
        wait_for(lambda: now(made, "top-sweep").status == "waiting", "the second attempt")
        assert now(made, "top-sweep").rows[1].attempt == 2
        await until(pilot, "c cancel")
        await pilot.press("c")
        await until(pilot, "it can be resumed")
        await typed(pilot, "y")
        await until(pilot, "cancelled sweep top-sweep")
        assert now(made, "top-sweep").status == "stopped"
