"""``fractale init``: start a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fractale.plain import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fractale.scaffold.project import NewProject


@click.command("init")
@click.argument(
    "directory",
    metavar="[DIR]",
    default=Path(),
    type=click.Path(file_okay=False, path_type=Path),
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(directory: Path, *, as_json: bool) -> int:
    """Start a project in DIR, by default the working directory. No file is overwritten.

    Writes settings for this site, a first plan, a registry with a Python tool, its tests, a
    recording of the first run, checks for GitHub and GitLab, and completion for editors.

    \b
    fractale init melt
    fractale new tool density
    """
    import asyncio

    from fractale.cli.options import settings_of
    from fractale.cli.running import own_stdout
    from fractale.scaffold.project import init

    settings = settings_of(check_state=False)
    with own_stdout() as stdout:
        project = asyncio.run(init(directory, settings))
        if as_json:
            click.echo(to_json(project.as_dict()), file=stdout)
        else:
            click.echo("\n".join(_lines(project)), file=stdout)
    return 1 if project.status not in (None, "success") else 0


def _lines(project: NewProject) -> Iterator[str]:
    from fractale.render.text import inert

    for name in project.written:
        yield f"wrote  {name}"
    for name in project.kept:
        yield f"kept   {name}   (it exists; not changed)"
    if project.why:
        yield f"! {inert(project.why, 1000)}"
    elif project.status:
        yield f"the first run: {project.status}"
    for line in project.next:
        yield f"next: {inert(line, 1000)}"
