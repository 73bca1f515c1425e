"""A sweep that is continued, cancelled, or whose failed rows are run again."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

import forked
from fractale.errors import RunHeld, SettingsError, UsageError
from fractale.store.run_record import RunRecords
from fractale.sweeps.cancelling import cancel_sweep
from fractale.sweeps.driver import opened_sweep
from fractale.sweeps.record import SweepLock, SweepRecord
from fractale.sweeps.results import view_of
from fractale.sweeps.resuming import resume_sweep, retry_rows
from swept import (
    ASKS,
    InProcess,
    ScriptedExecutor,
    done,
    driven,
    effects,
    lines_about,
    made_sweep,
    plan_text,
    settings_in,
    states,
    tool_step,
)

ODD = plan_text(tool_step("odd"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def performed(record: SweepRecord, here: Path):
    executor = InProcess(here)
    async with executor:
        return await driven(record, executor, settings_in(here))


def command(here: Path, *words: str):
    env = {**os.environ, "FRACTALE_STATE_DIR": str(here / "state")}
    return forked.run(["sweep", *words], cwd=here, env=env)


# -- resume ----------------------------------------------------------------------------------------


async def test_a_resume_performs_what_is_not_over(here: Path) -> None:
    record = made_sweep(here, 4)
    async with opened_sweep(record) as sweep:
        sweep.add({"row": 0, "is": "ended", "run": "s.0", "attempt": 1, "status": "success"})
        sweep.add({"row": 1, "is": "started", "run": "s.1", "attempt": 1})
        sweep.add({"row": 2, "is": "cancelled"})
    executor = ScriptedExecutor()

    resumed = await resume_sweep(record, settings_in(here), executor=executor)

    assert sorted(executor.rows) == [1, 2, 3]
    assert (resumed.rows, resumed.view.status) == (3, "success")


async def test_a_resume_of_a_sweep_that_ended_does_nothing(here: Path) -> None:
    record = made_sweep(here, 2)
    await driven(record, ScriptedExecutor(), settings_in(here))
    before, executor = record.ledger.read_bytes(), ScriptedExecutor()
    resumed = await resume_sweep(record, settings_in(here), executor=executor)
    assert (resumed.rows, executor.tasks) == (0, [])
    assert record.ledger.read_bytes() == before


async def test_runs_at_a_limit_of_their_own_are_resumed_with_a_higher_one(here: Path) -> None:
    record = made_sweep(here, 2, run_limits={"steps": 1})
    await driven(record, ScriptedExecutor(lambda t, _: done(t, "limit")), settings_in(here))
    assert states(view_of(record)) == ["limit", "limit"]
    executor = ScriptedExecutor()
    resumed = await resume_sweep(record, settings_in(here), executor=executor)
    assert resumed.rows == 0

    await resume_sweep(record, settings_in(here), run_limits={"steps": 5}, executor=executor)

    assert [task.limits for task in executor.tasks] == [{"steps": 5}] * 2
    assert [task.run for task in executor.tasks] == ["s.0", "s.1"]
    assert view_of(record).status == "success"


async def test_a_limit_of_the_sweep_is_raised_and_the_rest_is_performed(here: Path) -> None:
    record = made_sweep(here, 4, limits={"tokens": 20}, run_limits={"tokens": 10})

    def act(task, before):
        return done(task, used={"tokens": 10})

    view = await driven(record, ScriptedExecutor(act), settings_in(here))
    assert (view.status, view.reached, view.counts["success"]) == ("limit", "tokens", 2)
    assert "fractale sweep resume s --limit tokens=…" in view.next

    resumed = await resume_sweep(
        record, settings_in(here), limits={"tokens": 40}, executor=ScriptedExecutor(act)
    )

    assert resumed.view.status == "success"
    assert record.read_head()["limits"] == {"tokens": 40}
    again = await resume_sweep(record, settings_in(here))  # its head still is the user's own
    assert again.rows == 0


async def test_a_limit_that_one_run_may_pass_is_refused_and_nothing_changes(here: Path) -> None:
    record = made_sweep(here, 2, limits={"tokens": 20}, run_limits={"tokens": 10})
    with pytest.raises(UsageError):
        await resume_sweep(record, settings_in(here), limits={"tokens": 5})
    assert record.read_head()["limits"] == {"tokens": 20}


async def test_another_users_sweep_is_not_acted_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRACTALE_TRUST_PROJECT", "")
    record = made_sweep(here, 2)
    record.write_head({**record.read_head(), "options": {"registries": ["/elsewhere.yaml"]}})
    executor = ScriptedExecutor()
    with pytest.raises(SettingsError, match="did not start sweep s"):
        await resume_sweep(record, settings_in(here), executor=executor)
    with pytest.raises(SettingsError):
        await retry_rows(record, settings_in(here))
    assert executor.tasks == []


# -- retry -----------------------------------------------------------------------------------------


async def test_failed_rows_are_run_again_as_new_runs_and_the_old_ones_stay(here: Path) -> None:
    record = made_sweep(here, 4, ODD)
    assert states(await performed(record, here)) == ["success", "failed", "success", "failed"]
    (here / "mended").touch()

    assert await retry_rows(record, settings_in(here)) == [1, 3]
    assert states(view_of(record)) == ["success", "pending", "success", "pending"]
    view = await performed(record, here)

    assert view.counts == {"success": 4}
    assert [row.run for row in view.rows] == ["s.0", "s.1.2", "s.2", "s.3.2"]
    runs = RunRecords(record.state_dir)
    assert runs.names() == {"s.0", "s.1", "s.1.2", "s.2", "s.3", "s.3.2"}
    assert effects(here).count("odd 1") == 2
    assert effects(here).count("odd 0") == 1


async def test_one_row_is_retried(here: Path) -> None:
    record = made_sweep(here, 4, ODD)
    await performed(record, here)
    assert await retry_rows(record, settings_in(here), [3]) == [3]
    assert states(view_of(record)) == ["success", "failed", "success", "pending"]


@pytest.mark.parametrize(
    ("rows", "words"), [([0], "row 0 .* is success"), ([9], "no row 9"), (None, "nothing to retry")]
)
async def test_what_cannot_be_retried_is_refused(
    here: Path, rows: list[int] | None, words: str
) -> None:
    record = made_sweep(here, 2)
    await driven(record, ScriptedExecutor(), settings_in(here))
    with pytest.raises(UsageError, match=words):
        await retry_rows(record, settings_in(here), rows)
    assert states(view_of(record)) == ["success", "success"]


async def test_what_a_failed_attempt_used_stays_counted(here: Path) -> None:
    record = made_sweep(here, 1)
    fails = ScriptedExecutor(lambda t, _: done(t, "failed", used={"tokens": 7}))
    await driven(record, fails, settings_in(here))
    await retry_rows(record, settings_in(here))
    works = ScriptedExecutor(lambda t, _: done(t, used={"tokens": 5}))
    view = await driven(record, works, settings_in(here))
    assert view.used == {"tokens": 12}
    assert view.rows[0].used == {"tokens": 5}


# -- cancel ----------------------------------------------------------------------------------------


async def test_a_sweep_without_a_driver_is_cancelled_and_can_be_resumed(here: Path) -> None:
    record = made_sweep(here, 3, ASKS)
    async with opened_sweep(record) as sweep:
        sweep.add({"row": 2, "is": "ended", "run": "s.2", "attempt": 1, "status": "success"})
    executor = InProcess(here)
    async with executor:
        await driven(record, executor, settings_in(here))

    cancelled = await cancel_sweep(record, settings_in(here))

    assert (cancelled.stopped, cancelled.rows, cancelled.troubles) == (True, 2, ())
    assert states(cancelled.view) == ["stopped", "stopped", "success"]
    assert cancelled.view.status == "stopped"
    assert cancelled.view.reason == "cancelled by `fractale sweep cancel`"
    again = ScriptedExecutor()
    await resume_sweep(record, settings_in(here), executor=again)
    assert sorted(again.rows) == [0, 1]


async def test_the_driver_of_a_sweep_is_asked_to_stop_and_cancels_the_rows(here: Path) -> None:
    record = made_sweep(here, 9)
    runs = RunRecords(record.state_dir)

    async def act(task, before):
        run = runs.at(task.run)
        run.path.mkdir(parents=True)
        while not run.stop_request.exists():  # noqa: ASYNC110 - the driver makes it
            await asyncio.sleep(0.02)
        return done(task, "stopped", error=run.stop_request.read_text().strip())

    executor = ScriptedExecutor(lambda task, before: act(task, before))
    driving = asyncio.ensure_future(driven(record, executor, settings_in(here)))
    while not executor.tasks:  # noqa: ASYNC110 - the driver begins
        await asyncio.sleep(0.02)

    cancelled = await cancel_sweep(record, settings_in(here))
    view = await driving

    assert cancelled.stopped
    assert len(executor.tasks) == 2
    assert view.counts == cancelled.view.counts == {"stopped": 9}
    assert view.rows[0].error == "fractale cancel"
    assert not record.stop_request.exists()


async def test_stopped_rows_are_cancelled_once_since_their_jobs_may_be_in_progress(
    here: Path,
) -> None:
    record = made_sweep(here, 1)
    async with opened_sweep(record) as sweep:
        sweep.add(
            {"row": 0, "is": "started", "run": "s.0", "attempt": 1},
            {"row": 0, "is": "ended", "run": "s.0", "attempt": 1, "status": "stopped"},
        )
    assert "fractale sweep cancel s" in view_of(record).next

    cancelled = await cancel_sweep(record, settings_in(here))

    assert (cancelled.rows, lines_about(record, 0)[-1]) == (1, "cancelled")
    assert cancelled.view.next == ("fractale sweep resume s",)
    with pytest.raises(UsageError, match="was stopped before: there is nothing to cancel"):
        await cancel_sweep(record, settings_in(here))


async def test_a_sweep_that_has_ended_cannot_be_cancelled(here: Path) -> None:
    record = made_sweep(here, 2)
    await driven(record, ScriptedExecutor(), settings_in(here))
    before = record.ledger.read_bytes()
    with pytest.raises(UsageError, match="has ended: there is nothing to cancel"):
        await cancel_sweep(record, settings_in(here))
    assert record.ledger.read_bytes() == before


async def test_a_driver_that_does_not_stop_in_time_is_left_to_cancel_later(here: Path) -> None:
    record = made_sweep(here, 2)
    with SweepLock(record):  # a process in the middle of a long call
        cancelled = await cancel_sweep(record, settings_in(here), seconds=0.1)
        assert not cancelled.stopped
        assert record.stop_request.exists()


async def test_rows_are_not_changed_while_another_process_drives(here: Path) -> None:
    record = made_sweep(here, 2)
    with SweepLock(record):
        with pytest.raises(RunHeld):
            await retry_rows(record, settings_in(here), [0])
        with pytest.raises(RunHeld):
            await resume_sweep(record, settings_in(here), executor=ScriptedExecutor())


# -- the commands ----------------------------------------------------------------------------------


async def test_the_commands_from_questions_to_success(here: Path) -> None:
    """Waiting rows are answered, the failed one is retried; each command says what to type next."""
    plan = plan_text(
        "  - name: review\n    ask: Shall it run?\n    choices: [yes, no]", tool_step("odd")
    )
    record = made_sweep(here, [1, 2], plan, max_parallel=1)
    await performed(record, here)

    listed = command(here, "answer", "s")
    assert listed.returncode == 0, listed.stderr
    assert "2 runs waiting with 1 different question" in listed.stdout
    assert "Shall it run?" in listed.stdout
    assert "fractale sweep answer s review=yes" in listed.stdout
    given = command(here, "answer", "s", "review=yes", "--no-resume")
    assert given.returncode == 0, given.stderr
    assert 'answered review for 2 runs: "yes"' in given.stdout
    assert "fractale sweep resume s" in given.stdout
    assert command(here, "answer", "s", "review=yes").returncode == 2

    view = await performed(record, here)
    assert states(view) == ["failed", "success"]
    marked = command(here, "retry", "s", "--failed", "--no-resume", "--json")
    assert json.loads(marked.stdout) == {"sweep": "s", "rows": [0]}
    (here / "mended").touch()
    resumed = command(here, "resume", "s")  # by a real worker
    assert resumed.returncode == 4, resumed.stderr  # the new run of the row asks again
    assert "1 waiting" in resumed.stdout

    cancelled = command(here, "cancel", "s", "--yes")
    assert cancelled.returncode == 0, cancelled.stderr
    assert lines_about(record, 0)[-1] == "cancelled"
    assert command(here, "cancel", "s", "--yes").returncode == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resume", "gone"], "sweep `gone` not found"),
        (["cancel", "s"], "needs your agreement"),
        (["retry", "s"], "no row was named"),
        (["retry", "s", "--failed", "--row", "0"], "exclude each other"),
        (["retry", "s", "--failed"], "nothing to retry"),
        (["answer", "s"], "no run of sweep s waits"),
        (["answer", "s", "review=yes"], "no run of sweep s waits"),
        (["resume", "s", "--limit", "tokns=3"], "did you mean `tokens`?"),
        (["resume", "s", "--limit", "tokens=many"], "must be a number above 0"),
        (["resume", "s", "--run-limit", "steps=0"], "--run-limit steps=0"),
        (["resume", "s", "--limit", "tokens=9"], "needs a limit `tokens` of each run"),
    ],
)
def test_wrong_use_is_exit_2_and_says_what_to_do(here: Path, words: list[str], told: str) -> None:
    record = made_sweep(here, 1)
    before = record.head.read_bytes()
    result = command(here, *words)
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert record.head.read_bytes() == before
