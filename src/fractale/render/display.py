"""The displays of a run: each is a listener of events that shows them in its own way.

On a terminal steps update in place; in a pipe each step is printed once. ``--json`` prints every
event on stdout, and ``--quiet`` prints only the summary. Only events are written to stdout.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

from fractale.events import Event, Listener
from fractale.render.run_view import RunView
from fractale.render.summary import summary
from fractale.render.text import (
    Line,
    plain,
    row,
    screen_width,
    shows_unicode,
    wants_color,
    writable,
)

if TYPE_CHECKING:
    from fractale.record.follow import WrittenText

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
        """A function that expects each event of the run."""
        ...

    def pause(self) -> None:
        """Stop drawing, so that fractale can ask the user."""
        ...

    def resume(self) -> None:
        """Continue after a pause."""
        ...

    def written(self, texts: Mapping[str, WrittenText]) -> None:
        """Show the texts that models are writing in a run of another process."""
        ...

    def say(self, text: str) -> None:
        """Print a line of fractale's own about the run."""
        ...

    def close(self) -> None:
        """End, and restore the terminal."""
        ...


class JsonDisplay:
    """Prints each event as one line of JSON, in ASCII, and flushes it.

    If the reader is gone, the first event raises BrokenPipeError, and later ones are dropped.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._closed = False

    @property
    def listener(self) -> Listener:
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

    def written(self, texts: Mapping[str, WrittenText]) -> None: ...

    def say(self, text: str) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class QuietDisplay:
    """Prints only the summary."""

    def __init__(self, stream: IO[str], *, color: bool = False) -> None:
        self._stream = stream
        self._color = color

    @property
    def listener(self) -> Listener:
        return self._take

    def _take(self, event: Event) -> None:
        if event.kind == "run_finished":
            width = screen_width(self._stream)
            self._write(summary(event.data, color=self._color, width=width))

    def _write(self, text: str) -> None:
        self._stream.write(writable(text, getattr(self._stream, "encoding", None) or "utf-8"))
        self._stream.flush()

    def written(self, texts: Mapping[str, WrittenText]) -> None: ...

    def say(self, text: str) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class PlainDisplay(QuietDisplay):
    """Prints each step once, when it is finished, without color or control codes."""

    def __init__(self, stream: IO[str], *, elsewhere: bool = False) -> None:
        super().__init__(stream)
        unicode = shows_unicode(getattr(stream, "encoding", None) or "utf-8")
        self._view = RunView(width=PLAIN_WIDTH, unicode=unicode, elsewhere=elsewhere)
        self._printed = False

    def _take(self, event: Event) -> None:
        for line in self._view.take(event):
            self._print(line)
        if event.kind == "run_finished" and self._printed:
            self._print([])
        super()._take(event)

    def say(self, text: str) -> None:
        self._print(row(text))

    def _print(self, line: Line) -> None:
        self._printed = True
        self._write(plain(line) + "\n")


@contextmanager
def open_display(
    stdout: IO[str],
    stderr: IO[str],
    *,
    as_json: bool = False,
    quiet: bool = False,
    elsewhere: bool = False,
) -> Generator[Display]:
    """Open the display that fits the streams and the options.

    Args:
        stdout: For events as JSON, and nothing else.
        stderr: For all text for the user.
        elsewhere: Whether another process has the run, see `RunView`.

    Yields:
        The display; it is closed when the block ends.
    """
    display = choose_display(stdout, stderr, as_json=as_json, quiet=quiet, elsewhere=elsewhere)
    try:
        yield display
    finally:
        display.close()


def choose_display(
    stdout: IO[str], stderr: IO[str], *, as_json: bool, quiet: bool, elsewhere: bool = False
) -> Display:
    """Choose a display as `open_display` does; the caller must close it."""
    if as_json:
        return JsonDisplay(stdout)
    if quiet:
        return QuietDisplay(stderr, color=wants_color(stderr))
    console = _console(stderr) if stderr.isatty() else None
    if console is None:
        return PlainDisplay(stderr, elsewhere=elsewhere)
    from fractale.render.live import LiveDisplay

    return LiveDisplay(console, elsewhere=elsewhere)


def _console(stream: IO[str]) -> Any:
    """Rich's console; None if the terminal cannot move its cursor."""
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    return None if console.is_dumb_terminal else console
