"""Evidence in an agent's conversation: the model reports *not done*, or its last change failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from langchain_core.messages import BaseMessage, ToolMessage

from fractale.errors import NotDone
from fractale.evidence import Notice, exit_code_evidence, notices_in, outputs_of
from fractale.toolbox import ToolResult

NOT_DONE: Final = "not_done"
"""The tool that a model calls to report that the task was not done."""

IN_WORDS: Final = (
    "If you cannot do what is asked, answer with `NOT DONE: ` and the reason, and nothing else."
)
"""The same for a model without tools."""

_WORDS = re.compile(
    r"[\s*_`#>\"']*NOT DONE\b[*_`]*"
    r"(?:[ \t]*[:.,;!\u2013\u2014-][\s*_`]*|\s*\Z|[ \t]*\n\s*(?![\s|\d*+#-]))(.*)",
    re.DOTALL,
)
"""The words at the start, and the reason. A heading above a list or a table does not count."""

NO_REASON = "it gave no reason"

CHANGES: Final = "fractale.changes"
"""In a tool message's `additional_kwargs`: whether the call was meant to change something.

Absent for calls that only serve the agent: questions, prompts, the rest of a long answer.
"""

MOST_REASON = 1000


def reported(messages: Sequence[BaseMessage]) -> str | None:
    """The reason that the model's last turn gave to `not_done`; None if it did not call it."""
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            return None
        if message.name == NOT_DONE and message.status == "success":
            return message.text
    return None


def check_done(text: str, messages: Sequence[BaseMessage] = ()) -> str:
    """Return the answer, unless it says that the task was not done.

    Args:
        messages: The conversation that the answer ends.

    Raises:
        NotDone: The answer begins with ``NOT DONE:``.
    """
    if found := _WORDS.match(text):
        raise NotDone(found[1].strip()[:MOST_REASON] or NO_REASON, messages=messages)
    return text


FAILED_CHANGE: Final = (
    "the last call that was to change something failed, and none after it worked: "
)
"""Precedes the text of `failed_change` in a message."""


def failed_change(messages: Sequence[BaseMessage]) -> str | None:
    """The last call that was meant to change something, if it failed and no later call worked.

    The calls of one turn do not know of each other. So a call that only reads is later than another
    call only if it is in a later turn.

    Returns:
        The tool and its answer; None if the calls show no failure.
    """
    looked = False
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            if looked:  # in a later turn than a call that failed
                return None
        elif (changes := message.additional_kwargs.get(CHANGES)) is None:
            continue
        elif fault := _fault(message):
            if changes:
                return f"`{message.name}`: {fault}"
        elif changes:
            return None
        else:
            looked = True
    return None


def _fault(message: ToolMessage) -> str | None:
    """Why a call failed, from its answer's `isError` or other evidence; None if it did not."""
    if message.status == "error":
        return message.text
    answer = ToolResult(text=message.text, structured=message.artifact)
    return exit_code_evidence(outputs_of(answer))


def notices_of_calls(messages: Sequence[BaseMessage]) -> tuple[Notice, ...]:
    """The notices in the last answer of each tool. A success must not hide them.

    Only the last answer counts: a repeated call should repair the problem of the first answer.
    """
    last = {
        message.name: message
        for message in messages
        if isinstance(message, ToolMessage) and CHANGES in message.additional_kwargs
    }
    answers = (ToolResult(text=m.text, structured=m.artifact) for m in last.values())
    return tuple(notice for answer in answers for notice in notices_in(outputs_of(answer)))
