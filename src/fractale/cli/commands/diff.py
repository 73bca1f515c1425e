"""``fractale diff``: two runs side by side."""

from __future__ import annotations

import sys

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.plain import to_json


@click.command("diff", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("first", metavar="A", shell_complete=complete_runs)
@click.argument("second", metavar="B", shell_complete=complete_runs)
@click.option("--full", is_flag=True, help="Show long values in full, and also equal steps.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def command(first: str, second: str, *, full: bool, as_json: bool) -> int:
    """Compare the runs A and B: where their paths split, and the differences of each step.

    \b
    fractale diff k7f3a -1
    """
    from fractale.record.diff import diff_data, diff_runs
    from fractale.record.history_reader import read_history
    from fractale.store.run_record import RunRecords

    records = RunRecords(options.settings_of().state_dir)
    found = diff_runs(*(read_history(records.find(run_id)) for run_id in (first, second)))
    if as_json:
        click.echo(to_json(diff_data(found), default=str))
    else:
        from fractale.cli.commands.show import print_lines
        from fractale.render.diff import diff_lines
        from fractale.render.text import shows_unicode

        print_lines(diff_lines(found, full=full, unicode=shows_unicode(sys.stdout.encoding)))
    return 0
