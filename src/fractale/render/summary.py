"""The verdict on a run: its outcome, the evidence, outputs, and the commands to type next.

`verdict` has the words as data, for every face that shows runs: a terminal, a page, a file, a
notification. `summary` prints them on a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from fractale.plan.paths import without_indexes
from fractale.questions import is_job, is_timer, needs_no_answer, tool_of
from fractale.questions.forms import properties_of
from fractale.questions.kinds import expected, form_of
from fractale.record.verdict import (
    OUTCOMES,
    VerdictHead,
    last_error,
    only_job,
    step_failed,
    verdict_head,
    without_last_line,
)
from fractale.render.phrases import as_json, job_text, timer_text
from fractale.render.questions import (
    arguments_lines,
    asked_lines,
    asker,
    changed_words,
    choices_lines,
    cost_lines,
    default_line,
    due_line,
    exact,
    field_lines,
)
from fractale.render.text import (
    Line,
    Mark,
    cells,
    clock,
    count,
    entries,
    fit,
    fold,
    inert,
    narrowed,
    pad,
    paint,
    row,
    shorten_path,
    table,
)
from fractale.runs.result import answer_commands, resume_command

if TYPE_CHECKING:
    from fractale.record.history import RunHistory

WIDTH = 100
ROOM = WIDTH - 16
"""The columns of a text beside its label, where the terminal has as many or its width is unknown.
"""
LEAST_ROOM = 20
BLOCK_LINES = 10
LIST_LINES = 24
"""The most lines of a list of texts, such as the rows of a table, which users read as a whole."""
ANSWER, ANSWER_LINES = "answer", 200
"""The name of the output of `fractale prompt` and `fractale agent`, and its most lines."""
MOST_QUESTIONS = 20
MOST_REASON = 300
MOST_NOTICES = 8
MOST_STEPS = 3
"""The most steps that the verdict on a running run names."""
MOST_ITEMS = 4
"""The most jobs of a step's items that are listed; more jobs are counted."""
JOB_STATES = {"running": "running", "pending": "waiting", "held": "not submitted yet"}
STATES: dict[str, tuple[str, Mark]] = {
    "success": ("success", "good"),
    "failed": ("failed", "bad"),
    "waiting": ("waiting", "warn"),
    "limit": (OUTCOMES["limit"], "warn"),
    "stopped": ("stopped", "warn"),
    "running": ("running", "now"),
}
"""The status of a run, as in the list of runs: how it is named, and its mark."""
NO_BREAKS = 10_000
"""A `room` for faces that break lines themselves: each text is one line."""

About: TypeAlias = Literal["why", "notice", "question", "output", "to do", "used", "record", "next"]
"""The subject of a row of a verdict."""


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A label and the lines beside it. Control characters are escaped; nothing is markup."""

    label: str
    lines: tuple[str, ...]
    about: About


@dataclass(frozen=True, slots=True)
class Verdict:
    """What people read first about a run.

    Args:
        words: The outcome, such as ``failed``.
        mark: Its color.
        why: Who decided it, or what it waits for; may be empty.
        joint: The text between the two.
        rows: In the order in which people read them.
    """

    words: str
    mark: Mark
    why: str
    rows: tuple[VerdictRow, ...] = ()
    joint: str = " · "

    @property
    def head(self) -> str:
        """The verdict in one line: ``failed · step `run` failed 3 of 3 attempts``."""
        return VerdictHead(self.words, self.why, self.joint).text

    def lines(self) -> list[Line]:
        """The verdict on a terminal, the labels in one column."""
        most = max([cells(row.label) for row in self.rows] + [0])
        found: list[Line] = [[(self.words, self.mark), (self.head.removeprefix(self.words), "")]]
        for each in self.rows:
            for i, text in enumerate(each.lines):
                found.append(row(f"  {pad(each.label if i == 0 else '', most)}  {text}"))
        return found


def verdict(run_finished_data: Mapping[str, Any], room: int = ROOM) -> Verdict:
    """The verdict on a run that has ended or waits.

    Args:
        run_finished_data: The fields of the event `run_finished`.
        room: Columns of a line beside its label; `NO_BREAKS` breaks none.
    """
    head = verdict_head(run_finished_data)
    status = str(run_finished_data.get("status") or "failed")
    mark: Mark = STATES[status][1] if status in STATES else "warn"
    rows = tuple(_rows(run_finished_data, room))
    return Verdict(head.words, mark, head.why, rows, head.joint)


def why_in_short(run_finished_data: Mapping[str, Any]) -> str:
    """Why a run did not succeed, in a line: its last error, else what its verdict says."""
    found = verdict(run_finished_data, NO_BREAKS)
    rows = {each.label: each.lines[0] for each in found.rows if each.lines}
    error = rows.get("last error") or str(run_finished_data.get("error") or "")
    return inert(error or found.why, MOST_REASON)


def history_verdict(history: RunHistory, room: int = ROOM) -> Verdict:
    """The verdict on a run by its record, also if it is running or was killed.

    Args:
        room: Columns of a line beside its label; `NO_BREAKS` breaks none.
    """
    if not history.alive and history.processes and history.processes[-1].status:
        return verdict(history.result, room)
    used = usage_text(history.usage)
    if history.alive:
        why = " · ".join(filter(None, (_at(history), used)))
        return Verdict(*STATES["running"], why, tuple(_open_questions(history, room)))
    why = "its process was killed, or the machine stopped"
    record = inert(shorten_path(str(history.record.path)))
    rows = [_row("used", [used], "used")] if used else []
    rows += [_row("record", [record], "record")]
    rows += [_row("next", [resume_command(history.run)], "next")]
    return Verdict(*STATES["stopped"], why, tuple(rows))


def _at(history: RunHistory) -> str:
    """The steps that a run is at: ``at `tune` and `wait```."""
    going = [attempt for attempt in history.attempts if attempt.outcome is None]
    inner = [each for each in going if not any(other.parent is each for other in going)]
    paths = [f"`{inert(path, 60)}`" for path in dict.fromkeys(each.path for each in inner)]
    if len(paths) > MOST_STEPS:
        paths[MOST_STEPS:] = [f"{len(paths) - MOST_STEPS} more"]
    first = ", ".join(paths[:-1])
    return f"at {first}{' and ' if first else ''}{paths[-1]}" if paths else ""


def _open_questions(history: RunHistory, room: int) -> list[VerdictRow]:
    """The questions that a running process asks, and the commands that answer them."""
    questions = [{**asked.question, "step": asked.step} for asked in history.open_questions]
    rows = _waiting_rows(questions, room)
    if len(questions) == 1:
        commands = answer_commands(history.run, questions[0])
    else:
        commands = [f"fractale answer {history.run}"] if questions else []
    return [*rows, *([_row("next", map(inert, commands), "next")] if commands else [])]


def _row(label: str, lines: Iterable[str], about: About) -> VerdictRow:
    return VerdictRow(label, tuple(lines), about)


def summary(run_finished_data: Mapping[str, Any], *, color: bool, width: int | None = None) -> str:
    """The end block of a run, as text.

    Args:
        run_finished_data: The fields of the event `run_finished`.
        color: Whether to mark the outcome by an ANSI color.
        width: The terminal's columns; None without a terminal.
    """
    return text_of(lambda room: verdict(run_finished_data, room), color=color, width=width)


def text_of(made: Callable[[int], Verdict], *, color: bool, width: int | None = None) -> str:
    """A verdict as text; its lines are broken at the terminal's width, and not also before.

    Args:
        made: Makes the verdict for a number of columns, as `verdict` and `history_verdict` do.
    """
    found = made(ROOM)
    most = max([cells(row.label) for row in found.rows] + [0])
    if width is not None and (room := max(width - most - 4, LEAST_ROOM)) < ROOM:
        found = made(room)
    lines = narrowed(found.lines(), width)
    return "\n".join(paint(line, color=color) for line in lines) + "\n"


def _rows(data: Mapping[str, Any], room: int) -> list[VerdictRow]:
    """Labels and the lines beside them, which have at most `room` columns as far as possible."""
    rows: list[VerdictRow] = []
    if data.get("status") == "failed":
        rows += _failure_rows(data, room)
    hidden = data.get("status") != "success"
    notices = [n for n in entries(data, "notices") if n.get("handler") or not hidden]
    rows += _notice_rows(notices, room)
    rows += _waiting_rows(entries(data, "waiting"), room)
    files = table(data, "output_files")
    for name, value in table(data, "outputs").items():
        most = ANSWER_LINES if name == ANSWER else 0
        text = value_text(value, files.get(name), most, room)
        rows.append(_row(inert(str(name), 40), text, "output"))
    if left_out := data.get("left_out"):
        names = ", ".join(f"`{inert(str(name), 40)}`" for name in left_out)
        rows.append(_row("no output", _folded(names, room, 4), "output"))
    return rows + _closing_rows(data, room)


def _folded(text: str, room: int, most: int | None = None) -> list[str]:
    """A text broken into lines of `room` columns.

    Args:
        most: The most lines of `ROOM` columns. Shorter lines may be more.
    """
    return fold(text, room, None if most is None else math.ceil(most * ROOM / room))


def _waiting_rows(waiting: list[dict[str, Any]], room: int) -> list[VerdictRow]:
    listed = [
        (str(one.get("step") or "?"), question_text(one, room))
        for one in waiting
        if not needs_no_answer(one)
    ]
    for path, timers in _by_step(filter(is_timer, waiting)).items():
        first = min(timers, key=lambda each: table(each, "due").get("until") or math.inf)
        named = path if len(timers) > 1 else str(first.get("step") or "?")
        more = f"{count(len(timers), 'item')}; the first " if len(timers) > 1 else ""
        listed.append((named, [more + timer_text(first)]))
    for path, jobs in _by_step(filter(is_job, waiting)).items():
        if len(jobs) > MOST_ITEMS:
            listed.append((path, _jobs_text(jobs)))
        else:
            listed += [(str(job.get("step") or "?"), question_text(job)) for job in jobs]
    rows = [_row(inert(step, 40), text, "question") for step, text in listed[:MOST_QUESTIONS]]
    more = len(listed) - MOST_QUESTIONS
    return [*rows, _row("…", [count(more, "more question")], "question")] if more > 0 else rows


def _by_step(waiting: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Jobs or times by the step that waits for them, the items of a foreach together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in waiting:
        groups.setdefault(without_indexes(str(one.get("step") or "?")), []).append(one)
    return groups


def _jobs_text(jobs: list[dict[str, Any]]) -> list[str]:
    """The number of jobs in each state, and one job of each."""
    states: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        states.setdefault(str(job.get("state") or "unknown"), []).append(job)
    known = [*JOB_STATES, *sorted(states.keys() - JOB_STATES.keys())]
    counts = [f"{len(states[s]):,} {JOB_STATES.get(s, s)}" for s in known if s in states]
    first = [line for each in states.values() for line in job_text(each[0])]
    return [f"{count(len(jobs), 'job')}: {', '.join(counts)}", *(f"  {line}" for line in first)]


def _failure_rows(data: Mapping[str, Any], room: int) -> list[VerdictRow]:
    decided = table(data, "decided")
    by, reason = (inert(str(decided.get(name) or ""), 600) for name in ("by", "reason"))
    error = inert(last_error(data), 600)
    rows: list[VerdictRow] = []
    if by == "agent":  # the first line has the reason
        return []
    jobs = entries(decided, "jobs")
    if only_job(data):
        error = ""
    elif len(jobs) == 1:
        error = without_last_line(error)
    if error and (decided.get("gave_up") or step_failed(data)):
        rows.append(_row("last error", _folded(error, room, 6), "why"))
    if by and step_failed(data) and not (by == "rule" and reason == error):
        same = not reason or reason in error
        shown = f"{by} ({reason})" if by == "exit_code" else f"{by}: {reason}"
        words = reason if by == "rule" else by if same else shown
        rows.append(_row("decided by", _folded(words, room, 4), "why"))
    return rows + [_log_row(job, named=len(jobs) > 1) for job in jobs if job.get("log")]


def _log_row(job: Mapping[str, Any], *, named: bool) -> VerdictRow:
    """The path of a failed job's log, and its last lines.

    Args:
        named: Whether to name the job's step, since several jobs failed.
    """
    step = f"{inert(str(job['step']), 60)}: " if named else ""
    last = inert(str(job.get("last_lines") or ""), lines=True).split("\n")
    lines = [fit(line, WIDTH - 18) for line in last if line.strip()]
    path = step + inert(shorten_path(str(job["log"])))
    return _row("log", [path, *(f"  {line}" for line in lines)], "why")


def _notice_rows(notices: list[dict[str, Any]], room: int) -> list[VerdictRow]:
    """The losses and warnings of the steps, and failures inside of steps that kept running."""
    rows: list[VerdictRow] = []
    for kind in ("failed", "lost", "warning"):
        texts = [
            f"{inert(str(n.get('step')), 60)}: {inert(str(n.get('message')), 600)}"
            for n in notices
            if n.get("kind") == kind
        ]
        lines = [line for text in texts[:MOST_NOTICES] for line in _folded(text, room, 3)]
        more = len(texts) - MOST_NOTICES
        lines += [f"… {more} more"] if more > 0 else []
        rows += [_row(kind, lines, "notice")] if lines else []
    return rows


def _closing_rows(data: Mapping[str, Any], room: int) -> list[VerdictRow]:
    rows: list[VerdictRow] = []
    if hint := data.get("hint"):
        rows.append(_row("to do", _folded(inert(str(hint), 600), room, 6), "to do"))
    if used := usage_text(data.get("usage") or {}):
        rows.append(_row("used", [used], "used"))
    if record := data.get("record"):
        rows.append(_row("record", [inert(shorten_path(str(record)))], "record"))
    if commands := data.get("next"):
        rows.append(_row("next", [_next(str(each), data) for each in commands], "next"))
    return rows


def _next(command: str, data: Mapping[str, Any]) -> str:
    """A command to type next; for `fractale cancel`, with what else it does."""
    if not (data.get("finally_due") and command.startswith("fractale cancel ")):
        return inert(command)
    return f"{inert(command)}    runs its `finally` steps"


def usage_text(usage: Mapping[str, Any]) -> str:
    """Time, jobs' time, tokens and cost: ``0:08 · jobs ran 0:05, waited 0:01 · 2,514 tokens``."""
    ran = usage.get("elapsed") or usage.get("seconds")
    parts = [clock(float(ran))] if ran else []
    if "job_seconds" in usage:
        computed, waited = (clock(float(usage[f"{k}_seconds"])) for k in ("job", "queue"))
        parts.append(f"jobs ran {computed}, waited {waited}")
    if tokens := usage.get("total_tokens"):
        parts.append(count(int(tokens), "token"))
    if cost := usage.get("cost"):
        parts.append(f"${float(cost):.3f}")
    parts += [
        f"{float(amount):.4g} {noun}"
        for name, noun in HOURS.items()
        if (amount := usage.get(name)) and float(amount) >= LEAST_HOURS
    ]
    if jobs := usage.get("jobs"):
        parts.append(count(int(jobs), "job"))
    return " · ".join(parts)


HOURS = {"node_hours": "node-hours", "gpu_hours": "GPU-hours"}
LEAST_HOURS = 0.0005
"""The least node-hours or GPU-hours that are shown; ``--json`` also has smaller values."""


def value_text(value: Any, path: str | None = None, most: int = 0, room: int = ROOM) -> list[str]:
    """An output: a short one in full, a long text as its size and file.

    Args:
        path: A file with the value.
        most: The most lines of a long text to show before its size and file.
        room: The columns of a line.
    """
    if isinstance(value, list) and value:
        items = cast("list[Any]", value)
        if all(isinstance(item, str) for item in items):
            rows = [row for item in items for row in inert(item, lines=True).split("\n")]
            return _block([line for row in rows for line in _kept(row, room)], LIST_LINES, room)
    if not isinstance(value, str):
        value = as_json(value)
    lines = inert(value.strip("\n"), 20_000, lines=True).split("\n")
    if len(lines) == 1 and cells(lines[0]) <= 4 * ROOM:
        return fold(lines[0], room)
    if most:
        lines = [part for line in lines for part in _kept(line, room)]
    if path and len(lines) > most:
        size = count(value.strip("\n").count("\n") + 1, "line")
        return [*lines[:most], f"{'… ' if most else ''}{size}, {inert(shorten_path(path))}"]
    return _block(lines, max(most, BLOCK_LINES), room)


def _kept(line: str, room: int) -> list[str]:
    """The line unchanged, as for the row of a table; folded if it is too long."""
    return [line.rstrip()] if cells(line) <= room else fold(line, room)


def _block(lines: list[str], most: int, room: int) -> list[str]:
    if len(lines) == 1:
        return _folded(lines[0], room, most)
    more = len(lines) - most
    return [*lines[:most], *([f"… {count(more, 'more line')}"] if more > 0 else [])]


def question_text(question: Mapping[str, Any], room: int = ROOM) -> list[str]:
    """A question with its valid answers; for a job or a time that a run waits for, its state."""
    kind = str(question.get("kind") or "")
    if is_job(question):
        return job_text(question)
    if is_timer(question):
        return [timer_text(question)]
    try:
        asked = _SAID[kind](question, room) if kind in _SAID else _ASKED[kind](question)
        return [*asked, f"answer with: {inert(expected(question), 400)}"]
    except (KeyError, TypeError, ValueError, AttributeError):  # of another version of fractale
        return [inert(as_json(question), 1000), "answer with: see the documentation of the plan"]


def _approval_text(question: Mapping[str, Any]) -> list[str]:
    why = f"   ({inert(str(question['why']), 200)})" if question.get("why") else ""
    arguments = [*arguments_lines(table(question, "arguments")), *cost_lines(question)]
    return [f"wants to call {exact(tool_of(question))}{why}", *_indented(arguments)]


def _question_text(question: Mapping[str, Any], room: int) -> list[str]:
    below = [*choices_lines(question), *default_line(question)]
    if form := form_of(question):
        below += [line for name in properties_of(form) for line in field_lines(name, form)]
    below += due_line(question)
    return [*_said(question["text"], room), *(f" {line}" for line in below)]


def _review_text(question: Mapping[str, Any]) -> list[str]:
    plan = exact(str(question["plan"])).rstrip("\n").split("\n")
    return [f"has drafted a plan (draft {question['round']})", *_indented(plan)]


def _elicitation_text(question: Mapping[str, Any], room: int) -> list[str]:
    schema = table(question, "schema")
    fields = [line for name in properties_of(schema) for line in field_lines(name, schema)]
    server = inert(str(question["server"]), 80)
    return [f"the server {server} asks:", *_said(question["message"], room), *_indented(fields)]


def _in_doubt_text(question: Mapping[str, Any]) -> list[str]:
    tool = exact(tool_of(question))
    arguments = arguments_lines(table(question, "arguments"))
    return [
        f"was killed while it called {tool}: the call may or may not have run",
        *_indented(arguments),
    ]


def _tool_changed_text(question: Mapping[str, Any]) -> list[str]:
    lines = exact(str(question["diff"])).rstrip("\n").split("\n")
    return [f"{changed_words(question)} since you approved it:", *_indented(lines)]


def _job_unknown_text(question: Mapping[str, Any], room: int) -> list[str]:
    job = inert(str(question["job"]), 40)
    named = f"its job {job}" if job else "its job, which may not have been submitted,"
    rows = [f"the outcome of {named} is unknown:", *_said(question["reason"], room)]
    directory = str(question.get("folder") or "")
    return [*rows, *([f"  see {inert(shorten_path(directory))}"] if directory else [])]


def _failure_text(question: Mapping[str, Any], room: int) -> list[str]:
    return ["failed:", *_said(question.get("error") or "", room)]


def _interrupt_text(question: Mapping[str, Any]) -> list[str]:
    return [f"{asker(question)} asks:", *_indented(asked_lines(question))]


def _said(text: Any, room: int) -> list[str]:
    rows = inert(str(text).strip(), lines=True).split("\n")
    return [words for line in rows for words in fold(line, room)]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


_ASKED: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "approval": _approval_text,
    "review": _review_text,
    "in_doubt": _in_doubt_text,
    "tool_changed": _tool_changed_text,
    "interrupt": _interrupt_text,
}
_SAID: dict[str, Callable[[Mapping[str, Any], int], list[str]]] = {
    "question": _question_text,
    "elicitation": _elicitation_text,
    "job_unknown": _job_unknown_text,
    "failure": _failure_text,
}
"""The kinds with a text of their own, which is broken to fit."""
