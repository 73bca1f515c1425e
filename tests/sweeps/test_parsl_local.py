"""Runs in Parsl's workers on this machine: real processes, real sockets, deaths."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import psutil
import pytest

from fractale.errors import SettingsError
from fractale.sweeps.executors import WorkerLost
from node_sweeps import Site, kill, processes_of, site, until

LOCAL = {"provider": "local", "workers_per_node": 2}


@pytest.fixture
def here(tmp_path) -> Site:
    return site(tmp_path / "project", LOCAL, {"SITE_API_KEY": "sk-0123456789abcdef"})


def pools(here: Site) -> list[psutil.Process]:
    """The worker pools."""
    return [p for p in processes_of(here.folder) if "parsl_processes pool" in " ".join(p.cmdline())]


def listeners(pid: int) -> set[str]:
    return {
        each.laddr.ip
        for each in psutil.Process(pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


async def test_runs_happen_in_warm_workers_and_nothing_is_left(here):
    executor = here.executor()
    async with executor:
        assert executor.workers == 2
        # Nothing is started before there is a task.
        assert not pools(here)
        reports = await asyncio.gather(*(executor.perform(here.task(row)) for row in range(6)))
        interchange = executor._htex.interchange_proc.pid
        addresses = listeners(interchange) | listeners(os.getpid())
        # A task that is never begun: it waits while both workers rest.
        resting = [
            asyncio.create_task(executor.perform(here.task(row, seconds=3))) for row in (6, 7)
        ]
        await until(lambda: len(here.calls()) == 8, "the workers rest")
        waiting = asyncio.create_task(executor.perform(here.task(8)))
        await asyncio.sleep(0.2)
        executor.stop()
        ends = await asyncio.gather(*resting, waiting)
    assert [report.status for report in reports] == ["success"] * 6
    assert [report.outputs["y"] for report in reports] == [row * row for row in range(6)]
    assert len({report.outputs["pid"] for report in reports}) <= 2
    assert [report.status for report in ends] == ["success", "success", "stopped"]
    assert here.calls() == dict.fromkeys(range(8), 1)
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}
    kept = here.settings.state_dir / "sweeps" / "s" / "workers" / "parsl"
    (certificates,) = kept.glob("fractale-s-*/certificates")
    assert stat.S_IMODE(certificates.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    await until(lambda: not processes_of(here.folder), "a process is left", 10)
    assert not psutil.pid_exists(interchange)
    assert not secrets_in(kept, here.environment["SITE_API_KEY"])


def secrets_in(folder: Path, secret: str) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and secret.encode() in f.read_bytes()]


async def test_a_lost_worker_and_a_lost_node_are_told_and_replaced(tmp_path):
    here = site(tmp_path / "project", {**LOCAL, "workers_per_node": 1}, {})
    async with here.executor(idle_seconds=1) as executor:
        report = await executor.perform(here.task(0))
        long = asyncio.create_task(executor.perform(here.task(1, seconds=2)))
        await until(lambda: 1 in here.calls(), "the run has begun")
        kill(psutil.Process(report.outputs["pid"]))
        with pytest.raises(WorkerLost, match="the worker's process ended") as lost:
            await long
        assert not lost.value.cannot_start
        # The pool has a new worker, and the run is resumed: its first call is not repeated.
        assert (await executor.perform(here.task(1, seconds=2))).status == "success"
        again = asyncio.create_task(executor.perform(here.task(2, seconds=60)))
        await until(lambda: 2 in here.calls(), "the run has begun")
        # What a pool of Parsl cannot work without: it ends, and does not hang.
        (pool,) = pools(here)
        (tables,) = [p for p in pool.children() if "spawn_main" in line(p) and is_first(p, pool)]
        kill(tables)
        with pytest.raises(WorkerLost, match="a node of the block is gone"):
            await again
        assert (await executor.perform(here.task(3))).status == "success"
        assert here.calls() == dict.fromkeys(range(4), 1)
        # A block that is idle ends; nobody waits for its walltime.
        await until(lambda: not pools(here), "the idle block ends", 30)


def line(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def is_first(process: psutil.Process, pool: psutil.Process) -> bool:
    """Whether a pool started a process before its workers."""
    others = [p.pid for p in pool.children() if "spawn_main" in line(p)]
    return process.pid == min(others)


def broken(folder: Path, package: str) -> dict[str, str]:
    """Settings of an executor whose nodes lack a module that a package needs."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("import no_such_package\n")
    return {"worker_init": f"export PYTHONPATH={folder}"}


@pytest.mark.parametrize("what", ["python", "fractale"])
async def test_blocks_that_cannot_start_are_not_submitted_for_ever(tmp_path, what):
    wrong = broken(tmp_path / "broken", what) if what == "fractale" else {"python": "/no/python"}
    here = site(tmp_path / "project", {**LOCAL, **wrong}, {})
    async with here.executor() as executor:
        with pytest.raises(WorkerLost, match="cannot start workers") as lost:
            await executor.perform(here.task(0))
        assert lost.value.cannot_start
        assert {"python": "No such file", "fractale": "no_such_package"}[what] in lost.value.reason
        assert "worker_init" in lost.value.reason
        with pytest.raises(WorkerLost):  # at once
            await executor.perform(here.task(1))
    scripts = here.settings.state_dir / "sweeps" / "s" / "workers" / "parsl" / "scripts"
    assert len(list(scripts.glob("*.sh"))) == 3


async def test_workers_that_cannot_import_fractale_say_so(tmp_path):
    wrong = broken(tmp_path / "broken", "langgraph")
    here = site(tmp_path / "project", {**LOCAL, **wrong, "workers_per_node": 1}, {})
    async with here.executor() as executor:
        with pytest.raises(WorkerLost, match="cannot import fractale") as lost:
            await executor.perform(here.task(0))
    assert lost.value.cannot_start
    assert "no_such_package" in lost.value.reason
    assert "worker_init" in lost.value.reason


async def test_blocks_of_a_driver_that_died_end_themselves_and_the_sweep_is_resumed(here):
    here.sweep(6, seconds=0.3)
    first = here.driver()
    await until(lambda: here.calls(), here.said)
    kill(first)
    first.wait()
    await until(lambda: not processes_of(here.folder), "the blocks end", 40)
    assert here.view().status == "stopped"
    second = here.driver()
    await until(lambda: second.poll() is not None, here.said)
    assert here.view().counts == {"success": 6}, here.said()
    assert here.calls() == dict.fromkeys(range(6), 1)


async def test_a_state_directory_that_shell_scripts_cannot_name_is_refused(tmp_path):
    here = site(tmp_path / "a b", LOCAL, {})
    with pytest.raises(SettingsError, match="cannot use the path") as caught:
        async with here.executor():
            pass
    assert "state_dir" in str(caught.value.hint)
