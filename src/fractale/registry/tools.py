"""Local objects → MCP tools."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, cast

import jsonschema
import pydantic_core
from fastmcp.decorators import get_fastmcp_meta
from fastmcp.exceptions import ToolError, ValidationError
from fastmcp.tools import Tool, ToolResult
from fastmcp.tools.function_tool import FunctionTool, ToolMeta
from mcp.types import ToolAnnotations
from pydantic import Field
from pydantic import ValidationError as PydanticValidationError
from pydantic.json_schema import SkipJsonSchema

from fractale.registry.calls import guarded
from fractale.registry.files import MCP_HINTS, OWN_PREFIX, Entry

AGENT = {"fractale.type": "agent"}


class LocalFunction(FunctionTool):
    """A tool whose schema is its function's signature."""

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Call the function; says which arguments don't fit, without repeating their values."""
        try:
            return await super().run(arguments)
        except ValidationError as error:
            raise ToolError(_misfit(error), log_level=logging.DEBUG) from error


class DescribedTool(Tool):
    """A tool that brings its own schemas."""

    call: Annotated[SkipJsonSchema[Callable[..., Any]], Field(exclude=True)]

    async def run(self, arguments: dict[str, Any]) -> ToolResult:
        """Check the arguments, call it, check the answer."""
        if reason := _breaks(self.parameters, arguments):
            raise ToolError(f"the arguments don't fit: {reason}", log_level=logging.DEBUG)
        answer = await self.call(**arguments)
        if self.output_schema is None:
            return self.convert_result(answer)
        return self._structured(answer, self.output_schema)

    def _structured(self, answer: Any, schema: Mapping[str, Any]) -> ToolResult:
        value = _mapping(answer)
        reason = f"it is {type(answer).__name__}" if value is None else _breaks(schema, value)
        if reason:
            message = f"`{self.name}` answered what its output_schema doesn't allow: {reason}"
            raise ToolError(message, log_level=logging.DEBUG)
        return ToolResult(structured_content=value)


def _mapping(answer: Any) -> dict[str, Any] | None:
    """An answer as a mapping: itself, a model's fields, or the JSON in a text."""
    value = pydantic_core.to_jsonable_python(answer, fallback=str)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _breaks(schema: Mapping[str, Any], value: Any) -> str | None:
    validator = jsonschema.Draft202012Validator(schema)
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    return "; ".join(errors[:5]) or None


def _misfit(error: ValidationError) -> str:
    cause = error.__cause__
    if not isinstance(cause, PydanticValidationError):
        return str(error)
    found = cause.errors(include_url=False, include_input=False)
    parts = [f"`{'.'.join(map(str, each['loc']))}`: {each['msg']}" for each in found]
    return f"the arguments don't fit: {'; '.join(parts)}"


def make_tool(entry: Entry, found: Any) -> Tool:
    """The tool behind an entry.

    Args:
        found: A function, a class, an instance with ``__call__``, a LangChain or FastMCP tool.

    Raises:
        TypeError: It is none of these.
        Exception: What goes wrong in a stranger's class, or where FastMCP can't take it.
    """
    if inspect.isclass(found):
        return _from_object(entry, found(), default_name=found.__name__.lower())
    if isinstance(found, Tool):
        return found.model_copy(update={"name": entry.name}) if entry.name else found
    if _is_langchain(found):
        return _from_langchain(entry, found)
    if inspect.isroutine(found) and not hasattr(found, "input_schema"):
        return _from_function(entry, found)
    if callable(found):
        return _from_object(entry, found, default_name=_own_name(found))
    raise TypeError(f"is {type(found).__name__}, which can't be called")


def is_agent_like(found: Any) -> bool:
    """Whether an object has the shape of a sub-agent: described, and callable as an object."""
    described = hasattr(found, "description") or hasattr(found, "input_schema")
    return (inspect.isclass(found) or not inspect.isroutine(found)) and described


def _own_name(found: Any) -> str:
    return getattr(found, "__name__", type(found).__name__.lower())


def _from_function(
    entry: Entry, function: Callable[..., Any], name: str | None = None, about: str | None = None
) -> Tool:
    given = get_fastmcp_meta(function)
    meta = given if isinstance(given, ToolMeta) else ToolMeta()
    meta = dataclasses.replace(
        meta,
        name=entry.name or meta.name or name,
        description=meta.description or about,
        annotations=_hints(entry.annotations) or meta.annotations,
        meta={**(meta.meta or {}), **_own(entry)} or None,
    )
    tool = LocalFunction.from_function(guarded(function, ToolError), metadata=meta)
    schema = tool.output_schema or {}
    # A function that may answer with a mapping or something else: MCP would have both wrapped
    # as {"result": …}, and the mapping's own keys are what rules look at.
    if schema.get("x-fastmcp-wrap-result") and _may_be_mapping(schema):
        tool.output_schema = None
    return tool


def _may_be_mapping(schema: Mapping[str, Any]) -> bool:
    result = schema["properties"]["result"]
    return "type" not in result or result["type"] == "object"


def _from_object(entry: Entry, found: Any, default_name: str) -> Tool:
    """A sub-agent, or anything else that says itself what it is called and takes."""
    name = getattr(found, "name", None) or default_name
    about = getattr(found, "description", None) or inspect.getdoc(found) or ""
    target = found if inspect.isroutine(found) else found.__call__
    schema = getattr(found, "input_schema", None)
    if schema is None:
        return _from_function(entry, target, name, about)
    return _described(entry, target, name, about, schema, getattr(found, "output_schema", None))


def _described(
    entry: Entry,
    target: Callable[..., Any],
    name: str,
    about: str,
    schema: dict[str, Any],
    output: dict[str, Any] | None,
) -> Tool:
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator.check_schema(output or {})
    notes = {**_annotations_of(schema), **entry.annotations}
    # MCP allows structured answers that are objects only.
    is_object = output is not None and output.get("type", "object") == "object"
    return DescribedTool(
        name=entry.name or name,
        description=about,
        parameters=schema,
        output_schema=output if is_object else None,
        annotations=_hints(notes),
        meta=_own(dataclasses.replace(entry, annotations=notes)) or None,
        call=guarded(target, ToolError),
    )


def _annotations_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """0.1.0's place for annotations: inside the input schema."""
    own = schema.get("annotations")
    return cast("Mapping[str, Any]", own) if isinstance(own, dict) else {}


def _hints(notes: Mapping[str, Any]) -> ToolAnnotations | None:
    hints = {key: value for key, value in notes.items() if key in (*MCP_HINTS, "title")}
    return ToolAnnotations(**hints) if hints else None


def _own(entry: Entry) -> dict[str, Any]:
    """What fractale adds to MCP's annotations: MCP's model has no place for them but ``_meta``."""
    own = {key: v for key, v in entry.annotations.items() if key.startswith(OWN_PREFIX)}
    return {**AGENT, **own} if entry.kind == "agent" else own


def _is_langchain(found: Any) -> bool:
    return hasattr(found, "ainvoke") and hasattr(found, "tool_call_schema")


def _from_langchain(entry: Entry, tool: Any) -> Tool:
    schema = tool.tool_call_schema
    parameters = cast(
        "dict[str, Any]", schema if isinstance(schema, dict) else schema.model_json_schema()
    )

    async def call(**arguments: Any) -> Any:
        return await tool.ainvoke(arguments)

    return _described(entry, call, tool.name, tool.description, parameters, None)
