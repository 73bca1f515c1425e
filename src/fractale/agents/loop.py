"""The loop of a model with tools: LangChain's `create_agent` around an `AgentContext`.

Each model turn and each tool call is a checkpoint of the run, so a resume continues inside the
loop. The context decides which calls are allowed, counts the cost and emits the events.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from fractale.agents.conversation import CHANGES, check_done, reported
from fractale.agents.loop_tools import (
    READ_RESULT,
    LoopTool,
    content_for_model,
    has_kept_result,
    read_result_tool,
)
from fractale.agents.subagent import AgentContext
from fractale.agents.tool_runs import ToolRun
from fractale.errors import CallError, ModelError, NotDone
from fractale.evidence import outputs_of
from fractale.models.tool_schemas import MOST_TOOLS, wire_names, wire_schema
from fractale.toolbox import LOCAL_CALL, LocalCall, ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.types import Command

MAX_TURNS = 50
"""The most model turns of one attempt. An agent that needs more counts as endless."""

SUMMARIZE_ABOVE = 100_000
"""The most tokens of a conversation. Above it, a summary replaces the older part."""

MAX_NAMED = 10
"""The most tools that a warning names."""


async def work(
    messages: Sequence[BaseMessage],
    *,
    ctx: AgentContext,
    tools: Sequence[LoopTool],
    name: str = "agent",
    system: str | None = None,
    config: RunnableConfig | None = None,
    max_turns: int = MAX_TURNS,
) -> list[BaseMessage]:
    """Let the model work with the tools until it answers, or until a rule of the step is true.

    Args:
        messages: The conversation so far, the instruction last.
        tools: The tools that the model can call.
        name: The agent's name in traces.
        system: The system prompt.
        config: The node's, so that turns are checkpoints of the run.
        max_turns: The most model turns, including those of earlier processes.

    Returns:
        The whole conversation.

    Raises:
        NotDone: The model reports that the task was not done.
        ModelError: The model failed, or the agent never ended.
        LimitReached: A limit of the run is used up.
    """
    declared = declare([*tools, read_result_tool(ctx)], ctx.warn)
    agent = cast(
        "Any",
        create_agent(
            ctx.chat_model(),
            tools=[each.declaration for each in declared],
            system_prompt=system,
            middleware=[
                ModelCallLimitMiddleware(thread_limit=max_turns, exit_behavior="error"),
                _summarizing(ctx),
                ContextMiddleware(ctx, declared),
            ],
        ),
    )
    final: list[BaseMessage] = list(messages)
    stream = agent.astream(
        {"messages": list(messages)},
        {**(config or {}), "recursion_limit": 10 * max_turns, "run_name": name},
        stream_mode="values",
    )
    try:
        async for state in stream:
            final = state["messages"]
    except ModelCallLimitExceededError as error:
        raise ModelError(
            f"the agent did not finish within {max_turns} turns",
            hint="narrow its instruction or its tools, or split the step",
        ) from error
    if (reason := reported(final)) is not None:
        raise NotDone(reason, messages=final)
    return final


def answer_of(messages: Sequence[BaseMessage]) -> str:
    """The answer that ends the conversation.

    Raises:
        NotDone: The answer says that the task was not done.
        ModelError: The conversation ends without an answer, or with an empty one.
    """
    last = messages[-1]
    if not isinstance(last, AIMessage) or not last.text.strip():
        raise ModelError("the model's answer is empty", hint="try again, or try another model")
    return check_done(last.text, messages)


class ContextMiddleware(AgentMiddleware[Any, Any, Any]):
    """Makes the model turns and the tool calls of the agent through its context.

    LangChain's handlers are not called. `create_agent` gets only declarations of tools, and the
    middleware runs the `LoopTool` of a declaration. So one place sets the status, the artifact and
    the `CHANGES` of every tool message, including those of unknown tools.
    """

    def __init__(self, ctx: AgentContext, declared: Sequence[DeclaredTool]) -> None:
        super().__init__()
        self._ctx = ctx
        self._tools = {each.name: each.tool for each in declared}

    @property
    def name(self) -> str:
        """The prefix of LangChain's nodes for the hooks; checkpoints contain it."""
        return "HostMiddleware"

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """End the loop once a rule of the step is true, or the model reports *not done*."""
        messages = state["messages"]
        over = reported(messages) is not None or self._ctx.decided(messages)
        return {"jump_to": "end"} if over else None

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Make one model turn."""
        system = [request.system_message] if request.system_message else []
        shown = [
            tool
            for tool in request.tools
            if isinstance(tool, BaseTool)
            and (tool.name != READ_RESULT or has_kept_result(request.messages))
        ]
        message = await self._ctx.call_model([*system, *request.messages], shown)
        return ModelResponse(result=[message])

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Make one tool call. The model sees a failure."""
        call = request.tool_call
        tool = self._tools.get(call["name"])
        if tool is None:
            message = await handler(request)  # LangChain's reply lists the tools that exist
            if isinstance(message, ToolMessage):  # it may have been meant to change something
                message.additional_kwargs[CHANGES] = True
            return message
        task = request.runtime.config.get("configurable", {}).get("checkpoint_ns", "")
        token = LOCAL_CALL.set(LocalCall(str(call["id"]), str(task)))
        try:
            result = await self._called(tool, call["args"], str(call["id"]))
        except CallError as error:
            text = f"{error.message} ({error.hint})" if error.hint else error.message
            result = ToolResult(text=text, is_error=True)
        finally:
            LOCAL_CALL.reset(token)
        return ToolMessage(
            content=await content_for_model(result, self._ctx),
            name=call["name"],
            tool_call_id=call["id"],
            status="error" if result.fault else "success",
            # Rules see the answer itself, not the text about its fault.
            artifact=outputs_of(result) if result.fault else result.structured,
            additional_kwargs={} if tool.changes is None else {CHANGES: tool.changes},
        )

    async def _called(self, tool: LoopTool, arguments: dict[str, Any], id_: str) -> ToolResult:
        """Call a tool. A tool of fractale itself is a tool run of LangChain's callbacks, too."""

        async def make() -> ToolResult:
            return await tool.call(arguments)

        if tool.is_call:
            return await make()
        info = ToolInfo(name=tool.name, server=tool.server, description=tool.description)
        metadata = {"fractale_step": self._ctx.path}
        return await ToolRun(tool=info, arguments=arguments, id=id_, metadata=metadata).around(make)


def _summarizing(ctx: AgentContext) -> SummarizationMiddleware:
    async def summarize(messages: Sequence[BaseMessage]) -> str:
        request = HumanMessage(
            "Summarize this conversation so far for the agent who continues it: the task, what "
            "was found out (with values, names and paths in full), what failed, what is left to do."
        )
        return (await ctx.ask_model([*messages, request])).text

    return SummarizationMiddleware(
        ctx.chat_model(),
        trigger=("tokens", SUMMARIZE_ABOVE),
        keep=("tokens", SUMMARIZE_ABOVE // 4),
        trim_tokens_to_summarize=None,
        summarizer=cast("Any", summarize),
    )


# -- tools as a model's provider accepts them: renamed, adapted, or left out ----------------------

Warn = Callable[[str, str], None]
"""Receives a code and a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTool:
    """A tool, and its declaration for the model.

    Args:
        declaration: It has no function: `ContextMiddleware` makes the calls.
    """

    tool: LoopTool
    declaration: StructuredTool

    @property
    def name(self) -> str:
        """The name by which the model calls the tool."""
        return self.declaration.name


def declare(
    tools: Sequence[LoopTool], warn: Warn, max_tools: int = MOST_TOOLS
) -> list[DeclaredTool]:
    """Tools as the model sees them, at most `max_tools`.

    Args:
        warn: Receives each tool that is left out, with its server.
    """
    unlike = list(_qualified(tools))
    names = wire_names(tool.name for tool in unlike)
    declared: list[DeclaredTool] = []
    for tool in unlike:
        try:
            declaration = _declaration(tool, names[tool.name])
        except Exception as error:  # noqa: BLE001 - LangChain raises anything about a schema
            of = f" of the server {tool.server}" if tool.server else ""
            warn("tool-left-out", f"the tool `{tool.name}`{of} is not shown to the model: {error}")
            continue
        declared.append(DeclaredTool(tool=tool, declaration=declaration))
    return _at_most(declared, max_tools, warn)


def _qualified(tools: Sequence[LoopTool]) -> Iterator[LoopTool]:
    """The tools under distinct names, so that a server's tool does not hide a tool of fractale."""
    own = {tool.name for tool in tools if not tool.server}
    for tool in tools:
        shared = tool.server and tool.name in own
        yield replace(tool, name=f"{tool.server}.{tool.name}") if shared else tool


def _declaration(tool: LoopTool, name: str) -> StructuredTool:
    schema = wire_schema(tool.schema)
    words = str(schema.pop("description", ""))
    described = [tool.description] if words in tool.description else [tool.description, words]
    made = StructuredTool(name=name, description="\n".join(described), args_schema=schema)
    convert_to_openai_tool(made)  # raises an error that would otherwise fail each request
    return made


def _at_most(declared: list[DeclaredTool], max_tools: int, warn: Warn) -> list[DeclaredTool]:
    """All tools of fractale itself, then the servers' tools in turns, up to the limit."""
    if len(declared) <= max_tools:
        return declared
    servers = dict.fromkeys(each.tool.server for each in declared)
    queues = [[each for each in declared if each.tool.server == server] for server in servers]
    queues.sort(key=lambda queue: queue[0].tool.server != "")
    own = queues.pop(0) if not queues[0][0].tool.server else []
    turns = [each for turn in itertools.zip_longest(*queues) for each in turn if each]
    kept = {each.name for each in [*own, *turns][:max_tools]}
    left_out = [each.tool for each in declared if each.name not in kept]
    named = ", ".join(f"`{tool.name}` ({tool.server})" for tool in left_out[:MAX_NAMED])
    more = f" and {len(left_out) - MAX_NAMED} more" if len(left_out) > MAX_NAMED else ""
    warn(
        "tools-left-out",
        f"{len(left_out)} of {len(declared)} tools are not shown to the model, which takes "
        f"{max_tools}: {named}{more}; name those that the step needs in `tools`",
    )
    return [each for each in declared if each.name in kept]
