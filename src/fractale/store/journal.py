"""The call journal: what a run is about to do, and what came of it, before anything else.

A checkpoint is written after a step; a process can die between a call and its checkpoint. So
every call is written down twice: the intent before it is made, the result before it is used. On
the way back a recorded result is taken as it is, and an intent without a result says that the
call may have happened.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fractale.errors import StoreError
from fractale.plain import to_json
from fractale.private import open_private
from fractale.store.lines import append_line
from fractale.store.outputs import encode

Kind = Literal["tool", "model", "prompt"]

SUM = b', "sum": "'
SUM_TAIL = len(b'01234567"}\n')


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a run a call stands.

    Args:
        task: LangGraph's namespace of the task that makes it: the same when the task is run
            again, another at the next visit.
        number: Which call of this task it is, from 1; a retry of the task starts again at 1
            with a higher `tries`.
        step: The step's path; with `attempt` and `agent`, for people and for replays.
    """

    task: str
    number: int
    tries: int
    step: str
    attempt: int
    agent: str = ""

    @property
    def key(self) -> str:
        """A short form of what is unique about it in its run."""
        text = f"{self.task}#{self.tries}#{self.number}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a tool, a model or a prompt.

    Args:
        name: The tool, the model or the prompt.
        digest: A hash of what it is given.
        safe: Making it twice does no harm, so that its intent need not outlive a power cut.
    """

    kind: Kind
    name: str
    digest: str
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal knows of a call: with a result, it came back; without, nobody knows.

    Args:
        played: It is that of another run, which is replayed: this one counts it as its own.
    """

    call: Call
    done: bool
    result: Any = None
    played: bool = False


class Journal(Protocol):
    """Remembers the calls of one run."""

    def find(self, place: Place, call: Call) -> Entry | None:
        """What is known of the call at a place; None if it was not begun.

        Raises:
            StoreError: Another call was begun at this place.
        """
        ...

    def is_begun(self, place: Place, call: Call) -> bool:
        """Whether an earlier process of this run began this very call at this call site."""
        ...

    def begin(self, place: Place, call: Call) -> None:
        """Write down that the call is about to be made."""
        ...

    def finish(self, place: Place, call: Call, result: Any) -> None:
        """Write down what came of it, as JSON."""
        ...

    def withdraw(self, place: Place) -> None:
        """Write down that the call was ended before it did anything: it may be made again."""
        ...

    def tell(self, place: Place, what: Mapping[str, Any]) -> None:
        """Write down how a call without a result ended: a replay must know, a resume does not."""
        ...

    def settle(self, places: Iterable[Place]) -> None:
        """Forget calls whose step is checkpointed."""
        ...

    def close(self) -> None:
        """Nothing more is written."""
        ...


class NoJournal:
    """The `Journal` of a run that is not kept."""

    def find(self, place: Place, call: Call) -> Entry | None:
        """Nothing is known."""
        del place, call

    def is_begun(self, place: Place, call: Call) -> bool:
        """Nothing is known."""
        del place, call
        return False

    def begin(self, place: Place, call: Call) -> None:
        """Nothing is written."""

    def finish(self, place: Place, call: Call, result: Any) -> None:
        """Nothing is written."""

    def withdraw(self, place: Place) -> None:
        """Nothing is written."""

    def tell(self, place: Place, what: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def settle(self, places: Iterable[Place]) -> None:
        """Nothing is known."""

    def close(self) -> None:
        """Nothing was opened."""


def digest_of(value: Any) -> str:
    """A hash of a JSON value."""
    return hashlib.sha256(encode(value)).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class _Known:
    """A call in the file, and the bytes of the line with its result, once there is one."""

    call: Call
    start: int = 0
    length: int = 0


class FileJournal:
    """A `Journal` in a file of one JSON object a line, to which lines are only added.

    Args:
        path: The file; it is read once, and made at the first call.

    Raises:
        StoreError: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, _Known] = {}
        self._begun: dict[str, tuple[str, str]] = {}  # also calls that were withdrawn since
        self._descriptor: int | None = None
        self._end = 0
        try:
            for line, length in _lines(path):
                self._take(line, length)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(
                f"the run's journal {path} cannot be read: {error}",
                hint="what its calls did is in events.jsonl beside it; start the run again, or "
                "fork it at a step that is sure",
            ) from error

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
            self._known[key] = _Known(Call(**words))
            self._begun[key] = (words["name"], words["digest"])

    def find(self, place: Place, call: Call) -> Entry | None:
        """What is known of the call at a place; None if it was not begun.

        Raises:
            StoreError: Another call was begun at this place.
        """
        known = self._known.get(place.key)
        if known is None:
            return None
        was = known.call
        if call.kind == "tool" and (was.name, was.digest) != (call.name, call.digest):
            raise StoreError(
                f"step `{place.step}` made another call when the run came here first: "
                f"`{was.name}`; now it would be `{call.name}`, or with other arguments",
                hint="what the step reads has changed since; start a new run",
            )
        if not known.length:
            return Entry(was, done=False)
        return Entry(was, done=True, result=self._read(known)["result"])

    def is_begun(self, place: Place, call: Call) -> bool:
        """Whether an earlier process of this run began this very call at this call site."""
        return self._begun.get(place.key) == (call.name, call.digest)

    def _read(self, known: _Known) -> dict[str, Any]:
        try:
            with self._path.open("rb") as file:
                file.seek(known.start)
                return json.loads(file.read(known.length))
        except (OSError, ValueError) as error:
            raise StoreError(f"the run's journal {self._path} is damaged: {error}") from error

    def begin(self, place: Place, call: Call) -> None:
        """Write down that the call is about to be made; on the disk unless it is safe.

        Raises:
            StoreError: It can't be written: the call must not be made.
        """
        line = {
            "key": place.key,
            "step": place.step,
            "attempt": place.attempt,
            "agent": place.agent,
            "kind": call.kind,
            "name": call.name,
            "digest": call.digest,
            "safe": call.safe,
        }
        self._write(line, sync=not call.safe)

    def finish(self, place: Place, call: Call, result: Any) -> None:
        """Write down what came of it, on the disk unless the call is safe.

        Raises:
            StoreError: It can't be written.
        """
        self._write({"key": place.key, "result": result}, sync=not call.safe)

    def withdraw(self, place: Place) -> None:
        """Write down that the call was ended before it did anything: it may be made again.

        Raises:
            StoreError: It can't be written.
        """
        self._write({"key": place.key, "withdrawn": True}, sync=False)

    def tell(self, place: Place, what: Mapping[str, Any]) -> None:
        """Write down how a call without a result ended: a replay must know, a resume does not.

        Raises:
            StoreError: It can't be written.
        """
        self._write({"key": place.key, "told": dict(what)}, sync=False)

    def settle(self, places: Iterable[Place]) -> None:
        """Forget calls whose step is checkpointed; the file keeps them."""
        for place in places:
            self._known.pop(place.key, None)
            self._begun.pop(place.key, None)

    def _write(self, line: Mapping[str, Any], *, sync: bool) -> None:
        data = _with_sum(to_json(line).encode())
        try:
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._descriptor = open_private(self._path, flags)
            append_line(self._descriptor, data)
            if sync:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise StoreError(
                f"cannot write the run's journal {self._path}: {error}",
                hint="check space and permissions; the run can be resumed",
            ) from error
        self._take(line, len(data))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _with_sum(data: bytes) -> bytes:
    """A line of the file: a JSON object with a sum over the rest of it as its last field."""
    return b'%s%s%08x"}\n' % (data[:-1], SUM, zlib.crc32(data))


def checked_line(line: bytes, *, summed: bool) -> bool:
    """Whether a line of a journal has a sum.

    Args:
        line: With its end.
        summed: An earlier line had one. In older files none has.

    Raises:
        ValueError: The sum does not fit, or is missing.
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
