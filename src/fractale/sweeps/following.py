"""Sweeps that are read again and again while other processes change them.

A record is read again only if it has changed, and at most so often that reading takes a
twentieth of the time: a view of 10,000 rows takes about 0.2 seconds of a processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from fractale.errors import FractaleError
from fractale.store.locks import holder_of_lock
from fractale.sweeps.record import SweepRecord, SweepRecords
from fractale.sweeps.results import RowView, SweepView, view_of

SHARE: Final = 20
"""A record is read again at the earliest after this many times the seconds that it took."""
LIVE: Final = ("running", "queued")
"""The statuses of sweeps that change without the user."""

MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The errors of a record that no fractale has written so."""

Stamp = tuple[object, ...]


class SweepFollower:
    """One sweep, followed.

    Args:
        clock: A monotonic clock, in seconds.
        keeps_rows: Whether the view has the rows; else its `rows` are empty.
    """

    def __init__(
        self,
        record: SweepRecord,
        *,
        clock: Callable[[], float] = time.monotonic,
        keeps_rows: bool = True,
    ) -> None:
        self.record = record
        self._keeps_rows = keeps_rows
        self._clock = clock
        self._stamp: Stamp | None = None
        self._due = 0.0
        self._view: SweepView | None = None

    def read(self) -> SweepView:
        """The sweep now, or as it was a moment ago.

        Raises:
            StoreError: Its record cannot be read.
        """
        stamp = self._stamp_now()
        if self._view is None or (stamp != self._stamp and self._clock() >= self._due):
            before = self._clock()
            view = view_of(self.record)
            self._view = view if self._keeps_rows else replace(view, rows=())
            self._stamp = stamp
            self._due = self._clock() + SHARE * (self._clock() - before)
        return self._view

    @property
    def is_current(self) -> bool:
        """Whether nothing has changed since the view was read."""
        return self._view is not None and self._stamp == self._stamp_now()

    def _stamp_now(self) -> Stamp:
        record = self.record
        held = holder_of_lock(record.lock) is not None
        return held, _stamp_of(record.ledger), _stamp_of(record.answered), _stamp_of(record.head)


def _stamp_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def newly_over(before: SweepView | None, now: SweepView) -> list[RowView]:
    """The rows that have ended or begun to wait between two views, in the order of the rows."""
    rest = ("pending", "running")
    old = before.rows if before else ()
    return [
        row
        for row in now.rows
        if row.state not in rest
        and (
            row.row >= len(old)
            or (old[row.row].state, old[row.row].attempt) != (row.state, row.attempt)
        )
    ]


def unreadable(sweep_id: str, words: str) -> SweepView:
    """A sweep whose record cannot be read, without rows.

    Args:
        words: Why.
    """
    return SweepView(
        id=sweep_id,
        plan="",
        file="",
        plan_hash="",
        started=0.0,
        ended=None,
        varied=(),
        executor="",
        status="unreadable",
        counts={},
        rows=(),
        limits=(),
        used={},
        reason=words,
    )


class SweepList:
    """All sweeps of a state directory, without their rows.

    Args:
        clock: A monotonic clock, in seconds.

    Attributes:
        damaged: Sweep → why it could not be read, at the last `read`.
    """

    def __init__(self, state_dir: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._records = SweepRecords(state_dir)
        self._clock = clock
        self._followed: dict[str, SweepFollower] = {}
        self.damaged: dict[str, str] = {}

    def read(self) -> list[SweepView]:
        """The sweeps that can be read, the latest first, with empty `rows`."""
        ids = self._records.ids()
        known, self._followed, self.damaged = self._followed, {}, {}
        found: list[SweepView] = []
        for sweep_id in ids:
            follower = known.get(sweep_id) or SweepFollower(
                self._records.at(sweep_id), clock=self._clock, keeps_rows=False
            )
            try:
                found.append(follower.read())
            except (FractaleError, *MALFORMED) as error:
                self.damaged[sweep_id] = str(error)
            else:
                self._followed[sweep_id] = follower
        return sorted(found, key=lambda view: -view.started)
