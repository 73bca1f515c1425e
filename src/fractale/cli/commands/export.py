"""``fractale export``: a run as a graph, as transitions, or as an RO-Crate."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
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
    """
    from fractale.errors import UsageError

    if not (graph or transitions or crate or recording):
        raise UsageError(
            "choose what to write",
            hint="use --graph FORM, --transitions FILE, --crate DIR or --recording FILE.zip",
        )
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
