"""``fractale cache``: the results that later runs may take over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.errors import UsageError
from fractale.plain import to_json
from fractale.text import count, size_text

if TYPE_CHECKING:
    from fractale.store.cache import CacheSize


@click.command("cache")
@click.option("--prune", is_flag=True, help="Remove results; all of them without --older-than.")
@click.option(
    "--older-than", metavar="AGE", help="Count only results that are older than this, such as 30d."
)
@click.option("--dry-run", is_flag=True, help="With --prune: only count what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, prune: bool, older_than: str | None, dry_run: bool, as_json: bool) -> int:
    """Show the size of the results that later runs may take over, or remove them.

    \b
    fractale cache
    fractale cache --prune --older-than 30d

    A step keeps its result if it says `cache`, or if the run has --reuse. Removing a result does
    not change any run: the next equal step makes its call again.
    """
    from fractale.store.cache import CacheStore

    if dry_run and not prune:
        raise UsageError("--dry-run is for --prune", hint="`fractale cache` removes nothing")
    seconds = _age(older_than)
    store = CacheStore(options.settings_of().state_dir)
    removes = prune and not dry_run
    found = store.prune(older=seconds) if removes else store.size(older=seconds)
    if as_json:
        data = {"entries": found.entries, "bytes": found.bytes, "oldest_seconds": found.oldest}
        click.echo(to_json({**data, "removed": removes, "directory": str(store.path)}))
    else:
        click.echo(_words(found, "removed" if removes else "would be removed" if prune else ""))
    return 0


def _words(found: CacheSize, done: str) -> str:
    from fractale.durations import format_duration

    age = f", the oldest {format_duration(int(found.oldest))} old" if found.entries else ""
    return f"{count(found.entries, 'result')}, {size_text(found.bytes)}{age}" + (
        f": {done}" if done else ""
    )


def _age(text: str | None) -> float:
    """A duration such as ``30d`` in seconds; 0 if there is none.

    Raises:
        UsageError: The text is not a valid duration.
    """
    if text is None:
        return 0.0
    from fractale.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--older-than {text}: {error}", hint="such as 30d or 12h") from None
