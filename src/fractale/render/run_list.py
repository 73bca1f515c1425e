"""The list of runs: its headings, and the cells of a run in the same order."""

from __future__ import annotations

from collections.abc import Sequence

from fractale.render.summary import LEAST_HOURS, STATES
from fractale.render.text import Line, Mark, cells, clock, count, fit, inert, pad, when
from fractale.store.index import RunRow, SweepRuns

PLAN_WIDTH = 40
HEADINGS = (
    *("RUN", "PLAN", "STATE", "STARTED", "RAN", "COMPUTED", "WAITED"),
    *("JOBS", "NODE-H", "TOKENS", "COST"),
)
SPARE = ("WAITED", "COMPUTED", "JOBS", "NODE-H", "COST")
"""The columns that a narrow terminal has no space for, in the order in which they are left out."""
MANY_HOURS = 999.5
"""From here on, node-hours are shown as whole numbers."""
LEFT = 4
"""The number of left-aligned text columns; the columns after them are numbers, right-aligned."""


def run_list_lines(rows: Sequence[RunRow | SweepRuns], width: int | None = None) -> list[Line]:
    """A line per run or sweep below the headings, in columns as wide as their widest cell.

    Number columns without a value in any run are left out. If the columns are wider than the
    terminal, those of `SPARE` are left out, too, and what is said after the columns is below them.

    Args:
        width: The terminal's columns; None without a terminal.
    """
    if not rows:
        return []
    table = [_cells(row) for row in rows]
    used = [n for n in range(len(HEADINGS)) if n < LEFT or any(parts[n] for parts in table)]
    widths = {n: max(cells(line[n]) for line in (HEADINGS, *table)) for n in used}
    for spare in SPARE:
        if width is not None and sum(widths[n] + 2 for n in used) - 2 > width:
            used = [n for n in used if HEADINGS[n] != spare]

    def shown(parts: Sequence[str]) -> list[str]:
        return [pad(parts[n], widths[n]) if n < LEFT else parts[n].rjust(widths[n]) for n in used]

    lines: list[Line] = [[("  ".join(shown(HEADINGS)), "dim")]]
    for row, parts in zip(rows, table, strict=True):
        words = shown(parts)
        mark = _mark(row)
        rest, about = "  ".join(["", *words[3:]]), _about(row)
        line: Line = [("  ".join([*words[:2], ""]), ""), (words[2], mark), (rest, "")]
        below = width is not None and cells("  ".join(words)) + 2 + cells(about) > width
        if about and not below:
            line.append((f"  {about}", ""))
        lines.append(line)
        if about and below:
            lines.append([(f"{' ' * (widths[0] + 2)}{about}", "")])
    return lines


def run_cells(row: RunRow) -> tuple[str, ...]:
    """The cells of a run, in the order of `HEADINGS`."""
    return (row.id, fit(inert(row.plan), PLAN_WIDTH), _state(row), *_amounts(row))


def sweep_cells(sweep: SweepRuns) -> tuple[str, ...]:
    """The cells of a sweep, in the order of `HEADINGS`."""
    runs = f"sweep: {count(sweep.runs, 'run')}"
    return (sweep.sweep, fit(inert(sweep.plan), PLAN_WIDTH), runs, *_amounts(sweep))


def about_sweep(sweep: SweepRuns) -> str:
    """The number of rows in each state: ``58 success  3 failed``."""
    known = [*STATES, *sorted(sweep.counts.keys() - STATES.keys())]
    states = [(STATES.get(each, (inert(each), ""))[0], sweep.counts.get(each, 0)) for each in known]
    return ", ".join(f"{number:,} {words}" for words, number in states if number)


def _cells(row: RunRow | SweepRuns) -> tuple[str, ...]:
    return run_cells(row) if isinstance(row, RunRow) else sweep_cells(row)


def _about(row: RunRow | SweepRuns) -> str:
    return about_run(row) if isinstance(row, RunRow) else about_sweep(row)


def _mark(row: RunRow | SweepRuns) -> Mark:
    return STATES.get(row.status, ("", "now"))[1] if isinstance(row, RunRow) else ""


def hours_cell(hours: float) -> str:
    """Node-hours in a column: ``0.125``, ``12,300``; empty for none."""
    if hours < LEAST_HOURS:
        return ""
    return f"{hours:.3g}" if hours < MANY_HOURS else f"{hours:,.0f}"


def _state(row: RunRow) -> str:
    return STATES.get(row.status, (row.status, ""))[0]


def _amounts(row: RunRow | SweepRuns) -> tuple[str, ...]:
    def time_of(seconds: float) -> str:
        return clock(seconds) if seconds else ""

    return (
        when(row.started),
        time_of(row.ran),
        time_of(row.computed),
        time_of(row.queued),
        f"{row.jobs:,}" if row.jobs else "",
        hours_cell(row.node_hours),
        f"{row.tokens:,}" if row.tokens else "",
        f"${row.cost:.3f}" if row.cost else "",
    )


def about_run(row: RunRow, why: str = "") -> str:
    """The step where a run failed, what it waits for, and the run that it was forked from.

    Args:
        why: Why it failed, without control characters, if that was read.
    """
    failed = f"failed at {inert(row.failed_at, 60)}" if row.failed_at else ""
    parts = [
        ": ".join(filter(None, (failed, why))),
        f"waits for {inert(row.waits_for, 80)}" if row.waits_for else "",
        f"forked from {inert(row.parent, 20)} at {inert(row.forked_at or '', 40)}"
        if row.parent
        else "",
    ]
    return "  ".join(part for part in parts if part)
