"""Runs as they go: one feed per run, shared by all its viewers.

A page of a run consists of parts, and each part is the HTML of an element. The feed reads the run's
record when it has grown, renders the parts anew, and sends its viewers those that differ.
Only files are read, so that viewers cost the run nothing but that.

A feed reads and renders in threads, one at a time (`Feed.lock`). The parts have a lock of their own
that is never held for longer than a copy: the event loop takes only that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from markupsafe import escape

from fractale.errors import FractaleError, StoreError
from fractale.record.follow import RunFollower, WrittenText, texts_being_written
from fractale.record.history import RunHistory
from fractale.render.text import inert
from fractale.runs.mailbox import ASKING
from fractale.store.run_record import RunRecord
from fractale.web.logs import log_of

LOOK: Final = 0.05
"""Seconds between two looks at the sizes of a run's files."""
SLOW_LOOK: Final = 0.2
"""The same on a file system where a look takes long."""
SLOW: Final = 0.002
READ: Final = 1.0
"""Seconds after which the record is read in any case: a process that was killed writes nothing."""
AGE: Final = 5.0
"""Seconds after which the page of a running run is rendered anew, for the times on it."""
SHARE: Final = 3.0
"""Rendering takes at most one part in `SHARE` + 1 of the time, unless it takes long."""
MOST_PAUSE: Final = 0.5
"""The most seconds between two renderings for that reason."""
MOST_FEEDS: Final = 16
MOST_STREAMS: Final = 60
TITLE: Final = "title"
"""The part that is the text of the page's title, with its characters escaped."""
TROUBLE: Final = "part-trouble"
"""The part that says why the others are not up to date."""
MOST_GONE: Final = 1000
"""The most parts that are gone for which open pages still learn it."""
LONGEST_VERSION: Final = 16
MOST_LOGS: Final = 3
"""The most logs of running jobs that a page follows."""

NO_TROUBLE: Final = f'<div id="{TROUBLE}"></div>'
_TROUBLE: Final = (
    '<div id="part-trouble" role="alert" class="fault">'
    "<p>what this page shows may be old: {}</p></div>"
)
NO_TEXTS: Final[Mapping[str, WrittenText]] = {}

Render = Callable[[RunHistory, Mapping[str, WrittenText]], "dict[str, Part]"]
"""Renders the parts of a page, in their order, from a history and the texts being written."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a page.

    Args:
        html: One element, whose id is the part's name.
        into: The id of the element that a new part is added to at the end; empty if the part is
            in every page.
        closed: The element that replaces the part in open pages when it is gone; its id is another
            one. Empty: it is removed there, too.
    """

    html: str
    into: str = ""
    closed: str = ""


@dataclass(slots=True)
class _Sent:
    part: Part
    made: int
    changed: int


class NotShown(StoreError):
    """A run cannot be shown, for a reason that reading its record did not find."""


@dataclass(slots=True, eq=False)
class Feed:
    """The parts of one run's page, each with the version in which it changed last."""

    record: RunRecord
    render: Render
    follower: RunFollower = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    _version: int = 0
    _parts: dict[str, _Sent] = field(default_factory=dict[str, _Sent])
    _gone: list[tuple[str, _Sent]] = field(default_factory=list[tuple[str, _Sent]])
    _parts_lock: threading.Lock = field(default_factory=threading.Lock)
    _viewers: set[asyncio.Event] = field(default_factory=set[asyncio.Event])
    _task: asyncio.Task[None] | None = None
    _seen: tuple[Any, ...] = ()
    _read_at: float = 0.0
    _took: float = 0.0
    _rendered_at: float = 0.0
    _texts: Mapping[str, WrittenText] = field(default_factory=dict[str, WrittenText])
    _stopped: bool = False
    _ended: bool = False  # the record is not read any more

    def __post_init__(self) -> None:
        self.follower = RunFollower(self.record)

    @property
    def history(self) -> RunHistory:
        return self.follower.history

    @property
    def version(self) -> str:
        return f"{self._epoch}-{self._version}"

    # -- reading

    def update(self) -> None:
        """Read what is new, and render the parts anew if anything is.

        Raises:
            StoreError: The record is damaged or was removed; open pages say so, too.
        """
        with self.lock:
            try:
                self._update()
                self._say("")
            except FractaleError as error:
                self._seen = ()
                self._say(error.message)
                raise
            except Exception as error:
                self._seen = ()
                words = f"{type(error).__name__}: {error}"
                told = NotShown(
                    f"run {self.record.run_id} cannot be shown: {inert(words, 200)}",
                    hint="its record is damaged, or this is a fault of fractale",
                )
                self._say(told.message)
                raise told from error

    def _update(self) -> None:
        seen = self._stamp()
        if seen == self._seen and self._parts and time.monotonic() - self._read_at < READ:
            return
        before = self.history.alive
        self._read_at = time.monotonic()
        events = self.follower.read()
        texts = texts_being_written(self.record) if self.history.alive else NO_TEXTS
        same = not events and before == self.history.alive and texts == self._texts
        if same and seen == self._seen and self._parts and not self._is_old():
            return
        self._texts, self._seen = texts, seen
        self._rendered_at = self._read_at
        began = time.thread_time()
        self._take(self.render(self.history, texts))
        self._took = time.thread_time() - began

    def _say(self, trouble: str) -> None:
        """Say in all pages that what they show is not all, and why; empty: it is."""
        part = Part(_TROUBLE.format(escape(inert(trouble, 1000))) if trouble else NO_TROUBLE)
        known = self._parts.get(TROUBLE)
        if (known.part if known else Part(NO_TROUBLE)) != part:
            with self._parts_lock:
                self._version += 1
                self._parts[TROUBLE] = _Sent(part, self._version, self._version)

    def _is_old(self) -> bool:
        """Whether the times of a running run on the page are old."""
        age = self._read_at - self._rendered_at
        return self.history.alive and age >= max(AGE, self._took * 20)

    def parts(self) -> tuple[dict[str, Part], str]:
        """All parts, by name, and their version."""
        self.update()
        with self._parts_lock:
            return {name: sent.part for name, sent in self._parts.items()}, self.version

    def _stamp(self) -> tuple[Any, ...]:
        record, answers = self.record, self.record.answers
        paths = [record.events, record.written, answers, answers / ASKING, *self._logs()]
        return tuple(map(_size_of, paths))

    def _logs(self) -> Iterable[Any]:
        """The logs of the jobs that are in progress, the latest few."""
        running = [
            job for attempt in self.history.attempts[-50:] for job in attempt.jobs if not job.over
        ]
        for job in running[-MOST_LOGS:]:
            yield log_of(self.history, job).path

    def _take(self, parts: dict[str, Part]) -> None:
        with self._parts_lock:
            version = self._version + 1
            taken = {name: self._sent(name, part, version) for name, part in parts.items()}
            if TROUBLE in self._parts:
                taken[TROUBLE] = self._parts[TROUBLE]
            for name in self._parts.keys() - taken.keys():
                sent = self._parts[name]
                self._gone.append((name, _Sent(sent.part, sent.made, version)))
            del self._gone[:-MOST_GONE]
            if taken != self._parts:
                self._version = version
            self._parts = taken

    def _sent(self, name: str, part: Part, version: int) -> _Sent:
        known = self._parts.get(name)
        if known is None:
            return _Sent(part, version, version)
        return known if known.part == part else _Sent(part, known.made, version)

    # -- viewers

    def since(self, at: str) -> tuple[str, str]:
        """The changes after a version, as htmx's partials, and the version that they lead to.

        All parts for an unknown version.
        """
        epoch, _, number = at.partition("-")
        known = epoch == self._epoch and number.isdecimal() and len(number) < LONGEST_VERSION
        since = int(number) if known else -1
        with self._parts_lock:
            parts, gone, version = dict(self._parts), list(self._gone), self.version
        if not known:
            every = {name: sent.part for name, sent in parts.items()}
            return "\n".join(_all_parts(every)), version
        found = [
            _closed(name, sent)
            for name, sent in gone
            if sent.made <= since < sent.changed  # the page has it
        ]
        found += [
            _partial(name, sent.part, is_new=sent.made > since)
            for name, sent in parts.items()
            if sent.changed > since
        ]
        return "\n".join(found), version

    async def changes(self, at: str) -> AsyncGenerator[tuple[str, str]]:
        """Yield the changes after a version with the version that they lead to, as they come."""
        event = asyncio.Event()
        self._viewers.add(event)
        if self._task is None:
            self._ended = False
            self._task = asyncio.create_task(self._follow())
        try:
            while not (self._stopped or self._ended):
                event.clear()
                if at != self.version:
                    html, at = self.since(at)
                    if html:
                        yield html, at
                    continue
                await event.wait()
        finally:
            self._viewers.discard(event)

    def stop(self) -> None:
        """End the streams of all viewers."""
        self._stopped = True
        self._wake()

    def retire(self) -> None:
        """End the streams soon; from any thread."""
        self._stopped = True

    @property
    def is_viewed(self) -> bool:
        """Whether a page follows it."""
        return bool(self._viewers)

    async def _follow(self) -> None:
        """Look at the run's files as long as the page has viewers."""
        pause, due = LOOK, 0.0
        announced = -1  # requests for pages and attempts update the parts, too
        try:
            while self._viewers and not self._stopped:
                began = time.monotonic()
                stale = began - self._read_at >= READ
                if began >= due and (stale or await asyncio.to_thread(self._has_changed)):
                    due = await self._updated()
                    if not due:
                        break
                elif not stale:
                    took = time.monotonic() - began
                    pause = SLOW_LOOK if took > SLOW * 5 else LOOK
                if announced != (announced := self._version):
                    self._wake()
                await asyncio.sleep(pause)
        finally:
            self._task, self._ended = None, True
            self._wake()

    def _has_changed(self) -> bool:
        try:
            return self._stamp() != self._seen
        except Exception:  # noqa: BLE001 - of a damaged record; `update` says so
            return True

    async def _updated(self) -> float:
        """Update the page; returns when to do so next at the earliest, or 0: the record is gone."""
        try:
            await asyncio.to_thread(self.update)
        except FractaleError:  # the page says which
            there = await asyncio.to_thread(self.record.path.exists)
            return time.monotonic() + READ if there else 0
        return time.monotonic() + min(SHARE * self._took, MOST_PAUSE)

    def _wake(self) -> None:
        for event in tuple(self._viewers):
            event.set()


def _partial(name: str, part: Part, *, is_new: bool) -> str:
    if name == TITLE:
        return f"<title>{part.html}</title>"
    if is_new and part.into:
        return (
            f'<hx-partial hx-target="#{_escaped(part.into)}" hx-swap="beforeend">'
            f"{part.html}</hx-partial>"
        )
    return (
        f'<hx-partial hx-target="#{_escaped(name)}" hx-swap="outerMorph">{part.html}</hx-partial>'
    )


def _closed(name: str, sent: _Sent) -> str:
    """What takes a part out of a page that has it."""
    target = f'hx-target="#{_escaped(name)}"'
    if not sent.part.closed:
        return f'<hx-partial {target} hx-swap="delete"></hx-partial>'
    return f'<hx-partial {target} hx-swap="outerHTML">{sent.part.closed}</hx-partial>'


def _all_parts(parts: Mapping[str, Part]) -> list[str]:
    """All parts, for a page of which it is not known which ones it has."""
    found = [_partial(name, part, is_new=False) for name, part in parts.items() if not part.into]
    for into in dict.fromkeys(part.into for part in parts.values() if part.into):
        html = "".join(part.html for part in parts.values() if part.into == into)
        target = f'hx-target="#{_escaped(into)}"'
        found.append(f'<hx-partial {target} hx-swap="innerMorph">{html}</hx-partial>')
    return found


def _escaped(name: str) -> str:
    """An id in a selector, in an attribute: every character but letters and digits is escaped."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\{ord(c):x} " for c in name)


def _size_of(path: Any) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - called twenty times a second
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


class Feeds:
    """The feeds of the runs that were viewed last.

    Args:
        render: See `Render`.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._feeds: OrderedDict[str, Feed] = OrderedDict()
        self._lock = threading.Lock()
        self._streaming: list[Feed] = []

    def of(self, record: RunRecord) -> Feed:
        """The feed of a run.

        Raises:
            StoreError: The record is missing or damaged.
        """
        with self._lock:
            feed = self._feeds.get(record.run_id)
            if feed is None or not feed.record.path.exists():
                if feed is not None:
                    feed.retire()
                feed = self._feeds[record.run_id] = Feed(record, self._render)
            self._feeds.move_to_end(record.run_id)
            idle = [run for run, each in self._feeds.items() if each is not feed]
            for run in idle[: max(0, len(self._feeds) - MOST_FEEDS)]:
                if not self._feeds[run].is_viewed:
                    del self._feeds[run]
            return feed

    @property
    def is_full(self) -> bool:
        """Whether there are as many streams as are allowed."""
        return len(self._streaming) >= MOST_STREAMS

    async def stream(self, feed: Feed, at: str) -> AsyncGenerator[dict[str, str]]:
        """The changes of a feed as server-sent events, until the client leaves or `stop`."""
        self._streaming.append(feed)
        try:
            async with contextlib.aclosing(feed.changes(at)) as changes:
                async for html, version in changes:
                    yield {"data": html, "id": version}
        finally:
            self._streaming.remove(feed)

    def stop(self) -> None:
        """End all streams."""
        with self._lock:
            feeds = [*self._feeds.values(), *self._streaming]
        for feed in feeds:
            feed.stop()
