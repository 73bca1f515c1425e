"""Images in tools' answers, in the form that LangChain's models accept.

`langchain-mcp-adapters` does the conversion: its tool for an MCP tool turns an answer into a
`ToolMessage`. An interceptor gives it the answer that fractale already has (through the run's
toolbox, journal and policy), so the adapter itself makes no call. Importing the package takes over
a second, so it is imported for the first answer that has an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langchain_core.messages import ToolMessage
from mcp import types

from fractale.toolbox import ToolResult

IMAGE = "image/"
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


async def images_of(result: ToolResult) -> list[dict[str, Any]]:
    """The images of an answer as LangChain's content blocks."""
    parts = [part for each in result.content if (part := _image_part(each)) is not None]
    if not parts:
        return []
    message = await _converted(types.CallToolResult(content=parts))
    blocks: list[Any] = [*message.content_blocks]
    # Without the random `id` of each block: repeated requests to a model must be the same.
    return [
        {key: block[key] for key in ("type", "base64", "mime_type") if key in block}
        for block in blocks
        if block["type"] == "image"
    ]


def _image_part(part: Mapping[str, Any]) -> types.ContentBlock | None:
    if part.get("type") == "image":
        return types.ImageContent.model_validate(part)
    resource: Mapping[str, Any] = part.get("resource", {})
    if "blob" in resource and str(resource.get("mimeType")).startswith(IMAGE):
        return types.EmbeddedResource.model_validate(part)
    return None


async def _converted(answer: types.CallToolResult) -> ToolMessage:
    from langchain_mcp_adapters.interceptors import MCPToolCallRequest
    from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool

    async def answered(request: MCPToolCallRequest, handler: Any) -> types.CallToolResult:
        del request, handler
        return answer

    tool = convert_mcp_tool_to_langchain_tool(
        None,
        types.Tool(name="answered", inputSchema=_NO_ARGUMENTS),
        connection={"transport": "streamable_http", "url": "http://localhost"},  # never called
        tool_interceptors=[answered],
    )
    call: dict[str, Any] = {"type": "tool_call", "id": "answered", "name": "answered", "args": {}}
    return cast("ToolMessage", await tool.ainvoke(call))
