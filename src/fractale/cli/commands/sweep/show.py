"""``fractale sweep show``: the rows of a sweep, its failures, questions and limits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.cli.commands.show import print_lines
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.sweeps.results import RowView, SweepView


def complete_sweeps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The IDs of sweeps, for shell completion."""
    del ctx, param
    from fractale.errors import FractaleError
    from fractale.sweeps.record import SweepRecords

    try:
        ids = SweepRecords(options.settings_of().state_dir).ids()
    except FractaleError:
        return []
    return [sweep_id for sweep_id in ids if sweep_id.startswith(incomplete)]


def load_view(sweep_id: str) -> SweepView:
    """A sweep of the state directory; ``-1`` is the latest.

    Raises:
        UsageError: The sweep was not found.
        StoreError: Its record is damaged.
    """
    from fractale.sweeps.record import SweepRecords
    from fractale.sweeps.results import view_of

    return view_of(SweepRecords(options.settings_of().state_dir).find(sweep_id))


@click.command("show", context_settings={"ignore_unknown_options": True})  # -1 is a sweep
@click.argument("sweep_id", metavar="SWEEP", shell_complete=complete_sweeps)
@click.argument("row", required=False, type=click.IntRange(0))
@click.option(
    "--merit",
    metavar="OUTPUT",
    help="Compare rows by this output, or by tokens, cost, node_hours or seconds. Default: the "
    "sweep's `merit`, or its only output that is a number.",
)
@click.option("--failed", "only_failed", is_flag=True, help="List only failed rows.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help="List at most N rows; 0 lists all. Default: 20.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    sweep_id: str,
    row: int | None,
    *,
    merit: str | None,
    only_failed: bool,
    limit: int | None,
    as_json: bool,
) -> int:
    """Show SWEEP: counts, limits, failures by reason, questions, and the table of rows.

    \b
    fractale sweep show -1                     the latest sweep
    fractale sweep show melt 17                everything about one row
    fractale sweep show melt --failed          only failed rows
    fractale sweep show melt --merit energy    with plots against the inputs that vary
    """
    view = load_view(sweep_id)
    if row is not None:
        return _show_row(view, row, as_json=as_json)
    from fractale.sweeps.analysis import as_data, merit_of

    found = merit_of(view, merit)
    rows = [each for each in view.rows if each.state == "failed"] if only_failed else view.rows
    if as_json:
        click.echo(to_json(as_data(view, found, rows[:limit] if limit else rows), default=str))
        return 0
    from fractale.render.sweep import SHOWN_ROWS, sweep_lines
    from fractale.render.text import screen_width, shows_unicode

    lines = sweep_lines(
        view,
        merit=found,
        limit=SHOWN_ROWS if limit is None else limit or None,
        only_failed=only_failed,
        width=screen_width(sys.stdout),
        unicode=shows_unicode(sys.stdout.encoding),
    )
    print_lines(lines)
    if merit and found is None:
        click.echo(f"no successful row has a number as `{merit}` yet", err=True)
    return 0


def _show_row(view: SweepView, number: int, *, as_json: bool) -> int:
    from dataclasses import asdict

    row = row_at(view, number)
    if as_json:
        click.echo(to_json({"sweep": view.id, **asdict(row)}, default=str))
        return 0
    from fractale.render.sweep import one_row_lines

    print_lines(one_row_lines(view, row))
    return 0


def row_at(view: SweepView, number: int) -> RowView:
    """A row by its number.

    Raises:
        UsageError: The sweep has no such row.
    """
    from fractale.errors import UsageError
    from fractale.text import count

    if number < len(view.rows):
        return view.rows[number]
    there = f"its rows are 0 to {len(view.rows) - 1}" if view.rows else "it has no rows"
    raise UsageError(
        f"sweep {view.id} has no row {number}: it has {count(len(view.rows), 'row')}", hint=there
    )
