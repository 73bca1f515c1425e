"""The batch jobs of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fractale.errors import FractaleError, UsageError
from fractale.record.history import without_indexes
from fractale.record.jobs_told import around

if TYPE_CHECKING:
    from fractale.jobs import Jobs
    from fractale.record.history import RunHistory
    from fractale.schedulers.folder import JobFolder
    from fractale.settings import Settings
    from fractale.store.run_record import RunRecord

JOBS = "jobs"
"""The folder of the jobs' folders: in a run's own folder, or in that of a run that keeps none."""


class RunJobs:
    """The jobs of one run, by the name of their scheduler.

    Args:
        root: The folder that has a folder for each job.
        environment: Of the process.
        queues, cores, poll_seconds, polls, project, state: As `fractale.jobs.Jobs` takes them.
    """

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        *,
        queues: Path | None = None,
        cores: int | None = None,
        poll_seconds: float = 0.0,
        polls: Path | None = None,
        project: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self._root = root
        self._environment = environment
        self._queues, self._cores = queues, cores
        self._poll_seconds, self._polls = poll_seconds, polls
        self._project, self._state = project, state
        self._doors: dict[str | None, Jobs] = {}

    @classmethod
    def of(cls, root: Path, settings: Settings) -> RunJobs:
        """The jobs in a folder; those of one state folder share the cores of the machine."""
        from fractale.jobs.service import POLLS, QUEUES

        queues = settings.state_dir / QUEUES
        return cls(
            root,
            settings.site_environment,
            queues=queues,
            cores=settings.local_cores,
            poll_seconds=settings.poll_seconds,
            polls=settings.state_dir / POLLS,
            project=settings.project_folder,
            state=settings.state_dir,
        )

    def __call__(self, scheduler: str | None) -> Jobs:
        """The jobs of a scheduler; without a name, of the one there is."""
        from fractale.jobs import Jobs

        if scheduler not in self._doors:
            self._doors[scheduler] = Jobs(
                self._root,
                self._environment,
                scheduler,
                queues=self._queues,
                cores=self._cores,
                poll_seconds=self._poll_seconds,
                polls=self._polls,
                project=self._project,
                state=self._state,
            )
        return self._doors[scheduler]

    async def remove_ended(self) -> None:
        """Remove the folders of the jobs that were submitted here and are known to be over.

        What cannot be removed now is taken by ``fractale runs prune``.
        """
        for door in self._doors.values():
            with contextlib.suppress(FractaleError):
                await door.remove_ended()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob:
    """A batch job that a run submitted, or an element of an array.

    Args:
        step: The path of its step; of an item of a foreach, ``each[3]``. If the run was killed
            before it recorded the step, the path in the letters of the job's key.
        attempt: Which attempt of the step it is of, from 1.
        key: What fractale calls it; the elements of an array have one key.
        folder: Of the job, or of the whole array.
        index: Of the element.
    """

    step: str
    attempt: int
    key: str
    folder: JobFolder
    index: int | None = None

    @property
    def own_folder(self) -> JobFolder:
        """Where its log and its end are."""
        return self.folder if self.index is None else self.folder.element(self.index)


def jobs_of(folder: RunRecord, history: RunHistory | None = None) -> list[RunJob]:
    """The batch jobs of a run whose folders are there, in the order in which they were submitted.

    Those count too whose submission the run did not live to record.

    Args:
        history: The run's, if it was read already.

    Raises:
        StoreError: The record, or a job's folder, is damaged.
    """
    from fractale.jobs.removal import folders_in
    from fractale.record.history_reader import read_history
    from fractale.schedulers.folder import name_of

    root = folder.jobs.absolute()
    there = {each.path.name: each for each in folders_in(root)}
    found: list[RunJob] = []
    for visit in (history or read_history(folder)).visits:
        for job in visit.jobs:
            if mine := there.get(name_of(job.key)):
                made = RunJob(
                    step=job.step,
                    attempt=visit.attempt,
                    key=job.key,
                    folder=mine,
                    index=job.index,
                )
                found.append(made)
    known = {name_of(job.key) for job in found}
    for name, other in there.items():
        key = "" if name in known else str((other.intent() or {}).get("key") or "")
        if key:
            words = key.removeprefix(f"{folder.run_id}-").rpartition("-")[0]
            found.append(RunJob(step=words, attempt=1, key=key, folder=other))
    return found


def as_submitted(chosen: Sequence[RunJob], jobs: Sequence[RunJob]) -> list[RunJob]:
    """Some jobs of a run as they were submitted: the elements of an array as one job.

    Args:
        jobs: All of the run.

    Raises:
        UsageError: Only some elements of an array are chosen: it can only be ended as a whole.
    """
    members: dict[str, list[RunJob]] = {}
    for job in jobs:
        members.setdefault(job.key, []).append(job)
    found: dict[str, RunJob] = {}
    for job in chosen:
        if job.index is None:
            found[job.key] = job
            continue
        path = job.step[: job.step.rindex("[")] if job.step.endswith("]") else job.step
        steps = {each.step for each in chosen if each.key == job.key}
        if missing := [each.step for each in members[job.key] if each.step not in steps]:
            raise UsageError(
                f"`{job.step}` is an element of a job array with `{missing[0]}` and others, and "
                "an array ends as a whole",
                hint=f"cancel all of it: name the step `{path}`",
            )
        found[job.key] = replace(job, step=path, index=None)
    return list(found.values())


def is_of_step(path: str, step: str) -> bool:
    """Whether the job of a path belongs to a step: to it, an item of it, or a step inside of it.

    Args:
        step: A path, or only the step's own name; the index of an item may be left out.
    """
    plain = without_indexes(path)
    names = [path, plain, *around(path), *around(plain)]
    return step in names or step in (name.rpartition("/")[2] for name in names)
