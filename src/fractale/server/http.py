"""Serving over HTTP, behind three gates.

Every request passes its Host header (against DNS rebinding), its Origin (against web pages) and
the bearer token; ``/health`` needs no token. `bounds` says how much of the server anybody may use.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from functools import partial
from importlib.metadata import version
from typing import Any, Final, cast

import uvicorn
from fastmcp import FastMCP
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fractale.errors import UsageError
from fractale.mcp.logs import quiet_departures
from fractale.server.bounds import (
    ACCEPTED_AT_ONCE,
    QUEUE,
    Connections,
    Handshake,
    HostGate,
    JsonGate,
    bound_sessions,
    protocol_of,
    quiet_log,
)
from fractale.server.options import HEALTH, Options

_GRACE: Final = 1
"""Seconds that answers under way may take once the server was told to stop."""

OnReady = Callable[[str], None]


async def serve_http(
    build: Callable[[], FastMCP[Any]], options: Options, on_ready: OnReady | None = None
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        build: Makes the server; called once the address is known to be free.
        on_ready: Takes the URL once connections are taken.

    Raises:
        UsageError: The port is taken, the address is none of this machine's, a bad certificate.
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
        UsageError: The port is taken, or the address is none of this machine's.
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


def http_app(mcp: FastMCP[Any], options: Options) -> ASGIApp:
    """The MCP endpoint and ``/health`` behind the gates, as an ASGI app."""

    async def health(_: Any) -> JSONResponse:
        tools = len(await mcp.list_tools())
        return JSONResponse(
            {"status": "ok", "name": mcp.name, "version": version("fractale"), "tools": tools}
        )

    mcp.custom_route(HEALTH, methods=["GET"])(health)
    # Under which names others reach this machine isn't known here. They have the token, and a
    # page whose host name was bound to this address hasn't.
    any_host = () if options.is_local else ("*",)
    return mcp.http_app(
        path=options.path,
        transport="sse" if options.transport == "sse" else "http",
        middleware=[
            Middleware(HostGate),
            *([Middleware(BearerGate, token=options.token)] if options.token else []),
            Middleware(JsonGate),
        ],
        json_response=False,
        stateless_http=False,
        host_origin_protection=True,
        allowed_hosts=[options.host, *(options.allowed_hosts or any_host)],
        allowed_origins=list(options.allowed_origins),
    )


class BearerGate:
    """Lets a request pass that carries the token; ``/health`` passes without.

    Args:
        app: What is behind the gate.
        token: The token; compared in constant time.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or hand the request on."""
        if scope["type"] != "http" or scope["path"] == HEALTH or self._admits(scope):
            await self._app(scope, receive, send)
            return
        error = {"error": "unauthorized", "message": "send `Authorization: Bearer TOKEN`"}
        challenge = {"WWW-Authenticate": 'Bearer realm="fractale"'}
        await JSONResponse(error, status_code=401, headers=challenge)(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = [value for key, value in scope["headers"] if key == b"authorization"]
        scheme, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        return hmac.compare_digest(token.strip(), self._expected) and scheme.lower() == b"bearer"


class Server(uvicorn.Server):
    """Says when it takes connections, and ends by returning.

    Args:
        ready: Called once connections are taken.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)
        bound_sessions(self.config.app)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: answers under way get a moment, then what is still open is cut."""
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


def _config(app: ASGIApp, options: Options) -> uvicorn.Config:
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
