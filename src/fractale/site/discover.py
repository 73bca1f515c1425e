"""Looking at everything at once."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from fractale.masking import Masker
from fractale.settings import Settings
from fractale.site import containers, folders, machine, schedulers, slurm, software
from fractale.site.model import Finding, Site
from fractale.site.programs import SLOW, TIMEOUT, Machine

Probe: TypeAlias = "Callable[[Machine], Awaitable[Finding | list[Finding]]]"

PROBES: Mapping[str, Mapping[str, Probe]] = {
    "machine": {"machine": machine.machine_itself},
    "gpus": {"nvidia": machine.nvidia, "amd": machine.amd},
    "schedulers": {
        "slurm": slurm.slurm,
        "flux": schedulers.flux,
        "pbs": schedulers.pbs,
        "lsf": schedulers.lsf,
    },
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
"""Section → name → probe. What is added here is looked for, shown, cached and given to models."""

MOST_PROGRAMS = 4
"""No probe asks more programs one after the other."""


def machine_of(settings: Settings, timeout: float = TIMEOUT) -> Machine:
    """This machine, as the settings see it."""
    return Machine(
        environment=settings.site_environment,
        timeout=timeout,
        state_dir=settings.state_dir,
        folder=Path.cwd(),
    )


async def discover(
    place: Machine, names: Collection[str] | None = None, *, secrets: Collection[str] = ()
) -> Site:
    """Look at a machine. Reads only, and never raises.

    Args:
        names: Which probes, by name; None: all.
        secrets: Texts that must not be in what is found, should a program say one.
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
    """What a probe found; a probe that fails is a finding, too."""
    limit = place.timeout * SLOW * MOST_PROGRAMS
    try:
        async with asyncio.timeout(limit):
            found = await probe(place)
    except TimeoutError:
        found = Finding(name=name, state="broken", problem=f"no answer within {limit:g} s")
    except Exception as error:  # noqa: BLE001 - told as what it is: one thing that is not known
        why = f"could not be looked at: {type(error).__name__}: {error}"
        found = Finding(name=name, state="broken", problem=why)
    return found if isinstance(found, list) else [found]
