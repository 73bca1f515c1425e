"""``fractale logs``: the log of a step's batch job, also while the job writes it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.cli.commands.show import complete_steps
from fractale.errors import StoreError, UsageError
from fractale.plan.paths import without_indexes
from fractale.schedulers.job import ELEMENTS

if TYPE_CHECKING:
    from pathlib import Path

    from fractale.record.history import RunHistory
    from fractale.record.jobs import RunJob
    from fractale.settings import Settings
    from fractale.store.run_record import RunRecord

PAUSE = 0.3
"""Seconds between two reads of a growing log."""

STATUS_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between two queries to the scheduler; the last value repeats."""

ENDED_PAUSE = 1.0
"""Seconds until the next query if the job has recorded its end, since more may be known soon."""

SHOWN = 12
PIECE = 1024 * 1024
"""The most bytes of a log that are read at once."""


@click.command("logs", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.argument("step", required=False, shell_complete=complete_steps)
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the job ends.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Start with the last N lines.")
@click.option(
    "--item", type=click.IntRange(1), metavar="N", help="The Nth item of a foreach, counted from 1."
)
@click.option(
    "--element",
    type=click.IntRange(0),
    metavar="I",
    help="The element of a job array with this index.",
)
@click.option(
    "--attempt",
    type=click.IntRange(1),
    metavar="N",
    help="The Nth attempt of the step. Default: the latest.",
)
def command(
    run_id: str,
    step: str | None,
    tail: int | None,
    item: int | None,
    element: int | None,
    attempt: int | None,
    *,
    follow: bool,
) -> int:
    """Print the stdout and stderr of the batch job of STEP.

    \b
    fractale logs k7f3a melt                 the log so far
    fractale logs -1 melt --follow           the log as it grows, until the job ends
    fractale logs k7f3a sweep --item 3       the third item of a foreach
    fractale logs k7f3a melt --attempt 1     an earlier attempt of the step
    fractale logs k7f3a scan --element 7     one element of a job array

    The log goes to stdout, the state of the job to stderr. STEP can be left out if the run has one
    job. Terminal sequences in the log are removed; other control characters are escaped.
    """
    from fractale.record.history_reader import read_history
    from fractale.record.jobs import jobs_of
    from fractale.store.run_record import RunRecords

    settings = options.settings_of()
    record = RunRecords(settings.state_dir).find(run_id)
    history = read_history(record)
    job = choose(history, jobs_of(record, history), step, item, attempt, element)
    return asyncio.run(_print_log(settings, record, job, tail, follow=follow))


def choose(
    history: RunHistory,
    jobs: Sequence[RunJob],
    step: str | None,
    item: int | None = None,
    attempt: int | None = None,
    element: int | None = None,
) -> RunJob:
    """The only job that matches; without an attempt, of the latest one.

    Args:
        item: The item of a foreach, counted from 1.
        element: The index of an array's element.

    Raises:
        UsageError: No job matches, or several do.
    """
    from fractale.record.jobs import is_of_step, no_job

    found = [job for job in jobs if step is None or is_of_step(job.step, step)]
    if not found:
        raise no_job(history, jobs, step)
    if item is not None and is_array_of(history, found[0]):
        raise UsageError(
            f"the job of `{step or without_indexes(found[0].step)}` is a job array; it has "
            "elements, not items",
            hint="use --element INDEX instead of --item",
        )
    if item is not None:
        found = [job for job in found if f"[{item - 1}]" in job.step]
    if attempt is not None:
        found = [job for job in found if job.attempt == attempt]
    if not found:
        which = [f"item {item}" if item else "", f"attempt {attempt}" if attempt else ""]
        raise UsageError(
            f"step `{step}` of run {history.run} has no job of {' and '.join(filter(None, which))}",
            hint=f"see its jobs: fractale show {history.run} {step}",
        )
    latest = {job.step: job for job in found}  # of each step, its last job
    if element is not None:
        latest = _with_element(latest, element)
    if len(latest) > 1:
        names = list(latest)
        more = ", …" if len(names) > SHOWN else ""
        of_items = all(name.endswith("]") for name in names)
        option = (
            "--element INDEX" if is_array_of(history, latest[names[0]]) else "--item N (from 1)"
        )
        hint = f"add {option}, or " if of_items else ""
        raise UsageError(
            f"run {history.run} has {len(names)} jobs"
            + (f" in step `{step}`" if step else "")
            + f": {', '.join(names[:SHOWN])}{more}",
            hint=f"{hint}name one: fractale logs {history.run} '{names[0]}'",
        )
    return next(iter(latest.values()))


def is_array_of(history: RunHistory, job: RunJob) -> bool:
    """Whether a job is an element of an array of the plan, not an item of a foreach."""
    path = job.step.rpartition("[")[0] if job.step.endswith("]") else job.step
    return any(attempt.is_array for attempt in history.attempts if attempt.path == path)


# -- printing ------------------------------------------------------------------------------------


async def _print_log(
    settings: Settings, record: RunRecord, job: RunJob, tail: int | None, *, follow: bool
) -> int:
    from fractale.runs.cancelling import Canceller

    shown = _Shown(_log_of(job), tail)
    shown.print_new()
    looks, due = 0, 0.0
    canceller = Canceller(record, settings)
    reported = ""
    while True:
        if time.monotonic() >= due:
            seen = (await canceller.look([job]))[0]
            words = seen.trouble or (
                seen.status.reason if seen.status else "has not been submitted yet"
            )
            if not follow or not seen.in_progress:
                shown.print_new(last=True)
                _say(job, seen.handle.title if seen.handle else "", words)
                return 0
            if not shown.offset and words != reported:
                reported = words
                _say(job, seen.handle.title if seen.handle else "", words)
            due = time.monotonic() + STATUS_PAUSES[min(looks, len(STATUS_PAUSES) - 1)]
            looks += 1
        await asyncio.sleep(PAUSE)
        shown.print_new()
        if job.own_folder.ended() is not None:
            due = min(due, time.monotonic() + ENDED_PAUSE)


def _with_element(jobs: Mapping[str, RunJob], element: int) -> dict[str, RunJob]:
    """The jobs that are this element of an array.

    Raises:
        UsageError: None of the jobs is.
    """
    found: dict[str, RunJob] = {}
    for path, job in jobs.items():
        is_whole = job.index is None and (job.folder.path / ELEMENTS).is_dir()
        if job.index == element or is_whole:
            found[path] = replace(job, index=element)
    if not found:
        step = without_indexes(next(iter(jobs)))
        if all(job.index is None for job in jobs.values()):
            raise UsageError(f"the job of `{step}` is not an array", hint="leave out --element")
        there = sorted(job.index for job in jobs.values() if job.index is not None)
        some = ", ".join(map(str, there[:SHOWN])) + (" …" if len(there) > SHOWN else "")
        raise UsageError(
            f"the job array of `{step}` has no element {element}", hint=f"its elements: {some}"
        )
    return found


def _log_of(job: RunJob) -> Path:
    """The path of a job's log.

    Raises:
        UsageError: The job is an array, and no element was chosen.
    """
    elements = job.folder.path / ELEMENTS
    if job.index is None and elements.is_dir():
        there = sorted(int(each.name) for each in elements.iterdir() if each.name.isdecimal())
        some = ", ".join(map(str, there[:SHOWN])) + (" …" if len(there) > SHOWN else "")
        raise UsageError(
            f"the job of `{job.step}` is an array, and each element has its own log",
            hint=f"add --element INDEX; started so far: {some}",
        )
    return job.own_folder.log


def _say(job: RunJob, native_id: str, words: str) -> None:
    from fractale.render.text import inert

    words = words.partition("; last line: ")[0]
    click.echo(f"· {inert(job.step)}: job {inert(native_id)} {inert(words, 400)}", err=True)


class _Shown:
    """Prints a growing log, line by line, and at the end also an incomplete last line.

    Args:
        tail: How many of the existing lines to print; None for all.

    Attributes:
        offset: Bytes of the log that were printed or skipped.
    """

    def __init__(self, path: Path, tail: int | None) -> None:
        from fractale.jobs.logs import MOST, read_tail

        self._path = path
        self.offset = 0
        if tail is not None:
            self.offset = read_tail(path, max(tail, 1), MOST).offset if tail else _size(path)

    def print_new(self, *, last: bool = False) -> None:
        """Print the lines that were written since the last call.

        Args:
            last: Whether the log is complete.
        """
        from fractale.render.text import inert, writable

        while data := self._read():
            end = len(data) if last or len(data) == PIECE else _lines_end(data)
            if not end:
                break
            self.offset += end
            text = data[:end].decode("utf-8", errors="replace").removesuffix("\n")
            print(writable(inert(text, lines=True), sys.stdout.encoding))
        sys.stdout.flush()

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(PIECE)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreError(f"cannot read the log {self._path}: {error}") from error
        return data[: _lines_end(data)] or data if len(data) == PIECE else data


def _lines_end(data: bytes) -> int:
    """The end of the last whole line; a progress bar's carriage return also ends a line."""
    return max(data.rfind(b"\n"), data.rfind(b"\r")) + 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
