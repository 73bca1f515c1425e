"""``fractale test``: replay recordings against today's plans and code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.replaying.suite import CheckedRecording
    from fractale.runs.workspace import Extensions
    from fractale.settings import Settings


@click.command("test")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@options.tool_options
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@options.collected
def command(directory: Path, *, given: options.CommandLine) -> int:
    """Replay every recording in DIR against today's plans and code; nothing is called.

    A recording is the directory of a run, or the output of `fractale export RUN --recording`. Name
    your own sub-agents with -r or -a. Exit code 0: all recordings match; 1: otherwise.

    \b
    fractale export -1 --recording recordings/translate.zip
    fractale test recordings
    """
    from fractale.errors import UsageError
    from fractale.record.recordings import find_recordings
    from fractale.replaying.suite import checked_data

    paths = find_recordings(directory)
    if not paths:
        raise UsageError(
            f"no recordings found in {directory}",
            hint="create one: fractale export RUN --recording FILE.zip",
        )
    width = max(
        len(str(path.relative_to(directory) if path != directory else path.name)) for path in paths
    )
    shown = None if given.as_json else width
    found = asyncio.run(_check(directory, options.settings_of(), given.extensions, shown))
    verdicts = [checked.verdict for checked in found]
    if given.as_json:
        counts = {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}
        data = {"recordings": [checked_data(checked) for checked in found], "counts": counts}
        click.echo(to_json(data, default=str))
    else:
        from fractale.cli.commands.show import print_lines
        from fractale.render.replay import summary_line

        print_lines([summary_line(verdicts)])
    return 0 if set(verdicts) == {"equal"} else 1


async def _check(
    directory: Path, settings: Settings, own: Extensions, width: int | None
) -> list[CheckedRecording]:
    """Replay all recordings; with a `width` for the names, print each result at once."""
    from fractale.cli.commands.show import print_lines
    from fractale.cli.running import own_stdout
    from fractale.render.replay import checked_lines
    from fractale.replaying.suite import check_recordings

    found: list[CheckedRecording] = []
    checks = check_recordings(directory, settings, own)
    while True:
        with own_stdout():
            checked = await anext(checks, None)
        if checked is None:
            return found
        found.append(checked)
        if width is not None:
            print_lines(checked_lines(checked, width))
