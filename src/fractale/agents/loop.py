"""The loop of a model with tools: LangChain's `create_agent` around an `AgentHost`.

Every model turn and tool call is a checkpoint of the run, so that a resume goes on inside the
loop. What may be called, what it costs and what is told about it is decided by the host.
"""

from __future__ import annotations

import asyncio
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
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.tools import BaseTool

from fractale.agents.offered import Offered, offer
from fractale.agents.reports import CHANGES, check_done, reported
from fractale.agents.results import (
    READ_RESULT,
    READ_RESULT_SCHEMA,
    READ_RESULT_WORDS,
    content_of,
    has_kept,
    read_result,
)
from fractale.agents.subagent import AgentHost
from fractale.errors import CallError, ModelError, NotDone
from fractale.evidence import outputs_of
from fractale.policy import reads_only
from fractale.toolbox import ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.types import Command

MAX_TURNS = 50
"""Model turns of one visit before the agent is taken for one that never ends."""

SUMMARIZE_ABOVE = 100_000
"""Tokens of a conversation above which its older part is replaced by a summary."""

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTool:
    """Something that the model can call.

    Args:
        name: Its own name; the model is shown that of `fractale.agents.offered`.
        schema: JSON Schema of the arguments.
        call: What is done. A CallError is told to the model, anything else ends the loop.
        server: The server that has the tool; empty for what fractale itself offers.
        changes: Whether a call may change something outside; None: it only serves the agent.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    call: Callable[[Mapping[str, Any]], Awaitable[ToolResult]]
    server: str = ""
    changes: bool | None = None


class HostMiddleware(AgentMiddleware[Any, Any, Any]):
    """Puts the host between the agent and its model and tools."""

    def __init__(self, host: AgentHost, offered: Sequence[Offered]) -> None:
        super().__init__()
        self._host = host
        self._tools = {each.name: each.tool for each in offered}

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
        """Make one turn through the host; the handler, which would ask the model, is not called."""
        system = [request.system_message] if request.system_message else []
        shown = [
            tool
            for tool in request.tools
            if isinstance(tool, BaseTool)
            and (tool.name != READ_RESULT or has_kept(request.messages))
        ]
        message = await self._host.call_model([*system, *request.messages], shown)
        return ModelResponse(result=[message])

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Make one tool call; a failure is the model's to deal with."""
        call = request.tool_call
        tool = self._tools.get(call["name"])
        if tool is None:
            message = await handler(request)  # LangChain tells the model which tools there are
            if isinstance(message, ToolMessage):  # what it was to do cannot be known
                message.additional_kwargs[CHANGES] = True
            return message
        try:
            result = await tool.call(call["args"])
        except CallError as error:
            text = f"{error.message} ({error.hint})" if error.hint else error.message
            result = ToolResult(text=text, is_error=True)
        return ToolMessage(
            content=await content_of(result, self._host),
            name=call["name"],
            tool_call_id=call["id"],
            status="error" if result.fault else "success",
            # Rules look at the answer itself, not at the words for its fault.
            artifact=outputs_of(result) if result.fault else result.structured,
            additional_kwargs={} if tool.changes is None else {CHANGES: tool.changes},
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
    offered = offer([*tools, _reading_results(host)], host.warn)
    agent = cast(
        "Any",
        create_agent(
            host.chat_model(),
            tools=[each.declared for each in offered],
            system_prompt=system,
            middleware=[
                ModelCallLimitMiddleware(thread_limit=max_turns, exit_behavior="error"),
                _summarizing(host),
                HostMiddleware(host, offered),
            ],
        ),
    )
    final: list[BaseMessage] = list(messages)
    stream = agent.astream(
        {"messages": list(messages)},
        {**(config or {}), "recursion_limit": 10 * max_turns},
        stream_mode="values",
    )
    try:
        async for state in stream:
            final = state["messages"]
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
        name=tool.name,
        description=tool.description or tool.name,
        schema=tool.input_schema or NO_ARGUMENTS,
        call=call,
        server=tool.server,
        changes=not reads_only(tool),
    )


def _reading_results(host: AgentHost) -> LoopTool:
    """The rest of a long result; shown to the model once there is one."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        return await asyncio.to_thread(read_result, arguments, host)  # a search may take seconds

    return LoopTool(
        name=READ_RESULT, description=READ_RESULT_WORDS, schema=READ_RESULT_SCHEMA, call=call
    )
