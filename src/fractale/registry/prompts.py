"""Local functions → prompts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from mcp import types
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from fractale.errors import ToolError
from fractale.registry.calls import error_text
from fractale.registry.fastmcp_uses import FastMCPMade, is_fastmcps, is_for_fastmcp
from fractale.registry.files import RegistryEntry
from fractale.registry.server import LocalPrompt
from fractale.registry.signature import Signature
from fractale.registry.values import json_text

_PARTS = (types.TextContent, types.ImageContent, types.AudioContent, types.EmbeddedResource)


def make_prompt(entry: RegistryEntry, found: Any) -> LocalPrompt | FastMCPMade:
    """Make the prompt of an entry.

    Raises:
        TypeError: The object is not a function.
    """
    if is_fastmcps(found) or (inspect.isroutine(found) and is_for_fastmcp(found)):
        from fractale.registry.fastmcp_mount import as_prompt

        return as_prompt(entry, found)
    return _from_function(entry, a_function(found))


def a_function(found: Any) -> Callable[..., Any]:
    """The object, if it is a function.

    Raises:
        TypeError: It isn't.
    """
    if inspect.isroutine(found):
        return found
    raise TypeError(f"is {type(found).__name__}, not a function")


def _from_function(entry: RegistryEntry, function: Callable[..., Any]) -> LocalPrompt:
    signature = Signature(function, "prompts")
    about = signature.docstring.text

    async def render(given: dict[str, str]) -> types.GetPromptResult:
        value = await signature.call(_parsed(signature, given))
        try:
            messages = messages_of(value)
        except (TypeError, ValueError) as error:
            raise ToolError(error_text(error)) from error
        return types.GetPromptResult(description=about, messages=messages)

    name, arguments = entry.name or function.__name__, list(_arguments(signature))
    return LocalPrompt(types.Prompt(name=name, description=about, arguments=arguments), render)


def _arguments(signature: Signature) -> Iterable[types.PromptArgument]:
    schema = signature.arguments_schema()
    required = schema.get("required", [])
    for name, known in schema.get("properties", {}).items():
        about = "\n\n".join(filter(None, (known.get("description"), _format(signature, name))))
        yield types.PromptArgument(name=name, description=about or None, required=name in required)


def _format(signature: Signature, name: str) -> str | None:
    """The JSON Schema for the text of an argument; None if the argument is plain text."""
    hint = signature.hints.get(name, str)
    if hint is str:
        return None
    try:
        schema = TypeAdapter(hint).json_schema()
    except PydanticUserError:
        return None
    written = json.dumps(schema, separators=(",", ":"))
    return f"Provide as a JSON string matching the following schema: {written}"


def _parsed(signature: Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the function, with JSON text parsed."""
    return {
        name: _parsed_text(signature.hints.get(name, str), value)
        for name, value in given.items()
        if name in signature.parameters
    }


def _parsed_text(hint: Any, value: Any) -> Any:
    if hint is str or not isinstance(value, str):
        return value
    try:
        return TypeAdapter(hint).validate_json(value)
    except ValidationError:
        return value  # it may fit as it is; if not, the call says so


def messages_of(answer: Any) -> list[types.PromptMessage]:
    """Convert a prompt function's answer to messages.

    Args:
        answer: Text, a list of texts and messages, or ``{"messages": [...]}`` as of hpc-mcp;
            another mapping becomes JSON.

    Raises:
        TypeError: The answer has another type.
    """
    if is_fastmcps(answer) and hasattr(answer, "messages"):  # its PromptResult
        return messages_of(answer.messages)
    if isinstance(answer, dict):
        inner = cast("dict[str, Any]", answer).get("messages", cast("Any", answer))
        return [_message(inner)] if isinstance(inner, dict) else messages_of(inner)
    if isinstance(answer, str):
        return [_message(answer)]
    if isinstance(answer, (list, tuple)):
        return [_message_of(each) for each in cast("list[Any]", answer)]
    raise TypeError(f"a prompt must answer text or messages, not {_kind(answer)}")


def _message_of(item: Any) -> types.PromptMessage:
    if isinstance(item, types.PromptMessage):
        return item
    if is_fastmcps(item):  # its Message
        return types.PromptMessage(role=item.role, content=item.content)
    if isinstance(item, str):
        return _message(item)
    message = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    if "content" not in message:
        raise TypeError(f"a message must be text or have `content`, not {_kind(item)}")
    content = message["content"]
    if isinstance(content, dict):
        content = cast("dict[str, Any]", content).get("text", content)
    return _message(content, is_assistant=message.get("role") == "assistant")


def _message(content: Any, *, is_assistant: bool = False) -> types.PromptMessage:
    if not isinstance(content, _PARTS):
        text = content if isinstance(content, str) else json_text(content)
        content = types.TextContent(type="text", text=text)
    return types.PromptMessage(role="assistant" if is_assistant else "user", content=content)


def _kind(value: Any) -> str:
    return type(value).__name__
