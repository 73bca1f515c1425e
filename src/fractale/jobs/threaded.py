"""Batch jobs for an application's event loop, which must not wait for a disk (`fractale.loops`).

The service of jobs reads and writes files, since a kill may come between any two of its steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from fractale.jobs.logs import JobLog
from fractale.jobs.service import GLANCE, Jobs
from fractale.jobs.status import JobStatus
from fractale.loops import WorkerLoop
from fractale.schedulers.job import JobHandle, JobSpec


class ThreadedJobs(Jobs):
    """The jobs of one scheduler, with all work in the loop of a thread.

    Only `wait` stays in the caller's loop, where its callbacks belong.

    Args:
        worker: The loop. All jobs of a graph share it.
    """

    def __init__(self, worker: WorkerLoop, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._worker = worker

    async def submit(self, spec: JobSpec, *, key: str) -> JobHandle:
        return await self._worker.run(super().submit(spec, key=key))

    async def find(self, key: str) -> JobHandle | None:
        return await self._worker.run(super().find(key))

    async def status(self, handle: JobHandle) -> JobStatus:
        return await self._worker.run(super().status(handle))

    async def most_elements(self) -> int | None:
        return await self._worker.run(super().most_elements())

    async def announce(self, handle: JobHandle) -> None:
        await self._worker.run(super().announce(handle))

    async def elements(self, handle: JobHandle) -> Mapping[int, JobStatus]:
        return await self._worker.run(super().elements(handle))

    async def logs(self, handle: JobHandle, **options: Any) -> JobLog:
        return await self._worker.run(super().logs(handle, **options))

    async def cancel(self, handle: JobHandle) -> JobStatus:
        return await self._worker.run(super().cancel(handle))

    async def _pause(
        self, handle: JobHandle, seconds: float, glance: Callable[[], None] | None
    ) -> None:
        """Wait without a look at the job's files in between."""
        del handle
        deadline = time.monotonic() + seconds
        while True:
            if glance:
                glance()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, GLANCE))
