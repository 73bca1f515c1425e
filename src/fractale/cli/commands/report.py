"""``fractale report``: runs as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs

MARK = b'<meta name="generator" content="fractale report">'
"""A file with this in its head is a report, which may be replaced by a newer one."""
HEAD_BYTES = 4096


@click.command("report", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_runs)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write to this file; - prints to stdout. Default: RUN.html in the working directory.",
)
def command(run_ids: tuple[str, ...], output: Path | None) -> int:
    """Write RUN as one HTML file to send: verdict, picture, timeline, steps, cost, plan.

    \b
    fractale report -1                       RUN.html, which opens without a network
    fractale report k7f3a -o melt.html
    fractale report k7f3a m2q9b              two runs, or a run and its fork, compared
    fractale report melt                     the sweep of this ID

    A sweep is one file, too: counts, limits, why rows failed, plots, the table of its rows.
    Several runs are compared: what varied, what differs, why some failed. Secrets are masked as in
    the record. Only you can read the file: to share it, send it or change its mode.
    """
    from fractale.errors import UsageError

    text, names = _made(run_ids)
    if str(output) == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))  # the page says that it is UTF-8
        sys.stdout.flush()
        return 0
    path = output or Path(f"{'-'.join(names[:4])}.html")
    if output is None and not _may_replace(path):
        raise UsageError(
            f"{path} exists and is not a report", hint=f"name a file: -o {path.stem}-report.html"
        )
    _write(path, text)
    click.echo(f"wrote {path}", err=True)
    return 0


def _made(ids: tuple[str, ...]) -> tuple[str, list[str]]:
    """The text of the report, and the IDs of the runs, or of the sweep.

    Raises:
        UsageError: A run was not found, or a sweep is not alone.
    """
    from fractale.errors import UsageError
    from fractale.masking import Masker
    from fractale.record.history_reader import read_history
    from fractale.report.write import report
    from fractale.store.run_record import RunRecords
    from fractale.sweeps.record import SweepRecords

    settings = options.settings_of()
    sweeps, mask = SweepRecords(settings.state_dir), Masker(settings.secrets)
    if any(sweeps.has(each) for each in ids):
        if len(set(ids)) > 1:
            raise UsageError(
                "a report is about one sweep, or about runs",
                hint="write a report of each: fractale report SWEEP; fractale report RUN…",
            )
        from fractale.report.sweep import sweep_report
        from fractale.sweeps.results import view_of

        record = sweeps.at(ids[0])
        return sweep_report(view_of(record), record, mask), [record.sweep_id]
    records = [RunRecords(settings.state_dir).find(run_id) for run_id in ids]
    unique = {record.run_id: record for record in records}
    return report([read_history(each) for each in unique.values()], mask), list(unique)


def _may_replace(path: Path) -> bool:
    """Whether the name is free, or that of an older report."""
    try:
        with path.open("rb") as file:
            return MARK in file.read(HEAD_BYTES)
    except FileNotFoundError:
        return not path.is_symlink()
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    from fractale.errors import UsageError
    from fractale.private import write_private

    try:
        if path.exists() and not path.is_file():  # such as /dev/stdout or a named pipe
            path.write_text(text, encoding="utf-8")
        else:
            write_private(path, text, sync="none")
    except OSError as error:
        why = error.strerror or error  # the error itself may name a temporary file
        raise UsageError(f"cannot write {path}: {why}") from error
