"""Convert a conversation to the form that a model accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from fractale.plain import readable_values

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

IMAGES = "The images that the tools answered with:"


def for_model(messages: Sequence[BaseMessage], profile: Mapping[str, Any]) -> list[BaseMessage]:
    """Return the messages, with the images of tool results if the model accepts images.

    Providers accept images in a user's message, and few accept them in a tool's. So images follow
    the tool results. A model without known image support gets the text only, which names the files.

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
    """Replace text that is not valid Unicode, such as a byte of a file name, with U+FFFD.

    A request is JSON in UTF-8 and cannot contain a lone surrogate.
    """
    said: dict[str, Any] = {"content": message.content}  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
    if calls := getattr(message, "tool_calls", None):
        said["tool_calls"] = calls
    clean = readable_values(said)
    return message if clean == said else message.model_copy(update=clean)


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and cast("dict[str, Any]", part).get("type") == "image"
