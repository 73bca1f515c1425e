"""All runs of a state directory, read again and again: one `Glance` per run.

Reading costs little: the list of runs is read again at most so often that it takes a hundredth of
the time, and only runs that are in progress are followed. `Overview.read` is called in a
thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path, PurePath
from typing import Any, Final

from fractale.errors import FractaleError
from fractale.events import Event
from fractale.questions import needs_no_answer, tool_of
from fractale.record.follow import RunFollower, text_being_written
from fractale.record.history import RunHistory
from fractale.render.questions import asker, exact
from fractale.render.run_list import about_run
from fractale.render.run_view import Running, RunView
from fractale.render.summary import STATES, verdict, why_in_short
from fractale.render.sweep import SWEEP_STATES, bar, counts_text, done_of, total_of
from fractale.render.text import Mark, count, inert
from fractale.store.index import RunFilter, RunRow, list_runs
from fractale.store.run_record import RUNS, RunRecords
from fractale.sweeps.following import SweepList, unreadable
from fractale.sweeps.results import SweepView

MOST_FOLLOWED: Final = 64
"""The most runs that are followed at a time; the states of more come from the list alone."""
MOST_READ: Final = 200
"""The most waiting runs outside the screen whose questions one `read` looks up."""
LEAST_PAUSE: Final = 2.0
SHARE: Final = 100
"""The list is read again after this many times the seconds that it took."""
NEW_PAUSE: Final = 0.5
"""The least seconds between two reads of the list because a run's directory was made."""
MOST_TEXT: Final = 300
JOB_LETTERS: Final = {"running": "R", "pending": "PD"}
"""States of jobs, as Slurm's own commands shorten them."""
NOTHING: Final[Mapping[str, Any]] = {}


MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""The errors of a record that no fractale has written so."""


def damage_of(error: Exception) -> str:
    """Why a record cannot be shown."""
    if isinstance(error, FractaleError):
        return inert(str(error), MOST_TEXT)
    return inert(f"the record is damaged: {type(error).__name__}: {error}", MOST_TEXT)


class Rank(IntEnum):
    """How much a run needs you."""

    ASKS = 0
    RUNS = 1
    WAITS = 2
    STOPPED = 3
    ENDED = 4


RANKS: Final = {"waiting": Rank.WAITS, "limit": Rank.STOPPED, "stopped": Rank.STOPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """One run, or one sweep, as a line of the list shows it.

    Args:
        row: Of a sweep, one with the sweep's ID.
        state: As text, such as ``asks`` or ``job 4711 R n3``.
        since: When the present step, or the wait for an answer, began; Unix time, None if unknown
            or over.
        says: What it asks, or why it failed.
        rank: How much it needs you.
        limit: The most node-hours that it may use, if it has a limit.
        sweep: The sweep that it is, without its rows; None for a run.
    """

    row: RunRow
    state: str
    mark: Mark
    step: str = ""
    since: float | None = None
    tokens: int = 0
    node_hours: float = 0.0
    limit: float | None = None
    says: str = ""
    rank: Rank = Rank.ENDED
    sweep: SweepView | None = None

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def text(self) -> str:
        """The text that a filter searches, in lower case."""
        row = self.row
        file = PurePath(row.file).name
        words = (row.id, row.plan, file, row.status, self.state, self.step, self.says)
        return " ".join((*words, row.parent or "")).casefold()


@dataclass(slots=True)
class FollowedRun:
    """One run that is read as it grows.

    Attributes:
        view: The steps in progress; its size does not grow with the run.
        written: Step → the end of the text that a model is writing there.
        changed: Counts the reads that found something new.
    """

    follower: RunFollower
    view: RunView = field(default_factory=lambda: RunView(calls=False))
    written: Mapping[str, str] = field(default_factory=dict[str, str])
    changed: int = 0
    was: tuple[Any, ...] = ()

    @property
    def history(self) -> RunHistory:
        return self.follower.history

    def read(self) -> None:
        """Read what is new.

        Raises:
            StoreError: The record is missing or damaged.
        """
        for event in self.follower.read():
            data = {k: v for k, v in event.items() if k not in ("event", "run", "time")}
            if event["event"] == "run_started":
                self.view.active.clear()
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                self.view.take(Event(event["event"], event.get("run") or "", data, event["time"]))
            self.changed += 1
        self.written = text_being_written(self.history.record) if self.history.alive else {}
        now = (self.history.alive, tuple(self.written.items()))
        self.changed += now != self.was
        self.was = now

    def steps(self) -> list[Running]:
        """The steps in progress, the innermost last; none if no process has the run."""
        return list(self.view.active.values()) if self.history.alive else []


def asked_in_short(question: Mapping[str, Any]) -> str:
    """A question on one line: ``approve local.write_text_file?``."""
    kind = str(question.get("kind") or "")
    if kind == "approval":
        return f"approve {exact(tool_of(question))}?"
    if kind == "review":
        return f"accept draft {question.get('round') or 1} of a plan?"
    if kind == "tool_changed":
        return f"accept changed tools of {exact(str(question.get('server')))}?"
    if kind == "in_doubt":
        return f"did the call of {exact(tool_of(question))} happen?"
    if kind == "job_unknown":
        return f"how did job {inert(str(question.get('job') or '?'), 40)} end?"
    if kind == "failure":
        return f"failed: {inert(str(question.get('error') or ''), MOST_TEXT)}"
    if kind == "interrupt":
        return f"{asker(question)} asks"
    return inert(str(question.get("text") or question.get("message") or kind), MOST_TEXT)


class Overview:
    """Reads the runs of a state directory. A sweep is one line, in place of its runs.

    Args:
        sweep: Only the runs of this sweep.
        now: The clock, in Unix time.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        sweep: str | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state_dir = state_dir
        self.records = RunRecords(state_dir)
        self._which = RunFilter(sweep=sweep, single=sweep is None)
        self._sweeps = SweepList(state_dir) if sweep is None else None
        self._now = now
        self._clock = clock
        self._due = 0.0
        self._read_at = -NEW_PAUSE
        self._made = 0.0
        self._rows: list[RunRow] = []
        self._followed: dict[str, FollowedRun] = {}
        self._known: dict[str, tuple[RunRow, bool, Glance]] = {}
        self._damaged: dict[str, str] = {}
        self._spare = 0

    def read(self, shown: Collection[str] = (), opened: str | None = None) -> list[Glance]:
        """The runs, the latest first, after the sweeps.

        Args:
            shown: The runs on the screen. Why a run failed is read only for these.
            opened: The run or the sweep that is looked at; a run is followed even if it has ended.

        Raises:
            StoreError: The index of runs cannot be used.
        """
        self._read_list()
        sweeps = self._read_sweeps()
        if any(each.id == opened for each in sweeps):
            opened = None
        running = [row.id for row in self._rows if row.status == "running"]
        first = [each for each in running if each in shown]
        wanted = [*([opened] if opened else []), *first, *running]
        wanted = list(dict.fromkeys(wanted))[:MOST_FOLLOWED]
        for gone in self._followed.keys() - set(wanted):
            del self._followed[gone]
        for run_id in wanted:
            self._follow(run_id)
        self._spare = MOST_READ
        return [*sweeps, *(self._glance(row, seen=row.id in shown) for row in self._rows)]

    def _read_sweeps(self) -> list[Glance]:
        if self._sweeps is None:
            return []
        found = [_sweep_glance(view) for view in self._sweeps.read()]
        damaged = self._sweeps.damaged.items()
        return [*found, *(_sweep_glance(unreadable(name, words)) for name, words in damaged)]

    def reread(self) -> None:
        """Read the list again at the next `read`, since something was done to a run."""
        self._due = 0.0

    def run(self, run_id: str) -> FollowedRun | None:
        """A run that is followed; None if it is not, or if its record cannot be read."""
        return self._followed.get(run_id)

    def damage(self, run_id: str) -> str:
        """Why the record of a run cannot be read; empty if it can."""
        return self._damaged.get(run_id, "")

    def _read_list(self) -> None:
        now = self._clock()
        with contextlib.suppress(OSError):
            made = (self.state_dir / RUNS).stat().st_mtime
            if made != self._made and now - self._read_at >= NEW_PAUSE:
                self._made, self._due = made, 0.0
        if now < self._due:
            return
        self._rows = list_runs(self.state_dir, self._which)
        self._read_at = self._clock()
        self._due = self._read_at + max(LEAST_PAUSE, SHARE * (self._read_at - now))
        there = {row.id for row in self._rows}
        for gone in self._known.keys() - there:
            del self._known[gone]

    def _follow(self, run_id: str) -> None:
        try:
            if run_id not in self._followed:
                self._followed[run_id] = FollowedRun(RunFollower(self.records.at(run_id)))
            run = self._followed[run_id]
            was = run.history.alive
            run.read()
        except (FractaleError, *MALFORMED) as error:
            self._followed.pop(run_id, None)
            self._damaged[run_id] = damage_of(error)
            return
        self._damaged.pop(run_id, None)
        if was and not run.history.alive:
            self._due = 0.0

    def _glance(self, row: RunRow, *, seen: bool) -> Glance:
        if words := self._damaged.get(row.id):
            return _unreadable(row, words)
        try:
            return self._read_glance(row, seen=seen)
        except MALFORMED as error:
            glance = _unreadable(row, damage_of(error))
            self._known[row.id] = (row, True, glance)
            return glance

    def _read_glance(self, row: RunRow, *, seen: bool) -> Glance:
        run = self._followed.get(row.id)
        if run is not None and run.history.alive:
            return _in_progress(row, run)
        known = self._known.get(row.id)
        wanted = seen or (row.status == "waiting" and self._spare > 0)
        if known and known[0] == row and (known[1] or not wanted):
            return known[2]
        self._spare -= wanted
        result = self._result(row.id) if wanted else NOTHING
        made = _waiting if result.get("status") == "waiting" else _ended
        glance = made(row, result)
        self._known[row.id] = (row, wanted, glance)
        return glance

    def _result(self, run_id: str) -> Mapping[str, Any]:
        """The end of a run, as its record has it; empty if it has none or cannot be read."""
        with contextlib.suppress(FractaleError, OSError, ValueError):
            ends = self.records.at(run_id).events_from_end(("run_finished", "run_started"))
            last = next(ends, None)
            if last and last["event"] == "run_finished":
                return last
        return {}


def _sweep_glance(view: SweepView) -> Glance:
    words, mark = SWEEP_STATES.get(view.status, (inert(view.status, 20), "warn"))
    total, tokens = total_of(view), int(view.used.get("tokens", 0))
    hours = view.used.get("node_hours", 0.0)
    limits = {limit.name: limit.limit for limit in view.limits}
    live = view.status in ("running", "queued")
    rank = Rank.RUNS if live else RANKS.get(view.status, Rank.ENDED)
    if view.asking:
        rank = Rank.ASKS
    return Glance(
        row=RunRow(
            id=view.id,
            plan=f"sweep {view.plan}",
            file=view.file,
            status=view.status,
            started=view.started,
            ended=view.ended,
            tokens=tokens,
            node_hours=hours,
        ),
        state=f"{bar(done_of(view), total)} {done_of(view)}/{total}" if total else words,
        mark=mark,
        since=view.started if live else None,
        tokens=tokens,
        node_hours=hours,
        limit=limits.get("node_hours"),
        says=_sweep_says(view, words),
        rank=rank,
        sweep=view,
    )


def _sweep_says(view: SweepView, words: str) -> str:
    if view.asking:
        return f"{count(view.asking, 'run')} {'asks' if view.asking == 1 else 'ask'}"
    reason = inert(view.reason, MOST_TEXT) if view.reason else ""
    return " · ".join(filter(None, (words, reason or counts_text(view.counts))))


def _unreadable(row: RunRow, words: str) -> Glance:
    return Glance(row=row, state="unreadable", mark="bad", says=words, rank=Rank.STOPPED)


def _in_progress(row: RunRow, run: FollowedRun) -> Glance:
    history, steps = run.history, run.steps()
    usage, asked = history.usage, history.open_questions
    limits: Mapping[str, Any] = history.processes[-1].limits if history.processes else NOTHING
    current = steps[-1] if steps else None
    mark: Mark
    state, mark = STATES["running"]
    rank, says, since = Rank.RUNS, "", current.started if current else history.started
    step = inert(current.path, 60) if current else ""
    if asked:
        rank, state, mark = Rank.ASKS, "asks", "warn"
        says = _asked([each.question for each in asked])
        step = inert(asked[0].step, 60)
        since = min((each.asked_at for each in asked if each.asked_at), default=since)
    elif current is not None:
        state = _job_state(history, current) or state
        step = f"{step} {current.progress}".rstrip()
        said = run.written.get(current.path, "")
        says = inert(said[-200:]) if said else current.counts or current.activity
    return Glance(
        row=row,
        state=state,
        mark=mark,
        step=step,
        since=since,
        tokens=usage["total_tokens"],
        node_hours=float(usage.get("node_hours") or row.node_hours),
        limit=_number(limits.get("node_hours")),
        says=says,
        rank=rank,
    )


def _job_state(history: RunHistory, current: Running) -> str:
    """The state of the only job that a step waits for: ``job 4711 R n3``."""
    attempt = next((a for a in reversed(history.attempts) if a.path == current.path), None)
    jobs = [job for job in attempt.jobs if not job.over] if attempt else []
    if len(jobs) != 1:
        return ""
    words = JOB_LETTERS.get(jobs[0].state, jobs[0].state)
    where = f" {jobs[0].nodes[0]}" if jobs[0].state == "running" and jobs[0].nodes else ""
    return inert(f"job {jobs[0].job} {words}{where}", 60)


def _waiting(row: RunRow, result: Mapping[str, Any]) -> Glance:
    waiting: Sequence[Mapping[str, Any]] = result.get("waiting") or ()
    questions = [each for each in waiting if not needs_no_answer(each)]
    words, mark = STATES["waiting"]
    state, rank = ("asks", Rank.ASKS) if questions else (words, Rank.WAITS)
    step = inert(str(questions[0].get("step") or ""), 60) if questions else ""
    return Glance(
        row=row,
        state=state,
        mark=mark,
        step=step or _first_step(row),
        since=row.ended,
        tokens=row.tokens,
        node_hours=row.node_hours,
        says=_asked(questions) if questions else verdict(result).why,
        rank=rank,
    )


def _asked(questions: Sequence[Mapping[str, Any]]) -> str:
    more = f" (and {len(questions) - 1} more)" if len(questions) > 1 else ""
    return f"{asked_in_short(questions[0])}{more}"


def _ended(row: RunRow, result: Mapping[str, Any]) -> Glance:
    """A run that is over or stopped.

    Args:
        result: The fields of its event `run_finished`; empty if they were not read.
    """
    words, mark = STATES.get(row.status, (inert(row.status, 20), "warn"))
    if row.status == "running" and not result:  # its process is starting, or is not followed
        return Glance(
            row=row, state=words, mark=mark, since=row.started, tokens=row.tokens, rank=Rank.RUNS
        )
    why = why_in_short(result) if result and row.status != "success" else ""
    return Glance(
        row=row,
        state="limit" if row.status == "limit" else words,
        mark=mark,
        step=inert(row.failed_at, 60) or _first_step(row),
        tokens=row.tokens,
        node_hours=row.node_hours,
        says=why or about_run(row),
        rank=RANKS.get(row.status, Rank.ENDED),
    )


def _first_step(row: RunRow) -> str:
    """The first step that a run waits for, without the job or the time."""
    return inert(row.waits_for.partition(", ")[0].partition(" (")[0], 60)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


# -- choosing ---------------------------------------------------------------------------------


SORTS: Final[Mapping[str, Callable[[Glance], Any]]] = {
    "needs you": lambda glance: (glance.rank, -glance.row.started),
    "latest": lambda glance: -glance.row.started,
    "plan": lambda glance: (glance.row.plan, -glance.row.started),
    "state": lambda glance: (glance.row.status, -glance.row.started),
    "tokens": lambda glance: (-glance.tokens, -glance.row.started),
    "node-hours": lambda glance: (-glance.node_hours, -glance.row.started),
}
"""The orders of the list: name → sort key."""


def chosen(glances: Sequence[Glance], words: str, sort: str) -> list[Glance]:
    """The runs whose line has all the words, in an order.

    Args:
        words: With blanks between; upper and lower case are the same.
        sort: One of `SORTS`.
    """
    wanted = words.casefold().split()
    found = [each for each in glances if all(word in each.text for word in wanted)]
    return sorted(found, key=SORTS[sort])
