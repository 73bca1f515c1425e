"""Local objects → tools: functions, classes, instances, LangChain's and FastMCP's tools."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

from mcp import types

from fractale.errors import ToolError
from fractale.paths import NOTES
from fractale.registry.calls import error_text, guarded
from fractale.registry.fastmcp_uses import FastMCPMade, is_fastmcps, is_for_fastmcp
from fractale.registry.files import MCP_HINTS, OWN_PREFIX, RegistryEntry
from fractale.registry.langchain import caller_of, hints_in, is_langchain, schema_of
from fractale.registry.schemas import inlined
from fractale.registry.server import LocalTool
from fractale.registry.signature import Signature
from fractale.registry.values import breaks, described_answer, failed, tool_answer
from fractale.schemas import check_schema
from fractale.toolbox import TRACES_ITSELF

AGENT = {"fractale.type": "agent"}

Answer: TypeAlias = Callable[[dict[str, Any]], Awaitable[types.CallToolResult]]


def make_tool(entry: RegistryEntry, found: Any) -> LocalTool | FastMCPMade:
    """Make the tool of an entry.

    Args:
        found: A function, a class, an instance with ``__call__``, a LangChain or FastMCP tool.

    Raises:
        TypeError: The object can't be called.
        Exception: What the object's own code raises, or a signature without a JSON Schema.
    """
    if inspect.isclass(found):
        return _from_object(entry, found(), default_name=found.__name__.lower())
    if is_fastmcps(found):
        return _fastmcps(entry, found)
    if is_langchain(found):
        return _from_langchain(entry, found)
    if inspect.isroutine(found) and not hasattr(found, "input_schema"):
        return _from_function(entry, found)
    if callable(found):
        return _from_object(entry, found, default_name=_own_name(found))
    if _declares(found, "ainvoke"):
        kind = type(found).__name__
        raise TypeError(f"is {kind}: a run can ask a LangGraph graph as a sub-agent, not as a tool")
    raise TypeError(f"is {type(found).__name__}, which can't be called")


def is_agent_like(found: Any) -> bool:
    """Whether an object looks like a sub-agent: it describes itself, and is not a function."""
    # Not `hasattr`, which runs the object's properties: those of LangChain build schemas.
    described = _declares(found, "description") or _declares(found, "input_schema")
    return (inspect.isclass(found) or not inspect.isroutine(found)) and described


def _declares(found: Any, name: str) -> bool:
    try:
        inspect.getattr_static(found, name)
    except AttributeError:
        return False
    return True


def _own_name(found: Any) -> str:
    return getattr(found, "__name__", type(found).__name__.lower())


def _fastmcps(entry: RegistryEntry, found: Any) -> FastMCPMade:
    from fractale.registry.fastmcp_mount import as_tool

    return as_tool(entry, found)


def _from_function(
    entry: RegistryEntry,
    function: Callable[..., Any],
    name: str | None = None,
    about: str | None = None,
) -> LocalTool | FastMCPMade:
    # The registry's entry overrides the function's own notes.
    notes = {**getattr(function, NOTES, {}), **hints_in(function), **entry.annotations}
    entry = dataclasses.replace(entry, annotations=notes)
    if is_for_fastmcp(function):
        from fractale.registry.fastmcp_mount import tool_of_function

        return tool_of_function(
            function,
            name=entry.name,
            default_name=name,
            about=about,
            annotations=_hints(entry.annotations),
            own=_own(entry),
        )
    signature = Signature(function)
    called = entry.name or name or _function_name(function)
    output = signature.answer_schema()

    async def answer(arguments: dict[str, Any]) -> types.CallToolResult:
        return tool_answer(called, await signature.call(arguments), output)

    listing = types.Tool(
        name=called,
        description=signature.docstring.text if about is None else about,
        inputSchema=signature.arguments_schema(),
        outputSchema=output,
        **_notes(entry),
    )
    return LocalTool(listing, _without_raising(answer))


def _function_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>":
        raise ValueError("is a lambda: give it a `name`")
    return name


def _without_raising(answer: Answer) -> Answer:
    """Convert exceptions to answers with ``isError``: a run treats them as the tool's own."""

    async def run(arguments: dict[str, Any]) -> types.CallToolResult:
        try:
            return await answer(arguments)
        except ToolError as error:
            return failed(error.message)
        except Exception as error:  # noqa: BLE001 - such as an answer that can't be written as JSON
            return failed(error_text(error))

    return run


def _from_object(entry: RegistryEntry, found: Any, default_name: str) -> LocalTool | FastMCPMade:
    """A sub-agent, or another object with `name`, `description` or `input_schema`."""
    name = getattr(found, "name", None) or default_name
    about = getattr(found, "description", None) or inspect.getdoc(found) or ""
    target = found if inspect.isroutine(found) else found.__call__
    schema = getattr(found, "input_schema", None)
    if schema is None:
        return _from_function(entry, target, name, about)
    return _described(entry, target, name, about, schema, getattr(found, "output_schema", None))


def _described(
    entry: RegistryEntry,
    target: Callable[..., Any],
    name: str,
    about: str,
    schema: dict[str, Any],
    output: dict[str, Any] | None,
) -> LocalTool:
    """A tool with schemas of its own."""
    check_schema(schema)
    check_schema(output or {})
    notes = {**_annotations_of(schema), **entry.annotations}
    # MCP allows structured answers that are objects only.
    is_object = output is not None and output.get("type", "object") == "object"
    called = entry.name or name
    answered = output if is_object else None
    listing = types.Tool(
        name=called,
        description=about,
        inputSchema=inlined(schema),
        outputSchema=answered and inlined(answered),
        **_notes(dataclasses.replace(entry, annotations=notes)),
    )
    return LocalTool(listing, _without_raising(_checked(called, target, schema, answered)))


def _checked(
    name: str, target: Callable[..., Any], schema: dict[str, Any], output: dict[str, Any] | None
) -> Answer:
    """Make a call that validates arguments and answer against schemas."""
    call = guarded(target, ToolError)

    async def answer(arguments: dict[str, Any]) -> types.CallToolResult:
        if reason := breaks(schema, arguments):
            raise ToolError(f"the arguments don't fit: {reason}")
        value = await call(**arguments)
        if output is None:
            return tool_answer(name, value, None)
        return described_answer(name, value, output)

    return answer


def _annotations_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotations of fractale 0.1.0, which are in the input schema."""
    own = schema.get("annotations")
    return cast("Mapping[str, Any]", own) if isinstance(own, dict) else {}


def _notes(entry: RegistryEntry) -> dict[str, Any]:
    """An entry's annotations as fields of MCP's `Tool`."""
    hints = _hints(entry.annotations)
    title = hints.title if hints else None
    return {"title": title, "annotations": hints, "_meta": _own(entry) or None}


def _hints(notes: Mapping[str, Any]) -> types.ToolAnnotations | None:
    """The annotations that MCP defines."""
    hints = {key: value for key, value in notes.items() if key in (*MCP_HINTS, "title")}
    return types.ToolAnnotations(**hints) if hints else None


def _own(entry: RegistryEntry) -> dict[str, Any]:
    """Fractale's own annotations: MCP's model allows them in ``_meta`` only."""
    own = {key: v for key, v in entry.annotations.items() if key.startswith(OWN_PREFIX)}
    return {**AGENT, **own} if entry.kind == "agent" else own


def _from_langchain(entry: RegistryEntry, tool: Any) -> LocalTool:
    notes = {**hints_in(tool), **entry.annotations}
    entry = dataclasses.replace(entry, annotations=notes)
    call = caller_of(tool)
    made = _described(entry, call, tool.name, tool.description, schema_of(tool), None)
    made.listing.meta = {**(made.listing.meta or {}), TRACES_ITSELF: True}
    return made
