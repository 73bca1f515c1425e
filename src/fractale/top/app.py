"""`fractale top` as a Textual application."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import ClassVar, Final

from textual.app import App
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches

from fractale.runs.actions import Actions
from fractale.store.run_record import RunRecords
from fractale.sweeps.actions import SweepActions
from fractale.top.conversation import Conversation
from fractale.top.dialogues import Ask, Dialogues, Done
from fractale.top.letters import Letters
from fractale.top.overview import Rank
from fractale.top.reading import Frame, FrameReader, OnScreen
from fractale.top.screens import KeyScreen, ListScreen, TalkScreen, pause
from fractale.top.sweep_dialogues import SweepDialogues
from fractale.top.widgets import Palette

BUSY_PAUSE: Final = 0.5
IDLE_PAUSE: Final = 2.0
"""Seconds between two looks at the runs, if a process works on one of them and if none does."""


class TopApp(App[None]):
    """All runs of a state directory, as they go.

    Args:
        state_dir: Has the runs.
        place: The project, as the heading names it.
        ask: Asks one question in a conversation.
        environment: Names the user's editor.
        color: Whether marks are colors.
        now: The clock, in Unix time.

    Attributes:
        failure: The unexpected error that ended it.
    """

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "leave", show=False, priority=True),
        Binding("ctrl+q", "leave", show=False, priority=True),
    ]
    CSS = """
    Screen, KeyScreen, Horizontal, Input, ScrolledLines, Bar {
        background: ansi_default; color: ansi_default;
    }
    #line { height: 1; }
    Input, Input:focus { border: none; height: 1; padding: 0; background: ansi_default; }
    Input > .input--cursor { background: ansi_default; color: ansi_default; text-style: reverse; }
    """

    def __init__(
        self,
        state_dir: Path,
        actions: Actions,
        ask: Ask,
        *,
        place: str,
        environment: Mapping[str, str],
        unicode: bool = True,
        color: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.animation_level = "none"
        self.environment = environment
        self.now = now
        letters = Letters(unicode=unicode)
        self._palette = Palette(letters, color=color)
        self._reader = FrameReader(state_dir, letters, now=now)
        self._dialogues = Dialogues(RunRecords(state_dir), actions, ask)
        sweeps = SweepActions(actions.settings, by=actions.by)
        self._sweep_dialogues = SweepDialogues(sweeps, ask)
        self._place = place
        self._look = asyncio.Event()
        self._list: ListScreen | None = None
        self.failure: Exception | None = None

    def get_default_screen(self) -> ListScreen:
        self._list = ListScreen(self._palette, self._place)
        return self._list

    def on_mount(self) -> None:
        self.run_worker(self._read(), name="reading")

    def _fatal_error(self) -> None:
        """End after an unexpected error, without a traceback: the command raises it again."""
        self.failure = self.failure or self._exception
        self._close_messages_no_wait()

    def look(self) -> None:
        """Read the runs now."""
        self._look.set()

    def leave(self) -> None:
        """End the application. Runs keep running."""
        self.exit()

    def action_leave(self) -> None:
        self.leave()

    async def _read(self) -> None:
        """Read what the screens show, again and again."""
        while True:
            views = [
                each for each in self.screen_stack if isinstance(each, KeyScreen) and each.is_ready
            ]
            wanted = next(filter(None, (view.wanted() for view in reversed(views))), OnScreen())
            frame = await asyncio.to_thread(self._reader.frame, wanted)
            for view in views:
                with contextlib.suppress(NoMatches):  # of a screen that is being closed
                    view.take(frame)
            await pause(self._look, BUSY_PAUSE if _is_busy(frame) else IDLE_PAUSE)

    def act(self, name: str, run_id: str) -> None:
        """Begin a conversation about a run: ``answer``, ``cancel``, ``resume`` or ``fork``."""
        self._talk_about(f"{name} run {run_id}", getattr(self._dialogues, name), run_id)

    def act_on_sweep(self, name: str, sweep_id: str) -> None:
        """Begin a conversation about a sweep: ``answer``, ``cancel`` or ``resume``."""
        self._talk_about(f"{name} sweep {sweep_id}", getattr(self._sweep_dialogues, name), sweep_id)

    def _talk_about(
        self, title: str, dialogue: Callable[[Conversation, str], Awaitable[Done]], about: str
    ) -> None:
        def ended(done: Done | None) -> None:
            self._reader.reread()
            if done is not None and done.words:
                for screen in self.screen_stack:
                    if isinstance(screen, KeyScreen):
                        screen.say(done.words)
            if done is not None and done.run and self._list is not None:
                self._list.select(done.run)
            self.look()

        screen = TalkScreen(self._palette, title, lambda talk: dialogue(talk, about), ended)
        self.push_screen(screen, ended)


def _is_busy(frame: Frame) -> bool:
    return frame.wanted.view == "log" or any(each.rank <= Rank.RUNS for each in frame.glances)
