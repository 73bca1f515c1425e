"""What differs between a run and an earlier one, as lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fractale.durations import exactly
from fractale.render.diff import changed_lines
from fractale.render.phrases import as_json
from fractale.render.questions import exact
from fractale.render.summary import STATES
from fractale.render.text import Line, cells, count, fit, inert, pad, row

if TYPE_CHECKING:
    from fractale.record.drift import Area, Drift, Drifted
    from fractale.record.history import RunHistory

COLUMNS = 160
MOST_LINES = 12


def drift_lines(drift: Drift, *, full: bool = False, unicode: bool = True) -> list[Line]:
    """What differs between two runs, the likely cause first.

    Args:
        full: Whether to show every difference, and long values in full.
        unicode: Whether the terminal can show ``→``.
    """
    arrow = "→" if unicode else "->"
    lines = [_side("run", drift.now), _side("since", drift.before), row("")]
    for area in drift.differing:
        lines += _area(area, arrow, full=full)
    same = [area.name for area in drift.areas if not area.differences and not area.unknown]
    unknown = drift.unknown
    if drift.differing:
        lines.append(row(""))
        lines += _listed("no difference", same)
    elif unknown:
        lines += _listed("no difference", same)
    else:
        lines.append(row("nothing of these differs:", "good"))
        lines += _listed("", same)
    for area in unknown:
        shown = area.unknown if full else area.unknown[:1]
        for words in shown:
            lines.append(row(fit(f"not known      {area.name}: {inert(words)}", COLUMNS), "warn"))
        if more := len(area.unknown) - len(shown):
            lines.append(row(f"               {count(more, 'more')}, with --full", "dim"))
    lines += [row(""), row(f"what happened, step by step:  {_diff(drift)}", "dim")]
    return lines


def _diff(drift: Drift) -> str:
    return f"fractale diff {drift.before.run} {drift.now.run}"


def _side(label: str, history: RunHistory) -> Line:
    words, mark = STATES.get(history.status, (history.status, "warn"))
    plan = inert(str(history.head.get("plan")), 80)
    started = exactly(history.started)
    return [(f"{pad(label, 6)} {history.run}  ", ""), (words, mark), (f" · {plan} · {started}", "")]


def _area(area: Area, arrow: str, *, full: bool) -> Iterator[Line]:
    shown = area.differences if full else area.differences[:1]
    for number, difference in enumerate(shown):
        label = area.name if number == 0 else ""
        yield from _difference(pad(label, 18), difference, arrow, full=full)
    if more := len(area.differences) - len(shown):
        yield row(f"{' ' * 18}… {count(more, 'more difference')}, with --full", "dim")


def _difference(label: str, difference: Drifted, arrow: str, *, full: bool) -> Iterator[Line]:
    a, b, indent = difference.before, difference.now, " " * cells(label)
    what = inert(difference.what, None if full else 200)
    if isinstance(a, str) and isinstance(b, str) and "\n" in a + b:
        yield [(label, "warn"), (what, "")]
        lines = changed_lines(a, b)
        shown = lines if full else lines[:MOST_LINES]
        for text, mark in shown:
            yield [(f"{indent}  ", ""), (text if full else fit(text, COLUMNS), mark)]
        if more := len(lines) - len(shown):
            yield row(f"{indent}  … {count(more, 'more line')}, with --full", "dim")
        return
    how = f": {inert(difference.how, 200)}" if difference.how else ""
    if a is None and b is None:
        yield [(label, "warn"), (f"{what}{how}", "")]
        return
    long = cells(_value(a)) + cells(_value(b)) > 72
    if not long:
        yield [(label, "warn"), (f"{what}{how}   {_value(a)} {arrow} {_value(b)}", "")]
        return
    yield [(label, "warn"), (f"{what}{how}", "")]
    for word, value in (("before", a), ("now", b)):
        line = f"{indent}  {pad(word, 7)} {_value(value)}"
        yield row(line if full else fit(line, COLUMNS))


def _value(value: Any) -> str:
    return "nothing" if value is None else exact(as_json(value))


def _listed(label: str, names: list[str]) -> Iterator[Line]:
    if names:
        yield row(f"{pad(label, 15) if label else '  '}{', '.join(names)}", "dim")
