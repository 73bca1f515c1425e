"""Texts of messages, for every package: similar names, short texts, numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

_CUTOFF: Final = 0.6
"""How similar a name must be to be suggested, from 0 to 1, as difflib counts it."""

_LONGEST_NAME: Final = 100
_MOST_NAMES: Final = 1000
"""Comparing two names takes time in proportion to both lengths, so both counts are bounded."""


def similar(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names that are most like `name`, at most `most`, the most similar first.

    Upper and lower case, and ``-`` and ``_``, count as the same.
    """
    import difflib

    if len(name) > _LONGEST_NAME:
        return []
    folded: dict[str, str] = {}
    for each in known:
        if len(each) <= _LONGEST_NAME and len(folded) < _MOST_NAMES:
            folded.setdefault(_folded(each), each)
    return [folded[f] for f in difflib.get_close_matches(_folded(name), folded, most, _CUTOFF)]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that the user probably meant; None if none is similar."""
    return next(iter(similar(name, known)), None)


def did_you_mean(
    name: str, known: Iterable[str], *, before: str = "", after: str = "", otherwise: str = ""
) -> str:
    """The question ``did you mean `x`?`` for an unknown name.

    Args:
        before: Put in front of the question.
        after: Put behind it.
        otherwise: The result if no known name is similar.
    """
    near = nearest(name, known)
    return otherwise if near is None else f"{before}did you mean `{near}`?{after}"


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def listing(names: Collection[str], most: int = 8) -> str:
    """Names in backticks with commas; of more than `most`, the first ones and ``…``."""
    shown = [f"`{name}`" for name in list(names)[:most]]
    return ", ".join([*shown, "…"] if len(names) > most else shown)


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 error``, ``1,204 tokens``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """A text with each run of white space as one blank."""
    return " ".join(text.split())


def clip(text: str, limit: int = 40) -> str:
    """A text on one line of at most `limit` characters; one that is cut ends in ``…``."""
    line = one_line(text[: 4 * limit])
    if len(line) <= limit and len(text) <= 4 * limit:
        return line
    return f"{line[: limit - 1]}…"


def shown_value(value: Any) -> str:
    """A value of the wrong type in a message."""
    return f"the {type(value).__name__} `{getattr(value, '__name__', None) or repr(value)}`"


def size_text(total: int) -> str:
    """A number of bytes for users, in powers of 1000: ``1.2 MB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if total >= unit:
            return f"{total / unit:.1f} {name}"
    return f"{total} bytes"
