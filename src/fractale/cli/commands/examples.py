"""``fractale examples``: the plans and registries that come with fractale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.errors import UsageError
from fractale.plain import to_json
from fractale.shipped import SCHEME

if TYPE_CHECKING:
    from fractale.examples import Example

TITLES = {
    "plan": "plans: fractale run fractale:NAME",
    "sweep": "sweeps: fractale sweep fractale:NAME",
    "part": "plans for the step `plan: fractale:NAME`",
    "registry": "registries: -r fractale:NAME",
}


@click.group("examples", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """List the plans and registries that come with fractale: what each does and needs.

    \b
    fractale examples
    fractale run fractale:lammps-log -r fractale:demo
    fractale examples get lammps-log

    Use an example from where it is, by its name, or copy it to change it. `fractale doctor` says
    what an example needs on this machine.
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise UsageError("--json lists the examples", hint="leave --json out")
        return
    from fractale.examples import examples

    found = examples()
    if as_json:
        rows = [
            {
                "name": each.name,
                "kind": each.kind,
                "does": each.does,
                "registries": list(each.registries),
                "needs": list(each.needs),
                "command": each.command,
            }
            for each in found
        ]
        click.echo(to_json({"examples": rows}))
    else:
        click.echo("\n\n".join(_block(kind, found) for kind in TITLES))


def _block(kind: str, found: list[Example]) -> str:
    from fractale.render.text import fold

    rows = [each for each in found if each.kind == kind]
    width = max(len(each.name) for each in rows)
    lines = [TITLES[kind]]
    for each in rows:
        words = each.does + (f" Needs {', '.join(each.needs)}." if each.needs else "")
        if each.registries:
            words += f" With {' '.join(f'-r {SCHEME}{name}' for name in each.registries)}."
        first, *rest = fold(words, 98 - width)
        lines.append(f"  {each.name:{width}}  {first}")
        lines += [f"  {'':{width}}  {line}" for line in rest]
    return "\n".join(lines)


@command.command("get")
@click.argument("name", required=False, shell_complete=options.complete_examples)
@click.argument(
    "directory", required=False, type=click.Path(file_okay=False, path_type=Path), default=None
)
@click.option("--all", "everything", is_flag=True, help="Copy all examples.")
@click.option("--force", is_flag=True, help="Replace files that have another content.")
def get(name: str | None, directory: Path | None, *, everything: bool, force: bool) -> None:
    """Copy the example NAME with its registries and data into DIRECTORY. Default: here.

    \b
    fractale examples get lammps
    fractale examples get --all tutorial

    The copies are in the directories `plans` and `registries` there. A file with another content
    is never overwritten without --force.
    """
    from fractale.examples import copy_examples, examples, find_example
    from fractale.render.text import inert

    if everything and directory is not None:
        raise UsageError("--all copies all examples", hint="leave out NAME, or leave out --all")
    if not everything and name is None:
        raise UsageError("name an example", hint="`fractale examples` lists them; --all copies all")
    place = (Path(name) if everything and name else directory) or Path()
    chosen = examples() if everything else [find_example(str(name))]
    copied = copy_examples(chosen, place, overwrite=force)
    for path in copied.written:
        click.echo(inert(str(path)))
    if copied.unchanged:
        click.echo(f"{len(copied.unchanged)} unchanged", err=True)
    if not everything:
        steps = [chosen[0].copied_command]
        if place != Path():
            steps.insert(0, f"cd {inert(str(place))}")
        click.echo(f"next: {' && '.join(steps)}", err=True)
