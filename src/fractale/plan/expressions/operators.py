"""The operators and tests (`x is even`). They check each size before they allocate memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from fractale.plain import MOST_BITS
from fractale.plan.expressions.values import (
    ITEM,
    STEP,
    Fault,
    Fuel,
    finite,
    is_list,
    is_mapping,
    is_number,
    kind,
    to_text,
    whole,
)

Operation = Callable[[Fuel, Any, Any], Any]

MOST_WIDTH: Final = 1000
"""The widest field of a format."""

_NUMBER_OPERATIONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "subtract": lambda left, right: left - right,
    "multiply": lambda left, right: left * right,
    "divide": lambda left, right: left / right,
    "floor-divide": lambda left, right: left // right,
    "take the rest of": lambda left, right: left % right,
    "raise": lambda left, right: left**right,
}
_FIELD = re.compile(
    r"%(?:(?P<percent>%)|(?:\((?P<key>[^()]*)\))?(?P<flags>[-+ #0]*)(?P<width>\d*)"
    r"(?:\.(?P<precision>\d*))?(?P<type>[sdifFeEgGxXoc]))",
    re.ASCII,
)


def add(fuel: Fuel, left: Any, right: Any) -> Any:
    """`+`: of numbers, of two texts, of two lists."""
    if is_number(left) and is_number(right):
        return finite(left + right)
    if isinstance(left, str) and isinstance(right, str):
        fuel.spend(len(left) + len(right))
        return left + right
    if is_list(left) and is_list(right):
        fuel.spend(ITEM * (len(left) + len(right)))
        return [*left, *right]
    hint = "join texts with `~`" if isinstance(left, str) or isinstance(right, str) else None
    raise Fault(f"cannot add {kind(left)} and {kind(right)}", hint)


def multiply(fuel: Fuel, left: Any, right: Any) -> Any:
    """`*`: of numbers, or a text or list repeated."""
    if isinstance(left, int) and not is_number(right):
        left, right = right, left
    if isinstance(right, int) and isinstance(left, str):
        fuel.spend(len(left) * max(right, 0))
        return left * right
    if isinstance(right, int) and is_list(left):
        fuel.spend(ITEM * len(left) * max(right, 0))
        return list(left) * right
    return _numbers("multiply", left, right)


def power(_: Fuel, left: Any, right: Any) -> Any:
    """`**` of numbers."""
    if isinstance(left, int) and isinstance(right, int) and right > 0 and abs(left) > 1:
        _check_bits((left.bit_length() - 1) * right)
    return _numbers("raise", left, right)


def modulo(fuel: Fuel, left: Any, right: Any) -> Any:
    """`%`: the remainder of a division, or a text with its fields filled in."""
    if isinstance(left, str):
        return format_text(fuel, left, right)
    return _numbers("take the rest of", left, right)


def format_text(fuel: Fuel, text: str, values: Any) -> str:
    """Fill in the fields of a text, such as ``%s``, ``%d`` or ``%5.2f``.

    Args:
        text: The format.
        values: A value, a list of them in order, or a mapping for ``%(name)s``.
    """
    fuel.spend(len(text))
    rest = list(values) if is_list(values) else [values]
    fuel.spend(ITEM * len(rest))

    def fill(found: re.Match[str]) -> str:
        if found["percent"]:
            return "%"
        return _fill_field(fuel, found, _pick(found["key"], values, rest))

    result = _FIELD.sub(fill, text)
    if rest and not is_mapping(values):
        raise Fault("the format has fewer fields than there are values")
    return result


def _pick(key: str | None, values: Any, rest: list[Any]) -> Any:
    if key is not None:
        if is_mapping(values) and key in values:
            return values[key]
        raise Fault(f"the format names `{key}`, which is not given")
    if not rest:
        raise Fault("the format has more fields than there are values")
    return rest.pop(0)


def _fill_field(fuel: Fuel, found: re.Match[str], value: Any) -> str:
    width, precision = found["width"] or "0", found["precision"] or "0"
    if len(width) > 4 or len(precision) > 4 or max(int(width), int(precision)) > MOST_WIDTH:
        raise Fault(f"a field of a format is at most {MOST_WIDTH} wide")
    code = "%" + found.group().partition(")")[2] if found["key"] is not None else found.group()
    value = to_text(fuel, value) if found["type"] == "s" else value
    if found["type"] != "s" and not is_number(value):
        raise Fault(f"`{found.group()}` expects a number, not {kind(value)}")
    result = code % (value,)
    fuel.spend(len(result))
    return result


def _numbers(verb: str, left: Any, right: Any) -> Any:
    if not (is_number(left) and is_number(right)):
        raise Fault(f"cannot {verb} {kind(left)} and {kind(right)}")
    if isinstance(left, int) and isinstance(right, int) and verb == "multiply":
        _check_bits(left.bit_length() + right.bit_length() - 1)
    return finite(_NUMBER_OPERATIONS[verb](left, right))


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise Fault("the result is too large a number")


def _arithmetic(verb: str) -> Operation:
    return lambda _, left, right: _numbers(verb, left, right)


BINARY: Final[Mapping[str, Operation]] = {
    "+": add,
    "-": _arithmetic("subtract"),
    "*": multiply,
    "/": _arithmetic("divide"),
    "//": _arithmetic("floor-divide"),
    "%": modulo,
    "**": power,
}


# Comparisons


def equal(fuel: Fuel, left: Any, right: Any) -> bool:
    """`==`. As in Python, true is 1 and false is 0."""
    _spend_on_comparing(fuel, left, right)
    if is_list(left) and is_list(right):
        return list(left) == list(right)
    return left == right


def _spend_on_comparing(fuel: Fuel, left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        fuel.spend(min(len(left), len(right)) // 64)
    elif _same_size(left, right):
        # Lists of different length differ at once. The cost of equal lists is the same either way.
        fuel.spend_on(left)


def _same_size(left: Any, right: Any) -> bool:
    both = (is_list(left) and is_list(right)) or (is_mapping(left) and is_mapping(right))
    return both and len(left) == len(right)


def _less(fuel: Fuel, left: Any, right: Any) -> bool:
    check_order(fuel, left, right)
    return left < right


def _at_most(fuel: Fuel, left: Any, right: Any) -> bool:
    check_order(fuel, left, right)
    return left <= right


def check_order(fuel: Fuel, left: Any, right: Any) -> None:
    """Check that two values can be ordered, and pay for the comparison.

    Raises:
        Fault: The values cannot be ordered.
    """
    if is_number(left) and is_number(right):
        return
    if isinstance(left, str) and isinstance(right, str):
        fuel.spend(min(len(left), len(right)) // 64)
    elif is_list(left) and is_list(right):
        fuel.spend_on(left)
    else:
        raise Fault(f"cannot say which is greater, {kind(left)} or {kind(right)}")


def contains(fuel: Fuel, container: Any, value: Any) -> bool:
    """Whether a value is in a list, a key of a mapping, or a part of a text.

    Raises:
        Fault: The container cannot contain values, or it is text and the value is not.
    """
    if isinstance(container, str) and isinstance(value, str):
        fuel.spend(len(container) // 8)
        return value in container
    if is_mapping(container):
        return isinstance(value, str) and value in container
    if not is_list(container):
        raise Fault(f"cannot look for {kind(value)} in {kind(container)}")
    if is_list(value) or is_mapping(value):
        return any(equal(fuel, item, value) for item in paid(fuel, container))
    size = len(value) // 64 if isinstance(value, str) else 0
    fuel.spend(len(container) * (1 + size))
    return value in container


def paid(fuel: Fuel, items: list[Any]) -> list[Any]:
    """The items of a list, after paying for the iteration."""
    fuel.spend(STEP * len(items))
    return items


COMPARISONS: Final[Mapping[str, Operation]] = {
    "eq": equal,
    "ne": lambda fuel, left, right: not equal(fuel, left, right),
    "lt": _less,
    "lteq": _at_most,
    "gt": lambda fuel, left, right: _less(fuel, right, left),
    "gteq": lambda fuel, left, right: _at_most(fuel, right, left),
    "in": lambda fuel, left, right: contains(fuel, right, left),
    "notin": lambda fuel, left, right: not contains(fuel, right, left),
}


# Tests, which follow `is`


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
    """A test that only reads the value."""

    def test(_: Fuel, value: Any) -> bool:
        return check(value)

    return test


_EQUAL, _NOT_EQUAL = COMPARISONS["eq"], COMPARISONS["ne"]
_GREATER, _LESS = COMPARISONS["gt"], COMPARISONS["lt"]
_AT_LEAST, _AT_MOST = COMPARISONS["gteq"], COMPARISONS["lteq"]

TESTS: Final[Mapping[str, Callable[..., bool]]] = {
    # The evaluator handles these two, since only the evaluator knows undefined names.
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
