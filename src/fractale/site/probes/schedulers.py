"""Slurm, Flux, PBS and LSF: whether they answer, and their queues and nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

from fractale.jobs import Jobs
from fractale.schedulers.flux import site as flux_site
from fractale.schedulers.lsf import site as lsf_site
from fractale.schedulers.pbs import site as pbs_site
from fractale.schedulers.slurm.site import ACCOUNTING, NODES, PARTITIONS, read_nodes, read_partition
from fractale.settings import Settings
from fractale.site.model import Finding, absent
from fractale.site.programs import Machine, ProgramAnswer, version_in


def chosen_scheduler(settings: Settings) -> str:
    """The scheduler for jobs that name none; ``local`` if the machine has none."""
    return Jobs.of(settings).scheduler


MOST_NODES = 200

T = TypeVar("T")


async def slurm(machine: Machine) -> Finding:
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


async def _has_accounting(machine: Machine) -> bool:
    """Whether Slurm reports ended jobs: ``sacct`` exists and has a database."""
    sacct = machine.which(ACCOUNTING[0])
    if sacct is None:
        return False
    return not (await machine.run(sacct, *ACCOUNTING[1:])).problem


async def flux(machine: Machine) -> Finding:
    """The Flux instance that contains this process."""
    program = machine.which("flux")
    if program is None:
        return absent("flux", "no `flux` on PATH")
    version = await machine.version(program, "version")
    ran = await machine.run(program, "resource", "list", "-n", "-o", flux_site.NODES)
    if ran.problem:
        hint = "" if machine.environment.get("FLUX_URI") else " (FLUX_URI is not set)"
        return Finding(
            name="flux",
            state="broken",
            version=version,
            path=program,
            problem=f"no instance answers{hint}: {ran.problem}",
        )
    queues = await machine.run(program, "queue", "list", "-n", "-o", flux_site.QUEUES)
    details: dict[str, Any] = {
        "nodes": [node for line in ran.lines if (node := flux_site.read_nodes(line))],
        "queues": [queue for line in queues.lines if (queue := flux_site.read_queue(line))],
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
        # Slurm and Grid Engine also have a `qstat`.
        return absent("pbs", f"{qstat} is of another scheduler")
    version = version_in(said.out) or version_in(said.err)
    facts: dict[str, Any] = {"name": "pbs", "version": version, "path": qstat}
    ran = await machine.run(qstat, *pbs_site.QUEUES[1:])
    if ran.problem and not (ran := await machine.run(qstat, "-Q")).problem:
        names = [line.split()[0] for line in ran.lines[2:]]
        queues: list[dict[str, Any]] = [{"name": name} for name in names]
    elif ran.problem:
        return Finding(
            **facts, state="broken", problem=f"the server does not answer: {ran.problem}"
        )
    else:
        queues = [_pbs_queue(queue) for queue in _read(pbs_site.read_queues, ran)]
    nodes: list[dict[str, Any]] = []
    if pbsnodes := machine.which(pbs_site.NODES[0]):
        nodes = _read(pbs_site.read_nodes, await machine.run(pbsnodes, *pbs_site.NODES[1:]))
    details: dict[str, Any] = {"queues": queues, "nodes": nodes[:MOST_NODES]}
    return Finding(**facts, evidence="qstat -Q answered", details=details)


def _read(reader: Callable[[str], list[T]], ran: ProgramAnswer) -> list[T]:
    """Parse a program's list; empty if its output has another form."""
    try:
        return reader(ran.out)
    except ValueError:
        return []


def _pbs_queue(queue: pbs_site.PbsQueue) -> dict[str, Any]:
    return {
        "name": queue.name,
        "state": "up" if queue.up else "down",
        "time_limit": queue.time_limit,
        "default_time": queue.default_time,
        "most_nodes_per_job": queue.most_nodes,
        "most_cores_per_job": queue.most_cores,
    }


async def lsf(machine: Machine) -> Finding:
    """IBM Spectrum LSF."""
    lsid = machine.which("lsid")
    if lsid is None:
        return absent("lsf", "no `lsid` on PATH")
    ran = await machine.run(lsid)
    facts: dict[str, Any] = {"name": "lsf", "version": version_in(ran.out), "path": lsid}
    if ran.problem:
        return Finding(**facts, state="broken", problem=f"no cluster answers: {ran.problem}")
    bqueues, lshosts = machine.which(lsf_site.QUEUES[0]), machine.which(lsf_site.HOSTS[0])
    queues = await machine.run(bqueues, *lsf_site.QUEUES[1:]) if bqueues else ProgramAnswer()
    hosts = await machine.run(lshosts, *lsf_site.HOSTS[1:]) if lshosts else ProgramAnswer()
    details: dict[str, Any] = {
        "queues": [
            {"name": name, "state": state} for name, state in lsf_site.read_queues(queues.out)
        ],
        "nodes": lsf_site.read_hosts(hosts.out)[:MOST_NODES],
    }
    if cluster := re.search(r"cluster name is (\S+)", ran.out):
        details["cluster"] = cluster[1]
    return Finding(**facts, evidence="lsid answered", details=details)
