"""Steps whose attempt is made again: until an answer is there, or after a failure.

The graph below such a step has one node, `try`, which leads to itself. Each try is a checkpoint and
has its own call sites in the journal. A try begins with the pause before it, in which the run can
be suspended. The attempt stays the same, so `max_attempts` does not count its tries.

- `until`: the call of a tool is made again until the expression is true. A failed call fails the
  step. So does the last call, made when `timeout` is over, if the expression is still not true.
- `retry` with `on: failure`: an attempt that failed is made again. A refused call is not, nor what
  a person has decided, nor a job that may still run (`Attempt.end_tries`).
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale import questions
from fractale.clock import between, elapsed
from fractale.durations import in_words
from fractale.errors import CallError, PolicyError, TemplateError
from fractale.evidence import Notice
from fractale.graph.call import Attempt, Consents
from fractale.graph.outcome import (
    CallResult,
    Decision,
    as_plain,
    decide,
    rule_scope,
)
from fractale.graph.step import (
    StepNode,
    failed_call,
    in_time,
    is_tried_again,
    retry_policy,
    tries_of,
)
from fractale.graph.timers import now, pause
from fractale.models import Usage
from fractale.plain import to_json
from fractale.plan.expressions import holds
from fractale.plan.model import FAILURE, POLL_SECONDS, SUCCESS, Step
from fractale.policy import from_data, to_data
from fractale.text import clip

TRY: Final = "try"

FINAL: Final = (PolicyError.code, TemplateError.code)
"""Codes of failures that would be the same again, since the user or the plan decided them."""

NOT_YET: Final = "until"
"""The code of a step whose `until` was not true in time."""

MOST_TRIES: Final = 1_000_000_000
"""LangGraph's own limit of rounds. The step has its own: `timeout` and `attempts`."""

MOST_DOUBLINGS: Final = 30
LOG: Final = re.compile("; (last line|stderr): ")
"""The end of an error that is the log of a job or a script."""

MOST_SHOWN: Final = 300
"""The most characters of the last answer that an error shows."""


class Tries(TypedDict, total=False):
    """The state of the graph.

    Keys:
        began: The moment of the first try (`fractale.clock`).
        calls: The number of tries so far.
        failed: How many of them failed.
        due: When the next try is made (`fractale.questions.due`). Its `last` is when the last one
            is made, in Unix time; None if that is not known.
        reason: Why the step waits until then, as text.
        consents: Call → the arguments with which the user agreed to it.
        usage: Of the models, in all tries.
        sources: Of all values that the tries have seen, as JSON.
        end: The result of the last try and the decision about it.
    """

    began: dict[str, Any]
    calls: int
    failed: int
    due: dict[str, Any]
    reason: str
    consents: dict[str, Any]
    usage: dict[str, Any]
    sources: list[dict[str, Any]]
    end: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TriedRun:
    """The context of the node."""

    attempt: Attempt


def repeated(leaf: StepNode) -> StepNode:
    """The node of a step whose attempt is made again.

    Args:
        leaf: The node of the step, as its kind has built it.
    """
    return replace(leaf, perform=_perform, inside=_graph(leaf))


async def _perform(attempt: Attempt) -> CallResult:
    config = cast("RunnableConfig", {**attempt.config, "recursion_limit": MOST_TRIES})
    context = TriedRun(attempt)
    after = cast("Tries", await attempt.inside.ainvoke(Tries(), config, context=context))
    attempt.usage = Usage(**after.get("usage", {}))
    attempt.seen.add(from_data(after.get("sources")))
    return _result_of(after.get("end", {}), attempt)


def _graph(leaf: StepNode) -> Any:
    inside = leaf.inside

    async def once_more(state: Tries, runtime: Runtime[TriedRun], config: RunnableConfig) -> Tries:
        attempt = runtime.context.attempt
        attempt.config, attempt.inside, attempt.tries = config, inside, tries_of(runtime)
        attempt.journal.at_try(attempt.tries)
        return await _Try(leaf, attempt, state).make()

    builder: Any = StateGraph(Tries)
    of_leaf = leaf.step.retry
    policy = retry_policy(leaf) if of_leaf and of_leaf.on != "failure" else None
    builder.add_node(TRY, once_more, input_schema=Tries, retry_policy=policy)
    builder.add_edge(START, TRY)
    builder.add_conditional_edges(TRY, _next, [TRY, END])
    return builder.compile(name=leaf.step.name)


def _next(state: Tries) -> str:
    return END if state.get("end") else TRY


class _Try:
    """One try of an attempt."""

    def __init__(self, leaf: StepNode, attempt: Attempt, state: Tries) -> None:
        self._leaf = leaf
        self._attempt = attempt
        self._state = state
        self._failed = state.get("failed", 0)
        self._calls = state.get("calls", 0) + 1
        self._before = attempt.usage

    async def make(self) -> Tries:
        """Wait for the time of the try, make it, and decide whether another one follows.

        Raises:
            CallError: The call failed and is to be tried again by LangGraph's retry policy.
        """
        attempt, state, step = self._attempt, self._state, self._attempt.step
        if due := state.get("due"):
            await pause(attempt, due, state.get("reason", ""))
        began = state.get("began") or await now(attempt)
        attempt.consents = Consents(state.get("consents", {}), _repeats(step))
        attempt.repetition = self._failed
        result = await self._result(began)
        decision = await decide(attempt, result, final=step.until is None)
        if step.until is not None and (decision.outcome, decision.event) == ("success", SUCCESS):
            result, holding = self._until(result)
            if holding is False:
                at = await now(attempt)
                left = (step.timeout or 0.0) - between(began, at)
                if left > 0:
                    return self._again_in(min(step.every or POLL_SECONDS, left), began, at)
                result = self._too_late(result)
            if holding is not True or decision.decided_by == "default":
                decision = await decide(attempt, result)
        if attempt.files is not None:
            decision = await attempt.files.created(decision)
        if self._fails_again(result, decision):
            at = await now(attempt)
            seconds = self._delay()
            words = f"try {self._failed + 1} failed, trying again in {in_words(seconds)}"
            attempt.warn("retry", f"{words}: {result.error or result.fault or decision.reason}")
            return self._retried_in(seconds, began, at)
        at = await now(attempt)
        end = self._end(*self._with_tries(result, decision), between(began, at))
        return self._so_far(began) | Tries(end=end)

    async def _result(self, began: dict[str, Any]) -> CallResult:
        attempt, leaf, retry = self._attempt, self._leaf, self._attempt.step.retry
        try:
            async with nullcontext() if leaf.inside else in_time(attempt, self._left(began)):
                return as_plain(await leaf.perform(attempt))
        except CallError as error:
            if retry and retry.on != "failure" and await is_tried_again(attempt, error):
                attempt.warn("retry", f"try {attempt.tries} failed, trying again: {error}")
                raise
            return as_plain(failed_call(attempt, error))

    def _left(self, began: dict[str, Any]) -> float | None:
        """The seconds that a call may take; None: the whole timeout.

        The last call begins when the timeout is over. It has as long as one between two pauses.
        """
        step, context = self._attempt.step, self._attempt.context
        if step.until is None or step.timeout is None or not self._attempt.deps.patient:
            return None
        left = step.timeout - elapsed(context.clock, began)
        return max(left, step.every or POLL_SECONDS)

    def _until(self, result: CallResult) -> tuple[CallResult, bool | None]:
        """Whether `until` is true for an answer. If that is an error, the result has it."""
        attempt, until = self._attempt, self._attempt.step.until
        assert until is not None  # noqa: S101 - the caller looked
        scope = rule_scope(attempt.scope, result, attempt.scope.get("attempts", attempt.attempts))
        missing: list[str] = []
        try:
            holding = holds(until, scope, missing.append)
        except CallError as error:
            return replace(result, error=str(error), code=error.code), None
        for name in missing if self._calls == 1 else ():
            attempt.warn("undefined", f"`until: {until.source}`: `{name}` is not defined")
        return result, holding

    def _too_late(self, result: CallResult) -> CallResult:
        step = self._attempt.step
        calls = "1 call" if self._calls == 1 else f"{self._calls} calls"
        said = result.text.strip() or to_json(result.outputs)
        words = f"`until` was not true within {in_words(step.timeout or 0.0)} ({calls})"
        return replace(
            result,
            error=f"{words}; the last answer: {clip(said, MOST_SHOWN)}",
            code=NOT_YET,
        )

    def _fails_again(self, result: CallResult, decision: Decision) -> bool:
        """Whether the attempt failed and is made again."""
        retry = self._attempt.step.retry
        if retry is None or retry.on != "failure" or self._failed + 1 >= retry.attempts:
            return False
        failed = (decision.outcome, decision.event) == ("failure", FAILURE)
        is_final = result.code in (*FINAL, NOT_YET) or self._attempt.tries_ended
        return failed and not is_final

    def _delay(self) -> float:
        retry = self._attempt.step.retry
        assert retry is not None  # noqa: S101 - the caller looked
        wanted = retry.delay * retry.backoff ** min(self._failed, MOST_DOUBLINGS)
        return min(wanted, max(retry.delay, retry.max_delay))

    def _again_in(self, seconds: float, began: dict[str, Any], at: dict[str, Any]) -> Tries:
        words = f"calls `{self._attempt.step.target}` again in {in_words(seconds)}"
        reason = f"{words} (call {self._calls + 1})"
        step = self._attempt.step
        last = None if step.timeout is None else round(began["wall"] + step.timeout, 3)
        due = {**questions.due(at, seconds), "last": last}
        return self._so_far(began) | Tries(due=due, reason=reason)

    def _retried_in(self, seconds: float, began: dict[str, Any], at: dict[str, Any]) -> Tries:
        retry = self._attempt.step.retry
        assert retry is not None  # noqa: S101 - the caller looked
        reason = f"tries again in {in_words(seconds)} (try {self._failed + 2} of {retry.attempts})"
        due = {**questions.due(at, seconds), "last": None}
        return self._so_far(began) | Tries(due=due, reason=reason, failed=self._failed + 1)

    def _with_tries(self, result: CallResult, decision: Decision) -> tuple[CallResult, Decision]:
        """The last result, which says how many tries there were, if an earlier one failed."""
        if not self._failed:
            return result, decision
        if decision.outcome != "failure":
            words = f"{'1 try' if self._failed == 1 else f'{self._failed} tries'} failed before"
            notice = Notice(kind="warning", message=words)
            return replace(result, notices=(*result.notices, notice)), decision
        tries, texts = f" (after {self._failed + 1} tries)", [result.error, result.fault]
        known = next(filter(None, texts), "")
        if decision.reason and (not known or known.endswith(decision.reason)):
            decision = replace(decision, reason=_before_log(decision.reason, tries))
        if result.error:
            result = replace(result, error=_before_log(result.error, tries))
        elif result.fault:
            result = replace(result, fault=_before_log(result.fault, tries))
        return result, decision

    def _so_far(self, began: dict[str, Any]) -> Tries:
        attempt, known = self._attempt, Usage(**self._state.get("usage", {}))
        used, before = asdict(attempt.usage), asdict(self._before)
        usage = known + Usage(**{name: used[name] - before[name] for name in used})
        consents = attempt.consents
        return Tries(
            began=began,
            calls=self._calls,
            consents={**consents.known, **consents.new} if consents else {},
            usage=asdict(usage),
            sources=to_data(attempt.seen.sources),
        )

    def _end(self, result: CallResult, decision: Decision, seconds: float) -> dict[str, Any]:
        """The parts of a result that its step still needs, as JSON."""
        mask, put = self._attempt.context.mask, self._attempt.deps.outputs.put
        texts = {"error": result.error, "code": result.code, "fault": result.fault}
        return {
            **mask(texts),
            "decision": mask(asdict(decision)),
            "notices": mask([dict(notice) for notice in result.notices]),
            "outputs": put(result.outputs),
            "conversation": None if result.conversation is None else put(result.conversation),
            "seconds": round(max(seconds, result.seconds), 3),
        }


def _before_log(error: str, words: str) -> str:
    """An error with words at its end, before the last lines of a log."""
    found = LOG.search(error)
    end = found.start() if found else len(error)
    return f"{error[:end]}{words}{error[end:]}"


def _result_of(end: dict[str, Any], attempt: Attempt) -> CallResult:
    get = attempt.deps.outputs.get
    return CallResult(
        outputs=get(end["outputs"]),
        error=end["error"],
        code=end["code"],
        fault=end["fault"],
        matched=Decision(**end["decision"]),
        notices=tuple(end["notices"]),
        conversation=None if end["conversation"] is None else get(end["conversation"]),
        seconds=end["seconds"],
    )


def _repeats(step: Step) -> str:
    """The repetitions of a call, for the user who approves it."""
    parts: list[str] = []
    if step.until is not None:
        parts.append(f"it is called again until `{clip(step.until.source)}`")
    if step.retry is not None and step.retry.on == "failure":
        parts.append(f"it is called up to {step.retry.attempts} times if it fails")
    return f"your consent counts for all calls with these arguments: {' and '.join(parts)}"
