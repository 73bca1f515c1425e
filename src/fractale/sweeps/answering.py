"""Answering the questions of a sweep's runs: one answer for all runs that ask the same.

Two questions are the same if they are equal in kind, step, text, tool and arguments. So approvals
of different calls are different questions, and each needs an answer of its own, unless the user
says that the answer is for all of them.

An answer is put into the mailbox of each run (`runs.mailbox`), as `fractale answer` does for one
run. The row is then noted in the sweep's record as answered: a process that drives the sweep
resumes the run, now or later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fractale.audit import AuditLog
from fractale.errors import CHECK_SPACE, AnswerError, StoreError
from fractale.plain import to_json
from fractale.private import locked
from fractale.questions import MISSING, identity, read_answer, without_secrets
from fractale.questions.answers import ANY_STEP, keys_of
from fractale.runs.actions import OpenQuestion, open_questions
from fractale.runs.mailbox import Mail, Mailbox
from fractale.store.run_record import RunRecords
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.results import RowView, SweepView, view_of
from fractale.sweeps.resuming import check_own
from fractale.text import count

if TYPE_CHECKING:
    from fractale.settings import Settings

SHORT: Final = 8
"""The digits of a group's key that are enough to name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One run that asks a question."""

    row: RowView
    question: OpenQuestion


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionGroup:
    """A question that several runs of a sweep ask.

    Args:
        key: Names the group: a hash of the question.
        question: Its fields, as the first run asks it.
        asking: The runs, in the order of their rows.
        problem: Why it can be answered only at a terminal; empty otherwise.
    """

    key: str
    step: str
    question: Mapping[str, Any]
    asking: Sequence[Asking]
    problem: str = ""

    @property
    def rows(self) -> list[int]:
        return [each.row.row for each in self.asking]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer that was given to the runs of a group.

    Args:
        answer: As it was read, without secrets.
        rows: The rows whose runs have it.
        earlier: The rows whose runs had another answer before.
    """

    group: QuestionGroup
    answer: Any
    rows: Sequence[int]
    earlier: Sequence[int] = ()


def question_groups(record: SweepRecord, view: SweepView | None = None) -> list[QuestionGroup]:
    """The open questions of a sweep's waiting runs, those of most runs first.

    Args:
        view: Of the sweep; None: it is read.

    Raises:
        StoreError: A record cannot be read.
    """
    runs = RunRecords(record.state_dir)
    found: dict[str, list[Asking]] = {}
    for row in (view or view_of(record)).rows:
        if row.state != "waiting" or row.answered:
            continue
        for each in open_questions(runs.at(row.run)):
            if not each.given:
                asking = Asking(row=row, question=each)
                found.setdefault(identity(each.question), []).append(asking)
    groups = [
        QuestionGroup(
            key=key,
            step=asking[0].question.step,
            question=asking[0].question.question,
            asking=asking,
            problem=asking[0].question.problem,
        )
        for key, asking in found.items()
    ]
    return sorted(groups, key=lambda group: -len(group.asking))


def name_of(group: QuestionGroup, groups: Sequence[QuestionGroup]) -> str:
    """The name to answer a group by: its step if no other group has it, or its short key."""
    alone = not any(group.step in keys_of(o.question) for o in groups if o.key != group.key)
    return group.step if alone else group.key[:SHORT]


def answer_sweep(
    record: SweepRecord,
    settings: Settings,
    answers: Mapping[str, Any],
    *,
    via: str,
    for_all: bool = False,
) -> list[Answered]:
    """Give answers to all runs of a sweep that ask the same. Nothing is resumed.

    Args:
        answers: Step, or key of a group → raw answer.
        via: Where the user answers, such as ``fractale sweep answer``.
        for_all: Whether an answer for a step is for all its questions, also if they differ.

    Raises:
        AnswerError: No run waits; an answer does not fit its question; or its name fits questions
            that differ. Nothing was answered.
        SettingsError: Another user started the sweep.
        StoreError: An answer cannot be written.
    """
    check_own(record, record.read_head(), settings)
    groups = question_groups(record)
    if not groups:
        raise AnswerError(
            f"no run of sweep {record.sweep_id} waits for an answer",
            hint=f"`fractale sweep show {record.sweep_id}` shows its rows",
        )
    chosen: dict[str, tuple[QuestionGroup, Any, Any]] = {}
    for name, raw in answers.items():
        for group in _named(record, groups, name, for_all=for_all):
            if group.key in chosen:
                raise AnswerError(f"two answers are for the question of `{group.step}`")
            chosen[group.key] = (group, raw, _read(group, raw))
    done = [_put(record, group, raw, answer, via) for group, raw, answer in chosen.values()]
    log = AuditLog.of(settings)
    for each in done:
        log.record(
            "act",
            sweep=record.sweep_id,
            action="answer",
            step=each.group.step,
            answer=to_json(each.answer, compact=True),
            rows=len(each.rows),
            via=via,
        )
    _note(record, [row for each in done for row in (*each.rows, *each.earlier)])
    return done


def _named(
    record: SweepRecord, groups: Sequence[QuestionGroup], name: str, *, for_all: bool
) -> list[QuestionGroup]:
    """The groups that a name is for."""
    found = [each for each in groups if len(name) >= SHORT and each.key.startswith(name)]
    if not found:
        found = [each for each in groups if name in keys_of(each.question) and name != ANY_STEP]
    steps = ", ".join(dict.fromkeys(each.step for each in groups))
    if not found:
        raise AnswerError(
            f"no run of sweep {record.sweep_id} has an open question `{name}`",
            hint=f"open questions: {steps}",
        )
    if len(found) > 1 and not for_all:
        keys = ", ".join(each.key[:SHORT] for each in found[:5])
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise AnswerError(
            f"the runs ask {count(len(found), 'different question')} at `{name}`",
            hint=f"see them with `fractale sweep answer {record.sweep_id}`, and answer each by its "
            f"key ({keys}{more}); or add --all to give this answer to all of them",
        )
    return found


def _read(group: QuestionGroup, raw: Any) -> Any:
    answer = read_answer(group.question, raw)
    if answer is MISSING:
        raise AnswerError(f"the answer to `{group.step}` is missing")
    if group.problem and answer.get("action") == "accept":
        run = group.asking[0].row.run
        raise AnswerError(
            f"`{group.step}` asks for a secret, which is not taken from another process",
            hint=f"run `fractale resume {run}` at a terminal and type it there; `decline` and "
            "`cancel` are accepted here",
        )
    return answer


def _put(record: SweepRecord, group: QuestionGroup, raw: Any, answer: Any, via: str) -> Answered:
    """Put an answer into the mailboxes of a group's runs."""
    runs, rows, earlier = RunRecords(record.state_dir), list[int](), list[int]()
    for each in group.asking:
        mail = Mail(step=each.question.step, via=via, time=time.time(), answer=raw)
        before = Mailbox(runs.at(each.row.run)).put(each.question.key, mail)
        (rows if before is None else earlier).append(each.row.row)
    shown = without_secrets(group.question, answer)
    return Answered(group=group, answer=shown, rows=rows, earlier=earlier)


def _note(record: SweepRecord, rows: Sequence[int]) -> None:
    """Note which rows are answered: those whose runs have no question left without an answer."""
    runs, view = RunRecords(record.state_dir), view_of(record)
    lines: list[str] = []
    for number in dict.fromkeys(rows):
        row = view.rows[number]
        if all(each.given for each in open_questions(runs.at(row.run))):
            lines.append(to_json({"row": number, "since": row.since}, compact=True))
    if not lines:
        return
    try:
        with locked(record.answered) as file:
            file.seek(0, os.SEEK_END)
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"cannot write {record.answered}: {error}", hint=CHECK_SPACE) from error
