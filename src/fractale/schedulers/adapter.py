"""The interface of a scheduler's adapter, and the answers that an adapter gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fractale.errors import SchedulerUnavailable
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import JobSpec, JobState, Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """The scheduler's report about a job.

    Args:
        words: Why the job waits or how it ended, for users; empty if the state says it all.
        said: The scheduler's own name for the state, such as ``TIMEOUT``.
        evidence: The program that reported it, such as ``scontrol``.
        signal: Number of the signal that ended the job.
        time_limit: The time limit that the scheduler enforces, in seconds.
    """

    state: JobState
    said: str
    evidence: str
    words: str = ""
    exit_code: int | None = None
    signal: int | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    nodes: tuple[str, ...] = ()
    time_limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A submitted job, as the subject of a question to its scheduler.

    Args:
        indices: Indices of an array's elements; empty for a single job.
        ours: False for a job that fractale did not submit, and that the caller names by its id.
            Such a job has no tag to compare and no directory.
    """

    folder: JobFolder
    native_id: str
    indices: tuple[int, ...] = ()
    ours: bool = True


Answer: TypeAlias = Mapping[int | None, JobRecord] | SchedulerUnavailable
"""Index of the element → its record; None is the index of a single job. A missing index means that
the scheduler no longer knows that element. An error means that it cannot answer about this job
now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Whether a scheduler answers on this machine.

    Args:
        configured: Whether this machine is set up to reach it, even if it does not answer.
        said: Message of the scheduler's program if it did not answer.
    """

    answers: bool
    configured: bool = True
    said: str = ""


class Scheduler(Protocol):
    """An adapter of one scheduler. It keeps no state about jobs in memory.

    Args:
        name: The name in settings and handles, such as ``slurm``.
        title: The scheduler's name for users, such as ``Slurm``.
    """

    @property
    def name(self) -> str:
        """The scheduler's name in settings and handles."""
        ...

    @property
    def title(self) -> str:
        """The scheduler's name for users."""
        ...

    def found(self) -> bool:
        """Whether the scheduler seems to be installed; answers at once."""
        ...

    def presence(self) -> Presence:
        """Whether the scheduler answers, by one cheap question that takes a few seconds at most."""
        ...

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the files for the submission into the job's directory.

        Raises:
            JobError: The scheduler cannot express the job.
        """
        ...

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Submit the prepared job, under the lock of its directory.

        Args:
            lock: Descriptor of the lock. Submitting programs inherit it, so that they hold the
                lock, too.

        Returns:
            The scheduler's id of the job.

        Raises:
            JobError: The scheduler refused the job; none was submitted.
            SchedulerUnavailable: The outcome is unknown: the job may have been submitted.
        """
        ...

    async def find(self, folder: JobFolder) -> str | None:
        """Find the id of the job that was submitted from this directory; None if unknown.

        Raises:
            SchedulerUnavailable: The scheduler does not answer.
        """
        ...

    async def records(self, jobs: Sequence[Submitted]) -> Sequence[Answer]:
        """Ask the scheduler about several jobs, with as few questions as it allows.

        Returns:
            An answer for each job, in order.

        Raises:
            SchedulerUnavailable: The scheduler answers about none of the jobs.
        """
        ...

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Ask the scheduler to end a job. A job that is already over is not an error.

        Raises:
            JobError: The scheduler refuses.
            SchedulerUnavailable: The scheduler does not answer.
        """
        ...

    async def queues(self) -> list[Queue]:
        """List the scheduler's queues.

        Raises:
            SchedulerUnavailable: The scheduler does not answer.
        """
        ...
