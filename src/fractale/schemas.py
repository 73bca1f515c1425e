"""Values checked against JSON Schema: no reference is fetched, no stranger's pattern matched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

SHOWN_ERRORS = 5
"""Errors that one message lists."""

LONGEST_MESSAGE = 300

Texts = Literal["exact", "converted", "any"]
"""What text counts as a number or a flag: none; text that reads as one, as servers convert it; or
any, since whoever makes the call can still write it as one."""


class UnusableSchema(ValueError):
    """The schema itself is invalid, or refers to a document that is not part of it."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """One way in which a value does not fit a schema.

    Args:
        place: Its JSON path, such as ``$.nodes``.
    """

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


def misfits(
    schema: Mapping[str, Any],
    value: Any,
    *,
    trusted: bool = False,
    texts: Texts = "exact",
    formats: Any = None,
) -> list[Misfit]:
    """Where a value does not fit a schema.

    Args:
        trusted: Whether the schema is the user's own: then its patterns are matched, too. A
            stranger's could take forever.
        formats: jsonschema's `FormatChecker`; None: formats are not checked.

    Returns:
        At most `SHOWN_ERRORS`, in the order of their places; empty if the value fits.

    Raises:
        UnusableSchema: The schema cannot be used.
    """
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    table = dict(schema) if trusted else _without_patterns(schema)
    # jsonschema and referencing leave their types out.
    kind = cast("Any", validator_for(table, default=Draft202012Validator))
    registry = cast("Any", Registry)()  # of no documents
    try:
        kind.check_schema(table)
        validator = kind(table, registry=registry, format_checker=formats)
        found = [e for e in validator.iter_errors(value) if not _is_meant(e, texts)]
    except (SchemaError, Unresolvable, ValueError, RecursionError, re.error) as error:
        raise UnusableSchema(str(getattr(error, "message", error))) from error
    found.sort(key=_place)
    return [Misfit(_place(e), e.message[:LONGEST_MESSAGE]) for e in found[:SHOWN_ERRORS]]


def _without_patterns(schema: Any) -> Any:
    """A schema that matches no pattern, nor says what names that no pattern matches may hold."""
    if isinstance(schema, list):
        return [_without_patterns(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, Mapping):
        return schema
    table = cast("Mapping[str, Any]", schema)
    left = {"patternProperties"} if "patternProperties" in table else set[str]()
    if left:
        left |= {"additionalProperties", "unevaluatedProperties"}
    if isinstance(table.get("pattern"), str):
        left.add("pattern")
    return {key: _without_patterns(each) for key, each in table.items() if key not in left}


def _place(error: Any) -> str:
    return cast("str", error.json_path)


def _is_meant(error: Any, texts: Texts) -> bool:
    """Whether only text is found where a number or a flag is expected, and may count as one."""
    if texts == "exact":
        return False
    if error.validator in ("anyOf", "oneOf"):
        return any(_is_meant(each, texts) for each in error.context or ())
    if error.validator != "type" or not isinstance(error.instance, str):
        return False
    return texts == "any" or _reads_as(error.instance.strip(), error.validator_value)


def _reads_as(text: str, expected: Any) -> bool:
    kinds = {expected} if isinstance(expected, str) else set(expected)
    if "boolean" in kinds and text.casefold() in ("true", "false"):
        return True
    if not kinds & {"integer", "number"}:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
