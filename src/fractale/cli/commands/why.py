"""``fractale why``: what changed since the last good run."""

from __future__ import annotations

import sys

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.plain import to_json


@click.command("why", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "--since",
    metavar="RUN",
    shell_complete=complete_runs,
    help="Compare with this run. Default: the latest success of the same plan before RUN.",
)
@click.option("--full", is_flag=True, help="Show every difference, and long values in full.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def command(run_id: str, *, since: str | None, full: bool, as_json: bool) -> int:
    """Show what changed since the last good run: what RUN ran with, not what it did.

    It compares plan, inputs, your own code, files, modules, packages, programs, environment, tools,
    servers, agents, model, settings and site, in the order of likely causes.

    \b
    fractale why -1
    fractale why m2p9q --since k7f3a
    """
    from fractale.record.drift import (
        drift_between,
        drift_data,
        earlier_success,
        no_earlier_success,
    )
    from fractale.record.history_reader import read_history
    from fractale.store.run_record import RunRecords

    records = RunRecords(options.settings_of().state_dir)
    now = read_history(records.find(run_id))
    before = records.find(since) if since else earlier_success(now)
    if before is None:
        raise no_earlier_success(now)
    found = drift_between(now, read_history(before))
    if as_json:
        click.echo(to_json(drift_data(found), default=str))
    else:
        from fractale.cli.commands.show import print_lines
        from fractale.render.drift import drift_lines
        from fractale.render.text import shows_unicode

        print_lines(drift_lines(found, full=full, unicode=shows_unicode(sys.stdout.encoding)))
    return 0
