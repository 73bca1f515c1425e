"""Text for people: foreign text made inert, colour that only marks state, any terminal's letters.

A line is built of `Segment`s, words with what they mean; `paint` turns them into text for a
stream, with or without ANSI colour.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import click

from fractale.durations import clock, in_words
from fractale.plan.inert import ELLIPSIS, cells, fit, fold, inert, pad
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
    "wants_color",
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
    }
)


def row(text: str, mark: Mark = "") -> Line:
    """A line of one segment."""
    return [(text, mark)]


def table(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A field of an event that is a mapping; empty if it is missing or null."""
    return dict(data.get(key) or {})


def entries(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A field of an event that is a list of mappings; empty if it is missing or null."""
    return list(data.get(key) or [])


def plain(line: Sequence[Segment]) -> str:
    """A line without colour."""
    return "".join(text for text, _ in line).rstrip()


def paint(line: Sequence[Segment], *, color: bool) -> str:
    """A line, with ANSI colour if asked for."""
    if not color:
        return plain(line)
    return "".join(
        f"{ANSI[mark]}{text}\x1b[0m" if mark and text else text for text, mark in line
    ).rstrip()


def narrowed(lines: Sequence[Line], width: int | None) -> list[Line]:
    """Lines broken between words where a terminal is narrower; the text stays in its column.

    Commands, and words that are wider by themselves, stay whole, so that they can be copied. Lines
    of a log, behind ``│``, are broken anywhere.

    Args:
        width: Of the terminal, in columns; None: there is none, and they stay as they are.
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
    """A line in two, the first with so many characters."""
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
    """The same text in letters that a stream of this encoding has."""
    if not shows_unicode(encoding):
        text = text.translate(ASCII)
    try:
        return text.encode(encoding or "ascii", "backslashreplace").decode(encoding or "ascii")
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def wants_color(stream: Any) -> bool:
    """Whether a stream is a terminal whose owner did not ask for text without colour."""
    from fractale.settings import allows_color

    return bool(stream.isatty()) and allows_color()


def screen_width(stream: Any) -> int | None:
    """The columns of a terminal, if the stream is one and they are known."""
    if not stream.isatty():
        return None
    import shutil

    return max(shutil.get_terminal_size((0, 0)).columns, 0) or None


def seconds(value: Any) -> str:
    """A duration of an event, in words; one that is missing counts as 0."""
    return in_words(float(value or 0))


def shorten_path(path: str) -> str:
    """A path as seen from where the command was started, where that is shorter.

    A tool may have changed the folder that the process works in.
    """
    context = click.get_current_context(silent=True)
    folder = context.find_root().obj["folder"] if context and context.find_root().obj else None
    try:
        near = os.path.relpath(path, folder)
    except (OSError, ValueError):  # the folder was removed, or it is on another drive
        return path
    return near if len(near) < len(path) and not near.startswith("../..") else path
