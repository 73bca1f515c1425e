"""Processes of this machine as the workers of a sweep: warm, replaced, and none left behind.

Most tests give the executor a small program that follows a script, since a real worker imports the
engine. The last ones have real workers.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fractale.sweeps.driver import run_sweep
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.local import LocalExecutor
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.task import RunTask
from swept import (
    effects,
    lines_about,
    made_sweep,
    plan_text,
    settings_in,
    states,
    tool_step,
)

SCRIPTED = """
import json, os, signal, sys, time
print(json.dumps({"hello": 1, "pid": os.getpid()}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    do = task["inputs"].get("do")
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "exit":
        sys.exit(3)
    if do == "sleep":
        time.sleep(60)
    if do == "print":
        print(task["inputs"]["line"], flush=True)
        continue
    if do == "lost":
        print(json.dumps({"lost": "no space left", "cannot_start": False}), flush=True)
        continue
    outputs = {"pid": os.getpid(), "state": os.environ["FRACTALE_STATE_DIR"]}
    report = {"run": task["run"], "status": "success", "outputs": outputs}
    print(json.dumps({"report": report}), flush=True)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def record(here: Path) -> SweepRecord:
    return made_sweep(here, 3)


def executor(record: SweepRecord, script: str = SCRIPTED, **more: Any) -> LocalExecutor:
    """An executor whose workers run a script."""
    settings = settings_in(record.state_dir.parent)
    return LocalExecutor(record, settings, program=(sys.executable, "-S", "-c", script), **more)


def task(row: int = 0, **inputs: Any) -> RunTask:
    return RunTask(
        run=f"s.{row}",
        sweep="s",
        row=row,
        plan="/p",
        plan_hash="",
        inputs=inputs,
        directory="/",
        state_dir="/",
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_worker_performs_one_task_after_another(record: SweepRecord) -> None:
    async with executor(record, workers=1) as workers:
        pids = {(await workers.perform(task(row))).outputs["pid"] for row in range(3)}
    assert len(pids) == 1
    assert not is_alive(pids.pop())


async def test_there_are_as_many_workers_as_the_settings_have_cores(record: SweepRecord) -> None:
    assert executor(record, workers=3).workers == 3
    assert executor(record).workers == len(os.sched_getaffinity(0))
    settings = settings_in(record.state_dir.parent)
    assert LocalExecutor(record, replace(settings, local_cores=5)).workers == 5


async def test_a_worker_knows_the_state_directory(record: SweepRecord) -> None:
    async with executor(record) as workers:
        report = await workers.perform(task())
    assert report.outputs["state"] == str(record.state_dir)


async def test_a_worker_that_is_killed_is_a_loss_and_is_replaced(record: SweepRecord) -> None:
    async with executor(record, workers=1) as workers:
        first = (await workers.perform(task())).outputs["pid"]
        with pytest.raises(WorkerLost, match=f"process {first}.*SIGKILL") as lost:
            await workers.perform(task(1, do="die"))
        assert not lost.value.cannot_start
        assert (await workers.perform(task(2))).outputs["pid"] != first


async def test_a_worker_that_exits_in_a_task_is_a_loss_that_names_its_output(
    record: SweepRecord,
) -> None:
    async with executor(record, workers=1) as workers:
        with pytest.raises(WorkerLost, match=r"exit code 3.*worker-1\.txt") as lost:
            await workers.perform(task(1, do="exit"))
        assert not lost.value.cannot_start


async def test_a_worker_that_reports_a_loss_stays(record: SweepRecord) -> None:
    async with executor(record, workers=1) as workers:
        first = (await workers.perform(task())).outputs["pid"]
        with pytest.raises(WorkerLost, match="no space left"):
            await workers.perform(task(1, do="lost"))
        assert (await workers.perform(task(2))).outputs["pid"] == first


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "null",
        "[]",
        "{}",
        '{"report": {"ran": 1}}',
        '{"report": {"run": "s.7", "status": "success"}}',
    ],
)
async def test_a_worker_whose_answer_is_not_its_own_is_a_loss_and_is_replaced(
    record: SweepRecord, line: str
) -> None:
    """A tool in its process may write to any of its pipes; the next answer would be wrong, too."""
    async with executor(record, workers=1) as workers:
        first = (await workers.perform(task())).outputs["pid"]
        with pytest.raises(WorkerLost, match="cannot be read") as lost:
            await workers.perform(task(1, do="print", line=line))
        assert not lost.value.cannot_start
        assert not is_alive(first)
        assert (await workers.perform(task(2))).outputs["pid"] != first


async def test_a_worker_that_cannot_start_says_so_with_its_last_lines(record: SweepRecord) -> None:
    script = "import sys; print('Traceback', file=sys.stderr); sys.exit('no module named fractale')"
    async with executor(record, script) as workers:
        with pytest.raises(WorkerLost, match="no module named fractale") as lost:
            await workers.perform(task())
    assert lost.value.cannot_start


async def test_the_last_lines_are_those_of_this_start(record: SweepRecord) -> None:
    async with executor(record, "import sys; sys.exit('the first reason')", workers=1) as workers:
        with pytest.raises(WorkerLost, match="the first reason"):
            await workers.perform(task())
    async with executor(record, "import sys; sys.exit('another')", workers=1) as workers:
        with pytest.raises(WorkerLost) as lost:
            await workers.perform(task())
    assert "the first reason" not in lost.value.reason


async def test_a_program_that_is_missing_cannot_start(record: SweepRecord) -> None:
    settings = settings_in(record.state_dir.parent)
    async with LocalExecutor(record, settings, program=("/nowhere/python",)) as workers:
        with pytest.raises(WorkerLost, match="/nowhere/python") as lost:
            await workers.perform(task())
    assert lost.value.cannot_start


async def test_a_worker_that_is_killed_before_it_is_ready_is_only_a_loss(
    record: SweepRecord,
) -> None:
    """As by a system that is out of memory: the next one may start."""
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    async with executor(record, script) as workers:
        with pytest.raises(WorkerLost, match="SIGKILL") as lost:
            await workers.perform(task())
    assert not lost.value.cannot_start


async def test_no_process_is_left_if_a_task_is_cancelled(record: SweepRecord) -> None:
    async with executor(record, workers=1, leave_seconds=0.2) as workers:
        pid = (await workers.perform(task())).outputs["pid"]
        working = asyncio.ensure_future(workers.perform(task(1, do="sleep")))
        await asyncio.sleep(0.1)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert not is_alive(pid)
        assert (await workers.perform(task(2))).outputs["pid"] != pid


async def test_what_workers_print_is_in_private_files_of_the_sweep(record: SweepRecord) -> None:
    async with executor(record, "import sys; sys.exit('a reason')") as workers:
        with pytest.raises(WorkerLost):
            await workers.perform(task())
    (output,) = record.workers.iterdir()
    assert "a reason" in output.read_text()
    assert output.stat().st_mode & 0o077 == 0
    assert record.workers.stat().st_mode & 0o077 == 0


async def test_a_large_task_and_a_large_report_fit_through_the_pipes(record: SweepRecord) -> None:
    script = SCRIPTED.replace('"pid": os.getpid(), "state"', '"same": task["inputs"], "state"')
    long = "é" * 300_000
    async with executor(record, script) as workers:
        report = await workers.perform(task(0, long=long))
    assert report.outputs["same"] == {"long": long}


# -- real workers ----------------------------------------------------------------------------------


@pytest.mark.real  # real workers, which import the engine
async def test_a_sweep_of_real_runs_outlives_a_killed_worker(here: Path) -> None:
    """A worker is killed in the middle of a call, which may have happened: the run then asks."""
    plan = plan_text(tool_step("double", "first"), tool_step("die"))
    record = made_sweep(here, [1, 2, 3, 4], plan, max_parallel=1)
    (here / "deadly").touch()
    lost: list[int] = []

    def hear(line: Any, counts: Any) -> None:
        if line["is"] == "lost":
            lost.append(line["row"])
            (here / "deadly").unlink(missing_ok=True)

    view = await run_sweep(record, settings=settings_in(here), listener=hear)

    assert lost == [0]
    assert states(view) == ["waiting", "success", "success", "success"]
    assert lines_about(record, 0) == ["started", "lost", "started", "ended"]
    assert view.rows[0].asks == ("last",)  # whether the call was made is not known
    assert sorted(effects(here)) == sorted(
        f"{name} {x}" for x in (1, 2, 3, 4) for name in ("double", "die")
    )


TELLS = '''
def double(x: int) -> int:
    """Double a number."""
    import sys
    print("printed", x, os.environ["OPENAI_API_KEY"])
    print("logged", x, os.environ["OPENAI_API_KEY"], file=sys.stderr)
    return 2 * x
'''


@pytest.mark.real  # real workers, which import the engine
async def test_what_tools_print_is_kept_without_secrets(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-that-nobody-may-see")
    record = made_sweep(here, [1, 2], max_parallel=1)
    with (here / "swept_tools.py").open("a") as tools:
        tools.write(TELLS)

    view = await run_sweep(record, settings=settings_in(here))

    assert view.counts == {"success": 2}
    (output,) = record.workers.iterdir()
    lines = [f"{how} {x} ***" for x in (1, 2) for how in ("printed", "logged")]
    assert output.read_text().splitlines() == lines


@pytest.mark.real  # real workers, which import the engine
async def test_a_stop_ends_real_runs_at_a_boundary_and_leaves_no_process(here: Path) -> None:
    plan = plan_text(tool_step("gate", "first"), tool_step("double"))
    record, stop = made_sweep(here, [1, 2], plan, max_parallel=1), asyncio.Event()

    async def stopping() -> None:
        while not effects(here):  # noqa: ASYNC110 - a worker makes it
            await asyncio.sleep(0.02)
        stop.set()
        run = record.state_dir / "runs" / "s.0" / "stop"
        while not run.exists():  # noqa: ASYNC110 - the driver makes it
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.3)  # the run looks for requests once a second
        (here / "open").touch()

    helper = asyncio.ensure_future(stopping())
    view = await run_sweep(record, settings=settings_in(here), stop=stop)
    await helper

    assert states(view) == ["stopped", "pending"]
    assert effects(here) == ["gate 1"]
    view = await run_sweep(record, settings=settings_in(here))
    assert view.counts == {"success": 2}
    assert sorted(effects(here)) == ["double 1", "double 2", "gate 1", "gate 2"]
