"""Submit a batch job, wait and return its log in one call: for searches that try many jobs."""

from __future__ import annotations

from typing import Any

from fractale.jobs import Jobs, JobSpec
from fractale.paths import about_jobs, takes_paths
from fractale.registry.calls import Progress
from fractale.schedulers.homes import JobScheduler
from fractale.settings import load_settings
from fractale.tools.jobs import teller, working_folder

LOG_BYTES = 65536


@about_jobs("runs")
@takes_paths(writes=["folder"])
async def job_run(
    script: str,
    key: str,
    progress: Progress,
    name: str = "fractale",
    nodes: int | None = None,
    tasks: int | None = None,
    cores_per_task: int | None = None,
    time: float | None = None,
    queue: str | None = None,
    account: str | None = None,
    env: dict[str, str] | None = None,
    folder: str | None = None,
    scheduler: JobScheduler | None = None,
) -> dict[str, Any]:
    """Submit a batch job, wait until it is over, and return its log. A failed job is an error.

    Args:
        script: The text of a batch script.
        key: The job's unique key. A second call with the same key finds the job and does not run
            it again, so the key must contain everything that distinguishes one job from another.
        name: The job's name in the queue.
        nodes: Number of nodes.
        tasks: Number of tasks in all.
        cores_per_task: Number of cores for each task.
        time: The time limit in seconds.
        queue: Queue or partition.
        account: Account, project or bank.
        env: Environment variables to set.
        folder: The directory where the job runs; by default the working directory.
        scheduler: By default the first that is found: flux, slurm, pbs, lsf, else local processes.

    Returns:
        `job_id`, `scheduler`, `state`, `reason`, `exit_code`, `seconds`, `nodes`, `log_file`, and
        `log`, its last 64 KiB. If the job did not complete, also `error`: its reason, and the
        end of its log; then the call fails, too.
    """
    jobs = Jobs.of(load_settings(untrusted="narrow"), scheduler)
    spec = JobSpec(
        name=name,
        script=script,
        nodes=nodes,
        tasks=tasks,
        cores_per_task=cores_per_task,
        time=time,
        queue=queue,
        account=account,
        env=env or {},
        folder=working_folder(folder),
    )
    handle = await jobs.submit(spec, key=key)
    status = await jobs.wait(handle, on_status=teller(progress, handle))
    log = await jobs.logs(handle, offset=-LOG_BYTES, limit=LOG_BYTES)
    result = {
        "job_id": handle.native_id,
        "scheduler": handle.scheduler,
        "state": status.state,
        "reason": status.reason,
        "exit_code": status.exit_code,
        "seconds": status.seconds,
        "nodes": list(status.nodes),
        "log_file": str(handle.job_dir / "log"),
        "log": log.text,
    }
    if status.state != "completed":
        last = f"; its last lines:\n{status.last_lines}" if status.last_lines else ""
        result["error"] = f"job {handle.native_id} {status.reason}{last}"
    return result
