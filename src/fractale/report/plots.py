"""Tables of a run, and plots of their numbers that need no script.

Each column of numbers is plotted against the first column that grows from row to row, or against
the row's number. docs/decisions/0018-report-file.md says why no library draws them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.render.text import count, fit, inert, table_cell

WIDTH, HEIGHT = 340.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 26.0, 30.0
MOST_PLOTS: Final = 6
MOST_POINTS: Final = 1000
MOST_ROWS: Final = 200
MOST_COLUMNS: Final = 30
LEAST_POINTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A label on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One column of numbers against another.

    Args:
        points: x, y and the words of each point.
        line: The points as the ``d`` of a path; empty if they are not in the order of x.
        best: Words about the least and the greatest value.
    """

    width: float
    height: float
    title: str
    x_label: str
    points: tuple[tuple[float, float, str], ...]
    line: str
    x_marks: tuple[Mark, ...]
    y_marks: tuple[Mark, ...]
    box: tuple[float, float, float, float]
    best: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table.

    Args:
        step: The path of the step that reported it.
        numeric: For each column, whether it has numbers.
        named: Whether the first column has the names of the rows.
        note: What was left out.
    """

    title: str
    step: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    plots: tuple[Plot, ...] = ()
    note: str = ""
    named: bool = False


def table_view(title: str, step: str, rows: Sequence[Mapping[str, Any]]) -> TableView:
    """A table with its plots; the last rows of a long one.

    Args:
        rows: Column → value; a mapping in a column becomes a column per key.
    """
    wide = [_flat(row) for row in rows if isinstance(row, Mapping)]  # pyright: ignore[reportUnnecessaryIsInstance] - read from a file
    names = list(dict.fromkeys(name for row in wide for name in row))[:MOST_COLUMNS]
    kept = wide[-MOST_ROWS:]
    left_out = f"the last {len(kept)} of {count(len(wide), 'row')}" if len(kept) < len(wide) else ""
    return TableView(
        title=inert(title, 200),
        step=inert(step, 200),
        columns=tuple(inert(name, 60) for name in names),
        numeric=tuple(_numbers(wide, name) is not None for name in names),
        rows=tuple(tuple(table_cell(row.get(name)) for name in names) for row in kept),
        plots=tuple(plots_of(wide)),
        note=left_out,
    )


def plots_of(rows: Sequence[Mapping[str, Any]], against: str | None = None) -> list[Plot]:
    """The plots of a table.

    Args:
        against: The column of the horizontal axis; None: one that grows, or the row's number.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: values for name in names if (values := _numbers(rows, name)) is not None}
    x_name = against or next((name for name in columns if _grows(columns[name])), None)
    xs = columns.get(x_name) if x_name else [float(i) for i in range(1, len(rows) + 1)]
    if xs is None:
        return []
    found: list[Plot] = []
    for name, ys in columns.items():
        if name == x_name:
            continue
        pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if _is_known(x) and _is_known(y)]
        if len(pairs) >= LEAST_POINTS and len({y for _, y in pairs}) > 1:
            found.append(plot(name, x_name or "row", pairs, joined=against is None))
    return found[:MOST_PLOTS]


def plot(name: str, x_name: str, pairs: Sequence[tuple[float, float]], *, joined: bool) -> Plot:
    """One plot.

    Args:
        joined: Whether a line joins the points.
    """
    if len(pairs) > MOST_POINTS:
        every = math.ceil(len(pairs) / MOST_POINTS)
        pairs = pairs[::every]
    x_least, x_most = _range([x for x, _ in pairs])
    y_least, y_most = _range([y for _, y in pairs])
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at_x(x: float) -> float:
        return round(LEFT + (x - x_least) / (x_most - x_least) * (right - LEFT), 1)

    def at_y(y: float) -> float:
        return round(low - (y - y_least) / (y_most - y_least) * (low - TOP), 1)

    x_word, y_word = inert(x_name, 40), inert(name, 40)
    points = [(at_x(x), at_y(y), f"{x_word} {x:.6g}: {y_word} {y:.6g}") for x, y in pairs]
    moves = " ".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y, _) in enumerate(points))
    worst, top = min(pairs, key=lambda each: each[1]), max(pairs, key=lambda each: each[1])
    return Plot(
        width=WIDTH,
        height=HEIGHT,
        title=fit(y_word, 40),
        x_label=fit(x_word, 40),
        points=tuple(points),
        line=moves if joined else "",
        x_marks=tuple(Mark(at=at_x(v), label=f"{v:.6g}") for v in _ticks(x_least, x_most, 5)),
        y_marks=tuple(Mark(at=at_y(v), label=f"{v:.6g}") for v in _ticks(y_least, y_most, 4)),
        box=(LEFT, TOP, right - LEFT, low - TOP),
        best=f"least {worst[1]:.6g} at {x_word} {worst[0]:.6g}, "
        f"greatest {top[1]:.6g} at {x_word} {top[0]:.6g}",
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            inner = cast("Mapping[str, Any]", value)
            found |= {f"{name}.{key}": each for key, each in inner.items()}
        else:
            found[str(name)] = value
    return found


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float] | None:
    """A column as numbers, NaN where it is empty; None if it has something else or no number."""
    values: list[float] = []
    for row in rows:
        value = row.get(name)
        if value is None:
            values.append(math.nan)
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        else:
            values.append(_float(value))
    return values if any(map(_is_known, values)) else None


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer over 10^308
        return math.nan


def _is_known(value: float) -> bool:
    return math.isfinite(value) and abs(value) < 1e300


def _grows(values: Sequence[float]) -> bool:
    return len(values) > 1 and all(a < b for a, b in itertools.pairwise(values))


def _range(values: Sequence[float]) -> tuple[float, float]:
    least, most = min(values), max(values)
    if least == most:
        half = abs(least) / 2 or 0.5
        return least - half, most + half
    room = (most - least) * 0.04
    return least - room, most + room


def _ticks(least: float, most: float, wanted: int) -> Iterable[float]:
    """Round numbers within a range."""
    raw = (most - least) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw)
    first = math.ceil(least / step)
    for i in range(first, math.floor(most / step) + 1):
        yield i * step
