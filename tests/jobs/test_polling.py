"""However many jobs are waited for, a scheduler is asked rarely, and about all of them at once.

The scheduler of these tests is a queue of real processes that notes each question.
"""

# ruff: noqa: ASYNC220 - these tests start processes
from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fractale.errors import SchedulerUnavailable
from fractale.jobs import JobHandle, Jobs, JobSpec
from fractale.schedulers.local.jobs import Local
from fractale.schedulers.request import Array
from job_parts import PATIENCE, SOON, until

LONG = 3600.0
"""Seconds between two questions, where no second one is to come."""


class Noting:
    """A scheduler that notes when it is asked, and about how many jobs."""

    name, title = "slurm", "Slurm"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.queue = Local({"PATH": os.environ["PATH"]}, root / "queue", 50)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)

    async def records(self, jobs: Sequence[Any]) -> list[Any]:
        with (self.root / "questions").open("a") as file:
            file.write(json.dumps([time.time(), len(jobs)]) + "\n")
        if (self.root / "down").exists():
            raise SchedulerUnavailable("Slurm does not answer")
        return await self.queue.records(jobs)


class Cluster:
    def __init__(self, root: Path) -> None:
        self.root = root

    def jobs(self, seconds: float) -> Jobs:
        adapter = Noting(self.root)
        return Jobs(
            self.root / "jobs",
            {"PATH": os.environ["PATH"]},
            "slurm",
            adapters={"slurm": adapter},
            poll_seconds=seconds,
        )

    def spec(self, script: str, **more: Any) -> JobSpec:
        return JobSpec(name="t", folder=self.root, script=f"#!/bin/sh\n{script}\n", **more)

    @property
    def questions(self) -> list[tuple[float, int]]:
        path = self.root / "questions"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(json.loads(line)) for line in lines]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


async def ended(jobs: Jobs, handle: JobHandle) -> Any:
    status = await jobs.wait(handle, timeout=PATIENCE, intervals=SOON)
    assert status.over, status.reason
    return status


async def test_an_exit_code_needs_no_question(cluster):
    jobs = cluster.jobs(LONG)
    handles = [await jobs.submit(cluster.spec(f"exit {n}"), key=str(n)) for n in (0, 3)]
    for handle in handles:
        await until(lambda handle=handle: bool(list(handle.job_dir.glob("ended.*"))))
    found = [await jobs.status(handle) for handle in handles]
    assert [(each.state, each.exit_code) for each in found] == [("completed", 0), ("failed", 3)]
    assert cluster.questions == []


async def test_many_who_wait_ask_together_and_rarely(cluster):
    seconds = 1.0
    several = [cluster.jobs(seconds) for _ in range(3)]  # as three runs of one process have them
    gate = "until [ -e open ]; do sleep 0.1; done"
    handles = [
        (jobs, await jobs.submit(cluster.spec(gate), key=f"{n} {i}"))
        for n, jobs in enumerate(several)
        for i in range(8)
    ]
    array = await several[0].submit(cluster.spec(gate, array=Array.parse("1-20")), key="a")
    waits = [asyncio.create_task(ended(*pair)) for pair in [*handles, (several[0], array)]]
    # Slowly started waits may miss the first questions; then one is about all jobs.
    await until(lambda: any(jobs == 25 for _, jobs in cluster.questions[1:]))
    (cluster.root / "open").touch()
    found = await asyncio.gather(*waits)
    assert {status.state for status in found} == {"completed"}
    asked = cluster.questions
    pauses = [later[0] - sooner[0] for sooner, later in itertools.pairwise(asked)]
    assert min(pauses) >= seconds - 0.05  # the file notes when it was asked, after it decided to


async def test_a_job_that_a_signal_ended_waits_for_the_reason(cluster):
    jobs = cluster.jobs(2.0)
    handle = await jobs.submit(cluster.spec("sleep 60", time=1), key="a")
    await jobs.status(handle)  # the question of these seconds
    await until(lambda: bool(list(handle.job_dir.glob("ended.*"))))
    status = await jobs.status(handle)
    if not status.over:
        assert status.state == "running"
        assert (
            "was ended by SIGTERM (exit code 143); fractale asks Slurm for the reason at"
            in status.reason
        )
    assert (await ended(jobs, handle)).state == "timeout"


async def test_a_job_that_began_runs_and_one_that_was_not_asked_about_waits(cluster):
    jobs = cluster.jobs(LONG)
    gate = "until [ -e open ]; do sleep 0.1; done"
    first = await jobs.submit(cluster.spec(gate), key="first")
    await jobs.status(first)  # the question of this hour
    (cluster.root / "questions").write_text("")
    handle = await jobs.submit(cluster.spec(gate), key="a")
    await until((handle.job_dir / "started").exists)
    status = await jobs.status(handle)
    assert (status.state, status.evidence) == ("running", "start file")
    assert status.reason == f"runs on {os.uname().nodename}"
    (cluster.root / "open").touch()
    assert (await ended(jobs, handle)).state == "completed"
    assert cluster.questions == []


async def test_a_scheduler_that_is_down_is_not_asked_more_often(cluster):
    jobs = cluster.jobs(LONG)
    handle = await jobs.submit(cluster.spec("until [ -e open ]; do sleep 0.1; done"), key="a")
    (cluster.root / "down").touch()
    for _ in range(5):
        assert "Slurm does not answer" in (await jobs.status(handle)).reason
    assert len(cluster.questions) == 1
    (cluster.root / "open").touch()
    assert (await ended(jobs, handle)).state == "completed"


async def test_a_cancelled_job_is_asked_about_at_once(cluster):
    jobs = cluster.jobs(LONG)
    handle = await jobs.submit(cluster.spec("sleep 60"), key="a")
    await jobs.status(handle)
    status = await jobs.cancel(handle)
    assert status.state == "cancelled"
    assert "by fractale" in status.reason


TESTS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

LOOK = """
    import asyncio, sys
    from pathlib import Path
    sys.path[:0] = {tests!r}
    from test_polling import Cluster

    async def main():
        jobs = Cluster(Path(sys.argv[1])).jobs(3600.0)
        handle = await jobs.find("a")
        print((await jobs.status(handle)).state)

    asyncio.run(main())
    """


async def test_processes_on_one_state_folder_ask_once(cluster):
    jobs = cluster.jobs(LONG)
    handle = await jobs.submit(cluster.spec("until [ -e open ]; do sleep 0.1; done"), key="a")
    await until((handle.job_dir / "started").exists)
    program = textwrap.dedent(LOOK.format(tests=TESTS))
    words = [sys.executable, "-c", program, str(cluster.root)]
    several = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=PATIENCE)[0].strip() for process in several]
    assert said == ["running"] * 4
    assert len(cluster.questions) == 1
    (cluster.root / "open").touch()
    await ended(jobs, handle)


async def test_answers_that_cannot_be_kept_do_not_stop_anybody(cluster):
    jobs = cluster.jobs(0.2)
    (cluster.root / "jobs").mkdir()
    (cluster.root / "jobs" / ".polls").write_text("no folder")
    handle = await jobs.submit(cluster.spec("sleep 60", time=1), key="a")
    assert (await ended(jobs, handle)).state == "timeout"


async def test_a_damaged_file_of_answers_is_made_again(cluster):
    jobs = cluster.jobs(0.2)
    polls = cluster.root / "jobs" / ".polls"
    polls.mkdir(parents=True)
    (polls / "slurm.json").write_text('{"asked": "yester')
    handle = await jobs.submit(cluster.spec("sleep 60", time=1), key="a")
    assert (await ended(jobs, handle)).state == "timeout"
    with contextlib.suppress(OSError):
        assert json.loads((polls / "slurm.json").read_text())["asked"] > 0
