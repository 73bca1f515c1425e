"""Ending the batch jobs of a run, and the run with them.

The jobs of one step can end alone: the run sees their end and continues by its plan.

All jobs of a run end with the run. If the run has a process, fractale first asks the process to
stop. Otherwise the process would treat the end of a job as a failure, or submit other jobs. Each
such job is marked, and a resume submits it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fractale.audit import AuditLog
from fractale.errors import FractaleError, RunHeld, StoreError
from fractale.events import Event, EventLog, Listener
from fractale.jobs.status import JobStatus
from fractale.private import write_private
from fractale.record.jobs import RunJob, RunJobs, as_submitted, is_of_step, jobs_of, no_job
from fractale.record.plans import plan_of
from fractale.runs.result import BY_CANCEL, CANCEL_REQUEST, RunResult, resume_command
from fractale.schedulers.folder import WITHDRAWN
from fractale.schedulers.job import JobHandle
from fractale.store.locks import RunLock, holder_of
from fractale.store.run_record import RunRecord

if TYPE_CHECKING:
    from fractale.plan.model import Plan
    from fractale.settings import Settings

LOOK_SECONDS: Final = 1.0
"""Seconds between two checks of a run's process for a request to stop."""

LEFT: Final = ("waiting", "stopped")
"""Statuses of a run whose jobs keep running without it."""

EVENTS_OF_STEPS: Final = ("step_started", "step_finished", "waiting", "timer", "job_state")

JOBS_CANCELLED: Final = "its jobs were cancelled by `fractale cancel`"

STOP_SECONDS: Final = 30.0
"""Seconds that the process of a run has to stop before its jobs are ended."""

MOST_AT_ONCE: Final = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """A job of a run, and its status.

    Args:
        handle: None if it is not known to have been submitted.
        status: None if it is unknown; `trouble` says why.
        trouble: Why the status cannot be read, or the job could not be cancelled.
    """

    job: RunJob
    handle: JobHandle | None = None
    status: JobStatus | None = None
    trouble: str = ""

    @property
    def in_progress(self) -> bool:
        """Whether the job waits or runs, or may do so."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The result of cancelling a run, or the jobs of one of its steps.

    Args:
        step: None for the whole run.
        jobs: The jobs that were in progress, as they are now.
        stopped: Whether the run has no process any more. False if its process is in the middle of a
            call and stops after it. Also false if only the jobs of a step were cancelled.
        ended: The result after the plan's `finally` steps; None if they did not run.
        trouble: Why the `finally` steps did not run, although the plan has some.
    """

    run: str
    step: str | None
    jobs: Sequence[JobSeen]
    stopped: bool
    ended: RunResult | None = None
    trouble: str = ""

    @property
    def failed(self) -> list[JobSeen]:
        """The jobs that could not be cancelled."""
        return [job for job in self.jobs if job.trouble]


def jobs_to_cancel(record: RunRecord, step: str | None) -> list[RunJob]:
    """The jobs of a run, or of one of its steps, as they were submitted: an array is one job.

    Raises:
        UsageError: The step did not submit a job.
    """
    from fractale.record.history_reader import read_history

    history = read_history(record)
    jobs = jobs_of(record, history)
    if step is None:
        return as_submitted(jobs, jobs)
    found = [job for job in jobs if is_of_step(job.step, step)]
    if not found:
        raise no_job(history, jobs, step)
    return as_submitted(found, jobs)


def waits_for_time(record: RunRecord) -> bool:
    """Whether `fractale resume --ready` would continue the run once a time has come."""
    from fractale.runs.ready import waited_for

    return any(each.get("due") for each in waited_for(record))


async def cancel_run(record: RunRecord, settings: Settings, step: str | None = None) -> Cancelled:
    """End the jobs of a run and stop it, or end the jobs of one step. It does not ask.

    Raises:
        UsageError: The step did not submit a job.
        StoreError: The record cannot be read or written.
    """
    canceller = Canceller(record, settings)
    seen = await canceller.look(jobs_to_cancel(record, step))
    going = [each for each in seen if each.in_progress]
    idle = holder_of(record) is None and not can_be_cancelled(record)
    if not going and (step is not None or idle):
        return Cancelled(run=record.run_id, step=step, jobs=(), stopped=step is None)
    jobs, stopped = await canceller.end(going, step=step, yes=True)
    if step is not None:
        return Cancelled(run=record.run_id, step=step, jobs=jobs, stopped=False)
    end, why = await run_finally(record, settings)
    return Cancelled(
        run=record.run_id, step=step, jobs=jobs, stopped=stopped, ended=end, trouble=why
    )


def can_be_cancelled(record: RunRecord) -> bool:
    """Whether there is something to do for a run without a process and without jobs."""
    return waits_for_time(record) or may_end(record)


def may_end(record: RunRecord) -> bool:
    """Whether the plan's `finally` steps are due if the run is cancelled now.

    They are if the run has not ended, and did something since it was last cancelled. So are the
    rest of the handlers that a run is in.
    """
    plan = plan_of(record, record.read_head())
    if plan is None or not _is_open(record):
        return False
    return "finally" in plan.handlers or is_in_handlers(record, plan)


def is_in_handlers(record: RunRecord, plan: Plan | None) -> bool:
    """Whether the plan of a run has ended, and its handlers have begun and not been reported.

    Args:
        plan: The plan of the run; None if it cannot be read.
    """
    if plan is None or not plan.handlers or not _is_open(record):
        return False
    last = next(record.events_from_end(EVENTS_OF_STEPS), None) or {}
    return str(last.get("step")).partition("/")[0] in plan.handlers


def _is_open(record: RunRecord) -> bool:
    """Whether a run has not ended, and its plan's `finally` did not run at a cancel since then."""
    last = next(record.events_from_end(("run_started", "run_finished")), None) or {}
    if last.get("event") == "run_finished" and last.get("status") not in LEFT:
        return False
    return last.get("error") != BY_CANCEL


async def run_finally(
    record: RunRecord, settings: Settings, listeners: Sequence[Listener] = ()
) -> tuple[RunResult | None, str]:
    """Run the `finally` steps of the plan of a cancelled run, unless the run has a process.

    If the plan had ended and the run was in its handlers, they are finished.

    Returns:
        The result of the run after them; None if they did not run. Then why, if they were due.
    """
    from fractale.plan.inputs import read_secrets
    from fractale.runs.options import RunOptions
    from fractale.runs.workspace import Workspace, as_started

    head = record.read_head()
    plan = plan_of(record, head)
    if plan is None or not ("finally" in plan.handlers or is_in_handlers(record, plan)):
        return None, ""
    left_out = f"its `{[*plan.handlers][-1]}` steps did not run"
    again = f"then run `fractale cancel {record.run_id}` again"
    if holder_of(record) is not None:
        return None, f"{left_out}: the run has not stopped yet; {again}"
    options = RunOptions(listeners=listeners)
    try:
        settings, extensions = as_started(settings, head)
        async with Workspace.open(settings, plan, extensions) as workspace:
            secrets = read_secrets(plan, settings.environment)
            runs = workspace.runs
            return await runs.end_cancelled(record.run_id, plan, options, secrets=secrets), ""
    except FractaleError as error:
        return None, f"{left_out}: {error}; repair that, {again}"


class Canceller:
    """Reads the status of one run's jobs, and ends the jobs.

    Args:
        record: The run's. Only jobs whose directories are in it are ever changed.
    """

    def __init__(self, record: RunRecord, settings: Settings) -> None:
        self._record = record
        self._settings = settings
        self._jobs = RunJobs.of(record.jobs.absolute(), settings)

    async def look(self, jobs: Sequence[RunJob]) -> list[JobSeen]:
        """The status of some jobs of the run, in the same order."""
        return await _each(self._look, jobs)

    async def cancel(self, seen: Sequence[JobSeen], *, with_run: bool) -> list[JobSeen]:
        """Cancel jobs, and read their status some seconds later.

        Args:
            with_run: Whether the jobs end because the run is to stop: a resume submits them again.
        """

        async def one(each: JobSeen) -> JobSeen:
            return await self._cancel(each, with_run=with_run)

        return await _each(one, seen)

    async def end(
        self, seen: Sequence[JobSeen], *, step: str | None, yes: bool
    ) -> tuple[list[JobSeen], bool]:
        """Cancel jobs and, unless they are those of one step, stop the run first.

        Args:
            step: Only its jobs end; None: the whole run.
            yes: Whether the user agreed beforehand. The audit log records this.

        Returns:
            The jobs, and whether the run has no process any more.
        """
        with_run = step is None
        AuditLog.of(self._settings).record(
            "cancel",
            run=self._record.run_id,
            step=step,
            jobs=[each.job.key for each in seen],
            yes=yes,
        )
        stopped = not with_run or await stop_run(self._record)
        ended = await self.cancel(seen, with_run=with_run)
        if with_run:
            record_stopped(self._record, with_jobs=bool(seen))
        return ended, stopped

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
        except (FractaleError, OSError) as error:  # such as a process of another user
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


async def stop_run(record: RunRecord, seconds: float = STOP_SECONDS) -> bool:
    """Ask the process of a run to stop. Returns whether the run has no process any more.

    Args:
        seconds: The most seconds to wait. A process in the middle of a call stops later.

    Raises:
        StoreError: The request cannot be written.
    """
    if holder_of(record) is None:
        return True
    request_stop(record)
    until = time.monotonic() + seconds
    while holder_of(record) is not None:
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.2)
    return True


def request_stop(record: RunRecord, why: str = CANCEL_REQUEST) -> None:
    """Ask the process of a run to stop at the next boundary of a step, without waiting for it.

    Args:
        why: The reason that the run records.

    Raises:
        StoreError: The request cannot be written.
    """
    try:
        write_private(record.stop_request, f"{why}\n")
    except OSError as error:
        raise StoreError(f"cannot ask run {record.run_id} to stop: {error}") from error


def record_stopped(record: RunRecord, *, with_jobs: bool = True) -> None:
    """Record that a run does not wait for jobs or times any more, since it was cancelled.

    It changes nothing if the run ended, or if the run has a process, which records its own end.
    Neither does it if the plan ended and the run is in its handlers: it keeps that end.

    Args:
        with_jobs: Whether jobs were cancelled with it.

    Raises:
        StoreError: The record cannot be read or written.
    """
    from fractale.record.history_reader import read_history

    try:
        with RunLock(record):
            history = read_history(record)
            history.alive = False  # this process has the lock
            if history.processes and history.processes[-1].status not in (None, *LEFT):
                return
            if is_in_handlers(record, plan_of(record, history.head)):
                return
            data: dict[str, Any] = {
                "steps": [],
                "outputs": {},
                "decided": None,
                "output_files": {},
                "notices": [],
                **history.result,
                "status": "stopped",
                "error": JOBS_CANCELLED if with_jobs else "stopped by `fractale cancel`",
                "hint": None,
                "usage": history.usage,
                "record": str(record.path),
                "waiting": [],
                "next": [resume_command(record.run_id)],
            }
            log = EventLog(record.events)
            try:
                log(Event("run_finished", record.run_id, data))
            finally:
                log.close()
    except RunHeld:
        return


@contextlib.asynccontextmanager
async def stop_requests(record: RunRecord, stop: Callable[[str], None]) -> AsyncGenerator[None]:
    """Call `stop` once if `stop_run` requests it within the block.

    A request that is left from an earlier process of the run is deleted.
    """
    path = record.stop_request
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
    stop(_why(path) or CANCEL_REQUEST)


def _why(path: Path) -> str:
    """The reason in a request to stop; empty if it has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
