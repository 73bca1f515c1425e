"""What a person is told of a run: the events, taken in one by one, as lines and a picture.

`RunView` holds no more than what is under way, so a run of any length costs the same memory.
The plain and the live display print the lines that `take` gives; the live one also draws what
is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fractale.cli.render.steps_shown import Running, leads_to
from fractale.cli.render.tables import table_lines
from fractale.cli.render.text import (
    Line,
    Mark,
    cells,
    count,
    entries,
    fit,
    fold,
    inert,
    pad,
    row,
    seconds,
    table,
)
from fractale.cli.render.words import (
    answer_text,
    call_text,
    evidence,
    job_text,
    ordinal,
    progress_text,
    target_of,
)
from fractale.events import Event

MARKS: dict[str, tuple[str, str, Mark]] = {
    "success": ("✓", "ok", "good"),
    "failure": ("✗", "x ", "bad"),
    "skipped": ("\u2013", "- ", "dim"),
    "running": ("●", "* ", "now"),
    "warning": ("!", "! ", "warn"),
}
NAME_MOST, TARGET_MOST = 24, 28
FIGURES_WIDTH = 32
"""Kept free for the mark, the gaps, the time and the tokens."""
MOST_NAMED = 16
"""Jobs of a step, each with lines of its own; of more they are counted."""
COUNT_SECONDS = 5.0
"""Between two lines that count a step's jobs."""
SAID = 600
"""How many characters of what a model says are kept while it speaks."""


class RunView:
    """What a person is told of one run.

    Args:
        width: Columns of a line.
        unicode: Whether ``✓`` and the like can be shown.
        calls: Whether each call that a model makes is told in a line of its own.
        most: The most lines of one piece of evidence.
    """

    def __init__(
        self, *, width: int = 100, unicode: bool = True, calls: bool = True, most: int = 6
    ) -> None:
        self.width = width
        self.active: dict[str, Running] = {}
        self.order: list[dict[str, Any]] = []
        self.started = 0.0
        self.tokens = 0
        self.cost = 0.0
        self.limits: dict[str, Any] = {}
        self._unicode = unicode
        self._tell_calls = calls
        self._most = most
        self._seen: set[str] = set()
        self._names = self._kinds = self._targets = 8
        self._takers: dict[str, Callable[[Event], list[Line]]] = {
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
            "waiting": self._waiting,
            "answered": self._answered,
            "table": self._table,
            "step_finished": self._step_finished,
        }

    def take(self, event: Event) -> list[Line]:
        """Take in one event.

        Returns:
            The lines that it adds to what is on the screen for good.
        """
        taker = self._takers.get(event.kind)
        return taker(event) if taker else []

    def mark(self, state: str) -> tuple[str, Mark]:
        """The sign of a state, and its colour."""
        sign, ascii_sign, mark = MARKS[state]
        return (f" {sign if self._unicode else ascii_sign} ", mark)

    def columns(self, name: str, kind: str, target: str, attempt: int = 1) -> str:
        """A step's name, kind and target, each in its column; a later attempt says which."""
        words = ordinal(attempt) if attempt > 1 else kind
        room = self.width - self._names - self._kinds - FIGURES_WIDTH
        most = max(min(TARGET_MOST, room), 8)
        shown = pad(fit(inert(target), most), min(self._targets, most))
        return f"{pad(inert(name), self._names)}  {pad(words, self._kinds)}{shown}"

    @property
    def pending(self) -> list[dict[str, Any]]:
        """The plan's steps that the run has not come to yet, in the plan's order."""
        return [step for step in self.order if step["name"] not in self._seen]

    def _run_started(self, event: Event) -> list[Line]:
        data = event.data
        self.started = event.time
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
        """The step under way that an event belongs to: of ``a/b[3]``, ``a/b``."""
        while path:
            if path in self.active:
                return self.active[path]
            path = path[: max(path.rfind("["), path.rfind("/"), 0)]
        return None

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
        if not news or not self._tell_calls:
            return []
        running.counts_told, running.counted = running.counts, event.time
        return [self._call_line(running, running.counts)]

    def _tool_started(self, event: Event) -> list[Line]:
        running = self._of(event)
        if running is None:
            return []
        running.waits = False
        call = call_text(event.data)
        running.activity, running.said = call, ""
        if running.kind in ("tool", "job"):
            return []
        running.calls += 1
        return [self._call_line(running, f"calls {call}")] if self._tell_calls else []

    def _tool_progress(self, event: Event) -> list[Line]:
        if running := self._of(event):
            running.activity = progress_text(event.data)
        return []

    def _tool_finished(self, event: Event) -> list[Line]:
        running = self._of(event)
        if running is None or running.kind in ("tool", "job") or not event.data.get("is_error"):
            return []
        if not self._tell_calls:
            return []
        words = f"{inert(str(event.data.get('tool')))} failed: {inert(str(event.data.get('text')))}"
        return [self._call_line(running, fit(words, 200))]

    def _call_line(self, running: Running, words: str) -> Line:
        return row(f"   {pad(inert(running.path), self._names)}  {words}", "dim")

    def _job_state(self, event: Event) -> list[Line]:
        """A batch job: how it stands is a line of its own once, its log's last line is not."""
        data, running = event.data, self._of(event)
        if running is None:
            return []
        (words,) = job_text(data)
        line = inert(str(data.get("line") or ""), 200)
        path = str(data["step"])
        name = inert(running.named(path), 60)
        named = f"{name}: {words}" if name else words
        running.activity = f"{named} \u00b7 {line}" if line else named
        if not name:
            running.elements = table(data, "jobs")
        running.job_state(path, str(data.get("state") or ""))
        news = (path, words.partition(" (")[0])  # without what shows it
        told = news in running.jobs_told
        running.jobs_told.add(news)
        if told or data.get("over") or not self._tell_calls:
            return []
        if name and (running.total or 0) > MOST_NAMED:
            return self._counts(running, event.time)
        return [self._call_line(running, fit(named, 200))]

    def _counts(self, running: Running, now: float) -> list[Line]:
        """What many jobs do, when that has changed and some seconds have passed."""
        counts = running.counts
        if counts == running.counts_told or now < running.counted + COUNT_SECONDS:
            return []
        running.counts_told, running.counted = counts, now
        return [self._call_line(running, counts)]

    def _model_started(self, event: Event) -> list[Line]:
        if running := self._of(event):
            running.activity = f"asks {inert(str(event.data.get('model') or 'the model'), 60)}"
            running.said = ""
        return []

    def _model_text(self, event: Event) -> list[Line]:
        if running := self._of(event):
            running.said = (running.said + str(event.data.get("text") or ""))[-SAID:]
        return []

    def _model_finished(self, event: Event) -> list[Line]:
        data = event.data
        self.tokens += (data.get("input_tokens") or 0) + (data.get("output_tokens") or 0)
        self.cost += data.get("cost") or 0.0
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
        return []

    def _answered(self, event: Event) -> list[Line]:
        """An answer that was given beforehand; one of the person's own is on the screen."""
        if running := self._of(event):
            running.waits = False
        if event.data.get("by") == "person":
            return []
        question = table(event.data, "question")
        asked = question.get("text") or question.get("tool") or question.get("kind")
        answer = answer_text(event.data.get("answer"))
        words = f"{inert(str(event.data.get('step')))}: {inert(str(asked))} → {inert(answer)}"
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
        told = [text for text in self._figures(data, running) if text]
        lines = self._with_evidence(head, "   ".join(told), evidence(data))
        if words := leads_to(data, self.order, self._seen):
            lines.append([(" " * (5 + self._names) + words, "")])
        return lines

    def _unstarted(self, event: Event) -> Running:
        """A step that was skipped or whose start was in another process."""
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
        """The reason behind the figures if it fits on the line, else below."""
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
    """The batch job of a step that had one: ``slurm job 4711``."""
    outputs: Any = data.get("outputs")
    if not isinstance(outputs, Mapping) or not outputs.get("job_id"):
        return ""
    return inert(f"{outputs.get('scheduler', '')} job {outputs['job_id']}", 60)
