"""One step of a run, as lines: every visit with its inputs, calls, results and decision."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from fractale.cli.render.questions import exact
from fractale.cli.render.summary import question_text
from fractale.cli.render.tables import table_lines
from fractale.cli.render.text import Line, Mark, count, fold, inert, row, seconds
from fractale.cli.render.values import exactly, pieces, value_lines
from fractale.cli.render.view import MARKS
from fractale.cli.render.words import as_json, ordinal, target_of

if TYPE_CHECKING:
    from fractale.record.history import Asked, CallMade, Item, JobMade, RunHistory, Visit
    from fractale.store.run_record import RunRecord

WIDTH = 100
UNBOUND = 2**31
SHORT_TEXT = 2000
"""How much of a call's text is in the events."""


def step_lines(
    history: RunHistory,
    step: str,
    visits: Sequence[Visit],
    *,
    full: bool = False,
    width: int = WIDTH,
    wrap: bool = True,
) -> list[Line]:
    """Every visit of a step.

    Args:
        visits: Those that are shown.
        full: Whether long values are shown whole.
        width: Of the lines, in columns; what is shown whole is cut into such lines on a terminal
            (`wrap`) only.
    """
    from fractale.record.history_values import results_of

    calls = [call for visit in visits for call in visit.calls]
    results = results_of(history.folder, calls)
    about = f"   run {history.run} · {count(len(visits), 'visit')}"
    lines: list[Line] = [[(inert(step), ""), (about, "dim")]]
    for visit in visits:
        lines += [
            row(""),
            *_Shown(history, visit, results, full=full, width=width, wrap=wrap).lines(),
        ]
    return lines


class _Shown:
    """The lines of one visit."""

    def __init__(
        self,
        history: RunHistory,
        visit: Visit,
        results: Mapping[str, Any],
        *,
        full: bool,
        width: int,
        wrap: bool,
    ) -> None:
        self._width = width
        self._values_width = width if wrap else UNBOUND
        self._folder = history.folder
        self._visit = visit
        self._results = results
        self._full = full

    def lines(self) -> list[Line]:
        return [
            *self._head(),
            *self._value("inputs", self._visit.inputs),
            *self._items(),
            *self._jobs(),
            *self._calls(),
            *self._questions(),
            *self._tables(),
            *self._outputs(),
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
            for i, part in enumerate(fold(inert(text, 4000), self._width - 16, 20)):
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
        from fractale.record.history_values import resolve

        if value is None or value == {}:
            return []
        return self._block(label, resolve(self._folder, value))

    def _outputs(self) -> list[Line]:
        if self._visit.items and not self._full and not self._visit.outputs_cut:
            parts = "elements" if self._visit.is_array else "items"
            return [row(f"  outputs  a list of those of the {parts} above", "dim")]
        return self._value(self._outputs_label, self._visit.outputs)

    def _block(self, label: str, value: Any, indent: int = 2) -> list[Line]:
        lines = value_lines(value, full=self._full, width=self._values_width - indent - 2)
        return self._lines(label, lines, indent)

    def _lines(self, label: str, lines: Sequence[str], indent: int = 2) -> list[Line]:
        space = " " * indent
        return [row(f"{space}{label}", "dim"), *(row(f"{space}  {line}") for line in lines)]

    def _items(self) -> list[Line]:
        found: list[Line] = []
        for index, item in sorted(self._visit.items.items()):
            why = f": {inert(_error_of(self._folder, item), 300)}" if item.error else ""
            name = f"{self._visit.name}[{index}]"
            words = f"{item.outcome or 'not finished'}{why}"
            found.append(row(f"  {self._visit.part(name)}, {inert(name)}"))
            found += [row(f"      {piece}") for piece in pieces(words, self._width - 6)]
            for label, value in (("inputs", item.inputs), ("outputs", item.outputs)):
                found += [row(f"  {t}" if t else t, m) for [(t, m)] in self._value(label, value)]
        return found

    def _jobs(self) -> list[Line]:
        """The batch jobs: how each is, when it ran, and where its log is."""
        found: list[Line] = []
        for job in self._visit.jobs:
            where = f", {self._visit.part(job.step)}" if job.step.endswith("]") else ""
            found.append(row(f"  job {inert(job.job, 60)} of {inert(job.scheduler, 20)}{where}"))
            for label, text in _job_rows(job, self._folder):
                for i, piece in enumerate(pieces(inert(text, 1000), self._width - 16)):
                    found.append([(f"    {label if i == 0 else '':10}", "dim"), (piece, "")])
        return found

    def _calls(self) -> list[Line]:
        found: list[Line] = []
        for number, call in enumerate(self._visit.calls, 1):
            found += [self._call_head(number, call), *self._call_body(call)]
        return found

    def _call_head(self, number: int, call: CallMade) -> Line:
        where = f", {self._visit.part(call.step)}" if call.step.endswith("]") else ""
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
            found += self._block("arguments", dict(call.arguments), 4)
        result = self._results.get(call.key or "") if call.came_back else None
        if result is not None:
            return [*found, *self._block("result", said(result), 4)]
        if call.text:
            label = "result" if len(call.text) < SHORT_TEXT else "result, its beginning"
            found += self._block(label, _parsed(call.text), 4)
        return found

    def _questions(self) -> list[Line]:
        found: list[Line] = []
        for asked in self._visit.questions:
            lines = [each for line in _question(asked) for each in pieces(line, self._width - 4)]
            found += self._lines("asked", lines)
        return found

    def _tables(self) -> list[Line]:
        found: list[Line] = []
        for title, rows in self._visit.tables.items():
            found += table_lines(title, rows, self._width)
        return found


def _error_of(folder: RunRecord, item: Item) -> str:
    """What went wrong with an item: what happened, rather than only what shows it."""
    from fractale.record.history_values import resolve

    outputs = resolve(folder, item.outputs)
    error = cast("dict[str, Any]", outputs).get("error") if isinstance(outputs, dict) else None
    return str(error or item.error)


def _job_rows(job: JobMade, folder: RunRecord) -> list[tuple[str, str]]:
    waits = ended = ""
    if job.started and job.submitted:
        waits = f", waited {seconds(max(0.0, job.started - job.submitted))}"
    if job.ended and job.started:
        ended = f" to {exactly(job.ended)}, ran {seconds(max(0.0, job.ended - job.started))}"
    rows = [
        ("state", f"{job.state}: {job.reason}" if job.reason else job.state),
        ("nodes", ", ".join(job.nodes)),
        ("submitted", f"{exactly(job.submitted)}{waits}" if job.submitted else ""),
        ("started", f"{exactly(job.started)}{ended}" if job.started else ""),
        ("key", job.key),
        ("log", f"fractale logs {folder.run_id} {shlex.quote(job.step)}"),
    ]
    return [(label, text) for label, text in rows if text]


def decided_by(visit: Visit) -> str:
    """The evidence that decided a visit's outcome, with its reason: ``exit_code: …``."""
    if visit.decided_by == "rule" or not visit.decided_by:
        return visit.reason
    reason = visit.reason or ("no error found" if visit.decided_by == "default" else "")
    return f"{visit.decided_by}: {reason}" if reason else visit.decided_by


def _question(asked: Asked) -> list[str]:
    try:
        lines = question_text(asked.question)[:-1]
    except KeyError:  # a kind that this fractale does not know
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
