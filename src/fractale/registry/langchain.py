"""LangChain's tools → tools: each is called as a model would call it, with a tool call.

Only so does the tool answer with a `ToolMessage`, whose `status` says whether it failed and whose
`artifact` has its structured answer. Tools of `langchain-mcp-adapters` are LangChain tools.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

import pydantic_core
from mcp import types

from fractale.errors import ToolError
from fractale.registry.values import json_text, tool_answer

MCP_ARTIFACT = "structured_content"
"""The key under which `langchain-mcp-adapters` keeps MCP's structured content in the artifact."""


def is_langchain(found: Any) -> bool:
    """Whether an object is a LangChain tool."""
    return hasattr(found, "ainvoke") and hasattr(found, "tool_call_schema")


def schema_of(tool: Any) -> dict[str, Any]:
    """JSON Schema of the arguments that a model would give."""
    schema = tool.tool_call_schema
    return cast(
        "dict[str, Any]", schema if isinstance(schema, dict) else schema.model_json_schema()
    )


def caller_of(tool: Any) -> Callable[..., Awaitable[types.CallToolResult]]:
    """A function that calls the tool with a tool call, and gives its message as MCP's answer."""

    async def call(**arguments: Any) -> types.CallToolResult:
        asked = {"type": "tool_call", "name": tool.name, "args": arguments, "id": uuid.uuid4().hex}
        return _answer_of(tool.name, await tool.ainvoke(asked))

    return call


def _answer_of(name: str, message: Any) -> types.CallToolResult:
    """A tool message as MCP's answer.

    Raises:
        ToolError: It is something else, such as a LangGraph `Command`.
    """
    if not hasattr(message, "content_blocks") or not hasattr(message, "status"):
        kind = type(message).__name__
        raise ToolError(f"`{name}` answered with a {kind}, which only a LangChain agent can use")
    answer = tool_answer(name, _value_of(message), None)
    structured = _structured_in(message.artifact)
    if structured is not None:
        answer.structuredContent = structured
    answer.isError = message.status == "error"
    return answer


def _value_of(message: Any) -> Any:
    """The content: what LangChain wrote as JSON as it was, and blocks as MCP's parts."""
    if not isinstance(message.content, str):
        return [_part(block) for block in cast("Iterable[Any]", message.content_blocks)]
    try:
        value: Any = json.loads(message.content)
    except ValueError:
        return message.content
    known = value is None or isinstance(value, dict)
    return cast("Any", value) if known else message.content


def _part(block: Mapping[str, Any]) -> types.ContentBlock:
    kind, mime_type = block.get("type"), str(block.get("mime_type") or "application/octet-stream")
    if kind == "text":
        return types.TextContent(type="text", text=str(block.get("text")))
    data, url = block.get("base64"), block.get("url")
    if data and kind == "image":
        return types.ImageContent(type="image", data=data, mimeType=mime_type)
    if data and kind == "audio":
        return types.AudioContent(type="audio", data=data, mimeType=mime_type)
    if data:
        resource = {"uri": f"langchain://{kind}", "blob": data, "mimeType": mime_type}
        return types.EmbeddedResource.model_validate({"type": "resource", "resource": resource})
    if url:
        link = {"type": "resource_link", "uri": url, "name": str(kind), "mimeType": mime_type}
        return types.ResourceLink.model_validate(link)
    return types.TextContent(type="text", text=json_text(block))


def _structured_in(artifact: Any) -> dict[str, Any] | None:
    """The artifact as structured content, an object; None of one that is not JSON."""
    if artifact is None:
        return None
    try:
        value = pydantic_core.to_jsonable_python(artifact)
    except (pydantic_core.PydanticSerializationError, UnicodeDecodeError):
        return None
    if not isinstance(value, dict):
        return {"result": value}
    found = cast("dict[str, Any]", value)
    inner = found.get(MCP_ARTIFACT)
    return cast("dict[str, Any]", inner) if list(found) == [MCP_ARTIFACT] else found
