"""Names and packages of schedulers; the only module that imports a package by its name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

if TYPE_CHECKING:
    from fractale.schedulers.adapter import Scheduler
    from fractale.schedulers.flux.jobs import Flux

ScriptScheduler: TypeAlias = Literal["slurm", "flux", "pbs", "lsf"]
"""A scheduler whose scripts fractale reads and writes."""

JobScheduler: TypeAlias = Literal["flux", "slurm", "pbs", "lsf", "local"]
"""A scheduler that runs jobs; ``local`` runs them as processes of this machine."""

NAMES: Final[tuple[str, ...]] = get_args(ScriptScheduler)

READ: Final = (*NAMES, "cobalt")
"""Schedulers whose scripts fractale reads. fractale does not write scripts for Cobalt."""

MEANT: Final = MappingProxyType({"sbatch": "slurm", "torque": "pbs", "bsub": "lsf"})
"""Other names of a scheduler → the scheduler."""

_PACKAGE: Final = __name__.rpartition(".")[0]


def scheduler_named(name: str) -> str:
    """Find a scheduler by name: ``slurm`` for ``Slurm 23``. Returns other names in lower case."""
    said = name.strip().lower()
    known = {**{each: each for each in NAMES}, **MEANT}
    return next((own for word, own in known.items() if word in said), said)


def home(scheduler: str, part: str) -> ModuleType:
    """Import a module of a scheduler's package.

    Args:
        part: ``directives``, ``environment``, ``jobs``, ``times``: every package has these.

    Raises:
        ValueError: The scheduler is unknown.
    """
    if scheduler not in (*READ, *get_args(JobScheduler)):
        raise ValueError(f"`{scheduler}` is not a scheduler: choose one of {', '.join(READ)}")
    return importlib.import_module(f"{_PACKAGE}.{scheduler}.{part}")


def optional_home(scheduler: str, part: str) -> ModuleType | None:
    """Import a module that only some packages have, such as ``validator``; None without it."""
    found = importlib.util.find_spec(f"{_PACKAGE}.{scheduler}.{part}")
    return home(scheduler, part) if found else None


def adapters_of(
    environment: Mapping[str, str], queues: Path, cores: int | None
) -> dict[str, Scheduler]:
    """Make the adapter of each scheduler that runs jobs, whether it is installed or not.

    Args:
        environment: The environment of the schedulers' programs.
        queues: Directory of the queue of ``local``.
        cores: Cores that ``local`` may use; None: the cores of this machine.
    """
    from fractale.schedulers.local.jobs import Local

    adapters: dict[str, Scheduler] = {}
    for name in get_args(JobScheduler):
        if name == "local":
            adapters[name] = Local(environment, queues, cores)
        else:
            adapters[name] = cast("Scheduler", home(name, "jobs").ADAPTER.of(environment))
    return adapters


def flux_of(environment: Mapping[str, str]) -> Flux:
    """Make the adapter of Flux, which answers more questions than the other adapters."""
    from fractale.schedulers.flux.jobs import Flux

    return Flux.of(environment)


def longest(scheduler: str, seconds: float) -> float:
    """Compute the longest run time that a scheduler allows for a time limit, until the kill.

    Args:
        seconds: The time limit, in seconds.
    """
    return cast("float", home(scheduler, "times").longest(seconds))
