"""What the end of a job means: success or failure, with its evidence, and the outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractale.durations import format_duration
from fractale.graph.call import Attempt
from fractale.graph.figures import Log
from fractale.graph.state import DecidedBy
from fractale.jobs import JobHandle

LOG_BYTES = 65_536
"""Of a job's log, how much of its end the outputs have."""

MOST_LOGS = 16
"""Jobs of a foreach, or an array, of which each may have as much; with more, each has less."""

LEAST_LOG = 1024
LINE = 200
GOES_ON = "it could not be cancelled, and may go on"
LATE = {"pending": GOES_ON, "running": GOES_ON, "unknown": "nobody knows how it ended"}
LOG_FILE = "log"
"""In the job's folder: see `fractale.schedulers.folder`."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A job that is over.

    Args:
        status: `fractale.jobs.JobStatus` as JSON.
        verdict: What a person says of one that nobody knows of.
        late: It was cancelled because the step's time was up.
    """

    status: Mapping[str, Any]
    handle: JobHandle
    verdict: str = ""
    late: bool = False


@dataclass(frozen=True, slots=True)
class Meaning:
    """What decides against success; nothing where `decided_by` is None.

    Args:
        reason: The evidence, such as ``scontrol: TIMEOUT``.
        fault: What happened, in a sentence.
    """

    decided_by: DecidedBy | None = None
    reason: str = ""
    fault: str | None = None


def end_of(end: JobEnd, faults: Sequence[str], attempt: Attempt) -> Meaning:
    """What the end of a job means.

    Args:
        faults: What is wrong with the figures in its log.
    """
    state, job = str(end.status["state"]), f"job {end.handle.title}"
    if state == "completed" or end.verdict == "success":
        if faults:
            return Meaning("schema", "; ".join(faults), "; ".join(faults))
        return Meaning()
    if end.late:
        within = format_duration(attempt.step.timeout or 0)
        words = f"{job} was not over within the step's timeout of {within}"
        how = LATE.get(state, "it was cancelled")
        return Meaning("error", f"{words}: {how}", f"{words}: {how}")
    if state == "unknown":
        words = f"{job} counts as failed, as a person said: {end.status['reason']}"
        return Meaning("error", words, words)
    told, shown = _told(end)
    return Meaning("exit_code", shown, _in_words(job, told, end))


def _told(end: JobEnd) -> tuple[str, str]:
    """What happened, and what shows it: the reason ends with that in brackets."""
    reason, evidence = str(end.status["reason"]).strip(), str(end.status["evidence"])
    found = re.search(rf" \((?P<shown>{re.escape(evidence)}(?:: [^()]*)?)\)", reason)
    if not found:
        return reason or f"ended as {end.status['state']}", evidence
    return reason.replace(found[0], "", 1), found["shown"]


def _in_words(job: str, told: str, end: JobEnd) -> str:
    """The failure in a sentence, with the last line of the log."""
    words = told if told.startswith("job ") else f"{job} {told}"
    lines = [line.strip() for line in str(end.status.get("last_lines") or "").splitlines()]
    said = [line for line in lines if line]
    if not said or "last line: " in words:
        return words
    return f"{words}; last line: {said[-1][:LINE]}"


async def outputs_of_job(
    end: JobEnd, log: Log, meaning: Meaning, *, of: int = 1, is_element: bool = False
) -> dict[str, Any]:
    """The outputs of a job step, without the figures.

    Args:
        of: How many jobs share what the outputs may have of logs.
        is_element: Whether the step is an array.
    """
    status, handle = end.status, end.handle
    outputs: dict[str, Any] = {
        "state": status["state"],
        "reason": status["reason"],
        "evidence": status["evidence"],
        "exit_code": status["exit_code"],
        "job_id": handle.title,
        "scheduler": handle.scheduler,
        "nodes": status["nodes"],
        "submitted": status["submitted"],
        "started": status["started"],
        "ended": status["ended"],
        "seconds": status["seconds"],
        "log": await _end_of_log(log, max(LOG_BYTES * MOST_LOGS // max(of, MOST_LOGS), LEAST_LOG)),
        "log_file": str(handle.own_dir / LOG_FILE) if log.jobs else "",
    }
    if is_element:
        outputs = {"index": handle.index, **outputs}
    return {**outputs, "error": meaning.fault} if meaning.fault else outputs


async def _end_of_log(log: Log, most: int) -> str:
    """The last lines of the log, whole ones."""
    start = max(log.size - most, 0)
    text = await log.part(start, log.size)
    return text[text.find("\n") + 1 :] if start else text
