"""One question to a model and its whole answer, with a correction where the answer needs one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from fractale.errors import ModelError, ModelUnavailable
from fractale.models import faults, structured
from fractale.models.usage import Usage

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import Runnable

TELLING = frozenset({"openai", "google_genai"})
"""Makers of messages that always say why an answer ended; one without a reason broke off."""

TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
WITHHELD = frozenset(
    {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal"}
)
BROKEN = frozenset({"malformed_function_call", "unexpected_tool_call"})
UNFINISHED = frozenset({"failed", "in_progress", "cancelled", "incomplete"})


Protect = Callable[[Callable[[], Awaitable[str]]], Awaitable[str]]
"""Makes an attempt, again where that may help; raises fractale's errors only."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Asks, and asks once more where the answer is not the JSON that was asked for.

    Args:
        native: Whether the model takes a JSON Schema with the request; becomes false when it
            turns out not to.
        protect: Makes each request.
        price: What one answer used.
        on_text: Takes pieces of the text as they come; with None, nothing is streamed.
        timeout: Seconds that each try may take.
        correct: Whether an answer that does not fit the schema is sent back once.
        usage: What all answers used so far.
    """

    chat: BaseChatModel
    spec: str
    native: bool
    protect: Protect
    price: Callable[[BaseMessage], Usage]
    on_text: Callable[[str], None] | None = None
    timeout: float | None = None
    correct: bool = True
    usage: Usage = field(default_factory=Usage)

    async def answer(
        self, messages: Sequence[BaseMessage], schema: Mapping[str, Any] | None
    ) -> tuple[str, Any]:
        """The text, and the JSON in it.

        Raises:
            ModelError: The answer is empty, cut off, or there is no JSON though it was asked for.
            ModelUnavailable: The model was busy or out of reach at every try.
        """
        if schema is None:
            text = await self._turn(messages, None)
            return text, structured.read(text, None)[0]
        asked, text = await self._ask_for_json(messages, schema)
        data, errors = structured.read(text, schema)
        if not errors or (data is not None and not self.correct):
            return text, data
        if not self.correct:
            raise self._without_json(text)
        again = structured.with_correction(asked, text, errors)
        corrected = await self._turn(again, schema)
        better, _ = structured.read(corrected, schema)
        if better is not None:
            return corrected, better
        if data is not None:
            return text, data
        raise self._without_json(corrected)

    def _without_json(self, text: str) -> ModelError:
        error = ModelError(
            f"{self.spec} answered without the JSON that was asked for: {_short(text)}",
            hint="simplify `output_schema`, or name a more capable model in `model:`",
        )
        error.text = text
        return error

    async def _ask_for_json(
        self, messages: Sequence[BaseMessage], schema: Mapping[str, Any]
    ) -> tuple[Sequence[BaseMessage], str]:
        """What was asked in the end, and the answer."""
        if self.native:
            try:
                return messages, await self._turn(messages, schema)
            except ModelError as error:
                if not faults.refuses_format(error):
                    raise
        in_words = structured.with_schema_in_words(messages, schema)
        refused, self.native = self.native, False
        try:
            return in_words, await self._turn(in_words, schema)
        except ModelError:
            # Then it was not the schema that it refused.
            self.native = refused
            raise

    async def _turn(self, messages: Sequence[BaseMessage], schema: Mapping[str, Any] | None) -> str:
        chat: Runnable[LanguageModelInput, AIMessage] = self.chat
        if schema is not None and self.native:
            chat = self.chat.bind(response_format=structured.response_format(schema))
        return await self.protect(lambda: self._once(chat, messages))

    async def _once(
        self, chat: Runnable[LanguageModelInput, AIMessage], messages: Sequence[BaseMessage]
    ) -> str:
        async with asyncio.timeout(self.timeout):
            message = await self._receive(chat, list(messages))
        self.usage += self.price(message)
        check_end(message, self.spec)
        if not message.text.strip():
            raise empty(message, self.spec)
        return str(message.text)

    async def _receive(
        self, chat: Runnable[LanguageModelInput, AIMessage], messages: list[BaseMessage]
    ) -> AIMessage:
        if self.on_text is None:
            return await chat.ainvoke(messages)
        whole: Any = None
        async for chunk in chat.astream(messages):
            if chunk.text:
                self.on_text(str(chunk.text))
            whole = chunk if whole is None else whole + chunk
        return cast("AIMessage", whole)


def check_end(message: BaseMessage, spec: str) -> None:
    """See to it that an answer came to its own end.

    Raises:
        ModelUnavailable: It broke off, or calls a tool with arguments that are not JSON.
        ModelError: It was cut off at a length limit, or withheld by a filter.
    """
    metadata = cast("Mapping[str, Any]", message.response_metadata)
    reason = _reason_of(metadata)
    if _is_one_of(reason, TOO_LONG):
        raise faults.truncated(spec)
    if _is_one_of(reason, WITHHELD):
        raise faults.withheld(spec, reason)
    if _is_one_of(reason, BROKEN) or _calls_are_broken(message):
        raise ModelUnavailable(
            f"{spec} called a tool in a way that cannot be read",
            hint="go on, or name a more capable model in `model:`",
        )
    unsaid = not reason and metadata.get("model_provider") in TELLING
    if unsaid or _is_one_of(reason, UNFINISHED):
        raise faults.cut_off(spec)


def _is_one_of(reason: str, words: frozenset[str]) -> bool:
    # Where two pieces of a stream give the reason, LangChain puts the words together.
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
    broken = bool(getattr(message, "invalid_tool_calls", None))
    return broken and not getattr(message, "tool_calls", None)


def empty(message: BaseMessage, spec: str) -> ModelError:
    """An answer without text: with the model's reason, if it gives one."""
    refusal = cast("Mapping[str, Any]", message.additional_kwargs).get("refusal")
    if refusal:
        return ModelError(f"{spec} refuses to answer: {_short(str(refusal))}")
    reason = _reason_of(cast("Mapping[str, Any]", message.response_metadata))
    because = f" ({reason})" if reason not in ("", "stop") else ""
    return ModelError(
        f"the answer of {spec} is empty{because}", hint="try again, or name another model"
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
