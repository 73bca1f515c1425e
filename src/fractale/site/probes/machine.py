"""The machine itself: system, cores, memory, GPUs."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from typing import Any, cast

from fractale.findings import Finding, absent
from fractale.schedulers.homes import DECLARED
from fractale.site.programs import Machine


async def machine_itself(machine: Machine) -> Finding:
    """Cores, memory and system of this machine."""
    memory = _memory(machine)
    details: dict[str, Any] = {
        "system": _system(machine),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "cores_usable": len(os.sched_getaffinity(0)),
        **_processor(machine),
        "memory_mb": memory.get("MemTotal"),
        "memory_free_mb": memory.get("MemAvailable"),
    }
    if limit := _memory_limit(machine):
        details["memory_limit_mb"] = limit
    jobs = [
        f"{scheduler.title} job {job}"
        for scheduler in DECLARED.values()
        if (job := machine.environment.get(scheduler.job_variable))
    ]
    if jobs:
        details["inside_job"] = jobs[0]
    return Finding(name=platform.node() or "this machine", details=details)


def _system(machine: Machine) -> str:
    for line in machine.read("etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            words = shlex.split(line.partition("=")[2])
            return words[0] if words else platform.system()
    return platform.system()


def _processor(machine: Machine) -> dict[str, Any]:
    text = machine.read("proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    sockets = set(re.findall(r"^physical id\s*:\s*(\d+)$", text, re.MULTILINE))
    found: dict[str, Any] = {"processor": model[1].strip()} if model else {}
    return {**found, "sockets": len(sockets)} if sockets else found


def _memory(machine: Machine) -> dict[str, int]:
    """The kernel's memory statistics, in megabytes by name."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", machine.read("proc/meminfo"), re.MULTILINE)
    return {name: int(size) // 1024 for name, size in lines}


def _memory_limit(machine: Machine) -> int | None:
    """Megabytes that this process and its siblings may use, if limited."""
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = machine.read(path).strip()
        if text.isdigit() and int(text) < 1 << 50:
            return int(text) // 2**20
    return None


async def nvidia(machine: Machine) -> Finding:
    """NVIDIA GPUs, as nvidia-smi reports them."""
    program = machine.which("nvidia-smi")
    if program is None:
        if (machine.root / "dev/nvidia0").exists():
            why = "/dev/nvidia0 is there and nvidia-smi is not on PATH"
            return Finding(name="nvidia", state="broken", problem=why)
        return absent("nvidia", "no `nvidia-smi` on PATH")
    fields = "name,memory.total,driver_version"
    ran = await machine.run(program, f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    if ran.problem:
        return Finding(name="nvidia", state="broken", path=program, problem=ran.problem)
    rows = [[cell.strip() for cell in line.split(",")] for line in ran.lines]
    gpus = [{"name": row[0], "memory_mb": _number(row[1])} for row in rows if len(row) == 3]
    return Finding(
        name="nvidia",
        version=rows[0][2] if gpus and len(rows[0]) == 3 else "",
        path=program,
        evidence="nvidia-smi answered",
        details={"gpus": gpus},
    )


async def amd(machine: Machine) -> Finding:
    """AMD GPUs, as rocm-smi reports them."""
    program = machine.which("rocm-smi")
    if program is None:
        return absent("amd", "no `rocm-smi` on PATH")
    ran = await machine.run(program, "--showproductname", "--showmeminfo", "vram", "--json")
    try:
        found: Any = json.loads(ran.out)
    except ValueError:
        found = None
    if ran.problem or not isinstance(found, dict):
        why = ran.problem or "rocm-smi gave no JSON"
        return Finding(name="amd", state="broken", path=program, problem=why)
    cards = {
        str(key): cast("dict[str, Any]", card)
        for key, card in cast("dict[str, Any]", found).items()
        if isinstance(card, dict) and str(key).startswith("card")
    }
    gpus = [_amd_card(card) for _, card in sorted(cards.items())]
    return Finding(name="amd", path=program, evidence="rocm-smi answered", details={"gpus": gpus})


def _amd_card(card: dict[str, Any]) -> dict[str, Any]:
    lower = {key.lower(): str(value) for key, value in card.items()}
    name = lower.get("card series") or lower.get("card model") or "AMD GPU"
    size = _number(lower.get("vram total memory (b)", ""))
    return {"name": name, "memory_mb": size // 2**20 if size else None}


def _number(text: str) -> int | None:
    found = re.match(r"\d+", text.strip())
    return int(found[0]) if found else None
