"""The tests of the language: what stands after `is`, as in Jinja."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fractale.plan.expressions.operators import COMPARISONS
from fractale.plan.expressions.values import Fuel, is_list, is_mapping, is_number, whole


def _is_integer(_: Fuel, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_lower(fuel: Fuel, value: Any) -> bool:
    fuel.spend(len(value) if isinstance(value, str) else 0)
    return isinstance(value, str) and value.islower()


def _is_upper(fuel: Fuel, value: Any) -> bool:
    fuel.spend(len(value) if isinstance(value, str) else 0)
    return isinstance(value, str) and value.isupper()


def _is_sequence(_: Fuel, value: Any) -> bool:
    return isinstance(value, str) or is_list(value) or is_mapping(value)


def _divides(_: Fuel, value: Any, number: Any) -> bool:
    return whole(value) % whole(number) == 0


def _of(check: Callable[[Any], bool]) -> Callable[..., bool]:
    """A test that only looks at the value."""

    def test(_: Fuel, value: Any) -> bool:
        return check(value)

    return test


_EQUAL, _NOT_EQUAL = COMPARISONS["eq"], COMPARISONS["ne"]
_GREATER, _LESS = COMPARISONS["gt"], COMPARISONS["lt"]
_AT_LEAST, _AT_MOST = COMPARISONS["gteq"], COMPARISONS["lteq"]

TESTS: Final[Mapping[str, Callable[..., bool]]] = {
    # The evaluator answers these two itself, for only it knows what is not defined.
    "defined": _of(lambda value: True),
    "undefined": _of(lambda value: False),
    "none": _of(lambda value: value is None),
    "true": _of(lambda value: value is True),
    "false": _of(lambda value: value is False),
    "boolean": _of(lambda value: isinstance(value, bool)),
    "integer": _is_integer,
    "float": _of(lambda value: isinstance(value, float)),
    "number": _of(lambda value: is_number(value)),
    "string": _of(lambda value: isinstance(value, str)),
    "mapping": _of(lambda value: is_mapping(value)),
    "sequence": _is_sequence,
    "iterable": _is_sequence,
    "lower": _is_lower,
    "upper": _is_upper,
    "odd": _of(lambda value: whole(value) % 2 == 1),
    "even": _of(lambda value: whole(value) % 2 == 0),
    "divisibleby": _divides,
    "in": COMPARISONS["in"],
    "==": _EQUAL,
    "eq": _EQUAL,
    "equalto": _EQUAL,
    "!=": _NOT_EQUAL,
    "ne": _NOT_EQUAL,
    ">": _GREATER,
    "gt": _GREATER,
    "greaterthan": _GREATER,
    "<": _LESS,
    "lt": _LESS,
    "lessthan": _LESS,
    ">=": _AT_LEAST,
    "ge": _AT_LEAST,
    "<=": _AT_MOST,
    "le": _AT_MOST,
}
