"""One question to a model and its whole answer, with one correction if necessary."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fractale.errors import ModelError
from fractale.models import faults, structured
from fractale.models.json_text import whole_json
from fractale.models.runnables import applied
from fractale.models.text_calls import called_in_text
from fractale.models.turn import Turns, empty
from fractale.text import clip

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from fractale.models.runnables import Chat

Protect = Callable[[Callable[[], Awaitable[str]]], Awaitable[str]]
"""Makes an attempt, and retries it if that may help; raises only fractale's errors."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Asks a model, and asks once more if the answer is not the requested JSON.

    Args:
        turns: Makes each request once.
        native: Whether the model accepts a JSON Schema with the request; set to false if the model
            refuses it.
        protect: Makes each request, and retries it if that may help.
        correct: Whether to send back an answer that does not fit the schema, once.
    """

    chat: Chat
    turns: Turns
    native: bool
    protect: Protect
    correct: bool = True

    async def answer(
        self, messages: Sequence[BaseMessage], schema: Mapping[str, Any] | None
    ) -> tuple[str, Any]:
        """Return the text and the requested JSON.

        Without a schema, the JSON is the text as a whole if that is JSON, else None.

        Raises:
            ModelError: The answer is empty, cut off or a tool call in text, or the requested JSON
                is missing.
            ModelUnavailable: The model was busy or unreachable at every attempt.
        """
        if schema is None:
            text = await self._turn(messages, None)
            return text, _json_of(text)
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
            f"{self.turns.spec} answered without the JSON that was asked for: {clip(text, 200)}",
            hint="simplify `output_schema`, or name a more capable model in `model:`",
        )
        error.text = text
        return error

    async def _ask_for_json(
        self, messages: Sequence[BaseMessage], schema: Mapping[str, Any]
    ) -> tuple[Sequence[BaseMessage], str]:
        """Return the messages of the last request, and its answer."""
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
            # Then the schema was not the cause of the refusal.
            self.native = refused
            raise

    async def _turn(self, messages: Sequence[BaseMessage], schema: Mapping[str, Any] | None) -> str:
        chat = self.chat
        if schema is not None and self.native:
            chat = applied(chat, "bind", response_format=structured.response_format(schema))
        return await self.protect(lambda: self._once(chat, messages))

    async def _once(self, chat: Chat, messages: Sequence[BaseMessage]) -> str:
        message = await self.turns.take(chat, messages)
        if not message.text.strip():
            raise empty(message, self.turns.spec)
        called = [str(call["name"]) for call in message.tool_calls]
        if name := next(iter(called), None) or called_in_text(message.text, ()):
            raise ModelError(
                f"{self.turns.spec} called `{name}`, but it has no tools here: nothing was called",
                hint="give the step the tools that it needs, or ask the model to answer in text",
            )
        return str(message.text)


def _json_of(text: str) -> Any:
    try:
        return whole_json(text)
    except ValueError:
        return None
