"""The driver of a sweep: rows to runs, losses, waits, stops, and another driver after it."""

from __future__ import annotations

import asyncio
import json
import resource
import tracemalloc
from pathlib import Path

import pytest

from fractale.errors import RunHeld, StoreError
from fractale.store.run_record import RunRecords
from fractale.sweeps.driver import MOST_LOSSES, opened_sweep
from fractale.sweeps.record import SweepLock
from fractale.sweeps.results import view_of
from swept import (
    ScriptedExecutor,
    done,
    driven,
    lines_about,
    lost,
    made_sweep,
    settings_in,
    states,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's directory, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_each_row_is_performed_once_and_at_most_as_many_at_a_time_as_there_are_workers(
    here: Path,
) -> None:
    record, executor = made_sweep(here, 7), ScriptedExecutor(workers=3)

    view = await driven(record, executor, settings_in(here))

    assert sorted(executor.rows) == list(range(7))
    assert executor.most == 3
    assert view.status == "success"
    assert view.counts == {"success": 7}
    assert [row.outputs for row in view.rows] == [{"y": row} for row in range(7)]
    assert [row.run for row in view.rows] == [f"s.{row}" for row in range(7)]


async def test_a_task_has_all_inputs_and_the_plan_that_the_sweep_keeps(here: Path) -> None:
    record, executor = made_sweep(here, [5]), ScriptedExecutor()

    await driven(record, executor, settings_in(here))

    (task,) = executor.tasks
    assert task.inputs == {"x": 5}
    assert Path(task.plan) == record.plan
    assert task.directory == str(here)
    assert (task.run, task.sweep, task.row, task.attempt) == ("s.0", "s", 0, 1)


async def test_a_line_is_in_the_ledger_before_a_run_starts(here: Path) -> None:
    record = made_sweep(here, 3)
    seen: dict[int, list[str]] = {}

    def act(task, before):
        seen[task.row] = lines_about(record, task.row)
        return done(task)

    await driven(record, ScriptedExecutor(act), settings_in(here))

    assert seen == {row: ["started"] for row in range(3)}
    assert lines_about(record, 1) == ["started", "ended"]


async def test_a_failed_row_and_a_waiting_row_do_not_hold_up_the_others(here: Path) -> None:
    asked = {"kind": "question", "step": "review", "text": "?"}

    def act(task, before):
        if task.row == 1:
            return done(task, "failed", error="no such atom", failed_at="melt")
        if task.row == 2:
            return done(task, "waiting", waiting=(asked,))
        return done(task)

    view = await driven(made_sweep(here, 5), ScriptedExecutor(act), settings_in(here))

    assert states(view) == ["success", "failed", "waiting", "success", "success"]
    assert view.status == "waiting"
    assert view.rows[1].error == "no such atom"
    assert view.rows[1].failed_at == "melt"
    assert view.rows[2].asks == ("review",)
    assert "fractale sweep answer s" in view.next
    assert "fractale sweep retry s --failed" in view.next


async def test_a_run_whose_worker_was_lost_is_performed_again_under_the_same_id(here: Path) -> None:
    def act(task, before):
        return lost() if task.row == 1 and before == 0 else done(task)

    record, executor = made_sweep(here, 3), ScriptedExecutor(act)
    view = await driven(record, executor, settings_in(here))

    assert states(view) == ["success"] * 3
    assert [task.run for task in executor.tasks if task.row == 1] == ["s.1", "s.1"]
    assert lines_about(record, 1) == ["started", "lost", "started", "ended"]
    assert view.rows[1].losses == 1


async def test_a_row_fails_after_losses_without_progress_with_the_last_reason(here: Path) -> None:
    def act(task, before):
        return lost(f"worker {before} was killed") if task.row == 0 else done(task)

    executor = ScriptedExecutor(act)
    view = await driven(made_sweep(here, 2), executor, settings_in(here))

    assert states(view) == ["failed", "success"]
    assert executor.rows.count(0) == MOST_LOSSES
    assert view.rows[0].error
    assert "worker 2 was killed" in view.rows[0].error


async def test_losses_do_not_count_while_the_run_makes_progress(here: Path) -> None:
    record = made_sweep(here, 1)
    run = RunRecords(record.state_dir).at("s.0")

    def act(task, before):
        if before == 10:
            return done(task)
        run.path.mkdir(parents=True, exist_ok=True)
        with run.events.open("a") as file:  # what a step's end leaves
            file.write(json.dumps({"event": "step_finished", "step": str(before)}) + "\n")
        return lost()

    view = await driven(record, ScriptedExecutor(act), settings_in(here))

    assert states(view) == ["success"]
    assert view.rows[0].losses == 10


async def test_beginning_again_is_not_progress(here: Path) -> None:
    record = made_sweep(here, 1)
    run = RunRecords(record.state_dir).at("s.0")

    def act(task, before):
        run.path.mkdir(parents=True, exist_ok=True)
        with run.events.open("a") as file:
            file.write(json.dumps({"event": "run_started"}) + "\n")
            file.write(json.dumps({"event": "tool_finished", "recorded": True}) + "\n")
        return lost()

    view = await driven(record, ScriptedExecutor(act), settings_in(here))

    assert states(view) == ["failed"]


async def test_losses_are_counted_over_the_deaths_of_drivers(here: Path) -> None:
    record = made_sweep(here, 1)
    async with opened_sweep(record) as sweep:  # a driver that died after two losses
        for losses in (1, 2):
            sweep.add({"row": 0, "is": "started", "run": "s.0", "attempt": 1})
            sweep.add({"row": 0, "is": "lost", "run": "s.0", "losses": losses, "progress": 0})
    executor = ScriptedExecutor(lambda task, before: lost())

    view = await driven(record, executor, settings_in(here))

    assert states(view) == ["failed"]
    assert len(executor.tasks) == 1


async def test_a_run_that_stopped_for_its_machine_counts_as_a_loss(here: Path) -> None:
    def act(task, before):
        if task.row == 0 and before < 2:
            return done(task, "stopped", error="no space left on device", again=True)
        return done(task)

    record = made_sweep(here, 2)
    view = await driven(record, ScriptedExecutor(act), settings_in(here))

    assert states(view) == ["success", "success"]
    assert view.rows[0].losses == 2


async def test_a_run_that_its_user_stopped_stays_stopped(here: Path) -> None:
    def act(task, before):
        return done(task, "stopped", error="stopped on request") if task.row == 0 else done(task)

    executor = ScriptedExecutor(act)
    view = await driven(made_sweep(here, 3), executor, settings_in(here))

    assert states(view) == ["stopped", "success", "success"]
    assert executor.rows.count(0) == 1
    assert view.status == "stopped"


async def test_a_row_whose_run_another_process_has_is_asked_for_later(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(task, before):
        return done(task, "running", held=True) if task.row == 0 and not before else done(task)

    executor = ScriptedExecutor(act, workers=1)
    view = await driven(made_sweep(here, 4), executor, settings_in(here))

    assert executor.rows == [0, 1, 2, 3, 0]
    assert states(view) == ["success"] * 4


async def test_no_row_is_blamed_if_no_worker_can_start(here: Path) -> None:
    executor = ScriptedExecutor(lambda task, _: lost("no module named x", cannot_start=True))
    record = made_sweep(here, 5)

    view = await driven(record, executor, settings_in(here))

    assert view.status == "stopped"
    assert view.reason == "no module named x"
    assert "failed" not in view.counts
    assert len(executor.tasks) <= 2
    view = await driven(record, ScriptedExecutor(), settings_in(here))
    assert view.counts == {"success": 5}


async def test_a_second_driver_performs_only_what_is_left(here: Path) -> None:
    record = made_sweep(here, 4)
    async with opened_sweep(record) as sweep:
        sweep.add({"row": 0, "is": "started", "run": "s.0", "attempt": 1})
        sweep.add({"row": 0, "is": "ended", "run": "s.0", "attempt": 1, "status": "success"})
        sweep.add({"row": 1, "is": "started", "run": "s.1", "attempt": 1})
        sweep.add({"row": 2, "is": "started", "run": "s.2", "attempt": 1})
        sweep.add({"row": 2, "is": "ended", "run": "s.2", "attempt": 1, "status": "failed"})
    executor = ScriptedExecutor(workers=1)

    view = await driven(record, executor, settings_in(here))

    assert executor.rows == [1, 3]  # what was in progress comes first
    assert states(view) == ["success", "success", "failed", "success"]


async def test_a_cut_line_of_a_killed_driver_had_no_effect(here: Path) -> None:
    record = made_sweep(here, 2)
    async with opened_sweep(record) as sweep:
        sweep.add({"row": 0, "is": "started", "run": "s.0", "attempt": 1})
    with record.ledger.open("ab") as file:
        file.write(b'{"row": 0, "is": "ended", "sta')

    view = await driven(record, ScriptedExecutor(), settings_in(here))

    assert view.counts == {"success": 2}
    assert lines_about(record, 0) == ["started", "started", "ended"]


async def test_only_one_process_drives_a_sweep(here: Path) -> None:
    record, executor = made_sweep(here, 2), ScriptedExecutor()
    with SweepLock(record), pytest.raises(RunHeld, match="sweep s is held"):
        await driven(record, executor, settings_in(here))
    assert executor.tasks == []


async def test_the_states_are_read_under_the_lock(here: Path) -> None:
    """A driver that waited for the lock sees what the one before it did."""
    record = made_sweep(here, 3)
    assert view_of(record).counts == {"pending": 3}
    await driven(record, ScriptedExecutor(), settings_in(here))
    executor = ScriptedExecutor()
    await driven(record, executor, settings_in(here))
    assert executor.tasks == []


async def test_a_stop_lets_runs_in_progress_end_and_starts_no_other(here: Path) -> None:
    stop = asyncio.Event()

    async def act(task, before):
        stop.set()
        await asyncio.sleep(0.01)
        return done(task, "stopped", again=True, error="the sweep stops")

    record, executor = made_sweep(here, 9), ScriptedExecutor(lambda t, b: act(t, b))
    view = await driven(record, executor, settings_in(here), stop=stop)

    assert len(executor.tasks) == 2
    assert view.status == "stopped"
    assert "fractale sweep resume s" in view.next
    again = ScriptedExecutor()
    assert (await driven(record, again, settings_in(here))).counts == {"success": 9}
    assert set(again.rows[:2]) == {0, 1}


async def test_a_stop_asks_the_runs_through_their_records(here: Path) -> None:
    record, stop = made_sweep(here, 1), asyncio.Event()
    run = RunRecords(record.state_dir).at("s.0")

    async def act(task, before):
        run.path.mkdir(parents=True)
        stop.set()
        while not run.stop_request.exists():  # noqa: ASYNC110 - the driver makes it
            await asyncio.sleep(0.01)
        return done(task, "stopped", error=run.stop_request.read_text().strip())

    view = await driven(
        record, ScriptedExecutor(lambda t, b: act(t, b)), settings_in(here), stop=stop
    )

    assert view.rows[0].error == "the sweep stops"


async def test_a_full_disk_ends_the_driver_with_its_error_and_the_sweep_can_be_resumed(
    here: Path,
) -> None:
    record = made_sweep(here, 400)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = record.ledger.stat().st_size if record.ledger.exists() else 0

    def act(task, before):
        return done(task)

    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, hard))
    try:
        with pytest.raises(StoreError, match="ledger"):
            await driven(record, ScriptedExecutor(act), settings_in(here))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert record.ledger.stat().st_size <= size + 20_000
    view = view_of(record)
    assert view.status == "stopped"
    assert 0 < view.counts["success"] < 400
    view = await driven(record, ScriptedExecutor(), settings_in(here))
    assert view.counts == {"success": 400}


async def test_memory_does_not_grow_with_the_rows_that_are_over(here: Path) -> None:
    record = made_sweep(here, 700)
    sizes: dict[int, int] = {}

    def hear(line, counts):
        number = counts.get("success", 0)
        if number in (100, 690) and number not in sizes:
            sizes[number] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        executor = ScriptedExecutor(keeps=False)
        await driven(record, executor, settings_in(here), listener=hear)
    finally:
        tracemalloc.stop()
    assert sizes[690] - sizes[100] < 590 * 40  # bytes; a dict alone has 64


async def test_many_lines_share_one_sync(here: Path) -> None:
    """Ten rows that end together cost fewer writes of the ledger than lines."""
    record, writes = made_sweep(here, 40), []
    async with opened_sweep(record) as sweep:
        from fractale.sweeps.driver import drive

        real = sweep.ledger.add

        class Counting:
            def add(self, *lines):
                writes.append(len(lines))
                real(*lines)

        sweep.ledger = Counting()  # type: ignore[assignment]  # another adapter
        await drive(sweep, ScriptedExecutor(workers=10), settings=settings_in(here))
    assert sum(writes) == 2 * 40 + 2
    assert len(writes) < 40


async def test_the_listener_hears_each_change_with_the_counts_after_it(here: Path) -> None:
    heard = []
    record = made_sweep(here, 2)
    await driven(
        record,
        ScriptedExecutor(workers=1),
        settings_in(here),
        listener=lambda line, counts: heard.append((line["row"], line["is"], dict(counts))),
    )
    assert heard == [
        (0, "started", {"pending": 1, "running": 1}),
        (0, "ended", {"pending": 1, "success": 1}),
        (1, "started", {"running": 1, "success": 1}),
        (1, "ended", {"success": 2}),
    ]


async def test_cancelling_the_driver_leaves_rows_that_can_be_resumed(here: Path) -> None:
    record, begun = made_sweep(here, 3), asyncio.Event()

    async def act(task, before):
        begun.set()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(
        driven(record, ScriptedExecutor(lambda t, b: act(t, b)), settings_in(here))
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    view = view_of(record)
    assert (view.counts, view.open) == ({"pending": 1, "stopped": 2}, 3)
    assert view.status == "stopped"
    assert view.reason == "the process that drove it ended before all rows had"


async def test_the_ledger_is_private(here: Path) -> None:
    record = made_sweep(here, 1)
    await driven(record, ScriptedExecutor(), settings_in(here))
    assert record.ledger.stat().st_mode & 0o077 == 0
    assert record.path.stat().st_mode & 0o077 == 0
