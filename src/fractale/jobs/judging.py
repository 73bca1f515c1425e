"""How a job is, from its own files and the scheduler's record: by evidence only."""

from __future__ import annotations

import re
import signal
import time
from typing import Final

from fractale.jobs.logs import last_lines
from fractale.jobs.model import JobStatus
from fractale.schedulers.adapter import Record
from fractale.schedulers.folder import Ended, JobFolder, Started
from fractale.schedulers.job import JobState
from fractale.schedulers.sizes import clock
from fractale.schedulers.wrapper import NO_CLAIM, NO_FOLDER, NOT_MINE

CLEARING_SECONDS: Final = 120.0
"""How long a scheduler may take to say how a job ended whose own files say that it did."""

LAST_LINES: Final = 5
_OUT_OF_MEMORY: Final = re.compile(
    r"oom[-_ ]kill|exceeded (?:job )?memory limit|Exceeded step memory|out of memory handler",
    re.IGNORECASE,
)
"""What schedulers themselves write into a job's log."""

_UNSTARTED: Final = {
    NO_FOLDER: "its folder is not seen from the node: the state folder has to be on a file system "
    "that the nodes share",
    NO_CLAIM: "it could not write into its own folder: is the disk full?",
    NOT_MINE: "another job of the same key runs or ran already",
}


class Case:
    """What is known of one job at one moment.

    Args:
        title: What people call the scheduler.
        record: What it says; None where it does not know the job.
        trouble: Why it did not answer.
    """

    def __init__(
        self, folder: JobFolder, title: str, record: Record | None, trouble: str = ""
    ) -> None:
        self._folder = folder
        self._title = title
        self._record = record
        self._trouble = trouble
        self._intent = folder.intent() or {}
        self._started: Started | None = folder.started()
        # Read last: what ended meanwhile has ended.
        self._ended: Ended | None = folder.ended()

    def status(self) -> JobStatus:
        """How the job is."""
        ended, record = self._ended, self._record
        if ended and ended.code == 0 and not ended.signal:
            return self._by_file(ended)
        if record and record.state not in ("pending", "running"):
            return self._by_record(record)
        if ended and not (record and self._is_clearing(ended)):
            return self._by_file(ended)
        if record:
            return self._going_on(record)
        if self._trouble:
            return self._unanswered()
        return self._lost()

    def _is_clearing(self, ended: Ended) -> bool:
        return abs(time.time() - ended.at) < CLEARING_SECONDS

    def _by_file(self, ended: Ended) -> JobStatus:
        asked = f" after SIG{ended.signal} was sent to it" if ended.signal else ""
        if ended.code == 0:
            words = f"ended with exit code 0{asked}{self._where()} (exit-code file)"
            return self._make("completed", words, "exit-code file")
        state: JobState = "cancelled" if ended.signal in ("TERM", "INT") else "failed"
        words = f"{exit_words(ended.code)}{asked}{self._where()} (exit-code file)"
        if self._trouble:
            words += f"; why is not known as long as {self._title} does not answer"
        if state == "cancelled":
            words += self._by_whom()
        return self._make(state, words, "exit-code file")

    def _by_record(self, record: Record) -> JobStatus:
        state = record.state
        if state == "failed" and self._log_says_memory():
            state = "out_of_memory"
        elif state in ("failed", "completed") and self._ended and self._ended.code != 0:
            return self._by_file(self._ended)
        words = f"{self._end_words(state, record)} ({record.evidence}: {record.said})"
        return self._make(state, words, record.evidence)

    def _end_words(self, state: JobState, record: Record) -> str:
        if record.words:
            return record.words
        where, code = self._where(), self._exit_code()
        if state == "timeout":
            limit = self._intent.get("time")
            return "hit its time limit" + (f" of {clock(limit)}" if limit else "") + where
        if state == "out_of_memory":
            limit = self._intent.get("memory")
            return "ran out of memory" + (f" (it may have {limit})" if limit else "") + where
        if state == "cancelled":
            return f"was cancelled{where}{self._by_whom()}"
        if state == "node_failure":
            return f"was lost with its node{where}"
        if state == "completed":
            return f"ended with exit code 0{where}"
        return self._failure_words(code, record) + where

    def _failure_words(self, code: int | None, record: Record) -> str:
        mine = self._started is not None
        if not mine and code in _UNSTARTED:
            return _UNSTARTED[code]
        if code is not None and code != 0:
            return exit_words(code)
        return signal_words(record.signal) if record.signal else "failed"

    def _log_says_memory(self) -> bool:
        return any(
            _OUT_OF_MEMORY.search(last_lines(log, 40))
            for log in (self._folder.log, self._folder.scheduler_log)
        )

    def _going_on(self, record: Record) -> JobStatus:
        if self._ended:
            words = f"{exit_words(self._ended.code)}; {self._title} is still clearing up"
            return self._make("running", words, record.evidence)
        if record.state == "pending":
            words = record.words or "waits for its turn"
            return self._make("pending", f"{words} ({record.evidence}: {record.said})", "")
        return self._make("running", record.words or f"runs{self._where()}", record.evidence)

    def _unanswered(self) -> JobStatus:
        tail = f"; how it is now is not known: {self._trouble}"
        if self._started:
            return self._make("running", f"was started{self._where()}{tail}", "start file")
        return self._make("pending", f"was submitted{tail}", "none")

    def _lost(self) -> JobStatus:
        """Neither its files nor the scheduler say how it ended."""
        if self._started:
            words = f"was started{self._where()}, left no exit code, and is gone"
        else:
            words = "left no sign of having started"
        return self._make("unknown", f"{words}: {self._title} does not know it any more", "none")

    def _where(self) -> str:
        nodes = self._nodes()
        return f" on {', '.join(nodes[:4])}" + ("…" if len(nodes) > 4 else "") if nodes else ""

    def _by_whom(self) -> str:
        return " by fractale" if self._folder.marked("cancelled") else ", not by fractale"

    def _nodes(self) -> tuple[str, ...]:
        if self._record and self._record.nodes:
            return self._record.nodes
        if self._started and self._started.nodes:
            return self._started.nodes
        return (self._started.host,) if self._started and self._started.host else ()

    def _exit_code(self) -> int | None:
        if self._ended:
            return self._ended.code
        code = self._record.exit_code if self._record else None
        # Schedulers say 0 of what never ran or was ended, too.
        return None if code == 0 and self._record and self._record.state != "completed" else code

    def _make(self, state: JobState, words: str, evidence: str) -> JobStatus:
        record = self._record
        code = self._exit_code() if state not in ("pending", "running") else None
        over_badly = state not in ("pending", "running", "completed")
        tail = self._tail() if over_badly else ""
        last = tail.rstrip().rpartition("\n")[2]
        return JobStatus(
            state=state,
            reason=f"{words}; last line: {last}" if last else words,
            evidence=evidence or (record.evidence if record else "none"),
            exit_code=code,
            submitted=(record.submitted if record else None) or self._intent.get("written"),
            started=self._start_time(),
            ended=self._end_time() if state not in ("pending", "running") else None,
            nodes=self._nodes(),
            last_lines=tail,
        )

    def _tail(self) -> str:
        """The last lines of the job, or of its scheduler where the job wrote none."""
        own = last_lines(self._folder.log, LAST_LINES)
        return own or last_lines(self._folder.scheduler_log, LAST_LINES)

    def _start_time(self) -> float | None:
        if self._started:
            return self._started.at
        # Of a job that never ran, Slurm calls its end its start.
        record = self._record
        return record.started if record and record.nodes else None

    def _end_time(self) -> float | None:
        if self._ended:
            return self._ended.at
        return self._record.ended if self._record else None


def exit_words(code: int) -> str:
    """An exit code as the shell has it, in words."""
    if code > 128 and (words := signal_words(code - 128)):
        return f"{words} (exit code {code})"
    meaning = {126: ": it may not be run", 127: ": there is no such program"}.get(code, "")
    return f"ended with exit code {code}{meaning}"


def signal_words(number: int) -> str:
    """A signal that ended a job; empty for a number that is none."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return ""
    more = ", perhaps by the kernel for want of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{more}"
