"""The answer of a model, and its usage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The usage of model calls. Add two to sum them.

    Args:
        input_tokens: As the provider counts them.
        output_tokens: The same, including the model's thoughts.
        cost: US dollars; 0 if the model's price is unknown.
        calls: Number of paid answers.
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
        return {**asdict(self), "total_tokens": self.total_tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a model.

    Args:
        text: The whole text, without thoughts.
        data: The requested JSON; without a schema, the text as a whole if it is JSON.
            None if there is none.
        usage: Usage of all turns for the answer.
        model: ``provider:name``.
        seconds: From the first request to the end of the answer, including waits.
        snapshot: The model's version, see `snapshot_of`.
    """

    text: str
    data: Any | None
    usage: Usage
    model: str
    seconds: float
    snapshot: str = ""


def tokens_of(message: BaseMessage) -> tuple[int, int]:
    """Return input and output tokens of an answer; zeros if the provider does not report them."""
    counted = getattr(message, "usage_metadata", None)
    if counted:
        return int(counted.get("input_tokens", 0)), int(counted.get("output_tokens", 0))
    metadata = cast("dict[str, Any]", message.response_metadata)
    raw: dict[str, Any] = metadata.get("token_usage") or metadata.get("usage") or {}
    return (
        int(raw.get("prompt_tokens") or raw.get("input_tokens") or 0),
        int(raw.get("completion_tokens") or raw.get("output_tokens") or 0),
    )


def snapshot_of(message: BaseMessage) -> str:
    """The version of the model that answered, as its server named it; empty if it did not."""
    metadata = cast("dict[str, Any]", message.response_metadata)
    name = metadata.get("model_name") or metadata.get("model") or metadata.get("model_version")
    parts = [name, metadata.get("system_fingerprint")]
    return " ".join(str(part)[:200] for part in parts if part)


EARLIER_TRIES = "earlier_tries"
"""The metadata key of an agent's turn for the usage of earlier attempts."""


def with_earlier_tries(message: AIMessage, usage: Usage) -> AIMessage:
    """Add the usage of earlier attempts to the message of a turn.

    Args:
        usage: Usage of all attempts, including the last.
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
    """The usage of the attempts before this one, without cost."""
    metadata = cast("dict[str, Any]", message.response_metadata)
    return Usage(**metadata.get(EARLIER_TRIES, {}))
