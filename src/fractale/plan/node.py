"""Values of a YAML file with their positions, and the meaning of a plain scalar.

Scalars follow the YAML 1.2 core schema, reduced to the values of JSON. ``yes``, ``on``, dates and
``12:30:00`` are text. Integers over 64 bits and numbers that are not finite are errors: no tool
could receive them, and no run's record could store them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fractale.text import clip

if TYPE_CHECKING:
    from fractale.errors import Position

Scalar: TypeAlias = "bool | int | float | str | None"
NodeValue: TypeAlias = "Scalar | list[Node] | dict[str, Node]"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One value of a YAML file.

    Args:
        value: A plain value, a list of nodes, or a mapping of text to nodes.
        position: The first character: inside the quotes, or in the first line of the content of a
            ``|`` or ``>`` block.
        length: The number of its characters on its first line, at least 1.
        source: A scalar's text as written, without quotes.
        keys: A mapping's keys as nodes.
    """

    value: NodeValue
    position: Position
    length: int = 1
    source: str = ""
    keys: dict[str, Node] = field(default_factory=dict[str, "Node"])

    def plain(self) -> Any:
        """The value as plain JSON data, without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def found(self) -> str:
        """The value as text for a message."""
        match self.value:
            case None:
                return "nothing"
            case bool():
                return str(self.value).lower()
            case int() | float():
                return f"the number {clip(self.source)}"
            case str():
                return f"the text `{clip(self.value)}`" if self.value else "empty text"
            case list():
                return "a list" if self.value else "an empty list"
            case dict():
                return "a mapping"


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
    """A number that JSON cannot express: infinite, or not a number."""


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
    # Converting very long numbers takes quadratic time, so their length is checked first.
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
    """Whether a plain scalar is a decimal integer that looks octal, with a leading zero."""
    return _LEADING_ZERO.fullmatch(text) is not None
