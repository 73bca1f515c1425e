"""The loop of a model with tools: a graph of two nodes around an `AgentContext`.

Each model turn and each tool call is a checkpoint of the run, so a resume continues inside the
loop. The context decides which calls are allowed, counts the cost and emits the events.

The graph has the nodes and the messages of LangChain's `create_agent`, which would compile it again
for each agent, and make a step of the graph, with a checkpoint, of each of its middlewares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, cast

from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt.tool_node import INVALID_TOOL_NAME_ERROR_TEMPLATE
from langgraph.runtime import Runtime
from langgraph.types import Send
from typing_extensions import TypedDict

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
    loop = _Loop(
        ctx=ctx,
        declared=declare([*tools, read_result_tool(ctx)], ctx.warn),
        system=[SystemMessage(system)] if system else [],
        max_turns=max_turns,
    )
    token = _LOOP.set(loop)
    try:
        after: Any = await _graph().ainvoke(
            {"messages": list(messages)},
            cast(
                "RunnableConfig",
                {**(config or {}), "recursion_limit": 10 * max_turns, "run_name": name},
            ),
        )
    finally:
        _LOOP.reset(token)
    final: list[BaseMessage] = after["messages"]
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


class LoopState(TypedDict, total=False):
    """The state of a loop, which its checkpoints contain.

    Keys:
        messages: The conversation.
        turns: The number of model turns so far.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    turns: int


@cache
def _graph() -> Any:
    """The graph of every loop. It knows nothing of a run: its nodes ask the `_Loop` of theirs."""
    builder: Any = StateGraph(LoopState)
    builder.add_node("model", _model)
    builder.add_node("tools", _tool)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", _calls, ["tools", END])
    builder.add_edge("tools", "model")
    return builder.compile(name="agent")


async def _model(state: LoopState, runtime: Runtime[Any]) -> LoopState:
    return await _LOOP.get().take_turn(state, runtime)


async def _calls(state: LoopState) -> list[Send] | str:
    """A task for each tool call of the turn, so that each call can wait for an answer."""
    last = state.get("messages", [])[-1]
    calls = last.tool_calls if isinstance(last, AIMessage) else []
    return [Send("tools", [call]) for call in calls] or END


async def _tool(state: Any, config: RunnableConfig) -> LoopState:
    call: ToolCall = state[-1]
    task = str(config.get("configurable", {}).get("checkpoint_ns", ""))
    return {"messages": [await _LOOP.get().call_tool(call, task)]}


@dataclass(slots=True, kw_only=True)
class _Loop:
    """One agent at work: makes the model turns and the tool calls through its context.

    One place sets the status, the artifact and the `CHANGES` of every tool message, including those
    of unknown tools.

    Args:
        declared: The tools that the model can call.
        system: The system prompt.
    """

    ctx: AgentContext
    declared: Sequence[DeclaredTool]
    system: Sequence[BaseMessage]
    max_turns: int
    _summaries: SummarizationMiddleware | None = None

    async def take_turn(self, state: LoopState, runtime: Any) -> LoopState:
        """Make one model turn. A conversation that has become too long is summarized before.

        Without a new message, the loop ends: a rule of the step is true, or the model reports *not
        done*.

        Raises:
            ModelError: The model has made all its turns.
        """
        messages: list[Any] = state.get("messages", [])
        turns = state.get("turns", 0)
        if turns >= self.max_turns:
            raise ModelError(
                f"the agent did not finish within {self.max_turns} turns",
                hint="narrow its instruction or its tools, or split the step",
            )
        if reported(messages) is not None or self.ctx.decided(messages):
            return {}
        self._summaries = self._summaries or _summarizing(self.ctx)
        shorter: Any = await self._summaries.abefore_model(cast("Any", {**state}), runtime) or {}
        changes: list[Any] = shorter.get("messages", [])
        said = cast("list[BaseMessage]", add_messages(messages, changes)) if changes else messages
        kept = has_kept_result(said)
        shown = [d.declaration for d in self.declared if kept or d.name != READ_RESULT]
        message: Any = await self.ctx.call_model([*self.system, *said], shown)
        return {"messages": [*changes, message], "turns": turns + 1}

    async def call_tool(self, call: ToolCall, task: str) -> ToolMessage:
        """Make one tool call. The model sees a failure."""
        tool = next((each.tool for each in self.declared if each.name == call["name"]), None)
        if tool is None:
            return self._no_such_tool(call)
        token = LOCAL_CALL.set(LocalCall(str(call["id"]), task))
        try:
            result = await self._called(tool, call["args"], str(call["id"]))
        except CallError as error:
            text = f"{error.message} ({error.hint})" if error.hint else error.message
            result = ToolResult(text=text, is_error=True)
        finally:
            LOCAL_CALL.reset(token)
        return ToolMessage(
            content=await content_for_model(result, self.ctx),
            name=call["name"],
            tool_call_id=call["id"],
            status="error" if result.fault else "success",
            # Rules see the answer itself, not the text about its fault.
            artifact=outputs_of(result) if result.fault else result.structured,
            additional_kwargs={} if tool.changes is None else {CHANGES: tool.changes},
        )

    def _no_such_tool(self, call: ToolCall) -> ToolMessage:
        """The reply that lists the tools that exist. The call may have been meant to change any."""
        text = INVALID_TOOL_NAME_ERROR_TEMPLATE.format(
            requested_tool=call["name"],
            available_tools=", ".join(each.name for each in self.declared),
        )
        return ToolMessage(
            content=text,
            name=call["name"],
            tool_call_id=call["id"],
            status="error",
            additional_kwargs={CHANGES: True},
        )

    async def _called(self, tool: LoopTool, arguments: dict[str, Any], id_: str) -> ToolResult:
        """Call a tool. A tool of fractale itself is a tool run of LangChain's callbacks, too."""

        async def make() -> ToolResult:
            return await tool.call(arguments)

        if tool.is_call:
            return await make()
        info = ToolInfo(name=tool.name, server=tool.server, description=tool.description)
        metadata = {"fractale_step": self.ctx.path}
        return await ToolRun(tool=info, arguments=arguments, id=id_, metadata=metadata).around(make)


_LOOP: ContextVar[_Loop] = ContextVar("loop")
"""The agent whose graph the running code belongs to."""


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
        declaration: It has no function: the loop makes the calls.
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
