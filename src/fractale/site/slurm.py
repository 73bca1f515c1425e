"""Whether Slurm answers on this machine, and what it has."""

from __future__ import annotations

import asyncio
from typing import Any

from fractale.schedulers.slurm.site import ACCOUNTING, NODES, PARTITIONS, read_nodes, read_partition
from fractale.site.model import Finding, absent
from fractale.site.programs import Machine

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
        machine.run(sinfo, "-h", "-o", PARTITIONS),
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
    queues = [queue for line in ran.lines if (queue := read_partition(line))]
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
    sacct = machine.which(ACCOUNTING[0])
    if sacct is None:
        return False
    return not (await machine.run(sacct, *ACCOUNTING[1:])).problem
