"""The code that all commands share which drive a sweep: progress, signals, the summary.

The first Ctrl-C, SIGTERM or SIGUSR1 stops the sweep: no row starts any more, and runs in progress
stop after their present call. The second one ends them at once. Both leave a sweep that can be
resumed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.settings import Settings
    from fractale.sweeps.record import SweepRecord
    from fractale.sweeps.results import SweepView

T = TypeVar("T")

EXIT_CODES: Final = {"success": 0, "failed": 1, "waiting": 4, "limit": 5, "stopped": 75}
"""Status of a sweep → exit code."""

INTERRUPTED: Final = 130
LIVE_SECONDS: Final = 0.2
"""Seconds between two changes of the line of counts on a terminal."""

LINE_SECONDS: Final = 30.0
"""Seconds between two lines of counts where output goes to a file or a pipe."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class SweepProgress:
    """Shows the counts of a sweep on stderr: one line that changes on a terminal, else few lines.

    Args:
        quiet: Whether nothing is shown.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._last = time.monotonic() if not self._live else 0.0
        self._shown = ""

    def hear(self, line: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        """A listener of `driver.drive`."""
        from fractale.render.text import inert

        now = time.monotonic()
        if line["is"] == "lost":
            self.say(f"row {line['row']}: {inert(line['reason'], 300)}; it is resumed")
        if self._quiet or now - self._last < (LIVE_SECONDS if self._live else LINE_SECONDS):
            return
        self._last = now
        self._show(counts)

    def _show(self, counts: Mapping[str, int]) -> None:
        from fractale.render.sweep import bar, counts_text

        total = sum(counts.values())
        done = counts.get("success", 0) + counts.get("failed", 0)
        words = f"{bar(done, total)} {counts_text(counts)}"
        if self._live:
            width = max(20, os.get_terminal_size(sys.stderr.fileno()).columns - 1)
            self._shown = words[:width]
            click.echo(f"\r\x1b[K{self._shown}", nl=False, err=True)
        else:
            click.echo(words.partition(" ")[2], err=True)

    def say(self, words: str) -> None:
        """Print a line, above the line of counts."""
        self.clear()
        click.echo(words, err=True)

    def clear(self) -> None:
        """Remove the line of counts."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = ""


def driven(
    begin: Callable[[SweepProgress, asyncio.Event], Coroutine[Any, Any, T]],
    *,
    sweep: str,
    quiet: bool = False,
) -> T:
    """Drive a sweep with signals and progress.

    Args:
        begin: Is given the progress, whose `hear` is the listener, and the event that stops it.
        sweep: Its ID.

    Raises:
        KeyboardInterrupt: A second signal ended the runs at once.
    """
    progress = SweepProgress(quiet=quiet)
    try:
        return asyncio.run(_driven(begin, sweep, progress))
    except asyncio.CancelledError:
        progress.say(f"ended at once; next    fractale sweep resume {sweep}")
        raise KeyboardInterrupt from None
    finally:
        progress.clear()


async def _driven(
    begin: Callable[[SweepProgress, asyncio.Event], Coroutine[Any, Any, T]],
    sweep: str,
    progress: SweepProgress,
) -> T:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    task = asyncio.ensure_future(begin(progress, stop))

    def leave() -> None:
        if stop.is_set():
            task.cancel()
            return
        stop.set()
        progress.say(
            f"sweep {sweep} stops: runs in progress stop after their present call;\n"
            "their batch jobs keep running; Ctrl-C again ends the runs at once"
        )

    for number in SIGNALS:
        loop.add_signal_handler(number, leave)
    try:
        return await task
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def ended(view: SweepView, *, as_json: bool = False) -> int:
    """Print how a sweep ended, and return the exit code."""
    from fractale.sweeps.analysis import as_data, merit_of

    merit = merit_of(view, None)
    if as_json:
        from fractale.plain import to_json

        click.echo(to_json(as_data(view, merit, view.rows), default=str))
    else:
        from fractale.cli.commands.show import print_lines
        from fractale.render.sweep import SHOWN_ROWS, sweep_lines
        from fractale.render.text import screen_width, shows_unicode

        print_lines(
            sweep_lines(
                view,
                merit=merit,
                limit=SHOWN_ROWS,
                only_failed=False,
                width=screen_width(sys.stdout),
                unicode=shows_unicode(sys.stdout.encoding),
            )
        )
    return EXIT_CODES.get(view.status, 1)


def detached(record: SweepRecord, settings: Settings, *, as_json: bool = False) -> int:
    """Let a job or a background process drive a sweep, and say which; returns the exit code."""
    from fractale.render.text import inert
    from fractale.sweeps.detach import detach

    sweep = record.sweep_id
    try:
        found = asyncio.run(detach(record, settings))
    except Exception:
        click.echo(f"sweep {sweep} has no driver; next    fractale sweep resume {sweep}", err=True)
        raise
    if as_json:
        from fractale.plain import to_json

        about = {"scheduler": found.scheduler, "job": found.job, "output": str(found.output)}
        click.echo(to_json({"id": sweep, "driver": about, "withheld": list(found.withheld)}))
        return 0
    if found.withheld:
        names = ", ".join(map(inert, found.withheld))
        click.echo(
            f"warning  jobs get no secrets from this environment: {names}; if the runs need them, "
            "set them in `worker_init` of the executor",
            err=True,
        )
    if found.scheduler:
        click.echo(f"sweep {sweep} is queued: its driver is {inert(found.title)}")
    else:
        click.echo(f"sweep {sweep} runs in the background: {inert(found.title)}")
    click.echo(f"next    fractale sweep watch {sweep} · fractale sweep cancel {sweep}")
    return 0


def with_typed_secrets(record: SweepRecord, settings: Settings) -> Settings:
    """The settings whose environment has the plan's secret inputs, also those typed now."""
    from fractale.cli.running import secrets_of
    from fractale.plan.build import load_plan
    from fractale.plan.inputs import secret_variable

    secrets = secrets_of(load_plan(record.plan), settings)
    known = {secret_variable(name): value for name, value in secrets.items()}
    return replace(settings, environment={**settings.environment, **known})


def sweep_limits_of(pairs: tuple[str, ...]) -> dict[str, float]:
    """The limits of a whole sweep, from ``--limit``.

    Raises:
        UsageError: The limit is unknown, or its value is not a number above zero.
    """
    from fractale.sweeps.budget import SWEEP_LIMITS
    from fractale.text import did_you_mean, listing

    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in SWEEP_LIMITS:
            known = f"they are {listing(tuple(SWEEP_LIMITS))}; `--run-limit` limits each run"
            hint = did_you_mean(name, SWEEP_LIMITS, otherwise=known)
            raise UsageError(f"`{name}` is not a limit of a sweep", hint=hint)
        try:
            value = float(text.replace(",", "").replace("_", ""))
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise UsageError(f"--limit {pair}: must be a number above 0")
        found[name] = int(value) if value.is_integer() else value
    return found


def run_limits_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """The limits of each run of a sweep, from ``--run-limit``: name → number, times in seconds.

    Raises:
        UsageError: The limit is unknown, or its value is not valid.
    """
    from dataclasses import asdict

    from fractale.cli.options import read_limits

    try:
        limits = read_limits(pairs)
    except UsageError as error:
        error.message = error.message.replace("--limit", "--run-limit")
        raise
    return {name: value for name, value in asdict(limits).items() if value is not None}
