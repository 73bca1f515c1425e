"""Phrases for events: the reason of an outcome, calls, jobs, progress and transitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fractale.plain import to_json
from fractale.render.text import count, entries, exactly, fit, inert, table


def evidence(data: Mapping[str, Any]) -> str:
    """The reason for a step's outcome, in one line; empty for a plain success."""
    by, event = inert(str(data.get("decided_by") or ""), 60), str(data.get("event_name") or "")
    reason = inert(str(data.get("reason") or data.get("error") or ""), 1000)
    if source := data.get("reused"):
        return " · ".join(filter(None, (taken_over(source), notices_text(data))))
    if data.get("outcome") == "skipped":
        return f"skipped: {reason}" if reason else "skipped"
    own_event = event not in ("success", "failure", "")
    if data.get("outcome") != "failure" and not own_event:
        left_out = reason if by == "default" else ""
        return " · ".join(filter(None, (left_out, notices_text(data))))
    error = inert(str(data.get("error") or ""), 1000)
    if by == "exit_code" and error and reason not in error:
        return f"{error} ({reason})"  # the end of a job, and the evidence for it
    words = reason if by == "rule" or not by else f"{by}: {reason}" if reason else by
    return f"{inert(event)}: {words}" if own_event else words


def taken_over(source: Mapping[str, Any]) -> str:
    """Where a result was taken over from: ``taken over from run k7f3``."""
    return f"taken over from run {inert(str(source.get('run')), 80)}"


def notices_text(data: Mapping[str, Any]) -> str:
    """Losses and warnings of a successful step: ``2 of 3 items failed; …``, ``1 warning``."""
    notices = entries(data, "notices")
    said = [inert(str(n.get("message")), 1000) for n in notices if n.get("kind") == "failed"]
    kinds = [notice.get("kind") for notice in notices]
    if lost := kinds.count("lost"):
        said.append(f"{lost} lost")
    if warnings := kinds.count("warning"):
        said.append(count(warnings, "warning"))
    return " · ".join(said)


def target_of(step: Mapping[str, Any]) -> str:
    """The tool, prompt or agent of a step; agent steps without a name use `ask`."""
    return str(step.get("target") or ("ask" if step.get("type") == "agent" else ""))


def call_text(data: Mapping[str, Any]) -> str:
    """A call on one line: ``build(path="/tmp", jobs=4)``."""
    arguments = list(table(data, "arguments").items())[:8]
    shown = ", ".join(f"{inert(name, 30)}={inert(as_json(v), 40)}" for name, v in arguments)
    return fit(f"{inert(str(data.get('tool') or ''), 60)}({shown})", 160)


def job_text(job: Mapping[str, Any]) -> list[str]:
    """The state of a batch job: ``slurm job 4711 runs on node7``."""
    state, reason = str(job.get("state") or ""), inert(str(job.get("reason") or ""), 300)
    if not job.get("job"):
        return [f"{state}: {reason}"]
    named = f"{inert(str(job.get('scheduler') or ''), 20)} job {inert(str(job['job']), 40)}"
    if confined := job.get("confined"):
        named += f" (confined: {inert(str(confined), 20)})"
    return [f"{named} {reason or state}"]


def timer_text(timer: Mapping[str, Any]) -> str:
    """A time that a step waits for: ``waits 10 min 00 s, until 2026-11-23 14:02:00``.

    For a call that is made again, also when it is made for the last time.
    """
    due, reason = table(timer, "due"), inert(str(timer.get("reason") or ""), 300)
    if not (until := due.get("until")):
        return reason
    if not is_repeated(timer):
        return f"{reason}, until {exactly(until)}"
    last = due["last"]
    if last is None or last <= until:
        return f"{reason}, at {exactly(until)}"
    (day, _), (last_day, last_time) = exactly(until).split(" "), exactly(last).split(" ")
    ends = last_time if last_day == day else f"{last_day} {last_time}"
    return f"{reason}, at {exactly(until)}; at most until {ends}"


def is_repeated(timer: Mapping[str, Any]) -> bool:
    """Whether a step waits to make a call again."""
    return "last" in table(timer, "due")


def progress_text(data: Mapping[str, Any]) -> str:
    """The progress of a call: ``40 %  pulling layers``."""
    done, total = data.get("progress"), data.get("total")
    figure = ""
    if done is not None:
        figure = f"{100 * done / total:.0f} %" if total else f"{done:g}"
    return f"{figure}  {inert(str(data.get('message') or ''), 200)}".strip()


def leads_to(
    data: Mapping[str, Any], order: Sequence[Mapping[str, Any]], seen: Collection[str]
) -> str:
    """The step at which the run continues; empty for the plan's next step.

    Args:
        data: The fields of the event `step_finished`.
        order: The plan's steps.
        seen: The paths of steps that the run has reached.
    """
    path, target = str(data["step"]), data.get("next")
    named = inert(str(target), 60)
    failed = data.get("outcome") == "failure"
    if target in (None, "success", "failed"):
        return ""
    prefix = path.rpartition("/")[0]
    there = f"{prefix}/{target}" if prefix else str(target)
    if not failed and _is_next(path, there, [str(step["name"]) for step in order], seen):
        return ""
    if there == path:
        words = f"→ again {named}"
    elif there in seen:
        words = f"→ back to {named}"
    else:
        words = f"→ on to {named}"
    return f"{words}{' with the error' if failed else ''}"


def _is_next(path: str, target: str, names: Sequence[str], seen: Collection[str]) -> bool:
    """Whether the plan has only steps inside of `path` between it and the target.

    The order of an included plan is unknown, so a step that was not reached yet counts as next.
    """
    if path not in names or target not in names:
        return target not in seen
    if names.index(target) <= names.index(path):
        return False
    between = names[names.index(path) + 1 : names.index(target)]
    return all(f"{path}/{name}" in seen for name in between)


def answer_text(answer: Any) -> str:
    """A given answer on one line: ``yes`` to an approval, others as JSON."""
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    return as_json(answer)


def as_json(value: Any) -> str:
    """A value on one line."""
    return to_json(value, default=str)


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
