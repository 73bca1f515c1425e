"""The rounds of a graph: it runs until it asks something, and again with the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from langgraph.types import Command, Durability

from fractale.graph.compile import node_of
from fractale.graph.context import RunContext
from fractale.graph.tracing import masked
from fractale.plan.kinds import KINDS
from fractale.plan.model import FAILURE, Plan
from fractale.questions import MISSING, Answers, is_due, needs_no_answer
from fractale.runs.answering import Answering
from fractale.runs.options import Invoke, RunOptions
from fractale.runs.reporter import RunReporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A compiled graph, and the thread of its checkpoints.

    Args:
        config: LangGraph's configuration, which names the thread.
        invoke: Runs the graph instead of its ``ainvoke``.
    """

    graph: Any
    config: dict[str, Any]
    invoke: Invoke | None = None

    async def snapshot(self, *, subgraphs: bool = False) -> Any:
        """The latest state of the graph, as LangGraph has it."""
        return await self.graph.aget_state(self.config, subgraphs=subgraphs)


class Rounds:
    """Runs the graphs of one run, and answers their questions between two rounds.

    Args:
        patient: Whether times pass. In a replay they do not: its answers come from the record.
        outlives_process: Whether the checkpoints do, so that LangGraph writes one after each step.
    """

    def __init__(
        self,
        plan: Plan,
        options: RunOptions,
        context: RunContext,
        answering: Answering,
        reporter: RunReporter,
        *,
        patient: bool,
        outlives_process: bool,
    ) -> None:
        self._plan = plan
        self._options = options
        self._context = context
        self._answering = answering
        self._reporter = reporter
        self._patient = patient
        self._durability: Durability = "sync" if outlives_process else "exit"
        self._late = frozenset[str]()

    async def run(self, thread: Thread, given: Any, asked: Sequence[Any] = ()) -> Mapping[str, Any]:
        """Run a graph until its end, or until a question without an answer. Returns its values.

        Args:
            given: The first input of the graph; None: it continues.
            asked: The questions that the graph waits for. Their answers are the first input.
        """
        questions = [i for i in asked if not needs_no_answer(i.value)]
        if questions and not self._looks_first([{**i.value, "id": i.id} for i in questions]):
            given = await self._answering.replies(questions, self._options.replies)
            ends = given is None and len(questions) == len(asked)
            if ends and not self._is_late(questions):
                return {"__interrupt__": asked}
        invoke = partial(thread.invoke, thread.graph) if thread.invoke else thread.graph.ainvoke
        while True:
            with masked(thread.config, self._context.masker) as shown:
                values = await invoke(
                    given,
                    shown,
                    context=self._context,
                    durability=self._durability,
                    control=self._options.control,
                )
            given = await self._next_input(values)
            if given is None and not self._is_late(values.get("__interrupt__") or ()):
                return values

    def _looks_first(self, questions: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the graph must run again before the user is asked.

        A job whose outcome was unknown may have evidence by now. The time of a question may have
        come.
        """
        options, clock = self._options, self._context.clock
        changed = any(
            q.get("kind") == "job_unknown"
            or (is_due(q, clock) and options.answers.find(q) is MISSING)
            for q in questions
        )
        if not changed or any(self._answering.has_mail(each) for each in questions):
            return False
        return all(options.replies.find(each) is MISSING for each in questions)

    def _is_late(self, interrupts: Sequence[Any]) -> bool:
        """Whether the time of a question has come, so that its step takes the default."""
        if not self._patient:
            return False
        asked = [each for each in interrupts if not needs_no_answer(each.value)]
        late = frozenset(each.id for each in asked if is_due(each.value, self._context.clock))
        before, self._late = self._late, late
        return bool(late - before)  # a question that stays open has no default to take

    async def _next_input(self, values: Mapping[str, Any]) -> Any:
        """The next input of the graph, after an answer; None at an end."""
        if interrupts := values.get("__interrupt__"):
            self._context.asked.clear()
            questions = [i for i in interrupts if not needs_no_answer(i.value)]
            return await self._answering.replies(questions, Answers()) if questions else None
        if self._options.person and values.get("status") == "failed":
            return await self._ask_after_failure(values)
        return None

    async def _ask_after_failure(self, values: Mapping[str, Any]) -> Any:
        """Ask about a failure without its own transition: retry, skip or quit."""
        step = self._plan.step(str(values["last"]))
        record = values["steps"][step.name]
        is_decided = FAILURE in step.transitions or KINDS[step.kind].asks_user
        if is_decided or record.get("event") != FAILURE:
            return None
        question = {"kind": "failure", "step": step.name, "error": values.get("error")}
        if jobs := self._reporter.jobs.failed_in(step.name):
            question["log"] = jobs[0]["log"]
        answer = await self._answering.ask(question)
        target = step.name
        if answer == "skip":
            target = self._plan.target_of(step, "success")
        if answer not in ("retry", "skip") or target in ("success", "failed"):
            return None
        update: dict[str, Any] = {"goto": target, "status": None, "error": None}
        return Command(goto=node_of(self._plan, target), update=update)
