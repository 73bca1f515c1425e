"""The way that a run took, as lines: each visit with what was called, asked and decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.cli.render.steps_shown import leads_to
from fractale.cli.render.summary import usage_text
from fractale.cli.render.text import (
    Line,
    Mark,
    cells,
    count,
    fit,
    fold,
    inert,
    pad,
    row,
    seconds,
    shorten_path,
)
from fractale.cli.render.values import exactly, when
from fractale.cli.render.view import MARKS
from fractale.cli.render.words import answer_text, as_json, call_text, evidence, ordinal, target_of

if TYPE_CHECKING:
    from fractale.record.history import Asked, CallMade, RunHistory, Visit

WIDTH = 100
NAME_MOST, TARGET_MOST = 32, 28
MOST_LINES = 6


def run_lines(history: RunHistory, *, unicode: bool = True, width: int | None = None) -> list[Line]:
    """A run's head, and its way, without its end.

    Args:
        unicode: Whether ``✓`` and the like can be shown.
        width: Of the lines, in columns; None: as is usual where there is no terminal.
    """
    way = _Way(history, unicode=unicode, width=width)
    return [*head_lines(history, width or WIDTH), row(""), *way.lines()]


def head_lines(history: RunHistory, width: int = WIDTH) -> list[Line]:
    """What was run, when, with what.

    Args:
        width: Of the lines, in columns.
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
    folder = history.folder.drafts
    yield "drafts", ", ".join(shorten_path(str(folder / f"{p}.yaml")) for p in history.drafts)


def _forked_from(history: RunHistory, parent: Mapping[str, Any]) -> str:
    visit = int(parent.get("attempt") or 1)
    at = f"{parent.get('step')}, its {ordinal(visit)} visit" if visit > 1 else parent.get("step")
    gone = not (history.folder.path.parent / str(parent.get("run"))).is_dir()
    return f"run {parent.get('run')} at {at}{', which was removed since' if gone else ''}"


def standing_lines(history: RunHistory) -> list[Line]:
    """How a run stands that has no end: it goes on, or its process was killed."""
    if history.alive:
        return [[("running", "now"), (f" · {usage_text(history.usage)}", "")]]
    if history.processes and history.processes[-1].status:
        return []
    words = " · its process ended without a word: it was killed, or the machine stopped"
    return [
        [("stopped", "warn"), (words, "")],
        row(f"  record  {inert(shorten_path(str(history.folder.path)))}"),
        row(f"  next    fractale resume {history.run}"),
    ]


class _Way:
    """The lines of the visits, in the order in which they were entered."""

    def __init__(self, history: RunHistory, *, unicode: bool, width: int | None) -> None:
        self._width, self._most = width or WIDTH, width or WIDTH + 20
        self._history = history
        self._unicode = unicode
        visits = history.visits
        self._names = min(max([cells(_name(v)) + 2 * v.depth for v in visits] + [8]), NAME_MOST)
        self._kinds = max([len(visit.kind) for visit in visits] + [6])
        targets = [cells(inert(_target(visit))) for visit in visits]
        self._targets = min(max([*targets, 8]), TARGET_MOST)
        self._leads = _leads(history)

    def lines(self) -> list[Line]:
        found: list[Line] = []
        for visit in self._history.visits:
            found += self._visit(visit)
        for note in self._history.warnings:
            found += self._noted("warning", note.message)
        return found

    def _mark(self, state: str) -> tuple[str, Mark]:
        sign, ascii_sign, mark = MARKS.get(state, MARKS["failure"])
        return (f" {sign if self._unicode else ascii_sign} ", mark)

    def _visit(self, visit: Visit) -> list[Line]:
        name = fit(" " * (2 * visit.depth) + _name(visit), self._names)
        words = ordinal(visit.number) if visit.number > 1 else visit.kind
        target = pad(fit(inert(_target(visit)), self._targets), self._targets)
        took = f"{seconds(visit.seconds):>9}" if visit.seconds is not None else " " * 9
        if visit.outcome == "skipped":
            took = " " * 9
        head = f"{pad(name, self._names)}  {pad(words, self._kinds)}  {target}  {took}"
        line: Line = [self._mark(visit.outcome or "running"), (head, "")]
        return [*self._with_reason(line, visit), *self._behind(visit)]

    def _with_reason(self, line: Line, visit: Visit) -> list[Line]:
        """The figures and the reason, on the line where they fit, else below."""
        if figures := _figures(visit):
            line = [*line, (f"   {figures}", "")]
        reason = _why(visit)
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

    def _behind(self, visit: Visit) -> list[Line]:
        """What lies behind a visit: its calls, what was asked, warnings, where it led."""
        found: list[Line] = []
        if visit.kind != "tool" or visit.items or len(visit.calls) > 1:
            found += [self._dim(_call(visit, call)) for call in visit.calls if call.kind == "tool"]
        for asked in visit.questions:
            found += self._folded(_asked(asked))
        for note in visit.warnings:
            found += self._noted("warning", note.message)
        if visit.enterings > 1:
            words = f"entered {visit.enterings} times: again after a question or a stop"
            found += self._folded(words)
        if words := self._leads.get(id(visit)):
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


def _name(visit: Visit) -> str:
    """A step's path below the step around it."""
    start = len(visit.parent.path) if visit.parent else 0
    return inert(visit.path[start:].removeprefix("/"))


def _target(visit: Visit) -> str:
    target = target_of({"target": visit.target, "type": visit.kind})
    return Path(target).name if visit.kind == "plan" else target


def _figures(visit: Visit) -> str:
    failed = sum(1 for item in visit.items.values() if item.outcome == "failure")
    asked = sum(1 for call in visit.calls if call.kind == "model")
    parts = [
        count(visit.tokens, "token") if visit.tokens else "",
        f"${visit.cost:.3f}" if visit.cost else "",
        count(asked, "model call") if asked > 1 else "",
        count(len(visit.items), "element" if visit.is_array else "item") if visit.items else "",
        f"{failed} failed" if failed else "",
    ]
    return "   ".join(part for part in parts if part)


def _why(visit: Visit) -> str:
    """Who decided the outcome and why; nothing where nothing spoke against success."""
    if visit.outcome is None:
        return "not finished"
    if visit.outcome == "success" and visit.decided_by in ("rule", "judge"):
        words = (
            f"{visit.decided_by}: {visit.reason}" if visit.decided_by == "judge" else visit.reason
        )
        event = "" if visit.event == "success" else f"{inert(str(visit.event))}: "
        return f"{event}{inert(words, 1000)}"
    data = {"reason": visit.reason, "error": visit.error, "decided_by": visit.decided_by}
    return evidence({**data, "outcome": visit.outcome, "event_name": visit.event})


def _call(visit: Visit, call: CallMade) -> str:
    by = f"{inert(call.agent, 60)} " if call.agent else ""
    item = f"{visit.part(call.step)} " if call.step.endswith("]") else ""
    end = seconds(call.seconds) if call.finished else "no end is known"
    words = f"{item}{by}calls {call_text({'tool': call.name, 'arguments': call.arguments})}  {end}"
    return f"{words}  failed: {inert(call.text, 300)}" if call.is_error else words


def _asked(asked: Asked) -> str:
    question = asked.question
    what = question.get("text") or question.get("message") or question.get("tool")
    words = f"{question.get('kind')}: {inert(str(what or question.get('error') or ''), 300)}"
    if not asked.answered:
        return f"{words} → waits for an answer"
    return f"{words} → {inert(answer_text(asked.answer), 200)} ({asked.by})"


def _leads(history: RunHistory) -> Mapping[int, str]:
    """Where each visit led, in words, if not simply on; seen from the time of its end."""
    visits, seen, begun = history.visits, set[str](), 0
    found: dict[int, str] = {}
    for visit in sorted((v for v in visits if v.ended), key=lambda v: v.ended or 0.0):
        while begun < len(visits) and visits[begun].started <= (visit.ended or 0.0):
            seen.add(visits[begun].path)
            begun += 1
        data: dict[str, Any] = {"step": visit.path, "next": visit.next, "outcome": visit.outcome}
        if words := leads_to(data, history.steps, seen):
            found[id(visit)] = words
    return found
