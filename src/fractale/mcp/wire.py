"""What a transport and the connection above it say to each other.

A fault of one exchange must end that call and nothing else, but the MCP session knows only
answers. So a transport answers the call itself, with a JSON-RPC error that carries a random
token, and keeps the real error under that token in `Faults`. A server can't guess a token, so it
can't pretend that a call was never sent.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp import types
from mcp.shared.message import SessionMessage

from fractale.errors import ToolError
from fractale.settings import ServerSettings

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""The longest message taken from a server, as it is on the wire."""

FAULT_CODE = -32099

Answer: TypeAlias = Callable[[types.JSONRPCMessage], object]
"""Gives a message to a session as if its server had sent it."""

OnLog = Callable[[str, str, str], None]
"""Takes a server's name, a level (MCP's words), and what it said."""

Streams: TypeAlias = tuple[
    ObjectReceiveStream[SessionMessage | Exception], ObjectSendStream[SessionMessage]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A server in this process, reached without a socket.

    Args:
        name: Its name among the servers.
        server: A FastMCP or low-level MCP server, or a function that makes one when it is
            first needed.
    """

    name: str = "local"
    server: Any


AnyServer: TypeAlias = ServerSettings | EmbeddedServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take, in seconds, and how a lost server is tried again.

    Args:
        connect: To open a TCP connection.
        handshake: To start a server and hear its first answer, and for each list of its tools.
        grace: From the beginning, for servers that may not be needed: after it those that are
            there are enough, and what is waited for is told.
        close: For a started server to end by itself once its input is closed.
        terminate: For it to end once it was told to, before it is killed.
        attempts: How often a server that was there before is tried again at the next need.
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


@contextlib.asynccontextmanager
async def answers_beside(
    read: ObjectReceiveStream[SessionMessage | Exception],
) -> AsyncGenerator[tuple[ObjectReceiveStream[SessionMessage | Exception], Answer]]:
    """What comes from a server, and a way to put answers among it.

    An answer never waits for the session to take it: the session may itself be waiting for
    whoever gives the answer.
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


class Faults:
    """Errors on their way through a session, each under a token that no server can guess."""

    def __init__(self) -> None:
        self._errors: dict[str, ToolError] = {}

    def answer(self, request_id: types.RequestId, error: ToolError) -> types.JSONRPCError:
        """The message that makes the session fail this call with `error`."""
        token = secrets.token_hex(16)
        self._errors[token] = error
        data = types.ErrorData(code=FAULT_CODE, message=error.message, data=token)
        return types.JSONRPCError(jsonrpc="2.0", id=request_id, error=data)

    def take(self, data: types.ErrorData) -> ToolError | None:
        """The error that `answer` kept, or None where the server itself sent this one."""
        token = data.data
        return self._errors.pop(token, None) if isinstance(token, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What a transport may tell the connection that uses it.

    Args:
        server: The server's name.
        lose: The session is over; every call under way fails with this error.
        retire: No new call may use this session; those under way may end.
        log: Takes a level and what the server said beside the protocol.
    """

    server: str
    timing: Timing
    lose: Callable[[ToolError], None]
    retire: Callable[[], None]
    log: Callable[[str, str], None]
    faults: Faults = field(default_factory=Faults)


def too_long(server: str, size: int | None) -> ToolError:
    """The error for an answer over `MAX_ANSWER_BYTES`.

    Args:
        server: The server's name.
        size: Its bytes, if they were counted to the end.
    """
    limit = f"the limit of {MAX_ANSWER_BYTES // 1024 // 1024} MiB"
    message = (
        f"server `{server}` gave an answer of {size:,} bytes, which is over {limit}"
        if size is not None
        else f"server `{server}` gave an answer over {limit}"
    )
    return ToolError(message, hint="let the tool write to a file and return its path")
