"""``fractale runs``: one line per run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.store.index import RunFilter, RunRow, SweepRuns

STATUSES = ("running", "success", "failed", "waiting", "limit", "stopped")
MOST = 50


class RunsGroup(click.Group):
    """The list of runs, and its subcommand `prune`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return ["prune"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name != "prune":
            return None
        from fractale.cli.commands.prune import command as prune

        return prune


@click.group("runs", cls=RunsGroup, invoke_without_command=True)
@click.option(
    "--plan",
    metavar="GLOB",
    help="Show only runs of plans with this name or file name, such as 'trans*'.",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(STATUSES),
    help="Show only runs with this status. Repeatable.",
)
@click.option(
    "--since", metavar="TIME", help="Show only runs started since then: 2d, 12h, or 2026-11-23."
)
@click.option(
    "--sweep",
    metavar="SWEEP",
    help="Show the runs of this sweep. Without it, a sweep is one line.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help=f"Show at most N runs; 0 shows all. Default: {MOST}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all runs as JSON, one per line.")
@click.pass_context
def command(
    ctx: click.Context,
    plan: str | None,
    statuses: tuple[str, ...],
    since: str | None,
    sweep: str | None,
    limit: int | None,
    *,
    as_json: bool,
) -> int:
    """List runs, the latest first, with status, times, resources used, and what they wait for.

    RAN: time during which the run or one of its batch jobs was in progress. COMPUTED: total runtime
    of its jobs. WAITED: total time that its jobs waited to start. NODE-H: node-hours of its jobs.

    \b
    fractale runs --status waiting
    fractale runs --plan 'translate*' --since 2d
    fractale runs --sweep melt --status failed
    fractale runs prune --older-than 30d
    """
    if ctx.invoked_subcommand:
        return 0
    from fractale.store.index import RunFilter, list_runs

    if sweep is not None:
        sweep = _sweep_id(sweep)
    which = RunFilter(plan_or_file=plan, status=statuses, since=_since(since), sweep=sweep)
    if limit is None:
        limit = 0 if as_json else MOST
    # Ask for one run more than is shown, to learn whether there are more.
    most = limit + 1 if limit else None
    state_dir = options.settings_of().state_dir
    if as_json:
        for row in list_runs(state_dir, which, limit or None):
            data = {name: value for name, value in asdict(row).items() if name != "seen"}
            click.echo(to_json(data))
        return 0
    rows = list_runs(state_dir, which, most) if sweep else _folded(state_dir, which, most)
    shown = rows[:limit] if limit else rows
    _print(shown, more=len(rows) > len(shown))
    return 0


def _sweep_id(name: str) -> str:
    """The ID of a sweep; ``-1`` is the latest.

    Raises:
        UsageError: The sweep was not found.
    """
    from fractale.sweeps.record import SweepRecords

    return SweepRecords(options.settings_of().state_dir).find(name).sweep_id


def _folded(state_dir: Path, which: RunFilter, most: int | None) -> list[RunRow | SweepRuns]:
    """The runs of no sweep, and each sweep as one, the latest first."""
    from dataclasses import replace

    from fractale.store.index import list_runs, list_sweep_runs

    single = list_runs(state_dir, replace(which, single=True), most)
    both = [*single, *list_sweep_runs(state_dir, which)]
    return sorted(both, key=lambda each: -each.started)[:most]


def _since(text: str | None) -> float | None:
    """A time, or a duration before now, as Unix time.

    Raises:
        UsageError: The text is neither.
    """
    if text is None:
        return None
    from datetime import datetime

    from fractale.durations import parse_duration
    from fractale.errors import UsageError

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        try:
            return time.time() - parse_duration(text)
        except ValueError:
            raise UsageError(
                f"--since {text}: not a valid time or duration",
                hint="such as 2d, 12h30m, 2026-11-23 or 2026-11-23T08:00",
            ) from None


def _print(rows: Sequence[RunRow | SweepRuns], *, more: bool) -> None:
    from fractale.render.run_list import run_list_lines
    from fractale.render.text import narrowed, paint, screen_width, wants_color, writable

    color = wants_color(sys.stdout)
    width = screen_width(sys.stdout)
    for line in narrowed(run_list_lines(rows, width), width):
        click.echo(writable(paint(line, color=color), sys.stdout.encoding))
    if not rows:
        click.echo("no runs", err=True)
    if more:
        click.echo(f"showing the latest {len(rows)} runs; --limit 0 shows all", err=True)
