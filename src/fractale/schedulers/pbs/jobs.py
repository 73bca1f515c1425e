"""PBS Professional and OpenPBS, by their own programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import JobError, SchedulerUnavailable
from fractale.schedulers.adapter import Presence, Record, Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.names import directives_of
from fractale.schedulers.programs import Programs, Ran
from fractale.schedulers.sizes import megabytes
from fractale.schedulers.wrapper import write_wrapper

_ARRAYS: Final = (r"\s-J\b", r"\s-W\s*block")
_SILENT: Final = re.compile(
    r"cannot connect|connection refused|timed out|no permission to connect|15034|111\b|"
    r"server (?:is )?(?:down|busy)",
    re.IGNORECASE,
)
_UNKNOWN: Final = re.compile(r"unknown job id|has finished", re.IGNORECASE)
STATES: Final[Mapping[str, JobState]] = {
    "Q": "pending",
    "H": "pending",
    "W": "pending",
    "T": "pending",
    "R": "running",
    "E": "running",
    "S": "running",
    "U": "running",
    "B": "running",
}
WALLTIME_EXIT: Final = -29
"""PBS's own exit status for a job that it ended at its time limit."""


@dataclass(frozen=True, slots=True)
class Pbs:
    """A PBS server that this machine reaches."""

    programs: Programs
    name: str = "pbs"
    title: str = "PBS"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Pbs:
        """The PBS of an environment."""
        return cls(Programs(dict(environment)))

    def found(self) -> bool:
        """Whether its programs are on the PATH; others have a ``qsub``, but not all of them."""
        return all(map(self.programs.which, ("qsub", "qstat", "qdel", "qselect")))

    def presence(self) -> Presence:
        """Whether a server answers ``qstat -B``."""
        ran = self.programs.glance("qstat", "-B")
        environment = self.programs.environment
        configured = any(map(environment.get, ("PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT")))
        return Presence(
            answers=ran.code == 0,
            configured=configured or Path("/etc/pbs.conf").exists(),
            said=ran.complaint,
        )

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper, with the script's directives at its head."""
        directives = directives_of(spec.script, "#PBS", refused=_ARRAYS)
        write_wrapper(folder, spec, native_id='"$PBS_JOBID"', directives=directives)

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Run ``qsub``."""
        words = ("qsub", *_options(folder, spec), str(folder.wrapper))
        ran = await self.programs.submit(folder, lock, *words)
        if ran.code == 0 and (native_id := _submitted(ran.out)):
            return native_id
        if native_id := await self.find(folder):
            return native_id
        raise self._fault(ran, "PBS refused the job")

    async def find(self, folder: JobFolder) -> str | None:
        """By what ``qsub`` said, else by the job's name, which is the tag."""
        if native_id := _submitted(folder.text("submit.out")):
            return native_id
        ran = await self.programs.run("qselect", "-x", "-N", folder.tag)
        if ran.code != 0:
            raise self._fault(ran, "PBS does not list its jobs")
        return ran.out.split()[-1] if ran.out.split() else None

    async def records(self, jobs: Sequence[Submitted]) -> list[Mapping[int | None, Record]]:
        """What it says about each."""
        found = [await self._record(job.folder, job.native_id) for job in jobs]
        return [{None: record} if record else {} for record in found]

    async def _record(self, folder: JobFolder, native_id: str) -> Record | None:
        """What ``qstat`` says, which with a job history knows ended jobs, too."""
        ran = await self.programs.run("qstat", "-x", "-f", "-F", "json", native_id)
        if ran.code != 0:
            if _UNKNOWN.search(ran.complaint):
                return None
            raise SchedulerUnavailable(f"PBS does not answer: {ran.complaint}")
        job = _job(ran.out, native_id)
        return _record(job) if job.get("Job_Name") == folder.tag else None

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Run ``qdel``."""
        ran = await self.programs.run("qdel", native_id)
        if ran.code != 0 and not _UNKNOWN.search(ran.complaint):
            raise self._fault(ran, f"PBS does not cancel job {native_id}")

    async def queues(self) -> list[Queue]:
        """Its queues. PBS does not say which nodes are a queue's."""
        ran = await self.programs.run("qstat", "-Q", "-f", "-F", "json")
        if ran.code != 0:
            raise self._fault(ran, "PBS does not say which queues there are")
        return [_queue(name, facts) for name, facts in _table(ran.out, "Queue").items()]

    def _fault(self, ran: Ran, what: str) -> JobError:
        if _SILENT.search(ran.complaint):
            return SchedulerUnavailable(f"PBS does not answer: {ran.complaint}")
        return JobError(f"{what}: {ran.complaint}")


def _options(folder: JobFolder, spec: JobSpec) -> list[str]:
    """The options of ``qsub``; they count more than the script's own."""
    # -r n: a job that lost its node is not begun again by PBS.
    words = ["-N", folder.tag, "-j", "oe", "-o", str(folder.scheduler_log), "-r", "n"]
    if select := _select(spec):
        words += ["-l", select]
    if spec.time:
        words += ["-l", f"walltime={_clock(spec.time)}"]
    if spec.queue:
        words += ["-q", spec.queue]
    if spec.account:
        words += ["-A", spec.account]
    return words


def _select(spec: JobSpec) -> str:
    """The nodes as PBS's chunks; empty where nothing is asked for."""
    if not any((spec.nodes, spec.tasks, spec.cores_per_task, spec.gpus_per_task, spec.memory)):
        return ""
    nodes = spec.nodes or 1
    per_node = math.ceil((spec.tasks or nodes) / nodes)
    parts = [f"select={nodes}", f"ncpus={per_node * (spec.cores_per_task or 1)}"]
    parts.append(f"mpiprocs={per_node}")
    if spec.gpus_per_task:
        parts.append(f"ngpus={per_node * spec.gpus_per_task}")
    if spec.memory:
        parts.append(f"mem={megabytes(spec.memory)}mb")
    return ":".join(parts)


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _submitted(said: str) -> str:
    found = re.search(r"^(\d+[^\s]*)$", said, re.MULTILINE)
    return found[1] if found and said.endswith("\n") else ""


def _table(text: str, key: str) -> dict[str, dict[str, Any]]:
    try:
        found: Any = json.loads(text)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise SchedulerUnavailable(f"`qstat` answered with what is not JSON: {error}") from error
    return cast("dict[str, dict[str, Any]]", found)


def _job(text: str, native_id: str) -> dict[str, Any]:
    jobs = _table(text, "Jobs")
    return jobs.get(native_id) or next(iter(jobs.values()), dict[str, Any]())


def _record(job: Mapping[str, Any]) -> Record:
    letter, status = str(job.get("job_state", "")), job.get("Exit_status")
    comment = str(job.get("comment", ""))
    state: JobState = STATES.get(letter, "unknown")
    if letter in ("F", "X"):
        state = _end(status, comment)
    code = status if isinstance(status, int) else None
    return Record(
        state=state,
        said=f"{letter}{f', {comment}' if comment else ''}",
        evidence="qstat",
        words=_words(letter, comment),
        # PBS adds 256 to the signal that ended the script.
        exit_code=code if code is not None and 0 <= code < 256 else None,
        signal=code - 256 if code is not None and code > 256 else None,
        nodes=tuple(re.findall(r"([\w.-]+)/\d+", str(job.get("exec_host", "")))[:1]),
    )


def _end(status: Any, comment: str) -> JobState:
    if status == WALLTIME_EXIT or "walltime" in comment.lower():
        return "timeout"
    if re.search(r"mem\w* \d+\w* exceeded|out of memory", comment, re.IGNORECASE):
        return "out_of_memory"
    if status is None or status == 271 or "terminated" in comment.lower():
        # 271 is 256 + SIGTERM, which is what `qdel` sends.
        return "cancelled"
    if isinstance(status, int) and status < 0:
        return "node_failure"
    return "completed" if status == 0 else "failed"


def _words(letter: str, comment: str) -> str:
    if letter == "H":
        return "is held, and does not start until it is released (`qrls`)"
    if letter == "W":
        return "waits for its begin time"
    if letter == "S":
        return "is suspended"
    return "waits for nodes, cores or memory to become free" if letter == "Q" else ""


def _queue(name: str, facts: Mapping[str, Any]) -> Queue:
    limits: Any = facts.get("resources_max") or {}
    limit = str(limits.get("walltime") or "")
    parts = limit.split(":") if re.fullmatch(r"\d+:\d+:\d+", limit) else None
    up = facts.get("enabled") == "True" and facts.get("started") == "True"
    return Queue(
        name=name,
        time_limit=sum(int(p) * u for p, u in zip(parts, (3600, 60, 1), strict=True))
        if parts
        else None,
        state="up" if up else "stopped",
    )
