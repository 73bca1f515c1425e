"""Messages as a provider can be sent them: in Unicode, since a request is JSON in UTF-8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage

from fractale.plain import readable_values

M = TypeVar("M", bound=BaseMessage)


def sendable(messages: Sequence[M]) -> list[M]:
    """The messages with U+FFFD for what is not Unicode, such as a byte of a file name."""
    return [_sendable(message) for message in messages]


def _sendable(message: M) -> M:
    said: dict[str, Any] = {"content": message.content}  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
    if calls := getattr(message, "tool_calls", None):
        said["tool_calls"] = calls
    clean = readable_values(said)
    return message if clean == said else message.model_copy(update=clean)
