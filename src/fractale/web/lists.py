"""The list of runs: its filters, and one row per run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from fractale.durations import parse_duration
from fractale.errors import FractaleError
from fractale.render.run_list import HEADINGS, about_run, run_cells
from fractale.render.summary import LEAST_HOURS, STATES, why_in_short
from fractale.store.index import RunFilter, RunRow, list_runs
from fractale.store.run_record import RunRecords

PAGE: Final = 100
"""Runs on one page."""
MOST_KNOWN: Final = 5 * PAGE
"""Failed runs whose reasons are kept, so that a list that is read again reads no record."""
MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""The errors of a record that no fractale has written so."""
SINCE: Final = (
    ("", "any time"),
    ("1h", "last hour"),
    ("1d", "last day"),
    ("7d", "last 7 days"),
    ("30d", "last 30 days"),
)
SHOWN: Final = ("running", "waiting", "failed", "success", "limit", "stopped")
"""The order of the states in the heading and in the filter."""
NUMBERS_FROM: Final = HEADINGS.index("RAN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The criteria of the list.

    Args:
        text: Part of a run's id, plan, file, or of what it waits for.
        since: A duration such as ``7d``; empty for any time.
        sweep: Only the runs of this sweep. Without it, runs of sweeps are found by a text only.
        page: From 1.
    """

    text: str = ""
    state: str = ""
    plan: str = ""
    since: str = ""
    sweep: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filter:
        """The filter in an address; what is not valid is left out."""
        page = query.get("page", "")
        since, state = query.get("since", "").strip(), query.get("state", "")
        try:
            parse_duration(since) if since else None
        except ValueError:
            since = ""
        return cls(
            text=query.get("q", "").strip()[:200],
            state=state if state in SHOWN else "",
            plan=query.get("plan", "").strip()[:200],
            since=since,
            sweep=query.get("sweep", "").strip()[:64],
            page=int(page) if page.isdecimal() and 0 < len(page) < 7 and int(page) else 1,
        )

    def address(self, *, page: int | None = None, state: str | None = None) -> str:
        """The address of the list with this filter, another page or another state."""
        given = {
            "q": self.text,
            "state": self.state if state is None else state,
            "plan": self.plan,
            "since": self.since,
            "sweep": self.sweep,
            "page": str(page) if (page or 1) > 1 else "",
        }
        query = urlencode({name: value for name, value in given.items() if value})
        return f"/?{query}" if query else "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run in the list.

    Args:
        cells: In the order of the list's headings.
        mark: The color of its state.
        about: What it waits for, or where it failed.
    """

    run: str
    cells: Sequence[str]
    mark: str
    about: str
    parent: str | None
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunList:
    """One page of the list.

    Args:
        headings: Those of the columns that have a value in any row.
        counts: State, its words, and how many runs have it, without the filter of states.
        found: How many runs the filter finds.
        node_hours: Of the batch jobs of those runs, as text; empty if there are none.
    """

    filter: Filter
    headings: Sequence[str]
    numbers_from: int
    rows: Sequence[Row]
    counts: Sequence[tuple[str, str, int]]
    found: int
    pages: int
    plans: Sequence[str]
    node_hours: str


def run_list(
    state_dir: Path, wanted: Filter, now: float | None = None, most: int = PAGE
) -> RunList:
    """The runs that a filter finds.

    Args:
        most: Runs on one page.

    Raises:
        StoreError: The index of runs cannot be used.
    """
    now = time.time() if now is None else now
    since = now - parse_duration(wanted.since) if wanted.since else None
    single = not (wanted.text or wanted.sweep)
    which = RunFilter(since=since, sweep=wanted.sweep or None, single=single)
    rows = list_runs(state_dir, which)
    plans = sorted({row.plan for row in rows})
    if wanted.plan:
        rows = [row for row in rows if row.plan == wanted.plan]
    if text := wanted.text.casefold():
        rows = [row for row in rows if _has(row, text)]
    counted = Counter(row.status for row in rows)
    if wanted.state:
        rows = [row for row in rows if row.status == wanted.state]
    pages = max(1, -(-len(rows) // most))
    page = min(wanted.page, pages)
    shown = rows[(page - 1) * most : page * most]
    table = [run_cells(row) for row in shown]
    used = [n for n in range(len(HEADINGS)) if n < NUMBERS_FROM or any(c[n] for c in table)]
    hours = sum(row.node_hours for row in rows)
    return RunList(
        filter=replace(wanted, page=page),
        headings=[HEADINGS[n] for n in used],
        numbers_from=NUMBERS_FROM,
        rows=[
            _row(row, [cells[n] for n in used], _why(state_dir, row.id, row.ended))
            if row.status == "failed"
            else _row(row, [cells[n] for n in used])
            for row, cells in zip(shown, table, strict=True)
        ],
        counts=[(state, STATES[state][0], counted[state]) for state in SHOWN if counted[state]],
        found=len(rows),
        pages=pages,
        plans=plans[:500],
        node_hours=f"{hours:.3g}" if hours >= LEAST_HOURS else "",
    )


@lru_cache(maxsize=MOST_KNOWN)
def _why(state_dir: Path, run_id: str, _ended: float | None) -> str:
    """Why a run failed; empty if its record does not say it."""
    with suppress(FractaleError, *MALFORMED):
        last = next(RunRecords(state_dir).at(run_id).events_from_end(("run_finished",)), None)
        return why_in_short(last) if last else ""
    return ""


def _row(row: RunRow, cells: Sequence[str], why: str = "") -> Row:
    return Row(
        run=row.id,
        cells=cells,
        mark=STATES.get(row.status, ("", ""))[1],
        about=about_run(row, why),
        parent=row.parent,
        is_active=row.status in ("running", "waiting"),
    )


def _has(row: RunRow, text: str) -> bool:
    said = (row.id, row.plan, row.file, row.waits_for, row.failed_at, row.parent or "")
    return any(text in each.casefold() for each in said)
