"""The characters that a terminal can show, one column for each of fractale's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fractale.render.text import Line, cells

_ASCII: Final = str.maketrans(
    "✓✗●\u2013→·…│├└◆\u203a─↑↓←",
    "+x*->-~||`*>-^v<",
)


def is_utf8(environment: Mapping[str, str], encoding: str | None) -> bool:
    """Whether a terminal shows UTF-8, by the locale that the user set.

    Python itself uses UTF-8 in the C locale, but a terminal in that locale may not.
    """
    locale = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    name, _, codes = locale.partition(".")
    if codes.upper().replace("-", "").startswith("UTF8"):
        return True
    return (encoding or "").lower().replace("-", "") == "utf8" and name not in ("", "C", "POSIX")


class Letters:
    r"""Makes lines drawable on a terminal.

    Args:
        unicode: Whether the terminal shows UTF-8. If not, other characters than ASCII are written
            out, as ``\u2026``.
    """

    def __init__(self, *, unicode: bool = True) -> None:
        self.unicode = unicode

    def own(self, text: str) -> str:
        """A text with the characters of fractale's own, with one column for each."""
        return text if self.unicode else text.translate(_ASCII)

    def drawable(self, text: str) -> str:
        """A text without anything that a terminal would interpret.

        Texts are escaped where they are read. This is the last gate before the terminal.
        """
        if not text.isprintable():
            text = "".join(each if each.isprintable() or each in _JOINERS else "?" for each in text)
        if self.unicode or text.isascii():
            return text
        return self.own(text).encode("ascii", "backslashreplace").decode("ascii")

    def line(self, line: Line) -> Line:
        """A line that is drawable."""
        return [(self.drawable(text), mark) for text, mark in line]


_JOINERS: Final = "\u200c\u200d"


def cut(line: Line, width: int) -> Line:
    """A line cut to the width of the screen, whatever its marks."""
    kept: Line = []
    room = width
    for text, mark in line:
        if (used := cells(text)) <= room:
            kept.append((text, mark))
            room -= used
            continue
        kept.append((_first(text, room), mark))
        break
    return kept


def _first(text: str, room: int) -> str:
    used = 0
    for number, character in enumerate(text):
        used += cells(character)
        if used > room:
            return text[:number]
    return text


def fitted(parts: Sequence[tuple[str, str]], width: int, letters: Letters, drop: str = "") -> str:
    """Keys with their words on one line.

    Args:
        parts: Keys and what they do; those that do not fit are left out.
        drop: The keys that are left out first, one after the other.
    """
    kept, line = list(parts), ""
    for key in ["", *drop]:
        kept = [part for part in kept if part[0] != key or not key]
        line = "".join(f"  {letters.own(key)} {word}" for key, word in kept)[1:]
        if cells(line) <= width:
            return line
    return _first(line, width)
