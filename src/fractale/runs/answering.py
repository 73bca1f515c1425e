"""Answers to the questions of a run: given beforehand, by ``--yes``, or by the user."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from langgraph.types import Command

from fractale.clock import elapsed
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
from fractale.runs.options import RunOptions

SHORTEST_SECONDS = 1.0
"""The least time in which a user, or a record, can answer a question whose time is almost over."""


class Answering:
    """Answers the questions of one run: given beforehand, by ``--yes``, or by the user.

    Args:
        options: The user to ask, and the answers given beforehand.

    Attributes:
        context: The run; set once it is known.
        waiting: The latest questions of the graph.
        asking: Whether the user is answering a question that the graph waits for.
    """

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._elicited: dict[str, Any] = {}
        self._of_changed: dict[str, Any] = {}
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
        if self._options.person is None:
            return MISSING
        with self.context.meter.paused():
            answer = await self._in_time(self._options.person.answer(question))
        if answer is MISSING:
            return MISSING
        if isinstance(answer, Checked):
            return self._take(question, answer.value, "person")
        return self._take(question, read_answer(question, answer), "person")

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

    def _take(self, question: Mapping[str, Any], answer: Any, by: str) -> Any:
        self.context.masker.add(*secrets_of_answer(question, answer))
        self.keep(question, answer)
        shown = without_secrets(question, answer)
        self.context.emit(
            "answered", step=question.get("step"), question=dict(question), answer=shown, by=by
        )
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

    async def ask_now(self, question: Mapping[str, Any]) -> Any:
        """The answer to a server's question in the middle of a call; None if there is none."""
        asked = self.context.mask(dict(question))
        if (known := identity(asked)) in self._elicited:
            return self._elicited[known]
        answer = await self._answer(asked, Answers())
        return None if answer is MISSING else answer


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
