"""One step of a run, as lines: every attempt with its inputs, calls, results and decision."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from fractale.events import SHORT_TEXT
from fractale.render.phrases import as_json, ordinal, taken_over, target_of
from fractale.render.questions import exact
from fractale.render.run_view import MARKS
from fractale.render.summary import question_text
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
    table_lines,
)
from fractale.render.timeline import end_of_call

if TYPE_CHECKING:
    from fractale.record.history import (
        RecordedAttempt,
        RecordedCall,
        RecordedItem,
        RecordedJob,
        RecordedQuestion,
        RunHistory,
    )
    from fractale.store.run_record import RunRecord

WIDTH = 100
UNBOUND = 2**31
LINES, COLUMNS, NAME_MOST = 12, 400, 24
"""The most lines of a long value that are shown, and columns of a line and of a name."""

MOMENTS = ("submitted", "started", "ended", "since", "began", "deadline")
"""Keys of a job's times, in Unix time."""
LONG_AGO = 1e9
"""A Unix time in seconds; a smaller number under a key of `MOMENTS` is not a time."""


def step_lines(
    history: RunHistory,
    step: str,
    attempts: Sequence[RecordedAttempt],
    *,
    full: bool = False,
    width: int = WIDTH,
    wrap: bool = True,
) -> list[Line]:
    """Every attempt of a step.

    Args:
        full: Whether to show long values in full.
        width: Columns of a line. Values shown in full are broken into such lines only on a
            terminal (`wrap`).
    """
    from fractale.record.history import results_of

    calls = [call for attempt in attempts for call in attempt.calls]
    results = results_of(history.record, calls)
    about = f"   run {history.run} · {count(len(attempts), 'attempt')}"
    lines: list[Line] = [[(inert(step), ""), (about, "dim")]]
    for attempt in attempts:
        lines += [
            row(""),
            *_AttemptLines(history, attempt, results, full=full, width=width, wrap=wrap).lines(),
        ]
    return lines


class _AttemptLines:
    def __init__(
        self,
        history: RunHistory,
        attempt: RecordedAttempt,
        results: Mapping[str, Any],
        *,
        full: bool,
        width: int,
        wrap: bool,
    ) -> None:
        self._width = width
        self._values_width = width if wrap else UNBOUND
        self._history = history
        self._record = history.record
        self._attempt = attempt
        self._results = results
        self._full = full

    def lines(self) -> list[Line]:
        return [
            *self._head(),
            *self._value("inputs", self._attempt.inputs),
            *self._items(),
            *self._jobs(),
            *self._calls(),
            *self._questions(),
            *self._tables(),
            *self._outputs(),
        ]

    @property
    def _outputs_label(self) -> str:
        return "outputs (cut short in this record)" if self._attempt.outputs_cut else "outputs"

    def _head(self) -> list[Line]:
        attempt = self._attempt
        mark: tuple[str, Mark] = ("", MARKS.get(attempt.outcome or "running", MARKS["failure"])[2])
        kind = (
            f"{attempt.kind} {inert(target_of({'target': attempt.target, 'type': attempt.kind}))}"
        )
        words = inert(f"{attempt.path} · {ordinal(attempt.number)} attempt · {kind.strip()}")
        outcome = attempt.outcome or "not finished"
        lines: list[Line] = [[(outcome, mark[1]), (f"   {words}", "")]]
        for label, text in self._rows():
            for i, part in enumerate(fold(inert(text, 4000), self._width - 16, 20)):
                lines.append([(f"  {label if i == 0 else '':12}", "dim"), (part, "")])
        return lines

    def _rows(self) -> list[tuple[str, str]]:
        attempt = self._attempt
        came = f", from {attempt.previous}" if attempt.previous else ""
        took = f", took {seconds(attempt.seconds)}" if attempt.seconds is not None else ""
        resumed = attempt.enterings - 1
        again = f", resumed {count(resumed, 'time')}" if resumed else ""
        used = f"{attempt.tokens:,} tokens" + (f", ${attempt.cost:.4f}" if attempt.cost else "")
        rows = [
            ("purpose", attempt.description),
            ("started", f"{exactly(attempt.started)}{came}{took}{again}"),
            ("taken over", source_of(attempt)),
            ("decided by", decided_by(attempt)),
            ("event", attempt.event if attempt.event not in (attempt.outcome, None) else ""),
            ("error", attempt.error if attempt.error != attempt.reason else ""),
            ("led to", attempt.next),
            ("used", used if attempt.tokens else ""),
            *(("warning", note.message) for note in attempt.warnings),
        ]
        return [(label, text) for label, text in rows if text]

    def _value(self, label: str, value: Any) -> list[Line]:
        from fractale.record.history import resolve

        if value is None or value == {}:
            return []
        return self._block(label, resolve(self._record, value))

    def _outputs(self) -> list[Line]:
        if self._attempt.items and not self._full and not self._attempt.outputs_cut:
            parts = "elements" if self._attempt.is_array else "items"
            return [row(f"  outputs  a list of those of the {parts} above", "dim")]
        return self._value(self._outputs_label, self._attempt.outputs)

    def _block(self, label: str, value: Any, indent: int = 2) -> list[Line]:
        lines = _value_lines(value, full=self._full, width=self._values_width - indent - 2)
        return self._lines(label, lines, indent)

    def _lines(self, label: str, lines: Sequence[str], indent: int = 2) -> list[Line]:
        space = " " * indent
        return [row(f"{space}{label}", "dim"), *(row(f"{space}  {line}") for line in lines)]

    def _items(self) -> list[Line]:
        found: list[Line] = []
        for index, item in sorted(self._attempt.items.items()):
            why = f": {inert(_error_of(self._record, item), 300)}" if item.error else ""
            name = f"{self._attempt.name}[{index}]"
            source = f", {taken_over(item.reused)}" if item.reused else ""
            words = f"{item.outcome or 'not finished'}{why}{source}"
            found.append(row(f"  {self._attempt.part(name)}, {inert(name)}"))
            found += [row(f"      {piece}") for piece in _pieces(words, self._width - 6)]
            for label, value in (("inputs", item.inputs), ("outputs", item.outputs)):
                found += [row(f"  {t}" if t else t, m) for [(t, m)] in self._value(label, value)]
        return found

    def _jobs(self) -> list[Line]:
        """The batch jobs: state, times, and the command that shows the log."""
        found: list[Line] = []
        for job in self._attempt.jobs:
            where = f", {self._attempt.part(job.step)}" if job.step.endswith("]") else ""
            found.append(row(f"  job {inert(job.job, 60)} of {inert(job.scheduler, 20)}{where}"))
            for label, text in job_rows(job, self._record):
                for i, piece in enumerate(_pieces(inert(text, 1000), self._width - 16)):
                    found.append([(f"    {label if i == 0 else '':10}", "dim"), (piece, "")])
        return found

    def _calls(self) -> list[Line]:
        found: list[Line] = []
        for number, call in enumerate(self._attempt.calls, 1):
            found += [self._call_head(number, call), *self._call_body(call)]
        return found

    def _call_head(self, number: int, call: RecordedCall) -> Line:
        where = f", {self._attempt.part(call.step)}" if call.step.endswith("]") else ""
        by = f", by {inert(call.agent, 80)}" if call.agent else ""
        end = end_of_call(self._history, self._attempt, call)
        used = call.input_tokens + call.output_tokens
        usage = f" · {used:,} tokens" if used else ""
        usage += f" · ${call.cost:.4f}" if call.cost else ""
        words = f"  call {number}  {call.kind} {inert(call.name)}{by}{where} · {end}{usage}"
        return [(words, ""), ("  failed" if call.is_error else "", "bad")]

    def _call_body(self, call: RecordedCall) -> list[Line]:
        found: list[Line] = []
        if call.arguments:
            found += self._block("arguments", dict(call.arguments), 4)
        result = self._results.get(call.key or "") if call.came_back else None
        if result is not None:
            return [*found, *self._block("result", said(result), 4)]
        if call.text:
            label = "result" if len(call.text) < SHORT_TEXT else "result (beginning)"
            found += self._block(label, _parsed(call.text), 4)
        return found

    def _questions(self) -> list[Line]:
        found: list[Line] = []
        for asked in self._attempt.questions:
            lines = [each for line in _question(asked) for each in _pieces(line, self._width - 4)]
            found += self._lines("asked", lines)
        return found

    def _tables(self) -> list[Line]:
        found: list[Line] = []
        for title, rows in self._attempt.tables.items():
            found += table_lines(title, rows, self._width)
        return found


def _error_of(record: RunRecord, item: RecordedItem) -> str:
    """The error of an item; an error in its outputs comes first."""
    from fractale.record.history import resolve

    outputs = resolve(record, item.outputs)
    error = cast("dict[str, Any]", outputs).get("error") if isinstance(outputs, dict) else None
    return str(error or item.error)


def job_rows(job: RecordedJob, record: RunRecord) -> list[tuple[str, str]]:
    """Labels and texts about a batch job: its state, nodes, times, key and log."""
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
        ("log", f"fractale logs {record.run_id} {shlex.quote(job.step)}"),
    ]
    return [(label, text) for label, text in rows if text]


def source_of(attempt: RecordedAttempt) -> str:
    """The step whose result an attempt took over; empty if it made its own call."""
    source = attempt.reused
    return f"from step `{source['step']}` of run {source['run']}" if source else ""


def decided_by(attempt: RecordedAttempt) -> str:
    """The evidence that decided an attempt's outcome, with its reason: ``exit_code: …``."""
    if attempt.decided_by == "rule" or not attempt.decided_by:
        return attempt.reason
    if attempt.decided_by == "default" and not attempt.reason:
        return "default (no rule, error or exit code applied)"
    return f"{attempt.decided_by}: {attempt.reason}" if attempt.reason else attempt.decided_by


def _question(asked: RecordedQuestion) -> list[str]:
    lines = question_text(asked.question)[:-1]
    if not asked.answered:
        return [*lines, "waiting for an answer"]
    answer = exact(as_json(asked.answer))
    return [
        *lines,
        f"answer: {answer}   (by {inert(asked.answered_by, 100)}, {exactly(asked.answered_at)})",
    ]


def said(result: Any) -> Any:
    """The content of a recorded result: a tool's data or text, a model's text and calls."""
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
    """The value of a text that is a JSON object; otherwise the text."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


# -- values -------------------------------------------------------------------------------------


def _value_lines(value: Any, *, full: bool = False, width: int = WIDTH) -> list[str]:
    """A value with one line per key, and texts of several lines as blocks.

    Times of jobs are shown as dates and durations, but JSON output has the numbers.

    Args:
        full: Whether to show long values in full.
    """
    if isinstance(value, dict) and value:
        return _table_lines(cast("dict[str, Any]", value), full=full, width=width)
    return [piece for line in _shown(value, full=full) for piece in _pieces(line, width)]


def _table_lines(table: Mapping[str, Any], *, full: bool, width: int) -> list[str]:
    names = {key: inert(key, 60) for key in table}
    column = min(max(cells(name) for name in names.values()), NAME_MOST)
    lines: list[str] = []
    for key, value in table.items():
        first, *rest = _shown(timed(key, value), full=full)
        if rest:
            block = [piece for line in (first, *rest) for piece in _pieces(line, width - 4)]
            lines += [names[key], *(f"  │ {line}" for line in block)]
            continue
        name = pad(names[key], column)
        begin, *more = _pieces(first, width - cells(name) - 2)
        lines += [f"{name}  {begin}", *(" " * (cells(name) + 2) + piece for piece in more)]
    return lines


def timed(key: str, value: Any) -> Any:
    """A value; a job's time, recognized by its key and size, becomes a date or duration."""
    if isinstance(value, dict):
        moment = cast("dict[str, Any]", value)
        return timed(key, moment["wall"]) if "boot_id" in moment and "wall" in moment else moment
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if key in MOMENTS and value > LONG_AGO:
        return exactly(value)
    return seconds(value) if key == "seconds" and isinstance(value, float) else value


def _pieces(line: str, width: int) -> list[str]:
    """The line in pieces of at most `width` columns, cut at blanks if possible."""
    width, found = max(width, 20), list[str]()
    while cells(line) > width:
        end, used = 0, 0
        while end < len(line) and used + cells(line[end]) <= width:
            used += cells(line[end])
            end += 1
        blank = line.rfind(" ", 0, end) + 1
        end = blank if blank > end // 2 else max(end, 1)
        found.append(line[:end].rstrip(" "))
        line = line[end:]
    return [*found, line] if line or not found else found


def _shown(value: Any, *, full: bool) -> list[str]:
    if isinstance(value, str):
        lines = exact(value.rstrip("\n")).split("\n")
    else:
        lines = exact(as_json(value)).split("\n")
    if full:
        return lines
    more = len(lines) - LINES
    shown = [fit(line, COLUMNS) for line in lines[:LINES]]
    return [*shown, f"… {more} more lines, with --full"] if more > 0 else shown
