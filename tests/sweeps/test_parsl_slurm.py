"""Sweeps on a real Slurm of four nodes: drivers that are killed, blocks that are cancelled, jobs of
drivers, and a scheduler that refuses."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from counts import FULL
from fractale.errors import FractaleError
from fractale.sweeps.cancelling import cancel_sweep
from fractale.sweeps.detach import detach
from fractale.sweeps.executors import WorkerLost
from node_sweeps import Site, kill, processes_of, site, until
from slurm import Slurm, running_cluster

NODES = {
    "provider": "slurm",
    "nodes": 1,
    "blocks": 4 if FULL else 2,
    "walltime": "10m",
    "workers_per_node": 2 if FULL else 1,
    "partition": "debug",
    "address": "127.0.0.1",
}
NODES_OF_ONE = {**NODES, "blocks": 2, "workers_per_node": 1}
ROWS = 500 if FULL else 40
DRIVER_KILLS = 3 if FULL else 1
BLOCKS_CANCELLED = 4 if FULL else 1


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_cluster() as running:
        yield running


def made(folder: Path, slurm: Slurm, **more: object) -> Site:
    return site(folder / "project", {**NODES, **more}, slurm.environment)


@pytest.fixture
def here(tmp_path, slurm) -> Iterator[Site]:
    found = made(tmp_path, slurm)
    yield found
    # A test that failed leaves nothing behind.
    for native_id in slurm.run("squeue", "-h", "-o", "%A").split():
        slurm.run("scancel", native_id, check=False)
    for process in processes_of(found.folder):
        kill(process)


def blocks(slurm: Slurm) -> list[str]:
    """The jobs of blocks that are running."""
    lines = slurm.run("squeue", "-h", "-t", "R", "-o", "%A %j").splitlines()
    return [line.split()[0] for line in lines if "parsl.fractale-s-" in line]


async def ended(here: Site, driver, patience: float) -> None:
    await until(lambda: driver.poll() is not None, here.said, patience)


async def test_a_sweep_outlives_its_drivers_and_its_blocks(here, slurm):
    """Each row ends well, and no call is made twice, whatever dies."""
    chosen = random.Random(7)
    here.sweep(ROWS, seconds=0.2 if FULL else 0.1)
    began = time.monotonic()
    kills = [("driver", (n + 1) / (DRIVER_KILLS + 2)) for n in range(DRIVER_KILLS)]
    kills += [("block", (n + 1.5) / (BLOCKS_CANCELLED + 2)) for n in range(BLOCKS_CANCELLED)]
    kills += [("worker", 0.55)] if FULL else []
    driver = here.driver()

    def has_come(part: float) -> bool:
        assert driver.poll() is None, here.said()
        return len(here.calls()) >= part * ROWS

    for what, part in sorted(kills, key=lambda each: each[1]):
        await until(partial(has_come, part), here.said, 600)
        if what == "driver":
            kill(driver)
            driver.wait()
            driver = here.driver()
        elif what == "block":
            await until(lambda: blocks(slurm), "a block runs")
            slurm.run("scancel", chosen.choice(blocks(slurm)), check=False)
        else:
            kill(busy_worker(here))
    await ended(here, driver, 600)
    view = here.view()
    assert view.counts == {"success": ROWS}, here.said()
    assert {row.outputs["y"] for row in view.rows} == {n * n for n in range(ROWS)}
    twice = {row: calls for row, calls in here.calls().items() if calls != 1}
    assert not twice
    assert len(here.calls()) == ROWS
    await until(lambda: not slurm.run("squeue", "-h", "-o", "%A").split(), "a block is left")
    await until(lambda: not processes_of(here.folder), "a process is left")
    lost = sum(row.losses for row in view.rows)
    print(f"\n{ROWS} runs in {time.monotonic() - began:.0f} s, {kills}, {lost} losses")


def busy_worker(here: Site) -> psutil.Process:
    """A worker of a pool: not the process with the pool's tables, which is its first child."""
    for pool in processes_of(here.folder):
        if "parsl_processes pool" in " ".join(pool.cmdline()):
            spawned = [p for p in pool.children() if "spawn_main" in " ".join(p.cmdline())]
            return max(spawned, key=lambda p: p.pid)
    raise AssertionError("no pool")


async def test_a_driver_is_a_job_that_waits_and_can_be_cancelled_or_runs_the_sweep(
    tmp_path, here, slurm
):
    settings = here.settings
    record = here.sweep(3, "s")
    slurm.run("scontrol", "update", "PartitionName=debug", "State=DOWN")
    try:
        waits = await detach(record, settings)
        assert waits.scheduler == "slurm"
        view = here.view()
        assert view.status == "queued"
        assert f"slurm job {waits.job}" in str(view.reason)
        assert view.next == ("fractale sweep show s", "fractale sweep cancel s")
        done = await cancel_sweep(record, settings)
        assert (done.stopped, done.troubles) == (True, ())
        assert slurm.job(waits.job)["JobState"] == "CANCELLED"
        assert here.view().status == "stopped"
    finally:
        slurm.run("scontrol", "update", "PartitionName=debug", "State=UP")
    again = here.sweep(3, "t")
    runs = await detach(again, settings)
    await until(
        lambda: here.view("t").status == "success",
        lambda: f"{again.output.read_text()} {slurm.job(runs.job)}",
    )
    assert here.calls() == dict.fromkeys(range(3), 1)
    broken = made(tmp_path / "other", slurm, worker_init="echo no module >&2; exit 3")
    failed = await detach(broken.sweep(1), broken.settings)
    await until(lambda: broken.view().status == "stopped", "the job's end is seen")
    assert f"slurm job {failed.job}, ended before it began" in str(broken.view().reason)
    await until(lambda: not slurm.run("squeue", "-h", "-o", "%A").split(), "a job is left")


async def test_what_the_scheduler_refuses_is_said_with_its_own_words(tmp_path, slurm):
    here = made(tmp_path, slurm, partition="nowhere")
    async with here.executor() as executor:
        with pytest.raises(WorkerLost, match="cannot start workers") as lost:
            await executor.perform(here.task(0))
    assert lost.value.cannot_start
    assert "invalid partition" in lost.value.reason
    record = here.sweep(1)
    with pytest.raises(FractaleError, match="invalid partition"):
        await detach(record, here.settings)
    assert here.view().status == "stopped"


async def test_a_job_that_the_accounting_does_not_know_yet_is_not_taken_for_an_ended_one(
    tmp_path, slurm
):
    programs, asked = tmp_path / "programs", tmp_path / "asked"
    programs.mkdir()
    # Accounting that is late: it knows nothing of jobs at the first three questions.
    late = f"""#!/bin/sh
case "$*" in *--job*) echo >> {asked}; [ $(wc -l < {asked}) -gt 3 ] || exit 0;; esac
PATH={slurm.environment["PATH"]}
exec sacct "$@"
"""
    (programs / "sacct").write_text(late)
    (programs / "sacct").chmod(0o755)
    path = f"{programs}:{slurm.environment['PATH']}"
    here = site(tmp_path / "project", NODES_OF_ONE, {**slurm.environment, "PATH": path})
    async with here.executor() as executor:
        # The pool needs some seconds to connect, in which the scheduler is asked.
        assert (await executor.perform(here.task(0, seconds=4))).status == "success"
    assert len(asked.read_text().splitlines()) > 3
    log = here.settings.state_dir / "sweeps" / "s" / "workers" / "parsl" / "blocks.jsonl"
    assert log.read_text().count('"block"') == 1
    await until(lambda: not slurm.run("squeue", "-h", "-o", "%A").split(), "a block is left")
