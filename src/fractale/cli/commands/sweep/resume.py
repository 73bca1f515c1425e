"""``fractale sweep resume``: continue a sweep."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.commands.sweep.show import complete_sweeps

if TYPE_CHECKING:
    from fractale.cli.sweeping import SweepProgress
    from fractale.settings import Settings
    from fractale.sweeps.record import SweepRecord
    from fractale.sweeps.resuming import Resumed


@click.command("resume", context_settings={"ignore_unknown_options": True})  # -1 is a sweep
@click.argument("sweep_id", metavar="SWEEP", shell_complete=complete_sweeps)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="Replace a limit of the whole sweep, such as node_hours=40. Repeatable.",
)
@click.option(
    "--run-limit",
    "run_limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="Replace a limit of each run, and continue the runs that reached one. Repeatable.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Drive the sweep in a job of the executor's scheduler, or in the background, and exit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the sweep as JSON at the end.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the summary at the end.")
@options.trust_option
def command(
    sweep_id: str,
    *,
    limits: tuple[str, ...],
    run_limits: tuple[str, ...],
    detach: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Continue SWEEP where its driver died or was stopped; -1 is the latest sweep.

    \b
    fractale sweep resume melt
    fractale sweep resume melt --limit node_hours=40

    Finished rows stay as they are. Runs that were in progress are resumed. Rows that wait are
    resumed once they were answered: `fractale sweep answer`. Exit codes: 0 all rows succeeded;
    1 some failed; 4 some wait; 5 a limit was reached; 75 stopped.
    """
    from fractale.cli.sweeping import run_limits_of, sweep_limits_of
    from fractale.sweeps.record import SweepRecords

    of_sweep, of_run = sweep_limits_of(limits), run_limits_of(run_limits)
    settings = options.settings_of(acts=True)
    record = SweepRecords(settings.state_dir).find(sweep_id)
    if detach:
        return _detach(record, settings, changed=bool(of_sweep or of_run), as_json=as_json)
    return resume(
        record, settings, limits=of_sweep, run_limits=of_run, as_json=as_json, quiet=quiet
    )


def _detach(record: SweepRecord, settings: Settings, *, changed: bool, as_json: bool) -> int:
    """Let a job or a background process continue a sweep; returns the exit code."""
    from fractale.cli.sweeping import detached, with_typed_secrets
    from fractale.errors import UsageError
    from fractale.sweeps.resuming import check_own

    if changed:
        raise UsageError(
            "--detach takes no --limit and no --run-limit",
            hint="set the limits without --detach, stop the sweep, then resume it with --detach",
        )
    check_own(record, record.read_head(), settings)
    return detached(record, with_typed_secrets(record, settings), as_json=as_json)


def resume(
    record: SweepRecord,
    settings: Settings,
    *,
    limits: dict[str, float] | None = None,
    run_limits: dict[str, Any] | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Continue a sweep at the terminal; returns the exit code."""
    from fractale.cli.sweeping import driven, ended, with_typed_secrets
    from fractale.sweeps.resuming import check_own, resume_sweep

    check_own(record, record.read_head(), settings)
    settings = with_typed_secrets(record, settings)

    async def begin(progress: SweepProgress, stop: asyncio.Event) -> Resumed:
        return await resume_sweep(
            record,
            settings,
            limits=limits,
            run_limits=run_limits,
            listener=progress.hear,
            stop=stop,
        )

    done = driven(begin, sweep=record.sweep_id, quiet=quiet or as_json)
    if not done.rows and not quiet and not as_json:
        click.echo(f"sweep {record.sweep_id} has no row to continue; nothing was run", err=True)
    return ended(done.view, as_json=as_json)
