"""Two runs side by side, as lines."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fractale.render.phrases import as_json, ordinal
from fractale.render.questions import exact
from fractale.render.summary import STATES, usage_text
from fractale.render.text import Line, Mark, cells, count, fit, inert, pad, row, seconds

if TYPE_CHECKING:
    from fractale.pins import ToolChange
    from fractale.record.diff import AttemptDiff, ForkedFrom, RunDiff, ValueChange
    from fractale.record.history import RecordedAttempt, RunHistory

NAME_MOST = 32
MARKS: dict[str, Mark] = {"-": "bad", "+": "good"}
MOST_CHANGES, MOST_LINES, COLUMNS = 8, 12, 160


def diff_lines(diff: RunDiff, *, full: bool = False, unicode: bool = True) -> list[Line]:
    """The differences between two runs.

    Args:
        full: Whether to show all changes, and also the attempts without a difference.
        unicode: Whether the terminal can show ``≠``.
    """
    lines = [_side("A", diff.a), _side("B", diff.b), *_forked(diff.forked), row("")]
    if diff.about:
        lines += [row("plan, inputs and versions"), *_changes(diff.about, full=full), row("")]
    lines += [line for change in diff.tools for line in _tool(change, full=full)]
    lines += [*([row("")] if diff.tools else []), *_verdict(diff), row("")]
    width = min(max([cells(inert(attempt.path)) for attempt in diff.attempts] + [8]), NAME_MOST)
    for attempt in diff.attempts:
        if attempt.changed or full:
            lines += _attempt(attempt, width, full=full, sign="≠" if unicode else "!")
    same = sum(1 for attempt in diff.attempts if not attempt.changed)
    if same and not full:
        lines.append(row(f"{count(same, 'attempt')} equal except for time", "dim"))
    return lines


def _tool(change: ToolChange, *, full: bool) -> Iterator[Line]:
    """A tool with a changed definition, and the changes."""
    name, parts = exact(f"{change.server}.{change.tool}"), exact(", ".join(change.parts))
    yield row(f"{name} differs in B: {parts} changed")
    lines = exact(change.diff()).split("\n")
    shown = lines if full else lines[:MOST_LINES]
    for text in shown:
        yield [("    ", ""), (text if full else fit(text, COLUMNS), MARKS.get(text[:1], "dim"))]
    if more := len(lines) - len(shown):
        yield row(f"    … {count(more, 'more line')}, with --full", "dim")


def _side(label: str, history: RunHistory) -> Line:
    words, mark = STATES.get(history.status, (history.status, "now"))
    plan, used = inert(str(history.head.get("plan")), 80), usage_text(history.usage)
    attempts = count(len(history.attempts), "attempt")
    facts = " · ".join(part for part in (plan, attempts, used) if part)
    return [(f"{label}  run {history.run}  ", ""), (words, mark), (f" · {facts}", "")]


def _forked(at: ForkedFrom | None) -> Iterator[Line]:
    """The run that is a fork, and its first own attempt; earlier attempts are not compared."""
    if at is None:
        return
    fork, parent = ("B", "A") if at.fork == "b" else ("A", "B")
    place = f"{inert(at.step)}, {ordinal(at.visit)} attempt"
    before = f"; {count(at.before, 'attempt')} before it" if at.before else ""
    yield row(f"{fork} is a fork of {parent} at {place}{before}", "dim")


def _verdict(diff: RunDiff) -> Iterator[Line]:
    """The attempts at which the runs first differ and first take different paths."""
    first, parting = diff.first, diff.parting
    if first is None:
        yield row("all steps took the same path, with the same inputs and outputs", "good")
        return
    yield row(f"first difference  {_place(first)}: {', '.join(first.changed)}")
    if parting is None:
        yield row("both took the same path")
        return
    yield row(f"paths split at    {_place(parting)}: A {_went(parting.a)}, B {_went(parting.b)}")


def _place(attempt: AttemptDiff) -> str:
    return f"{inert(attempt.path)}, {ordinal(attempt.number)} attempt"


def _went(attempt: RecordedAttempt | None) -> str:
    if attempt is None:
        return "did not reach it"
    if attempt.outcome is None:
        return "did not finish it"
    event = attempt.event if attempt.event not in (attempt.outcome, None) else attempt.outcome
    return (
        f"{inert(str(event))} → {inert(str(attempt.next))}" if attempt.next else inert(str(event))
    )


def _attempt(attempt: AttemptDiff, width: int, *, full: bool, sign: str) -> list[Line]:
    name = pad(fit(inert(attempt.path), width), width)
    number = ordinal(attempt.number)
    if attempt.a is None or attempt.b is None:
        side, there = ("B", attempt.b) if attempt.a is None else ("A", attempt.a)
        outcome = there.outcome if there else ""
        return [[(f" {sign} ", "warn"), (f"{name}  {number}  only in {side}: {outcome}", "")]]
    what = ", ".join(attempt.changed) or "the same"
    mark: Line = [(f" {sign} ", "warn")] if attempt.changed else [("   ", "")]
    head: Line = [
        *mark,
        (f"{name}  {number}  {pad(what, 24)}  {_figures(attempt.a, attempt.b)}", ""),
    ]
    return [head, *_decisions(attempt.a, attempt.b), *_values(attempt, full=full)]


def _figures(a: RecordedAttempt, b: RecordedAttempt) -> str:
    parts = [f"{seconds(a.seconds)} / {seconds(b.seconds)}"]
    if a.tokens or b.tokens:
        parts.append(f"{a.tokens:,} / {b.tokens:,} tokens")
    return "   ".join(parts)


def _decisions(a: RecordedAttempt, b: RecordedAttempt) -> Iterator[Line]:
    from fractale.render.step import decided_by

    if (a.outcome, a.event, a.next, a.decided_by) == (b.outcome, b.event, b.next, b.decided_by):
        return
    for label, attempt in (("A", a), ("B", b)):
        yield row(fit(f"       {label}  {_went(attempt)}   {inert(decided_by(attempt))}", COLUMNS))


def _values(attempt: AttemptDiff, *, full: bool) -> list[Line]:
    lines: list[Line] = []
    for label, found in (("inputs", attempt.inputs), ("outputs", attempt.outputs)):
        if found:
            lines += [row(f"     {label}", "dim"), *_changes(found, full=full, indent="       ")]
    return lines


def _changes(found: list[ValueChange], *, full: bool, indent: str = "  ") -> list[Line]:
    shown = found if full else found[:MOST_CHANGES]
    lines = [line for change in shown for line in _change(change, indent, full=full)]
    if more := len(found) - len(shown):
        lines.append(row(f"{indent}… {count(more, 'more difference')}, with --full", "dim"))
    return lines


def _change(change: ValueChange, indent: str, *, full: bool) -> Iterator[Line]:
    path = inert(change.path) or "(the whole)"
    if has_lines(change):
        yield row(f"{indent}{path}")
        yield from _text_change(change.a, change.b, f"{indent}  ", full=full)
        return
    for label, value in (("A", change.a), ("B", change.b)):
        words = "nothing" if change.missing == label.lower() else exact(as_json(value))
        name = path if label == "A" else " " * cells(path)
        line = f"{indent}{name}  {label}  {words}"
        yield row(line if full else fit(line, COLUMNS))


def _text_change(a: str, b: str, indent: str, *, full: bool) -> Iterator[Line]:
    lines = changed_lines(a, b)
    shown = lines if full else lines[:MOST_LINES]
    for text, mark in shown:
        yield [(indent, ""), (text if full else fit(text, COLUMNS), mark)]
    if more := len(lines) - len(shown):
        yield row(f"{indent}… {count(more, 'more line')}, with --full", "dim")


def has_lines(change: ValueChange) -> bool:
    """Whether both values are texts, and one of them has several lines."""
    a, b = change.a, change.b
    return isinstance(a, str) and isinstance(b, str) and "\n" in a + b


def changed_lines(a: str, b: str) -> list[tuple[str, Mark]]:
    """The lines of a text that differ, with one line around them, and their marks."""
    lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm="", n=1))[2:]
    return [(exact(text), MARKS.get(text[:1], "dim")) for text in lines]
