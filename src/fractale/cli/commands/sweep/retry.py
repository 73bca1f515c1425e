"""``fractale sweep retry``: run failed rows again."""

from __future__ import annotations

import asyncio

import click

from fractale.cli import options
from fractale.cli.commands.sweep.show import complete_sweeps
from fractale.errors import UsageError


@click.command("retry", context_settings={"ignore_unknown_options": True})  # -1 is a sweep
@click.argument("sweep_id", metavar="SWEEP", shell_complete=complete_sweeps)
@click.option("--failed", is_flag=True, help="Retry every row that failed.")
@click.option(
    "--row",
    "rows",
    type=click.IntRange(0),
    multiple=True,
    metavar="N",
    help="Retry this row, which failed, was stopped, or reached a limit. Repeatable.",
)
@click.option("--no-resume", is_flag=True, help="Only mark the rows; `sweep resume` runs them.")
@click.option("--json", "as_json", is_flag=True, help="Print the sweep as JSON at the end.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the summary at the end.")
@options.trust_option
def command(
    sweep_id: str,
    *,
    failed: bool,
    rows: tuple[int, ...],
    no_resume: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run failed rows of SWEEP again, each as a new run: first as SWEEP.ROW.2.

    \b
    fractale sweep retry melt --failed
    fractale sweep retry melt --row 17

    The runs of earlier attempts stay, and what they used stays counted. To continue a failed run
    from one of its steps instead, use `fractale fork`. Exit codes: as `fractale sweep resume`.
    """
    if failed == bool(rows):
        words = "--failed and --row exclude each other" if failed else "no row was named"
        raise UsageError(words, hint="use --failed, or --row N")
    from fractale.cli.commands.sweep.resume import resume
    from fractale.plain import to_json
    from fractale.sweeps.record import SweepRecords
    from fractale.sweeps.resuming import retry_rows
    from fractale.text import count

    settings = options.settings_of(acts=True)
    record = SweepRecords(settings.state_dir).find(sweep_id)
    chosen = asyncio.run(retry_rows(record, settings, rows or None))
    if not no_resume:
        return resume(record, settings, as_json=as_json, quiet=quiet)
    if as_json:
        click.echo(to_json({"sweep": record.sweep_id, "rows": chosen}))
    else:
        click.echo(f"{count(len(chosen), 'row')} of sweep {record.sweep_id} will run again")
        click.echo(f"next    fractale sweep resume {record.sweep_id}")
    return 0
