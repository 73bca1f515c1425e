"""Signals that end a run: at a step's boundary, then at once, at last without waiting for anything.

The first SIGTERM or SIGUSR1 (as Slurm sends before a time limit) stops the run after its step. The
second, and Ctrl-C, cancel what the run waits for: a call that never returns, a server that does not
answer. Where that does not end the process within `HARD_SECONDS`, or at a third signal, the process
exits: a function in a thread, or code that holds up the event loop, cannot be cancelled.

A thread takes the signals, since the event loop may be held up. It cannot run while C code keeps
Python's lock, and then nothing but SIGKILL ends the process.
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

if TYPE_CHECKING:
    from fractale.events import Event

HARD_SECONDS = 10.0
"""How long a cancelled run has to end, with its servers, before the process exits."""

GAP_SECONDS = 0.3
"""Signals that follow each other so closely count once: a batch system may send one to a process
and to its parent, which hands it on."""

STOPPED, INTERRUPTED = 75, 130
"""Exit codes."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(slots=True)
class Ending:
    """How far the end of this process's run has come.

    Attributes:
        at_boundary: Stops the run after its step; takes the signal's name.
        say: Takes a line for the person.
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
        """The task that runs now is the one to be cancelled."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - called from a coroutine
        self._work = asyncio.get_running_loop(), task

    def listen(self, event: Event) -> None:
        """Take note of what is under way."""
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
        """The id of the run; None before it began."""
        return self._run

    @property
    def has_begun(self) -> bool:
        """Whether there is a run that could be resumed."""
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
        """Act on a signal; whether the run is to end at once."""
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
            self._in_loop(self.say, f"{name}: the run stops after this step; again: at once")
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
        # Not imported here: the main thread may be held up in the middle of an import.
        if children := sys.modules.get("fractale.mcp.children"):
            children.kill_children()
        words = "what was under way did not end: the process ends without it"
        if self._run and not self._over:
            words += "".join(f"\nit is not known whether {each} was done" for each in self.unknown)
            words += f"\nnext: fractale resume {self._run}"
        shown = "\x1b[?25h\r" if os.isatty(2) else ""  # the display has hidden the cursor
        with contextlib.suppress(OSError):
            os.write(2, f"{shown}stopped · {words}\n".encode(errors="backslashreplace"))
        os._exit(self.code)

    @property
    def unknown(self) -> list[str]:
        """The tool calls that were begun and have not come back, in words."""
        return [*dict.fromkeys(self._calls.values())]


@contextmanager
def ending_by_signals() -> Generator[Ending]:
    """Have signals end what runs in the block.

    Yields:
        What is to be told of the run. In a thread that is not the main one signals stay as they
        are.
    """
    made = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield made
        return
    reads, writes = socket.socketpair()
    writes.setblocking(False)
    # A shell may have had the process ignore Ctrl-C.
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
    """Python writes the signal to the thread's socket; there is nothing else to do."""
