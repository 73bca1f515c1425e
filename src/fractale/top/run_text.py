"""One run as lines: verdict, questions, where it is now, where it went, what it cost, what next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fractale.errors import FractaleError
from fractale.jobs.logs import LONGEST_TAIL, read_tail
from fractale.record.history import RunHistory
from fractale.record.jobs import RunJob, jobs_of
from fractale.render.questions import exact
from fractale.render.run_view import Running
from fractale.render.summary import Verdict, history_verdict, question_text
from fractale.render.text import (
    Line,
    cells,
    clock,
    count,
    fit,
    fold,
    inert,
    narrowed,
    pad,
    plain,
    row,
    shorten_path,
)
from fractale.render.timeline import head_lines, run_lines
from fractale.top.letters import Letters
from fractale.top.overview import FollowedRun

MOST_ATTEMPTS: Final = 300
"""The latest attempts that are listed; ``fractale show`` lists all."""
WRITTEN_LINES: Final = 6
LOG_LINES: Final = 5
"""The last lines of a model's text and of a log, below the step in progress."""
MOST_ACTIVE: Final = 12
QUESTION_LINES: Final = 12
LABEL: Final = 10


@dataclass(slots=True)
class RunText:
    """The lines of one run, made again only as far as something changed."""

    letters: Letters
    _made_for: tuple[Any, ...] = ()
    _path: tuple[Line, ...] = ()

    def lines(self, run: FollowedRun, width: int, now: float) -> list[Line]:
        """The whole run.

        Args:
            now: Unix time.
        """
        verdict = history_verdict(run.history, max(width - LABEL - 6, 20))
        lines: list[Line] = [
            *head_of(verdict, width),
            *row_lines(verdict, width, ("why", "notice")),
            *question_lines(run.history, width),
            *_with_blank(now_lines(run, width, now, self.letters)),
        ]
        lines += _with_blank(self._taken(run, width))
        rest = row_lines(verdict, width, ("output", "to do", "used", "record", "next"))
        lines += _with_blank(rest)
        return [*lines, row(""), *narrowed(head_lines(run.history, width), width)]

    def _taken(self, run: FollowedRun, width: int) -> tuple[Line, ...]:
        """The way that the run took, as ``fractale show`` prints it."""
        made_for = (run.history.run, run.changed, width)
        if made_for != self._made_for:
            attempts = run.history.attempts
            history = replace(run.history, attempts=attempts[-MOST_ATTEMPTS:])
            lines = run_lines(history, unicode=self.letters.unicode, width=width)
            del lines[: len(head_lines(history, width)) + 1]
            if more := len(attempts) - len(history.attempts):
                words = f"{count(more, 'earlier attempt')}: fractale show {run.history.run}"
                lines.insert(0, row(f"  … {words}", "dim"))
            self._path, self._made_for = tuple(narrowed(lines, width)), made_for
        return self._path


def _with_blank(lines: Iterable[Line]) -> list[Line]:
    found = list(lines)
    return [row(""), *found] if found else []


def panel_lines(
    run: FollowedRun, width: int, height: int, now: float, letters: Letters
) -> list[Line]:
    """A few lines about the selected run.

    Args:
        now: Unix time.
    """
    history = run.history
    verdict = history_verdict(history, max(width - LABEL - 6, 20))
    title = f"{history.run} {inert(str(history.head.get('plan') or ''), 60)} · "
    if asked := history.open_questions:
        lines = asked_lines(asked[0].question, width)
        step = inert(asked[0].step, 60)
        first = row(f"{title}{step} {plain(lines[0]).strip()}", "warn")
        lines = [*narrowed([first], width), *lines[1:]]
        rest = row_lines(verdict, width, ("used",))
        if len(lines) + len(rest) <= height:
            return [*lines, *rest]
    else:
        parts = row_lines(verdict, width, ("why", "notice", "output", "to do", "used", "next"))
        moving = now_lines(run, width, now, letters)
        lines = [*head_of(verdict, width, title), *moving, *parts]
    if len(lines) > height:
        more = len(lines) - height + 1
        lines = [*lines[: height - 1], row(f"  … {count(more, 'more line')}", "dim")]
    return lines


def head_of(verdict: Verdict, width: int, title: str = "") -> list[Line]:
    """The verdict's first line, after a title; broken at the width."""
    (head,) = replace(verdict, rows=()).lines()
    return narrowed([[*row(title), *head]], width)


def row_lines(verdict: Verdict, width: int, about: Iterable[str]) -> list[Line]:
    """The verdict's rows of some kinds."""
    wanted = set(about)
    rows = tuple(each for each in verdict.rows if each.about in wanted)
    return narrowed(replace(verdict, rows=rows).lines()[1:], width)


def question_lines(history: RunHistory, width: int) -> list[Line]:
    """The open questions, each in short."""
    found: list[Line] = []
    for asked in history.open_questions[:MOST_ACTIVE]:
        lines = asked_lines(asked.question, width - 2)
        step = inert(asked.step, 60)
        found.append(row(""))
        found.append([("! ", "warn"), (f"{step} {plain(lines[0]).strip()}", "")])
        indent: Line = row("  ")
        found += [[*indent, *line] for line in lines[1 : QUESTION_LINES + 1]]
        if (more := len(lines) - 1 - QUESTION_LINES) > 0:
            found.append(row(f"    … {count(more, 'more line')}", "dim"))
    return found


def asked_lines(question: Mapping[str, Any], width: int) -> list[Line]:
    """A question with everything that it is about, and where untrusted arguments came from."""
    try:
        asked = question_text(question, max(width - 4, 20))
    except (KeyError, TypeError, ValueError):  # of another version of fractale
        asked = [inert(str(question.get("kind") or "?"), 60)]
    lines = [row(f"  {line}") for line in asked[:-1]] or [row(asked[0])]
    return narrowed([lines[0], *lines[1:], *origin_lines(question)], width)


def origin_lines(question: Mapping[str, Any]) -> list[Line]:
    """Where the untrusted arguments of a call came from."""
    found: list[Line] = []
    origins: Any = question.get("origins") or ()
    for origin in origins:
        sources = ", ".join(exact(str(each)) for each in origin.get("from") or ())
        words = f"    argument `{exact(str(origin.get('argument')))}` came from: {sources}"
        found.append(row(words, "warn"))
    return found


# -- now --------------------------------------------------------------------------------------


def now_lines(run: FollowedRun, width: int, now: float, letters: Letters) -> list[Line]:
    """The steps in progress: what each does, its model's text, and the end of its job's log."""
    steps = run.steps()
    lines: list[Line] = []
    for running in steps[-MOST_ACTIVE:]:
        lines += _running(run, running, width, now, letters)
    if (more := len(steps) - MOST_ACTIVE) > 0:
        lines.append(row(f"   … {count(more, 'more step')} in progress", "dim"))
    return lines


def _running(
    run: FollowedRun, running: Running, width: int, now: float, letters: Letters
) -> list[Line]:
    indent = "     "
    state = "waits for you" if running.waits else clock(max(now - running.started, 0))
    words = [running.path, running.kind, running.target, running.progress]
    head = "  ".join(inert(word, 40) for word in words if word)
    room = max(width - cells(state) - 6, 10)
    sign, mark = run.view.mark("running")
    first: Line = [(letters.own(sign), mark), (f"{pad(fit(head, room), room)}  {state}", "")]
    lines = [first]
    for text in (running.counts, "" if running.counts else running.activity):
        lines += [row(f"{indent}{part}", "dim") for part in fold(text, width - 6, 2) if part]
    said = run.written.get(running.path, "")
    rows = [part for line in inert(said, lines=True).split("\n") for part in fold(line, width - 8)]
    lines += [row(f"{indent}│ {words}") for words in rows[-WRITTEN_LINES:] if said]
    lines += _log_end(run.history, running, width)
    return lines


def _log_end(history: RunHistory, running: Running, width: int) -> list[Line]:
    """The last lines of the log of the job that a step waits for."""
    if running.kind not in ("job", "script"):
        return []
    mine = [job for job in logs_of(history) if job.step == running.path]
    if not mine:
        return []
    return [row(f"     {text}", "dim") for text in tail_lines(mine[-1].path, LOG_LINES, width - 6)]


# -- logs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedLog:
    """The log of one batch job.

    Args:
        name: The step, with the number of a later attempt.
    """

    name: str
    step: str
    path: Path


def logs_of(history: RunHistory) -> list[NamedLog]:
    """The logs of a run's jobs, in the order in which they were submitted."""
    try:
        jobs = jobs_of(history.record, history)
    except (FractaleError, OSError):
        return []
    return [NamedLog(_log_name(job), job.step, job.own_folder.log) for job in jobs]


def _log_name(job: RunJob) -> str:
    again = f", attempt {job.attempt}" if job.attempt > 1 else ""
    element = f"[{job.index}]" if job.index is not None and not job.step.endswith("]") else ""
    return f"{inert(job.step, 60)}{element}{again}"


def tail_lines(path: Path, most: int, width: int) -> list[str]:
    """The last lines of a log, escaped and broken at the width; a long line shows its end."""
    try:
        text = read_tail(path, most, LONGEST_TAIL).text
    except OSError as error:
        return [inert(f"{shorten_path(str(path))} cannot be read: {error.strerror}", 300)]
    found: list[str] = []
    for line in inert(text.rstrip("\n"), lines=True).split("\n")[-most:]:
        found += _broken(line[-most * width :], width)
    return [f"│ {line}" for line in found[-most:]] if text.strip() else []


def _broken(line: str, width: int) -> list[str]:
    """A line of a log in pieces of at most `width` columns."""
    room, pieces = max(width - 2, 8), list[str]()
    while cells(line) > room:
        end, used = 0, 0
        while used + cells(line[end]) <= room:
            used += cells(line[end])
            end += 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]
