"""Flux, by flux-python."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fractale.errors import JobError, SchedulerUnavailable
from fractale.schedulers.adapter import Record, Submitted
from fractale.schedulers.dialects import read_script
from fractale.schedulers.flux import side
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import JobSpec, JobState, Queue
from fractale.schedulers.names import plain_name
from fractale.schedulers.programs import Programs, Ran
from fractale.schedulers.wrapper import write_wrapper

IN_JOB: Final = '"${FLUX_JOB_ID:-$(flux getattr jobid 2>/dev/null)}"'
SIDE: Final = (sys.executable, "-P", side.__file__)
"""With -P, or the file `flux.py` beside it would be taken for flux-python."""

REQUEST: Final = "flux.json"
ASKED: Final = {
    "nodes": "nodes",
    "tasks": "tasks",
    "cores_per_task": "cores_per_task",
    "gpus_per_task": "gpus_per_task",
    "seconds": "time",
    "queue": "queue",
    "account": "account",
}
"""What a script's directives may ask for, and what a spec calls it."""

HARMLESS: Final = frozenset({"name", "output", "error"})
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
    """The Flux instance that this process is in."""

    programs: Programs
    name: str = "flux"
    title: str = "Flux"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Flux:
        """The Flux of an environment."""
        return cls(Programs(dict(environment)))

    def found(self) -> bool:
        """Whether there is an instance, or one is likely: its program is on the PATH."""
        inside = bool(self.programs.environment.get("FLUX_URI"))
        return inside or self.programs.which("flux") is not None

    def prepare(self, folder: JobFolder, spec: JobSpec) -> None:
        """Write the wrapper, and what is asked for; a script's directives are read for that."""
        asked = {**_asked(spec), **_given(spec)}
        write_wrapper(folder, spec, native_id=IN_JOB)
        tasks = asked.get("tasks") or asked.get("nodes") or 1
        request = {
            **{name: asked.get(name) for name in ASKED.values()},
            "name": _name(spec.name, folder),
            "script": folder.text(folder.wrapper.name, 2**20),
            "folder": str(spec.folder),
            "log": str(folder.scheduler_log),
            "tasks": tasks,
            "cores_per_task": asked.get("cores_per_task") or 1,
        }
        folder.write(REQUEST, json.dumps(request))

    async def submit(self, folder: JobFolder, spec: JobSpec, lock: int) -> str:
        """Submit it as a batch job: an instance of its own, in which the wrapper runs."""
        words = (*SIDE, "submit", str(folder.path / REQUEST))
        ran = await self.programs.submit(folder, lock, *words)
        if ran.code == 0 and (native_id := _submitted(ran.out)):
            return native_id
        if native_id := await self.find(folder):
            return native_id
        raise self._fault(ran, "Flux refused the job")

    async def find(self, folder: JobFolder) -> str | None:
        """By what Flux said, else by the job's name, which has the tag in it."""
        if native_id := _submitted(folder.text("submit.out")):
            return native_id
        name = (folder.intent() or {}).get("name", "")
        answer = await self._ask("find", _name(str(name), folder))
        return answer.get("id")

    async def records(self, jobs: Sequence[Submitted]) -> list[Mapping[int | None, Record]]:
        """What it says about each."""
        found = [await self._record(job.folder, job.native_id) for job in jobs]
        return [{None: record} if record else {} for record in found]

    async def _record(self, folder: JobFolder, native_id: str) -> Record | None:
        """What Flux says about it."""
        answer = await self._ask("record", native_id)
        if not answer or not str(answer.get("name", "")).endswith(folder.tag):
            return None
        return _record(answer)

    async def cancel(self, folder: JobFolder, native_id: str) -> None:
        """Cancel it."""
        await self._ask("cancel", native_id)

    async def queues(self) -> list[Queue]:
        """Its queues."""
        return [Queue(**queue) for queue in await self._ask("queues", "")]

    async def _ask(self, word: str, argument: str) -> Any:
        ran = await self.programs.run(*SIDE, word, argument)
        if ran.code == 0:
            return json.loads(ran.out)
        raise self._fault(ran, f"Flux refused to {word}")

    def _fault(self, ran: Ran, what: str) -> JobError:
        if ran.code == side.UNAVAILABLE:
            return SchedulerUnavailable(
                f"Flux does not answer: {ran.complaint}",
                hint="FLUX_URI has to name an instance, and flux-python be installed: "
                "pip install 'fractale[flux]', with the system's libflux-core",
            )
        return JobError(f"{what}: {ran.complaint}")


def _asked(spec: JobSpec) -> dict[str, Any]:
    """What the directives of a Flux script ask for.

    Raises:
        JobError: One asks for what cannot be handed on.
    """
    if not spec.script or not any(_is_directive(line) for line in spec.script.splitlines()):
        return {}
    script = read_script(spec.script, "flux")
    for each in script.reading.directives:
        if each.invalid or each.untold or not each.sets <= {*ASKED, *HARMLESS, "queues"}:
            raise JobError(
                f"line {each.line} of the script, `{each.text}`, cannot be handed on to Flux",
                hint="only name, nodes, tasks, cores, GPUs, time, queue and bank can",
            )
    said = script.request.said()
    said["queue"] = ",".join(said.pop("queues", ()))
    return {ASKED[name]: value for name, value in said.items() if name in ASKED and value}


def _is_directive(line: str) -> bool:
    return line.lower().replace(" ", "").startswith("#flux:")


def _given(spec: JobSpec) -> dict[str, Any]:
    given = {name: getattr(spec, name) for name in ASKED.values()}
    return {name: value for name, value in given.items() if value is not None}


def _name(name: str, folder: JobFolder) -> str:
    return f"{plain_name(name)}.{folder.tag}"


def _submitted(said: str) -> str:
    try:
        answer = json.loads(said)
    except ValueError:
        return ""
    return str(answer.get("id") or "")


def _record(job: Mapping[str, Any]) -> Record:
    """A record from the fields of flux-python's `JobInfo`."""
    flux_state, result = str(job.get("state", "")), str(job.get("result", ""))
    state: JobState = "running" if flux_state in ("RUN", "CLEANUP") else "pending"
    exception: Mapping[str, Any] = job.get("exception") or {}
    note, kind = str(exception.get("note") or ""), str(exception.get("type") or "")
    if flux_state == "INACTIVE":
        state = RESULTS.get(result, "unknown")
        if kind == "node-failure" or "lost contact" in note or "node failure" in note:
            state = "node_failure"
    words = WAITS.get(flux_state, "") if state == "pending" else ""
    code: Any = job.get("returncode")
    known = code if isinstance(code, int) else None
    return Record(
        state=state,
        said=(result if flux_state == "INACTIVE" else flux_state) + (f", {note}" if note else ""),
        evidence="flux",
        words=words,
        exit_code=known if known is not None and known >= 0 else None,
        signal=-known if known is not None and -128 < known < 0 else None,
        submitted=job.get("t_submit") or None,
        started=job.get("t_run") or None,
        ended=job.get("t_inactive") or job.get("t_cleanup") or None,
        nodes=(str(job["nodelist"]),) if job.get("nodelist") else (),
    )
