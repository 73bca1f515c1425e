"""The events of a run as one process would have told them: what a replay is held against.

A run that was killed, stopped or asked is told by several processes, and each tells again what it
goes through again. Here each visit, each call and each answer is there once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

Data: TypeAlias = Mapping[str, Any]
Visited: TypeAlias = tuple[tuple[str, str], ...]
"""A visit, with those around it: each a step's path, and which visit of it."""

PASSING = ("model_text", "tool_progress", "log", "waiting", "job_state")
"""Kinds that tell of a process, or of waiting, and not of what came of it."""

_LAST_PART = re.compile(r"(/[^/\[]*|\[[0-9]+\])$")

FIELDS: Mapping[str, tuple[str, ...]] = {
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
"""What of each event counts: no times, no ids, no words of the plan that nothing depends on."""

REFERRED = {"inputs_ref": "inputs", "outputs_ref": "outputs"}
QUESTION_PASSING = (
    "id", "number", "of", "problem", "call", "round", "diff", "why", "origins", "yes", "log",
)  # fmt: skip
TIMES = ("seconds", "elapsed", "job_seconds", "queue_seconds")
"""Of what a run used: these differ at each run."""
OF_TOOL = ("server", "definition")
"""Of a question about a call: what older records do not have."""

JOB_SUBMIT = "job_submit"
CALL_STARTS = ("tool_started", "model_started")
CALL_ENDS = ("tool_finished", "model_finished")


@dataclass(slots=True, kw_only=True)
class Told:
    """One event that counts.

    Args:
        kind: Of event.
        step: The path that it tells of; empty for the whole run.
        visit: Which visit that is.
        data: What of it counts, without what is kept apart.
        refs: Inputs and outputs, values or references.
        key: Of a call.
        order: Its place among all of its run.
    """

    kind: str
    step: str
    visit: Visited
    data: dict[str, Any]
    refs: dict[str, Any] = field(default_factory=dict[str, Any])
    key: str | None = None
    order: int = 0

    @property
    def attempt(self) -> int:
        """Which visit of its step it belongs to; 1 for what has only one."""
        number = self.visit[-1][1] if self.visit else ""
        return max(int(number), 1) if number.isdigit() else 1


class Stream:
    """Takes the events of a run in their order, and gives those that count.

    Args:
        elicitations: Whether answers to what servers asked in the middle of a call count.

    Attributes:
        reentered: Visits that several processes went through: what those used is told in parts.
    """

    def __init__(self, *, elicitations: bool = False) -> None:
        self.reentered: set[Visited] = set()
        self.resumed = False
        self._elicitations = elicitations
        self._attempts: dict[tuple[Visited, str], str] = {}
        self._closed: set[tuple[str, Visited]] = set()
        self._keys: set[tuple[str, str]] = set()
        self._said: set[tuple[Visited, str]] = set()
        self._last: dict[Visited, tuple[str, int]] = {}
        self._process = 0
        self._order = 0

    def take(self, event: Data) -> Told | None:
        """Take one event; None where it was told before, or does not count."""
        kind = str(event["event"])
        if kind not in FIELDS or self._passes(kind, event):
            return None
        step = str(event.get("step") or "")
        if kind.startswith("item_"):
            step = f"{step}[{event['index']}]"
        above = self._visit(_above(step))
        if kind == "step_started":
            visit = self._enter(above, step, str(event.get("attempt") or 1))
        elif kind == "step_finished" and event.get("outcome") == "skipped":
            visit = self._skip(above, step, event)
        else:
            visit = self._visit(step)
        if visit is None:
            return None
        told = self._made(kind, step, visit, event)
        if self._known(told):
            return None
        if step:
            self._last[above] = (f"{kind} {step}", self._process)
        self._order += 1
        told.order = self._order
        return told

    def _passes(self, kind: str, event: Data) -> bool:
        """Whether an event does not count, whatever was told before."""
        if kind == "run_started":
            self._process += 1
            self.resumed = self.resumed or bool(event.get("resumed"))
            return self._process > 1
        if kind == "warning":
            return not event.get("step")  # what is told before anything runs
        if kind == "answered":
            asked = cast("Data", event.get("question") or {}).get("kind")
            # Whether a server changed a tool meanwhile is not to be seen in a replay.
            return asked in ("in_doubt", "tool_changed") or (
                asked == "elicitation" and not self._elicitations
            )
        return False

    def _visit(self, step: str) -> Visited:
        """The visit under way of a step, with those around it."""
        if not step:
            return ()
        above = self._visit(_above(step))
        return (*above, (step, self._attempts.get((above, step), "")))

    def _enter(self, above: Visited, step: str, attempt: str) -> Visited | None:
        """The visit that begins; None where a later process goes on with one."""
        if self._attempts.get((above, step)) != attempt:
            self._attempts[above, step] = attempt
            return self._visit(step)
        self.reentered.add(self._visit(step))
        return None

    def _skip(self, above: Visited, step: str, event: Data) -> Visited | None:
        """The visit of a step that is skipped; None where it was told right before a crash."""
        last, process = self._last.get(above, ("", self._process))
        if last == f"step_finished {step}" and process != self._process:
            return None
        return (*above, (step, f"skipped {event.get('attempt')}"))

    def _known(self, told: Told) -> bool:
        """Whether this was told before: by an earlier process, or before a question."""
        if told.key:
            known = (told.kind, told.key) in self._keys
            self._keys.add((told.kind, told.key))
            return known
        if told.kind in ("item_started", "item_finished", "step_finished"):
            return self._closes(told.kind, told.visit)
        if told.kind not in ("warning", "table", "answered"):
            return False
        # A step that asks begins again with the answer, and says again what it said before.
        words = (told.visit, json.dumps([told.kind, told.data], sort_keys=True))
        known = words in self._said
        self._said.add(words)
        return known

    def _closes(self, kind: str, visit: Visited) -> bool:
        if visit[-1][1].startswith("skipped"):
            return False
        known = (kind, visit) in self._closed
        self._closed.add((kind, visit))
        if known:
            self.reentered.add(visit)
        return known

    def _made(self, kind: str, step: str, visit: Visited, event: Data) -> Told:
        data = {name: event[name] for name in FIELDS[kind] if event.get(name) is not None}
        if kind == "step_started" and event.get("type") == "plan":
            data.pop("target", None)  # the path of a file, which the record keeps elsewhere
        if kind == "answered":
            data["question"] = question_words(event.get("question") or {})
        if kind == "run_finished":
            data["waiting"] = [question_words(each) for each in event.get("waiting") or ()]
            usage = cast("Data", event.get("usage") or {})
            data["usage"] = {k: v for k, v in usage.items() if k not in TIMES}
        if kind == "tool_started" and event.get("tool") == JOB_SUBMIT:
            arguments = cast("Data", event.get("arguments") or {})
            data["arguments"] = {k: v for k, v in arguments.items() if k != "key"}
        refs = {own: event.get(name) for name, own in REFERRED.items() if name in event}
        key = str(event["key"]) if event.get("key") else None
        return Told(kind=kind, step=step, visit=visit, data=data, refs=refs, key=key)


def _above(step: str) -> str:
    return _LAST_PART.sub("", step) if _LAST_PART.search(step) else ""


def question_words(question: Data) -> dict[str, Any]:
    """A question without the ids of its run; of a batch job that is waited for, only whose."""
    if question.get("kind") == "job":
        return {"kind": "job", "step": question.get("step")}
    of_call = question.get("kind") in ("approval", "in_doubt")
    passing = (*QUESTION_PASSING, *OF_TOOL) if of_call else QUESTION_PASSING
    return {k: v for k, v in question.items() if k not in passing}


def as_one_process(events: Sequence[Data], begun: Container[str]) -> list[Data]:
    """The events of a record with each call's end once, and the run's end only at its end.

    Where a call was made again, since its server had asked something first, its last end counts;
    where a later process only took the result from the journal, the first one.

    Args:
        begun: The keys of all calls in the journal. Where a process was killed right before it
            began a call there, the next one may begin it under another key.
    """
    ends: dict[str, int] = {}
    kept: list[Data] = []
    for index, event in enumerate(events):
        key = str(event.get("key") or "")
        if event["event"] in CALL_ENDS and key and (key not in ends or not event.get("recorded")):
            ends[key] = index
    for index, event in enumerate(events):
        key, kind = str(event.get("key") or ""), event["event"]
        if kind in CALL_STARTS and key and key not in begun:
            continue
        if kind == "run_finished" or (kind in CALL_ENDS and key and ends[key] != index):
            continue
        kept.append(event)
    last = max(i for i, e in enumerate(events) if e["event"] in ("run_started", "run_finished"))
    return [*kept, events[last]] if events[last]["event"] == "run_finished" else kept
