"""Whether a PBS server answers, and its queues and nodes, from the output of PBS's programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from fractale.findings import (
    MOST_NODES,
    Finding,
    ProbedMachine,
    ProgramAnswer,
    absent,
    version_in,
)
from fractale.schedulers.notation import if_written
from fractale.schedulers.pbs.resources import read_size
from fractale.schedulers.pbs.times import read_time

T = TypeVar("T")

QUEUES: Final = ("qstat", "-Q", "-f", "-F", "json")
NODES: Final = ("pbsnodes", "-a", "-F", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PbsQueue:
    """A queue. PBS does not report which nodes belong to a queue.

    Args:
        up: Whether it accepts jobs and starts them.
        time_limit: In seconds, like `default_time`; None for no limit.
        most_nodes: Per job, like `most_cores`.
    """

    name: str
    up: bool
    time_limit: int | None = None
    default_time: int | None = None
    most_nodes: int | None = None
    most_cores: int | None = None


def read_queues(text: str) -> list[PbsQueue]:
    """The queues in the output of `QUEUES`.

    Raises:
        ValueError: The text has another form.
    """
    return [_queue(name, facts) for name, facts in table_in(text, "Queue").items()]


def read_nodes(text: str) -> list[dict[str, Any]]:
    """The nodes in the output of `NODES`, as ``fractale discover`` shows them.

    Raises:
        ValueError: The text has another form.
    """
    return [_node(name, facts) for name, facts in table_in(text, "nodes").items()]


def table_in(text: str, key: str) -> dict[str, dict[str, Any]]:
    """The objects by name below a key of the JSON that PBS's programs print.

    Raises:
        ValueError: The text is not JSON, or does not contain such objects.
    """
    # PBS does not escape control characters in a job's environment.
    found: Any = json.loads(text, strict=False)
    table = _mapping(cast("dict[str, Any]", found), key) if isinstance(found, dict) else {}
    if not table:
        raise ValueError(f"it has no `{key}`")
    return {str(name): row for name, row in table.items() if isinstance(row, dict)}


def _queue(name: str, facts: Mapping[str, Any]) -> PbsQueue:
    most, default = _mapping(facts, "resources_max"), _mapping(facts, "resources_default")
    return PbsQueue(
        name=name,
        up=str(facts.get("enabled")) == "True" and str(facts.get("started")) == "True",
        time_limit=if_written(read_time, most.get("walltime")),
        default_time=if_written(read_time, default.get("walltime")),
        most_nodes=_count(most.get("nodect")),
        most_cores=_count(most.get("ncpus")),
    )


def _node(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    has = _mapping(facts, "resources_available")
    gpus = _count(has.get("ngpus"))
    return {
        "names": name,
        "count": 1,
        "state": str(facts.get("state", "")),
        "cores_per_node": _count(has.get("ncpus")),
        "memory_per_node_mb": _megabytes(has.get("mem")),
        "gpus_per_node": {"gpu": gpus} if gpus else {},
    }


def _megabytes(value: Any) -> int | None:
    size = if_written(read_size, value)
    return None if size is None else size // 2**20


def _count(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() else None


def _mapping(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = row.get(key)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


async def probe(machine: ProbedMachine) -> Finding:
    """PBS Professional, OpenPBS or Torque."""
    qstat = machine.which("qstat")
    if qstat is None:
        return absent("pbs", "no `qstat` on PATH")
    said = await machine.run(qstat, "--version")
    if "pbs" not in f"{said.out}{said.err}".lower() and not machine.which("pbsnodes"):
        # Slurm and Grid Engine also have a `qstat`.
        return absent("pbs", f"{qstat} is of another scheduler")
    version = version_in(said.out) or version_in(said.err)
    facts: dict[str, Any] = {"name": "pbs", "version": version, "path": qstat}
    ran = await machine.run(qstat, *QUEUES[1:])
    if ran.problem and not (ran := await machine.run(qstat, "-Q")).problem:
        names = [line.split()[0] for line in ran.lines[2:]]
        queues: list[dict[str, Any]] = [{"name": name} for name in names]
    elif ran.problem:
        return Finding(
            **facts, state="broken", problem=f"the server does not answer: {ran.problem}"
        )
    else:
        queues = [_pbs_queue(queue) for queue in _read(read_queues, ran)]
    nodes: list[dict[str, Any]] = []
    if pbsnodes := machine.which(NODES[0]):
        nodes = _read(read_nodes, await machine.run(pbsnodes, *NODES[1:]))
    details: dict[str, Any] = {"queues": queues, "nodes": nodes[:MOST_NODES]}
    return Finding(**facts, evidence="qstat -Q answered", details=details)


def _read(reader: Callable[[str], list[T]], ran: ProgramAnswer) -> list[T]:
    """Parse a program's list; empty if its output has another form."""
    try:
        return reader(ran.out)
    except ValueError:
        return []


def _pbs_queue(queue: PbsQueue) -> dict[str, Any]:
    return {
        "name": queue.name,
        "state": "up" if queue.up else "down",
        "time_limit": queue.time_limit,
        "default_time": queue.default_time,
        "most_nodes_per_job": queue.most_nodes,
        "most_cores_per_job": queue.most_cores,
    }
