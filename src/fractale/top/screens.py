"""The screens of `fractale top`: the list of runs, one run, a log, a conversation, the help."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import Key, Paste, Resize
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input

from fractale.render.text import Line, cells, count, fit, inert, narrowed, row
from fractale.sweeps.actions import possible
from fractale.top.conversation import Conversation
from fractale.top.dialogues import Done, guarded
from fractale.top.letters import Letters, fitted
from fractale.top.overview import SORTS, Glance, Rank, chosen
from fractale.top.reading import Frame, OnScreen
from fractale.top.table import heading, list_lines
from fractale.top.widgets import Bar, Palette, ScrolledLines

if TYPE_CHECKING:
    from fractale.top.app import TopApp

T = TypeVar("T")

GUARD_SECONDS: Final = 0.4
"""A line to type in opens after so long without a key: what it is about is on the screen then."""
PANEL_LINES: Final = 9
MOST_WORDS: Final = 200
"""The most characters of a filter."""
DROPPED: Final = "ofl/cr"
"""The keys that the last line leaves out first on a narrow screen; the help has all."""
CURSOR: Final = "\u203a"
ENTER: Final = "\u23ce"


def acting_keys(glance: Glance | None) -> list[tuple[str, str]]:
    """The keys that do something to a run, or to a sweep, in its state."""
    if glance is None:
        return []
    if glance.sweep is not None:
        can = possible(glance.sweep)
        asks = [("a", "answer")] if glance.sweep.asking else []
        cancel = [("c", "cancel")] if "cancel" in can else []
        again = "resume" if "resume" in can else "retry" if "retry" in can else ""
        return [*asks, *cancel, *([("r", again)] if again else [])]
    keys = [("l", "log")]
    if glance.rank <= Rank.WAITS:
        keys.append(("c", "cancel"))
    if glance.rank in (Rank.WAITS, Rank.STOPPED):
        keys.append(("r", "resume"))
    asks = [("a", "answer")] if glance.rank == Rank.ASKS else []
    return [*asks, *keys, ("f", "fork")]


def _keys(actions: Mapping[str, str]) -> dict[str, str]:
    """Key → action, from keys with commas between."""
    return {key: action for keys, action in actions.items() for key in keys.split(",")}


SCROLLING: Final = _keys(
    {
        "up,k": "by(-1)",
        "down,j": "by(1)",
        "pageup,ctrl+b": "page(-1)",
        "pagedown,space,ctrl+f": "page(1)",
        "home,g": "to_start",
        "end,G": "to_end",
        "question_mark,h,f1": "help",
        "q,escape": "back",
    }
)
ACTING: Final = _keys(
    {
        "a": "act('answer')",
        "c": "act('cancel')",
        "r": "act('resume')",
        "f": "act('fork')",
        "l": "log",
    }
)


class KeyScreen(Screen[None]):
    """What all screens share: a title, lines, a message, and the keys in the last line."""

    AUTO_FOCUS = ""
    KEYS: ClassVar[Mapping[str, str]] = {}
    """Key → action. A screen acts on its keys one after the other, before it takes the next."""

    def __init__(self, palette: Palette) -> None:
        super().__init__()
        self.palette = palette
        self.is_ready = False

    def on_mount(self) -> None:
        """Note that its parts are there; subclasses add what they show first."""
        self.is_ready = True

    def on_screen_resume(self) -> None:
        """Read at once what this screen shows."""
        self.top.look()

    @property
    def top(self) -> TopApp:
        return cast("TopApp", self.app)

    @property
    def letters(self) -> Letters:
        return self.palette.letters

    def compose(self) -> ComposeResult:
        yield Bar(self.palette, id="title")
        yield ScrolledLines(self.palette, id="body")
        yield Bar(self.palette, id="message")
        yield Bar(self.palette, id="keys", reverse=True)

    def bar(self, name: str) -> Bar:
        return self.query_one(f"#{name}", Bar)

    @property
    def body(self) -> ScrolledLines:
        return self.query_one("#body", ScrolledLines)

    def wanted(self) -> OnScreen | None:
        """What to read for this screen; None for what the screen below it wants."""
        return None

    def take(self, frame: Frame) -> None:
        """Show what was read."""

    def show_keys(self, keys: Sequence[tuple[str, str]]) -> None:
        self.bar("keys").show(row(fitted(keys, self.size.width, self.letters, DROPPED)))

    def say(self, words: str, mark: Any = "warn") -> None:
        """Show a message above the keys, until the next one; an empty one is a rule."""
        if not self.is_ready:
            return
        if words:
            self.bar("message").show([(fit(f" {words}", self.size.width), mark)])
        else:
            self.bar("message").show(row(self.letters.own("─" * self.size.width), "dim"))

    # -- scrolling

    def action_by(self, number: int) -> None:
        self.body.move_by(number)

    def action_page(self, number: int) -> None:
        self.body.move_by(number * max(self.body.size.height - 1, 1))

    def action_to_start(self) -> None:
        self.body.move_to(0)

    def action_to_end(self) -> None:
        self.body.to_end()

    # -- keys

    async def on_key(self, event: Key) -> None:
        """Act on a key. A key that was typed for this screen is dropped once another is open."""
        if self.app.screen is not self:
            event.stop()
        elif not self.takes(event) and (action := self.KEYS.get(event.key)):
            event.stop()
            await self.run_action(action)

    def takes(self, event: Key) -> bool:
        """Whether a key is text that is being typed, and no command."""
        del event
        return False

    @property
    def run_id(self) -> str | None:
        """The run that keys act on."""
        return None

    @property
    def sweep(self) -> str | None:
        """The sweep whose runs are listed; None: all runs and sweeps are."""
        return None

    def action_act(self, name: str) -> None:
        if run_id := self.run_id:
            self.top.act(name, run_id)

    def action_log(self) -> None:
        if run_id := self.run_id:
            self.app.push_screen(LogScreen(self.palette, run_id, self.sweep))

    def action_help(self) -> None:
        self.app.push_screen(HelpScreen(self.palette))

    def action_back(self) -> None:
        self.dismiss()


class ListScreen(KeyScreen):
    """All runs and sweeps, with a panel about the selected one.

    Args:
        place: The project, as text.
        sweep: Only the runs of this sweep.
    """

    KEYS: ClassVar[Mapping[str, str]] = {
        **SCROLLING,
        **ACTING,
        **_keys({"enter,s,right": "open", "slash": "filter", "o": "sort", "q": "leave"}),
    }

    def __init__(self, palette: Palette, place: str, sweep: str | None = None) -> None:
        super().__init__(palette)
        self._place = place
        self._sweep = sweep
        self._all: Sequence[Glance] = ()
        self._chosen: list[Glance] = []
        self._words = ""
        self._is_typing = False
        self._sort = next(iter(SORTS))
        self._selected: str | None = None
        self._index = 0
        self._first = 0
        self._loaded = False

    def compose(self) -> ComposeResult:
        yield Bar(self.palette, id="title")
        yield Bar(self.palette, id="columns")
        yield ScrolledLines(self.palette, id="body")
        yield Bar(self.palette, id="message")
        yield ScrolledLines(self.palette, id="panel")
        yield Bar(self.palette, id="filter")
        yield Bar(self.palette, id="keys", reverse=True)

    def on_mount(self) -> None:
        self.bar("filter").display = False
        self.bar("title").show(row(" reading the runs …"))
        self.call_after_refresh(self.say, "")

    def on_resize(self, event: Resize) -> None:
        height = event.size.height
        self.panel.styles.height = min(PANEL_LINES, max(height - 12, 0))
        self.panel.display = height >= 15
        self.call_after_refresh(self._draw)
        self.top.look()

    @property
    def panel(self) -> ScrolledLines:
        return self.query_one("#panel", ScrolledLines)

    @property
    def run_id(self) -> str | None:
        return self._selected

    @property
    def sweep(self) -> str | None:
        return self._sweep

    @property
    def _selected_sweep(self) -> str | None:
        """The selected line's ID if it is a sweep."""
        found = self._chosen[self._index] if self._chosen else None
        return found.id if found is not None and found.sweep is not None else None

    def wanted(self) -> OnScreen:
        height = max(self.body.size.height, 1)
        shown = [each.id for each in self._chosen[self._first : self._first + height]]
        width, lines = self.size.width, max(self.panel.size.height, 1)
        return OnScreen(
            shown=shown, run=self._selected, sweep=self._sweep, width=width, height=lines
        )

    def select(self, run_id: str) -> None:
        """Select a run, as soon as it is in the list."""
        self._selected = run_id

    def take(self, frame: Frame) -> None:
        if frame.wanted.sweep != self._sweep:
            return
        self._loaded = True
        if frame.trouble:
            self.say(frame.trouble, "bad")
        self._all = frame.glances
        self._draw()
        if frame.wanted.run == self._selected and frame.wanted.view == "panel":
            self.panel.show(frame.lines)
        is_seen = self.app.screen is self  # others have other wants, and ask for them
        if is_seen and not frame.trouble and frame.wanted != self.wanted():
            self.top.look()

    def _draw(self) -> None:
        """Show the list; the selected run stays selected wherever it has moved."""
        if not self._loaded:
            return
        self._chosen = chosen(self._all, self._words, self._sort)
        ids = [each.id for each in self._chosen]
        if self._selected in ids:
            self._index = ids.index(self._selected)
        self._index = min(max(self._index, 0), max(len(ids) - 1, 0))
        if not ids or self._selected not in ids:
            self._selected = ids[self._index] if ids else None
            self.panel.show([])
        height = max(self.body.size.height, 1)
        most = max(len(ids) - height, 0)
        self._first = min(max(self._first, self._index - height + 1), self._index, most)
        self._first = max(self._first, 0)
        self._show_lines(self._chosen[self._first : self._first + height])

    def _show_lines(self, shown: Sequence[Glance]) -> None:
        width, number = self.size.width, self._index - self._first
        head, lines = list_lines(shown, width, self.top.now(), self.letters)
        if lines:
            lines[number][0] = (self.letters.own(CURSOR), "")
        elif self._all:
            lines = [row(f" no run has {inert(self._words, 60)!r}; Esc shows all")]
        else:
            lines = narrowed([row(" no runs here yet; start one with  fractale run PLAN")], width)
        self.body.show(lines, number if shown else None)
        self.bar("columns").show(head if shown else row(""))
        self.bar("title").show(heading(self._all, self._place, width, self.letters))
        self._show_keys()

    def _show_keys(self) -> None:
        selected = self._chosen[self._index] if self._chosen else None
        if self._is_typing:
            self.show_keys([("", "words, such as a plan, a state or a step"), ("Esc", "all")])
            return
        found = [("Esc", f"all ({fit(inert(self._words), 12)})")] if self._words else []
        order = self._sort.replace(" ", "-") if self._sort != next(iter(SORTS)) else "sort"
        keys = [
            *found,
            (ENTER if self.letters.unicode else "Enter", "open"),
            *acting_keys(selected),
            ("/", "filter"),
            ("o", order),
            ("?", "help"),
            ("q", "back" if self._sweep else "leave"),
        ]
        self.show_keys(keys)

    def _move(self, index: int) -> None:
        if self._chosen:
            self._index = min(max(index, 0), len(self._chosen) - 1)
            self._selected = self._chosen[self._index].id
            self.panel.show([])
            self.say("")
            self._draw()
            self.top.look()

    def action_by(self, number: int) -> None:
        self._move(self._index + number)

    def action_page(self, number: int) -> None:
        self._move(self._index + number * max(self.body.size.height - 1, 1))

    def action_to_start(self) -> None:
        self._move(0)

    def action_to_end(self) -> None:
        self._move(len(self._chosen) - 1)

    def action_open(self) -> None:
        if sweep := self._selected_sweep:
            place = f"{self._place} sweep {sweep}"
            self.app.push_screen(ListScreen(self.palette, place, sweep))
        elif self._selected:
            self.app.push_screen(RunScreen(self.palette, self._selected, self._sweep))

    def action_act(self, name: str) -> None:
        if (sweep := self._selected_sweep) is None:
            super().action_act(name)
        elif name == "fork":
            self.say(f"{sweep} is a sweep: open it, and fork one of its runs")
        else:
            self.top.act_on_sweep(name, sweep)

    def action_log(self) -> None:
        if sweep := self._selected_sweep:
            self.say(f"{sweep} is a sweep: open it, and see the logs of its runs")
        else:
            super().action_log()

    def action_sort(self) -> None:
        names = list(SORTS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self.say(f"sorted by: {self._sort}", "")
        self._draw()

    def action_filter(self) -> None:
        """Take the keys that follow, from the next one on, as words of the filter."""
        self._is_typing = True
        self._show_filter()

    def _show_filter(self) -> None:
        entry = self.bar("filter")
        entry.display = self._is_typing
        line = row(fit(f" /{inert(self._words)}", self.size.width - 1))
        entry.show([*line, (self.letters.own("▏"), "")])
        self._draw()

    def _type(self, words: str) -> None:
        self._words = words
        self._show_filter()

    def on_paste(self, event: Paste) -> None:
        """Add a pasted line to the words of the filter."""
        if self._is_typing:
            self._type(self._words + inert(event.text.partition("\n")[0], MOST_WORDS))

    def _close_filter(self) -> None:
        self._is_typing = False
        self._show_filter()
        self.top.look()

    def action_back(self) -> None:
        """End the filter. Esc alone does not leave: it is pressed too easily."""
        if self._sweep and not self._words and not self._is_typing:
            self.dismiss()
            return
        self._words = ""
        self._close_filter()

    def action_leave(self) -> None:
        """Leave `fractale top`; from the runs of a sweep, go back to all runs."""
        if self._sweep:
            self.dismiss()
        else:
            self.top.leave()

    def takes(self, event: Key) -> bool:
        """Whether a key belongs to the filter that is being typed."""
        if not self._is_typing or event.key == "escape":
            return False
        event.stop()
        if event.key == "enter":
            self._close_filter()
        elif event.key in ("backspace", "ctrl+h"):
            self._type(self._words[:-1])
        elif event.key in ("ctrl+u", "ctrl+w"):
            self._type(" ".join(self._words.split()[:-1]) if event.key == "ctrl+w" else "")
        elif event.is_printable and event.character:
            self._type((self._words + event.character)[:MOST_WORDS])
        return True


class RunScreen(KeyScreen):
    """One run."""

    KEYS: ClassVar[Mapping[str, str]] = {**SCROLLING, **ACTING, "left": "back"}

    def __init__(self, palette: Palette, run_id: str, sweep: str | None = None) -> None:
        super().__init__(palette)
        self._run = run_id
        self._sweep = sweep
        self._glance: Glance | None = None

    @property
    def run_id(self) -> str:
        return self._run

    @property
    def sweep(self) -> str | None:
        return self._sweep

    def on_mount(self) -> None:
        self.say("")
        self.bar("title").show(row(f" {self._run}  reading …"))
        self._show_keys()

    def on_resize(self, event: Resize) -> None:
        del event
        self.call_after_refresh(self._show_keys)
        self.top.look()

    def wanted(self) -> OnScreen:
        width, height = self.size.width, self.size.height
        return OnScreen(run=self._run, sweep=self._sweep, view="run", width=width, height=height)

    def take(self, frame: Frame) -> None:
        if frame.wanted.run != self._run or frame.wanted.view != "run":
            return
        glance = next((each for each in frame.glances if each.id == self._run), None)
        self._glance = glance
        plan = inert(glance.row.plan, 60) if glance else ""
        self.body.show(frame.lines)
        where = f"{count(self.body.below, 'line')} below" if self.body.below else ""
        title = fit(f" {self._run}  {plan}", max(self.size.width - cells(where) - 2, 10))
        gap = " " * max(self.size.width - cells(title) - cells(where) - 1, 1)
        self.bar("title").show([(title, ""), (gap + where, "dim")])
        self._show_keys()

    def _show_keys(self) -> None:
        acting = acting_keys(self._glance)
        scroll = ("↑↓" if self.letters.unicode else "up/down", "scroll")
        keys = [*acting, scroll, ("?", "help"), ("q", "back")]
        self.show_keys(keys)

    def action_by(self, number: int) -> None:
        super().action_by(number)
        self.top.look()


class LogScreen(KeyScreen):
    """The end of a job's log, as it grows."""

    KEYS: ClassVar[Mapping[str, str]] = {**SCROLLING, "left": "other(1)", "right": "other(-1)"}

    def __init__(self, palette: Palette, run_id: str, sweep: str | None = None) -> None:
        super().__init__(palette)
        self._run = run_id
        self._sweep = sweep
        self._log = 0
        self._follows = True

    def on_mount(self) -> None:
        self.say("")
        self.bar("title").show(row(f" {self._run}  reading …"))
        self._show_keys()

    def on_resize(self, event: Resize) -> None:
        del event
        self.call_after_refresh(self._show_keys)
        self.top.look()

    def wanted(self) -> OnScreen:
        width, height = self.size.width, self.size.height
        return OnScreen(
            run=self._run,
            sweep=self._sweep,
            view="log",
            log=self._log,
            width=width,
            height=height,
        )

    def take(self, frame: Frame) -> None:
        if frame.wanted.run != self._run or frame.wanted.log != self._log:
            return
        if frame.wanted.view != "log":
            return
        self.body.show(frame.lines)
        if self._follows:
            self.body.to_end()
        title = f" {self._run}  {frame.title}"
        self.bar("title").show(row(fit(title, self.size.width)))
        self._show_keys()

    def _show_keys(self) -> None:
        arrows = ("←→", "other job") if self.letters.unicode else ("left/right", "other job")
        follows = ("End", "follow") if not self._follows else ("PgUp", "earlier lines")
        self.show_keys([follows, arrows, ("q", "back")])

    def action_other(self, number: int) -> None:
        self._log = max(self._log + number, 0)
        self._follows = True
        self.top.look()

    def action_by(self, number: int) -> None:
        super().action_by(number)
        self._note_place()

    def action_page(self, number: int) -> None:
        super().action_page(number)
        self._note_place()

    def action_to_start(self) -> None:
        super().action_to_start()
        self._note_place()

    def action_to_end(self) -> None:
        super().action_to_end()
        self._note_place()

    def _note_place(self) -> None:
        """Follow the log only while its end is on the screen."""
        self._follows = not self.body.below
        self._show_keys()


HELP: Final = """
 Keys

   ↑ ↓ PgUp PgDn Home End   choose a run, or scroll
   Enter    open the run: verdict, steps, calls, jobs, what to do next
   a        answer its question: the exact call, the draft, the form
   l        the log of its batch job, as it grows
   c        cancel the run, or the jobs of one step
   r        resume it in the background
   f        fork it: a new run from one of its steps, with other inputs
   /        filter: words that the line of a run has; Esc shows all again
   o        another order: needs you, latest, plan, state, tokens, node-hours
   q        back, or leave; runs keep running

 States

   asks       waits for your answer: press a
   running    a process works on it; `job 4711 R n3`: its job runs, PD: it is queued
   waiting    waits for a job or a time without a process
   stopped    its process was killed or cancelled: r resumes it
   limit      it reached a limit of its plan or settings

 A sweep is one line: how many of its rows are done.

   Enter    the runs of the sweep
   a        answer a question for all its runs that ask the same
   c        cancel it, with the batch jobs of its runs
   r        resume it, or retry its failed rows, in the background

 Nothing is answered, cancelled or started by one key: you type a line and Enter.
 A key that you pressed before a question was on the screen is not an answer to it.
"""


class HelpScreen(KeyScreen):
    """The keys and the states."""

    KEYS: ClassVar[Mapping[str, str]] = {**SCROLLING, **_keys({"question_mark,h,f1": "back"})}

    def on_mount(self) -> None:
        self.bar("title").show(row(" fractale top"))
        self.say("")
        self.show_keys([("q", "back")])

    def on_resize(self, event: Resize) -> None:
        lines = [row(self.letters.own(line)) for line in HELP.strip("\n").split("\n")]
        self.body.show(narrowed(lines, event.size.width))


class OpenedLine(Input):
    """The line of a conversation. It takes the keys that were pressed since it was opened."""

    _opened = math.inf

    def open(self) -> None:
        """Take keys from now on, until Enter."""
        self._opened = time.monotonic()
        self.value = ""

    def on_key(self, event: Key) -> None:
        """Drop a key from before; Enter closes the line at once, not after the keys behind it."""
        if event.key == "escape":
            return
        if event.time < self._opened:
            event.stop()
            event.prevent_default()
        elif event.key == "enter":
            event.stop()
            event.prevent_default()
            self._opened = math.inf
            self.post_message(self.Submitted(self, self.value))
            self.value = ""

    def on_paste(self, event: Paste) -> None:
        """Drop a text that was pasted before."""
        if event.time < self._opened:
            event.stop()
            event.prevent_default()


class TalkScreen(Screen[Done]):
    """A conversation: what it is about above, and a line to type in below.

    Args:
        title: The first line.
        work: The conversation.
        ended: Called with its end if the user left the screen before.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False),
        Binding("up", "by(-1)", show=False),
        Binding("down", "by(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
    ]

    AUTO_FOCUS = ""

    def __init__(
        self,
        palette: Palette,
        title: str,
        work: Callable[[Conversation], Awaitable[Done]],
        ended: Callable[[Done | None], None],
    ) -> None:
        super().__init__()
        self._palette = palette
        self._title = title
        self._work = work
        self._ended = ended
        self._said: list[Line] = []
        self._is_left = False
        self._opening: Timer | None = None

    @property
    def is_open(self) -> bool:
        return self.is_running and not self._is_left

    @property
    def entry(self) -> OpenedLine:
        return self.query_one("#entry", OpenedLine)

    def compose(self) -> ComposeResult:
        yield Bar(self._palette, id="title")
        yield ScrolledLines(self._palette, id="body")
        with Horizontal(id="line"):
            yield Bar(self._palette, id="prompt")
            yield OpenedLine(id="entry", compact=True, select_on_focus=False)
        yield Bar(self._palette, id="keys", reverse=True)

    def on_mount(self) -> None:
        self.query_one("#line").display = False
        self.query_one("#title", Bar).show(row(f" {self._title}"))
        self.talk = Conversation(self, cast("TopApp", self.app).environment)
        # Of the application: what was agreed to is done even if the user does not wait for it.
        self.app.run_worker(self._converse(), name="conversation")
        self._show_keys()

    async def _converse(self) -> None:
        done = await guarded(self.talk, self._work(self.talk))
        if self.is_open and self.app.screen is self:
            self.dismiss(done)
        else:
            self._ended(done)

    def on_resize(self, event: Resize) -> None:
        del event
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        body = self.query_one("#body", ScrolledLines)
        body.show(narrowed(self._said, self.size.width))
        body.to_end()
        self._show_keys()

    def _show_keys(self) -> None:
        body = self.query_one("#body", ScrolledLines)
        above = f"PgUp: {count(body.top, 'line')} above" if body.top else ""
        keys = [("Enter", "takes the line"), ("Esc", "leaves it unanswered")]
        letters = self._palette.letters
        self.query_one("#keys", Bar).show(
            row(fitted([*keys, *([("", above)] if above else [])], self.size.width, letters))
        )

    # -- what the conversation uses

    def add(self, *lines: Line) -> None:
        """Show more lines."""
        self._said += lines
        self._draw()

    def prompt(self, words: str, *, hidden: bool) -> None:
        """Show the line to type in, once the user has seen what it is about.

        It opens when all lines are on the screen and no key was pressed for a while since: keys
        typed ahead, however many, are never an answer to something that was not on the screen.
        """
        prompt = self.query_one("#prompt", Bar)
        if cells(words) > self.size.width // 2:
            self.add(row(words.rstrip().removesuffix(">").rstrip()))
            words = "  > "
        prompt.styles.width = cells(words)
        prompt.show(row(words))
        self.entry.password = hidden
        self.call_after_refresh(self._wait_for_quiet)

    def _wait_for_quiet(self) -> None:
        if self._opening is not None:
            self._opening.stop()
        self._opening = self.set_timer(GUARD_SECONDS, self._open_entry)

    def _open_entry(self) -> None:
        self._opening = None
        if self.is_open and self.talk.waits:
            self.query_one("#line").display = True
            self.entry.open()
            self.set_focus(self.entry)

    async def suspended(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that needs the whole terminal; the runs are read meanwhile, too."""
        with self.app.batch_update(), self.app.suspend():  # nothing is drawn
            # An error in this block would leave the terminal as it is.
            done = (await asyncio.gather(work(), return_exceptions=True))[0]
        if isinstance(done, BaseException):
            raise done
        return done

    # -- keys

    def on_key(self, event: Key) -> None:
        """Drop a key that no line was open for, and wait for the end of such keys."""
        if self._opening is not None and (event.is_printable or event.key == "enter"):
            self._wait_for_quiet()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        shown = "(hidden)" if event.input.password else inert(event.value, 2000)
        words = self.query_one("#prompt", Bar).text
        self.set_focus(None)
        self.query_one("#line").display = False  # until the next line is asked for
        self._said.append([(f"{words}", "dim"), (shown, "")])
        self._draw()
        self.talk.typed(event.value)

    def action_leave(self) -> None:
        """Leave the conversation; if something is being done, only its screen."""
        if self.talk.waits:
            self.talk.leave()
            return
        self._is_left = True
        if self.talk.is_agreed:
            self.dismiss(Done(words="in progress; the result is shown here"))
        else:
            self.talk.leave()
            self.dismiss(Done())

    def action_by(self, number: int) -> None:
        self.query_one("#body", ScrolledLines).move_by(number)
        self._show_keys()

    def action_page(self, number: int) -> None:
        self.action_by(number * max(self.query_one("#body", ScrolledLines).size.height - 1, 1))


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so many seconds."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    event.clear()
