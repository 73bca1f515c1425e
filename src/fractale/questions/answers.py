"""Answers given beforehand, and the question that an answer belongs to.

LangGraph passes a task the answers to its interrupts by their order alone. The questions of a task
can change between two of its executions: an approval that ``--yes`` gave in one process is a
question in the next. So each answer carries the identity of its question.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.errors import AnswerError
from fractale.plan.paths import without_indexes
from fractale.questions.kinds import MISSING, asks_secret, kind_of, read_answer, tool_of
from fractale.text import one_line

ANY_STEP: Final = "*"
SHORT_ID: Final = 8
"""The length of a short id: the first digits of a question's id."""

_INDEX = re.compile(r"\[\d+\]")


class Answers:
    """Answers given beforehand: in a file, on the command line, or from Python.

    Args:
        given: Step → its answer. If a step asks several questions, a mapping of each question's
            text to the answer. The key of a step is its path (``outer/inner``), its last name
            (``inner``), one item of a foreach (``inner[0]``), or ``*`` for any step. A key can
            also be the `id` of a question that waits, or its first `SHORT_ID` digits.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._given = {str(key): value for key, value in (given or {}).items()}

    def find(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question; MISSING if there is none.

        Raises:
            AnswerError: The answer does not fit the question. An answer for any step is ignored
                instead.
        """
        for key in keys_of(question):
            raw = _pick(question, self._given.get(key, MISSING))
            if raw is MISSING:
                continue
            if key == ANY_STEP and question.get("yes") is False:
                return MISSING  # an answer for any step agrees only if --yes would
            try:
                return not_secret(question, read_answer(question, raw))
            except AnswerError:
                if key != ANY_STEP:
                    raise
                return MISSING
        return MISSING

    def require(self, questions: Sequence[Mapping[str, Any]]) -> None:
        """Check that each answer is for one of the questions that wait.

        Raises:
            AnswerError: An answer does not fit any question, or fits questions of several steps.
        """
        for key in self._given:
            steps = {without_indexes(str(q["step"])) for q in questions if key in keys_of(q)}
            if key != ANY_STEP and not steps:
                waiting = ", ".join(dict.fromkeys(str(q["step"]) for q in questions)) or "nothing"
                raise AnswerError(
                    f"no question waits for the answer to `{key}`", hint=f"waiting: {waiting}"
                )
            if key != ANY_STEP and len(steps) > 1:
                raise AnswerError(
                    f"the answer to `{key}` could belong to any of: {', '.join(sorted(steps))}",
                    hint="write the full path of the step",
                )


def not_secret(question: Mapping[str, Any], answer: Any) -> Any:
    """The answer, which must not be a secret.

    Raises:
        AnswerError: It is a secret. Other users may read files, a shell's history and a process's
            arguments.
    """
    if asks_secret(question) and answer["action"] == "accept":
        raise AnswerError(
            f"`{question.get('step')}` asks for a secret, which is not taken from --answer, a "
            "file of answers or `answers`",
            hint="run `fractale resume RUN` at a terminal and type it there (it is not shown); "
            "`decline` and `cancel` are taken",
        )
    return answer


def keys_of(question: Mapping[str, Any]) -> list[str]:
    """The keys under which an answer to a question can be given, the most exact first."""
    step = str(question.get("step") or "")
    paths = [step, _last(step), without_indexes(step), _last(without_indexes(step)), ANY_STEP]
    id_ = str(question.get("id") or "")
    found = [id_, id_[:SHORT_ID], *paths]
    return [key for key in dict.fromkeys(found) if key]


def _last(step: str) -> str:
    return step.rpartition("/")[2]


def _texts_of(question: Mapping[str, Any]) -> list[str]:
    """Texts that distinguish a question from others of its step: its text, or the tool's names."""
    words = [str(each) for key in ("text", "message", "tool") if (each := question.get(key))]
    return [*words, *([tool_of(question)] if question.get("tool") else [])]


def _pick(question: Mapping[str, Any], given: Any) -> Any:
    """This question's answer among those given for its step; MISSING if they are for others."""
    if not isinstance(given, Mapping):
        return given
    answers = cast("Mapping[Any, Any]", given)
    asked = {one_line(text) for text in _texts_of(question)} - {""}
    for key, answer in answers.items():
        if one_line(str(key)) in asked:
            return answer
    keys = {str(key) for key in answers}
    return answers if kind_of(question).is_answer(question, keys) else MISSING


# The question that an answer belongs to

PASSING: Final = frozenset(
    {"id", "number", "of", "why", "origins", "yes", "changes", "problem", "reason", "folder"}
    | {"diff", "cost", "due"}
)
"""Fields that can differ between two executions that ask the same."""

_QUESTION, _ANSWER = "fractale.question", "fractale.answer"


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that `read_answer` already accepted, so that it is not read again."""

    value: Any


def identity(question: Mapping[str, Any]) -> str:
    """A hash of a question's kind, step, text, tool, definition and arguments."""
    asked = {key: value for key, value in question.items() if key not in PASSING}
    text = json.dumps(asked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def reply(question: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """An accepted answer together with the identity of its question, as JSON."""
    return {_QUESTION: identity(question), _ANSWER: answer}


def read_reply(value: Any) -> tuple[str, Any] | None:
    """The identity and the answer of a `reply`; None for any other value."""
    if not isinstance(value, Mapping):
        return None
    data = cast("Mapping[str, Any]", value)
    return (str(data[_QUESTION]), data.get(_ANSWER)) if _QUESTION in data else None
