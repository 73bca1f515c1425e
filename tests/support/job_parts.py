"""What the tests of batch jobs share: schedulers that are there for real, and waiting for jobs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fractale.jobs import JobHandle, Jobs, JobSpec, JobStatus

SOON = (0.05, 0.1, 0.2, 0.3)
PATIENCE = 120


@dataclass
class Site:
    """A scheduler, a folder to work in, and the jobs in it."""

    jobs: Jobs
    folder: Path
    scheduler: str
    environment: Mapping[str, str]

    def spec(self, script: str = "", **more) -> JobSpec:
        """A job that runs a script of the shell, or a command."""
        if script:
            more["script"] = f"#!/bin/sh\n{script}\n"
        return JobSpec(**{"name": "test", "folder": self.folder, **more})

    async def run(self, script: str = "", *, key: str = "job", **more) -> JobStatus:
        """Submit a job and wait for its end."""
        handle = await self.jobs.submit(self.spec(script, **more), key=key)
        return await self.ended(handle)

    async def ended(self, handle: JobHandle) -> JobStatus:
        """How a job ended, in a generous time."""
        status = await self.jobs.wait(handle, timeout=PATIENCE, intervals=SOON)
        assert status.over, status.reason
        return status

    async def running(self, handle: JobHandle) -> None:
        """Wait until a job has begun."""
        await until((handle.job_dir / "started").exists)

    async def until(self, handle: JobHandle, true: Callable[[JobStatus], bool]) -> JobStatus:
        """Wait until a job is as it should be."""
        deadline = time.monotonic() + PATIENCE
        while not true(status := await self.jobs.status(handle)):
            assert time.monotonic() < deadline, status.reason
            await asyncio.sleep(0.1)
        return status

    async def log(self, handle: JobHandle) -> str:
        """What a job wrote."""
        return (await self.jobs.logs(handle)).text


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def local_site(folder: Path) -> Site:
    """Plain processes."""
    return site(folder, "local", dict(os.environ))


def site(folder: Path, scheduler: str, environment: Mapping[str, str]) -> Site:
    """The jobs of one scheduler, with folders of their own."""
    work = folder / "work folder"
    work.mkdir(exist_ok=True)
    return Site(Jobs(folder / "jobs", environment, scheduler), work, scheduler, environment)
