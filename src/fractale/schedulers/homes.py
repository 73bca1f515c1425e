"""The schedulers that there are, and the modules of their packages.

A directory beside this file is the package of a scheduler of that name. This is the only module
that imports the packages; it imports their modules when they are needed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from fractale.schedulers import Declaration

if TYPE_CHECKING:
    from fractale.findings import SchedulerProbe
    from fractale.schedulers.adapter import Scheduler
    from fractale.schedulers.flux.jobs import Flux

_PACKAGE: Final = __name__.rpartition(".")[0]


def _declared() -> dict[str, Declaration]:
    names = sorted(file.parent.name for file in Path(__file__).parent.glob("*/__init__.py"))
    found = {name: importlib.import_module(f"{_PACKAGE}.{name}").SCHEDULER for name in names}
    return dict(sorted(found.items(), key=lambda each: each[1].rank))


DECLARED: Final[Mapping[str, Declaration]] = MappingProxyType(_declared())
"""Every scheduler, in the order in which one is chosen: name → what its package declares."""

NAMES: Final = tuple(name for name, each in DECLARED.items() if each.scripts == "written")
"""Schedulers whose scripts fractale reads and writes."""

READ: Final = tuple(name for name, each in DECLARED.items() if each.scripts != "none")
"""Schedulers whose scripts fractale reads."""

RUN: Final = tuple(name for name, each in DECLARED.items() if each.jobs)
"""Schedulers that run jobs; ``local`` runs them as processes of this machine."""

MEANT: Final = MappingProxyType({a: name for name, each in DECLARED.items() for a in each.aliases})
"""Other names of a scheduler → the scheduler."""

# For type checkers names of schedulers are texts; at run time, a tool's schema lists them.
if TYPE_CHECKING:
    ScriptScheduler: TypeAlias = str
    JobScheduler: TypeAlias = str
else:
    ScriptScheduler = Literal[NAMES]
    JobScheduler = Literal[RUN]


def scheduler_named(name: str) -> str:
    """Find a scheduler by name: ``slurm`` for ``Slurm 23``. Returns other names in lower case."""
    said = name.strip().lower()
    known = {**{each: each for each in NAMES}, **MEANT}
    return next((own for word, own in known.items() if word in said), said)


def home(scheduler: str, part: str) -> ModuleType:
    """Import a module of a scheduler's package.

    Args:
        part: ``directives``, ``environment``, ``jobs``, ``times``, ``site``.

    Raises:
        ValueError: The scheduler is unknown.
    """
    if scheduler not in DECLARED:
        known = ", ".join(DECLARED)
        raise ValueError(f"`{scheduler}` is not a scheduler: choose one of {known}")
    return importlib.import_module(f"{_PACKAGE}.{scheduler}.{part}")


def optional_home(scheduler: str, part: str) -> ModuleType | None:
    """Import a module that only some packages have, such as ``validator``; None without it."""
    found = importlib.util.find_spec(f"{_PACKAGE}.{scheduler}.{part}")
    return home(scheduler, part) if found else None


def adapters_of(
    environment: Mapping[str, str],
    job_environment: Mapping[str, str],
    queues: Path,
    cores: int | None,
) -> dict[str, Scheduler]:
    """Make the adapter of each scheduler that runs jobs, whether it is installed or not.

    Args:
        environment: The environment of the schedulers' programs.
        job_environment: The environment of the jobs of ``local``, without secrets.
        queues: Directory of the queue of ``local``.
        cores: Cores that ``local`` may use; None: the cores of this machine.
    """
    from fractale.schedulers.local.jobs import Local

    adapters: dict[str, Scheduler] = {}
    for name in RUN:
        if name == "local":
            adapters[name] = Local(job_environment, queues, cores)
        else:
            adapters[name] = cast("Scheduler", home(name, "jobs").ADAPTER.of(environment))
    return adapters


def flux_of(environment: Mapping[str, str]) -> Flux:
    """Make the adapter of Flux, which answers more questions than the other adapters."""
    from fractale.schedulers.flux.jobs import Flux

    return Flux.of(environment)


def probes() -> dict[str, SchedulerProbe]:
    """The probe of each scheduler that may be on a machine: whether it answers, and what it has."""
    found = {name: optional_home(name, "site") for name in RUN}
    return {name: cast("SchedulerProbe", site.probe) for name, site in found.items() if site}


def longest(scheduler: str, seconds: float) -> float:
    """Compute the longest run time that a scheduler allows for a time limit, until the kill.

    Args:
        seconds: The time limit, in seconds.
    """
    return cast("float", home(scheduler, "times").longest(seconds))
