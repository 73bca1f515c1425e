"""A run as a user sees it: lines for finished steps, and the state of the steps in progress.

`RunView` keeps only the steps in progress, so that a run of any length costs the same memory. The
plain and the live display print the lines that `take` returns; the live display also draws the
steps in progress.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fractale.events import Event
from fractale.plan.paths import around
from fractale.record.follow import NOTHING_YET, WrittenText
from fractale.render.phrases import (
    answer_text,
    call_text,
    evidence,
    is_repeated,
    job_text,
    leads_to,
    ordinal,
    progress_text,
    target_of,
    timer_text,
)
from fractale.render.summary import LEAST_ROOM, question_text
from fractale.render.text import (
    Line,
    Mark,
    cells,
    count,
    entries,
    fit,
    fold,
    inert,
    narrowed,
    pad,
    row,
    seconds,
    table,
    table_lines,
)
from fractale.runs.result import answer_commands as commands_that_answer

MARKS: dict[str, tuple[str, str, Mark]] = {
    "success": ("✓", "ok", "good"),
    "failure": ("✗", "x ", "bad"),
    "skipped": ("\u2013", "- ", "dim"),
    "running": ("●", "* ", "now"),
    "warning": ("!", "! ", "warn"),
}
NAME_MOST, TARGET_MOST = 24, 28
FIGURES_WIDTH = 32
"""Columns for the mark, the gaps, the time and the tokens."""
OF_ONE_CALL = ("tool", "job", "script")
"""Kinds of steps that are one call, which needs no line of its own."""
MOST_NAMED = 16
"""The most jobs of a step with one line each; more jobs are counted."""
COUNT_SECONDS = 5.0
"""The least time between two lines that count a step's jobs."""
REPEAT_SECONDS = 60.0
"""The least time between two lines that a step makes its call again."""


@dataclass(slots=True)
class Running:
    """A step in progress.

    Attributes:
        said: The text of the model that was asked last; `said_in` is its step or item.
        total: How many items a foreach has; None of any other step.
        items_done: How many items have ended, also in failure.
        items: Path of an item in progress → whether its job is still in a queue.
        elements: Of a job array: state → number of elements.
        repeats_shown: Path → when a line was printed that a call is made again.
    """

    path: str
    kind: str
    target: str
    attempt: int
    started: float
    description: str = ""
    activity: str = ""
    said: WrittenText = NOTHING_YET
    said_in: str = ""
    calls: int = 0
    tokens: int = 0
    total: int | None = None
    items_done: int = 0
    items_failed: int = 0
    items: dict[str, bool] = field(default_factory=dict[str, bool])
    waits: bool = False
    is_array: bool = False
    counts_shown: str = ""
    counted: float = 0.0
    elements: dict[str, int] = field(default_factory=dict[str, int])
    jobs_shown: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    repeats_shown: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def writing(self) -> str:
        """Words for the text of its model, if that is not for people to read."""
        return unreadable(self.kind, self.said)

    @property
    def progress(self) -> str:
        """Ended items of a foreach: ``3/100``."""
        return "" if self.total is None else f"{self.items_done}/{self.total}"

    @property
    def noun(self) -> str:
        """The word for the parts of the step."""
        return "element" if self.is_array else "item"

    @property
    def counts(self) -> str:
        """The states of a foreach's items: ``3/100 done · 4 running · 93 waiting · 1 failed``.

        Of a job array, the states of its elements.
        """
        if self.total is None:
            return self._of_elements()
        running = sum(not queued for queued in self.items.values())
        waiting = self.total - self.items_done - running
        parts = [f"{self.progress} done", f"{running:,} running", f"{waiting:,} waiting"]
        return " · ".join([*parts, f"{self.items_failed:,} failed"] if self.items_failed else parts)

    def _of_elements(self) -> str:
        if not self.elements:
            return ""
        known = {state: self.elements.get(state, 0) for state in ("running", "pending")}
        total, in_progress = sum(self.elements.values()), sum(known.values())
        failed = total - in_progress - self.elements.get("completed", 0)
        parts = [f"{total - in_progress:,}/{total:,} done", f"{known['running']:,} running"]
        parts.append(f"{known['pending']:,} waiting")
        return " · ".join([*parts, f"{failed:,} failed"] if failed else parts)

    def named(self, path: str) -> str:
        """A short name of a path inside the step; empty for the step itself.

        An item of a foreach is ``item 4``, counted from 1; an element of a job array, ``[3]``, is
        ``element 3``.
        """
        rest = path.removeprefix(self.path)
        if self.is_array and rest.startswith("[") and rest.endswith("]"):
            return f"element {rest[1:-1]}"
        if rest.startswith("[") and rest.endswith("]") and rest[1:-1].isdecimal():
            return f"item {int(rest[1:-1]) + 1}"
        return "" if path == self.path else path

    def item_started(self, path: str, total: int | None) -> None:
        """Count an item that has started."""
        self.total = total
        self.items[path] = self.kind == "job"  # until its job runs

    def item_finished(self, path: str, total: int | None, *, failed: bool) -> bool:
        """Count an item that has ended.

        Returns:
            Whether another tenth of the items has ended, but not all of them.
        """
        self.total = self.total if total is None else total
        self.items.pop(path, None)
        self.items_done += 1
        self.items_failed += failed
        if not self.total or self.items_done >= self.total:
            return False
        return 10 * self.items_done // self.total > 10 * (self.items_done - 1) // self.total

    def job_state(self, path: str, state: str) -> None:
        """Note the state of an item's job."""
        if path in self.items:
            self.items[path] = state in ("pending", "held")


def answer_commands(run: str, question: Mapping[str, Any]) -> list[str]:
    """What to do about a question that another process asks, a line each."""
    commands = [inert(each) for each in commands_that_answer(run, question)]
    return commands or ["it asks for a secret: answer it where the run was started"]


def unreadable(kind: str, text: WrittenText) -> str:
    """Words for a model's text that is not for people to read; empty for any other text.

    Args:
        kind: Of the step. A model that works for the step of a plan drafts the plan.
    """
    if not text.characters:
        return ""
    size = count(text.characters, "character")
    if kind == "plan":
        return f"drafting a plan, {size}"
    return f"writing JSON, {size}" if text.is_data else ""


class RunView:
    """The view of one run.

    Args:
        width: Columns of a line.
        unicode: Whether the terminal can show marks such as ``✓``.
        calls: Whether to show a line for each call of a model.
        most: The most lines of one reason.
        elsewhere: Whether another process has the run: its questions, and answers that the user
            typed there, are shown here, too.
    """

    def __init__(
        self,
        *,
        width: int = 100,
        unicode: bool = True,
        calls: bool = True,
        most: int = 6,
        elsewhere: bool = False,
    ) -> None:
        self.width = width
        self.active: dict[str, Running] = {}
        self.order: list[dict[str, Any]] = []
        self.started = 0.0
        self.tokens = 0
        self.cost = 0.0
        self.limits: dict[str, Any] = {}
        self._unicode = unicode
        self._show_calls = calls
        self._most = most
        self._elsewhere = elsewhere
        self._seen: set[str] = set()
        self._names = self._kinds = self._targets = 8
        self._handlers: dict[str, Callable[[Event], list[Line]]] = {
            "run_started": self._run_started,
            "step_started": self._step_started,
            "item_started": self._item_started,
            "item_finished": self._item_finished,
            "tool_started": self._tool_started,
            "tool_progress": self._tool_progress,
            "tool_finished": self._tool_finished,
            "model_started": self._model_started,
            "model_text": self._model_text,
            "model_finished": self._model_finished,
            "log": self._log,
            "warning": self._warning,
            "job_state": self._job_state,
            "timer": self._timer,
            "waiting": self._waiting,
            "answered": self._answered,
            "table": self._table,
            "step_finished": self._step_finished,
        }

    def take(self, event: Event) -> list[Line]:
        """Add one event.

        Returns:
            The lines to print for good.
        """
        handler = self._handlers.get(event.kind)
        return handler(event) if handler else []

    def mark(self, state: str) -> tuple[str, Mark]:
        """The sign of a state, and its color."""
        sign, ascii_sign, mark = MARKS[state]
        return (f" {sign if self._unicode else ascii_sign} ", mark)

    def columns(self, name: str, kind: str, target: str, attempt: int = 1) -> str:
        """A step's name, kind and target in columns, with the number of a later attempt."""
        words = ordinal(attempt) if attempt > 1 else kind
        room = self.width - self._names - self._kinds - FIGURES_WIDTH
        most = max(min(TARGET_MOST, room), 8)
        shown = pad(fit(inert(target), most), min(self._targets, most))
        return f"{pad(inert(name), self._names)}  {pad(words, self._kinds)}{shown}"

    @property
    def pending(self) -> list[dict[str, Any]]:
        """The plan's steps that the run has not reached, in the plan's order."""
        return [step for step in self.order if step["name"] not in self._seen]

    def _run_started(self, event: Event) -> list[Line]:
        data = event.data
        self.started = event.time
        self.active.clear()  # of a process that was killed
        self.limits = table(data, "limits")
        self.order = entries(data, "steps")
        self._names = min(max([cells(s["name"]) for s in self.order] + [8]), NAME_MOST)
        self._kinds = max([len(str(s.get("type"))) + 2 for s in self.order] + [8])
        targets = [cells(inert(target_of(s))) for s in self.order]
        self._targets = min(max([*targets, 8]), TARGET_MOST)
        title = inert(str(data.get("title") or data.get("plan") or ""), 200)
        about = f"run {event.run}" + (f" · {inert(data['model'])}" if data.get("model") else "")
        if data.get("resumed"):
            about += " · resumed"
        if parent := table(data, "parent"):
            about += f" · forked from {inert(parent['run'], 20)} at {inert(parent['step'], 40)}"
            self._seen.update(parent.get("kept") or ())
        room = self.width - cells(title) - cells(about)
        if room >= 2:
            return [[(title + " " * room, ""), (about, "dim")], []]
        return [[(fit(title, self.width), "")], [(fit(about, self.width), "dim")], []]

    def _step_started(self, event: Event) -> list[Line]:
        data, path = event.data, str(event.data["step"])
        self._see(path)
        self._names = max(self._names, min(cells(path), NAME_MOST))
        self.active[path] = Running(
            path=path,
            kind=str(data.get("type") or ""),
            target=target_of(data),
            attempt=int(data.get("attempt") or 1),
            started=event.time,
            description=inert(str(data.get("description") or ""), 300),
        )
        return []

    def _see(self, path: str) -> None:
        self._seen.add(path)
        parent, _, name = path.rpartition("/")
        kinds = {step["name"]: step.get("type") for step in self.order}
        if kinds.get(parent.rpartition("/")[2]) == "parallel":
            self._seen.add(name)

    def _owner(self, path: str) -> Running | None:
        """The step in progress that a path belongs to: ``a/b`` for ``a/b[3]``."""
        known = (each for each in (path, *around(path)) if each in self.active)
        return self.active.get(next(known, ""))

    def _of(self, event: Event) -> Running | None:
        return self._owner(str(event.data.get("step") or ""))

    def _item_started(self, event: Event) -> list[Line]:
        if running := self._of(event):
            running.is_array = running.is_array or bool(event.data.get("element"))
            running.item_started(_item_path(event), event.data.get("total"))
        return []

    def _item_finished(self, event: Event) -> list[Line]:
        running = self._of(event)
        if running is None:
            return []
        failed = event.data.get("outcome") == "failure"
        news = running.item_finished(_item_path(event), event.data.get("total"), failed=failed)
        if not news or not self._show_calls:
            return []
        running.counts_shown, running.counted = running.counts, event.time
        return [self._call_line(running, running.counts)]

    def _tool_started(self, event: Event) -> list[Line]:
        running = self._of(event)
        if running is None:
            return []
        running.waits = False
        call = call_text(event.data)
        running.activity, running.said = call, NOTHING_YET
        if running.kind in OF_ONE_CALL:
            return []
        running.calls += 1
        return [self._call_line(running, f"calls {call}")] if self._show_calls else []

    def _tool_progress(self, event: Event) -> list[Line]:
        if running := self._of(event):
            running.activity = progress_text(event.data)
        return []

    def _tool_finished(self, event: Event) -> list[Line]:
        running = self._of(event)
        if running is None or running.kind in OF_ONE_CALL or not event.data.get("is_error"):
            return []
        if not self._show_calls:
            return []
        words = f"{inert(str(event.data.get('tool')))} failed: {inert(str(event.data.get('text')))}"
        return [self._call_line(running, fit(words, 200))]

    def _call_line(self, running: Running, words: str) -> Line:
        return row(f"   {pad(inert(running.path), self._names)}  {words}", "dim")

    def _job_state(self, event: Event) -> list[Line]:
        """A line for a change of a batch job's state; a new last line of its log is not printed."""
        data, running = event.data, self._of(event)
        if running is None:
            return []
        (words,) = job_text(data)
        line = inert(str(data.get("line") or ""), 200)
        path = str(data["step"])
        name = inert(running.named(path), 60)
        named = f"{name}: {words}" if name else words
        if not data.get("over") or not name:
            running.activity = f"{named} \u00b7 {line}" if line else named
        if not name:
            running.elements = table(data, "jobs")
        running.job_state(path, str(data.get("state") or ""))
        news = (path, words.partition(" (")[0])  # without the evidence
        known = news in running.jobs_shown
        running.jobs_shown.add(news)
        if known or data.get("over") or not self._show_calls or running.kind == "script":
            return []
        if name and (running.total or 0) > MOST_NAMED:
            return self._counts(running, event.time)
        return [self._call_line(running, fit(named, 200))]

    def _timer(self, event: Event) -> list[Line]:
        """A line for a time that the step waits for; at most one a minute for repeated calls."""
        running = self._of(event)
        if running is None:
            return []
        path, words = str(event.data["step"]), timer_text(event.data)
        name = inert(running.named(path), 60)
        running.activity = f"{name}: {words}" if name else words
        if not self._show_calls or (name and (running.total or 0) > MOST_NAMED):
            return []
        if is_repeated(event.data):
            if event.time < running.repeats_shown.get(path, -math.inf) + REPEAT_SECONDS:
                return []
            running.repeats_shown[path] = event.time
        return [self._call_line(running, fit(running.activity, 200))]

    def _counts(self, running: Running, now: float) -> list[Line]:
        """The counts of many jobs, if they changed and some seconds have passed."""
        counts = running.counts
        if counts == running.counts_shown or now < running.counted + COUNT_SECONDS:
            return []
        running.counts_shown, running.counted = counts, now
        return [self._call_line(running, counts)]

    def _model_started(self, event: Event) -> list[Line]:
        if running := self._of(event):
            running.activity = f"asks {inert(str(event.data.get('model') or 'the model'), 60)}"
            running.said, running.said_in = NOTHING_YET, str(event.data["step"])
        return []

    def _model_text(self, event: Event) -> list[Line]:
        running = self._of(event)
        if running and event.data["step"] == (running.said_in or event.data["step"]):
            running.said += str(event.data.get("text") or "")
        return []

    def written(self, texts: Mapping[str, WrittenText]) -> None:
        """Show the texts that models are writing for a run of another process.

        Args:
            texts: As `fractale.record.follow.texts_being_written` returns them.
        """
        for path, text in texts.items():
            running = self._owner(path)
            if running and (path == running.said_in or running.said_in not in texts):
                running.said = text

    def _model_finished(self, event: Event) -> list[Line]:
        data = event.data
        tokens = (data.get("input_tokens") or 0) + (data.get("output_tokens") or 0)
        self.tokens += tokens
        self.cost += data.get("cost") or 0.0
        if running := self._of(event):
            running.tokens += tokens
            if running.writing:
                running.said, running.activity = NOTHING_YET, ""
        return []

    def _log(self, event: Event) -> list[Line]:
        level = str(event.data.get("level") or "")
        if level in ("warning", "error", "critical", "alert", "emergency"):
            return self._warning(event)
        if running := self._of(event):
            running.activity = inert(str(event.data.get("message") or ""), 200)
        return []

    def _warning(self, event: Event) -> list[Line]:
        words = inert(str(event.data.get("message") or ""), 1000)
        if step := inert(str(event.data.get("step") or "")):
            words = f"{step}: {words}"
        first, *rest = fold(words, self.width - 3, self._most)
        return [[self.mark("warning"), (first, "")], *(row(f"   {words}") for words in rest)]

    def _waiting(self, event: Event) -> list[Line]:
        if running := self._of(event):
            running.waits = True
        return self._question(event) if self._elsewhere else []

    def _question(self, event: Event) -> list[Line]:
        """A question of a run of another process, and the command that answers it."""
        question = table(event.data, "question")
        step = str(question.get("step") or event.data.get("step") or "")
        texts = question_text(question, max(self.width - 6, LEAST_ROOM))
        texts += answer_commands(event.run, question)
        lines = narrowed([row(f"     {words}") for words in texts], self.width)
        return [[self.mark("warning"), (f"{inert(step, 60)} asks", "")], *lines]

    def _answered(self, event: Event) -> list[Line]:
        """An answer given beforehand or elsewhere; what the user typed is on the screen already."""
        if running := self._of(event):
            running.waits = False
        via = event.data.get("via")
        if event.data.get("by") == "person" and not (via or self._elsewhere):
            return []
        question = table(event.data, "question")
        asked = question.get("text") or question.get("tool") or question.get("kind")
        answer = answer_text(event.data.get("answer"))
        words = f"{inert(str(asked))} → {inert(answer)}"
        if event.data.get("by") == "default_after":
            words = f"no answer in time; the default was taken: {inert(answer)}"
        if via:
            who = inert(str(event.data.get("user") or "the user"), 60)
            words = f"{who} answered in {inert(str(via), 60)}: {inert(answer)}"
        words = f"{inert(str(event.data.get('step')))}: {words}"
        return [row(fit(f"   {words}", self.width), "dim")]

    def _table(self, event: Event) -> list[Line]:
        title = f"{event.data.get('step')}: {event.data.get('title')}"
        return table_lines(title, entries(event.data, "rows"), self.width)

    def _step_finished(self, event: Event) -> list[Line]:
        data, path = event.data, str(event.data["step"])
        self._see(path)
        running = self.active.pop(path, None) or self._unstarted(event)
        outcome = str(data.get("outcome"))
        columns = self.columns(path, running.kind, running.target, running.attempt)
        head: Line = [self.mark(outcome if outcome in MARKS else "failure"), (columns, "")]
        if outcome != "skipped":
            head.append((f"  {seconds(data.get('seconds')):>9}", ""))
        shown = [text for text in self._figures(data, running) if text]
        lines = self._with_evidence(head, "   ".join(shown), evidence(data))
        if words := leads_to(data, self.order, self._seen):
            lines.append([(" " * (5 + self._names) + words, "")])
        return lines

    def _unstarted(self, event: Event) -> Running:
        """A step that was skipped, or that another process started."""
        data = event.data
        known = next((s for s in self.order if s["name"] == data["step"]), dict[str, Any]())
        return Running(
            path=str(data["step"]),
            kind=str(known.get("type") or ""),
            target=target_of(known),
            attempt=max(int(data.get("attempt") or 1), 1) if data["outcome"] != "skipped" else 1,
            started=event.time,
        )

    def _figures(self, data: Mapping[str, Any], running: Running) -> list[str]:
        tokens = data.get("tokens") or 0
        return [
            count(tokens, "token") if tokens else "",
            count(running.total, running.noun) if running.total is not None else "",
            count(running.calls, "call") if running.calls else "",
            _job_of(data),
        ]

    def _with_evidence(self, head: Line, figures: str, reason: str) -> list[Line]:
        """The head line with the reason after the counts if it fits, otherwise below."""
        if figures:
            head = [*head, (f"   {figures}", "")]
        if not reason:
            return [head]
        used = sum(cells(text) for text, _ in head)
        if used + 3 + cells(reason) <= self.width:
            return [[*head, (f"   {reason}", "")]]
        indent = " " * (5 + self._names)
        rows = fold(reason, self.width - cells(indent), self._most)
        return [head, *(row(f"{indent}{words}") for words in rows)]


def _item_path(event: Event) -> str:
    return f"{event.data.get('step')}[{event.data.get('index')}]"


def _job_of(data: Mapping[str, Any]) -> str:
    """The batch job of a step: ``slurm job 4711``; empty without one."""
    outputs: Any = data.get("outputs")
    if not isinstance(outputs, Mapping) or not outputs.get("job_id"):
        return ""
    return inert(f"{outputs.get('scheduler', '')} job {outputs['job_id']}", 60)
