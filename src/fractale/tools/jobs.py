"""Batch jobs as tools, with one interface for Slurm, Flux, PBS, LSF and local processes.

Each job has a key. A second submission with the same key finds the job and does not submit it
again, even after a crash in between. All data about a job is in its directory, below `jobs/` in the
state directory.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fractale.errors import JobError
from fractale.jobs import JobHandle, Jobs, JobSpec, JobStatus
from fractale.jobs.removal import folders_in
from fractale.jobs.service import FOLDER
from fractale.paths import about_jobs, checked, takes_paths
from fractale.registry.calls import Progress
from fractale.schedulers.adapter import JobRecord
from fractale.schedulers.homes import JobScheduler
from fractale.schedulers.job import ACTIVE
from fractale.schedulers.request import Array
from fractale.settings import Settings, load_settings
from fractale.store.run_record import ID as RUN_ID
from fractale.store.run_record import RunRecords

MOST_SECONDS = 3600.0
LAST_LINES = 10
MOST_NAMED = 5
JOB_ID = re.compile(r"[A-Za-z0-9\u0192][A-Za-z0-9._\[\]@-]{0,127}")
"""Accepts neither options of a scheduler's program nor lists. Flux ids begin with ``ƒ``."""


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
    scheduler: JobScheduler | None = None,
    array: str | None = None,
) -> dict[str, Any]:
    """Submit a batch job, or an array of jobs, without waiting for its end.

    Args:
        script: The text of a batch script; the other arguments override its directives. Give either
            `script` or `command`.
        command: A program and its arguments, started once, on the job's first node.
        name: The job's name in the queue.
        nodes: Number of nodes.
        tasks: Number of tasks in all.
        cores_per_task: Number of cores for each task.
        gpus_per_task: Number of GPUs for each task.
        memory: Memory of each node, such as 4G.
        time: The time limit in seconds.
        queue: Queue or partition.
        account: Account, project or bank.
        env: Environment variables to set.
        folder: The directory where the job runs; by default the working directory.
        key: The job's unique key. A second call with the same key returns the same job and does
            not submit it again.
        scheduler: By default the first that is found: flux, slurm, pbs, lsf, else local processes.
        array: Starts one element for each index, such as 1-100%10: each has `FRACTALE_INDEX` in its
            environment, and at most 10 run at a time. By default the script's own directive.

    Returns:
        The job, as an argument for the other tools: `key`, `job_id`, `scheduler`, `log_file`.
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
        array=_array(array) if array else None,
    )
    return _named(await _jobs(scheduler).submit(spec, key=key))


def _array(text: str) -> Array:
    """Parse the indices of an array.

    Raises:
        JobError: The text is not a valid array.
    """
    try:
        return Array.parse(text)
    except ValueError as error:
        raise JobError(str(error)) from error


@about_jobs("looks")
async def job_status(key: str) -> dict[str, Any]:
    """Report the current state of a job, with the evidence for it.

    Args:
        key: The job's key from `job_submit`, the key of a run's job that `fractale show` prints,
            or the scheduler's id of a job that fractale submitted.

    Returns:
        The job; `state` (pending, running, completed, failed, cancelled, timeout, out_of_memory,
        node_failure, or unknown if no evidence shows how it ended), `over`, `reason` as text,
        `evidence`, `job_exit_code`, `nodes`, `submitted`, `started`, `ended` in seconds since 1970,
        `seconds`, and, if the job failed, `last_lines` of its log. The call succeeds even if the
        job failed: see `state`.
    """
    jobs, handle = await _found(key)
    return _told(handle, await jobs.status(handle))


@about_jobs("looks")
async def job_wait(key: str, progress: Progress, seconds: float = 600.0) -> dict[str, Any]:
    """Wait until a job is over, at most for `seconds`; then report its state.

    Args:
        key: The job's key from `job_submit`.
        seconds: At most an hour. If the job is not over by then, call this tool again.

    Returns:
        As `job_status`, with `exit_code` for `job_exit_code`; `over` says whether the job ended.
        If it ended without completing, `error` has the reason: then the wait failed, too.
    """
    jobs, handle = await _found(key)
    bound = min(max(seconds, 0.0), MOST_SECONDS)
    status = await jobs.wait(handle, timeout=bound, on_status=teller(progress, handle))
    return _waited(handle, status)


async def job_logs(
    key: str,
    offset: int | None = None,
    limit: int = 65536,
    tail_lines: int | None = None,
    search: str | None = None,
    element: int | None = None,
) -> dict[str, Any]:
    """Read a job's log so far, stdout and stderr together, without waiting for the job's end.

    Args:
        key: The job's key from `job_submit`.
        offset: The first byte to read; a negative offset counts from the end. Without it, the
            start and the end of a log that is longer than `limit`.
        limit: The number of bytes to read, at most 1 MiB.
        tail_lines: The number of last lines to read, instead of an offset.
        search: A regular expression: read the matching lines of the whole log, with their offsets.
        element: The index of an array's element; by default the last line of each element.

    Returns:
        `text`, `offset`, `next_offset` to continue from, and `size` of the whole log in bytes.
    """
    jobs, handle = await _found(key)
    if element is not None:
        handle = replace(handle, index=element)
    if search:
        log = await jobs.search_log(handle, search)
    else:
        log = await jobs.logs(handle, offset=offset, limit=limit, tail_lines=tail_lines)
    return {
        "text": log.text,
        "offset": log.offset,
        "next_offset": log.next_offset,
        "size": log.size,
        "log_file": str(handle.own_dir / "log"),
    }


@about_jobs("looks")
async def job_cancel(key: str) -> dict[str, Any]:
    """Cancel a job; a job that is over does not change.

    Args:
        key: The job's key from `job_submit`.

    Returns:
        As `job_status`, at most some seconds later; if `over` is false, the job is still ending.
    """
    jobs, handle = await _found(key)
    return _told(handle, await jobs.cancel(handle))


async def job_record(job_id: str, scheduler: JobScheduler | None = None) -> dict[str, Any]:
    """Report the state of a job that fractale did not submit, by the scheduler's id for it.

    This tool changes nothing. For a job that fractale submitted, `job_status` reports more.

    Args:
        job_id: The scheduler's id of the job, such as 4711.
        scheduler: By default the first that is found.

    Returns:
        `job_id`, `scheduler`, `known` (false if the scheduler does not know the job, or has
        forgotten it), and, as the scheduler reports them: `state` as in `job_status`, `said` in the
        scheduler's own word, `reason`, `job_exit_code`, `signal`, `nodes`, `submitted`, `started`,
        `ended` in seconds since 1970. Of a job array, `elements` has these for each element.
    """
    if not JOB_ID.fullmatch(job_id):
        raise JobError(
            f"`{job_id}` is not the id of a job",
            hint="write the scheduler's id, such as 4711, or 4711.server for PBS",
        )
    settings = load_settings(untrusted="narrow")
    jobs = Jobs.of(settings, scheduler)
    named = {"job_id": job_id, "scheduler": jobs.scheduler}
    if jobs.scheduler == "local":
        found = _called(settings, job_id, "local")
        if not found:
            return {**named, "known": False}
        handle = found[0]
        return {**_told(handle, await jobs.status(handle)), "known": True}
    records = await jobs.records_of(job_id)
    if None in records:
        return {**named, "known": True, **_recorded(records[None])}
    elements = [
        {"index": index, **_recorded(record)}
        for index, record in records.items()
        if index is not None
    ]
    return {**named, "known": bool(elements), **({"elements": elements} if elements else {})}


async def queue_info(scheduler: JobScheduler | None = None) -> dict[str, Any]:
    """List the queues or partitions, with their nodes and limits.

    Args:
        scheduler: By default the first that is found.

    Returns:
        `scheduler`, and `queues`: each with `name`, `default`, `state`, `nodes`, `nodes_idle`,
        `cores_per_node`, `gpus` and `memory` in bytes per node, `time_limit` in seconds; values
        that a scheduler does not report are null.
    """
    jobs = _jobs(scheduler)
    queues = await jobs.queues()
    return {"scheduler": jobs.scheduler, "queues": [queue.as_dict() for queue in queues]}


def working_folder(folder: str | None) -> Path:
    """The directory where a job runs; None for the working directory.

    Raises:
        PermissionError: Tools may not write to that directory.
    """
    if folder:
        checked(folder, writing=True)
    return Path(folder or ".").absolute()


def teller(progress: Progress, handle: JobHandle) -> Callable[[JobStatus], Awaitable[None]]:
    """Return a function that reports each change of a job to the caller of a tool."""
    reported = 0

    async def report(status: JobStatus) -> None:
        nonlocal reported
        reported += 1
        await progress.report_progress(reported, None, f"job {handle.native_id} {status.reason}")

    return report


def _jobs(scheduler: str | None = None) -> Jobs:
    return Jobs.of(load_settings(untrusted="narrow"), scheduler)


async def _found(key: str) -> tuple[Jobs, JobHandle]:
    """Find the job of a key from `job_submit`, of a run's job, or of a scheduler's id.

    Raises:
        JobError: No job matches, or several have that id.
    """
    settings = load_settings(untrusted="narrow")
    for root in _roots(settings, key):
        jobs = Jobs.of(settings, root=root)
        if handle := await jobs.find(key):
            return jobs, handle
    found = _called(settings, key)
    if len(found) == 1:
        return Jobs.of(settings, root=found[0].job_dir.parent), found[0]
    if found:
        keys = ", ".join(f"{each.key} ({each.scheduler})" for each in found[:MOST_NAMED])
        raise JobError(f"{len(found)} jobs have the id `{key}`", hint=f"use a key: {keys}")
    raise JobError(
        f"no job was submitted with the key `{key}`",
        hint="`job_submit` returned the key, and `fractale show RUN STEP` prints it; use the same "
        "state directory. For a job that fractale did not submit, call `job_record`",
    )


def _roots(settings: Settings, key: str) -> list[Path]:
    """The directories that may have the job of a key: the common one, and that of its run."""
    runs = RunRecords(settings.state_dir)
    ends = [index for index, letter in enumerate(key) if letter == "-"]
    of_runs = [runs.at(key[:end]).jobs for end in ends if RUN_ID.fullmatch(key[:end])]
    return [settings.state_dir / FOLDER, *(root for root in of_runs if root.is_dir())]


def _called(settings: Settings, native_id: str, scheduler: str | None = None) -> list[JobHandle]:
    """The jobs in the state directory that have a scheduler's id."""
    runs = RunRecords(settings.state_dir)
    roots = [settings.state_dir / FOLDER, *(runs.at(name).jobs for name in sorted(runs.names()))]
    handles = [directory.handle() for root in roots for directory in folders_in(root)]
    return [
        handle
        for handle in handles
        if handle and handle.native_id == native_id and scheduler in (None, handle.scheduler)
    ]


def _recorded(record: JobRecord) -> dict[str, Any]:
    """A scheduler's report about a job. The job's exit code is separate from that of the call."""
    return {
        "state": record.state,
        "over": record.state not in ACTIVE,
        "said": record.said,
        "reason": record.words,
        "evidence": record.evidence,
        "job_exit_code": record.exit_code,
        "signal": record.signal,
        "nodes": list(record.nodes),
        "submitted": record.submitted,
        "started": record.started,
        "ended": record.ended,
    }


def _named(handle: JobHandle) -> dict[str, Any]:
    return {
        "key": handle.key,
        "job_id": handle.native_id,
        "scheduler": handle.scheduler,
        "log_file": str(handle.job_dir / "log"),
    }


def _told(handle: JobHandle, status: JobStatus) -> dict[str, Any]:
    """The status of a job. The job's exit code is separate from that of the call."""
    fields = status.as_dict()
    code = fields.pop("exit_code")
    return {**_named(handle), **fields, "job_exit_code": code}


def _waited(handle: JobHandle, status: JobStatus) -> dict[str, Any]:
    """The result of a wait for a job; the call has failed if the job has."""
    fields = {**_named(handle), **status.as_dict()}
    if status.over and status.state != "completed":
        fields["error"] = f"job {handle.native_id} {status.reason}"
    return fields
