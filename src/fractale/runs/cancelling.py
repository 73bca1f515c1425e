"""Ending the batch jobs of a run, and the run with them.

The jobs of one step end alone: the run sees their end and continues by its plan. All jobs of a run
end with the run: its process, if there is one, is asked to stop first, so that it does not take
the end of a job for a failure and submits no other one. Each such job is marked, and a resume
submits it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fractale.errors import FractaleError, RunHeld, StoreError
from fractale.events import Event
from fractale.jobs.model import JobStatus
from fractale.private import write_private
from fractale.record.jobs import RunJob, RunJobs
from fractale.schedulers.folder import WITHDRAWN
from fractale.schedulers.job import JobHandle
from fractale.store.locks import RunLock, holder_of
from fractale.store.run_record import EventLog, RunRecord

if TYPE_CHECKING:
    from fractale.settings import Settings

LOOK_SECONDS: Final = 1.0
"""Between two looks of a run's process for a request to stop."""

LEFT: Final = ("waiting", "stopped")
"""How a run stands whose jobs go on without it."""

STOP_SECONDS: Final = 30.0
"""How long the process of a run has to stop before its jobs are ended."""

MOST_AT_ONCE: Final = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """A job of a run, and how it is.

    Args:
        handle: None if it is not known to have been submitted.
        status: None if that cannot be told; `trouble` says why.
        trouble: Why the job cannot be looked at, or could not be cancelled.
    """

    job: RunJob
    handle: JobHandle | None = None
    status: JobStatus | None = None
    trouble: str = ""

    @property
    def in_progress(self) -> bool:
        """Whether it waits or runs, or may do so."""
        if self.status is None:
            return bool(self.trouble)
        return not self.status.over or self.status.state == "unknown"

    def as_dict(self) -> dict[str, Any]:
        """The job as JSON."""
        handle, status = self.handle, self.status
        return {
            "step": self.job.step,
            "attempt": self.job.attempt,
            "key": self.job.key,
            "job": handle.native_id if handle else None,
            "scheduler": handle.scheduler if handle else None,
            "state": status.state if status else None,
            "over": status.over if status else None,
            "reason": status.reason if status else None,
            "log_file": str(self.job.own_folder.log),
            "trouble": self.trouble or None,
        }


class Canceller:
    """Looks at the jobs of one run, and ends them.

    Args:
        folder: The run's. Only jobs whose folders are in it are ever touched.
    """

    def __init__(self, folder: RunRecord, settings: Settings) -> None:
        self._folder = folder
        self._jobs = RunJobs.of(folder.jobs.absolute(), settings)

    async def look(self, jobs: Sequence[RunJob]) -> list[JobSeen]:
        """How some jobs of the run are, in the same order."""
        return await _each(self._look, jobs)

    async def cancel(self, seen: Sequence[JobSeen], *, with_run: bool) -> list[JobSeen]:
        """Ask for the end of jobs, and look some seconds later how they are.

        Args:
            with_run: Whether they end because the run is to stop: a resume submits them again.
        """

        async def one(each: JobSeen) -> JobSeen:
            return await self._cancel(each, with_run=with_run)

        return await _each(one, seen)

    async def _look(self, job: RunJob) -> JobSeen:
        try:
            handle = job.folder.handle() or await self._jobs(None).find(job.key)
            if handle is None:
                return JobSeen(job=job)
            handle = replace(handle, index=job.index)
            status = await self._jobs(handle.scheduler).status(handle)
        except FractaleError as error:
            return JobSeen(job=job, handle=job.folder.handle(), trouble=str(error))
        return JobSeen(job=job, handle=handle, status=status)

    async def _cancel(self, seen: JobSeen, *, with_run: bool) -> JobSeen:
        job, handle = seen.job, seen.handle
        if handle is None:
            return seen
        try:
            if with_run:
                job.folder.write(WITHDRAWN, f"{time.time()}\n")
            status = await self._jobs(handle.scheduler).cancel(handle)
        except (FractaleError, OSError) as error:  # such as a process of somebody else
            if with_run:
                (job.folder.path / WITHDRAWN).unlink(missing_ok=True)
            words = f"job {handle.native_id} cannot be cancelled: {error}"
            return JobSeen(job=job, handle=handle, status=seen.status, trouble=words)
        return JobSeen(job=job, handle=handle, status=status)


async def _each(call: Callable[[T], Awaitable[JobSeen]], values: Sequence[T]) -> list[JobSeen]:
    slots = asyncio.Semaphore(MOST_AT_ONCE)

    async def one(value: T) -> JobSeen:
        async with slots:
            return await call(value)

    return await asyncio.gather(*map(one, values))


# -- stopping the run itself ----------------------------------------------------------------------


async def stop_run(folder: RunRecord, seconds: float = STOP_SECONDS) -> bool:
    """Ask the process that has a run to stop; returns whether none has it any more.

    Args:
        seconds: How long it is waited for. A process that is in the middle of a call stops later.

    Raises:
        StoreError: The request cannot be written.
    """
    if holder_of(folder) is None:
        return True
    try:
        write_private(folder.stop_request, f"{time.time()}\n")
    except OSError as error:
        raise StoreError(f"cannot ask run {folder.run_id} to stop: {error}") from error
    until = time.monotonic() + seconds
    while holder_of(folder) is not None:
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.2)
    return True


def record_stopped(folder: RunRecord) -> None:
    """Have the record of a run say that it waits for no job any more: they were cancelled.

    It changes nothing if the run ended, or if a process has it, which records its own end.

    Raises:
        StoreError: The record cannot be read, or written.
    """
    from fractale.record.history_reader import read_history

    try:
        with RunLock(folder):
            history = read_history(folder)
            history.alive = False  # it is we who have the lock
            if history.processes and history.processes[-1].status not in (None, *LEFT):
                return
            data: dict[str, Any] = {
                "steps": [],
                "outputs": {},
                "decided": None,
                "output_files": {},
                "notices": [],
                **history.result,
                "status": "stopped",
                "error": "its jobs were cancelled by `fractale cancel`",
                "hint": None,
                "usage": history.usage,
                "record": str(folder.path),
                "waiting": [],
                "next": [f"fractale resume {folder.run_id}"],
            }
            log = EventLog(folder)
            try:
                log(Event("run_finished", folder.run_id, data))
            finally:
                log.close()
    except RunHeld:
        return


@contextlib.asynccontextmanager
async def stop_requests(folder: RunRecord, stop: Callable[[str], None]) -> AsyncGenerator[None]:
    """Within the block, a request of `stop_run` calls `stop`, once.

    A request that an earlier process of the run left behind is forgotten.
    """
    path = folder.stop_request
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    watching = asyncio.create_task(_watch(path, stop))
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _watch(path: Path, stop: Callable[[str], None]) -> None:
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(LOOK_SECONDS)
    stop("fractale cancel")
