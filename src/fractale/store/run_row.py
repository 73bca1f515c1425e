"""What the list of runs says of one, and how it is read from the run's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fractale.errors import StoreError
from fractale.plain import readable
from fractale.store.locks import holder_of
from fractale.store.records import RunFolder

CHUNK = 64 * 1024
"""Bytes of the events' file that are read at once, from its end."""

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run in the index.

    Args:
        file: The plan's path.
        status: ``running``, or how it ended as in the event `run_finished`.
        started: Unix time in seconds, as `ended`.
        seconds: Of its steps' own work, summed over all its processes: none pass while a job or a
            person is waited for.
        tokens: Of all its model calls.
        cost: US dollars.
        waits_for: The steps whose questions or jobs it waits for, with commas between.
        parent: The run that it was forked from, and `forked_at` the step.
        ran: Seconds for which the run or a batch job of it was in progress.
        computed: Seconds for which its jobs ran, all together.
        queued: Seconds for which its jobs waited to start, all together.
        failed_at: The step at which it failed; empty if it did not.
        node_hours: Of its batch jobs that are over.
        jobs: How many of its batch jobs are over; each element of an array is one.
        seen: Bytes of the run's events that this was read from; where there are more by now, the
            run has gone on.
    """

    id: str
    plan: str
    file: str
    status: str
    started: float
    ended: float | None = None
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0
    waits_for: str = ""
    parent: str | None = None
    forked_at: str | None = None
    ran: float = 0.0
    computed: float = 0.0
    queued: float = 0.0
    failed_at: str = ""
    node_hours: float = 0.0
    jobs: int = 0
    seen: int = field(default=0, compare=False)


def row_of(folder: RunFolder) -> RunRow | None:
    """The row of a run by what its folder says; None where it does not say how it began."""
    events = folder.path / "events.jsonl"
    try:
        seen = events.stat().st_size if events.exists() else 0
        head = folder.read_head()
        last = last_event(events, ("run_finished", "run_started"))
        row = row_from(folder.run_id, head, last, alive=holder_of(folder) is not None)
    except (OSError, StoreError, KeyError, TypeError, ValueError):
        return None
    return replace(row, seen=seen)


def row_from(
    run_id: str, head: Mapping[str, Any], last: Mapping[str, Any] | None, *, alive: bool
) -> RunRow:
    """The row of a run.

    Args:
        head: What `RunFolder.read_head` gives.
        last: Its latest event `run_started` or `run_finished`, in the flat form.
        alive: Whether a process has the run. Where none has a run that did not finish, it was
            ended from outside, and can be resumed: its status is ``stopped``.
    """
    ended: Mapping[str, Any] = last if last and last["event"] == "run_finished" else NOTHING
    usage: Mapping[str, Any] = ended.get("usage") or NOTHING
    parent: Mapping[str, Any] = head.get("parent") or NOTHING
    waiting: list[dict[str, Any]] = ended.get("waiting") or []
    seconds = float(usage.get("seconds") or 0.0)
    return RunRow(
        id=run_id,
        plan=str(head["plan"]),
        file=readable(str(head["file"])),
        status="running" if alive else str(ended.get("status") or "stopped"),
        started=float(head["started"]),
        ended=float(ended["time"]) if ended and not alive else None,
        seconds=seconds,
        tokens=int(usage.get("total_tokens") or 0),
        cost=float(usage.get("cost") or 0.0),
        waits_for=", ".join(_waits_for(each) for each in waiting),
        parent=parent.get("run"),
        forked_at=parent.get("step"),
        ran=float(usage.get("elapsed") or seconds),
        computed=float(usage.get("job_seconds") or 0.0),
        queued=float(usage.get("queue_seconds") or 0.0),
        failed_at="" if alive else _failed_at(ended),
        node_hours=float(usage.get("node_hours") or 0.0),
        jobs=int(usage.get("jobs") or 0),
    )


def _failed_at(ended: Mapping[str, Any]) -> str:
    decided: Mapping[str, Any] = ended.get("decided") or NOTHING
    if ended.get("status") != "failed":
        return ""
    return readable(str(decided.get("gave_up") or decided.get("step") or ""))


def _waits_for(waiting: Mapping[str, Any]) -> str:
    step = str(waiting.get("step"))
    job = waiting.get("job") if waiting.get("kind") == "job" else None
    return f"{step} (job {job})" if job else step


def last_event(path: Path, kinds: tuple[str, ...]) -> dict[str, Any] | None:
    """The latest event of some kinds in a file of events, read from its end.

    A last line that a crash cut is passed over.
    """
    return next(events_from_end(path, kinds), None)


def events_from_end(path: Path, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The events of some kinds in a file of events, the latest first; see `last_event`."""
    marks = [f'"event": "{kind}"'.encode() for kind in kinds]
    for line in lines_from_end(path):
        if any(mark in line for mark in marks):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") in kinds:
                yield event


def lines_from_end(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last first; none where there is no file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        place, rest = file.seek(0, os.SEEK_END), b""
        while place > 0:
            size = min(CHUNK, place)
            place -= size
            file.seek(place)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            rest = first
        if rest:
            yield rest
