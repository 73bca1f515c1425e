"""A model's server without a model, for tests: real HTTP on this machine, scripted answers.

It speaks OpenAI's and Gemini's protocols, streaming, tools and structured output included, and
every error that a real server shows::

    with ModelServer([Reply(status=429, retry_after=2), "Hello"]) as server:
        settings = Settings(
            model="openai:any", openai_api_key="x", openai_base_url=server.openai_url
        )
        ...
    assert [request.body["messages"] for request in server.requests] == ...

`ScriptedModel` (in `fractale.testing`) accepts the same script without HTTP.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from fractale.testing.loopback import LoopbackHandler, LoopbackServer
from fractale.testing.protocols import GeminiProtocol, ModelProtocol, OpenAIProtocol
from fractale.testing.quirks import quirks_of, refusal_of_tools, with_quirks_of_text
from fractale.testing.replies import Reply, ReplyScript, ScriptEnded

__all__ = ["ModelRequest", "ModelServer", "Reply"]

GEMINI_PATH = re.compile(r"/v1(?:beta|alpha)?/models/(?P<model>[^/:]+):(?P<verb>\w+)")
OPENAI_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One request as it arrived.

    Args:
        model: The model's name in the request.
        streaming: Whether the answer should come piece by piece.
        body: The request's JSON.
        key: The key that was sent with it.
    """

    protocol: Literal["openai", "gemini"]
    model: str
    streaming: bool
    body: Mapping[str, Any]
    key: str


class ModelServer:
    """A scripted server of models on a free port of the loopback interface.

    Args:
        script: Replies in their order (text for a plain answer), or a function that makes one from
            a `ModelRequest`. After the last reply, it answers 500 with a message that says so.
        quirks: The changes that it makes to every reply: names of `fractale.testing.quirks`.
        strict: Whether it refuses tools that OpenAI refuses.

    Attributes:
        requests: Every request in the order of arrival.
    """

    def __init__(
        self,
        script: Iterable[Reply | str] | Callable[[ModelRequest], Reply | str],
        *,
        quirks: Sequence[str] = (),
        strict: bool = False,
    ) -> None:
        quirks_of(quirks)
        self._quirks = tuple(quirks)
        self._strict = strict
        self.requests: list[ModelRequest] = []
        self._script: ReplyScript[ModelRequest] = ReplyScript(script)
        self._stopping = threading.Event()
        self._http: LoopbackServer[ModelServer] | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        if self._http is None:
            raise RuntimeError("the model server is not started: use it in a `with` block")
        return self._http.url

    @property
    def openai_url(self) -> str:
        """For OPENAI_BASE_URL."""
        return f"{self.url}/v1"

    @property
    def gemini_url(self) -> str:
        """For GEMINI_BASE_URL."""
        return self.url

    def start(self) -> Self:
        """Listen, in a separate thread."""
        self._stopping.clear()
        self._http = LoopbackServer(self, _Handler).start()
        return self

    def stop(self) -> None:
        """Stop listening; answers that are delayed are dropped."""
        self._stopping.set()
        if self._http is not None:
            self._http.close()
            self._http = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def reply_to(self, request: ModelRequest) -> Reply:
        """Record the request and return the script's next reply, after its delay."""
        self.requests.append(request)
        tools = request.body.get("tools") if self._strict else None
        if tools and (refusal := refusal_of_tools(tools)):
            return Reply(status=400, text=refusal)
        try:
            reply = self._script.next(request)
        except ScriptEnded as end:
            return Reply(status=500, text=str(end))
        reply = with_quirks_of_text(replace(reply, quirks=(*reply.quirks, *self._quirks)))
        if reply.delay:
            self._stopping.wait(reply.delay)
        return reply


class _Handler(LoopbackHandler):
    server: LoopbackServer[ModelServer]  # pyright: ignore[reportIncompatibleVariableOverride] - always ours

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        """Answer one request by the script."""
        body = self.read_json()
        path = urlsplit(self.path).path
        if path == OPENAI_PATH:
            self._answer(OpenAIProtocol(), self._openai_request(body))
        elif found := GEMINI_PATH.fullmatch(path):
            self._answer(GeminiProtocol(), self._gemini_request(body, found))
        else:
            self.send_json(404, {"error": {"message": f"the scripted server has no {path}"}})

    def _openai_request(self, body: dict[str, Any]) -> ModelRequest:
        return ModelRequest(
            protocol="openai",
            model=str(body.get("model")),
            streaming=bool(body.get("stream")),
            body=body,
            key=self.headers.get("Authorization", "").removeprefix("Bearer "),
        )

    def _gemini_request(self, body: dict[str, Any], found: re.Match[str]) -> ModelRequest:
        return ModelRequest(
            protocol="gemini",
            model=found["model"],
            streaming=found["verb"].startswith("stream"),
            body=body,
            key=self.headers.get("x-goog-api-key", ""),
        )

    def _answer(self, protocol: ModelProtocol, request: ModelRequest) -> None:
        reply = self.server.owner.reply_to(request)
        if reply.status != 200:
            body, headers = protocol.error(reply)
            self.send_json(reply.status, body, headers)
        elif request.streaming and not any(quirk.one_body for quirk in quirks_of(reply.quirks)):
            self._stream(reply, protocol.stream(reply, request.body, request.model))
        else:
            self._whole(reply, protocol.answer(reply, request.body, request.model))

    def _whole(self, reply: Reply, body: Any) -> None:
        content = json.dumps(body).encode()
        if reply.malformed:
            self.send_content(200, content[: len(content) // 2])
        elif reply.truncate:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.send_content(200, content)

    def _stream(self, reply: Reply, events: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._faulty(reply, events):
            content = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
            self.wfile.flush()
        if reply.truncate:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _faulty(self, reply: Reply, events: list[str]) -> Iterator[str]:
        middle = max(1, len(events) // 2)
        if reply.truncate:
            yield from events[:middle]
        elif reply.malformed:
            yield from events[:middle]
            yield events[middle][: len(events[middle]) // 2]
            yield from events[middle + 1 :]
        else:
            yield from events
