"""The budget of a run's batch jobs, around one job: reserved before, settled after."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from fractale import questions
from fractale.errors import JobError
from fractale.graph.slots import leave
from fractale.graph.visit import Visit
from fractale.jobs import JobSpec
from fractale.jobs.budget import LIMITS, Size, figure
from fractale.schedulers.asked import asked_of


def size_of(spec: JobSpec, scheduler: str) -> Size:
    """What a job has while it runs, by its own fields and its script's directives."""
    return Size.of(asked_of(spec, scheduler), longest_of(scheduler), one_node=scheduler == "local")


def longest_of(scheduler: str) -> Callable[[float], float]:
    """From a time limit to how long the scheduler lets a job run, in seconds."""
    times = importlib.import_module(f"fractale.schedulers.{scheduler}.times")
    return cast("Callable[[float], float]", times.longest)


async def reserve(visit: Visit, key: str, size: Size) -> None:
    """Set aside the most that a job may use.

    Raises:
        LimitReached: The run's limits leave no room for it.
        JobError: Nothing bounds its time, and a limit of the run counts hours.
    """
    budget = visit.context.meter.jobs
    if size.seconds is None and (name := budget.needs_time()):
        raise JobError(
            f"the job has no time limit, and the run may use {figure(budget.limits[name])} "
            f"{LIMITS[name]}: nothing would bound it",
            hint="say `time` in the job, or a time limit in its script",
        )

    def look() -> None:
        if visit.context.leave_jobs():
            leave(questions.job(visit.path, {"state": "pending", "reason": WAITS, "over": False}))

    await budget.reserve(key, size.most(), look)


WAITS = "waits for room in the run's limits: other jobs have reserved what is left"


async def settle(visit: Visit, key: str, size: Size, status: Mapping[str, Any]) -> None:
    """Put what a job used in the place of what was reserved.

    Args:
        status: `fractale.jobs.JobStatus` as JSON; of one that nobody knows of all that was
            reserved counts.
    """
    seconds, nodes = status.get("seconds"), len(status.get("nodes") or ())
    used = None if seconds is None else size.used(float(seconds), nodes)
    if seconds is None and not status.get("started") and status.get("state") not in UNSURE:
        used = size.used(0.0, 0)
    await visit.context.meter.jobs.settle(key, used)


UNSURE = ("unknown", None, "", "completed")
"""States of a job without times in which it may have run."""


def words_of(visit: Visit, spec: JobSpec, scheduler: str) -> str:
    """What a job would reserve, for whoever is to agree to it; empty where nothing bounds it."""
    most: Any = size_of(spec, scheduler).most()
    return visit.context.meter.jobs.words(most) if most.node_hours else ""
