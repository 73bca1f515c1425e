"""Serving over HTTP: streamable HTTP or SSE, and ``/health``.

`gates` decides which requests reach the endpoint; `bounds` limits what clients may use up.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Final, cast

import uvicorn
from mcp import types
from mcp.server.lowlevel import Server as MCPServer
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fractale.errors import UsageError
from fractale.mcp.transport import quiet_departures
from fractale.server.bounds import (
    ACCEPTED_AT_ONCE,
    IDLE_SECONDS,
    MOST_SESSIONS,
    QUEUE,
    Connections,
    Handshake,
    protocol_of,
    quiet_log,
)
from fractale.server.gates import BearerGate, HostGate, JsonGate
from fractale.server.options import HEALTH, ServeOptions

_GRACE: Final = 1
"""Seconds that answers in progress may take after the signal to stop."""

_SSE_MESSAGES: Final = "/messages/"

OnReady = Callable[[str], None]


async def serve_http(
    build: Callable[[], MCPServer[Any]], options: ServeOptions, on_ready: OnReady | None = None
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        build: Makes the server. Called once the address is known to be free.
        on_ready: Called with the URL once connections are accepted.

    Raises:
        UsageError: The port is in use, the address is not of this machine, a bad certificate.
    """
    quiet_departures()
    quiet_log()
    with _listen(options.host, options.port) as listener:
        url = options.url(listener.getsockname()[1])
        config = _config(http_app(build(), options), options)
        await Server(config, lambda: on_ready(url) if on_ready else None).serve([listener])


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        UsageError: The port is in use, or the address is not of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # of two servers that bound one port, the second fails only here
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} of {host} is in use",
            hint="end the other server, choose another `--port`, or `--port 0` for a free one",
        )
    return UsageError(f"cannot listen on {host}, port {port}: {error.strerror or error}")


def http_app(
    mcp: MCPServer[Any], options: ServeOptions, most_sessions: int = MOST_SESSIONS
) -> Starlette:
    """The MCP endpoint and ``/health`` behind the gates, as an ASGI app.

    Args:
        mcp: The server. Every session of every client uses it.
        most_sessions: Sessions over streamable HTTP that may be open at a time.
    """

    async def health(_: Request) -> JSONResponse:
        listed = await mcp.request_handlers[types.ListToolsRequest](types.ListToolsRequest())
        tools = len(cast("types.ListToolsResult", listed.root).tools)
        return JSONResponse(
            {"status": "ok", "name": mcp.name, "version": version("fractale"), "tools": tools}
        )

    endpoint = _sse(mcp, options.path) if options.transport == "sse" else None
    endpoint = endpoint or _streamable(mcp, options.path, most_sessions)
    # The names by which other machines reach this one are unknown here. Their clients have the
    # token; a web page whose host name was bound to this address does not have it.
    any_host = () if options.is_local else ("*",)
    return Starlette(
        routes=[*endpoint.routes, Route(HEALTH, health, methods=["GET"])],
        lifespan=endpoint.lifespan,
        middleware=[
            Middleware(
                HostGate,
                hosts=[options.host, *(options.allowed_hosts or any_host)],
                origins=options.allowed_origins,
            ),
            *([Middleware(BearerGate, token=options.token)] if options.token else []),
            Middleware(JsonGate),
        ],
    )


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Routes of the MCP endpoint, and what the app has to enter while it runs."""

    routes: Sequence[Route | Mount]
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None


def _streamable(mcp: MCPServer[Any], path: str, most_sessions: int) -> _Endpoint:
    manager = StreamableHTTPSessionManager(
        mcp, session_idle_timeout=IDLE_SECONDS, max_sessions=most_sessions
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        sessions: Any = manager
        async with manager.run():
            try:
                yield
            finally:  # end the streams in order: cancelling the manager would cut them mid-answer
                for transport in [*sessions._server_instances.values()]:
                    with contextlib.suppress(Exception):
                        await transport.terminate()

    # A `Route` passes a request to an object as it is, but wraps functions and methods.
    return _Endpoint([Route(path, _Asgi(manager.handle_request))], lifespan)


def _sse(mcp: MCPServer[Any], path: str) -> _Endpoint:
    transport = SseServerTransport(_SSE_MESSAGES)

    async def connect(scope: Scope, receive: Receive, send: Send) -> None:
        async with transport.connect_sse(scope, receive, send) as (read, write):
            await mcp.run(read, write, mcp.create_initialization_options())

    messages = Mount(_SSE_MESSAGES, app=transport.handle_post_message)
    return _Endpoint([Route(path, _Asgi(connect), methods=["GET"]), messages])


@dataclass(frozen=True, slots=True)
class _Asgi:
    """An ASGI app as an object."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Server(uvicorn.Server):
    """Reports when it accepts connections, and ends by returning.

    Args:
        ready: Called once connections are accepted.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: answers in progress get a moment, then open connections are closed."""
        # Every client holds a stream open that only ends so: for uvicorn that is an error.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop on SIGINT and SIGTERM. Uvicorn's own would raise them again, and die of it."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _config(app: ASGIApp, options: ServeOptions) -> uvicorn.Config:
    """Uvicorn's settings.

    Raises:
        UsageError: The certificate can't be used.
    """
    taken = Connections()
    protocol = protocol_of(taken)
    config = uvicorn.Config(
        app,
        http=protocol,
        backlog=ACCEPTED_AT_ONCE,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        ssl_keyfile=options.ssl_keyfile,
        ssl_certfile=options.ssl_certfile,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        message = f"the certificate {options.ssl_certfile} can't be used: {error}"
        raise UsageError(
            message, hint="both files are PEM, and the key has no pass phrase"
        ) from error
    if config.ssl:
        made = partial(Handshake, taken, config.ssl, protocol)
        config.http_protocol_class = cast("Any", made)
        config.ssl = None  # asyncio itself would take the connections, and not count them
    return config
