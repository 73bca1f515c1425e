"""Slurm: its partitions and nodes, as ``sinfo`` tells them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from fractale.schedulers.slurm.times import read_time
from fractale.site.model import Finding, absent
from fractale.site.programs import Machine

QUEUES = "%P|%a|%l|%L|%F|%s|%c|%m|%G"
NODES = "%T|%D|%c|%m|%G|%N"
MOST_GROUPS = 200


async def slurm(machine: Machine) -> Finding:
    """The Slurm of this machine."""
    sinfo = machine.which("sinfo")
    if sinfo is None:
        there = machine.which("sbatch")
        if there is None:
            return absent("slurm", "no `sinfo` on PATH")
        why = "`sbatch` is there and `sinfo` is not"
        return Finding(name="slurm", state="broken", path=there, problem=why)
    # Without its configuration each call hangs, even the one for the version.
    version, ran, nodes = await asyncio.gather(
        machine.version(sinfo, "--version"),
        machine.run(sinfo, "-h", "-o", QUEUES),
        machine.run(sinfo, "-h", "-o", NODES),
    )
    if ran.problem:
        return Finding(
            name="slurm",
            state="broken",
            version=version,
            path=sinfo,
            problem=f"a client without a controller that answers: {ran.problem}",
        )
    queues = [queue for line in ran.lines if (queue := read_queue(line))]
    groups = [group for line in nodes.lines if (group := read_nodes(line))]
    details: dict[str, Any] = {"queues": queues, "nodes": groups[:MOST_GROUPS]}
    details["accounting"] = await _has_accounting(machine)
    if job := machine.environment.get("SLURM_JOB_ID"):
        details["inside_job"] = job
    return Finding(
        name="slurm",
        version=version,
        path=sinfo,
        evidence="sinfo answered",
        details=details,
    )


async def _has_accounting(machine: Machine) -> bool:
    """Whether ended jobs can be asked for: ``sacct`` is there and has a database behind it."""
    sacct = machine.which("sacct")
    if sacct is None:
        return False
    return not (await machine.run(sacct, "-n", "-X", "-S", "now-1minutes", "-o", "jobid")).problem


def read_queue(line: str) -> dict[str, Any] | None:
    """One partition in the form of `QUEUES`; None where the line is of another form."""
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != QUEUES.count("|") + 1:
        return None
    name, state, limit, default, by_state, size, cores, memory, gres = cells
    counts = [figure(count) or 0 for count in by_state.split("/")]
    least, _, most = size.partition("-")
    return {
        "name": name.rstrip("*"),
        "default": name.endswith("*"),
        "state": state,
        "time_limit": seconds(limit),
        "default_time": seconds(default),
        "nodes": counts[-1],
        "nodes_idle": counts[1] if len(counts) == 4 else None,
        "most_nodes_per_job": figure(most or least),
        "cores_per_node": figure(cores),
        "memory_per_node_mb": figure(memory),
        "gpus_per_node": gpus(gres),
    }


def read_nodes(line: str) -> dict[str, Any] | None:
    """Nodes of one state and kind, in the form of `NODES`."""
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != NODES.count("|") + 1:
        return None
    state, count, cores, memory, gres, names = cells
    return {
        "state": state,
        "count": figure(count),
        "cores_per_node": figure(cores),
        "memory_per_node_mb": figure(memory),
        "gpus_per_node": gpus(gres),
        "names": names[:500],
    }


def figure(text: str) -> int | None:
    """``64`` or ``64+`` (the least of several); None for ``infinite`` and the like."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def seconds(text: str) -> int | None:
    """A time limit in seconds; None where there is none."""
    try:
        return read_time(text)
    except ValueError:
        return None


def gpus(gres: str) -> dict[str, int]:
    """The GPUs among generic resources: ``gpu:a100:4(S:0-1),nvme:1`` has four of kind a100."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"\bgpu(?::([A-Za-z][\w.-]*))?(?::(\d+))?(?=[(,]|$)", gres):
        found[kind or "gpu"] = found.get(kind or "gpu", 0) + int(count or 1)
    return found
