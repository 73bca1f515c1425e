"""A process that submits one job and waits for it, to be killed at one point of doing so.

Its arguments: the folder of jobs, the scheduler, the job's key, where the job writes, and the
point: one of `POINTS`, at which it kills itself, or nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from fractale.jobs import JobHandle, Jobs, JobSpec
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.homes import adapters_of

POINTS = ("intent", "prepared", "submitted", "handle", "waiting", "looked")


class Killed:
    """An adapter that does what another does, and dies at one point of it."""

    def __init__(self, inner, point: str) -> None:
        self._inner, self._point = inner, point
        self.name, self.title = inner.name, inner.title

    def _at(self, point: str) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)

    def found(self) -> bool:
        return self._inner.found()

    def prepare(self, folder, spec) -> None:
        self._at("intent")
        self._inner.prepare(folder, spec)
        self._at("prepared")

    async def submit(self, folder, spec, lock):
        native_id = await self._inner.submit(folder, spec, lock)
        self._at("submitted")
        return native_id

    async def find(self, folder):
        return await self._inner.find(folder)

    async def records(self, jobs):
        self._at("waiting")
        records = await self._inner.records(jobs)
        self._at("looked")
        return records

    async def cancel(self, folder, native_id):
        await self._inner.cancel(folder, native_id)

    async def queues(self):
        return await self._inner.queues()


async def main() -> None:
    root, scheduler, key, out, point = sys.argv[1:6]
    inner = adapters_of(dict(os.environ), dict(os.environ), Path(root) / ".local", None)[scheduler]
    jobs = Jobs(Path(root), os.environ, scheduler, adapters={scheduler: Killed(inner, point)})
    script = f"#!/bin/sh\necho ran >> {out}\nsleep 0.2\n"
    spec = JobSpec(name="killed", folder=Path(root).parent, script=script)
    handle: JobHandle = await jobs.submit(spec, key=key)
    if point == "handle":
        os.kill(os.getpid(), signal.SIGKILL)
    status = await jobs.wait(handle, timeout=120, intervals=(0.2,))
    assert JobFolder(handle.job_dir).handle() == handle
    print(handle.native_id, status.state)


if __name__ == "__main__":
    asyncio.run(main())
