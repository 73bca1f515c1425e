"""Conversion between MCP's types and fractale's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from mcp import types

from fractale.errors import ToolError
from fractale.mcp.transport import MAX_ANSWER_BYTES, too_long
from fractale.toolbox import (
    TRACES_ITSELF,
    PromptInfo,
    PromptMessage,
    ResourceInfo,
    ToolInfo,
    ToolResult,
)

OWN_PREFIX = "fractale."


def tool_info(tool: types.Tool, server: str, shown: str, *, local: bool = False) -> ToolInfo:
    """A tool as a run sees it, under the name `shown`.

    Args:
        local: Whether its server is part of this process.
    """
    return ToolInfo(
        name=shown,
        server=server,
        description=tool.description or "",
        input_schema=tool.inputSchema,
        output_schema=tool.outputSchema,
        annotations=_annotations(tool),
        traces_itself=local and bool(tool.meta and tool.meta.get(TRACES_ITSELF)),
    )


def _annotations(tool: types.Tool) -> dict[str, Any]:
    """MCP's hints, and fractale's own from any place where a server may put them."""
    hints = tool.annotations.model_dump(exclude_none=True) if tool.annotations else {}
    in_schema = tool.inputSchema.get("annotations")
    for place in (tool.meta, in_schema):
        if isinstance(place, Mapping):
            table = cast("Mapping[str, Any]", place)
            hints |= {key: value for key, value in table.items() if key.startswith(OWN_PREFIX)}
    return hints


def tool_result(result: types.CallToolResult, server: str) -> ToolResult:
    """A tool's complete answer.

    Raises:
        ToolError: Its text is over the limit. An embedded server's answers pass no transport that
            checks it.
    """
    said = (text_in(part) for part in result.content)
    text = "\n".join(each for each in said if each is not None)
    if len(text) > MAX_ANSWER_BYTES:
        raise too_long(server, len(text))
    return ToolResult(
        text=text,
        structured=result.structuredContent,
        is_error=result.isError,
        content=tuple(_json(part) for part in result.content),
    )


def text_in(part: types.ContentBlock) -> str | None:
    """The text of a part; None if the part is bytes."""
    if isinstance(part, types.TextContent):
        return part.text
    if isinstance(part, types.ResourceLink):
        return _link_line(part)
    if isinstance(part, types.EmbeddedResource) and isinstance(
        part.resource, types.TextResourceContents
    ):
        return part.resource.text
    return None


def _link_line(link: types.ResourceLink) -> str:
    about = ", ".join(filter(None, (link.title or link.name, link.mimeType)))
    line = f"{link.uri} ({about})" if about else str(link.uri)
    return f"{line}: {link.description}" if link.description else line


def _json(part: types.ContentBlock) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)


def prompt_info(prompt: types.Prompt, server: str, shown: str) -> PromptInfo:
    """A prompt as a run sees it, under the name `shown`."""
    arguments = tuple(
        {"name": a.name, "description": a.description or "", "required": bool(a.required)}
        for a in prompt.arguments or ()
    )
    return PromptInfo(
        name=shown, server=server, description=prompt.description or "", arguments=arguments
    )


def prompt_arguments(prompt: types.Prompt, arguments: Mapping[str, Any]) -> dict[str, str]:
    """A prompt's arguments as text, the only type that MCP has for them; other values become JSON.

    Raises:
        ToolError: Required ones are missing.
    """
    required = [a.name for a in prompt.arguments or () if a.required]
    if missing := [name for name in required if arguments.get(name) is None]:
        names = ", ".join(f"`{name}`" for name in missing)
        raise ToolError(
            f"prompt `{prompt.name}` needs {names}", hint=f"set {names} under the step's `inputs`"
        )
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
        if value is not None
    }


def prompt_messages(result: types.GetPromptResult) -> list[PromptMessage]:
    """A prompt's messages in order, with their roles."""
    return [
        message
        for each in result.messages
        for message in _unwrapped(each.role, _text_of(each.content))
    ]


def _text_of(part: types.ContentBlock) -> str:
    text = text_in(part)
    if text is not None:
        return text
    kind = part.type if isinstance(part, (types.ImageContent, types.AudioContent)) else "bytes"
    raise ToolError(
        f"the prompt has a message of {kind}, which is not text",
        hint="give the model a file's path in the step's `instruction` instead",
    )


def _unwrapped(role: str, text: str) -> Iterator[PromptMessage]:
    """The messages inside a text that is itself ``{"messages": [...]}``, as 0.1.0's prompts are."""
    if text.lstrip().startswith("{"):
        try:
            data: Any = json.loads(text)
            inner = [
                PromptMessage(
                    role=str(message.get("role", role)), text=str(message["content"]["text"])
                )
                for message in data["messages"]
            ]
        except (ValueError, LookupError, TypeError, AttributeError):
            inner = []
        if inner:
            yield from inner
            return
    yield PromptMessage(role=role, text=text)


def resource_info(resource: types.Resource | types.ResourceTemplate, server: str) -> ResourceInfo:
    """A resource, or a template of resources, as a run sees it."""
    is_template = isinstance(resource, types.ResourceTemplate)
    return ResourceInfo(
        uri=resource.uriTemplate if is_template else str(resource.uri),
        server=server,
        name=resource.name,
        description=resource.description or "",
        mime_type=resource.mimeType,
        is_template=is_template,
    )


def resource_result(result: types.ReadResourceResult, server: str) -> ToolResult:
    """The contents of a resource, as the answer of a tool that embeds it.

    Raises:
        ToolError: Its text is over the limit.
    """
    parts = [types.EmbeddedResource(type="resource", resource=each) for each in result.contents]
    return tool_result(types.CallToolResult(content=[*parts]), server)


def matches(info: ResourceInfo, uri: str) -> bool:
    """Whether a resource is the one at `uri`, or a template that can make it."""
    if not info.is_template:
        return info.uri == uri
    parts = re.split(r"\{([^}]*)\}", info.uri)
    pattern = "".join(
        re.escape(part) if index % 2 == 0 else _variable(part) for index, part in enumerate(parts)
    )
    return re.fullmatch(pattern, uri) is not None


def _variable(name: str) -> str:
    """A variable of a URI template as a pattern: ``{+path}``, ``{path*}`` may have slashes."""
    return ".*" if name[:1] in "+#/?&;." or name.endswith("*") else "[^/]*"
