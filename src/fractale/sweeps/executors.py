"""Where the runs of a sweep happen.

An `Executor` performs tasks, as many at a time as it has workers. `executor_of` makes the one that
the settings name: ``local``, or a Parsl configuration below ``executors``.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from fractale.sweeps.task import RunReport, RunTask


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
        """Perform a task, and return what became of it.

        Cancelling this ends the task's process, or leaves the run to be resumed.

        Raises:
            WorkerLost: The worker ended before it reported.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
