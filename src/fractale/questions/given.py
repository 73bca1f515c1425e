"""Answers given beforehand: in a file, on the command line, or from Python."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from fractale.errors import AnswerError
from fractale.questions.forms import properties_of
from fractale.questions.kinds import MISSING, asks_secret, tool_of
from fractale.questions.reading import read_answer
from fractale.text import one_line

ANY_STEP: Final = "*"
SHORT_ID: Final = 8
"""Digits of a question's id that can stand for the whole."""

_INDEX = re.compile(r"\[\d+\]")


class Answers:
    """Answers given beforehand.

    Args:
        given: Step → its answer, or a mapping of the question's text to the answer where a step
            asks several. A step is written by its path (``outer/inner``), by its last name
            (``inner``), or as one item of a foreach (``inner[0]``); ``*`` is any step, and the
            `id` of a question that waits, or its first digits, is that question.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._given = {str(key): value for key, value in (given or {}).items()}

    def find(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question; MISSING if there is none.

        Raises:
            AnswerError: The answer is none that the question takes. What is said for any step
                counts only where it fits.
        """
        for key in keys_of(question):
            raw = _pick(question, self._given.get(key, MISSING))
            if raw is MISSING:
                continue
            if key == ANY_STEP and question.get("yes") is False:
                return MISSING  # it covers no more than --yes
            try:
                return _not_secret(question, read_answer(question, raw))
            except AnswerError:
                if key != ANY_STEP:
                    raise
                return MISSING
        return MISSING

    def require(self, questions: Sequence[Mapping[str, Any]]) -> None:
        """See that each answer is for one of the questions that wait.

        Raises:
            AnswerError: One is for none of them, or could be for several steps.
        """
        for key in self._given:
            steps = {strip_indexes(str(q["step"])) for q in questions if key in keys_of(q)}
            if key != ANY_STEP and not steps:
                waiting = ", ".join(dict.fromkeys(str(q["step"]) for q in questions)) or "nothing"
                raise AnswerError(
                    f"no question waits for the answer to `{key}`", hint=f"waiting: {waiting}"
                )
            if key != ANY_STEP and len(steps) > 1:
                raise AnswerError(
                    f"the answer to `{key}` could be for any of: {', '.join(sorted(steps))}",
                    hint="write the whole path",
                )


def _not_secret(question: Mapping[str, Any], answer: Any) -> Any:
    """An answer given beforehand, unless it is a secret that was written down.

    Raises:
        AnswerError: It is: others can read files, a shell's history and a process's arguments.
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
    """What an answer to a question can be given under, the most exact first."""
    step = str(question.get("step") or "")
    paths = [step, _last(step), strip_indexes(step), _last(strip_indexes(step)), ANY_STEP]
    id_ = str(question.get("id") or "")
    found = [id_, id_[:SHORT_ID], *paths]
    return [key for key in dict.fromkeys(found) if key]


def strip_indexes(step: str) -> str:
    """A step's path without the items of a foreach: of ``a[3]/b``, ``a/b``."""
    return _INDEX.sub("", step)


def _last(step: str) -> str:
    return step.rpartition("/")[2]


def _texts_of(question: Mapping[str, Any]) -> list[str]:
    """What tells a question from others of its step: its words, or the tool's names."""
    words = [str(each) for key in ("text", "message", "tool") if (each := question.get(key))]
    return [*words, *([tool_of(question)] if question.get("tool") else [])]


def _pick(question: Mapping[str, Any], given: Any) -> Any:
    """The answer for this question in what is given for its step; MISSING if it is for others."""
    if not isinstance(given, Mapping):
        return given
    answers = cast("Mapping[Any, Any]", given)
    asked = {one_line(text) for text in _texts_of(question)} - {""}
    for key, answer in answers.items():
        if one_line(str(key)) in asked:
            return answer
    return answers if _is_answer(question, {str(key) for key in answers}) else MISSING


def _is_answer(question: Mapping[str, Any], keys: set[str]) -> bool:
    """Whether a mapping with these keys is itself an answer, not answers by question."""
    kind = question["kind"]
    if kind == "elicitation":
        fields = set(properties_of(question["schema"]))
        return "action" in keys or keys <= fields  # none: the defaults are right
    own = {
        "approval": {"arguments", "always"},
        "review": {"feedback", "plan"},
        "in_doubt": {"outputs"},
    }
    return bool(keys & own.get(kind, set()))
