"""The events of a run: a stream that every display reads, and a file that outlives the process.

An event is one flat, JSON-ready record. The terminal display, ``--json``, the record of a run
and users' own code all get the same stream. Fields are only ever added; `VERSION` counts
changes that would break a reader. The record is a file of one event per line: `EventLog` appends
to it, `read_events` reads it.

=================  ==============================================================================
event              fields (besides ``event``, ``run``, ``time`` in Unix seconds)
=================  ==============================================================================
run_started        plan, file, title, steps [{name, type, target}], model, resumed, limits
                   {steps, time, tokens, cost: those that are set}, bounds {max_attempts; attempts,
                   depth: those that are set}, parent {run, step, attempt,
                   kept: steps whose results it has} of a forked run
step_started       step, attempt, type, target, description, previous (name of the step that led
                   here or null)
item_started       step, index, total, element (of a job array)
item_finished      step, index, total, outcome, error, decided_by, seconds, inputs_ref,
                   outputs_ref, reused and read (as of a step)
tool_started       step, tool, arguments, call, key (the call's place in the journal), agreed (who
                   agreed to it beforehand, as text)
tool_progress      step, tool, call, progress, total, message
tool_finished      step, tool, call, key, is_error, seconds, text (first 2,000 characters),
                   recorded (true if an earlier process made the call)
model_started      step, model, call, key
model_text         step, text (a piece as it comes)
model_finished     step, model, call, key, seconds, input_tokens, output_tokens, cost, text,
                   recorded, snapshot (the model's version as its server named it, if it did)
log                step, level, message (from a server, a tool, or fractale itself)
warning            step, code, message
job_state          step, job (the scheduler's id), scheduler, state (pending, running, completed,
                   failed, cancelled, timeout, out_of_memory, node_failure, unknown), reason (as
                   text), line (the last of its log), nodes, submitted, started, ended, over,
                   last_lines (of the log of one that failed), handle {scheduler,
                   native_id, key, job_dir}, deadline, patience (Unix times), timeout (seconds or
                   null), began {wall, boot, boot_id: the moment when it was submitted}: of a job
                   step, each time that something of it changed. Of an item of a foreach, or an
                   element of an array, also jobs {state: how many of the jobs are in it}, and
                   index (in the array, if it is part of one)
timer              step, reason (as text), until (in ISO 8601), due {began {wall, boot, boot_id},
                   seconds, until (Unix time), last (for a call that is made again: when it is
                   made for the last time, or null)}: the step waits until then
step_finished      step, attempt, outcome, event_name, decided_by, reason, error, seconds,
                   tokens, next (step name, success or failed), notices [{kind: warning, lost or
                   failed, message}: shown even on success], outputs (short form), reused {run,
                   step, key: only if the result of that run's step was taken over},
                   read {files, programs, prompts: name: [size, time, checksum] of those that it
                   names},
                   inputs_ref, outputs_ref (values, or references into the run's outputs)
table              step, title, rows [{column: value}]
waiting            step, question {id, kind, ...}
answered           step, question, answer, by (person, answers, yes or default_after). Of an answer
                   that was given in another process also via (where: fractale web) and user (its
                   login name)
run_finished       status, outcome, error, hint, decided {step, by, reason, code, jobs [{step, job,
                   scheduler, state, reason, seconds, log, last_lines}: those that failed]}, steps
                   [{name, attempt, outcome, event, decided_by, error}], outputs, usage
                   {input_tokens, output_tokens, total_tokens, cost, seconds; with batch jobs also
                   elapsed, job_seconds, queue_seconds}, record (directory), next [commands],
                   waiting [questions, jobs and times: those have the kind ``job`` or ``timer``],
                   output_files {name: path of a file with that output}, notices [{step, kind,
                   message}: of each step's latest attempt], left_out [outputs that a run that
                   failed or reached a limit could not render; only if there are any],
                   finally_due (true if `fractale cancel` would run the `finally` steps)
=================  ==============================================================================

In the record, an event with large texts has them in brief, and also ``parts`` [{at: the names and
indexes that lead to the text, text: ``sha256:…``, bytes}]: the text is among the run's outputs
(`fractale.store.outputs`).

``step_started`` and ``step_finished`` of a step at the end of a plan also have ``handler``, which
is ``on_failure`` or ``finally``, as do its entries in ``steps`` and ``notices``.

``step`` is the step's path: ``outer/inner`` for a step inside an included or drafted plan or a
parallel block. Events of calls that a sub-agent made for another have ``agent``, its path below
the step's own. ``outcome`` is ``success``, ``failure`` or ``skipped``. ``event_name`` is the
event that chose the transition.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

from fractale.errors import CHECK_SPACE, StoreError
from fractale.plain import to_json
from fractale.private import append_line, cut_torn_line, lines_from_end, open_private

VERSION = 1

EventKind = Literal[
    "run_started",
    "step_started",
    "item_started",
    "item_finished",
    "tool_started",
    "tool_progress",
    "tool_finished",
    "model_started",
    "model_text",
    "model_finished",
    "log",
    "warning",
    "job_state",
    "timer",
    "step_finished",
    "table",
    "waiting",
    "answered",
    "run_finished",
]
Status = Literal["success", "failed", "waiting", "limit", "stopped"]


SHORT_TEXT = 2000
"""Characters of an answer that an event keeps."""

SHORT_OUTPUT = 200
"""Characters of each text in the outputs that an event keeps; it keeps 20 entries of a list."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a run.

    Args:
        kind: Which of the table above.
        run: The run's id.
        data: The fields of that kind, plain JSON.
        time: Unix time in seconds.
    """

    kind: EventKind
    run: str
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    time: float = field(default_factory=time.time)

    def as_dict(self) -> dict[str, Any]:
        """The flat form, as ``--json`` prints it."""
        return {"event": self.kind, "run": self.run, "time": round(self.time, 3), **self.data}


def shortened(kind: EventKind, data: dict[str, Any]) -> dict[str, Any]:
    """The fields of an event, with long ones cut.

    Mask secrets before this: the remaining part of a secret that was cut would not be recognized.
    """
    if kind in ("tool_finished", "model_finished"):
        return {**data, "text": data["text"][:SHORT_TEXT]}
    if kind == "step_finished":
        return {**data, "outputs": _short(data["outputs"])}
    return data


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= SHORT_OUTPUT else value[:SHORT_OUTPUT] + "…"
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {key: _short(item) for key, item in list(table.items())[:20]}
    if isinstance(value, list):
        return [_short(item) for item in cast("list[Any]", value)[:20]]
    return value


Listener = Callable[[Event], None]
"""Called with each event as it happens. Must not block for long, and must not raise."""


def logged_to(listener: Listener) -> Callable[[str, str, str], None]:
    """A function of a server's name, a level and a message, which sends them as a ``log`` event."""

    def log(server: str, level: str, message: str) -> None:
        listener(Event("log", "", {"step": server, "level": level, "message": message}))

    return log


# The file

UNRECORDED = ("model_text", "tool_progress")
"""Kinds of events that only displays need."""


class EventLog:
    """A listener that appends events to a file, each completely or not at all.

    Raises:
        StoreError: The file cannot be written, when it is opened or at an event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            cut_torn_line(self._descriptor)
        except OSError as error:
            raise self._unwritable(error) from error

    def __call__(self, event: Event) -> None:
        if event.kind in UNRECORDED:
            return
        line = f"{to_json(event.as_dict())}\n".encode()
        try:
            append_line(self._descriptor, line)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreError:
        message = f"cannot write the run's record in {self._path.parent}: {error}"
        return StoreError(message, hint=CHECK_SPACE)

    def close(self) -> None:
        os.close(self._descriptor)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events in a file, oldest first. A last line that a crash cut is left out.

    Raises:
        StoreError: The file is damaged, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if (event := _event_of(line)) is not None:
                    yield event
                elif line.endswith(b"\n"):
                    raise _damaged(path, number, line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


class NewEvents:
    """Reads the events of a file that another process writes, each once.

    The file is opened for each read: on a network file system, that shows how far it has grown.
    A last line without its end is left for a later read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = 0  # the end of the last line that was read
        self._lines = 0
        self._seen: tuple[int, int] | None = None  # size and time of the file at the last read

    def read(self) -> Iterator[dict[str, Any]]:
        """The events that were appended since the last read, oldest first.

        Raises:
            StoreError: The file is damaged, was removed, or cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                now = (found.st_size, found.st_mtime_ns)
                if now != self._seen:
                    file.seek(self._place)
                    yield from self._whole_lines(file)
                    self._seen = now
        except FileNotFoundError as error:
            if self._place:
                raise StoreError(f"{self._path} was removed") from error
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from error

    def _whole_lines(self, file: IO[bytes]) -> Iterator[dict[str, Any]]:
        for line in file:
            if not line.endswith(b"\n"):
                return
            if (event := _event_of(line)) is None:
                raise _damaged(self._path, self._lines + 1, line)
            self._place += len(line)
            self._lines += 1
            yield event


def events_from_end(path: Path, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The events of some kinds, the latest first. Lines that cannot be read are left out."""
    marks = [f'"event": "{kind}"'.encode() for kind in kinds]
    for line in lines_from_end(path):
        if any(mark in line for mark in marks):
            event = _event_of(line)
            if event and event["event"] in kinds:
                yield event


def _event_of(line: bytes) -> dict[str, Any] | None:
    """The event in a line; None if the line is not an event."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or "event" not in event:
        return None
    return cast("dict[str, Any]", event)


def _damaged(path: Path, number: int, line: bytes) -> StoreError:
    return StoreError(
        f"line {number} of {path} is damaged: {line[:60]!r}",
        hint="take that line out to continue without it; the checkpoints and the journal of calls "
        "are files of their own",
    )
