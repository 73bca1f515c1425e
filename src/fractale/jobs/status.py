"""The status of a batch job by evidence: its own files, its scheduler's record, its log.

`status_of` decides, in this order:

1. A plain exit code in the job's own files: the job is over, and the scheduler is not asked.
2. The scheduler's record of an end, such as a time limit or a lost node. A notice that the
   scheduler wrote into the log is more precise than the record.
3. Another end in the job's own files, once the scheduler has had time to report the reason.
4. The scheduler's record of a job that waits or runs.
5. Nothing shows how the job ended: its state is ``unknown``.

Elements of an array are judged the same way (`fractale.jobs.arrays`).
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from fractale.durations import limit_text
from fractale.jobs.logs import last_lines
from fractale.jobs.polling import PollAnswer
from fractale.schedulers.adapter import JobRecord, Submitted
from fractale.schedulers.ends import MOST_LINES, EndNotice, notice_in, telling_line
from fractale.schedulers.folder import Ended, JobFolder, Started, whole_of
from fractale.schedulers.job import ACTIVE, JobState
from fractale.schedulers.positions import Positions
from fractale.schedulers.wrapper import NO_CLAIM, NO_FOLDER, NOT_MINE

Ask = Callable[[Submitted], Awaitable[PollAnswer]]
"""A function that asks the scheduler about a job (`fractale.jobs.polling`)."""

REASON_SECONDS: Final = 86_400.0
"""Seconds to wait for a scheduler to report why a signal ended a job."""

CLEARING_SECONDS: Final = 120.0
"""Seconds that a scheduler may take to report an end that the job's own files show."""

UNSEEN_SECONDS: Final = 60.0
"""Seconds until a job's own files must appear here after its scheduler reports success: the time
for which NFS clients cache a directory."""

LAST_LINES: Final = 5
ELEMENTS: Final = "elements"
NOTICED_LINES: Final = 40
MOST_OF_NOTICE: Final = 160

_UNSTARTED: Final = {
    NO_FOLDER: "could not start: the state directory must be on a file system that all nodes "
    "share; the job's directory was not found",
    NO_CLAIM: "could not start, perhaps because the disk is full: nothing could be written to its "
    "directory",
    NOT_MINE: "another job with the same key is running or has run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The state of a job, and the evidence for it.

    Args:
        reason: For users: why the job waits, where it runs or how it ended, with the evidence.
        evidence: ``exit-code file``, ``scontrol``, ``sacct``, ``job-completion file``, ``flux``,
            ``qstat``, ``bjobs``, ``log``, ``boot id``, ``start file``, or ``none``.
        exit_code: Of the script or command; None without one, or if it is unknown.
        submitted: In Unix time, like `started` and `ended`.
        last_lines: The end of the log, if the job did not succeed.
        counts: Of an array: state → number of elements.
        notices: Parts of the request that its scheduler ignored, one sentence each.
    """

    state: JobState
    reason: str
    evidence: str = "none"
    exit_code: int | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    nodes: tuple[str, ...] = ()
    last_lines: str = ""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    notices: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether the job has ended or its state is unknown."""
        return self.state not in ACTIVE

    @property
    def seconds(self) -> float | None:
        """The run time; None if the start or the end is unknown."""
        if self.started is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.started)

    def as_dict(self) -> dict[str, Any]:
        """Make JSON of the status, with `over` and `seconds`."""
        found: dict[str, Any] = {
            **asdict(self),
            "nodes": list(self.nodes),
            "over": self.over,
            "seconds": self.seconds,
        }
        for name in ("counts", "notices"):  # few jobs have any
            if not found[name]:
                del found[name]
        return found


def is_plain(ended: Ended | None) -> bool:
    """Whether a job ended with an exit code and no signal: no need to ask its scheduler."""
    return ended is not None and not ended.signal and ended.code <= 128


async def status_of(folder: JobFolder, native_id: str, title: str, ask: Ask) -> JobStatus:
    """Get the status of a single job."""
    if is_plain(folder.ended()):
        return JobEvidence(folder, title, None).status()
    answer = await ask(Submitted(folder=folder, native_id=native_id))
    return judged(folder, title, answer, None)


def judged(folder: JobFolder, title: str, answer: PollAnswer, index: int | None) -> JobStatus:
    """Judge a job or an element by its files and the scheduler's last answer.

    Args:
        index: Index of the element; None for a single job.
    """
    ended, started = folder.ended(), folder.started()
    if is_plain(ended):  # the job ended during the question
        return JobEvidence(folder, title, None).status()
    record = (answer.records or {}).get(index)
    if answer.trouble:
        if ended is not None and not folder.marked("cancelled") and _is_recent(ended):
            why = f"the reason is unknown until {title} answers: {answer.trouble}"
            return _running(folder, f"{exit_words(ended.code)}; {why}", started, ended)
        return JobEvidence(folder, title, None, answer.trouble).status()
    is_old = answer.records is None or (ended is not None and answer.at < ended.at)
    if is_old and not (record and record.state not in ACTIVE):
        return _not_asked(folder, title, answer, started, ended)
    if record and record.state == "pending" and started and answer.at < started.at:
        return _not_asked(folder, title, answer, started, ended)
    return JobEvidence(folder, title, record).status()


def _not_asked(
    folder: JobFolder, title: str, answer: PollAnswer, started: Started | None, ended: Ended | None
) -> JobStatus:
    """The status of a job that has changed since the last question to the scheduler."""
    submitted = (folder.intent() or {}).get("written")
    # A time, not a countdown: a changing reason would be an event at each reading.
    again = time.strftime("%H:%M:%S", time.localtime(answer.again))
    if ended is not None:
        if folder.marked("cancelled"):
            return JobEvidence(folder, title, None).status()
        words = f"{exit_words(ended.code)}; fractale asks {title} for the reason at {again}"
    elif started is not None:
        words = f"runs on {', '.join(_hosts(started))}"
    else:
        words = f"was submitted; fractale asks {title} again at {again}"
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
    """Whether the scheduler may still report the reason of an end."""
    return time.time() - ended.at < REASON_SECONDS


def with_notices(status: JobStatus, folder: JobFolder) -> JobStatus:
    """Add the parts of the job's request that its scheduler ignored to the status."""
    notices = folder.notices()
    return replace(status, notices=notices) if notices else status


class JobEvidence:
    """The evidence about one job at one moment.

    Args:
        title: Name of the scheduler, for users.
        record: The scheduler's record; None if the scheduler does not know the job.
        trouble: Why the scheduler did not answer.
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
        # Read last, so that a job counts as ended if it ends during these reads.
        self._ended: Ended | None = folder.ended()

    def status(self) -> JobStatus:
        """Judge the job by the strongest evidence."""
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
            return self._active(record)
        if self._trouble:
            return self._unanswered()
        return self._lost()

    def _is_clearing(self, ended: Ended) -> bool:
        return abs(time.time() - ended.at) < CLEARING_SECONDS

    def _contradicted(self, record: JobRecord) -> JobStatus:
        """The status if the scheduler reports success, but the wrapper left no exit code."""
        shown = f"({record.evidence}: {record.said})"
        if record.ended is not None and abs(time.time() - record.ended) < UNSEEN_SECONDS:
            words = f"is over {shown}; its exit code is not visible here yet"
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
        is_said = f"by {name}" in ended_by  # the text of the exit code names it
        asked = f" after {name} was sent to it" if ended.signal and not is_said else ""
        if ended.code == 0:
            words = f"ended with exit code 0{asked}{self._where()} (exit-code file)"
            return self._make("completed", words, "exit-code file")
        if notice := self._notice():
            return self._by_notice(notice)
        state: JobState = "cancelled" if ended.signal in ("TERM", "INT") else "failed"
        words = f"{exit_words(ended.code)}{asked}{self._where()} (exit-code file)"
        if self._trouble:
            words += f"; the reason is unknown until {self._title} answers"
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
        """The status by the notice of the end that the scheduler wrote into the job's output."""
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
        """The scheduler's limit, which may be the requested limit rounded up."""
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
        """Find the scheduler's notice of the end, in its own output or in the job's log.

        In the job's log only memory notices count: time limits there belong to job steps.
        """
        if found := notice_in(last_lines(self._scheduler_log(), NOTICED_LINES).splitlines()):
            return found
        found = notice_in(last_lines(self._folder.log, NOTICED_LINES).splitlines())
        return found if found and found.state == "out_of_memory" else None

    def _scheduler_log(self) -> Path:
        """The file of the scheduler's own output; an array has one per element."""
        if self._whole == self._folder:
            return self._folder.scheduler_log
        position = Positions(self._whole).position(int(self._folder.path.name))
        return self._whole.path / f"{self._whole.scheduler_log.name}.{position}"

    def _active(self, record: JobRecord) -> JobStatus:
        if self._ended:
            words = f"{exit_words(self._ended.code)}; {self._title} is still clearing up"
            return self._make("running", words, record.evidence)
        if record.state == "pending":
            words = record.words or "waits for its turn"
            return self._make("pending", f"{words} ({record.evidence}: {record.said})", "")
        return self._make("running", record.words or f"runs{self._where()}", record.evidence)

    def _unanswered(self) -> JobStatus:
        tail = f"; its present state is unknown: {self._trouble}"
        if self._started:
            return self._make("running", f"was started{self._where()}{tail}", "start file")
        return self._make("pending", f"was submitted{tail}", "none")

    def _lost(self) -> JobStatus:
        """The status if neither the job's files nor the scheduler show how the job ended."""
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
        """Whether fractale cancelled the job, or its whole array."""
        return any(folder.marked("cancelled") for folder in {self._folder, self._whole})

    def _nodes(self) -> tuple[str, ...]:
        if self._record and self._record.nodes:
            return self._record.nodes
        if self._started and self._started.nodes:
            return self._started.nodes
        return (self._started.host,) if self._started and self._started.host else ()

    def _exit_code(self, state: JobState) -> int | None:
        """The exit code of the script or command; None for a job that never ran it."""
        if self._ended:
            return self._ended.code
        record = self._record
        code = record.exit_code if record else None
        if code is None or record is None:
            return None
        ran = self._started or record.started is not None or record.nodes
        if not ran or (self._started is None and code in _UNSTARTED):
            return None
        # Schedulers also report 0 for cancelled and lost jobs.
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
        """Find the line that says why the job failed, and the last lines from there on.

        They come from the job's log or, if that is empty, from the scheduler's output.
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
        # For a job that never ran, Slurm reports the end as the start.
        record = self._record
        return record.started if record and record.nodes else None

    def _end_time(self) -> float | None:
        if self._ended:
            return self._ended.at
        return self._record.ended if self._record else None


def exit_words(code: int) -> str:
    """Describe a shell's exit code for users."""
    if code > 128 and (words := signal_words(code - 128)):
        return f"{words} (exit code {code})"
    meaning = {126: ": it may not be executed", 127: ": the program was not found"}.get(code, "")
    return f"ended with exit code {code}{meaning}"


def signal_words(number: int) -> str:
    """Describe the signal that ended a job; empty if the number is not a signal."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return ""
    more = ", perhaps by the kernel because memory ran out" if name == "SIGKILL" else ""
    return f"was ended by {name}{more}"
