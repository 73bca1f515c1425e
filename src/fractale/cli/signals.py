"""Signals that end a run: after its step, then at once, and last without waiting for anything.

- The first SIGTERM or SIGUSR1 stops the run after its step. Slurm sends such a signal before the
  walltime is over.
- The second one, and Ctrl-C, cancel the run at once. This ends the wait for a call that never
  returns, or for a server that does not answer.
- If the process still runs after `HARD_SECONDS`, or at a third signal, it exits. A function in a
  thread cannot be cancelled, nor can code that blocks the event loop.

A thread receives the signals, since the event loop may be blocked. The thread cannot run while C
code keeps Python's interpreter lock. Then only SIGKILL ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fractale.runs.result import resume_command

if TYPE_CHECKING:
    from fractale.events import Event

HARD_SECONDS = 10.0
"""How long a cancelled run and its servers may take to end before the process exits."""

GAP_SECONDS = 0.3
"""Signals that follow each other so closely count once. A scheduler may send a signal to a process
and also to its parent, which forwards it."""

STOPPED, INTERRUPTED = 75, 130
"""Exit codes of a run that a signal stopped, and of one that Ctrl-C ended."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class Ending:
    """Ends the run of this process on signals, and remembers how many have come.

    Attributes:
        at_boundary: Called with the signal's name; stops the run after its step.
        say: Called with a line to show to the user.
        code: The exit code of a run that was ended at once.
    """

    at_boundary: Callable[[str], None] = field(default=lambda _: None)
    say: Callable[[str], None] = field(default=lambda _: None)
    code: int = STOPPED
    _work: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
    _run: str | None = None
    _over: bool = False
    _calls: dict[tuple[Any, ...], str] = field(default_factory=dict[tuple[Any, ...], str])
    _asked: int = 0
    _last: float = float("-inf")

    def attach(self) -> None:
        """Register the current task as the task to cancel."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - called from a coroutine
        self._work = asyncio.get_running_loop(), task

    def listen(self, event: Event) -> None:
        """Keep the run's id and its tool calls in progress."""
        data = event.data
        call = (data.get("step"), data.get("agent"), data.get("call"))
        if event.kind == "run_started":
            self._run = event.run
        elif event.kind == "run_finished":
            self._over = True
        elif event.kind == "tool_started":
            self._calls[call] = f"`{data['tool']}` of step `{data['step']}`"
        elif event.kind == "tool_finished":
            self._calls.pop(call, None)

    @property
    def run(self) -> str | None:
        """The id of the run; None before the run began."""
        return self._run

    @property
    def has_begun(self) -> bool:
        """Whether a run has begun that can be resumed."""
        return self._run is not None

    # -- in the thread ----------------------------------------------------------------------------

    def watch(self, signals: socket.socket) -> None:
        """Act on signals until their socket is closed."""
        deadline: float | None = None
        while True:
            signals.settimeout(
                None if deadline is None else max(0.001, deadline - time.monotonic())
            )
            try:
                numbers = signals.recv(64)
            except TimeoutError:
                self._exit()
                return
            except OSError:
                return
            if not numbers:
                return
            for number in numbers:
                if self._take(number):
                    deadline = deadline or time.monotonic() + HARD_SECONDS

    def _take(self, number: int) -> bool:
        """Act on a signal; returns whether the run must end at once."""
        if number not in (*SIGNALS, signal.SIGINT):
            return False
        now, before = time.monotonic(), self._last
        self._last = now
        if now - before < GAP_SECONDS:
            return False
        self._asked += 1
        if self._work is None or self._asked > 2:
            self._exit()
        if number == signal.SIGINT:
            self.code = INTERRUPTED
        elif self._asked == 1 and self._run and not self._over:
            name = signal.Signals(number).name
            self._in_loop(self.at_boundary, name)
            self._in_loop(self.say, f"{name}: the run stops after this step; a second one: at once")
            return False
        self._asked = 2
        if self._work:
            self._in_loop(self._work[1].cancel)
        return True

    def _in_loop(self, call: Callable[..., Any], *arguments: Any) -> None:
        if self._work:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._work[0].call_soon_threadsafe(call, *arguments)

    def _exit(self) -> None:
        # No import here: the main thread may be blocked in the middle of one.
        if children := sys.modules.get("fractale.mcp.children"):
            children.kill_children()
        words = "the running call did not end; the process exits without its result"
        if self._run and not self._over:
            words += "".join(f"\nit is not known whether {each} was done" for each in self.unknown)
            words += f"\nnext: {resume_command(self._run)}"
        if moving := sys.modules.get("fractale.render.moving_part"):
            moving.show_keys()
        shown = "\x1b[?25h\r" if os.isatty(2) else ""  # the display has hidden the cursor
        with contextlib.suppress(OSError):
            os.write(2, f"{shown}stopped · {words}\n".encode(errors="backslashreplace"))
        os._exit(self.code)

    @property
    def unknown(self) -> list[str]:
        """The tool calls that have not returned, as text."""
        return [*dict.fromkeys(self._calls.values())]


@contextmanager
def ending_by_signals() -> Generator[Ending]:
    """Let signals end the run in the block; outside the main thread nothing changes.

    Yields:
        The object to which the run reports its task and its events.
    """
    made = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield made
        return
    reads, writes = socket.socketpair()
    writes.setblocking(False)
    # The shell may have started the process with Ctrl-C ignored.
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    numbers = (*SIGNALS, signal.SIGINT) if interrupts else SIGNALS
    before = {number: signal.signal(number, _nothing) for number in numbers}
    for number in numbers:
        signal.siginterrupt(number, False)
    wakes = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=made.watch, args=(reads,), name="signals", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        signal.set_wakeup_fd(wakes)
        for number, handler in before.items():
            signal.signal(number, handler)
        writes.close()
        thread.join()
        reads.close()


def _nothing(*_: Any) -> None:
    """Do nothing: Python has already written the signal to the thread's socket."""
