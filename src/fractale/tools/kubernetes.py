"""Wait for a Kubernetes job with progress reports; hpc-mcp has the other Kubernetes tools."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from fractale.registry.calls import Progress
from fractale.tools.processes import ProcessEnd, run_program

State: TypeAlias = Literal["completed", "failed", "active"]

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two checks: the pause grows."""

OUTAGE = 600.0
"""Seconds that a wait tolerates an unreachable API server; the job runs without the server."""
NOT_FOUND = "(NotFound)"
MOST_TOLD = 200

ASK_SECONDS = 60
LOG_LINES = 500
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl, for one namespace.

    Args:
        program: The path of kubectl.
        namespace: Empty for the namespace of the current context.
    """

    program: str
    namespace: str

    async def ask(self, *words: str) -> ProcessEnd:
        """Run kubectl."""
        scope = ["-n", self.namespace] if self.namespace else []
        request = f"--request-timeout={ASK_SECONDS}s"
        return await run_program([self.program, *words, *scope, request], timeout=ASK_SECONDS + 30)

    async def read(self, *words: str) -> dict[str, Any]:
        """Read an object as JSON.

        Raises:
            ValueError: kubectl failed; the message has its output.
        """
        ended = await self.ask("get", *words, "-o", "json")
        if ended.returncode != 0:
            raise ValueError(f"kubectl get {' '.join(words)}: {ended.log.strip()[-500:]}")
        # The API server's warnings come before the object.
        found = ended.log[ended.log.index("{") :] if "{" in ended.log else ""
        return cast("dict[str, Any]", json.loads(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobObservation:
    """The state of a job at one check.

    Args:
        state: The state by the job's own conditions.
        why: These conditions as text, or the messages of its pods.
        pods: The name and phase of each pod.
    """

    state: State
    why: str
    pods: list[dict[str, Any]]

    @property
    def words(self) -> str:
        """State and reason, in one short line."""
        return f"{self.state}: {self.why}"[:MOST_TOLD]


async def kubernetes_job_wait(
    name: str,
    progress: Progress,
    namespace: str | None = None,
    timeout: float = 3600,  # noqa: ASYNC109 - a tool's argument
) -> dict[str, Any]:
    """Wait until a Kubernetes job has ended, and return its log. Changes nothing.

    If the API server stops answering meanwhile, this tool waits for it for up to ten minutes.

    Args:
        name: The job's name.
        namespace: The job's namespace; by default that of the current context.
        timeout: Seconds to wait; the job keeps running afterwards.

    Returns:
        `state`: completed, failed, or active at the timeout; `success`; `pods`, each
        with its phase; `reason`, as text, such as that an image can't be pulled; `seconds`;
        `log`, its end; and `error`, unless the job completed and has a readable log.

    Raises:
        ValueError: kubectl or the job was not found, or the API server does not answer.
    """
    kubectl = _kubectl(name, namespace)
    started, pause = time.monotonic(), FIRST_PAUSE
    seen, seen_at, looks = await _look(kubectl, name), started, 1
    await progress.report_progress(looks, None, seen.words)
    while seen.state == "active" and (waited := time.monotonic() - started) < timeout:
        await asyncio.sleep(min(pause, timeout - waited))
        pause, looks = min(LONGEST_PAUSE, pause * 1.5), looks + 1
        try:
            seen, seen_at = await _look(kubectl, name), time.monotonic()
            words = seen.words
        except ValueError as error:
            words = str(error)
            if NOT_FOUND in words or time.monotonic() > min(seen_at + OUTAGE, started + timeout):
                raise
        await progress.report_progress(looks, None, words[:MOST_TOLD])
    logged = await kubectl.ask("logs", f"job/{name}", f"--tail={LOG_LINES}")
    answer: dict[str, Any] = {
        "state": seen.state,
        "success": seen.state == "completed" and logged.returncode == 0,
        "reason": seen.why,
        "pods": seen.pods,
        "seconds": round(time.monotonic() - started, 1),
        "log": logged.log if logged.returncode == 0 else "",
    }
    return answer if answer["success"] else {**answer, "error": _error(name, answer, logged)}


async def _look(kubectl: Kubectl, name: str) -> JobObservation:
    """Read the state of the job and its pods.

    Raises:
        ValueError: kubectl failed; the message has its output.
    """
    state, reason = _state_of(await kubectl.read("job", name))
    pods = [_pod(each) for each in await _pods(kubectl, name)]
    why = reason or "; ".join(pod["says"] for pod in pods) or "no pod yet"
    return JobObservation(state=state, why=why, pods=pods)


def _error(name: str, answer: Mapping[str, Any], logged: ProcessEnd) -> str:
    if answer["state"] == "completed":
        return f"the job {name} completed, but its log can't be read: {logged.log.strip()[-500:]}"
    how = "failed" if answer["state"] == "failed" else "has not ended yet"
    last = str(answer["log"]).rstrip().rpartition("\n")[2]
    said = f"; last line of its log: {last}" if last else ""
    return f"the job {name} {how}: {answer['reason']}{said}"


def _kubectl(name: str, namespace: str | None) -> Kubectl:
    for each in (name, namespace or "default"):
        if not NAME.fullmatch(each):
            raise ValueError(f"`{each}` is not a valid name in Kubernetes: use a-z, 0-9 and -")
    program = shutil.which("kubectl")
    if program is None:
        raise ValueError(
            "`kubectl` was not found on PATH: see https://kubernetes.io/docs/tasks/tools"
        )
    return Kubectl(program=program, namespace=namespace or "")


async def _pods(kubectl: Kubectl, name: str) -> list[dict[str, Any]]:
    return (await kubectl.read("pods", "-l", f"job-name={name}")).get("items", [])


def _state_of(job: Mapping[str, Any]) -> tuple[State, str]:
    """A job's state by its own conditions only, and the reason."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition.get("status") != "True":
            continue
        words = (condition.get("reason"), condition.get("message"))
        why = ": ".join(str(word) for word in words if word)
        if condition.get("type") == "Complete":
            return "completed", why or "Complete"
        if condition.get("type") == "Failed":
            return "failed", why or "Failed"
    return "active", ""


def _pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's name and phase, and the messages of its containers."""
    status: Mapping[str, Any] = pod.get("status", {})
    phase = str(status.get("phase", "Unknown"))
    reasons = [
        word
        for each in status.get("containerStatuses") or ()
        for kind in ("waiting", "terminated")
        if (word := _words(each.get("state", {}).get(kind)))
    ]
    reasons += [
        str(each.get("message"))
        for each in status.get("conditions") or ()
        if each.get("reason") == "Unschedulable" and each.get("message")
    ]
    says = f"{phase}: {', '.join(reasons)}" if reasons else phase
    return {"name": pod.get("metadata", {}).get("name"), "phase": phase, "says": says}


def _words(state: Any) -> str:
    """Format a container's state: ``ImagePullBackOff: …``, ``Error (exit code 3)``."""
    if not isinstance(state, dict):
        return ""
    fields = cast("dict[str, Any]", state)
    code = fields.get("exitCode")
    reason = str(fields.get("reason") or "")
    shown = f"{reason} (exit code {code})" if code else reason
    return f"{shown}: {fields['message']}" if fields.get("message") else shown
