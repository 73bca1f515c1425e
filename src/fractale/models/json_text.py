"""Find JSON in the text of a model or a tool.

`whole_json` reads a text that is JSON as a whole, `final_json` a text that ends with JSON.
`find_json` and `json_values` also search prose. Use these two only if you asked for JSON: prose may
quote JSON that it does not mean.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, cast

FENCE = re.compile(r"```[ \t]*+(?:json\w*+)?[ \t]*+\r?\n(.*?)```", re.DOTALL | re.IGNORECASE)
MAX_FENCES = 10_000

START = re.compile(
    r"\{(?=\s*+[\"}])"  # an object: a key or its closing brace follows
    r"|\[(?=\s*+(?:[\[\]{\"]|true\b|false\b|null\b|-?\d[\d.eE+-]*+\s*+[,\]]))"
)
"""Possible starts of an object or an array. The pattern skips most brackets of prose and logs."""

ONE_FENCE = re.compile(
    r"\A(`{3,}+)[ \t]*+(?:json\w*+)?[ \t]*+\r?\n(.*)\1\Z", re.DOTALL | re.IGNORECASE
)

FINAL_FENCE = re.compile(
    r"\n```[ \t]*+(?:json\w*+)?[ \t]*+\r?\n((?:(?!```).)*+)```\Z", re.DOTALL | re.IGNORECASE
)

OPENERS = re.compile(r"[\[\s]*+")
LINE_END = re.compile(r"[\s.,;:!?)*`\"']*?(?:\n|\Z)")

NESTING = 1000
"""Characters charged for text whose nesting is too deep for the decoder."""

MAX_DIGITS = 4300
"""Characters charged for a number with more digits than Python accepts."""


def whole_json(text: str) -> Any:
    """Return the JSON object or array that a text is as a whole, or that its only fence contains.

    Raises:
        ValueError: The text is something else: prose, a scalar, or JSON with text around it.
    """
    stripped = text.strip()
    fenced = ONE_FENCE.match(stripped)
    value = _load(fenced[2] if fenced else stripped)
    if isinstance(value, (dict, list)):
        return cast("Any", value)
    raise ValueError("the text is not a JSON object or array")


def final_json(text: str) -> Any:
    """Return the JSON object, or array of objects, at the end of a text; None if there is none.

    The JSON starts a line, or is in a fence. Failed decoding reads at most a few times the length
    of the text.
    """
    text = text.rstrip()
    if fenced := FINAL_FENCE.search(text):
        text = fenced[1].rstrip()
    decoder, budget = json.JSONDecoder(strict=False), 4 * len(text) + 100_000
    for start in _line_starts(text):
        budget -= len(text) - start  # the decoder reads no further
        if budget < 0:
            break
        rest = text[start:]
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            continue
        if end == len(rest) and _is_record(value):
            return value
    return None


def _line_starts(text: str) -> Iterator[int]:
    """Yield the starts of lines that may begin a JSON value, the last first."""
    end = len(text)
    while end > 0:
        start = text.rfind("\n", 0, end) + 1
        if text[start : start + 1] in ("{", "["):
            yield start
        end = start - 1


def _is_record(value: Any) -> bool:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, dict) for item in items)


def find_json(text: str) -> Any:
    """Return the first complete JSON object or array in a text.

    The order is: the whole text, the first fenced block that is JSON, the first value in prose.
    In prose, `[1]` or `[0.12]` within a sentence is a citation or a time stamp. So empty values
    and arrays of numbers count only at the end of their line.

    Args:
        text: Of any size; the time is linear in the size.

    Raises:
        ValueError: The text contains no such value.
    """
    for value in json_values(text):
        return value
    raise ValueError("no JSON object or array in the text")


def json_values(text: str) -> Iterator[Any]:
    """Yield every complete JSON object and array of a text that is not part of another one.

    Fenced blocks come first, in order, then the values in prose.
    """
    stripped = text.strip()
    if stripped[:1] in ("{", "[") and stripped[-1:] in ("}", "]"):
        whole = _load(stripped)
        if whole is not None:
            yield whole
            return
    for block in itertools.islice(FENCE.finditer(text), MAX_FENCES):
        value = _load(block[1].strip())
        if isinstance(value, (dict, list)):
            yield cast("Any", value)
    yield from _in_prose(text)


def _load(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _in_prose(text: str) -> Iterator[Any]:
    # A failed decoding costs up to the rest of the text, and locating the failure costs the
    # text before it. So both the characters read in vain and the attempts are bounded.
    decoder = json.JSONDecoder(strict=False)
    characters = 4 * len(text) + 100_000
    attempts = 1_000 + 1_000_000_000 // (len(text) + 1)
    passed_over = 200_000
    position = 0
    while min(characters, attempts, passed_over) > 0 and (found := START.search(text, position)):
        start = found.start()
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            attempts -= 1
            position, read = _after_failure(error, text, start)
            characters -= read
        else:
            if _is_meant(value, text, start, position):
                yield value
            else:
                passed_over -= 1


def _after_failure(error: Exception, text: str, start: int) -> tuple[int, int]:
    """Return the next position to try, and the number of characters read in vain."""
    if isinstance(error, json.JSONDecodeError):
        return start + 1, error.pos - start + 1
    if isinstance(error, RecursionError):
        opened = OPENERS.match(text, start)
        return max(start + 1, opened.end() - 1 if opened else 0), NESTING
    return start + 1, MAX_DIGITS  # a number that Python refuses to parse


def _is_meant(value: Any, text: str, start: int, end: int) -> bool:
    """Whether a value in prose is intended as JSON, and not brackets of a sentence."""
    if value and (
        isinstance(value, dict)
        or any(not isinstance(item, (int, float)) for item in cast("list[Any]", value))
    ):
        return True
    before = text[max(0, start - 80) : start].rstrip(" \t*`")
    alone = not before or before.endswith((":", "\n"))
    return LINE_END.match(text, end) is not None and (alone or len(value) > 1)
