"""Times and values of a run's record, in words and lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

from fractale.cli.person_text import exact
from fractale.cli.text import cells, fit, inert, pad
from fractale.cli.words import as_json

LINES, COLUMNS, NAME_MOST = 12, 400, 24
"""What is shown of a long value: its first lines, and of each so much."""


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


def value_lines(value: Any, *, full: bool = False) -> list[str]:
    """A value, a key a line; texts of several lines as blocks.

    Args:
        full: Whether long values are shown whole.
    """
    if isinstance(value, dict) and value:
        return _table_lines(cast("dict[str, Any]", value), full=full)
    return _shown(value, full=full)


def _table_lines(table: Mapping[str, Any], *, full: bool) -> list[str]:
    names = {key: inert(key, 60) for key in table}
    width = min(max(cells(name) for name in names.values()), NAME_MOST)
    lines: list[str] = []
    for key, value in table.items():
        first, *rest = _shown(value, full=full)
        if rest:
            lines += [names[key], *(f"  │ {line}" for line in (first, *rest))]
        else:
            lines.append(f"{pad(names[key], width)}  {first}")
    return lines


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
