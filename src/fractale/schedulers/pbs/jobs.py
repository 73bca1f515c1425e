"""Jobs of PBS Professional and OpenPBS, by PBS's own programs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from fractale.errors import JobError, SchedulerUnavailable
from fractale.programs import ProgramResult
from fractale.schedulers.adapter import JobRecord, Presence, Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.header import header_of
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.notation import if_written, megabytes
from fractale.schedulers.pbs.site import QUEUES, read_queues, table_in
from fractale.schedulers.pbs.times import read_time, write_time
from fractale.schedulers.positions import Positions, index_word, write_positions
from fractale.schedulers.programs import Programs
from fractale.schedulers.request import Array
from fractale.schedulers.wrapper import write_wrapper

NOTICES: Final[Mapping[str, JobState]] = {
    r"=>> PBS: job killed: (?:walltime|cput) \d+ exceeded limit": "timeout",
    r"=>> PBS: job killed: v?mem \S+ exceeded limit": "out_of_memory",
}
"""Lines in the output of an ended job → the state that they show."""

NOISE: Final = ()
"""Lines that are only consequences of an end; the cause is above them."""

# PBS starts programs without a PATH and in the home directory, so the command has its own `cd`.
AFTER: Final = "echo {command} | qsub -W depend=afterany:{job} -j oe -o /dev/null"
"""The command that runs another command after a job."""

MOST_IDS: Final = 500
"""How many jobs one call of ``qstat`` may name."""

INTERACTIVE: Final = (r"-I\b",)

_SILENT: Final = re.compile(
    r"cannot connect|connection refused|timed out|no permission to connect|15034|111\b|"
    r"server (?:is )?(?:down|busy)",
    re.IGNORECASE,
)
_UNKNOWN: Final = re.compile(
    r"unknown job id|has finished|not configured to maintain job history", re.IGNORECASE
)
"""Messages for a job that PBS does not know. A new server keeps no history of ended jobs."""

STATES: Final[Mapping[str, JobState]] = {
    "Q": "pending",
    "H": "pending",
    "W": "pending",
    "T": "pending",
    "M": "pending",
    "R": "running",
    "E": "running",
    "S": "running",
    "U": "running",
    "B": "running",
}
OVER: Final = frozenset({"F", "X"})
DELETED: Final = 91
"""The substate of a deleted job; its `Exit_status` may be 0."""

ENDS: Final[Mapping[int, JobState]] = {
    **dict.fromkeys((-4, -5, -6, -20, -30), "node_failure"),
    **dict.fromkeys((-26, -27), "out_of_memory"),
    **dict.fromkeys((-28, -29), "timeout"),
}
"""PBS's own exit statuses: for jobs lost with a node, and jobs that exceeded their request."""

TOO_MANY_CORES: Final = frozenset({-24, -25})

WAITS: Final[Mapping[str, str]] = {
    r"can never run": "will not start: PBS says that it can never run",
    r"queue not started": "does not start as long as its queue is stopped",
    r"dedicated time": "waits: it would run into dedicated time",
    r"prime": "waits for prime or non-prime time",
    r"reservation|top job|strict sorted order": "waits behind jobs of higher priority",
    r"has reached|limit (?:has been )?reached|would exceed": "waits: a limit is reached on what "
    "may run at a time",
    r"insufficient|not enough|too few|no available resources|node|nodes|fit in": "waits for "
    "nodes, cores or memory to become free",
}
"""Text in PBS's comment on a queued job → why it waits. The first match counts."""


@dataclass(frozen=True, slots=True)
class Pbs:
    """A PBS server that this machine can reach."""

    programs: Programs
    name: str = "pbs"
    title: str = "PBS"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Pbs:
        return cls(Programs(dict(environment)))

    def found(self) -> bool:
        """Whether PBS's programs are on the PATH. Other schedulers have only some of them."""
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
        """Write the wrapper, which begins with the script's directives."""
        index = '"$PBS_ARRAY_INDEX"'
        if spec.array and _range(spec.array) is None:
            write_positions(folder, spec.array)
            index = index_word("PBS_ARRAY_INDEX")
        write_wrapper(
            folder,
            spec,
            native_id='"$PBS_JOBID"',
            index=index,
            nodes='"$(sort -u "$PBS_NODEFILE" 2>/dev/null | tr "\\n" ,)"',
            directives=header_of(spec, "pbs", refused=INTERACTIVE),
        )

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
        """Look in the output of ``qsub``, then for the job's name, which is the tag."""
        if native_id := _submitted(folder.text("submit.out")):
            return native_id
        for history in ((), ("-x",)):
            ran = await self.programs.run("qselect", *history, "-N", folder.tag)
            if ran.code != 0 and not _UNKNOWN.search(ran.complaint):
                raise self._fault(ran, "PBS does not list its jobs")
            if ran.out.split():
                return ran.out.split()[-1]
        return None

    async def records(self, jobs: Sequence[Submitted]) -> list[Mapping[int | None, JobRecord]]:
        """Read ``qstat``; for jobs that it does not list, PBS's history, if there is one."""
        known = await self._shown([job.native_id for job in jobs])
        missing = [job.native_id for job in jobs if _number(job.native_id) not in known]
        known |= await self._shown(missing, "-x")
        return [_records(job, known) for job in jobs]

    async def _shown(self, ids: Sequence[str], *history: str) -> dict[str, dict[str, Any]]:
        """The facts of jobs and array elements, by number: ``12``, ``12[]``, ``12[3]``.

        Jobs that PBS does not know are left out.

        Raises:
            SchedulerUnavailable: The output is unreadable, or PBS did not answer for every job.
        """
        shown: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), MOST_IDS):
            some = ids[start : start + MOST_IDS]
            ran = await self.programs.run("qstat", *history, "-t", "-f", "-F", "json", *some)
            unknown = [line for line in ran.err.splitlines() if _UNKNOWN.search(line)]
            try:
                found = table_in(ran.out, "Jobs")
            except ValueError as error:
                if ran.code == 0 and not unknown:
                    raise SchedulerUnavailable(f"`qstat` did not list jobs: {error}") from error
                found = {}
            shown |= {_number(native_id): facts for native_id, facts in found.items()}
            # The lines may include a site's own warnings, so each job is checked by its id.
            unanswered = (
                native_id
                for native_id in some
                if _number(native_id) not in shown
                and not any(native_id in line for line in unknown)
            )
            if ran.code != 0 and any(unanswered):
                raise SchedulerUnavailable(f"PBS does not answer: {ran.complaint}")
        return shown

    async def cancel(self, folder: JobFolder, native_id: str, index: int | None = None) -> None:
        """Run ``qdel``.

        Args:
            index: The index of one array element; None for the whole job.
        """
        if index is not None:
            position = Positions(folder).position(index)
            native_id = native_id.replace("[]", f"[{position}]", 1)
        ran = await self.programs.run("qdel", native_id)
        if ran.code != 0 and not _UNKNOWN.search(ran.complaint):
            raise self._fault(ran, f"PBS does not cancel job {native_id}")

    async def queues(self) -> list[Queue]:
        """PBS's queues. PBS does not report which nodes belong to a queue."""
        ran = await self.programs.run(*QUEUES)
        if ran.code != 0:
            raise self._fault(ran, "PBS does not say which queues there are")
        try:
            found = read_queues(ran.out)
        except ValueError as error:
            raise SchedulerUnavailable(f"`qstat` did not list queues: {error}") from error
        return [
            Queue(
                name=queue.name,
                time_limit=queue.time_limit,
                state="up" if queue.up else "stopped",
            )
            for queue in found
        ]

    def _fault(self, ran: ProgramResult, what: str) -> JobError:
        if _SILENT.search(ran.complaint):
            return SchedulerUnavailable(f"PBS does not answer: {ran.complaint}")
        return JobError(f"{what}: {ran.complaint}")


def _options(folder: JobFolder, spec: JobSpec) -> list[str]:
    """The options of ``qsub``; they override the script's directives."""
    words = ["-N", folder.tag, "-j", "oe"]
    if spec.array:
        # PBS refuses an array that it may not run again.
        words += [
            "-r",
            "y",
            "-J",
            _array(spec.array),
            "-o",
            f"{folder.scheduler_log}.^array_index^",
        ]
    else:
        # PBS must not run a job again that lost its node.
        words += ["-r", "n", "-o", str(folder.scheduler_log)]
    if select := _select(spec):
        words += ["-l", select]
    if spec.time:
        words += ["-l", f"walltime={write_time(spec.time)}"]
    if spec.queue:
        words += ["-q", spec.queue]
    if spec.account:
        words += ["-A", spec.account]
    return words


def _array(array: Array) -> str:
    """An array for ``-J``: its indices if one range represents them, else positions."""
    most = f"%{array.most}" if array.most else ""
    return (_range(array) or _pair(1, len(array.indices))) + most


def _range(array: Array) -> str | None:
    """The array as one PBS range; None if one range cannot represent it."""
    if len(array.spans) != 1:
        return None
    span = array.spans[0]
    last = list(span)[-1]
    return _pair(span.first, last) if span.step == 1 or span.first == last else str(span)


def _pair(first: int, last: int) -> str:
    """A range, which needs two ends. For one index, the step excludes the second end."""
    return f"{first}-{last}" if last > first else f"{first}-{first + 1}:2"


def _select(spec: JobSpec) -> str:
    """The nodes as PBS's chunks; empty if the job has no request for them."""
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


def _submitted(said: str) -> str:
    found = re.search(r"^(\d+[^\s]*)$", said, re.MULTILINE)
    return found[1] if found and said.endswith("\n") else ""


def _number(native_id: str) -> str:
    """A job's id without the server, whose name may differ between outputs."""
    return native_id.partition(".")[0]


def _records(job: Submitted, known: Mapping[str, dict[str, Any]]) -> dict[int | None, JobRecord]:
    number = _number(job.native_id)
    whole = known.get(number)
    if whole is None or (job.ours and whole.get("Job_Name") != job.folder.tag):
        return {}
    if not job.ours or not number.endswith("[]"):
        return {None: _record(whole)}
    positions, found = Positions(job.folder), dict[int | None, JobRecord]()
    for index in job.indices:
        facts = known.get(f"{number[:-1]}{positions.position(index)}]")
        # PBS shows the array's exit status for an ended element without its own record.
        if facts and (facts.get("job_state") not in OVER or "array_id" in facts):
            found[index] = _record(facts)
    return found


def _record(job: Mapping[str, Any]) -> JobRecord:
    letter, status = str(job.get("job_state", "")), job.get("Exit_status")
    comment = str(job.get("comment", "")).replace("(", "[").replace(")", "]")
    over = letter in OVER
    state: JobState = _end(job, comment) if over else STATES.get(letter, "unknown")
    code = status if over and isinstance(status, int) else None
    limits = job.get("Resource_List")
    ran = job.get("exec_host") is not None
    return JobRecord(
        state=state,
        said=f"{letter}{f', {comment}' if comment else ''}",
        evidence="qstat",
        words=_end_words(status) if over else _words(letter, comment, dependent="depend" in job),
        # PBS adds 256 to the signal that ended the script.
        exit_code=code if ran and code is not None and 0 <= code < 256 else None,
        signal=code - 256 if code is not None and code > 256 else None,
        submitted=_when(job.get("qtime")),
        started=_when(job.get("stime")) if ran else None,
        ended=(_when(job.get("history_timestamp")) or _when(job.get("mtime"))) if over else None,
        nodes=_hosts(str(job.get("exec_host", ""))),
        time_limit=if_written(read_time, limits.get("walltime"))
        if isinstance(limits, dict)
        else None,
    )


def _hosts(exec_host: str) -> tuple[str, ...]:
    """Each host once: ``n1/0*4+n2/0*4`` has two."""
    hosts = (part.partition("/")[0] for part in exec_host.split("+"))
    return tuple(dict.fromkeys(host for host in hosts if host))


def _end(job: Mapping[str, Any], comment: str) -> JobState:
    status = job.get("Exit_status")
    if isinstance(status, int) and status < 0:
        return ENDS.get(status, "failed")
    if job.get("substate") == DELETED or "terminated" in comment or status is None:
        return "cancelled"
    # 271 is 256 + SIGTERM, the signal of `qdel`.
    if status == 271:
        return "cancelled"
    return "completed" if status == 0 else "failed"


def _end_words(status: Any) -> str:
    """The meaning of PBS's own exit status, if the state does not show it."""
    if not isinstance(status, int) or status >= 0 or status in ENDS:
        return ""
    if status in TOO_MANY_CORES:
        return "used more cores than it had asked for, and was ended"
    return f"could not be run by PBS: its Exit_status is {status}"


def _words(letter: str, comment: str, *, dependent: bool) -> str:
    if letter == "H":
        if dependent:
            return "waits for another job"
        return "is held, and does not start until it is released (`qrls`)"
    if letter == "W":
        return "waits for its begin time"
    if letter in ("S", "U"):
        return "is suspended"
    if letter != "Q":
        return ""
    said = (words for pattern, words in WAITS.items() if re.search(pattern, comment, re.IGNORECASE))
    return next(said, "waits for its turn")


def _when(value: Any) -> float | None:
    """A time in PBS's format, which is in its time zone, in seconds since 1970; else None."""
    if isinstance(value, int):
        return float(value)
    try:
        return datetime.strptime(str(value), "%a %b %d %H:%M:%S %Y").timestamp()
    except ValueError:
        return None


ADAPTER: Final = Pbs
