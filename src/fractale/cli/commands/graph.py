"""``fractale graph``: draw a plan."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from fractale.cli.commands.run import complete_plans

FORMATS = ("text", "mermaid", "svg", "png")
ENDINGS = {".mmd": "mermaid", ".md": "mermaid", ".svg": "svg", ".png": "png", ".txt": "text"}


@click.command("graph")
@click.argument("plan", type=click.Path(), shell_complete=complete_plans)
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
def command(plan: str, form: str | None, output: Path | None) -> None:
    """Draw PLAN as text, Mermaid, SVG or PNG. No network is needed.

    \b
    fractale graph plans/translate.yaml
    fractale graph plans/translate.yaml -o plan.svg
    """
    from fractale.errors import UsageError
    from fractale.plan import draw
    from fractale.plan.build import load_plan

    loaded = load_plan(plan)
    kind = form or (ENDINGS.get(output.suffix.lower()) if output else None) or "text"
    if kind == "text":
        data = draw.text(loaded, width=shutil.get_terminal_size((80, 24)).columns)
    elif kind == "mermaid":
        data = draw.mermaid(loaded)
    else:
        data = draw.svg(loaded) if kind == "svg" else draw.png(loaded)
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
        click.echo(data.rstrip("\n"))
