"""Which question an answer belongs to.

LangGraph hands a task the answers of its interrupts by their order alone. What a task asks can
change between two of its executions: an approval that ``--yes`` gave in one process is a question
in the next. So each answer carries the identity of its question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

PASSING: Final = frozenset(
    {"id", "number", "of", "why", "origins", "yes", "changes", "problem", "reason", "folder"}
    | {"diff", "cost"}
)
"""Fields that can differ between two executions that ask the same."""

_QUESTION, _ANSWER = "fractale.question", "fractale.answer"


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that `read_answer` already accepted: it is not read again."""

    value: Any


def identity(question: Mapping[str, Any]) -> str:
    """A hash of what a question asks: its kind, step, words, tool and definition, arguments."""
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
