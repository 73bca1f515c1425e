"""A chat model in this process that answers from a script."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.exceptions import ModelAPIError, ModelConnectionError
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, PrivateAttr

from fractale.errors import ModelError
from fractale.testing.quirks import with_quirks_of_text
from fractale.testing.replies import Reply, ReplyScript, ScriptEnded, arguments_as_text


class ScriptedFault(ModelAPIError):
    """An HTTP error, as a provider's client would raise it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text or f"HTTP {reply.status}")
        self.status_code = reply.status
        self.retry_after = reply.retry_after


class ScriptedModel(BaseChatModel):
    """A LangChain chat model for tests of plans and agents; no network, no key.

    For example::

        model = ScriptedModel(["Hello", Reply(tool_calls=[("submit", {"nodes": 2})]), "Done"])
        result = fractale.run("plan.yaml", model=model)

    Args:
        script: Replies in their order (text for a plain answer), or a function that makes one
            from the list of messages. After the last one, it raises a ModelError.
        structured_output: Whether it accepts a JSON Schema with the request.
        image_inputs: Whether it accepts images.

    Attributes:
        requests: The messages of every request in the order in which they came.
        options: The options of each request: `tools`, `response_format` and the like.
    """

    model_name: str = "scripted"
    _requests: list[list[BaseMessage]] = PrivateAttr(default_factory=list[list[BaseMessage]])
    _options: list[dict[str, Any]] = PrivateAttr(default_factory=list[dict[str, Any]])
    _script: ReplyScript[list[BaseMessage]] = PrivateAttr()

    def __init__(
        self,
        script: Iterable[Reply | str] | Callable[[list[BaseMessage]], Reply | str] = (),
        *,
        structured_output: bool = True,
        image_inputs: bool = False,
        **fields: Any,
    ) -> None:
        profile: Any = {"structured_output": structured_output, "image_inputs": image_inputs}
        super().__init__(profile=profile, **fields)
        self._script = ReplyScript(script)

    @property
    def requests(self) -> list[list[BaseMessage]]:
        """The messages of every request."""
        return self._requests

    @property
    def options(self) -> list[dict[str, Any]]:
        """The options that were bound to each request."""
        return self._options

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The same model; the tools that it may call are in `options`."""
        described = [convert_to_openai_tool(tool) for tool in tools]
        chosen = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=described, **chosen, **kwargs)

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """The same model with its text parsed as JSON; a pydantic class gives its instances."""
        parser: Any = JsonOutputParser()
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            parser = PydanticOutputParser(pydantic_object=schema)
        chat = self.bind(response_format=schema, **kwargs)
        if not include_raw:
            return chat | parser
        parsed = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=chat) | parsed.with_fallbacks(
            [failed], exception_key="parsing_error"
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._next(messages, kwargs)
        time.sleep(reply.delay)
        return _result(reply, messages)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._next(messages, kwargs)
        await asyncio.sleep(reply.delay)
        return _result(reply, messages)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._next(messages, kwargs)
        time.sleep(reply.delay)
        for chunk in _chunks(reply, messages):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._next(messages, kwargs)
        await asyncio.sleep(reply.delay)
        for chunk in _chunks(reply, messages):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _next(self, messages: list[BaseMessage], options: dict[str, Any]) -> Reply:
        self._requests.append(list(messages))
        self._options.append(options)
        try:
            reply = self._script.next(messages)
        except ScriptEnded as end:
            raise ModelError(str(end), hint="give the ScriptedModel more replies") from end
        return with_quirks_of_text(reply)


def _check(reply: Reply) -> None:
    if reply.status != 200:
        raise ScriptedFault(reply)
    if reply.malformed:
        raise json.JSONDecodeError("scripted: malformed answer", reply.said, 0)


def _result(reply: Reply, messages: list[BaseMessage]) -> ChatResult:
    _check(reply)
    if reply.truncate:
        raise ModelConnectionError("scripted: the connection was cut")
    called: list[Any] = []
    broken: list[Any] = []
    for number, (name, args) in enumerate(reply.tool_calls):
        if isinstance(args, str):  # sent as it is, complete or not
            broken.append(invalid_tool_call(name=name, args=args, id=f"call_{number}"))
        else:
            called.append(tool_call(name=name, args=dict(args), id=f"call_{number}"))
    message = AIMessage(
        content=reply.said,
        tool_calls=called,
        invalid_tool_calls=broken,
        usage_metadata=_usage(reply, messages),
        response_metadata={"finish_reason": reply.finish, "model_name": "scripted"},
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunks(reply: Reply, messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
    _check(reply)
    pieces = reply.pieces[: len(reply.pieces) // 2] if reply.truncate else reply.pieces
    for piece in pieces:
        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
    if reply.truncate:
        raise ModelConnectionError("scripted: the connection was cut")
    calls = [
        tool_call_chunk(name=name, args=arguments_as_text(args), id=f"call_{i}", index=i)
        for i, (name, args) in enumerate(reply.tool_calls)
    ]
    last = AIMessageChunk(
        content="",
        tool_call_chunks=calls,
        usage_metadata=_usage(reply, messages),
        response_metadata={"finish_reason": reply.finish, "model_name": "scripted"},
        chunk_position="last",
    )
    yield ChatGenerationChunk(message=last)


def _usage(reply: Reply, messages: list[BaseMessage]) -> UsageMetadata:
    inputs, outputs = reply.tokens(" ".join(str(message.text) for message in messages))
    return UsageMetadata(input_tokens=inputs, output_tokens=outputs, total_tokens=inputs + outputs)
