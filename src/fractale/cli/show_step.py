"""One step of a run, as lines: every visit with its inputs, calls, results and decision."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from fractale.cli.person_text import exact
from fractale.cli.show_words import exactly, value_lines
from fractale.cli.summary import question_text
from fractale.cli.tables import table_lines
from fractale.cli.text import Line, Mark, count, fold, inert, row, seconds
from fractale.cli.view import MARKS
from fractale.cli.words import as_json, ordinal, target_of

if TYPE_CHECKING:
    from fractale.runs.history import Asked, CallMade, RunHistory, Visit

WIDTH = 100
SHORT_TEXT = 2000
"""How much of a call's text is in the events."""


def step_lines(
    history: RunHistory, step: str, visits: Sequence[Visit], *, full: bool = False
) -> list[Line]:
    """Every visit of a step.

    Args:
        visits: Those that are shown.
        full: Whether long values are shown whole.
    """
    from fractale.runs.history_values import results_of

    calls = [call for visit in visits for call in visit.calls]
    results = results_of(history.folder, calls)
    about = f"   run {history.run} · {count(len(visits), 'visit')}"
    lines: list[Line] = [[(inert(step), ""), (about, "dim")]]
    for visit in visits:
        lines += [row(""), *_Shown(history, visit, results, full=full).lines()]
    return lines


class _Shown:
    """The lines of one visit."""

    def __init__(
        self, history: RunHistory, visit: Visit, results: Mapping[str, Any], *, full: bool
    ) -> None:
        self._folder = history.folder
        self._visit = visit
        self._results = results
        self._full = full

    def lines(self) -> list[Line]:
        return [
            *self._head(),
            *self._value("inputs", self._visit.inputs),
            *self._items(),
            *self._calls(),
            *self._questions(),
            *self._tables(),
            *self._value(self._outputs_label, self._visit.outputs),
        ]

    @property
    def _outputs_label(self) -> str:
        return "outputs (cut short in this record)" if self._visit.outputs_cut else "outputs"

    def _head(self) -> list[Line]:
        visit = self._visit
        mark: tuple[str, Mark] = ("", MARKS.get(visit.outcome or "running", MARKS["failure"])[2])
        kind = f"{visit.kind} {inert(target_of({'target': visit.target, 'type': visit.kind}))}"
        words = inert(f"{visit.path} · {ordinal(visit.number)} visit · {kind.strip()}")
        outcome = visit.outcome or "not finished"
        lines: list[Line] = [[(outcome, mark[1]), (f"   {words}", "")]]
        for label, text in self._rows():
            for i, part in enumerate(fold(inert(text, 4000), WIDTH - 16, 20)):
                lines.append([(f"  {label if i == 0 else '':12}", "dim"), (part, "")])
        return lines

    def _rows(self) -> list[tuple[str, str]]:
        visit = self._visit
        came = f", from {visit.previous}" if visit.previous else ""
        took = f", took {seconds(visit.seconds)}" if visit.seconds is not None else ""
        again = f", entered {visit.enterings} times" if visit.enterings > 1 else ""
        used = f"{visit.tokens:,} tokens" + (f", ${visit.cost:.4f}" if visit.cost else "")
        rows = [
            ("purpose", visit.description),
            ("entered", f"{exactly(visit.started)}{came}{took}{again}"),
            ("decided by", decided_by(visit)),
            ("event", visit.event if visit.event not in (visit.outcome, None) else ""),
            ("error", visit.error if visit.error != visit.reason else ""),
            ("led to", visit.next),
            ("used", used if visit.tokens else ""),
            *(("warning", note.message) for note in visit.warnings),
        ]
        return [(label, text) for label, text in rows if text]

    def _value(self, label: str, value: Any) -> list[Line]:
        from fractale.runs.history_values import resolve

        if value is None or value == {}:
            return []
        return self._block(label, value_lines(resolve(self._folder, value), full=self._full))

    def _block(self, label: str, lines: Sequence[str], indent: int = 2) -> list[Line]:
        space = " " * indent
        return [row(f"{space}{label}", "dim"), *(row(f"{space}  {line}") for line in lines)]

    def _items(self) -> list[Line]:
        found: list[Line] = []
        for index, item in sorted(self._visit.items.items()):
            why = f": {inert(item.error, 300)}" if item.error else ""
            found.append(row(f"  item [{index}]  {item.outcome or 'not finished'}{why}"))
            for label, value in (("inputs", item.inputs), ("outputs", item.outputs)):
                found += [row(f"  {t}" if t else t, m) for [(t, m)] in self._value(label, value)]
        return found

    def _calls(self) -> list[Line]:
        found: list[Line] = []
        for number, call in enumerate(self._visit.calls, 1):
            found += [self._call_head(number, call), *self._call_body(call)]
        return found

    def _call_head(self, number: int, call: CallMade) -> Line:
        where = f", item {call.step[call.step.rfind('[') :]}" if call.step.endswith("]") else ""
        by = f", by {inert(call.agent, 80)}" if call.agent else ""
        end = seconds(call.seconds) if call.finished else "no end is known"
        used = call.input_tokens + call.output_tokens
        told = f" · {used:,} tokens" if used else ""
        told += f" · ${call.cost:.4f}" if call.cost else ""
        words = f"  call {number}  {call.kind} {inert(call.name)}{by}{where} · {end}{told}"
        return [(words, ""), ("  failed" if call.is_error else "", "bad")]

    def _call_body(self, call: CallMade) -> list[Line]:
        found: list[Line] = []
        if call.arguments:
            lines = value_lines(dict(call.arguments), full=self._full)
            found += self._block("arguments", lines, 4)
        result = self._results.get(call.key or "") if call.came_back else None
        if result is not None:
            return [*found, *self._block("result", value_lines(said(result), full=self._full), 4)]
        if call.text:
            label = "result" if len(call.text) < SHORT_TEXT else "result, its beginning"
            found += self._block(label, value_lines(_parsed(call.text), full=self._full), 4)
        return found

    def _questions(self) -> list[Line]:
        found: list[Line] = []
        for asked in self._visit.questions:
            found += self._block("asked", _question(asked))
        return found

    def _tables(self) -> list[Line]:
        found: list[Line] = []
        for title, rows in self._visit.tables.items():
            found += table_lines(title, rows, WIDTH)
        return found


def decided_by(visit: Visit) -> str:
    """The evidence that decided a visit's outcome, with its reason: ``exit_code: …``."""
    if visit.decided_by == "rule" or not visit.decided_by:
        return visit.reason
    reason = visit.reason or ("no error found" if visit.decided_by == "default" else "")
    return f"{visit.decided_by}: {reason}" if reason else visit.decided_by


def _question(asked: Asked) -> list[str]:
    try:
        lines = question_text(asked.question)[:-1]
    except KeyError:  # a kind of an older or newer fractale
        lines = [inert(as_json(asked.question), 1000)]
    if not asked.answered:
        return [*lines, "waits for an answer"]
    answer = exact(as_json(asked.answer))
    return [*lines, f"answer: {answer}   (by {asked.by}, {exactly(asked.answered_at)})"]


def said(result: Any) -> Any:
    """What a call's recorded result says: a tool's data or text, a model's text and calls."""
    if not isinstance(result, dict):
        return result
    data = cast("dict[str, Any]", result)
    if "error" in data:
        return data["error"].get("message")
    if data.get("structured") is not None:
        return data["structured"]
    if "text" in data:
        return data["data"] if data.get("data") is not None else _parsed(data["text"])
    message: dict[str, Any] = data.get("data") or {}
    asked: list[dict[str, Any]] = message.get("tool_calls") or []
    calls = [{call["name"]: call["args"]} for call in asked]
    content = message.get("content")
    return {k: v for k, v in (("text", content), ("calls", calls)) if v} or content


def _parsed(text: str) -> Any:
    """The mapping that a text holds, if it is one as JSON and nothing else; else the text."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
