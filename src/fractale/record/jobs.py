"""The batch jobs of one run: submitting them, their directories, and their recorded states."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.errors import FractaleError, UsageError
from fractale.plan.paths import around, without_indexes
from fractale.schedulers.job import JobHandle

if TYPE_CHECKING:
    from fractale.jobs import Jobs
    from fractale.record.history import RunHistory
    from fractale.schedulers.folder import JobFolder
    from fractale.settings import Settings
    from fractale.store.run_record import RunRecord

JOBS = "jobs"
"""The directory of the jobs' directories, in that of the run."""
LOG = "log"
"""The log in a job's directory: see `fractale.schedulers.folder`."""
MOST_NAMED = 12
"""The most steps that a message names."""


class RunJobs:
    """Returns the `Jobs` of one run for each scheduler that its steps name.

    Args:
        root: The directory of the jobs' directories.
        environment: The process's environment.
        queues, cores, poll_seconds, polls, project, state: As for `fractale.jobs.Jobs`.
        service: Makes the jobs of a scheduler; None: `Jobs`.
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
        service: Callable[..., Jobs] | None = None,
    ) -> None:
        self._service = service
        self._root = root
        self._environment = environment
        self._queues, self._cores = queues, cores
        self._poll_seconds, self._polls = poll_seconds, polls
        self._project, self._state = project, state
        self._by_scheduler: dict[str | None, Jobs] = {}

    @classmethod
    def of(
        cls,
        root: Path,
        settings: Settings,
        service: Callable[..., Jobs] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> RunJobs:
        """The jobs in a directory; all runs of one state directory share the local cores.

        Args:
            environment: The settings' `site_environment`, if it is known.
        """
        from fractale.jobs.service import POLLS, QUEUES

        queues = settings.state_dir / QUEUES
        return cls(
            root,
            settings.site_environment if environment is None else environment,
            queues=queues,
            cores=settings.local_cores,
            poll_seconds=settings.poll_seconds,
            polls=settings.state_dir / POLLS,
            project=settings.project_folder,
            state=settings.state_dir,
            service=service,
        )

    def __call__(self, scheduler: str | None) -> Jobs:
        """The jobs of a scheduler; None: of the machine's own."""
        from fractale.jobs import Jobs

        if scheduler not in self._by_scheduler:
            self._by_scheduler[scheduler] = (self._service or Jobs)(
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
        return self._by_scheduler[scheduler]

    async def remove_ended(self) -> None:
        """Remove the directories of ended jobs that this process submitted.

        ``fractale runs prune`` removes the rest.
        """
        for service in self._by_scheduler.values():
            with contextlib.suppress(FractaleError):
                await service.remove_ended()


class JobHistory:
    """The batch jobs of a run by its events: how long they took, and which of them failed."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[str, Any]] = {}

    def add(self, event: Mapping[str, Any], at: float) -> None:
        """Add an event `job_state`.

        Args:
            at: When it happened, in Unix time.
        """
        handle: Mapping[str, Any] = event.get("handle") or {}
        if key := str(handle.get("key") or ""):
            key = f"{key} {event['step']}"  # the elements of an array have one key
            before = self._jobs.pop(key, {})
            self._jobs[key] = {
                "started": None,
                **before,
                **{k: v for k, v in event.items() if v is not None},
            } | {"at": at}

    @property
    def known(self) -> bool:
        """Whether the run had any."""
        return bool(self._jobs)

    def usage(self, seconds: float, now: float | None = None) -> dict[str, float]:
        """The times of the jobs, in seconds; empty for a run without jobs. Scripts do not count.

        Args:
            seconds: The run's own time, in which waiting for jobs does not count.
            now: The end of jobs that still run, in Unix time; None: their last event.

        Returns:
            `elapsed`: how long the run or any job was in progress. `job_seconds`: the sum of the
            jobs' running times; `queue_seconds`: the sum of their waiting times.
        """
        ran, waited, spans = 0.0, 0.0, list[tuple[float, float]]()
        for job in self._jobs.values():
            if job.get("script"):
                continue
            began, started, ended = _times(job, job["at"] if now is None else now)
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
        """The jobs of a step, its items and the steps inside that did not complete.

        Only the latest job of each path counts. The jobs are in order of time.
        """
        latest = {str(job["step"]): job for job in self._jobs.values()}
        found: list[dict[str, Any]] = []
        for path, job in latest.items():
            inside = path == step or step in around(path)
            if not inside or not job.get("over") or job.get("state") == "completed":
                continue
            _, started, ended = _times(job, job["at"])
            fields = {name: job.get(name, "") for name in ("step", "job", "scheduler", "state")}
            found.append(
                {
                    **fields,
                    "reason": str(job.get("reason") or ""),
                    "seconds": None if started is None else round(max(0.0, ended - started), 3),
                    "log": str(JobHandle.from_dict(job["handle"]).own_dir / LOG),
                    "last_lines": str(job.get("last_lines") or ""),
                }
            )
        return found


def _times(job: Mapping[str, Any], now: float) -> tuple[float, float | None, float]:
    """When a job was submitted, began and ended, in Unix time."""
    ended = float(job.get("ended") or job["at"]) if job.get("over") else now
    start: Mapping[str, Any] = job.get("began") or {}
    began = float(job.get("submitted") or start.get("wall") or job["at"])
    started = job.get("started")
    return began, None if started is None else float(started), ended


def _union(spans: list[tuple[float, float]]) -> float:
    """The time that some spans cover together, overlaps counted once."""
    total, end = 0.0, float("-inf")
    for begin, stop in sorted(spans):
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJob:
    """A batch job that a run submitted, or an element of an array.

    Args:
        step: The path of its step; of an item of a foreach, ``each[3]``. If the run was killed
            before it recorded the step, the path as it is spelled in the job's key.
        attempt: Which attempt of the step it is of, from 1.
        key: Its idempotency key; the elements of an array have one key.
        index: The index of an element of an array.
    """

    step: str
    attempt: int
    key: str
    folder: JobFolder  # of the job, or of the whole array
    index: int | None = None

    @property
    def own_folder(self) -> JobFolder:
        """The directory with its log and its exit."""
        return self.folder if self.index is None else self.folder.element(self.index)


def jobs_of(record: RunRecord, history: RunHistory | None = None) -> list[RunJob]:
    """The batch jobs of a run whose directories exist, in order of submission.

    A job is included even if the run was killed before it recorded the submission.

    Args:
        history: The run's, if it was read already.

    Raises:
        StoreError: The record, or a job's directory, is damaged.
    """
    from fractale.jobs.removal import folders_in
    from fractale.record.history_reader import read_history
    from fractale.schedulers.folder import name_of

    root = record.jobs.absolute()
    there = {each.path.name: each for each in folders_in(root)}
    found: list[RunJob] = []
    for attempt in (history or read_history(record)).attempts:
        for job in attempt.jobs:
            if mine := there.get(name_of(job.key)):
                made = RunJob(
                    step=job.step,
                    attempt=attempt.attempt,
                    key=job.key,
                    folder=mine,
                    index=job.index,
                )
                found.append(made)
    known = {name_of(job.key) for job in found}
    for name, other in there.items():
        key = "" if name in known else str((other.intent() or {}).get("key") or "")
        if key:
            words = key.removeprefix(f"{record.run_id}-").rpartition("-")[0]
            found.append(RunJob(step=words, attempt=1, key=key, folder=other))
    return found


def as_submitted(chosen: Sequence[RunJob], jobs: Sequence[RunJob]) -> list[RunJob]:
    """Jobs as they were submitted: the elements of an array as one job.

    Args:
        jobs: All of the run.

    Raises:
        UsageError: Only some elements of an array are chosen, which ends only as a whole.
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
                f"`{job.step}` is part of a job array with `{missing[0]}` and others; only the "
                "whole array can be cancelled",
                hint=f"cancel the whole array: name the step `{path}`",
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


def no_job(history: RunHistory, jobs: Sequence[RunJob], step: str | None) -> UsageError:
    """The error for a step or a run without a batch job, with a hint where to look instead."""
    run = history.run
    names = list(dict.fromkeys(job.step for job in jobs))
    if step is None or not (history.of_step(step) or step in _planned(history)):
        what = f"run {run} has no step `{step}`" if step else f"run {run} has no batch job"
        there = f"steps with a job: {', '.join(names[:MOST_NAMED])}" if names else ""
        return UsageError(what, hint=there or f"see its steps: fractale show {run}")
    if not history.of_step(step):
        return UsageError(
            f"run {run} did not reach step `{step}`", hint=f"see its progress: fractale show {run}"
        )
    attempts = history.of_step(step)
    if attempts[-1].kind in ("job", "script"):
        return UsageError(
            f"step `{step}` of run {run} has no job directory: no job was submitted, or the "
            "directory was removed",
            hint=f"see why: fractale show {run} {shlex.quote(step)}",
        )
    return UsageError(
        f"step `{step}` of run {run} submitted no batch job",
        hint=f"see its calls and results: fractale show {run} {shlex.quote(step)}",
    )


def _planned(history: RunHistory) -> set[str]:
    return {str(known.get("name")) for known in history.steps}
