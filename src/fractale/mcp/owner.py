"""One server over the whole life of a toolbox: its sessions, one after another."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeVar

from mcp import types
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from fractale.confine.ways import hint_if_refused
from fractale.errors import ToolError, TransportError
from fractale.mcp.connection import Connection, SilentServer, unsent
from fractale.mcp.lists import Lists
from fractale.mcp.session import Hooks
from fractale.mcp.wire import AnyServer, EmbeddedServer, OnLog, Streams, Timing, Wire
from fractale.toolbox import OnElicit, OnProgress, ServerStatus

ResultT = TypeVar("ResultT", bound=BaseModel)


class ServerOwner:
    """Keeps a session with one server, and opens the next one when it is lost.

    Args:
        server: Where it is and how to reach it.
        timing: How long things may take.
        on_log: Takes what the server logs.

    Attributes:
        lists: What it lists, as far as it was asked.
        handshake: Seconds that it has for its first answer.
    """

    def __init__(
        self,
        server: AnyServer,
        *,
        timing: Timing,
        on_log: OnLog | None = None,
    ) -> None:
        own = None if isinstance(server, EmbeddedServer) else server.handshake
        timing = replace(timing, handshake=own) if own else timing
        self.name = server.name
        self.lists = Lists(server.name, timing.handshake)
        self.handshake = timing.handshake
        self._server = server
        self._timing = timing
        self._hooks = Hooks(on_change=self.lists.changed, on_log=on_log)
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[Connection | ToolError] | None = None
        self._error: ToolError | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._is_needed = False
        self._was_connected = False

    # -- sessions -------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether there is a session that a call could use now."""
        return self._connection is not None and self._connection.usable

    @property
    def error(self) -> ToolError | None:
        """Why the last attempt to connect failed, if it did."""
        return None if self.usable else self._error

    @property
    def is_silent(self) -> bool:
        """Whether it let the time for its first answer go by, the last time it was tried."""
        return isinstance(self.error, SilentServer)

    @property
    def was_connected(self) -> bool:
        """Whether a session was ever opened, so that the server's tools are known."""
        return self._was_connected

    def start(self) -> None:
        """Begin to connect, in the background, unless that is under way or would be too soon."""
        waiting = self._failed_at + self._delay() - time.monotonic() if self._failures else 0
        if not self.usable and (self._attempt is None or self._attempt.done()) and waiting <= 0:
            self._is_needed = False
            self._attempt = asyncio.create_task(self._connect())

    @property
    def was_tried(self) -> bool:
        """Whether the first attempt to connect has ended, well or not."""
        return self._was_connected or self._failures > 0

    async def started(self) -> None:
        """Wait until the first attempt to connect has ended, well or not."""
        if self._attempt is not None and not self.was_tried:
            await asyncio.shield(self._attempt)

    async def connection(self) -> Connection:
        """The session; opens one if there is none. Callers share one attempt.

        Raises:
            TransportError: The server cannot be reached.
            ToolError: The server refused.
        """
        if self._connection is not None and self._connection.usable:
            return self._connection
        self._is_needed = True  # also what began in the background is tried on from now
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._connect())
        try:
            outcome = await asyncio.shield(self._attempt)
        except asyncio.CancelledError as cancelled:
            cancelled.args = (self._waited_for(),)
            raise
        if isinstance(outcome, ToolError):
            raise copy.copy(outcome)
        return outcome

    def _waited_for(self) -> ToolError:
        """What to tell of a call that was given up before there was a session to send it on."""
        return self._error or TransportError(f"server `{self.name}` is still being connected to")

    @property
    def _attempts(self) -> int:
        """How often to try before it is told: a server that was there is likely to come back."""
        return self._timing.attempts if self._was_connected and self._is_needed else 1

    async def _connect(self) -> Connection | ToolError:
        """Returns the error rather than raising it: nobody may be waiting for it."""
        made = 0
        while made < self._attempts:
            made += 1
            await asyncio.sleep(self._failed_at + self._delay() - time.monotonic())
            connection = Connection(
                self.name, self._open_streams, timing=self._timing, hooks=self._hooks
            )
            self._connection = connection
            try:
                await connection.open()
            except ToolError as error:
                self._error = error
                self._failures += 1
                self._failed_at = time.monotonic()
                if not isinstance(error, TransportError):
                    break
                continue
            self._failures, self._error, self._was_connected = 0, None, True
            self.lists.forget()
            return connection
        return self._error or TransportError(f"server `{self.name}` cannot be reached")

    def _delay(self) -> float:
        """The pause after the failures so far: none at first, then growing, with jitter."""
        if not self._failures:
            return 0.0
        longest = min(
            self._timing.first_delay * 2.0 ** (self._failures - 1), self._timing.max_delay
        )
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing

    def _open_streams(self, wire: Wire) -> AbstractAsyncContextManager[Streams]:
        if isinstance(self._server, EmbeddedServer):
            from fractale.mcp.memory import memory_streams

            return memory_streams(self._server, wire)
        if self._server.transport == "stdio":
            from fractale.mcp.stdio import stdio_streams

            return stdio_streams(self._server, wire)
        from fractale.mcp.http import http_streams

        return http_streams(self._server, wire)

    def status(self) -> ServerStatus:
        """Whether the server can be used now, and if not, why."""
        server = self._server
        embedded = isinstance(server, EmbeddedServer)
        return ServerStatus(
            name=self.name,
            connected=self.usable,
            transport="memory" if embedded else server.transport,
            address="in this process" if embedded else server.address,
            error=str(self.error or "has not answered yet") if not self.usable else None,
            listed=self.lists.version > 0,
            confined=not embedded and server.confine,
        )

    async def close(self) -> None:
        """End the session and whatever is being opened."""
        if self._attempt is not None and not self._attempt.done():
            self._attempt.cancel()
            await asyncio.wait({self._attempt})
        if self._connection is not None:
            await self._connection.close()

    # -- requests -------------------------------------------------------------------------------

    async def request(
        self,
        request: types.ClientRequest,
        answer: type[ResultT],
        *,
        on_progress: OnProgress | None = None,
    ) -> ResultT:
        """Send a request and wait for its answer.

        It is sent a second time only where the first certainly did not reach the server, because
        its session was already over.

        Raises:
            TransportError: The server cannot be reached, was lost, or did not answer in time.
            ToolError: The server answered with an error.
        """
        self._check_sendable(request)
        return await self._on_session(
            lambda connection: connection.request(
                request, answer, on_progress=on_progress, timeout=self._timeout
            )
        )

    @property
    def _timeout(self) -> float | None:
        return None if isinstance(self._server, EmbeddedServer) else self._server.timeout

    def _check_sendable(self, request: types.ClientRequest) -> None:
        """Refuse what cannot be written as JSON in UTF-8, before anything of it is sent.

        Raises:
            ToolError: It holds bytes that are not UTF-8, such as those of a file name.
        """
        if isinstance(self._server, EmbeddedServer):
            return
        try:
            request.model_dump_json()
        except PydanticSerializationError as error:
            raise ToolError(
                f"server `{self.name}` cannot be sent text with bytes that are not UTF-8",
                hint="if they come from a file name, rename the file",
            ) from error

    async def _on_session(self, send: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
        connection = await self.connection()
        try:
            return await send(connection)
        except TransportError as error:
            if error.sent or connection.usable:
                raise
        return await send(await self.connection())

    async def call_tool(
        self,
        name: str,
        request: types.ClientRequest,
        on_progress: OnProgress | None,
        on_elicit: OnElicit | None,
        definition: str | None = None,
    ) -> types.CallToolResult:
        """Call a tool, if it still is the one that was agreed to.

        Args:
            on_elicit: Answers what the server asks meanwhile; what it raises ends the call.
            definition: The hash of what was agreed to; None: what was seen first.

        Raises:
            TransportError: See `request`.
            ToolError: The server refused, or the tool changed during the run.
        """
        self._check_sendable(request)

        async def send(connection: Connection) -> types.CallToolResult:
            try:
                await self.lists.read_tools(connection)
            except TransportError as error:
                raise unsent(error) from error  # only the question after its tools was
            self.lists.check_unchanged(name, definition)
            return await connection.request(
                request,
                types.CallToolResult,
                on_progress=on_progress,
                on_elicit=on_elicit,
                timeout=self._timeout,
            )

        try:
            result = await self._on_session(send)
        except ToolError as error:
            error.hint = error.hint or self._if_refused(error.message)
            raise
        if result.isError and (hint := self._if_refused(str(result.content))):
            result.content.append(types.TextContent(type="text", text=hint))
        return result

    def _if_refused(self, words: str) -> str | None:
        confined = not isinstance(self._server, EmbeddedServer) and self._server.confine
        return hint_if_refused(self.name, words) if confined else None

    # -- lists ----------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether its list of tools is as good as it can be without waiting."""
        return self.lists.has_tools if self.usable else self.was_tried

    async def settle(self) -> None:
        """Read its list of tools; a server that is not there keeps those it was known to have."""
        await self.started()
        if self._connection is not None and self._connection.usable:
            try:
                await self.lists.read_tools(self._connection)
            except ToolError as error:
                self.tell("error", f"its lists cannot be read: {error}")
        else:
            self.start()

    async def list_of(self, kind: str) -> Sequence[Any]:
        """Its ``prompts``, ``resources`` or ``templates``; none from a server that is not there."""
        await self.started()
        if self._connection is None or not self._connection.usable:
            self.start()
            return ()
        try:
            return await self.lists.read(self._connection, kind)
        except ToolError as error:
            self.tell("error", f"its lists cannot be read: {error}")
            return ()

    def tell(self, level: str, message: str) -> None:
        """Log something about the server, as if it had said it."""
        if self._hooks.on_log is not None:
            self._hooks.on_log(self.name, level, message)
