"""What an adapter of a scheduler has to do, and what it answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fractale.errors import SchedulerUnavailable
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import JobSpec, JobState, Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What a scheduler says about a job.

    Args:
        words: Why it waits or how it ended, in words; empty where the state says it all.
        said: The scheduler's own word, such as ``TIMEOUT``.
        evidence: What was asked, such as ``scontrol``.
        signal: The number of the signal that ended it.
        time_limit: What the scheduler holds it to, in seconds.
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
    """A job that a scheduler is asked about.

    Args:
        indices: Of an array's elements; none for a single job.
        ours: False for a job that fractale did not submit, which somebody names by its id: it has
            no tag to be compared with, and its folder is not there.
    """

    folder: JobFolder
    native_id: str
    indices: tuple[int, ...] = ()
    ours: bool = True


Answer: TypeAlias = Mapping[int | None, JobRecord] | SchedulerUnavailable
"""Index of the element → its record; None is the index of a job that is no array. What the
scheduler does not know any more is not there. An error if it cannot tell of this job just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Whether a scheduler answers on this machine.

    Args:
        configured: Whether this machine is set up to reach it, whether it answers or not.
        said: What its program said in place of an answer.
    """

    answers: bool
    configured: bool = True
    said: str = ""


class Scheduler(Protocol):
    """An adapter of one scheduler. It keeps nothing in memory about jobs.

    Args:
        name: ``slurm`` and the like.
        title: What people call it.
    """

    @property
    def name(self) -> str:
        """Its name in settings and handles."""
        ...

    @property
    def title(self) -> str:
        """What people call it."""
        ...

    def found(self) -> bool:
        """Whether it seems to be there, judged in no time."""
        ...

    def presence(self) -> Presence:
        """Whether it answers, by one cheap question that takes a few seconds at most."""
        ...

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write what is to be submitted into the job's folder.

        Raises:
            JobError: The scheduler cannot express the job.
        """
        ...

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Submit what was prepared, under the lock of the folder.

        Args:
            lock: The descriptor; given to programs that submit, so that they hold it, too.

        Returns:
            The scheduler's id of the job.

        Raises:
            JobError: The scheduler refused the job: there is none.
            SchedulerUnavailable: There may be one, or not.
        """
        ...

    async def find(self, folder: JobFolder) -> str | None:
        """The id of the job that was submitted from this folder, if the scheduler knows one.

        Raises:
            SchedulerUnavailable: It does not answer.
        """
        ...

    async def records(self, jobs: Sequence[Submitted]) -> Sequence[Answer]:
        """What the scheduler says about several jobs, with as few questions as it allows.

        Returns:
            An answer for each job, in order.

        Raises:
            SchedulerUnavailable: It does not answer at all.
        """
        ...

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Ask for the end of a job. One that is over already is none to complain about.

        Raises:
            JobError: It refuses.
            SchedulerUnavailable: It does not answer.
        """
        ...

    async def queues(self) -> list[Queue]:
        """Its queues.

        Raises:
            SchedulerUnavailable: It does not answer.
        """
        ...
