"""``fractale sweep cancel``: end a sweep."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.cli.commands.sweep.show import complete_sweeps
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.sweeps.results import SweepView


@click.command("cancel", context_settings={"ignore_unknown_options": True})  # -1 is a sweep
@click.argument("sweep_id", metavar="SWEEP", shell_complete=complete_sweeps)
@click.option("--yes", is_flag=True, help="Cancel without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@options.trust_option
def command(sweep_id: str, *, yes: bool, as_json: bool) -> int:
    """Stop SWEEP: no row starts any more, its runs stop, and their batch jobs end.

    Runs stop at the end of their present call, as with `fractale cancel`, and the `finally` steps
    of their plan run. Finished rows stay as they are. `fractale sweep resume` continues the sweep.

    Exit codes: 0 cancelled; 1 a job could not be ended, or the driver has not stopped yet, or you
    answered no; 2 the sweep has ended, or wrong use.
    """
    from fractale.plain import to_json
    from fractale.sweeps.cancelling import cancel_sweep, check_open
    from fractale.sweeps.record import SweepRecords
    from fractale.sweeps.results import view_of
    from fractale.sweeps.resuming import check_own

    settings = options.settings_of(acts=True)
    record = SweepRecords(settings.state_dir).find(sweep_id)
    check_own(record, record.read_head(), settings)
    view = view_of(record)
    check_open(view)
    if not yes and not _agrees(view, as_json=as_json):
        click.echo("nothing was cancelled", err=True)
        return 1
    done = asyncio.run(cancel_sweep(record, settings))
    if as_json:
        data = {
            "sweep": record.sweep_id,
            "stopped": done.stopped,
            "rows": done.rows,
            "counts": dict(done.view.counts),
            "troubles": list(done.troubles),
        }
        click.echo(to_json(data))
    else:
        _print(record.sweep_id, done.view, stopped=done.stopped)
        for words in done.troubles:
            _warn(words)
    return 0 if done.stopped and not done.troubles else 1


def _print(sweep_id: str, view: SweepView, *, stopped: bool) -> None:
    from fractale.render.sweep import counts_text

    if stopped:
        click.echo(f"cancelled sweep {sweep_id}: {counts_text(view.counts)}")
        click.echo(f"next    fractale sweep resume {sweep_id}")
        return
    click.echo(f"sweep {sweep_id} is in the middle of calls, and is cancelled after them")
    click.echo(f"next    fractale sweep show {sweep_id}")


def _warn(words: str) -> None:
    from fractale.render.text import inert

    click.echo(f"warning  {inert(words, 500)}", err=True)


def _agrees(view: SweepView, *, as_json: bool) -> bool:
    """Whether the user agrees to end the sweep.

    Raises:
        UsageError: The process has no terminal to ask on.
    """
    from fractale.render.sweep import counts_text

    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"cancelling sweep {view.id} needs your agreement",
            hint=f"check with `fractale sweep show {view.id}`, then add --yes",
        )
    click.echo(f"sweep {view.id}: {counts_text(view.counts)}", err=True)
    click.echo(f"cancel sweep {view.id}? [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
