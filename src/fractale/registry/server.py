"""The MCP server of local tools, prompts and resources: inside a run and under ``fractale serve``.

A component is what MCP lists of a thing, and the function that does it. Components know no server;
`serve_components` puts them behind one of the MCP library's low-level servers.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.shared.exceptions import McpError
from pydantic import AnyUrl

from fractale.registry.values import failed
from fractale.version import __version__

_NOT_FOUND = -32002
"""MCP's error code for a resource that does not exist."""

Contents: TypeAlias = "list[ReadResourceContents]"
Handler: TypeAlias = Callable[[Any], Awaitable[types.ServerResult]]
Lifespan: TypeAlias = "Callable[[Any], AbstractAsyncContextManager[Any]]"


@dataclass(frozen=True, slots=True)
class LocalTool:
    """A tool.

    Args:
        listing: The tool as MCP lists it.
        run: Runs the tool with its arguments. It never raises: an error is an answer with
            ``isError``.
    """

    listing: types.Tool
    run: Callable[[dict[str, Any]], Awaitable[types.CallToolResult]]


@dataclass(frozen=True, slots=True)
class LocalPrompt:
    """A prompt.

    Args:
        listing: The prompt as MCP lists it.
        render: Renders the messages. MCP passes every argument as text.
    """

    listing: types.Prompt
    render: Callable[[dict[str, str]], Awaitable[types.GetPromptResult]]


@dataclass(frozen=True, slots=True)
class LocalResource:
    """A resource with a fixed URI.

    Args:
        listing: The resource as MCP lists it.
        read: Reads its contents.
    """

    listing: types.Resource
    read: Callable[[], Awaitable[Contents]]


@dataclass(frozen=True, slots=True)
class LocalTemplate:
    """A template of resources: its URI has variables.

    Args:
        listing: The template as MCP lists it.
        read: Starts reading the resource of a URI; None if the URI doesn't match the template.
    """

    listing: types.ResourceTemplate
    read: Callable[[str], Awaitable[Contents] | None]


Component: TypeAlias = LocalTool | LocalPrompt | LocalResource | LocalTemplate


def serve_components(
    name: str, components: Sequence[Component], lifespan: Lifespan | None = None
) -> Server[Any]:
    """Make a server of components.

    Args:
        name: The server's name in MCP's handshake.
        components: Their names differ, as the builder checks.
        lifespan: Entered for each session, with the server; None if there is nothing to enter.
    """
    options: Mapping[str, Any] = {"lifespan": lifespan} if lifespan else {}
    server: Server[Any] = Server(name, version=__version__, **options)
    server.request_handlers.update(_Catalog.of(components).handlers())
    return server


@dataclass(frozen=True, slots=True)
class _Catalog:
    """The components of a server by name or URI, and the handlers of MCP's requests for them."""

    tools: Mapping[str, LocalTool]
    prompts: Mapping[str, LocalPrompt]
    resources: Mapping[str, LocalResource]
    templates: Sequence[LocalTemplate]

    @classmethod
    def of(cls, components: Sequence[Component]) -> _Catalog:
        return cls(
            {each.listing.name: each for each in components if isinstance(each, LocalTool)},
            {each.listing.name: each for each in components if isinstance(each, LocalPrompt)},
            {str(each.listing.uri): each for each in components if isinstance(each, LocalResource)},
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
        tools = [each.listing for each in self.tools.values()]
        return types.ServerResult(types.ListToolsResult(tools=tools))

    async def call_tool(self, request: types.CallToolRequest) -> types.ServerResult:
        tool = self.tools.get(request.params.name)
        if tool is None:
            return types.ServerResult(failed(f"Unknown tool: {request.params.name!r}"))
        return types.ServerResult(await tool.run(request.params.arguments or {}))

    async def list_prompts(self, _: types.ListPromptsRequest) -> types.ServerResult:
        prompts = [each.listing for each in self.prompts.values()]
        return types.ServerResult(types.ListPromptsResult(prompts=prompts))

    async def get_prompt(self, request: types.GetPromptRequest) -> types.ServerResult:
        prompt = self.prompts.get(request.params.name)
        if prompt is None:
            raise _unknown(types.INVALID_PARAMS, f"Unknown prompt: {request.params.name!r}")
        return types.ServerResult(await prompt.render(request.params.arguments or {}))

    async def list_resources(self, _: types.ListResourcesRequest) -> types.ServerResult:
        resources = [each.listing for each in self.resources.values()]
        return types.ServerResult(types.ListResourcesResult(resources=resources))

    async def list_templates(self, _: types.ListResourceTemplatesRequest) -> types.ServerResult:
        templates = [each.listing for each in self.templates]
        return types.ServerResult(types.ListResourceTemplatesResult(resourceTemplates=templates))

    async def read_resource(self, request: types.ReadResourceRequest) -> types.ServerResult:
        uri = request.params.uri
        contents = [_content(uri, each) for each in await self._read(str(uri))]
        return types.ServerResult(types.ReadResourceResult(contents=contents))

    async def _read(self, uri: str) -> Contents:
        if resource := self.resources.get(uri):
            return await resource.read()
        for template in self.templates:
            if (reading := template.read(uri)) is not None:
                return await reading
        raise _unknown(_NOT_FOUND, f"Resource not found: {uri!r}")


def _unknown(code: int, message: str) -> McpError:
    return McpError(types.ErrorData(code=code, message=message))


def _content(
    uri: AnyUrl, part: ReadResourceContents
) -> types.TextResourceContents | types.BlobResourceContents:
    kind, meta = part.mime_type, part.meta
    if isinstance(part.content, str):
        text = part.content
        return types.TextResourceContents(uri=uri, text=text, mimeType=kind, _meta=meta)
    blob = base64.b64encode(part.content).decode()
    return types.BlobResourceContents(uri=uri, blob=blob, mimeType=kind, _meta=meta)
