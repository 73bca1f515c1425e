"""How a job is, and the elements of an array: by their own files first, then as the scheduler says.

An element that has left a plain exit code is over, and is not looked at again. About the others
the scheduler is asked in one question.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fractale.jobs.judging import Case, exit_words
from fractale.jobs.model import JobStatus
from fractale.jobs.polling import Answer
from fractale.schedulers.adapter import JobRecord, Submitted
from fractale.schedulers.folder import Ended, JobFolder, Started
from fractale.schedulers.job import ACTIVE, JobState
from fractale.schedulers.request import Array

Ask = Callable[[Submitted], Awaitable[Answer]]

LOOK_SECONDS: Final = 0.5
"""How old the last look at an array's files may be for those who ask about one of its elements."""

REASON_SECONDS: Final = 86_400.0
"""How long a scheduler that does not answer is waited for, of a job that a signal ended."""

MOST_NAMED: Final = 12
"""Elements that a reason names."""

WORDS: Final[Mapping[JobState, str]] = {
    "completed": "completed",
    "running": "running",
    "pending": "waiting",
    "failed": "failed",
    "timeout": "timed out",
    "out_of_memory": "ran out of memory",
    "node_failure": "lost with their node",
    "cancelled": "cancelled",
    "unknown": "ended nobody knows how",
}
"""How elements of an array are, in words, in the order in which they are counted."""


def is_plain(ended: Ended | None) -> bool:
    """Whether an end needs no reason of the scheduler: an exit code, and no signal."""
    return ended is not None and not ended.signal and ended.code <= 128


async def status_of(folder: JobFolder, native_id: str, title: str, ask: Ask) -> JobStatus:
    """How a single job is."""
    if is_plain(folder.ended()):
        return Case(folder, title, None).status()
    answer = await ask(Submitted(folder=folder, native_id=native_id))
    return _judged(folder, title, answer, None)


def _judged(folder: JobFolder, title: str, answer: Answer, index: int | None) -> JobStatus:
    """How a job or an element is, by its files and what the scheduler said last."""
    ended, started = folder.ended(), folder.started()
    if is_plain(ended):  # meanwhile
        return Case(folder, title, None).status()
    record = (answer.records or {}).get(index)
    if answer.trouble:
        if ended is not None and not folder.marked("cancelled") and _is_recent(ended):
            why = f"why is not known as long as {title} does not answer: {answer.trouble}"
            return _running(folder, f"{exit_words(ended.code)}; {why}", started, ended)
        return Case(folder, title, None, answer.trouble).status()
    is_old = answer.records is None or (ended is not None and answer.at < ended.at)
    if is_old and not (record and record.state not in ACTIVE):
        return _not_asked(folder, title, answer, started, ended)
    if record and record.state == "pending" and started and answer.at < started.at:
        return _not_asked(folder, title, answer, started, ended)
    return Case(folder, title, record).status()


def _not_asked(
    folder: JobFolder, title: str, answer: Answer, started: Started | None, ended: Ended | None
) -> JobStatus:
    """How a job is whose scheduler has not been asked about it since something changed."""
    submitted = (folder.intent() or {}).get("written")
    # A moment, and no countdown: a reason that changes at each look would be told at each look.
    again = time.strftime("%H:%M:%S", time.localtime(answer.again))
    if ended is not None:
        if folder.marked("cancelled"):
            return Case(folder, title, None).status()
        words = f"{exit_words(ended.code)}; {title} is asked why at {again}"
    elif started is not None:
        words = f"runs on {', '.join(_hosts(started))}"
    else:
        words = f"was submitted; {title} is asked about it at {again}"
    if ended is None and started is None:
        return JobStatus(state="pending", reason=words, submitted=submitted)
    return _running(folder, words, started, ended)


def _running(
    folder: JobFolder, words: str, started: Started | None, ended: Ended | None
) -> JobStatus:
    return JobStatus(
        state="running",
        reason=words,
        evidence="exit-code file" if ended else "start file",
        submitted=(folder.intent() or {}).get("written"),
        started=started.at if started else None,
        nodes=_hosts(started),
    )


def _hosts(started: Started | None) -> tuple[str, ...]:
    if started is None:
        return ()
    return started.nodes or ((started.host,) if started.host else ())


def _is_recent(ended: Ended) -> bool:
    """Whether its scheduler may still say why it ended so."""
    return time.time() - ended.at < REASON_SECONDS


class Elements:
    """What is known of the elements of one array.

    Args:
        title: What people call the scheduler.
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
        """How each element is, in order of the indices.

        Args:
            fresh: Look now, also where somebody has just looked.
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
                self._over[index] = Case(element, self._title, None).status()
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
        answer: Answer,
        waits: dict[JobRecord | None, JobStatus],
        *,
        begun: bool,
    ) -> JobStatus:
        """How an element is; those that have not begun and wait for the same reason share it."""
        record = (answer.records or {}).get(index)
        folder = self._folder.element(index)
        is_waiting = not begun and (record is None or record.state == "pending")
        is_known = record is not None or answer.records is None
        if not (is_waiting and is_known):
            return _judged(folder, self._title, answer, index)
        if record in waits:
            return waits[record]
        status = _judged(folder, self._title, answer, index)
        # It may have begun, or ended, since it was listed: then this is about it alone.
        if status.state == "pending" and status.started is None:
            waits[record] = status
        return status


def whole(elements: Mapping[int, JobStatus]) -> JobStatus:
    """How an array is, from its elements."""
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
    """Counts by state, in the order in which they are said."""
    return {state: counts[state] for state in WORDS if counts.get(state)}


def words_of(elements: Mapping[int, JobStatus]) -> str:
    """How the elements of an array are: ``997 of 1,000 completed, 3 failed: elements 7, 9, 31``."""
    return words_of_states({index: status.state for index, status in elements.items()})


def words_of_states(states: Mapping[int, JobState]) -> str:
    """The same, of the elements' states."""
    counts = Counter[JobState](states.values())
    bad = [i for i, state in states.items() if state not in ACTIVE and state != "completed"]
    said = f"{counts['completed']:,} of {len(states):,} completed"
    for state, words in WORDS.items():
        if counts[state] and state != "completed":
            said += f", {counts[state]:,} {words}"
    return f"{said}: {numbered(bad)}" if bad else said


def numbered(indices: Sequence[int] | Iterable[int]) -> str:
    """The indices of elements: ``elements 7, 9, 31``."""
    found = list(indices)
    named = ", ".join(map(str, found[:MOST_NAMED])) + (", …" if len(found) > MOST_NAMED else "")
    return f"element{'s' if len(found) != 1 else ''} {named}"


def with_notices(status: JobStatus, folder: JobFolder) -> JobStatus:
    """The status with what of the job's request did not count."""
    notices = folder.notices()
    return replace(status, notices=notices) if notices else status
