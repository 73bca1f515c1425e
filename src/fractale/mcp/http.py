"""A server reached over HTTP: the library's transports on a client that contains errors.

The library's streamable HTTP transport ends the whole session when one request fails. It waits
forever if a response breaks off or is not JSON. `GuardedClient` is below it and answers each failed
exchange itself, so that an error fails one call only.

The library follows redirects within the server's origin. A redirect elsewhere is refused here, and
no request goes there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import anyio
import httpx
from anyio.abc import ObjectReceiveStream
from mcp import types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.shared.version import SUPPORTED_PROTOCOL_VERSIONS

from fractale.errors import ToolError, TransportError
from fractale.mcp.transport import MAX_ANSWER_BYTES, Answer, Streams, TransportHooks, too_long
from fractale.settings import ServerSettings, shown_url
from fractale.text import clip

LOOPBACK = ("localhost", "127.0.0.1", "::1")
JSON_HEADERS = {"content-type": "application/json"}
EVENT_HEADERS = {"content-type": "text/event-stream"}
NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
SESSION_HEADER = "mcp-session-id"
SERVER_ERROR = -32000
"""JSON-RPC's first code for a server's own errors."""
SESSION_IS_OVER = ("session", "not initialized")
UNSUPPORTED_PROTOCOL = -32022
"""MCP 2026-07-28: the server supports none of the client's versions."""
OLDEST_PROTOCOL = SUPPORTED_PROTOCOL_VERSIONS[0]
MOST_ERROR_BYTES = 64 * 1024
LONGEST_REASON = 500
SIDE_SECONDS = 5.0
"""Timeout in seconds of messages that no call waits for: notifications, end of a session."""


@contextlib.asynccontextmanager
async def http_streams(settings: ServerSettings, hooks: TransportHooks) -> AsyncGenerator[Streams]:
    """Carry messages over streamable HTTP, or over the older SSE, until the block ends.

    Raises:
        ToolError: The certificates cannot be read, or the server refused.
        TransportError: The server cannot be reached.
    """
    client = GuardedClient(settings, hooks)
    url = settings.url or ""
    if settings.transport == "sse":

        def factory(
            headers: dict[str, str] | None = None,
            timeout: httpx.Timeout | None = None,
            auth: httpx.Auth | None = None,
        ) -> httpx.AsyncClient:
            return client

        async with (
            sse_client(url, httpx_client_factory=factory) as (read, write),
            answers_beside(read) as (both, client.answer),
        ):
            yield both, write
    else:
        async with client, streamable_http_client(url, http_client=client) as (read, write, _):
            yield read, write


class GuardedClient(httpx.AsyncClient):
    """An HTTP client for one server that answers failed calls instead of the server.

    Attributes:
        answer: Gives an answer to the session if answers do not come with the response.
    """

    def __init__(self, settings: ServerSettings, hooks: TransportHooks) -> None:
        self._hooks = hooks
        self._settings = settings
        self._is_sse = settings.transport == "sse"
        self._last_event: dict[types.RequestId, str] = {}
        self.answer: Answer | None = None
        super().__init__(
            headers=_headers(settings),
            verify=_verify(settings),
            # A slow tool is not a hung one: only connecting has a timeout.
            timeout=httpx.Timeout(None, connect=hooks.timing.connect),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=3.0),
            # Use the environment's proxies, but never for a server on this machine.
            trust_env=httpx.URL(settings.url or "").host not in LOOPBACK,
            follow_redirects=False,
        )

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request of the MCP transport and contain its errors.

        Raises:
            ToolError: The stream of an SSE server cannot be opened.
            httpx.HTTPError: Only for the stream of notifications, which the library reopens.
        """
        await request.aread()  # a request that follows a redirect has not been read
        request_id = self._awaited_by(request)
        if request_id is None and request.method != "GET":
            return await self._send_aside(request, options)
        try:
            response = await super().send(request, **options)
        except httpx.TransportError as error:
            if request_id is None and not self._is_sse:
                raise
            return self._fail(request, request_id, self._fault_of_transport(error))
        is_awaited = request_id is not None or self._is_sse
        said = await _rpc_error(response) if is_awaited and response.is_error else None
        if error := self._fault_of_status(response, said):
            if is_awaited:
                await response.aclose()
                return self._fail(request, request_id, error)
            return response
        return await self._guard_body(request, request_id, response)

    async def _send_aside(self, request: httpx.Request, options: dict[str, Any]) -> httpx.Response:
        request.extensions["timeout"] = dict.fromkeys(
            ("connect", "read", "write", "pool"), SIDE_SECONDS
        )
        try:
            response = await super().send(request, **options)
        except httpx.TransportError:
            response = httpx.Response(202, request=request)
        if request.method == "DELETE" or self._fault_of_status(response, None):
            # No call waits for this one, and the library would end the session over it.
            await response.aclose()
            return httpx.Response(204 if request.method == "DELETE" else 202, request=request)
        return response

    def _awaited_by(self, request: httpx.Request) -> types.RequestId | None:
        """The call that waits for this request's response, if one does."""
        if request.method == "GET":
            wanted = request.headers.get("last-event-id")
            calls = (call for call, event in self._last_event.items() if event == wanted)
            return next(calls, None) if wanted else None
        if request.method != "POST":
            return None
        message: dict[str, Any] = json.loads(request.content)
        return message.get("id") if "method" in message else None

    async def _guard_body(
        self, request: httpx.Request, request_id: types.RequestId | None, response: httpx.Response
    ) -> httpx.Response:
        """Make sure that a response's body ends with an answer to the call, or with an error."""
        kind = response.headers.get("content-type", "").lower()
        if response.is_redirect or (self._is_sse and request.method == "POST"):
            return response  # over SSE, the answer comes on the stream that the GET opened
        if kind.startswith("text/event-stream"):
            stream = cast("httpx.AsyncByteStream", response.stream)
            waiting = "everyone" if self._is_sse else request_id
            response.stream = EventStream(stream, self._hooks, waiting, self._last_event)
            return response
        if request_id is None:
            return response
        if kind.startswith("application/json"):
            return await self._read_json(request, request_id, response)
        await response.aclose()
        error = TransportError(
            f"server `{self._hooks.server}` answered with `{kind or 'nothing'}`, which is not MCP",
            sent=True,
            hint="does its `url` name the MCP endpoint? often that ends in /mcp",
        )
        return self._fail(request, request_id, error)

    async def _read_json(
        self, request: httpx.Request, request_id: types.RequestId, response: httpx.Response
    ) -> httpx.Response:
        body = bytearray()
        try:
            async with contextlib.aclosing(response):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        length = response.headers.get("content-length", "")
                        size = int(length) if length.isdigit() else None
                        return self._fail(request, request_id, too_long(self._hooks.server, size))
            types.JSONRPCMessage.model_validate_json(bytes(body))
        except (httpx.TransportError, httpx.DecodingError) as error:
            return self._fail(request, request_id, self._fault_of_transport(error))
        except ValueError:
            error = TransportError(
                f"server `{self._hooks.server}` sent a message that is broken", sent=True
            )
            return self._fail(request, request_id, error)
        headers = {
            k: v for k, v in response.headers.items() if k.startswith(("mcp-", "content-ty"))
        }
        return httpx.Response(200, headers=headers, content=bytes(body), request=request)

    def _fail(
        self, request: httpx.Request, request_id: types.RequestId | None, error: ToolError
    ) -> httpx.Response:
        """Answer this call with `error`, and no other call: those may still succeed."""
        if request.method == "GET" and request_id is not None:
            # It asks for the rest of an answer: whatever the error, the call itself was sent.
            text = f"server `{self._hooks.server}` was lost before it answered: {error.message}"
            error = TransportError(text, sent=True)
            self._last_event.pop(request_id, None)
        if self._is_sse and request.method == "GET":
            raise error
        if request_id is None:
            return httpx.Response(202, request=request)
        answer = self._hooks.faults.answer(request_id, error)
        if self.answer is not None:
            self.answer(types.JSONRPCMessage(answer))
            return httpx.Response(202, request=request)
        message = answer.model_dump_json(exclude_none=True)
        if request.method == "GET":
            text = f"event: message\ndata: {message}\n\n"
            return httpx.Response(200, headers=EVENT_HEADERS, content=text, request=request)
        return httpx.Response(200, headers=JSON_HEADERS, content=message, request=request)

    def _fault_of_transport(self, error: httpx.HTTPError) -> TransportError:
        name, url = self._hooks.server, shown_url(self._settings.url or "")
        if isinstance(error, NEVER_SENT):
            self._hooks.retire()
            return TransportError(
                f"server `{name}` cannot be reached at {url}: {error or type(error).__name__}",
                hint=f"is it running? its `url` is set in {self._where}",
            )
        cause = str(error) or type(error).__name__
        return TransportError(f"server `{name}` broke off during the call: {cause}", sent=True)

    @property
    def _where(self) -> str:
        return self._settings.origin or "the settings"

    def _fault_of_status(
        self, response: httpx.Response, said: types.ErrorData | None
    ) -> ToolError | None:
        """The error in a response that is not an answer, or None.

        Args:
            said: The JSON-RPC error in its body.
        """
        if response.is_redirect:
            return self._fault_of_redirect(response)
        code, name = response.status_code, self._hooks.server
        if code < 400:
            return None
        status = f"(HTTP {code})" + (f": {said.message}" if said and said.message else "")
        if code in (401, 403):
            verb = (
                "refused the token"
                if "authorization" in response.request.headers
                else "wants a token"
            )
            return ToolError(
                f"server `{name}` {verb} {status}",
                hint=f"set `token_env` of server `{name}` in {self._where}",
            )
        if self._is_forgotten(response, said):
            # The protocol's way to say "start a new session": the message was not handled.
            self._hooks.retire()
            return TransportError(f"server `{name}` no longer knows the session {status}")
        if code == 404:
            return TransportError(
                f"server `{name}` has nothing at {shown_url(self._settings.url or '')} {status}",
                hint=f"check its `url` in {self._where}; often it ends in /mcp",
            )
        if said and said.code == UNSUPPORTED_PROTOCOL:
            return ToolError(
                f"server `{name}` does not speak a protocol version that fractale speaks "
                f"({OLDEST_PROTOCOL} to {types.LATEST_PROTOCOL_VERSION}) {status}"
            )
        if code == 429 or code >= 500:
            return TransportError(f"server `{name}` answered {status}", sent=code != 429)
        return ToolError(f"server `{name}` refused the request {status}")

    def _is_forgotten(self, response: httpx.Response, said: types.ErrorData | None) -> bool:
        """Whether the server does not know the request's session, or that of the SSE stream.

        MCP prescribes 404. Servers made after the TypeScript SDK's examples answer 400 with -32000
        and a text about the session, or about a session that was not opened.
        """
        request = response.request
        if request.method != "POST" or not (self._is_sse or SESSION_HEADER in request.headers):
            return False
        if response.status_code == 404:
            return True
        return (
            response.status_code == 400
            and said is not None
            and said.code == SERVER_ERROR
            and any(words in said.message.lower() for words in SESSION_IS_OVER)
        )

    def _fault_of_redirect(self, response: httpx.Response) -> ToolError | None:
        """The error of a redirect; None within the origin, since the library follows it."""
        sent, following = response.request, response.next_request
        if (
            following is not None
            and following.method == sent.method
            and _same_origin(sent.url, following.url)
        ):
            return None
        target = shown_url(str(following.url)) if following is not None else "nowhere"
        return ToolError(
            f"server `{self._hooks.server}` redirects to {target}, which was not followed",
            hint=f"if that is the server you mean, set it as its `url` in {self._where}",
        )


async def _rpc_error(response: httpx.Response) -> types.ErrorData | None:
    """The JSON-RPC error in the body of a response that refuses; None if there is none."""
    body = bytearray()
    try:
        async with asyncio.timeout(SIDE_SECONDS):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_ERROR_BYTES:
                    return None
        error = json.loads(body)["error"]
        return types.ErrorData(
            code=error["code"], message=clip(str(error["message"]), LONGEST_REASON)
        )
    except (httpx.HTTPError, TimeoutError, ValueError, LookupError, TypeError):
        return None


def _same_origin(url: httpx.URL, target: httpx.URL) -> bool:
    return (url.scheme, url.host, url.port, url.userinfo) == (
        target.scheme,
        target.host,
        target.port,
        target.userinfo,
    )


def _headers(settings: ServerSettings) -> dict[str, str]:
    # The size of a compressed answer is unknown until it is unpacked.
    headers = {"accept-encoding": "identity", **settings.headers}
    if settings.token:
        headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
        headers["Authorization"] = f"Bearer {settings.token}"
    return headers


def _verify(settings: ServerSettings) -> ssl.SSLContext | bool:
    if not settings.verify or not settings.ca_file:
        return settings.verify
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ToolError(
            f"server `{settings.name}`: cannot read certificates from {settings.ca_file}: {error}",
            hint=f"check its `ca_file` in {settings.origin or 'the settings'}",
        ) from error


END_OF_EVENT = re.compile(rb"\r?\n\r?\n|\r\r")
LONGEST_END = 4


class EventStream(httpx.AsyncByteStream):
    """Passes events on and adds an error if the stream ends without the call's answer.

    Args:
        inner: The bytes as the server sends them.
        hooks: Keep the error.
        call: The call whose answer is awaited here; ``everyone`` if all answers come here, so that
            the end of the stream is the end of the session; None for a stream of notifications,
            which the library opens again.
        last_event: For each call, the ID of the last event that had one. The library asks for the
            rest of such a stream again, so its end is not an error.
    """

    def __init__(
        self,
        inner: httpx.AsyncByteStream,
        hooks: TransportHooks,
        call: types.RequestId | None,
        last_event: dict[types.RequestId, str],
    ) -> None:
        self._inner = inner
        self._hooks = hooks
        self._shared = call == "everyone"
        self._call = None if self._shared else call
        self._last_event = last_event
        self._answered = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Whole events; the last one is an error if the call was not answered."""
        name = self._hooks.server
        error: ToolError = TransportError(f"server `{name}` was lost before it answered", sent=True)
        try:
            async for event in self._events():
                self._inspect(event)
                yield event
        except ToolError as found:
            error = found
            self._last_event.pop(self._call or "", None)
        except httpx.TransportError:
            pass  # a broken stream is treated like any other end
        if self._shared:
            self._hooks.lose(error)
        elif self._call is not None and not self._answered and self._call not in self._last_event:
            message = self._hooks.faults.answer(self._call, error).model_dump_json(
                exclude_none=True
            )
            yield f"event: message\ndata: {message}\n\n".encode()

    async def _events(self) -> AsyncIterator[bytes]:
        buffer, searched = bytearray(), 0
        async for chunk in self._inner:
            buffer += chunk
            while end := END_OF_EVENT.search(buffer, searched):
                yield bytes(buffer[: end.end()])
                del buffer[: end.end()]
                searched = 0
            searched = max(0, len(buffer) - LONGEST_END)
            if len(buffer) > MAX_ANSWER_BYTES:
                raise too_long(self._hooks.server, None)
        if buffer:
            yield bytes(buffer) + b"\n\n"

    def _inspect(self, event: bytes) -> None:
        """Read the meaning of an event for the call.

        Raises:
            TransportError: It has a message that is not JSON.
            ToolError: It is too long.
        """
        if len(event) > MAX_ANSWER_BYTES:
            raise too_long(self._hooks.server, len(event))
        if self._call is None:
            return
        lines = event.splitlines()
        data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
        message = self._parse(data) if data else {}
        if message.get("id") == self._call and ("result" in message or "error" in message):
            self._answered = True
            self._last_event.pop(self._call, None)
        for line in lines if not self._answered else []:
            if line.startswith(b"id:") and line[3:].strip():
                self._last_event[self._call] = line[3:].strip().decode(errors="replace")

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            message: Any = json.loads(data)
        except ValueError:
            message = None
        if isinstance(message, dict):
            return cast("dict[str, Any]", message)
        raise TransportError(
            f"server `{self._hooks.server}` sent a message that is broken", sent=True
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


@contextlib.asynccontextmanager
async def answers_beside(
    read: ObjectReceiveStream[SessionMessage | Exception],
) -> AsyncGenerator[tuple[ObjectReceiveStream[SessionMessage | Exception], Answer]]:
    """The messages of a server, and a way to add answers to them.

    Adding an answer never waits for the session, because the session may itself be waiting for the
    caller.
    """
    incoming, both = anyio.create_memory_object_stream[SessionMessage | Exception](0)

    async def hand_on(item: SessionMessage | Exception) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await incoming.send(item)

    async def hand_all_on() -> None:
        async with incoming:
            async for item in read:
                await hand_on(item)

    async with anyio.create_task_group() as group, incoming, both:
        group.start_soon(hand_all_on)
        yield both, lambda message: group.start_soon(hand_on, SessionMessage(message))
        group.cancel_scope.cancel()
