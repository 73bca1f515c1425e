"""The loop of a model with tools: LangChain's `create_agent` around an `AgentHost`.

Every model turn and tool call is a checkpoint of the run, so that a resume goes on inside the
loop. What may be called, what it costs and what is told about it is decided by the host.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langchain.agents import (
    create_agent,  # pyright: ignore[reportUnknownVariableType] - its saver is untyped
)
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    ModelRequest,
    ModelResponse,
    SummarizationMiddleware,
    ToolCallRequest,
    hook_config,
)
from langchain.agents.middleware.model_call_limit import ModelCallLimitExceededError
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.tools import StructuredTool

from fractale.agents.reports import CHANGES, check_done, reported
from fractale.agents.subagent import AgentHost
from fractale.errors import CallError, ModelError, NotDone
from fractale.models import sendable
from fractale.policy import reads_only
from fractale.toolbox import ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.types import Command

MAX_TURNS = 50
"""Model turns of one visit before the agent is taken for one that never ends."""

LONGEST_RESULT = 50_000
"""Characters of a tool's answer that the model is shown; the rest is in the run's record."""

SUMMARIZE_ABOVE = 100_000
"""Tokens of a conversation above which its older part is replaced by a summary."""

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTool:
    """Something that the model can call.

    Args:
        name: In the letters that providers accept.
        schema: JSON Schema of the arguments.
        call: What is done. A CallError is told to the model, anything else ends the loop.
        changes: Whether a call may change something outside.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    call: Callable[[Mapping[str, Any]], Awaitable[ToolResult]]
    changes: bool = False


class HostMiddleware(AgentMiddleware[Any, Any, Any]):
    """Puts the host between the agent and its model and tools."""

    def __init__(self, host: AgentHost, tools: Sequence[LoopTool]) -> None:
        super().__init__()
        self._host = host
        self._tools = {tool.name: tool for tool in tools}

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """End the loop as soon as a rule of the step holds, or the model reports *not done*."""
        messages = state["messages"]
        over = reported(messages) is not None or self._host.decided(messages)
        return {"jump_to": "end"} if over else None

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Make one turn, by whichever model the host takes."""
        system, messages = request.system_message, request.messages
        return await self._host.call_model(
            lambda model: handler(request.override(model=model, messages=sendable(messages))),
            [*([system] if system else []), *messages],
            list(self._tools),
        )

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Make one tool call; a failure is the model's to deal with."""
        call = request.tool_call
        tool = self._tools.get(call["name"])
        if tool is None:
            return await handler(request)  # LangChain tells the model which tools there are
        try:
            result = await tool.call(call["args"])
        except CallError as error:
            text = f"{error.message} ({error.hint})" if error.hint else error.message
            result = ToolResult(text=text, is_error=True)
        return ToolMessage(
            content=_shown(result),
            name=tool.name,
            tool_call_id=call["id"],
            status="error" if result.is_error else "success",
            artifact=result.structured,
            additional_kwargs={CHANGES: True} if tool.changes else {},
        )


async def work(
    messages: Sequence[BaseMessage],
    *,
    host: AgentHost,
    tools: Sequence[LoopTool],
    system: str | None = None,
    config: RunnableConfig | None = None,
    max_turns: int = MAX_TURNS,
) -> list[BaseMessage]:
    """Let the model work with the tools until it answers, or until a rule of the step holds.

    Args:
        messages: The conversation so far, the instruction last.
        tools: What the model is shown; it can call nothing else.
        system: What it is told about its part.
        config: The node's, so that turns are checkpointed under the run.
        max_turns: Model turns, those of earlier processes counted.

    Returns:
        The whole conversation.

    Raises:
        NotDone: The model reports that the task was not done.
        ModelError: The model failed, or the agent never ended.
        LimitReached: A limit of the run is used up.
    """
    agent = cast(
        "Any",
        create_agent(
            host.chat_model(),
            tools=[_declared(tool) for tool in tools],
            system_prompt=system,
            middleware=[
                ModelCallLimitMiddleware(thread_limit=max_turns, exit_behavior="error"),
                _summarizing(host),
                HostMiddleware(host, tools),
            ],
        ),
    )
    final: list[BaseMessage] = list(messages)
    stream = agent.astream(
        {"messages": list(messages)},
        {**(config or {}), "recursion_limit": 10 * max_turns},
        stream_mode=["messages", "values"],
    )
    try:
        async for mode, chunk in stream:
            if mode == "values":
                final = chunk["messages"]
            elif isinstance(chunk[0], AIMessageChunk) and chunk[0].text:
                host.on_text(chunk[0].text)
    except ModelCallLimitExceededError as error:
        raise ModelError(
            f"the agent did not come to an end within {max_turns} turns",
            hint="narrow its instruction or its tools, or split the step",
        ) from error
    if (reason := reported(final)) is not None:
        raise NotDone(reason, messages=final)
    return final


def _summarizing(host: AgentHost) -> SummarizationMiddleware:
    async def summarize(messages: Sequence[BaseMessage]) -> str:
        request = HumanMessage(
            "Summarize this conversation so far for the one who goes on with it: the task, what "
            "was found out (with figures, names and paths in full), what failed, what is left."
        )
        return (await host.ask_model([*messages, request])).text

    return SummarizationMiddleware(
        host.chat_model(),
        trigger=("tokens", SUMMARIZE_ABOVE),
        keep=("tokens", SUMMARIZE_ABOVE // 4),
        trim_tokens_to_summarize=None,
        summarizer=cast("Any", summarize),
    )


def answer_of(messages: Sequence[BaseMessage]) -> str:
    """The model's last words.

    Raises:
        NotDone: They say that the task was not done.
        ModelError: The conversation does not end with an answer, or with an empty one.
    """
    last = messages[-1]
    if not isinstance(last, AIMessage) or not last.text.strip():
        raise ModelError("the model's answer is empty", hint="try again, or try another model")
    return check_done(last.text, messages)


def tool_of(tool: ToolInfo, host: AgentHost) -> LoopTool:
    """A tool of the run's servers as the model sees it."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        return await host.call_tool(tool, arguments)

    return LoopTool(
        name=wire_name(tool.name),
        description=tool.description or tool.name,
        schema=tool.input_schema or NO_ARGUMENTS,
        call=call,
        changes=not reads_only(tool),
    )


def wire_name(name: str) -> str:
    """A name in the letters that model providers accept."""
    return name.replace(".", "__")


def _declared(tool: LoopTool) -> StructuredTool:
    async def call(**arguments: Any) -> str:  # pragma: no cover - HostMiddleware makes the calls
        return (await tool.call(arguments)).text

    return StructuredTool(
        name=tool.name,
        description=tool.description,
        args_schema=dict(tool.schema),
        coroutine=call,
    )


def _shown(result: ToolResult) -> str:
    text = result.text
    if not text and result.structured is not None:
        text = json.dumps(result.structured, ensure_ascii=False)
    if not text and result.is_error:
        text = "the tool reported an error and said nothing"
    if len(text) <= LONGEST_RESULT:
        return text
    return f"{text[:LONGEST_RESULT]}\n[{len(text) - LONGEST_RESULT} more characters are not shown]"
