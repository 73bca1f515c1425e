"""The timeline of a run, as lines: each attempt with its calls, questions and decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.render.phrases import (
    answer_text,
    as_json,
    call_text,
    evidence,
    leads_to,
    ordinal,
    taken_over,
    target_of,
)
from fractale.render.run_view import MARKS
from fractale.render.text import (
    Line,
    Mark,
    cells,
    count,
    exactly,
    fit,
    fold,
    inert,
    pad,
    row,
    seconds,
    shorten_path,
    when,
)

if TYPE_CHECKING:
    from fractale.record.history import RecordedAttempt, RecordedCall, RecordedQuestion, RunHistory

WIDTH = 100
NAME_MOST, TARGET_MOST = 32, 28
MOST_LINES = 6


def run_lines(history: RunHistory, *, unicode: bool = True, width: int | None = None) -> list[Line]:
    """A run's head and its attempts, without its summary.

    Args:
        unicode: Whether the terminal can show marks such as ``✓``.
        width: Columns of a line; None without a terminal.
    """
    timeline = _Timeline(history, unicode=unicode, width=width)
    return [*head_lines(history, width or WIDTH), row(""), *timeline.lines()]


def head_lines(history: RunHistory, width: int = WIDTH) -> list[Line]:
    """The plan, times, inputs, models and versions of a run.

    Args:
        width: Columns of a line.
    """
    title, about = inert(history.title, 200), f"run {history.run}"
    first = title + " " * (width - cells(title) - cells(about))
    lines: list[Line] = [[(first if first.endswith(" ") else f"{title}  ", ""), (about, "dim")]]
    rows = [(label, inert(words, 2000)) for label, words in _head_rows(history) if words]
    column = max(cells(label) for label, _ in rows)
    for label, words in rows:
        for i, text in enumerate(fold(words, width - column - 4, MOST_LINES)):
            lines.append([(f"  {pad(label if i == 0 else '', column)}  ", "dim"), (text, "")])
    return lines


def _head_rows(history: RunHistory) -> Iterator[tuple[str, str]]:
    head = history.head
    plan_hash = f" ({head['plan_hash'][:12]})" if head.get("plan_hash") else ""
    file = shorten_path(str(head.get("file") or "?"))
    yield "plan", f"{head.get('plan')}, {file}{plan_hash}"
    if parent := head.get("parent"):
        yield "forked from", _forked_from(history, parent)
    until = f" to {exactly(history.ended)}" if history.ended else ""
    yield "time", f"{exactly(history.started)}{until}"
    resumed = [when(process.started) for process in history.processes if process.resumed]
    yield "resumed", ", ".join(resumed)
    for name, value in history.inputs.items():
        yield f"input {inert(str(name), 40)}", fit(inert(as_json(value), 400), 300)
    yield "models", ", ".join(history.models)
    yield "versions", ", ".join(f"{name} {number}" for name, number in history.versions.items())
    tools = [f"{name} {digest[:8]}" for name, digest in history.tools.items()]
    yield "tools", f"{len(tools)} with these schemas: {', '.join(tools)}" if tools else ""
    drafts = history.record.drafts
    yield "drafts", ", ".join(shorten_path(str(drafts / f"{p}.yaml")) for p in history.drafts)


def _forked_from(history: RunHistory, parent: Mapping[str, Any]) -> str:
    attempt = int(parent.get("attempt") or 1)
    at = (
        f"{parent.get('step')}, its {ordinal(attempt)} attempt"
        if attempt > 1
        else parent.get("step")
    )
    gone = "" if _has(history, parent) else ", which was removed since"
    return f"run {parent.get('run')} at {at}{gone}"


def _has(history: RunHistory, parent: Mapping[str, Any]) -> bool:
    """Whether the run that a fork came from is still there."""
    try:
        return history.record.sibling(str(parent.get("run"))).path.is_dir()
    except ValueError:  # not the name of a run
        return False


class _Timeline:
    """The lines of the attempts, in the order of their starts."""

    def __init__(self, history: RunHistory, *, unicode: bool, width: int | None) -> None:
        self._width, self._most = width or WIDTH, width or WIDTH + 20
        self._history = history
        self._unicode = unicode
        attempts = history.attempts
        self._names = min(max([cells(_name(v)) + 2 * v.depth for v in attempts] + [8]), NAME_MOST)
        self._kinds = max([len(attempt.kind) for attempt in attempts] + [6])
        targets = [cells(inert(_target(attempt))) for attempt in attempts]
        self._targets = min(max([*targets, 8]), TARGET_MOST)
        self._leads = _leads(history)

    def lines(self) -> list[Line]:
        found: list[Line] = []
        for attempt in self._history.attempts:
            found += self._attempt(attempt)
        for note in self._history.warnings:
            found += self._noted("warning", note.message)
        return found

    def _mark(self, state: str) -> tuple[str, Mark]:
        sign, ascii_sign, mark = MARKS.get(state, MARKS["failure"])
        return (f" {sign if self._unicode else ascii_sign} ", mark)

    def _attempt(self, attempt: RecordedAttempt) -> list[Line]:
        name = fit(" " * (2 * attempt.depth) + _name(attempt), self._names)
        words = ordinal(attempt.number) if attempt.number > 1 else attempt.kind
        target = pad(fit(inert(_target(attempt)), self._targets), self._targets)
        took = f"{seconds(attempt.seconds):>9}" if attempt.seconds is not None else " " * 9
        if attempt.outcome == "skipped":
            took = " " * 9
        head = f"{pad(name, self._names)}  {pad(words, self._kinds)}  {target}  {took}"
        line: Line = [self._mark(attempt.outcome or "running"), (head, "")]
        return [*self._with_reason(line, attempt), *self._below(attempt)]

    def _with_reason(self, line: Line, attempt: RecordedAttempt) -> list[Line]:
        """The line with the counts and the reason if they fit, otherwise below it."""
        if figures := _figures(attempt):
            line = [*line, (f"   {figures}", "")]
        reason = why(attempt)
        used = sum(cells(text) for text, _ in line)
        if not reason:
            return [line]
        if used + 3 + cells(reason) <= self._most:
            return [[*line, (f"   {reason}", "")]]
        return [line, *(row(f"{self._indent}{t}") for t in fold(reason, self._room, MOST_LINES))]

    @property
    def _indent(self) -> str:
        return " " * (5 + self._names)

    @property
    def _room(self) -> int:
        return max(self._width - 5 - self._names, 20)

    def _below(self, attempt: RecordedAttempt) -> list[Line]:
        """The calls, questions, warnings and the next step of an attempt."""
        found: list[Line] = []
        if attempt.kind != "tool" or attempt.items or len(attempt.calls) > 1:
            found += [
                self._dim(_call(self._history, attempt, call))
                for call in attempt.calls
                if call.kind == "tool"
            ]
        for asked in attempt.questions:
            found += self._folded(_asked(asked))
        for note in attempt.warnings:
            found += self._noted("warning", note.message)
        if attempt.enterings > 1:
            times = count(attempt.enterings - 1, "time")
            found += self._folded(f"resumed {times}, after a question or a stop")
        if words := self._leads.get(id(attempt)):
            found.append(row(self._indent + words))
        return found

    def _dim(self, words: str) -> Line:
        return row(fit(f"{self._indent}{words}", self._most), "dim")

    def _folded(self, words: str) -> list[Line]:
        rows = fold(words, self._most - cells(self._indent), MOST_LINES)
        return [row(f"{self._indent}{text}", "dim") for text in rows]

    def _noted(self, state: str, message: str) -> list[Line]:
        words = fold(inert(message, 600), self._room, 3)
        room = " " * (2 + self._names)
        first: Line = [(room, ""), self._mark(state), (words[0], "")]
        return [first, *(row(f"{self._indent}{text}") for text in words[1:])]


def _name(attempt: RecordedAttempt) -> str:
    """A step's path relative to the step around it."""
    start = len(attempt.parent.path) if attempt.parent else 0
    return inert(attempt.path[start:].removeprefix("/"))


def _target(attempt: RecordedAttempt) -> str:
    target = target_of({"target": attempt.target, "type": attempt.kind})
    return Path(target).name if attempt.kind == "plan" else target


def _figures(attempt: RecordedAttempt) -> str:
    failed = sum(1 for item in attempt.items.values() if item.outcome == "failure")
    asked = sum(1 for call in attempt.calls if call.kind == "model")
    parts = [
        count(attempt.tokens, "token") if attempt.tokens else "",
        f"${attempt.cost:.3f}" if attempt.cost else "",
        count(asked, "model call") if asked > 1 else "",
        count(len(attempt.items), "element" if attempt.is_array else "item")
        if attempt.items
        else "",
        f"{failed} failed" if failed else "",
    ]
    return "   ".join(part for part in parts if part)


def why(attempt: RecordedAttempt) -> str:
    """The evidence and the reason for the outcome; empty for a success by default."""
    if attempt.outcome is None:
        return "not finished"
    if attempt.outcome == "success" and attempt.reused:
        return taken_over(attempt.reused)
    if attempt.outcome == "success" and attempt.decided_by in ("rule", "judge"):
        words = (
            f"{attempt.decided_by}: {attempt.reason}"
            if attempt.decided_by == "judge"
            else attempt.reason
        )
        event = "" if attempt.event == "success" else f"{inert(str(attempt.event))}: "
        return f"{event}{inert(words, 1000)}"
    data = {"reason": attempt.reason, "error": attempt.error, "decided_by": attempt.decided_by}
    return evidence({**data, "outcome": attempt.outcome, "event_name": attempt.event})


def end_of_call(history: RunHistory, attempt: RecordedAttempt, call: RecordedCall) -> str:
    """How long a call took, or why that is not known."""
    if call.finished:
        return seconds(call.seconds)
    going = history.alive and attempt.outcome is None
    return "in progress" if going else "outcome unknown"


def _call(history: RunHistory, attempt: RecordedAttempt, call: RecordedCall) -> str:
    by = f"{inert(call.agent, 60)} " if call.agent else ""
    item = f"{attempt.part(call.step)} " if call.step.endswith("]") else ""
    end = end_of_call(history, attempt, call)
    words = f"{item}{by}calls {call_text({'tool': call.name, 'arguments': call.arguments})}  {end}"
    return f"{words}  failed: {inert(call.text, 300)}" if call.is_error else words


def _asked(asked: RecordedQuestion) -> str:
    question = asked.question
    what = question.get("text") or question.get("message") or question.get("tool")
    words = f"{question.get('kind')}: {inert(str(what or question.get('error') or ''), 300)}"
    if not asked.answered:
        return f"{words} → waiting for an answer"
    return f"{words} → {inert(answer_text(asked.answer), 200)} ({inert(asked.answered_by, 100)})"


def _leads(history: RunHistory) -> Mapping[int, str]:
    """The step after each attempt, as known at its end, except the plan's next step."""
    attempts, seen, begun = history.attempts, set[str](), 0
    found: dict[int, str] = {}
    for attempt in sorted((v for v in attempts if v.ended), key=lambda v: v.ended or 0.0):
        while begun < len(attempts) and attempts[begun].started <= (attempt.ended or 0.0):
            seen.add(attempts[begun].path)
            begun += 1
        data: dict[str, Any] = {
            "step": attempt.path,
            "next": attempt.next,
            "outcome": attempt.outcome,
        }
        if words := leads_to(data, history.steps, seen):
            found[id(attempt)] = words
    return found
