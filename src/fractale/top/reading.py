"""Reads the data of the screens in a thread: the interface itself never waits for a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from fractale.errors import FractaleError
from fractale.render.sweep import next_lines, sweep_verdict
from fractale.render.text import Line, inert, narrowed, row, shorten_path
from fractale.sweeps.results import SweepView
from fractale.top.letters import Letters
from fractale.top.overview import MALFORMED, Glance, Overview, damage_of
from fractale.top.run_text import RunText, log_tail, logs_of, panel_lines

KeyScreen: TypeAlias = Literal["panel", "run", "log"]

LOG_LINES: Final = 2000
"""The most last lines of a log on its screen."""
MOST_WIDTH: Final = 160
"""The most columns of a run's lines, however wide the screen is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnScreen:
    """The runs and the lines on the screen.

    Args:
        shown: The runs in the list.
        run: The run, or the sweep, that is selected or opened.
        sweep: The sweep whose runs the list has; None for all runs and sweeps.
        view: What is shown of that run.
        log: Which of its jobs' logs, counted from the last one.
        height: The lines that there are for it.
    """

    shown: Sequence[str] = ()
    run: str | None = None
    sweep: str | None = None
    view: KeyScreen = "panel"
    log: int = 0
    width: int = 80
    height: int = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The data that was read for a `OnScreen`.

    Args:
        lines: Of the run, or of the log.
        title: The name of the log, and how many there are.
        trouble: Why the runs cannot be listed.
    """

    wanted: OnScreen
    glances: Sequence[Glance] = ()
    lines: list[Line] = field(default_factory=list[Line])
    title: str = ""
    trouble: str = ""


class FrameReader:
    """Makes frames. Only one thread at a time may call `frame`.

    Args:
        now: The clock, in Unix time.
    """

    def __init__(
        self, state_dir: Path, letters: Letters, *, now: Callable[[], float] = time.time
    ) -> None:
        self._state_dir = state_dir
        self._overviews: dict[str | None, Overview] = {}
        self._letters = letters
        self._now = now
        self._text = RunText(letters)
        self._glances: dict[str | None, Sequence[Glance]] = {}

    def reread(self) -> None:
        """Read the list again, since something was done to a run."""
        for each in self._overviews.values():
            each.reread()

    def _overview_of(self, sweep: str | None) -> Overview:
        for other in [name for name in self._overviews if name not in (None, sweep)]:
            del self._overviews[other]
            self._glances.pop(other, None)
        if sweep not in self._overviews:
            self._overviews[sweep] = Overview(self._state_dir, sweep=sweep)
        return self._overviews[sweep]

    def frame(self, wanted: OnScreen) -> Frame:
        """Read what is wanted; errors become texts."""
        overview = self._overview_of(wanted.sweep)
        try:
            glances = overview.read(wanted.shown, wanted.run)
        except FractaleError as error:
            words = inert(f"{error.message}; {error.hint or 'the list is not up to date'}", 500)
            old = self._glances.get(wanted.sweep, ())
            return Frame(wanted=wanted, glances=old, trouble=words)
        self._glances[wanted.sweep] = glances
        sweep = next((each.sweep for each in glances if each.id == wanted.run), None)
        try:
            if sweep is not None:
                title, lines = "", _sweep_panel(sweep, wanted)
            else:
                title, lines = self._of_run(overview, wanted)
        except (FractaleError, *MALFORMED) as error:
            words = f"run {wanted.run} cannot be shown: {damage_of(error)}"
            title, lines = "", narrowed([row(f" {words}", "bad")], wanted.width)
        return Frame(wanted=wanted, glances=glances, lines=lines, title=title)

    def _of_run(self, overview: Overview, wanted: OnScreen) -> tuple[str, list[Line]]:
        if wanted.run is None:
            return "", []
        width = min(wanted.width, MOST_WIDTH)
        run = overview.run(wanted.run)
        if run is None:
            words = overview.damage(wanted.run) or f"run {wanted.run} was removed"
            return "", narrowed([row(f" {words}", "bad")], width)
        if wanted.view == "panel":
            return "", panel_lines(run, width, wanted.height, self._now(), self._letters)
        if wanted.view == "run":
            return "", self._text.lines(run, width, self._now())
        logs = logs_of(run.history)
        if not logs:
            return "no log", [row(" no batch job of this run has a log", "dim")]
        number = max(len(logs) - 1 - wanted.log, 0)
        log = logs[number]
        which = f"{log.name} ({number + 1} of {len(logs)}) · {inert(shorten_path(str(log.path)))}"
        tail = log_tail(log.path, LOG_LINES, wanted.width)
        return which, [row(line) for line in tail] or [row(" (empty so far)", "dim")]


def _sweep_panel(view: SweepView, wanted: OnScreen) -> list[Line]:
    """A few lines about the selected sweep."""
    verdict = sweep_verdict(view)
    first, *rest = verdict.lines()
    head: Line = [(f"{view.id} {inert(view.plan, 60)} · ", ""), *first]
    lines = [head, *rest, *next_lines(view.next)]
    return narrowed(lines, min(wanted.width, MOST_WIDTH))[: wanted.height]
