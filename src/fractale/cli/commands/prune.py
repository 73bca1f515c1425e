"""``fractale runs prune``: remove old runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.errors import UsageError
from fractale.plain import to_json
from fractale.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fractale.record.pruning import Pruned, PruneReport

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SHOWN = 20


@click.command("prune")
@click.option("--older-than", metavar="AGE", help="Runs that ended so long ago, such as 30d.")
@click.option("--keep", type=click.IntRange(0), metavar="N", help="All but the latest N runs.")
@click.option("--max-size", metavar="SIZE", help="The latest stay while they fit in it: 500M, 2G.")
@click.option("--force", is_flag=True, help="Also runs that wait for an answer or a job.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.store_option
def command(
    older_than: str | None,
    keep: int | None,
    max_size: str | None,
    store: str | None,
    *,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove old runs with their checkpoints and jobs, and what no run refers to.

    \b
    fractale runs prune --older-than 30d --dry-run
    fractale runs prune --keep 100 --max-size 2G

    A run that a process works on always stays, and one whose job goes on; one that waits, or of
    whose job nothing shows the end, unless --force is given. Folders of jobs that belong to no
    run go by --older-than.
    """
    import asyncio

    from fractale.record.pruning import PruneRule, prune

    if older_than is None and keep is None and max_size is None:
        raise UsageError(
            "it is not said which runs to remove",
            hint="--older-than 30d, --keep 100 or --max-size 2G, or several of them",
        )
    rule = PruneRule(
        older_than=_age(older_than), keep=keep, max_bytes=_bytes(max_size), force=force
    )
    settings = options.settings_of().with_flags(store=store)
    if not any((settings.state_dir / name).is_dir() for name in ("runs", "jobs")):
        raise UsageError(f"there are no runs in {settings.state_dir}")
    report = asyncio.run(prune(settings, rule, dry_run=dry_run))
    if as_json:
        click.echo(to_json(report.as_dict()))
    else:
        _print(report)
    return 0


def _age(text: str | None) -> float | None:
    """A duration such as ``30d`` in seconds.

    Raises:
        UsageError: The text is not a valid duration.
    """
    if text is None:
        return None
    from fractale.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--older-than {text}: {error}", hint="such as 30d or 12h") from None


def _bytes(text: str | None) -> int | None:
    """A size such as ``500M`` in bytes; units are powers of 1000.

    Raises:
        UsageError: The text is not a valid size.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([kmgt]?)b?", text.strip().lower())
    if match is None:
        raise UsageError(f"--max-size {text}: not a size", hint="such as 500M or 2G")
    return int(float(match[1]) * UNITS[match[2]])


def _print(report: PruneReport) -> None:
    done = "would be removed" if report.dry_run else "removed"
    _print_runs(report.removed)
    click.echo(f"{count(len(report.removed), 'run')} {done}, {_size(report.freed)}", nl=False)
    beside = (
        (report.outputs, "output", "that nothing refers to"),
        (report.jobs, "job folder", f"of {_size(report.job_bytes)}"),
        (report.listings, "listing", "of tools"),
    )
    extra = "".join(f", {count(n, noun)} {words}" for n, noun, words in beside if n)
    stay = "stays" if report.runs == 1 else "stay"
    click.echo(f"{extra}; {count(report.runs, 'run')} {stay}, {_size(report.bytes)}")
    if report.jobs_left:
        click.echo(f"{count(report.jobs_left, 'job folder')} left: not known to be over")
    if report.spared:
        click.echo("these stay all the same:")
        _print_runs(report.spared)


def _print_runs(runs: Sequence[Pruned]) -> None:
    from fractale.cli.render.text import inert, when

    for run in runs[:SHOWN]:
        columns = (run.id, inert(run.plan, 40), run.status, when(run.started), _size(run.bytes))
        click.echo("  ".join(("", *columns, inert(run.reason, 80))))
    if len(runs) > SHOWN:
        click.echo(f"  … and {len(runs) - SHOWN} more; --json has all")


def _size(total: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if total >= unit:
            return f"{total / unit:.1f} {name}"
    return f"{total} bytes"
