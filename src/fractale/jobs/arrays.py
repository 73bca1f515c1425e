"""The elements of a job array: their statuses, and the status of the whole array.

An element that left a plain exit code is over, and its files are not read again. One question to
the scheduler covers all other elements.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from fractale.jobs.polling import PollAnswer
from fractale.jobs.status import Ask, JobEvidence, JobStatus, is_plain, judged
from fractale.schedulers.adapter import JobRecord, Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.job import ACTIVE, JobState
from fractale.schedulers.request import Array

LOOK_SECONDS: Final = 0.5
"""Seconds for which the last reading of an array's files answers questions about its elements."""

MOST_NAMED: Final = 12
"""The largest number of elements that a reason lists."""

WORDS: Final[Mapping[JobState, str]] = {
    "completed": "completed",
    "running": "running",
    "pending": "waiting",
    "failed": "failed",
    "timeout": "timed out",
    "out_of_memory": "ran out of memory",
    "node_failure": "lost with their node",
    "cancelled": "cancelled",
    "unknown": "ended with an unknown outcome",
}
"""Each state's text for users, in the order in which the states are counted."""


class Elements:
    """The elements of one array, and their statuses.

    Args:
        title: Name of the scheduler, for users.
    """

    def __init__(self, folder: JobFolder, native_id: str, title: str, array: Array) -> None:
        self._folder = folder
        self._native_id = native_id
        self._title = title
        self._indices = array.indices
        self._over: dict[int, JobStatus] = {}
        self._found: dict[int, JobStatus] = {}
        self._at = float("-inf")
        self._lock = asyncio.Lock()

    async def look(self, ask: Ask, *, fresh: bool = False) -> Mapping[int, JobStatus]:
        """Get the status of each element, in the order of the indices.

        Args:
            fresh: Read the files and ask now, even if the last reading is recent.
        """
        async with self._lock:
            if fresh or time.monotonic() - self._at > LOOK_SECONDS:
                self._found = await self._look(ask)
                self._at = time.monotonic()
        return self._found

    async def _look(self, ask: Ask) -> dict[int, JobStatus]:
        begun = self._folder.begun()
        open_ = [index for index in self._indices if index not in self._over]
        rest: list[int] = []
        for index in open_:
            element = self._folder.element(index)
            if index in begun and is_plain(element.ended()):
                self._over[index] = JobEvidence(element, self._title, None).status()
            else:
                rest.append(index)
        found = dict(self._over)
        if rest:
            job = Submitted(folder=self._folder, native_id=self._native_id, indices=tuple(rest))
            answer = await ask(job)
            waits: dict[JobRecord | None, JobStatus] = {}
            for index in rest:
                found[index] = self._element(index, answer, waits, begun=index in begun)
        self._over.update({i: s for i, s in found.items() if s.over and s.state != "unknown"})
        return {index: found[index] for index in self._indices}

    def _element(
        self,
        index: int,
        answer: PollAnswer,
        waits: dict[JobRecord | None, JobStatus],
        *,
        begun: bool,
    ) -> JobStatus:
        """Judge one element; elements that wait for the same reason share a status."""
        record = (answer.records or {}).get(index)
        folder = self._folder.element(index)
        is_waiting = not begun and (record is None or record.state == "pending")
        is_known = record is not None or answer.records is None
        if not (is_waiting and is_known):
            return judged(folder, self._title, answer, index)
        if record in waits:
            return waits[record]
        status = judged(folder, self._title, answer, index)
        # The element may have begun or ended since it was listed. It then needs a separate status.
        if status.state == "pending" and status.started is None:
            waits[record] = status
        return status


def whole(elements: Mapping[int, JobStatus]) -> JobStatus:
    """Derive the status of an array from the statuses of its elements."""
    counts = Counter[JobState](status.state for status in elements.values())
    known = [status for status in elements.values() if status.started is not None]
    ends = [status.ended for status in elements.values() if status.ended is not None]
    submitted = [s.submitted for s in elements.values() if s.submitted is not None]
    codes = {status.exit_code for status in elements.values()}
    over = not counts.keys() & ACTIVE
    evidence = [s.evidence for s in elements.values() if s.evidence != "none"]
    failed = next((s for s in elements.values() if s.over and s.state != "completed"), None)
    return JobStatus(
        state=_state(counts),
        reason=words_of(elements),
        evidence=evidence[0] if evidence else "none",
        exit_code=codes.pop() if over and len(codes) == 1 else None,
        submitted=min(submitted, default=None),
        started=min((s.started for s in known if s.started is not None), default=None),
        ended=max(ends, default=None) if over else None,
        nodes=tuple(dict.fromkeys(node for s in elements.values() for node in s.nodes)),
        last_lines=failed.last_lines if failed else "",
        counts=in_order(counts),
    )


def _state(counts: Mapping[JobState, int]) -> JobState:
    if set(counts) == {"pending"}:
        return "pending"
    if counts.keys() & ACTIVE:
        return "running"
    if "unknown" in counts:
        return "unknown"
    bad: list[JobState] = [state for state in counts if state != "completed"]
    return "completed" if not bad else bad[0] if len(bad) == 1 else "failed"


def in_order(counts: Mapping[JobState, int]) -> dict[str, int]:
    """Sort counts by state, in the order of `WORDS`."""
    return {state: counts[state] for state in WORDS if counts.get(state)}


def words_of(elements: Mapping[int, JobStatus]) -> str:
    """Summarize the elements: ``997 of 1,000 completed, 3 failed: elements 7, 9, 31``."""
    return words_of_states({index: status.state for index, status in elements.items()})


def words_of_states(states: Mapping[int, JobState]) -> str:
    """Summarize elements by their states, as `words_of` does."""
    counts = Counter[JobState](states.values())
    bad = [i for i, state in states.items() if state not in ACTIVE and state != "completed"]
    said = f"{counts['completed']:,} of {len(states):,} completed"
    for state, words in WORDS.items():
        if counts[state] and state != "completed":
            said += f", {counts[state]:,} {words}"
    return f"{said}: {numbered(bad)}" if bad else said


def numbered(indices: Sequence[int] | Iterable[int]) -> str:
    """List the indices of elements for users: ``elements 7, 9, 31``."""
    found = list(indices)
    named = ", ".join(map(str, found[:MOST_NAMED])) + (", …" if len(found) > MOST_NAMED else "")
    return f"element{'s' if len(found) != 1 else ''} {named}"
