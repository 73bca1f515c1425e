"""Whether Slurm answers, and its partitions and nodes, in the output of ``sinfo``."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from fractale.findings import MOST_NODES, Finding, ProbedMachine, absent
from fractale.schedulers.job import Queue
from fractale.schedulers.notation import figure, if_written
from fractale.schedulers.slurm.times import read_time

PARTITIONS: Final = "%P|%a|%l|%L|%F|%s|%c|%m|%G"
NODES: Final = "%T|%D|%c|%m|%G|%N"
ACCOUNTING: Final = ("sacct", "-n", "-X", "-S", "now-1minutes", "-o", "jobid")
"""It fails unless Slurm has a database of ended jobs."""


def read_partition(line: str) -> dict[str, Any] | None:
    """One partition in the form of `PARTITIONS`; None if the line has another form."""
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != PARTITIONS.count("|") + 1:
        return None
    name, state, limit, default, by_state, size, cores, memory, gres = cells
    counts = [figure(count) or 0 for count in by_state.split("/")]
    least, _, most = size.partition("-")
    return {
        "name": name.rstrip("*"),
        "default": name.endswith("*"),
        "state": state,
        "time_limit": if_written(read_time, limit),
        "default_time": if_written(read_time, default),
        "nodes": counts[-1],
        "nodes_idle": counts[1] if len(counts) == 4 else None,
        "most_nodes_per_job": figure(most or least),
        "cores_per_node": figure(cores),
        "memory_per_node_mb": figure(memory),
        "gpus_per_node": gpus(gres),
    }


def queue_of(partition: dict[str, Any]) -> Queue:
    """A partition from `read_partition`, in the form that all schedulers share."""
    memory = partition["memory_per_node_mb"]
    shared = ("name", "default", "state", "time_limit", "nodes", "nodes_idle", "cores_per_node")
    return Queue(
        **{name: partition[name] for name in shared},
        memory=memory * 2**20 if memory else None,
        gpus=sum(partition["gpus_per_node"].values()) or None,
    )


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


def gpus(gres: str) -> dict[str, int]:
    """The GPUs among generic resources: ``gpu:a100:4(S:0-1),nvme:1`` has four of kind a100."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"\bgpu(?::([A-Za-z][\w.-]*))?(?::(\d+))?(?=[(,]|$)", gres):
        found[kind or "gpu"] = found.get(kind or "gpu", 0) + int(count or 1)
    return found


async def probe(machine: ProbedMachine) -> Finding:
    """The Slurm of this machine."""
    sinfo = machine.which("sinfo")
    if sinfo is None:
        there = machine.which("sbatch")
        if there is None:
            return absent("slurm", "no `sinfo` on PATH")
        why = "`sbatch` is there and `sinfo` is not"
        return Finding(name="slurm", state="broken", path=there, problem=why)
    # Without a configuration each call hangs, even the one for the version.
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
    details: dict[str, Any] = {"queues": queues, "nodes": groups[:MOST_NODES]}
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


async def _has_accounting(machine: ProbedMachine) -> bool:
    """Whether Slurm reports ended jobs: ``sacct`` exists and has a database."""
    sacct = machine.which(ACCOUNTING[0])
    if sacct is None:
        return False
    return not (await machine.run(sacct, *ACCOUNTING[1:])).problem
