"""Random sweeps of batch jobs on a real Slurm keep their limits, also if they are killed."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from counts import FULL
from fractale.jobs.budget import FileLedger
from fractale.sweeps.budget import SweepBudget, used_by
from fractale.sweeps.record import SweepRecord
from slurm import Slurm, running_slurm
from sweep_processes import SweepProcesses, lines_of, new_sweep, now, runs_of

SWEEPS = 100 if FULL else 3

PLAN = """
name: melt
inputs: {jobs: 1, seconds: 0}
steps:
  - name: melt
    foreach: range(inputs.jobs)
    job:
      command: [sleep, "{{ inputs.seconds }}"]
      nodes: 1
      time: 1m
      scheduler: slurm
"""
MOST_JOBS = 2
JOB_HOURS = 0.03
"""More node-hours than one job reserves: a minute and its grace."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_slurm() as slurm:
        yield slurm


def random_sweep(folder: Path, chance: random.Random) -> SweepRecord:
    folder.mkdir()
    each = JOB_HOURS * MOST_JOBS
    rows = [
        {"jobs": chance.randint(1, MOST_JOBS), "seconds": chance.choice((0, 0, 0.5, 1))}
        for _ in range(chance.randint(3, 6))
    ]
    return new_sweep(
        folder,
        PLAN,
        rows,
        limits={
            # Of one or two runs, and little more: some sweeps reach it.
            "node_hours": round(each * chance.choice((1, 1, 2)) + chance.uniform(0, 0.002), 6),
            "jobs_at_once": chance.randint(MOST_JOBS, 3 * MOST_JOBS),
        },
        run_limits={"node_hours": each, "jobs": MOST_JOBS},
        options={"yes": True, "trusted": True},
    )


def drive(
    record: SweepRecord, processes: SweepProcesses, slurm: Slurm, chance: random.Random
) -> int:
    """Drive a sweep to its end, and kill its driver or a worker once or not at all."""
    environment = {
        **slurm.environment,
        "HOME": str(record.state_dir.parent),
        "FRACTALE_TRUST_PROJECT": "1",
        "FRACTALE_POLL_SECONDS": "0.5",
    }
    driver = processes.start_driver(record, workers=3, env=environment)
    killed = 0
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0.2, 3))
        role = chance.choice(("driver", "worker"))
        for pid in processes.alive(role)[:1]:
            processes.kill(pid)
            killed = 1
        if role == "driver":
            driver.wait(60)
            driver = processes.start_driver(record, workers=3, env=environment)
    said, _ = driver.communicate(timeout=240)
    assert now(record).status in ("success", "limit"), (said, now(record))
    return killed


def job_times(record: SweepRecord, slurm: Slurm) -> list[tuple[float, float, float]]:
    """When each job of a sweep was submitted, started and ended, as Slurm says."""
    found: list[tuple[float, float, float]] = []
    for run in runs_of(record):
        for handle in run.jobs.glob("*/handle.json"):
            known = slurm.job(json.loads(handle.read_text())["native_id"])
            times = [known[name] for name in ("SubmitTime", "StartTime", "EndTime")]
            submitted, started, ended = (datetime.fromisoformat(t).timestamp() for t in times)
            found.append((submitted, started, ended))
    return found


def most_reserved(record: SweepRecord, name: str) -> float:
    """The highest sum of uses and reservations of a limit, over the lines of the ledger."""
    budget, most = SweepBudget(record.read_head()["limits"]), 0.0
    for line in lines_of(record):
        budget.count(line)
        most = max(most, round(budget.used[name] + budget.reserved[name], 9))
    return most


def test_random_sweeps_never_pass_their_node_hours(
    tmp_path: Path, slurm: Slurm, sweeping: SweepProcesses
) -> None:
    seed = random.randrange(10**6) if FULL else 17
    print(f"seed {seed}")
    chance, over, killed, ends, jobs = random.Random(seed), 0.0, 0, Counter[str](), 0
    for number in range(SWEEPS):
        record = random_sweep(tmp_path / str(number), chance)
        killed += drive(record, sweeping, slurm, chance)
        view = now(record)
        ends[view.status] += 1
        (hours, at_once) = view.limits
        assert (hours.name, at_once.name) == ("node_hours", "jobs_at_once")
        times = job_times(record, slurm)
        jobs += len(times)
        true = sum(ended - started for _, started, ended in times) / 3600
        over = max(over, true - hours.limit)
        assert hours.used == round(sum(used_by(run)["node_hours"] for run in runs_of(record)), 9)
        assert (hours.reserved, at_once.used, at_once.reserved) == (0, 0, 0)
        assert most_reserved(record, "node_hours") <= hours.limit
        assert most_reserved(record, "jobs_at_once") <= at_once.limit
        in_progress = max((sum(a <= at < b for a, _, b in times) for at, _, _ in times), default=0)
        assert in_progress <= at_once.limit
        assert len(times) == sum(
            line["is"] == "reserved"
            for run in runs_of(record)
            for line in FileLedger(run.job_ledger).lines()
        )
    print(f"{SWEEPS} sweeps, {jobs} jobs, {killed} kills, {dict(ends)}: {max(over, 0)} h over")
    assert over <= 0
    assert jobs
