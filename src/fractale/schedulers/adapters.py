"""The schedulers that jobs run on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fractale.schedulers.adapter import Scheduler
from fractale.schedulers.flux.jobs import Flux
from fractale.schedulers.local.jobs import Local
from fractale.schedulers.lsf.jobs import Lsf
from fractale.schedulers.pbs.jobs import Pbs
from fractale.schedulers.slurm.jobs import Slurm


def adapters_of(
    environment: Mapping[str, str], queues: Path, cores: int | None
) -> dict[str, Scheduler]:
    """An adapter of each, by name, whether it is there or not.

    Args:
        environment: What their programs are run with.
        queues: Folder of the queue of `local`.
        cores: How many cores `local` has; None: those of this machine.
    """
    made: tuple[Scheduler, ...] = (
        *(each.of(environment) for each in (Flux, Slurm, Pbs, Lsf)),
        Local(environment, queues, cores),
    )
    return {adapter.name: adapter for adapter in made}


def flux_of(environment: Mapping[str, str]) -> Flux:
    """Flux, of which more can be asked than of each scheduler."""
    return Flux.of(environment)
