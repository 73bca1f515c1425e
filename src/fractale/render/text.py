"""Text on a terminal: lines of marked segments, color, widths, durations, tables.

A line is a list of `Segment`s, each a text and its `Mark`. `paint` converts it to text for a
stream, with or without ANSI color. `inert` escapes text from tools and models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import click

from fractale.durations import clock, exactly, in_words, when
from fractale.plain import entries, table, to_json
from fractale.plan.escape import ELLIPSIS, cells, fit, fold, pad
from fractale.plan.escape import escape as inert
from fractale.text import count

__all__ = [
    "ELLIPSIS",
    "Line",
    "Mark",
    "Segment",
    "cells",
    "clock",
    "count",
    "entries",
    "exactly",
    "fit",
    "fold",
    "inert",
    "narrowed",
    "pad",
    "paint",
    "plain",
    "row",
    "screen_width",
    "seconds",
    "shorten_path",
    "shows_unicode",
    "table",
    "table_cell",
    "table_lines",
    "wants_color",
    "when",
    "writable",
]

Mark: TypeAlias = Literal["", "good", "bad", "now", "warn", "dim"]
Segment: TypeAlias = tuple[str, Mark]
Line: TypeAlias = list[Segment]

ANSI: dict[Mark, str] = {
    "good": "\x1b[32m",
    "bad": "\x1b[31m",
    "now": "\x1b[36m",
    "warn": "\x1b[33m",
    "dim": "\x1b[2m",
}
WIDEST, MOST_ROWS = 40, 12
"""The most columns of a table's cell, and the most rows."""
OWN_LETTERS = "✓✗●\u2013→·…│├└◆"
ASCII = str.maketrans(
    {
        "✓": "ok",
        "✗": "x",
        "●": "*",
        "\u2013": "-",
        "→": "->",
        "·": "-",
        "…": "...",
        "│": "|",
        "├": "|",
        "└": "`",
        "◆": "*",
        "▓": "#",
        "░": ".",
    }
)


def row(text: str, mark: Mark = "") -> Line:
    """A line of one segment."""
    return [(text, mark)]


def plain(line: Sequence[Segment]) -> str:
    """A line without color."""
    return "".join(text for text, _ in line).rstrip()


def paint(line: Sequence[Segment], *, color: bool) -> str:
    """A line, with ANSI color if `color` is true."""
    if not color:
        return plain(line)
    return "".join(
        f"{ANSI[mark]}{text}\x1b[0m" if mark and text else text for text, mark in line
    ).rstrip()


def narrowed(lines: Sequence[Line], width: int | None) -> list[Line]:
    """Break lines between words to fit a terminal; the text stays in its column.

    Commands and long words stay whole, so that you can copy them. Lines of a log, after ``│``, are
    broken anywhere.

    Args:
        width: The terminal's columns; None without a terminal, and the lines stay unchanged.
    """
    if width is None:
        return list(lines)
    return [part for line in lines for part in _narrowed(line, width)]


_COLUMN: Final = re.compile(r"(?P<log>\s*│ )|\s*(?:\S+(?: \S+)*\s{2,})?(?P<command>fractale )?")


def _narrowed(line: Line, width: int) -> Iterator[Line]:
    text = "".join(words for words, _ in line)
    if cells(text) <= width or not (found := _COLUMN.match(text)) or found["command"]:
        yield line
        return
    column = found.end() if cells(found[0]) <= width // 2 else 2
    bar = found[0] if found["log"] else ""
    room, start = max(width - cells(text[:column]), 8), column
    first, rest = _split(line, column)
    begin = row(bar or " " * cells(text[:column]))
    while cells(text[start:]) > room:
        kept = len(fit(text[start:], room + 1).removesuffix(ELLIPSIS))
        blank = text.rfind(" ", start, start + kept + 1)
        if not bar:
            blank = text.find(" ", start + kept) if blank <= start else blank
            if blank < 0:
                break
        end = blank if blank > start else start + max(kept, 1)
        part, rest = _split(rest, end - start)
        yield [*first, *part]
        skipped = len(text[end:]) - len(text[end:].lstrip(" "))
        _, rest = _split(rest, skipped)
        start = end + skipped
        first = begin
    if rest:
        yield [*first, *rest]


def _split(line: Line, at: int) -> tuple[Line, Line]:
    """A line split in two after `at` characters."""
    before: Line = []
    after: Line = []
    for text, mark in line:
        if text[:at]:
            before.append((text[:at], mark))
        if text[at:]:
            after.append((text[at:], mark))
        at = max(at - len(text), 0)
    return before, after


def shows_unicode(encoding: str | None) -> bool:
    """Whether a stream of this encoding can show the marks that fractale uses."""
    try:
        OWN_LETTERS.encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def writable(text: str, encoding: str | None) -> str:
    """The text with replacements for characters that the encoding lacks."""
    if not shows_unicode(encoding):
        text = text.translate(ASCII)
    try:
        return text.encode(encoding or "ascii", "backslashreplace").decode(encoding or "ascii")
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def wants_color(stream: Any) -> bool:
    """Whether a stream is a terminal and the user allows color."""
    from fractale.settings import allows_color

    return bool(stream.isatty()) and allows_color()


def screen_width(stream: Any) -> int | None:
    """The columns of a terminal; None if the stream is not one or its width is unknown."""
    if not stream.isatty():
        return None
    import shutil

    return max(shutil.get_terminal_size((0, 0)).columns, 0) or None


def seconds(value: Any) -> str:
    """A duration of an event as text; a missing one counts as 0."""
    return in_words(float(value or 0))


def shorten_path(path: str) -> str:
    """A path relative to the directory in which the command was started, if that is shorter.

    The start directory is used since a tool may have changed the working directory.
    """
    context = click.get_current_context(silent=True)
    directory = (
        context.find_root().obj["directory"] if context and context.find_root().obj else None
    )
    try:
        near = os.path.relpath(path, directory)
    except (OSError, ValueError):  # the directory was removed, or is on another drive
        return path
    return near if len(near) < len(path) and not near.startswith("../..") else path


def table_lines(title: str, rows: Sequence[Mapping[str, Any]], width: int) -> list[Line]:
    """The last rows of a table as lines; wide cells are cut.

    Args:
        rows: Column → value; columns are those of the first row.
        width: Columns of the screen.
    """
    shown = rows[-MOST_ROWS:]
    if not shown:
        return []
    names = list(shown[0])
    texts = [[fit(table_cell(each.get(name)), WIDEST) for name in names] for each in shown]
    heads = [inert(str(name)) for name in names]
    widths = [max(cells(text) for text in column) for column in zip(heads, *texts, strict=True)]
    lines = [heads, *texts]
    left_out = f" (the last {len(shown)} of {len(rows)})" if len(shown) < len(rows) else ""
    found = [row(f"   {inert(title)}{left_out}", "dim")]
    for line in lines:
        words = "  ".join(pad(text, wide) for text, wide in zip(line, widths, strict=True))
        found.append(row(fit(f"     {words}".rstrip(), width), "dim"))
    return found


def table_cell(value: Any) -> str:
    """A value of a table in one line."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return inert(value, 200)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{inert(str(k))}={table_cell(v)}" for k, v in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
    return inert(to_json(value, default=str), 200)
