"""The runs that wait for batch jobs or for a time, and can be resumed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fractale.clock import SystemClock, elapsed
from fractale.questions import is_due, is_job, needs_no_answer
from fractale.record.jobs import RunJobs
from fractale.schedulers.job import JobHandle
from fractale.store.index import RunFilter, list_runs
from fractale.store.run_record import RunRecord, RunRecords

if TYPE_CHECKING:
    from fractale.jobs import JobStatus
    from fractale.settings import Settings

TELLING = ("run_finished", "job_state", "timer", "waiting", "step_finished", "item_finished")
"""The events that show which jobs and times a run waits for, and which steps have ended."""

MOST_AT_ONCE = 16
"""The most jobs that a scheduler is asked for at the same time."""


@dataclass(frozen=True, slots=True)
class ReadyRun:
    """A run that can be resumed.

    Args:
        why: The reason, as text: ``job 4711 completed``, or ``the wait of `poll` is over``.
    """

    run: str
    why: str


@dataclass(frozen=True, slots=True)
class Looked:
    """The runs that wait for jobs or times.

    Args:
        ready: Those that can be resumed.
        waiting: Runs whose jobs are all in progress → the number of these jobs.
        timed: Runs that wait for a time that has not come → the earliest one, in Unix time.
    """

    ready: Sequence[ReadyRun]
    waiting: Mapping[str, int]
    timed: Mapping[str, float] = field(default_factory=dict[str, float])


def look(settings: Settings) -> Looked:
    """Find the runs that wait for a job or a time and can be resumed.

    Each scheduler is asked once for all of them. If any process asked it within `poll_seconds`, its
    last answer counts, and it is not asked again.

    Runs that were stopped or killed while they waited count, too.

    Raises:
        StoreError: The index of runs cannot be used.
    """
    records = RunRecords(settings.state_dir)
    rows = list_runs(settings.state_dir, RunFilter(status=("waiting", "stopped")))
    waited = {row.id: waited_for(records.find(row.id)) for row in reversed(rows)}
    clock = SystemClock()
    due = {
        run: ReadyRun(run, f"the wait of `{one['step']}` is over")
        for run, each in waited.items()
        if (one := next((one for one in each if is_due(one, clock)), None))
    }
    timed = {
        run: min(times)
        for run, each in waited.items()
        if run not in due and (times := [one["due"]["until"] for one in each if one.get("due")])
    }
    jobs = {run: [*filter(is_job, each)] for run, each in waited.items() if run not in due}
    jobs = {run: each for run, each in jobs.items() if each}
    found = asyncio.run(_look(jobs, settings)) if jobs else Looked((), {})
    ready = {each.run: each for each in found.ready} | due
    return Looked(
        [ready[run] for run in waited if run in ready],
        found.waiting,
        {run: until for run, until in timed.items() if run not in ready},
    )


async def _look(jobs: Mapping[str, Sequence[Mapping[str, Any]]], settings: Settings) -> Looked:
    slots = asyncio.Semaphore(MOST_AT_ONCE)
    services: dict[Path, RunJobs] = {}
    pairs = [(run, job) for run, each in jobs.items() for job in each if job.get("handle")]
    handles = [JobHandle.from_dict(job["handle"]) for _, job in pairs]
    for handle in handles:
        root = handle.job_dir.parent
        jobs_of = services.setdefault(root, RunJobs.of(root, settings))
        await jobs_of(handle.scheduler).announce(handle)
    found = await asyncio.gather(
        *(
            _why_ready(job, handle, services[handle.job_dir.parent], slots)
            for (_, job), handle in zip(pairs, handles, strict=True)
        )
    )
    ready: dict[str, str] = {}
    for (run, _), why in zip(pairs, found, strict=True):
        if why:
            ready.setdefault(run, why)
    waiting = {run: len(each) for run, each in jobs.items() if run not in ready}
    return Looked([ReadyRun(run, why) for run, why in ready.items()], waiting)


async def _why_ready(
    job: Mapping[str, Any], handle: JobHandle, jobs: RunJobs, slots: asyncio.Semaphore
) -> str | None:
    """Why a run can be resumed for a job; None if it cannot."""
    now = time.time()
    async with slots:
        status = await jobs(handle.scheduler).status(handle)
    if status.over and not (status.state == "unknown" and now < float(job.get("patience") or 0)):
        return f"job {handle.title} {_ended(status)}"
    if _is_late(job, now):
        return f"job {handle.title} exceeded the timeout of its step"
    return None


def _is_late(job: Mapping[str, Any], now: float) -> bool:
    """Whether the step's time is up, by the same rule as in the run itself."""
    if job.get("timeout") and job.get("began"):
        return elapsed(SystemClock(), job["began"]) >= float(job["timeout"])
    return bool(job.get("deadline")) and now >= float(job["deadline"])


def _ended(status: JobStatus) -> str:
    if status.state == "unknown":
        return "was not found"
    return status.state.replace("_", " ")


def waited_for(record: RunRecord) -> list[dict[str, Any]]:
    """The jobs and times that a run waits for, from its record, and questions that have a time."""
    found: dict[str, dict[str, Any] | None] = {}  # None: of a step that has ended since
    for event in record.events_from_end(TELLING):
        kind, step = event["event"], str(event.get("step"))
        if kind == "run_finished":
            for one in cast("Iterable[dict[str, Any]]", event.get("waiting") or ()):
                if needs_no_answer(one) or one.get("due"):
                    found.setdefault(str(one["step"]), one)
            break
        if kind == "item_finished":
            step += f"[{event['index']}]"
        if kind == "waiting":
            if (event.get("question") or {}).get("due"):
                found.setdefault(step, event["question"])
        elif kind in ("job_state", "timer"):
            found.setdefault(step, {**event, "kind": "job" if kind == "job_state" else kind})
        else:
            found.setdefault(step, None)
    return [one for one in found.values() if one is not None]
