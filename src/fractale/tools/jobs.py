"""Batch jobs as tools: Slurm, Flux, PBS, LSF and plain processes behind the same words.

Each job has a key. Submitted again with the same key, it is found and not submitted twice, whatever
happened in between; all that is known of it is in its folder, `jobs/` in the state folder.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from fastmcp import Context

from fractale.errors import JobError
from fractale.jobs import JobHandle, Jobs, JobSpec, JobStatus
from fractale.paths import about_jobs, checked, takes_paths
from fractale.settings import load_settings

SchedulerName = Literal["flux", "slurm", "pbs", "lsf", "local"]

MOST_SECONDS = 3600.0
LAST_LINES = 10


@about_jobs("submits")
@takes_paths(writes=["folder"])
async def job_submit(
    script: str | None = None,
    command: list[str] | None = None,
    name: str = "fractale",
    nodes: int | None = None,
    tasks: int | None = None,
    cores_per_task: int | None = None,
    gpus_per_task: int | None = None,
    memory: str | None = None,
    time: float | None = None,
    queue: str | None = None,
    account: str | None = None,
    env: dict[str, str] | None = None,
    folder: str | None = None,
    key: str | None = None,
    scheduler: SchedulerName | None = None,
) -> dict[str, Any]:
    """Submit a batch job; it is not waited for.

    Args:
        script: The text of a batch script; its directives count where nothing else is said. Either
            this or a command.
        command: A program and its arguments, started once, on the job's first node.
        name: For people who look at the queue.
        nodes: How many.
        tasks: How many in all.
        cores_per_task: How many.
        gpus_per_task: How many.
        memory: For each node, such as 4G.
        time: The limit in seconds.
        queue: Queue or partition.
        account: Account, project or bank.
        env: Variables to set.
        folder: Where it runs; nothing for the working folder.
        key: A name for this very job. With the same key, the same job is given back and not
            submitted again.
        scheduler: Nothing for the one that is found: flux, slurm, pbs, lsf, else local processes.

    Returns:
        The job, by which the other tools are asked: `key`, `job_id`, `scheduler`, `log_file`.
    """
    key = key or uuid.uuid4().hex
    spec = JobSpec(
        name=name,
        script=script,
        command=tuple(command or ()),
        nodes=nodes,
        tasks=tasks,
        cores_per_task=cores_per_task,
        gpus_per_task=gpus_per_task,
        memory=memory,
        time=time,
        queue=queue,
        account=account,
        env=env or {},
        folder=working_folder(folder),
    )
    return _named(await _jobs(scheduler).submit(spec, key=key))


@about_jobs("looks")
async def job_status(key: str) -> dict[str, Any]:
    """Say how a job is, now, from the evidence that there is.

    Args:
        key: The job's, from `job_submit`.

    Returns:
        The job; `state` (pending, running, completed, failed, cancelled, timeout, out_of_memory,
        node_failure, or unknown where nothing shows how it ended), `over`, `reason` in words,
        `evidence`, `job_exit_code`, `nodes`, `submitted`, `started`, `ended` in seconds since 1970,
        `seconds`, and `last_lines` of the log of one that did not do its work. To have been told of
        a job that failed is no failure: see `state`.
    """
    jobs = _jobs()
    handle = await _handle(jobs, key)
    return _told(handle, await jobs.status(handle))


@about_jobs("looks")
async def job_wait(key: str, ctx: Context, seconds: float = 600.0) -> dict[str, Any]:
    """Wait until a job is over, or for that many seconds; then say how it is.

    Args:
        key: The job's, from `job_submit`.
        seconds: At most an hour. A job that is not over can be waited for again.

    Returns:
        As `job_status`, with `exit_code` for `job_exit_code`; `over` says whether it is. `error`
        has the reason of a job that is over and did not complete: then the wait failed, too.
    """
    jobs = _jobs()
    handle = await _handle(jobs, key)
    bound = min(max(seconds, 0.0), MOST_SECONDS)
    status = await jobs.wait(handle, timeout=bound, on_status=teller(ctx, handle))
    return _waited(handle, status)


async def job_logs(
    key: str,
    offset: int | None = None,
    limit: int = 65536,
    tail_lines: int | None = None,
    search: str | None = None,
) -> dict[str, Any]:
    """Read what a job has written so far, stdout and stderr together; it is not waited for.

    Args:
        key: The job's, from `job_submit`.
        offset: Where to begin, in bytes; a negative one counts from the end. Without it, of a
            log longer than `limit` both ends.
        limit: The most bytes, at most 1 MiB.
        tail_lines: The last lines, in place of an offset.
        search: A regular expression: the lines of the whole log that match, with their offsets.

    Returns:
        `text`, `offset`, `next_offset` to read on from, and `size` of the whole log in bytes.
    """
    jobs = _jobs()
    handle = await _handle(jobs, key)
    if search:
        log = await jobs.search_log(handle, search)
    else:
        log = await jobs.logs(handle, offset=offset, limit=limit, tail_lines=tail_lines)
    return {
        "text": log.text,
        "offset": log.offset,
        "next_offset": log.next_offset,
        "size": log.size,
        "log_file": str(handle.job_dir / "log"),
    }


@about_jobs("looks")
async def job_cancel(key: str) -> dict[str, Any]:
    """End a job; one that is over stays as it is.

    Args:
        key: The job's, from `job_submit`.

    Returns:
        As `job_status`, some seconds later at most; where `over` is false, it is still ending.
    """
    jobs = _jobs()
    handle = await _handle(jobs, key)
    return _told(handle, await jobs.cancel(handle))


async def queue_info(scheduler: SchedulerName | None = None) -> dict[str, Any]:
    """Say which queues or partitions there are, with their nodes and limits.

    Args:
        scheduler: Nothing for the one that is found.

    Returns:
        `scheduler`, and `queues`: each with `name`, `default`, `state`, `nodes`, `nodes_idle`,
        `cores_per_node`, `gpus` and `memory` in bytes per node, `time_limit` in seconds; what a
        scheduler does not say is null.
    """
    jobs = _jobs(scheduler)
    queues = await jobs.queues()
    return {"scheduler": jobs.scheduler, "queues": [queue.as_dict() for queue in queues]}


def working_folder(folder: str | None) -> Path:
    """Where a job runs; nothing stands for the working folder.

    Raises:
        PermissionError: No tool may write there.
    """
    if folder:
        checked(folder, writing=True)
    return Path(folder or ".").absolute()


def teller(ctx: Context, handle: JobHandle) -> Callable[[JobStatus], Awaitable[None]]:
    """Tells whoever called a tool each change of a job."""
    told = 0

    async def tell(status: JobStatus) -> None:
        nonlocal told
        told += 1
        await ctx.report_progress(told, None, f"job {handle.native_id} {status.reason}")

    return tell


def _jobs(scheduler: str | None = None) -> Jobs:
    return Jobs.of(load_settings(untrusted="narrow"), scheduler)


async def _handle(jobs: Jobs, key: str) -> JobHandle:
    handle = await jobs.find(key)
    if handle is None:
        raise JobError(
            f"no job was submitted with the key `{key}`",
            hint="the key is in what `job_submit` answered; the state folder has to be the same",
        )
    return handle


def _named(handle: JobHandle) -> dict[str, Any]:
    return {
        "key": handle.key,
        "job_id": handle.native_id,
        "scheduler": handle.scheduler,
        "log_file": str(handle.job_dir / "log"),
    }


def _told(handle: JobHandle, status: JobStatus) -> dict[str, Any]:
    """How a job is. Its exit code is none of the call's, and so has a name of its own."""
    told = status.as_dict()
    code = told.pop("exit_code")
    return {**_named(handle), **told, "job_exit_code": code}


def _waited(handle: JobHandle, status: JobStatus) -> dict[str, Any]:
    """How a job is that was waited for: its end is what the call was for; its failure counts."""
    told = {**_named(handle), **status.as_dict()}
    if status.over and status.state != "completed":
        told["error"] = f"job {handle.native_id} {status.reason}"
    return told
