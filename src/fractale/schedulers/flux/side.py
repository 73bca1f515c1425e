"""The calls to Flux's Python bindings, in a separate program.

A separate program can be abandoned if a broker hangs, and a submission outlives its caller. It
runs in the Python of the site's Flux (``flux python``), whose bindings fit that Flux, else in
fractale's own Python. So it imports nothing of fractale, and runs on Python 3.6. It expects the
name of a function and arguments, and answers with JSON.

Its exit code is

- 0 on success,
- 1 if Flux refuses,
- 69 if no instance answers,
- 70 if there are no bindings.
"""

import importlib
import json
import os
import sys

# Otherwise, files beside this one would shadow modules of the same names.
if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):  # noqa: PTH100, PTH120
    del sys.path[0]

from collections.abc import Callable
from pathlib import Path
from typing import Any

UNAVAILABLE = 69
NO_BINDINGS = 70
MOST_JOBS = 10000
IDS = "flux.ids"
"""File beside the request: index and id of each submitted element of an array."""


def submit(flux: Any, handle: Any, request: str) -> Any:
    """Submit the job that a file describes. Returns its id, or the id of an array's first element.

    The missing elements of an array are submitted: those not recorded in the file `IDS`, unknown
    to Flux by name, and not begun.
    """
    path = Path(request)
    wanted: dict[str, Any] = json.loads(path.read_text())
    if not wanted.get("indices"):
        spec = _jobspec(flux, wanted, wanted["name"], None)
        return {"id": _text(flux, flux.job.submit(handle, spec))}
    known = _elements(flux, handle, path, wanted["name"], since=wanted["written"])
    with (path.parent / IDS).open("a") as written:
        for position, index in enumerate(wanted["indices"]):
            if index in known or _has_begun(path, index):
                continue
            spec = _jobspec(flux, wanted, "{}.{}".format(wanted["name"], index), index)
            if wanted["most"] and position >= wanted["most"]:
                _after(spec, known.get(wanted["indices"][position - wanted["most"]]))
            known[index] = _text(flux, flux.job.submit(handle, spec))
            written.write(f"{index} {known[index]}\n")
            written.flush()
            os.fsync(written.fileno())
    return {"id": known[min(known)] if known else None}


def _jobspec(flux: Any, wanted: "dict[str, Any]", name: str, index: "int | None") -> Any:
    spec = flux.job.JobspecV1.from_batch_command(
        script=wanted["script"],
        jobname=name,
        num_slots=wanted["tasks"],
        cores_per_slot=wanted["cores_per_task"],
        gpus_per_slot=wanted["gpus_per_task"],
        num_nodes=wanted["nodes"],
    )
    log = wanted["log"] if index is None else "{}.{}".format(wanted["log"], index)
    spec.cwd, spec.stdout, spec.stderr = wanted["folder"], log, log
    environment = dict(os.environ)
    # ``flux python`` changes some variables; the job gets their original values.
    for each, value in wanted["restore"].items():
        environment.pop(each, None)
        if value is not None:
            environment[each] = value
    if index is not None:
        environment["FRACTALE_INDEX"] = str(index)
    spec.environment = environment
    if wanted["time"]:
        spec.duration = wanted["time"]
    if wanted["queue"]:
        spec.queue = wanted["queue"]
    if wanted["account"]:
        spec.setattr("system.bank", wanted["account"])
    return spec


def _after(spec: Any, native_id: "str | None") -> None:
    """Limit an array, since Flux cannot: an element over the limit waits for an earlier one."""
    if native_id is not None:
        spec.setattr("system.dependencies", [{"scheme": "afterany", "value": native_id}])


def find(flux: Any, handle: Any, request: str) -> Any:
    """The newest job that a file describes, in any state.

    For an array: the first element, if all were submitted. If some are missing, the id is null, so
    that another submission adds them.
    """
    path = Path(request)
    wanted: dict[str, Any] = json.loads(path.read_text())
    if not wanted.get("indices"):
        found = flux.job.job_list(handle, max_entries=MOST_JOBS, name=wanted["name"]).get_jobs()
        ids = sorted(job["id"] for job in found)
        return {"id": _text(flux, ids[-1]) if ids else None}
    known = _elements(flux, handle, path, wanted["name"], since=wanted["written"])
    begun = {index for index in wanted["indices"] if _has_begun(path, index)}
    if not known or not set(wanted["indices"]) <= known.keys() | begun:
        return {"id": None}
    _write_down(path, known)
    return {"id": known[min(known)]}


def _elements(flux: Any, handle: Any, path: Path, name: str, *, since: float) -> "dict[int, str]":
    """Index and id of the submitted elements, from the file `IDS` or by their names."""
    known: dict[int, str] = {}
    if not (path.parent / IDS).exists():
        return known
    for line in (path.parent / IDS).read_text().splitlines():
        index, _, native_id = line.partition(" ")
        if index.isdigit() and native_id:
            known[int(index)] = native_id
    for job in flux.job.job_list(handle, max_entries=0, since=since - 60).get_jobs():
        before, _, index = str(job.get("name", "")).rpartition(".")
        if before == name and index.isdigit():
            known.setdefault(int(index), _text(flux, job["id"]))
    return known


def _has_begun(path: Path, index: int) -> bool:
    return (path.parent / "elements" / str(index) / "started").exists()


def _write_down(path: Path, known: "dict[int, str]") -> None:
    lines = "".join(f"{index} {known[index]}\n" for index in sorted(known))
    temporary = path.parent / f".{IDS}"
    temporary.write_text(lines)
    temporary.replace(path.parent / IDS)


def records(flux: Any, handle: Any, *native_ids: str) -> Any:
    """Flux's record of each job; null for a job that Flux does not know."""
    stopped: dict[str, bool] = {}
    return [_record(flux, handle, native_id, stopped) for native_id in native_ids]


def _record(flux: Any, handle: Any, native_id: str, stopped: "dict[str, bool]") -> Any:
    try:
        job: dict[str, Any] = flux.job.get_job(handle, flux.job.JobID(native_id))
    except FileNotFoundError:
        return None
    if job and job.get("state") == "SCHED":
        queue = str(job.get("queue") or "")
        if queue not in stopped:
            stopped[queue] = _is_stopped(handle, queue)
        job["queue_stopped"] = stopped[queue]
    return job


def _is_stopped(handle: Any, queue: str) -> bool:
    """Whether a queue starts no jobs; False if this version of Flux does not report it."""
    try:
        answer = handle.rpc("job-manager.queue-status", {"name": queue} if queue else {}).get()
        return not answer.get("start", True)
    except (AttributeError, OSError, TypeError, ValueError):
        return False


def cancel(flux: Any, handle: Any, *native_ids: str) -> Any:
    """Cancel jobs. A job that is already over is not an error."""
    for native_id in native_ids:
        try:
            flux.job.cancel(handle, flux.job.JobID(native_id), "cancelled by fractale")
        except FileNotFoundError:
            continue
        except OSError as error:
            if "inactive" not in str(error):
                raise
    return {}


def queues(_flux: Any, handle: Any) -> Any:
    """The queues, with their limits and nodes."""
    found = importlib.import_module("flux.queue").QueueList(handle)
    return [_queue(queue) for queue in found]


def _queue(queue: Any) -> "dict[str, Any]":
    every, free, limit = queue.resources.all, queue.resources.free, queue.limits.duration
    nodes = every.nnodes
    return {
        "name": queue.name or "default",
        "default": bool(queue.is_default) or not queue.name,
        "nodes": nodes,
        "nodes_idle": free.nnodes,
        "cores_per_node": every.ncores // nodes if nodes else None,
        "gpus": every.ngpus // nodes if nodes and every.ngpus else None,
        # Flux reports no limit as 0 or as infinity.
        "time_limit": limit if limit and limit != float("inf") else None,
        "state": "up" if queue.enabled and queue.started else "stopped",
    }


def ping(_flux: Any, handle: Any) -> Any:
    """Check that an instance answers. Returns its size."""
    return {"size": handle.attr_get("size")}


def _text(flux: Any, native_id: Any) -> str:
    return str(flux.job.JobID(native_id).f58plain)


WORDS: "dict[str, Callable[..., Any]]" = {
    "submit": submit,
    "find": find,
    "records": records,
    "cancel": cancel,
    "queues": queues,
    "ping": ping,
}


def main() -> int:
    """Call the function that the arguments name."""
    try:
        flux: Any = importlib.import_module("flux")
        importlib.import_module("flux.job")
    except Exception as error:  # noqa: BLE001 - bindings with any error are unusable
        return _said(error, NO_BINDINGS)
    try:
        handle = flux.Flux()
    except Exception as error:  # noqa: BLE001 - an error of any version of the bindings
        return _said(error, UNAVAILABLE)
    try:
        answer = WORDS[sys.argv[1]](flux, handle, *sys.argv[2:])
    except ConnectionError as error:
        return _said(error, UNAVAILABLE)
    except Exception as error:  # noqa: BLE001 - an error of any version of the bindings
        return _said(error, 1)
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    return 0


def _said(error: Exception, code: int) -> int:
    said = " ".join(str(error).split())
    plain = isinstance(error, (OSError, ValueError, ImportError)) and said
    sys.stderr.write(f"{said if plain else f'{type(error).__name__}: {said}'}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
