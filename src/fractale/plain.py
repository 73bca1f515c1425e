r"""Plain JSON values, and JSON text of them that every reader accepts.

Tools, models, files and command lines produce values that JSON or UTF-8 has no form for. The rule
is the same everywhere:

- A number that is not finite is kept as text: ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.
- Half a surrogate pair (a byte of a file name that is not UTF-8, a cut emoji) is kept, and written
  as its JSON escape: ``"x\udcff"`` is read back as the same text.
- An integer is kept up to `MOST_BITS` bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

MOST_BITS: Final = 4096
"""The longest integer, in bits: Python itself writes at most 4,300 digits."""


def plain(value: Any) -> Any:
    """A JSON value with numbers that are not finite as text; the same object if it has none.

    Raises:
        ValueError: It holds an integer of more than `MOST_BITS` bits.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if isinstance(value, int):
        if value.bit_length() > MOST_BITS:
            raise ValueError(f"an integer of {value.bit_length()} bits; at most {MOST_BITS} fit")
        return value
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        found = {key: plain(each) for key, each in table.items()}
        return table if all(found[key] is table[key] for key in found) else found
    if isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        kept = [plain(each) for each in items]
        return items if all(a is b for a, b in zip(kept, items, strict=True)) else kept
    return value


def to_json(
    value: Any,
    *,
    indent: int | None = None,
    compact: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """A value as JSON text without lone surrogates, so that it can be printed and encoded.

    Args:
        compact: Without spaces.
        default: Returns a JSON value for a value that is not JSON.

    Raises:
        ValueError: It has an integer of more than `MOST_BITS` bits.
        TypeError: A part of it is not JSON, and `default` is None.
    """
    separators = (",", ":") if compact else None
    options: dict[str, Any] = {"indent": indent, "separators": separators, "default": default}
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        text = json.dumps(plain(value), ensure_ascii=False, **options)
    # UTF-8 lacks surrogates only, and Python's escape of a surrogate is also JSON's.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def as_text(value: Any) -> str:
    """A text as it is; any other value as JSON text."""
    return value if isinstance(value, str) else to_json(value)


def readable(text: str) -> str:
    """Text for users and models: characters that UTF-8 has no form for become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def readable_values(value: Any) -> Any:
    """A JSON value whose texts, keys too, went through `readable`."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, list):
        return [readable_values(each) for each in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        return {readable_values(key): readable_values(each) for key, each in table.items()}
    return value


def table(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A field of an event that is a mapping; empty if it is missing or null."""
    return dict(data.get(key) or {})


def entries(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A field of an event that is a list of mappings; empty if it is missing or null."""
    return list(data.get(key) or [])
