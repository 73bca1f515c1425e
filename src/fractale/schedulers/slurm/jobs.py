"""Slurm jobs, by Slurm's own programs.

fractale calls the programs directly. Each submission carries a tag made from the job's key, as its
comment. The output of ``sbatch`` goes to a file, which outlives fractale. The end of a job is read
from ``scontrol``, ``sacct`` or the job-completion file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fractale.errors import JobError, SchedulerUnavailable
from fractale.programs import ProgramResult
from fractale.schedulers.adapter import Answer, JobRecord, Presence, Submitted
from fractale.schedulers.asked import asked_of
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.header import header_of
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.notation import hosts_of, if_written, megabytes, plain_name
from fractale.schedulers.programs import Programs
from fractale.schedulers.request import Array
from fractale.schedulers.slurm.site import PARTITIONS, queue_of, read_partition
from fractale.schedulers.slurm.times import read_time, write_time
from fractale.schedulers.wrapper import write_wrapper

NOTICES: Final[Mapping[str, JobState]] = {
    r"slurmstepd\S*: error: .*\bDUE TO TIME LIMIT\b": "timeout",
    r"(?:slurmstepd\S*|srun): error: .*(?:oom[-_ ]kill|out of memory|"
    r"exceeded (?:job |step )?memory limit)": "out_of_memory",
    r"slurmstepd\S*: error: .*\bDUE TO NODE FAILURE\b": "node_failure",
}
"""Lines in the output of an ended job → the state that they show."""

NOISE: Final = (
    r"srun: (?:Job step aborted|Force Terminated|forcing job termination|Terminating job step)",
    r"srun: error: .*: tasks? [\d,-]+: (?:Terminated|Killed|Exited with exit code \d+)",
    r"slurmstepd\S*: error: \*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ \*\*\*$",
)
"""Lines that are only consequences of an end; the cause is above them."""

AFTER: Final = "sbatch --dependency=afterany:{job} --output=/dev/null --wrap={command}"
"""The command that runs another command after a job."""

COMMENT: Final = "fractale:"
FORM: Final = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
"""Settings for times in seconds since 1970, and for unabbreviated array indices."""

CLUSTER: Final = "cluster"
"""File in a job's directory: the cluster of the job, if ``sbatch`` named one."""

CLOCKS_DIFFER: Final = 60.0
LAST_OF_FILE: Final = 4 * 2**20
KEPT: Final = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"})
"""The ``SLURM_*`` variables to keep; the others describe the job that fractale runs in."""

STATES: Final[Mapping[str, JobState]] = {
    "PENDING": "pending",
    "REQUEUED": "pending",
    "REQUEUE_HOLD": "pending",
    "SPECIAL_EXIT": "pending",
    "RESV_DEL_HOLD": "pending",
    "CONFIGURING": "pending",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "LAUNCH_FAILED": "node_failure",
}
WAITS: Final[Mapping[str, str]] = {
    "None": "has just been submitted",
    "Priority": "waits behind jobs of higher priority",
    "Resources": "waits for nodes, cores or memory to become free",
    "Dependency": "waits for another job",
    "BeginTime": "waits for its begin time",
    "JobArrayTaskLimit": "waits: as many elements of its array run as may at a time",
    "JobHeldUser": "is held, and will not start until it is released (`scontrol release`)",
    "JobHeldAdmin": "is held by an administrator, and will not start until it is released",
    "JobHoldMaxRequeue": "will not start until it is released (`scontrol release`): it was "
    "requeued too often",
    "PartitionDown": "does not start as long as its partition is down",
    "PartitionInactive": "does not start as long as its partition is inactive",
    "PartitionTimeLimit": "will not start: it asks for more time than its partition allows",
    "PartitionNodeLimit": "will not start: it asks for more nodes than its partition has",
    "AssocMaxJobsLimit": "waits: too many jobs of its account run",
    "AssociationJobLimit": "waits: too many jobs of its account run",
    "AssociationTimeLimit": "will not start: it asks for more time than its account may",
    "BadConstraints": "will not start: no node has what it asks for",
    "ReqNodeNotAvail": "waits: a node that it needs is not available",
    "Licenses": "waits for a license",
    "Reservation": "waits for its reservation",
    "NodeDown": "waits: a node that it needs is down",
    "DependencyNeverSatisfied": "will not start: the job that it depends on did not end well",
    "InvalidAccount": "will not start: its account is not valid",
    "InvalidQOS": "will not start: its quality of service is not valid",
}
_SILENT: Final = re.compile(
    r"unable to contact|timed out|connection refused|communication (?:connection )?failure|"
    r"standby mode|zero bytes|can'?t open|socket|unexpected message|slurmctld|"
    r"resource temporarily unavailable|not responding",
    re.IGNORECASE,
)
_UP: Final = re.compile(r"\bUP\b")
_DOWN: Final = re.compile(r"\bDOWN\b|unable to contact", re.IGNORECASE)
CONFIGURATIONS: Final = (
    "/etc/slurm/slurm.conf",
    "/etc/slurm-llnl/slurm.conf",
    "/run/slurm/conf/slurm.conf",
)
_NO_SUCH_JOB: Final = re.compile(r"invalid job id", re.IGNORECASE)
_NO_ARRAY: Final = re.compile(r"invalid job array", re.IGNORECASE)
_NO_ACCOUNTING: Final = re.compile(r"accounting storage is disabled", re.IGNORECASE)
_HELD: Final = re.compile(r"held$|Hold|^JobHeld", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Slurm:
    """A Slurm that this machine can reach."""

    programs: Programs
    name: str = "slurm"
    title: str = "Slurm"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Slurm:
        """The Slurm of an environment, without the variables of a surrounding job."""
        foreign = {"SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_JOB_NAME"}
        return cls(
            Programs(
                {
                    name: value
                    for name, value in environment.items()
                    if name not in foreign and (not name.startswith("SLURM_") or name in KEPT)
                }
            )
        )

    def found(self) -> bool:
        """Whether Slurm's programs are on the PATH."""
        return all(map(self.programs.which, ("sbatch", "scontrol", "squeue")))

    def presence(self) -> Presence:
        """Whether a controller answers ``scontrol ping``."""
        ran = self.programs.glance("scontrol", "ping")
        if _UP.search(ran.out):
            return Presence(answers=True)
        reached = bool(_DOWN.search(ran.out + ran.err))
        if not reached and self.programs.glance("sinfo", "-h").code == 0:
            return Presence(answers=True)
        environment = self.programs.environment
        configured = reached or any(map(environment.get, ("SLURM_CONF", "SLURM_CONF_SERVER")))
        return Presence(
            answers=False,
            configured=configured or any(Path(each).exists() for each in CONFIGURATIONS),
            said=ran.complaint,
        )

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper, which begins with the script's directives."""
        clusters = asked_of(spec, self.name).server
        clusters = clusters or self.programs.environment.get("SLURM_CLUSTERS", "")
        if clusters:
            folder.write(CLUSTER, clusters)
        own = '"$SLURM_JOB_ID"'
        if spec.array is not None:
            own = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"'
        write_wrapper(
            folder,
            spec,
            native_id=own,
            index='"$SLURM_ARRAY_TASK_ID"',
            nodes='"$SLURM_JOB_NODELIST"',
            directives=header_of(spec, self.name),
        )

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Run ``sbatch``."""
        words = ("sbatch", *options(folder, spec), str(folder.wrapper))
        ran = await self.programs.submit(folder, lock, *words)
        if ran.code == 0 and (native_id := _submitted(folder, ran.out)):
            return native_id
        # The controller may have accepted the job before the connection was lost.
        if native_id := await self.find(folder):
            return native_id
        if spec.array is not None and _NO_ARRAY.search(ran.complaint):
            raise await self._too_large(spec.array)
        raise self._fault(ran, "Slurm refused the job")

    async def _too_large(self, array: Array) -> JobError:
        most = (await self._config("MaxArraySize")).get("MaxArraySize", "")
        if most == "0":
            return JobError("Slurm refused the job array: this cluster has no job arrays")
        return JobError(
            f"Slurm refused the job array {array}: its largest index is {array.indices[-1]}, and "
            f"the limit of this cluster is {int(most) - 1 if most.isdecimal() else 'lower'} "
            "(MaxArraySize)",
            hint="split the array: several job steps, each with indices below the limit",
        )

    async def most_elements(self) -> int | None:
        """How many elements an array may have if its indices begin at 1."""
        most = (await self._config("MaxArraySize")).get("MaxArraySize", "")
        return max(int(most) - 1, 0) if most.isdecimal() else None

    async def find(self, folder: JobFolder) -> str | None:
        """Look in the output of ``sbatch``, then at elements that began, then for the tag."""
        if native_id := _submitted(folder, folder.text("submit.out")) or _begun(folder):
            return native_id
        for cluster in _cluster(folder).split(","):
            words = ("squeue", *_on(cluster), "-h", "-a", "-t", "all", "-o", "%F|%k")
            ran = await self.programs.run(*words)
            if ran.code != 0:
                raise self._fault(ran, "Slurm does not list its jobs")
            found = [
                native_id
                for native_id, _, comment in (line.partition("|") for line in ran.out.splitlines())
                if comment.strip() == COMMENT + folder.tag
            ]
            if found:
                if cluster:
                    folder.write(CLUSTER, cluster)
                return found[-1]
        return None

    async def records(self, jobs: Sequence[Submitted]) -> Sequence[Answer]:
        """Read ``scontrol``; for jobs that it has forgotten, ``sacct`` or the job-completion file.

        Each program is called once per cluster, for all jobs.
        """
        answers: list[Answer] = [{} for _ in jobs]
        clusters: dict[str, list[int]] = {}
        for number, job in enumerate(jobs):
            clusters.setdefault(_cluster(job.folder), []).append(number)
        for cluster, numbers in clusters.items():
            try:
                found = await self._records(cluster, [jobs[number] for number in numbers])
            except SchedulerUnavailable as error:
                if len(clusters) == 1:
                    raise
                found = [error] * len(numbers)
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers

    async def _records(self, cluster: str, jobs: Sequence[Submitted]) -> Sequence[Answer]:
        shown = await self._shown(cluster, [job.native_id for job in jobs])
        known = [
            _of_job(job, shown, lambda row, job=job: row.comment == COMMENT + job.folder.tag)
            for job in jobs
        ]
        lost = [
            number
            for number, job in enumerate(jobs)
            if not (known[number] if not job.ours else _has_all(job, known[number]))
        ]
        if not lost:
            return known
        answers: list[Answer] = list(known)
        try:
            ended = await self._ended(cluster, [jobs[number].native_id for number in lost])
        except SchedulerUnavailable as error:
            for number in lost:
                answers[number] = error
            return answers
        for number in lost:
            # A controller that was set up again reuses job ids.
            sent = float((jobs[number].folder.intent() or {}).get("written", 0.0))
            more = _of_job(
                jobs[number],
                ended,
                lambda row, sent=sent: (row.record.submitted or 0) >= sent - CLOCKS_DIFFER,
            )
            answers[number] = {**more, **known[number]}
        return answers

    async def _shown(self, cluster: str, ids: Sequence[str]) -> list[_Row]:
        """The controller's records. ``scontrol`` can show one job or all jobs."""
        one = tuple(ids) if len(ids) == 1 else ()
        words = ("scontrol", *_on(cluster), "-a", "-o", "show", "job", *one)
        ran = await self.programs.run(*words, more=FORM)
        if ran.code != 0:
            if one and _NO_SUCH_JOB.search(ran.complaint):
                return []
            raise self._fault(ran, "Slurm does not answer", silent=True)
        wanted = frozenset(ids)
        return [row for line in ran.out.splitlines() if (row := _shown(line, wanted))]

    async def _ended(self, cluster: str, ids: Sequence[str]) -> list[_Row]:
        """The records of the accounting; without accounting, of the job-completion file.

        Raises:
            SchedulerUnavailable: The accounting exists, but does not answer.
        """
        if self.programs.which("sacct") is not None:
            form = "JobID,State,ExitCode,Submit,Start,End,NodeList,Timelimit"
            words = ("sacct", *_on(cluster), "-n", "-X", "-P", "-j", ",".join(ids), "-o", form)
            ran = await self.programs.run(*words, more=FORM)
            if ran.code == 0:
                if rows := [row for line in ran.out.splitlines() if (row := _accounted(line))]:
                    return rows
            elif not _NO_ACCOUNTING.search(ran.complaint):
                raise SchedulerUnavailable(f"Slurm's accounting does not answer: {ran.complaint}")
        facts = await self._config("JobComp")
        if facts.get("JobCompType") != "jobcomp/filetxt":
            return []
        wanted = frozenset(ids)
        lines = _end_of(Path(facts.get("JobCompLoc", "")))
        return [row for line in lines if (row := _completed(line, wanted))]

    async def _config(self, beginning: str) -> dict[str, str]:
        """The entries of Slurm's configuration with this prefix; empty if it cannot be read."""
        ran = await self.programs.run("scontrol", "show", "config")
        return dict(re.findall(rf"^({beginning}\w*)\s*= (\S+)", ran.out, re.MULTILINE))

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Run ``scancel``, for all elements of an array. A job unknown to Slurm has ended."""
        ran = await self.programs.run("scancel", *_on(_cluster(folder)), native_id)
        if ran.code != 0 and not re.search(
            r"invalid job id|already completing", ran.complaint, re.I
        ):
            raise self._fault(ran, f"Slurm does not cancel job {native_id}")

    async def queues(self) -> list[Queue]:
        """Slurm's partitions."""
        ran = await self.programs.run("sinfo", "-h", "-o", PARTITIONS)
        if ran.code != 0:
            raise self._fault(ran, "Slurm does not say which partitions there are")
        return [queue_of(row) for line in ran.out.splitlines() if (row := read_partition(line))]

    def _fault(self, ran: ProgramResult, what: str, *, silent: bool = False) -> JobError:
        if silent or _SILENT.search(ran.complaint):
            return SchedulerUnavailable(f"Slurm does not answer: {ran.complaint}")
        return JobError(f"{what}: {ran.complaint}")


def options(folder: JobFolder, spec: JobSpec) -> list[str]:
    """The options of ``sbatch`` for a job; they override the script's directives."""
    # Slurm does not requeue a job that lost its node: the plan decides whether to repeat it.
    log = _literal(folder.scheduler_log) + (".%a" if spec.array else "")
    said = [
        "--parsable",
        "--no-requeue",
        "--export=ALL",
        f"--job-name={plain_name(spec.name)}",
        f"--comment={COMMENT}{folder.tag}",
        f"--output={log}",
        f"--error={log}",
        "--open-mode=append",
        f"--chdir={spec.folder}",
    ]
    seconds = asked_of(spec, "slurm").seconds
    given = {
        "nodes": spec.nodes,
        "ntasks": spec.tasks,
        "cpus-per-task": spec.cores_per_task,
        "gpus-per-task": spec.gpus_per_task,
        "mem": f"{megabytes(spec.memory)}M" if spec.memory else None,
        # Also set if the script sets it: SBATCH_TIMELIMIT would override the script.
        "time": write_time(math.ceil(seconds)) if seconds and math.isfinite(seconds) else None,
        "partition": spec.queue,
        "account": spec.account,
        "array": spec.array,
    }
    return said + [f"--{name}={value}" for name, value in given.items() if value is not None]


def _literal(path: Path) -> str:
    """A path with its ``%`` escaped for Slurm's file name patterns."""
    return str(path).replace("%", "%%")


def _submitted(folder: JobFolder, said: str) -> str:
    """The id in the output of ``sbatch --parsable``: ``ID`` or ``ID;CLUSTER``.

    A cluster's name is written to the job's directory.
    """
    found = re.search(r"^(\d+)(?:;(\S+))?$", said, re.MULTILINE)
    if found is None or not said.endswith("\n"):
        return ""
    if found[2] and found[2] != _cluster(folder):
        folder.write(CLUSTER, found[2])
    return found[1]


def _begun(folder: JobFolder) -> str:
    """The id of an array, from an element that recorded its start."""
    for path in folder.path.glob("elements/*/started"):
        if started := JobFolder(path.parent).started():
            return started.native_id.partition("_")[0]
    return ""


def _cluster(folder: JobFolder) -> str:
    """The name of the job's cluster; empty for the default cluster."""
    return folder.text(CLUSTER).strip()


def _on(cluster: str) -> tuple[str, ...]:
    return ("-M", cluster) if cluster else ()


def _field(line: str, name: str) -> str:
    found = re.search(rf"(?:^|\s){name}=(\S*)", line)
    return found[1] if found else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A record of Slurm.

    Args:
        native_id: The id of the job, or of the array.
        indices: The array indices that the record covers; ``(None,)`` for a job without an array.
    """

    native_id: str
    indices: tuple[int | None, ...]
    record: JobRecord
    comment: str = ""


def _has_all(job: Submitted, records: Mapping[int | None, JobRecord]) -> bool:
    return set(job.indices or (None,)) <= records.keys()


def _of_job(
    job: Submitted, rows: Sequence[_Row], is_its: Callable[[_Row], bool]
) -> dict[int | None, JobRecord]:
    """The rows of one job by index; the last row of an index counts."""
    if not job.ours:
        mine = [row for row in rows if row.native_id == job.native_id]
        return {index: row.record for row in mine for index in row.indices}
    wanted = set(job.indices or (None,))
    return {
        index: row.record
        for row in rows
        if row.native_id == job.native_id and is_its(row)
        for index in row.indices
        if index in wanted
    }


def _shown(line: str, wanted: frozenset[str]) -> _Row | None:
    """The record in a line of ``scontrol show job``, if it is about one of these jobs."""
    native_id = _field(line, "ArrayJobId") or _field(line, "JobId")
    if native_id not in wanted:
        return None
    times = (_field(line, "SubmitTime"), _field(line, "StartTime"), _field(line, "EndTime"))
    record = _record(
        _field(line, "JobState"),
        _field(line, "ExitCode"),
        "scontrol",
        times,
        _field(line, "NodeList"),
        reason=_field(line, "Reason"),
        limit=_field(line, "TimeLimit"),
    )
    return _Row(
        native_id=native_id,
        indices=_indices(_field(line, "ArrayTaskId")),
        record=record,
        comment=_field(line, "Comment"),
    )


def _accounted(line: str) -> _Row | None:
    """The record in a line of ``sacct``: about ``4711``, ``4711_7`` or ``4711_[8-20%5]``."""
    name, *cells = line.split("|")
    if len(cells) < 6:
        return None
    state, code, sent, start, end, nodes, *limit = cells
    native_id, _, index = name.partition("_")
    record = _record(state, code, "sacct", (sent, start, end), nodes, limit="".join(limit))
    return _Row(native_id=native_id, indices=_indices(index.strip("[]")), record=record)


def _completed(line: str, wanted: frozenset[str]) -> _Row | None:
    """The record in a line of the job-completion file, if it is about one of these jobs."""
    native_id = _field(line, "ArrayJobId") or _field(line, "JobId")
    if native_id not in wanted:
        return None
    times = [_when_local(_field(line, f"{name}Time")) for name in ("Submit", "Start", "End")]
    sent, start, end = (str(int(when)) if when else "" for when in times)
    record = _record(
        _field(line, "JobState"),
        _field(line, "ExitCode"),
        "job-completion file",
        (sent, start, end),
        _field(line, "NodeList"),
    )
    return _Row(native_id=native_id, indices=_indices(_field(line, "ArrayTaskId")), record=record)


def _indices(text: str) -> tuple[int | None, ...]:
    """``4-6%3`` as indices; ``(None,)`` if the text has none."""
    if not text or text == "N/A":
        return (None,)
    try:
        return Array.parse(text).indices
    except ValueError:
        return ()


def _record(
    said: str,
    exit_code: str,
    evidence: str,
    times: tuple[str, str, str],
    nodes: str,
    reason: str = "",
    limit: str = "",
) -> JobRecord:
    """A record from Slurm's fields; `times` are of submission, start and end."""
    word = (said.split("+")[0].split() or [""])[0]
    state: JobState = STATES.get(word, "unknown")
    code, _, number = exit_code.partition(":")
    return JobRecord(
        state=state,
        said=reason if state == "pending" and reason else said,
        evidence=evidence,
        words=_words(state, said, reason),
        exit_code=int(code) if code.isdecimal() else None,
        signal=int(number) if number.isdecimal() and number != "0" else None,
        submitted=_when(times[0]),
        started=_when(times[1]) if state != "pending" else None,
        ended=_when(times[2]) if state not in ("pending", "running") else None,
        nodes=_names(nodes) if state != "pending" else (),
        time_limit=if_written(read_time, limit),
    )


def _words(state: JobState, said: str, reason: str) -> str:
    if state == "pending":
        word = reason.rstrip(",").split(",")[0]
        known = WAITS.get(word)
        if known is None and _HELD.search(word):
            why = ": its launch failed" if "failed" in word else ""
            known = f"will not start until it is released (`scontrol release`){why}"
        if known is None and reason.startswith("QOS"):
            known = "waits: its quality of service has reached a limit"
        return known or ""
    if said.startswith("SUSPENDED"):
        return "is suspended"
    if said.startswith("PREEMPTED"):
        return "was preempted by another job"
    if state == "cancelled" and (found := re.search(r"by (\d+)", said)):
        return f"was cancelled by {_user(int(found[1]))}"
    return ""


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}" + (" (you)" if uid == os.getuid() else "")
    except KeyError:
        return f"user {uid}"


def _names(nodes: str) -> tuple[str, ...]:
    return () if nodes in ("", "(null)", "None assigned") else hosts_of(nodes)


def _when(text: str) -> float | None:
    return float(text) if text.isdecimal() and int(text) > 0 else None


def _when_local(text: str) -> float | None:
    """A time of the job-completion file: local, without a time zone."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _end_of(path: Path) -> list[str]:
    """The last lines of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_OF_FILE))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


ADAPTER: Final = Slurm
