"""Slurm, by its own programs.

They are called directly: what is submitted carries a tag made from the job's key (its comment),
what ``sbatch`` says goes to a file even when nobody is left to read it, and the end of a job is
read from ``scontrol``, ``sacct`` or the job-completion file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fractale.errors import JobError, SchedulerUnavailable
from fractale.schedulers.adapter import Record, Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.names import directives_of, plain_name
from fractale.schedulers.programs import Programs, Ran
from fractale.schedulers.sizes import megabytes
from fractale.schedulers.slurm.times import read_time, write_time
from fractale.schedulers.wrapper import write_wrapper

COMMENT: Final = "fractale:"
EPOCH: Final = {"SLURM_TIME_FORMAT": "%s"}
LAST_OF_FILE: Final = 4 * 2**20
KEPT: Final = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"})
"""Of the environment's ``SLURM_*``; the rest is of the job that we are in ourselves."""

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
    "JobHeldUser": "is held, and does not start until it is released (`scontrol release`)",
    "JobHeldAdmin": "is held by an administrator",
    "PartitionDown": "does not start as long as its partition is down",
    "PartitionInactive": "does not start as long as its partition is inactive",
    "PartitionTimeLimit": "will not start: it asks for more time than its partition allows",
    "PartitionNodeLimit": "will not start: it asks for more nodes than its partition has",
    "AssocMaxJobsLimit": "waits: too many jobs of its account run",
    "AssociationJobLimit": "waits: too many jobs of its account run",
    "AssociationTimeLimit": "will not start: it asks for more time than its account may",
    "BadConstraints": "will not start: no node has what it asks for",
    "ReqNodeNotAvail": "waits: a node that it needs is not available",
    "Licenses": "waits for a licence",
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
_NO_SUCH_JOB: Final = re.compile(r"invalid job id", re.IGNORECASE)
_ARRAYS: Final = (r"\s(?:--array\b|-a\b)", r"\s--wait\b", r"\s-W\b")


@dataclass(frozen=True, slots=True)
class Slurm:
    """A Slurm that this machine reaches."""

    programs: Programs
    name: str = "slurm"
    title: str = "Slurm"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Slurm:
        """The Slurm of an environment; what that says of a job around us is left out."""
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
        """Whether its programs are on the PATH."""
        return all(map(self.programs.which, ("sbatch", "scontrol", "squeue")))

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper, with the script's directives at its head."""
        directives = directives_of(spec.script, "#SBATCH", refused=_ARRAYS)
        write_wrapper(folder, spec, native_id='"$SLURM_JOB_ID"', directives=directives)

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Run ``sbatch``."""
        words = ("sbatch", *options(folder, spec), str(folder.wrapper))
        ran = await self.programs.submit(folder, lock, *words)
        if ran.code == 0 and (native_id := _submitted(ran.out)):
            return native_id
        # It may have taken the job before it lost the connection.
        if native_id := await self.find(folder):
            return native_id
        raise self._fault(ran, "Slurm refused the job")

    async def find(self, folder: JobFolder) -> str | None:
        """By what ``sbatch`` said, else by the tag among all jobs that Slurm still knows."""
        if native_id := _submitted(folder.text("submit.out")):
            return native_id
        ran = await self.programs.run("squeue", "-h", "-a", "-t", "all", "-o", "%A|%k")
        if ran.code != 0:
            raise self._fault(ran, "Slurm does not list its jobs")
        found = [
            native_id
            for native_id, _, comment in (line.partition("|") for line in ran.out.splitlines())
            if comment.strip() == COMMENT + folder.tag
        ]
        return found[-1] if found else None

    async def records(self, jobs: Sequence[Submitted]) -> list[Mapping[int | None, Record]]:
        """What it says about each."""
        found = [await self._record(job.folder, job.native_id, ours=job.ours) for job in jobs]
        return [{None: record} if record else {} for record in found]

    async def _record(self, folder: JobFolder, native_id: str, *, ours: bool) -> Record | None:
        """What ``scontrol`` says; of a job that it has forgotten, ``sacct`` or the file of ends."""
        ran = await self.programs.run("scontrol", "-o", "show", "job", native_id, more=EPOCH)
        if ran.code == 0:
            if not ours or _field(ran.out, "Comment") == COMMENT + folder.tag:
                return _shown(ran.out)
            # A controller that was set up anew counts from 1 again.
        elif not _NO_SUCH_JOB.search(ran.complaint):
            raise self._fault(ran, "Slurm does not answer", silent=True)
        submitted = (folder.intent() or {}).get("written", 0.0)
        return await self._accounted(native_id, submitted) or await self._completed(
            native_id, submitted
        )

    async def _accounted(self, native_id: str, submitted: float) -> Record | None:
        """What the accounting says, where there is one."""
        if self.programs.which("sacct") is None:
            return None
        form = "State,ExitCode,Submit,Start,End,NodeList"
        ran = await self.programs.run(
            "sacct", "-n", "-X", "-P", "-j", native_id, "-o", form, more=EPOCH
        )
        rows = [line.split("|") for line in ran.out.splitlines() if line.count("|") == 5]
        if ran.code != 0 or not rows:
            return None
        state, code, sent, start, end, nodes = rows[-1]
        if (_when(sent) or 0) < submitted - 60:
            return None
        return _record(state, code, "sacct", (sent, start, end), nodes)

    async def _completed(self, native_id: str, submitted: float) -> Record | None:
        """What the job-completion file says, where there is one that we may read."""
        ran = await self.programs.run("scontrol", "show", "config")
        facts = dict(re.findall(r"^(JobComp\w+)\s*= (\S+)", ran.out, re.MULTILINE))
        if facts.get("JobCompType") != "jobcomp/filetxt":
            return None
        for line in reversed(_end_of(Path(facts.get("JobCompLoc", "")))):
            if _field(line, "JobId") == native_id:
                times = [
                    _when_local(_field(line, f"{name}Time")) for name in ("Submit", "Start", "End")
                ]
                if (times[0] or 0) < submitted - 60:
                    return None
                state, code = _field(line, "JobState"), _field(line, "ExitCode")
                shown = [str(int(when)) if when else "" for when in times]
                return _record(
                    state,
                    code,
                    "job-completion file",
                    (shown[0], shown[1], shown[2]),
                    _field(line, "NodeList"),
                )
        return None

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Run ``scancel``; a job that it does not know has ended."""
        ran = await self.programs.run("scancel", native_id)
        if ran.code != 0 and not re.search(
            r"invalid job id|already completing", ran.complaint, re.I
        ):
            raise self._fault(ran, f"Slurm does not cancel job {native_id}")

    async def queues(self) -> list[Queue]:
        """Its partitions."""
        ran = await self.programs.run("sinfo", "-h", "-o", "%P|%a|%l|%F|%c|%m|%G")
        if ran.code != 0:
            raise self._fault(ran, "Slurm does not say which partitions there are")
        rows = [line.split("|") for line in ran.out.splitlines()]
        return [_queue(row) for row in rows if len(row) == 7]

    def _fault(self, ran: Ran, what: str, *, silent: bool = False) -> JobError:
        if silent or _SILENT.search(ran.complaint):
            return SchedulerUnavailable(f"Slurm does not answer: {ran.complaint}")
        return JobError(f"{what}: {ran.complaint}")


def options(folder: JobFolder, spec: JobSpec) -> list[str]:
    """The options of ``sbatch`` for a job; they count more than the script's own."""
    # A job that lost its node is not begun again by Slurm: whether that is right, the plan says.
    said = [
        "--parsable",
        "--no-requeue",
        "--export=ALL",
        f"--job-name={plain_name(spec.name)}",
        f"--comment={COMMENT}{folder.tag}",
        f"--output={_literal(folder.scheduler_log)}",
        f"--error={_literal(folder.scheduler_log)}",
        "--open-mode=append",
        f"--chdir={spec.folder}",
    ]
    given = {
        "nodes": spec.nodes,
        "ntasks": spec.tasks,
        "cpus-per-task": spec.cores_per_task,
        "gpus-per-task": spec.gpus_per_task,
        "mem": f"{megabytes(spec.memory)}M" if spec.memory else None,
        "time": write_time(math.ceil(spec.time)) if spec.time else None,
        "partition": spec.queue,
        "account": spec.account,
    }
    return said + [f"--{name}={value}" for name, value in given.items() if value is not None]


def _literal(path: Path) -> str:
    """A path in which Slurm sees no patterns of its own."""
    return str(path).replace("%", "%%")


def _submitted(said: str) -> str:
    """The id in what ``sbatch --parsable`` said: ``ID`` or ``ID;CLUSTER``."""
    found = re.search(r"^(\d+)(?:;\S+)?$", said, re.MULTILINE)
    return found[1] if found and said.endswith("\n") else ""


def _field(line: str, name: str) -> str:
    found = re.search(rf"(?:^|\s){name}=(\S*)", line)
    return found[1] if found else ""


def _shown(line: str) -> Record:
    """What a line of ``scontrol show job`` says."""
    times = (_field(line, "SubmitTime"), _field(line, "StartTime"), _field(line, "EndTime"))
    return _record(
        _field(line, "JobState"),
        _field(line, "ExitCode"),
        "scontrol",
        times,
        _field(line, "NodeList"),
        reason=_field(line, "Reason"),
    )


def _record(
    said: str,
    exit_code: str,
    evidence: str,
    times: tuple[str, str, str],
    nodes: str,
    reason: str = "",
) -> Record:
    """A record from Slurm's words; `times` are of submission, start and end."""
    word = (said.split("+")[0].split() or [""])[0]
    state: JobState = STATES.get(word, "unknown")
    code, _, number = exit_code.partition(":")
    return Record(
        state=state,
        said=reason if state == "pending" and reason else said,
        evidence=evidence,
        words=_words(state, said, reason),
        exit_code=int(code) if code.isdecimal() else None,
        signal=int(number) if number.isdecimal() and number != "0" else None,
        submitted=_when(times[0]),
        started=_when(times[1]) if state != "pending" else None,
        ended=_when(times[2]) if state not in ("pending", "running") else None,
        nodes=tuple(name for name in _names(nodes) if state != "pending"),
    )


def _words(state: JobState, said: str, reason: str) -> str:
    if state == "pending":
        known = WAITS.get(reason.rstrip(",").split(",")[0])
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


def _names(nodes: str) -> list[str]:
    """A list of nodes, its brackets left as they are: ``n[1-3],m7`` are two."""
    if nodes in ("", "(null)", "None assigned"):
        return []
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes)


def _when(text: str) -> float | None:
    return float(text) if text.isdecimal() and int(text) > 0 else None


def _when_local(text: str) -> float | None:
    """A time as the job-completion file has it: local, without a zone."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _end_of(path: Path) -> list[str]:
    """The last lines of a file; none of one that we may not read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_OF_FILE))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _queue(row: list[str]) -> Queue:
    name, up, limit, by_state, cores, memory, gres = row
    counts = [int(count) if count.isdecimal() else None for count in by_state.split("/")]
    found = re.search(r"\bgpu(?::[A-Za-z][\w.-]*)?(?::(\d+))?(?=[(,]|$)", gres)
    return Queue(
        name=name.rstrip("*"),
        default=name.endswith("*"),
        state=up,
        time_limit=_limit(limit),
        nodes=counts[-1],
        nodes_idle=counts[1] if len(counts) == 4 else None,
        cores_per_node=_figure(cores),
        memory=(_figure(memory) or 0) * 2**20 or None,
        gpus=int(found[1] or 1) if found else None,
    )


def _limit(text: str) -> float | None:
    try:
        return read_time(text)
    except ValueError:
        return None


def _figure(text: str) -> int | None:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None
