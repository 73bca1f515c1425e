"""The generalist: investigates with tools, asks the person where it must, answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from fractale.agents.extras import extra_tools, not_done
from fractale.agents.loop import LoopTool, answer_of, tool_of, work
from fractale.agents.reports import IN_WORDS, check_done
from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
from fractale.errors import ModelError
from fractale.models import structured, whole_json

TOLD_AS_INSTRUCTION = ("goal", "prompt", "instruction")
"""Inputs that are the instruction itself (0.1.0's words for it)."""


async def run(host: AgentHost, request: AgentRequest, more: Sequence[LoopTool] = ()) -> AgentAnswer:
    """Work until there is an answer, or until a rule of the step holds.

    Args:
        more: What the model can call beside the host's tools.

    Raises:
        NotDone: The model reports that the task was not done.
        ModelError: The model failed, answered nothing, or never came to an end.
        LimitReached: A limit of the run is used up.
    """
    messages = [*request.messages, *_asked(request)]
    tools = [tool_of(tool, host) for tool in await host.tools()]
    tools += [*await extra_tools(host), *more]
    if not tools:
        return await _answer_at_once(host, messages, request.schema)
    tools.append(not_done())
    conversation = await work(
        messages, host=host, tools=tools, system=prompt(), config=request.config
    )
    if host.decided(conversation):
        return AgentAnswer(outputs={}, messages=conversation)
    text, data = await _read(answer_of(conversation), conversation, host, request.schema)
    outputs = {"content": text} if data is None else data
    return AgentAnswer(outputs=outputs, text=text, messages=conversation)


async def _read(
    text: str,
    conversation: Sequence[BaseMessage],
    host: AgentHost,
    schema: Mapping[str, Any] | None,
) -> tuple[str, Any]:
    """The answer and its JSON: of the schema if there is one, else what it is as a whole."""
    if schema is None:
        try:
            return text, whole_json(text)
        except ValueError:
            return text, None
    data, errors = structured.read(text, schema)
    if not errors:
        return text, data
    again = structured.with_correction(conversation[:-1], text, errors)
    try:
        return await _asked_once(again, host, schema)
    except ModelError as error:
        if data is None or not error.text:
            raise
        return text, data


async def _asked_once(
    messages: Sequence[BaseMessage], host: AgentHost, schema: Mapping[str, Any]
) -> tuple[str, Any]:
    """An answer and its JSON, which may break the schema.

    Raises:
        NotDone: The answer says that the task was not done.
        ModelError: There is no JSON in it; `text` is the answer, where there is one.
    """
    try:
        answer = await host.ask_model(messages, schema, correct=False)
    except ModelError as error:
        check_done(error.text, messages)
        raise
    return check_done(answer.text, messages), answer.data


async def _answer_at_once(
    host: AgentHost, messages: Sequence[BaseMessage], schema: Mapping[str, Any] | None
) -> AgentAnswer:
    """The answer of a model without tools; what does not fit a schema goes back once."""
    if schema is not None:
        try:
            text, _ = await _asked_once(messages, host, schema)
        except ModelError as error:
            if not error.text:
                raise
            text = error.text
        text, data = await _read(text, [*messages, AIMessage(text)], host, schema)
    else:
        system = [] if host.is_small else [SystemMessage(IN_WORDS)]
        answer = await host.ask_model([*system, *messages])
        text, data = check_done(answer.text, messages), answer.data
    outputs = {"content": text} if data is None else data
    return AgentAnswer(outputs=outputs, text=text, messages=[*messages, AIMessage(text)])


def prompt() -> str:
    """What the generalist is told about its part."""
    return resources.files(__package__ or "").joinpath("ask.md").read_text(encoding="utf-8")


def _asked(request: AgentRequest) -> list[BaseMessage]:
    """The instruction and the inputs as one message; none where there is nothing to say."""
    given = {k: v for k, v in request.inputs.items() if k not in TOLD_AS_INSTRUCTION}
    error = given.pop("error", None)
    parts = [request.instruction, "\n".join(f"{k}: {as_text(v)}" for k, v in given.items())]
    if error:  # last, where small models heed it most
        parts.append(f"The last attempt failed: {as_text(error)}")
    text = "\n\n".join(part for part in parts if part)
    return [HumanMessage(text)] if text else []


def as_text(value: Any) -> str:
    """Text as it is; anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


INPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "instruction": {"type": "string", "description": "What to do or to answer."},
        "error": {"description": "Why the last attempt failed."},
    },
}

ASK = Subagent(
    name="ask",
    description="The generalist: investigates with the tools it has, asks the person, answers.",
    input_schema=INPUTS,
    run=run,
)
