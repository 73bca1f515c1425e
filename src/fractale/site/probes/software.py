"""Software of a site: environment modules, Spack, MPI, Python."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from typing import Any

from fractale.findings import Finding, absent, version_in
from fractale.site.programs import Machine

MOST_NAMES = 400
PROFILES = ("lmod.sh", "z00_lmod.sh", "00-modulepath.sh", "modules.sh", "modules-init.sh")
"""Files of /etc/profile.d that define `module` in a login shell."""


async def modules(machine: Machine) -> Finding:
    """Lmod or Environment Modules.

    `module` is a shell function, so the PATH does not contain it. The shell's variables name
    the program that it calls.
    """
    command, kind = _module_command(machine)
    if command is None:
        set_up = [name for name in PROFILES if (machine.root / "etc/profile.d" / name).exists()]
        if set_up:
            why = (
                f"/etc/profile.d/{set_up[0]} would set up `module`, and this shell did not read "
                "it: start from a login shell"
            )
            return Finding(name="modules", state="broken", problem=why)
        return absent("modules", "neither LMOD_CMD nor MODULESHOME is set")
    ran = await machine.run(*command, *_terse(kind), slow=True)
    said = ran.err if _names(ran.err) else ran.out
    names = _names(said)
    facts: dict[str, Any] = {
        "name": "modules",
        "version": machine.environment.get("LMOD_VERSION", "") if kind == "lmod" else "",
        "path": command[0] if kind == "lmod" else command[-2],
    }
    if ran.problem and not names:
        return Finding(**facts, state="broken", problem=ran.problem)
    details: dict[str, Any] = {
        "kind": "Lmod" if kind == "lmod" else "Environment Modules",
        "modulepath": _parts(machine, "MODULEPATH"),
        "loaded": _parts(machine, "LOADEDMODULES"),
        "count": len(names),
        "available": names[:MOST_NAMES],
    }
    return Finding(**facts, evidence="avail answered", details=details)


def _module_command(machine: Machine) -> tuple[list[str] | None, str]:
    """The command that `module` calls, and whether it is Lmod."""
    env = machine.environment
    if lmod := env.get("LMOD_CMD"):
        return [lmod, "bash"], "lmod"
    home = env.get("MODULESHOME", "")
    given = env.get("MODULES_CMD")
    found = [Path(given)] if given else []
    found += [Path(home, part) for part in ("libexec/modulecmd.tcl", "bin/modulecmd") if home]
    for path in found:
        if path.is_file():
            tcl = [t] if path.suffix == ".tcl" and (t := machine.which("tclsh")) else []
            return [*tcl, str(path), "bash"], "tcl"
    return None, ""


def _terse(kind: str) -> list[str]:
    return ["--terse", "avail"] if kind == "lmod" else ["avail", "-t"]


def _names(text: str) -> list[str]:
    """Modules in a terse list; lines that end in a colon are directories."""
    lines = (line.strip() for line in text.splitlines())
    names = (line.removesuffix("(default)") for line in lines if re.fullmatch(r"[^\s:]+", line))
    return sorted({name for name in names if not name.endswith("/")})


def _parts(machine: Machine, variable: str) -> list[str]:
    return [part for part in machine.environment.get(variable, "").split(":") if part]


async def spack(machine: Machine) -> Finding:
    """Spack, on the PATH or in SPACK_ROOT."""
    root = machine.environment.get("SPACK_ROOT")
    program = machine.which("spack")
    if program is None and root and (own := Path(root, "bin", "spack")).is_file():
        program = str(own)
    if program is None:
        where = f"nor in SPACK_ROOT ({root})" if root else "and SPACK_ROOT is not set"
        return absent("spack", f"no `spack` on PATH, {where}")
    ran = await machine.run(program, "--version", slow=True)
    if ran.problem:
        return Finding(name="spack", state="broken", path=program, problem=ran.problem)
    installed = await machine.run(program, "find", "--format", "{name}@{version}", slow=True)
    names = sorted({line.strip() for line in installed.lines if re.fullmatch(r"\S+@\S+", line)})
    details: dict[str, Any] = {"count": len(names), "installed": names[:MOST_NAMES]}
    if installed.problem:
        details = {"installed_problem": installed.problem}
    return Finding(
        name="spack",
        version=version_in(ran.out),
        path=program,
        evidence="spack --version answered",
        details=details,
    )


async def mpi(machine: Machine) -> Finding:
    """MPI, if its launcher is on the PATH or in the directory of this Python."""
    program = machine.which("mpiexec", "mpirun")
    beside = False
    if program is None and (own := Path(sys.prefix, "bin", "mpiexec")).is_file():
        program, beside = str(own), True
    if program is None:
        return absent("mpi", "neither `mpiexec` nor `mpirun` on PATH")
    ran = await machine.run(program, "--version")
    if ran.problem:
        return Finding(name="mpi", state="broken", path=program, problem=ran.problem)
    details: dict[str, Any] = {"kind": _mpi_kind(ran.out)}
    if beside:
        details["note"] = "in fractale's own environment, not on PATH"
    if compiler := machine.which("mpicc"):
        details["compiler"] = compiler
    version = version_in(ran.out)
    evidence = f"{Path(program).name} --version answered"
    return Finding(name="mpi", version=version, path=program, evidence=evidence, details=details)


def _mpi_kind(text: str) -> str:
    kinds = {"open mpi": "Open MPI", "openrte": "Open MPI", "intel": "Intel MPI", "hydra": "MPICH"}
    lower = text.lower()
    return next((kind for word, kind in kinds.items() if word in lower), "unknown")


async def python(machine: Machine) -> Finding:
    """The Python that runs fractale."""
    env = machine.environment
    inside = sys.prefix != sys.base_prefix
    kind = "virtual environment" if inside else "conda" if env.get("CONDA_PREFIX") else "system"
    return Finding(
        name="python",
        version=platform.python_version(),
        path=sys.executable,
        details={"kind": kind, "prefix": sys.prefix},
    )
