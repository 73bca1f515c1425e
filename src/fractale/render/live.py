"""The display of a run on a terminal.

Finished steps are printed for good and scroll away like any output. Below them, the display
redraws the moving part: the steps in progress, the next steps, and the time and tokens used. So a
run of a thousand steps needs as little of the screen as a run of three.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import RLock
from typing import TYPE_CHECKING

from fractale.events import Event, Listener
from fractale.render.run_view import Running, RunView
from fractale.render.summary import summary
from fractale.render.text import (
    Line,
    cells,
    clock,
    count,
    fit,
    fold,
    inert,
    plain,
    row,
    shows_unicode,
    writable,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fractale.record.follow import WrittenText
    from fractale.render.moving_part import MovingPart

STYLES = {"": "", "good": "green", "bad": "red", "now": "cyan", "warn": "yellow", "dim": "dim"}
REFRESH_PER_SECOND = 4
SAID_LINES = 2
FOOTER_WIDTH = 80


class LiveDisplay:
    """Shows a run on a terminal, in place.

    Args:
        console: Rich's terminal.
        now: The clock, in Unix time.
        animate: Whether a thread redraws; otherwise each event does.
        elsewhere: Whether another process has the run, see `RunView`.
    """

    def __init__(
        self,
        console: Console,
        *,
        now: Callable[[], float] = time.time,
        animate: bool = True,
        elsewhere: bool = False,
    ) -> None:
        self._console = console
        self._now = now
        self._animate = animate
        self._lock = RLock()
        self._encoding = console.encoding
        self._view = RunView(
            width=console.width,
            unicode=shows_unicode(self._encoding),
            calls=False,
            most=3,
            elsewhere=elsewhere,
        )
        self._moving: MovingPart | None = None
        self._begun = False
        self._held: list[Line] | None = None

    @property
    def listener(self) -> Listener:
        return self._take

    def _take(self, event: Event) -> None:
        # The thread that redraws also reads the view.
        with self._lock:
            self._view.width = self._console.width
            lines = self._view.take(event)
        for line in lines:
            self._print(line)
        if event.kind == "run_started" and self._held is None:
            self.resume()
        elif event.kind == "run_finished":
            self._end(event)
        elif self._moving is not None and not self._animate:
            self._moving.redraw()

    def _end(self, event: Event) -> None:
        self.close()
        if self._begun:
            self._print([])
        color = self._console.color_system is not None and not self._console.no_color
        text = summary(event.data, color=color, width=self._console.width)
        self._console.file.write(writable(text, self._encoding))
        self._console.file.flush()

    def _print(self, line: Line) -> None:
        if self._held is not None:
            self._held.append(line)
            return
        self._begun = True
        is_command = plain(line).lstrip().startswith("fractale ")  # stays whole, to be copied
        self._console.print(
            self._text(line, None if is_command else self._console.width), soft_wrap=True
        )

    def _text(self, line: Line, width: int | None) -> Text:
        """A line, cut to a width."""
        from rich.text import Text

        text = Text(no_wrap=True, end="")
        used, width = 0, width or sum(cells(words) for words, _ in line)
        for words, mark in line:
            # Cut twice: the replacement for a character that the terminal lacks may be longer.
            shown = writable(fit(words, width - used), self._encoding)[: width - used]
            text.append(shown, "" if self._console.no_color else STYLES[mark])
            used += cells(shown)
        return text

    def written(self, texts: Mapping[str, WrittenText]) -> None:
        with self._lock:
            self._view.written(texts)

    def say(self, text: str) -> None:
        self._print(row(fit(text, self._console.width), "dim"))

    def pause(self) -> None:
        """Clear the moving part for a question; `resume` prints the lines that come until then."""
        self._held = []
        self._stop()

    def _stop(self) -> None:
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.stop()

    def _print_held(self) -> None:
        held, self._held = self._held, None
        for line in held or ():
            self._print(line)

    def resume(self) -> None:
        """Draw the moving part, also again after `pause`."""
        self._print_held()
        if self._moving is not None:
            return
        from fractale.render.moving_part import MovingPart

        rate = REFRESH_PER_SECOND if self._animate else 0
        self._moving = MovingPart(self._console, self.render, rate)
        self._moving.start()

    def close(self) -> None:
        """Remove the moving part for good."""
        self._print_held()
        self._stop()

    def render(self) -> list[Text]:
        """The present lines of the moving part."""
        with self._lock:
            lines = self.frame(self._console.width, self._console.height)
            return [self._text(line, self._console.width) for line in lines]

    def frame(self, width: int, height: int) -> list[Line]:
        """The lines of the moving part for a terminal of that size."""
        room = max(height - 3, 2)
        moving = [self._running(running, width) for running in self._view.active.values()]
        lines = _fitting(moving, max(room * 2 // 3, 2))
        lines += self._pending(room - len(lines))
        return [*lines, self._footer(width)]

    def _running(self, running: Running, width: int) -> list[Line]:
        """A step in progress: its line, and its activity."""
        columns = self._view.columns(running.path, running.kind, running.target, running.attempt)
        state = "waits for you" if running.waits else clock(self._now() - running.started)
        tokens = f"   {count(running.tokens, 'token')}" if running.tokens else ""
        words = f"{columns}  {state:>9}{tokens}"
        if running.progress:
            longer = f"{columns}  {f'{running.progress}   {state}':>9}{tokens}"
            words = longer if cells(longer) + 3 <= width else words  # the counts have it, too
        indent = " " * 5
        lines: list[Line] = [[self._view.mark("running"), (words, "")]]
        counts = fold(running.counts, width - 6) if running.counts else []
        lines += [row(f"{indent}{each}", "dim") for each in counts]
        below = [running.activity, running.writing]
        if not running.said.characters:
            below.insert(0, running.description)
        lines += [row(fit(f"{indent}{each}", width), "dim") for each in below if each]
        if not running.writing:
            said = _last_lines(running.said.end, width - 6)
            lines += [row(f"{indent}{words}", "dim") for words in said]
        return lines

    def _pending(self, room: int) -> list[Line]:
        steps = self._view.pending
        shown = steps if len(steps) <= room else steps[: max(room - 1, 0)]
        lines = [row(f"   {inert(str(step['name']))}", "dim") for step in shown]
        if len(shown) < len(steps) and room > 0:
            lines.append(row(f"   … {count(len(steps) - len(shown), 'more step')}", "dim"))
        return lines

    def _footer(self, width: int) -> Line:
        view = self._view
        parts = [clock(max(self._now() - view.started, 0))]
        if limit := view.limits.get("time"):
            parts[0] += f" of {clock(float(limit))}"
        if view.tokens:
            most = view.limits.get("tokens")
            parts.append(count(view.tokens, "token") + (f" of {most:,}" if most else ""))
        if view.cost:
            most = view.limits.get("cost")
            parts.append(f"${view.cost:.3f}" + (f" of ${most:.2f}" if most else ""))
        words = " · ".join(parts)
        # Not at the edge of a wide terminal: a full line breaks in two if the terminal is narrowed.
        return row(" " * max(min(width, FOOTER_WIDTH) - cells(words) - 1, 0) + words, "dim")


def _fitting(steps: list[list[Line]], room: int) -> list[Line]:
    """As many lines of the running steps as fit, each step's first line before any other."""
    heads = [step[0] for step in steps]
    if len(heads) > room:
        more = len(heads) - (room - 1)
        return [*heads[: room - 1], row(f"   … {count(more, 'more step')} in progress", "dim")]
    spare = room - len(heads)
    lines: list[Line] = []
    for head, *rest in steps:
        lines += [head, *rest[:spare]]
        spare -= min(len(rest), spare)
    return lines


def _last_lines(said: str, width: int) -> list[str]:
    """The end of a model's text, in at most two lines."""
    rows = [words.strip() for words in inert(said, lines=True).split("\n") if words.strip()]
    return [_tail(words, max(width, 10)) for words in rows[-SAID_LINES:]]


def _tail(words: str, width: int) -> str:
    return words if cells(words) <= width else f"…{words[-(width - 1) :]}"
