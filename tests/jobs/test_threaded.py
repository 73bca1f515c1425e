"""Jobs whose work is done in the loop of a thread, for servers whose loop must not wait."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from fractale.errors import JobError
from fractale.jobs.threaded import ThreadedJobs
from fractale.loops import WorkerLoop
from fractale.schedulers.job import JobSpec


def spec(folder: Path, command: str) -> JobSpec:
    return JobSpec(name="j", folder=folder, script=f"#!/bin/sh\n{command}\n")


@pytest.fixture
def jobs(tmp_path):
    return ThreadedJobs(WorkerLoop(), tmp_path / "jobs", {"PATH": os.environ["PATH"]}, "local")


async def test_a_job_is_submitted_once_and_waited_for(jobs, tmp_path):
    job = spec(tmp_path, "echo hi; sleep 0.1")
    handle = await jobs.submit(job, key="k")
    assert await jobs.submit(job, key="k") == handle
    assert await jobs.find("k") == handle
    threads: list[str] = []

    async def until(status) -> bool:
        threads.append(threading.current_thread().name)
        return status.over

    status = await jobs.wait(handle, until=until)
    assert (status.state, (await jobs.logs(handle)).text) == ("completed", "hi\n")
    assert set(threads) == {threading.current_thread().name}, "callbacks stay in the caller's loop"


async def test_a_job_is_cancelled_and_errors_arrive(jobs, tmp_path):
    handle = await jobs.submit(spec(tmp_path, "sleep 60"), key="k")
    assert (await jobs.cancel(handle)).over
    unknown = ThreadedJobs(WorkerLoop(), tmp_path / "jobs", {}, "nothing")
    with pytest.raises(JobError, match="scheduler"):
        await unknown.submit(spec(tmp_path, "true"), key="other")


async def test_a_caller_that_is_cancelled_cancels_the_work():
    worker, ended = WorkerLoop(), threading.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(worker.run(long()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)
