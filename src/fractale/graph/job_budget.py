"""The budget of a run's batch jobs, around one job: reserved before, settled after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fractale import questions
from fractale.errors import JobError, ToolError
from fractale.graph.call import Attempt
from fractale.graph.interrupts import suspend
from fractale.jobs import JobSpec
from fractale.jobs.budget import LIMITS, Amount, Size, figure
from fractale.paths import JOBS
from fractale.schedulers.asked import asked_of
from fractale.schedulers.homes import longest
from fractale.schedulers.request import Array
from fractale.toolbox import ToolInfo


def size_of(spec: JobSpec, scheduler: str, *, whole: bool = False) -> Size:
    """What a job has while it runs, by its own fields and its script's directives.

    Args:
        whole: Of an array, of all its elements together; else of one of them.
    """
    request = asked_of(spec, scheduler)
    if not whole:
        request = replace(request, array=None)
    return Size.of(request, partial(longest, scheduler), one_node=scheduler == "local")


def element_key(key: str, index: int) -> str:
    """What the budget calls an element of an array."""
    return f"{key}[{index}]"


async def reserve(attempt: Attempt, key: str, size: Size, array: Array | None = None) -> None:
    """Set aside the most that a job may use.

    A job whose key is reserved already, by an earlier process of the run, is not counted again.

    Args:
        size: Of a job, or of one element of the array.
        array: Each of its elements has a key of its own (`element_key`).

    Raises:
        LimitReached: The run's limits leave no room for it.
        JobError: Nothing bounds its time, and a limit of the run counts hours.
    """
    budget = attempt.context.meter.jobs
    if size.seconds is None and (name := budget.needs_time()):
        raise JobError(
            f"the job has no time limit, and the run may use {figure(budget.limits[name])} "
            f"{LIMITS[name]}: nothing would bound it",
            hint="say `time` in the job, or a time limit in its script",
        )

    if "core_hours" in budget.limits and size.whole_nodes:
        raise JobError(
            "the job takes whole nodes (`exclusive`), and how many cores these have is not known "
            "before it runs: core-hours cannot bound it",
            hint="limit `node_hours` instead",
        )

    def look() -> None:
        if attempt.context.leave_jobs():
            suspend(
                questions.job(attempt.path, {"state": "pending", "reason": WAITS, "over": False})
            )

    await budget.reserve(key, size.most(), look, size, array)


def has_room(attempt: Attempt, sizes: Iterable[tuple[Size, int]]) -> bool:
    """Whether so many jobs of each size may be submitted now, all together."""
    budget = attempt.context.meter.jobs
    amounts = [amount for size, count in sizes for amount in [size.most()] * count]
    return not budget.limits or budget.has_room_for(Amount.total(amounts))


WAITS = "waits for room in the run's limits: other jobs have reserved what is left"


async def settle(attempt: Attempt, key: str, size: Size, status: Mapping[str, Any]) -> None:
    """Put what a job used in the place of what was reserved.

    Args:
        status: `fractale.jobs.JobStatus` as JSON; of one that nobody knows of all that was
            reserved counts.
    """
    seconds, nodes = status.get("seconds"), len(status.get("nodes") or ())
    used = None if seconds is None else size.used(float(seconds), nodes)
    if seconds is None and not status.get("started") and status.get("state") not in UNSURE:
        used = size.used(0.0, 0)
    await attempt.context.meter.jobs.settle(key, used)


async def reserve_for_tool(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any], place: str
) -> str:
    """Set aside what a job may use that a tool is about to submit.

    Args:
        place: The key of the call's place in the run.

    Returns:
        The key of what is reserved; empty for a tool that submits no job, as far as is known.

    Raises:
        LimitReached: The run's limits leave no room for it.
        ToolError: Nothing bounds its time, and a limit of the run counts hours.
    """
    if tool.annotations.get(JOBS) not in ("submits", "runs"):
        return ""
    known = {name: arguments[name] for name in ASKED if arguments.get(name) is not None}
    command = tuple(map(str, arguments.get("command") or ()))
    spec = JobSpec(name=tool.name, folder=Path(), command=command, **known)
    scheduler = arguments.get("scheduler")
    if not scheduler:
        if attempt.deps.jobs is None:
            return ""
        scheduler = attempt.deps.jobs(None).scheduler
    key = budget_key(str(arguments["key"])) if arguments.get("key") else f"call {place}"
    try:
        await reserve(attempt, key, size_of(spec, str(scheduler), whole=True))
    except JobError as error:
        raise ToolError(
            f"`{tool.name}` was not called: {error.message}", hint=error.hint
        ) from error
    if tool.annotations[JOBS] == "submits":  # the run does not wait for it
        attempt.context.meter.jobs.leave(key)
    return key


def budget_key(job: str) -> str:
    """What the budget calls a job that a tool calls so."""
    return f"tool {job}"


ASKED = (
    *("script", "nodes", "tasks", "cores_per_task", "gpus_per_task"),
    *("memory", "time", "queue", "account"),
)
"""Arguments of a tool that submits a job which say what it asks for."""


async def settle_for_tool(
    attempt: Attempt, tool: ToolInfo, answer: Any, arguments: Mapping[str, Any], reserved: str
) -> None:
    """Take what a tool said of a job into the budget.

    Args:
        answer: Its structured answer; None where the call failed.
        reserved: What `reserve_for_tool` gave.
    """
    part, budget = tool.annotations.get(JOBS), attempt.context.meter.jobs
    said: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}  # pyright: ignore[reportUnknownVariableType] - JSON
    job = budget_key(str(said.get("key") or arguments.get("key") or ""))
    if part == "submits" and reserved and said.get("key"):
        budget.name(reserved, job)
    known = budget.reserved_for(reserved or job) if part in ("submits", "runs", "looks") else None
    if known and (part == "runs" or said.get("over")):
        await settle(attempt, *known, said)


UNSURE = ("unknown", None, "", "completed")
"""States of a job without times in which it may have run."""


def words_of(attempt: Attempt, spec: JobSpec, scheduler: str) -> str:
    """What a job would reserve, for whoever is to agree to it; empty where nothing bounds it."""
    most: Any = size_of(spec, scheduler).most()
    return attempt.context.meter.jobs.words(most) if most.node_hours else ""
