"""Values that local functions return → MCP's results and contents."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, cast

import pydantic_core
from mcp import types
from mcp.server.lowlevel.helper_types import ReadResourceContents
from pydantic import BaseModel

from fractale.errors import ToolError
from fractale.plain import plain, to_json
from fractale.registry.fastmcp_uses import is_fastmcps
from fractale.registry.schemas import WRAPPED
from fractale.schemas import UnusableSchema, misfits

INTERRUPT = "__interrupt__"
"""The key of the questions in the state of a LangGraph graph that stopped at an interrupt."""


def unanswered() -> ToolError:
    """The error for a tool whose graph asked a question outside of the run."""
    return ToolError(
        "a graph inside the tool stopped at an interrupt, so the tool has no answer",
        hint="invoke the graph in the tool's own task: the run then asks the question",
    )


def failed(message: str) -> types.CallToolResult:
    """The result of a failed call."""
    return types.CallToolResult(content=[_text(message)], isError=True)


def tool_answer(name: str, value: Any, schema: Mapping[str, Any] | None) -> types.CallToolResult:
    """Convert a function's value to a result: a mapping is structured, text stays text.

    A function that returns nothing answers ``{"result": null}``: an empty answer would not count
    as success.

    Args:
        name: Name of the tool.
        schema: Its output schema, of an object; None: any value is valid.

    Raises:
        ToolError: The value doesn't match the schema.
    """
    if isinstance(value, types.CallToolResult):
        return value
    if isinstance(value, dict) and INTERRUPT in value:
        raise unanswered()
    if _is_command(cast("object", value)):
        raise ToolError(
            f"the function `{name}` answered with LangGraph's Command",
            hint="return a value, or make it a LangChain tool, whose `update` is the answer",
        )
    if is_fastmcps(value) or (
        isinstance(value, (list, tuple)) and any(map(is_fastmcps, cast("list[Any]", value)))
    ):
        from fractale.registry.fastmcp_mount import answer_of  # the maker of the value imported it

        return answer_of(value, schema)
    structured = _structured(value, schema is None)
    if schema is None:
        structured = cast("Any", structured) if isinstance(structured, dict) else None
        if value is None:
            structured = {"result": None}
    elif schema.get(WRAPPED):
        return _wrapped(name, value, structured)
    else:
        check_answer(name, structured, schema)
    return types.CallToolResult(content=_contents(value), structuredContent=structured)


def _is_command(value: object) -> bool:
    kind = type(value)
    return (kind.__module__, kind.__name__) == ("langgraph.types", "Command")


def _wrapped(name: str, value: Any, structured: Any) -> types.CallToolResult:
    if structured is None and value is not None:
        kind = type(value).__name__
        raise ToolError(f"`{name}` answered what its output_schema doesn't allow: {kind}, not JSON")
    note = {"fastmcp": {"wrap_result": True}}  # FastMCP's clients unwrap it then
    return types.CallToolResult(
        content=_contents(value), structuredContent={"result": structured}, _meta=note
    )


def described_answer(name: str, value: Any, schema: Mapping[str, Any]) -> types.CallToolResult:
    """Convert the value of a tool with its own output schema: a mapping, a model, JSON as text.

    Raises:
        ToolError: The value doesn't match the schema.
    """
    found = _jsonable(value, fallback=str)
    if isinstance(found, str):
        try:
            found = plain(json.loads(found))
        except ValueError:
            found = value
    check_answer(name, found, schema)
    return types.CallToolResult(content=_contents(found), structuredContent=found)


def check_answer(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    """Check a tool's structured answer.

    Raises:
        ToolError: The answer doesn't match the schema.
    """
    wrong = f"it is {type(value).__name__}" if not isinstance(value, dict) else None
    if wrong := wrong or breaks(schema, value):
        raise ToolError(f"`{name}` answered what its output_schema doesn't allow: {wrong}")


def breaks(schema: Mapping[str, Any], value: Any) -> str | None:
    """How a value violates a JSON Schema; None if it is valid."""
    try:
        return "; ".join(map(str, misfits(schema, value, trusted=True))) or None
    except UnusableSchema as error:
        return f"the schema itself cannot be used: {error}"


def _structured(value: Any, may_be_content: bool) -> Any:
    """A value as JSON; None if it can't be converted."""
    if isinstance(value, bytes) or (may_be_content and _is_content(value)):
        return None
    try:
        return _jsonable(value, by_alias=_by_alias(value))
    except (pydantic_core.PydanticSerializationError, UnicodeDecodeError):
        return None


def _is_content(value: Any) -> bool:
    items = cast("list[Any]", value) if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(each, types.ContentBlock) for each in items)


def _contents(value: Any) -> list[types.ContentBlock]:
    """A value as content: MCP's own unchanged, text as text, anything else as JSON text."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        if not items or _is_content(items):
            return [_content(each) for each in items]
    return [_content(value)]


def _content(value: Any) -> types.ContentBlock:
    if isinstance(value, types.ContentBlock):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        return _text(_bytes_text(value))
    return _text(json_text(value))


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def json_text(value: Any) -> str:
    """A value as JSON text; parts that JSON can't express as their `str`."""
    return to_json(_jsonable(value, fallback=str, by_alias=_by_alias(value)), compact=True)


def _jsonable(value: Any, **options: Any) -> Any:
    """A value as plain JSON.

    Args:
        options: Of pydantic's `to_jsonable_python`.

    Raises:
        ToolError: An integer is too long for JSON, or a key is not Unicode.
    """
    try:
        return plain(pydantic_core.to_jsonable_python(value, **options))
    except UnicodeEncodeError as error:
        raise ToolError(f"a key of the answer is not Unicode text: {error.object!a}") from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise ToolError(f"the answer cannot be kept as JSON: {error}") from error


def _by_alias(value: Any) -> bool:
    """Whether a model's fields are given by their aliases: as its configuration says."""
    is_model = isinstance(value, BaseModel)
    return not is_model or value.model_config.get("serialize_by_alias") is not False


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def resource_contents(value: Any) -> list[ReadResourceContents]:
    """Convert a function's value to a resource: text and bytes unchanged, anything else to JSON.

    Raises:
        ToolError: The value isn't JSON.
    """
    if isinstance(value, bytes):
        return [ReadResourceContents(value, "application/octet-stream")]
    if isinstance(value, str):
        return [ReadResourceContents(value, "text/plain")]
    if is_fastmcps(value):  # its ResourceResult
        return [
            ReadResourceContents(each.content, each.mime_type, each.meta) for each in value.contents
        ]
    try:
        return [ReadResourceContents(to_json(value), "text/plain")]
    except (TypeError, ValueError) as error:
        kind = type(value).__name__
        raise ToolError(f"a resource is text, bytes or JSON, not {kind}") from error
