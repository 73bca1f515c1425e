"""Polling of a scheduler: one question for all jobs, at most one per `poll_seconds`.

Sites forbid tight polling. A process that waits for a job writes the job into a file of the state
directory. The next process that asks the scheduler asks about all jobs in the file, and writes the
answers there. So all steps, runs and processes of one state directory share one question.

.. code-block:: text

    polls/               in the state directory
      slurm.json         time of the last question to Slurm, the jobs waited for, the answers
      slurm.lock         held by the process that asks
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import DependencyMissing, JobError, SchedulerUnavailable
from fractale.private import make_folder, open_private, write_private
from fractale.schedulers.adapter import JobRecord, Scheduler, Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import ACTIVE

WANTED_SECONDS: Final = 900.0
"""Seconds that a job stays in the questions, unless the waiting process renews it."""

KEPT_SECONDS: Final = 3600.0
"""Seconds that an answer is kept after the last process stopped waiting for the job."""

LOCK_PATIENCE: Final = 90.0
"""In seconds; a scheduler's program that does not answer is ended earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollAnswer:
    """A scheduler's answer about a job.

    Args:
        records: As an adapter returns them; None if the scheduler was not asked about this job yet.
        trouble: Why the scheduler did not answer.
        at: Time of the question, in Unix time.
        again: Earliest time of the next question, in Unix time.
    """

    records: Mapping[int | None, JobRecord] | None = None
    trouble: str = ""
    at: float = 0.0
    again: float = 0.0


@dataclass(slots=True)
class _Known:
    """The contents of the shared file."""

    asked: float = 0.0
    trouble: str = ""
    wanted: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    answers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


class Poller:
    """Asks one scheduler about jobs, with shared answers.

    Args:
        folder: Directory of the shared file.
        seconds: The shortest time between two questions; 0 asks at each call.
    """

    def __init__(self, adapter: Scheduler, folder: Path, seconds: float) -> None:
        self._adapter = adapter
        self._seconds = seconds
        self._path = folder / f"{adapter.name}.json"
        self._known = _Known()
        self._read: tuple[int, int] | None = None

    async def ask(self, job: Submitted, *, fresh: bool = False) -> PollAnswer:
        """Get the scheduler's answer about a job: a new answer, or the last one.

        Args:
            fresh: Ask now, because the job was changed.
        """
        if self._seconds <= 0:
            return await self._ask_now(job)
        key = str(job.folder.path)
        self._load()
        if not fresh and self._is_over(key, job):
            return self._answer(key)
        if fresh or self._due() <= 0 or not self._is_wanted(key):
            async with self._locked():
                self._load()
                self._want(key, job)
                if fresh or self._due() <= 0:
                    await self._question()
                self._save()
        return self._answer(key)

    async def announce(self, job: Submitted) -> None:
        """Add a job to the next question."""
        key = str(job.folder.path)
        self._load()
        if self._seconds > 0 and not self._is_wanted(key) and not self._is_over(key, job):
            async with self._locked():
                self._load()
                self._want(key, job)
                self._save()

    async def _ask_now(self, job: Submitted) -> PollAnswer:
        now = time.time()
        try:
            records = (await self._adapter.records([job]))[0]
        except (SchedulerUnavailable, DependencyMissing) as error:
            return PollAnswer(trouble=error.message, at=now)
        if isinstance(records, SchedulerUnavailable):  # it may answer about other jobs
            return PollAnswer(trouble=records.message, at=now)
        return PollAnswer(records=records, at=now)

    async def _question(self) -> None:
        """Ask about all jobs in the file, and store the answers."""
        known, now = self._known, time.time()
        known.wanted = {
            key: each
            for key, each in known.wanted.items()
            if float(each["until"]) > now and _is_there(key)
        }
        known.asked, known.trouble = now, ""
        self._save()  # first, so that the question counts even if this process is killed
        jobs = {key: self._submitted(key, each) for key, each in known.wanted.items()}
        try:
            found = await self._adapter.records(list(jobs.values()))
        except (SchedulerUnavailable, DependencyMissing, JobError) as error:
            known.trouble = error.message
            return
        for (key, job), records in zip(jobs.items(), found, strict=True):
            before = known.answers.get(key, {}).get("records", {})
            over = {name: each for name, each in before.items() if each["state"] not in ACTIVE}
            trouble, reported = "", dict[str, dict[str, Any]]()
            if isinstance(records, SchedulerUnavailable):  # it may answer about other jobs
                trouble = records.message
            else:
                reported = {_name(i): asdict(each) for i, each in records.items()}
            known.answers[key] = {"at": now, "records": {**over, **reported}, "trouble": trouble}
            if self._is_over(key, job):
                del known.wanted[key]
        known.answers = {
            key: each
            for key, each in known.answers.items()
            if key in known.wanted or now - float(each["at"]) < KEPT_SECONDS
        }

    def _submitted(self, key: str, wanted: Mapping[str, Any]) -> Submitted:
        """Make the adapter's view of a job; of an array, with the elements that are not over."""
        folder = JobFolder(Path(key))
        indices: tuple[int, ...] = ()
        if wanted.get("array") and (array := folder.array()):
            reported = self._known.answers.get(key, {}).get("records", {})
            over = {name for name, record in reported.items() if record["state"] not in ACTIVE}
            indices = tuple(index for index in array.indices if _name(index) not in over)
        return Submitted(folder=folder, native_id=str(wanted["id"]), indices=indices)

    def _is_over(self, key: str, job: Submitted) -> bool:
        """Whether the scheduler has reported the end of the job, or of each of its elements."""
        reported = self._known.answers.get(key, {}).get("records", {})
        names = map(_name, job.indices or (None,))
        return all(name in reported and reported[name]["state"] not in ACTIVE for name in names)

    def _answer(self, key: str) -> PollAnswer:
        again, answer = self._known.asked + self._seconds, self._known.answers.get(key)
        if self._known.trouble:
            return PollAnswer(trouble=self._known.trouble, at=self._known.asked, again=again)
        if answer is None:
            return PollAnswer(again=again)
        if answer.get("trouble"):
            return PollAnswer(trouble=str(answer["trouble"]), at=float(answer["at"]), again=again)
        records = {_index(name): _record(record) for name, record in answer["records"].items()}
        return PollAnswer(records=records, at=float(answer["at"]), again=again)

    def _due(self) -> float:
        """Seconds until the scheduler may be asked again."""
        since = time.time() - self._known.asked
        return max(0.0, self._seconds - since) if since >= 0 else 0.0

    def _is_wanted(self, key: str) -> bool:
        until = self._known.wanted.get(key, {}).get("until", 0.0)
        return float(until) > time.time() + WANTED_SECONDS / 2

    def _want(self, key: str, job: Submitted) -> None:
        until = time.time() + WANTED_SECONDS + self._seconds
        wanted = {"id": job.native_id, "array": bool(job.indices), "until": until}
        self._known.wanted[key] = wanted

    # The file. If it cannot be written (a full disk), only memory has the answers.

    def _load(self) -> None:
        try:
            found = self._path.stat()
            now = (found.st_mtime_ns, found.st_ino)
            if now == self._read:
                return
            data = json.loads(self._path.read_text())
            self._known, self._read = _Known(**data), now
        except (OSError, ValueError, TypeError):
            return

    def _save(self) -> None:
        with contextlib.suppress(OSError):
            make_folder(self._path.parent)
            write_private(self._path, json.dumps(asdict(self._known)), sync="none")
            found = self._path.stat()
            self._read = (found.st_mtime_ns, found.st_ino)

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        """Hold the lock within the block, if the file system supports locks."""
        descriptor = -1
        with contextlib.suppress(OSError):
            make_folder(self._path.parent)
            descriptor = open_private(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
        try:
            until = time.monotonic() + LOCK_PATIENCE
            while descriptor >= 0 and not _has(descriptor):
                if time.monotonic() > until:
                    break
                await asyncio.sleep(0.05)
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _has(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True


def _is_there(folder: str) -> bool:
    return Path(folder).is_dir()


def _name(index: int | None) -> str:
    return "" if index is None else str(index)


def _index(name: str) -> int | None:
    return int(name) if name else None


def _record(data: Mapping[str, Any]) -> JobRecord:
    return JobRecord(**cast("dict[str, Any]", {**data, "nodes": tuple(data.get("nodes") or ())}))
