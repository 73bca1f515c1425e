"""A driver keeps the limits of a sweep: what starts, what waits for room, and where it stops."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from fractale.settings import Settings
from fractale.store.run_record import RunRecords
from fractale.sweeps.driver import drive, opened_sweep
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.record import SweepLedger, SweepRecord
from fractale.sweeps.results import SweepView, view_of
from fractale.sweeps.resuming import due_rows, retry_rows
from fractale.sweeps.task import RunReport, RunTask
from fractale.sweeps.worker import Worker
from sweep_processes import lines_of, new_sweep

PLAN = """
name: spend
inputs: {x: 1}
limits: {tokens: 100}
steps: [{name: look, tool: look}]
"""


class Scripted:
    """An executor whose runs use what a function says."""

    def __init__(self, workers: int, act: Callable[[RunTask], RunReport]) -> None:
        self.workers = workers
        self._act = act
        self.now = 0
        self.most = 0
        self.order: list[int] = []

    async def perform(self, task: RunTask) -> RunReport:
        self.order.append(task.row)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        return self._act(task)

    def stop(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def uses(tokens: int, status: str = "success") -> Callable[[RunTask], RunReport]:
    waiting = ({"step": "ask", "kind": "ask"},) if status == "waiting" else ()
    return lambda task: RunReport(
        run=task.run, status=status, used={"tokens": tokens}, waiting=waiting
    )


def sweep(folder: Path, rows: int, **limits: float) -> SweepRecord:
    return new_sweep(folder, PLAN, [{"x": x} for x in range(rows)], limits=limits)


async def driven(record: SweepRecord, executor: Scripted) -> SweepView:
    settings = replace(Settings(), state_dir=record.state_dir)
    async with opened_sweep(record) as opened:
        return await drive(opened, executor, settings=settings, pauses=(0.0,))


def left_by_a_kill(record: SweepRecord, lines: Iterable[dict[str, Any]]) -> None:
    with SweepLedger(record) as ledger:
        ledger.add(*lines)


async def test_no_more_runs_start_than_may_use_all_that_they_may(tmp_path: Path) -> None:
    executor = Scripted(8, uses(10))
    view = await driven(sweep(tmp_path, 12, tokens=350), executor)
    assert (view.status, view.counts) == ("success", {"success": 12})
    assert executor.most == 3  # then each end makes room for one more, and later for two
    (limit,) = view.limits
    assert (limit.used, limit.reserved, limit.left) == (120, 0, 230)


async def test_without_limits_as_many_start_as_there_are_workers(tmp_path: Path) -> None:
    executor = Scripted(8, uses(10))
    await driven(sweep(tmp_path, 12), executor)
    assert executor.most == 8


async def test_a_budget_that_is_spent_ends_the_sweep_which_goes_on_with_a_higher_limit(
    tmp_path: Path,
) -> None:
    record = sweep(tmp_path, 5, tokens=250)
    view = await driven(record, Scripted(4, uses(90)))
    assert (view.status, view.reached) == ("limit", "tokens")
    assert view.counts == {"success": 2, "pending": 3}
    assert view.reason == (
        "the next run may use 100 tokens, more than the sweep's limit `tokens` of 250 leaves: "
        "180 are used"
    )
    assert view.next[0].startswith("fractale sweep resume s --limit tokens=")
    record.write_head({**record.read_head(), "limits": {"tokens": 460}})
    view = await driven(record, Scripted(4, uses(90)))
    assert (view.status, view.counts) == ("success", {"success": 5})
    assert view.limits[0].used == 450


async def test_what_waiting_runs_hold_is_named_and_they_may_be_answered(tmp_path: Path) -> None:
    record = sweep(tmp_path, 3, tokens=250)
    view = await driven(record, Scripted(4, uses(10, "waiting")))
    assert (view.status, view.reached) == ("limit", "tokens")
    assert view.counts == {"waiting": 2, "pending": 1}
    assert "0 are used, 200 are reserved by runs that are not over" in str(view.reason)
    assert "fractale sweep answer s" in view.next
    assert view.limits[0].reserved == 200


async def test_runs_that_a_killed_driver_left_go_first(tmp_path: Path) -> None:
    record = sweep(tmp_path, 6, tokens=200)
    lines = [
        {"row": row, "is": "started", "run": f"s.{row}", "attempt": 1, "reserved": {"tokens": 100}}
        for row in (4, 5)
    ]
    stopped = {"row": 0, "is": "ended", "run": "s.0", "attempt": 1, "status": "stopped"}
    first = {**lines[0], "row": 0, "run": "s.0", "reserved": {"tokens": 0}}
    left_by_a_kill(record, [first, stopped, *lines])
    executor = Scripted(1, uses(10))
    view = await driven(record, executor)
    assert (view.status, view.limits[0].used) == ("success", 60)
    assert executor.order[:2] == [4, 5]


async def test_a_row_that_is_lost_too_often_settles_by_its_record(tmp_path: Path) -> None:
    def lost(task: RunTask) -> RunReport:
        raise WorkerLost("killed")

    record = sweep(tmp_path, 1, tokens=200)
    view = await driven(record, Scripted(1, lost))
    assert view.counts == {"failed": 1}
    assert (view.limits[0].used, view.limits[0].reserved) == (0, 0)  # no run was ever made


async def test_a_retry_counts_beside_the_attempt_that_failed(tmp_path: Path) -> None:
    record = sweep(tmp_path, 1, tokens=120)
    await driven(record, Scripted(1, uses(30, "failed")))
    async with opened_sweep(record) as opened:
        opened.add({"row": 0, "is": "retried"})
    view = await driven(record, Scripted(1, uses(10)))
    assert (view.status, view.reached) == ("limit", "tokens")  # 30 + 100 do not fit into 120
    record.write_head({**record.read_head(), "limits": {"tokens": 130}})
    view = await driven(record, Scripted(1, uses(10)))
    assert (view.status, view.limits[0].used) == ("success", 40)


async def test_the_reservation_is_on_the_disk_before_the_run_starts(tmp_path: Path) -> None:
    record, seen = sweep(tmp_path, 3, tokens=300), list[Any]()

    def look(task: RunTask) -> RunReport:
        seen.append([line for line in lines_of(record) if line.get("run") == task.run])
        return uses(10)(task)

    await driven(record, Scripted(1, look))
    assert [[line["reserved"] for line in lines] for lines in seen] == 3 * [[{"tokens": 100}]]


@pytest.mark.parametrize("status", ["failed", "limit", "stopped"])
async def test_a_run_that_is_over_frees_what_it_did_not_use(tmp_path: Path, status: str) -> None:
    view = await driven(sweep(tmp_path, 2, tokens=150), Scripted(1, uses(50, status)))
    assert view.counts == {status: 2}
    assert (view.limits[0].used, view.limits[0].reserved) == (100, 0)


async def test_a_retry_of_a_cancelled_row_settles_the_attempt_before_it(tmp_path: Path) -> None:
    record = sweep(tmp_path, 1, tokens=250)
    left_by_a_kill(
        record,
        [
            {"row": 0, "is": "started", "run": "s.0", "attempt": 1, "reserved": {"tokens": 100}},
            {"row": 0, "is": "cancelled", "run": "s.0"},  # a process had the run then
        ],
    )
    settings = Settings(state_dir=record.state_dir)
    assert await retry_rows(record, settings, [0]) == [0]
    view = await driven(record, Scripted(1, uses(10)))
    assert (view.limits[0].used, view.limits[0].reserved) == (10, 0)


async def test_what_a_cancelled_run_used_shows(tmp_path: Path) -> None:
    record = sweep(tmp_path, 1, tokens=250)
    run = {"row": 0, "run": "s.0", "attempt": 1}
    started = {**run, "is": "started", "reserved": {"tokens": 100}}
    left_by_a_kill(record, [started, {**run, "is": "cancelled", "used": {"tokens": 30}}])
    view = view_of(record)
    assert (view.rows[0].used["tokens"], view.used["tokens"], view.limits[0].used) == (30, 30, 30)


# -- a worker's report ----------------------------------------------------------------------------

ASKING = """
name: asks
inputs: {x: 1}
limits: {jobs: 2}
steps:
  - {name: work, job: {command: ["true"], time: 1m, scheduler: local}}
  - {name: sure, ask: Sure?, choices: [a, b]}
"""


async def test_a_run_that_an_error_stopped_reports_what_it_had_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = new_sweep(tmp_path, ASKING, [{"x": 1}], limits={"jobs": 2})
    task = RunTask(
        run="s.0",
        sweep="s",
        row=0,
        plan=str(record.plan),
        plan_hash=record.read_head()["plan_hash"],
        inputs={"x": 1},
        directory=str(tmp_path),
        state_dir=str(record.state_dir),
        options={"trusted": True, "yes": False},
    )
    async with Worker({**os.environ, "FRACTALE_POLL_SECONDS": "0.1"}) as worker:
        first = await worker.perform(task)
        assert (first.status, first.used["jobs"]) == ("waiting", 1)
        second = await worker.perform(replace(task, replies={"sure": "neither"}))
    assert second.status == "stopped"
    assert "neither" in str(second.error)
    assert second.used == first.used


async def test_a_run_that_was_continued_without_the_sweep_counts_in_full(tmp_path: Path) -> None:
    record = sweep(tmp_path, 2, tokens=250)
    ends = {"s.0": uses(40, "limit"), "s.1": uses(10, "stopped")}
    await driven(record, Scripted(1, lambda task: ends[task.run](task)))
    run = RunRecords(record.state_dir).at("s.0")
    run.path.mkdir(parents=True)
    used = {"input_tokens": 90, "output_tokens": 5, "cost": 0.0}
    call = {"event": "model_finished", "run": "s.0", "time": 1.0, "step": "a", "key": "k", **used}
    run.events.write_text(json.dumps(call) + "\n")
    view = await driven(record, Scripted(1, uses(10)))
    assert view.limits[0].used == 95 + 10
    again = await driven(record, Scripted(1, uses(10)))
    assert again.limits == view.limits
    assert view.rows[0].used["tokens"] == 95
    assert view.used["tokens"] == 105
    assert sum(line["is"] == "settled" for line in lines_of(record)) == 1


# -- rows that continued without the sweep --------------------------------------------------------


def last_event(record: SweepRecord, run: str, **data: Any) -> None:
    path = RunRecords(record.state_dir).at(run).events
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"event": "run_finished", "run": run, "time": 2.0, **data}) + "\n")


ASKS = {"status": "waiting", "waiting": [{"step": "ask", "kind": "ask", "id": "1"}]}


async def test_a_waiting_row_that_ended_without_the_sweep_is_taken_over(tmp_path: Path) -> None:
    record = sweep(tmp_path, 3, tokens=300)
    await driven(record, Scripted(3, uses(10, "waiting")))
    last_event(record, "s.0", **ASKS)  # it still waits
    last_event(record, "s.1", **ASKS)
    last_event(record, "s.1", status="success")  # by `fractale answer s.1 …`
    job = {"step": "work", "kind": "job", "id": "2"}
    last_event(record, "s.2", status="waiting", waiting=[job])  # nobody has to answer
    executor = Scripted(3, uses(20))
    async with opened_sweep(record) as opened:
        assert due_rows(opened) == 2
    view = await driven(record, executor)
    assert sorted(executor.order) == [1, 2]
    assert view.counts == {"waiting": 1, "success": 2}
    assert (view.limits[0].used, view.limits[0].reserved) == (40, 100)
