"""``fractale graph``: draw a plan."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fractale.cli.commands.resume import complete_runs
from fractale.cli.options import complete_plans

if TYPE_CHECKING:
    from fractale.plan import Plan
    from fractale.plan.way import RunWay

FORMATS = ("text", "mermaid", "svg", "png")
ENDINGS = {".mmd": "mermaid", ".md": "mermaid", ".svg": "svg", ".png": "png", ".txt": "text"}


@click.command("graph", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("plan", required=False, type=click.Path(), shell_complete=complete_plans)
@click.option(
    "--run",
    "run_id",
    metavar="RUN",
    shell_complete=complete_runs,
    help="Draw the plan of this run, and the way that the run took; -1 is the latest.",
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="The format. Default: from the name of OUTPUT, or text.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)
def command(plan: str | None, run_id: str | None, form: str | None, output: Path | None) -> None:
    """Draw PLAN as text, Mermaid, SVG or PNG, or a run with --run. No network is needed.

    \b
    fractale graph fractale:translate
    fractale graph fractale:translate -o plan.svg
    fractale graph --run -1                  the way that the latest run took
    """
    from fractale.errors import UsageError
    from fractale.plan import draw
    from fractale.plan.build import load_plan

    if (plan is None) == (run_id is None):
        raise UsageError(
            "graph draws one plan or one run", hint="fractale graph PLAN, or --run RUN"
        )
    loaded, way = _of_run(run_id) if run_id is not None else (load_plan(str(plan)), None)
    kind = form or (ENDINGS.get(output.suffix.lower()) if output else None) or "text"
    if kind == "text":
        data = draw.text(loaded, width=shutil.get_terminal_size((80, 24)).columns, way=way)
    elif kind == "mermaid":
        data = draw.mermaid(loaded, way)
    else:
        data = draw.svg(loaded, way) if kind == "svg" else draw.png(loaded, way)
    if output is not None:
        content = data if isinstance(data, bytes) else (data.rstrip("\n") + "\n").encode()
        try:
            output.write_bytes(content)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error}") from error
        click.echo(f"wrote {output}", err=True)
    elif isinstance(data, bytes):
        if sys.stdout.isatty():
            raise UsageError("cannot print a PNG on a terminal", hint="write a file: -o FILE.png")
        sys.stdout.buffer.write(data)
    else:
        from fractale.render.text import writable

        click.echo(writable(data.rstrip("\n"), sys.stdout.encoding))


def _of_run(run_id: str) -> tuple[Plan, RunWay]:
    """The plan of a run with its drafts, and the way that the run took.

    Raises:
        UsageError: The run was not found, or its plan has changed since.
        StoreError: The run's record is damaged.
    """
    from fractale.cli.commands.show import load
    from fractale.errors import UsageError
    from fractale.record.way import plan_of_run, way_taken

    history = load(run_id)
    plan = plan_of_run(history)
    if plan is None:
        raise UsageError(
            f"the plan of run {history.run} is gone, or has changed since",
            hint=f"fractale show {history.run}",
        )
    return plan, way_taken(history)
