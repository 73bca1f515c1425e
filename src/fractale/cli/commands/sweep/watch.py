"""``fractale sweep watch``: follow a sweep that another process drives."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, cast

import click

from fractale.cli import options
from fractale.cli.commands.show import print_lines
from fractale.cli.commands.sweep.show import complete_sweeps
from fractale.plain import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fractale.events import Status
    from fractale.sweeps.record import SweepRecord
    from fractale.sweeps.results import RowView, SweepView

PAUSE = 0.5
BEGIN_SECONDS = 3.0
"""Seconds to wait for a sweep that does not exist yet; its process may be starting."""
COUNTS_PAUSE = 10.0
"""Seconds between two lines of counts in a pipe or a file."""
SHOWN = 8
"""The most rows that one look prints on a terminal; more are counted."""


@click.command("watch", context_settings={"ignore_unknown_options": True})  # -1 is a sweep
@click.argument("sweep_id", metavar="SWEEP", shell_complete=complete_sweeps)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per row that ends.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the final summary.")
def command(sweep_id: str, *, as_json: bool, quiet: bool) -> int:
    """Follow SWEEP until no process drives it: each row that ends, and the counts.

    \b
    fractale sweep watch -1         the latest sweep
    fractale sweep watch melt -q    only wait for its end

    Ctrl-C ends only the watching. Exit codes: those of `fractale sweep`; 130 if you ended the
    watching.
    """
    watching = _Watching(_begun(sweep_id), as_json=as_json, quiet=quiet)
    try:
        return watching.follow()
    except KeyboardInterrupt:
        watching.leave()
        return 130


def _begun(sweep_id: str) -> SweepRecord:
    """The record of a sweep, once it has begun.

    Raises:
        UsageError: The sweep does not exist.
    """
    from fractale.errors import UsageError
    from fractale.sweeps.record import SWEEP_ID, SweepRecords

    records = SweepRecords(options.settings_of().state_dir)
    until = time.monotonic() + (BEGIN_SECONDS if SWEEP_ID.fullmatch(sweep_id) else 0)
    while True:
        try:
            return records.find(sweep_id)
        except UsageError:
            if time.monotonic() > until:
                raise
        time.sleep(PAUSE)


class _Watching:
    """Shows one sweep until it has ended."""

    def __init__(self, record: SweepRecord, *, as_json: bool, quiet: bool) -> None:
        from fractale.sweeps.following import SweepFollower

        self._follower = SweepFollower(record)
        self._as_json = as_json
        self._says = not as_json and not quiet
        self._live = self._says and sys.stdout.isatty()
        self._drawn = False
        self._counts_due = 0.0
        self._counted = ""

    def follow(self) -> int:
        """Show the sweep; returns the exit code."""
        from fractale.sweeps.following import LIVE, newly_over

        before = view = self._follower.read()
        while view.status in LIVE or not self._follower.is_current:
            self._show(view, newly_over(before, view))
            before = view
            time.sleep(PAUSE)
            view = self._follower.read()
        return self._end(view, newly_over(before, view))

    def _show(self, view: SweepView, rows: Sequence[RowView]) -> None:
        self._print_rows(view, rows)
        if not self._says:
            return
        from fractale.render.sweep import live_line

        line = f"{view.status} {live_line(view)}"
        if self._live:
            from fractale.render.text import fit, screen_width, writable

            text = fit(line, (screen_width(sys.stdout) or 80) - 1)
            self._drawn = True
            sys.stdout.write(f"\r\x1b[K{writable(text, sys.stdout.encoding)}")
            sys.stdout.flush()
        elif time.monotonic() >= self._counts_due and (done := str(view.counts)) != self._counted:
            self._counts_due, self._counted = time.monotonic() + COUNTS_PAUSE, done
            self._print(line)

    def _print_rows(self, view: SweepView, rows: Sequence[RowView]) -> None:
        if self._as_json:
            from dataclasses import asdict

            for row in rows:
                click.echo(to_json({"sweep": view.id, **asdict(row)}, default=str))
        if not self._says or not rows:
            return
        from fractale.render.sweep import ended_line
        from fractale.sweeps.analysis import merit_of

        merit = merit_of(view)
        self._clear()
        shown = rows[-SHOWN:] if self._live else rows
        if left := len(rows) - len(shown):
            self._print(f"… {left:,} more rows have ended")
        print_lines([ended_line(view, row, merit.name if merit else view.merit) for row in shown])
        sys.stdout.flush()

    def _end(self, view: SweepView, rows: Sequence[RowView]) -> int:
        """Show the end of the sweep; returns the exit code."""
        from fractale.runs.result import EXIT_CODES
        from fractale.sweeps.analysis import as_data, merit_of

        self._print_rows(view, rows)
        self._clear()
        merit = merit_of(view)
        if self._as_json:
            data = as_data(view, merit, [])
            del data["rows"]
            click.echo(to_json(data, default=str))
        else:
            from fractale.render.sweep import end_lines
            from fractale.render.text import screen_width

            print_lines(end_lines(view, merit, width=screen_width(sys.stdout)))
        return EXIT_CODES[cast("Status", view.status)]

    def _clear(self) -> None:
        """Remove the line of counts from the terminal."""
        if self._drawn:
            sys.stdout.write("\r\x1b[K")
            self._drawn = False

    def _print(self, text: str) -> None:
        from fractale.render.text import writable

        click.echo(writable(text, sys.stdout.encoding))

    def leave(self) -> None:
        """Say what becomes of the sweep that is no longer watched."""
        from fractale.store.locks import holder_of_lock

        record = self._follower.record
        holder = holder_of_lock(record.lock)
        name = record.sweep_id
        words = f"sweep {name} continues: {holder}" if holder else f"no process drives sweep {name}"
        if self._drawn:
            sys.stdout.write("\n")
            sys.stdout.flush()
        click.echo(f"no longer watched; {words}", err=True)
