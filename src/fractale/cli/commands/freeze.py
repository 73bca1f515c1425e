"""``fractale freeze``: a run's plan, with drafts in place of the steps that drafted them."""

from __future__ import annotations

from pathlib import Path

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs


@click.command("freeze", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file to write. Default: RUN.yaml."
)
def command(run_id: str, output: Path | None) -> int:
    """Write the plan of RUN with its accepted drafts, as a plan that runs without the planner.

    \b
    fractale freeze -1 -o tuned.yaml
    fractale run tuned.yaml
    """
    from fractale.record.freeze import freeze
    from fractale.store.run_record import RunRecords

    record = RunRecords(options.settings_of().state_dir).find(run_id)
    for path in freeze(record, output or Path(f"{record.run_id}.yaml")):
        click.echo(str(path))
    return 0
