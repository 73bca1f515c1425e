"""Checking values against JSON Schema, without fetching anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

SHOWN_ERRORS = 5
"""Errors that one message lists."""

LONGEST_MESSAGE = 300


class UnusableSchema(ValueError):
    """The schema itself is invalid, or refers to a document that is not part of it."""


def schema_errors(schema: Mapping[str, Any], value: Any, *, convertible: bool = False) -> list[str]:
    """Where a value does not fit a schema: ``$.nodes: 'four' is not of type 'integer'``.

    Args:
        convertible: Whether text that reads as a number or a flag counts as one, as servers
            convert it.

    Returns:
        At most `SHOWN_ERRORS` messages, in the order of their places; empty if the value fits.

    Raises:
        UnusableSchema: The schema cannot be used. No remote reference is fetched.
    """
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # jsonschema leaves its validators untyped.
    kind = cast("Any", validator_for(dict(schema), default=Draft202012Validator))
    validator: Any = kind(dict(schema), registry=cast("Any", Registry)())
    try:
        kind.check_schema(dict(schema))
        found = [
            error
            for error in validator.iter_errors(value)
            if not (convertible and _would_convert(error))
        ]
    except (SchemaError, Unresolvable, ValueError, RecursionError) as error:
        raise UnusableSchema(str(error)) from error
    found.sort(key=_place)
    return [f"{_place(e)}: {e.message[:LONGEST_MESSAGE]}" for e in found[:SHOWN_ERRORS]]


def _place(error: Any) -> str:
    return cast("str", error.json_path)


def _would_convert(error: Any) -> bool:
    """Whether only text stands where a number or a flag is expected, and reads as one."""
    if error.validator in ("anyOf", "oneOf"):
        return any(map(_would_convert, error.context or ()))
    if error.validator != "type" or not isinstance(error.instance, str):
        return False
    expected: Any = error.validator_value
    kinds = {expected} if isinstance(expected, str) else set(expected)
    text = error.instance.strip()
    if "boolean" in kinds and text.casefold() in ("true", "false"):
        return True
    if not kinds & {"integer", "number"}:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
