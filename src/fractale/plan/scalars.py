"""What a plain YAML scalar means: the YAML 1.2 core schema, cut to what JSON can hold.

``yes``, ``on``, dates and ``12:30:00`` are text. Integers that do not fit 64 bits and
numbers that are not finite are refused: no tool could be given them, and a run's record could
not keep them.
"""

from __future__ import annotations

import math
import re
from typing import Final, TypeAlias

Scalar: TypeAlias = "bool | int | float | str | None"

_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER = re.compile(
    r"(?P<int>[-+]?[0-9]+) | (?P<hex>0x[0-9a-fA-F]+) | (?P<oct>0o[0-7]+)"
    r" | (?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)"
    r" | [-+]?\.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN)",
    re.VERBOSE,
)
_BASES: Final = {"int": 10, "hex": 16, "oct": 8}
_LEADING_ZERO = re.compile(r"[-+]?0[0-7]+")
_FIRST = frozenset("-+.0123456789")
_LEAST, _MOST = -(2**63), 2**64 - 1
_MOST_DIGITS = 40


class HugeIntegerError(ValueError):
    """An integer that does not fit 64 bits."""


class NotFiniteError(ValueError):
    """A number that JSON cannot hold: infinite, or not a number."""


def resolve(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar.

    Args:
        text: As written in the file.

    Returns:
        None, a boolean, a number, or the text itself.

    Raises:
        HugeIntegerError: It is an integer beyond 64 bits.
        NotFiniteError: It is infinite or not a number.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _FIRST or not (match := _NUMBER.fullmatch(text)):
        return text
    if base := next((base for kind, base in _BASES.items() if match[kind]), None):
        return _integer(text, base)
    number = float(text) if match["float"] else math.nan
    if not math.isfinite(number):
        raise NotFiniteError(text)
    return number


def _integer(text: str, base: int) -> int:
    # Converting very long digits takes quadratic time, so they are refused by their length.
    if len(text.lstrip("+-0xo")) > _MOST_DIGITS or not _LEAST <= int(text, base) <= _MOST:
        raise HugeIntegerError(text)
    return int(text, base)


def is_text(text: str) -> bool:
    """Whether a plain scalar of this text would be read as text."""
    try:
        return isinstance(resolve(text), str)
    except ValueError:
        return False


def looks_octal(text: str) -> bool:
    """Whether a plain scalar is a decimal integer that its leading zero makes look octal."""
    return _LEADING_ZERO.fullmatch(text) is not None
