"""Escapes foreign text for a terminal, and shortens it to fit.

A terminal interprets the text that it prints. Text of tools, models and strangers' plans therefore
loses terminal sequences, control characters, and marks that reverse the reading direction.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata

ELLIPSIS = "…"
JOINERS = "\u200c\u200d"
"""Unprintable to Python, but scripts and emoji need them, and they do not move text."""

_ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colors, cursor moves
    r"|\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # OSC, DCS and the like: titles, links
    r"|\x1b[ -/]*[0-Z\\`-~]"  # two characters: resets, character sets
)


def escape(text: str, limit: int | None = None, *, lines: bool = False) -> str:
    r"""A text without sequences that a terminal would interpret.

    Terminal sequences are left out. Other control characters, and those that hide text or reverse
    its direction, are shown as ``\x08`` or ``\u202e``.

    Args:
        limit: The most characters of the result. A shortened text ends in ``…``.
        lines: Whether line breaks stay; otherwise every run of white space becomes one blank.
    """
    cut = limit is not None and len(text) > 4 * limit + 1000
    if limit is not None and cut:
        text = text[: 4 * limit + 1000]
    plain = _ANSI.sub("", text) if "\x1b" in text else text
    if lines:
        rows = plain.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4).split("\n")
        shown = "\n".join(_visible(row) for row in rows)
    else:
        shown = _visible(" ".join(plain.split()))
    if limit is not None and (cut or len(shown) > limit):
        shown = shown[: max(limit - 1, 0)].rstrip() + ELLIPSIS
    return shown


def _visible(text: str) -> str:
    return text if text.isprintable() else "".join(_character(c) for c in text)


def _character(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def cells(text: str) -> int:
    """The number of terminal columns that a text fills."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character) or character in JOINERS:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """A text shortened to at most `width` columns. It ends in ``…`` if it was shortened."""
    if cells(text) <= width:
        return text
    if width < 1:
        return ""
    kept, used = 0, 0
    for character in text:
        used += _cells_of(character)
        if used >= width:
            break
        kept += 1
    return text[:kept].rstrip() + ELLIPSIS


def pad(text: str, width: int) -> str:
    """A text padded with blanks to at least `width` columns."""
    return text + " " * max(width - cells(text), 0)


def fold(text: str, width: int, most: int | None = None) -> list[str]:
    """One line broken between words into lines of at most `width` characters.

    Args:
        most: The most lines. If there are more, the last line ends in ``…``.
    """
    found = textwrap.wrap(text, max(width, 8), break_on_hyphens=False) or [""]
    if most is not None and len(found) > most:
        last = fit(f"{found[most - 1]} {found[most]}", max(width, 8))
        found = [*found[: most - 1], last if last.endswith(ELLIPSIS) else last + ELLIPSIS]
    return found
