"""The generalist: works with the tools it is given until it can answer.

The loop is LangChain's `create_agent`, so every model turn and tool call is a checkpoint of the
run. What may be called, what it costs and what is told about it is decided by the `AgentHost`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from langchain.agents import (
    create_agent,  # pyright: ignore[reportUnknownVariableType] - its saver is untyped
)
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse, hook_config
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.tools import StructuredTool, ToolException

from fractale.errors import CallError, ModelError
from fractale.toolbox import ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableConfig

MAX_TURNS = 50
"""Model turns of one visit before the agent is taken for one that never ends."""

ModelCall = Callable[[], Awaitable[ModelResponse[Any]]]


class AgentHost(Protocol):
    """What an agent may do to the outside, decided by the step that runs it."""

    async def call_tool(self, tool: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool that the model chose.

        Raises:
            ToolError: The call failed; the model is told.
            PolicyError: The call is not allowed; the model is told.
        """
        ...

    async def call_model(self, invoke: ModelCall) -> ModelResponse[Any]:
        """Make one model call, counted and told about.

        Raises:
            LimitReached: A limit of the run is used up.
            ModelError: The model failed.
        """
        ...

    def on_text(self, text: str) -> None:
        """Take a piece of the model's text as it comes."""
        ...

    def done(self) -> bool:
        """Whether a rule of the step already holds on the last tool's answer."""
        ...


class HostMiddleware(AgentMiddleware[Any, Any, Any]):
    """Puts the host between the agent and its model, and ends the loop when the host is done."""

    def __init__(self, host: AgentHost, max_turns: int) -> None:
        super().__init__()
        self._host = host
        self._turns_left = max_turns

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """End the loop as soon as a rule of the step holds."""
        return {"jump_to": "end"} if self._host.done() else None

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Make one turn, at most `max_turns` of them.

        Raises:
            ModelError: The agent took too many turns.
        """
        if self._turns_left == 0:
            raise ModelError(
                "the agent did not come to an end",
                hint="narrow its instruction or its tools, or split the step",
            )
        self._turns_left -= 1
        return await self._host.call_model(lambda: handler(request))


async def ask(
    messages: Sequence[BaseMessage],
    *,
    tools: Sequence[ToolInfo],
    model: BaseChatModel,
    host: AgentHost,
    config: RunnableConfig | None = None,
    max_turns: int = MAX_TURNS,
) -> list[BaseMessage]:
    """Let the model work with the tools until it answers, or until the host is done.

    Args:
        messages: The conversation so far, the instruction last.
        tools: The tools that the model is shown; it can call no others.
        config: The node's, so that turns are checkpointed under the run.

    Returns:
        The whole conversation.

    Raises:
        ModelError: The model failed, or the agent never ended.
        LimitReached: A limit of the run is used up.
    """
    agent = cast(
        "Any",
        create_agent(
            model,
            tools=[_as_langchain_tool(tool, host) for tool in tools],
            middleware=[HostMiddleware(host, max_turns)],
        ),
    )
    final: list[BaseMessage] = list(messages)
    stream = agent.astream(
        {"messages": list(messages)},
        {**(config or {}), "recursion_limit": 10 * max_turns},
        stream_mode=["messages", "values"],
    )
    async for mode, chunk in stream:
        if mode == "values":
            final = chunk["messages"]
        elif isinstance(chunk[0], AIMessageChunk) and chunk[0].text:
            host.on_text(chunk[0].text)
    return final


def answer_of(messages: Sequence[BaseMessage]) -> str:
    """The model's last words.

    Raises:
        ModelError: The conversation does not end with an answer, or with an empty one.
    """
    last = messages[-1]
    if not isinstance(last, AIMessage) or not last.text.strip():
        raise ModelError("the model's answer is empty", hint="try again, or try another model")
    return last.text


def wire_name(tool: ToolInfo) -> str:
    """The tool's name in the letters that model providers accept."""
    return tool.name.replace(".", "__")


def _as_langchain_tool(tool: ToolInfo, host: AgentHost) -> StructuredTool:
    async def call(**arguments: Any) -> str:
        try:
            result = await host.call_tool(tool, arguments)
        except CallError as error:
            raise ToolException(str(error)) from error
        if result.is_error:
            raise ToolException(result.text or "the tool reported an error and said nothing")
        return result.text

    return StructuredTool(
        name=wire_name(tool),
        description=tool.description or tool.name,
        args_schema=dict(tool.input_schema) or {"type": "object", "properties": {}},
        coroutine=call,
        handle_tool_error=True,
    )
