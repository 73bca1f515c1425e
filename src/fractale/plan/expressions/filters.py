"""The filters of the language: Jinja's, as far as they make sense for JSON, in safe form.

A filter takes the evaluation that it is part of, the value before the bar, and its arguments.
Lists go through at once, never lazily, so that everything is paid for where it is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote

from fractale.plan.expressions import functions, operators
from fractale.plan.expressions.functions import grown, text_of
from fractale.plan.expressions.predicates import TESTS
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
)

Filter = Callable[..., Any]
_ABSENT: Final = object()


class Run(Protocol):
    """What a filter needs of the evaluation around it."""

    fuel: Fuel

    def filter(self, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Apply another filter."""
        ...


def items_of(fuel: Fuel, value: Any) -> list[Any]:
    """What to go through: a list's items, a mapping's keys, a text's characters."""
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


# Text


def _changed(method: Callable[[str], str]) -> Filter:
    def change(run: Run, value: Any, /) -> str:
        return method(grown(run.fuel, to_text(run.fuel, value)))

    return change


def _trim(run: Run, value: Any, /, chars: str | None = None) -> str:
    run.fuel.spend(len(text_of(value)))
    return value.strip(chars)


def _replace(run: Run, value: Any, /, old: Any, new: Any, count: int = -1) -> str:
    fuel = run.fuel
    return functions.replace(
        fuel, to_text(fuel, value), to_text(fuel, old), to_text(fuel, new), count
    )


def _center(run: Run, value: Any, /, width: int = 80) -> str:
    run.fuel.spend(width)
    return to_text(run.fuel, value).center(width)


def _indent(
    run: Run, value: Any, /, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    text = text_of(value)
    size = len(width) if isinstance(width, str) else width
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
    run.fuel.spend(min(len(text), max(0, length)))
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
        return functions.join(fuel, "&", pairs)
    text = to_text(fuel, value)
    fuel.spend(12 * len(text))
    return quote(text)


def _wordcount(run: Run, value: Any, /) -> int:
    return len(functions.split(run.fuel, text_of(value)))


def _basename(run: Run, value: Any, /) -> str:
    run.fuel.spend(len(text_of(value)))
    return value.rstrip("/").rpartition("/")[2]


def _join(run: Run, value: Any, /, d: str = "", attribute: str | int | None = None) -> str:
    fuel = run.fuel
    parts = [_part(fuel, item, attribute) for item in items_of(fuel, value)]
    return functions.join(fuel, text_of(d), parts)


# Numbers


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


MOST_DIGITS: Final = 1000


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
    if abs(precision) > 300:
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


def _sum(run: Run, value: Any, /, attribute: str | int | None = None, start: Any = 0) -> Any:
    total = start
    for item in items_of(run.fuel, value):
        total = operators.add(run.fuel, total, _part(run.fuel, item, attribute))
    return total


# Lists


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
    if linecount < 1:
        raise Fault("a batch has at least one item")
    run.fuel.spend(ITEM * len(items))
    found = [items[i : i + linecount] for i in range(0, len(items), linecount)]
    if found and fill_with is not None:
        run.fuel.spend(ITEM * (linecount - len(found[-1])))
        found[-1] += [fill_with] * (linecount - len(found[-1]))
    return found


def _slice(run: Run, value: Any, /, slices: int, fill_with: Any = None) -> list[Any]:
    items = items_of(run.fuel, value)
    if slices < 1:
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
    """The items with what they are ordered by."""
    return [
        (_key(run, item, attribute, case_sensitive), item) for item in items_of(run.fuel, value)
    ]


def _ordered(
    run: Run, pairs: list[tuple[Any, Any]], *, reverse: bool = False
) -> list[tuple[Any, Any]]:
    """Items in order, once it is known that they have one and the comparisons are paid for."""
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
    # Lists and mappings are the same if their JSON is; no text of its own starts with NUL.
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
    pairs = functions.items(run.fuel, value)
    keyed = [(_key(run, pair[by == "value"], None, case_sensitive), pair) for pair in pairs]
    return [pair for _, pair in _ordered(run, keyed, reverse=bool(reverse))]


def _items(run: Run, value: Any, /) -> list[Any]:
    if is_mapping(value):
        return functions.items(run.fuel, value)
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
    """A test by its name; without one, whether there is anything to the value."""
    if name is None:
        return lambda value: value is not _ABSENT and bool(value)
    if name not in TESTS:
        raise Fault(f"there is no test `{name}`")
    if name == "undefined":
        return lambda value: value is _ABSENT
    test = TESTS[name]
    return lambda value: value is not _ABSENT and test(run.fuel, value, *args)


# JSON


def _tojson(run: Run, value: Any, /, indent: int | None = None) -> str:
    if indent is not None and not 0 <= indent <= 16:
        raise Fault("JSON is indented by 0 to 16")
    return to_json(run.fuel, value, indent)


def _fromjson(run: Run, value: Any, /) -> Any:
    text = text_of(value)
    # What a text becomes is larger than the text: every value has its own object.
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
    return functions.length(run.fuel, value)


def _default(_: Run, value: Any, /, default_value: Any = "", boolean: bool = False) -> Any:
    """Of a value that is defined; the evaluator answers for one that is not."""
    return default_value if boolean and not value else value


FILTERS: Final[Mapping[str, Filter]] = {
    "abs": _abs,
    "basename": _basename,
    "batch": _batch,
    "capitalize": _changed(str.capitalize),
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
    "lower": _changed(str.lower),
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
    "title": _changed(str.title),
    "tojson": _tojson,
    "trim": _trim,
    "truncate": _truncate,
    "unique": _unique,
    "upper": _changed(str.upper),
    "urlencode": _urlencode,
    "wordcount": _wordcount,
}
