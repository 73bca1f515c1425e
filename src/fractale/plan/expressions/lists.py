"""The filters that go through lists.

Lists are gone through at once, never lazily, so that everything is paid for where it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from fractale.plan.expressions import functions, operators
from fractale.plan.expressions.functions import grown, text_of
from fractale.plan.expressions.predicates import TESTS
from fractale.plan.expressions.values import (
    ITEM,
    STEP,
    Fault,
    Fuel,
    Missing,
    is_list,
    is_mapping,
    kind,
    to_json,
    whole,
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


def _join(run: Run, value: Any, /, d: str = "", attribute: str | int | None = None) -> str:
    fuel = run.fuel
    parts = [_part(fuel, item, attribute) for item in items_of(fuel, value)]
    return functions.join(fuel, text_of(d), parts)


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


LIST_FILTERS: Final[Mapping[str, Filter]] = {
    "batch": _batch,
    "dictsort": _dictsort,
    "first": _first,
    "groupby": _groupby,
    "items": _items,
    "join": _join,
    "last": _last,
    "list": _list,
    "map": _map,
    "max": _extreme(-1),
    "min": _extreme(0),
    "reject": _chosen(keep=False, by_attribute=False),
    "rejectattr": _chosen(keep=False, by_attribute=True),
    "reverse": _reverse,
    "select": _chosen(keep=True, by_attribute=False),
    "selectattr": _chosen(keep=True, by_attribute=True),
    "slice": _slice,
    "sort": _sort,
    "sum": _sum,
    "unique": _unique,
}
