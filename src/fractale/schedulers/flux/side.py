"""What is asked of Flux, by flux-python.

It is a program of its own, so that a broker that hangs can be left, and so that a submission
outlives whoever asked for it. It is given a word and one argument, and
answers with JSON. It ends with 0, with 1 where Flux refuses, or with 69 where none answers. It
needs nothing of fractale.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNAVAILABLE = 69
MOST_JOBS = 10000


def submit(flux: Any, handle: Any, request: str) -> Any:
    """Submit the job that a file describes; gives its id."""
    wanted = json.loads(Path(request).read_text())
    spec = flux.job.JobspecV1.from_batch_command(
        script=wanted["script"],
        jobname=wanted["name"],
        num_slots=wanted["tasks"],
        cores_per_slot=wanted["cores_per_task"],
        gpus_per_slot=wanted["gpus_per_task"],
        num_nodes=wanted["nodes"],
    )
    spec.cwd, spec.stdout, spec.stderr = wanted["folder"], wanted["log"], wanted["log"]
    spec.environment = dict(os.environ)
    if wanted["time"]:
        spec.duration = wanted["time"]
    if wanted["queue"]:
        spec.queue = wanted["queue"]
    if wanted["account"]:
        spec.setattr("system.bank", wanted["account"])
    return {"id": str(flux.job.JobID(flux.job.submit(handle, spec)).f58plain)}


def find(flux: Any, handle: Any, name: str) -> Any:
    """The newest job of that name, whatever became of it."""
    found = flux.job.job_list(handle, max_entries=MOST_JOBS, name=name).get_jobs()
    ids = sorted(job["id"] for job in found)
    return {"id": str(flux.job.JobID(ids[-1]).f58plain) if ids else None}


def record(flux: Any, handle: Any, native_id: str) -> Any:
    """What Flux says about a job; null where it knows none of that id."""
    try:
        return flux.job.get_job(handle, flux.job.JobID(native_id))
    except FileNotFoundError:
        return None


def cancel(flux: Any, handle: Any, native_id: str) -> Any:
    """Cancel a job; one that is over already is none to complain about."""
    try:
        flux.job.cancel(handle, flux.job.JobID(native_id), "cancelled by fractale")
    except FileNotFoundError:
        return {}
    except OSError as error:
        if "inactive" not in str(error):
            raise
    return {}


def queues(_flux: Any, handle: Any, _nothing: str) -> Any:
    """The queues with their limits and nodes."""
    found = importlib.import_module("flux.queue").QueueList(handle)
    return [_queue(queue) for queue in found]


def _queue(queue: Any) -> dict[str, Any]:
    every, free, limit = queue.resources.all, queue.resources.free, queue.limits.duration
    nodes = every.nnodes
    return {
        "name": queue.name or "default",
        "default": bool(queue.is_default) or not queue.name,
        "nodes": nodes,
        "nodes_idle": free.nnodes,
        "cores_per_node": every.ncores // nodes if nodes else None,
        "gpus": every.ngpus // nodes if nodes and every.ngpus else None,
        # Flux writes no limit as 0 or as infinity.
        "time_limit": limit if limit and limit != float("inf") else None,
        "state": "up" if queue.enabled and queue.started else "stopped",
    }


WORDS: dict[str, Callable[[Any, Any, str], Any]] = {
    "submit": submit,
    "find": find,
    "record": record,
    "cancel": cancel,
    "queues": queues,
}


def main() -> int:
    """Do what the arguments say."""
    try:
        flux: Any = importlib.import_module("flux")
        importlib.import_module("flux.job")
        handle = flux.Flux()
    except (ImportError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return UNAVAILABLE
    try:
        answer = WORDS[sys.argv[1]](flux, handle, sys.argv[2])
    except ConnectionError as error:
        sys.stderr.write(f"{error}\n")
        return UNAVAILABLE
    except (OSError, ValueError, TypeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
