"""Where the runs of a sweep happen.

An `Executor` performs tasks, as many at a time as it has workers. `executor_of` makes the one that
the settings name: ``local``, or a Parsl configuration below ``executors``.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Protocol, Self

from fractale.errors import UsageError
from fractale.settings import Settings
from fractale.settings.executors import LOCAL, ExecutorSettings
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.task import RunReport, RunTask
from fractale.text import did_you_mean, listing

DRIVER_JOB: Final = "FRACTALE_SWEEP_DRIVER"
"""The variable that has, in the job of a detached driver, the key of that job."""


class WorkerLost(Exception):
    """A worker ended before it reported on its task: the run may be anywhere, and is resumed.

    Args:
        reason: A sentence for the user, such as that a node has gone.
        cannot_start: Whether no worker of this kind can start at all, so that trying again is
            pointless: the sweep stops with the reason, and no row is blamed.
    """

    def __init__(self, reason: str, *, cannot_start: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cannot_start = cannot_start


class Executor(Protocol):
    """Performs tasks, in any order. It is open inside an ``async with`` block."""

    @property
    def workers(self) -> int:
        """How many tasks it performs at a time; it may change while blocks start and end."""
        ...

    async def perform(self, task: RunTask) -> RunReport:
        """Perform a task, and return its report.

        Cancelling this ends the task's process, or leaves the run to be resumed.

        Raises:
            WorkerLost: The worker ended before it reported.
        """
        ...

    def stop(self) -> None:
        """Begin no task any more.

        Those that `perform` has, and that no worker has begun, end with the status ``stopped``.
        Those in progress are the caller's to stop.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def executor_settings(settings: Settings, name: str) -> ExecutorSettings | None:
    """The entry of the settings that `--on` names; None for ``local``.

    Raises:
        UsageError: The settings have no such executor.
    """
    if name == LOCAL:
        return None
    if found := settings.executors.get(name):
        return found
    waits = [each.key for each in settings.waiting if each.key == f"executors.{name}"]
    if waits:
        raise UsageError(
            f"executor `{name}` is of the project's settings, which you have not trusted",
            hint="review them, then: fractale trust",
        )
    known = (LOCAL, *settings.executors)
    hint = did_you_mean(name, known, otherwise=f"use {listing(known)}")
    more = "add one to `executors` in your settings, ~/.config/fractale/config.yaml"
    raise UsageError(f"unknown executor `{name}`", hint=f"{hint}; or {more}")


def executor_of(
    settings: Settings,
    name: str,
    record: SweepRecord,
    workers: int | None = None,
) -> Executor:
    """The executor that `--on` names. It starts nothing before it is entered.

    Args:
        workers: How many runs it performs at a time; None: as its settings say.

    Raises:
        UsageError: The settings have no such executor.
        DependencyMissing: It needs Parsl, which is not installed.
    """
    found = executor_settings(settings, name)
    if found is None:
        from fractale.sweeps.local import LocalExecutor

        return LocalExecutor(record, settings, workers=workers)
    from fractale.sweeps.parsl_executor import ParslExecutor

    return ParslExecutor(found, record, user=settings, workers=workers)
