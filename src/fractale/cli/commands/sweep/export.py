"""``fractale sweep export``: the results of a sweep as CSV, JSON lines or Parquet."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fractale.cli.commands.sweep.show import complete_sweeps, load_view


@click.command("export", context_settings={"ignore_unknown_options": True})  # -1 is a sweep
@click.argument("sweep_id", metavar="SWEEP", shell_complete=complete_sweeps)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write to FILE.csv, FILE.jsonl or FILE.parquet; - prints to stdout. Default: stdout.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    help="The form of the table. Default: by the ending of FILE; on stdout, csv.",
)
def command(sweep_id: str, output: Path | None, form: str | None) -> int:
    """Export the results of SWEEP as a table: one line per row, also for rows that are not done.

    \b
    fractale sweep export -1 > results.csv
    fractale sweep export melt -o results.parquet
    fractale sweep export melt --format jsonl

    Columns: row, run, attempt, state; the inputs that vary; outputs; failed_at, error; what the run
    used. A text of a CSV file that a spreadsheet would run as a formula begins with an apostrophe.
    Only you can read the file.
    """
    from fractale.sweeps.export import csv_lines, form_of, json_lines, parquet_bytes

    to_stdout = output is None or str(output) == "-"
    form = form or ("csv" if to_stdout else form_of(str(output)))
    view = load_view(sweep_id)
    if form == "parquet":
        data = parquet_bytes(view)
    else:
        lines = csv_lines(view) if form == "csv" else json_lines(view)
        data = "".join(lines).encode("utf-8", "backslashreplace")
    if to_stdout:
        return _print(data, form)
    _write(output, data)
    over = view.counts.get("success", 0) + view.counts.get("failed", 0)
    rest = "" if over == len(view.rows) else f"; {len(view.rows) - over:,} are not done"
    click.echo(f"wrote {output}: {len(view.rows):,} rows{rest}", err=True)
    return 0


def _print(data: bytes, form: str) -> int:
    from fractale.errors import UsageError

    if form == "parquet" and sys.stdout.isatty():
        raise UsageError("a Parquet file is not text", hint="name a file: -o results.parquet")
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
    return 0


def _write(path: Path | None, data: bytes) -> None:
    from fractale.errors import UsageError
    from fractale.private import write_private

    if path is None:
        return
    try:
        if path.exists() and not path.is_file():  # such as /dev/stdout or a named pipe
            path.write_bytes(data)
        else:
            write_private(path, data, sync="none")
    except OSError as error:
        why = error.strerror or error  # the error itself may name a temporary file
        raise UsageError(f"cannot write {path}: {why}") from error
