"""How a node asks a person: LangGraph's interrupt, and the one reader of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langgraph.types import interrupt

from fractale.errors import AnswerError
from fractale.graph.attempt import Attempt
from fractale.graph.recorded import current_task
from fractale.masking import MASK
from fractale.questions import (
    asks_secret,
    expected,
    identity,
    is_answer,
    read_answer,
    read_reply,
    secrets_of_answer,
)


def _accepts(value: Any) -> bool:
    """Whether a bare answer to a server gives what it asks for."""
    word = cast("Mapping[str, Any]", value).get("action") if isinstance(value, Mapping) else value
    return word not in ("decline", "cancel")


def ask(attempt: Attempt, question: Mapping[str, Any], *, played: bool = False) -> Any:
    """The person's answer to a question of the step.

    An answer is used for the question that it was given to, and for no other; answers to other
    questions of the same task wait for these. A bare value, as ``Command(resume=…)`` gives it,
    belongs to the question in its position. One that the question does not accept leaves the
    question open: it is asked again, with what was wrong as `problem`.

    Args:
        question: Of any kind of `fractale.questions`; secrets in it are masked.
        played: Whether the question is replayed: then a secret in its answer is needed no more.

    Returns:
        An answer of that kind.

    Raises:
        GraphInterrupt: There is no answer yet. The node runs again from its start once there is.
    """
    asked = attempt.context.mask(dict(question))
    wanted = identity(asked)
    replies = attempt.replies.setdefault(current_task(), [])
    shown = asked
    while True:
        for index, (belongs_to, answer) in enumerate(replies):
            if belongs_to == wanted:
                del replies[index]
                return answer
        value = interrupt(shown)
        if (given := read_reply(value)) is not None:
            # A secret is not stored, so that it is asked for again.
            if not played and MASK in secrets_of_answer(asked, given[1]):
                continue
            if played or given[0] != wanted or is_answer(asked, given[1]):
                replies.append(given)
            else:  # somebody else made it than `fractale.questions.reply`
                shown = {**asked, "problem": f"answer with: {expected(asked)}"}
            continue
        if asks_secret(asked) and _accepts(value):
            problem = "a secret is not taken from a resume, which would store it: decline or cancel"
            shown = {**asked, "problem": problem}
            continue
        try:
            return read_answer(asked, value)
        except AnswerError as error:
            problem = f"{error.message} ({error.hint})" if error.hint else error.message
            shown = {**asked, "problem": problem}
