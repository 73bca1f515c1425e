"""The tools that the model of an agent can call: the run's tools, and those that fractale adds.

fractale adds questions to the user, prompts, resources, other sub-agents, `not_done`, and
`read_result` for the rest of a long answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage

from fractale.agents.conversation import NOT_DONE
from fractale.agents.subagent import AgentContext, AgentRequest, Subagent
from fractale.errors import ToolError
from fractale.evidence import shown_text
from fractale.mcp.images import images_of
from fractale.plan.kinds import ASK_PERSON, GET_PROMPT, READ_RESOURCE
from fractale.policy import reads_only
from fractale.questions import question
from fractale.regexes import spans_of
from fractale.toolbox import PromptInfo, ResourceInfo, ToolInfo, ToolResult

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}

MAX_LIST_CHARS = 2000
"""The most characters of a list of prompts or resources in a tool's description."""

MAX_SHOWN_CHARS = 24_000
"""The most characters of an answer. Of a longer one, the model sees `HEAD` and `TAIL` only."""

HEAD, TAIL = 10_000, 10_000

MAX_READ_CHARS = 8_000
"""The most characters of a kept answer that one `read_result` returns."""

MAX_MATCHES = 60
AROUND_MATCH = 120
SEARCH_SECONDS = 2.0

MAX_IMAGE_CHARS = 5_000_000
"""The most characters of an image for a model, in base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTool:
    """Something that the model can call.

    Args:
        name: Its own name. The model may see another name (`fractale.agents.loop.declare`).
        schema: JSON Schema of the arguments.
        call: Does the work. The model sees a CallError; any other error ends the loop.
        server: The server that has the tool; empty for a tool of fractale itself.
        changes: Whether a call may change something outside; None if it only serves the agent.
        is_call: Whether it is a call of a server's tool, which the step reports to callbacks.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    call: Callable[[Mapping[str, Any]], Awaitable[ToolResult]]
    server: str = ""
    changes: bool | None = None
    is_call: bool = False


def server_tool(tool: ToolInfo, ctx: AgentContext) -> LoopTool:
    """A tool of the run's servers."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        return await ctx.call_tool(tool, arguments)

    return LoopTool(
        name=tool.name,
        description=tool.description or tool.name,
        schema=tool.input_schema or NO_ARGUMENTS,
        call=call,
        server=tool.server,
        changes=not reads_only(tool),
        is_call=True,
    )


async def extra_tools(ctx: AgentContext) -> list[LoopTool]:
    """The agent's abilities beside tools: sub-agents, prompts, resources and the user."""
    tools = [_agent(agent, ctx) for agent in await ctx.agents()]
    if GET_PROMPT in ctx.offers and (prompts := await ctx.prompts()):
        tools.append(_prompts(prompts, ctx))
    if READ_RESOURCE in ctx.offers and (resources := await ctx.resources()):
        tools.append(_resources(resources, ctx))
    if ASK_PERSON in ctx.offers:
        tools.append(ask_person(ctx))
    return tools


def not_done() -> LoopTool:
    """Ends an agent's work as *not done*, with a reason; see `fractale.agents.conversation`."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        reason = str(arguments.get("reason") or "").strip()
        if not reason:
            raise ToolError("`reason` is missing: say in one or two sentences what stops you")
        return ToolResult(text=reason)

    return LoopTool(
        name=NOT_DONE,
        description="End here: the task is not done and cannot be. Say why.",
        schema={
            "type": "object",
            "properties": {"reason": {"type": "string"}},
            "required": ["reason"],
        },
        call=call,
    )


_QUESTION: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "One short question."},
        "choices": {
            "type": "array",
            "items": {"type": "string"},
            # Sent to models, so recorded runs are compared with it.
            "description": "What the person can choose from; leave out for a free answer.",
        },
        "default": {"type": "string", "description": "The answer that you would take."},
    },
    "required": ["question"],
}


def ask_person(ctx: AgentContext) -> LoopTool:
    """A question to the user who runs the plan."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        text = str(arguments.get("question") or "").strip()
        if not text:
            raise ToolError("`question` is missing: say what you want to know")
        given = arguments.get("choices")
        choices = [str(choice) for choice in given] if isinstance(given, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a model's words
        answer = ctx.ask_person(question(ctx.path, text, choices, default=arguments.get("default")))
        return ToolResult(text=str(answer))

    return LoopTool(
        name=ASK_PERSON,
        description="Ask the person who runs this, where only they can know or choose.",
        schema=_QUESTION,
        call=call,
    )


def _prompts(prompts: list[PromptInfo], ctx: AgentContext) -> LoopTool:
    known = {prompt.name: prompt for prompt in prompts}

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        name = str(arguments.get("name") or "")
        if name not in known:
            raise ToolError(f"unknown prompt `{name}`; choose from: {', '.join(known)}")
        given: Any = arguments.get("arguments") or {}
        messages = await ctx.get_prompt(name, given)
        return ToolResult(text="\n\n".join(message.text for message in messages))

    lines = [f"{p.name}({', '.join(str(a['name']) for a in p.arguments)})" for p in prompts]
    listed = "; ".join(lines)[:MAX_LIST_CHARS]
    return LoopTool(
        name=GET_PROMPT,
        description=f"Get the text of an expert's prompt. There are: {listed}",
        schema={
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
            "required": ["name"],
        },
        call=call,
    )


def _resources(resources: list[ResourceInfo], ctx: AgentContext) -> LoopTool:
    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        uri = str(arguments.get("uri") or "").strip()
        if not uri:
            raise ToolError("`uri` is missing: say which resource to read")
        return await ctx.read_resource(uri)

    known = "; ".join(f"{each.server}:{each.uri}" for each in resources)
    return LoopTool(
        name=READ_RESOURCE,
        description=f"Read a resource of a server. There are: {known[:MAX_LIST_CHARS]}",
        schema={"type": "object", "properties": {"uri": {"type": "string"}}, "required": ["uri"]},
        call=call,
    )


def _agent(agent: Subagent | ToolInfo, ctx: AgentContext) -> LoopTool:
    """Another sub-agent, as a tool."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        answer = await ctx.call_agent(agent, AgentRequest(inputs=arguments))
        outputs = answer.outputs
        return ToolResult(
            text=answer.error or answer.text,
            structured=outputs if isinstance(outputs, dict) else None,
            is_error=answer.error is not None,
        )

    return LoopTool(
        name=agent.name,
        description=f"Ask the sub-agent {agent.name}: {agent.description}",
        schema=agent.input_schema or NO_ARGUMENTS,
        call=call,
        changes=True,
        is_call=isinstance(agent, ToolInfo),
    )


# -- long answers: the model sees both ends, and reads the rest with `read_result` ----------------

READ_RESULT = "read_result"

_KEPT = re.compile(r'kept as result "([0-9a-f]{8})"')


async def content_for_model(result: ToolResult, ctx: AgentContext) -> Any:
    """The content of the tool message: text, and images as blocks if the model sees images.

    A long text is stored whole for `read_result`. The message has its two ends.
    """
    text = _shortened(shown_text(result), ctx)
    profile: Mapping[str, Any] = ctx.chat_model().profile or {}
    if not profile.get("image_inputs"):
        return text
    images = [each for each in await images_of(result) if len(each["base64"]) <= MAX_IMAGE_CHARS]
    return [{"type": "text", "text": text}, *images] if images else text


def _shortened(text: str, ctx: AgentContext) -> str:
    if len(text) <= MAX_SHOWN_CHARS:
        return text
    name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    ctx.remember(_key(name), text)
    head = text[:HEAD].rpartition("\n")[0] or text[:HEAD]
    tail = text[-TAIL:].partition("\n")[2] or text[-TAIL:]
    left_out = len(text) - len(head) - len(tail)
    return (
        f"{head}\n"
        f"[{left_out} of {len(text)} characters are left out here, from offset {len(head)} on; "
        f'all of it is kept as result "{name}": use {READ_RESULT} to search and read it]\n'
        f"{tail}"
    )


def _key(name: str) -> str:
    return f"result {name}"


def has_kept_result(messages: Sequence[BaseMessage]) -> bool:
    """Whether an answer in a conversation was shortened, so that `read_result` is useful."""
    return any(isinstance(m, ToolMessage) and _KEPT.search(m.text) for m in messages)


def read_result_tool(ctx: AgentContext) -> LoopTool:
    """The rest of a long answer."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        return await asyncio.to_thread(_read_result, arguments, ctx)  # a search may take seconds

    return LoopTool(
        name=READ_RESULT,
        description="Read more of a result that was cut: what matches `search`, or at `offset`.",
        schema={
            "type": "object",
            "properties": {
                "result": {"type": "string"},
                "search": {"type": "string", "description": "A regular expression."},
                "offset": {"type": "integer"},
            },
            "required": ["result"],
        },
        call=call,
    )


def _read_result(arguments: Mapping[str, Any], ctx: AgentContext) -> ToolResult:
    """A part of an answer that was shortened.

    Raises:
        ToolError: The result is unknown, or the search cannot be made.
    """
    name = str(arguments.get("result") or "")
    text = ctx.recall(_key(name))
    if not isinstance(text, str):
        raise ToolError(f'no result "{name}" in this run: use the name in the notice')
    if pattern := arguments.get("search"):
        return ToolResult(text=_matches(str(pattern), text))
    offset = arguments.get("offset") or 0
    if not isinstance(offset, int) or not 0 <= offset < len(text):
        raise ToolError(f"`offset` must be from 0 to {len(text) - 1}, or give `search`")
    part = text[offset : offset + MAX_READ_CHARS]
    rest = len(text) - offset - len(part)
    return ToolResult(text=f"{part}\n[{rest} more characters]" if rest else part)


def _matches(pattern: str, text: str) -> str:
    """The lines with a match, each with the offset of the match. Of a long line, a part."""
    lines, last_end, found = list[str](), -1, 0
    try:
        for start, end in spans_of(f"(?im){pattern}", text, SEARCH_SECONDS):
            found += 1
            if start < last_end or len(lines) == MAX_MATCHES:
                continue
            from_ = max(text.rfind("\n", 0, start) + 1, start - AROUND_MATCH)
            line_end = text.find("\n", end)
            last_end = min(len(text) if line_end < 0 else line_end, end + AROUND_MATCH)
            lines.append(f"{start}: {text[from_:last_end].strip()[: 4 * AROUND_MATCH]}")
    except ValueError as error:
        raise ToolError(f"`search` cannot be used: {error}") from error
    if not lines:
        return f"nothing in the {len(text)} characters matches"
    return "\n".join([f"{found} matches; offset: line", *lines])
