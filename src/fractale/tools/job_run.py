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
    """Submit a batch job, wait until it is over, and give its log. A job that fails is an error.

    Args:
        script: The text of a batch script.
        key: A name for this very job. With the same key the same job is found and not run again,
            so it has to say everything that tells one job from another.
        name: For people who look at the queue.
        nodes: How many.
        tasks: How many in all.
        cores_per_task: How many.
        time: The limit in seconds.
        queue: Queue or partition.
        account: Account, project or bank.
        env: Variables to set.
        folder: Where it runs; nothing for the working folder.
        scheduler: Nothing for the one that is found: flux, slurm, pbs, lsf, else local processes.

    Returns:
        `job_id`, `scheduler`, `state`, `reason`, `exit_code`, `seconds`, `nodes`, `log_file`, and
        `log`, its last 64 KiB. If the job did not complete, also `error`: its reason, and the
        end of its log; then the call has failed, too.
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
