"""FastMCP's objects → components of fractale's own server.

Registries of fractale 0.1.0 name FastMCP's tools, prompts and resources, and functions that expect
its context. A FastMCP server that nothing connects to holds these objects, and `mount` makes a
component of each. Imported only if a module of a registry has imported FastMCP.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fastmcp import Context, FastMCP
from fastmcp.decorators import get_fastmcp_meta
from fastmcp.exceptions import FastMCPError, PromptError, ResourceError, ToolError, ValidationError
from fastmcp.prompts import Prompt, PromptResult
from fastmcp.prompts.base import Message
from fastmcp.prompts.function_prompt import FunctionPrompt, PromptMeta
from fastmcp.resources import Resource, ResourceTemplate
from fastmcp.resources.function_resource import ResourceMeta
from fastmcp.tools import Tool, ToolResult
from fastmcp.tools.function_tool import FunctionTool, ToolMeta
from mcp import types
from mcp.server.lowlevel.helper_types import ReadResourceContents
from pydantic import ValidationError as PydanticValidationError

from fractale.registry.calls import error_text, guarded, pass_on
from fractale.registry.fastmcp_uses import FastMCPMade
from fractale.registry.files import RegistryEntry
from fractale.registry.prompts import a_function, messages_of
from fractale.registry.resources import uri_of
from fractale.registry.schemas import WRAPPED
from fractale.registry.server import (
    Component,
    Contents,
    Lifespan,
    LocalPrompt,
    LocalResource,
    LocalTemplate,
    LocalTool,
)
from fractale.registry.signature import misfit
from fractale.registry.values import check_answer, failed

_tool_error = functools.partial(ToolError, log_level=logging.DEBUG)
_prompt_error = functools.partial(PromptError, log_level=logging.DEBUG)
_resource_error = functools.partial(ResourceError, log_level=logging.DEBUG)


def mount(name: str, found: Sequence[Component | FastMCPMade]) -> tuple[list[Component], Lifespan]:
    """Make components of FastMCP's objects, and let the other components see FastMCP's context.

    Args:
        name: The name of the FastMCP server, as ``get_context().fastmcp`` shows it.

    Returns:
        The components in the same order, and what a session of the server has to enter.
    """
    server: FastMCP[Any] = FastMCP(
        name, version=version("fractale"), on_duplicate="error", mask_error_details=False
    )
    components = [
        _mounted(server, each.made) if isinstance(each, FastMCPMade) else _within(server, each)
        for each in found
    ]
    manager: Any = server
    return components, lambda _: manager._lifespan_manager()


def _mounted(server: FastMCP[Any], made: Tool | Prompt | Resource | ResourceTemplate) -> Component:
    if isinstance(made, Tool):
        server.add_tool(made)
        return LocalTool(made.to_mcp_tool(name=made.name), _runner(server, made))
    if isinstance(made, Prompt):
        server.add_prompt(made)
        return LocalPrompt(made.to_mcp_prompt(name=made.name), _renderer(server, made))
    if isinstance(made, Resource):
        server.add_resource(made)
        uri = str(made.uri)
        return LocalResource(made.to_mcp_resource(uri=uri), lambda: _read(server, uri))
    server.add_template(made)

    def read(uri: str) -> Awaitable[Contents] | None:
        return None if made.matches(uri) is None else _read(server, uri)

    return LocalTemplate(made.to_mcp_template(uriTemplate=made.uri_template), read)


def _runner(
    server: FastMCP[Any], made: Tool
) -> Callable[[dict[str, Any]], Awaitable[types.CallToolResult]]:
    async def run(arguments: dict[str, Any]) -> types.CallToolResult:
        try:
            answer = await server.call_tool(made.name, arguments)
            structured = answer.structured_content
            if made.output_schema and not answer.is_error and not answer.meta:
                check_answer(made.name, structured, made.output_schema)
        except Exception as error:  # noqa: BLE001 - the tool's own error, as an answer
            pass_on(error)
            return failed(str(error))
        if not answer.content and structured is None and not answer.is_error:
            structured = {"result": None}  # a function that returns nothing has done its work
        return types.CallToolResult(
            content=answer.content,
            structuredContent=structured,
            isError=answer.is_error,
            _meta=answer.meta,
        )

    return run


def _renderer(
    server: FastMCP[Any], made: Prompt
) -> Callable[[dict[str, str]], Awaitable[types.GetPromptResult]]:
    async def render(arguments: dict[str, str]) -> types.GetPromptResult:
        return (await server.render_prompt(made.name, arguments)).to_mcp_prompt_result()

    return render


async def _read(server: FastMCP[Any], uri: str) -> Contents:
    parts = (await server.read_resource(uri)).contents
    return [ReadResourceContents(each.content, each.mime_type, each.meta) for each in parts]


def _within(server: FastMCP[Any], component: Component) -> Component:
    """A component whose function may ask FastMCP for its context."""
    if isinstance(component, LocalTool):
        tool = component

        async def run(arguments: dict[str, Any]) -> types.CallToolResult:
            async with Context(fastmcp=server):
                return await tool.run(arguments)

        return dataclasses.replace(tool, run=run)
    if isinstance(component, LocalPrompt):
        prompt = component

        async def render(arguments: dict[str, str]) -> types.GetPromptResult:
            async with Context(fastmcp=server):
                return await prompt.render(arguments)

        return dataclasses.replace(prompt, render=render)

    async def entered(reading: Awaitable[Contents]) -> Contents:
        async with Context(fastmcp=server):
            return await reading

    if isinstance(component, LocalResource):
        resource = component
        return dataclasses.replace(resource, read=lambda: entered(resource.read()))
    template = component

    def read(uri: str) -> Awaitable[Contents] | None:
        reading = template.read(uri)
        return None if reading is None else entered(reading)

    return dataclasses.replace(template, read=read)


# -- what a registry names ----------------------------------------------------------------------


class CheckedTool(FunctionTool):
    """A tool whose errors say which arguments don't fit, without their values."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Call the function.

        Raises:
            ToolError: The arguments don't fit the signature.
        """
        try:
            return await super().run(arguments)
        except ValidationError as error:
            cause = error.__cause__
            is_known = isinstance(cause, PydanticValidationError)
            raise _tool_error(misfit(cause) if is_known else str(error)) from error


class CheckedPrompt(FunctionPrompt):
    """A prompt whose errors have the message of what its function raised."""

    async def render(self, arguments: dict[str, Any] | None = None) -> PromptResult:
        """Render the messages.

        Raises:
            PromptError: The function or its arguments failed.
        """
        try:
            return await super().render(arguments)
        except FastMCPError:
            raise
        except Exception as error:
            raise _prompt_error(error_text(error)) from error


def as_tool(entry: RegistryEntry, found: Any) -> FastMCPMade:
    """Take an object that FastMCP made as a tool.

    Raises:
        TypeError: It isn't a tool.
    """
    if not isinstance(found, Tool):
        raise TypeError(f"is a {type(found).__name__} of FastMCP, not a tool")
    made = found.model_copy(update={"name": entry.name}) if entry.name else found
    return FastMCPMade(name=made.name, made=made)


def tool_of_function(
    function: Callable[..., Any],
    *,
    name: str | None,
    default_name: str | None,
    about: str | None,
    annotations: types.ToolAnnotations | None,
    own: Mapping[str, Any],
) -> FastMCPMade:
    """Make a tool of a function that FastMCP decorated, or that expects FastMCP's context.

    Args:
        name: The registry's name; None: the decorator's, else `default_name`.
        about: The description, unless the decorator has one.
        annotations: The registry's hints; None: the decorator's.
        own: fractale's annotations, added to the decorator's ``meta``.
    """
    given = get_fastmcp_meta(function)
    meta = given if isinstance(given, ToolMeta) else ToolMeta()
    meta = dataclasses.replace(
        meta,
        name=name or meta.name or default_name,
        description=meta.description or about,
        annotations=annotations or meta.annotations,
        meta={**(meta.meta or {}), **own} or None,
    )
    tool = CheckedTool.from_function(guarded(function, _tool_error), metadata=meta)
    schema = tool.output_schema or {}
    if schema.get(WRAPPED) and schema["properties"]["result"].get("type", "object") == "object":
        tool.output_schema = None  # it may be a mapping, which must not be wrapped
    return FastMCPMade(name=tool.name, made=tool)


def as_prompt(entry: RegistryEntry, found: Any) -> FastMCPMade:
    """A prompt that FastMCP made, or a function that it decorated.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(found, Prompt):
        made = found.model_copy(update={"name": entry.name}) if entry.name else found
        return FastMCPMade(name=made.name, made=made)
    function = a_function(found)
    given = get_fastmcp_meta(function)
    meta = given if isinstance(given, PromptMeta) else PromptMeta()
    meta = dataclasses.replace(meta, name=entry.name or meta.name)
    call = guarded(function, _prompt_error, _messages)
    made = CheckedPrompt.from_function(call, metadata=meta)
    return FastMCPMade(name=made.name, made=made)


def _messages(answer: Any) -> Any:
    if isinstance(answer, PromptResult):
        return answer
    return [Message(each.content, each.role) for each in messages_of(answer)]


def as_resource(entry: RegistryEntry, found: Any) -> FastMCPMade:
    """A resource that FastMCP made, or a function that it decorated.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(found, (Resource, ResourceTemplate)):
        return FastMCPMade(name=found.name, made=found)
    function = a_function(found)
    given = get_fastmcp_meta(function)
    meta = given if isinstance(given, ResourceMeta) else ResourceMeta(uri="")
    name = entry.name or meta.name or function.__name__
    parameters = list(inspect.signature(function).parameters)
    uri = entry.uri or meta.uri or uri_of(name, parameters)
    call = guarded(function, _resource_error, _text)
    about = meta.description or inspect.getdoc(function)
    kind = ResourceTemplate if "{" in uri or (parameters and not meta.uri) else Resource
    made = kind.from_function(call, uri, name=name, description=about, mime_type=meta.mime_type)
    return FastMCPMade(name=made.name, made=made)


def _text(answer: Any) -> Any:
    """JSON values as text; text, bytes and FastMCP's own results unchanged."""
    if isinstance(answer, str):
        return answer
    try:
        return json.dumps(answer, ensure_ascii=False)
    except TypeError:
        return answer


def answer_of(value: Any, schema: Mapping[str, Any] | None) -> types.CallToolResult:
    """Convert a value of FastMCP's types, or a list with such values, to MCP's result."""
    tool = Tool(name="answer", parameters={}, output_schema=dict(schema) if schema else None)
    answer = tool.convert_result(value)
    return types.CallToolResult(
        content=answer.content,
        structuredContent=answer.structured_content,
        isError=answer.is_error,
        _meta=answer.meta,
    )
