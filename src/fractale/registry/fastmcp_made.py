"""What FastMCP made, or only FastMCP can call → components; and FastMCP's types of answers.

It is imported only where a registry's own module has imported FastMCP.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

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
from pydantic import ValidationError as PydanticValidationError

from fractale.registry.calls import error_text, guarded
from fractale.registry.components import FastMCPMade
from fractale.registry.files import Entry
from fractale.registry.prompts import a_function, messages_of
from fractale.registry.resources import uri_of
from fractale.registry.schemas import WRAPPED
from fractale.registry.signature import misfit

_tool_error = functools.partial(ToolError, log_level=logging.DEBUG)
_prompt_error = functools.partial(PromptError, log_level=logging.DEBUG)
_resource_error = functools.partial(ResourceError, log_level=logging.DEBUG)


class CheckedTool(FunctionTool):
    """A tool whose schema is its function's signature."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Call the function; says which arguments don't fit, without repeating their values.

        Raises:
            ToolError: They don't.
        """
        try:
            return await super().run(arguments)
        except ValidationError as error:
            cause = error.__cause__
            is_known = isinstance(cause, PydanticValidationError)
            raise _tool_error(misfit(cause) if is_known else str(error)) from error


class CheckedPrompt(FunctionPrompt):
    """A prompt whose arguments are its function's."""

    async def render(self, arguments: dict[str, Any] | None = None) -> PromptResult:
        """Render it.

        Raises:
            PromptError: Whatever goes wrong, with its message.
        """
        try:
            return await super().render(arguments)
        except FastMCPError:
            raise
        except Exception as error:
            raise _prompt_error(error_text(error)) from error


def as_tool(entry: Entry, found: Any) -> FastMCPMade:
    """An object that FastMCP made, as a tool.

    Raises:
        TypeError: It is no tool.
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
    """A function that FastMCP decorated, or that takes what FastMCP gives, as a tool.

    Args:
        name: As the registry says; None: as FastMCP's decorator does, else `default_name`.
        about: What it does, where the decorator doesn't say it.
        annotations: MCP's hints of the registry; None: those of the decorator.
        own: fractale's annotations, beside the decorator's ``meta``.
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


def as_prompt(entry: Entry, found: Any) -> FastMCPMade:
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


def as_resource(entry: Entry, found: Any) -> FastMCPMade:
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
    """JSON values as text; text, bytes and FastMCP's own results as they are."""
    if isinstance(answer, str):
        return answer
    try:
        return json.dumps(answer, ensure_ascii=False)
    except TypeError:
        return answer


def answer_of(value: Any, schema: Mapping[str, Any] | None) -> types.CallToolResult:
    """One of FastMCP's types of answers, or a list with some, as a tool's answer."""
    tool = Tool(name="answer", parameters={}, output_schema=dict(schema) if schema else None)
    answer = tool.convert_result(value)
    return types.CallToolResult(
        content=answer.content,
        structuredContent=answer.structured_content,
        isError=answer.is_error,
        _meta=answer.meta,
    )
