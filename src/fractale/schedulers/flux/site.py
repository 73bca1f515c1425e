"""Whether a Flux instance answers, and its queues and nodes.

``flux queue list`` and ``flux resource list`` always have the version of the instance. The
`flux.queue` of other bindings may have another version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fractale.findings import Finding, ProbedMachine, absent
from fractale.schedulers.flux.times import read_time
from fractale.schedulers.job import Queue
from fractale.schedulers.notation import figure, if_written

QUEUES: Final = (
    "{queuem}|{defaults.timelimit!F}|{limits.timelimit!F}|{limits.range.nnodes}"
    "|{limits.range.ncores}|{limits.range.ngpus}"
)
NODES: Final = "{state}|{nnodes}|{ncores}|{ngpus}|{nodelist}"
QUEUE_NODES: Final = "{queue}|{state}|{nnodes}|{ncores}|{ngpus}|{nodelist}"


def read_nodes(line: str) -> dict[str, Any] | None:
    """Nodes of one state, in the form of `NODES`; None if the line has another form."""
    cells = line.split("|")
    if len(cells) != 5:
        return None
    state, nodes, cores, gpus, names = (cell.strip() for cell in cells)
    return {
        "state": state,
        "count": figure(nodes),
        "cores": figure(cores),
        "gpus": figure(gpus),
        "names": names[:500],
    }


def read_queue(line: str) -> dict[str, Any] | None:
    """One queue in the form of `QUEUES`. Its name is empty if the instance names no queues."""
    cells = line.split("|")
    if len(cells) != 6:
        return None
    name, default, limit, nodes, cores, gpus = (cell.strip() for cell in cells)
    return {
        "name": name.rstrip("*"),
        "default": name.endswith("*") or not name,
        # 0 means no limit.
        "time_limit": if_written(read_time, limit) or None,
        "default_time": if_written(read_time, default) or None,
        "nodes_per_job": nodes,
        "cores_per_job": cores,
        "gpus_per_job": gpus,
    }


def queues_of(
    queues: Iterable[str], nodes: Iterable[str], status: Iterable[str] = ()
) -> list[Queue]:
    """The queues, with the nodes of each.

    Args:
        queues: Lines in the form of `QUEUES`.
        nodes: Lines in the form of `QUEUE_NODES`; without a queue if the instance names none.
        status: Lines of ``flux queue status``: ``batch: Scheduling is stopped``.
    """
    closed = {
        name.strip() if colon else ""
        for name, colon, said in (_status(line) for line in status)
        if "disabled" in said or "stopped" in said
    }
    rows = [
        (frozenset(name.strip() for name in queue.split(",")), found)
        for queue, _, rest in (line.partition("|") for line in nodes)
        if (found := read_nodes(rest))
    ]
    answer: list[Queue] = []
    for queue in filter(None, map(read_queue, queues)):
        name = queue["name"]
        mine = [found for names, found in rows if not name or name in names]
        every = sum(found["count"] or 0 for found in mine)
        free = sum(found["count"] or 0 for found in mine if found["state"] == "free")
        cores = sum(found["cores"] or 0 for found in mine)
        gpus = sum(found["gpus"] or 0 for found in mine)
        answer.append(
            Queue(
                name=name or "default",
                default=queue["default"],
                nodes=every or None,
                nodes_idle=free if every else None,
                cores_per_node=cores // every if every else None,
                gpus=gpus // every if every and gpus else None,
                time_limit=queue["time_limit"],
                state="stopped" if name in closed else "up",
            )
        )
    return answer


def _status(line: str) -> tuple[str, str, str]:
    """Queue, colon and state in a line of ``flux queue status``; the queue may be empty."""
    name, colon, said = line.partition(": ")
    return ("", "", line) if not colon or " " in name.strip() else (name, colon, said)


async def probe(machine: ProbedMachine) -> Finding:
    """The Flux instance that contains this process."""
    program = machine.which("flux")
    if program is None:
        return absent("flux", "no `flux` on PATH")
    version = await machine.version(program, "version")
    ran = await machine.run(program, "resource", "list", "-n", "-o", NODES)
    if ran.problem:
        hint = "" if machine.environment.get("FLUX_URI") else " (FLUX_URI is not set)"
        return Finding(
            name="flux",
            state="broken",
            version=version,
            path=program,
            problem=f"no instance answers{hint}: {ran.problem}",
        )
    queues = await machine.run(program, "queue", "list", "-n", "-o", QUEUES)
    details: dict[str, Any] = {
        "nodes": [node for line in ran.lines if (node := read_nodes(line))],
        "queues": [queue for line in queues.lines if (queue := read_queue(line))],
    }
    if queues.problem:
        details["queues_problem"] = queues.problem
    return Finding(
        name="flux",
        version=version,
        path=program,
        evidence="flux resource list answered",
        details=details,
    )
