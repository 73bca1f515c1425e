"""How a job is, from its own files and the scheduler's record: by evidence only."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Final

from fractale.durations import limit_text
from fractale.jobs.logs import last_lines
from fractale.jobs.model import JobStatus
from fractale.schedulers.adapter import JobRecord
from fractale.schedulers.ends import MOST_LINES, EndNotice, notice_in, telling_line
from fractale.schedulers.folder import Ended, JobFolder, Started
from fractale.schedulers.job import JobState
from fractale.schedulers.positions import Positions
from fractale.schedulers.wrapper import NO_CLAIM, NO_FOLDER, NOT_MINE

CLEARING_SECONDS: Final = 120.0
"""How long a scheduler may take to say how a job ended whose own files say that it did."""

UNSEEN_SECONDS: Final = 60.0
"""How long a job's own files may take to be seen here when its scheduler says that it ended well:
the time for which clients of NFS keep what they know of a folder."""

LAST_LINES: Final = 5
ELEMENTS: Final = "elements"
NOTICED_LINES: Final = 40
MOST_OF_NOTICE: Final = 160

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
        self, folder: JobFolder, title: str, record: JobRecord | None, trouble: str = ""
    ) -> None:
        self._folder = folder
        self._whole = whole_of(folder)
        self._title = title
        self._record = record
        self._trouble = trouble
        self._intent = self._whole.intent() or {}
        self._started: Started | None = folder.started()
        # Read last: what ended meanwhile has ended.
        self._ended: Ended | None = folder.ended()

    def status(self) -> JobStatus:
        """How the job is."""
        ended, record = self._ended, self._record
        if ended and ended.code == 0 and not ended.signal:
            return self._by_file(ended)
        if record and record.state == "completed" and not ended:
            return self._contradicted(record)
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

    def _contradicted(self, record: JobRecord) -> JobStatus:
        """The scheduler says that it ended well, and the wrapper left nothing that says so."""
        shown = f"({record.evidence}: {record.said})"
        if record.ended is not None and abs(time.time() - record.ended) < UNSEEN_SECONDS:
            words = f"is over {shown}; its exit code is not seen here yet"
            return self._make("running", words, record.evidence)
        if self._cancelled():
            return self._by_cancellation(f"and has ended without an exit code {shown}")
        if self._started:
            words = f"was started{self._where()} and left no exit code: it or its node was killed"
        else:
            words = "left no sign of having started"
        return self._make("unknown", f"{words}; {self._title} says that it ended {shown}", "none")

    def _by_file(self, ended: Ended) -> JobStatus:
        name = f"SIG{ended.signal}"
        ended_by = signal_words(ended.code - 128) if ended.code > 128 else ""
        is_said = f"by {name}" in ended_by  # the words of the exit code say it
        asked = f" after {name} was sent to it" if ended.signal and not is_said else ""
        if ended.code == 0:
            words = f"ended with exit code 0{asked}{self._where()} (exit-code file)"
            return self._make("completed", words, "exit-code file")
        if notice := self._notice():
            return self._by_notice(notice)
        state: JobState = "cancelled" if ended.signal in ("TERM", "INT") else "failed"
        words = f"{exit_words(ended.code)}{asked}{self._where()} (exit-code file)"
        if self._trouble:
            words += f"; why is not known as long as {self._title} does not answer"
        if state == "cancelled":
            words += self._by_whom()
        return self._make(state, words, "exit-code file")

    def _by_record(self, record: JobRecord) -> JobStatus:
        state = record.state
        if state in ("failed", "completed"):
            if notice := self._notice():
                return self._by_notice(notice)
            if self._ended and self._ended.code != 0:
                return self._by_file(self._ended)
            if state == "failed" and record.signal and not self._ended and self._cancelled():
                return self._by_cancellation(f"({record.evidence}: {record.said})")
        words = f"{self._end_words(state, record)} ({record.evidence}: {record.said})"
        return self._make(state, words, record.evidence)

    def _by_notice(self, notice: EndNotice) -> JobStatus:
        """What the scheduler wrote into the job's output decides."""
        said = re.sub(r"[()]", "", notice.line)[:MOST_OF_NOTICE]
        return self._make(notice.state, f"{self._end_words(notice.state)} (log: {said})", "log")

    def _by_cancellation(self, more: str) -> JobStatus:
        return self._make("cancelled", f"was cancelled{self._where()} by fractale {more}", "none")

    def _end_words(self, state: JobState, record: JobRecord | None = None) -> str:
        if record and record.words:
            return record.words
        where = self._where()
        if state == "timeout":
            return f"hit its time limit{self._limit()}{where}"
        if state == "out_of_memory":
            limit = self._intent.get("memory")
            return "ran out of memory" + (f" (it may have {limit})" if limit else "") + where
        if state == "cancelled":
            return f"was cancelled{where}{self._by_whom()}"
        if state == "node_failure":
            return f"was lost with its node{where}"
        if state == "completed":
            return f"ended with exit code 0{where}"
        if state == "unknown":
            return "is in a state that fractale does not know"
        return self._failure_words(record) + where

    def _limit(self) -> str:
        """The limit that the scheduler had; it may have rounded up what it was asked for."""
        asked = self._intent.get("time")
        held = self._record.time_limit if self._record else None
        if held is None:
            return f" of {limit_text(asked)}" if asked else ""
        more = f" ({limit_text(asked)} were asked for)" if asked and held - asked >= 1 else ""
        return f" of {limit_text(held)}{more}"

    def _failure_words(self, record: JobRecord | None) -> str:
        code = self._ended.code if self._ended else record.exit_code if record else None
        if self._started is None and code in _UNSTARTED:
            return _UNSTARTED[code]
        if code:
            return exit_words(code)
        return signal_words(record.signal) if record and record.signal else "failed"

    def _notice(self) -> EndNotice | None:
        """What the scheduler wrote of the end into its own output.

        In the job's own log a launcher tells of memory; its time limits are those of steps.
        """
        if found := notice_in(last_lines(self._scheduler_log(), NOTICED_LINES).splitlines()):
            return found
        found = notice_in(last_lines(self._folder.log, NOTICED_LINES).splitlines())
        return found if found and found.state == "out_of_memory" else None

    def _scheduler_log(self) -> Path:
        """What the scheduler itself writes, of an array into a file for each element."""
        if self._whole == self._folder:
            return self._folder.scheduler_log
        position = Positions(self._whole).position(int(self._folder.path.name))
        return self._whole.path / f"{self._whole.scheduler_log.name}.{position}"

    def _going_on(self, record: JobRecord) -> JobStatus:
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
        gone = f"{self._title} does not know it any more"
        if self._cancelled():
            return self._by_cancellation(f"({gone})")
        if self._started:
            words = f"was started{self._where()}, left no exit code, and is gone"
        else:
            words = "left no sign of having started"
        return self._make("unknown", f"{words}: {gone}", "none")

    def _where(self) -> str:
        nodes = self._nodes()
        return f" on {', '.join(nodes[:4])}" + ("…" if len(nodes) > 4 else "") if nodes else ""

    def _by_whom(self) -> str:
        return " by fractale" if self._cancelled() else ", not by fractale"

    def _cancelled(self) -> bool:
        """Whether fractale asked for its end, or for that of its whole array."""
        return any(folder.marked("cancelled") for folder in {self._folder, self._whole})

    def _nodes(self) -> tuple[str, ...]:
        if self._record and self._record.nodes:
            return self._record.nodes
        if self._started and self._started.nodes:
            return self._started.nodes
        return (self._started.host,) if self._started and self._started.host else ()

    def _exit_code(self, state: JobState) -> int | None:
        """Of the script or command; a job that never ran it has none."""
        if self._ended:
            return self._ended.code
        record = self._record
        code = record.exit_code if record else None
        if code is None or record is None:
            return None
        ran = self._started or record.started is not None or record.nodes
        if not ran or (self._started is None and code in _UNSTARTED):
            return None
        # Schedulers say 0 of what was ended or got lost, too.
        return None if code == 0 and state != "completed" else code

    def _make(self, state: JobState, words: str, evidence: str) -> JobStatus:
        record = self._record
        code = self._exit_code(state) if state not in ("pending", "running") else None
        over_badly = state not in ("pending", "running", "completed")
        last, tail = self._tail() if over_badly else ("", "")
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

    def _tail(self) -> tuple[str, str]:
        """The line that tells why it failed, and the last ones from there on.

        They are of its own log, or of its scheduler's where it wrote none.
        """
        for log in (self._folder.log, self._scheduler_log()):
            if lines := last_lines(log, MOST_LINES).splitlines():
                number = telling_line(lines)
                return lines[number], "\n".join(
                    lines[max(0, min(number, len(lines) - LAST_LINES)) :]
                )
        return "", ""

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


def whole_of(folder: JobFolder) -> JobFolder:
    """The folder of the array that an element is of; of a single job its own."""
    path = folder.path
    return JobFolder(path.parents[1]) if path.parent.name == ELEMENTS else folder


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
