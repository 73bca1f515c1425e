"""`Jobs`: the one way to batch jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fractale.confine.ways import Way, confinement_of, find_way
from fractale.errors import (
    DependencyMissing,
    JobError,
    JobInDoubt,
    SchedulerUnavailable,
    SettingsError,
)
from fractale.jobs.arrays import Elements, is_plain, status_of, whole, with_notices
from fractale.jobs.choice import Choice, choose
from fractale.jobs.logs import read_ends, read_last_of_each, read_log, read_tail, search_log
from fractale.jobs.model import JobLog, JobStatus
from fractale.jobs.polling import Answer, Poller
from fractale.jobs.removal import remove
from fractale.schedulers.adapter import JobRecord, Scheduler, Submitted
from fractale.schedulers.asked import array_of
from fractale.schedulers.folder import JobFolder, same_job
from fractale.schedulers.job import JobHandle, JobSpec, Queue
from fractale.settings import STARTED_BY, Settings, slurm_token, without_secrets

FOLDER: Final = "jobs"
QUEUES: Final = "local"
POLLS: Final = "polls"
NOWHERE: Final = "not-submitted-here"
"""Name of a folder that is never there: of a job that fractale did not submit."""

CONFINED: Final = "confined"
"""File of a job's folder: how it is confined."""

TEMPORARY: Final = "tmp"
"""Folder in that of a confined job: its own temporary files."""

INTERVALS: Final = (1.0, 1.0, 2.0, 3.0, 5.0, 10.0)
"""Seconds between two looks at a job's own files; its scheduler is asked more rarely."""

CANCEL_SECONDS: Final = 10.0
CLEAR_SECONDS: Final = 2.0
"""After which a scheduler is asked what became of a job that it was to end."""


class Jobs:
    """Batch jobs of one scheduler, and those of others that were submitted before.

    Args:
        root: The folder of the jobs' folders. The nodes of the jobs have to see it.
        environment: Of the programs that are called, and, as far as the scheduler hands it on,
            of the jobs: without secrets, but for the token that Slurm's programs need.
        scheduler: ``flux``, ``slurm``, ``pbs``, ``lsf`` or ``local``; None takes the first of
            `choice.ORDER` that answers, and before them Flux where ``FLUX_URI`` names an instance.
        queues: Where the queue of local jobs is; jobs that are to share their cores share it.
            None: in `root`.
        cores: How many cores local jobs may use at a time; None: as many as this process may.
        project: The folder that a confined job may write; None: where this process works.
        state: The state folder, which no confined job may write.
        adapters: Other adapters, by name.
        poll_seconds: The least time between two questions to a scheduler, about however many jobs
            (`fractale.jobs.polling`); of local jobs only files are looked at. 0: each look asks.
        polls: Where the answers are shared with other processes; None: in `root`.
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
        environment = without_secrets(environment) | slurm_token(environment)
        # A job that a server submits must outlive the server's end.
        environment.pop(STARTED_BY, None)
        if adapters is None:
            from fractale.schedulers.homes import adapters_of

            adapters = adapters_of(environment, queues or self._root / ".local", cores)
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
        """The jobs whose folders are in the state folder.

        Args:
            root: Where their folders are instead, such as in the folder of a run.
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
        """The name of the scheduler that new jobs go to, whether it answers just now or not.

        Raises:
            DependencyMissing: It is not there.
            JobError: There is none of that name.
        """
        return self._choice().scheduler.name

    def _scheduler(self) -> Scheduler:
        return self._choice().answering()

    def _choice(self) -> Choice:
        """What was named, else what answers; that is asked once."""
        if self._chosen is not None:
            return Choice(scheduler=self._named(self._chosen))
        if self._choice_made is None:
            self._choice_made = choose(self._adapters, in_flux=self._in_flux)
        return self._choice_made

    def _named(self, name: str) -> Scheduler:
        adapter = self._adapter(name)
        if not adapter.found():
            raise DependencyMissing(
                f"{adapter.title} is not on this machine",
                hint="`fractale discover` shows which schedulers are; `local` always is",
            )
        return adapter

    def _adapter(self, name: str) -> Scheduler:
        if name not in self._adapters:
            raise JobError(
                f"there is no scheduler `{name}`", hint=f"there are {', '.join(self._adapters)}"
            )
        return self._adapters[name]

    async def submit(self, spec: JobSpec, *, key: str) -> JobHandle:
        """Submit a job, once: the same key gives the same job, whatever happened in between.

        Args:
            key: What the caller calls the job; any text.

        Raises:
            JobError: The scheduler refuses the job, or the key is another job's. There is none.
            SchedulerUnavailable: It does not answer. The same call is right later.
            JobInDoubt: Another process is submitting it, or it cannot be told what that did.
            DependencyMissing: The scheduler is not there.
            StoreError: The job's folder cannot be written.
        """
        handle = await self._found_or_submitted(spec, key)
        self._submitted[key] = handle
        return handle

    async def _found_or_submitted(self, spec: JobSpec, key: str) -> JobHandle:
        folder = JobFolder.of(self._root, key)
        if handle := folder.handle():
            same_job(folder, spec)
            return handle
        if folder.intent() is None:  # else it goes on where it was begun
            await asyncio.to_thread(self._scheduler)
        folder.make()
        async with folder.locked() as lock:
            same_job(folder, spec)
            handle = folder.handle() or await self._found(folder, key)
            if handle is None:
                # What it was to go to when it was begun still counts.
                begun = (folder.intent() or {}).get("scheduler")
                adapter = self._adapter(begun) if begun else self._scheduler()
                handle = await self._submit(adapter, folder, spec, key, lock)
        return handle

    async def _submit(
        self, adapter: Scheduler, folder: JobFolder, spec: JobSpec, key: str, lock: int
    ) -> JobHandle:
        array = array_of(spec, adapter.name)
        folder.write_intent(spec, key, adapter.name, array)
        try:
            spec = replace(spec, array=array)
            spec = await self._confined(adapter.name, folder, spec)
            adapter.prepare(folder, spec)
            native_id = await adapter.submit(folder, spec, lock)
        except (SchedulerUnavailable, JobInDoubt):
            raise
        except (JobError, DependencyMissing):
            folder.forget()
            raise
        return self._written(folder, adapter.name, native_id, key)

    async def _confined(self, scheduler: str, folder: JobFolder, spec: JobSpec) -> JobSpec:
        """The job with what confines it, if that is wanted.

        Raises:
            JobError: It cannot be confined.
        """
        if spec.confine is None or (scheduler != "local" and not spec.confine.required):
            return spec
        if scheduler != "local":
            raise JobError(
                f"a job of {scheduler} cannot be confined: only local jobs can",
                hint="say `scheduler: local`, or leave `confine` out",
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
        """The job of that key; None where it was never submitted.

        Raises:
            JobInDoubt: Another process is submitting it.
            SchedulerUnavailable: A submission was begun, and the scheduler does not say what
                became of it.
        """
        folder = JobFolder.of(self._root, key)
        if (handle := folder.handle()) or folder.intent() is None:
            return handle
        async with folder.locked():
            return folder.handle() or await self._found(folder, key)

    async def _found(self, folder: JobFolder, key: str) -> JobHandle | None:
        """A job whose submission was begun and not written down: under the lock, so it is over."""
        intent = folder.intent()
        if intent is None:
            return None
        adapter = self._adapter(str(intent.get("scheduler")))
        started = folder.started()
        native_id = (
            started.native_id if started and adapter.name != "local" else await adapter.find(folder)
        )
        if native_id is None:
            # It may have begun while it was looked for.
            started = folder.started()
            native_id = started.native_id if started else None
        return self._written(folder, adapter.name, native_id, key) if native_id else None

    async def status(self, handle: JobHandle) -> JobStatus:
        """How a job is, an array, or the element of one that the handle means.

        A scheduler that does not answer is told of in the reason.
        """
        return await self._status(handle)

    async def _status(self, handle: JobHandle, *, fresh: bool = False) -> JobStatus:
        folder, adapter = JobFolder(handle.job_dir), self._adapter(handle.scheduler)

        async def ask(job: Submitted) -> Answer:
            return await self._poller(adapter).ask(job, fresh=fresh)

        found = self._elements_of(handle)
        if found is None:
            status = await status_of(folder, handle.native_id, adapter.title, ask)
        else:
            elements = await found.look(ask, fresh=fresh)
            status = whole(elements) if handle.index is None else elements[handle.index]
        return with_notices(status, folder)

    async def most_elements(self) -> int | None:
        """How many elements an array of the chosen scheduler may have, where it says so."""
        said: Any = getattr(self._adapter(self.scheduler), "most_elements", None)
        if said is None:
            return None
        try:
            return await said()
        except (SchedulerUnavailable, DependencyMissing):
            return None  # whether it takes the array it says when it is submitted

    async def announce(self, handle: JobHandle) -> None:
        """Say that a job is waited for, so that the next question is about it, too."""
        adapter, array = self._adapter(handle.scheduler), JobFolder(handle.job_dir).array()
        job = Submitted(
            folder=JobFolder(handle.job_dir),
            native_id=handle.native_id,
            indices=array.indices if array else (),
        )
        await self._poller(adapter).announce(job)

    async def elements(self, handle: JobHandle) -> Mapping[int, JobStatus]:
        """How each element of an array is, in order of the indices; of a single job, none."""
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
        intervals: Sequence[float] = INTERVALS,
    ) -> JobStatus:
        """Wait until a job is over, looking ever more rarely.

        Args:
            timeout: Seconds after which it is given up; None waits as long as it takes.
            on_status: Is told each status that differs from the one before in state or reason.
            intervals: Seconds between looks; the last one is repeated.

        Returns:
            The last status; where the time is over, one that is not `over`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        told: tuple[str, str] | None = None
        looks = 0
        while True:
            status = await self.status(handle)
            if on_status and told != (status.state, status.reason):
                told = (status.state, status.reason)
                await on_status(status)
            left = float("inf") if deadline is None else deadline - time.monotonic()
            if status.over or left <= 0:
                return status
            pause = intervals[min(looks, len(intervals) - 1)]
            looks += 1
            await self._ended_within(handle, min(pause, left))

    async def _ended_within(self, handle: JobHandle, seconds: float) -> None:
        """Sleep, or less where the job's own files say meanwhile that it ended well."""
        folder, deadline = JobFolder(handle.own_dir), time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 1.0))
            if is_plain(folder.ended()):
                return

    async def logs(
        self,
        handle: JobHandle,
        *,
        offset: int | None = 0,
        limit: int = 65536,
        tail_lines: int | None = None,
    ) -> JobLog:
        """A part of a job's log as it is now, at most 1 MiB; a job without one has an empty one.

        An array has no log of its own: of a handle without an index, the last line of each element.

        Args:
            offset: In bytes; a negative one counts from the end. None: of a long log, both ends.
            limit: The most bytes.
            tail_lines: The last lines, in place of `offset`.
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
        """The lines of a job's whole log that match a regular expression.

        Raises:
            JobError: The pattern cannot be used, or takes too long.
        """
        try:
            return await asyncio.to_thread(search_log, JobFolder(handle.own_dir).log, pattern)
        except ValueError as error:
            raise JobError(f"the pattern `{pattern}` cannot be used: {error}") from error

    async def cancel(self, handle: JobHandle) -> JobStatus:
        """Ask for the end of a job, and see for some seconds whether it comes.

        An array is ended as a whole, also where the handle means one of its elements.

        Raises:
            JobError: The scheduler refuses.
            SchedulerUnavailable: It does not answer.
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
                if asked is None:  # whatever ends it later, it is not fractale
                    folder.unmark("cancelled")
                raise
        soon = (0.2, 0.5, 1.0)
        status = await self.wait(handle, timeout=CLEAR_SECONDS, intervals=soon)
        if not status.over and handle.index is None:
            await self._status(handle, fresh=True)  # the one question that is not waited for
        if status.over:
            return status
        return await self.wait(handle, timeout=CANCEL_SECONDS, intervals=soon)

    async def remove_ended(self) -> None:
        """Remove the folders of the jobs that were submitted here and are known to be over.

        Raises:
            StoreError: One cannot be removed.
        """
        for key, handle in list(self._submitted.items()):
            status = await self.status(handle)
            if status.over and status.state != "unknown" and remove(JobFolder(handle.job_dir)):
                del self._submitted[key]

    async def records_of(self, native_id: str) -> Mapping[int | None, JobRecord]:
        """What the scheduler says of a job that fractale did not submit; it is only read.

        Args:
            native_id: What the scheduler calls it.

        Returns:
            Index of the element → its record; None is the index of a job that is no array. Empty
            if the scheduler does not know the job.

        Raises:
            SchedulerUnavailable: It does not answer.
        """
        nowhere = JobFolder(self._root / NOWHERE)
        asked = Submitted(folder=nowhere, native_id=native_id, ours=False)
        found = (await self._scheduler().records([asked]))[0]
        if isinstance(found, SchedulerUnavailable):
            raise found
        return found

    async def queues(self) -> list[Queue]:
        """The queues of the scheduler that new jobs go to.

        Raises:
            SchedulerUnavailable: It does not answer.
        """
        return await (await asyncio.to_thread(self._scheduler)).queues()
