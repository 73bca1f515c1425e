"""Parse what users type: short words, and text that is JSON or YAML."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from fractale.errors import AnswerError, PlanError
from fractale.plain import to_json
from fractale.text import clip

_SURROGATE = re.compile("[\ud800-\udfff]")

DECISIONS: Final[Mapping[str, frozenset[str]]] = {
    "approve": frozenset(),
    "edit": frozenset({"edited_action"}),
    "reject": frozenset({"message"}),
    "respond": frozenset({"message"}),
}
"""Type of a decision in LangChain's form → the other keys that it may have."""

YES = frozenset(("y", "yes", "true", "ok"))
NO = frozenset(("n", "no", "false"))


def word_of(raw: Any) -> str:
    """A short answer in lower case, booleans as ``yes`` and ``no``; empty for other data."""
    if isinstance(raw, bool):
        return "yes" if raw else "no"
    return raw.strip().casefold() if isinstance(raw, str) else ""


def mapping_of(raw: Any) -> dict[str, Any] | None:
    """A mapping, or text in braces read as JSON or YAML; None for anything else.

    Raises:
        AnswerError: Text in braces cannot be read.
    """
    if isinstance(raw, str) and raw.lstrip().startswith("{"):
        raw = data_of(raw)
    if not isinstance(raw, Mapping):
        return None
    return {str(key): value for key, value in cast("Mapping[Any, Any]", raw).items()}


def decision_of(raw: Any) -> dict[str, Any] | None:
    """The decision in the form of LangChain's human-in-the-loop middleware; None for other data.

    It is ``{"decisions": [DECISION]}``, or the decision alone, such as ``{"type": "approve"}``.

    Raises:
        AnswerError: There is not exactly one decision: each question is about one call.
    """
    data = mapping_of(raw) if isinstance(raw, Mapping) else None
    if data is not None and set(data) == {"decisions"}:
        given = data["decisions"]
        decisions = cast("list[Any]", given) if isinstance(given, list) else []
        if len(decisions) != 1:
            raise AnswerError(
                "`decisions` must be a list of one decision",
                hint="answer several questions by the ids of their interrupts",
            )
        data = mapping_of(decisions[0]) if isinstance(decisions[0], Mapping) else None
    if data is None or data.get("type") not in DECISIONS:
        return None
    return data if data.keys() <= DECISIONS[data["type"]] | {"type"} else None


def data_of(text: str) -> Any:
    """JSON or YAML text as plain data.

    Raises:
        AnswerError: The text is not JSON or YAML, or is longer than a plan file may be.
    """
    from fractale.plan.source import read_source

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return read_source(text, "answer").plain()
    except PlanError as error:
        raise AnswerError(f"not valid JSON or YAML: {error.problems[0].message}") from error


def is_storable(value: Any) -> bool:
    """Whether a run's record can store a value: JSON, in UTF-8 and with numbers of 64 bits."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return all(isinstance(key, str) and _is_text(key) and is_storable(v) for key, v in pairs)
    if isinstance(value, list):
        return all(is_storable(each) for each in cast("list[Any]", value))
    if isinstance(value, str):
        return _is_text(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and -(2**63) <= value < 2**64)


def _is_text(text: str) -> bool:
    return text.isascii() or not _SURROGATE.search(text)


def brief(value: Any, limit: int = 60) -> str:
    """A value shortened to one line, for a message."""
    text = value if isinstance(value, str) else to_json(value, default=str)
    return clip(text, limit)
