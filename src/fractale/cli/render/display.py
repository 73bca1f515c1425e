"""The displays of a run: each takes the stream of events and shows it in its own way.

On a terminal steps update in place, in a pipe each is printed once, ``--json`` prints every
event on stdout, and ``--quiet`` only tells how the run ended. None of them writes anything but
events to stdout.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any, Protocol

from fractale.cli.render.summary import summary
from fractale.cli.render.text import Line, plain, screen_width, shows_unicode, wants_color, writable
from fractale.cli.render.view import RunView
from fractale.events import Event, Listener

__all__ = [
    "Display",
    "JsonDisplay",
    "PlainDisplay",
    "QuietDisplay",
    "open_display",
    "summary",
]

PLAIN_WIDTH = 100


class Display(Protocol):
    """Shows one run."""

    @property
    def listener(self) -> Listener:
        """Takes each event of the run."""
        ...

    def pause(self) -> None:
        """Stand still, so that a person can be asked."""
        ...

    def resume(self) -> None:
        """Go on after a pause."""
        ...

    def close(self) -> None:
        """End, and leave the terminal as it was."""
        ...


class JsonDisplay:
    """Prints each event as one line of JSON, in ASCII, and flushes it.

    Where the reader has gone, the event raises BrokenPipeError, once; the later ones are
    dropped.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._closed = False

    @property
    def listener(self) -> Listener:
        """Takes each event of the run."""
        return self._take

    def _take(self, event: Event) -> None:
        if self._closed:
            return
        try:
            self._stream.write(json.dumps(event.as_dict(), separators=(",", ":")) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self._closed = True
            raise

    def pause(self) -> None:
        """Nothing moves."""

    def resume(self) -> None:
        """Nothing moved."""

    def close(self) -> None:
        """Nothing is held."""


class QuietDisplay:
    """Only tells how the run ended."""

    def __init__(self, stream: IO[str], *, color: bool = False) -> None:
        self._stream = stream
        self._color = color

    @property
    def listener(self) -> Listener:
        """Takes each event of the run."""
        return self._take

    def _take(self, event: Event) -> None:
        if event.kind == "run_finished":
            width = screen_width(self._stream)
            self._write(summary(event.data, color=self._color, width=width))

    def _write(self, text: str) -> None:
        self._stream.write(writable(text, getattr(self._stream, "encoding", None) or "utf-8"))
        self._stream.flush()

    def pause(self) -> None:
        """Nothing moves."""

    def resume(self) -> None:
        """Nothing moved."""

    def close(self) -> None:
        """Nothing is held."""


class PlainDisplay(QuietDisplay):
    """Prints each step once, when it is finished, without colour or control codes."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        unicode = shows_unicode(getattr(stream, "encoding", None) or "utf-8")
        self._view = RunView(width=PLAIN_WIDTH, unicode=unicode)
        self._printed = False

    def _take(self, event: Event) -> None:
        for line in self._view.take(event):
            self._print(line)
        if event.kind == "run_finished" and self._printed:
            self._print([])
        super()._take(event)

    def _print(self, line: Line) -> None:
        self._printed = True
        self._write(plain(line) + "\n")


@contextmanager
def open_display(
    stdout: IO[str], stderr: IO[str], *, as_json: bool = False, quiet: bool = False
) -> Generator[Display]:
    """The display that fits the streams and what the person asked for.

    Args:
        stdout: Takes the events where they are asked for as JSON, and nothing else.
        stderr: Takes what is meant for people.

    Yields:
        A display; it has ended when the block does.
    """
    display = choose_display(stdout, stderr, as_json=as_json, quiet=quiet)
    try:
        yield display
    finally:
        display.close()


def choose_display(stdout: IO[str], stderr: IO[str], *, as_json: bool, quiet: bool) -> Display:
    """As `open_display`, to be closed by the caller."""
    if as_json:
        return JsonDisplay(stdout)
    if quiet:
        return QuietDisplay(stderr, color=wants_color(stderr))
    console = _console(stderr) if stderr.isatty() else None
    if console is None:
        return PlainDisplay(stderr)
    from fractale.cli.render.live import LiveDisplay

    return LiveDisplay(console)


def _console(stream: IO[str]) -> Any:
    """A console of rich on a terminal; None where the terminal cannot move its cursor."""
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    return None if console.is_dumb_terminal else console
