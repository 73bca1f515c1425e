"""The trace of a run: the parts of its events that a replay must repeat.

A run that was killed, stopped or interrupted by a question has events of several processes. Each
process repeats the events of the steps that it runs again. A trace has each attempt, call and
answer once, as if one process had made the whole run.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from fractale.plan.paths import around
from fractale.questions import needs_no_answer
from fractale.store.outputs import in_brief

Data: TypeAlias = Mapping[str, Any]
AttemptPath: TypeAlias = tuple[tuple[str, str], ...]
"""An attempt of a step in the attempts around it: the path of each step, and its number."""

COUNTED: Mapping[str, tuple[str, ...]] = {
    "run_started": ("parent",),
    "step_started": ("attempt", "type", "target", "previous"),
    "item_started": ("index", "total"),
    "item_finished": ("index", "total", "outcome", "error", "decided_by"),
    "tool_started": ("tool", "arguments", "agent"),
    "tool_finished": ("tool", "is_error", "text", "agent"),
    "model_started": ("model", "agent"),
    "model_finished": ("model", "text", "input_tokens", "output_tokens", "cost", "agent"),
    "warning": ("code", "message"),
    "step_finished": (
        "attempt",
        "outcome",
        "event_name",
        "decided_by",
        "reason",
        "error",
        "code",
        "next",
        "tokens",
    ),
    "table": ("title", "rows"),
    "answered": ("question", "answer"),
    "run_finished": ("status", "error", "outputs", "waiting"),
}
"""Event → its compared fields: no times or IDs, and no titles or descriptions of the plan."""

REFERENCES = {"inputs_ref": "inputs", "outputs_ref": "outputs"}
CALL_STARTS = ("tool_started", "model_started")
CALL_ENDS = ("tool_finished", "model_finished")
ATTEMPT_ENDS = ("step_finished", "item_finished")
ONCE = ("step_started", "item_started", *ATTEMPT_ENDS)
"""Events that an attempt has at most once."""
REPEATED = ("warning", "table", "answered")
"""Events that a step emits again when it is run again from its beginning with an answer."""

QUESTION_IDS = (
    "id", "number", "of", "problem", "call", "round", "diff", "why", "origins", "yes", "log", "due",
)  # fmt: skip
CALL_QUESTION_IDS = (*QUESTION_IDS, "server", "definition")
"""Older records do not have the last two."""
TIMES = ("seconds", "elapsed", "job_seconds", "queue_seconds")
JOB_SUBMIT = "job_submit"


@dataclass(slots=True, kw_only=True)
class TraceEvent:
    """The compared parts of one event.

    Args:
        step: The path of its step; empty for the whole run.
        path: The attempt that it belongs to.
        refs: Inputs and outputs: values, or references to stored ones.
        key: The key of its call in the journal of its run.
        order: Its position in the trace.
        end: For the start of a call: its end, until the replay has the same.
    """

    kind: str
    step: str
    path: AttemptPath
    data: dict[str, Any]
    refs: dict[str, Any] = field(default_factory=dict[str, Any])
    key: str | None = None
    order: int = 0
    end: TraceEvent | None = field(default=None, repr=False, compare=False)

    @property
    def attempt(self) -> int:
        """Which attempt of its step it belongs to; 1 for an item, which has only one."""
        number = self.path[-1][1] if self.path else ""
        return max(int(number), 1) if number.isdigit() else 1


class TraceReader:
    """Reads the events of a run, in their order, into a trace.

    Args:
        elicitations: Whether to include answers to questions that servers, or the code of tools,
            asked during a call.

    Attributes:
        reentered: Attempts that several processes took part in; each reported its own usage.
        resumed: Whether the run was resumed.
    """

    def __init__(self, *, elicitations: bool = False) -> None:
        self.reentered: set[AttemptPath] = set()
        self.resumed = False
        self._elicitations = elicitations
        self._attempts: dict[tuple[AttemptPath, str], str] = {}
        self._known: set[tuple[Any, ...]] = set()
        self._last: dict[AttemptPath, tuple[str, int]] = {}
        self._process = 0
        self._order = 0

    def take(self, event: Data) -> TraceEvent | None:
        """The event as a part of the trace; None if it is not compared or already there."""
        kind = str(event["event"])
        if kind not in COUNTED or self._passes(kind, event):
            return None
        step = str(event.get("step") or "")
        if kind.startswith("item_"):
            step = f"{step}[{event['index']}]"
        above = self.path_of(_above(step))
        if kind == "step_started":
            self._attempts[above, step] = str(event.get("attempt") or 1)
        path = self.path_of(step)
        skipped = kind == "step_finished" and event.get("outcome") == "skipped"
        if skipped:
            path = (*above, (step, f"skipped {event.get('attempt')}"))
        found = _trace_event(kind, step, path, event)
        if self._skipped_before(above, step) if skipped else self._is_known(found):
            return None
        if step:
            self._last[above] = (f"{kind} {step}", self._process)
        self._order += 1
        found.order = self._order
        return found

    def path_of(self, step: str) -> AttemptPath:
        """The latest attempt of a step."""
        if not step:
            return ()
        above = self.path_of(_above(step))
        return (*above, (step, self._attempts.get((above, step), "")))

    def _passes(self, kind: str, event: Data) -> bool:
        if kind == "run_started":
            self._process += 1
            self.resumed = self.resumed or bool(event.get("resumed"))
            return self._process > 1
        if kind == "warning":
            return not event.get("step")  # before the first step
        if kind == "answered":
            question = cast("Data", event.get("question") or {})
            asked = question.get("kind")
            in_call = asked == "elicitation" or (asked == "interrupt" and "tool" in question)
            # A replay cannot see whether a server changed a tool in the meantime.
            return asked in ("in_doubt", "tool_changed") or (in_call and not self._elicitations)
        return False

    def _is_known(self, event: TraceEvent) -> bool:
        """Whether an earlier process, or the same step before a question, emitted this event."""
        identity: tuple[Any, ...] | None = None
        if event.key:
            identity = event.kind, event.key
        elif event.kind in ONCE:
            identity = event.kind, event.path
        elif event.kind in REPEATED:
            identity = event.kind, event.path, json.dumps(event.data, sort_keys=True)
        if identity is None:
            return False
        known = identity in self._known
        self._known.add(identity)
        if known and event.kind in ONCE:
            self.reentered.add(event.path)
        return known

    def _skipped_before(self, above: AttemptPath, step: str) -> bool:
        """Whether the process before ended right after it had skipped this step."""
        last, process = self._last.get(above, ("", self._process))
        return last == f"step_finished {step}" and process != self._process


def _trace_event(kind: str, step: str, path: AttemptPath, event: Data) -> TraceEvent:
    # The record has large texts in brief.
    data = {name: in_brief(event[name]) for name in COUNTED[kind] if event.get(name) is not None}
    if kind == "step_started" and event.get("type") == "plan":
        data.pop("target", None)  # the path of a file, which is elsewhere in a recording
    if kind == "answered":
        data["question"] = question_content(event.get("question") or {})
    if kind == "run_finished":
        data["waiting"] = [question_content(each) for each in event.get("waiting") or ()]
        usage = cast("Data", event.get("usage") or {})
        data["usage"] = {k: v for k, v in usage.items() if k not in TIMES}
    if kind == "tool_started" and event.get("tool") == JOB_SUBMIT:
        arguments = cast("Data", data.get("arguments") or {})
        data["arguments"] = {k: v for k, v in arguments.items() if k != "key"}
    refs = {own: event.get(name) for name, own in REFERENCES.items() if name in event}
    key = str(event["key"]) if event.get("key") else None
    return TraceEvent(kind=kind, step=step, path=path, data=data, refs=refs, key=key)


def _above(step: str) -> str:
    return next(iter(around(step)), "")


def question_content(question: Data) -> dict[str, Any]:
    """A question without the ids of its run; of a batch job or a time, only its step."""
    if needs_no_answer(question):
        return {"kind": question["kind"], "step": question.get("step")}
    of_call = question.get("kind") in ("approval", "in_doubt")
    passing = CALL_QUESTION_IDS if of_call else QUESTION_IDS
    return {k: v for k, v in question.items() if k not in passing}


def as_one_process(events: Sequence[Data], begun: Container[str], *, ended: bool) -> Iterator[Data]:
    """The events of a record, with one end per call and the last end of the run.

    A call that was made again, after its server had asked a question, ends with the last one. If
    a later process took the result from the journal, the call ends with the first one.

    Args:
        begun: The keys of all calls in the journal. A process that was killed right before it
            began a call has emitted a start; the next process can begin it under another key.
        ended: Whether the run came to an end; otherwise no end of the run is given.
    """
    events = _of_last_end(events)
    ends: dict[str, Data] = {}
    for event in events:
        key = str(event.get("key") or "")
        if event["event"] in CALL_ENDS and key and (key not in ends or not event.get("recorded")):
            ends[key] = event
    last = next(e for e in reversed(events) if e["event"] in ("run_started", "run_finished"))
    for event in events:
        key, kind = str(event.get("key") or ""), event["event"]
        if kind == "run_finished" and not (ended and event is last):
            continue
        if kind in CALL_STARTS and key and key not in begun:
            continue
        if kind in CALL_ENDS and key and ends[key] is not event:
            continue
        yield event


def _of_last_end(events: Sequence[Data]) -> Sequence[Data]:
    """The events without those of the plan's handlers at an end after which the run continued.

    A replay reaches the last end only. There the handlers make their first attempts.
    """
    names = {str(event["handler"]) for event in events if event.get("handler")}
    if not names:
        return events

    def handler_of(event: Data) -> str:
        first = str(event.get("step") or "").partition("/")[0]
        return first if first in names else ""

    kept: list[Data] = []
    dropped: dict[str, int] = {}
    continued = again = False
    for event in reversed(events):
        kind, handler = event["event"], handler_of(event)
        if kind == "run_finished" and event.get("status") == "limit":
            again = again or any(map(handler_of, kept))
        continued = continued or (kind in ("step_started", "step_finished") and not handler)
        if handler and (continued or again):
            step, attempt = str(event.get("step")), int(event.get("attempt") or 0)
            dropped[step] = max(dropped.get(step, 0), attempt)
        else:
            kept.append(event)
    kept.reverse()
    return [
        {**event, "attempt": event["attempt"] - dropped[event["step"]]}
        if "attempt" in event and event.get("step") in dropped
        else event
        for event in kept
    ]
