"""The batch jobs of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.errors import FractaleError
from fractale.runs.history import without_indexes

if TYPE_CHECKING:
    from fractale.jobs import Jobs
    from fractale.runs.history import RunHistory
    from fractale.schedulers.folder import JobFolder
    from fractale.settings import Settings
    from fractale.store.records import RunFolder

JOBS = "jobs"
"""The folder of the jobs' folders: in a run's own folder, or in that of a run that keeps none."""

LOG = "log"
"""In a job's folder: see `fractale.schedulers.folder`."""


class RunJobs:
    """The jobs of one run, by the name of their scheduler.

    Args:
        root: The folder that has a folder for each job.
        environment: Of the process.
        queues, cores, poll_seconds, project, state: As `fractale.jobs.Jobs` takes them.
    """

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        *,
        queues: Path | None = None,
        cores: int | None = None,
        poll_seconds: float = 0.0,
        project: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self._root = root
        self._environment = environment
        self._queues, self._cores, self._poll_seconds = queues, cores, poll_seconds
        self._project, self._state = project, state
        self._doors: dict[str | None, Jobs] = {}

    @classmethod
    def of(cls, root: Path, settings: Settings) -> RunJobs:
        """The jobs in a folder; those of one state folder share the cores of the machine."""
        from fractale.jobs.service import QUEUES

        queues = settings.state_dir / QUEUES
        return cls(
            root,
            settings.site_environment,
            queues=queues,
            cores=settings.local_cores,
            poll_seconds=settings.poll_seconds,
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


class JobsTold:
    """What the events of a run told of its batch jobs: how long they took, and which failed."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[str, Any]] = {}

    def hear(self, event: Mapping[str, Any], at: float) -> None:
        """Take in an event `job_state`.

        Args:
            at: When it happened, in Unix time.
        """
        handle: Mapping[str, Any] = event.get("handle") or {}
        if key := str(handle.get("key") or ""):
            before = self._jobs.pop(key, {})
            self._jobs[key] = {
                "started": None,
                **before,
                **{k: v for k, v in event.items() if v is not None},
            } | {"at": at}

    def usage(self, seconds: float, now: float) -> dict[str, float]:
        """The times of the jobs, in seconds; empty for a run without any.

        Args:
            seconds: That the run itself took: while a job is waited for, none pass.
            now: Until when jobs count that are not over, in Unix time.

        Returns:
            `elapsed`: how long the run or a job of it was in progress. `job_seconds`: how long
            the jobs ran, all together; `queue_seconds`: how long they waited to start.
        """
        ran, waited, spans = 0.0, 0.0, list[tuple[float, float]]()
        for job in self._jobs.values():
            began, started, ended = _times(job, now)
            ran += max(0.0, ended - started) if started is not None else 0.0
            waited += max(0.0, (ended if started is None else started) - began)
            spans.append((began, max(began, ended)))
        if not spans:
            return {}
        times = {
            "elapsed": seconds + _union(spans),
            "job_seconds": ran,
            "queue_seconds": waited,
        }
        return {name: round(value, 3) for name, value in times.items()}

    def failed_in(self, step: str) -> list[dict[str, Any]]:
        """The jobs of a step, its items and the steps inside of it, that did not complete.

        Only the latest job of each path counts; the latest comes last.
        """
        latest = {str(job["step"]): job for job in self._jobs.values()}
        found: list[dict[str, Any]] = []
        for path, job in latest.items():
            inside = path == step or step in _around(path)
            if not inside or not job.get("over") or job.get("state") == "completed":
                continue
            _, started, ended = _times(job, job["at"])
            told = {name: job.get(name, "") for name in ("step", "job", "scheduler", "state")}
            found.append(
                {
                    **told,
                    "reason": str(job.get("reason") or ""),
                    "seconds": None if started is None else round(max(0.0, ended - started), 3),
                    "log": str(Path(job["handle"]["job_dir"]) / LOG),
                    "last_lines": str(job.get("last_lines") or ""),
                }
            )
        return found


def _times(job: Mapping[str, Any], now: float) -> tuple[float, float | None, float]:
    """When a job was submitted, began and ended, in Unix time; the last one at most now."""
    ended = float(job.get("ended") or job["at"]) if job.get("over") else now
    told: Mapping[str, Any] = job.get("began") or {}
    began = float(job.get("submitted") or told.get("wall") or job["at"])
    started = job.get("started")
    return began, None if started is None else float(started), ended


def _union(spans: list[tuple[float, float]]) -> float:
    """How much time some spans cover together."""
    total, end = 0.0, float("-inf")
    for begin, stop in sorted(spans):
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob:
    """A batch job that a run submitted.

    Args:
        step: The path of its step; of an item of a foreach, ``each[3]``. If the run was killed
            before it recorded the step, the path in the letters of the job's key.
        attempt: Which attempt of the step it is of, from 1.
        key: What fractale calls it.
        folder: Where its log is.
    """

    step: str
    attempt: int
    key: str
    folder: JobFolder


def jobs_of(folder: RunFolder, history: RunHistory | None = None) -> list[RunJob]:
    """The batch jobs of a run whose folders are there, in the order in which they were submitted.

    Those count too whose submission the run did not live to record.

    Args:
        history: The run's, if it was read already.

    Raises:
        StoreError: The record, or a job's folder, is damaged.
    """
    from fractale.jobs.removal import folders_in
    from fractale.runs.history_reader import read_history
    from fractale.schedulers.folder import name_of

    root = (folder.path / JOBS).absolute()
    there = {each.path.name: each for each in folders_in(root)}
    found: dict[str, RunJob] = {}
    for visit in (history or read_history(folder)).visits:
        for job in visit.jobs:
            if mine := there.pop(name_of(job.key), None):
                found[job.key] = RunJob(
                    step=job.step, attempt=visit.attempt, key=job.key, folder=mine
                )
    for other in there.values():
        if key := str((other.intent() or {}).get("key") or ""):
            words = key.removeprefix(f"{folder.run_id}-").rpartition("-")[0]
            found[key] = RunJob(step=words, attempt=1, key=key, folder=other)
    return list(found.values())


def is_of_step(path: str, step: str) -> bool:
    """Whether the job of a path belongs to a step: to it, an item of it, or a step inside of it.

    Args:
        step: A path, or only the step's own name; the index of an item may be left out.
    """
    plain = without_indexes(path)
    names = [path, plain, *_around(path), *_around(plain)]
    return step in names or step in (name.rpartition("/")[2] for name in names)


def _around(path: str) -> list[str]:
    """The paths of the steps and items around one: of ``a[1]/b``, ``a[1]`` and ``a``."""
    found: list[str] = []
    while path := path[: max(path.rfind("["), path.rfind("/"), 0)]:
        found.append(path)
    return found
