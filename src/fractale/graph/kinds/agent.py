"""Agent steps: fractale's sub-agents, the user's own, or those that a server offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import convert_to_messages

from fractale.agents.conversation import FAILED_CHANGE, failed_change, notices_of_calls
from fractale.agents.subagent import AgentAnswer, AgentRequest, Subagent
from fractale.errors import NotDone
from fractale.evidence import as_mapping
from fractale.graph.agent_context import StepAgentContext, run_agent
from fractale.graph.bindings import check_tools, find_tool
from fractale.graph.call import Attempt
from fractale.graph.kinds import Compiler
from fractale.graph.kinds.tool import call_planned
from fractale.graph.outcome import CallResult, failed_by, matched, not_done
from fractale.plain import as_text
from fractale.plan.kinds import GENERAL_AGENTS, INSTRUCTION_INPUTS

if TYPE_CHECKING:
    from fractale.graph.step import StepNode

GENERALIST = "ask"


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that asks a sub-agent."""
    del compiler
    return replace(node, perform=_perform)


async def _perform(attempt: Attempt) -> CallResult:
    name = attempt.step.target
    agent = attempt.deps.agents.find(GENERALIST if name in GENERAL_AGENTS else str(name))
    if agent is not None:
        return await ask_agent(attempt, agent, _request(attempt, agent))
    tool = await find_tool(attempt, str(name))
    properties = set(tool.input_schema.get("properties", {}))
    arguments = with_error(attempt, properties)
    if attempt.instruction and "instruction" in properties:
        if "instruction" not in arguments:
            attempt.argument_sources["instruction"] = attempt.flow.of(attempt.step.instruction)
        arguments.setdefault("instruction", attempt.instruction)
    return await call_planned(attempt, tool, arguments)


def with_error(attempt: Attempt, takes: set[str]) -> dict[str, Any]:
    """The step's inputs, with `previous.error` as `error` if the callee expects one.

    The error is added only after a failure, and never replaces an input that the plan sets.
    """
    arguments = dict(attempt.inputs)
    error = attempt.scope.get("previous", {}).get("error")
    if "error" in takes and "error" not in arguments and error:
        arguments["error"] = error
        attempt.argument_sources["error"] = attempt.flow.previous
    return arguments


def _request(attempt: Attempt, agent: Subagent) -> AgentRequest:
    """The request to the agent: the instruction, the inputs, and why its last attempt failed."""
    takes = set(agent.input_schema.get("properties", {}))
    # To the generalist, `error` is the failure of its own last attempt.
    given = with_error(attempt, takes - {"error"} if agent.name == GENERALIST else takes)
    inputs = {k: v for k, v in given.items() if k in takes or k not in INSTRUCTION_INPUTS}
    instruction = attempt.instruction or attempt.step.description
    error = _failure_of_last_attempt(attempt, instruction, inputs)
    if error and "error" in takes:
        inputs["error"] = error
        attempt.argument_sources["error"] = attempt.flow.previous
    elif error:
        instruction = f"{instruction}\n\nThe last attempt failed: {error}".strip()
    return AgentRequest(inputs=inputs, instruction=instruction)


def _failure_of_last_attempt(
    attempt: Attempt, instruction: str, inputs: Mapping[str, Any]
) -> str | None:
    """Why the run came back to this step.

    None if the step has not tried before, if nothing failed, or if the plan says the error itself.
    """
    error = attempt.scope.get("previous", {}).get("error")
    if not error or "error" in inputs or attempt.scope.get("attempts", attempt.attempts) < 2:
        return None
    said = any(str(error) in as_text(each) for each in (instruction, *inputs.values()))
    return None if said else str(error)


async def ask_agent(
    attempt: Attempt, agent: Subagent, request: AgentRequest, extras: frozenset[str] | None = None
) -> CallResult:
    """Let a sub-agent do the step, with the tools that the step allows.

    Args:
        extras: The agent's abilities beside calling tools; None: all.
    """
    await check_tools(attempt)
    scopes = [globs for globs in (attempt.step.tools, agent.tools) if globs is not None]
    context = replace(attempt.context, within=(*attempt.context.within, *scopes))
    host = StepAgentContext(attempt, context, model=attempt.step.model or agent.model)
    if extras is not None:
        host = replace(host, extras=extras)
    earlier = convert_to_messages(attempt.conversation) if attempt.conversation else []
    request = replace(
        request,
        messages=[*earlier, *request.messages],
        schema=attempt.step.output_schema,
        config=attempt.config,
    )
    try:
        answer = await run_agent(agent, host, request)
    except NotDone as error:
        kept = _kept(attempt, error.messages)
        return replace(not_done(error.reason), usage=attempt.usage, conversation=kept)
    return _result_of(attempt, answer)


def _result_of(attempt: Attempt, answer: AgentAnswer) -> CallResult:
    kept = _kept(attempt, answer.messages)
    if result := matched(attempt, answer.messages):
        return replace(result, usage=attempt.usage, conversation=kept)
    failed = failed_change(answer.messages)
    return CallResult(
        outputs=as_mapping(answer.outputs),
        text=answer.text,
        error=answer.error,
        code="agent" if answer.error else None,
        failure=failed_by("error", f"{FAILED_CHANGE}{failed}") if failed else None,
        notices=notices_of_calls(answer.messages),
        usage=attempt.usage,
        conversation=kept,
    )


def _kept(attempt: Attempt, messages: Sequence[BaseMessage]) -> list[dict[str, Any]] | None:
    """The conversation for the next attempt, if the step persists it."""
    if not attempt.step.persist:
        return None
    from langchain_core.messages import convert_to_openai_messages

    kept: Any = convert_to_openai_messages(list(messages))
    return kept
