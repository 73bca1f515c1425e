"""Answers to the questions of a run: given beforehand, by ``--yes``, or by the user.

The user answers at the terminal of the run's process, or in another process (`runs.mailbox`). The
first valid answer counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import Any, Final

from langgraph.types import Command

from fractale.clock import elapsed
from fractale.errors import AnswerError, StoreError
from fractale.graph.context import RunContext
from fractale.masking import MASK
from fractale.policy import grant_of
from fractale.questions import (
    MISSING,
    Answers,
    Checked,
    default_answer,
    identity,
    read_answer,
    reply,
    secrets_of_answer,
    without_secrets,
)
from fractale.questions.answers import not_secret
from fractale.runs.mailbox import ANSWERED_ELSEWHERE, OWN, Asked, Mail, Mailbox, key_of
from fractale.runs.options import RunOptions

LOOK_SECONDS: Final = 0.25
"""Seconds between two looks for an answer of another process, while a question is open."""
LAST_ENDS: Final = ("success", "failed")
"""Ends of a run after which no question of it is asked again."""

SHORTEST_SECONDS = 1.0
"""The least time in which a user, or a record, can answer a question whose time is almost over."""


class Answering:
    """Answers the questions of one run: given beforehand, by ``--yes``, or by the user.

    Args:
        options: The user to ask, and the answers given beforehand.
        mailbox: Has the answers of other processes; None: of a run without a record.

    Attributes:
        context: The run; set once it is known.
        waiting: The latest questions of the graph.
        asking: Whether the user is answering a question that the graph waits for.
    """

    def __init__(self, options: RunOptions, mailbox: Mailbox | None = None) -> None:
        self._options = options
        self._mailbox = mailbox
        self._elicited: dict[str, Any] = {}
        self._of_changed: dict[str, Any] = {}
        self._answered = Counter[str]()
        self._open: dict[str, Asked] = {}
        self._shown: tuple[str, ...] = ()
        self._used: set[str] = set()
        self.context = RunContext()
        self.waiting: list[dict[str, Any]] = []
        self.asking = False
        self._late = False

    async def replies(self, interrupts: Sequence[Any], first: Answers) -> Any:
        """Answers to the questions of the graph, as its next input; None if there is none.

        It stops asking when the time of one of the questions has come: its step takes the default.

        Args:
            first: Answers that come before all others.
        """
        replies: dict[str, Any] = {}
        questions = {i.id: {**i.value, "id": i.id} for i in in_order(interrupts)}
        self.waiting = list(questions.values())
        self.asking, self._late = True, False
        with self._published([*questions.values()]):
            for number, (key, question) in enumerate(questions.items(), 1):
                place = {"number": number, "of": len(questions)} if len(questions) > 1 else {}
                answer = await self._answer({**question, **place}, first)
                if answer is not MISSING:
                    replies[key] = self._reply(question, answer)
                if self._late:
                    break
        self.asking = False
        return Command(resume=replies) if replies else None

    def _reply(self, question: Mapping[str, Any], answer: Any) -> Any:
        """An answer in the form that the node expects which asked the question."""
        if question.get("kind") == "interrupt":  # a node of the agent's own graph
            return answer
        if question.get("kind") == "question":  # LangGraph stores it as it is
            answer = self.context.mask(answer)
        # A secret is only in `_elicited`. The server asks again, and gets it from there.
        return reply(question, without_secrets(question, answer))

    async def _answer(self, question: Mapping[str, Any], first: Answers) -> Any:
        """The answer given beforehand, or the user's; MISSING if there is none."""
        options, by = self._options, "answers"
        if (mailed := self._from_mailbox(question)) is not MISSING:
            self._warn_of_unused(question, first)
            return mailed
        if question.get("kind") == "tool_changed" and (known := _changed(question)) in (
            self._of_changed
        ):
            return self._of_changed[known]  # another step asked about the same change
        answer = first.find(question)
        # A change cannot be accepted beforehand: `accept` was meant for a drafted plan.
        if answer is MISSING and question.get("kind") != "tool_changed":
            answer = options.answers.find(question)
        if answer is MISSING and options.yes:
            answer, by = default_answer(question), "yes"
        if answer is MISSING:
            return await self.ask(question)
        return self._take(question, answer, by)

    async def ask(self, question: Mapping[str, Any]) -> Any:
        """The user's answer; MISSING without a user, or if the user gives none.

        Raises:
            AnswerError: The question does not accept the answer. The question stays open.
        """
        self.context.emit("waiting", step=question.get("step"), question=dict(question))
        person = self._options.person
        if person is None or self._options.control.drain_requested:
            return MISSING
        with self.context.meter.paused(), self._published([question]):
            given = await self._in_time(self._person_or_mail(question, person.answer(question)))
        if given is MISSING:
            return MISSING
        if isinstance(given, _Taken):
            return given.answer
        answer = given.value if isinstance(given, Checked) else read_answer(question, given)
        if (mailed := self._claimed(question)) is not MISSING:
            return mailed
        return self._take(question, answer, "person")

    async def _person_or_mail(self, question: Mapping[str, Any], answer: Awaitable[Any]) -> Any:
        """The user's answer here; `_Taken` if the answer of another process is first.

        MISSING if the run is stopped meanwhile: the question stays open.
        """
        if self._mailbox is None:
            return await answer
        key, person = self._key(question), asyncio.ensure_future(answer)
        why: str | None = None
        try:
            while not (await asyncio.wait((person,), timeout=LOOK_SECONDS))[0]:
                if self._options.control.drain_requested:
                    return MISSING
                self._publish()
                if (mailed := self._from_mailbox(question, key)) is not MISSING:
                    why = ANSWERED_ELSEWHERE
                    return _Taken(mailed)
            return person.result()
        finally:
            if not person.done():
                person.cancel(why)
                await asyncio.wait((person,))
                if not person.cancelled():
                    person.exception()  # else asyncio warns that it was never retrieved

    async def _in_time(self, answer: Awaitable[Any]) -> Any:
        """The user's answer; MISSING once the time of an open question has come."""
        clock, times = self.context.clock, [q["due"] for q in self.waiting if q.get("due")]
        if not (self.asking and times):
            return await answer
        left = min(each["seconds"] - elapsed(clock, each["began"]) for each in times)
        try:
            return await asyncio.wait_for(answer, max(left, SHORTEST_SECONDS))
        except TimeoutError:
            self._late = True
            return MISSING

    def _take(
        self, question: Mapping[str, Any], answer: Any, by: str, mail: Mail | None = None
    ) -> Any:
        self.context.masker.add(*secrets_of_answer(question, answer))
        self.keep(question, answer)
        shown = without_secrets(question, answer)
        where = {"via": mail.via, "user": mail.user} if mail else {}
        key = self._key(question)
        self._open.pop(key, None)
        if not self._open:
            self._publish()
        self.context.emit(
            "answered",
            step=question.get("step"),
            question=dict(question),
            answer=shown,
            by=by,
            **where,
        )
        if self._mailbox and (mail or by == "person"):
            self._mailbox.remove(key)  # the event has it now
            self._used.add(key)
        return answer

    def keep(self, question: Mapping[str, Any], answer: Any) -> None:
        """Keep the parts of an answer that outlast the question: approvals, a server's answer.

        A secret was not recorded: after a kill the server asks for it again.
        """
        if MASK in secrets_of_answer(question, answer):
            return
        if grant := grant_of(question, answer):
            self.context.grants.append(grant)
        elif question.get("kind") == "tool_changed":
            self._of_changed[_changed(question)] = answer
        elif question.get("kind") == "elicitation":
            self._elicited[identity(question)] = answer

    # -- answers of other processes ---------------------------------------------------------------

    def count(self, answered: Mapping[str, Any]) -> None:
        """Count an answer of the run, also of an earlier process: see `mailbox.key_of`."""
        self._answered[identity(answered["question"])] += 1

    def has_mail(self, question: Mapping[str, Any]) -> bool:
        """Whether another process has answered a question that the run waits for."""
        found = self._mailbox.arrived() if self._mailbox else None
        return bool(found) and self._key(question) in found

    def _key(self, question: Mapping[str, Any]) -> str:
        asked = self.context.mask(dict(question))
        return key_of(asked, self._answered[identity(asked)])

    @contextlib.contextmanager
    def _published(self, questions: Sequence[Mapping[str, Any]]) -> Generator[None]:
        """Let other processes answer some questions in the block, if the user is asked here."""
        if self._mailbox is None or self._options.person is None:
            yield
            return
        asked = {self._key(q): Asked(self.context.mask(dict(q))) for q in questions}
        new = {key: one for key, one in asked.items() if key not in self._open}
        if new:
            self._open |= new
            self._publish()
        try:
            yield
        finally:
            for key in new:
                self._open.pop(key, None)
            if not self._open:
                self._publish()

    def _publish(self) -> None:
        """Publish the open questions, if others are published.

        Answered ones are left out with some delay, so that a user in Python who answers thousands
        at once costs no thousand files. An answer that comes too late for one is not used.
        """
        if self._mailbox and (keys := tuple(self._open)) != self._shown:
            self._mailbox.publish(self._open)
            self._shown = keys

    def _from_mailbox(self, question: Mapping[str, Any], key: str = "") -> Any:
        """The answer of another process; MISSING if there is none.

        Args:
            key: The question's, if it is known.
        """
        if self._mailbox is None or not (found := self._mailbox.arrived()):
            return MISSING
        key = key or self._key(question)
        mail = self._mailbox.read(key) if key in found else None
        if mail is None or not mail.has_answer:
            return MISSING
        try:
            answer = not_secret(question, read_answer(question, mail.answer))
        except AnswerError as error:
            self._mailbox.remove(key)
            words = f"the answer {mail.who} was not used: {error.message}"
            self.context.emit("warning", step=mail.step, code="answer", message=words)
            return MISSING
        return self._take(question, answer, "person", mail)

    def _warn_of_unused(self, question: Mapping[str, Any], first: Answers) -> None:
        """Report that an answer of ``--answer`` was too late."""
        with contextlib.suppress(AnswerError):
            if first.find(question) is MISSING:
                return
        step = str(question.get("step") or "")
        words = "the answer of --answer was not used: another process answered before"
        self.context.emit("warning", step=step, code="answer", message=words)

    def _claimed(self, question: Mapping[str, Any]) -> Any:
        """Note that a question was answered here; the other answer if it was first."""
        if self._mailbox is None:
            return MISSING
        step = str(question.get("step") or "")
        note = Mail(step=step, via=OWN, time=time.time(), has_answer=False)
        key = self._key(question)
        try:
            if self._mailbox.put(key, note) is None:
                return MISSING
        except StoreError:  # no other process can answer then, either
            return MISSING
        if (mailed := self._from_mailbox(question)) is MISSING:
            self._mailbox.remove(key)
        return mailed

    def drop_unused(self, status: str) -> None:
        """Report the answers of other processes to questions that the run will not ask again."""
        if self._mailbox is None or status not in LAST_ENDS:
            return
        for mail in self._mailbox.drop_all(self._used):
            words = f"the answer {mail.who} was not used: its question is not asked any more"
            self.context.emit("warning", step=mail.step, code="answer", message=words)

    async def ask_now(self, question: Mapping[str, Any]) -> Any:
        """The answer to a server's question in the middle of a call; None if there is none."""
        asked = self.context.mask(dict(question))
        if (known := identity(asked)) in self._elicited:
            return self._elicited[known]
        answer = await self._answer(asked, Answers())
        return None if answer is MISSING else answer


class _Taken:
    """An answer of another process that was taken."""

    __slots__ = ("answer",)

    def __init__(self, answer: Any) -> None:
        self.answer = answer


def _changed(question: Mapping[str, Any]) -> str:
    """Identifies a change of tools. The identity is the same for every step that asks about it."""
    return identity({**question, "step": ""})


def in_order(interrupts: Sequence[Any]) -> list[Any]:
    """Questions in the order of their steps, items of a foreach by their number."""
    return sorted(interrupts, key=lambda each: step_order(each.value))


def step_order(waiting: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The sort key of waiting steps: by their steps, and items of a foreach by their number."""
    parts = re.split(r"(\d+)", str(waiting.get("step")))
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]
