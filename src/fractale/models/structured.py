"""Ask for JSON of a schema, and check the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fractale.models.json_text import json_values
from fractale.schemas import TooMuchWork, UnusableSchema, Work, misfits

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The request for an answer of a schema, in the form of OpenAI and compatible servers.

    It does not use OpenAI's strict mode, which supports only a part of JSON Schema.
    """
    name = "".join(c if c.isalnum() else "_" for c in str(schema.get("title") or "answer"))
    return {
        "type": "json_schema",
        "json_schema": {"name": name[:60], "schema": dict(schema), "strict": False},
    }


def with_schema_in_words(
    messages: Sequence[BaseMessage], schema: Mapping[str, Any]
) -> list[BaseMessage]:
    """The same conversation with the schema in the text of the last message."""
    text = (
        "Answer with JSON only, without any words around it, that fits this JSON Schema:\n"
        f"{json.dumps(schema, ensure_ascii=False)}"
    )
    return _ask_last(messages, text)


def _ask_last(messages: Sequence[BaseMessage], text: str) -> list[BaseMessage]:
    from langchain_core.messages import HumanMessage

    # Some providers refuse two messages of the same role in a row.
    *earlier, last = messages
    if isinstance(last, HumanMessage) and isinstance(last.content, str):
        return [*earlier, HumanMessage(f"{last.content}\n\n{text}")]
    return [*messages, HumanMessage(text)]


def with_correction(
    messages: Sequence[BaseMessage], answer: str, errors: Sequence[str]
) -> list[BaseMessage]:
    """The same conversation, with the answer that did not fit and its errors."""
    from langchain_core.messages import AIMessage, HumanMessage

    listed = "\n".join(f"- {error}" for error in errors)
    text = f"That answer does not fit:\n{listed}\nAnswer again, with the corrected JSON only."
    return [*messages, AIMessage(answer), HumanMessage(text)]


def read(text: str, schema: Mapping[str, Any] | None) -> tuple[Any, list[str]]:
    """Read the JSON in a text, and validate it against the schema.

    If the text has several JSON values, the first that fits counts, otherwise the first.

    Returns:
        The value, None if there is none, and the errors, each with its position in the value.
    """
    first: tuple[Any, list[str]] | None = None
    work = Work()  # one budget for all values: a text may contain thousands
    for value in _candidates(text, schema):
        try:
            errors = _errors(value, schema, work)
        except TooMuchWork as error:
            return first or (value, [f"the check was stopped: {error}"])
        if not errors:
            return value, []
        first = first or (value, errors)
    return first or (None, ["it contains no JSON"])


def _candidates(text: str, schema: Mapping[str, Any] | None) -> list[Any]:
    found = list(json_values(text))
    if not found and schema and schema.get("type") not in (None, "object", "array"):
        try:
            return [json.loads(text)]
        except ValueError:
            return []
    return found


def schema_errors(value: Any, schema: Mapping[str, Any] | None) -> list[str]:
    """List where a value violates the schema: ``$.nodes: 'four' is not of type 'integer'``."""
    try:
        return _errors(value, schema, Work())
    except TooMuchWork as error:
        return [f"the check was stopped: {error}"]


def _errors(value: Any, schema: Mapping[str, Any] | None, work: Work) -> list[str]:
    if not schema:
        return []
    try:
        return [str(each) for each in misfits(schema, value, trusted=True, work=work)]
    except TooMuchWork:
        raise
    except UnusableSchema as error:
        return [f"the schema itself cannot be used: {error}"]
