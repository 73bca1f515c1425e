"""Times and values of a run's record, in words and lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

from fractale.cli.render.questions import exact
from fractale.cli.render.text import cells, fit, inert, pad
from fractale.cli.render.text import seconds as duration
from fractale.cli.render.words import as_json

WIDTH = 100
LINES, COLUMNS, NAME_MOST = 12, 400, 24
"""What is shown of a long value: its first lines, and of each so much."""

MOMENTS = ("submitted", "started", "ended", "since", "began", "deadline")
"""Keys of times of jobs, in Unix time."""
LONG_AGO = 1e9
"""No job is older, in Unix time: a smaller number under such a key is something else."""


def when(moment: float | None) -> str:
    """A Unix time in the machine's own time zone: ``2026-11-23 14:02``."""
    if not moment:
        return "?"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def exactly(moment: float | None) -> str:
    """The same with its seconds."""
    if not moment:
        return "?"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def value_lines(value: Any, *, full: bool = False, width: int = WIDTH) -> list[str]:
    """A value, a key a line; texts of several lines as blocks. No line is wider than `width`.

    Times of jobs are shown as dates and durations; JSON output has them as they are.

    Args:
        full: Whether long values are shown whole.
    """
    if isinstance(value, dict) and value:
        return _table_lines(cast("dict[str, Any]", value), full=full, width=width)
    return [piece for line in _shown(value, full=full) for piece in pieces(line, width)]


def _table_lines(table: Mapping[str, Any], *, full: bool, width: int) -> list[str]:
    names = {key: inert(key, 60) for key in table}
    column = min(max(cells(name) for name in names.values()), NAME_MOST)
    lines: list[str] = []
    for key, value in table.items():
        first, *rest = _shown(_timed(key, value), full=full)
        if rest:
            block = [piece for line in (first, *rest) for piece in pieces(line, width - 4)]
            lines += [names[key], *(f"  │ {line}" for line in block)]
            continue
        name = pad(names[key], column)
        begin, *more = pieces(first, width - cells(name) - 2)
        lines += [f"{name}  {begin}", *(" " * (cells(name) + 2) + piece for piece in more)]
    return lines


def _timed(key: str, value: Any) -> Any:
    """A time of a job in words, where a value is one by its key and its size."""
    if isinstance(value, dict):
        moment = cast("dict[str, Any]", value)
        return _timed(key, moment["wall"]) if "boot_id" in moment and "wall" in moment else moment
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if key in MOMENTS and value > LONG_AGO:
        return exactly(value)
    return duration(value) if key == "seconds" and isinstance(value, float) else value


def pieces(line: str, width: int) -> list[str]:
    """A line cut into lines of at most `width` columns, after a blank where there is one.

    Nothing is left out or run together.
    """
    width, found = max(width, 20), list[str]()
    while cells(line) > width:
        end, used = 0, 0
        while end < len(line) and used + cells(line[end]) <= width:
            used += cells(line[end])
            end += 1
        blank = line.rfind(" ", 0, end) + 1
        end = blank if blank > end // 2 else max(end, 1)
        found.append(line[:end].rstrip(" "))
        line = line[end:]
    return [*found, line] if line or not found else found


def _shown(value: Any, *, full: bool) -> list[str]:
    if isinstance(value, str):
        lines = exact(value.rstrip("\n")).split("\n")
    else:
        lines = exact(as_json(value)).split("\n")
    if full:
        return lines
    more = len(lines) - LINES
    shown = [fit(line, COLUMNS) for line in lines[:LINES]]
    return [*shown, f"… {more} more lines, with --full"] if more > 0 else shown
