"""What a run asks people, and what their answers mean.

A question is a plain mapping, so that it can wait in a checkpoint for days. `kind` says which:

=============  ===================================================================================
kind           fields, and the answers that it takes
=============  ===================================================================================
question       text, choices [text], default (or null), free (whether any text may be answered):
               the text of the choice, or any text
approval       tool, arguments, why: true (once), false, ``always`` (this tool, in this run), or
               ``{arguments: {...}}``: agreed with these arguments instead
review         plan (YAML text), changes (unified diff to the draft before, or null), round:
               ``accept``, ``reject``, ``{feedback: text}``, or ``{plan: YAML text}``
elicitation    server, message, schema (JSON Schema of an object): ``{action: accept, content:
               {...}}``, ``{action: decline}`` or ``{action: cancel}``
failure        error: ``retry``, ``skip`` or ``quit``; asked only where somebody is there
=============  ===================================================================================

Each also has `step`, the path of the step that asks, and `id` once it waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final[Any] = _Missing()
"""Stands for an answer that nobody gave."""


def question(
    step: str, text: str, choices: Sequence[str] = (), default: Any = None, *, free: bool = True
) -> dict[str, Any]:
    """Something that only a person knows or may choose."""
    return {
        "kind": "question",
        "step": step,
        "text": text,
        "choices": list(choices),
        "default": default,
        "free": free,
    }


def approval(step: str, tool: str, arguments: Mapping[str, Any], why: str) -> dict[str, Any]:
    """Whether a call may be made."""
    arguments = dict(arguments)
    return {"kind": "approval", "step": step, "tool": tool, "arguments": arguments, "why": why}


def review(step: str, plan: str, changes: str | None, round: int) -> dict[str, Any]:  # noqa: A002
    """Whether a drafted plan may run."""
    return {"kind": "review", "step": step, "plan": plan, "changes": changes, "round": round}


def elicitation(step: str, server: str, message: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a server asks in the middle of a call."""
    return {
        "kind": "elicitation",
        "step": step,
        "server": server,
        "message": message,
        "schema": dict(schema),
    }


def default_answer(question: Mapping[str, Any]) -> Any:
    """What ``--yes`` answers; MISSING where there is nothing to agree to."""
    kind = question["kind"]
    if kind == "approval":
        return True
    if kind == "review":
        return "accept"
    default = question.get("default")
    return MISSING if default is None else default


class Answers:
    """Answers given beforehand, by step."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._given = dict(given or {})

    def find(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question; MISSING if there is none."""
        answer = self._given.get(question["step"], self._given.get("*", MISSING))
        if question["kind"] == "approval" and isinstance(answer, str) and answer != "always":
            return answer.strip().lower() in ("y", "yes", "true")
        return answer
