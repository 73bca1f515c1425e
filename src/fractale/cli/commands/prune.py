"""``fractale runs prune``: remove old runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.errors import UsageError
from fractale.plain import to_json
from fractale.text import count, size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fractale.record.pruning import Pruned, PruneReport

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SHOWN = 20


@click.command("prune", short_help="Remove old runs.")
@click.option(
    "--older-than", metavar="AGE", help="Remove runs that ended longer ago than this, such as 30d."
)
@click.option("--keep", type=click.IntRange(0), metavar="N", help="Keep the latest N runs.")
@click.option(
    "--max-size", metavar="SIZE", help="Keep the latest runs that fit in this size: 500M, 2G."
)
@click.option("--force", is_flag=True, help="Also remove runs that wait for an answer or a job.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
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
    """Remove old runs with their checkpoints and jobs, and outputs that no run refers to.

    \b
    fractale runs prune --older-than 30d --dry-run
    fractale runs prune --keep 100 --max-size 2G

    Runs that are in progress, or whose job is still running, are always kept. Runs that wait for an
    answer or a job, or whose job has an unknown state, are kept unless you give --force.
    --older-than also removes the directories of jobs that do not belong to a run.

    A sweep counts as one run: it is removed with all its runs, or kept with all of them.
    """
    import asyncio

    from fractale.record.pruning import PruneRule, prune
    from fractale.sweeps.pruning import groups_in

    if older_than is None and keep is None and max_size is None:
        raise UsageError(
            "choose which runs to remove",
            hint="use --older-than 30d, --keep 100, --max-size 2G, or several of them",
        )
    rule = PruneRule(
        older_than=_age(older_than), keep=keep, max_bytes=_bytes(max_size), force=force
    )
    settings = options.settings_of().with_flags(store=store)
    if not any((settings.state_dir / name).is_dir() for name in ("runs", "jobs", "sweeps")):
        raise UsageError(f"no runs found in {settings.state_dir}")
    groups = groups_in(settings.state_dir)
    report = asyncio.run(prune(settings, rule, dry_run=dry_run, groups=groups))
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
        raise UsageError(f"--max-size {text}: not a valid size", hint="such as 500M or 2G")
    return int(float(match[1]) * UNITS[match[2]])


def _print(report: PruneReport) -> None:
    done = "would be removed" if report.dry_run else "removed"
    _print_runs(report.removed)
    click.echo(f"{_counted(report.removed)} {done}, {_size(report.freed)}", nl=False)
    beside = (
        (report.outputs, "output", "without a run"),
        (report.jobs, "job directory", f"of {_size(report.job_bytes)}"),
        (report.listings, "listing", "of tools"),
    )
    extra = "".join(f", {count(n, noun)} {words}" for n, noun, words in beside if n)
    stay = "is kept" if report.runs == 1 else "are kept"
    click.echo(f"{extra}; {count(report.runs, 'run')} {stay}, {_size(report.bytes)}")
    if report.jobs_left:
        click.echo(
            f"{count(report.jobs_left, 'job directory')} kept: the state of the job is unknown"
        )
    if report.spared:
        click.echo("kept nevertheless:")
        _print_runs(report.spared)


def _counted(removed: Sequence[Pruned]) -> str:
    """How many runs and sweeps: ``3 runs``, ``1 run and 2 sweeps with 40 runs``."""
    single = count(sum(each.runs is None for each in removed), "run")
    sweeps = [each.runs for each in removed if each.runs is not None]
    if not sweeps:
        return single
    words = f"{count(len(sweeps), 'sweep')} with {count(sum(sweeps), 'run')}"
    return words if len(sweeps) == len(removed) else f"{single} and {words}"


def _print_runs(runs: Sequence[Pruned]) -> None:
    from fractale.render.text import inert, when

    for run in runs[:SHOWN]:
        status = run.status if run.runs is None else f"sweep of {count(run.runs, 'run')}"
        columns = (run.id, inert(run.plan, 40), status, when(run.started), _size(run.bytes))
        click.echo("  ".join(("", *columns, inert(run.reason, 80))))
    if len(runs) > SHOWN:
        click.echo(f"  … and {len(runs) - SHOWN} more; --json has all")


def _size(total: int) -> str:
    return size_text(total)
