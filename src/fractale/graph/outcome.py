"""The outcome of a step, decided by evidence in a fixed order.

The order is `rule`, `error`, `agent`, `exit_code`, `schema`, `judge`, and last `default`. An
exception, a lost tool, an empty or an unusable answer is never success. Begin at `decide`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage

from fractale.agents.own_words import JUDGE
from fractale.errors import CallError, NotDone
from fractale.evidence import (
    Notice,
    as_mapping,
    exit_code_evidence,
    notices_in,
    outputs_of,
    outputs_of_text,
    with_detail,
)
from fractale.graph import model_call
from fractale.graph.call import Attempt
from fractale.graph.state import DecidedBy, Outcome, Record
from fractale.models import Usage
from fractale.models.json_text import json_values
from fractale.plain import plain, readable
from fractale.plan.expressions import holds, references, render
from fractale.plan.model import FAILURE, SUCCESS, Rule, Step
from fractale.schemas import UnusableSchema, misfits
from fractale.toolbox import ToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """The result of a step's call.

    Args:
        outputs: The structured answer, a mapping; of a foreach, the list of its items' outputs.
        text: The answer as text: `content` in rules.
        error: Why the call failed: it raised, timed out, was refused, or was `isError`.
        code: The error's stable code.
        usage: The usage of the models.
        matched: A rule that was already true for a tool's answer inside an agent.
        failure: The evidence of a failure, if the outputs alone do not show it. Its `fault` is a
            text that may say more than its reason.
        misfit: How the answer breaks the tool's own output schema.
        notices: Notices that a success must not hide, beside those in the outputs.
        conversation: The agent's messages, if the step persists them.
        seconds: The duration of a call that earlier processes of the run began.
        is_evidence: Whether the names of the outputs can show a failure or a warning. The names of
            a `set` step are the plan's own words.
        verdict: The verdict of a judge on the same result in an earlier run.
    """

    outputs: Any = field(default_factory=dict[str, Any])
    text: str = ""
    error: str | None = None
    code: str | None = None
    usage: Usage = field(default_factory=Usage)
    matched: Decision | None = None
    failure: Decision | None = None
    fault: str | None = None
    misfit: str | None = None
    notices: tuple[Notice, ...] = ()
    conversation: Any = None
    seconds: float = 0.0
    is_evidence: bool = True
    verdict: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of a step, and the evidence for it.

    Args:
        event: The event that chooses the transition: ``success``, ``failure``, or one of the
            step's.
        reason: The rule, the message or the verdict, for the user to read.
    """

    outcome: Outcome
    event: str
    decided_by: DecidedBy
    reason: str = ""


async def decide(attempt: Attempt, result: CallResult, *, final: bool = True) -> Decision:
    """The outcome of an attempt: by a rule, the call's own evidence, a judge, or by default.

    A step has failed if it has rules for `success` and none of them is true.

    Args:
        final: Whether the attempt is over. If it is not, such as between two calls of an `until`,
            only a rule that is true or evidence of a failure decides.
    """
    if result.matched is not None:
        return result.matched
    # In rules as in templates, an item has the attempt of its step.
    scope = rule_scope(attempt.scope, result, attempt.scope.get("attempts", attempt.attempts))
    try:
        decision = match_rules(attempt.step, result, scope, attempt.warn_undefined)
    except CallError as error:
        return failed_by("error", str(error))
    evidence = decide_by_evidence(attempt.step, result)
    if decision:
        own = decision.event not in (SUCCESS, FAILURE)
        # The rule chose the transition. The evidence decides whether the call itself succeeded.
        if own and evidence:
            reason = f"{decision.reason}; {evidence.reason}"
            return replace(decision, outcome="failure", reason=reason)
        return decision
    if evidence:
        return evidence
    if not final or (attempt.step.judge and result.verdict):
        return result.verdict or DEFAULT_SUCCESS
    if attempt.step.judge:
        try:
            return await _judge(attempt, result)
        except CallError as error:
            return failed_by("error", f"the judge: {error}")
    if wanted := [f"`{r.expression.source}`" for r in attempt.step.rules if r.event == SUCCESS]:
        reason = f"no rule for `success` is true: {', '.join(wanted)}"
        return failed_by("rule", with_detail(reason, result.outputs))
    return DEFAULT_SUCCESS


def rule_scope(scope: Mapping[str, Any], result: CallResult, attempts: int) -> dict[str, Any]:
    """The names that a rule sees: the outputs' keys first, then the language's own."""
    error = result.error if result.error is not None else result.outputs.get("error")
    content = result.outputs.get("content", result.text)
    known = {"error": error, "content": content, "attempts": attempts}
    return {**result.outputs, **scope, **known, "outputs": result.outputs}


NOTHING: Sequence[Any] = ({}, {"content": ""})
"""Outputs of a call without a result."""


def match_rules(
    step: Step,
    result: CallResult,
    scope: Mapping[str, Any],
    on_undefined: Callable[[str, str], None],
) -> Decision | None:
    """The first rule that is true, in file order.

    A rule for `success` is skipped if its input is missing: the call failed, and left no outputs at
    all or not the outputs that the rule reads. The error of the call says why.

    Args:
        scope: The result of `rule_scope`.
        on_undefined: Receives the rule's text and the name that is not defined, if the rule is not
            skipped for that.
    """
    failed = (result.error or result.failure) is not None
    for rule in step.rules:
        needs_outputs = failed and rule.event == SUCCESS
        if needs_outputs and result.outputs in NOTHING:
            continue
        source, missing = rule.expression.source, list[str]()
        held = holds(rule.expression, scope, missing.append)
        if needs_outputs and missing:
            continue
        for name in missing:
            on_undefined(source, name)
        if held:
            outcome: Outcome = "failure" if rule.event == FAILURE else "success"
            reason = f"rule `{source}`"
            if outcome == "failure":
                reason = with_detail(reason, result.outputs)
            return Decision(outcome=outcome, event=rule.event, decided_by="rule", reason=reason)
    return None


def decide_by_evidence(step: Step, result: CallResult) -> Decision | None:
    """The evidence of the call itself: an error, an exit code, outputs that break their schema.

    Returns:
        A failure with its reason, or None if the call shows no failure.
    """
    if result.error is not None and result.code == NotDone.code:
        return failed_by("agent", result.error.removeprefix(NOT_DONE))
    if result.error is not None:
        return failed_by("error", result.error)
    if result.failure is not None:
        return result.failure
    if result.is_evidence and (reason := exit_code_evidence(result.outputs)):
        return failed_by("exit_code", reason)
    if result.misfit is not None:
        return failed_by("schema", result.misfit)
    if step.output_schema is not None and (reason := schema_error(step, result.outputs)):
        return failed_by("schema", reason)
    return None


def failed_by(by: DecidedBy, reason: str) -> Decision:
    """A failure, with its kind of evidence and the reason."""
    return Decision(outcome="failure", event=FAILURE, decided_by=by, reason=reason)


def not_done(reason: str) -> CallResult:
    """The result of an agent that reports that it did not do its task."""
    return CallResult(error=f"{NOT_DONE}{reason}", code=NotDone.code)


NOT_DONE = "not done: "
"""The beginning of such a step's error."""

DEFAULT_SUCCESS = Decision(outcome="success", event=SUCCESS, decided_by="default")


def schema_error(step: Step, outputs: Mapping[str, Any]) -> str | None:
    """Where the outputs break the step's `output_schema`, or None.

    If the schema does not describe an object, ``result`` is checked against it.
    """
    schema = step.output_schema or {}
    value: Any = outputs if schema.get("type", "object") == "object" else outputs.get("result")
    try:
        return "; ".join(map(str, misfits(schema, value, trusted=True))) or None
    except UnusableSchema as error:
        return f"`output_schema` cannot be used: {error}"


def notices_of(result: CallResult) -> list[Notice]:
    """Notices that the success of a call must not hide: its own, and those in its outputs."""
    says = result.is_evidence and isinstance(result.outputs, Mapping)
    named = notices_in(result.outputs) if says else []  # pyright: ignore[reportUnknownArgumentType] - outputs are JSON
    return [*result.notices, *named]


def as_plain(result: CallResult) -> CallResult:
    """The result of a call as JSON that can be stored; a failure if JSON cannot express it."""
    try:
        outputs = plain(result.outputs)
    except ValueError as error:
        return CallResult(error=f"the answer cannot be kept: {error}", code="call")
    words = {name: getattr(result, name) for name in ("error", "fault")}
    shown = {name: readable(text) for name, text in words.items() if text}
    return replace(result, outputs=outputs, **shown)


def record_of(decision: Decision, result: CallResult, attempts: int) -> Record:
    """The record of an attempt, without its inputs. Empty parts are left out."""
    record = Record(
        outcome=decision.outcome,
        event=decision.event,
        decided_by=decision.decided_by,
        attempts=attempts,
        outputs=result.outputs,
    )
    if decision.reason:
        record["reason"] = decision.reason
    if decision.outcome == "failure":
        record["error"] = result.error or result.fault or decision.reason
    elif notices := notices_of(result):
        record["notices"] = notices
    if result.conversation is not None:
        record["conversation"] = result.conversation
    return record


# Inside an agent


def matched(attempt: Attempt, messages: Sequence[BaseMessage]) -> CallResult | None:
    """The first of an agent's last tool answers for which a rule of the step is true."""
    for message in _last_answers(messages) if attempt.step.rules else ():
        result = ToolResult(text=message.text, structured=message.artifact)
        failed = message.status == "error"
        call = CallResult(
            outputs={} if failed else outputs_of(result),
            text=result.text,
            error=result.text if failed else None,
        )
        scope = rule_scope(attempt.scope, call, attempt.scope.get("attempts", attempt.attempts))
        step = replace(attempt.step, rules=_rules_about(attempt, call))
        if decision := match_rules(step, call, scope, lambda _rule, _name: None):
            return replace(call, matched=decision)
    return None


def _rules_about(attempt: Attempt, call: CallResult) -> tuple[Rule, ...]:
    """The rules that read something in a tool's answer.

    `not jobspec` says nothing about the answer of a tool that returns no jobspecs. `attempts > 2`
    says nothing about any answer. Such rules wait for the agent's own answer.
    """
    known = {*call.outputs, "content", *(("error",) if call.error else ())} - set(attempt.scope)

    def looks_at(path: Sequence[str | int]) -> bool:
        return (path[1:] or path)[0] in known if path[0] == "outputs" else path[0] in known

    return tuple(
        rule
        for rule in attempt.step.rules
        if any(looks_at(reference.path) for reference in references(rule.expression))
    )


def _last_answers(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    """The tools' answers since the model's last turn, in order."""
    found: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        found.insert(0, message)
    return found


# The judge

JUDGE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "description": "One sentence: what shows it."},
        "success": {"type": "boolean", "description": "Whether the step did what it was for."},
    },
    "required": ["reason", "success"],
    "additionalProperties": False,
}


MOST_JUDGED = 20_000
"""The most characters of a result that a judge is shown."""


async def _judge(attempt: Attempt, result: CallResult) -> Decision:
    """The model's verdict on a step that no evidence decides.

    Raises:
        ModelError: The model gave no verdict.
    """
    task = attempt.instruction or attempt.step.description or attempt.step.name
    said = _ends(_all_said(result))
    messages = [
        SystemMessage(JUDGE),
        HumanMessage(f"The step was to: {task}{_criterion(attempt)}\n\nIts result:\n{said}"),
    ]
    answer = await model_call.ask(attempt, messages, JUDGE_SCHEMA)
    verdict = as_mapping(answer.data) if answer.data is not None else {}
    # If a model changes its mind within one answer, the answer contains both verdicts.
    success = all(each.get("success") is True for each in _verdicts(answer.text) or [verdict])
    return Decision(
        outcome="success" if success else "failure",
        event="success" if success else "failure",
        decided_by="judge",
        reason=str(verdict.get("reason") or "the judge gave no reason"),
    )


def _criterion(attempt: Attempt) -> str:
    """The criterion of the step as a paragraph; empty if it has none."""
    judge = attempt.step.judge
    if isinstance(judge, bool):
        return ""
    return f"\n\nIt succeeded if and only if this is true: {render(judge, attempt.scope)}"


def _all_said(result: CallResult) -> str:
    """The text of a result, with its outputs unless the text already contains them."""
    text, outputs = result.text.strip(), result.outputs
    if text and outputs in ({"content": result.text}, outputs_of_text(text)):
        return text
    return f"{text}\n{json.dumps(outputs, ensure_ascii=False)}".strip()


def _ends(text: str) -> str:
    """Both ends of a long text: programs report their outcome at the end."""
    if len(text) <= MOST_JUDGED:
        return text
    half = MOST_JUDGED // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[{left_out} characters are left out here]\n{text[-half:]}"


def _verdicts(text: str) -> list[dict[str, Any]]:
    found = [as_mapping(value) for value in json_values(text)]
    return [value for value in found if "success" in value]
