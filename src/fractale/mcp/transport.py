"""Common parts of the transports: hooks into the connection, limits, and errors of single calls.

An error in one exchange must end only that call, but the MCP session accepts only answers. So a
transport answers the call itself, with a JSON-RPC error that has a random token. It keeps the real
error under that token in `Faults`. A server cannot guess a token, so it cannot pretend that a call
was never sent.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp import types
from mcp.shared.message import SessionMessage

from fractale.errors import ToolError
from fractale.settings import ServerSettings

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""The longest message accepted from a server, in bytes on the wire."""

MAX_OWN_ANSWER_BYTES = 256 * 1024 * 1024
"""The longest text accepted from a function of this process."""

FAULT_CODE = -32099

Answer: TypeAlias = Callable[[types.JSONRPCMessage], object]
"""Passes a message to a session as if its server had sent it."""

OnLog = Callable[[str, str, str], None]
"""Called with a server's name, a level (one of MCP's), and the message."""

Streams: TypeAlias = tuple[
    ObjectReceiveStream[SessionMessage | Exception], ObjectSendStream[SessionMessage]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A server in this process, whose handlers are called directly (`fractale.mcp.embedded`).

    Args:
        name: Its name among the servers.
        server: A FastMCP or low-level MCP server, or a function that makes one when it is
            first needed.
        objects: Name of a tool → its function or class, and the directory of the registry file
            that names it: its code can be compared.
        environment: The variables that its tools may read, as far as they matter.
    """

    name: str = "local"
    server: Any
    objects: Mapping[str, tuple[Any, Path | None]] = field(
        default_factory=dict[str, "tuple[Any, Path | None]"], repr=False
    )
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


AnyServer: TypeAlias = ServerSettings | EmbeddedServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Time limits, in seconds, and how a lost server is tried again.

    Args:
        connect: To open a TCP connection.
        handshake: To start a server and get its first answer, and for each list of its tools.
        grace: From the beginning, for servers that may not be needed. After it, the connected
            servers are enough, and the log lists the missing ones.
        close: For a started server to end after its input is closed.
        terminate: For it to end after the signal to terminate, before it is killed.
        attempts: How often a server that was connected before is tried again when it is needed.
        first_delay: After the first failed attempt; doubles with each further one.
        max_delay: The longest pause between attempts.
    """

    connect: float = 10.0
    handshake: float = 60.0
    grace: float = 5.0
    close: float = 1.0
    terminate: float = 2.0
    attempts: int = 6
    first_delay: float = 0.2
    max_delay: float = 10.0


class Faults:
    """Errors on their way through a session, each under a token that servers cannot guess."""

    def __init__(self) -> None:
        self._errors: dict[str, ToolError] = {}

    def answer(self, request_id: types.RequestId, error: ToolError) -> types.JSONRPCError:
        """The message that makes the session fail this call with `error`."""
        token = secrets.token_hex(16)
        self._errors[token] = error
        data = types.ErrorData(code=FAULT_CODE, message=error.message, data=token)
        return types.JSONRPCError(jsonrpc="2.0", id=request_id, error=data)

    def take(self, data: types.ErrorData) -> ToolError | None:
        """The error that `answer` kept, or None if the server itself sent this one."""
        token = data.data
        return self._errors.pop(token, None) if isinstance(token, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportHooks:
    """The functions of a connection that its transport may call.

    Args:
        server: The server's name.
        lose: The session is over; every call in progress fails with this error.
        retire: New calls cannot use this session; those in progress may end.
        log: Called with a level and the server's output outside the protocol.
    """

    server: str
    timing: Timing
    lose: Callable[[ToolError], None]
    retire: Callable[[], None]
    log: Callable[[str, str], None]
    faults: Faults = field(default_factory=Faults)


def too_long(server: str, size: int | None, most: int = MAX_ANSWER_BYTES) -> ToolError:
    """The error for an answer that is too long.

    Args:
        server: The server's name.
        size: Its bytes, if they were counted to the end.
        most: The limit in bytes.
    """
    limit = f"the limit of {most // 1024 // 1024} MiB"
    message = (
        f"server `{server}` gave an answer of {size:,} bytes, which is over {limit}"
        if size is not None
        else f"server `{server}` gave an answer over {limit}"
    )
    return ToolError(message, hint="let the tool write to a file and return its path")


LOGGERS = ("mcp.client.streamable_http", "mcp.server.streamable_http")


def quiet_departures() -> None:
    """Suppress errors in the MCP library's log if the other side only left.

    A client that ends its session, or a cancelled call, closes a stream that the library still
    writes to. The library logs a traceback, which a user would mistake for an error.
    """
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_says_more)


def _says_more(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (anyio.ClosedResourceError, anyio.BrokenResourceError))
