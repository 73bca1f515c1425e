"""The journal of a recorded run, and the `Journal` of its replay, which reads results from it."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from fractale.errors import NotRecorded
from fractale.graph.context import LOOK
from fractale.replaying.comparison import Comparison, Divergence
from fractale.schedulers.job import JobHandle
from fractale.store.journal import (
    Call,
    CallSite,
    Journal,
    Kind,
    KnownCall,
    checked_line,
    digest_of,
    outputs_of,
    result_in,
)

SUBMIT, WAIT, LOGS = "jobs.job_submit", "jobs.job_wait", "jobs.job_logs"
SETTLED = ("completed", "failed")
"""States of a job whose log is complete."""


@dataclass(slots=True)
class JournalCall:
    """A call in a journal.

    Args:
        at: Start and length of the line with its result; None if it has no result.
        ending: How it ended without a result, if that is known: an error, a question, a timeout.
    """

    call: Call
    step: str
    attempt: int
    agent: str
    at: tuple[int, int] | None = None
    ending: dict[str, Any] = field(default_factory=dict[str, Any])


class RecordedJournal:
    """The journal of a recorded run; it is only read.

    Attributes:
        missing: Whether the file does not exist, as for a run without calls.

    Raises:
        NotRecorded: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outputs = outputs_of(path)
        self.missing = False
        self.calls: dict[str, JournalCall] = {}
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
            call = Call(**words, given=data.get("given") or "")
            self.calls[key] = JournalCall(
                call, data["step"], data["attempt"], data.get("agent") or ""
            )
        elif known and "told" in data:
            known.ending = data["told"]
        elif known and "result" in data:
            known.at = (start, len(line))

    @property
    def looked(self) -> frozenset[tuple[str, int]]:
        """Path and attempt of each step that looked for a result of an earlier run."""
        looks = (each for each in self.calls.values() if each.call.name == LOOK)
        return frozenset((each.step, each.attempt) for each in looks)

    def settled_jobs(self) -> Iterator[tuple[str, JobHandle]]:
        """Each batch job that ended, with the digest that its calls have."""
        ended: set[str] = set()
        for recorded in self.calls.values():
            if recorded.call.name == WAIT and recorded.at:
                status: Mapping[str, Any] = self.result(recorded.at).get("structured") or {}
                if status.get("state") in SETTLED and not status.get("late"):
                    ended.add(recorded.call.digest)
        for recorded in self.calls.values():
            if recorded.call.name == SUBMIT and recorded.at:
                submitted: Mapping[str, Any] = self.result(recorded.at).get("structured") or {}
                with contextlib.suppress(ValueError):
                    handle = JobHandle.from_dict(submitted)
                    if (digest := digest_of(handle.label)) in ended:
                        yield digest, handle

    def result(self, at: tuple[int, int]) -> Any:
        """The result in a line of the file, as JSON."""
        with self._path.open("rb") as file:
            file.seek(at[0])
            return result_in(json.loads(file.read(at[1])), self._outputs)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a journal, with where they start.

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
    """The `Journal` of a replay: every call is found in the record, and nothing is written.

    Args:
        comparison: Maps calls of the replay to calls of the record.
        has_log: Whether the log of a job still exists: then it is read again, as today's plan says.

    Attributes:
        reworded: The requests in which only fractale's own prompts differ from the record, as far
            as the record shows: earlier versions recorded only one hash of a request.
    """

    def __init__(
        self,
        journal: RecordedJournal,
        comparison: Comparison,
        has_log: Callable[[JobHandle], bool],
    ) -> None:
        self._journal = journal
        self._comparison = comparison
        self._rules = comparison.rules
        self._logs = {digest for digest, job in journal.settled_jobs() if has_log(job)}
        # Calls without events, such as those of prompts, are found by their order in an attempt.
        self._queues: dict[tuple[Any, ...], deque[str]] = {}
        self._keys: dict[str, str] = {}
        self.reworded: set[str] = set()
        with_events = comparison.call_keys
        for key, each in journal.calls.items():
            if key not in with_events:
                queue = each.step, each.attempt, each.agent, each.call.kind, each.call.name
                self._queues.setdefault(queue, deque()).append(key)

    def find(self, site: CallSite, call: Call) -> KnownCall | None:
        """The recorded result of a call; None if the call must be made.

        Raises:
            Diverged: The record has a different call there.
            RecordEnds: The record ends in it.
            NotRecorded: The record does not have its result.
        """
        is_live = self._is_live(call.kind) and call.name != LOOK
        if is_live or (call.name == LOGS and call.digest in self._logs):
            return None
        key = self._key_of(site, call)
        recorded = self._journal.calls.get(key)
        if recorded is None:
            self._missing(call, site)
        self._check_given(site, call, recorded.call)
        if recorded.at is not None:
            return KnownCall(
                call, done=True, result=self._journal.result(recorded.at), replayed=True
            )
        ending = recorded.ending
        # A timeout of the step interrupted the call; a killed process left the same trace.
        cut = "cut" in ending and self._comparison.continues_after(key)
        if cut or "fault" in ending or "asks" in ending:
            return KnownCall(call, done=True, result=ending, replayed=True)
        if not self._comparison.ended:
            self._comparison.end(f"in step `{site.step}`, in a call of `{call.name}`")
        raise NotRecorded(
            "no-result",
            f"the record does not say how the call of `{call.name}` in step `{site.step}` ended",
            hint="an older version of fractale recorded it",
        )

    def _is_live(self, kind: Kind) -> bool:
        return self._rules.live_model if kind == "model" else self._rules.live_tools

    def _key_of(self, site: CallSite, call: Call) -> str:
        """The key of a call in the record; empty if the record does not have the call."""
        if key := self._comparison.key_of(site.key):
            return key
        if site.key not in self._keys:
            queue = site.step, site.attempt, site.agent, call.kind, call.name
            left = self._queues.get(queue)
            self._keys[site.key] = left.popleft() if left else ""
        return self._keys[site.key]

    def _check_given(self, site: CallSite, call: Call, was: Call) -> None:
        """Compare the arguments of a model or a prompt; those of tools are in events, too."""
        if call.kind == "tool" or not was.digest or was.digest == call.digest or self._rules.loose:
            return
        if call.given and was.given in ("", call.given):
            self.reworded.add(site.key)
            return
        message = f"prompt `{call.name}` has other arguments"
        if call.kind == "model":
            message = (
                f"the request to model {call.name} differs: another instruction, other "
                "messages or other tools"
            )
        self._diverge("arguments", site, message)

    def _missing(self, call: Call, site: CallSite) -> NoReturn:
        if not self._comparison.ended:
            self._comparison.end(f"in step `{site.step}`, before a call of `{call.name}`")
        if call.kind == "prompt":  # the only kind without events
            self._diverge(
                "call",
                site,
                f"the replay fetches prompt `{call.name}`; the record does not have this call",
            )
        raise NotRecorded(
            "no-result",
            f"the record does not have the result of `{call.name}` in step `{site.step}`",
            hint="an older version of fractale recorded it, or its journal is incomplete",
        )

    def _diverge(
        self, what: Literal["call", "arguments"], site: CallSite, message: str
    ) -> NoReturn:
        self._comparison.diverge(
            Divergence(
                what=what,
                message=f"step `{site.step}`: {message}",
                step=site.step,
                attempt=site.attempt,
            )
        )
