"""The part of a terminal's screen that a display redraws, below the lines that were printed.

Between two drawings the cursor is at the beginning of the moving part, not at its end. A terminal
that breaks its lines anew when its width changes moves the cursor along with the text. So erasing
everything after the cursor removes the whole old drawing at any width.
"""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Callable, Iterable
from threading import Event, Thread
from typing import IO, Any, Final, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment
from rich.text import Text

ERASE: Final = "\r\x1b[K\x1b[C\x1b[J\r"
"""Erases from the cursor's line on. From the first column of the screen's first line, tmux would
move what is erased into its history."""
HIDE_CURSOR: Final = "\x1b[?25l"
SHOW_CURSOR: Final = "\x1b[?25h"
CUT_LINES: Final = "\x1b[?7l"
"""A line that is too long, since the terminal was narrowed just now, takes one row."""
BREAK_LINES: Final = "\x1b[?7h"


class MovingPart(RenderHook):
    """Draws the moving part of a terminal.

    What this process prints meanwhile appears above it. Keys that the user presses are not shown,
    since they would move the cursor.

    Args:
        draw: Returns the present lines, fewer than the terminal has.
        per_second: How often a thread redraws; 0: only `redraw` does.
    """

    def __init__(self, console: Console, draw: Callable[[], list[Text]], per_second: float) -> None:
        self._console = console
        self._draw = draw
        self._keys = _Keys(console.file)
        self._over = Event()
        self._streams = sys.stdout, sys.stderr
        self._thread: Thread | None = None
        if per_second:
            pause = 1 / per_second
            self._thread = Thread(target=self._keep_drawing, args=(pause,), daemon=True)

    def start(self) -> None:
        """Draw it for the first time."""
        self._console.print(_Control(HIDE_CURSOR))
        self._console.push_render_hook(self)
        for name in ("stdout", "stderr"):
            stream: Any = getattr(sys, name)
            if not isinstance(stream, FileProxy):
                setattr(sys, name, FileProxy(self._console, cast("IO[str]", stream)))
        self.redraw()
        if self._thread:
            self._thread.start()

    def redraw(self) -> None:
        """Replace the drawing by one of the present lines."""
        self._keys.hide()  # again: a shell shows them after it has stopped the process
        self._console.print(_Control(""))

    def _keep_drawing(self, pause: float) -> None:
        while not self._over.wait(pause):
            self.redraw()

    def stop(self) -> None:
        """Erase it for good."""
        self._over.set()
        if self._thread:
            self._thread.join()
        sys.stdout, sys.stderr = self._streams
        self._console.pop_render_hook()
        self._console.print(_Control(ERASE + SHOW_CURSOR))
        show_keys()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Have what is printed replace the drawing, with a new one below."""
        return [_Control(ERASE), *renderables, _Drawing(self._draw())]


class _Control:
    """A sequence that controls the terminal."""

    def __init__(self, sequence: str) -> None:
        self._sequence = sequence

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        yield _control(self._sequence)


class _Drawing:
    """Lines, with the cursor at their beginning in the end."""

    def __init__(self, lines: list[Text]) -> None:
        self._lines = lines

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterable[Segment | Text]:
        up = len(self._lines) - 1
        yield _control(CUT_LINES)
        yield Text("\n", no_wrap=True, end="").join(self._lines)
        yield _control("\r" + (f"\x1b[{up}A" if up > 0 else "") + BREAK_LINES)


def _control(sequence: str) -> Segment:
    return Segment(sequence, None, [(ControlType.CURSOR_MOVE_TO_COLUMN, 0)])


class _Keys:
    """Hides the keys that the user presses on the terminal of a stream, if it is one."""

    hidden_on: int | None = None
    """The descriptor of the terminal on which this process hides them."""

    def __init__(self, stream: IO[str]) -> None:
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError):  # a stream in memory
            self._descriptor = None

    def hide(self) -> None:
        if self._descriptor is not None and _echo(self._descriptor, on=False):
            _Keys.hidden_on = self._descriptor


def show_keys() -> None:
    """Let the terminal show keys again, if a moving part of this process has hidden them."""
    descriptor, _Keys.hidden_on = _Keys.hidden_on, None
    if descriptor is not None:
        _echo(descriptor, on=True)


def _echo(descriptor: int, *, on: bool) -> bool:
    """Switch the echo of a terminal; returns whether that was possible."""
    try:
        # A process in the background that changes its terminal would be stopped.
        if os.tcgetpgrp(descriptor) != os.getpgrp():
            return False
        settings = termios.tcgetattr(descriptor)
        flags = settings[3] | termios.ECHO if on else settings[3] & ~termios.ECHO
        if flags != settings[3]:
            settings[3] = flags
            termios.tcsetattr(descriptor, termios.TCSANOW, settings)
    except (OSError, termios.error):  # not a terminal
        return False
    return True
