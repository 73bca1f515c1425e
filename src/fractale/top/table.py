"""The list of runs as lines: the heading with its counts, and columns that fit the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fractale.render.summary import LEAST_HOURS
from fractale.render.text import Line, Mark, cells, clock, fit, inert, pad, row
from fractale.top.letters import Letters
from fractale.top.overview import Glance, Rank

GAP: Final = "  "
LEAST_SHOWN: Final = 0.01
"""The least node-hours of all runs that the heading shows."""
LEAST_SAYS: Final = 20
"""The least columns of what a run asks; other columns are left out for it."""
STATE: Final = "STATE"
WIDE, NARROW_PLAN = 100, 14
"""The columns of a wide screen, and the most of a plan's name on a narrower one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the list.

    Args:
        most: Its most columns of the screen.
        order: Columns with a high number are left out first; 0 is always there.
    """

    heading: str
    text: Callable[[Glance, float], str]
    most: int
    order: int = 0
    right: bool = False


def _since(glance: Glance, now: float) -> str:
    return clock(max(now - glance.since, 0)) if glance.since else ""


COLUMNS: Final = (
    Column("RUN", lambda glance, _: glance.id, 12),
    Column("PLAN", lambda glance, _: inert(glance.row.plan, 200), 20, 1),
    Column(STATE, lambda glance, _: glance.state, 22),
    Column("STEP", lambda glance, _: glance.step, 18, 2),
    Column("SINCE", _since, 9, 3, right=True),
    Column("TOKENS", lambda glance, _: f"{glance.tokens:,}" if glance.tokens else "", 9, 5, True),
    Column(
        "NODE-H",
        lambda glance, _: f"{glance.node_hours:.3g}" if glance.node_hours >= LEAST_HOURS else "",
        8,
        4,
        right=True,
    ),
)
SAYS: Final = "ASKS"


def heading(glances: Sequence[Glance], place: str, width: int, letters: Letters) -> Line:
    """The first line: where, how many runs in which state, node-hours and their limit.

    Args:
        place: The project's or state directory, as text.
    """
    found = [glance.rank for glance in glances]
    failed = sum(glance.row.status == "failed" for glance in glances)
    counts: list[tuple[int, str, Mark]] = [
        (found.count(Rank.ASKS), "asking", "warn"),
        (found.count(Rank.RUNS), "running", "now"),
        (found.count(Rank.WAITS), "waiting", "warn"),
        (found.count(Rank.STOPPED), "stopped", "warn"),
        (found.count(Rank.ENDED) - failed, "done", ""),
        (failed, "failed", "bad"),
    ]
    right = node_hours(glances)
    for named, kept, hours in (
        (True, counts, right),
        (False, counts, right),
        (False, [each for each in counts if each[1] != "done"], right),
        (False, counts, ""),
    ):
        middle = _counts(kept)
        used = sum(cells(text) for text, _ in middle)
        room = width - used - cells(hours) - 2
        left = f" fractale  {fit(place, max(room - 15, 0))}".rstrip() + "   " if named else " "
        if cells(left) <= room:
            break
    gap = " " * max(width - cells(left) - used - cells(hours) - 1, 0)
    line: Line = [(left, ""), *middle, (gap + hours if hours else "", "")]
    return [(letters.own(text), mark) for text, mark in line]


def _counts(counts: Sequence[tuple[int, str, Mark]]) -> Line:
    line: Line = []
    for number, word, mark in counts:
        if number:
            line.append((" · " if line else "", ""))
            line.append((f"{number:,} {word}", mark))
    return line or row("no runs")


def node_hours(glances: Sequence[Glance]) -> str:
    """The node-hours of the runs in progress and their limits, else of all runs."""
    going = [each for each in glances if each.rank <= Rank.WAITS]
    limits = [each.limit for each in going if each.limit]
    if limits:
        used = sum(each.node_hours for each in going if each.limit)
        return f"{used:.3g} of {sum(limits):.4g} node-h"
    used = sum(each.node_hours for each in glances)
    return f"{used:.3g} node-h" if used >= LEAST_SHOWN else ""


def list_lines(
    glances: Sequence[Glance], width: int, now: float, letters: Letters
) -> tuple[Line, list[Line]]:
    """The headings, and one line for each run; the first column of each line is free for a cursor.

    Args:
        glances: Those on the screen: columns are as wide as these need.
        now: Unix time.
    """
    texts = {
        column.heading: [_cell(column, each, now, letters) for each in glances]
        for column in COLUMNS
    }
    says = [letters.drawable(each.says) for each in glances]
    columns, widths = _that_fit(texts, says, width)
    heads = [_aligned(column.heading, widths[column.heading], column) for column in columns]
    room = width - 1 - sum(widths[c.heading] + len(GAP) for c in columns)
    shows_says = room >= LEAST_SAYS and any(says)
    lines: list[Line] = []
    for number, each in enumerate(glances):
        line: Line = [(" ", "")]
        for column in columns:
            text = _aligned(texts[column.heading][number], widths[column.heading], column)
            line.append((text, each.mark if column.heading == STATE else ""))
            line.append((GAP, ""))
        if shows_says:
            line.append((letters.own(fit(says[number], room)), ""))
        lines.append(line)
    head = f" {GAP.join(heads)}{GAP if shows_says else ''}{SAYS if shows_says else ''}"
    return [(head, "dim")], lines


def _cell(column: Column, glance: Glance, now: float, letters: Letters) -> str:
    return fit(letters.drawable(column.text(glance, now)), column.most)


def _that_fit(
    texts: dict[str, list[str]], says: Sequence[str], width: int
) -> tuple[list[Column], dict[str, int]]:
    """The columns that fit with what the runs ask, and their widths."""
    used = [c for c in COLUMNS if c.order < 3 or any(texts[c.heading])]
    widths = {
        c.heading: max([cells(text) for text in texts[c.heading]] + [len(c.heading)]) for c in used
    }
    if width < WIDE:
        widths["PLAN"] = min(widths["PLAN"], NARROW_PLAN)
    wanted = min(max(map(cells, says), default=0), LEAST_SAYS if width < WIDE else width // 3)
    for column in sorted(used, key=lambda each: -each.order):
        needed = 1 + sum(widths[c.heading] + len(GAP) for c in used)
        if column.order and needed - len(GAP) * (not wanted) + wanted > width:
            used = [c for c in used if c is not column]
            if column.order == 1:  # the plan's name, shortened if a part of it fits
                rest = 1 + sum(widths[c.heading] + len(GAP) for c in used)
                if (room := width - rest - len(GAP)) >= 6:
                    widths["PLAN"] = min(widths["PLAN"], room)
                    used = [c for c in COLUMNS if c in used or c is column]
                break
    return used, widths


def _aligned(text: str, width: int, column: Column) -> str:
    text = fit(text, width)
    return " " * (width - cells(text)) + text if column.right else pad(text, width)
