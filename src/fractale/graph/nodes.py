"""One step from its entry to its record: what every node of the graph does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langgraph.errors import GraphInterrupt

from fractale.errors import CallError, FractaleError
from fractale.graph.attempt import Attempt
from fractale.graph.calls import perform
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.entering import (
    applies_now,
    call_step,
    decide,
    shorten,
    spent_by,
)
from fractale.graph.flow import Flow, flow_of, labels_of
from fractale.graph.kinds import Compiler, Perform
from fractale.graph.outcome import CallResult, Decision, as_plain, record_of
from fractale.graph.scope import Needs, build_scope, needs_of, step_values
from fractale.graph.slots import asks
from fractale.graph.state import ItemState, PlanState, Record, Spent
from fractale.labels import to_data
from fractale.plan.expressions import render
from fractale.plan.model import END_FAILED, END_SUCCESS, SUCCESS, Plan, Step

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

ENDS = (END_SUCCESS, END_FAILED)


class GaveUp(FractaleError):
    """A step was to be entered more often than `max_attempts` allows: the run failed.

    Args:
        step: The step's path.
    """

    code = "gave-up"

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNode:
    """The node of one step: a function from the state to what changes in it.

    Args:
        plan: The plan that the step is part of.
        members: The steps of the same graph; a transition to any other leaves the graph.
        perform: Makes the call.
        inside: The compiled graph of a foreach, a parallel block or an included plan.
    """

    plan: Plan
    step: Step
    deps: Dependencies
    members: frozenset[str]
    needs: Needs
    perform: Perform
    inside: Any = None

    async def attempt(
        self,
        state: PlanState,
        context: RunContext,
        config: RunnableConfig,
        tries: int,
        inside: Any = None,
    ) -> PlanState:
        """Enter the step once.

        Args:
            tries: Which try of LangGraph's retry policy this is, from 1.
            inside: The step's own graph, for `perform`.

        Returns:
            What changes in the state.

        Raises:
            GaveUp: The step was entered too often.
            LimitReached: A limit of the run is used up.
            CallError: The call failed and is to be tried again.
        """
        started, running = time.monotonic(), context.meter.seconds
        step = self.step
        path = state.get("prefix", "") + step.name
        before = state.get("steps", {}).get(step.name, Record())
        attempts = before.get("attempts", 0) + 1
        scope = build_scope(state, context, self.deps.outputs, self.needs)
        attempt = Attempt(
            step=step,
            path=path,
            deps=self.deps,
            context=context,
            config=config,
            state=state,
            inside=inside,
            scope={**scope, "attempts": attempts},
            attempts=attempts,
            flow=flow_of(state, context.secret_inputs, context.drafted_from),
            tries=tries,
            conversation=self.deps.outputs.get(before.get("conversation")),
        )
        if attempt.conversation:
            attempt.seen.add(labels_of(before))
        applies, fault = applies_now(attempt)
        if not applies:
            return self._skip(state, attempt, before)
        if tries == 1:
            self._enter(attempt, state.get("last"), before.get("inherited", 0))
        result = fault or await self._call(attempt)
        decision = await decide(attempt, result)
        attempt.finish()
        spent = spent_by(attempt, context.meter.seconds - running)
        seconds = max(time.monotonic() - started, result.seconds)
        return self._finish(state, attempt, result, decision, seconds, spent)

    async def _call(self, attempt: Attempt) -> CallResult:
        try:
            return as_plain(await call_step(attempt, self.perform, attempt.tries))
        except GraphInterrupt as error:
            if asks(error):
                attempt.context.asked.set()
            raise

    def _skip(self, state: PlanState, attempt: Attempt, before: Record) -> PlanState:
        decision = Decision(
            outcome="skipped", event=SUCCESS, decided_by="when", reason="its `when` does not hold"
        )
        record = Record(
            outcome="skipped",
            event=SUCCESS,
            decided_by="when",
            outputs={},
            attempts=before.get("attempts", 0),
        )
        _inherit(record, before)
        update = self._leave(state, attempt, record, decision)
        self._tell_finished(attempt, decision, CallResult(), 0.0, record)
        return update

    def _enter(self, attempt: Attempt, last: str | None, inherited: int) -> None:
        step, limit = self.step, self._max_attempts()
        if attempt.attempts - inherited > limit:
            times = "once" if limit == 1 else f"{limit} times"
            raise GaveUp(
                attempt.path, f"step `{attempt.path}` gave up: it was entered {times}, its limit"
            )
        task = str(attempt.config.get("configurable", {}).get("checkpoint_ns", ""))
        if not attempt.context.meter.enter_step(attempt.path, task):
            return
        attempt.emit(
            "step_started",
            attempt=attempt.attempts,
            type=step.kind,
            target=step.target,
            description=step.description,
            previous=last,
        )

    def _max_attempts(self) -> int:
        own = self.step.max_attempts or self.plan.limits.attempts
        return own or self.deps.max_attempts

    def _finish(
        self,
        state: PlanState,
        attempt: Attempt,
        result: CallResult,
        decision: Decision,
        seconds: float,
        spent: Spent,
    ) -> PlanState:
        store, mask = self.deps.outputs, attempt.context.mask
        record = mask(record_of(decision, result, attempt.attempts))
        if attempt.seen.sources:
            record["sources"] = to_data(attempt.seen.sources)
        _inherit(record, state.get("steps", {}).get(self.step.name, Record()))
        record["outputs"] = store.put(record["outputs"])
        if attempt.inputs:
            record["inputs"] = store.put(mask(dict(attempt.inputs)))
        if "conversation" in record:
            record["conversation"] = store.put(record["conversation"])
        update = self._leave(state, attempt, record, decision)
        update["steps"] = {**attempt.records, **update.get("steps", {})}
        update["spent"] = spent
        self._tell_finished(attempt, decision, result, seconds, record)
        return update

    def _leave(
        self, state: PlanState, attempt: Attempt, record: Record, decision: Decision
    ) -> PlanState:
        """Where the run goes from here, as changes of the state."""
        target = self._target(decision)
        update = PlanState(steps={self.step.name: record})
        if target is None:
            return update
        update["last"] = self.step.name
        if target in ENDS:
            update.update(self._end(state, attempt, record, target))
        elif target not in self.members:
            update["goto"] = target
        return update

    def _target(self, decision: Decision) -> str | None:
        """Where the step leads; None for a step of a parallel block, which leads nowhere."""
        if self.step.name not in self.plan.next_steps:
            return None
        return self.plan.target_of(self.step, decision.event)

    def _end(self, state: PlanState, attempt: Attempt, record: Record, target: str) -> PlanState:
        """The changes of the state that end this plan."""
        if target == END_FAILED:
            error = record.get("error") or record.get("reason") or "the plan ended in failed"
            return PlanState(status="failed", error=error)
        steps = {**state.get("steps", {}), self.step.name: record}
        final = cast("PlanState", {**state, "steps": steps, "last": self.step.name})
        needs = needs_of([dict(self.plan.outputs)])
        scope = build_scope(final, attempt.context, self.deps.outputs, needs)
        try:
            outputs = render(dict(self.plan.outputs), scope)
        except CallError as error:
            return PlanState(status="failed", error=str(error))
        return PlanState(
            status="success", outputs=self.deps.outputs.put(attempt.context.mask(outputs))
        )

    def _tell_finished(
        self,
        attempt: Attempt,
        decision: Decision,
        result: CallResult,
        seconds: float,
        record: Record,
    ) -> None:
        attempt.emit(
            "step_finished",
            attempt=attempt.attempts,
            outcome=decision.outcome,
            event_name=decision.event,
            decided_by=decision.decided_by,
            reason=decision.reason,
            error=record.get("error"),
            code=result.code,
            seconds=round(seconds, 3),
            tokens=attempt.usage.total_tokens,
            next=self._target(decision),
            notices=record.get("notices", []),
            outputs=shorten(attempt.context.mask(result.outputs)),
            inputs_ref=record.get("inputs"),
            outputs_ref=record.get("outputs"),
        )

    async def attempt_item(
        self,
        state: ItemState,
        context: RunContext,
        config: RunnableConfig,
        tries: int,
        inside: Any = None,
    ) -> ItemState:
        """Run the step for one item of its foreach.

        Returns:
            The item's result by its index.
        """
        started, running = time.monotonic(), context.meter.seconds
        index = state.get("index", 0)
        item = self.deps.outputs.get(state.get("item"))
        attempt = Attempt(
            step=self.step,
            path=f"{context.item_path}[{index}]",
            deps=self.deps,
            context=context,
            config=config,
            inside=inside,
            tries=tries,
            flow=context.item_flow or Flow(base=context.drafted_from),
            scope={**context.item_scope, "item": item, "index": index},
        )
        if tries == 1:
            is_element = context.tally is not None and context.tally.is_array
            context.emit(
                "item_started",
                step=context.item_path,
                index=index,
                total=state.get("total"),
                **({"element": True} if is_element else {}),
            )
        result = await self._call(attempt)
        decision = await decide(attempt, result)
        attempt.finish()
        entry = attempt.context.mask(record_of(decision, result, 1))
        entry["outputs"] = self.deps.outputs.put(entry["outputs"])
        if attempt.seen.sources:
            entry["sources"] = to_data(attempt.seen.sources)
        seconds = max(time.monotonic() - started, result.seconds)
        context.emit(
            "item_finished",
            step=context.item_path,
            index=index,
            total=state.get("total"),
            outcome=decision.outcome,
            error=decision.reason if decision.outcome == "failure" else None,
            decided_by=decision.decided_by,
            seconds=round(seconds, 3),
            inputs_ref=self.deps.outputs.put(context.mask(dict(attempt.inputs))),
            outputs_ref=entry["outputs"],
        )
        spent = spent_by(attempt, context.meter.seconds - running)
        spent["steps"] = 0
        return ItemState(results={str(index): entry}, spent=spent)


def _inherit(record: Record, before: Record) -> None:
    """Keep how many of a step's attempts an earlier run made, for as long as this one goes on."""
    if "inherited" in before:
        record["inherited"] = before["inherited"]


def bare_node(plan: Plan, step: Step, deps: Dependencies, members: frozenset[str]) -> StepNode:
    """The node of a step before its kind says what it does."""
    return StepNode(
        plan=plan,
        step=step,
        deps=deps,
        members=members,
        needs=needs_of(step_values(step)),
        perform=perform,
    )


def leaf(node: StepNode, compiler: Compiler) -> StepNode:
    """A tool, prompt or agent step: a single call."""
    del compiler
    return node
