"""The calls of a recorded run, from its journal, as a replay plays them."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fractale.errors import NotRecorded
from fractale.replay.compare import Comparison, Rules
from fractale.replay.words import Divergence
from fractale.schedulers.job import JobHandle
from fractale.store.journal import (
    Call,
    CallSite,
    Journal,
    Kind,
    KnownCall,
    checked_line,
    digest_of,
)

SUBMIT, WAIT, LOGS = "jobs.job_submit", "jobs.job_wait", "jobs.job_logs"
SETTLED = ("completed", "failed")
"""States of a job whose log does not grow any more."""


@dataclass(slots=True)
class RecordedCall:
    """A call in a journal.

    Args:
        at: Where in the file the line with its result is; None where it has none.
        told: How it ended without a result, where that is known.
    """

    call: Call
    step: str
    attempt: int
    agent: str
    at: tuple[int, int] | None = None
    told: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def queue(self) -> tuple[Any, ...]:
        """What it is looked up by, where no event tells of it."""
        return self.step, self.attempt, self.agent, self.call.kind, self.call.name


class RecordedJournal:
    """The journal of a recorded run, only read.

    Args:
        path: The file.

    Attributes:
        missing: There is no such file, as for a run without calls.

    Raises:
        NotRecorded: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.missing = False
        self.calls: dict[str, RecordedCall] = {}
        try:
            for start, line in _lines(path):
                self._take(start, line)
        except FileNotFoundError:
            self.missing = True
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise NotRecorded("no-journal", f"{path} cannot be read: {error}") from error

    def _take(self, start: int, line: bytes) -> None:
        data = json.loads(line)
        key = str(data["key"])
        known = self.calls.get(key)
        if "kind" in data:
            words = {name: data[name] for name in ("kind", "name", "digest", "safe")}
            place = data["step"], data["attempt"], data.get("agent") or ""
            self.calls[key] = RecordedCall(Call(**words), *place)
        elif known and "told" in data:
            known.told = data["told"]
        elif known and "result" in data:
            known.at = (start, len(line))

    def settled_jobs(self) -> Iterator[tuple[str, JobHandle]]:
        """Each batch job that is over, with the digest that its calls have."""
        over: set[str] = set()
        for recorded in self.calls.values():
            if recorded.call.name == WAIT and recorded.at:
                status: Mapping[str, Any] = self.result(recorded.at).get("structured") or {}
                if status.get("state") in SETTLED and not status.get("late"):
                    over.add(recorded.call.digest)
        for recorded in self.calls.values():
            if recorded.call.name == SUBMIT and recorded.at:
                told: Mapping[str, Any] = self.result(recorded.at).get("structured") or {}
                with contextlib.suppress(ValueError):
                    handle = JobHandle.from_dict(told)
                    if (digest := digest_of(handle.label)) in over:
                        yield digest, handle

    def result(self, at: tuple[int, int]) -> Any:
        """What a call gave."""
        with self._path.open("rb") as file:
            file.seek(at[0])
            return json.loads(file.read(at[1]))["result"]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a journal, with where they start.

    Raises:
        ValueError: A line is damaged.
    """
    start, summed = 0, False
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                summed = checked_line(line, summed=summed)
                yield start, line
            start += len(line)


class ReplayJournal(Journal):
    """The `Journal` of a replay: it gives what the record has, and writes nothing.

    Args:
        journal: Of the record.
        comparison: Knows which call of the record one of the replay is.
        rules: What is real is not looked up.
        has_log: Whether the log of a job is there, by the folder that it had: then it is read
            again, by what the plan says today.
    """

    def __init__(
        self,
        journal: RecordedJournal,
        comparison: Comparison,
        rules: Rules,
        has_log: Callable[[JobHandle], bool],
    ) -> None:
        self._journal = journal
        self._comparison = comparison
        self._rules = rules
        self._given: dict[str, str] = {}
        self._queues: dict[tuple[Any, ...], deque[str]] = {}
        told = comparison.told_keys()
        for key, recorded in journal.calls.items():
            if key not in told:
                self._queues.setdefault(recorded.queue, deque()).append(key)
        self._logs = {digest for digest, job in journal.settled_jobs() if has_log(job)}

    def find(self, site: CallSite, call: Call) -> KnownCall | None:
        """What the record has of a call; None where it is to be made.

        Raises:
            Diverged: The record has another call there.
            RecordEnds: The record ends in it.
            NotRecorded: What it gave is not kept.
        """
        if self._is_live(call.kind) or (call.name == LOGS and call.digest in self._logs):
            return None
        key = self._key_of(site, call)
        recorded = self._journal.calls.get(key)
        if recorded is None:
            self._missing(call, site)
        self._hold(site, call, recorded)
        if recorded.at is not None:
            return KnownCall(
                call, done=True, result=self._journal.result(recorded.at), replayed=True
            )
        if {"fault", "asks"} & set(recorded.told):
            return KnownCall(call, done=True, result=recorded.told, replayed=True)
        return self._unfinished(key, recorded, site)

    def _is_live(self, kind: Kind) -> bool:
        return self._rules.live_model if kind == "model" else self._rules.live_tools

    def _key_of(self, site: CallSite, call: Call) -> str:
        if key := self._comparison.key_of(site.key):
            return key
        if site.key not in self._given:
            queue = (site.step, site.attempt, site.agent, call.kind, call.name)
            left = self._queues.get(queue)
            self._given[site.key] = left.popleft() if left else ""
        return self._given[site.key]

    def _hold(self, site: CallSite, call: Call, recorded: RecordedCall) -> None:
        """See that the call is given what it was; what tools are given is in the events, too."""
        was = recorded.call.digest
        if call.kind == "tool" or not was or was == call.digest or self._rules.loose:
            return
        asked = "another instruction, other messages or other tools"
        words = {"model": f"is asked something else: {asked}", "prompt": "has other arguments"}
        name = f"the model {call.name}" if call.kind == "model" else f"the prompt `{call.name}`"
        self._comparison.diverge(
            Divergence(
                what="arguments",
                message=f"step `{site.step}`: {name} {words[call.kind]}",
                step=site.step,
                attempt=site.attempt,
            )
        )

    def _missing(self, call: Call, site: CallSite) -> NoReturn:
        where = f"in step `{site.step}`, before a call of `{call.name}`"
        if not self._comparison.ended:
            self._comparison.ends(where)
        if call.kind != "prompt":  # events tell of it in the record, too
            raise NotRecorded(
                "no-result",
                f"the record does not say what the call of `{call.name}` in step `{site.step}` "
                "gave",
                hint="it was made by an older fractale, or its journal is not whole",
            )
        self._comparison.diverge(
            Divergence(
                what="call",
                message=f"step `{site.step}`: now the prompt `{call.name}` is fetched; the record "
                "has no such call",
                step=site.step,
                attempt=site.attempt,
            )
        )

    def _unfinished(self, key: str, recorded: RecordedCall, site: CallSite) -> KnownCall:
        """A call without a result: the step's time was up, or the run was ended in it."""
        if "cut" in recorded.told and self._comparison.goes_on(key):
            return KnownCall(recorded.call, done=True, result=recorded.told, replayed=True)
        name = recorded.call.name
        if not self._comparison.ended:
            self._comparison.ends(f"in step `{site.step}`, in a call of `{name}`")
        raise NotRecorded(
            "no-result",
            f"the record does not say how the call of `{name}` in step `{site.step}` ended",
            hint="it was made by an older fractale",
        )
