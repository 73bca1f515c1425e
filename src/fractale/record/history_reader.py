"""Reads the events of a run, one by one, into its `RunHistory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from fractale.errors import StoreError
from fractale.events import NewEvents
from fractale.plan.paths import around
from fractale.record.history import (
    RecordedAttempt,
    RecordedCall,
    RecordedItem,
    RecordedJob,
    RecordedQuestion,
    RecordedWarning,
    RunHistory,
    RunProcess,
    whole_or_brief,
)
from fractale.record.shape import wrong_event, wrong_head
from fractale.store.locks import holder_of
from fractale.store.outputs import Part
from fractale.store.run_record import RunRecord

Data: TypeAlias = Mapping[str, Any]

LOUD = ("warning", "error", "critical", "alert", "emergency")
"""Levels of a server's log that count as warnings."""


def read_history(record: RunRecord) -> RunHistory:
    """Read the history of a run.

    Raises:
        StoreError: The record is missing or damaged.
    """
    follower = RunFollower(record)
    for _ in follower.new_events():
        pass
    return follower.history


class RunFollower:
    """Reads the history of a run and keeps it up to date while another process works on the run.

    Attributes:
        history: Updated in place by each read; empty before the first.

    Raises:
        StoreError: The record is missing or damaged.
    """

    def __init__(self, record: RunRecord) -> None:
        head = record.read_head()
        if wrong := wrong_head(head):
            raise _damaged(record, wrong)
        self.history = RunHistory(record=record, head=head, title=str(head.get("plan") or ""))
        self._record = record
        self._reader = _Reader(self.history)
        self._events = NewEvents(record.events)
        self._failed: StoreError | None = None  # the event that was wrong is not read again

    def read(self) -> list[dict[str, Any]]:
        """Add the events that were recorded since the last read to the history.

        Returns:
            Those events in their flat form, oldest first.

        Raises:
            StoreError: The record is damaged, or was removed. A follower that met a damaged event
                raises this each time.
        """
        return list(self.new_events())

    def new_events(self) -> Iterator[dict[str, Any]]:
        """The events as `read` returns them, each after it was added to the history."""
        history, found = self.history, False
        if self._failed is not None:
            raise self._failed
        while True:
            # A process that has ended has written its last event: look for the process first.
            alive, news = holder_of(self._record) is not None, False
            for event in self._events.read():
                self._take(event)
                news = True
                yield event
            history.alive, found = alive, found or news
            if alive or not news:
                break
        if found and self._record.drafts.exists():
            history.drafts = self._record.read_drafts()

    def _take(self, event: Data) -> None:
        if wrong := wrong_event(event):
            self._failed = _damaged(self._record, wrong)
            raise self._failed
        self._reader.take(event)


def _damaged(record: RunRecord, wrong: str) -> StoreError:
    # A damaged line can be valid JSON that is not an event.
    return StoreError(f"the record of run {record.run_id} is damaged: {wrong}")


class _Reader:
    """Adds the events of a run, in their order, to its history.

    A step that is started again after a question or a crash continues the same attempt: its path,
    its number and the attempt around it are the same.
    """

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._current: dict[str, RecordedAttempt] = {}
        self._counts: dict[str, int] = {}
        self._calls: dict[tuple[str, int], RecordedCall] = {}
        # The calls of an attempt with the same key in the journal: an attempt may have 10,000.
        self._alike: dict[tuple[str, int, str], list[RecordedCall]] = {}
        self._jobs: dict[tuple[str, str], RecordedJob] = {}
        self._handlers: dict[str, Callable[[Data], None]] = {
            "run_started": self._run_started,
            "step_started": self._step_started,
            "item_started": self._item_started,
            "item_finished": self._item_finished,
            "tool_started": self._tool_started,
            "model_started": self._model_started,
            "tool_finished": self._call_finished,
            "model_finished": self._call_finished,
            "log": self._log,
            "warning": self._warning,
            "table": self._table,
            "job_state": self._job_state,
            "waiting": self._waiting,
            "answered": self._answered,
            "step_finished": self._step_finished,
            "run_finished": self._run_finished,
        }

    def take(self, event: Data) -> None:
        """Add one event; an unknown kind is ignored."""
        if handler := self._handlers.get(event["event"]):
            handler(event)
        if self._history.processes:
            self._history.processes[-1].seen = event["time"]

    def _run_started(self, event: Data) -> None:
        history = self._history
        history.title = event.get("title") or history.title
        history.steps = event.get("steps") or history.steps
        history.kept = (event.get("parent") or {}).get("kept") or history.kept
        process = RunProcess(
            started=event["time"],
            resumed=bool(event.get("resumed")),
            model=event.get("model"),
            versions=event.get("versions") or {},
            limits=event.get("limits") or {},
        )
        history.processes.append(process)

    def _run_finished(self, event: Data) -> None:
        history = self._history
        hidden = ("event", "run", "time", "parts")
        history.result = {k: v for k, v in event.items() if k not in hidden}
        if parts := _parts_of(event, "outputs"):
            outputs = whole_or_brief(history.record, event["outputs"], parts)
            history.result["outputs"] = outputs
        if history.processes:
            history.processes[-1].ended = event["time"]
            history.processes[-1].status = event["status"]

    # -- attempts ---------------------------------------------------------------------------------

    def _owner(self, path: str) -> RecordedAttempt | None:
        """The latest attempt that an event belongs to: of ``a/b[3]``, that of ``a/b``."""
        known = (each for each in (path, *around(path)) if each in self._current)
        return self._current.get(next(known, ""))

    def _parent(self, path: str) -> RecordedAttempt | None:
        above = around(path) if "/" in path else []
        return self._owner(above[0]) if above else None

    def _step_started(self, event: Data) -> None:
        path, number = event["step"], event.get("attempt") or 1
        parent = self._parent(path)
        attempt = self._current.get(path)
        if attempt and attempt.outcome == "skipped":  # it was not counted
            attempt = None
        if attempt and attempt.attempt == number and attempt.parent is parent:
            attempt.enterings += 1
            return
        attempt = self._new(path, number, parent, event["time"])
        attempt.kind = event.get("type") or ""
        attempt.target = event.get("target")
        attempt.description = event.get("description") or ""
        attempt.previous = event.get("previous")
        attempt.handler = event.get("handler") or ""

    def _new(
        self, path: str, number: int, parent: RecordedAttempt | None, started: float
    ) -> RecordedAttempt:
        self._counts[path] = self._counts.get(path, 0) + 1
        attempt = RecordedAttempt(
            path=path, number=self._counts[path], attempt=number, parent=parent, started=started
        )
        self._current[path] = attempt
        self._history.attempts.append(attempt)
        return attempt

    def _skipped(self, event: Data) -> RecordedAttempt:
        """A step that was skipped is never started."""
        path = event["step"]
        attempt = self._new(path, event.get("attempt") or 1, self._parent(path), event["time"])
        known = [step for step in self._history.steps if step.get("name") == path]
        if known:
            attempt.kind, attempt.target = known[0].get("type") or "", known[0].get("target")
        attempt.handler = event.get("handler") or ""
        return attempt

    def _step_finished(self, event: Data) -> None:
        skipped = event["outcome"] == "skipped"
        attempt = None if skipped else self._current.get(event["step"])
        attempt = attempt or self._skipped(event)
        attempt.ended = event["time"]
        attempt.outcome = event["outcome"]
        attempt.event = event.get("event_name")
        attempt.decided_by = event.get("decided_by")
        attempt.reason = event.get("reason") or ""
        attempt.error = event.get("error")
        attempt.code = event.get("code")
        attempt.next = event.get("next")
        attempt.seconds = event.get("seconds")
        attempt.tokens = event.get("tokens") or 0
        if attempt.enterings > 1:  # each process reports only its own usage
            attempt.tokens = max(attempt.tokens, _tokens(attempt))
        attempt.inputs = event.get("inputs_ref")
        attempt.reused = event.get("reused")
        attempt.read = event.get("read") or {}
        attempt.outputs_cut = "outputs_ref" not in event
        attempt.outputs = event.get("outputs") if attempt.outputs_cut else event["outputs_ref"]

    # -- items ----------------------------------------------------------------------------------

    def _item(self, event: Data) -> RecordedItem | None:
        attempt = self._owner(event["step"])
        index = int(event["index"])
        return attempt.items.setdefault(index, RecordedItem(index=index)) if attempt else None

    def _item_started(self, event: Data) -> None:
        if attempt := self._owner(event["step"]):
            attempt.is_array = attempt.is_array or bool(event.get("element"))
            attempt.items_total = event.get("total") or attempt.items_total
        if item := self._item(event):
            item.started = item.started or event["time"]

    def _item_finished(self, event: Data) -> None:
        if item := self._item(event):
            item.outcome = event.get("outcome")
            item.error = event.get("error")
            item.decided_by = event.get("decided_by")
            item.seconds = event.get("seconds")
            item.inputs = event.get("inputs_ref")
            item.outputs = event.get("outputs_ref")
            item.reused = event.get("reused")
            item.read = event.get("read") or {}

    # -- calls ----------------------------------------------------------------------------------

    def _tool_started(self, event: Data) -> None:
        self._call_started("tool", event)

    def _model_started(self, event: Data) -> None:
        self._call_started("model", event)

    def _call_started(self, kind: Literal["tool", "model"], event: Data) -> None:
        attempt = self._owner(event["step"])
        if attempt is None:
            return
        made = RecordedCall(
            kind=kind,
            name=str(event[kind]),
            step=event["step"],
            agent=event.get("agent") or "",
            arguments=event.get("arguments") or {},
            parts=_parts_of(event, "arguments"),
            started=event["time"],
            key=event.get("key"),
            entering=attempt.enterings,
            agreed=str(event.get("agreed") or ""),
        )
        alike = self._calls_like(attempt, made)
        if lost := _lost_call(attempt, made, alike):
            made = lost
        else:
            attempt.calls.append(made)
            alike.append(made)
        # Each process counts its calls from 1; an unfinished one is forgotten here.
        self._calls[made.step, event["call"]] = made

    def _call_finished(self, event: Data) -> None:
        made = self._calls.pop((event["step"], event["call"]), None)
        attempt = self._owner(event["step"])
        if made is None or attempt is None:
            return
        alike = self._calls_like(attempt, made)
        if event.get("recorded") and _twin(attempt, made, alike):
            attempt.calls.remove(made)  # it was taken from the journal, not made again
            if made in alike:
                alike.remove(made)
            return
        # An answer about an interrupted call with an unknown outcome is not the call's end.
        made.finished = _question_about(attempt, made) is None
        made.is_error = bool(event.get("is_error"))
        made.text = event.get("text") or ""
        made.seconds = event.get("seconds")
        made.input_tokens = event.get("input_tokens") or 0
        made.output_tokens = event.get("output_tokens") or 0
        made.cost = event.get("cost") or 0.0
        made.snapshot = event.get("snapshot") or ""

    def _calls_like(self, attempt: RecordedAttempt, made: RecordedCall) -> list[RecordedCall]:
        """The calls of an attempt that have the key of a call in the journal, oldest first."""
        if made.key is None:
            return []
        return self._alike.setdefault((attempt.path, attempt.number, made.key), [])

    # -- jobs -----------------------------------------------------------------------------------

    def _job_state(self, event: Data) -> None:
        self._history.jobs.add(event, float(event["time"]))
        handle: Data = event.get("handle") or {}
        attempt = self._owner(event["step"])
        if attempt is None or not handle.get("key"):
            return
        name = (str(handle["key"]), event["step"])
        job = self._jobs.get(name)
        if job is None:
            job = RecordedJob(
                step=event["step"],
                key=str(handle["key"]),
                job=str(event.get("job") or handle.get("native_id") or ""),
                scheduler=str(event.get("scheduler") or ""),
                index=handle.get("index"),
            )
            self._jobs[name] = job
            attempt.jobs.append(job)
        job.state, job.reason = str(event.get("state") or ""), str(event.get("reason") or "")
        job.line, job.nodes = str(event.get("line") or ""), list(event.get("nodes") or ())
        job.over = bool(event.get("over"))
        began: Data = event.get("began") or {}
        job.submitted = event.get("submitted") or began.get("wall") or job.submitted
        job.started = event.get("started") or job.started
        if job.over:
            job.ended = event.get("ended") or event["time"]

    # -- warnings, tables, questions ------------------------------------------------------------

    def _log(self, event: Data) -> None:
        if event.get("level") in LOUD:
            self._warning({**event, "code": f"log: {event['level']}"})

    def _warning(self, event: Data) -> None:
        step = event.get("step") or ""
        code, message = str(event.get("code") or ""), str(event.get("message") or "")
        attempt = self._owner(step)
        notes = attempt.warnings if attempt else self._history.warnings
        notes.append(RecordedWarning(step=step, code=code, message=message, time=event["time"]))

    def _table(self, event: Data) -> None:
        if attempt := self._owner(event["step"]):
            attempt.tables[str(event.get("title") or "")] = event.get("rows") or []

    def _waiting(self, event: Data) -> None:
        self._asked(event, asked_at=event["time"])

    def _answered(self, event: Data) -> None:
        asked = self._asked(event, asked_at=None)
        asked.answered, asked.answer, asked.by = True, event.get("answer"), event.get("by")
        asked.via, asked.user = str(event.get("via") or ""), str(event.get("user") or "")
        asked.answered_at = event["time"]

    def _asked(self, event: Data, asked_at: float | None) -> RecordedQuestion:
        """The question of an event: one that still waits, or a new one."""
        step: str = event.get("step") or ""
        question: dict[str, Any] = event.get("question") or {}
        attempt = self._owner(step)
        known = attempt.questions if attempt else self._history.questions
        for asked in reversed(known):
            if not asked.answered and _same(asked.question, question):
                asked.process = len(self._history.processes)
                return asked
        asked = RecordedQuestion(
            step=step,
            question=question,
            asked_at=asked_at,
            process=len(self._history.processes),
        )
        known.append(asked)
        if attempt:
            self._history.questions.append(asked)
            self._not_made(attempt, asked)
        return asked

    def _not_made(self, attempt: RecordedAttempt, asked: RecordedQuestion) -> None:
        """Forget a call that was about to be made again when the user was asked about it."""
        if asked.question.get("kind") != "in_doubt" or not attempt.calls:
            return
        last = attempt.calls[-1]
        alike = self._calls_like(attempt, last)
        lost = _interrupted(alike[:-1])
        if lost and not last.finished and _is_about(asked, last):
            attempt.calls.pop()
            alike.pop()
            self._calls = {k: lost if c is last else c for k, c in self._calls.items()}


def _tokens(attempt: RecordedAttempt) -> int:
    return sum(call.input_tokens + call.output_tokens for call in attempt.calls)


def _same(one: Data, other: Data) -> bool:
    """Whether two processes asked the same question; its number may differ."""
    if one.get("id") and other.get("id"):
        return one["id"] == other["id"]
    passing = ("id", "number", "of")
    return {k: v for k, v in one.items() if k not in passing} == {
        k: v for k, v in other.items() if k not in passing
    }


def _twin(attempt: RecordedAttempt, made: RecordedCall, alike: Sequence[RecordedCall]) -> bool:
    """Whether an earlier process reported the same call, with its result."""
    if made.key is not None:
        return any(each.came_back for each in alike if each is not made)
    return any(
        each.finished
        and each.entering < made.entering
        and (each.kind, each.name, each.step, each.agent, each.arguments)
        == (made.kind, made.name, made.step, made.agent, made.arguments)
        for each in attempt.calls
    )


# -- calls that a process was killed in: a resumed run reports them again, made or not ----------


def _interrupted(alike: Sequence[RecordedCall]) -> RecordedCall | None:
    """The latest of some calls with the same key in the journal, if its end is unknown."""
    return alike[-1] if alike and not alike[-1].finished else None


def _is_about(asked: RecordedQuestion, made: RecordedCall) -> bool:
    """Whether a question is about a call whose outcome is unknown."""
    question = asked.question
    found = tuple(question.get(name) for name in ("kind", "step", "tool", "arguments"))
    return found == ("in_doubt", made.step, made.name, made.arguments)


def _question_about(attempt: RecordedAttempt, made: RecordedCall) -> RecordedQuestion | None:
    """The question that was asked about a call after its process had been killed."""
    about = [asked for asked in attempt.questions if _is_about(asked, made)]
    since = [each for each in about if (each.asked_at or each.answered_at or 0.0) > made.started]
    return since[-1] if since else None


def _parts_of(event: Data, name: str) -> tuple[Part, ...]:
    """The large texts that one field of an event lacks."""
    return tuple(part for part in event.get("parts") or () if part["at"][:1] == [name])


def _lost_call(
    attempt: RecordedAttempt, made: RecordedCall, alike: Sequence[RecordedCall]
) -> RecordedCall | None:
    """The earlier, interrupted call that this one continues; None if it is a new call."""
    lost = _interrupted(alike)
    asked = _question_about(attempt, lost) if lost else None
    return lost if asked and asked.answer != "again" else None
