"""LSF, by its own programs."""

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
from fractale.schedulers.names import directives_of, plain_name
from fractale.schedulers.programs import Programs, Ran
from fractale.schedulers.sizes import megabytes
from fractale.schedulers.wrapper import write_wrapper

FIELDS: Final = "jobid stat exit_code exit_reason pend_reason exec_host description"
_ARRAYS: Final = (r"\s-J\s*\S*\[", r"\s-K\b", r"\s-I\w*\b")
_SILENT: Final = re.compile(
    r"lsf is down|cannot (?:connect|contact|open)|communication|not responding|timed out|"
    r"batch daemon|please wait",
    re.IGNORECASE,
)
_UNKNOWN: Final = re.compile(r"is not found|no (?:matching|unfinished) job", re.IGNORECASE)
STATES: Final[Mapping[str, JobState]] = {
    "PEND": "pending",
    "PSUSP": "pending",
    "WAIT": "pending",
    "PROV": "pending",
    "RUN": "running",
    "USUSP": "running",
    "SSUSP": "running",
    "DONE": "completed",
    "EXIT": "failed",
}
ENDS: Final[Mapping[str, JobState]] = {
    "TERM_RUNLIMIT": "timeout",
    "TERM_DEADLINE": "timeout",
    "TERM_CPULIMIT": "timeout",
    "TERM_MEMLIMIT": "out_of_memory",
    "TERM_SWAP": "out_of_memory",
    "TERM_OWNER": "cancelled",
    "TERM_ADMIN": "cancelled",
    "TERM_FORCE_OWNER": "cancelled",
    "TERM_FORCE_ADMIN": "cancelled",
    "TERM_PREEMPT": "cancelled",
    "TERM_HOST_UNAVAIL": "node_failure",
    "TERM_ZOMBIE": "node_failure",
}


@dataclass(frozen=True, slots=True)
class Lsf:
    """An LSF that this machine reaches."""

    programs: Programs
    name: str = "lsf"
    title: str = "LSF"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Lsf:
        """The LSF of an environment."""
        return cls(Programs(dict(environment)))

    def found(self) -> bool:
        """Whether its programs are on the PATH."""
        return all(map(self.programs.which, ("bsub", "bjobs", "bkill")))

    def presence(self) -> Presence:
        """Whether a cluster answers ``lsid``."""
        ran = self.programs.glance("lsid" if self.programs.which("lsid") else "bqueues")
        environment = self.programs.environment
        configured = any(map(environment.get, ("LSF_ENVDIR", "LSF_SERVERDIR")))
        return Presence(
            answers=ran.code == 0,
            configured=configured or Path("/etc/lsf.conf").exists(),
            said=ran.complaint,
        )

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper, with the script's directives at its head."""
        directives = directives_of(spec.script, "#BSUB", refused=_ARRAYS)
        write_wrapper(folder, spec, native_id='"$LSB_JOBID"', directives=directives)

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Run ``bsub``, which reads the wrapper from its stdin."""
        words = ("bsub", *_options(folder, spec))
        ran = await self.programs.submit(folder, lock, *words, stdin=folder.wrapper)
        if ran.code == 0 and (native_id := _submitted(ran.out)):
            return native_id
        if native_id := await self.find(folder):
            return native_id
        raise self._fault(ran, "LSF refused the job")

    async def find(self, folder: JobFolder) -> str | None:
        """By what ``bsub`` said, else by the tag, which is the job's description."""
        if native_id := _submitted(folder.text("submit.out")):
            return native_id
        found = [
            str(job.get("JOBID"))
            for job in await self._jobs("-a")
            if job.get("DESCRIPTION") == folder.tag
        ]
        return found[-1] if found else None

    async def records(self, jobs: Sequence[Submitted]) -> list[Mapping[int | None, Record]]:
        """What it says about each."""
        found = [await self._record(job.folder, job.native_id) for job in jobs]
        return [{None: record} if record else {} for record in found]

    async def _record(self, folder: JobFolder, native_id: str) -> Record | None:
        """What ``bjobs`` says."""
        for job in await self._jobs(native_id):
            if job.get("DESCRIPTION") == folder.tag:
                return _record(job)
        return None

    async def _jobs(self, which: str) -> list[dict[str, Any]]:
        ran = await self.programs.run("bjobs", "-json", "-o", FIELDS, which)
        if _UNKNOWN.search(ran.err) and not ran.out.strip():
            return []
        if ran.code != 0 and not ran.out.strip():
            raise SchedulerUnavailable(f"LSF does not answer: {ran.complaint}")
        try:
            found: Any = json.loads(ran.out)["RECORDS"]
        except (ValueError, KeyError, TypeError) as error:
            raise SchedulerUnavailable(
                f"`bjobs` answered with what is not JSON: {error}"
            ) from error
        records = cast("list[dict[str, Any]]", found)
        return [record for record in records if "STAT" in record]

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Run ``bkill``."""
        ran = await self.programs.run("bkill", native_id)
        over = _UNKNOWN.search(ran.complaint) or "already finished" in ran.complaint
        if ran.code != 0 and not over:
            raise self._fault(ran, f"LSF does not cancel job {native_id}")

    async def queues(self) -> list[Queue]:
        """Its queues. LSF does not say here which nodes are a queue's."""
        ran = await self.programs.run("bqueues", "-o", "queue_name status delimiter='|'")
        if ran.code != 0:
            raise self._fault(ran, "LSF does not say which queues there are")
        rows = [line.split("|") for line in ran.out.splitlines()[1:]]
        return [
            Queue(name=row[0], state="up" if row[1].startswith("Open:Active") else row[1])
            for row in rows
            if len(row) == 2
        ]

    def _fault(self, ran: Ran, what: str) -> JobError:
        if _SILENT.search(ran.complaint):
            return SchedulerUnavailable(f"LSF does not answer: {ran.complaint}")
        return JobError(f"{what}: {ran.complaint}")


def _options(folder: JobFolder, spec: JobSpec) -> list[str]:
    """The options of ``bsub``; they count more than the script's own."""
    # -rn: a job that lost its host is not begun again by LSF.
    words = ["-J", plain_name(spec.name), "-Jd", folder.tag, "-rn"]
    words += ["-o", str(folder.scheduler_log), "-cwd", str(spec.folder)]
    tasks = spec.tasks or spec.nodes
    if tasks:
        words += ["-n", str(tasks)]
    if spec.nodes:
        words += ["-R", f"span[ptile={math.ceil((spec.tasks or spec.nodes) / spec.nodes)}]"]
    if spec.cores_per_task:
        words += ["-R", f"affinity[core({spec.cores_per_task})]"]
    if spec.gpus_per_task:
        words += ["-gpu", f"num={spec.gpus_per_task}/task"]
    if spec.memory:
        words += ["-M", f"{megabytes(spec.memory)}MB"]
    if spec.time:
        words += ["-W", str(math.ceil(spec.time / 60))]
    if spec.queue:
        words += ["-q", spec.queue]
    if spec.account:
        words += ["-P", spec.account]
    return words


def _submitted(said: str) -> str:
    found = re.search(r"^Job <(\d+)> is submitted", said, re.MULTILINE)
    return found[1] if found else ""


def _record(job: Mapping[str, Any]) -> Record:
    said, reason = str(job.get("STAT", "")), str(job.get("EXIT_REASON") or "")
    state: JobState = STATES.get(said, "unknown")
    if said == "EXIT":
        state = ENDS.get(reason.partition(":")[0].strip(), "failed")
    words = ""
    if state == "pending":
        why = str(job.get("PEND_REASON") or "").strip().rstrip(".;")
        words = f"waits: {why}" if why else "waits for its turn"
    if said in ("PSUSP", "USUSP", "SSUSP"):
        words = "is suspended"
    code = str(job.get("EXIT_CODE") or "")
    host = re.sub(r"^\d+\*", "", str(job.get("EXEC_HOST") or "").partition(":")[0])
    return Record(
        state=state,
        said=f"{said}{f', {reason}' if reason else ''}",
        evidence="bjobs",
        words=words,
        exit_code=int(code) if code.isdecimal() else (0 if said == "DONE" else None),
        nodes=(host,) if host else (),
    )
