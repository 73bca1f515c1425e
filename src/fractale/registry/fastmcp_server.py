"""Components → a FastMCP server.

This module and `fastmcp_made` are the only ones that import FastMCP with them: that takes a
quarter of a second, for which only ``fractale serve`` has to wait, and a run whose own modules
use FastMCP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

from fastmcp import FastMCP
from fastmcp.exceptions import PromptError, ResourceError
from fastmcp.prompts import Prompt, PromptResult
from fastmcp.prompts.base import Message, PromptArgument
from fastmcp.resources import Resource, ResourceContent, ResourceResult, ResourceTemplate
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools import Tool, ToolResult
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.types import CallToolRequestParams
from pydantic import AnyUrl, Field
from pydantic.json_schema import SkipJsonSchema

from fractale.errors import ToolError
from fractale.registry.components import (
    Component,
    FastMCPMade,
    LocalPrompt,
    LocalResource,
    LocalTemplate,
    LocalTool,
)


def fastmcp_server(name: str, components: Sequence[Component]) -> FastMCP[Any]:
    """A FastMCP server of the components.

    Args:
        name: What the server calls itself.
    """
    server: FastMCP[Any] = FastMCP(
        name,
        version=version("fractale"),
        on_duplicate="error",
        mask_error_details=False,
        strict_input_validation=False,
        middleware=[NothingIsAnAnswer()],
    )
    for component in components:
        _add(server, _adapted(component))
    return server


class NothingIsAnAnswer(Middleware):
    """A function that returns nothing has done its work: its answer is ``{"result": null}``."""

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: CallNext[CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        """Call the tool."""
        answer = await call_next(context)
        if answer.content or answer.structured_content is not None or answer.is_error:
            return answer
        return ToolResult([], {"result": None}, answer.meta)


def _add(server: FastMCP[Any], component: Tool | Prompt | Resource | ResourceTemplate) -> None:
    if isinstance(component, Tool):
        server.add_tool(component)
    elif isinstance(component, Prompt):
        server.add_prompt(component)
    elif isinstance(component, Resource):
        server.add_resource(component)
    else:
        server.add_template(component)


def _adapted(component: Component) -> Tool | Prompt | Resource | ResourceTemplate:
    if isinstance(component, FastMCPMade):
        return component.made
    if isinstance(component, LocalTool):
        return _tool(component)
    if isinstance(component, LocalPrompt):
        return _prompt(component)
    return _resource(component) if isinstance(component, LocalResource) else _template(component)


class AdaptedTool(Tool):
    """A local tool for FastMCP."""

    local: Annotated[SkipJsonSchema[LocalTool], Field(exclude=True)]

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Call it."""
        answer = await self.local.run(arguments)
        return ToolResult(answer.content, answer.structuredContent, answer.meta, answer.isError)


class AdaptedPrompt(Prompt):
    """A local prompt for FastMCP."""

    local: Annotated[SkipJsonSchema[LocalPrompt], Field(exclude=True)]

    async def render(self, arguments: dict[str, Any] | None = None) -> PromptResult:
        """Render it.

        Raises:
            PromptError: What its function raised.
        """
        try:
            answer = await self.local.render(arguments or {})
        except ToolError as error:
            raise PromptError(error.message, log_level=logging.DEBUG) from error
        messages = [Message(each.content, each.role) for each in answer.messages]
        return PromptResult(messages, description=answer.description)


class AdaptedResource(Resource):
    """A local resource for FastMCP."""

    local: Annotated[SkipJsonSchema[LocalResource], Field(exclude=True)]

    async def read(self) -> ResourceResult:
        """Read it.

        Raises:
            ResourceError: What its function raised.
        """
        try:
            return _contents(await self.local.read())
        except ToolError as error:
            raise ResourceError(error.message, log_level=logging.DEBUG) from error


class AdaptedTemplate(ResourceTemplate):
    """A local template of resources for FastMCP."""

    local: Annotated[SkipJsonSchema[LocalTemplate], Field(exclude=True)]

    def matches(self, uri: str) -> dict[str, Any] | None:
        """The variables in a URI; None if the URI is none of the template's."""
        return self.local.match(uri)

    async def create_resource(self, uri: str, params: dict[str, Any]) -> Resource:
        """The resource with these variables."""

        async def read() -> list[ReadResourceContents]:
            return await self.local.read(params)

        name, about, mime_type = self.local.name, self.local.description, self.local.mime_type
        made = LocalResource(uri=uri, name=name, description=about, mime_type=mime_type, read=read)
        return _resource(made)


def _contents(parts: list[ReadResourceContents]) -> ResourceResult:
    return ResourceResult([ResourceContent(p.content, p.mime_type, p.meta) for p in parts])


def _tool(local: LocalTool) -> Tool:
    return AdaptedTool(
        name=local.name,
        description=local.description,
        parameters=local.parameters,
        output_schema=local.output_schema,
        annotations=local.annotations,
        meta=local.meta,
        local=local,
    )


def _prompt(local: LocalPrompt) -> Prompt:
    arguments = [
        PromptArgument(name=a.name, description=a.description, required=bool(a.required))
        for a in local.arguments
    ]
    return AdaptedPrompt(
        name=local.name, description=local.description, arguments=arguments, local=local
    )


def _resource(local: LocalResource) -> Resource:
    return AdaptedResource(
        uri=AnyUrl(local.uri),
        name=local.name,
        description=local.description,
        mime_type=local.mime_type,
        local=local,
    )


def _template(local: LocalTemplate) -> ResourceTemplate:
    return AdaptedTemplate(
        uri_template=local.uri,
        name=local.name,
        description=local.description,
        mime_type=local.mime_type,
        parameters=local.parameters,
        local=local,
    )
