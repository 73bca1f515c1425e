"""The fields of an elicitation's JSON Schema: read and check the values that a server asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from fractale.errors import AnswerError
from fractale.questions.parsing import NO, YES, brief, data_of, word_of
from fractale.schemas import Misfit, UnusableSchema, misfits
from fractale.secret_names import asks_for_secret, is_secret


def properties_of(schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The fields that a server asks for, each with its own schema."""
    found = schema.get("properties")
    if not isinstance(found, Mapping):
        return {}
    fields = cast("Mapping[str, Any]", found).items()
    return {name: as_schema(field) for name, field in fields}


def secret_fields(schema: Mapping[str, Any]) -> set[str]:
    """The fields that ask for a secret, by `writeOnly`, format, name, title or description."""
    return {
        name
        for name, field in properties_of(schema).items()
        if field.get("format") == "password"
        or field.get("writeOnly") is True
        or is_secret(name)
        or is_secret(str(field.get("title") or ""))
        or (field.get("type") != "boolean" and asks_for_secret(str(field.get("description") or "")))
    }


def as_schema(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping; otherwise an empty mapping."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def required_of(schema: Mapping[str, Any]) -> set[str]:
    """The fields that must be answered."""
    found = schema.get("required")
    return {str(name) for name in cast("list[Any]", found)} if isinstance(found, list) else set()


def defaults_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The default of each field that has one."""
    fields = properties_of(schema).items()
    return {name: field["default"] for name, field in fields if "default" in field}


def with_defaults(schema: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with some values as the defaults of its fields."""
    if not values:
        return schema
    fields = {
        name: {**field, "default": values[name]} if name in values else field
        for name, field in properties_of(schema).items()
    }
    return {**schema, "properties": fields}


def options_of(field: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """The choices of a field: each value with its title."""
    values = field.get("enum")
    if isinstance(values, list):
        titles = field.get("enumNames")
        words = cast("list[Any]", titles) if isinstance(titles, list) else []
        listed = cast("list[Any]", values)
        shown = [str(words[i] if i < len(words) else value) for i, value in enumerate(listed)]
        return list(zip(listed, shown, strict=True))
    for key in ("oneOf", "anyOf"):
        given = field.get(key)
        options = [as_schema(each) for each in cast("Sequence[Any]", given or ())]
        if options and all("const" in option for option in options):
            return [(each["const"], str(each.get("title", each["const"]))) for each in options]
    return []


def choices_of(field: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """The choices of a field, or of the values of a list."""
    return options_of(field) or options_of(as_schema(field.get("items")))


def read_field(field: Mapping[str, Any], raw: Any) -> Any:
    """A field's value, parsed from text or taken unchanged from data.

    Args:
        raw: For a choice: its number, its value or its title.

    Raises:
        AnswerError: It is not a value of the field's type.
    """
    if not isinstance(raw, str):
        return raw
    text = raw.strip()
    if options := options_of(field):
        return _option(options, text)
    kind = field.get("type")
    if kind == "string":
        return raw
    if kind == "array":
        return _list(text, as_schema(field.get("items")))
    readers = {"integer": _integer, "number": _number, "boolean": _boolean}
    return readers.get(str(kind), _anything)(text)


def _option(options: Sequence[tuple[Any, str]], text: str) -> Any:
    for value, words in options:
        if text in (str(value), words):
            return value
    if text.isdecimal() and 1 <= int(text) <= len(options):
        return options[int(text) - 1][0]
    for value, words in options:
        if text.casefold() in (str(value).casefold(), words.casefold()):
            return value
    raise AnswerError(f"`{brief(text)}` is not one of: {', '.join(w for _, w in options)}")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise AnswerError(f"`{brief(text)}` is not a whole number") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise AnswerError(f"`{brief(text)}` is not a number") from None
    if not math.isfinite(value):
        raise AnswerError(f"`{brief(text)}` is not a finite number")
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else value


def _boolean(text: str) -> bool:
    word = word_of(text)
    if word not in YES | NO:
        raise AnswerError(f"`{brief(text)}` is neither yes nor no")
    return word in YES


def _list(text: str, item: Mapping[str, Any]) -> list[Any]:
    """A list in brackets, or values separated by commas."""
    if text.startswith("["):
        return cast("list[Any]", data_of(text))
    return [read_field(item or {"type": "string"}, part.strip()) for part in text.split(",")]


def _anything(text: str) -> Any:
    return data_of(text) if text[:1] in ("{", "[") else text


def errors_of(schema: Mapping[str, Any], value: Any) -> list[str]:
    """The errors of a value by its schema, as text; empty if it is valid.

    References to other documents are never fetched.
    """
    try:
        found = misfits(schema, value, formats=_formats())
    except UnusableSchema as error:
        return [f"the server's own schema cannot be used: {brief(str(error), 200)}"]
    return [_in_words(each) for each in found]


def _formats() -> Any:
    """The formats that MCP's questions may ask for: email, uri, date, date-time.

    jsonschema itself checks the last two of these only with packages that are not always there.
    """
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=("date",))
    for name, is_right in _FORMATS.items():
        checker.checks(name)(_of_text(is_right))
    return checker


def _of_text(is_right: Callable[[str], bool]) -> Callable[[object], bool]:
    """A check of text; a value of another type passes it."""
    return lambda value: not isinstance(value, str) or is_right(value)


def _is_uri(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+", text) is not None


def _is_email(text: str) -> bool:
    return re.fullmatch(r"[^@\s]+@[^@\s]+", text) is not None


def _is_date_time(text: str) -> bool:
    """Whether a text is a date, a time and an offset from UTC, as in RFC 3339."""
    try:
        return "T" in text.upper() and datetime.fromisoformat(text.upper()).tzinfo is not None
    except ValueError:
        return False


_FORMATS: Mapping[str, Callable[[str], bool]] = {
    "email": _is_email,
    "uri": _is_uri,
    "date-time": _is_date_time,
}


def _in_words(misfit: Misfit) -> str:
    place = misfit.place.removeprefix("$").removeprefix(".")
    message = brief(misfit.message, 200)
    return f"`{place}`: {message}" if place else message
