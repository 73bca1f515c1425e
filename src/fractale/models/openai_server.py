"""Convert the answers of servers that almost follow OpenAI's protocol to OpenAI's form.

vLLM, Ollama, llama.cpp, LM Studio and gateways differ from OpenAI in three ways: they omit fields,
send null or an object in place of text, or send one body instead of a stream. The client of OpenAI
and LangChain drop such parts silently. So this module repairs answers before they read them. It
does not complete unfinished answers: see `fractale.models.turn`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
import openai
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI

Json = dict[str, Any]

EVENTS = "text/event-stream"
PATH = "/chat/completions"


class OpenAIServer(ChatOpenAI):
    """A model behind a server with OpenAI's protocol; it keeps a streamed refusal."""

    def _convert_chunk_to_generation_chunk(
        self, chunk: Json, default_chunk_class: type, base_generation_info: Json | None
    ) -> ChatGenerationChunk | None:
        made = super()._convert_chunk_to_generation_chunk(
            chunk, default_chunk_class, base_generation_info
        )
        deltas = _list([choice.get("delta") for choice in _list(chunk.get("choices"))])
        refusal = "".join(str(delta.get("refusal") or "") for delta in deltas)
        if refusal and made is not None and isinstance(made.message, AIMessageChunk):
            made.message.additional_kwargs["refusal"] = refusal
        return made


class MendingClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client that converts answers of chat completions to OpenAI's form."""

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; `StreamMender` and `mend_answer` repair its answer."""
        response = await super().send(request, stream=stream, **options)
        if response.status_code != 200 or not request.url.path.endswith(PATH):
            return response
        kind = response.headers.get("content-type", "")
        wants_events = _wants_events(request)
        if wants_events and EVENTS in kind:
            return _replaced(response, _Events(response))
        await response.aread()
        answer = _json(response.content)
        if not isinstance(answer, dict):
            return response
        mended = mend_answer(cast("Json", answer))
        if wants_events:
            return _replaced(response, b"".join(events_of(mended)))
        return _replaced(response, json.dumps(mended).encode(), kind)


def _wants_events(request: httpx2.Request) -> bool:
    asked = _json(request.content)
    return isinstance(asked, dict) and bool(cast("Json", asked).get("stream"))


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _replaced(
    response: httpx2.Response, content: bytes | httpx2.AsyncByteStream, kind: str = EVENTS
) -> httpx2.Response:
    """The response with another body, without content encoding."""
    dropped = ("content-length", "content-encoding", "content-type", "transfer-encoding")
    headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in dropped]
    return httpx2.Response(
        response.status_code,
        headers=[*headers, ("content-type", kind)],
        content=content if isinstance(content, bytes) else None,
        stream=None if isinstance(content, bytes) else content,
        request=response.request,
        extensions=response.extensions,
    )


class _Events(httpx2.AsyncByteStream):
    """The lines of an event stream, each repaired as it arrives."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream = StreamMender()
        async for line in self._response.aiter_lines():
            yield f"{stream.line(line)}\n".encode()

    async def aclose(self) -> None:
        """Close this side of the connection."""
        await self._response.aclose()


@dataclass(slots=True)
class _Call:
    index: int
    id: str
    name: str


@dataclass(slots=True)
class StreamMender:
    """Repairs the events of one stream.

    A piece of a tool call without an index belongs to the previous call, unless the piece has its
    own id or name. Calls with the same index and different ids are separate calls. A name that
    every piece repeats is emitted once.
    """

    _calls: list[_Call] = field(default_factory=list[_Call])

    def line(self, line: str) -> str:
        """Repair a line of the stream; only events with JSON are changed."""
        name, separator, data = line.partition(":")
        if name != "data" or not separator:
            return line
        event = _json(data.strip().encode("utf-8", "surrogatepass"))
        if not isinstance(event, dict):
            return line
        return f"data: {json.dumps(self.event(cast('Json', event)))}"

    def event(self, event: Json) -> Json:
        """Repair one ``chat.completion.chunk``."""
        if "choices" not in event:
            return event
        choices = [self._choice(choice) for choice in _list(event["choices"])]
        return {**event, "choices": choices}

    def _choice(self, choice: Json) -> Json:
        delta = _mend_message(choice.get("delta") or {})
        if calls := _list(delta.get("tool_calls")):
            delta["tool_calls"] = [self._piece(piece) for piece in calls]
        return {"index": 0, **choice, "delta": delta}

    def _piece(self, piece: Json) -> Json:
        function = dict(piece["function"])
        call = self._call_of(piece, function)
        if function.get("name") and call.name == function["name"]:
            function["name"] = None
        elif function.get("name"):
            call.name += str(function["name"])
        return {**piece, "index": call.index, "function": function}

    def _call_of(self, piece: Json, function: Json) -> _Call:
        """The call that a piece belongs to; the first piece creates the call."""
        own, name = str(piece.get("id") or ""), str(function.get("name") or "")
        index = piece.get("index")
        known = [call for call in self._calls if index in (None, call.index)]
        last = known[-1] if known else None
        another = last is None or (bool(own) and bool(last.id) and own != last.id)
        if index is None and last is not None and not own:
            another = bool(name) and name != last.name
        if another or last is None:
            taken = {call.index for call in self._calls}
            free = index if isinstance(index, int) and index not in taken else len(self._calls)
            last = _Call(free, own, "")
            self._calls.append(last)
        last.id = last.id or own
        return last


def mend_answer(answer: Json) -> Json:
    """Repair a ``chat.completion`` that arrived as one body."""
    if not isinstance(answer.get("choices"), list):
        return answer
    choices = [
        {"index": 0, **choice, "message": {"role": "assistant", **_mend_message(choice["message"])}}
        for choice in _list(answer["choices"])
        if isinstance(choice.get("message"), dict)
    ]
    return {**answer, "choices": choices}


def _mend_message(message: Json) -> Json:
    """Repair a message or a delta: its content and its calls' arguments become text."""
    mended = dict(message)
    content = mended.get("content")
    if isinstance(content, list):
        mended["content"] = "".join(_text_of(part) for part in cast("list[Any]", content))
    calls = _list(mended.get("tool_calls"))
    mended["tool_calls"] = [_mend_call(call) for call in calls] or None
    return mended


def _list(value: Any) -> list[Json]:
    """The objects of a list; empty for any other value."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _text_of(part: Any) -> str:
    if isinstance(part, dict):
        return str(cast("Json", part).get("text") or "")
    return str(part)


def _mend_call(call: Json) -> Json:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, (dict, list)):
        function["arguments"] = json.dumps(arguments)
    return {"type": "function", **call, "function": function}


def events_of(answer: Json) -> Iterator[bytes]:
    """Convert a whole answer, or an error, to a stream: one event with all of it, and the end."""
    if "choices" not in answer:
        yield _event(answer)
        return
    head = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    for choice in _list(answer["choices"]):
        calls = _list(choice["message"].get("tool_calls"))
        indexed = [{**call, "index": number} for number, call in enumerate(calls)]
        delta = {**choice["message"], "tool_calls": indexed or None}
        piece = {**choice, "delta": delta}
        del piece["message"]
        yield _event({**head, "choices": [piece]})
    yield _event({**head, "choices": [], "usage": answer.get("usage")})
    yield b"data: [DONE]\n\n"


def _event(data: Json) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def build(url: str, key: str, model: str, *, proxied: bool, timeout: float) -> ChatOpenAI:
    """Build a model at an address, with separate HTTP clients.

    LangChain shares its clients among all event loops of a process.

    Args:
        proxied: Whether the environment's proxies apply.
        timeout: Seconds for one request, and for one wait for a piece of its answer.
    """
    from pydantic import SecretStr

    # For fields of unexpected types, pydantic would print a warning with its own file's path.
    warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
    return OpenAIServer(
        model=model,
        base_url=url,
        api_key=SecretStr(key),
        stream_usage=True,
        max_retries=0,
        timeout=timeout,
        stream_chunk_timeout=timeout,
        http_client=openai.DefaultHttpxClient(trust_env=proxied, timeout=timeout),
        http_async_client=MendingClient(trust_env=proxied, timeout=timeout),
    )
