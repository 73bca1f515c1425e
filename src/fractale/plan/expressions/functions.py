"""The functions, methods and filters of the language. Nothing else can be called.

A function or a method gets the budget, the value, and the call's own arguments. Filters are those
of Jinja that make sense for JSON. A filter gets its evaluation instead of the budget, since `map`
applies other filters. Lists are processed at once, never lazily, so that the budget pays for
everything at the place where it is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import quote

from fractale.plain import readable
from fractale.plan.expressions import operators
from fractale.plan.expressions.operators import TESTS
from fractale.plan.expressions.values import (
    ITEM,
    STEP,
    Fault,
    Fuel,
    Missing,
    finite,
    is_list,
    is_mapping,
    is_number,
    kind,
    to_json,
    to_text,
    whole,
)
from fractale.regexes import linear

MOST_RANGE: Final = 100_000
MOST_DIGITS: Final = 1000
STATES: Final = 16
"""States of a pattern that are processed in the time of one unit of the budget."""

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
    """The number of characters, items or keys; 0 for null."""
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
    text = readable(to_text(fuel, value))
    try:
        matcher = linear(readable(to_text(fuel, pattern)))
    except ValueError as error:
        raise Fault(str(error)) from None
    # For each character, RE2 processes at most all states of the pattern.
    fuel.spend(len(text) * matcher.programsize // STATES)
    return matcher.fullmatch(text) is not None


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
        Fault: The value is not text.
    """
    if isinstance(value, str):
        return value
    raise Fault(f"expected text, not {kind(value)}")


def grown(fuel: Fuel, text: str) -> str:
    """Pay for a text whose letters are about to change, as it may become longer."""
    fuel.spend(len(text) if text.isascii() else 3 * len(text))
    return text


def replace(fuel: Fuel, text: str, old: Any, new: Any, count: int = -1) -> str:
    """A text with `new` in place of every `old`, or of the first `count` of them."""
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
    """A method that only reads the text."""

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
    """The method of that name. Its arguments are the budget, the value, and the call's own.

    Raises:
        Fault: Values of this kind have no such method.
    """
    found = methods_of(value).get(name)
    return found or _no_method(value, name)


def methods_of(value: Any) -> Mapping[str, Callable[..., Any]]:
    """The methods of a value by name."""
    if isinstance(value, str):
        return _TEXT
    if is_mapping(value):
        return _MAPPING
    return _LIST if is_list(value) else {}


def _no_method(value: Any, name: str) -> NoReturn:
    raise Fault(f"{kind(value)} has no method `{name}`")


# Filters

Filter = Callable[..., Any]
_ABSENT: Final = object()


class Run(Protocol):
    """The parts of an evaluation that a filter needs."""

    fuel: Fuel

    def filter(self, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply another filter."""
        ...


# Filters of text


def _changes(method: Callable[[str], str]) -> Filter:
    def change(run: Run, value: Any, /) -> str:
        return method(grown(run.fuel, to_text(run.fuel, value)))

    return change


def _trim(run: Run, value: Any, /, chars: str | None = None) -> str:
    run.fuel.spend(len(text_of(value)))
    return value.strip(chars)


def _replace(run: Run, value: Any, /, old: Any, new: Any, count: int = -1) -> str:
    fuel = run.fuel
    return replace(fuel, to_text(fuel, value), to_text(fuel, old), to_text(fuel, new), count)


def _center(run: Run, value: Any, /, width: int = 80) -> str:
    run.fuel.spend(whole(width))
    return to_text(run.fuel, value).center(width)


def _indent(
    run: Run, value: Any, /, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    text = text_of(value)
    size = len(width) if isinstance(width, str) else whole(width)
    count = text.count("\n") + 1
    run.fuel.spend(ITEM * count + max(size, 0) * count + len(text))
    space = width if isinstance(width, str) else " " * width
    lines = text.split("\n")
    rest = [space + line if line or blank else line for line in lines[1:]]
    return "\n".join([space + lines[0] if first else lines[0], *rest])


def _truncate(
    run: Run, value: Any, /, length: int = 255, killwords: bool = False, end: str = "..."
) -> str:
    text = text_of(value)
    run.fuel.spend(min(len(text), max(0, whole(length))))
    if len(text) <= length:
        return text
    cut = text[: max(0, length - len(end))]
    return (cut if killwords else cut.rsplit(" ", 1)[0]) + end


def _format(run: Run, value: Any, /, *args: Any, **kwargs: Any) -> str:
    return operators.format_text(run.fuel, text_of(value), kwargs or list(args))


def _urlencode(run: Run, value: Any, /) -> str:
    fuel = run.fuel
    if is_mapping(value):
        pairs = [f"{_urlencode(run, k)}={_urlencode(run, v)}" for k, v in value.items()]
        return join(fuel, "&", pairs)
    text = to_text(fuel, value)
    fuel.spend(12 * len(text))
    return quote(text)


def _wordcount(run: Run, value: Any, /) -> int:
    return len(split(run.fuel, text_of(value)))


def _basename(run: Run, value: Any, /) -> str:
    run.fuel.spend(len(text_of(value)))
    return value.rstrip("/").rpartition("/")[2]


# Filters of numbers


def _int(run: Run, value: Any, /, default: Any = 0, base: int = 10) -> Any:
    try:
        if isinstance(value, str):
            return _int_of_text(run.fuel, value, base)
        return finite(int(value)) if is_number(value) else default
    except (ValueError, OverflowError):
        return default


def _int_of_text(fuel: Fuel, text: str, base: int) -> int:
    fuel.spend(STEP * len(text))
    if len(text) > MOST_DIGITS:
        raise Fault(f"a text of {len(text)} characters is too long for a number")
    try:
        return finite(int(text, base))
    except ValueError:
        return finite(int(float(text)))


def _float(run: Run, value: Any, /, default: Any = 0.0) -> Any:
    try:
        if isinstance(value, str):
            run.fuel.spend(STEP * len(value))
        found = float(value) if isinstance(value, str) or is_number(value) else math.nan
    except (ValueError, OverflowError):
        return default
    return found if math.isfinite(found) else default


def _abs(_: Run, value: Any, /) -> Any:
    return abs(_number(value))


def _round(_: Run, value: Any, /, precision: int = 0, method: str = "common") -> Any:
    number = _number(value)
    if abs(whole(precision)) > 300:
        raise Fault("a number is rounded to at most 300 places")
    if method == "common":
        return finite(round(number, precision))
    if method not in ("ceil", "floor"):
        raise Fault("the method must be `common`, `ceil` or `floor`")
    rounding = math.ceil if method == "ceil" else math.floor
    return finite(rounding(number * 10.0**precision) / 10.0**precision)


def _number(value: Any) -> int | float:
    if is_number(value):
        return value
    raise Fault(f"expected a number, not {kind(value)}")


# Filters of any value


def _tojson(run: Run, value: Any, /, indent: int | None = None) -> str:
    if indent is not None and not 0 <= whole(indent) <= 16:
        raise Fault("JSON is indented by 0 to 16")
    return to_json(run.fuel, value, indent)


def _fromjson(run: Run, value: Any, /) -> Any:
    text = text_of(value)
    # A value's text needs less memory than its parts: every part is a separate object.
    run.fuel.spend(len(text) + ITEM * sum(map(text.count, "[{,:")))
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise Fault(f"this text is not JSON: {error}") from None


def _no_constant(name: str) -> Any:
    raise Fault(f"`{name}` is not JSON")


def _string(run: Run, value: Any, /) -> str:
    return to_text(run.fuel, value)


def _length(run: Run, value: Any, /) -> int:
    return length(run.fuel, value)


def _default(_: Run, value: Any, /, default_value: Any = "", boolean: bool = False) -> Any:
    """The default filter for a value that is defined. The evaluator handles undefined values."""
    return default_value if boolean and not value else value


# Filters of lists and mappings


def items_of(fuel: Fuel, value: Any) -> list[Any]:
    """The parts to iterate over: a list's items, a mapping's keys, a text's characters."""
    if not (is_list(value) or is_mapping(value) or isinstance(value, str)):
        raise Fault(f"expected a list, not {kind(value)}")
    fuel.spend(ITEM * len(value))
    return list(value)


def attribute_of(item: Any, attribute: str | int, default: Any = _ABSENT) -> Any:
    """A part of an item by its path, such as ``name`` or ``job.id``."""
    parts = str(attribute).split(".")
    for part in parts:
        if is_mapping(item) and part in item:
            item = item[part]
        elif is_list(item) and part.isascii() and part.isdigit() and int(part) < len(item):
            item = item[int(part)]
        else:
            return default
    return item


def _part(fuel: Fuel, item: Any, attribute: str | int | None) -> Any:
    if attribute is None:
        return item
    fuel.spend(STEP + len(str(attribute)))
    found = attribute_of(item, attribute)
    if found is _ABSENT:
        message = f"`{attribute}` is not defined in an item"
        raise Missing(str(attribute), message, "`selectattr` keeps the items that have it")
    return found


def _join(run: Run, value: Any, /, d: str = "", attribute: str | int | None = None) -> str:
    fuel = run.fuel
    parts = [_part(fuel, item, attribute) for item in items_of(fuel, value)]
    return join(fuel, text_of(d), parts)


def _sum(run: Run, value: Any, /, attribute: str | int | None = None, start: Any = 0) -> Any:
    total = start
    for item in items_of(run.fuel, value):
        total = operators.add(run.fuel, total, _part(run.fuel, item, attribute))
    return total


def _first(run: Run, value: Any, /) -> Any:
    return _end(value, 0)


def _last(run: Run, value: Any, /) -> Any:
    return _end(value, -1)


def _end(value: Any, index: int) -> Any:
    found = list(value)[:1] if is_mapping(value) else value
    if not (is_list(found) or isinstance(found, str)):
        raise Fault(f"expected a list, not {kind(value)}")
    if not found:
        raise Missing("first" if index == 0 else "last", f"{kind(value)} is empty")
    return found[index]


def _list(run: Run, value: Any, /) -> list[Any]:
    return items_of(run.fuel, value)


def _reverse(run: Run, value: Any, /) -> Any:
    if isinstance(value, str):
        run.fuel.spend(len(value))
        return value[::-1]
    return items_of(run.fuel, value)[::-1]


def _batch(run: Run, value: Any, /, linecount: int, fill_with: Any = None) -> list[Any]:
    items = items_of(run.fuel, value)
    if whole(linecount) < 1:
        raise Fault("a batch has at least one item")
    run.fuel.spend(ITEM * len(items))
    found = [items[i : i + linecount] for i in range(0, len(items), linecount)]
    if found and fill_with is not None:
        run.fuel.spend(ITEM * (linecount - len(found[-1])))
        found[-1] += [fill_with] * (linecount - len(found[-1]))
    return found


def _slice(run: Run, value: Any, /, slices: int, fill_with: Any = None) -> list[Any]:
    items = items_of(run.fuel, value)
    if whole(slices) < 1:
        raise Fault("there is at least one slice")
    run.fuel.spend(ITEM * (slices + len(items)))
    size, longer = divmod(len(items), slices)
    found: list[Any] = []
    for number in range(slices):
        start = number * size + min(number, longer)
        part = items[start : start + size + (number < longer)]
        short = fill_with is not None and longer and number >= longer
        found.append([*part, fill_with] if short else part)
    return found


def _key(run: Run, item: Any, attribute: str | int | None, case_sensitive: bool) -> Any:
    value = _part(run.fuel, item, attribute)
    if isinstance(value, str) and not case_sensitive:
        return grown(run.fuel, value).lower()
    return value


def _keyed(
    run: Run, value: Any, attribute: str | int | None, case_sensitive: bool
) -> list[tuple[Any, Any]]:
    """The items with their sort keys."""
    return [
        (_key(run, item, attribute, case_sensitive), item) for item in items_of(run.fuel, value)
    ]


def _ordered(
    run: Run, pairs: list[tuple[Any, Any]], *, reverse: bool = False
) -> list[tuple[Any, Any]]:
    """Items in order, after a check that they can be ordered and payment for the comparisons."""
    rounds = len(pairs).bit_length()
    for key, _ in pairs:
        operators.check_order(run.fuel, pairs[0][0], key)
        if is_list(key):
            run.fuel.spend(rounds * STEP * len(key))
            _check_flat(key)
    return sorted(pairs, key=lambda pair: pair[0], reverse=reverse)


def _check_flat(key: list[Any]) -> None:
    if any(is_list(part) or is_mapping(part) for part in key):
        raise Fault("lists of lists have no order")


def _sort(
    run: Run,
    value: Any,
    /,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: str | int | None = None,
) -> list[Any]:
    pairs = _keyed(run, value, attribute, case_sensitive)
    return [item for _, item in _ordered(run, pairs, reverse=bool(reverse))]


def _extreme(index: int) -> Filter:
    def extreme(
        run: Run,
        value: Any,
        /,
        case_sensitive: bool = False,
        attribute: str | int | None = None,
    ) -> Any:
        pairs = _ordered(run, _keyed(run, value, attribute, case_sensitive))
        if not pairs:
            raise Missing("min" if index == 0 else "max", f"{kind(value)} is empty")
        best = pairs[index][0]
        return next(item for key, item in pairs if key == best)

    return extreme


def _unique(
    run: Run, value: Any, /, case_sensitive: bool = False, attribute: str | int | None = None
) -> list[Any]:
    found: dict[Any, Any] = {}
    for key, item in _keyed(run, value, attribute, case_sensitive):
        found.setdefault(_hashable(run, key), item)
    return list(found.values())


def _hashable(run: Run, key: Any) -> Any:
    # Lists and mappings are equal if their JSON is equal. No text itself starts with NUL.
    return "\0" + to_json(run.fuel, key) if is_list(key) or is_mapping(key) else key


def _groupby(
    run: Run,
    value: Any,
    /,
    attribute: str | int,
    default: Any = _ABSENT,
    case_sensitive: bool = False,
) -> list[Any]:
    groups: dict[Any, list[Any]] = {}
    for item in items_of(run.fuel, value):
        part = attribute_of(item, attribute, default)
        part = _part(run.fuel, item, attribute) if part is _ABSENT else part
        groups.setdefault(_hashable(run, part), [part, []])[1].append(item)
    pairs = [(_key(run, group[0], None, case_sensitive), group) for group in groups.values()]
    run.fuel.spend(3 * ITEM * len(pairs))
    return [group for _, group in _ordered(run, pairs)]


def _dictsort(
    run: Run, value: Any, /, case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> list[Any]:
    if not is_mapping(value) or by not in ("key", "value"):
        raise Fault("`dictsort` takes a mapping, by `key` or `value`")
    pairs = items(run.fuel, value)
    keyed = [(_key(run, pair[by == "value"], None, case_sensitive), pair) for pair in pairs]
    return [pair for _, pair in _ordered(run, keyed, reverse=bool(reverse))]


def _items(run: Run, value: Any, /) -> list[Any]:
    if is_mapping(value):
        return items(run.fuel, value)
    raise Fault(f"expected a mapping, not {kind(value)}")


def _map(
    run: Run,
    value: Any,
    /,
    name: str | None = None,
    *args: Any,
    attribute: str | int | None = None,
    default: Any = _ABSENT,
    **kwargs: Any,
) -> list[Any]:
    items = items_of(run.fuel, value)
    if name is not None and attribute is None:
        return [run.filter(name, item, *args, **kwargs) for item in items]
    if name is not None or attribute is None:
        raise Fault("`map` takes the name of a filter, or `attribute=`")
    if default is _ABSENT:
        return [_part(run.fuel, item, attribute) for item in items]
    return [attribute_of(item, attribute, default) for item in items]


def _chosen(*, keep: bool, by_attribute: bool) -> Filter:
    def select(run: Run, value: Any, /, *args: Any) -> list[Any]:
        attribute = _attribute(args) if by_attribute else None
        test = _test(run, *(args[1:] if by_attribute else args))
        found: list[Any] = []
        for item in items_of(run.fuel, value):
            part = item if attribute is None else attribute_of(item, attribute)
            run.fuel.spend(STEP)
            if test(part) is keep:
                found.append(item)
        return found

    return select


def _attribute(args: tuple[Any, ...]) -> str | int:
    if not args or not isinstance(args[0], (str, int)):
        raise Fault("`selectattr` and `rejectattr` take the name of an attribute first")
    return args[0]


def _test(run: Run, name: str | None = None, *args: Any) -> Callable[[Any], bool]:
    """A test by its name. Without a name: whether the value is true."""
    if name is None:
        return lambda value: value is not _ABSENT and bool(value)
    if name not in TESTS:
        raise Fault(f"unknown test `{name}`")
    if name == "undefined":
        return lambda value: value is _ABSENT
    test = TESTS[name]
    return lambda value: value is not _ABSENT and test(run.fuel, value, *args)


FILTERS: Final[Mapping[str, Filter]] = {
    "abs": _abs,
    "basename": _basename,
    "batch": _batch,
    "capitalize": _changes(str.capitalize),
    "center": _center,
    "count": _length,
    "d": _default,
    "default": _default,
    "dictsort": _dictsort,
    "first": _first,
    "float": _float,
    "format": _format,
    "fromjson": _fromjson,
    "groupby": _groupby,
    "indent": _indent,
    "int": _int,
    "items": _items,
    "join": _join,
    "last": _last,
    "length": _length,
    "list": _list,
    "lower": _changes(str.lower),
    "map": _map,
    "max": _extreme(-1),
    "min": _extreme(0),
    "reject": _chosen(keep=False, by_attribute=False),
    "rejectattr": _chosen(keep=False, by_attribute=True),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "select": _chosen(keep=True, by_attribute=False),
    "selectattr": _chosen(keep=True, by_attribute=True),
    "slice": _slice,
    "sort": _sort,
    "string": _string,
    "sum": _sum,
    "title": _changes(str.title),
    "tojson": _tojson,
    "trim": _trim,
    "truncate": _truncate,
    "unique": _unique,
    "upper": _changes(str.upper),
    "urlencode": _urlencode,
    "wordcount": _wordcount,
}
