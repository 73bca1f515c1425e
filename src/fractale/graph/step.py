"""The node of a step, from its entry to its record. Steps and items of a foreach share it.

Read `StepNode.__call__` from top to bottom. `AsStep` and `AsItem` have the differences between a
step of the plan and an item of a foreach: how the attempt begins, and the form of its record.

This module does not postpone annotations, since LangGraph evaluates those of every node's function.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphInterrupt
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy

from fractale.errors import CallError, FractaleError, TransportError
from fractale.graph.bindings import resolve
from fractale.graph.call import Attempt, LabelFlow, foreach_expressions, labels_of
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.interrupts import asks
from fractale.graph.outcome import CallResult, Decision, as_plain, decide, record_of
from fractale.graph.resources import fill_inputs
from fractale.graph.state import ItemState, PlanEnd, PlanState, Record, Spent
from fractale.plain import as_text
from fractale.plan.expressions import holds, references, render
from fractale.plan.kinds import KINDS
from fractale.plan.model import (
    END_FAILED,
    END_SUCCESS,
    FAILURE,
    SUCCESS,
    Expression,
    Plan,
    Step,
    Template,
    Value,
)
from fractale.plan.values import has_resource, has_template
from fractale.policy import Labels, may_repeat, to_data
from fractale.store.outputs import OutputStore

if TYPE_CHECKING:
    from fractale.graph.reuse import Reuse

Graph: TypeAlias = StateGraph[PlanState, RunContext, PlanState, PlanState]
NodeFunction: TypeAlias = Callable[
    [PlanState, Runtime[RunContext], RunnableConfig], Awaitable[PlanState]
]
Written: TypeAlias = "Value | Expression"
"""A value or an expression as the plan has it, before it is evaluated."""

ENDS = (END_SUCCESS, END_FAILED)

WHEN_FALSE = Decision(
    outcome="skipped", event=SUCCESS, decided_by="when", reason="its `when` does not hold"
)


class AttemptsExceeded(FractaleError):
    """A step was to be entered more often than `max_attempts` allows: the run failed.

    Args:
        step: The step's path.
    """

    code = "gave-up"

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


async def _perform(attempt: Attempt) -> CallResult:
    raise AssertionError(f"the kind of `{attempt.path}` has no call")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepNode:
    """The node of one step: a function from the state to the changes in it.

    Args:
        plan: The plan that the step is part of.
        members: The steps of the same graph; a transition to any other step leaves the graph.
        needs: The values that its templates may read.
        templates: The inputs that have a template at any depth.
        reads_resources: Whether its inputs name MCP resources.
        leads_to: Event → step name, ``success`` or ``failed``. Empty for a step of a parallel
            block, which leads nowhere.
        perform: Makes the call. Raises CallError if it failed.
        inside: The compiled graph of a step that is more than a single call.
        entered_as: `AsStep`, or `AsItem` for the items of its foreach.
    """

    plan: Plan
    step: Step
    deps: Dependencies
    members: frozenset[str]
    needs: "Needs"
    templates: frozenset[str]
    reads_resources: bool
    leads_to: Mapping[str, str]
    perform: Callable[[Attempt], Awaitable[CallResult]] = _perform
    inside: Any = None
    entered_as: "type[AsStep | AsItem]"

    async def __call__(
        self, state: Any, runtime: Runtime[RunContext], config: RunnableConfig, inside: Any = None
    ) -> Any:
        """Enter the step once.

        Args:
            inside: The step's own graph, for `perform`.

        Returns:
            The changes of the state.

        Raises:
            AttemptsExceeded: The step was entered too often.
            LimitReached: A limit of the run is used up.
            CallError: The call failed and is to be tried again.
        """
        context = runtime.context or RunContext()
        started, running = time.monotonic(), context.meter.seconds
        # 1. Scope: the names that its templates see, and the sources of their values.
        entered = self.entered_as(self, state, context)
        attempt = entered.attempt(config, tries_of(runtime), inside)
        # 2. When: skip the step if its condition is false, or its files are up to date.
        before = await _before(attempt, self.templates)
        if before.skip is not None:
            return entered.skipped(attempt, before.skip)
        if attempt.tries == 1:
            entered.started(attempt)
        result, reuse = before.failed, NO_REUSE
        with ExitStack() as held:
            if result is None:
                try:
                    # 3. Inputs: render them, and insert the contents of resources.
                    prepare(attempt, self.templates)
                    if self.reads_resources and self.step.foreach is None:
                        async with in_time(attempt):
                            await fill_inputs(attempt)
                    await _note_read(attempt)
                    # 4. Reuse: an equal step of an earlier run may have the result.
                    reuse = await _look_up(attempt, held)
                    # 5. Call: depends on the kind of the step.
                    async with in_time(attempt) if self.inside is None else nullcontext():
                        result = reuse.result or as_plain(await self.perform(attempt))
                except CallError as error:
                    if await is_tried_again(attempt, error):
                        attempt.warn("retry", f"try {attempt.tries} failed, trying again: {error}")
                        raise
                    result = as_plain(failed_call(attempt, error))
                except GraphInterrupt as interrupt:
                    if asks(interrupt):
                        context.asked.set()
                    raise
            # 6. Evidence: decides the outcome.
            decision = await decide(attempt, result)
            if attempt.files is not None and result.matched is None:  # else each try has looked
                decision = await attempt.files.created(decision)
            await reuse.keep(result, decision)
        attempt.finish()
        # 7. Record: the checkpoint stores it, masked.
        spent = _spent_by(attempt, context.meter.seconds - running)
        seconds = round(max(time.monotonic() - started, result.seconds), 3)
        return entered.finished(attempt, result, decision, seconds, spent)


def bare_node(plan: Plan, step: Step, deps: Dependencies, members: frozenset[str]) -> StepNode:
    """The node of a step before its kind sets the call."""
    return StepNode(
        plan=plan,
        step=step,
        deps=deps,
        members=members,
        needs=needs_of(step_values(step)),
        templates=frozenset(n for n, value in step.rendered.items() if has_template(value)),
        reads_resources=step.job is None and has_resource(dict(step.inputs)),
        leads_to=targets_of(plan, step) if step.name in plan.next_steps else {},
        entered_as=AsStep,
    )


def targets_of(plan: Plan, step: Step) -> dict[str, str]:
    """Event → where it leads, for every event that the step can have."""
    events = {"success", "failure", *step.transitions, *(rule.event for rule in step.rules)}
    return {event: plan.target_of(step, event) for event in sorted(events)}


def item_node(node: StepNode) -> StepNode:
    """The node of a step as each item of its foreach, or element of its array, enters it."""
    step = replace(node.step, foreach=None, when=None)
    return replace(node, step=step, entered_as=AsItem)


# The entry of a step and of an item


class AsStep:
    """A step of the plan, whose state is `PlanState`."""

    def __init__(self, node: StepNode, state: PlanState, context: RunContext) -> None:
        self.node = node
        self.state = state
        self.context = context
        self.before = state.get("steps", {}).get(node.step.name, Record())

    def attempt(self, config: RunnableConfig, tries: int, inside: Any) -> Attempt:
        """The next attempt of the step."""
        node, state, context, before = self.node, self.state, self.context, self.before
        attempts = before.get("attempts", 0) + 1
        scope = build_scope(node.plan, state, context, node.deps.outputs, node.needs)
        flow = LabelFlow(
            records=state.get("steps", {}),
            inputs=state.get("sources", {}),
            last=state.get("last"),
            secrets=frozenset(context.secret_inputs),
            base=context.drafted_from,
            values=state.get("value_sources", {}),
        )
        if context.outer is not None:
            scope, flow = context.outer.with_own(scope), flow.beside(context.outer.flow)
        attempt = Attempt(
            step=node.step,
            path=state.get("prefix", "") + node.step.name,
            deps=node.deps,
            context=context,
            config=config,
            state=state,
            inside=inside,
            scope={**scope, "attempts": attempts},
            attempts=attempts,
            flow=flow,
            tries=tries,
            conversation=node.deps.outputs.get(before.get("conversation")),
        )
        if attempt.conversation:
            attempt.seen.add(labels_of(before))
        return attempt

    def started(self, attempt: Attempt) -> None:
        """Count the attempt and report it.

        Raises:
            AttemptsExceeded: It is one too many.
            LimitReached: A limit of the run is used up.
        """
        step, node = attempt.step, self.node
        limit = step.max_attempts or node.plan.limits.attempts or node.deps.max_attempts
        if attempt.attempts - self.before.get("inherited", 0) > limit:
            times = "once" if limit == 1 else f"{limit} times"
            raise AttemptsExceeded(
                attempt.path, f"step `{attempt.path}` was entered {times}, its limit"
            )
        task = str(attempt.config.get("configurable", {}).get("checkpoint_ns", ""))
        if not self.context.meter.enter_step(attempt.path, task):
            return
        attempt.emit(
            "step_started",
            attempt=attempt.attempts,
            type=step.kind,
            target=step.target,
            description=step.description,
            previous=self.state.get("last"),
            **self._handler,
        )

    @property
    def _handler(self) -> dict[str, str]:
        """For a step of a handler, the handler, as a field of its events."""
        name = self.state.get("ended", PlanEnd()).get("handler")
        return {"handler": name} if name else {}

    def skipped(self, attempt: Attempt, decision: Decision) -> PlanState:
        """The changes of the state if the step's `when` is false, or its files are up to date."""
        record = Record(
            outcome="skipped",
            event=SUCCESS,
            decided_by=decision.decided_by,
            outputs={},
            attempts=self.before.get("attempts", 0),
        )
        return self._left(attempt, CallResult(), decision, record, 0.0)

    def finished(
        self,
        attempt: Attempt,
        result: CallResult,
        decision: Decision,
        seconds: float,
        spent: Spent,
    ) -> PlanState:
        """The changes of the state."""
        outputs = attempt.deps.outputs
        record = _record(attempt, result, decision, attempt.attempts)
        if attempt.inputs and not attempt.step.value_names:  # those are its outputs
            record["inputs"] = outputs.put(dict(attempt.inputs))
        if "conversation" in record:
            record["conversation"] = outputs.put(record["conversation"])
        by_rule = decision.decided_by == "rule" and decision.event == FAILURE
        if attempt.step.value_names and decision.outcome == "failure" and not by_rule:
            attempt.named = PlanState()  # the values are wrong; a rule only chooses the way
        update = self._left(attempt, result, decision, record, seconds)
        update["steps"] = {**attempt.records, **update.get("steps", {})}
        update["spent"] = spent
        update.update(attempt.named)
        return update

    def _left(
        self,
        attempt: Attempt,
        result: CallResult,
        decision: Decision,
        record: Record,
        seconds: float,
    ) -> PlanState:
        """The next step or end of the run, as changes of the state."""
        if "inherited" in self.before:  # attempts that an earlier run made, for all later ones
            record["inherited"] = self.before["inherited"]
        name, target = self.node.step.name, self.node.leads_to.get(decision.event)
        update = PlanState(steps={name: record})
        if target is not None:
            update["last"] = name
        if target in ENDS:
            update.update(self._end(attempt, record, target))
        elif target is not None and target not in self.node.members:
            update["goto"] = target
        attempt.emit(
            "step_finished",
            attempt=attempt.attempts,
            outcome=decision.outcome,
            event_name=decision.event,
            decided_by=decision.decided_by,
            reason=decision.reason,
            error=record.get("error"),
            code=result.code,
            seconds=seconds,
            tokens=attempt.usage.input_tokens + attempt.usage.output_tokens,
            next=target,
            notices=record.get("notices", []),
            **_reused_by(attempt),
            **_read_by(attempt),
            outputs=result.outputs,
            inputs_ref=record.get("inputs"),
            outputs_ref=record.get("outputs"),
            **self._handler,
        )
        return update

    def _end(self, attempt: Attempt, record: Record, target: str | None) -> PlanState:
        """The changes of the state that end this plan.

        A plan that failed gives the outputs that can be rendered. So does one whose outputs cannot
        all be rendered, which is a failure.
        """
        plan, state, name = self.node.plan, self.state, self.node.step.name
        failed = target == END_FAILED
        error = self._error_of_end(attempt, record) if failed else None
        outputs: dict[str, Any] = {}
        if plan.outputs:
            steps = {**state.get("steps", {}), **attempt.records, name: record}
            final = cast("PlanState", {**state, "steps": steps, "last": name})
            if attempt.named:
                final["values"] = {**state.get("values", {}), **attempt.named.get("values", {})}
            outputs, faults = outputs_of(plan, final, self.context, attempt.deps.outputs)
            if faults and not failed:
                failed, error = True, self.context.mask(str(faults[0]))
        end = PlanState(status="failed", error=error) if failed else PlanState(status="success")
        if plan.outputs or not failed:
            end["outputs"] = attempt.deps.outputs.put(outputs)
        return end

    def _error_of_end(self, attempt: Attempt, record: Record) -> str:
        """The plan's error if this step ends it as failed: the step's `reason` and its error."""
        own, written = record.get("error"), attempt.step.reason
        if not written:
            return own or record.get("reason") or "the plan ended in failed"
        store = attempt.deps.outputs
        records = {**attempt.records, self.node.step.name: record}
        views = {name: _view(each, store, read=True) for name, each in records.items()}
        scope = {**attempt.scope, "steps": {**attempt.scope.get("steps", {}), **views}}
        try:
            reason = as_text(render(written, scope))
        except CallError as error:
            attempt.warn("reason", f"the step's `reason` cannot be used: {error}")
            return own or record.get("reason") or "the plan ended in failed"
        if record.get("decided_by") == "rule":  # the plan says in its own words what the rule means
            prefixes = [f"rule `{rule.expression.source}`" for rule in attempt.step.rules]
            rule = next((p for p in prefixes if own and own.startswith(p)), "")
            own = (own or "").removeprefix(rule).removeprefix(": ")
        return self.context.mask(f"{reason}: {own}" if own and own not in reason else reason)


class AsItem:
    """An item of a foreach or an element of an array, whose state is `ItemState`."""

    def __init__(self, node: StepNode, state: ItemState, context: RunContext) -> None:
        self.node = node
        self.state = state
        self.context = context

    def attempt(self, config: RunnableConfig, tries: int, inside: Any) -> Attempt:
        """The attempt of an item, which is the attempt of its step."""
        context, index = self.context, self.state.get("index", 0)
        item = self.node.deps.outputs.get(self.state.get("item"))
        return Attempt(
            step=self.node.step,
            path=f"{context.item_path}[{index}]",
            deps=self.node.deps,
            context=context,
            config=config,
            inside=inside,
            tries=tries,
            flow=context.item_flow or LabelFlow(base=context.drafted_from),
            scope={**context.item_scope, "item": item, "index": index},
        )

    def started(self, attempt: Attempt) -> None:
        """Report the item."""
        tally = self.context.tally
        element = {"element": True} if tally is not None and tally.is_array else {}
        self._emit("item_started", **element)

    def _emit(self, kind: Any, **data: Any) -> None:
        known = {"index": self.state.get("index", 0), "total": self.state.get("total")}
        self.context.emit(kind, step=self.context.item_path, **known, **data)

    def skipped(self, attempt: Attempt, decision: Decision) -> ItemState:
        """The item's record if its files are up to date."""
        self.started(attempt)
        return self.finished(attempt, CallResult(), decision, 0.0, Spent())

    def finished(
        self,
        attempt: Attempt,
        result: CallResult,
        decision: Decision,
        seconds: float,
        spent: Spent,
    ) -> ItemState:
        """The item's record by its index."""
        record = _record(attempt, result, decision, 1)
        self._emit(
            "item_finished",
            outcome=decision.outcome,
            error=decision.reason if decision.outcome == "failure" else None,
            decided_by=decision.decided_by,
            seconds=seconds,
            **_reused_by(attempt),
            **_read_by(attempt),
            inputs_ref=attempt.deps.outputs.put(dict(attempt.inputs)),
            outputs_ref=record.get("outputs"),
        )
        spent["steps"] = 0
        return ItemState(results={str(self.state.get("index", 0)): record}, spent=spent)


def _record(attempt: Attempt, result: CallResult, decision: Decision, attempts: int) -> Record:
    """The part of an attempt that a checkpoint stores. It leaves the run, so it is masked here."""
    mask = attempt.context.mask
    record = cast("Record", mask({**record_of(decision, result, attempts), "outputs": None}))
    record["outputs"] = attempt.deps.outputs.put(result.outputs)
    if attempt.reused:
        record["reused"] = dict(attempt.reused)
    if attempt.seen.sources:
        sources = to_data(attempt.seen.sources)
        record["sources"] = [{**each, "name": mask(each["name"])} for each in sources]
    return record


def _reused_by(attempt: Attempt) -> dict[str, Any]:
    """Where the result came from, as a field of an event, if it was taken over."""
    return {"reused": dict(attempt.reused)} if attempt.reused else {}


def _read_by(attempt: Attempt) -> dict[str, Any]:
    """The files and programs that it named, as a field of an event, if there are any."""
    return {"read": dict(attempt.read)} if attempt.read else {}


def _spent_by(attempt: Attempt, seconds: float) -> Spent:
    """The usage of one attempt."""
    return Spent(
        steps=1,
        input_tokens=attempt.usage.input_tokens,
        output_tokens=attempt.usage.output_tokens,
        cost=attempt.usage.cost,
        seconds=round(seconds, 3),
    )


def outputs_of(
    plan: Plan, state: PlanState, context: RunContext, store: OutputStore
) -> tuple[dict[str, Any], list[CallError]]:
    """The outputs of a plan that can be rendered, and the faults of the others."""
    scope = build_scope(plan, state, context, store, needs_of([dict(plan.outputs)]))
    found: dict[str, Any] = {}
    faults: list[CallError] = []
    for name, value in plan.outputs.items():
        try:
            found[name] = render(value, scope)
        except CallError as error:
            faults.append(error)
    return found, faults


# The stages of an attempt


@dataclass(frozen=True, slots=True)
class _Before:
    """The state of a step before its call.

    Args:
        skip: The decision to skip it.
        failed: Its result, if it fails without a call.
    """

    skip: Decision | None = None
    failed: CallResult | None = None


class _NoReuse:
    """The look-up of a step that has none; see `fractale.graph.reuse.Reuse`."""

    result: CallResult | None = None

    async def keep(self, result: CallResult, decision: Decision) -> None:
        """Keep nothing."""
        del result, decision


NO_REUSE = _NoReuse()


async def _look_up(attempt: Attempt, held: ExitStack) -> "Reuse | _NoReuse":
    """Look for the result of an equal step.

    Args:
        held: Releases the lock of a result that the step computes.
    """
    cache = attempt.deps.cache
    if cache is None or not cache.wants(attempt):
        return NO_REUSE
    from fractale.graph.reuse import look_up  # few runs take over results

    reuse = await look_up(attempt)
    held.callback(reuse.release)
    return reuse


async def _note_read(attempt: Attempt) -> None:
    """Note the files and programs that the step names, for the record."""
    if attempt.context.run_dir is not None and attempt.tries == 1:
        from fractale.graph.read_files import named_by  # a run without a record needs none

        attempt.read = await asyncio.to_thread(named_by, attempt)


async def _before(attempt: Attempt, templates: Collection[str]) -> _Before:
    try:
        if not applies(attempt):
            return _Before(skip=WHEN_FALSE)
        if not attempt.step.creates or attempt.step.foreach is not None:
            return _NOTHING_BEFORE
        from fractale.graph.made import files_of  # few steps have such files

        prepare(attempt, templates)
        attempt.files = await files_of(attempt)
    except CallError as error:
        return _Before(failed=CallResult(error=str(error), code=error.code))
    if attempt.files.up_to_date is not None:
        attempt.finish()
    return _Before(skip=attempt.files.up_to_date)


_NOTHING_BEFORE = _Before()


def applies(attempt: Attempt) -> bool:
    """Whether the step's `when` is true.

    Raises:
        CallError: It can't be evaluated.
    """
    when = attempt.step.when
    if when is None:
        return True
    return holds(when, attempt.scope, lambda name: attempt.warn_undefined("when", name))


def prepare(attempt: Attempt, templates: Collection[str]) -> None:
    """Render the step's inputs and instruction. A foreach renders them for each item.

    Args:
        templates: The inputs that have a template at any depth.

    Raises:
        TemplateError: A template names something that is not defined.
    """
    step = attempt.step
    if step.foreach is not None:
        return
    if step.job and step.job.array is not None and "index" not in attempt.scope:
        return  # as in a foreach: each element renders them
    given: dict[str, Any] = dict(step.rendered)
    written = {name: value for name, value in given.items() if name in templates}
    attempt.inputs = {**given, **render(written, attempt.scope)} if written else given
    if isinstance(step.instruction, Template):
        attempt.instruction = str(render(step.instruction, attempt.scope))
    else:
        attempt.instruction = step.instruction
    _label(attempt, given, templates)


def _label(attempt: Attempt, given: Mapping[str, Value], templates: Collection[str]) -> None:
    """Record the sources of the step's values, and which of these values the user gave."""
    seen, flow = attempt.seen, attempt.flow
    seen.add(flow.base)
    for name, value in given.items():
        labels = flow.of(value) if name in templates else flow.base
        attempt.argument_sources[name] = labels
        seen.add(labels, as_text(attempt.inputs[name]) if _untrusted(labels - flow.base) else "")
        if not labels:
            seen.trust(attempt.inputs[name])
        elif not _untrusted(flow.base):
            seen.trust(_literal_of(value))
    written = attempt.step.instruction
    if written is not None:
        labels = flow.of(written)
        seen.add(labels, str(attempt.instruction) if _untrusted(labels - flow.base) else "")
        if not _untrusted(flow.base):
            seen.trust(_literal_of(written) if labels else attempt.instruction)
    if not _untrusted(flow.base):
        seen.trust(attempt.step.description)
    for words in attempt.context.drafted_for:
        seen.trust(words)
    if KINDS[attempt.step.kind].asks_model and attempt.scope.get("previous", {}).get("error"):
        seen.add(flow.previous)


def _literal_of(value: Value) -> str:
    """The parts of a text that the plan's author wrote: everything but its templates."""
    if isinstance(value, Template):
        return re.sub(r"\{\{.*?\}\}", " ", value.source, flags=re.DOTALL)
    return value if isinstance(value, str) else ""


def _untrusted(labels: Labels) -> bool:
    return any(source.untrusted for source in labels)


@asynccontextmanager
async def in_time(attempt: Attempt, seconds: float | None = None) -> AsyncGenerator[None]:
    """Bound a stage by the step's `timeout`.

    The error counts as sent only if a call that may not be repeated was in progress. Asking a model
    again does no harm, and an agent continues after the calls that it has made.

    Args:
        seconds: The time that is left, if it is not the whole timeout.

    Raises:
        TransportError: The time is up.
    """
    step = attempt.step
    try:
        async with asyncio.timeout(step.timeout if seconds is None else seconds):
            yield
    except TimeoutError as error:
        text = f"no answer within the step's timeout of {step.timeout:g} s"
        reasons = dict.fromkeys(call.message for call in attempt.cut_off if call.message)
        hints = [call.hint for call in attempt.cut_off if call.hint]
        raise TransportError(
            ": ".join((text, "; ".join(reasons))) if reasons else text,
            sent=any(call.sent for call in attempt.cut_off),
            hint=hints[0] if hints else "raise `timeout` if the work takes longer",
            position=step.where("timeout"),
        ) from error


async def is_tried_again(attempt: Attempt, error: CallError) -> bool:
    """Whether the step's `retry` applies, and a second call does no harm."""
    retry = attempt.step.retry
    if retry is None or attempt.tries >= retry.attempts or not error.retryable:
        return False
    if not isinstance(error, TransportError) or not error.sent:
        return True  # the call was never sent
    if attempt.step.kind != "tool":
        return False
    deps, bindings = attempt.deps, attempt.context.bindings
    try:
        return may_repeat(await resolve(deps.toolbox, bindings, attempt.step.target or ""))
    except CallError:
        return False


def failed_call(attempt: Attempt, error: CallError) -> CallResult:
    """The result of a call that failed, with the usage of the attempt."""
    hint = f" ({error.hint})" if error.hint else ""
    return CallResult(error=f"{error}{hint}", code=error.code, usage=attempt.usage)


# The names that templates see


def step_values(step: Step) -> list[Written]:
    """Every template and expression of a step, with those of the steps inside it."""
    values: list[Written] = [value for _, value in step.templates()]
    if step.reason is not None:
        values.append(step.reason)
    values += [rule.expression for rule in step.rules]
    values += [each for each in (step.when, step.until) if each]
    if step.foreach:
        values += foreach_expressions(step.foreach)
    for inner in (*step.steps, *(step.chain.steps if step.chain else ())):
        values += step_values(inner)
    return values


@dataclass(frozen=True, slots=True)
class Needs:
    """The values that the templates of a step may read, known before the run.

    Args:
        steps: The steps whose inputs and outputs are read; None if they are unknown.
        previous: Whether `previous` is read.
        directory: Whether `run.dir` is read.
        values: The named values that are read; None if they are unknown.
    """

    steps: frozenset[str] | None
    previous: bool
    directory: bool
    values: frozenset[str] | None = frozenset()


def needs_of(values: Iterable[Written]) -> Needs:
    """The names that the values may read."""
    names: dict[str, set[str | None]] = {"steps": set(), "values": set()}
    previous, directory = False, False
    for value in values:
        for reference in references(value):
            path = reference.path
            previous = previous or path[:1] == ("previous",)
            directory = directory or (path[:1] == ("run",) and path[1:2] in ((), ("dir",)))
            if path[0] in names:
                names[str(path[0])].add(str(path[1]) if len(path) > 1 else None)
    return Needs(_all_or(names["steps"]), previous, directory, _all_or(names["values"]))


def _all_or(names: set[str | None]) -> frozenset[str] | None:
    """The names; None if all of them may be read."""
    return None if None in names else frozenset(filter(None, names))


def build_scope(
    plan: Plan, state: PlanState, context: RunContext, store: OutputStore, needs: Needs
) -> dict[str, Any]:
    """`inputs`, `steps`, `previous`, `run` and `values` for the templates of one step.

    Values that `needs` does not name are not read from the store. Only a plan that names values has
    `values`: elsewhere, a rule may mean an output of this name.
    """
    records = state.get("steps", {})
    inputs = {key: store.get(value) for key, value in state.get("inputs", {}).items()}
    last = state.get("last")
    scope: dict[str, Any] = {
        "inputs": {**inputs, **context.secret_inputs},
        "steps": {
            name: _view(record, store, read=needs.steps is None or name in needs.steps)
            for name, record in records.items()
        },
        **_previous(last, records.get(last or "", Record()), store, read=needs.previous),
        "run": {**context.variables(directory=needs.directory), **_ended(state)},
    }
    if plan.value_names or state.get("values"):
        scope["values"] = {
            name: store.get(value) if needs.values is None or name in needs.values else None
            for name, value in state.get("values", {}).items()
        }
    return scope


def _ended(state: PlanState) -> dict[str, Any]:
    """How the plan ended, for the templates of its handlers."""
    ended = state.get("ended")
    if not ended:
        return {}
    known = {"step": ended.get("step"), "error": ended.get("error")}
    is_failed = ended.get("outcome") == "failed"
    failed = {name: value for name, value in known.items() if value and is_failed}
    return {"outcome": ended.get("outcome"), "failed": failed}


def _view(record: Record, store: OutputStore, *, read: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "outcome": record.get("outcome"),
        "attempts": record.get("attempts", 0),
        "outputs": {},
        "inputs": {},
    }
    if "error" in record:  # an absent error is undefined, so that `| default(…)` works
        view["error"] = record["error"]
    if read:
        view["outputs"] = store.get(record.get("outputs", {}))
        view["inputs"] = store.get(record.get("inputs", {}))
    return view


def _previous(
    name: str | None, record: Record, store: OutputStore, *, read: bool
) -> dict[str, Any]:
    """The step that led here; nothing at the plan's beginning, so that `| default(…)` works."""
    if name is None:
        return {}
    view: dict[str, Any] = {
        "name": name,
        "outcome": record.get("outcome"),
        "outputs": store.get(record.get("outputs", {})) if read else {},
    }
    if "error" in record:
        view["error"] = record["error"]
    return {"previous": view}


# In a LangGraph graph


def new_graph() -> Graph:
    """An empty graph of steps. Its context is a `RunContext`.

    LangGraph does not know the context's type: servers ask each graph, also one inside another,
    for a JSON Schema of its context.
    """
    return cast("Graph", StateGraph(PlanState, input_schema=PlanState))


def add_node(builder: Graph, name: str, function: Any, **options: Any) -> None:
    """Add a node whose input is the whole state."""
    cast("Any", builder).add_node(name, function, input_schema=PlanState, **options)


def add_step(builder: Graph, name: str, node: StepNode) -> None:
    """Add the node of a step, with LangGraph's own retries if the step has `retry`.

    A node with an inside becomes a function that has the inside as a free variable. LangGraph finds
    the inside there, draws it and shows its state. Any other node stays an object, since LangGraph
    would disassemble a function to look for a subgraph. That takes a third of the time to compile a
    long plan.
    """
    policy = None if node.step.foreach else retry_policy(node)
    function = node if node.inside is None else _with_inside(node)
    add_node(builder, name, function, retry_policy=policy, metadata={"kind": node.step.kind})


def _with_inside(node: StepNode) -> NodeFunction:
    graph = node.inside

    async def run(
        state: PlanState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> PlanState:
        return await node(state, runtime, config, graph)

    return run


def tries_of(runtime: Runtime[Any]) -> int:
    """The try of LangGraph's retry policy, from 1."""
    return runtime.execution_info.node_attempt if runtime.execution_info else 1


def retry_policy(node: StepNode) -> RetryPolicy | None:
    """LangGraph's retry policy for a step. A node raises only errors that are to be retried."""
    retry, patient = node.step.retry, node.deps.patient
    if retry is None:
        return None
    return RetryPolicy(
        initial_interval=retry.delay if patient else 0,
        backoff_factor=retry.backoff,
        max_interval=retry.max_delay if patient else 0,
        max_attempts=retry.attempts,
        jitter=patient,
        retry_on=CallError,
    )
