"""Plain processes as jobs: each is minded by a process of its own, which outlives us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fractale.errors import JobError, SchedulerUnavailable
from fractale.jobs import minder
from fractale.jobs.folder import JobFolder, facts_of
from fractale.jobs.model import JobSpec, JobState, Queue
from fractale.jobs.scheduler import Record
from fractale.jobs.sizes import bytes_of
from fractale.jobs.wrapper import write_wrapper

START_SECONDS: Final = 60.0
CANCEL_SECONDS: Final = 20.0
_STATES: Final[Mapping[str, JobState]] = {
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "timeout": "timeout",
    "out_of_memory": "out_of_memory",
}
_MINDED: Final = re.compile(r"([a-z_]+)\.(-?\d+)")


@dataclass(frozen=True, slots=True)
class Local:
    """This machine, without a scheduler: jobs run at once, however many there are."""

    environment: Mapping[str, str]
    name: str = "local"
    title: str = "this machine"

    def found(self) -> bool:
        """It is always there."""
        return True

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper; directives in a script are for others."""
        if (spec.nodes or 1) > 1:
            raise JobError(
                f"the job asks for {spec.nodes} nodes, and without a scheduler there is one",
                hint="ask for one node, or submit where there is Slurm, Flux, PBS or LSF",
            )
        write_wrapper(folder, spec, native_id='"$FRACTALE_JOB_ID"')

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Start the process that minds the job, and wait until it has claimed the folder."""
        limits = (str(spec.time or 0), str(bytes_of(spec.memory) if spec.memory else 0))
        with (folder.path / "submit.err").open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", minder.__file__, str(folder.path), str(lock), *limits),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=said,
                env=dict(self.environment),
                pass_fds=(lock,),
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while (found := await self.find(folder)) is None:
            if process.returncode is not None:
                why = folder.text("submit.err").strip().rpartition("\n")[2]
                raise JobError(f"the job could not be started: {why}")
            if time.monotonic() > deadline:
                raise SchedulerUnavailable("the job has not started yet")
            await asyncio.sleep(0.01)
        return found

    async def find(self, folder: JobFolder) -> str | None:
        """The process that claimed the folder."""
        return _minder(folder).get("id") or None

    async def record(self, folder: JobFolder, native_id: str) -> Record | None:
        """What its minder left, or whether that is still there."""
        if minded := folder.marked("minded."):
            return _minded(folder, *minded)
        facts = _minder(folder)
        if facts.get("host") != socket.gethostname():
            raise SchedulerUnavailable(
                f"the job runs, or ran, on {facts.get('host')}, which cannot be looked at from here"
            )
        if facts.get("boot") != minder.boot():
            return Record(
                state="node_failure",
                said="another boot id",
                evidence="boot id",
                words=f"was ended by a restart of {facts.get('host')}",
                nodes=(facts.get("host", ""),),
            )
        if _alive(native_id, facts.get("ticks", "")) or _wrapper_alive(folder):
            return Record(
                state="running", said="alive", evidence="process", nodes=(facts.get("host", ""),)
            )
        # It may have ended between the two looks.
        return _minded(folder, *minded) if (minded := folder.marked("minded.")) else None

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Ask the minder to end the job, and see that it does."""
        facts = _minder(folder)
        deadline = time.monotonic() + CANCEL_SECONDS
        while facts.get("host") == socket.gethostname() and _alive(
            native_id, facts.get("ticks", "")
        ):
            if time.monotonic() > deadline:
                raise SchedulerUnavailable(f"the job has not ended for {CANCEL_SECONDS:.0f} s")
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(native_id), signal.SIGTERM)
            await asyncio.sleep(0.1)

    async def queues(self) -> list[Queue]:
        """The machine as a queue of one node."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return [
            Queue(
                name="local",
                nodes=1,
                nodes_idle=None,
                cores_per_node=len(os.sched_getaffinity(0)),
                memory=memory,
                default=True,
            )
        ]


def _minder(folder: JobFolder) -> dict[str, str]:
    return facts_of(folder.text("minder"))


def _minded(folder: JobFolder, name: str, at: float) -> Record:
    found = _MINDED.fullmatch(name)
    state: JobState = _STATES.get(found[1], "unknown") if found else "unknown"
    code = int(found[2]) if found else 1
    return Record(
        state=state,
        said=state,
        evidence="record of the job's minder",
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        ended=at,
        nodes=(_minder(folder).get("host", ""),),
    )


def _alive(pid: str, ticks: str) -> bool:
    """Whether that very process is there, and not only its body."""
    if not pid.isdecimal() or (ticks and minder.ticks(pid) != ticks):
        return False
    try:
        os.kill(int(pid), 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:  # no /proc here, or not our process
        return True
    return state != "Z"


def _wrapper_alive(folder: JobFolder) -> bool:
    """The wrapper goes on where only its minder was ended."""
    started = folder.started()
    return started is not None and _alive(str(started.pid), started.ticks)
