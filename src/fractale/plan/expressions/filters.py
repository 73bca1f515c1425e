"""The filters of the language: Jinja's, as far as they make sense for JSON, in safe form.

A filter takes the evaluation that it is part of, the value before the bar, and its arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from fractale.plan.expressions import functions, operators
from fractale.plan.expressions.functions import grown, text_of
from fractale.plan.expressions.lists import LIST_FILTERS, Filter, Run
from fractale.plan.expressions.values import (
    ITEM,
    STEP,
    Fault,
    Fuel,
    finite,
    is_mapping,
    is_number,
    kind,
    to_json,
    to_text,
    whole,
)

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
        return functions.join(fuel, "&", pairs)
    text = to_text(fuel, value)
    fuel.spend(12 * len(text))
    return quote(text)


def _wordcount(run: Run, value: Any, /) -> int:
    return len(functions.split(run.fuel, text_of(value)))


def _basename(run: Run, value: Any, /) -> str:
    run.fuel.spend(len(text_of(value)))
    return value.rstrip("/").rpartition("/")[2]


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


# JSON


def _tojson(run: Run, value: Any, /, indent: int | None = None) -> str:
    if indent is not None and not 0 <= whole(indent) <= 16:
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
    **LIST_FILTERS,
    "abs": _abs,
    "basename": _basename,
    "capitalize": _changed(str.capitalize),
    "center": _center,
    "count": _length,
    "d": _default,
    "default": _default,
    "float": _float,
    "format": _format,
    "fromjson": _fromjson,
    "indent": _indent,
    "int": _int,
    "length": _length,
    "lower": _changed(str.lower),
    "replace": _replace,
    "round": _round,
    "string": _string,
    "title": _changed(str.title),
    "tojson": _tojson,
    "trim": _trim,
    "truncate": _truncate,
    "upper": _changed(str.upper),
    "urlencode": _urlencode,
    "wordcount": _wordcount,
}
