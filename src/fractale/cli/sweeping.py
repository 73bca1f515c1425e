"""The code that all commands share which drive a sweep: show it, and end it on signals.

The first Ctrl-C, SIGTERM or SIGUSR1 stops the sweep: no row starts any more, and runs in progress
stop at the end of their present call. The second one ends at once. Both leave a sweep that
`fractale sweep resume` continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

import click

from fractale.cli import started
from fractale.cli.running import own_stdout
from fractale.cli.signals import GAP_SECONDS, INTERRUPTED, SIGNALS, STOPPED

if TYPE_CHECKING:
    from fractale.render.sweep_progress import Progress
    from fractale.settings import Settings
    from fractale.sweeps.record import SweepRecord
    from fractale.sweeps.results import SweepView


def drive_sweep(
    record: SweepRecord,
    settings: Settings,
    *,
    as_json: bool = False,
    quiet: bool = False,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Drive a sweep until each row has ended or waits; returns the exit code.

    Args:
        as_json: Print each change as JSON on stdout.
        quiet: Print only the verdict.
        environment: Variables for workers beside those of the settings, such as secret inputs.

    Raises:
        RunHeld: Another process drives it.
        StoreError: Its record cannot be read or written. It can be resumed.
    """
    from fractale.render.sweep_progress import JsonRows, LineProgress, started_line
    from fractale.runs.result import EXIT_CODES

    head = record.read_head()
    with own_stdout() as stdout:
        progress: Progress
        if as_json:
            progress = JsonRows(stdout, sys.stderr)
        else:
            rows = int(head.get("rows") or 0)
            progress = LineProgress(record.sweep_id, rows, sys.stderr, quiet=quiet)
            if not quiet:
                where = str(head.get("executor"))
                progress.say(started_line(record.sweep_id, str(head.get("plan")), rows, where))
        signals = _Signals(progress)
        try:
            view = asyncio.run(_drive(record, settings, progress, signals, environment))
        except asyncio.CancelledError:
            progress.leave()
            click.echo(f"next: fractale sweep resume {record.sweep_id}", err=True)
            return signals.code
        except BaseException:
            progress.leave()
            raise
        progress.end(view)
    return EXIT_CODES.get(view.status, 1)


async def _drive(
    record: SweepRecord,
    settings: Settings,
    progress: Progress,
    signals: _Signals,
    environment: Mapping[str, str] | None,
) -> SweepView:
    from fractale.sweeps.driver import run_sweep

    with signals.heard() as stop:
        started()
        return await run_sweep(
            record,
            settings=settings,
            listener=progress.hear,
            stop=stop,
            environment=environment,
        )


class _Signals:
    """Stops a sweep on the first signal, and cancels it on the second.

    Attributes:
        code: The exit code of a sweep that was cancelled.
    """

    def __init__(self, progress: Progress) -> None:
        self.code = STOPPED
        self._progress = progress
        self._asked = 0
        self._last = float("-inf")

    @contextlib.contextmanager
    def heard(self) -> Generator[asyncio.Event]:
        """Hear the signals in the block; yields the event that asks the sweep to stop."""
        loop, task, stop = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
        assert task is not None  # noqa: S101 - called from a coroutine
        # The shell may have started the process with Ctrl-C ignored. `asyncio.run` has replaced
        # the handler otherwise.
        interrupts = signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)
        numbers = (*SIGNALS, signal.SIGINT) if interrupts else SIGNALS

        def act(number: int) -> None:
            now, before = time.monotonic(), self._last
            self._last = now
            if now - before < GAP_SECONDS:
                return
            self._asked += 1
            if self._asked == 1:
                name = signal.Signals(number).name
                again = "Ctrl-C again" if number == signal.SIGINT else "a second one"
                stop.set()
                self._progress.say(f"{name}: runs stop after their present call; {again}: at once")
                return
            self.code = INTERRUPTED if number == signal.SIGINT else STOPPED
            if self._asked > 2:
                os._exit(self.code)
            task.cancel()

        heard: list[int] = []
        try:
            for number in numbers:
                with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread
                    loop.add_signal_handler(number, act, number)
                    heard.append(number)
            yield stop
        finally:
            for number in heard:
                loop.remove_signal_handler(number)
