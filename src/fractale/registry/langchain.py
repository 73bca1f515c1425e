"""LangChain's tools → tools: each is called with a tool call, as a model calls it.

Only then does the tool return a `ToolMessage`: its `status` says whether the tool failed, and its
`artifact` has the structured answer. Tools of `langchain-mcp-adapters` are LangChain tools.

In a run, LangGraph's `ToolNode` makes the call. It sets the parameters that the model does not
(`ToolRuntime`, `InjectedState`, `InjectedStore`, `InjectedToolCallId`).

A tool may also answer with LangGraph's `Command`. Its messages are the answer, and the other keys
of its `update` are the structured answer. A `Command` that goes to a node is an error, since the
transitions of the plan decide the next step.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, cast

import pydantic_core
from mcp import types

from fractale.errors import ToolError
from fractale.registry.files import MCP_HINTS, OWN_PREFIX
from fractale.registry.injected import call_id, in_callers_context, in_graph
from fractale.registry.values import INTERRUPT, json_text, tool_answer, unanswered

MCP_ARTIFACT = "structured_content"
"""The key under which `langchain-mcp-adapters` keeps MCP's structured content in the artifact."""

MESSAGES: Final = "messages"
_HOLDERS: Final = ("metadata", "extras", "annotations")
"""Attributes of a tool or a function that may have MCP's hints, the strongest last."""


def is_langchain(found: Any) -> bool:
    """Whether an object is a LangChain tool."""
    return hasattr(found, "ainvoke") and hasattr(found, "tool_call_schema")


def schema_of(tool: Any) -> dict[str, Any]:
    """JSON Schema of the arguments that a model sets."""
    schema = tool.tool_call_schema
    return cast(
        "dict[str, Any]", schema if isinstance(schema, dict) else schema.model_json_schema()
    )


def caller_of(tool: Any) -> Callable[..., Awaitable[types.CallToolResult]]:
    """Make a function that calls the tool with a tool call, and returns MCP's result."""
    node: list[Any] = []  # made by the first call in a run

    async def call(**arguments: Any) -> types.CallToolResult:
        id_ = call_id()
        asked = {"type": "tool_call", "name": tool.name, "args": arguments, "id": id_}
        if not in_graph():
            return _answer_of(tool.name, await tool.ainvoke(asked), id_)
        if not node:
            from langgraph.prebuilt import ToolNode

            # LangChain writes a `ToolRuntime` with a run's context, and warns of its type.
            warnings.filterwarnings("ignore", r"(?s)Pydantic serializer warnings.*RunContext\(")
            made = ToolNode([tool], handle_tool_errors=False, awrap_tool_call=in_callers_context)
            node.append(made)
        return _answer_of(tool.name, await node[0].ainvoke([asked]), id_)

    return call


def hints_in(found: Any) -> dict[str, Any]:
    """MCP's hints and fractale's annotations that an object made in Python has.

    They are in its `metadata`, as `langchain-mcp-adapters` gives them, in its `extras`, or in its
    `annotations`: a mapping, or MCP's `ToolAnnotations`.
    """
    hints: dict[str, Any] = {}
    for holder in _HOLDERS:
        table = getattr(found, holder, None)
        if isinstance(table, types.ToolAnnotations):
            table = table.model_dump(exclude_none=True)
        if not isinstance(table, Mapping):
            continue
        for key, value in cast("Mapping[Any, Any]", table).items():
            if (key in MCP_HINTS and isinstance(value, bool)) or str(key).startswith(OWN_PREFIX):
                hints[str(key)] = value
    return hints


def _answer_of(name: str, said: Any, id_: str) -> types.CallToolResult:
    """Convert everything that a tool returned for one call to MCP's result.

    Raises:
        ToolError: A part of it has no meaning in a plan. No part is dropped.
    """
    messages, update = _parts_of(name, said)
    mine = [each for each in messages if getattr(each, "tool_call_id", None) == id_]
    if len(mine) != 1:
        raise ToolError(f"`{name}` answered with {len(mine)} tool messages for its call, not 1")
    (message,) = mine
    answer = tool_answer(name, _value_of(message), None)
    for other in messages:
        if other is not message:
            answer.content += tool_answer(name, _value_of(other), None).content
    structured = _structured_in(message.artifact)
    if update:
        structured = {**(structured or {}), **(_structured_in(update) or {})}
    if structured is not None:
        answer.structuredContent = structured
    answer.isError = message.status == "error"
    return answer


def _parts_of(name: str, said: Any) -> tuple[list[Any], dict[str, Any]]:
    """The messages in an answer, and the other keys of its updates of the state.

    Raises:
        ToolError: It has another part, such as the node that a `Command` goes to.
    """
    if hasattr(said, "content_blocks"):
        if getattr(said, "type", None) == "remove":
            raise ToolError(f"`{name}` asked to remove messages, which a plan keeps")
        return [said], {}
    if hasattr(said, "goto") and hasattr(said, "update"):
        return _parts_of(name, _update_of(name, said))
    messages: list[Any] = []
    update: dict[str, Any] = {}
    if isinstance(said, Mapping):
        for key, value in cast("Mapping[Any, Any]", said).items():
            if key == MESSAGES:
                messages += _parts_of(name, _as_list(value))[0]
            else:
                update[str(key)] = value
        return messages, update
    if not isinstance(said, list):
        kind = type(said).__name__
        raise ToolError(f"`{name}` answered with a {kind}, which has no meaning in a plan")
    for each in cast("list[Any]", said):
        more, keys = _parts_of(name, each)
        messages += more
        update |= keys
    return messages, update


def _as_list(value: Any) -> list[Any]:
    """The messages of an update, which LangGraph also takes in forms other than objects."""
    from langchain_core.messages import convert_to_messages

    messages = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [*convert_to_messages(messages)]


def _update_of(name: str, command: Any) -> Any:
    """The changes of the state that a `Command` makes, and nothing else.

    Raises:
        ToolError: It does more than that.
    """
    wants = {"goto": command.goto, "graph": command.graph, "resume": command.resume}
    asked = ", ".join(f"{key}={value!r}" for key, value in wants.items() if value not in (None, ()))
    if asked:
        raise ToolError(
            f"`{name}` answered with Command({asked}): a tool cannot choose a plan's next step",
            hint="return a value, and let the step's `transitions` or `rules` choose by it",
        )
    if not isinstance(command.update, (list, tuple)):
        return {} if command.update is None else command.update
    parts = [*cast("Iterable[Any]", command.update)]
    if all(isinstance(each, tuple) for each in parts):
        return [dict([pair]) for pair in parts]
    return parts


def _value_of(message: Any) -> Any:
    """The content: JSON that LangChain wrote is parsed, and blocks become MCP's parts."""
    if _is_unanswered(message.content):
        raise unanswered()
    if not isinstance(message.content, str):
        return [_part(block) for block in cast("Iterable[Any]", message.content_blocks)]
    try:
        value: Any = json.loads(message.content)
    except ValueError:
        return message.content
    known = value is None or isinstance(value, dict)
    return cast("Any", value) if known else message.content


def _is_unanswered(content: Any) -> bool:
    """Whether a content is the state of a graph that stopped at an interrupt."""
    return isinstance(content, str) and content.lstrip()[:1] == "{" and INTERRUPT in content


def _part(block: Mapping[str, Any]) -> types.ContentBlock:
    kind, mime_type = block.get("type"), str(block.get("mime_type") or "application/octet-stream")
    if kind == "text":
        return types.TextContent(type="text", text=str(block.get("text")))
    data, url = block.get("base64"), block.get("url")
    if data and kind == "image":
        return types.ImageContent(type="image", data=data, mimeType=mime_type)
    if data and kind == "audio":
        return types.AudioContent(type="audio", data=data, mimeType=mime_type)
    if data:
        resource = {"uri": f"langchain://{kind}", "blob": data, "mimeType": mime_type}
        return types.EmbeddedResource.model_validate({"type": "resource", "resource": resource})
    if url:
        link = {"type": "resource_link", "uri": url, "name": str(kind), "mimeType": mime_type}
        return types.ResourceLink.model_validate(link)
    return types.TextContent(type="text", text=json_text(block))


def _structured_in(artifact: Any) -> dict[str, Any] | None:
    """The artifact as structured content, always an object; None if it isn't JSON."""
    if artifact is None:
        return None
    try:
        value = pydantic_core.to_jsonable_python(artifact)
    except (pydantic_core.PydanticSerializationError, UnicodeDecodeError):
        return None
    if not isinstance(value, dict):
        return {"result": value}
    found = cast("dict[str, Any]", value)
    inner = found.get(MCP_ARTIFACT)
    return cast("dict[str, Any]", inner) if list(found) == [MCP_ARTIFACT] else found
