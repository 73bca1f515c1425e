"""Reading the events of a run, one by one, into its `RunHistory`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from fractale.errors import StoreError
from fractale.record.history import Asked, CallMade, Item, JobMade, Note, Process, RunHistory, Visit
from fractale.record.history_lost import doubt, earlier, is_about, lost_call
from fractale.store.locks import holder_of
from fractale.store.run_record import RunRecord

Data: TypeAlias = Mapping[str, Any]

LOUD = ("warning", "error", "critical", "alert", "emergency")
"""Levels of what a server logs that a reader of the record wants to know of."""

_LAST_PART = re.compile(r"(/[^/\[]*|\[[0-9]+\])$")


def read_history(folder: RunRecord) -> RunHistory:
    """What happened in a run, by its folder.

    Raises:
        StoreError: The record is missing or damaged.
    """
    head = folder.read_head()
    history = RunHistory(folder=folder, head=head, title=str(head.get("plan") or ""))
    reader = _Reader(history)
    try:
        for event in folder.read_events():
            reader.take(event)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # A damaged line can be JSON, or letters, that no event is.
        raise StoreError(
            f"the record of run {folder.run_id} is damaged: {type(error).__name__}: {error}"
        ) from error
    history.drafts = folder.read_drafts()
    history.alive = holder_of(folder) is not None
    return history


class _Reader:
    """Takes in the events in their order.

    A step that is entered again after a question or a crash is the same visit: its path, its
    attempt and the visit around it are the same.
    """

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._current: dict[str, Visit] = {}
        self._counts: dict[str, int] = {}
        self._calls: dict[tuple[str, int], CallMade] = {}
        self._jobs: dict[tuple[str, str], JobMade] = {}
        self._takers: dict[str, Callable[[Data], None]] = {
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
        """Take in one event; a kind that is not known is passed over."""
        if taker := self._takers.get(event["event"]):
            taker(event)

    def _run_started(self, event: Data) -> None:
        history = self._history
        history.title = event.get("title") or history.title
        history.steps = event.get("steps") or history.steps
        process = Process(
            started=event["time"],
            resumed=bool(event.get("resumed")),
            model=event.get("model"),
            versions=event.get("versions") or {},
            limits=event.get("limits") or {},
        )
        history.processes.append(process)

    def _run_finished(self, event: Data) -> None:
        history = self._history
        history.result = {k: v for k, v in event.items() if k not in ("event", "run", "time")}
        if history.processes:
            history.processes[-1].ended = event["time"]
            history.processes[-1].status = event["status"]

    # -- visits ---------------------------------------------------------------------------------

    def _owner(self, path: str) -> Visit | None:
        """The latest visit that an event belongs to: of ``a/b[3]``, that of ``a/b``."""
        while path:
            if path in self._current:
                return self._current[path]
            path = _LAST_PART.sub("", path) if _LAST_PART.search(path) else ""
        return None

    def _step_started(self, event: Data) -> None:
        path, attempt = event["step"], event.get("attempt") or 1
        parent = self._owner(_LAST_PART.sub("", path)) if "/" in path else None
        visit = self._current.get(path)
        if visit and visit.outcome == "skipped":  # its attempt was not counted
            visit = None
        if visit and visit.attempt == attempt and visit.parent is parent:
            visit.enterings += 1
            return
        visit = self._new(path, attempt, parent, event["time"])
        visit.kind = event.get("type") or ""
        visit.target = event.get("target")
        visit.description = event.get("description") or ""
        visit.previous = event.get("previous")

    def _new(self, path: str, attempt: int, parent: Visit | None, started: float) -> Visit:
        self._counts[path] = self._counts.get(path, 0) + 1
        visit = Visit(
            path=path, number=self._counts[path], attempt=attempt, parent=parent, started=started
        )
        self._current[path] = visit
        self._history.visits.append(visit)
        return visit

    def _skipped(self, event: Data) -> Visit:
        """A step that was skipped is never started."""
        path = event["step"]
        parent = self._owner(_LAST_PART.sub("", path)) if "/" in path else None
        visit = self._new(path, event.get("attempt") or 1, parent, event["time"])
        known = [step for step in self._history.steps if step.get("name") == path]
        if known:
            visit.kind, visit.target = known[0].get("type") or "", known[0].get("target")
        return visit

    def _step_finished(self, event: Data) -> None:
        skipped = event["outcome"] == "skipped"
        visit = None if skipped else self._current.get(event["step"])
        visit = visit or self._skipped(event)
        visit.ended = event["time"]
        visit.outcome = event["outcome"]
        visit.event = event.get("event_name")
        visit.decided_by = event.get("decided_by")
        visit.reason = event.get("reason") or ""
        visit.error = event.get("error")
        visit.code = event.get("code")
        visit.next = event.get("next")
        visit.seconds = event.get("seconds")
        visit.tokens = event.get("tokens") or 0
        if visit.enterings > 1:  # each process tells what it used itself
            visit.tokens = max(visit.tokens, _tokens(visit))
        visit.inputs = event.get("inputs_ref")
        visit.outputs_cut = "outputs_ref" not in event
        visit.outputs = event.get("outputs") if visit.outputs_cut else event["outputs_ref"]

    # -- items ----------------------------------------------------------------------------------

    def _item(self, event: Data) -> Item | None:
        visit = self._owner(event["step"])
        index = int(event["index"])
        return visit.items.setdefault(index, Item(index=index)) if visit else None

    def _item_started(self, event: Data) -> None:
        if event.get("element") and (visit := self._owner(event["step"])):
            visit.is_array = True
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

    # -- calls ----------------------------------------------------------------------------------

    def _tool_started(self, event: Data) -> None:
        self._call_started("tool", event)

    def _model_started(self, event: Data) -> None:
        self._call_started("model", event)

    def _call_started(self, kind: Literal["tool", "model"], event: Data) -> None:
        visit = self._owner(event["step"])
        if visit is None:
            return
        made = CallMade(
            kind=kind,
            name=str(event[kind]),
            step=event["step"],
            agent=event.get("agent") or "",
            arguments=event.get("arguments") or {},
            started=event["time"],
            key=event.get("key"),
            entering=visit.enterings,
        )
        if lost := lost_call(visit, made):
            made = lost
        else:
            visit.calls.append(made)
        # Each entering counts its calls from 1: one that was left unfinished is forgotten here.
        self._calls[made.step, event["call"]] = made

    def _call_finished(self, event: Data) -> None:
        made = self._calls.pop((event["step"], event["call"]), None)
        visit = self._owner(event["step"])
        if made is None or visit is None:
            return
        if event.get("recorded") and _twin(visit, made):
            visit.calls.remove(made)  # it was taken from the journal, not made again
            return
        # What a person said of a call that a process was killed in is not its end.
        made.finished = doubt(visit, made) is None
        made.is_error = bool(event.get("is_error"))
        made.text = event.get("text") or ""
        made.seconds = event.get("seconds")
        made.input_tokens = event.get("input_tokens") or 0
        made.output_tokens = event.get("output_tokens") or 0
        made.cost = event.get("cost") or 0.0

    # -- jobs -----------------------------------------------------------------------------------

    def _job_state(self, event: Data) -> None:
        self._history.jobs.hear(event, float(event["time"]))
        handle: Data = event.get("handle") or {}
        visit = self._owner(event["step"])
        if visit is None or not handle.get("key"):
            return
        name = (str(handle["key"]), event["step"])
        job = self._jobs.get(name)
        if job is None:
            job = JobMade(
                step=event["step"],
                key=str(handle["key"]),
                job=str(event.get("job") or handle.get("native_id") or ""),
                scheduler=str(event.get("scheduler") or ""),
                index=handle.get("index"),
            )
            self._jobs[name] = job
            visit.jobs.append(job)
        job.state, job.reason = str(event.get("state") or ""), str(event.get("reason") or "")
        job.line, job.nodes = str(event.get("line") or ""), list(event.get("nodes") or ())
        job.over = bool(event.get("over"))
        began: Data = event.get("began") or {}
        job.submitted = event.get("submitted") or began.get("wall") or job.submitted
        job.started = event.get("started") or job.started
        if job.over:
            job.ended = event.get("ended") or event["time"]

    # -- what was said --------------------------------------------------------------------------

    def _log(self, event: Data) -> None:
        if event.get("level") in LOUD:
            self._warning({**event, "code": f"log: {event['level']}"})

    def _warning(self, event: Data) -> None:
        step = event.get("step") or ""
        code, message = str(event.get("code") or ""), str(event.get("message") or "")
        visit = self._owner(step)
        notes = visit.warnings if visit else self._history.warnings
        notes.append(Note(step=step, code=code, message=message, time=event["time"]))

    def _table(self, event: Data) -> None:
        if visit := self._owner(event["step"]):
            visit.tables[str(event.get("title") or "")] = event.get("rows") or []

    def _waiting(self, event: Data) -> None:
        self._asked(event, asked_at=event["time"])

    def _answered(self, event: Data) -> None:
        asked = self._asked(event, asked_at=None)
        asked.answered, asked.answer, asked.by = True, event.get("answer"), event.get("by")
        asked.answered_at = event["time"]

    def _asked(self, event: Data, asked_at: float | None) -> Asked:
        """The question that an event is about: one that still waits, or a new one."""
        step: str = event.get("step") or ""
        question: dict[str, Any] = event.get("question") or {}
        visit = self._owner(step)
        known = visit.questions if visit else self._history.questions
        for asked in reversed(known):
            if not asked.answered and _same(asked.question, question):
                return asked
        asked = Asked(step=step, question=question, asked_at=asked_at)
        known.append(asked)
        if visit:
            self._history.questions.append(asked)
            self._not_made(visit, asked)
        return asked

    def _not_made(self, visit: Visit, asked: Asked) -> None:
        """Forget a call that was to be made again when it was asked whether it may be."""
        if asked.question.get("kind") != "in_doubt" or not visit.calls:
            return
        last = visit.calls[-1]
        lost = earlier(last, visit.calls[:-1])
        if lost and not last.finished and is_about(asked, last):
            visit.calls.pop()
            self._calls = {k: lost if c is last else c for k, c in self._calls.items()}


def _tokens(visit: Visit) -> int:
    return sum(call.input_tokens + call.output_tokens for call in visit.calls)


def _same(one: Data, other: Data) -> bool:
    """Whether two questions are one, asked by two processes; the number of each may differ."""
    if one.get("id") and other.get("id"):
        return one["id"] == other["id"]
    passing = ("id", "number", "of")
    return {k: v for k, v in one.items() if k not in passing} == {
        k: v for k, v in other.items() if k not in passing
    }


def _twin(visit: Visit, made: CallMade) -> bool:
    """Whether an earlier entering of the visit tells of the same call, with its result."""
    if made.key is not None:
        known = [each for each in visit.calls if each.key == made.key and each is not made]
        return any(each.came_back for each in known)
    return any(
        each.finished
        and each.entering < made.entering
        and (each.kind, each.name, each.step, each.agent, each.arguments)
        == (made.kind, made.name, made.step, made.agent, made.arguments)
        for each in visit.calls
    )
