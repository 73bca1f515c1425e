"""The values of expressions: plain JSON, the budget of an evaluation, and its faults."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, TypeGuard, cast

from fractale.plain import MOST_BITS

FUEL: Final = 8_000_000
"""The budget of one evaluation. A unit is about one character of text, or an eighth of a step."""

ITEM: Final = 20
"""The cost of one item of a list: its memory is that of about so many characters."""

STEP: Final = 8
"""The cost of one step of a loop."""


class Fault(Exception):
    """An expression could not be evaluated.

    Args:
        message: The error.
        hint: How to fix it.
        offset: The offset in the expression's text; -1 if it is not known here.
    """

    def __init__(self, message: str, hint: str | None = None, offset: int = -1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.offset = offset


class Missing(Fault):
    """A name is not defined.

    Args:
        name: The dotted name, up to the part that is missing.
    """

    def __init__(self, name: str, message: str, hint: str | None = None, offset: int = -1) -> None:
        super().__init__(message, hint, offset)
        self.name = name


class Fuel:
    """A budget of work and memory, so that no expression can hang or fill the machine.

    It counts sizes, not seconds: the same expression over the same data always ends the same way,
        on
    every machine and in every replay.
    """

    __slots__ = ("left",)

    def __init__(self, units: int = FUEL) -> None:
        self.left = units

    def spend(self, units: int) -> None:
        """Use up some of the budget, before the work is done.

        Raises:
            Fault: The budget is too small.
        """
        self.left -= units
        if self.left < 0:
            self.left = 0
            raise Fault(
                "the expression is too large to evaluate",
                "an expression is for small data; let a tool do the work on large data",
            )

    def spend_on(self, value: Any) -> int:
        """Use up the cost of processing all of a value.

        The cost counts the values as written out. If a list contains another list twice, that list
        counts twice, since comparing or writing it takes that long.

        Returns:
            The nesting depth of the value.
        """
        level, depth = [value], 0
        while level:
            self.spend(STEP * len(level))
            inner: list[Any] = []
            for item in level:
                self._add_inner(item, inner)
            level, depth = inner, depth + 1
        return depth

    def _add_inner(self, item: Any, inner: list[Any]) -> None:
        if isinstance(item, str):
            self.spend(len(item) // 4)
        elif is_mapping(item):
            self.spend(STEP * len(item) + sum(map(len, item)) // 4)
            inner += item.values()
        elif is_list(item):
            # Before the copy, since the copy needs memory, too.
            self.spend(len(item))
            inner += item


def is_mapping(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value is a JSON object."""
    return isinstance(value, (dict, Mapping))


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value is a JSON array."""
    return isinstance(value, (list, tuple))


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value counts in arithmetic; as in Python, true is 1 and false is 0."""
    return isinstance(value, (int, float))


def whole(value: Any) -> int:
    """A value that must be a whole number.

    Raises:
        Fault: The value is not a whole number.
    """
    if isinstance(value, int):
        return value
    raise Fault(f"expected a whole number, not {kind(value)}")


def kind(value: Any) -> str:
    """The type of a value, as text for a message."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "text"
    if is_number(value):
        return "a number"
    if is_mapping(value):
        return "a mapping"
    return "a list" if is_list(value) else f"a {type(cast('object', value)).__name__}"


def finite(value: Any) -> Any:
    """A number that JSON can express.

    Raises:
        Fault: It is infinite, not a number, not real, or too long.
    """
    if isinstance(value, int) and value.bit_length() <= MOST_BITS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise Fault("the result is too large a number, or not a real one")


def to_text(fuel: Fuel, value: Any) -> str:
    """A value inside other text: text unchanged, anything else as compact JSON."""
    if isinstance(value, str):
        return value
    if is_mapping(value) or is_list(value):
        return to_json(fuel, value)
    return json.dumps(value)


def to_json(fuel: Fuel, value: Any, indent: int | None = None) -> str:
    """A value as JSON, compact unless there is an indentation."""
    start = fuel.left
    depth = fuel.spend_on(value)
    if indent:
        fuel.spend((start - fuel.left) // STEP * depth * indent)
    separators = None if indent else (",", ":")
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, default=_as_json
    )
    fuel.spend(len(text))
    return text


def _as_json(value: Any) -> Any:
    if is_mapping(value):
        return dict(value)
    raise Fault(f"{kind(value)} is not JSON")
