"""A conversation as one model takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from fractale.plain import readable_values

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

IMAGES = "The images that the tools answered with:"


def for_model(messages: Sequence[BaseMessage], profile: Mapping[str, Any]) -> list[BaseMessage]:
    """The messages with the images of tools' answers where the model takes them.

    Providers take images in a user's message, and few in a tool's. So images follow the tools'
    answers; a model that is not known to see gets their text only, which names the files.

    Args:
        profile: LangChain's profile of the model.
    """
    from langchain_core.messages import HumanMessage, ToolMessage

    sees = bool(profile.get("image_inputs"))
    adapted: list[BaseMessage] = []
    images: list[Any] = []
    for message in [*messages, None]:
        if images and not isinstance(message, ToolMessage):
            adapted.append(HumanMessage([{"type": "text", "text": IMAGES}, *images]))
            images = []
        if isinstance(message, ToolMessage):
            content = cast("str | list[Any]", message.content)  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
            if not isinstance(content, str):
                images += [part for part in content if sees and _is_image(part)]
                message = message.model_copy(update={"content": message.text})
        if message is not None:
            adapted.append(message)
    return [_in_unicode(message) for message in adapted]


def _in_unicode(message: BaseMessage) -> BaseMessage:
    """The message with U+FFFD for what is not Unicode, such as a byte of a file name.

    A request is JSON in UTF-8, and can hold no lone surrogate.
    """
    said: dict[str, Any] = {"content": message.content}  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
    if calls := getattr(message, "tool_calls", None):
        said["tool_calls"] = calls
    clean = readable_values(said)
    return message if clean == said else message.model_copy(update=clean)


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and cast("dict[str, Any]", part).get("type") == "image"
