"""Flux, PBS and LSF: their queues and nodes, as their own programs tell them."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from fractale.jobs import Jobs
from fractale.schedulers.flux.site import NODES as FLUX_NODES
from fractale.schedulers.flux.site import QUEUES as FLUX_QUEUES
from fractale.schedulers.flux.site import read_nodes as _flux_nodes
from fractale.schedulers.flux.site import read_queue as _flux_queue
from fractale.schedulers.pbs import times as pbs_times
from fractale.schedulers.sizes import figure
from fractale.settings import Settings
from fractale.site.model import Finding, absent
from fractale.site.programs import Machine, Ran, version_in


def chosen_scheduler(settings: Settings) -> str:
    """The scheduler that jobs go to where none is named; ``local`` where none is there."""
    return Jobs.of(settings).scheduler


MOST_NODES = 200
UNITS = {"kb": 1, "mb": 1024, "gb": 1024**2, "tb": 1024**3}


async def flux(machine: Machine) -> Finding:
    """The Flux instance that this process is in."""
    program = machine.which("flux")
    if program is None:
        return absent("flux", "no `flux` on PATH")
    version = await machine.version(program, "version")
    ran = await machine.run(program, "resource", "list", "-n", "-o", FLUX_NODES)
    if ran.problem:
        hint = "" if machine.environment.get("FLUX_URI") else " (FLUX_URI is not set)"
        return Finding(
            name="flux",
            state="broken",
            version=version,
            path=program,
            problem=f"no instance answers{hint}: {ran.problem}",
        )
    queues = await machine.run(program, "queue", "list", "-n", "-o", FLUX_QUEUES)
    details: dict[str, Any] = {
        "nodes": [node for line in ran.lines if (node := _flux_nodes(line))],
        "queues": [queue for line in queues.lines if (queue := _flux_queue(line))],
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


async def pbs(machine: Machine) -> Finding:
    """PBS Professional, OpenPBS or Torque."""
    qstat = machine.which("qstat")
    if qstat is None:
        return absent("pbs", "no `qstat` on PATH")
    said = await machine.run(qstat, "--version")
    if "pbs" not in f"{said.out}{said.err}".lower() and not machine.which("pbsnodes"):
        # Slurm and Grid Engine have a `qstat`, too.
        return absent("pbs", f"{qstat} is of another scheduler")
    version = version_in(said.out) or version_in(said.err)
    told: dict[str, Any] = {"name": "pbs", "version": version, "path": qstat}
    ran = await machine.run(qstat, "-Q", "-f", "-F", "json")
    if ran.problem and not (ran := await machine.run(qstat, "-Q")).problem:
        names = [line.split()[0] for line in ran.lines[2:]]
        queues: list[dict[str, Any]] = [{"name": name} for name in names]
    elif ran.problem:
        return Finding(**told, state="broken", problem=f"the server does not answer: {ran.problem}")
    else:
        queues = [_pbs_queue(name, queue) for name, queue in _table(ran, "Queue").items()]
    nodes: list[dict[str, Any]] = []
    if pbsnodes := machine.which("pbsnodes"):
        ran = await machine.run(pbsnodes, "-a", "-F", "json")
        nodes = [_pbs_node(name, node) for name, node in _table(ran, "nodes").items()]
    details: dict[str, Any] = {"queues": queues, "nodes": nodes[:MOST_NODES]}
    return Finding(**told, evidence="qstat -Q answered", details=details)


def _table(ran: Ran, key: str) -> dict[str, dict[str, Any]]:
    """A mapping in the JSON that a program wrote; empty where it is of another form."""
    try:
        found: Any = json.loads(ran.out)[key]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(found, dict):
        return {}
    table = cast("dict[str, Any]", found)
    return {str(name): row for name, row in table.items() if isinstance(row, dict)}


def _mapping(row: dict[str, Any], key: str) -> dict[str, Any]:
    found = row.get(key)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _pbs_queue(name: str, queue: dict[str, Any]) -> dict[str, Any]:
    most, default = _mapping(queue, "resources_max"), _mapping(queue, "resources_default")
    open_to_jobs = str(queue.get("enabled")) == "True" and str(queue.get("started")) == "True"
    return {
        "name": name,
        "state": "up" if open_to_jobs else "down",
        "time_limit": _pbs_time(most.get("walltime")),
        "default_time": _pbs_time(default.get("walltime")),
        "most_nodes_per_job": figure(str(most.get("nodect", ""))),
        "most_cores_per_job": figure(str(most.get("ncpus", ""))),
    }


def _pbs_time(value: Any) -> int | None:
    try:
        return pbs_times.read_time(str(value))
    except ValueError:
        return None


def _pbs_node(name: str, node: dict[str, Any]) -> dict[str, Any]:
    has = _mapping(node, "resources_available")
    return {
        "names": name,
        "count": 1,
        "state": str(node.get("state", "")),
        "cores_per_node": figure(str(has.get("ncpus", ""))),
        "memory_per_node_mb": _pbs_memory(str(has.get("mem", ""))),
        "gpus_per_node": {"gpu": count} if (count := figure(str(has.get("ngpus", "")))) else {},
    }


def _pbs_memory(text: str) -> int | None:
    found = re.fullmatch(r"(\d+)([kmgt]b)", text.lower())
    return int(found[1]) * UNITS[found[2]] // 1024 if found else None


async def lsf(machine: Machine) -> Finding:
    """IBM Spectrum LSF."""
    lsid = machine.which("lsid")
    if lsid is None:
        return absent("lsf", "no `lsid` on PATH")
    ran = await machine.run(lsid)
    told: dict[str, Any] = {"name": "lsf", "version": version_in(ran.out), "path": lsid}
    if ran.problem:
        return Finding(**told, state="broken", problem=f"no cluster answers: {ran.problem}")
    bqueues, lshosts = machine.which("bqueues"), machine.which("lshosts")
    queues = await machine.run(bqueues, "-w") if bqueues else Ran()
    hosts = await machine.run(lshosts, "-w") if lshosts else Ran()
    details: dict[str, Any] = {
        "queues": [
            {"name": row["QUEUE_NAME"], "state": row.get("STATUS", "")}
            for row in columns(queues.lines)
            if "QUEUE_NAME" in row
        ],
        "nodes": [_lsf_node(row) for row in columns(hosts.lines) if "HOST_NAME" in row][
            :MOST_NODES
        ],
    }
    if cluster := re.search(r"cluster name is (\S+)", ran.out):
        details["cluster"] = cluster[1]
    return Finding(**told, evidence="lsid answered", details=details)


def columns(lines: list[str]) -> list[dict[str, str]]:
    """A table whose first line names its columns and whose cells hold no blanks."""
    if not lines:
        return []
    names = lines[0].split()
    return [dict(zip(names, line.split(), strict=False)) for line in lines[1:]]


def _lsf_node(row: dict[str, str]) -> dict[str, Any]:
    memory = re.fullmatch(r"([\d.]+)([KMGT])", row.get("maxmem", ""))
    in_mb = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
    return {
        "names": row["HOST_NAME"],
        "count": 1,
        "cores_per_node": figure(row.get("ncpus", "")),
        "memory_per_node_mb": int(float(memory[1]) * in_mb[memory[2]]) if memory else None,
    }
