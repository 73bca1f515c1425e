"""A sweep while this process drives it: one line of counts, which a terminal redraws.

In a pipe, each row that fails or waits is a line, and the counts are printed now and then.
`JsonRows` prints every change of a row.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from fractale.plain import to_json
from fractale.render.sweep import bar, counts_text, next_lines, sweep_verdict
from fractale.render.text import (
    clock,
    count,
    fit,
    inert,
    paint,
    screen_width,
    wants_color,
    writable,
)
from fractale.runs.result import EXIT_CODES

if TYPE_CHECKING:
    from fractale.sweeps.results import SweepView

PAUSE: Final = 0.1
"""Seconds between two drawings of the line on a terminal."""

PLAIN_PAUSE: Final = 30.0
"""Seconds between two lines of counts in a pipe."""

MOST_ROWS: Final = 20
"""The most lines about single rows in a pipe."""

MOST_WORDS: Final = 200


class Progress(Protocol):
    """Shows a sweep that this process drives."""

    def hear(self, line: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        """Show a new line of the ledger; `counts` is state → number of rows after it."""
        ...

    def say(self, text: str) -> None:
        """Print a line of fractale's own."""
        ...

    def end(self, view: SweepView) -> None:
        """Show how the driving ended."""
        ...

    def leave(self) -> None:
        """Restore the terminal."""
        ...


class LineProgress:
    """One line of counts on stderr, and the verdict at the end.

    Args:
        total: The number of rows.
        quiet: Only the verdict.
    """

    def __init__(self, sweep_id: str, total: int, stream: IO[str], *, quiet: bool) -> None:
        self._id = sweep_id
        self._total = total
        self._stream = stream
        self._quiet = quiet
        self._redraws = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._drawn = 0.0
        self._rows = 0
        self._has_line = False
        self._counts: Mapping[str, int] = {}

    def hear(self, line: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        self._counts = counts
        if self._quiet:
            return
        status = line.get("status") if line.get("is") == "ended" else None
        if status in ("failed", "waiting", "limit") or line.get("is") == "lost":
            self._row(line, str(status or "lost"))
        now = time.monotonic()
        if now - self._drawn >= (PAUSE if self._redraws else PLAIN_PAUSE):
            self._drawn = now
            self._draw()

    def _row(self, line: Mapping[str, Any], status: str) -> None:
        self._rows += 1
        if self._rows > MOST_ROWS:
            if self._rows == MOST_ROWS + 1:
                self.say(f"further rows are only counted: fractale sweep show {self._id}")
            return
        why = line.get("error") or line.get("reason") or ", ".join(line.get("asks") or ())
        words = f": {inert(str(why), MOST_WORDS)}" if why else ""
        self.say(f"row {line.get('row')} {status}{words}")

    def _draw(self) -> None:
        done = self._counts.get("success", 0) + self._counts.get("failed", 0)
        parts = [
            f"{bar(done, self._total)} {done:,}/{self._total:,}",
            counts_text(self._counts),
            clock(time.monotonic() - self._began),
        ]
        text = f"sweep {self._id}  {' · '.join(part for part in parts if part)}"
        if self._redraws:
            text = fit(text, max(20, (screen_width(self._stream) or 80) - 1))
            self._write(f"\r\x1b[K{text}")
            self._has_line = True
        else:
            self._write(f"{text}\n")

    def say(self, text: str) -> None:
        self._erase()
        self._write(f"{text}\n")
        if self._redraws and self._counts and not self._quiet:
            self._draw()

    def end(self, view: SweepView) -> None:
        self._erase()
        color = wants_color(self._stream)
        lines = [*sweep_verdict(view).lines(), *next_lines(view.next)]
        self._write("".join(f"{paint(line, color=color)}\n" for line in lines))

    def leave(self) -> None:
        self._erase()

    def _erase(self) -> None:
        if self._has_line:
            self._write("\r\x1b[K")
            self._has_line = False

    def _write(self, text: str) -> None:
        self._stream.write(writable(text, self._stream.encoding))
        self._stream.flush()


class JsonRows:
    """Each change of a row, and the end, as a line of JSON on stdout."""

    def __init__(self, stream: IO[str], messages: IO[str]) -> None:
        self._stream = stream
        self._messages = messages

    def hear(self, line: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        self._print({"event": "row", **line, "counts": dict(counts)})

    def say(self, text: str) -> None:
        self._messages.write(f"{text}\n")
        self._messages.flush()

    def end(self, view: SweepView) -> None:
        self._print(
            {
                "event": "sweep",
                "id": view.id,
                "status": view.status,
                "exit_code": EXIT_CODES.get(view.status, 1),
                "rows": len(view.rows),
                "counts": dict(view.counts),
                "used": dict(view.used),
                "reached": view.reached,
                "reason": view.reason,
                "next": list(view.next),
            }
        )

    def leave(self) -> None:
        """Nothing is on the screen."""

    def _print(self, data: Mapping[str, Any]) -> None:
        self._stream.write(f"{to_json(data, default=str)}\n")
        self._stream.flush()


def started_line(view_id: str, plan: str, rows: int, where: str) -> str:
    """The first line: ``sweep melt: 96 runs of `relax` on local``."""
    return f"sweep {view_id}: {count(rows, 'run')} of `{inert(plan, 60)}` on {inert(where, 40)}"
