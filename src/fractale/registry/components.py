"""What a registry's entries become: small and immutable, and bound to no server.

`local_server` and `fastmcp_server` each serve the same components, so that a tool answers alike
inside a run and under ``fractale serve``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp import types
from mcp.server.lowlevel.helper_types import ReadResourceContents

Contents: TypeAlias = "list[ReadResourceContents]"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTool:
    """A tool.

    Args:
        parameters: JSON Schema of its arguments.
        output_schema: JSON Schema of its structured answer, an object; None: it says nothing.
        annotations: MCP's hints.
        meta: What goes into MCP's ``_meta``.
        run: Takes the arguments, gives the answer. It raises nothing: what goes wrong is an
            answer with ``isError``.
    """

    name: str
    description: str | None
    parameters: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: types.ToolAnnotations | None
    meta: dict[str, Any] | None
    run: Callable[[dict[str, Any]], Awaitable[types.CallToolResult]]

    def listed(self) -> types.Tool:
        """The tool as MCP lists it."""
        return types.Tool(
            name=self.name,
            title=self.annotations.title if self.annotations else None,
            description=self.description,
            inputSchema=self.parameters,
            outputSchema=self.output_schema,
            annotations=self.annotations,
            _meta=self.meta,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPrompt:
    """A prompt.

    Args:
        arguments: What it takes, all as text: MCP has no other.
        render: Takes the arguments, gives the messages; raises `ToolError` in words for a person.
    """

    name: str
    description: str | None
    arguments: tuple[types.PromptArgument, ...]
    render: Callable[[Mapping[str, str]], Awaitable[types.GetPromptResult]]

    def listed(self) -> types.Prompt:
        """The prompt as MCP lists it."""
        arguments = list(self.arguments)
        return types.Prompt(name=self.name, description=self.description, arguments=arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResource:
    """A resource.

    Args:
        read: Gives its contents; raises `ToolError` in words for a person.
    """

    uri: str
    name: str
    description: str | None
    mime_type: str
    read: Callable[[], Awaitable[Contents]]

    def listed(self) -> types.Resource:
        """The resource as MCP lists it."""
        return types.Resource.model_validate(
            {
                "uri": self.uri,
                "name": self.name,
                "description": self.description,
                "mimeType": self.mime_type,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTemplate:
    """A template of resources: its URI has variables.

    Args:
        uri: Such as ``job://{job}/log``.
        parameters: JSON Schema of the variables.
        match: The variables in a URI; None if the URI is none of the template's.
        read: Takes the variables, gives the contents; raises `ToolError`.
    """

    uri: str
    name: str
    description: str | None
    mime_type: str
    parameters: dict[str, Any]
    match: Callable[[str], dict[str, str] | None]
    read: Callable[[Mapping[str, str]], Awaitable[Contents]]

    def listed(self) -> types.ResourceTemplate:
        """The template as MCP lists it."""
        return types.ResourceTemplate(
            uriTemplate=self.uri,
            name=self.name,
            description=self.description,
            mimeType=self.mime_type,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FastMCPMade:
    """A tool, prompt or resource that FastMCP made: FastMCP serves it, as it is.

    Args:
        made: A ``fastmcp`` Tool, Prompt, Resource or ResourceTemplate.
    """

    name: str
    made: Any


Component: TypeAlias = LocalTool | LocalPrompt | LocalResource | LocalTemplate | FastMCPMade
