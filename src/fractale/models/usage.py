"""What a model answered, and what it used for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What model calls used. Add two to sum them.

    Args:
        input_tokens: As the provider counts them.
        output_tokens: The same, with what the model thought but did not say.
        cost: US dollars; 0 where the model's price is not known.
        calls: Answers that were paid for.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    calls: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=self.cost + other.cost,
            calls=self.calls + other.calls,
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with ``total_tokens``."""
        return {**asdict(self), "total_tokens": self.total_tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model answered.

    Args:
        text: All that it said, without its thoughts.
        data: The JSON that was asked for; without a schema, the JSON that the text is as a whole.
            None if there is none.
        usage: Of all turns that the answer took.
        model: ``provider:name``.
        seconds: From the first request to the end of the answer, waiting included.
    """

    text: str
    data: Any | None
    usage: Usage
    model: str
    seconds: float


def tokens_of(message: BaseMessage) -> tuple[int, int]:
    """Input and output tokens of an answer; zeros where the provider does not say."""
    counted = getattr(message, "usage_metadata", None)
    if counted:
        return int(counted.get("input_tokens", 0)), int(counted.get("output_tokens", 0))
    metadata = cast("dict[str, Any]", message.response_metadata)
    raw: dict[str, Any] = metadata.get("token_usage") or metadata.get("usage") or {}
    return (
        int(raw.get("prompt_tokens") or raw.get("input_tokens") or 0),
        int(raw.get("completion_tokens") or raw.get("output_tokens") or 0),
    )


EARLIER_TRIES = "earlier_tries"
"""Where the metadata of an agent's turn keep what the tries before it used."""


def with_earlier_tries(message: AIMessage, usage: Usage) -> AIMessage:
    """The message of a turn that took several tries, with what those before it used.

    Args:
        usage: Of all tries, the last included.
    """
    if usage.calls <= 1:
        return message
    inputs, outputs = tokens_of(message)
    earlier = {
        "input_tokens": usage.input_tokens - inputs,
        "output_tokens": usage.output_tokens - outputs,
        "calls": usage.calls - 1,
    }
    metadata = cast("dict[str, Any]", message.response_metadata)
    return message.model_copy(update={"response_metadata": {**metadata, EARLIER_TRIES: earlier}})


def earlier_tries(message: BaseMessage) -> Usage:
    """What the tries before this one used, unpriced."""
    metadata = cast("dict[str, Any]", message.response_metadata)
    return Usage(**metadata.get(EARLIER_TRIES, {}))
