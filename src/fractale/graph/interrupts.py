"""How a node asks a person: LangGraph's interrupt, and the one reader of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.types import interrupt

from fractale.errors import AnswerError
from fractale.graph.recorded import current_task
from fractale.graph.visit import Visit
from fractale.questions import identity, read_answer, read_reply


def ask(visit: Visit, question: Mapping[str, Any]) -> Any:
    """The person's answer to a question of the step.

    An answer is used for the question that it was given to, and for no other; answers to other
    questions of the same task wait for these. A bare value, as ``Command(resume=…)`` gives it,
    belongs to the question in its position. One that the question does not accept leaves the
    question open: it is asked again, with what was wrong as `problem`.

    Args:
        question: Of any kind of `fractale.questions`; secrets in it are masked.

    Returns:
        An answer of that kind.

    Raises:
        GraphInterrupt: There is no answer yet. The node runs again from its start once there is.
    """
    asked = visit.context.mask(dict(question))
    wanted = identity(asked)
    replies = visit.replies.setdefault(current_task(), [])
    shown = asked
    while True:
        for index, (belongs_to, answer) in enumerate(replies):
            if belongs_to == wanted:
                del replies[index]
                return answer
        value = interrupt(shown)
        if (given := read_reply(value)) is not None:
            replies.append(given)
            continue
        try:
            return read_answer(asked, value)
        except AnswerError as error:
            problem = f"{error.message} ({error.hint})" if error.hint else error.message
            shown = {**asked, "problem": problem}
