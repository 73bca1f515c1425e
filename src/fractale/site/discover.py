"""Ask all probes at the same time, and cache their findings in the state directory.

Machines often share a home directory, and another shell may load other modules. So the cache is
valid only on the same machine with the same variables.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from fractale.findings import Finding
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.private import make_folder, write_private
from fractale.schedulers import homes
from fractale.settings import Settings
from fractale.site.model import Site
from fractale.site.probes import containers, folders, machine, software
from fractale.site.programs import SLOW, TIMEOUT, Machine

Probe: TypeAlias = "Callable[[Machine], Awaitable[Finding | list[Finding]]]"

PROBES: Mapping[str, Mapping[str, Probe]] = {
    "machine": {"machine": machine.machine_itself},
    "gpus": {"nvidia": machine.nvidia, "amd": machine.amd},
    "schedulers": homes.probes(),
    "software": {
        "modules": software.modules,
        "spack": software.spack,
        "mpi": software.mpi,
        "python": software.python,
    },
    "containers": {
        "docker": containers.docker,
        "podman": containers.podman,
        "buildah": containers.buildah,
        "apptainer": containers.apptainer,
        "singularity": containers.singularity,
        "charliecloud": containers.charliecloud,
    },
    "kubernetes": {"kubernetes": containers.kubernetes},
    "file_systems": {"folders": folders.folders},
}
"""Section → name → probe. A probe added here is run, shown, cached and available to models."""

MAX_AGE = 3600.0
"""Seconds until cached findings expire."""

SURROUNDINGS = (
    "PATH",
    "HOME",
    "CONTAINER_HOST",
    "DOCKER_HOST",
    "KUBECONFIG",
    "LMOD_CMD",
    "LOADEDMODULES",
    "MODULEPATH",
    "MODULESHOME",
    "SPACK_ROOT",
    "TMPDIR",
    *(
        name
        for each in homes.DECLARED.values()
        for name in (each.job_variable, *each.found_by)
        if name
    ),
)
"""Environment variables that change the findings."""

MOST_PROGRAMS = 4
"""The most programs that any probe runs one after the other."""


def machine_of(settings: Settings, timeout: float = TIMEOUT) -> Machine:
    """This machine, as the settings describe it."""
    return Machine(
        environment=settings.site_environment,
        timeout=timeout,
        state_dir=settings.state_dir,
        folder=Path.cwd(),
    )


async def look(
    settings: Settings,
    *,
    refresh: bool = False,
    max_age: float = MAX_AGE,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - of each program
) -> Site:
    """Return the findings for this machine, from now or from at most `max_age` ago. Never raises.

    Args:
        refresh: Ask again, even if the cache is still valid.
        max_age: Seconds for which the cache is valid.
        timeout: Seconds that one program may take to answer.
    """
    place = machine_of(settings, timeout)
    if not refresh and (known := read_cache(place, max_age)) is not None:
        return known
    site = await discover(place, secrets=settings.secrets)
    write_cache(place, site)
    return site


async def discover(
    place: Machine, names: Collection[str] | None = None, *, secrets: Collection[str] = ()
) -> Site:
    """Run the probes on a machine. Reads only, and never raises.

    Args:
        names: The probes to run, by name; None for all.
        secrets: Texts to remove from the findings, in case a program prints one.
    """
    mask = Masker(secrets)
    started = time.monotonic()
    chosen = [
        (section, name, probe)
        for section, probes in PROBES.items()
        for name, probe in probes.items()
        if names is None or name in names
    ]
    found = await asyncio.gather(*(_guarded(place, name, probe) for _, name, probe in chosen))
    sections: dict[str, tuple[Finding, ...]] = {}
    for (section, _, _), findings in zip(chosen, found, strict=True):
        clean = tuple(
            replace(each, problem=mask(each.problem), details=mask(each.details))
            for each in findings
        )
        sections[section] = (*sections.get(section, ()), *clean)
    return Site(
        host=platform.node(),
        looked=time.time(),
        seconds=round(time.monotonic() - started, 3),
        sections=sections,
    )


async def _guarded(place: Machine, name: str, probe: Probe) -> list[Finding]:
    """Run a probe; an exception becomes a finding."""
    limit = place.timeout * SLOW * MOST_PROGRAMS
    try:
        async with asyncio.timeout(limit):
            found = await probe(place)
    except TimeoutError:
        found = Finding(name=name, state="broken", problem=f"no answer within {limit:g} s")
    except Exception as error:  # noqa: BLE001 - reported as an unknown
        why = f"could not be examined: {type(error).__name__}: {error}"
        found = Finding(name=name, state="broken", problem=why)
    return found if isinstance(found, list) else [found]


# -- the cache ----------------------------------------------------------------------------------


def cache_file(state_dir: Path) -> Path:
    """The cache file for this machine."""
    return state_dir / f"site-{_digest([platform.node()])}.json"


def read_cache(place: Machine, max_age: float = MAX_AGE) -> Site | None:
    """Read cached findings; None if they are too old, from another environment or unreadable."""
    try:
        data = json.loads(cache_file(place.state_dir).read_text(encoding="utf-8"))
        if data["version"] != 1 or data["surroundings"] != surroundings(place):
            return None
        site = Site.from_dict(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return site if 0 <= time.time() - site.looked < max_age else None


def write_cache(place: Machine, site: Site) -> bool:
    """Write findings to the cache; returns whether that succeeded. A failure is harmless."""
    path = cache_file(place.state_dir)
    data = {**site.as_dict(), "surroundings": surroundings(place)}
    try:
        make_folder(path.parent)
        write_private(path, to_json(data), sync="none")
    except OSError:
        return False
    return True


def surroundings(place: Machine) -> str:
    """A checksum of the variables that decide the findings."""
    env: Mapping[str, str] = place.environment
    variables = [f"{name}={env.get(name, '')}" for name in SURROUNDINGS]
    return _digest([*variables, sys.prefix, str(place.folder.absolute())])


def _digest(words: list[str]) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:16]
