"""A run as a page: everything that a template prints, as plain data.

The words are those of `fractale.render`, in the order of all faces: the verdict, why, where the
run is or went, what it cost, and what to do next.
"""

from __future__ import annotations

import difflib
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from fractale.durations import in_words
from fractale.errors import FractaleError
from fractale.masking import Masker
from fractale.plan.paths import without_indexes
from fractale.questions import needs_no_answer
from fractale.record.history import each_result, input_values, resolve, state_of
from fractale.record.plans import plan_file
from fractale.record.way import picture_of_run
from fractale.render.phrases import answer_text, as_json, ordinal, target_of
from fractale.render.run_view import MARKS
from fractale.render.step import decided_by, job_rows, said, source_of
from fractale.render.summary import Verdict, history_verdict, question_text
from fractale.render.text import count, exactly, inert, shorten_path
from fractale.render.timeline import end_of_call, why
from fractale.report.costs import cost_tables
from fractale.report.images import Picture, Pictures
from fractale.report.plots import TableView, table_view
from fractale.report.texts import WHOLE, Bounds, Shown, cut, entries_of, shown
from fractale.report.timeline import Timeline, anchor, step_id, timeline
from fractale.runs.result import fork_command

if TYPE_CHECKING:
    from fractale.record.history import (
        RecordedAttempt,
        RecordedCall,
        RecordedItem,
        RecordedJob,
        RecordedQuestion,
        RunHistory,
    )

NO_BREAKS: Final = 10_000
MOST_VISITS: Final = 2_000
"""The most attempts with an entry on a page."""
MOST_OPEN: Final = 8
"""The most attempts that are open at first."""
ATTENTION: Final = ("failure", "waiting", "running", "stopped")
MOST_CALLS, MOST_ITEMS, MOST_JOBS = 60, 200, 40
"""The most calls, items and jobs of one attempt."""
FEW_JOBS: Final = 2
REASON: Final = Bounds(characters=600)
STANDING: Final = {"waiting": "waits", "running": "running"}
LOG_LINES, LOG_BYTES = 24, 16_384
"""The most of the end of a job's log."""
CONTEXT_LINES: Final = 2

Rows = tuple[tuple[str, str], ...]
"""Labels and texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """One call of a tool or a model.

    Args:
        about: Who made it, how long it took, tokens and cost, and who agreed, as one line.
        part: The item of a foreach that it belongs to; empty otherwise.
        failed: Whether it failed.
    """

    number: int
    kind: str
    name: str
    about: str
    part: str
    failed: bool
    arguments: tuple[Shown, ...]
    result: tuple[Shown, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """One item of a foreach, or one element of a job array."""

    name: str
    state: str
    sign: str
    why: str
    took: str
    inputs: tuple[Shown, ...]
    calls: tuple[CallView, ...]
    outputs: tuple[Shown, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A batch job.

    Args:
        rows: State, nodes and times.
        important: Whether it is open at first: it did not complete, or is one of few.
        log: The end of its log.
        path: Of the log.
    """

    name: str
    state: str
    important: bool
    rows: Rows
    log: Shown | None
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionView:
    """A question, and its answer if there is one.

    Args:
        id: The question's; empty in old records.
        href: The id of its attempt on the page.
        lines: The exact call, text or draft, and what may be answered.
        answer: How it was answered, by whom and when; empty while it waits.
    """

    id: str
    step: str
    kind: str
    href: str
    lines: tuple[str, ...]
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitDetail:
    """Everything behind one attempt."""

    rows: Rows
    inputs: tuple[Shown, ...]
    items: tuple[ItemView, ...]
    jobs: tuple[JobView, ...]
    calls: tuple[CallView, ...]
    questions: tuple[QuestionView, ...]
    warnings: tuple[str, ...]
    outputs: tuple[Shown, ...]
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One attempt of a step.

    Args:
        id: Its id on the page.
        also: Further ids, such as the step's path without the index of an item.
        state: ``success``, ``failure``, ``skipped``, ``waiting``, ``running`` or ``stopped``.
        sign: Such as ``✓``.
        figures: Time, tokens, cost, items.
        why: The evidence for the outcome.
        important: Whether it is open at first: it failed, waits, runs, or was the last one.
    """

    id: str
    also: tuple[str, ...]
    path: str
    depth: int
    nth: str
    kind: str
    target: str
    purpose: str
    state: str
    sign: str
    figures: str
    why: str
    important: bool
    handler: str
    number: int
    detail: VisitDetail | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLine:
    """A line of a draft; `mark` is ``+``, ``-``, ``@`` or empty."""

    mark: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftView:
    """A plan that a model drafted for a step.

    Args:
        round: Its number, from 1; 0 for the accepted draft of a step without recorded rounds.
        words: What was answered about it.
        lines: The plan, or what changed since the draft before.
        changed: Whether `lines` are changes.
    """

    step: str
    round: int
    words: str
    lines: tuple[DraftLine, ...]
    changed: bool
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """A run.

    Args:
        prefix: Of all ids on the page.
        state: ``success``, ``failed``, ``waiting``, ``limit``, ``stopped`` or ``running``.
        word: The state as text; `why` says who decided it or what the run waits for.
        mark: Its color: ``good``, ``bad``, ``warn`` or ``now``.
        reasons: The rows of the verdict before the costs: why, notices, what to do.
        used: Time, tokens, cost and node-hours in one line.
        next: The commands to type next.
        now: The steps that are running, and since when.
        picture: Inline SVG of the plan with the way taken; empty if it is missing.
        picture_note: Why the picture is missing.
        visits_note: Attempts that were left out.
        repeat: Label and command.
    """

    run: str
    title: str
    purpose: str
    plan: str
    prefix: str
    state: str
    word: str
    mark: str
    joint: str
    why: str
    reasons: tuple[tuple[str, tuple[str, ...]], ...]
    used: str
    next: tuple[str, ...]
    now: Rows
    about: Rows
    picture: str
    picture_note: str
    timeline: Timeline | None
    questions: tuple[QuestionView, ...]
    visits: tuple[Visit, ...]
    visits_note: str
    tables: tuple[TableView, ...]
    costs: tuple[TableView, ...]
    inputs: tuple[Shown, ...]
    outputs: tuple[Shown, ...]
    drafts: tuple[DraftView, ...]
    warnings: tuple[str, ...]
    files: Rows
    versions: Rows
    tools: Rows
    plan_text: Shown | None
    repeat: Rows


@dataclass(slots=True, kw_only=True)
class Paging:
    """How a page is made.

    Args:
        prefix: Of all ids on the page, if it has several runs.
        mask: Masks secrets in what the record does not mask: logs, drafts and plans.
        details: Whether every attempt has its details.
        now: Unix time in seconds; None: this moment.
    """

    prefix: str = ""
    mask: Masker = field(default_factory=Masker)
    details: bool = True
    bounds: Bounds = WHOLE
    now: float | None = None
    pictures: Pictures = field(default_factory=Pictures)


def run_page(history: RunHistory, paging: Paging | None = None) -> RunPage:
    """A run as a page.

    Raises:
        StoreError: A part of the record cannot be read.
    """
    return _Page(history, paging or Paging()).made()


def visit_detail(
    history: RunHistory, attempt: RecordedAttempt, paging: Paging | None = None
) -> VisitDetail:
    """Everything behind one attempt of a run."""
    paging = paging or Paging()
    results = dict(_results(history, attempt.calls, paging))
    return _Detail(history, attempt, results, paging).made()


Result = tuple[tuple[Shown, ...], tuple[Picture, ...]]


def _results(
    history: RunHistory, calls: Iterable[RecordedCall], paging: Paging
) -> Iterable[tuple[str, Result]]:
    """The results of calls as they are shown, by their keys. Only one is in memory in full."""
    for key, result in each_result(history.record, calls):
        where = "`fractale show RUN STEP --full`".replace("RUN", history.run)
        yield key, (entries_of(said(result), paging.bounds, where), paging.pictures.of(result))


class _Page:
    def __init__(self, history: RunHistory, paging: Paging) -> None:
        self._history = history
        self._record = history.record
        self._now = time.time() if paging.now is None else paging.now
        number = len(history.attempts) if paging.details else 1
        self._paging = replace(paging, bounds=paging.bounds.shared_by(number))
        self._mask = paging.mask

    def made(self) -> RunPage:
        history, prefix = self._history, self._paging.prefix
        verdict = history_verdict(history, NO_BREAKS)
        first, _, rest = history.title.partition("\n")
        picture, note = self._picture()
        visits, left_out = self._visits()
        return RunPage(
            run=history.run,
            title=inert(first, 200) or inert(str(history.head.get("plan")), 200),
            purpose=inert(rest, 2000),
            plan=inert(str(history.head.get("plan") or ""), 200),
            prefix=prefix,
            state=history.status,
            word=verdict.words,
            mark=verdict.mark,
            joint=verdict.joint,
            why=verdict.why,
            reasons=self._reasons(verdict),
            used=next((" ".join(row.lines) for row in verdict.rows if row.about == "used"), ""),
            next=tuple(line for row in verdict.rows if row.about == "next" for line in row.lines),
            now=tuple(self._current()),
            about=tuple(self._about()),
            picture=picture,
            picture_note=note,
            timeline=timeline(history, self._now, prefix),
            questions=tuple(self._question(asked) for asked in history.questions),
            visits=visits,
            visits_note=left_out,
            tables=tuple(
                table_view(title, attempt.path, rows)
                for attempt in history.attempts
                for title, rows in attempt.tables.items()
            ),
            costs=cost_tables(history),
            inputs=entries_of(input_values(history), self._paging.bounds, self._where),
            outputs=self._outputs(),
            drafts=tuple(self._drafts()),
            warnings=tuple(inert(note.message, 2000) for note in history.warnings),
            files=tuple(self._files()),
            versions=tuple((inert(k, 80), inert(v, 80)) for k, v in history.versions.items()),
            tools=tuple((inert(k, 120), inert(v, 80)) for k, v in history.tools.items()),
            plan_text=self._plan_text(),
            repeat=tuple(self._repeat()),
        )

    @property
    def _where(self) -> str:
        return f"`fractale show {self._history.run} --json`"

    @staticmethod
    def _reasons(verdict: Verdict) -> tuple[tuple[str, tuple[str, ...]], ...]:
        shown_about = ("why", "notice", "question", "to do")
        rows = [(row.label, row.lines) for row in verdict.rows if row.about in shown_about]
        return tuple(rows)

    def _current(self) -> Iterable[tuple[str, str]]:
        """The innermost steps that are running, and since when."""
        if not self._history.alive:
            return
        going = [v for v in self._history.attempts if v.outcome is None]
        around = {id(v.parent) for v in going}
        for attempt in going:
            if id(attempt) not in around:
                words = inert(f"{attempt.kind} {_target(attempt)}".strip(), 200)
                yield inert(attempt.path, 200), f"{words}, since {exactly(attempt.started)}"

    def _about(self) -> Iterable[tuple[str, str]]:
        history, head = self._history, self._history.head
        file = inert(shorten_path(str(head.get("file") or "?")), 1000)
        yield "plan", f"{inert(str(head.get('plan')), 200)}, {file}"
        if parent := cast("dict[str, Any]", head.get("parent") or {}):
            at = inert(f"{parent.get('step')}", 200)
            nth = int(parent.get("attempt") or 1)
            at += f", its {ordinal(nth)} attempt" if nth > 1 else ""
            yield "forked from", f"run {inert(str(parent.get('run')), 80)} at {at}"
        yield "started", exactly(history.started)
        if history.ended:
            ended = "waits since" if history.status == "waiting" else "ended"
            yield ended, exactly(history.ended)
        resumed = [exactly(process.started) for process in history.processes if process.resumed]
        if resumed:
            yield "resumed", ", ".join(resumed[:20]) + (" …" if len(resumed) > 20 else "")
        if history.models:
            yield "models", inert(", ".join(history.models), 400)

    def _picture(self) -> tuple[str, str]:
        try:
            drawn = picture_of_run(self._history, page=True, prefix=self._paging.prefix)
        except FractaleError as error:
            return "", inert(error.message, 400)
        if drawn is None:
            return "", "The plan has changed since, or was removed, so its picture is missing."
        return drawn, ""

    # -- attempts

    def _visits(self) -> tuple[tuple[Visit, ...], str]:
        history = self._history
        kept = history.attempts[:MOST_VISITS]
        seen = {without_indexes(v.path): v for v in reversed(kept)}
        first_of = {id(v): path for path, v in seen.items() if v.path != path}
        failed = [id(v) for v in kept if _needs_attention(history, v)]
        own = [id(v) for v in kept if not v.handler]
        opened = {*failed[-MOST_OPEN:], *own[-1:]}
        visits = [self._visit(v, first_of.get(id(v)), is_open=id(v) in opened) for v in kept]
        if self._paging.details:
            calls = [call for v in kept for call in v.calls[:MOST_CALLS]]
            results = dict(_results(history, calls, self._paging))
            visits = [
                replace(visit, detail=_Detail(history, v, results, self._paging).made())
                for visit, v in zip(visits, kept, strict=True)
            ]
        more = len(history.attempts) - MOST_VISITS
        note = f"{count(more, 'later attempt')} not listed: `fractale show {history.run}` has all."
        return tuple(visits), note if more > 0 else ""

    def _visit(self, attempt: RecordedAttempt, also: str | None, *, is_open: bool) -> Visit:
        state = state_of(self._history, attempt)
        sign = MARKS.get({"waiting": "warning", "stopped": "warning"}.get(state, state))
        return Visit(
            id=anchor(attempt, self._paging.prefix),
            also=(step_id(also, self._paging.prefix),) if also else (),
            path=inert(attempt.path, 300),
            depth=min(attempt.depth, 6),
            nth=f"{ordinal(attempt.number)} attempt" if attempt.number > 1 else "",
            kind=inert(attempt.kind, 40),
            target=inert(_target(attempt), 200),
            purpose=inert(attempt.description, 1000),
            state=state,
            sign=sign[0] if sign else "?",
            figures=_figures(attempt),
            why=_why(attempt, state),
            important=is_open,
            handler=inert(attempt.handler, 40),
            number=attempt.number,
        )

    # -- questions and drafts

    def _question(self, asked: RecordedQuestion) -> QuestionView:
        owners = [v for v in self._history.attempts if any(q is asked for q in v.questions)]
        href = anchor(owners[-1], self._paging.prefix) if owners else ""
        return question_view(asked, href)

    def _drafts(self) -> Iterable[DraftView]:
        rounds: dict[str, list[RecordedQuestion]] = {}
        for asked in self._history.questions:
            if asked.question.get("kind") == "review":
                rounds.setdefault(asked.step, []).append(asked)
        for step in dict.fromkeys([*rounds, *self._history.drafts]):
            yield from self._drafts_of(step, rounds.get(step, []))

    def _drafts_of(self, step: str, rounds: Sequence[RecordedQuestion]) -> Iterable[DraftView]:
        before = ""
        for asked in rounds:
            text = str(asked.question.get("plan") or "")
            words = _answered(asked) if asked.answered else "waits for your answer"
            number = int(asked.question.get("round") or 0)
            yield self._draft(step, number, words, text, before)
            before = text
        accepted = self._history.drafts.get(step)
        if accepted is not None and accepted.strip() != before.strip():
            yield self._draft(step, 0, "accepted", accepted, before)

    def _draft(self, step: str, number: int, words: str, text: str, before: str) -> DraftView:
        path = shorten_path(str(self._record.drafts / f"{step}.yaml"))
        text, note = cut(self._mask(text), self._paging.bounds, inert(path, 400))
        lines = [DraftLine(mark="", text=line) for line in text.rstrip("\n").split("\n")]
        if before:
            old, _ = cut(self._mask(before), self._paging.bounds)
            lines = list(_changes(old, text))
        return DraftView(
            step=inert(step, 200),
            round=number,
            words=words,
            lines=tuple(lines),
            changed=bool(before),
            note=note,
        )

    # -- inputs, outputs, files, plan

    def _outputs(self) -> tuple[Shown, ...]:
        files: Mapping[str, str] = self._history.result.get("output_files") or {}
        outputs: Mapping[str, Any] = self._history.result.get("outputs") or {}
        return tuple(
            shown(
                str(name),
                value,
                self._paging.bounds,
                inert(shorten_path(str(files[name])), 400) if name in files else self._where,
            )
            for name, value in outputs.items()
        )

    def _files(self) -> Iterable[tuple[str, str]]:
        record = self._record
        yield "record", inert(shorten_path(str(record.path)), 1000)
        files: Mapping[str, str] = self._history.result.get("output_files") or {}
        for name, path in files.items():
            yield f"output {inert(str(name), 60)}", inert(shorten_path(str(path)), 1000)
        if record.jobs.is_dir():
            yield "jobs", inert(shorten_path(str(record.jobs)), 1000)
        if self._history.drafts:
            yield "drafts", inert(shorten_path(str(record.drafts)), 1000)

    def _plan_text(self) -> Shown | None:
        file = plan_file(self._record, self._history.head)
        if file is None:
            return None
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return shown("", self._mask(text), WHOLE, inert(shorten_path(str(file)), 400))

    def _repeat(self) -> Iterable[tuple[str, str]]:
        """Commands that do the run again, or a part of it."""
        run, head = self._history.run, self._history.head
        words = ["fractale", "run", str(head.get("file") or "")]
        for path in cast("list[Any]", head.get("registries") or []):
            words += ["-r", shorten_path(str(path))]
        given = [_as_option(name, value) for name, value in self._history.inputs.items()]
        short = [each for each in given if each and len(each) <= 200][:20]
        line = shlex.join(words) + "".join(f" -i {shlex.quote(each)}" for each in short)
        left_out = " and further inputs" if len(short) < len(given) else ""
        yield f"the plan as it is now{left_out}", inert(line, 4000)
        steps = [v.path for v in self._history.attempts if not v.parent and not v.handler]
        if steps:
            yield "from a step of this run", inert(fork_command(run, steps[-1]), 400)
        yield "from the record, without calls", f"fractale replay {run}"
        yield "everything, for others", f"fractale export {run} --crate {run}-crate"


class _Detail:
    """One attempt with everything behind it."""

    def __init__(
        self,
        history: RunHistory,
        attempt: RecordedAttempt,
        results: Mapping[str, Result],
        paging: Paging,
    ) -> None:
        self._history, self._attempt = history, attempt
        self._results, self._paging = results, paging
        command = f"fractale show {history.run} {shlex.quote(attempt.path)} --full"
        self._where = f"`{inert(command, 400)}`"
        self._notes: list[str] = []

    def made(self) -> VisitDetail:
        attempt = self._attempt
        return VisitDetail(
            rows=tuple(self._rows()),
            inputs=self._value(attempt.inputs),
            items=tuple(self._items()),
            jobs=tuple(self._jobs()),
            calls=tuple(self._calls()),
            questions=tuple(
                question_view(each, anchor(attempt, self._paging.prefix))
                for each in attempt.questions
            ),
            warnings=tuple(inert(note.message, 2000) for note in attempt.warnings),
            outputs=self._outputs(),
            pictures=tuple(self._pictures()),
            notes=tuple(self._notes),
        )

    def _rows(self) -> Iterable[tuple[str, str]]:
        attempt = self._attempt
        came = f", from {attempt.previous}" if attempt.previous else ""
        took = f", took {in_words(attempt.seconds)}" if attempt.seconds is not None else ""
        again = attempt.enterings - 1
        resumed = f", resumed {count(again, 'time')}" if again else ""
        rows = [
            ("started", f"{exactly(attempt.started)}{came}{took}{resumed}"),
            ("taken over", source_of(attempt)),
            ("decided by", decided_by(attempt)),
            ("event", attempt.event if attempt.event not in (attempt.outcome, None) else ""),
            ("error", attempt.error if attempt.error != attempt.reason else ""),
            ("led to", attempt.next),
        ]
        if attempt.outputs_cut and attempt.outputs:
            rows.append(("outputs", "cut short in this record"))
        for label, text in rows:
            if text:
                yield label, cut(text, self._paging.bounds, self._where)[0]

    def _value(self, value: Any) -> tuple[Shown, ...]:
        if value is None or value == {}:
            return ()
        return entries_of(resolve(self._history.record, value), self._paging.bounds, self._where)

    def _outputs(self) -> tuple[Shown, ...]:
        """The outputs; those of items and the log of a job are shown with these."""
        if self._attempt.items:
            return ()
        found = self._value(self._attempt.outputs)
        above = self._attempt.kind == "job" and bool(self._attempt.jobs)
        return tuple(each for each in found if not (above and each.label == "log"))

    def _left_out(self, number: int, most: int, noun: str) -> None:
        if number > most:
            self._notes.append(f"{count(number - most, f'more {noun}')}: {self._where}")

    def _items(self) -> Iterable[ItemView]:
        items = sorted(
            self._attempt.items.values(), key=lambda i: (i.outcome == "success", i.index)
        )
        self._left_out(len(items), MOST_ITEMS, "item")
        calls: dict[str, list[CallView]] = {}
        for call in self._calls(inside=True):
            calls.setdefault(call.part, []).append(call)
        for item in sorted(items[:MOST_ITEMS], key=lambda i: i.index):
            name = self._attempt.part(f"[{item.index}]")
            yield self._item(item, calls.get(name, []))

    def _item(self, item: RecordedItem, calls: Sequence[CallView]) -> ItemView:
        attempt = self._attempt
        inside = replace(attempt, path=f"{attempt.path}[{item.index}]", outcome=item.outcome)
        state = state_of(self._history, inside)
        sign = MARKS.get("warning" if state == "stopped" else state)
        return ItemView(
            name=attempt.part(f"[{item.index}]"),
            state=state,
            sign=sign[0] if sign else "?",
            why=inert(item.error or "", 1000),
            took=in_words(item.seconds) if item.seconds is not None else "",
            inputs=self._value(item.inputs),
            calls=tuple(calls),
            outputs=self._value(item.outputs),
        )

    def _jobs(self) -> Iterable[JobView]:
        jobs = self._attempt.jobs
        self._left_out(len(jobs), MOST_JOBS, "job")
        for job in sorted(jobs, key=lambda j: j.state == "completed")[:MOST_JOBS]:
            yield self._job(job)

    def _job(self, job: RecordedJob) -> JobView:
        from fractale.schedulers.folder import JobFolder

        record = self._history.record
        folder = JobFolder.of(record.jobs.absolute(), job.key)
        path = (folder if job.index is None else folder.element(job.index)).log
        where = f", {self._attempt.part(job.step)}" if job.step.endswith("]") else ""
        return JobView(
            name=inert(f"job {job.job} of {job.scheduler}{where}", 200),
            state=inert(job.state, 40),
            important=job.state != "completed" or len(self._attempt.jobs) <= FEW_JOBS,
            rows=tuple((label, inert(text, 1000)) for label, text in job_rows(job, record)),
            log=self._log(path, job),
            path=inert(shorten_path(str(path)), 1000),
        )

    def _log(self, path: Path, job: RecordedJob) -> Shown | None:
        from fractale.jobs.logs import read_log

        least = self._paging.bounds.characters
        part = read_log(path, -min(LOG_BYTES, least), min(LOG_BYTES, least))
        lines = self._paging.mask(part.text).rstrip("\n").split("\n")
        whole = part.offset == 0 and len(lines) <= LOG_LINES
        text, _ = cut("\n".join(lines[-LOG_LINES:]), self._paging.bounds)
        if not text.strip():
            return Shown(label="log", text=inert(job.line, 1000), block=True) if job.line else None
        command = f"fractale logs {self._history.run} {shlex.quote(job.step)}"
        note = f"its end; the whole log has {count(part.size, 'byte')}: {inert(command, 400)}"
        return Shown(label="log", text=text, block=True, note="" if whole else note)

    def _calls(self, *, inside: bool = False) -> Iterable[CallView]:
        """The calls, numbered as `fractale show` does.

        Args:
            inside: Whether to give those of items, or the others.
        """
        calls = self._attempt.calls
        if not inside:
            self._left_out(len(calls), MOST_CALLS, "call")
        for number, call in enumerate(calls[:MOST_CALLS], 1):
            if (bool(self._attempt.items) and call.step.endswith("]")) == inside:
                yield self._call(number, call)

    def _pictures(self) -> Iterable[Picture]:
        """The pictures that the calls returned."""
        for number, call in enumerate(self._attempt.calls[:MOST_CALLS], 1):
            known = self._results.get(call.key or "") if call.came_back else None
            for picture in known[1] if known else ():
                yield replace(picture, words=f"{picture.words}, of call {number}")

    def _call(self, number: int, call: RecordedCall) -> CallView:
        known = self._results.get(call.key or "") if call.came_back else None
        result = known[0] if known else entries_of(call.text, self._paging.bounds)
        used = call.input_tokens + call.output_tokens
        about = [
            f"by {inert(call.agent, 80)}" if call.agent else "",
            end_of_call(self._history, self._attempt, call),
            count(used, "token") if used else "",
            f"${call.cost:.4f}" if call.cost else "",
            f"agreed: {inert(call.agreed, 80)}" if call.agreed else "",
        ]
        return CallView(
            number=number,
            kind=call.kind,
            name=inert(call.name, 200),
            about=" · ".join(each for each in about if each),
            part=self._attempt.part(call.step) if call.step.endswith("]") else "",
            failed=call.is_error,
            arguments=entries_of(dict(call.arguments), self._paging.bounds, self._where),
            result=result if call.text or known else (),
        )


def question_view(asked: RecordedQuestion, href: str = "") -> QuestionView:
    """A question as it is shown.

    Args:
        href: The id of its attempt on the page.
    """
    question = asked.question
    try:
        lines = [line for text in question_text(question, NO_BREAKS) for line in text.split("\n")]
    except (KeyError, TypeError, ValueError, AttributeError):
        # A kind that this version does not know, or a record that another program wrote.
        lines = [inert(as_json(question), 4000)]
    if needs_no_answer(question) or asked.answered:
        lines = [line for line in lines if not line.startswith("answer with: ")]
    text, note = cut("\n".join(lines))
    return QuestionView(
        id=inert(str(question.get("id") or ""), 80),
        step=inert(asked.step, 200),
        kind=inert(str(question.get("kind") or ""), 40),
        href=href,
        lines=(*text.split("\n"), *((note,) if note else ())),
        answer=_answered(asked) if asked.answered else "",
    )


def _needs_attention(history: RunHistory, attempt: RecordedAttempt) -> bool:
    """Whether an attempt did not succeed, or an item of it failed."""
    failed = any(item.outcome == "failure" for item in attempt.items.values())
    return failed or state_of(history, attempt) in ATTENTION


def _answered(asked: RecordedQuestion) -> str:
    words = inert(answer_text(asked.answer), 2000)
    return f"{words}   (by {inert(asked.answered_by, 100)}, {exactly(asked.answered_at)})"


def _target(attempt: RecordedAttempt) -> str:
    target = target_of({"target": attempt.target, "type": attempt.kind})
    return Path(target).name if attempt.kind == "plan" else target


def _figures(attempt: RecordedAttempt) -> str:
    failed = sum(1 for item in attempt.items.values() if item.outcome == "failure")
    skipped = attempt.outcome == "skipped"
    parts = [
        in_words(attempt.seconds) if attempt.seconds is not None and not skipped else "",
        count(attempt.tokens, "token") if attempt.tokens else "",
        f"${attempt.cost:.3f}" if attempt.cost else "",
        count(len(attempt.items), "element" if attempt.is_array else "item")
        if attempt.items
        else "",
        f"{failed} failed" if failed else "",
    ]
    return " · ".join(part for part in parts if part)


def _why(attempt: RecordedAttempt, state: str) -> str:
    """Why an attempt ended as it did; empty for a plain success."""
    return cut(why(attempt), REASON)[0] if attempt.outcome else STANDING.get(state, "not finished")


def _changes(before: str, after: str) -> Iterable[DraftLine]:
    lines = difflib.unified_diff(
        before.rstrip("\n").split("\n"),
        after.rstrip("\n").split("\n"),
        n=CONTEXT_LINES,
        lineterm="",
    )
    found = [line for line in lines if not line.startswith(("---", "+++"))]
    if not found:
        yield DraftLine(mark="", text="no line changed")
    for line in found:
        mark = line[:1].strip()
        yield DraftLine(mark=mark, text=line[1:] if mark != "@" else line)


def _as_option(name: str, value: Any) -> str:
    """An input as ``name=value`` for the command line; empty for one that is too long for it."""
    if isinstance(value, Mapping) and "$ref" in value:
        return ""
    text = value if isinstance(value, str) else as_json(value)
    return f"{name}={text}"
