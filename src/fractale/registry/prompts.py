"""Local functions → MCP prompts and resources."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from collections.abc import Callable
from typing import Any, cast

from fastmcp.decorators import get_fastmcp_meta
from fastmcp.exceptions import FastMCPError, PromptError, ResourceError
from fastmcp.prompts import Prompt, PromptResult
from fastmcp.prompts.base import Message
from fastmcp.prompts.function_prompt import FunctionPrompt, PromptMeta
from fastmcp.resources import Resource, ResourceTemplate
from fastmcp.resources.function_resource import ResourceMeta

from fractale.registry.calls import error_text, guarded
from fractale.registry.files import Entry


class LocalPrompt(FunctionPrompt):
    """A prompt whose arguments are its function's."""

    async def render(self, arguments: dict[str, Any] | None = None) -> PromptResult:
        """Render it; whatever goes wrong is a PromptError with its message."""
        try:
            return await super().render(arguments)
        except FastMCPError:
            raise
        except Exception as error:
            raise PromptError(error_text(error), log_level=logging.DEBUG) from error


def _messages(answer: Any) -> Any:
    """``{"messages": [...]}`` and lists of such messages, as hpc-mcp gives them, as messages."""
    if isinstance(answer, dict):
        answer = cast("dict[str, Any]", answer).get("messages", answer)
    if isinstance(answer, dict):
        return [Message(answer)]
    if isinstance(answer, list):
        return [_message(each) for each in cast("list[Any]", answer)]
    return answer


def _message(item: Any) -> Any:
    message = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    if "content" not in message:
        return cast("Any", item)
    content = message["content"]
    if isinstance(content, dict):
        content = cast("dict[str, Any]", content).get("text", content)
    return Message(content, role="assistant" if message.get("role") == "assistant" else "user")


def make_prompt(entry: Entry, found: Any) -> Prompt:
    """The prompt behind an entry.

    Raises:
        TypeError: It is no function.
    """
    if isinstance(found, Prompt):
        return found.model_copy(update={"name": entry.name}) if entry.name else found
    function = _function(found)
    given = get_fastmcp_meta(function)
    meta = given if isinstance(given, PromptMeta) else PromptMeta()
    meta = dataclasses.replace(meta, name=entry.name or meta.name)
    return LocalPrompt.from_function(guarded(function, PromptError, _messages), metadata=meta)


def make_resource(entry: Entry, found: Any) -> Resource | ResourceTemplate:
    """The resource behind an entry: a template of resources if its function takes arguments.

    Raises:
        TypeError: It is no function.
    """
    if isinstance(found, (Resource, ResourceTemplate)):
        return found
    function = _function(found)
    given = get_fastmcp_meta(function)
    meta = given if isinstance(given, ResourceMeta) else ResourceMeta(uri="")
    name = entry.name or meta.name or getattr(function, "__name__", "resource")
    parameters = list(inspect.signature(function).parameters)
    uri = (
        entry.uri or meta.uri or "/".join([f"resource://{name}", *(f"{{{p}}}" for p in parameters)])
    )
    call = guarded(function, ResourceError, _text)
    about = meta.description or inspect.getdoc(function)
    if parameters:
        return ResourceTemplate.from_function(
            call, uri, name=name, description=about, mime_type=meta.mime_type
        )
    return Resource.from_function(call, uri, name=name, description=about, mime_type=meta.mime_type)


def _text(answer: Any) -> Any:
    """JSON values as text; text, bytes and FastMCP's own results as they are."""
    if isinstance(answer, str):
        return answer
    try:
        return json.dumps(answer, ensure_ascii=False)
    except TypeError:
        return answer


def _function(found: Any) -> Callable[..., Any]:
    if inspect.isroutine(found):
        return found
    raise TypeError(f"is {type(found).__name__}, not a function")
