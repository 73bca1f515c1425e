"""The verdict on a run in every state: the same words for all faces, and what to do next."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fractale.plan.build import parse_plan
from fractale.questions import MISSING
from fractale.record.history_reader import read_history
from fractale.render.run_list import run_list_lines
from fractale.render.step import step_lines
from fractale.render.summary import NO_BREAKS, Verdict, history_verdict, verdict
from fractale.render.text import cells, plain
from fractale.render.timeline import run_lines
from fractale.runs import RunOptions, Workspace
from fractale.settings import Settings
from fractale.store.index import RunRow
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer
from made_runs import hostile_run

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
FAILS = """
name: fails
steps: [{name: first, tool: fail}]
"""
ITEMS = """
name: items
steps: [{name: all, foreach: [0, 1], keep_going: true, script: "exit {{ item }}"}]
"""
ASKS = """
name: asks
steps: [{name: review, ask: "Which one?", choices: [good, bad]}]
"""


def failing() -> FakeToolServer:
    return FakeToolServer().answer("fail", {"returncode": 3, "stderr": "no such queue"})


def next_of(found: Verdict) -> list[str]:
    return [line for row in found.rows if row.about == "next" for line in row.lines]


def last_verdict(run: Any) -> Verdict:
    return verdict(run.of("run_finished")[-1], NO_BREAKS)


async def test_a_failure_shows_the_step_first_and_then_forks(run_plan):
    run = await run_plan(FAILS, tools=failing(), keep=True)
    found = last_verdict(run)
    assert found.head == "failed · step `first` failed"
    name = run.result.run
    assert next_of(found) == [f"fractale show {name} first", f"fractale fork {name} --at first"]


async def test_a_success_that_hides_something_shows_the_step(run_plan):
    run = await run_plan(ITEMS, keep=True)
    found = last_verdict(run)
    assert found.head.startswith("success · `all`: 1 of 2 items failed")
    assert next_of(found) == [f"fractale show {run.result.run} all"]


def test_a_running_run_says_where_it_is_and_what_it_asks(settings: Settings):
    seen: list[Verdict] = []

    class Person:
        async def answer(self, question: Mapping[str, Any]) -> Any:
            record = RunRecords(settings.state_dir).find("-1")
            seen.append(history_verdict(read_history(record), NO_BREAKS))
            return MISSING

    async def run() -> Any:
        plan = parse_plan(ASKS, "asks.yaml")
        async with Workspace.open(settings, plan) as workspace:
            return await workspace.runs.start(plan, {}, RunOptions(person=Person()))

    result = asyncio.run(run())
    (found,) = seen
    assert found.head.startswith("running · at `review`")
    (question,) = [row for row in found.rows if row.about == "question"]
    assert question.label == "review"
    assert question.lines[0] == "Which one?"
    answers = [f"fractale answer {result.run} review={each}" for each in ("good", "bad")]
    assert next_of(found) == answers


def test_a_record_cannot_send_control_characters(tmp_path: Path):
    record = hostile_run(tmp_path / ".fractale", long_line=10_000)
    history = read_history(record)
    lines = [*run_lines(history), *history_verdict(history).lines()]
    for step in history.paths():
        lines += step_lines(history, step, history.of_step(step))
    assert len(lines) > 100
    assert not [text for line in lines if CONTROL.search(text := plain(line))]


@pytest.mark.parametrize("question", [{"kind": "question"}, {"kind": "new"}, {"kind": "approval"}])
def test_a_question_of_another_version_is_shown_as_it_is(question):
    data = {"status": "waiting", "waiting": [{**question, "step": "s"}]}
    (row,) = [row for row in verdict(data).rows if row.about == "question"]
    assert row.label == "s"


def test_the_list_of_runs_fits_a_narrow_terminal():
    more = {"ran": 3600.0, "computed": 86400.0, "queued": 7200.0, "node_hours": 12.5, "jobs": 1204}
    rows = [
        RunRow("k7f3a", "lammps", "a.yaml", "failed", 1.0, failed_at="tune/measure", **more),
        RunRow("m2q9b", "translate", "b.yaml", "success", 2.0, tokens=12_000, cost=1.5),
    ]
    wide = [plain(line) for line in run_list_lines(rows)]
    assert len(wide) == 3
    assert "COMPUTED" in wide[0]
    assert wide[1].endswith("failed at tune/measure")
    narrow = [plain(line) for line in run_list_lines(rows, 80)]
    assert max(map(cells, narrow)) <= 80
    assert "WAITED" not in narrow[0]
    assert narrow[2] == "       failed at tune/measure"
    assert "12,000" in narrow[3]
