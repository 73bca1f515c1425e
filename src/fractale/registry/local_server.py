"""Components → a server of the MCP library itself: for a run, which can't wait for FastMCP."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeAlias

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.shared.exceptions import McpError
from pydantic import AnyUrl

from fractale.registry.components import (
    Component,
    LocalPrompt,
    LocalResource,
    LocalTemplate,
    LocalTool,
)
from fractale.registry.values import failed

_NOT_FOUND = -32002
"""MCP's code for a resource that isn't there."""

Handler: TypeAlias = Callable[[Any], Awaitable[types.ServerResult]]


def local_server(name: str, components: Sequence[Component]) -> Server[Any]:
    """A server of the components; those of FastMCP are left out, it serves them itself.

    Args:
        name: What the server calls itself.
    """
    server: Server[Any] = Server(name, version=version("fractale"))
    server.request_handlers.update(_Served.of(components).handlers())
    return server


@dataclass(frozen=True, slots=True)
class _Served:
    """What a server has, and its answers to requests."""

    tools: dict[str, LocalTool]
    prompts: dict[str, LocalPrompt]
    resources: dict[str, LocalResource]
    templates: list[LocalTemplate]

    @classmethod
    def of(cls, components: Sequence[Component]) -> _Served:
        return cls(
            {each.name: each for each in components if isinstance(each, LocalTool)},
            {each.name: each for each in components if isinstance(each, LocalPrompt)},
            {each.uri: each for each in components if isinstance(each, LocalResource)},
            [each for each in components if isinstance(each, LocalTemplate)],
        )

    def handlers(self) -> dict[type, Handler]:
        return {
            types.ListToolsRequest: self.list_tools,
            types.CallToolRequest: self.call_tool,
            types.ListPromptsRequest: self.list_prompts,
            types.GetPromptRequest: self.get_prompt,
            types.ListResourcesRequest: self.list_resources,
            types.ListResourceTemplatesRequest: self.list_templates,
            types.ReadResourceRequest: self.read_resource,
        }

    async def list_tools(self, _: types.ListToolsRequest) -> types.ServerResult:
        tools = [each.listed() for each in self.tools.values()]
        return types.ServerResult(types.ListToolsResult(tools=tools))

    async def call_tool(self, request: types.CallToolRequest) -> types.ServerResult:
        tool = self.tools.get(request.params.name)
        if tool is None:
            return types.ServerResult(failed(f"Unknown tool: {request.params.name!r}"))
        return types.ServerResult(await tool.run(request.params.arguments or {}))

    async def list_prompts(self, _: types.ListPromptsRequest) -> types.ServerResult:
        prompts = [each.listed() for each in self.prompts.values()]
        return types.ServerResult(types.ListPromptsResult(prompts=prompts))

    async def get_prompt(self, request: types.GetPromptRequest) -> types.ServerResult:
        """Render a prompt.

        Raises:
            McpError: There is none of that name.
            ToolError: What its function raised.
        """
        prompt = self.prompts.get(request.params.name)
        if prompt is None:
            raise _unknown(types.INVALID_PARAMS, f"Unknown prompt: {request.params.name!r}")
        return types.ServerResult(await prompt.render(request.params.arguments or {}))

    async def list_resources(self, _: types.ListResourcesRequest) -> types.ServerResult:
        resources = [each.listed() for each in self.resources.values()]
        return types.ServerResult(types.ListResourcesResult(resources=resources))

    async def list_templates(self, _: types.ListResourceTemplatesRequest) -> types.ServerResult:
        templates = [each.listed() for each in self.templates]
        return types.ServerResult(types.ListResourceTemplatesResult(resourceTemplates=templates))

    async def read_resource(self, request: types.ReadResourceRequest) -> types.ServerResult:
        """Read a resource, or one that a template makes.

        Raises:
            McpError: There is none of that URI.
            ToolError: What its function raised.
        """
        uri = request.params.uri
        contents = [_content(uri, each) for each in await self._read(str(uri))]
        return types.ServerResult(types.ReadResourceResult(contents=contents))

    async def _read(self, uri: str) -> list[ReadResourceContents]:
        if resource := self.resources.get(uri):
            return await resource.read()
        for template in self.templates:
            if (variables := template.match(uri)) is not None:
                return await template.read(variables)
        raise _unknown(_NOT_FOUND, f"Resource not found: {uri!r}")


def _unknown(code: int, message: str) -> McpError:
    return McpError(types.ErrorData(code=code, message=message))


def _content(
    uri: AnyUrl, part: ReadResourceContents
) -> types.TextResourceContents | types.BlobResourceContents:
    if isinstance(part.content, str):
        return types.TextResourceContents(uri=uri, text=part.content, mimeType=part.mime_type)
    blob = base64.b64encode(part.content).decode()
    return types.BlobResourceContents(uri=uri, blob=blob, mimeType=part.mime_type)
