"""The answers of a scripted model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

RequestT = TypeVar("RequestT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer, or one error.

    Args:
        text: The model's text; for an error, the server's message.
        data: JSON instead of the text.
        tool_calls: ``(name, arguments)`` of each tool that the model calls; arguments that are text
            are sent as they are (OpenAI only).
        status: HTTP status; anything but 200 is an error.
        retry_after: Seconds that an error asks to wait.
        headers: More headers of an error.
        delay: Seconds before the first byte.
        truncate: Cut the connection in the middle of the answer.
        malformed: Send broken JSON.
        empty: Send an empty answer.
        finish: Why the answer ended: ``stop``, ``length``, ``content_filter``; empty: not sent.
            ``blocked``: Gemini answers nothing, because of the request's content.
        input_tokens: Counted by words if None.
        output_tokens: Counted by words if None.
        snapshot: The version of the model that the server names (OpenAI only); empty: as asked for.
        quirks: The server's changes to it: names of `fractale.testing.quirks`.
    """

    text: str = ""
    data: Any = None
    tool_calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    status: int = 200
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    truncate: bool = False
    malformed: bool = False
    empty: bool = False
    finish: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    snapshot: str = ""
    quirks: Sequence[str] = ()

    @property
    def said(self) -> str:
        """The text of the answer."""
        if self.empty:
            return ""
        return self.text if self.data is None else json.dumps(self.data, ensure_ascii=False)

    @property
    def pieces(self) -> list[str]:
        """The text word by word, as a stream delivers it."""
        words = self.said.split(" ")
        return [*(f"{word} " for word in words[:-1]), words[-1]] if self.said else []

    def tokens(self, asked: str) -> tuple[int, int]:
        """Input and output tokens of this answer to a request."""
        inputs = len(asked.split()) if self.input_tokens is None else self.input_tokens
        outputs = len(self.said.split()) if self.output_tokens is None else self.output_tokens
        return inputs, outputs


class ScriptEnded(Exception):
    """A scripted model was called more often than it has replies."""


class ReplyScript(Generic[RequestT]):
    """Replies in their order, or a function that makes each from the request.

    Args:
        replies: `Reply`, or text for an answer of only that text.
    """

    def __init__(self, replies: Iterable[Reply | str] | Callable[[RequestT], Reply | str]) -> None:
        self._make = replies if callable(replies) else None
        self._left = [] if callable(replies) else list(replies)
        self._given = 0
        self._lock = threading.Lock()

    def next(self, request: RequestT) -> Reply:
        """The reply to a request.

        Raises:
            ScriptEnded: No reply is left.
        """
        with self._lock:
            if self._make is not None:
                reply = self._make(request)
            elif self._left:
                reply = self._left.pop(0)
            else:
                raise ScriptEnded(f"the script has no reply left after {self._given}")
            self._given += 1
        return Reply(text=reply) if isinstance(reply, str) else reply


def arguments_as_text(arguments: Mapping[str, Any] | str) -> str:
    """Arguments of a tool call as JSON text; text as it is."""
    return arguments if isinstance(arguments, str) else json.dumps(dict(arguments))
