"""Which of the runs that wait for batch jobs can go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fractale.clock import SystemClock, elapsed
from fractale.questions import is_job
from fractale.record.jobs import RunJobs
from fractale.schedulers.job import JobHandle
from fractale.store.index import RunFilter, list_runs
from fractale.store.run_record import RunRecord, RunRecords

if TYPE_CHECKING:
    from fractale.jobs import JobStatus
    from fractale.settings import Settings

TELLING = ("run_finished", "job_state", "step_finished", "item_finished")
"""The events that say what waits and what has ended."""

MOST_AT_ONCE = 16
"""Jobs that a scheduler is asked about at the same time."""


@dataclass(frozen=True, slots=True)
class ReadyRun:
    """A run that can go on.

    Args:
        why: What is ready, in words: ``job 4711 completed``.
    """

    run: str
    why: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found among the runs that wait for jobs.

    Args:
        ready: Those that can go on.
        waiting: The runs whose jobs all go on, and how many jobs that are.
    """

    ready: Sequence[ReadyRun]
    waiting: Mapping[str, int]


def look(settings: Settings) -> Looked:
    """Look which of the runs that wait for a job can go on.

    Each scheduler is asked once about all of them, and not at all where it was asked within
    `poll_seconds`, by whichever process: then its last answer counts.

    Runs that were stopped or killed while they waited count, too.

    Raises:
        StoreError: The index of runs cannot be used.
    """
    folders = RunRecords(settings.state_dir)
    rows = list_runs(settings.state_dir, RunFilter(status=("waiting", "stopped")))
    waited = {row.id: waited_for(folders.find(row.id)) for row in reversed(rows)}
    jobs = {run: each for run, each in waited.items() if each}
    return asyncio.run(_look(jobs, settings)) if jobs else Looked((), {})


async def _look(jobs: Mapping[str, Sequence[Mapping[str, Any]]], settings: Settings) -> Looked:
    slots = asyncio.Semaphore(MOST_AT_ONCE)
    doors: dict[Path, RunJobs] = {}
    pairs = [(run, job) for run, each in jobs.items() for job in each if job.get("handle")]
    handles = [JobHandle.from_dict(job["handle"]) for _, job in pairs]
    for handle in handles:
        root = handle.job_dir.parent
        jobs_of = doors.setdefault(root, RunJobs.of(root, settings))
        await jobs_of(handle.scheduler).announce(handle)
    found = await asyncio.gather(
        *(
            _why_ready(job, handle, doors[handle.job_dir.parent], slots)
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
    """Why a run can go on with a job; None while it cannot."""
    now = time.time()
    async with slots:
        status = await jobs(handle.scheduler).status(handle)
    if status.over and not (status.state == "unknown" and now < float(job.get("patience") or 0)):
        return f"job {handle.title} {_ended(status)}"
    if _is_late(job, now):
        return f"job {handle.title} took more than the step's timeout"
    return None


def _is_late(job: Mapping[str, Any], now: float) -> bool:
    """Whether the step's time is up, as the run itself would tell."""
    if job.get("timeout") and job.get("began"):
        return elapsed(SystemClock(), job["began"]) >= float(job["timeout"])
    return bool(job.get("deadline")) and now >= float(job["deadline"])


def _ended(status: JobStatus) -> str:
    if status.state == "unknown":
        return "is nowhere to be found"
    return status.state.replace("_", " ")


def waited_for(folder: RunRecord) -> list[dict[str, Any]]:
    """The jobs that a run waits for, as its record says."""
    told: dict[str, dict[str, Any] | None] = {}  # None: of a step that has ended since
    for event in folder.events_from_end(TELLING):
        kind, step = event["event"], str(event.get("step"))
        if kind == "run_finished":
            for job in filter(is_job, cast("Iterable[Any]", event.get("waiting") or ())):
                told.setdefault(str(job["step"]), job)
            break
        if kind == "item_finished":
            step += f"[{event['index']}]"
        told.setdefault(step, event if kind == "job_state" else None)
    return [job for job in told.values() if job is not None]
