"""The head of the verdict on a run: its outcome, and who decided it or what it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractale.durations import clock, exactly
from fractale.plain import entries, table
from fractale.plan.escape import escape as inert
from fractale.questions import is_job, needs_no_answer
from fractale.text import count

OUTCOMES = {"limit": "stopped at a limit"}
"""The status of a run → its name, if that differs."""


@dataclass(frozen=True, slots=True)
class VerdictHead:
    """The outcome of a run in one line, without control characters.

    Args:
        words: The outcome, such as ``failed``.
        why: Who decided it, or what it waits for; may be empty.
        joint: The text between the two.
    """

    words: str
    why: str
    joint: str = " · "

    @property
    def text(self) -> str:
        """Such as ``failed · step `run` failed 3 of 3 attempts``."""
        return f"{self.words}{self.joint}{self.why}" if self.why else self.words


def verdict_head(data: Mapping[str, Any]) -> VerdictHead:
    """The head of the verdict on a run that has ended or waits.

    Args:
        data: The fields of the event `run_finished`.
    """
    status = str(data.get("status") or "failed")
    why = {"success": _who, "failed": _what_failed}.get(status, _why_not_ended)(data)
    first = status == "success"
    parts = [*_reservations(data), why] if first else [why, *_handlers_failed(data)]
    joint = " " if status == "waiting" else " · "
    words = OUTCOMES.get(status, inert(status))
    return VerdictHead(words, joint.join(filter(None, parts)), joint)


def _reservations(data: Mapping[str, Any]) -> list[str]:
    """Failures, losses and warnings that a success must not hide, in short."""
    notices = entries(data, "notices")
    failed = [
        f"`{inert(str(n.get('step')))}`: {inert(str(n.get('message')).partition(';')[0], 100)}"
        for n in notices
        if n.get("kind") == "failed"
    ]
    words = {"lost": "with losses", "warning": "with warnings"}
    kinds = {str(notice.get("kind")) for notice in notices}
    return [*failed, *(text for kind, text in words.items() if kind in kinds)]


def _handlers_failed(data: Mapping[str, Any]) -> list[str]:
    """The steps of the plan's handlers that failed, in short, for a run that did not succeed."""
    notices = [n for n in entries(data, "notices") if n.get("handler")]
    failed = [f"`{inert(str(n.get('step')))}`" for n in notices if n.get("kind") == "failed"]
    if not failed or data.get("status") == "waiting":
        return []
    return [f"{', '.join(failed)} failed{', too' if data.get('status') == 'failed' else ''}"]


def _plan_steps(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attempts of the plan's steps, without those of its handlers."""
    return [each for each in entries(data, "steps") if not each.get("handler")]


def _who(data: Mapping[str, Any]) -> str:
    """The step and the evidence that decided a success."""
    decided = table(data, "decided")
    step, by = (inert(str(decided.get(name) or ""), 200) for name in ("step", "by"))
    if not step:
        return ""
    reason = inert(str(decided.get("reason") or ""), 200)
    if by == "default":
        failed = [s for s in _plan_steps(data) if s.get("outcome") == "failure"]
        complete = not failed and not entries(data, "notices")
        return f"{'all steps completed; ' if complete else ''}last step: `{step}`"
    if by == "when":
        return f"last step: `{step}`, skipped"
    words = reason if by == "rule" else f"{by}: {reason}" if reason else by
    return f"decided by `{step}`: {words}"


def _what_failed(data: Mapping[str, Any]) -> str:
    decided = table(data, "decided")
    if step := decided.get("gave_up"):
        why = f": {inert(last_error(data), 600)}" if decided.get("by") == "agent" else ""
        return f"step `{inert(str(step))}` {_attempts_used(data, step)}{why}"
    if step_failed(data) and decided.get("by") == "agent":
        reason = inert(str(decided.get("reason")), 600)
        return f"`{inert(str(decided.get('step')))}` reported that it was not done: {reason}"
    if job := only_job(data):
        took = f" after {clock(job['seconds'])}" if job.get("seconds") else ""
        named = f"job {job['job']}"
        words = without_last_line(str(data.get("error") or "")).removeprefix(named)
        return inert(f"{named} of `{job['step']}`{words}{took}", 400)
    if step_failed(data):
        return f"step `{inert(str(decided.get('step')))}` failed"
    error = str(data.get("error") or "the plan ended with `failed`")
    if decided.get("by") == "rule" and decided.get("reason") == error:  # no `reason` of the plan
        error = f"step `{decided.get('step')}` led to `failed`: {error}"
    return inert(error, 300)


def _attempts_used(data: Mapping[str, Any], step: str) -> str:
    """How a step used all its attempts: they failed, or a later step led back to it."""
    attempts = [each for each in entries(data, "steps") if each.get("name") == step]
    most = max([int(each.get("attempt") or 0) for each in attempts], default=0)
    if not most:
        return "has no attempts left (max_attempts)"
    if all(each.get("outcome") == "failure" for each in attempts):
        return f"failed {most} of {count(most, 'attempt')} (max_attempts)"
    return f"has no attempts left after {most} (max_attempts)"


def only_job(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The job whose failure is the step's error; None if other reasons count, too."""
    decided = table(data, "decided")
    jobs = entries(decided, "jobs")
    if len(jobs) != 1 or jobs[0]["step"] != decided.get("step") or not step_failed(data):
        return None
    is_about = str(data.get("error") or "").startswith(f"job {jobs[0]['job']} ")
    return jobs[0] if is_about and decided.get("by") == "exit_code" else None


def without_last_line(error: str) -> str:
    """A job's error without the last line of its log, which is shown below."""
    return error.partition("; last line: ")[0]


def step_failed(data: Mapping[str, Any]) -> bool:
    """Whether the step that decided the outcome failed, and not only the plan around it."""
    attempts = _plan_steps(data)
    return bool(data.get("decided") and attempts and attempts[-1].get("outcome") == "failure")


def _why_not_ended(data: Mapping[str, Any]) -> str:
    waiting = entries(data, "waiting")
    if data.get("status") == "waiting" and all(map(needs_no_answer, waiting)):
        return _waits(waiting)
    if data.get("status") == "waiting":
        return "for your answer"
    return inert(str(data.get("error") or ""), 300)


def last_error(data: Mapping[str, Any]) -> str:
    """The error of the last step that failed, not the error that no attempts are left."""
    if not table(data, "decided").get("gave_up"):
        return str(data.get("error") or "")
    errors = [s["error"] for s in _plan_steps(data) if s.get("error")]
    return str(errors[-1]) if errors else str(data.get("error") or "")


def _jobs_in_words(waiting: Sequence[Mapping[str, Any]]) -> str:
    """The jobs that a run waits for: ``job 4711``, ``10 jobs``."""
    jobs = [str(job["job"]) for job in waiting if job.get("job")]
    more = len(waiting) - len(jobs)
    words = f"job {inert(jobs[0], 40)}" if len(jobs) == 1 else f"{len(jobs)} jobs"
    return f"{words}, with {more} more to be submitted" if more else words


def _waits(waiting: Sequence[Mapping[str, Any]]) -> str:
    """The jobs and the time that a run waits for: ``for 2 jobs and until 2026-11-23 14:02:00``."""
    jobs = [each for each in waiting if is_job(each)]
    times = [float(t["until"]) for each in waiting if (t := table(each, "due"))]
    parts = [f"for {_jobs_in_words(jobs)}"] if jobs or not times else []
    return " and ".join([*parts, f"until {exactly(min(times))}"] if times else parts)
