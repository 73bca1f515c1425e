"""Replies in the formats of OpenAI's chat completions and of Gemini's `generateContent`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, cast

from fractale.testing.quirks import quirks_of
from fractale.testing.replies import Reply, arguments_as_text

Json = dict[str, Any]


class ModelProtocol(Protocol):
    """The format of one kind of server."""

    def answer(self, reply: Reply, request: Mapping[str, Any], model: str) -> Json:
        """A whole answer."""
        ...

    def stream(self, reply: Reply, request: Mapping[str, Any], model: str) -> list[str]:
        """The same as the data of server-sent events."""
        ...

    def error(self, reply: Reply) -> tuple[Any, dict[str, str]]:
        """The body and the headers of an error."""
        ...


def text_of(value: Any) -> str:
    """All text in a request, for counting its words."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(text_of(item) for item in cast("list[Any]", value))
    if isinstance(value, dict):
        table = cast("Json", value)
        keys = ("messages", "contents", "systemInstruction", "parts", "content", "text")
        return " ".join(text_of(table[key]) for key in keys if key in table)
    return ""


class OpenAIProtocol:
    """``POST /v1/chat/completions``."""

    def answer(self, reply: Reply, request: Mapping[str, Any], model: str) -> Json:
        """A ``chat.completion``."""
        message = {"role": "assistant", "content": reply.said or None, **self._calls(reply)}
        choice = {"index": 0, "message": message, "finish_reason": self._finish(reply)}
        head = self._head("chat.completion", reply.snapshot or model)
        body: Json = {**head, "choices": [choice], "usage": self._usage(reply, request)}
        for quirk in quirks_of(reply.quirks):
            body = quirk.answer(body) if quirk.answer else body
        return body

    def stream(self, reply: Reply, request: Mapping[str, Any], model: str) -> list[str]:
        """``chat.completion.chunk`` for each word, the usage last if it was asked for."""
        head = self._head("chat.completion.chunk", reply.snapshot or model)
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in reply.pieces]
        if calls := self._calls(reply):
            indexed = [{"index": i, **call} for i, call in enumerate(calls["tool_calls"])]
            deltas.append({"tool_calls": indexed})
        choices: list[Json] = [
            {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
        ]
        choices.append({"index": 0, "delta": {}, "finish_reason": self._finish(reply)})
        events: list[Json] = [{**head, "choices": [choice]} for choice in choices]
        if (request.get("stream_options") or {}).get("include_usage"):
            usage = self._usage(reply, request)
            events.append({**head, "choices": [], "usage": usage})
        for quirk in quirks_of(reply.quirks):
            events = quirk.events(events) if quirk.events else events
        return [*map(json.dumps, events), "[DONE]"]

    def error(self, reply: Reply) -> tuple[Any, dict[str, str]]:
        """OpenAI's error body, and ``Retry-After``."""
        headers = dict(reply.headers)
        if reply.retry_after is not None:
            headers["Retry-After"] = f"{reply.retry_after:g}"
        kind = {429: "rate_limit_exceeded", 401: "invalid_api_key"}.get(reply.status)
        body: Any = {"error": {"message": reply.text, "type": "error", "code": kind}}
        for quirk in quirks_of(reply.quirks):
            body = quirk.error(body) if quirk.error else body
        return body, headers

    def _head(self, kind: str, model: str) -> Json:
        return {"id": "chatcmpl-scripted", "object": kind, "created": 0, "model": model}

    def _finish(self, reply: Reply) -> str | None:
        return ("tool_calls" if reply.tool_calls else reply.finish) or None

    def _calls(self, reply: Reply) -> Json:
        calls = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": name, "arguments": arguments_as_text(arguments)},
            }
            for number, (name, arguments) in enumerate(reply.tool_calls)
        ]
        return {"tool_calls": calls} if calls else {}

    def _usage(self, reply: Reply, request: Mapping[str, Any]) -> Json:
        inputs, outputs = reply.tokens(text_of(request))
        return {
            "prompt_tokens": inputs,
            "completion_tokens": outputs,
            "total_tokens": inputs + outputs,
        }


GEMINI_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
GEMINI_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GeminiProtocol:
    """``POST /v1beta/models/NAME:generateContent`` and ``:streamGenerateContent``."""

    def answer(self, reply: Reply, request: Mapping[str, Any], model: str) -> Json:
        """One ``GenerateContentResponse``."""
        parts: list[Json] = [{"text": reply.said}] if reply.said else []
        return self._response(reply, request, model, [*parts, *self._calls(reply)], last=True)

    def stream(self, reply: Reply, request: Mapping[str, Any], model: str) -> list[str]:
        """One response for each word, the reason of the end with the last."""
        groups = [[{"text": piece}] for piece in reply.pieces] or [[]]
        groups[-1] = [*groups[-1], *self._calls(reply)]
        return [
            json.dumps(self._response(reply, request, model, parts, last=number == len(groups)))
            for number, parts in enumerate(groups, 1)
        ]

    def error(self, reply: Reply) -> tuple[Any, dict[str, str]]:
        """Gemini's error body, which has the time to wait in its details."""
        details: list[Json] = []
        if reply.retry_after is not None:
            kind = "type.googleapis.com/google.rpc.RetryInfo"
            details.append({"@type": kind, "retryDelay": f"{reply.retry_after:g}s"})
        error = {
            "code": reply.status,
            "message": reply.text,
            "status": GEMINI_STATUS.get(reply.status, "UNKNOWN"),
            "details": details,
        }
        return {"error": error}, dict(reply.headers)

    def _response(
        self,
        reply: Reply,
        request: Mapping[str, Any],
        model: str,
        parts: list[Json],
        *,
        last: bool,
    ) -> Json:
        candidate: Json = {"index": 0, "content": {"role": "model", "parts": parts}}
        inputs, outputs = reply.tokens(text_of(request))
        if last and reply.finish:
            candidate["finishReason"] = GEMINI_FINISH.get(reply.finish, reply.finish)
        usage = {
            "promptTokenCount": inputs,
            "candidatesTokenCount": outputs if last else 0,
            "totalTokenCount": inputs + (outputs if last else 0),
        }
        known: Json = {"usageMetadata": usage, "modelVersion": model}
        if reply.finish == "blocked":
            return {**known, "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        return {**known, "candidates": [candidate]}

    def _calls(self, reply: Reply) -> list[Json]:
        return [
            {"functionCall": {"name": name, "args": arguments}}
            for name, arguments in reply.tool_calls
        ]
