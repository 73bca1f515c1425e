"""Which scheduler new jobs go to when none is named: one that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fractale.errors import DependencyMissing, SchedulerUnavailable
from fractale.schedulers.adapter import Scheduler

ORDER: Final = ("slurm", "pbs", "lsf", "flux", "local")
"""Which scheduler is taken if several answer, outside an instance of Flux: its program alone may
be there without any, for use inside another scheduler's jobs."""

LOCAL: Final = "local"
HINT: Final = "name `scheduler: local` to run jobs as processes of this machine, or try again later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The scheduler that new jobs go to.

    Args:
        silent: What it said in place of an answer; empty if it answers.
    """

    scheduler: Scheduler
    silent: str = ""

    def answering(self) -> Scheduler:
        """The scheduler, if it answers.

        Raises:
            SchedulerUnavailable: It is set up on this machine, and does not answer.
        """
        if self.silent:
            raise SchedulerUnavailable(self.silent, hint=HINT)
        return self.scheduler


def choose(adapters: Mapping[str, Scheduler], *, in_flux: bool) -> Choice:
    """Ask each scheduler of `ORDER` whose programs are there; the first that answers is taken.

    A scheduler that is set up here and does not answer counts before ``local``: a job that was
    meant for a cluster does not run on its login node because the cluster is down for a while. A
    client without any configuration does not count.

    Args:
        in_flux: Whether this process is in an instance of Flux, which is asked first then.

    Raises:
        DependencyMissing: Nothing is there.
    """
    order: Sequence[str] = ("flux", *ORDER) if in_flux else ORDER
    names = [name for name in dict.fromkeys(order) if name in adapters] or list(adapters)
    silent: list[tuple[Scheduler, str]] = []
    for adapter in (adapters[name] for name in names):
        if not adapter.found():
            continue
        if len(names) == 1:
            return Choice(scheduler=adapter)
        if silent and adapter.name == LOCAL:
            break
        presence = adapter.presence()
        if presence.answers:
            return Choice(scheduler=adapter)
        if presence.configured:
            silent.append((adapter, presence.said))
    if silent:
        said = "; ".join(f"{adapter.title}: {words}" for adapter, words in silent)
        return Choice(scheduler=silent[0][0], silent=f"no scheduler answers: {said}")
    raise DependencyMissing("no scheduler was found", hint="ask for `local`")
