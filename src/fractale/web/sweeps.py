"""Sweeps on the pages of `fractale web`: their list, and the page of one that updates itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Final
from urllib.parse import urlencode

from fractale.errors import FractaleError, UsageError
from fractale.masking import Masker
from fractale.render.run_list import hours_cell
from fractale.render.sweep import ROW_STATES, bar, done_of, sweep_verdict, total_of
from fractale.render.text import count, inert, when
from fractale.report.sweep import SweepPage, sweep_page
from fractale.settings import Settings
from fractale.sweeps.actions import SweepActions, possible
from fractale.sweeps.following import SweepFollower, SweepList
from fractale.sweeps.record import SWEEP_ID, SweepRecord
from fractale.sweeps.results import RowView, SweepView
from fractale.web.questions import Card, card_of

PAGE: Final = 200
"""Rows on one page of the table."""
MOST_LISTED: Final = 20
"""The most sweeps above the list of runs."""
MOST_FOLLOWED: Final = 16
"""The most sweeps whose rows are kept between two requests."""
MOST_CARDS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepLine:
    """A sweep above the list of runs."""

    sweep: str
    plan: str
    state: str
    mark: str
    why: str
    bar: str
    done: str
    node_hours: str
    started: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepLines:
    """The sweeps above the list of runs.

    Args:
        note: How many more there are, and which cannot be read.
    """

    lines: Sequence[SweepLine] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """Which rows the table has.

    Args:
        page: From 1.
    """

    state: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> RowFilter:
        """The filter in an address; what is not valid is left out."""
        state, page = query.get("state", ""), query.get("page", "")
        return cls(
            state=state if state in ROW_STATES else "",
            page=int(page) if page.isdecimal() and 0 < len(page) < 7 and int(page) else 1,
        )

    def address(self, sweep: str, **changed: Any) -> str:
        """The address of the sweep's page with this filter, or with one that differs."""
        now = replace(self, **changed)
        given = {"state": now.state, "page": str(now.page) if now.page > 1 else ""}
        query = urlencode({name: value for name, value in given.items() if value})
        return f"/sweeps/{sweep}?{query}" if query else f"/sweeps/{sweep}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSweep:
    """The values for the template of a sweep's page.

    Args:
        counts: State, its words, and how many rows are in it.
        can: As `fractale.sweeps.actions.possible`.
        cards: The questions, one for all rows that ask the same; `asking` says which rows.
        trouble: Why the questions cannot be read; empty if they can.
    """

    page: SweepPage
    filter: RowFilter
    pages: int
    counts: Sequence[tuple[str, str, int]]
    can: frozenset[str]
    cards: Sequence[Card]
    asking: Sequence[str]
    failed: int
    trouble: str


class Sweeps:
    """The sweeps of a state directory, and what forms do to them.

    Args:
        by: Where the user acts.
    """

    def __init__(self, settings: Settings, *, by: str) -> None:
        self.actions = SweepActions(settings, by=by)
        self._mask = Masker(settings.secrets)
        self._list = SweepList(settings.state_dir)
        self._lock = Lock()
        self._followed: OrderedDict[str, SweepFollower] = OrderedDict()

    def find(self, name: str) -> SweepRecord:
        """The record of a sweep.

        Raises:
            UsageError: It was not found.
        """
        if name == "-1":
            raise UsageError("name a sweep")
        return self.actions.find(name)

    def listed(self, text: str = "", plan: str = "") -> SweepLines:
        """The sweeps whose ID, plan or file has a text, the latest first."""
        with self._lock:
            views, damaged = self._list.read(), dict(self._list.damaged)
        words = text.casefold()
        found = [
            view
            for view in views
            if (not plan or view.plan == plan)
            and any(words in each.casefold() for each in (view.id, view.plan, view.file))
        ]
        older = len(found) - MOST_LISTED
        notes = [count(older, "older sweep")] if older > 0 else []
        notes += [
            f"sweep {name} cannot be read: {inert(why, 200)}" for name, why in damaged.items()
        ]
        return SweepLines(
            lines=[_line(view) for view in found[:MOST_LISTED]], note="; ".join(notes[:5])
        )

    def view(self, record: SweepRecord) -> SweepView:
        """A sweep now, or a moment ago.

        Raises:
            StoreError: Its record cannot be read.
        """
        with self._lock:
            name = record.sweep_id
            if name not in self._followed:
                self._followed[name] = SweepFollower(record)
            self._followed.move_to_end(name)
            while len(self._followed) > MOST_FOLLOWED:
                self._followed.popitem(last=False)
            return self._followed[name].read()

    def shown(self, record: SweepRecord, wanted: RowFilter) -> ShownSweep:
        """A sweep's page.

        Raises:
            StoreError: Its record cannot be read.
        """
        view = self.view(record)
        rows = [row for row in view.rows if wanted.state in ("", row.state)]
        pages = max(1, -(-len(rows) // PAGE))
        wanted = replace(wanted, page=min(wanted.page, pages))
        shown = rows[(wanted.page - 1) * PAGE : wanted.page * PAGE]
        cards, asking, trouble = self._cards(view)
        return ShownSweep(
            page=sweep_page(view, record, self._mask, rows=shown),
            filter=wanted,
            pages=pages,
            counts=[
                (state, words, view.counts[state])
                for state, (words, _) in ROW_STATES.items()
                if view.counts.get(state)
            ],
            can=possible(view),
            cards=cards,
            asking=asking,
            failed=view.counts.get("failed", 0),
            trouble=trouble,
        )

    def _cards(self, view: SweepView) -> tuple[list[Card], list[str], str]:
        """The questions as cards, the rows that ask each, and why they cannot be read."""
        if not any(row.asks for row in view.rows):
            return [], [], ""
        try:
            groups = self.actions.questions(view.id, view)
        except FractaleError as error:
            return [], [], inert(error.message, 400)
        shown = groups[:MOST_CARDS]
        cards = [replace(card_of(group.asking[0].question), key=group.key) for group in shown]
        asking = [_asking([each.row for each in group.asking]) for group in shown]
        more = len(groups) - len(shown)
        return cards, asking, f"{count(more, 'more question')} below these" if more else ""

    async def answer(self, record: SweepRecord, key: str, given: Any) -> int:
        """Give an answer to all rows that ask the same; returns how many rows."""
        done = await self.actions.answer(record.sweep_id, key, given)
        return sum(len(each.rows) for each in done)


def sweep_of(head: Mapping[str, Any]) -> str:
    """The sweep that a run belongs to, by its head; empty if it belongs to none."""
    sweep: Any = head.get("sweep")
    named = isinstance(sweep, dict) and SWEEP_ID.fullmatch(str(sweep.get("id")))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - read from a file
    return named[0] if named else ""


def _asking(rows: Sequence[RowView]) -> str:
    from fractale.sweeps.analysis import row_ranges

    return f"{count(len(rows), 'row')} {'asks' if len(rows) == 1 else 'ask'}: {row_ranges(rows)}"


def _line(view: SweepView) -> SweepLine:
    verdict = sweep_verdict(view)
    total = total_of(view)
    return SweepLine(
        sweep=view.id,
        plan=inert(view.plan, 100),
        state=verdict.words,
        mark=verdict.mark,
        why=verdict.why,
        bar=bar(done_of(view), total),
        done=f"{done_of(view):,}/{total:,}",
        node_hours=hours_cell(view.used.get("node_hours", 0.0)),
        started=when(view.started),
    )
