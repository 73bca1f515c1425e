"""``fractale export``: a run as a graph, as transitions, or as an RO-Crate."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fractale.cli.commands.resume import complete_runs
from fractale.cli.commands.show import load
from fractale.cli.options import settings_of
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.record.history import RunHistory

FORMS = ("mermaid", "graphml", "json")


@click.command("export", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "--graph",
    type=click.Choice(FORMS),
    help="Print the graph of the plan with the path that the run took.",
)
@click.option(
    "--transitions",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write every transition in detail, one line of JSON each; - prints to stdout.",
)
@click.option(
    "--crate",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a Workflow Run RO-Crate into a new or empty directory.",
)
@click.option(
    "--recording",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a recording for `fractale replay` and `fractale test`: FILE.zip or a directory.",
)
@click.option(
    "--license",
    "license_name",
    metavar="SPDX",
    help="License of the crate, such as CC-BY-4.0, or a URL.",
)
def command(
    run_id: str,
    graph: str | None,
    transitions: Path | None,
    crate: Path | None,
    recording: Path | None,
    license_name: str | None,
) -> int:
    """Export RUN: its graph, its transitions, an RO-Crate of all of it, or a recording.

    \b
    fractale export -1 --graph mermaid > run.mmd
    fractale export -1 --transitions run.jsonl
    fractale export -1 --crate run-crate --license CC-BY-4.0
    fractale export -1 --recording recordings/translate.zip
    fractale export melt --crate melt-crates      all runs of a sweep

    If RUN is a sweep, --crate and --recording write one crate or recording per run into a new
    directory, beside the results as results.csv; --transitions writes those of all its runs.
    `fractale sweep export` writes only the results.
    """
    from fractale.errors import UsageError
    from fractale.sweeps.record import SweepRecords

    if not (graph or transitions or crate or recording):
        raise UsageError(
            "choose what to write",
            hint="use --graph FORM, --transitions FILE, --crate DIR or --recording FILE.zip",
        )
    if SweepRecords(settings_of().state_dir).has(run_id):
        return _export_sweep(run_id, graph, transitions, crate, recording, license_name)
    history = load(run_id)
    if recording:
        from fractale.record.recordings import write_recording

        write_recording(history.record, recording, settings_of().secrets)
        click.echo(f"wrote {recording}", err=True)
    if graph:
        click.echo(_graph(history, graph), nl=False)
    if transitions:
        from fractale.record.export import transition_lines

        _write(transitions, transition_lines(history))
    if crate:
        from fractale.record.crate import write_crate

        write_crate(history, crate, license_name=license_name)
        click.echo(f"wrote {crate}", err=True)
    return 0


def _export_sweep(
    sweep_id: str,
    graph: str | None,
    transitions: Path | None,
    crate: Path | None,
    recording: Path | None,
    license_name: str | None,
) -> int:
    """Export all runs of a sweep.

    Returns:
        The exit code: 1 if a run could not be exported.
    """
    from fractale.errors import UsageError

    runs = _runs_of(sweep_id)
    if graph:
        raise UsageError(
            "--graph shows the path of one run",
            hint=f"name a run: fractale export {runs[0] if runs else 'RUN'} --graph {graph}",
        )
    failed: dict[str, str] = {}
    if transitions:
        _write(transitions, _all_transitions(runs, failed))
    for target, one in ((crate, _crate_of(license_name)), (recording, _recording_of())):
        if target:
            _write_all(sweep_id, target, runs, one, failed)
    for run_id, words in failed.items():
        click.echo(f"run {run_id} was not exported: {words}", err=True)
    return 1 if failed else 0


def _runs_of(sweep_id: str) -> list[str]:
    """The runs of a sweep by their rows, the latest attempt of each."""
    from fractale.sweeps.record import SweepRecords
    from fractale.sweeps.results import view_of

    view = view_of(SweepRecords(settings_of().state_dir).find(sweep_id))
    return [row.run for row in view.rows if row.run]


def _all_transitions(runs: Iterable[str], failed: dict[str, str]) -> Iterable[str]:
    from fractale.errors import FractaleError
    from fractale.record.export import transition_lines

    for run_id in runs:
        try:
            yield from transition_lines(load(run_id))
        except FractaleError as error:
            failed[run_id] = error.message


Export = Callable[[str, Path], object]
"""Writes a run into a directory, under its own ID."""


def _crate_of(license_name: str | None) -> Export:
    def write(run_id: str, into: Path) -> None:
        from fractale.record.crate import write_crate

        write_crate(load(run_id), into / run_id, license_name=license_name)

    return write


def _recording_of() -> Export:
    def write(run_id: str, into: Path) -> None:
        from fractale.record.recordings import write_recording

        write_recording(load(run_id).record, into / f"{run_id}.zip", settings_of().secrets)

    return write


def _write_all(
    sweep_id: str, target: Path, runs: Sequence[str], one: Export, failed: dict[str, str]
) -> None:
    """Write each run and the results of the sweep into a new or empty directory.

    Raises:
        UsageError: The directory is not empty, or cannot be made.
        DependencyMissing: A package is missing.
    """
    from fractale.errors import DependencyMissing, FractaleError, UsageError
    from fractale.private import make_folder, write_private
    from fractale.sweeps.export import csv_lines
    from fractale.sweeps.record import SweepRecords
    from fractale.sweeps.results import view_of

    if target.suffix == ".zip" or (target.is_dir() and any(target.iterdir())):
        raise UsageError(
            f"{target}: a sweep is written into a new or empty directory", hint="name another one"
        )
    try:
        make_folder(target)
        view = view_of(SweepRecords(settings_of().state_dir).find(sweep_id))
        write_private(target / "results.csv", "".join(csv_lines(view)), sync="none")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error
    for run_id in runs:
        try:
            one(run_id, target)
        except DependencyMissing:
            raise
        except FractaleError as error:
            failed[run_id] = error.message
    click.echo(f"wrote {target}: {len(runs) - len(failed)} of {len(runs)} runs", err=True)


def _graph(history: RunHistory, form: str) -> str:
    from fractale.record.export import graph_data, graph_of, graphml, mermaid

    graph = graph_of(history)
    if not graph.complete:
        click.echo(
            "the plan has changed or was removed: the graph shows only the path that was taken",
            err=True,
        )
    if form == "mermaid":
        return mermaid(graph)
    if form == "graphml":
        return graphml(graph)
    return to_json(graph_data(graph), indent=1) + "\n"


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that only the user can read, or to stdout for ``-``."""
    from fractale.errors import UsageError

    if str(path) == "-":
        for line in lines:
            sys.stdout.write(f"{line}\n")
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(f"{line}\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    click.echo(f"wrote {path}", err=True)
