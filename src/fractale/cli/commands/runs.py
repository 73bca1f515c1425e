"""``fractale runs``: one line per run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.render.text import Line
    from fractale.store.index import RunRow

STATUSES = ("running", "success", "failed", "waiting", "limit", "stopped")
MOST = 50
PLAN_WIDTH = 40


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
    "--plan", metavar="GLOB", help="Show only runs of plans with this name, such as 'trans*'."
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
    fractale runs prune --older-than 30d
    """
    if ctx.invoked_subcommand:
        return 0
    from fractale.store.index import RunFilter, list_runs

    which = RunFilter(plan=plan, status=statuses, since=_since(since))
    if limit is None:
        limit = 0 if as_json else MOST
    # Ask for one run more than is shown, to learn whether there are more.
    rows = list_runs(options.settings_of().state_dir, which, limit + 1 if limit else None)
    shown = rows[:limit] if limit else rows
    if as_json:
        for row in shown:
            data = {name: value for name, value in asdict(row).items() if name != "seen"}
            click.echo(to_json(data))
        return 0
    _print(shown, more=len(rows) > len(shown))
    return 0


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


def _print(rows: Sequence[RunRow], *, more: bool) -> None:
    from fractale.render.text import paint, wants_color, writable

    color = wants_color(sys.stdout)
    for line in _lines(rows):
        click.echo(writable(paint(line, color=color), sys.stdout.encoding))
    if not rows:
        click.echo("no runs", err=True)
    if more:
        click.echo(f"showing the latest {len(rows)} runs; --limit 0 shows all", err=True)


HEADINGS = (
    *("RUN", "PLAN", "STATE", "STARTED", "RAN", "COMPUTED", "WAITED"),
    *("JOBS", "NODE-H", "TOKENS", "COST"),
)
LEFT = 4
"""The number of left-aligned text columns; the columns after them are numbers, right-aligned."""


def _lines(rows: Sequence[RunRow]) -> list[Line]:
    """A line per run below the headings, in columns as wide as their widest cell.

    Number columns without a value in any run are left out.
    """
    from fractale.render.summary import STATES
    from fractale.render.text import cells, pad

    if not rows:
        return []
    table = [_cells(row) for row in rows]
    used = [n for n in range(len(HEADINGS)) if n < LEFT or any(parts[n] for parts in table)]
    widths = {n: max(cells(line[n]) for line in (HEADINGS, *table)) for n in used}

    def shown(parts: Sequence[str]) -> list[str]:
        return [pad(parts[n], widths[n]) if n < LEFT else parts[n].rjust(widths[n]) for n in used]

    lines: list[Line] = [[("  ".join(shown(HEADINGS)), "dim")]]
    for row, parts in zip(rows, table, strict=True):
        words = shown(parts)
        mark = STATES.get(row.status, ("", "now"))[1]
        rest = "  ".join(["", *words[3:]])
        about = f"  {_about(row)}" if _about(row) else ""
        lines.append([("  ".join([*words[:2], ""]), ""), (words[2], mark), (rest + about, "")])
    return lines


def _cells(row: RunRow) -> tuple[str, ...]:
    """The cells of a run, in the order of `HEADINGS`."""
    from fractale.render.summary import LEAST_HOURS, STATES
    from fractale.render.text import clock, fit, inert, when

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


def _about(row: RunRow) -> str:
    """The step where a run failed, what it waits for, and the run that it was forked from."""
    from fractale.render.text import inert

    parts = [
        f"failed at {inert(row.failed_at, 60)}" if row.failed_at else "",
        f"waits for {inert(row.waits_for, 80)}" if row.waits_for else "",
        f"forked from {inert(row.parent, 20)} at {inert(row.forked_at or '', 40)}"
        if row.parent
        else "",
    ]
    return "  ".join(part for part in parts if part)
