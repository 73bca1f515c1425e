"""Arguments checked against the schema of what is to be called, before anything is asked or run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fractale.schemas import UnusableSchema, misfits

Schema = Mapping[str, Any]


def faults_of_given(schema: Schema, given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the arguments that are given so far; others may follow.

    Args:
        schema: JSON Schema of all arguments.
        given: Those that are known. A text is no fault where a number is meant: whoever makes the
            call can still write it as one.
    """
    properties: Schema = schema.get("properties") or {}
    open_schema = {
        "type": "object",
        "properties": properties,
        **{key: schema[key] for key in ("$defs", "definitions") if key in schema},
    }
    return _faults(open_schema, {n: v for n, v in given.items() if n in properties})


def faults_of_call(schema: Schema, arguments: Mapping[str, Any]) -> list[str]:
    """What is wrong with the arguments of a whole call."""
    closed = dict(schema)
    if schema.get("properties") and "patternProperties" not in schema:
        # Servers that are made from functions refuse what they do not name.
        closed.setdefault("additionalProperties", False)
    return _faults(closed, arguments)


def _faults(schema: Schema, value: Mapping[str, Any]) -> list[str]:
    try:
        return [str(each) for each in misfits(schema, value, texts="any")]
    except UnusableSchema:
        return []  # the server has its own word
