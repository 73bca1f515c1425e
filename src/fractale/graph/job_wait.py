"""Waiting for a batch job: looking ever more rarely, and leaving the run where that is wanted."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fractale import questions
from fractale.clock import elapsed
from fractale.errors import JobError
from fractale.graph.call import Attempt
from fractale.graph.interrupts import suspend
from fractale.jobs import JobHandle, JobStatus

if TYPE_CHECKING:
    from fractale.jobs import Jobs

INTERVALS = (0.2, 0.3, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 10)
"""Seconds between two looks at a job's own files; the last again and again. Its scheduler is asked
more rarely (`fractale.jobs.polling`)."""

GLANCE = 0.2
"""Seconds between two looks at whether the run is to leave."""

CANCEL_SECONDS = 60.0
"""Seconds that a job has to end once it is cancelled."""

CANCEL_AGAIN = 20.0
"""Seconds after which it is cancelled once more."""


def job_told(
    attempt: Attempt,
    handle: JobHandle,
    status: JobStatus,
    began: Mapping[str, Any],
    patience: float = 0.0,
) -> dict[str, Any]:
    """What the run's record keeps of a job that is waited for.

    Args:
        began: The moment when it was submitted.
        patience: Until when one that nobody knows of is waited for all the same, in Unix time.
    """
    timeout = attempt.step.timeout
    known = {
        "job": handle.native_id,
        **({} if handle.index is None else {"index": handle.index}),
        "scheduler": handle.scheduler,
        **({"confined": handle.confined} if handle.confined else {}),
        "state": status.state,
        "reason": status.reason,
        "line": "",
        "nodes": list(status.nodes),
        "submitted": status.submitted,
        "started": status.started,
        "ended": status.ended,
        "over": False,
        "handle": handle.as_dict(),
        "deadline": began["wall"] + timeout if timeout else None,
        "began": dict(began),
        "timeout": timeout,
        "patience": patience,
    }
    if attempt.context.tally is not None:
        known["jobs"] = attempt.context.tally.at(attempt.path, status.state)
    return questions.job(attempt.path, attempt.context.mask(known))


def tell(attempt: Attempt, told: Mapping[str, Any]) -> None:
    """Tell how a job stands."""
    attempt.emit("job_state", **{k: v for k, v in told.items() if k not in ("kind", "step")})


class Waiter:
    """Looks at a job until it is over, and tells what it sees.

    Args:
        began: The moment when it was submitted.
        patience: Since when, and for how many seconds, one that nobody knows of is waited for all
            the same; None: it is not.
    """

    def __init__(
        self,
        attempt: Attempt,
        jobs: Jobs,
        handle: JobHandle,
        *,
        began: Mapping[str, Any],
        patience: tuple[Mapping[str, Any], float] | None,
    ) -> None:
        self._visit = attempt
        self._jobs = jobs
        self._handle = handle
        self._began = began
        self._patience = patience
        self._seen: tuple[Any, ...] = ()

    async def wait(self) -> tuple[JobStatus, bool]:
        """How the job ended, and whether it was cancelled because its time was up."""
        context, path, timeout = self._visit.context, self._visit.path, self._visit.step.timeout
        for pause in itertools.chain(INTERVALS, itertools.repeat(INTERVALS[-1])):
            status = await self._jobs.status(self._handle)
            is_over = self._is_over(status)
            waiting = await self._tell(status, over=is_over)
            if is_over:
                context.jobs_waited_for.pop(path, None)
                return status, False
            context.jobs_waited_for[path] = waiting
            if timeout and elapsed(context.clock, self._began) >= timeout:
                return await self._cancelled(), True
            await self._sleep(pause, waiting)
        raise AssertionError  # pragma: no cover - the pauses never end

    def _is_over(self, status: JobStatus) -> bool:
        if status.state == "unknown":
            if self._patience is None:
                return True
            began, seconds = self._patience
            return elapsed(self._visit.context.clock, began) >= seconds
        return status.over

    async def _sleep(self, seconds: float, waiting: dict[str, Any]) -> None:
        """Wait a while; leave the run at once where that is wanted."""
        until = time.monotonic() + seconds
        while True:
            if self._visit.context.leave_jobs():
                suspend(waiting)
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(GLANCE, left))

    async def _cancelled(self) -> JobStatus:
        """The status once the job is cancelled: as far as it ends in good time, its end."""
        until = time.monotonic() + CANCEL_SECONDS
        status, again = await self._cancel(), time.monotonic() + CANCEL_AGAIN
        while not status.over and time.monotonic() < until:
            await asyncio.sleep(1.0)
            if time.monotonic() < again:
                status = await self._jobs.status(self._handle)
                continue
            status, again = await self._cancel(), time.monotonic() + CANCEL_AGAIN
        self._visit.context.jobs_waited_for.pop(self._visit.path, None)
        await self._tell(status, over=True)
        return status

    async def _cancel(self) -> JobStatus:
        try:
            return await self._jobs.cancel(self._handle)
        except JobError as error:
            self._visit.emit("warning", code=error.code, message=f"not cancelled: {error}")
            return await self._jobs.status(self._handle)

    async def _tell(self, status: JobStatus, *, over: bool) -> dict[str, Any]:
        """Tell what has changed; gives what the run's record keeps of the job."""
        line = ""
        if status.state != "pending":
            line = (await self._jobs.logs(self._handle, tail_lines=1)).text.strip()[-200:]
        began, seconds = self._patience or ({"wall": 0.0}, 0.0)
        until = began["wall"] + seconds
        waiting = job_told(self._visit, self._handle, status, self._began, until)
        last = {"last_lines": status.last_lines} if over and status.last_lines else {}
        seen = (status.state, status.reason, line, over)
        if seen != self._seen:
            self._seen = seen
            tell(self._visit, {**waiting, "line": line, "over": over, **last})
        return waiting
