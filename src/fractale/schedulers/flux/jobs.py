"""Flux jobs, by Flux's Python bindings (`side`) and its own programs."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fractale.errors import JobError, SchedulerUnavailable
from fractale.private import touch_private
from fractale.programs import ProgramResult
from fractale.schedulers.adapter import Answer, JobRecord, Presence, Submitted
from fractale.schedulers.asked import asked_of, script_of
from fractale.schedulers.flux import side
from fractale.schedulers.flux.site import QUEUE_NODES, QUEUES, queues_of
from fractale.schedulers.folder import JobFolder, disk
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.notation import hosts_of, plain_name
from fractale.schedulers.programs import Programs
from fractale.schedulers.wrapper import write_wrapper

NOTICES: Final[Mapping[str, JobState]] = {
    r"job\.exception \S+ type=timeout": "timeout",
}
"""Lines in the output of an ended job → the state that they show."""

NOISE: Final = (
    r"flux-job: task\(s\) exited with exit code",
    r"flux-job: task\(s\) (?:Terminated|Killed|Hangup)",
)
"""Lines that are only consequences of an end; the cause is above them."""

AFTER: Final = "flux submit --dependency=afterany:{job} sh -c {command}"
"""The command that runs another command after a job."""

MOST_BYTES: Final = 16 * 2**20
IN_JOB: Final = '"${FLUX_JOB_ID:-$(flux getattr jobid 2>/dev/null)}"'
OF_FLUX_PYTHON: Final = ("PATH", "PYTHONPATH", "MANPATH", "LUA_PATH", "LUA_CPATH")
"""Variables that ``flux python`` sets for its own programs."""

REQUEST: Final = "flux.json"
"""File in a job's directory: the request that the side program submits."""

_NO_PYTHON: Final = re.compile(
    r"`?python'? is not a flux command|No such file or directory: .*python"
)
ASKED: Final = {
    "nodes": "nodes",
    "tasks": "tasks",
    "cores_per_task": "cores_per_task",
    "gpus_per_task": "gpus_per_task",
    "seconds": "time",
    "queues": "queue",
    "account": "account",
}
"""Fields that Flux supports: field of a `Request` → its name in the side program."""

HARMLESS: Final = frozenset({"name", "output", "error", "join"})
RESULTS: Final[Mapping[str, JobState]] = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELED": "cancelled",
    "TIMEOUT": "timeout",
}
WAITS: Final = {
    "DEPEND": "waits for another job",
    "PRIORITY": "waits for its priority",
    "SCHED": "waits for nodes or cores to become free",
}


@dataclass(frozen=True, slots=True)
class Flux:
    """The Flux instance that this process runs in."""

    programs: Programs
    name: str = "flux"
    title: str = "Flux"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Flux:
        return cls(Programs(dict(environment)))

    def found(self) -> bool:
        """Whether FLUX_URI names an instance, or the program ``flux`` is on the PATH."""
        inside = bool(self.programs.environment.get("FLUX_URI"))
        return inside or self.programs.which("flux") is not None

    def presence(self) -> Presence:
        """Whether an instance answers."""
        if self.programs.which("flux"):
            ran = self.programs.glance("flux", "getattr", "size")
        else:
            ran = self.programs.glance(sys.executable, side.__file__, "ping")
        return Presence(
            answers=ran.code == 0,
            configured=bool(self.programs.environment.get("FLUX_URI")),
            said=ran.complaint,
        )

    async def bindings(self) -> str:
        """The fault of the Python bindings; empty if an instance answers through them."""
        try:
            await self._ask("ping")
        except (JobError, ValueError) as error:
            return str(error)
        return ""

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper and the request, which includes a Flux script's directives."""
        asked = _asked(spec)
        index = '"$FRACTALE_INDEX"'
        write_wrapper(
            folder,
            spec,
            native_id=IN_JOB,
            index=index,
            nodes='"$(flux getattr hostlist 2>/dev/null)"',
        )
        environment, array = self.programs.environment, spec.array
        tasks = asked.get("tasks") or asked.get("nodes") or 1
        request = {
            **{name: asked.get(name) for name in ASKED.values()},
            "name": _name(spec.name, folder),
            "script": folder.text(folder.wrapper.name, 2**20),
            "folder": str(spec.folder),
            "log": str(folder.scheduler_log),
            "tasks": tasks,
            "cores_per_task": asked.get("cores_per_task") or 1,
            "indices": array.indices if array else (),
            "most": array.most if array else None,
            "written": (folder.intent() or {}).get("written", 0.0),
            "restore": {name: environment.get(name) for name in OF_FLUX_PYTHON},
        }
        folder.write(REQUEST, json.dumps(request))

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Submit it as a batch job: a separate instance, in which the wrapper runs.

        Each element of an array is a batch job; one program submits all of them.
        """
        request = str(folder.path / REQUEST)
        if spec.array is not None:
            with disk(folder.path / side.IDS):
                touch_private(folder.path / side.IDS)
        ran = await self._by_bindings(
            lambda words: self.programs.submit(folder, lock, *words, "submit", request)
        )
        if ran.code == 0 and (native_id := _submitted(ran.out)):
            return native_id
        if native_id := await self.find(folder):
            return native_id
        if spec.array is not None and folder.text(side.IDS):
            # Some elements were submitted: the same call submits the others.
            raise SchedulerUnavailable(
                f"Flux refused an element of the array: {ran.complaint}",
                hint="the elements before it were submitted; `flux jobs -a` shows them",
            )
        raise self._fault(ran, "Flux refused the job")

    async def find(self, folder: JobFolder) -> str | None:
        """Look in Flux's answer, then for the job's name, which contains the tag."""
        if native_id := _submitted(folder.text("submit.out")):
            return native_id
        if not (folder.path / REQUEST).exists():
            return None  # the request is written before anything is submitted
        answer: dict[str, str | None] = await self._ask("find", str(folder.path / REQUEST))
        return answer.get("id")

    async def records(self, jobs: Sequence[Submitted]) -> Sequence[Answer]:
        """Ask Flux about all jobs in one call."""
        ids = [_ids(job) for job in jobs]
        asked = list(dict.fromkeys(each for one in ids for each in one.values()))
        if not asked:
            return [{} for _ in jobs]
        found_all: list[dict[str, Any] | None] = await self._ask("records", *asked)
        by_id = dict(zip(asked, found_all, strict=True))
        return [
            {
                index: _record(found)
                for index, native_id in one.items()
                if (found := by_id[native_id]) and (not job.ours or _is_of(job.folder, found))
            }
            for job, one in zip(jobs, ids, strict=True)
        ]

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Cancel the job, or every element of an array."""
        await self._ask("cancel", *(_written(folder).values() or (native_id,)))

    async def queues(self) -> list[Queue]:
        """Flux's queues, by its bindings, else by its own programs."""
        ran = await self._by_bindings(lambda words: self.programs.run(*words, "queues"))
        if ran.code == 0:
            return [Queue(**queue) for queue in json.loads(ran.out)]
        if self.programs.which("flux") is None:
            raise self._fault(ran, "Flux does not say which queues there are")
        listed = await self.programs.run("flux", "queue", "list", "-n", "-o", QUEUES)
        nodes = await self.programs.run("flux", "resource", "list", "-n", "-o", QUEUE_NODES)
        status = await self.programs.run("flux", "queue", "status")
        if listed.code != 0 or nodes.code != 0:
            raise self._fault(ran, "Flux does not say which queues there are")
        return queues_of(*(each.out.splitlines() for each in (listed, nodes, status)))

    async def _ask(self, word: str, *arguments: str) -> Any:
        ran = await self._by_bindings(lambda words: self.programs.run(*words, word, *arguments))
        if ran.code == 0:
            return json.loads(ran.out)
        raise self._fault(ran, f"Flux refused to {word}")

    async def _by_bindings(
        self, run: Callable[[Sequence[str]], Awaitable[ProgramResult]]
    ) -> ProgramResult:
        """Run the side program with the site's own bindings, which fit its Flux, else with ours.

        A program that finds no bindings has not called Flux, so trying the next one is safe.
        """
        complaints: list[str] = []
        for words in self._pythons():
            ran = await run(words)
            if ran.code != side.NO_BINDINGS and not _NO_PYTHON.search(ran.complaint):
                return ran
            complaints.append(ran.complaint)
        return ProgramResult(code=side.NO_BINDINGS, out="", err="; ".join(complaints))

    def _pythons(self) -> list[Sequence[str]]:
        own = (sys.executable, side.__file__)
        site = ("flux", "python", side.__file__)
        return [site, own] if self.programs.which("flux") else [own]

    def _fault(self, ran: ProgramResult, what: str) -> JobError:
        if ran.code == side.NO_BINDINGS:
            return SchedulerUnavailable(
                f"Flux cannot be asked: {ran.complaint}",
                hint="put the site's `flux` on the PATH, whose `flux python` has Flux's bindings; "
                "or pip install 'fractale[flux]', with the system's libflux-core on "
                "LD_LIBRARY_PATH",
            )
        if ran.code == side.UNAVAILABLE:
            inside = self.programs.environment.get("FLUX_URI")
            hint = (
                f"FLUX_URI is {inside}: does that instance still run? `flux uptime` says so"
                if inside
                else "run fractale inside an instance: `flux start fractale …` or `flux alloc`; "
                "or set FLUX_URI to the address of one"
            )
            return SchedulerUnavailable(f"Flux does not answer: {ran.complaint}", hint=hint)
        return JobError(f"{what}: {ran.complaint}")


def _asked(spec: JobSpec) -> dict[str, Any]:
    """The job's request: the spec, completed by the directives of a Flux script.

    Raises:
        JobError: fractale cannot pass on one of the directives.
    """
    script = script_of(spec, "flux")
    for each in script.reading.directives if script else ():
        if each.invalid or each.untold or each.sets - {*ASKED, *HARMLESS}:
            why = f": {each.invalid}" if each.invalid else ""
            raise JobError(
                f"line {each.line} of the script, `{each.text}`, cannot be handed on to Flux{why}",
                hint="only name, nodes, tasks, cores, GPUs, time, queue and bank can",
            )
    if script and script.invalid:
        raise JobError(f"the script's directives cannot be read: {script.invalid[0]}")
    said = asked_of(spec, "flux").said()
    asked = {ours: said[field] for field, ours in ASKED.items() if field in said}
    if "queue" in asked:
        asked["queue"] = asked["queue"][0]
    if math.isinf(asked.get("time", 0.0)):
        del asked["time"]
    return asked


def _name(name: str, folder: JobFolder) -> str:
    return f"{plain_name(name)}.{folder.tag}"


def _submitted(said: str) -> str:
    try:
        answer = json.loads(said)
    except ValueError:
        return ""
    return str(answer.get("id") or "")


def _written(folder: JobFolder) -> dict[int | None, str]:
    """Index and id of an array's elements; empty for a single job."""
    lines = folder.text(side.IDS, MOST_BYTES).splitlines()
    pairs = (line.partition(" ") for line in lines)
    return {int(index): native_id for index, _, native_id in pairs if index.isdecimal()}


def _ids(job: Submitted) -> dict[int | None, str]:
    if not job.indices:
        return {None: job.native_id}
    written = _written(job.folder)
    return {index: written[index] for index in job.indices if index in written}


def _is_of(folder: JobFolder, job: Mapping[str, Any]) -> bool:
    """Whether a job has this directory's tag. A restarted instance reuses job ids."""
    return folder.tag in str(job.get("name", "")).split(".")


def _record(job: Mapping[str, Any]) -> JobRecord:
    """A record from the fields of flux-python's `JobInfo`."""
    flux_state, result = str(job.get("state", "")), str(job.get("result", ""))
    state: JobState = "running" if flux_state in ("RUN", "CLEANUP") else "pending"
    exception: Mapping[str, Any] = job.get("exception") or {}
    note, kind = str(exception.get("note") or ""), str(exception.get("type") or "")
    words = _why_it_waits(job, flux_state) if state == "pending" else ""
    # Flux reports an exit code even if no process ran.
    ran = bool(job.get("t_run", True)) or isinstance(job.get("waitstatus"), int)
    if flux_state == "INACTIVE":
        words = ""
        state = RESULTS.get(result, "unknown")
        if kind == "node-failure" or "lost contact" in note or "node failure" in note:
            state = "node_failure"
        elif state == "failed" and not ran:
            words = f"was never started: {note or 'Flux does not say why'}"
    code: Any = job.get("returncode")
    known = code if ran and isinstance(code, int) else None
    return JobRecord(
        state=state,
        said=(result if flux_state == "INACTIVE" else flux_state) + (f", {note}" if note else ""),
        evidence="flux",
        words=words,
        exit_code=known if known is not None and known >= 0 else None,
        signal=-known if known is not None and -128 < known < 0 else None,
        submitted=job.get("t_submit") or None,
        started=job.get("t_run") or None,
        ended=job.get("t_inactive") or job.get("t_cleanup") or None,
        time_limit=job.get("duration") or None,
        nodes=hosts_of(str(job.get("nodelist") or "")),
    )


def _why_it_waits(job: Mapping[str, Any], state: str) -> str:
    if state == "SCHED":
        if job.get("urgency") == 0:
            return "is held, and will not start until its urgency is raised (`flux job urgency`)"
        if job.get("priority") == 0:
            return "is held: its priority is 0"
        if job.get("queue_stopped"):
            queue = f"queue {job['queue']}" if job.get("queue") else "its queue"
            return f"waits: {queue} is stopped, and starts no jobs until `flux queue start`"
    return WAITS.get(state, "")


ADAPTER: Final = Flux
