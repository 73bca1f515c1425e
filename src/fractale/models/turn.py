"""One turn of a model: receive, join, clean and check it before other code reads it."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from fractale.errors import ModelError, UsageError
from fractale.models import faults
from fractale.models.text_calls import called_in_text
from fractale.models.thoughts import AnswerStream, without_thoughts
from fractale.models.usage import Usage, snapshot_of
from fractale.plain import readable, readable_values
from fractale.text import clip

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

    from fractale.models.runnables import Chat

TELLING = frozenset({"openai", "google_genai"})
"""Providers that always give the reason for an end; without a reason, the answer broke off."""

TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
WITHHELD = frozenset(
    {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal"}
)
BROKEN = frozenset({"malformed_function_call", "unexpected_tool_call"})
UNFINISHED = frozenset({"failed", "in_progress", "cancelled", "incomplete"})

TOLD_OF_CALL = (
    "You wrote a call of the tool {name} as text: nothing was called. Call tools with the tool "
    "calls of this interface, or answer in text."
)
TOLD_OF_NOTHING = "Your answer was empty. Call a tool, or answer in text."

THOUGHTS = "reasoning_content"
"""The key of a message's thoughts in `additional_kwargs`."""

COUNTS = ("input_tokens", "output_tokens")


@dataclass(slots=True, kw_only=True)
class Turns:
    """Takes turns of one model.

    Args:
        price: Returns the usage of one answer.
        on_text: Receives pieces of the answer as they arrive, without thoughts; None turns
            streaming off.
        timeout: Seconds per turn.
        whole: Whether to receive each answer as a whole, and not as a stream.
        unmarked: Models whose thoughts were found to have no start mark.
        usage: Usage of all turns so far, including failed ones.
        snapshot: The version of the model that took the last turn, as its server named it.
    """

    spec: str
    price: Callable[[BaseMessage], Usage]
    on_text: Callable[[str], None] | None = None
    timeout: float | None = None
    whole: bool = False
    unmarked: set[str] = field(default_factory=set[str])
    usage: Usage = field(default_factory=Usage)
    snapshot: str = ""

    async def take(self, chat: Chat, messages: Sequence[BaseMessage]) -> AIMessage:
        """Make one request and receive the whole turn.

        Returns:
            A message without thoughts in its text, whose tool calls have whole arguments and an
            id. It may be empty.

        Raises:
            ModelUnavailable: The turn broke off, or calls a tool with incomplete arguments.
            ModelError: The turn was cut off at a length limit, or a filter withheld it.
        """
        async with asyncio.timeout(self.timeout):
            message = await self._receive(chat, list(messages))
        self.usage += self.price(message)
        self.snapshot = snapshot_of(message)
        check_end(message, self.spec)
        return message

    async def _receive(self, chat: Chat, messages: list[BaseMessage]) -> AIMessage:
        if self.on_text is None:
            return self._cleaned(self._message(await chat.ainvoke(messages)))
        if self.whole:
            message = self._cleaned(self._message(await chat.ainvoke(messages)))
            if message.text:
                self.on_text(message.text)
            return message
        shown = AnswerStream(self.on_text, hold=self.spec in self.unmarked)
        chunks: list[AIMessageChunk] = []
        async for piece in chat.astream(messages):
            chunk = self._message(piece)
            if chunk.text:
                shown.feed(readable(str(chunk.text)))
            chunks.append(cast("AIMessageChunk", chunk))
        message = self._cleaned(joined(chunks))
        shown.end(message.text)
        return message

    def _message(self, answer: Any) -> AIMessage:
        """Check that a runnable in the place of a model answered as one.

        Raises:
            UsageError: It did not.
        """
        from langchain_core.messages import AIMessage

        if isinstance(answer, AIMessage):
            return answer
        raise UsageError(
            f"the answer of {self.spec} is not a message of a model: {type(answer).__name__}",
            hint="a chain in `model` must end with a chat model, without an output parser",
        )

    def _cleaned(self, message: AIMessage) -> AIMessage:
        if without_thoughts(message.text).unmarked:
            self.unmarked.add(self.spec)
        return clean(message)


def joined(chunks: Sequence[AIMessageChunk]) -> AIMessage:
    """Join the chunks of a stream to one message.

    A tool call with incomplete JSON arguments becomes an invalid call. LangChain would complete
    the cut-off text: ``{"path": "/a/run1`` for ``{"path": "/a/run1/tmp"}``.
    """
    from langchain_core.messages import AIMessageChunk, message_chunk_to_message

    if not chunks:
        raise ValueError("the stream ended without any answer")
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    if not isinstance(whole, AIMessageChunk):  # from a model that does not stream
        return cast("AIMessage", whole)
    broken = [call for call in whole.tool_call_chunks if not _is_whole(call)]
    message = cast("AIMessage", message_chunk_to_message(whole))
    counts = [cast("dict[str, Any]", c.usage_metadata) for c in chunks if c.usage_metadata]
    changes: dict[str, Any] = {"usage_metadata": _counted(counts) or message.usage_metadata}
    if broken:
        invalid = [
            {**_fields(call), "type": "invalid_tool_call", "error": "the arguments are cut off"}
            for call in broken
        ]
        changes["invalid_tool_calls"] = invalid
    return message.model_copy(update=changes)


def _fields(call: Mapping[str, Any]) -> dict[str, Any]:
    return {key: call.get(key) for key in ("name", "args", "id")}


def _is_whole(call: Mapping[str, Any]) -> bool:
    """Whether a call has a name and whole arguments; empty text means no arguments."""
    try:
        arguments = json.loads(call.get("args") or "{}", strict=False)
    except (ValueError, RecursionError):
        return False
    return isinstance(arguments, dict) and bool(call.get("name"))


def _counted(counts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Merge the usage of a stream's chunks, which report either running totals or separate parts.

    They are totals if no count ever falls. Only one part of an answer has its input tokens.
    """
    grows = all(
        earlier[COUNTS[0]] > 0 and all(earlier[key] <= later[key] for key in COUNTS)
        for earlier, later in itertools.pairwise(counts)
    )
    return counts[-1] if len(counts) > 1 and grows else None


def clean(message: AIMessage) -> AIMessage:
    """Remove thoughts from a message's text, add missing ids of tool calls, repair its Unicode."""
    changes: dict[str, Any] = {}
    parted = without_thoughts(message.text)
    if parted.thoughts:
        changes["content"] = _with_text(message.content, parted.answer)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - LangChain's list of anything
        changes["additional_kwargs"] = {**message.additional_kwargs, THOUGHTS: parted.thoughts}
    if any(not call.get("id") for call in message.tool_calls):
        changes["tool_calls"] = [
            {**call, "id": call.get("id") or f"call_{uuid.uuid4().hex}"}
            for call in message.tool_calls
        ]
    for name in ("content", "tool_calls", "additional_kwargs"):
        value = changes.get(name, getattr(message, name))
        # A server may split a character of two code units.
        if (mended := readable_values(value)) != value:
            changes[name] = mended
    return message.model_copy(update=changes) if changes else message


def _with_text(content: Any, answer: str) -> Any:
    """Replace the text of a message's content; parts other than text stay."""
    if isinstance(content, str):
        return answer
    others = [part for part in content if not _is_text(part)]
    return [*others, {"type": "text", "text": answer}] if answer else others


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (
        isinstance(part, dict) and cast("dict[str, Any]", part).get("type") == "text"
    )


def check_end(message: BaseMessage, spec: str) -> None:
    """Check that an answer is complete.

    Raises:
        ModelUnavailable: It broke off, or calls a tool with arguments that are not JSON.
        ModelError: It was cut off at a length limit, or a filter withheld it.
    """
    metadata = cast("Mapping[str, Any]", message.response_metadata)
    reason = _reason_of(metadata)
    if _is_one_of(reason, TOO_LONG):
        raise faults.truncated(spec)
    if _is_one_of(reason, WITHHELD):
        raise faults.withheld(spec, reason)
    if _is_one_of(reason, BROKEN) or _calls_are_broken(message):
        raise faults.broken_call(spec)
    if blocked := _blocked(metadata):
        raise faults.withheld(spec, blocked)
    unsaid = not reason and metadata.get("model_provider") in TELLING
    if unsaid or _is_one_of(reason, UNFINISHED):
        raise faults.cut_off(spec)


def _is_one_of(reason: str, words: frozenset[str]) -> bool:
    # If two pieces of a stream give the reason, LangChain concatenates the words.
    return any(reason.startswith(word) for word in words)


def _reason_of(metadata: Mapping[str, Any]) -> str:
    for name in ("finish_reason", "stop_reason", "done_reason"):
        if metadata.get(name):
            return str(metadata[name]).lower()
    incomplete: Any = metadata.get("incomplete_details")  # OpenAI's Responses API
    if isinstance(incomplete, Mapping):
        return str(cast("Mapping[str, Any]", incomplete).get("reason") or "incomplete")
    return str(metadata.get("status") or "")


def _calls_are_broken(message: BaseMessage) -> bool:
    """Whether any call is broken, even beside a valid call: the model meant both."""
    return bool(getattr(message, "invalid_tool_calls", None))


def _blocked(metadata: Mapping[str, Any]) -> str:
    """The reason why Gemini returned no answer at all."""
    feedback: Any = metadata.get("prompt_feedback")
    if not isinstance(feedback, Mapping):
        return ""
    reason: Any = cast("Mapping[str, Any]", feedback).get("block_reason")
    return str(getattr(reason, "value", reason)).lower() if reason else ""


def fault_of_turn(message: AIMessage, tools: Sequence[str], spec: str) -> ModelError | None:
    """Return an error if an agent's turn neither calls a tool nor answers, else None.

    Args:
        tools: The names of the offered tools.
    """
    if message.tool_calls:
        return None
    if name := called_in_text(message.text, tools):
        return call_as_text(name, spec)
    return None if message.text.strip() else empty(message, spec)


def call_as_text(name: str, spec: str) -> ModelError:
    """The error for a tool call that the model wrote as text."""
    return ModelError(
        f"{spec} wrote a call of `{name}` as text, so nothing was called",
        hint="start its server with a parser of its tool calls: see docs/models.md; and see that "
        "the step's `tools` have what it needs",
    )


def word_about(message: AIMessage, tools: Sequence[str]) -> list[BaseMessage]:
    """Return the messages that explain to the model why `fault_of_turn` refuses its turn."""
    from langchain_core.messages import AIMessage, HumanMessage

    if name := called_in_text(message.text, tools):
        return [AIMessage(message.text), HumanMessage(TOLD_OF_CALL.format(name=name))]
    return [HumanMessage(TOLD_OF_NOTHING)]


def empty(message: BaseMessage, spec: str) -> ModelError:
    """The error for an answer without text, with the model's reason if it gives one."""
    refusal = cast("Mapping[str, Any]", message.additional_kwargs).get("refusal")
    if refusal:
        return ModelError(f"{spec} refuses to answer: {clip(str(refusal), 200)}")
    reason = _reason_of(cast("Mapping[str, Any]", message.response_metadata))
    because = f" ({reason})" if reason not in ("", "stop") else ""
    if cast("Mapping[str, Any]", message.additional_kwargs).get(THOUGHTS):
        because = " (it has only thoughts)"
    return ModelError(
        f"the answer of {spec} is empty{because}", hint="try again, or name another model"
    )
