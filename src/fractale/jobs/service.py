"""`Jobs`: submit a batch job once, find it again, follow it to its end, read its log, cancel it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from fractale.confine.ways import Way, confinement_of, find_way
from fractale.errors import (
    DependencyMissing,
    JobError,
    JobInDoubt,
    SchedulerUnavailable,
    SettingsError,
)
from fractale.jobs.arrays import Elements, whole
from fractale.jobs.logs import (
    JobLog,
    read_ends,
    read_last_of_each,
    read_log,
    read_tail,
    search_log,
)
from fractale.jobs.polling import PollAnswer, Poller
from fractale.jobs.removal import remove
from fractale.jobs.status import JobStatus, is_plain, status_of, with_notices
from fractale.schedulers.adapter import JobRecord, Scheduler, Submitted
from fractale.schedulers.asked import array_of
from fractale.schedulers.folder import JobFolder, same_job
from fractale.schedulers.homes import RUN, adapters_of
from fractale.schedulers.job import JobHandle, JobSpec, Queue
from fractale.settings import STARTED_BY, Settings, slurm_token, without_secrets

FOLDER: Final = "jobs"
QUEUES: Final = "local"
POLLS: Final = "polls"
NOWHERE: Final = "not-submitted-here"
"""Directory name for a job that fractale did not submit; the directory never exists."""

CONFINED: Final = "confined"
"""File in a job's directory that says how the job is confined."""

TEMPORARY: Final = "tmp"
"""Directory for temporary files, in the directory of a confined job."""

INTERVALS: Final = (0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
"""Seconds between two readings of a job's own files; the last value repeats. fractale asks the
scheduler less often (`fractale.jobs.polling`)."""

SOON: Final = (0.2, 0.5, 1.0)
"""Seconds between two readings for a job that has just been cancelled."""

GLANCE: Final = 0.2
"""Seconds between two calls of `glance`."""

PEEK: Final = 1.0
"""Seconds between two checks for the exit code alone."""

CANCEL_SECONDS: Final = 10.0
CLEAR_SECONDS: Final = 2.0
"""Seconds after a cancellation until fractale asks the scheduler about the job."""

LOCAL: Final = "local"
HINT: Final = "set `scheduler: local` to run jobs as processes of this machine, or try again later"


P = ParamSpec("P")
T = TypeVar("T")


async def _in_thread(write: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Write files in a thread, since the event loop must not wait for a disk.

    A caller that is cancelled waits, too: it has the lock of the job's directory.
    """
    work = asyncio.ensure_future(asyncio.to_thread(write, *given, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


class Jobs:
    """Batch jobs of one scheduler, and earlier jobs of other schedulers.

    Args:
        root: Directory of the jobs' directories. The nodes must see it.
        environment: Environment of the schedulers' programs and, as far as a scheduler passes it
            on, of the jobs. Secrets are removed, except the token that Slurm's programs need.
        scheduler: One of `RUN`; None: the result of `choose`.
        queues: Directory of the queue of local jobs; jobs that share cores share a queue. None: a
            directory in `root`.
        cores: Cores that local jobs may use at a time; None: the cores of this process.
        project: Directory that a confined job may write to; None: the working directory.
        state: The state directory, which no confined job may write to.
        adapters: Other adapters, by name.
        poll_seconds: The shortest time between two questions to a scheduler, for all jobs together
            (`fractale.jobs.polling`). 0 asks at each reading. Local jobs need no question.
        polls: Directory in which processes share the answers; None: a directory in `root`.
    """

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        scheduler: str | None = None,
        *,
        queues: Path | None = None,
        cores: int | None = None,
        project: Path | None = None,
        state: Path | None = None,
        adapters: Mapping[str, Scheduler] | None = None,
        poll_seconds: float = 0.0,
        polls: Path | None = None,
    ) -> None:
        self._poll_seconds = poll_seconds
        self._polls = polls or root.absolute() / ".polls"
        self._pollers: dict[str, Poller] = {}
        self._arrays: dict[Path, Elements] = {}
        self._root = root.absolute()
        job_environment = without_secrets(environment)
        # A job that a fractale server submits must outlive the server.
        job_environment.pop(STARTED_BY, None)
        environment = job_environment | slurm_token(environment)
        if adapters is None:
            queues = queues or self._root / ".local"
            adapters = adapters_of(environment, job_environment, queues, cores)
        self._adapters = dict(adapters)
        self._chosen = scheduler
        self._choice_made: Choice | None = None
        self._environment = environment
        self._project, self._state = project, state
        self._way: Way | None = None
        self._in_flux = bool(environment.get("FLUX_URI"))
        self._submitted: dict[str, JobHandle] = {}

    @classmethod
    def of(
        cls, settings: Settings, scheduler: str | None = None, *, root: Path | None = None
    ) -> Jobs:
        """Make the jobs of the state directory.

        Args:
            root: Another directory for the jobs, such as a run's.
        """
        return cls(
            root or settings.state_dir / FOLDER,
            settings.site_environment,
            scheduler,
            queues=settings.state_dir / QUEUES,
            cores=settings.local_cores,
            poll_seconds=settings.poll_seconds,
            polls=settings.state_dir / POLLS,
            project=settings.project_folder,
            state=settings.state_dir,
        )

    @property
    def scheduler(self) -> str:
        """The name of the scheduler for new jobs, whether it answers now or not.

        Raises:
            DependencyMissing: The scheduler is not installed.
            JobError: The name is unknown.
        """
        return self._choice().scheduler.name

    def _scheduler(self) -> Scheduler:
        return self._choice().answering()

    def _choice(self) -> Choice:
        """The scheduler that the caller named; else the first that answers, asked once."""
        if self._chosen is not None:
            return Choice(scheduler=self._named(self._chosen))
        if self._choice_made is None:
            self._choice_made = choose(self._adapters, in_flux=self._in_flux)
        return self._choice_made

    def _named(self, name: str) -> Scheduler:
        adapter = self._adapter(name)
        if not adapter.found():
            raise DependencyMissing(
                f"{adapter.title} was not found on this machine",
                hint="run `fractale discover` to see which schedulers are; `local` always works",
            )
        return adapter

    def _adapter(self, name: str) -> Scheduler:
        if name not in self._adapters:
            raise JobError(
                f"`{name}` is not a scheduler", hint=f"choose one of {', '.join(self._adapters)}"
            )
        return self._adapters[name]

    async def submit(self, spec: JobSpec, *, key: str) -> JobHandle:
        """Submit a job once: the same key gives the same job, even after a crash.

        Args:
            key: Idempotency key; any text.

        Raises:
            JobError: The scheduler refuses the job, or the key belongs to another job. Nothing was
                submitted.
            SchedulerUnavailable: The scheduler does not answer. Repeat the call later.
            JobInDoubt: Another process is submitting the job, or the outcome of the submission is
                unknown.
            DependencyMissing: The scheduler is not installed.
            StoreError: The job's directory cannot be written.
        """
        handle = await self._found_or_submitted(spec, key)
        self._submitted[key] = handle
        return handle

    async def _found_or_submitted(self, spec: JobSpec, key: str) -> JobHandle:
        folder = JobFolder.of(self._root, key)
        if handle := folder.handle():
            same_job(folder, spec)
            return handle
        if folder.intent() is None:  # else continue the submission that was begun
            await asyncio.to_thread(self._scheduler)
        folder.make()
        async with folder.locked() as lock:
            same_job(folder, spec)
            handle = folder.handle() or await self._found(folder, key)
            if handle is None:
                # A submission that was begun stays with its scheduler.
                begun = (folder.intent() or {}).get("scheduler")
                adapter = self._adapter(begun) if begun else self._scheduler()
                handle = await self._submit(adapter, folder, spec, key, lock)
        return handle

    async def _submit(
        self, adapter: Scheduler, folder: JobFolder, spec: JobSpec, key: str, lock: int
    ) -> JobHandle:
        array = array_of(spec, adapter.name)
        await _in_thread(folder.write_intent, spec, key, adapter.name, array)
        try:
            spec = replace(spec, array=array)
            spec = await self._confined(adapter.name, folder, spec)
            await _in_thread(adapter.prepare, folder, spec)
            native_id = await adapter.submit(folder, spec, lock)
        except (SchedulerUnavailable, JobInDoubt):
            raise
        except (JobError, DependencyMissing):
            folder.forget()
            raise
        return await _in_thread(self._written, folder, adapter.name, native_id, key)

    async def _confined(self, scheduler: str, folder: JobFolder, spec: JobSpec) -> JobSpec:
        """Add the confinement to a job whose spec asks for one.

        Raises:
            JobError: The job cannot be confined.
        """
        if spec.confine is None or (scheduler != "local" and not spec.confine.required):
            return spec
        if scheduler != "local":
            raise JobError(
                f"a job of {scheduler} cannot be confined: only local jobs can",
                hint="set `scheduler: local`, or leave out `confine`",
            )
        try:
            self._way = self._way or await asyncio.to_thread(find_way, self._environment)
            confinement = confinement_of(
                self._project or Path.cwd(),
                folder.path / TEMPORARY,
                writable=spec.confine.writable,
                network=spec.confine.network,
                protected=(self._state or self._root,),
                shown=(folder.path,),
                program=spec.command[0] if spec.command else "",
                path=self._environment.get("PATH"),
                where="the job",
            )
        except SettingsError as error:
            raise JobError(error.message, hint=error.hint) from error
        except DependencyMissing as error:
            raise JobError(f"the job was not started: {error.message}", hint=error.hint) from error
        folder.write(CONFINED, self._way.name)
        return replace(spec, launcher=tuple(self._way.words(confinement, ())))

    def _written(self, folder: JobFolder, name: str, native_id: str, key: str) -> JobHandle:
        handle = JobHandle(
            scheduler=name,
            native_id=native_id,
            key=key,
            job_dir=folder.path,
            confined=folder.text(CONFINED),
        )
        folder.write_handle(handle)
        return handle

    async def find(self, key: str) -> JobHandle | None:
        """Find the job of a key; None if it was never submitted.

        Raises:
            JobInDoubt: Another process is submitting the job.
            SchedulerUnavailable: A submission was begun, and the scheduler does not answer.
        """
        folder = JobFolder.of(self._root, key)
        if (handle := folder.handle()) or folder.intent() is None:
            return handle
        async with folder.locked():
            return folder.handle() or await self._found(folder, key)

    async def _found(self, folder: JobFolder, key: str) -> JobHandle | None:
        """Find a job whose submission was begun but not recorded; the caller holds the lock."""
        intent = folder.intent()
        if intent is None:
            return None
        adapter = self._adapter(str(intent.get("scheduler")))
        started = folder.started()
        native_id = (
            started.native_id if started and adapter.name != "local" else await adapter.find(folder)
        )
        if native_id is None:
            # The job may have started during the search.
            started = folder.started()
            native_id = started.native_id if started else None
        return self._written(folder, adapter.name, native_id, key) if native_id else None

    async def status(self, handle: JobHandle) -> JobStatus:
        """Get the status of a job, of an array, or of the element that the handle names.

        If the scheduler does not answer, the reason says so.
        """
        return await self._status(handle)

    async def _status(self, handle: JobHandle, *, fresh: bool = False) -> JobStatus:
        folder, adapter = JobFolder(handle.job_dir), self._adapter(handle.scheduler)

        async def ask(job: Submitted) -> PollAnswer:
            return await self._poller(adapter).ask(job, fresh=fresh)

        found = self._elements_of(handle)
        if found is None:
            status = await status_of(folder, handle.native_id, adapter.title, ask)
        else:
            elements = await found.look(ask, fresh=fresh)
            status = whole(elements) if handle.index is None else elements[handle.index]
        return with_notices(status, folder)

    async def most_elements(self) -> int | None:
        """The most elements that the scheduler allows in an array; None if it does not say."""
        said: Any = getattr(self._adapter(self.scheduler), "most_elements", None)
        if said is None:
            return None
        try:
            return await said()
        except (SchedulerUnavailable, DependencyMissing):
            return None  # the submission will show whether the array is too large

    async def announce(self, handle: JobHandle) -> None:
        """Include this job in the next question to the scheduler."""
        adapter, array = self._adapter(handle.scheduler), JobFolder(handle.job_dir).array()
        job = Submitted(
            folder=JobFolder(handle.job_dir),
            native_id=handle.native_id,
            indices=array.indices if array else (),
        )
        await self._poller(adapter).announce(job)

    async def elements(self, handle: JobHandle) -> Mapping[int, JobStatus]:
        """Get the status of each element of an array, in order; empty for a single job."""
        adapter, found = self._adapter(handle.scheduler), self._elements_of(handle)
        return await found.look(self._poller(adapter).ask) if found else {}

    def _elements_of(self, handle: JobHandle) -> Elements | None:
        if handle.job_dir not in self._arrays:
            folder, adapter = JobFolder(handle.job_dir), self._adapter(handle.scheduler)
            if (array := folder.array()) is None:
                return None
            made = Elements(folder, handle.native_id, adapter.title, array)
            self._arrays[handle.job_dir] = made
        return self._arrays[handle.job_dir]

    def _poller(self, adapter: Scheduler) -> Poller:
        if adapter.name not in self._pollers:
            seconds = 0.0 if adapter.name == "local" else self._poll_seconds
            self._pollers[adapter.name] = Poller(adapter, self._polls, seconds)
        return self._pollers[adapter.name]

    async def wait(
        self,
        handle: JobHandle,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - its end is an answer, not an error
        on_status: Callable[[JobStatus], Awaitable[None]] | None = None,
        until: Callable[[JobStatus], Awaitable[bool]] | None = None,
        glance: Callable[[], None] | None = None,
        intervals: Sequence[float] = INTERVALS,
    ) -> JobStatus:
        """Wait for a job, reading its files at growing intervals.

        Without `glance`, this also checks for the exit code between two readings, which suits a
        caller that waits for one job. A run that waits for thousands must not, on a network file
        system.

        Args:
            timeout: In seconds; None for no limit.
            on_status: Called with each status that differs from the last one in state or reason.
            until: Called with the status of each reading; returns whether to stop waiting. None:
                wait until the job ends.
            glance: Called every `GLANCE` seconds between readings; may raise to end the wait.
            intervals: Seconds between readings; the last value repeats.

        Returns:
            The last status. The job may not be `over` if the timeout is reached.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        before: tuple[str, str] | None = None
        for pause in chain(intervals, repeat(intervals[-1])):
            status = await self.status(handle)
            now = (status.state, status.reason)
            if on_status and now != before:
                await on_status(status)
            before = now
            over = await until(status) if until else status.over
            left = deadline - time.monotonic()
            if over or left <= 0:
                return status
            await self._pause(handle, min(pause, left), glance)
        raise AssertionError  # pragma: no cover - the pauses never end

    async def _pause(
        self, handle: JobHandle, seconds: float, glance: Callable[[], None] | None
    ) -> None:
        deadline = time.monotonic() + seconds
        while True:
            if glance:
                glance()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, GLANCE if glance else PEEK))
            if not glance and is_plain(JobFolder(handle.own_dir).ended()):
                return

    async def logs(
        self,
        handle: JobHandle,
        *,
        offset: int | None = 0,
        limit: int = 65536,
        tail_lines: int | None = None,
    ) -> JobLog:
        """Read a part of a job's log at this moment, at most 1 MiB; empty without a log.

        The log of an array has the last line of each element's log.

        Args:
            offset: In bytes; negative from the end. None: both ends of a long log.
            limit: Length of the part, in bytes.
            tail_lines: Number of last lines, instead of `offset`.
        """
        path = JobFolder(handle.own_dir).log
        if handle.index is None and JobFolder(handle.job_dir).array() is not None:
            return await asyncio.to_thread(read_last_of_each, JobFolder(handle.job_dir))
        if tail_lines is not None:
            return await asyncio.to_thread(read_tail, path, tail_lines, limit)
        if offset is None:
            return await asyncio.to_thread(read_ends, path, limit)
        return await asyncio.to_thread(read_log, path, offset, limit)

    async def search_log(self, handle: JobHandle, pattern: str) -> JobLog:
        """Find the lines of a job's log that match a regular expression.

        Raises:
            JobError: The pattern is not valid or too slow.
        """
        try:
            return await asyncio.to_thread(search_log, JobFolder(handle.own_dir).log, pattern)
        except ValueError as error:
            raise JobError(f"the pattern `{pattern}` cannot be used: {error}") from error

    async def cancel(self, handle: JobHandle) -> JobStatus:
        """Cancel a job, and wait some seconds for its end.

        An array is cancelled as a whole, even if the handle names one of its elements.

        Raises:
            JobError: The scheduler refuses.
            SchedulerUnavailable: The scheduler does not answer.
        """
        before = await self.status(handle)
        if before.over and before.state != "unknown":
            return before
        folder = JobFolder(handle.job_dir)
        asked = folder.marked("cancelled")
        if handle.index is None or asked is None or time.time() - asked[1] > CANCEL_SECONDS:
            folder.write("cancelled", f"{time.time()}\n")
            try:
                await self._adapter(handle.scheduler).cancel(folder, handle.native_id)
            except JobError:
                if asked is None:  # a later end is not due to fractale
                    folder.unmark("cancelled")
                raise
        status = await self.wait(handle, timeout=CLEAR_SECONDS, intervals=SOON)
        if not status.over and handle.index is None:
            await self._status(handle, fresh=True)  # without waiting for the next question
        if status.over:
            return status
        return await self.wait(handle, timeout=CANCEL_SECONDS, intervals=SOON)

    async def remove_ended(self) -> None:
        """Remove the directories of the jobs of `root` that are known to be over.

        Raises:
            StoreError: A directory cannot be removed.
        """
        for key, handle in list(self._submitted.items()):
            status = await self.status(handle)
            if status.over and status.state != "unknown" and remove(JobFolder(handle.job_dir)):
                del self._submitted[key]

    async def records_of(self, native_id: str) -> Mapping[int | None, JobRecord]:
        """Get the scheduler's records of a job that fractale did not submit. Changes nothing.

        Args:
            native_id: The scheduler's id of the job.

        Returns:
            Index of the element → its record; None is the index of a single job. Empty if the
            scheduler does not know the job.

        Raises:
            SchedulerUnavailable: The scheduler does not answer.
        """
        nowhere = JobFolder(self._root / NOWHERE)
        asked = Submitted(folder=nowhere, native_id=native_id, ours=False)
        found = (await self._scheduler().records([asked]))[0]
        if isinstance(found, SchedulerUnavailable):
            raise found
        return found

    async def queues(self) -> list[Queue]:
        """List the scheduler's queues.

        Raises:
            SchedulerUnavailable: The scheduler does not answer.
        """
        return await (await asyncio.to_thread(self._scheduler)).queues()


# -- the choice of the scheduler for new jobs ----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The scheduler for new jobs, and whether it answers.

    Args:
        silent: Why the scheduler does not answer; empty if it answers.
    """

    scheduler: Scheduler
    silent: str = ""

    def answering(self) -> Scheduler:
        """Get the scheduler if it answers.

        Raises:
            SchedulerUnavailable: The scheduler is set up on this machine, but does not answer.
        """
        if self.silent:
            raise SchedulerUnavailable(self.silent, hint=HINT)
        return self.scheduler


def choose(adapters: Mapping[str, Scheduler], *, in_flux: bool) -> Choice:
    """Choose the first scheduler of `RUN` that is installed and answers.

    A scheduler that is set up here but does not answer precedes ``local``: a job meant for a
    cluster must not run on its login node while the cluster is down. A client without any
    configuration does not count.

    Args:
        in_flux: Whether this process is in a Flux instance, so that Flux comes first.

    Raises:
        DependencyMissing: No scheduler is installed.
    """
    order: Sequence[str] = ("flux", *RUN) if in_flux else RUN
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
    raise DependencyMissing("no scheduler was found", hint="set `scheduler: local`")
