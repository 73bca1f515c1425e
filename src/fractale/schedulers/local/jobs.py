"""Local processes as jobs. Each job has a supervisor process, which outlives fractale.

The running jobs use at most the available cores; the other jobs wait in a queue on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fractale.errors import JobError, SchedulerUnavailable
from fractale.private import touch_private
from fractale.schedulers.adapter import JobRecord, Presence, Submitted
from fractale.schedulers.asked import asked_of, script_of
from fractale.schedulers.folder import JobFolder, Started, disk, facts_of
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.local import queue as local_queue
from fractale.schedulers.local import supervisor
from fractale.schedulers.local.variables import foreign_programs, variables_of
from fractale.schedulers.request import Request
from fractale.schedulers.script import Script
from fractale.schedulers.wrapper import write_wrapper

START_SECONDS: Final = 60.0
CANCEL_SECONDS: Final = 20.0
SHORT: Final = "+short"
"""The end of the name of the queue of short programs."""

MOST_SHORT: Final = 100_000
"""How many of them run at a time: all, since a run limits its own steps."""

_STATES: Final[Mapping[str, JobState]] = {
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "timeout": "timeout",
    "out_of_memory": "out_of_memory",
}
_REFUSED: Final[Mapping[str, str]] = {
    "dependencies": "waits for other jobs",
    "components": "is of several parts (a heterogeneous job)",
    "begin": "asks for a begin time",
    "hold": "is held until it is released",
    "server": "is for another cluster",
}
"""Fields of a `Request` that this machine refuses: the job cannot run correctly without them."""

_IGNORED: Final = frozenset(
    {
        *("account", "queues", "qos", "reservation", "mail_on", "mail_to", "constraint", "hosts"),
        *("without_hosts", "licenses", "signal", "requeue", "input", "workdir", "shell", "place"),
        *("other", "gpu_kind", "comment"),
    }
)
"""Fields without an effect on this machine. A notice names them, since the script sets them."""

_GPUS: Final = ("nvidia[0-9]*", "kfd", "dri/renderD*")
_MINDED: Final = re.compile(r"([a-z_]+)\.(-?\d+)")


@dataclass(frozen=True, slots=True)
class Local:
    """This machine, without a scheduler. It runs as many jobs at a time as it has cores for.

    Args:
        queue_root: The directory of the queues, one per machine.
        cores: How many cores all jobs may use; None for as many as this process may use.
    """

    environment: Mapping[str, str]
    queue_root: Path
    cores: int | None = None
    name: str = "local"
    title: str = "this machine"

    def found(self) -> bool:
        """Always true."""
        return True

    def presence(self) -> Presence:
        """This machine is always present."""
        return Presence(answers=True)

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper, and notices about the parts of the script without an effect here.

        The wrapper sets the variables that the script's own scheduler would set.

        Raises:
            JobError: The job asks for something that this machine cannot provide.
        """
        script = script_of(spec, self.name)
        request = asked_of(spec, self.name)
        _refuse(request, script)
        notices = _notices(request, script)
        own: Mapping[str, str] = {}
        if script is not None:
            notices += foreign_programs(script, self.environment)
            own, spec = variables_of(script, request, spec, folder, self.environment)
        folder.write_notices(notices)
        variables = dict(
            each.split("=", 1) for each in request.variables if "=" in each and script is not None
        )
        spec = replace(spec, env={**variables, **spec.env})
        write_wrapper(
            folder,
            spec,
            native_id='"$FRACTALE_JOB_ID"',
            index='"$FRACTALE_INDEX"',
            variables=own,
        )

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Put the job into the queue, and start it if enough cores are free."""
        del lock  # the queue is on disk, so the job is found even if this process ends
        queue = self._queue_of(spec)
        number = await asyncio.to_thread(self._add, queue, folder, spec)
        if (await asyncio.to_thread(_look, queue)).can_start:
            await self._start_next(queue)
        if spec.array is not None:  # its elements start later
            return str(_queued(folder)["id"])
        deadline = time.monotonic() + START_SECONDS
        while not _facts(folder) and await asyncio.to_thread(
            self._is_starting, queue, folder, number
        ):
            if time.monotonic() > deadline:
                raise SchedulerUnavailable("the job has not started yet")
            await asyncio.sleep(0.02)
        return str(_queued(folder)["id"])

    def _is_starting(self, place: Path, folder: JobFolder, number: int) -> bool:
        """Whether a job has a supervisor that has not begun; otherwise it runs, waits or is over.

        Raises:
            JobError: The supervisor ended before it began. The job is removed from the queue.
        """
        # Only the process inside the gate starts jobs: a waiting job that was tried has failed.
        with disk(place), local_queue.gate(place):
            queue = local_queue.survey(place)
            if number in queue.running:
                return True
            waits = number in (entry.number for entry in queue.waiting)
            if not waits or not (folder.path / local_queue.TRIED).exists():
                return False
            (folder.path / local_queue.QUEUED).unlink()
            (place / f"{number:08d}").unlink()
        why = folder.text(local_queue.TRIED).strip().rpartition("\n")[2]
        raise JobError(f"the job could not be started: {why}")

    def _queue_of(self, spec: JobSpec) -> Path:
        """The queue of a job. Short programs have one of their own, in which nothing waits."""
        name = f"{socket.gethostname()}{SHORT if spec.short else ''}"
        return self.queue_root.absolute() / name

    @property
    def _limit(self) -> int:
        return self.cores or len(os.sched_getaffinity(0))

    def _add(self, queue: Path, folder: JobFolder, spec: JobSpec) -> int:
        request = asked_of(spec, self.name)
        totals, seconds = request.totals(), request.seconds or 0
        facts: dict[str, Any] = {
            "queue": str(queue),
            "host": socket.gethostname(),
            "cores": self._limit if request.exclusive else totals.cores,
            "limit": MOST_SHORT if spec.short else self._limit,
            "seconds": seconds if math.isfinite(seconds) else 0,
            "memory": totals.memory,
            "environment": dict(self.environment),
        }
        if spec.array is not None:
            facts["indices"] = [(each.first, each.last, each.step) for each in spec.array.spans]
            facts["most"] = spec.array.most or 0
        (folder.path / local_queue.TRIED).unlink(missing_ok=True)
        with disk(queue), local_queue.gate(queue):
            number = local_queue.new_number(queue)
            # The job is now in the queue, and the next process that checks the queue can add it.
            # The id has a prefix, so that it cannot be mistaken for a process id.
            name = f"s{number}" if spec.short else f"q{number}"
            written = {"id": name, "number": number, **facts}
            folder.write(local_queue.QUEUED, json.dumps(written))
            local_queue.add(queue, number, folder.path, facts)
        return number

    async def _start_next(self, queue: Path) -> None:
        """Start the jobs that can start now. Later checks of the queue start the others."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-IS", local_queue.__file__),
            *(str(queue), supervisor.__file__),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env=dict(self.environment),
        )
        await process.wait()

    async def find(self, folder: JobFolder) -> str | None:
        """The job's number in the queue."""
        return str(_queued(folder).get("id") or "") or None

    async def records(self, jobs: Sequence[Submitted]) -> list[Mapping[int | None, JobRecord]]:
        """The state of each job, from its supervisor or from the queue."""
        found: list[Mapping[int | None, JobRecord]] = []
        for job in jobs:
            if job.indices:
                found.append(await self._elements(job))
            else:
                record = await self._record(job.folder)
                found.append({None: record} if record else {})
        return found

    async def _elements(self, job: Submitted) -> dict[int | None, JobRecord]:
        """The records of an array's elements, from the supervisors of the elements that began."""
        waits: JobRecord | None = None
        if not job.folder.marked(local_queue.CANCELLED):
            waits = await self._record(job.folder)  # also starts the elements that can start
            if waits is not None:  # all elements without a record of their own share this one
                waits = replace(waits, said="an element of an array")
        found: dict[int | None, JobRecord] = {}
        begun = job.folder.begun()
        for index in job.indices:
            folder = job.folder.element(index)
            record = None
            if index in begun and (_facts(folder) or folder.marked("minded.")):
                record = await self._record(folder)
            elif waits is None and job.folder.marked(local_queue.CANCELLED):
                record = JobRecord(state="cancelled", said="cancelled", evidence="local queue")
            elif waits is not None:
                record = waits
            if record is not None:
                found[index] = record
        return found

    async def _record(self, folder: JobFolder) -> JobRecord | None:
        """The ending that the supervisor recorded, else the state of the supervisor."""
        if minded := folder.marked("minded."):
            return _minded(folder, *minded)
        facts, queued = _facts(folder), _queued(folder)
        if not facts and not queued:
            return None
        host = str((facts or queued).get("host"))
        if host != socket.gethostname():
            raise SchedulerUnavailable(
                f"the job is, or was, on {host}, which fractale cannot reach from this machine"
            )
        return self._claimed(folder, facts) if facts else await self._waiting(folder, queued)

    def _claimed(self, folder: JobFolder, facts: Mapping[str, str]) -> JobRecord | None:
        """The record of a job that has, or had, a supervisor."""
        host = facts.get("host", "")
        if facts.get("boot") != supervisor.boot():
            return JobRecord(
                state="node_failure",
                said="another boot id",
                evidence="boot id",
                words=f"was ended by a restart of {host}",
                nodes=(host,),
            )
        if _alive(facts) or _wrapper(folder):
            return JobRecord(state="running", said="alive", evidence="process", nodes=(host,))
        # The job may have ended since the check for its ending.
        return _minded(folder, *minded) if (minded := folder.marked("minded.")) else None

    async def _waiting(self, folder: JobFolder, queued: Mapping[str, Any]) -> JobRecord | None:
        """The record of a waiting job. The job is started if it can start now."""
        number, place = int(queued["number"]), Path(queued["queue"])
        queue = await asyncio.to_thread(_look, place, folder.path, queued)
        if queue.can_start:
            await self._start_next(place)
            queue = await asyncio.to_thread(_look, place)
        if minded := folder.marked("minded."):
            return _minded(folder, *minded)
        if facts := _facts(folder):
            return self._claimed(folder, facts)
        before = sum(1 for entry in queue.waiting if entry.number < number and not entry.indices)
        said = f"{queue.used} of {queued['limit']} in use, {before} before it"
        words = "is about to start" if number in queue.running else "waits for free cores"
        return JobRecord(state="pending", said=said, evidence="local queue", words=words)

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """End the job by its supervisor, and wait for the end; remove a waiting job."""
        if folder.array() is not None:
            await self._cancel_elements(folder)
            return
        deadline = time.monotonic() + CANCEL_SECONDS
        while not folder.marked("minded."):
            facts = _facts(folder)
            if not facts and (queued := _queued(folder)):
                # The job's directory has the mark "cancelled", so this call removes the job.
                await self._start_next(Path(queued["queue"]))
            elif facts.get("host") == socket.gethostname() and _alive(facts):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(facts["id"]), signal.SIGTERM)
            elif facts.get("host") == socket.gethostname() and (left := _wrapper(folder)):
                await _end_unminded(folder, left.pid)
                return
            else:
                return
            if time.monotonic() > deadline:
                raise SchedulerUnavailable(f"the job has not ended for {CANCEL_SECONDS:.0f} s")
            await asyncio.sleep(0.1)

    async def _cancel_elements(self, folder: JobFolder) -> None:
        """End the running elements of an array; the other elements never start."""
        if queued := _queued(folder):
            await self._start_next(Path(queued["queue"]))
        begun = [folder.element(index) for index in sorted(folder.begun())]
        left = [each for each in begun if not each.marked("minded.") and not each.ended()]
        await asyncio.gather(*(self.cancel(each, "") for each in left))

    async def queues(self) -> list[Queue]:
        """This machine, as a queue of one node."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return [
            Queue(
                name="local",
                nodes=1,
                nodes_idle=None,
                cores_per_node=self._limit,
                memory=memory,
                default=True,
            )
        ]


def _refuse(request: Request, script: Script | None) -> None:
    """Check that this machine can provide what a job asks for.

    Raises:
        JobError: It cannot.
    """
    totals = request.totals()
    elsewhere = "leave it out, or submit where there is Slurm, Flux, PBS or LSF"
    if (totals.nodes or 1) > 1:
        raise JobError(
            f"the job asks for {totals.nodes} nodes; without a scheduler there is only one",
            hint="ask for one node, or submit where there is Slurm, Flux, PBS or LSF",
        )
    if totals.gpus and not any(list(Path("/dev").glob(pattern)) for pattern in _GPUS):
        raise JobError(
            f"the job asks for {totals.gpus} GPUs, and this machine has none", hint=elsewhere
        )
    options = {each.option for each in script.reading.directives} if script else set[str]()
    for name, words in _REFUSED.items():
        # Some options, such as `--begin=tomorrow`, set no field of the request.
        if getattr(request, name) or name in options:
            raise JobError(
                f"the job's script {words}, which needs a scheduler (`scheduler: local` has none)",
                hint=elsewhere,
            )


def _notices(request: Request, script: Script | None) -> list[str]:
    """One sentence per directive of the script that has no effect on this machine."""
    found: list[str] = []
    if request.totals().gpus:
        found.append("GPUs are not assigned to local jobs: the job sees all that are there")
    for directive in script.reading.directives if script else ():
        ignored = sorted(directive.sets & _IGNORED)
        if ignored or directive.untold or directive.invalid:
            why = directive.invalid or directive.untold or "it has no effect without a scheduler"
            line = f"line {directive.line}: `{directive.text}`"
            found.append(f"{line} does not count for a local job: {why}")
    return found


def _look(
    queue: Path, folder: Path | None = None, queued: Mapping[str, Any] | None = None
) -> local_queue.LocalQueue:
    """The queue now. A job that is missing from it is added again."""
    with disk(queue), local_queue.gate(queue):
        if folder and queued:
            local_queue.add(queue, int(queued["number"]), folder, queued)
        return local_queue.survey(queue)


def _queued(folder: JobFolder) -> dict[str, Any]:
    """The facts for starting the job; empty if the job never entered the queue."""
    return folder.json(local_queue.QUEUED) or {}


def _facts(folder: JobFolder) -> dict[str, str]:
    return facts_of(folder.text("minder"))


def _minded(folder: JobFolder, name: str, at: float) -> JobRecord:
    found = _MINDED.fullmatch(name)
    state: JobState = _STATES.get(found[1], "unknown") if found else "unknown"
    code = int(found[2]) if found else 1
    return JobRecord(
        state=state,
        said=state,
        evidence="record of the job's supervisor",
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        ended=at,
        nodes=tuple(filter(None, (_facts(folder).get("host"),))),
    )


def _alive(facts: Mapping[str, str]) -> bool:
    """Whether the process exists, is the same one, and is not a zombie."""
    pid, ticks = facts.get("id", ""), facts.get("ticks", "")
    if not pid.isdecimal() or (ticks and supervisor.ticks(pid) != ticks):
        return False
    try:
        os.kill(int(pid), 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # the system has no /proc, or another user owns the process
        return True
    return state != "Z"


async def _end_unminded(folder: JobFolder, session: int) -> None:
    """End a job whose supervisor is gone, as the supervisor would: SIGTERM, later SIGKILL."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, sign)
        deadline = time.monotonic() + supervisor.GRACE
        while _wrapper(folder) and time.monotonic() < deadline:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.1)
    if not folder.ended():
        with disk(folder.path):
            touch_private(folder.path / f"minded.cancelled.{-signal.SIGKILL}")


def _wrapper(folder: JobFolder) -> Started | None:
    """The wrapper, if it still runs: it keeps running if only its supervisor was killed."""
    started = folder.started()
    if started and _alive({"id": str(started.pid), "ticks": started.ticks}):
        return started
    return None
