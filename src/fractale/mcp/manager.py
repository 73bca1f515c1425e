"""One server for the life of a toolbox: its sessions, one after another, and its catalog.

A `SessionManager` keeps one session and opens the next one when it is lost. A `ServerCatalog` has
the server's lists, over all sessions, until the server reports a change.
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeVar

from mcp import types
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from fractale.confine.ways import hint_if_refused
from fractale.errors import ToolError, TransportError
from fractale.mcp import convert
from fractale.mcp.session import Connection, Listeners, ServerRefusal, SilentServer, unsent
from fractale.mcp.transport import (
    AnyServer,
    EmbeddedServer,
    OnLog,
    Streams,
    Timing,
    TransportHooks,
)
from fractale.toolbox import OnElicit, OnProgress, ServerStatus, changed_meanwhile

ResultT = TypeVar("ResultT", bound=BaseModel)
MAX_PAGES = 1_000
KINDS: dict[str, tuple[Any, type[types.PaginatedResult], str]] = {
    "tools": (types.ListToolsRequest, types.ListToolsResult, "tools"),
    "prompts": (types.ListPromptsRequest, types.ListPromptsResult, "prompts"),
    "resources": (types.ListResourcesRequest, types.ListResourcesResult, "resources"),
    "templates": (
        types.ListResourceTemplatesRequest,
        types.ListResourceTemplatesResult,
        "resourceTemplates",
    ),
}


class SessionManager:
    """Keeps a session with one server, and opens a new one when it is lost.

    Args:
        server: The server's address and transport.
        timing: How long things may take.
        on_log: Called with the server's log messages.

    Attributes:
        catalog: The server's lists, as far as they were read.
        handshake: Seconds that the server has for its first answer.
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
        self.catalog = ServerCatalog(server.name, timing.handshake)
        self.handshake = timing.handshake
        self._server = server
        self._timing = timing
        self._listeners = Listeners(on_change=self.catalog.changed, on_log=on_log)
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
        """Whether the server's first answer timed out at the last attempt."""
        return isinstance(self.error, SilentServer)

    @property
    def was_connected(self) -> bool:
        """Whether a session was ever opened, so that the server's tools are known."""
        return self._was_connected

    def start(self) -> None:
        """Begin to connect in the background, unless that is in progress or would be too soon."""
        waiting = self._failed_at + self._delay() - time.monotonic() if self._failures else 0
        if not self.usable and (self._attempt is None or self._attempt.done()) and waiting <= 0:
            self._is_needed = False
            self._attempt = asyncio.create_task(self._connect())

    @property
    def was_tried(self) -> bool:
        """Whether the first attempt to connect has ended, successfully or not."""
        return self._was_connected or self._failures > 0

    async def started(self) -> None:
        """Wait until the first attempt to connect has ended, successfully or not."""
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
        self._is_needed = True  # this also repeats an attempt that began in the background
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
        """Why a call that was cancelled had no session yet."""
        return self._error or TransportError(f"server `{self.name}` is still being connected to")

    @property
    def _attempts(self) -> int:
        """How often to try: a server that was connected before is likely to return."""
        return self._timing.attempts if self._was_connected and self._is_needed else 1

    async def _connect(self) -> Connection | ToolError:
        """The new session. An error is returned, not raised, because there may be no caller."""
        made = 0
        while made < self._attempts:
            made += 1
            await asyncio.sleep(self._failed_at + self._delay() - time.monotonic())
            connection = Connection(
                self.name,
                self._open_streams,
                timing=self._timing,
                listeners=self._listeners,
                passes_context=self.passes_context,
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
            self.catalog.forget()
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

    def _open_streams(self, hooks: TransportHooks) -> AbstractAsyncContextManager[Streams]:
        if isinstance(self._server, EmbeddedServer):
            from fractale.mcp.memory import memory_streams

            return memory_streams(self._server, hooks)
        if self._server.transport == "stdio":
            from fractale.mcp.stdio import stdio_streams

            return stdio_streams(self._server, hooks)
        from fractale.mcp.http import http_streams

        return http_streams(self._server, hooks)

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
            listed=self.catalog.version > 0,
            confined=not embedded and server.confine,
        )

    async def close(self) -> None:
        """End the session, or the attempt to open one."""
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
        on_elicit: OnElicit | None = None,
        tool: tuple[str, str | None] | None = None,
    ) -> ResultT:
        """Send a request and wait for its answer.

        It is sent a second time only if the first one certainly did not reach the server, because
        its session was already over.

        Args:
            on_elicit: Answers the server's questions meanwhile. An exception from it ends the call.
            tool: Of a tool call: the tool's name, and the hash of the definition that was agreed
                to; None: the definition that was seen first.

        Raises:
            TransportError: The server cannot be reached, was lost, or did not answer in time.
            ToolError: The server answered with an error, or the tool changed during the run.
        """
        self._check_sendable(request)
        again = False
        while True:
            connection = await self.connection()
            try:
                if tool is not None:
                    await self._check_tool(connection, *tool)
                return await connection.request(
                    request,
                    answer,
                    on_progress=on_progress,
                    on_elicit=on_elicit,
                    timeout=self._timeout,
                )
            except TransportError as error:
                if again or error.sent or connection.usable:
                    raise
            again = True

    async def _check_tool(self, connection: Connection, name: str, definition: str | None) -> None:
        if not self.catalog.has_tools:
            try:
                await self.catalog.read_tools(connection)
            except TransportError as error:
                raise unsent(error) from error  # only the request for its tools was sent
        self.catalog.check_unchanged(name, definition)

    @property
    def passes_context(self) -> bool:
        """Whether its functions see the context variables of their caller."""
        return isinstance(self._server, EmbeddedServer) and self._server.sees_caller

    @property
    def _timeout(self) -> float | None:
        return None if isinstance(self._server, EmbeddedServer) else self._server.timeout

    def _check_sendable(self, request: types.ClientRequest) -> None:
        """Refuse a request that cannot be written as JSON in UTF-8, before any of it is sent.

        Raises:
            ToolError: It has bytes that are not UTF-8, such as those of a file name.
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

    def hint_if_refused(self, words: str) -> str | None:
        """The hint for an error of a confined server that its confinement may have caused."""
        confined = not isinstance(self._server, EmbeddedServer) and self._server.confine
        return hint_if_refused(self.name, words) if confined else None

    # -- catalog ----------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether its list of tools cannot get better without waiting."""
        return self.catalog.has_tools if self.usable else self.was_tried

    async def settle(self) -> None:
        """Read its list of tools; a server that is not connected keeps its known tools."""
        await self.started()
        if self._connection is not None and self._connection.usable:
            try:
                await self.catalog.read_tools(self._connection)
            except ToolError as error:
                self.log("error", f"its lists cannot be read: {error}")
        else:
            self.start()

    async def list_of(self, kind: str) -> Sequence[Any]:
        """Its ``prompts``, ``resources`` or ``templates``; none if it is not connected."""
        await self.started()
        if self._connection is None or not self._connection.usable:
            self.start()
            return ()
        try:
            return await self.catalog.read(self._connection, kind)
        except ToolError as error:
            self.log("error", f"its lists cannot be read: {error}")
            return ()

    def log(self, level: str, message: str) -> None:
        """Log a message about the server as if it came from the server."""
        if self._listeners.on_log is not None:
            self._listeners.on_log(self.name, level, message)


class ServerCatalog:
    """The lists of one server, over all of its sessions.

    Args:
        server: The server's name.
        patience: Seconds that it may take to answer with a page of a list.

    Attributes:
        tools: Its tools; the last known ones while it is not connected.
        version: Changes each time `tools` is read.
    """

    def __init__(self, server: str, patience: float) -> None:
        self.tools: Sequence[types.Tool] = ()
        self.version = 0
        self._server = server
        self._patience = patience
        self._known: dict[str, Sequence[Any]] = {}
        self._changes: Counter[str] = Counter()
        self._asking = asyncio.Lock()
        self._current: dict[str, types.Tool] = {}
        self._definitions: dict[str, str] = {}
        self._first_seen: dict[str, types.Tool] = {}

    @property
    def has_tools(self) -> bool:
        """Whether `tools` is the server's latest list."""
        return "tools" in self._known

    def forget(self) -> None:
        """Forget the lists: a new session may have other ones."""
        self._known = {}

    def changed(self, kind: str) -> None:
        """Forget a list, because the server reports that it changed."""
        for each in (kind, "templates") if kind == "resources" else (kind,):
            self._changes[each] += 1
            self._known.pop(each, None)

    async def read_tools(self, connection: Connection) -> None:
        """Make `tools` current.

        Raises:
            ToolError: The server did not answer.
        """
        if self.has_tools:
            return
        tools: Sequence[types.Tool] = await self.read(connection, "tools")
        self._current = {tool.name: tool for tool in tools}
        self._definitions = {tool.name: _definition(tool) for tool in tools}
        for tool in tools:
            self._first_seen.setdefault(tool.name, tool)
        self.tools = list(self._current.values())
        self.version += 1

    def check_unchanged(self, name: str, definition: str | None = None) -> None:
        """Check that a tool still has the definition that was agreed to.

        Args:
            definition: The hash of the agreed definition; None: the one that was seen first.

        Raises:
            ToolError: It has another one.
        """
        now, first = self._current.get(name), self._first_seen.get(name)
        if now is None or first is None:
            return
        if self._definitions[name] != (definition or _definition(first)):
            raise changed_meanwhile(self._server, name, _changed_part(first, now))

    async def read(self, connection: Connection, kind: str) -> Sequence[Any]:
        """Its ``tools``, ``prompts``, ``resources`` or ``templates``; asks only if needed.

        Raises:
            ToolError: The server did not answer.
        """
        async with self._asking:
            if kind in self._known:
                return self._known[kind]
            changes = self._changes[kind]
            items = await self._pages(connection, kind)
            # If it changed meanwhile, the next caller asks again.
            if changes == self._changes[kind]:
                self._known[kind] = items
            return items

    async def _pages(self, connection: Connection, kind: str) -> list[Any]:
        capability = "resources" if kind == "templates" else kind
        if getattr(connection.capabilities, capability) is None:
            return []
        items: list[Any] = []
        cursor: str | None = None
        make, answer, field = KINDS[kind]
        for _ in range(MAX_PAGES):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            request = types.ClientRequest(make(params=params))
            try:
                page = await connection.request(request, answer, timeout=self._patience)
            except ServerRefusal as error:
                if error.rpc_code == types.METHOD_NOT_FOUND:
                    return items
                raise
            items += getattr(page, field)
            cursor = page.nextCursor
            if not cursor:
                return items
        raise ToolError(f"server `{self._server}` lists its {kind} without end")


def _definition(tool: types.Tool) -> str:
    return convert.tool_info(tool, "", tool.name).definition


def _changed_part(before: types.Tool, now: types.Tool) -> str:
    """The first part of a tool's definition that differs, in one word."""
    then = convert.tool_info(before, "", before.name).described
    today = convert.tool_info(now, "", now.name).described
    words = {"input_schema": "schema", "output_schema": "output schema"}
    changed = (words.get(part, part) for part in then if then[part] != today[part])
    return next(changed, "definition")
