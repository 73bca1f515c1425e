"""LangChain's tools → tools: each is called with a tool call, as a model calls it.

Only then does the tool return a `ToolMessage`: its `status` says whether the tool failed, and its
`artifact` has the structured answer. Tools of `langchain-mcp-adapters` are LangChain tools.
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
    """JSON Schema of the arguments that a model sets."""
    schema = tool.tool_call_schema
    return cast(
        "dict[str, Any]", schema if isinstance(schema, dict) else schema.model_json_schema()
    )


def caller_of(tool: Any) -> Callable[..., Awaitable[types.CallToolResult]]:
    """Make a function that calls the tool with a tool call, and returns MCP's result."""

    async def call(**arguments: Any) -> types.CallToolResult:
        asked = {"type": "tool_call", "name": tool.name, "args": arguments, "id": uuid.uuid4().hex}
        return _answer_of(tool.name, await tool.ainvoke(asked))

    return call


def _answer_of(name: str, message: Any) -> types.CallToolResult:
    """Convert a tool message to MCP's result.

    Raises:
        ToolError: The tool returned something else, such as a LangGraph `Command`.
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
    """The content: JSON that LangChain wrote is parsed, and blocks become MCP's parts."""
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
    """The artifact as structured content, always an object; None if it isn't JSON."""
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
