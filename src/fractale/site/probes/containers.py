"""Containers and Kubernetes: a client works only if its engine or API server answered."""

from __future__ import annotations

import json
from typing import Any, cast

from fractale.findings import Finding, ProgramAnswer, absent, version_in
from fractale.site.programs import Machine


async def docker(machine: Machine) -> Finding:
    """Docker: its client, and whether an engine answers."""
    program = machine.which("docker")
    if program is None:
        return absent("docker", "no `docker` on PATH")
    said = await machine.run(program, "--version")
    if "podman" in said.out.lower():
        return await _podman_as_docker(machine, program, version_in(said.out))
    version = version_in(said.out)
    ran = await machine.run(program, "version", "--format", "{{json .}}")
    server = _object(ran).get("Server")
    if ran.problem or not isinstance(server, dict):
        why = ran.problem or said.problem or "no engine answered"
        return Finding(
            name="docker",
            state="broken",
            version=version,
            path=program,
            problem=f"a client without an engine: {why}",
        )
    engine = str(cast("dict[str, Any]", server).get("Version", ""))
    return Finding(
        name="docker",
        version=version,
        path=program,
        evidence="the engine answered",
        details={"engine": engine},
    )


async def _podman_as_docker(machine: Machine, program: str, version: str) -> Finding:
    ran = await machine.run(program, "info")
    facts: dict[str, Any] = {"name": "docker", "version": version, "path": program}
    details = {"note": "podman under the name of docker"}
    if ran.problem:
        return Finding(**facts, state="broken", problem=ran.problem, details=details)
    return Finding(**facts, evidence="podman info answered", details=details)


async def podman(machine: Machine) -> Finding:
    """Podman: it has no background engine, so its storage must answer."""
    program = machine.which("podman")
    if program is None:
        return absent("podman", "no `podman` on PATH")
    version = await machine.version(program, "--version")
    ran = await machine.run(program, "info", "--format", "json")
    if ran.problem:
        why = f"podman info: {ran.problem}"
        return Finding(name="podman", state="broken", version=version, path=program, problem=why)
    found = _object(ran)
    return Finding(
        name="podman",
        version=version,
        path=program,
        evidence="podman info answered",
        details=_storage(found.get("store"), "graphDriverName"),
    )


async def buildah(machine: Machine) -> Finding:
    """Buildah: it builds images without an engine."""
    program = machine.which("buildah")
    if program is None:
        return absent("buildah", "no `buildah` on PATH")
    version = await machine.version(program, "--version")
    ran = await machine.run(program, "info")
    if ran.problem:
        why = f"buildah info: {ran.problem}"
        return Finding(name="buildah", state="broken", version=version, path=program, problem=why)
    return Finding(
        name="buildah",
        version=version,
        path=program,
        evidence="buildah info answered",
        details=_storage(_object(ran).get("store"), "GraphDriverName"),
    )


def _storage(store: Any, key: str) -> dict[str, Any]:
    driver = cast("dict[str, Any]", store).get(key) if isinstance(store, dict) else None
    return {"storage": str(driver)} if driver else {}


async def apptainer(machine: Machine) -> Finding:
    """Apptainer."""
    return await _without_engine(machine, "apptainer", "apptainer", "--version")


async def singularity(machine: Machine) -> Finding:
    """Singularity: the old name, or SingularityCE."""
    return await _without_engine(machine, "singularity", "singularity", "--version")


async def charliecloud(machine: Machine) -> Finding:
    """Charliecloud."""
    return await _without_engine(machine, "charliecloud", "ch-run", "--version")


async def _without_engine(machine: Machine, name: str, program: str, flag: str) -> Finding:
    """A runtime without an engine: it works if its program starts."""
    path = machine.which(program)
    if path is None:
        return absent(name, f"no `{program}` on PATH")
    ran = await machine.run(path, flag)
    version = version_in(ran.out) or version_in(ran.err)
    if ran.problem:
        return Finding(name=name, state="broken", version=version, path=path, problem=ran.problem)
    evidence = f"{program} {flag} answered; no container was started"
    return Finding(name=name, version=version, path=path, evidence=evidence)


async def kubernetes(machine: Machine) -> Finding:
    """Kubernetes: kubectl, and whether an API server answers."""
    program = machine.which("kubectl")
    if program is None:
        return absent("kubernetes", "no `kubectl` on PATH")
    wait = f"--request-timeout={max(1, int(machine.timeout * 0.8))}s"
    ran = await machine.run(program, "version", "-o", "json", wait)
    found = _object(ran)
    version = _git_version(found.get("clientVersion"))
    server = _git_version(found.get("serverVersion"))
    context = await machine.run(program, "config", "current-context")
    details: dict[str, Any] = {} if context.problem else {"context": context.out.strip()}
    if not server:
        why = ran.problem or "no API server answered"
        if context.problem:
            why = f"{why} (no context is set: KUBECONFIG or ~/.kube/config)"
        return Finding(
            name="kubernetes",
            state="broken",
            version=version,
            path=program,
            problem=f"a client without an API server: {why}",
            details=details,
        )
    return Finding(
        name="kubernetes",
        version=version,
        path=program,
        evidence="the API server answered",
        details={**details, "server": server},
    )


def _git_version(part: Any) -> str:
    known = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    return str(known.get("gitVersion", "")).removeprefix("v")


def _object(ran: ProgramAnswer) -> dict[str, Any]:
    """The JSON object that a program printed; empty if it printed none."""
    try:
        found: Any = json.loads(ran.out)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
