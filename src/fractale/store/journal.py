"""The call journal: the calls that a run makes and their results, recorded before anything else.

A checkpoint is written after a step, but a process can die between a call and its checkpoint. So
the journal has two entries per call: the intent before it is made, and the result before it is
used. When the run is resumed, a recorded result is used as it is. An intent without a result means
that the call may have happened.

A killed process loses nothing that it wrote; a power cut may lose what is not synced. So the intent
of a call that is not safe to repeat is on the disk before the call is made (`Journal.synced`). Its
result needs no sync of its own: the next intent's sync covers it, or one that follows within
`SOON`. If a power cut comes first, the call counts as one that may have happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from fractale.errors import StoreError
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.private import append_line, open_private
from fractale.store.outputs import FileOutputs, divided, encode, whole

Kind = Literal["tool", "model", "prompt"]

SOON = 0.05
"""Seconds until the result of a call is synced, if no other call does it earlier."""

SUM = b', "sum": "'
SUM_TAIL = len(b'01234567"}\n')


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSite:
    """Where in a run a call is made.

    Args:
        task: LangGraph's namespace of the task that makes it: the same if the task runs again,
            but another at the next attempt of the step.
        number: Which call of this task it is, from 1. A retry of the task starts again at 1, with
            a higher `tries`.
        tries: Which try of LangGraph's retry policy makes it, from 1.
        step: The step's path. With `attempt` and `agent`, for readers and for replays.

    Attributes:
        key: A short form of `task`, `tries` and `number`, unique in the run.
    """

    task: str
    number: int
    tries: int
    step: str
    attempt: int
    agent: str = ""
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = f"{self.task}#{self.tries}#{self.number}"
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest()[:24])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a tool, a model or a prompt.

    Args:
        name: The tool, the model or the prompt.
        digest: A hash of its arguments.
        safe: Whether a second call does no harm. Then its intent need not survive a power cut.
        given: Of a request to a model: a hash without fractale's own prompts and schemas; empty if
            it has none of them.
    """

    kind: Kind
    name: str
    digest: str
    safe: bool = False
    given: str = ""


@dataclass(frozen=True, slots=True)
class KnownCall:
    """The journal's entry of a call that was begun.

    Args:
        done: Whether its result is known. If not, it is unknown whether the call was made.
        replayed: Whether it is from the record that is replayed: the replay counts it as its own.
    """

    call: Call
    done: bool
    result: Any = None
    replayed: bool = False


class Journal(Protocol):
    """Records the calls of one run. This class itself, as `NoJournal`, records nothing.

    A call is begun, then finished, or withdrawn if it ended before it had any effect. A call that
    is not safe to repeat is made after `synced` has returned. Each method that writes raises
    StoreError if it fails; then the call must not be made.
    """

    def find(self, site: CallSite, call: Call) -> KnownCall | None:
        """The entry of the call at a site; None if the call was not begun.

        Raises:
            StoreError: Another call was begun there.
        """
        return None

    def is_begun(self, site: CallSite, call: Call) -> bool:
        """Whether an earlier process of this run began this very call there."""
        return False

    def begin(self, site: CallSite, call: Call) -> None:
        """Record that the call is about to be made."""
        return

    async def synced(self) -> None:
        """Return when all that was recorded so far is on the disk, without blocking the loop."""
        return

    def sync(self) -> None:
        """The same for a caller that cannot await: the thread waits for the disk."""
        return

    def finish(self, site: CallSite, call: Call, result: Any) -> Any:
        """Record the call's result, as JSON; returns it as a resumed run would read it."""
        return result

    def withdraw(self, site: CallSite) -> None:
        """Record that the call had no effect: it may be made again."""
        return

    def note(self, site: CallSite, what: Mapping[str, Any]) -> None:
        """Record how a call without a result ended: replay needs it, resuming does not."""
        return

    def commit(self, sites: Iterable[CallSite]) -> None:
        """Forget calls whose step has a checkpoint."""
        return

    def unfinished(self) -> list[tuple[str, str]]:
        """Step and tool of each unsafe call that was begun and has no result."""
        return []

    def close(self) -> None:
        """Write nothing after this."""
        return


class NoJournal(Journal):
    """The `Journal` of a run that is not recorded."""


class MemoryJournal(Journal):
    """A `Journal` in memory, which another process can continue from its `values`.

    It has the calls of one step of a plan's graph, with those of everything inside the step. The
    first call of the next step replaces them. Not before: a step can be cut off after its last
    call and before its checkpoint.

    An approved call is approved anew when its node runs again (`is_begun` is false): LangGraph
    gives a node its answers in the order of the questions, so this order must not change.

    Args:
        values: Of an earlier process.
        outer: LangGraph's namespace of the plan's graph, if that is inside another graph.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, outer: str = "") -> None:
        self._calls: dict[str, dict[str, Any]] = dict(values or {})
        self._outer = outer
        self._node = next((each["node"] for each in self._calls.values()), "")

    def values(self) -> dict[str, Any]:
        """All calls by their keys, as JSON."""
        return dict(self._calls)

    @property
    def node(self) -> str:
        """LangGraph's name of the task whose calls these are; empty if there is none."""
        return self._node if self._calls else ""

    def _node_of(self, site: CallSite) -> str:
        return site.task.removeprefix(self._outer).lstrip("|").partition("|")[0]

    def find(self, site: CallSite, call: Call) -> KnownCall | None:
        """The entry of the call at a site; None if the call was not begun.

        Raises:
            StoreError: Another call was begun at this site.
        """
        known = self._calls.get(site.key)
        if known is None:
            return None
        was = Call(**{name: known[name] for name in ("kind", "name", "digest", "safe")})
        _check_same(site, was, call)
        if "result" not in known:
            return KnownCall(was, done=False)
        return KnownCall(was, done=True, result=known["result"])

    def begin(self, site: CallSite, call: Call) -> None:
        """Record that the call is about to be made."""
        node = self._node_of(site)
        if node != self._node:
            self._calls.clear()
            self._node = node
        self._calls[site.key] = {"node": node, "step": site.step, **asdict(call)}

    def finish(self, site: CallSite, call: Call, result: Any) -> Any:
        """Record the call's result, as JSON."""
        if known := self._calls.get(site.key):
            known["result"] = result
        return result

    def withdraw(self, site: CallSite) -> None:
        """Record that the call had no effect: it may be made again."""
        self._calls.pop(site.key, None)

    def unfinished(self) -> list[tuple[str, str]]:
        """Step and tool of each unsafe call that was begun and has no result."""
        return [
            (each["step"], each["name"])
            for each in self._calls.values()
            if "result" not in each and each["kind"] == "tool" and not each["safe"]
        ]


class MaskedJournal(Journal):
    """Masks secrets in everything that is written to another journal."""

    def __init__(self, journal: Journal, masker: Masker) -> None:
        self._journal = journal
        self._masker = masker
        self.find = journal.find
        self.is_begun = journal.is_begun
        self.begin = journal.begin
        self.synced = journal.synced
        self.sync = journal.sync
        self.withdraw = journal.withdraw
        self.commit = journal.commit
        self.unfinished = journal.unfinished
        self.close = journal.close

    def finish(self, site: CallSite, call: Call, result: Any) -> Any:
        """Record the result, masked; returns the masked result."""
        return self._journal.finish(site, call, self._masker(result))

    def note(self, site: CallSite, what: Mapping[str, Any]) -> None:
        self._journal.note(site, self._masker(dict(what)))


def _check_same(site: CallSite, was: Call, call: Call) -> None:
    """Check that a call is the one that was begun at its site.

    Raises:
        StoreError: It is another call.
    """
    if call.kind == "tool" and (was.name, was.digest) != (call.name, call.digest):
        raise StoreError(
            f"step `{site.step}` made another call when the run came here first: "
            f"`{was.name}`; now it would be `{call.name}`, or with other arguments",
            hint="what the step reads has changed since; start a new run",
        )


def digest_of(value: Any) -> str:
    """A hash of a JSON value."""
    return hashlib.sha256(encode(value)).hexdigest()[:24]


def outputs_of(journal: Path) -> FileOutputs:
    """The large texts of a journal's results."""
    return FileOutputs(journal.with_name("outputs"))


def result_in(line: Mapping[str, Any], outputs: FileOutputs) -> Any:
    """The result in a line of a journal.

    Raises:
        StoreError: A large text of it is missing or damaged.
    """
    return whole(line["result"], line.get("parts") or (), outputs.get_text)


@dataclass(frozen=True, slots=True)
class _Known:
    """A call in the file, and the bytes of the line with its result, if it has one."""

    call: Call
    start: int = 0
    length: int = 0
    step: str = ""


class FileJournal(Journal):
    """A `Journal` in an append-only file of one JSON object per line.

    Calls that wait for the disk at the same time share one sync, which another thread makes.

    Args:
        path: The file; it is read once, and made at the first call. Large texts of results are in
            ``outputs`` beside it.
        sync: Returns when the data of an open file is on the disk.

    Raises:
        StoreError: The file is damaged.
    """

    def __init__(self, path: Path, *, sync: Callable[[int], None] = os.fdatasync) -> None:
        self._path = path
        self._outputs = outputs_of(path)
        self._sync = sync
        self._known: dict[str, _Known] = {}
        self._begun: dict[str, tuple[str, str]] = {}  # also calls that were withdrawn since
        self._descriptor: int | None = None
        self._end = self._on_disk = 0
        self._owed = 0  # the end of the last line that must be on the disk
        self._fault: StoreError | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._syncing: asyncio.Future[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        try:
            for line, length in _lines(path):
                self._take(line, length)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(
                f"the run's journal {path} cannot be read: {error}",
                hint="what its calls did is in events.jsonl beside it; start the run again, or "
                "fork it at a step that is sure",
            ) from error
        self._on_disk = self._owed = self._end

    def _take(self, line: Mapping[str, Any], length: int) -> None:
        key, start = str(line["key"]), self._end
        self._end += length
        if "told" in line:
            return
        if "withdrawn" in line:
            self._known.pop(key, None)
        elif "result" in line:
            if begun := self._known.get(key):
                self._known[key] = _Known(begun.call, start, length)
        else:
            words = {name: line[name] for name in ("kind", "name", "digest", "safe")}
            self._known[key] = _Known(Call(**words), step=str(line.get("step", "")))
            self._begun[key] = (words["name"], words["digest"])

    def find(self, site: CallSite, call: Call) -> KnownCall | None:
        """The entry of the call at a site; None if the call was not begun.

        Raises:
            StoreError: Another call was begun at this site.
        """
        known = self._known.get(site.key)
        if known is None:
            return None
        was = known.call
        _check_same(site, was, call)
        if not known.length:
            return KnownCall(was, done=False)
        return KnownCall(was, done=True, result=self._read(known))

    def is_begun(self, site: CallSite, call: Call) -> bool:
        return self._begun.get(site.key) == (call.name, call.digest)

    def _read(self, known: _Known) -> Any:
        try:
            with self._path.open("rb") as file:
                file.seek(known.start)
                line = json.loads(file.read(known.length))
        except (OSError, ValueError) as error:
            raise StoreError(f"the run's journal {self._path} is damaged: {error}") from error
        return result_in(line, self._outputs)

    def begin(self, site: CallSite, call: Call) -> None:
        """Record that the call is about to be made.

        Raises:
            StoreError: It cannot be written: the call must not be made.
        """
        self._check_sound()
        line = {
            "key": site.key,
            "step": site.step,
            "attempt": site.attempt,
            "agent": site.agent,
            "kind": call.kind,
            "name": call.name,
            "digest": call.digest,
            "safe": call.safe,
        }
        if call.given:
            line["given"] = call.given
        self._write(line)
        if not call.safe:
            self._owed = self._end

    def finish(self, site: CallSite, call: Call, result: Any) -> Any:
        """Record the result; unless the call is safe, the line is synced soon.

        Raises:
            StoreError: It cannot be written.
        """
        short, parts = divided(result, self._outputs.put_text)
        self._write({"key": site.key, "result": short, **({"parts": parts} if parts else {})})
        if not call.safe:
            self._owed = self._end
            self._sync_soon()
        return result

    def withdraw(self, site: CallSite) -> None:
        """Record that the call ended before it did anything: it may be made again.

        Raises:
            StoreError: It cannot be written.
        """
        self._write({"key": site.key, "withdrawn": True})

    def note(self, site: CallSite, what: Mapping[str, Any]) -> None:
        """Record how a call without a result ended: replay needs it, resuming does not.

        Raises:
            StoreError: It cannot be written.
        """
        self._write({"key": site.key, "told": dict(what)})

    def commit(self, sites: Iterable[CallSite]) -> None:
        """Forget calls whose step has a checkpoint; the file keeps them."""
        for site in sites:
            self._known.pop(site.key, None)
            self._begun.pop(site.key, None)

    def unfinished(self) -> list[tuple[str, str]]:
        """Step and tool of each call whose outcome is unknown and that is not safe to repeat."""
        left = (known for known in self._known.values() if not known.length)
        return [
            (known.step, known.call.name)
            for known in left
            if known.call.kind == "tool" and not known.call.safe
        ]

    def _write(self, line: Mapping[str, Any]) -> None:
        data = _with_sum(to_json(line).encode())
        try:
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._descriptor = open_private(self._path, flags)
            append_line(self._descriptor, data)
        except OSError as error:
            raise self._unwritable(error) from error
        self._take(line, len(data))

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write the run's journal {self._path}: {error}",
            hint="check space and permissions; the run can be resumed",
        )

    def _check_sound(self) -> None:
        """Refuse all calls after a sync that failed: no later sync reports what that one lost.

        Raises:
            StoreError: A sync has failed.
        """
        if self._fault:
            raise StoreError(self._fault.message, hint=self._fault.hint)

    async def synced(self) -> None:
        """Return when all lines so far that must be on the disk are there.

        Raises:
            StoreError: They may not be: no further call must be made.
        """
        owed = self._owed
        while self._on_disk < owed:
            self._check_sound()
            # One who is cancelled must not end the sync of the others.
            await asyncio.shield(self._sync_in_progress() or self._begin_sync())
        self._check_sound()

    def _begin_sync(self) -> asyncio.Future[None]:
        """Sync in the journal's thread; the future never has an error, see `_check_sound`."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._wait_no_longer()
        loop = asyncio.get_running_loop()
        self._syncing = loop.run_in_executor(self._thread, self._sync_all)
        return self._syncing

    def _sync_in_progress(self) -> asyncio.Future[None] | None:
        return self._syncing if self._syncing and not self._syncing.done() else None

    def _sync_all(self) -> None:
        end = self._end
        try:
            if self._descriptor is not None:
                self._sync(self._descriptor)
        except OSError as error:
            self._fault = self._unwritable(error)
        else:
            self._on_disk = max(self._on_disk, end)

    def sync(self) -> None:
        """Sync in this thread.

        Raises:
            StoreError: The lines may not be on the disk.
        """
        if self._on_disk < self._owed:
            self._sync_all()
        self._check_sound()

    def _sync_soon(self) -> None:
        """Sync in a while, unless another call does it first; at once outside the event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.sync()
        else:
            self._later = self._later or loop.call_later(SOON, self._sync_late)

    def _sync_late(self) -> None:
        self._later = None
        if self._on_disk < self._owed and not self._sync_in_progress() and not self._fault:
            self._begin_sync()

    def _wait_no_longer(self) -> None:
        if self._later:
            self._later.cancel()
            self._later = None

    def close(self) -> None:
        """Close the file. What must be on the disk is synced; the caller may await that before."""
        self._wait_no_longer()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        if self._descriptor is not None:
            # The run has ended. If a result is lost, the user is asked whether its call was made.
            with contextlib.suppress(StoreError):
                self.sync()
            os.close(self._descriptor)
            self._descriptor = None


def _with_sum(data: bytes) -> bytes:
    """A line of the file: a JSON object whose last field is a checksum over the rest of it."""
    return b'%s%s%08x"}\n' % (data[:-1], SUM, zlib.crc32(data))


def checked_line(line: bytes, *, summed: bool) -> bool:
    """Whether a line of a journal has a checksum.

    Args:
        line: With its newline.
        summed: Whether an earlier line had one. In older files no line has.

    Raises:
        ValueError: The checksum is wrong or missing.
    """
    rest, mark, tail = line.rpartition(SUM)
    found = bool(mark) and len(tail) == SUM_TAIL
    if found and tail == b'%08x"}\n' % zlib.crc32(rest + b"}"):
        return True
    if found or summed:
        raise ValueError(f"a line is damaged: {line[:60]!r}")
    return False


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The file's lines with their lengths. A last line that a crash cut is cut off the file.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is damaged.
    """
    whole, summed = 0, False
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                summed = checked_line(line, summed=summed)
                yield json.loads(line), len(line)
                whole += len(line)
    except FileNotFoundError:
        return
    if whole < path.stat().st_size:
        os.truncate(path, whole)
