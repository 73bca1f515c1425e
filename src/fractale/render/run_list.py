"""The list of runs: its headings, and the cells of a run in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fractale.render.summary import LEAST_HOURS, STATES
from fractale.render.text import Line, cells, clock, fit, inert, pad, when

if TYPE_CHECKING:
    from fractale.store.index import RunRow

PLAN_WIDTH = 40
HEADINGS = (
    *("RUN", "PLAN", "STATE", "STARTED", "RAN", "COMPUTED", "WAITED"),
    *("JOBS", "NODE-H", "TOKENS", "COST"),
)
SPARE = ("WAITED", "COMPUTED", "JOBS", "NODE-H", "COST")
"""The columns that a narrow terminal has no space for, in the order in which they are left out."""
LEFT = 4
"""The number of left-aligned text columns; the columns after them are numbers, right-aligned."""


def run_list_lines(rows: Sequence[RunRow], width: int | None = None) -> list[Line]:
    """A line per run below the headings, in columns as wide as their widest cell.

    Number columns without a value in any run are left out. If the columns are wider than the
    terminal, those of `SPARE` are left out, too, and what is said after the columns is below them.

    Args:
        width: The terminal's columns; None without a terminal.
    """
    if not rows:
        return []
    table = [run_cells(row) for row in rows]
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
        mark = STATES.get(row.status, ("", "now"))[1]
        rest, about = "  ".join(["", *words[3:]]), about_run(row)
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

    def time_of(seconds: float) -> str:
        return clock(seconds) if seconds else ""

    return (
        row.id,
        fit(inert(row.plan), PLAN_WIDTH),
        STATES.get(row.status, (row.status, ""))[0],
        when(row.started),
        time_of(row.ran),
        time_of(row.computed),
        time_of(row.queued),
        f"{row.jobs:,}" if row.jobs else "",
        f"{row.node_hours:.3g}" if row.node_hours >= LEAST_HOURS else "",
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
