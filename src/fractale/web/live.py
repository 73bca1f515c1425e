"""Runs as they go: one feed per run, shared by all its viewers.

A page of a run consists of parts, and each part is the HTML of an element. The feed reads the run's
record when it has grown, renders the parts anew, and sends its viewers those that differ.
Only files are read, so that viewers cost the run nothing but that.
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

from fractale.errors import FractaleError
from fractale.record.follow import RunFollower, WrittenText, texts_being_written
from fractale.record.history import RunHistory
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
MOST_LOGS: Final = 3
"""The most logs of running jobs that a page follows."""

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
    """

    html: str
    into: str = ""


@dataclass(slots=True)
class _Sent:
    part: Part
    made: int
    changed: int


@dataclass(slots=True)
class Feed:
    """The parts of one run's page, each with the version in which it changed last."""

    record: RunRecord
    render: Render
    follower: RunFollower = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    _version: int = 0
    _parts: dict[str, _Sent] = field(default_factory=dict[str, _Sent])
    _gone: dict[str, int] = field(default_factory=dict[str, int])
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
        """Read what is new, and render the parts anew if anything is."""
        with self.lock:
            seen = self._stamp()
            if seen == self._seen and self._parts and time.monotonic() - self._read_at < READ:
                return
            before = self.history.alive
            events = self.follower.read()
            texts = texts_being_written(self.record) if self.history.alive else NO_TEXTS
            self._read_at = time.monotonic()
            same = not events and before == self.history.alive and texts == self._texts
            if same and seen == self._seen and self._parts and not self._is_old():
                return
            self._texts, self._seen = texts, seen
            self._rendered_at = self._read_at
            began = time.thread_time()
            self._take(self.render(self.history, texts))
            self._took = time.thread_time() - began

    def _is_old(self) -> bool:
        """Whether the times of a running run on the page are old."""
        age = self._read_at - self._rendered_at
        return self.history.alive and age >= max(AGE, self._took * 20)

    def parts(self) -> tuple[dict[str, Part], str]:
        """All parts, by name, and their version."""
        self.update()
        with self.lock:
            return {name: sent.part for name, sent in self._parts.items()}, self.version

    def _stamp(self) -> tuple[Any, ...]:
        paths = [self.record.events, self.record.written, *self._logs()]
        return tuple(map(_size_of, paths))

    def _logs(self) -> Iterable[Any]:
        """The logs of the jobs that are in progress, the latest few."""
        running = [
            job for attempt in self.history.attempts[-50:] for job in attempt.jobs if not job.over
        ]
        for job in running[-MOST_LOGS:]:
            yield log_of(self.history, job).path

    def _take(self, parts: dict[str, Part]) -> None:
        version = self._version + 1
        changed = False
        for name, part in parts.items():
            known = self._parts.get(name)
            if known is None:
                self._parts[name], changed = _Sent(part, version, version), True
                self._gone.pop(name, None)
            elif known.part != part:
                known.part, known.changed, changed = part, version, True
        for name in self._parts.keys() - parts.keys():
            del self._parts[name]
            self._gone[name], changed = version, True
        if changed:
            self._version = version

    # -- viewers

    def since(self, at: str) -> str:
        """The changes after a version, as htmx's partials; all parts for an unknown version."""
        epoch, _, number = at.partition("-")
        known = epoch == self._epoch and number.isdecimal()
        since = int(number) if known else -1
        with self.lock:
            found = [
                _partial(name, sent.part, is_new=known and sent.made > since)
                for name, sent in self._parts.items()
                if sent.changed > since
            ]
            gone = [name for name, version in self._gone.items() if version > since]
        found += [
            f'<hx-partial hx-target="#{_escaped(n)}" hx-swap="delete"></hx-partial>' for n in gone
        ]
        return "\n".join(found)

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
                    version, html = self.version, self.since(at)
                    at = version
                    if html:
                        yield html, version
                    continue
                await event.wait()
        finally:
            self._viewers.discard(event)

    def stop(self) -> None:
        """End the streams of all viewers."""
        self._stopped = True
        for event in self._viewers:
            event.set()

    async def _follow(self) -> None:
        """Look at the run's files as long as the page has viewers."""
        pause, due, version = LOOK, 0.0, self._version
        try:
            while self._viewers and not self._stopped:
                began = time.monotonic()
                stale = began - self._read_at >= READ
                if began >= due and (stale or await asyncio.to_thread(self._stamp) != self._seen):
                    await asyncio.to_thread(self.update)
                    due = time.monotonic() + min(SHARE * self._took, MOST_PAUSE)
                elif not stale:
                    took = time.monotonic() - began
                    pause = SLOW_LOOK if took > SLOW * 5 else LOOK
                if self._version != version:  # a request may have updated it, too
                    version = self._version
                    for event in self._viewers:
                        event.set()
                await asyncio.sleep(pause)
        except FractaleError:  # the record is damaged, or was removed: the page shows which
            pass
        finally:
            self._task, self._ended = None, True
            for event in self._viewers:
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
        self._streams = 0

    def of(self, record: RunRecord) -> Feed:
        """The feed of a run."""
        feed = self._feeds.get(record.run_id)
        if feed is None or not feed.record.path.exists():
            feed = self._feeds[record.run_id] = Feed(record, self._render)
        self._feeds.move_to_end(record.run_id)
        while len(self._feeds) > MOST_FEEDS:
            self._feeds.popitem(last=False)
        return feed

    @property
    def is_full(self) -> bool:
        """Whether there are as many streams as are allowed."""
        return self._streams >= MOST_STREAMS

    async def stream(self, feed: Feed, at: str) -> AsyncGenerator[dict[str, str]]:
        """The changes of a feed as server-sent events, until the client leaves or `stop`."""
        self._streams += 1
        try:
            async with contextlib.aclosing(feed.changes(at)) as changes:
                async for html, version in changes:
                    yield {"data": html, "id": version}
        finally:
            self._streams -= 1

    def stop(self) -> None:
        """End all streams."""
        for feed in self._feeds.values():
            feed.stop()
