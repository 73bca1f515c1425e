"""Arguments checked against the schema of what is to be called, before anything is asked or run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from jsonschema import ValidationError

Schema = Mapping[str, Any]

SHOWN: Final = 5
"""Faults that are told at once."""


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
    return [f"{e.json_path}: {e.message[:300]}" for e in _errors(schema, value)][:SHOWN]


def _errors(schema: Schema, value: Mapping[str, Any]) -> Iterator[ValidationError]:
    """Faults of a value.

    The schema may be a stranger's: its patterns could hang, and its references could lead to the
    network, so neither is followed.
    """
    from jsonschema import Draft202012Validator, SchemaError, validators
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    extend: Any = cast("Any", validators).extend
    kind = extend(Draft202012Validator, {"pattern": None, "patternProperties": None})
    validator = kind(dict(schema), registry=cast("Any", Registry)())
    try:
        for error in validator.iter_errors(value):
            if not (error.validator == "type" and isinstance(error.instance, str)):
                yield error
    except (SchemaError, Unresolvable, ValueError):
        return  # a schema that cannot be used finds no fault; the server has its own word
