"""The complete request of a job: its own fields, and its script's directives for the rest."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from fractale.errors import JobError
from fractale.schedulers.dialects import read_script, schedulers_of
from fractale.schedulers.job import JobSpec
from fractale.schedulers.notation import bytes_of
from fractale.schedulers.request import SIZES, Array, Request
from fractale.schedulers.script import Script

_WAITS: Final = frozenset({"wait", "block", "K"})
"""Options that make the submitting program wait for the job's end."""


def script_of(spec: JobSpec, scheduler: str) -> Script | None:
    """Parse a job's script as the scheduler reads it; None without directives of that scheduler.

    Without a scheduler (``local``), the directives of any scheduler count, unless the program is
    short.
    """
    if spec.short:
        return None
    lines = (spec.script or "").splitlines()
    found = schedulers_of(lines)
    if scheduler == "local":
        return read_script(spec.script or "", found[0]) if found else None
    return read_script(spec.script or "", scheduler) if scheduler in found else None


def array_of(spec: JobSpec, scheduler: str) -> Array | None:
    """Find the array that a job is, in its spec or its script.

    Raises:
        JobError: The script makes several jobs of one, makes the submission wait for the job's end,
            or has an array that fractale cannot read.
    """
    script = script_of(spec, scheduler)
    if script is None:
        return spec.array
    for directive in script.reading.directives:
        if "components" in directive.sets or directive.option in _WAITS:
            raise JobError(
                f"line {directive.line} of the script, `{directive.text}`, "
                + (
                    "makes several jobs of one"
                    if "components" in directive.sets
                    else "makes the submission wait for the job's end; fractale waits anyway"
                ),
                hint="remove the line, and submit one job per step",
            )
        unclear = directive.invalid or script.request.array is None
        if "array" in directive.sets and spec.array is None and unclear:
            raise JobError(
                f"line {directive.line} of the script, `{directive.text}`, has an array that "
                f"cannot be read: {directive.invalid or directive.untold}",
                hint="write the indices as 1-10, 0-9:3 or 1,5,7-9%2, or give them as `array`",
            )
    if script.request.components:
        raise JobError(
            "the script describes several jobs in one (a heterogeneous job)",
            hint="submit one job per step",
        )
    return spec.array or script.request.array


def asked_of(spec: JobSpec, scheduler: str) -> Request:
    """Combine a job's own fields with its script's directives; its own fields take precedence.

    A size in the spec replaces the script's sizes that contradict it: `tasks` replaces the script's
    tasks per node.
    """
    script = script_of(spec, scheduler)
    request = script.request if script else Request()
    given: dict[str, Any] = {
        "nodes": spec.nodes,
        "tasks": spec.tasks,
        "cores_per_task": spec.cores_per_task,
        "gpus_per_task": spec.gpus_per_task,
        "memory_per_node": bytes_of(spec.memory) if spec.memory else None,
        "seconds": spec.time,
        "queues": (spec.queue,) if spec.queue else None,
        "account": spec.account,
        "array": spec.array,
    }
    given = {name: value for name, value in given.items() if value is not None}
    replaced: dict[str, Any] = {}
    if given.keys() & SIZES:
        replaced["chunks"] = ()
    if "tasks" in given or "nodes" in given:
        replaced |= {"tasks_per_node": None, "most_nodes": None}
    if "gpus_per_task" in given:
        replaced |= {"gpus": None, "gpus_per_node": None}
    if "cores_per_task" in given:
        replaced["cores_per_node"] = None
    if "memory_per_node" in given:
        replaced |= {"memory": None, "memory_per_core": None, "memory_per_gpu": None}
    return dataclasses.replace(request, **{**replaced, **given})
