"""LSF jobs, by LSF's own programs."""

from __future__ import annotations

import calendar
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import JobError, SchedulerUnavailable
from fractale.programs import ProgramResult
from fractale.schedulers.adapter import JobRecord, Presence, Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.header import header_of
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.lsf.site import QUEUES, UP, read_queues
from fractale.schedulers.notation import megabytes, plain_name
from fractale.schedulers.positions import Positions, index_word, write_positions
from fractale.schedulers.programs import Programs
from fractale.schedulers.request import Array
from fractale.schedulers.wrapper import write_wrapper

NOTICES: Final[Mapping[str, JobState]] = {
    r"TERM_(?:RUNLIMIT|DEADLINE|CPULIMIT): ": "timeout",
    r"TERM_(?:MEMLIMIT|SWAP): ": "out_of_memory",
}
"""Lines in the output of an ended job → the state that they show."""

NOISE: Final = (r"Exited with (?:exit code|signal termination)", r"User defined signal")
"""Lines that are only consequences of an end; the cause is above them."""

AFTER: Final = "bsub -w 'ended({job})' -o /dev/null {command}"
"""The command that runs another command after a job."""

FIELDS: Final = (
    "jobid jobindex stat exit_code exit_reason pend_reason exec_host description "
    "submit_time start_time finish_time"
)
MOST_IDS: Final = 500
"""How many jobs one call of ``bjobs`` may name."""

LONGEST_NAME: Final = 255
"""Longest value of ``-J`` in characters, including the array's indices."""

INTERACTIVE: Final = (r"-I\w*",)
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
    """An LSF that this machine can reach."""

    programs: Programs
    name: str = "lsf"
    title: str = "LSF"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Lsf:
        return cls(Programs(dict(environment)))

    def found(self) -> bool:
        """Whether LSF's programs are on the PATH."""
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
        """Write the wrapper, which begins with the script's directives."""
        index = '"$LSB_JOBINDEX"'
        if spec.array and not _sayable(spec):
            write_positions(folder, spec.array)
            index = index_word("LSB_JOBINDEX")
        own = '"$LSB_JOBID[$LSB_JOBINDEX]"' if spec.array else '"$LSB_JOBID"'
        write_wrapper(
            folder,
            spec,
            native_id=own,
            index=index,
            nodes='"$(sort -u "$LSB_DJOB_HOSTFILE" 2>/dev/null | tr "\\n" ,)"',
            directives=header_of(spec, "lsf", refused=INTERACTIVE),
        )

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
        """Look in the output of ``bsub``, then for the tag, which is the job's description."""
        if native_id := _submitted(folder.text("submit.out")):
            return native_id
        found = [
            str(job.get("JOBID"))
            for job in await self._jobs()
            if job.get("DESCRIPTION") == folder.tag
        ]
        return found[-1] if found else None

    async def records(self, jobs: Sequence[Submitted]) -> list[Mapping[int | None, JobRecord]]:
        """Read ``bjobs``, for jobs and for each element of arrays."""
        shown: list[dict[str, Any]] = []
        for start in range(0, len(jobs), MOST_IDS):
            ids = [job.native_id for job in jobs[start : start + MOST_IDS]]
            shown += await self._jobs(*ids)
        known = {(str(job.get("JOBID")), _index(job)): job for job in shown}
        return [_records(job, known) for job in jobs]

    async def _jobs(self, *which: str) -> list[dict[str, Any]]:
        ran = await self.programs.run("bjobs", "-a", "-json", "-o", FIELDS, *which)
        if _UNKNOWN.search(ran.err) and not ran.out.strip():
            return []
        if ran.code != 0 and not ran.out.strip():
            raise SchedulerUnavailable(f"LSF does not answer: {ran.complaint}")
        try:
            found: Any = json.loads(ran.out, strict=False)["RECORDS"]
        except (ValueError, KeyError, TypeError) as error:
            raise SchedulerUnavailable(f"the answer of `bjobs` is not JSON: {error}") from error
        records = cast("list[dict[str, Any]]", found)
        return [record for record in records if "STAT" in record]

    async def cancel(self, folder: JobFolder, native_id: str, index: int | None = None) -> None:
        """Run ``bkill``.

        Args:
            index: The index of one array element; None for the whole job.
        """
        if index is not None:
            native_id = f"{native_id}[{Positions(folder).position(index)}]"
        ran = await self.programs.run("bkill", native_id)
        over = _UNKNOWN.search(ran.complaint) or "already finished" in ran.complaint
        if ran.code != 0 and not over:
            raise self._fault(ran, f"LSF does not cancel job {native_id}")

    async def queues(self) -> list[Queue]:
        """LSF's queues. Its list does not show which nodes belong to a queue."""
        ran = await self.programs.run(*QUEUES)
        if ran.code != 0:
            raise self._fault(ran, "LSF does not say which queues there are")
        return [
            Queue(name=name, state="up" if state == UP else state)
            for name, state in read_queues(ran.out)
        ]

    def _fault(self, ran: ProgramResult, what: str) -> JobError:
        if _SILENT.search(ran.complaint):
            return SchedulerUnavailable(f"LSF does not answer: {ran.complaint}")
        return JobError(f"{what}: {ran.complaint}")


def _options(folder: JobFolder, spec: JobSpec) -> list[str]:
    """The options of ``bsub``; they override the script's directives."""
    # -rn: LSF must not run a job again that lost its host.
    words = ["-J", _name(spec), "-Jd", folder.tag, "-rn", "-cwd", str(spec.folder)]
    words += ["-o", f"{folder.scheduler_log}.%I" if spec.array else str(folder.scheduler_log)]
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


def _name(spec: JobSpec) -> str:
    """The job's name, with the array's indices, or with positions instead of them."""
    name = plain_name(spec.name)
    if spec.array is None:
        return name
    indices = ",".join(map(str, spec.array.spans)) if _sayable(spec) else _positions(spec.array)
    return f"{name}[{indices}]" + (f"%{spec.array.most}" if spec.array.most else "")


def _sayable(spec: JobSpec) -> bool:
    """Whether LSF can represent the array's own indices: from 1, in a short enough list."""
    if spec.array is None:
        return False
    text = f"{plain_name(spec.name)}{spec.array}[]"
    return spec.array.indices[0] > 0 and len(text) <= LONGEST_NAME


def _positions(array: Array) -> str:
    return f"1-{len(array.indices)}" if len(array.indices) > 1 else "1"


def _submitted(said: str) -> str:
    found = re.search(r"^Job <(\d+)> is submitted", said, re.MULTILINE)
    return found[1] if found else ""


def _records(
    job: Submitted, known: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[int | None, JobRecord]:
    limit = _limit(job.folder)
    if not job.ours:
        return {
            None if index == "0" else int(index): _record(facts, limit)
            for (native_id, index), facts in known.items()
            if native_id == job.native_id
        }
    if not job.indices:
        facts = known.get((job.native_id, "0"))
        mine = facts and facts.get("DESCRIPTION") == job.folder.tag
        return {None: _record(facts, limit)} if facts and mine else {}
    positions, found = Positions(job.folder), dict[int | None, JobRecord]()
    for index in job.indices:
        facts = known.get((job.native_id, str(positions.position(index))))
        if facts and facts.get("DESCRIPTION") == job.folder.tag:
            found[index] = _record(facts, limit)
    return found


def _index(job: Mapping[str, Any]) -> str:
    """The index of an array's element; 0 for a job without an array."""
    index = str(job.get("JOBINDEX") or "")
    return index if index.isdecimal() else "0"


def _limit(folder: JobFolder) -> float | None:
    """The requested time limit in seconds, rounded up to whole minutes as LSF does."""
    time = (folder.intent() or {}).get("time")
    return math.ceil(time / 60) * 60.0 if time else None


def _record(job: Mapping[str, Any], limit: float | None) -> JobRecord:
    said, reason = str(job.get("STAT", "")), str(job.get("EXIT_REASON") or "")
    reason = reason.replace("(", "[").replace(")", "]")
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
    return JobRecord(
        state=state,
        said=f"{said}{f', {reason}' if reason else ''}",
        evidence="bjobs",
        words=words,
        exit_code=int(code) if code.isdecimal() else (0 if said == "DONE" else None),
        submitted=_when(job.get("SUBMIT_TIME")),
        started=_when(job.get("START_TIME")),
        ended=_when(job.get("FINISH_TIME")) if said in ("DONE", "EXIT") else None,
        nodes=_hosts(str(job.get("EXEC_HOST") or "")),
        time_limit=limit,
    )


def _hosts(exec_host: str) -> tuple[str, ...]:
    """Each host once: ``4*hostA:2*hostB`` has two."""
    hosts = (re.sub(r"^\d+\*", "", part) for part in exec_host.split(":"))
    return tuple(dict.fromkeys(host for host in hosts if host and host != "-"))


_MONTHS: Final = tuple(calendar.month_abbr)


def _when(value: Any) -> float | None:
    """A local time as LSF writes it, ``Nov 30 06:58``, also without year, in seconds since 1970."""
    found = re.match(r"(\w{3}) +(\d+) (\d+):(\d+)(?::(\d+))?(?: (\d{4}))?", str(value or ""))
    if found is None or found[1] not in _MONTHS:
        return None
    month, now = _MONTHS.index(found[1]), datetime.now().astimezone()
    clock = (int(found[3]), int(found[4]), int(found[5] or 0))
    try:
        when = datetime(int(found[6] or now.year), month, int(found[2]), *clock).astimezone()
        if not found[6] and when > now + timedelta(days=1):
            when = when.replace(year=now.year - 1)
    except ValueError:
        return None
    return when.timestamp()


ADAPTER: Final = Lsf
