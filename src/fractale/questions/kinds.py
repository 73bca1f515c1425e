"""The kinds of questions: how each is made, and what ``--yes`` answers to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from fractale.questions.forms import defaults_of, required_of


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final[Any] = _Missing()
"""Stands for an answer that nobody gave."""


def question(
    step: str, text: str, choices: Sequence[Any] = (), default: Any = None, *, free: bool = True
) -> dict[str, Any]:
    """Something that only a person knows or may choose.

    Args:
        step: The path of the step that asks.
        choices: What can be chosen; kept as text, each once.
        default: What is answered by Enter and by ``--yes``; one of the choices, or any text
            where that may be answered.
        free: Whether any other text may be answered, too; always so without choices.
    """
    texts = list(dict.fromkeys(str(each).strip() for each in choices if str(each).strip()))
    free = free or not texts
    return {
        "kind": "question",
        "step": step,
        "text": text,
        "choices": texts,
        "default": _default(default, texts, free=free),
        "free": free,
    }


def _default(default: Any, choices: Sequence[str], *, free: bool) -> str | None:
    """A default as the choice that it means; models write it in other letters."""
    if default is None or not (text := str(default).strip()):
        return None
    near = [choice for choice in choices if choice.casefold() == text.casefold()]
    return near[0] if near else text if free else None


def approval(
    step: str,
    tool: str,
    arguments: Mapping[str, Any],
    why: str,
    *,
    origins: Sequence[Mapping[str, Any]] = (),
    yes: bool = True,
) -> dict[str, Any]:
    """Whether a call may be made.

    Args:
        arguments: The exact ones, secrets masked.
        why: Why it is asked, in words.
        origins: Of each argument that strangers may have written: where its value came from.
        yes: Whether ``--yes`` agrees to it.
    """
    question: dict[str, Any] = {
        "kind": "approval",
        "step": step,
        "tool": tool,
        "arguments": dict(arguments),
        "why": why,
    }
    if origins:
        question["origins"] = [dict(origin) for origin in origins]
    return question if yes else {**question, "yes": False}


def review(step: str, plan: str, changes: str | None, round: int) -> dict[str, Any]:  # noqa: A002
    """Whether a drafted plan may run.

    Args:
        plan: Its YAML.
        changes: The unified diff to the draft before; None for the first one.
        round: Which draft it is, from 1.
    """
    return {"kind": "review", "step": step, "plan": plan, "changes": changes, "round": round}


def elicitation(
    step: str,
    server: str,
    message: str,
    schema: Mapping[str, Any],
    *,
    call: str = "",
    round: int = 1,  # noqa: A002
) -> dict[str, Any]:
    """What a server asks in the middle of a call.

    Args:
        schema: JSON Schema of the object that it wants.
        call: The key of the call site, so that an answer serves one call only.
        round: How often this call has asked the same, from 1.
    """
    return {
        "kind": "elicitation",
        "step": step,
        "server": server,
        "message": message,
        "schema": dict(schema),
        "call": call,
        "round": round,
    }


def in_doubt(step: str, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What to do about a call that the run was killed in: it may have been made, or not."""
    return {"kind": "in_doubt", "step": step, "tool": tool, "arguments": dict(arguments)}


def job_unknown(step: str, job: str, scheduler: str, reason: str, folder: str) -> dict[str, Any]:
    """What to do about a batch job of which nothing shows how it ended.

    Args:
        job: What its scheduler calls it.
        reason: What was looked at, in words.
        folder: Where its log is.
    """
    return {
        "kind": "job_unknown",
        "step": step,
        "job": job,
        "scheduler": scheduler,
        "reason": reason,
        "folder": folder,
    }


def job(step: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """A batch job that a run waits for: no question, since nobody has to answer it.

    Args:
        known: As in the event `job_state`.
    """
    return {"kind": "job", "step": step, **known}


def job_held(step: str) -> dict[str, Any]:
    """A batch job that is not submitted yet, since as many as may be are under way."""
    return job(step, {"state": "held", "reason": "`max_parallel` jobs are under way"})


def is_job(waiting: Any) -> bool:
    """Whether what a run waits for is a batch job, and no answer."""
    return isinstance(waiting, Mapping) and cast("Mapping[str, Any]", waiting).get("kind") == "job"


def default_answer(question: Mapping[str, Any]) -> Any:
    """What ``--yes`` answers; MISSING where there is nothing to agree to.

    Whether a call in doubt was made, or how a job ended, is for somebody who looked: ``--yes``
    never says.
    """
    kind = question["kind"]
    if kind == "approval":
        return True if question.get("yes", True) else MISSING
    if kind == "review":
        return "accept"
    if kind == "elicitation":
        defaults = defaults_of(question["schema"])
        known = required_of(question["schema"]) <= defaults.keys()
        return {"action": "accept", "content": defaults} if known else MISSING
    default = question.get("default")
    return MISSING if default is None else default
