"""The parts of a run's page, made by the templates of the report.

A part is one element; see `fractale.web.live`. What never changes while a run is in progress is
rendered with the page, and again at the run's end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from markupsafe import escape

from fractale.errors import FractaleError
from fractale.plan.model import Plan
from fractale.record.follow import WrittenText
from fractale.record.history import RunHistory, input_values
from fractale.render.questions import exact
from fractale.render.run_view import unreadable
from fractale.render.summary import NO_BREAKS, history_verdict
from fractale.render.text import inert
from fractale.report.images import Pictures
from fractale.report.page import Paging, RunPage, Visit, run_page, visit_detail
from fractale.runs.actions import Actions, OpenQuestion
from fractale.web.environment import as_sent
from fractale.web.live import MOST_LOGS, TITLE, Part
from fractale.web.logs import FOLLOWED_LINES, Log, job_logs, log_of, tail_text
from fractale.web.plans import fields_of
from fractale.web.questions import Field, card_of

if TYPE_CHECKING:
    from jinja2 import Environment

VISITS: Final = "visits"
"""The id of the element that has the attempts."""
CARDS: Final = "cards"
"""The id of the element that has the open questions."""
MOST_LINKS: Final = 40
"""The most logs that an attempt links to."""
CHANGED: Final = "changed."
"""Before the name of an input, in the form of a fork."""


@dataclass(slots=True)
class RunParts:
    """Renders the parts of a run's page.

    Args:
        templates: The environment of the pages.
        actions: Know the open questions.
        paging: Masks secrets in logs, drafts and plans.
    """

    templates: Environment
    actions: Actions
    paging: Paging = field(default_factory=lambda: Paging(details=False))
    _visits: dict[tuple[str, str], tuple[Visit, Part]] = field(default_factory=dict[Any, Any])

    def __call__(self, history: RunHistory, texts: Mapping[str, WrittenText]) -> dict[str, Part]:
        page = _without_questions(run_page(history, self.paging), history)
        live = self.templates.get_template("run_parts.html").make_module(
            {"run": history.run, "page": page}
        )
        macros: Any = live
        asked, trouble = self._asked(history)
        unanswered = [each for each in asked if not each.given]
        logs = [log for log in job_logs(history) if not log.over][:MOST_LOGS]
        found = {
            "said": macros.said(len(unanswered)),
            "verdict": macros.verdict(
                _can(history, asks=bool(unanswered)), history.started, _failed_logs(history)
            ),
            "questions": macros.questions(trouble),
            "now": macros.now(
                [
                    (inert(step, 200), *_written(history, step, text))
                    for step, text in texts.items()
                ],
                [(log, tail_text(log.path, FOLLOWED_LINES)) for log in logs],
            ),
            "way": macros.way(),
            "timeline": macros.timeline(),
            "results": macros.results(),
            "rest": macros.rest(),
        }
        parts = {f"part-{name}": Part(str(html)) for name, html in found.items()}
        cards = [card_of(each) for each in asked]
        title = f"{page.word} · {page.plan} {history.run} · fractale"
        return {
            TITLE: Part(str(escape(title))),
            **parts,
            **{
                f"card-{card.key}": Part(str(macros.card(card)), CARDS, str(macros.closed(card)))
                for card in cards
            },
            **self._visits_of(macros, history, page),
        }

    def _visits_of(self, macros: Any, history: RunHistory, page: RunPage) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for number, visit in enumerate(page.visits, 1):
            key = (history.run, visit.id)
            known = self._visits.get(key)
            attempt = history.attempts[number - 1]
            stamp = _stamp(attempt)
            if known is None or known[0] != visit or f'"{stamp}"' not in known[1].html:
                known = (visit, Part(str(macros.visit(visit, number, stamp)), VISITS))
                self._visits[key] = known
            found[visit.id] = known[1]
        if len(self._visits) > 20_000:
            self._visits.clear()
        return found

    def _asked(self, history: RunHistory) -> tuple[Sequence[OpenQuestion], str]:
        """The open questions, and why they cannot be read.

        A process that asks several has them all in its mailbox, and one after the other in the
        record: between two of them, none is open there.
        """
        is_over = not history.alive and history.status != "waiting"
        if is_over and all(asked.answered for asked in history.questions):
            return (), ""
        try:
            return self.actions.questions(history.run), ""
        except FractaleError as error:
            return (), inert(error.message, 400)


def _without_questions(page: RunPage, history: RunHistory) -> RunPage:
    """The page without the open questions, which have cards of their own."""
    rows = history_verdict(history, NO_BREAKS).rows
    asked = {(row.label, row.lines) for row in rows if row.about == "question"}
    return replace(
        page,
        reasons=tuple(row for row in page.reasons if row not in asked),
        questions=tuple(each for each in page.questions if each.answer),
    )


def _written(history: RunHistory, step: str, text: WrittenText) -> tuple[str, bool]:
    """A model's text as it is shown, and whether it is the text itself."""
    kinds = [attempt.kind for attempt in history.of_step(step)]
    if words := unreadable(kinds[-1] if kinds else "", text):
        return words, False
    cut = "…" if text.characters > len(text.end) else ""
    return cut + exact(text.end), True


def _stamp(attempt: Any) -> str:
    """Changes whenever the details of an attempt do."""
    done = (
        attempt.outcome,
        attempt.enterings,
        len(attempt.calls),
        sum(call.finished for call in attempt.calls),
        [(item.outcome, item.index) for item in attempt.items.values()],
        [(job.state, job.line, job.over) for job in attempt.jobs],
        [(asked.answered, asked.step) for asked in attempt.questions],
        len(attempt.warnings),
        {name: len(rows) for name, rows in attempt.tables.items()},
    )
    return hashlib.blake2b(repr(done).encode(), digest_size=6).hexdigest()


def _failed_logs(history: RunHistory) -> list[Log]:
    """The logs of the jobs that failed in the last attempt with such a job."""
    if history.status != "failed":
        return []
    for attempt in reversed(history.attempts):
        failed = [job for job in attempt.jobs if job.over and job.state != "completed"]
        if failed:
            return [log_of(history, job) for job in failed[:MOST_LOGS]]
    return []


def _can(history: RunHistory, *, asks: bool) -> set[str]:
    """What can be done with a run now, beside answering a question, which resumes it, too."""
    able = {"fork"} if history.attempts else set[str]()
    if history.alive:
        return able | {"cancel"}
    if history.status in ("waiting", "limit", "stopped"):
        able |= {"cancel"} if asks else {"resume", "cancel"}
    return able


def detail(templates: Environment, history: RunHistory, number: int, paging: Paging) -> str | None:
    """The contents of an attempt, counted from 1; None if it does not exist."""
    if not 0 < number <= len(history.attempts):
        return None
    attempt = history.attempts[number - 1]
    jobs = sorted(attempt.jobs, key=lambda job: job.state == "completed")[:MOST_LINKS]
    return templates.get_template("visit_detail.html").render(
        run=history.run,
        detail=visit_detail(history, attempt, replace(paging, pictures=Pictures())),
        logs=[log_of(history, job) for job in jobs],
    )


def plan_picture(plan: Plan) -> str:
    """The picture of a plan as SVG; empty if it cannot be drawn."""
    from fractale.plan.picture import svg

    try:
        return svg(plan, page=True)
    except FractaleError:
        return ""


# -- forks -----------------------------------------------------------------------------------------


def fork_steps(history: RunHistory) -> list[tuple[str, str]]:
    """The steps that a fork can start at: name or ``NAME#2``, and words; the latest first."""
    found: list[tuple[str, str]] = []
    for attempt in reversed(history.forkable):
        again = f", attempt {attempt.number}" if attempt.number > 1 else ""
        found.append((f"{attempt.path}#{attempt.number}", inert(attempt.path + again, 200)))
    return found


def fork_fields(history: RunHistory, texts: Mapping[str, str] | None) -> list[Field]:
    """The inputs of a run, to be changed in a fork."""
    plan = _plan_of(history)
    if plan is None:
        return []
    values = {**_values(history), **(texts or {})}
    found = [each for each in fields_of(plan, values) if each.kind != "secret"]
    return [replace(each, name=CHANGED + each.name.partition(".")[2]) for each in found]


def _values(history: RunHistory) -> dict[str, str]:
    from fractale.web.plans import as_text

    return {name: as_text(value) for name, value in input_values(history).items()}


def _plan_of(history: RunHistory) -> Plan | None:
    from fractale.runs.changes import plan_today

    try:
        return plan_today(history.record, history.head)
    except FractaleError:
        return None


def fork_texts(form: Mapping[str, str]) -> dict[str, str]:
    """The inputs in a submitted form of a fork."""
    return {
        name.removeprefix(CHANGED): as_sent(text)
        for name, text in form.items()
        if name.startswith(CHANGED)
    }


def changed_inputs(feed: Any, texts: Mapping[str, str]) -> dict[str, str]:
    """Those of some inputs that differ from the run's."""
    with feed.lock:
        before = _values(feed.history)
    return {name: text for name, text in texts.items() if text != as_sent(before.get(name, ""))}
