"""Limits on what clients may use up, with or without the token.

- Connections: as many as the process may open files. The head of a request has `HEAD_SECONDS` to
  arrive, its body `BODY_SECONDS`. If all connections are in use, a new one replaces the one that
  has been idle for longest.
- Sessions: `MOST_SESSIONS`; a session ends after `IDLE_SECONDS` without a request.
- The log: of records that differ only in their values, one per `LOG_SECONDS`.

`gates` limits the requests themselves.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS: Final = 10.0
BODY_SECONDS: Final = 60.0
MOST_SESSIONS: Final = 500
IDLE_SECONDS: Final = 600.0
MOST_DEPTH: Final = 200
LOG_SECONDS: Final = 10.0

MOST_CONNECTIONS: Final = 1000
KEPT_FILES: Final = 56
"""Files kept for tools, and for connections that were just accepted."""

ACCEPTED_AT_ONCE: Final = 16
"""Connections accepted before existing ones are examined. asyncio also sets the length of the
kernel's queue to it; the server sets that to `QUEUE` afterwards."""

QUEUE: Final = 1024

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of a request's body that is looked at; the MCP library refuses longer ones."""

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def connections() -> int:
    """The most connections that a server in this process may have at a time."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    try:
        used = sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        used = KEPT_FILES // 2
    return max(8, min(MOST_CONNECTIONS, files - used - KEPT_FILES))


@dataclass(slots=True)
class Connections:
    """The open connections of one server, the oldest first."""

    most: int = field(default_factory=connections)
    open: dict[Any, None] = field(default_factory=dict[Any, None])

    def add(self, made: Any) -> None:
        """Add a connection; if there are too many, close the oldest idle one, or else this one."""
        self.open[made] = None
        if len(self.open) > self.most:
            others = (each for each in self.open if each is not made and each.is_idle)
            next(others, made).cut()


class BoundedProtocol(cast("Any", AutoHTTPProtocol)):
    """Uvicorn's protocol with time limits for what a client sends.

    Attributes:
        taken: The connections of the server.
    """

    taken: Connections
    _late: asyncio.TimerHandle | None = None
    _waits_for = ""
    _answers: Any = None

    @property
    def is_idle(self) -> bool:
        """Whether none of its requests is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def cut(self) -> None:
        """Close the connection at once."""
        self.taken.open.pop(self, None)
        self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Take the connection in."""
        super().connection_made(transport)
        self._expect()
        self.taken.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.taken.open.pop(self, None)
        if self._late:
            self._late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        super().data_received(data)
        self._expect()

    def _expect(self) -> None:
        """Set a time limit for what the client must send next, unless there is one."""
        reads_body = not self.is_idle and bool(self.cycle.more_body)
        waits_for = "head" if self.is_idle else "body" if reads_body else ""
        if waits_for == self._waits_for and self.cycle is self._answers and self._late:
            return
        if self._late:
            self._late.cancel()
        self._waits_for, self._answers, self._late = waits_for, self.cycle, None
        if waits_for:
            seconds = HEAD_SECONDS if waits_for == "head" else BODY_SECONDS
            self._late = self.loop.call_later(seconds, self._is_late)

    def _is_late(self) -> None:
        if self.is_idle or self.cycle.more_body:
            self.cut()


def protocol_of(taken: Connections) -> type[asyncio.Protocol]:
    """The protocol of one server."""
    return type("Protocol", (BoundedProtocol,), {"taken": taken})


class Handshake(asyncio.Protocol):
    """A connection during its TLS handshake, which counts and has `HEAD_SECONDS`.

    Args:
        taken: The connections of the server.
        context: Has the certificate.
        made: Makes the HTTP protocol from uvicorn's arguments.
    """

    is_idle = True

    def __init__(
        self,
        taken: Connections,
        context: ssl.SSLContext,
        made: Callable[..., asyncio.Protocol],
        **given: Any,
    ) -> None:
        self._taken, self._context = taken, context
        self._made = partial(made, **given)
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()  # until TLS can be read
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(self._transport))
        self._taken.add(self)

    def data_received(self, data: bytes) -> None:
        """Keep data that arrived together with the end of the handshake."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        del exc
        self._taken.open.pop(self, None)

    def cut(self) -> None:
        """Close the connection at once."""
        self._taken.open.pop(self, None)
        if self._transport:
            self._transport.abort()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            secure = await loop.start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HEAD_SECONDS,
            )
        except OSError:  # ssl.SSLError is one, and what a time limit raises
            secure = None
        self._taken.open.pop(self, None)
        if secure is None or secure.is_closing():
            transport.abort()
            return
        protocol = self._made()
        secure.set_protocol(protocol)
        protocol.connection_made(secure)
        for data in self._early:
            protocol.data_received(data)


LOGGERS: Final = (
    "asyncio",
    "uvicorn.error",
    "mcp.server.lowlevel.server",
    "mcp.server.sse",
    "mcp.server.streamable_http",
    "mcp.server.streamable_http_manager",
)


class Quiet(logging.Filter):
    """Drops records like one of a moment ago: clients can cause any number of them."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; the next of its kind says how many were dropped."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OSError) and record.name == "asyncio":
            record.msg, record.args = f"a connection waits: {error}", None
            record.exc_info = None  # the traceback is asyncio's own
        key = (record.name, str(record.msg)[:80])
        now = time.monotonic()
        then, left_out = self._said.get(key, (float("-inf"), 0))
        if now - then < LOG_SECONDS:
            self._said[key] = (then, left_out + 1)
            return False
        if len(self._said) > len(LOGGERS) * 100:
            self._said.clear()
        self._said[key] = (now, 0)
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} more like it)"
            record.args = None
        return True


def quiet_log() -> None:
    """Limit what clients can cause to be logged."""
    quiet = Quiet()
    for name in LOGGERS:
        logging.getLogger(name).addFilter(quiet)
