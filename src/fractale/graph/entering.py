"""The parts of a attempt: whether it takes place, its call, what decides its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from fractale.errors import CallError
from fractale.graph.attempt import Attempt
from fractale.graph.bindings import resolve
from fractale.graph.calls import judge, retry_is_safe
from fractale.graph.flow import literal_of
from fractale.graph.kinds import Perform
from fractale.graph.outcome import (
    DEFAULT_SUCCESS,
    CallResult,
    Decision,
    decide_by_evidence,
    failed_by,
    match_rules,
    rule_scope,
)
from fractale.graph.resources import fill_resources
from fractale.graph.state import Spent
from fractale.labels import Labels
from fractale.plain import to_json
from fractale.plan.expressions import holds, render
from fractale.plan.model import FAILURE, SUCCESS, Value

SHORT_OUTPUT = 200


def applies_now(attempt: Attempt) -> tuple[bool, CallResult | None]:
    """Whether the step's `when` holds; a `when` that can't be evaluated fails the step.

    Returns:
        Whether to enter the step, and the result if it is known without a call.
    """
    when = attempt.step.when
    if when is None:
        return True, None
    try:
        return holds(when, attempt.scope, lambda name: attempt.warn_undefined("when", name)), None
    except CallError as error:
        return True, CallResult(error=str(error), code=error.code)


async def call_step(attempt: Attempt, call: Perform, tries: int) -> CallResult:
    """Render what the step is given and make its call; a failed call is a result, too.

    Raises:
        CallError: The call failed, and the step's `retry` says to try it again.
        LimitReached: A limit of the run is used up.
    """
    try:
        prepare(attempt)
        await fill_resources(attempt)
        return await call(attempt)
    except CallError as error:
        if await _try_again(attempt, error, tries):
            message = f"try {tries} failed, trying again: {error}"
            attempt.emit("warning", code="retry", message=message)
            raise
        hint = f" ({error.hint})" if error.hint else ""
        return CallResult(error=f"{error}{hint}", code=error.code, usage=attempt.usage)


async def _try_again(attempt: Attempt, error: CallError, tries: int) -> bool:
    retry = attempt.step.retry
    if retry is None or tries >= retry.attempts or not error.retryable:
        return False
    tool = None
    if attempt.step.kind == "tool" and getattr(error, "sent", False):
        try:
            tool = await resolve(
                attempt.deps.toolbox, attempt.context.bindings, attempt.step.target or ""
            )
        except CallError:
            return False
    return retry_is_safe(error, tool)


def prepare(attempt: Attempt) -> None:
    """Render the step's inputs and instruction; a foreach renders them for each item.

    Raises:
        TemplateError: A template names something that is not defined.
    """
    if attempt.step.foreach is not None:
        return
    if attempt.step.job and attempt.step.job.array is not None and "index" not in attempt.scope:
        return  # as a foreach: for each element
    given = attempt.step.job.values() if attempt.step.job else dict(attempt.step.inputs)
    rendered: Any = render(given, attempt.scope)
    attempt.inputs = rendered
    instruction = attempt.step.instruction
    attempt.instruction = None if instruction is None else str(render(instruction, attempt.scope))
    _label(attempt, given)


def _label(attempt: Attempt, given: Mapping[str, Value]) -> None:
    """Take note of where what the step is given came from, and of what of it is the person's."""
    seen, flow = attempt.seen, attempt.flow
    seen.add(flow.base)
    for name, value in given.items():
        labels = flow.of(value)
        attempt.argument_sources[name] = labels
        seen.add(labels, _text_of(attempt.inputs[name]) if _untrusted(labels - flow.base) else "")
        if not labels:
            seen.trust(attempt.inputs[name])
        elif not _untrusted(flow.base):
            seen.trust(literal_of(value))
    written = attempt.step.instruction
    if written is not None:
        labels = flow.of(written)
        seen.add(labels, str(attempt.instruction) if _untrusted(labels - flow.base) else "")
        if not _untrusted(flow.base):
            seen.trust(literal_of(written) if labels else attempt.instruction)
    if not _untrusted(flow.base):
        seen.trust(attempt.step.description)
    for words in attempt.context.drafted_for:
        seen.trust(words)
    if attempt.step.kind in ("agent", "prompt", "plan") and attempt.scope.get("previous", {}).get(
        "error"
    ):
        seen.add(flow.previous)


def _untrusted(labels: Labels) -> bool:
    return any(source.untrusted for source in labels)


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


async def decide(attempt: Attempt, result: CallResult) -> Decision:
    """What decides the outcome: a rule, the call's own evidence, a judge, or nothing."""
    if result.matched is not None:
        return result.matched
    # An item has the attempt of its step, in rules as in templates.
    scope = rule_scope(attempt.scope, result, attempt.scope.get("attempts", attempt.attempts))
    try:
        decision = match_rules(attempt.step, result, scope, attempt.warn_undefined)
    except CallError as error:
        return failed_by("error", str(error))
    evidence = decide_by_evidence(attempt.step, result)
    if decision:
        own = decision.event not in (SUCCESS, FAILURE)
        # A rule chose where to go; whether the call itself went well, the evidence says.
        if own and evidence:
            reason = f"{decision.reason}; {evidence.reason}"
            return replace(decision, outcome="failure", reason=reason)
        return decision
    if evidence:
        return evidence
    if attempt.step.judge:
        try:
            return await judge(attempt, result)
        except CallError as error:
            return failed_by("error", f"the judge: {error}")
    return DEFAULT_SUCCESS


def spent_by(attempt: Attempt, seconds: float) -> Spent:
    """What one attempt has used."""
    return Spent(
        steps=1,
        input_tokens=attempt.usage.input_tokens,
        output_tokens=attempt.usage.output_tokens,
        cost=attempt.usage.cost,
        seconds=round(seconds, 3),
    )


def shorten(value: Any, limit: int = SHORT_OUTPUT) -> Any:
    """The same JSON value with long texts and lists cut, for events."""
    if isinstance(value, str):
        return value if len(value) <= limit else value[:limit] + "…"
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {key: shorten(item, limit) for key, item in list(table.items())[:20]}
    if isinstance(value, list):
        return [shorten(item, limit) for item in cast("list[Any]", value)[:20]]
    return value
