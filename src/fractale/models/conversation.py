"""A conversation as one model takes it: what providers do not send on is said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage, ToolMessage

FAILED = "The call failed: "
"""Before the text of a call that failed: OpenAI's protocol has no field for it."""

IMAGES = "The images of these answers, in their order:"

Block = dict[str, Any]


def for_model(messages: Sequence[BaseMessage], profile: Mapping[str, Any]) -> list[BaseMessage]:
    """The messages with failed calls named in words, and images where the model takes them.

    Images follow the tools' answers as a message of the user, because OpenAI's chat completions
    take none in an answer of a tool. A model that takes no images is told that there was one.

    Args:
        profile: LangChain's profile of the model.
    """
    from langchain_core.messages import HumanMessage, ToolMessage

    sees = bool(profile.get("image_inputs"))
    adapted: list[BaseMessage] = []
    images: list[Block] = []
    for message in [*messages, None]:
        if isinstance(message, ToolMessage):
            adapted.append(_answer(message, sees=sees))
            images += _images(message) if sees else []
            continue
        if images:
            adapted.append(HumanMessage([{"type": "text", "text": IMAGES}, *images]))
            images = []
        if message is not None:
            adapted.append(message)
    return adapted


def _answer(message: ToolMessage, *, sees: bool) -> ToolMessage:
    """A tool's answer as text only, and whether it is that of a call that failed."""
    images = _images(message)
    if message.status != "error" and not images:
        return message
    unseen = [] if sees else [f"[image {each.get('mime_type')}: not shown]" for each in images]
    text = "\n".join([message.text, *unseen])
    failed = FAILED if message.status == "error" else ""
    return message.model_copy(update={"content": f"{failed}{text}"})


def _images(message: ToolMessage) -> list[Block]:
    content = cast("str | list[Any]", message.content)  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
    return [cast("Block", part) for part in content if _is_image(part)]


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and cast("Block", part).get("type") == "image"
