"""The functions and the methods that an expression may call. Nothing else can be called.

`len`, `contains`, `starts_with`, `ends_with` and `matches` are those of fractale 0.1.0's rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from fractale.plan.expressions import operators
from fractale.plan.expressions.pattern import full_match
from fractale.plan.expressions.values import (
    ITEM,
    Fault,
    Fuel,
    is_list,
    is_mapping,
    kind,
    to_text,
    whole,
)

MOST_RANGE: Final = 100_000

_LINE_END = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_WORD = re.compile(r"\S+")


def _range(fuel: Fuel, *bounds: int) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > MOST_RANGE:
        raise Fault(f"a range has at most {MOST_RANGE:,} items")
    fuel.spend(ITEM * len(numbers))
    return list(numbers)


def _dict(_: Fuel, **values: Any) -> dict[str, Any]:
    return values


def length(_: Fuel, value: Any) -> int:
    """How many characters, items or keys; 0 for null."""
    if value is None:
        return 0
    if isinstance(value, str) or is_list(value) or is_mapping(value):
        return len(value)
    raise Fault(f"{kind(value)} has no length")


def _starts_with(fuel: Fuel, value: Any, start: Any) -> bool:
    return to_text(fuel, value).startswith(to_text(fuel, start))


def _ends_with(fuel: Fuel, value: Any, end: Any) -> bool:
    return to_text(fuel, value).endswith(to_text(fuel, end))


def _contains(fuel: Fuel, container: Any, value: Any) -> bool:
    if isinstance(container, str) or is_list(container) or is_mapping(container):
        return operators.contains(fuel, container, value)
    return False


def _matches(fuel: Fuel, value: Any, pattern: Any) -> bool:
    return full_match(fuel, to_text(fuel, pattern), to_text(fuel, value))


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "range": _range,
    "dict": _dict,
    "len": length,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "contains": _contains,
    "matches": _matches,
}


# Methods of text


def text_of(value: Any) -> str:
    """A value that must be text.

    Raises:
        Fault: It is something else.
    """
    if isinstance(value, str):
        return value
    raise Fault(f"expected text, not {kind(value)}")


def grown(fuel: Fuel, text: str) -> str:
    """A text whose letters are to change: pay for it, as it may become longer."""
    fuel.spend(len(text) if text.isascii() else 3 * len(text))
    return text


def replace(fuel: Fuel, text: str, old: Any, new: Any, count: int = -1) -> str:
    """A text with every `old` (or the first `count` of them) as `new`."""
    old, new = text_of(old), text_of(new)
    fuel.spend(len(text) // 8)
    times = text.count(old) if count < 0 else min(count, text.count(old))
    fuel.spend(len(text) + times * max(0, len(new) - len(old)))
    return text.replace(old, new, count)


def split(fuel: Fuel, text: str, separator: Any = None, maxsplit: int = -1) -> list[str]:
    """The parts of a text between separators, or its words."""
    _spend_on_parts(fuel, text, separator, maxsplit)
    return text.split(separator, maxsplit)


def _rsplit(fuel: Fuel, text: str, separator: Any = None, maxsplit: int = -1) -> list[str]:
    _spend_on_parts(fuel, text, separator, maxsplit)
    return text.rsplit(separator, maxsplit)


def _spend_on_parts(fuel: Fuel, text: str, separator: Any, most: int) -> None:
    fuel.spend(len(text))
    if separator is None:
        _spend_on_finding(fuel, _WORD, text, most)
    else:
        count = text.count(text_of(separator))
        fuel.spend(ITEM * (1 + (count if most < 0 else min(most, count))))


def _spend_on_finding(fuel: Fuel, pattern: re.Pattern[str], text: str, most: int = -1) -> None:
    for number, _ in enumerate(pattern.finditer(text)):
        if 0 <= most < number:
            return
        fuel.spend(ITEM)


def _splitlines(fuel: Fuel, text: str, keepends: Any = False) -> list[str]:
    fuel.spend(len(text) + ITEM)
    _spend_on_finding(fuel, _LINE_END, text)
    return text.splitlines(bool(keepends))


def join(fuel: Fuel, separator: str, items: Any) -> str:
    """The items as one text."""
    if not is_list(items):
        raise Fault(f"expected a list to join, not {kind(items)}")
    texts = [to_text(fuel, item) for item in operators.paid(fuel, items)]
    fuel.spend(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _padded(method: Callable[..., str]) -> Callable[..., str]:
    def pad(fuel: Fuel, text: str, width: int, *fill: str) -> str:
        fuel.spend(max(len(text), whole(width)))
        return method(text, width, *fill)

    return pad


def _cut(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose result is no longer than the text."""

    def cut(fuel: Fuel, text: str, *arguments: str) -> Any:
        fuel.spend(len(text))
        return method(text, *arguments)

    return cut


def _parts(method: Callable[..., tuple[str, ...]]) -> Callable[..., list[str]]:
    def part(fuel: Fuel, text: str, separator: str) -> list[str]:
        fuel.spend(len(text))
        return list(method(text, separator))

    return part


def _looked(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that only looks at the text."""

    def look(fuel: Fuel, text: str, *arguments: Any) -> Any:
        fuel.spend(len(text) // 8)
        return method(text, *map(_tuple, arguments))

    return look


def _tuple(value: Any) -> Any:
    return tuple(value) if is_list(value) else value


def _changed(method: Callable[[str], str]) -> Callable[..., str]:
    def change(fuel: Fuel, text: str) -> str:
        return method(grown(fuel, text))

    return change


_TEXT: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: _changed(getattr(str, name)) for name in ("upper", "lower", "title", "capitalize")},
    **{name: _padded(getattr(str, name)) for name in ("ljust", "rjust", "center", "zfill")},
    **{
        name: _cut(getattr(str, name))
        for name in ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix")
    },
    **{name: _parts(getattr(str, name)) for name in ("partition", "rpartition")},
    **{
        name: _looked(getattr(str, name))
        for name in (
            "startswith",
            "endswith",
            "find",
            "rfind",
            "index",
            "count",
            "isdigit",
            "isalpha",
            "isalnum",
            "isspace",
            "isupper",
            "islower",
        )
    },
    "replace": replace,
    "split": split,
    "rsplit": _rsplit,
    "splitlines": _splitlines,
    "join": join,
}


# Methods of lists and mappings


def _index(fuel: Fuel, items: list[Any], value: Any) -> int:
    for number, item in enumerate(operators.paid(fuel, items)):
        if operators.equal(fuel, item, value):
            return number
    raise Fault("the list does not have that value", "ask with `in` first")


def _count(fuel: Fuel, items: list[Any], value: Any) -> int:
    return sum(operators.equal(fuel, item, value) for item in operators.paid(fuel, items))


def _get(_: Fuel, mapping: Mapping[str, Any], key: Any, default: Any = None) -> Any:
    return mapping.get(key, default) if isinstance(key, str) else default


def keys(fuel: Fuel, mapping: Mapping[str, Any]) -> list[str]:
    """The keys of a mapping, in its order."""
    fuel.spend(ITEM * len(mapping))
    return list(mapping)


def _values(fuel: Fuel, mapping: Mapping[str, Any]) -> list[Any]:
    fuel.spend(ITEM * len(mapping))
    return list(mapping.values())


def items(fuel: Fuel, mapping: Mapping[str, Any]) -> list[Any]:
    """The keys of a mapping with their values: a list of ``[key, value]``."""
    fuel.spend(2 * ITEM * len(mapping))
    return [[key, value] for key, value in mapping.items()]


_LIST: Final[Mapping[str, Callable[..., Any]]] = {"index": _index, "count": _count}
_MAPPING: Final[Mapping[str, Callable[..., Any]]] = {
    "get": _get,
    "keys": keys,
    "values": _values,
    "items": items,
}
METHOD_NAMES: Final = frozenset((*_TEXT, *_LIST, *_MAPPING))


def method_of(value: Any, name: str) -> Callable[..., Any]:
    """The method of that name; its arguments are the budget, the value, and the call's own.

    Raises:
        Fault: Values of this kind have no such method.
    """
    found = _methods_of(value).get(name)
    return found or _no_method(value, name)


def _methods_of(value: Any) -> Mapping[str, Callable[..., Any]]:
    if isinstance(value, str):
        return _TEXT
    if is_mapping(value):
        return _MAPPING
    return _LIST if is_list(value) else {}


def _no_method(value: Any, name: str) -> NoReturn:
    raise Fault(f"{kind(value)} has no method `{name}`")
