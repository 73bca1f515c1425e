"""Values on a page: escaped, bounded, and with a note of what was left out and where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from fractale.plain import to_json
from fractale.render.questions import exact
from fractale.render.step import timed
from fractale.render.text import count, inert

ONE_LINE: Final = 100
"""The most columns of a JSON value on one line."""
NAME_MOST: Final = 80
MOST_KEYS: Final = 200
"""The most keys of a mapping that have an entry each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of one value is shown.

    Args:
        characters: Of a text.
        lines: Of a text.
        line: Characters of one line.
    """

    characters: int = 20_000
    lines: int = 400
    line: int = 4_000

    def shared_by(self, number: int) -> Bounds:
        """Smaller bounds if `number` attempts are on one page, so that the page stays usable."""
        if number <= MANY:
            return self
        part = MANY / number
        return Bounds(
            characters=max(int(self.characters * part), LEAST_CHARACTERS),
            lines=max(int(self.lines * part), LEAST_LINES),
            line=max(int(self.line * part), LEAST_CHARACTERS),
        )


MANY: Final = 40
"""The number of attempts up to which each is shown with the whole bounds."""
LEAST_CHARACTERS: Final = 600
LEAST_LINES: Final = 12
WHOLE: Final = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A value as it is shown.

    Args:
        label: Its name; may be empty.
        text: Control characters are escaped.
        block: Whether it has several lines.
        note: What was left out, and where the whole value is; empty if nothing was.
    """

    label: str
    text: str
    block: bool = False
    note: str = ""


def shown(label: str, value: Any, bounds: Bounds = WHOLE, where: str = "") -> Shown:
    """A value as text: a text unchanged, any other value as JSON.

    Args:
        where: Where the whole value is, for the note of one that is cut.
    """
    text = value if isinstance(value, str) else _json(value)
    kept, note = cut(text.rstrip("\n"), bounds, where)
    return Shown(
        label=inert(label, NAME_MOST),
        text=kept or "(empty)",
        block="\n" in kept,
        note=note,
    )


def entries_of(value: Any, bounds: Bounds = WHOLE, where: str = "") -> tuple[Shown, ...]:
    """A value as entries: one per key of a mapping; any other value is one without a label.

    The times of jobs are dates and durations.
    """
    if value is None or value == {}:
        return ()
    if not isinstance(value, Mapping):
        return (shown("", value, bounds, where),)
    table = cast("Mapping[Any, Any]", value)
    found = [
        shown(str(key), timed(str(key), each), bounds, where)
        for key, each in list(table.items())[:MOST_KEYS]
    ]
    if more := len(table) - MOST_KEYS:
        found += [Shown(label="…", text=count(more, "more key"))] if more > 0 else []
    return tuple(found)


def cut(text: str, bounds: Bounds = WHOLE, where: str = "") -> tuple[str, str]:
    """The beginning of a text within bounds, escaped, and a note if it was cut."""
    kept = text[: bounds.characters].split("\n")
    whole = len(text) <= bounds.characters and len(kept) <= bounds.lines
    lines = kept[: bounds.lines]
    long = [line for line in lines if len(line) > bounds.line]
    if long:
        lines = [line[: bounds.line] + "…" * (len(line) > bounds.line) for line in lines]
    escaped = exact("\n".join(lines))
    if whole and not long:
        return escaped, ""
    size = f"{count(len(text), 'character')} in {count(text.count(chr(10)) + 1, 'line')}"
    return escaped, f"cut: the whole text has {size}{f'; see {inert(where, 400)}' if where else ''}"


def _json(value: Any) -> str:
    line = to_json(value, default=str)
    if len(line) <= ONE_LINE or not isinstance(value, (dict, list)):
        return line
    return to_json(value, default=str, indent=1)
