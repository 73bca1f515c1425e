"""Replays, as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fractale.render.phrases import as_json
from fractale.render.text import Line, Mark, cells, count, inert, pad, row

if TYPE_CHECKING:
    from fractale.record.diff import ValueChange
    from fractale.replaying.comparison import Divergence
    from fractale.replaying.replay import Replayed
    from fractale.replaying.suite import CheckedRecording

WHAT = {
    "call": "another call",
    "arguments": "other arguments",
    "outcome": "another outcome",
    "path": "another path",
    "question": "another question",
}
MOST_CHANGES, LONGEST = 8, 200
WORDS: dict[str, tuple[str, Mark]] = {
    "equal": ("equal", "good"),
    "diverged": ("diverged", "bad"),
    "invalid": ("invalid plan", "bad"),
    "not-recorded": ("cannot be replayed", "warn"),
}


def replayed_lines(replayed: Replayed, notes: Sequence[str] = ()) -> list[Line]:
    """The result of one replay."""
    lines = [row(f"note: {inert(note)}", "dim") for note in notes]
    if replayed.missing:
        names = ", ".join(f"`{inert(name)}`" for name in replayed.missing)
        lines.append(row(f"note: results taken from the record: {names}", "dim"))
    if replayed.divergence is None:
        return [*lines, [("equal", "good"), (f", {equal_words(replayed)}", "")]]
    at = f"after {replayed.events} of {count(replayed.of, 'event')}"
    title: Line = [("diverged", "bad"), (f" {at}: {WHAT[replayed.divergence.what]}", "")]
    return [*lines, title, *divergence_lines(replayed.divergence)]


def equal_words(replayed: Replayed) -> str:
    """The number of equal events, and the end of an incomplete record."""
    words = count(replayed.events, "event")
    if replayed.ends:
        return f"{words}, up to the end of the record, which is {inert(replayed.ends)}"
    return words


def divergence_lines(divergence: Divergence) -> list[Line]:
    """A divergence, with both sides."""
    lines = [row(f"  {inert(divergence.message)}")]
    for change in divergence.changes[:MOST_CHANGES]:
        lines += _change(change)
    if len(divergence.changes) > MOST_CHANGES:
        lines.append(row(f"  … and {len(divergence.changes) - MOST_CHANGES} more", "dim"))
    return lines


def _change(change: ValueChange) -> list[Line]:
    sides = [("recorded", change.a, "a", "bad"), ("now", change.b, "b", "good")]
    name = inert(change.path) or "value"
    return [
        [(f"  {name if number == 0 else ' ' * cells(name)}  ", ""), (pad(label, 9), "dim"), (
            _value(value) if change.missing != side else "nothing", "")]
        for number, (label, value, side, _) in enumerate(sides)
    ]  # fmt: skip


def _value(value: Any) -> str:
    return inert(value if isinstance(value, str) else as_json(value), LONGEST)


def checked_lines(checked: CheckedRecording, width: int) -> list[Line]:
    """The result for one recording of a directory."""
    words, mark = WORDS[checked.verdict]
    result = ""
    if checked.replayed is not None and checked.replayed.divergence is None:
        result = equal_words(checked.replayed)
    elif checked.replayed is not None and checked.replayed.divergence is not None:
        result = WHAT[checked.replayed.divergence.what]
    lines: list[Line] = [
        [(pad(words, 19), mark), (f"{pad(inert(checked.name), width)}  {result}", "")]
    ]
    if checked.replayed is not None and checked.replayed.divergence is not None:
        lines += divergence_lines(checked.replayed.divergence)
    if checked.error is not None:
        lines += [row(f"  {inert(line)}") for line in str(checked.error).splitlines()]
        lines += [row(f"  {inert(checked.error.hint)}", "dim")] if checked.error.hint else []
    return [*lines, *(row(f"  note: {inert(note)}", "dim") for note in checked.notes)]


def summary_line(verdicts: Sequence[str]) -> Line:
    """The number of recordings per verdict."""
    parts = [
        f"{verdicts.count(verdict)} {words}"
        for verdict, (words, _) in WORDS.items()
        if verdict in verdicts
    ]
    return row(f"{count(len(verdicts), 'recording')}: {', '.join(parts)}")
