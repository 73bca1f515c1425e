"""The budget of batch jobs. Each job is reserved before it is submitted, and settled at its end.

A job step calls `reserve` and `settle` itself. For a tool that submits jobs, the call pipeline does
(`reserve_for_tool`, `settle_for_tool`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fractale import questions
from fractale.errors import JobError, ToolError
from fractale.graph.call import Attempt
from fractale.graph.interrupts import suspend
from fractale.jobs import JobSpec
from fractale.jobs.budget import LIMITS, Amount, Size, short_amount
from fractale.paths import JOBS
from fractale.schedulers.request import Array
from fractale.toolbox import ToolInfo

WAITS = "waits, because other jobs have reserved what is left of the run's limits"

UNSURE = ("unknown", None, "", "completed")
"""States in which a job without times may have run."""

ASKED = (
    *("script", "nodes", "tasks", "cores_per_task", "gpus_per_task"),
    *("memory", "time", "queue", "account"),
)
"""Arguments that determine the size of a job, for a tool that submits it."""


def element_key(key: str, index: int) -> str:
    """The budget's key of an element of an array."""
    return f"{key}[{index}]"


async def reserve(attempt: Attempt, key: str, size: Size, array: Array | None = None) -> None:
    """Reserve the most that a job can use.

    If an earlier process of the run reserved a key, the key is not counted again.

    Args:
        size: Of a job, or of one element of the array.
        array: Each of its elements has a separate key (`element_key`).

    Raises:
        LimitReached: The job does not fit within the run's limits.
        JobError: The job has no time limit, and a limit of the run counts hours.
    """
    budget = attempt.context.meter.jobs
    if size.seconds is None and (name := budget.needs_time()):
        raise JobError(
            f"the job has no time limit, and the run may use {short_amount(budget.limits[name])} "
            f"{LIMITS[name]}: nothing would bound it",
            hint="say `time` in the job, or a time limit in its script",
        )

    if "core_hours" in budget.limits and size.whole_nodes:
        raise JobError(
            "the job takes whole nodes (`exclusive`), and how many cores these have is not known "
            "before it runs: core-hours cannot bound it",
            hint="limit `node_hours` instead",
        )

    def glance() -> None:
        if attempt.context.leave_jobs():
            suspend(
                questions.job(attempt.path, {"state": "pending", "reason": WAITS, "over": False})
            )

    await budget.reserve(key, size.most(), glance, size, array)


def has_room(attempt: Attempt, sizes: Iterable[tuple[Size, int]]) -> bool:
    """Whether that number of jobs of each size can be submitted now, all together."""
    budget = attempt.context.meter.jobs
    amounts = [amount for size, count in sizes for amount in [size.most()] * count]
    return not budget.limits or budget.has_room_for(Amount.total(amounts))


async def settle(attempt: Attempt, key: str, size: Size, status: Mapping[str, Any]) -> None:
    """Replace the reservation of a job by its usage.

    Args:
        status: `fractale.jobs.JobStatus` as JSON. If it is ``unknown``, the whole reservation
            counts.
    """
    seconds, nodes = status.get("seconds"), len(status.get("nodes") or ())
    used = None if seconds is None else size.used(float(seconds), nodes)
    if seconds is None and not status.get("started") and status.get("state") not in UNSURE:
        used = size.used(0.0, 0)
    await attempt.context.meter.jobs.settle(key, used)


def cost_of(attempt: Attempt, spec: JobSpec, scheduler: str) -> str:
    """The reservation of a job, as text for the user who approves it. Empty if unbounded."""
    most = Size.of(spec, scheduler).most()
    return attempt.context.meter.jobs.words(most) if most.node_hours else ""


# -- jobs that tools submit ----------------------------------------------------------------------


async def reserve_for_tool(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any], place: str
) -> str:
    """Reserve the most that a job can use that a tool is about to submit.

    Args:
        place: The key of the call site.

    Returns:
        The key of the reservation. Empty if the tool is not known to submit a job.

    Raises:
        LimitReached: The job does not fit within the run's limits.
        ToolError: The job has no time limit, and a limit of the run counts hours.
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
    key = _key_of_tool(str(arguments["key"])) if arguments.get("key") else f"call {place}"
    try:
        await reserve(attempt, key, Size.of(spec, str(scheduler), whole=True))
    except JobError as error:
        raise ToolError(
            f"`{tool.name}` was not called: {error.message}", hint=error.hint
        ) from error
    if tool.annotations[JOBS] == "submits":  # the run does not wait for it
        attempt.context.meter.jobs.unwatch(key)
    return key


def _key_of_tool(job: str) -> str:
    """The budget's key of a job that a tool calls `job`."""
    return f"tool {job}"


async def settle_for_tool(
    attempt: Attempt, tool: ToolInfo, answer: Any, arguments: Mapping[str, Any], reserved: str
) -> None:
    """Update the budget with a tool's answer about a job.

    Args:
        answer: Its structured answer; None if the call failed.
        reserved: The result of `reserve_for_tool`.
    """
    part, budget = tool.annotations.get(JOBS), attempt.context.meter.jobs
    said: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}  # pyright: ignore[reportUnknownVariableType] - JSON
    job = _key_of_tool(str(said.get("key") or arguments.get("key") or ""))
    if part == "submits" and reserved and said.get("key"):
        budget.name(reserved, job)
    known = budget.reserved_for(reserved or job) if part in ("submits", "runs", "looks") else None
    if known and (part == "runs" or said.get("over")):
        await settle(attempt, *known, said)
