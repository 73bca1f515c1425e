"""Whether an LSF cluster answers, and its queues and hosts, from the output of LSF's programs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from fractale.findings import (
    MOST_NODES,
    Finding,
    ProbedMachine,
    ProgramAnswer,
    absent,
    version_in,
)

QUEUES: Final = ("bqueues", "-w")
HOSTS: Final = ("lshosts", "-w")
UP: Final = "Open:Active"
MEGABYTES: Final[Mapping[str, float]] = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}


def read_queues(text: str) -> list[tuple[str, str]]:
    """Name and state, such as `UP`, of each queue in the output of `QUEUES`."""
    rows = columns(text.splitlines())
    return [(row["QUEUE_NAME"], row.get("STATUS", "")) for row in rows if "QUEUE_NAME" in row]


def read_hosts(text: str) -> list[dict[str, Any]]:
    """The hosts in the output of `HOSTS`, as ``fractale discover`` shows them."""
    return [_host(row) for row in columns(text.splitlines()) if "HOST_NAME" in row]


def columns(lines: list[str]) -> list[dict[str, str]]:
    """A table whose first line names its columns and whose cells contain no blanks."""
    lines = [line for line in lines if line.strip()]
    if not lines:
        return []
    names = lines[0].split()
    return [dict(zip(names, line.split(), strict=False)) for line in lines[1:]]


def _host(row: Mapping[str, str]) -> dict[str, Any]:
    memory = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])", row.get("maxmem", ""))
    cores = row.get("ncpus", "")
    return {
        "names": row["HOST_NAME"],
        "count": 1,
        "cores_per_node": int(cores) if cores.isascii() and cores.isdecimal() else None,
        "memory_per_node_mb": int(float(memory[1]) * MEGABYTES[memory[2]]) if memory else None,
    }


async def probe(machine: ProbedMachine) -> Finding:
    """IBM Spectrum LSF."""
    lsid = machine.which("lsid")
    if lsid is None:
        return absent("lsf", "no `lsid` on PATH")
    ran = await machine.run(lsid)
    facts: dict[str, Any] = {"name": "lsf", "version": version_in(ran.out), "path": lsid}
    if ran.problem:
        return Finding(**facts, state="broken", problem=f"no cluster answers: {ran.problem}")
    bqueues, lshosts = machine.which(QUEUES[0]), machine.which(HOSTS[0])
    queues = await machine.run(bqueues, *QUEUES[1:]) if bqueues else ProgramAnswer()
    hosts = await machine.run(lshosts, *HOSTS[1:]) if lshosts else ProgramAnswer()
    details: dict[str, Any] = {
        "queues": [{"name": name, "state": state} for name, state in read_queues(queues.out)],
        "nodes": read_hosts(hosts.out)[:MOST_NODES],
    }
    if cluster := re.search(r"cluster name is (\S+)", ran.out):
        details["cluster"] = cluster[1]
    return Finding(**facts, evidence="lsid answered", details=details)
