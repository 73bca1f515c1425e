"""The kinds of questions: how each is made, and what ``--yes`` answers to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from fractale.masking import MASK
from fractale.questions.forms import defaults_of, required_of, secret_fields


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
    server: str = "",
    definition: str = "",
    origins: Sequence[Mapping[str, Any]] = (),
    yes: bool = True,
    cost: str = "",
) -> dict[str, Any]:
    """Whether a call may be made.

    Args:
        tool: What its server calls it.
        arguments: The exact ones, secrets masked.
        why: Why it is asked, in words.
        definition: The hash of what the server says of the tool: an answer is for this one only.
        origins: Of each argument that strangers may have written: where its value came from.
        yes: Whether ``--yes`` agrees to it.
        cost: What it may use at most, in words: ``2 node-hours (1.5 of 40 taken so far)``.
    """
    question: dict[str, Any] = {
        "kind": "approval",
        "step": step,
        "server": server,
        "tool": tool,
        "definition": definition,
        "arguments": dict(arguments),
        "why": why,
    }
    if origins:
        question["origins"] = [dict(origin) for origin in origins]
    if cost:
        question["cost"] = cost
    return question if yes else {**question, "yes": False}


def tool_changed(step: str, server: str, tools: Mapping[str, str], diff: str) -> dict[str, Any]:
    """Whether tools may be used that their server describes in another way than before.

    Args:
        tools: Each tool's name with the hash of its new definition: an answer is for these only.
        diff: What changed, as a unified diff.
    """
    return {
        "kind": "tool_changed",
        "step": step,
        "server": server,
        "tool": ", ".join(tools),
        "tools": dict(tools),
        "diff": diff,
    }


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


def in_doubt(
    step: str, tool: str, arguments: Mapping[str, Any], *, server: str = ""
) -> dict[str, Any]:
    """What to do about a call that the run was killed in: it may have been made, or not.

    Args:
        tool: What its server calls it.
    """
    return {
        "kind": "in_doubt",
        "step": step,
        "server": server,
        "tool": tool,
        "arguments": dict(arguments),
    }


def tool_of(question: Mapping[str, Any]) -> str:
    """``server.tool``, as a question about a tool shows it; old records have no server."""
    server = question.get("server")
    return f"{server}.{question['tool']}" if server else str(question["tool"])


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


def asks_secret(question: Mapping[str, Any]) -> bool:
    """Whether a server asks for a secret: its answer is neither stored nor shown."""
    return question.get("kind") == "elicitation" and bool(secret_fields(question["schema"]))


def secrets_of_answer(question: Mapping[str, Any], answer: Any) -> list[str]:
    """The secrets in an answer to a question of a server."""
    content = _content_of(question, answer)
    found = (content.get(name) for name in secret_fields(question["schema"])) if content else ()
    return [str(each) for each in found if each not in (None, "", True, False)]


def without_secrets(question: Mapping[str, Any], answer: Any) -> Any:
    """An answer as it may be stored and shown."""
    if not (content := _content_of(question, answer)):
        return answer
    hidden = dict.fromkeys(secret_fields(question["schema"]) & content.keys(), MASK)
    return {**answer, "content": {**content, **hidden}}


def _content_of(question: Mapping[str, Any], answer: Any) -> Mapping[str, Any] | None:
    if not asks_secret(question) or not isinstance(answer, Mapping):
        return None
    content: Any = cast("Mapping[str, Any]", answer).get("content")
    return cast("Mapping[str, Any]", content) if isinstance(content, Mapping) else None


def is_job(waiting: Any) -> bool:
    """Whether what a run waits for is a batch job, and no answer."""
    return isinstance(waiting, Mapping) and cast("Mapping[str, Any]", waiting).get("kind") == "job"


def default_answer(question: Mapping[str, Any]) -> Any:
    """What ``--yes`` answers; MISSING where there is nothing to agree to.

    Whether a call in doubt was made, how a job ended, or whether a changed tool may be used, is for
    somebody who looked: ``--yes`` never says.
    """
    kind = question["kind"]
    if kind == "approval":
        return True if question.get("yes", True) else MISSING
    if kind == "review":
        return "accept"
    if kind == "elicitation":
        if asks_secret(question):
            return MISSING
        defaults = defaults_of(question["schema"])
        known = required_of(question["schema"]) <= defaults.keys()
        return {"action": "accept", "content": defaults} if known else MISSING
    default = question.get("default")
    return MISSING if default is None else default
