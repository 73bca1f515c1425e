"""``fractale sweep list``: one line per sweep."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.plain import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fractale.sweeps.results import SweepView

MOST = 50


@click.command("list")
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"Show at most N sweeps; 0 shows all. Default: {MOST}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all sweeps as JSON, one per line.")
def command(limit: int | None, *, as_json: bool) -> int:
    """List sweeps, the latest first: state, rows that are over of all rows, failures, start.

    \b
    fractale sweep list
    fractale sweep show -1          the latest sweep
    """
    from fractale.errors import StoreError
    from fractale.sweeps.record import SweepRecords
    from fractale.sweeps.results import view_of

    records = SweepRecords(options.settings_of().state_dir)
    if limit is None:
        limit = 0 if as_json else MOST
    ids = records.ids()
    views: list[SweepView] = []
    damaged: list[StoreError] = []
    for sweep_id in ids[:limit] if limit else ids:
        try:
            views.append(view_of(records.at(sweep_id)))
        except StoreError as error:
            damaged.append(error)
    if as_json:
        for view in views:
            click.echo(to_json(_data(view)))
    else:
        _print(views, more=len(ids) - len(views) - len(damaged))
    for error in damaged:
        click.echo(f"! {error.message}", err=True)
    return 1 if damaged else 0


def _data(view: SweepView) -> dict[str, object]:
    return {
        "id": view.id,
        "plan": view.plan,
        "file": view.file,
        "status": view.status,
        "rows": len(view.rows),
        "counts": dict(view.counts),
        "varied": list(view.varied),
        "executor": view.executor,
        "started": view.started,
        "ended": view.ended,
        "used": dict(view.used),
    }


def _print(views: Sequence[SweepView], *, more: int) -> None:
    from fractale.render.sweep import done_of
    from fractale.render.text import inert, screen_width, when, writable

    rows = [("SWEEP", "PLAN", "STATE", "DONE", "FAILED", "WHEN")]
    for view in views:
        done = f"{done_of(view)}/{len(view.rows)}"
        failed = str(view.counts.get("failed", 0) or "-")
        rows.append((view.id, inert(view.plan, 30), view.status, done, failed, when(view.started)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    width = screen_width(sys.stdout)
    for row in rows if views else ():
        cells = [cell.ljust(size) for cell, size in zip(row, widths, strict=True)]
        line = "  ".join(cells).rstrip()
        click.echo(writable(line[:width] if sys.stdout.isatty() else line, sys.stdout.encoding))
    if not views:
        click.echo("no sweeps", err=True)
    if more > 0:
        click.echo(f"showing the latest {len(views)} sweeps; --limit 0 shows all", err=True)
