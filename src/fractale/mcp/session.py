"""One server for the life of a toolbox: its catalog, and its sessions, one after another.

- A `SessionManager` keeps one session and opens the next one when it is lost.
- A `ServerCatalog` has the server's lists, over all sessions, until the server reports a change.
- A `Connection` is one session, from its opening to its end.
- A `Session` is the MCP library's session, which sends the requests. Those to a server in this
  process are calls, see `fractale.mcp.embedded`.
- A `ClientSide` receives what the server sends of its own.
- `Elicitations` are the questions that the server may ask in one call.

The library's session and its transport must be opened and closed in one task, and a transport that
breaks cancels the task it was opened in. So a separate task owns them. When the server dies, only
that task ends, and `Connection` fails the calls in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

import anyio
import httpx
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import ClientSession, McpError, types
from mcp.shared.context import RequestContext
from mcp.shared.message import SessionMessage
from mcp.shared.session import ProgressFnT, RequestResponder
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from fractale.confine.ways import hint_if_refused
from fractale.errors import ToolError, TransportError
from fractale.mcp.transport import (
    AnyServer,
    EmbeddedServer,
    OnLog,
    Streams,
    Timing,
    TransportHooks,
)
from fractale.toolbox import (
    TRACES_ITSELF,
    Elicitation,
    OnElicit,
    OnProgress,
    PromptInfo,
    Provenance,
    ResourceInfo,
    ServerStatus,
    ToolInfo,
    changed_meanwhile,
)
from fractale.version import __version__

if TYPE_CHECKING:
    from fractale.mcp.provenance import KnownProvenance

ResultT = TypeVar("ResultT", bound=BaseModel)
Opening: TypeAlias = "AbstractAsyncContextManager[AnySession]"
OpenSession: TypeAlias = "Callable[[TransportHooks, ClientSide], Opening]"
OnChange: TypeAlias = Callable[[str], None]
"""Called with the server's list that changed: ``tools``, ``prompts`` or ``resources``."""

OnQuestion: TypeAlias = Callable[[types.ElicitRequestFormParams], Awaitable[types.ElicitResult]]

CLIENT_INFO = types.Implementation(name="fractale", version=__version__)

CANCEL_SECONDS = 2.0
MAX_PAGES = 1_000
OWN_PREFIX = "fractale."
CHANGES: Mapping[type[BaseModel], str] = {
    types.ToolListChangedNotification: "tools",
    types.PromptListChangedNotification: "prompts",
    types.ResourceListChangedNotification: "resources",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """The receivers of a server's messages that are not answers."""

    on_change: OnChange
    on_log: OnLog | None = None


class ServerRefusal(ToolError):
    """The server answered with a JSON-RPC error; `rpc_code` is its number."""

    def __init__(self, message: str, rpc_code: int) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code

    def __copy__(self) -> ServerRefusal:
        return ServerRefusal(self.message, self.rpc_code)


class SilentServer(TransportError):
    """The server was started or reached, but did not give its first answer in time."""


# A server


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
        self._provenance: dict[str | None, KnownProvenance] = {}

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
                self.name, self._open_session, timing=self._timing, listeners=self._listeners
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

    def _open_session(self, hooks: TransportHooks, client: ClientSide) -> Opening:
        if isinstance(self._server, EmbeddedServer):
            from fractale.mcp.embedded import embedded_session

            return embedded_session(self._server, client)
        if self._server.transport == "stdio":
            from fractale.mcp.stdio import stdio_streams

            return _session_over(stdio_streams(self._server, hooks), client)
        from fractale.mcp.http import http_streams

        return _session_over(http_streams(self._server, hooks), client)

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

    async def provenance(self, tool: str | None) -> Provenance:
        """What works when a tool is called; see `fractale.mcp.provenance`."""
        # few runs take over results
        from fractale.mcp.provenance import KnownProvenance, provenance_of

        await self.started()
        connection = self._connection if self.usable else None
        version = connection.version if connection else None
        since = connection.since if connection else 0.0
        known = self._provenance.get(tool)
        if known is not None and known.is_current(since):
            return known.found
        found = await asyncio.to_thread(provenance_of, self._server, tool, version, since)
        self._provenance[tool] = KnownProvenance(found, since)
        return found

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
    def is_embedded(self) -> bool:
        """Whether it is in this process."""
        return isinstance(self._server, EmbeddedServer)

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


# Its catalog


def _tool_info(tool: types.Tool, server: str) -> ToolInfo:
    return ToolInfo(
        name=tool.name,
        server=server,
        description=tool.description or "",
        input_schema=tool.inputSchema,
        output_schema=tool.outputSchema,
        annotations=_annotations(tool),
        traces_itself=bool(tool.meta and tool.meta.get(TRACES_ITSELF)),
    )


def _annotations(tool: types.Tool) -> dict[str, Any]:
    """MCP's hints, and fractale's own from any place where a server may put them."""
    hints = tool.annotations.model_dump(exclude_none=True) if tool.annotations else {}
    in_schema = tool.inputSchema.get("annotations")
    for place in (tool.meta, in_schema):
        if isinstance(place, Mapping):
            table = cast("Mapping[str, Any]", place)
            hints |= {key: value for key, value in table.items() if key.startswith(OWN_PREFIX)}
    return hints


def _prompt_info(prompt: types.Prompt, server: str) -> PromptInfo:
    arguments = tuple(
        {"name": a.name, "description": a.description or "", "required": bool(a.required)}
        for a in prompt.arguments or ()
    )
    return PromptInfo(
        name=prompt.name,
        server=server,
        description=prompt.description or "",
        arguments=arguments,
    )


def _resource_info(resource: types.Resource | types.ResourceTemplate, server: str) -> ResourceInfo:
    is_template = isinstance(resource, types.ResourceTemplate)
    return ResourceInfo(
        uri=resource.uriTemplate if is_template else str(resource.uri),
        server=server,
        name=resource.name,
        description=resource.description or "",
        mime_type=resource.mimeType,
        is_template=is_template,
    )


KINDS: dict[str, tuple[Any, type[types.PaginatedResult], str, Callable[[Any, str], Any]]] = {
    "tools": (types.ListToolsRequest, types.ListToolsResult, "tools", _tool_info),
    "prompts": (types.ListPromptsRequest, types.ListPromptsResult, "prompts", _prompt_info),
    "resources": (
        types.ListResourcesRequest,
        types.ListResourcesResult,
        "resources",
        _resource_info,
    ),
    "templates": (
        types.ListResourceTemplatesRequest,
        types.ListResourceTemplatesResult,
        "resourceTemplates",
        _resource_info,
    ),
}
"""Kind of list → its request, its answer, the answer's field, and an item as a run sees it."""


class ServerCatalog:
    """The lists of one server, over all of its sessions. Each item has the server's own name.

    Args:
        server: The server's name.
        patience: Seconds that it may take to answer with a page of a list.

    Attributes:
        tools: Its tools; the last known ones while it is not connected.
        version: Changes each time `tools` is read.
    """

    def __init__(self, server: str, patience: float) -> None:
        self.tools: Sequence[ToolInfo] = ()
        self.version = 0
        self._server = server
        self._patience = patience
        self._known: dict[str, Sequence[Any]] = {}
        self._changes: Counter[str] = Counter()
        self._asking = asyncio.Lock()
        self._current: dict[str, ToolInfo] = {}
        self._first_seen: dict[str, ToolInfo] = {}

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
        tools: Sequence[ToolInfo] = await self.read(connection, "tools")
        self._current = {tool.name: tool for tool in tools}
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
        if now.definition != (definition or first.definition):
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
        make, answer, field, as_info = KINDS[kind]
        for _ in range(MAX_PAGES):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            request = types.ClientRequest(make(params=params))
            try:
                page = await connection.request(request, answer, timeout=self._patience)
            except ServerRefusal as error:
                if error.rpc_code == types.METHOD_NOT_FOUND:
                    return items
                raise
            items += [as_info(item, self._server) for item in getattr(page, field)]
            cursor = page.nextCursor
            if not cursor:
                return items
        raise ToolError(f"server `{self._server}` lists its {kind} without end")


def _changed_part(before: ToolInfo, now: ToolInfo) -> str:
    """The first part of a tool's definition that differs, in one word."""
    then, today = before.described, now.described
    words = {"input_schema": "schema", "output_schema": "output schema"}
    changed = (words.get(part, part) for part in then if then[part] != today[part])
    return next(changed, "definition")


# One session


class Connection:
    """A session from its opening to its end; it is never reopened.

    Args:
        name: The server's name.
        open_session: Opens the transport and the session on it, given the hooks that it may call
            and the receiver of the server's messages.
        timing: How long opening and closing may take.
        listeners: Who gets logs and changes of lists.

    Attributes:
        since: When it began to open, in Unix time.
    """

    def __init__(
        self,
        name: str,
        open_session: OpenSession,
        *,
        timing: Timing,
        listeners: Listeners,
    ) -> None:
        self.name = name
        self.since = time.time()
        self.error: ToolError | None = None
        self._open_session = open_session
        self._timing = timing
        self._client = ClientSide(name, listeners, self._answer)
        self._hooks = TransportHooks(
            server=name, timing=timing, lose=self.lose, retire=self._retire, log=self._log
        )
        self._retired = False
        self._ending = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[AnySession] = asyncio.get_running_loop().create_future()
        self._calls: set[asyncio.Task[Any]] = set()
        self._elicitations: list[Elicitations] = []
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether a new call may use this session."""
        return self._ready.done() and not self._retired and not self._lost.done()

    @property
    def capabilities(self) -> types.ServerCapabilities:
        """The server's capabilities, once the session is open."""
        return self._ready.result().capabilities

    @property
    def version(self) -> str:
        """The server's name and version, once the session is open."""
        return self._ready.result().version

    async def open(self) -> None:
        """Start the server or connect to it, and initialize the session.

        Raises:
            TransportError: It cannot be reached, or did not answer in time.
            ToolError: It refused.
        """
        self._task = asyncio.create_task(self._hold(), name=f"mcp {self.name}")
        self._task.add_done_callback(self._session_ended)
        seconds = self._timing.handshake
        await asyncio.wait(
            {self._ready, self._lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if not self._ready.done() or self._lost.done():
            late = SilentServer(
                f"server `{self.name}` did not answer within {seconds:g} s",
                hint=f"if it starts slowly, raise `handshake` of server `{self.name}`",
            )
            self.lose(late)
            await self.close()
            raise unsent(self.error or late)

    async def _hold(self) -> None:
        async with self._open_session(self._hooks, self._client) as session:
            self._ready.set_result(session)
            await self._ending.wait()

    def _session_ended(self, task: asyncio.Task[None]) -> None:
        cause = None if task.cancelled() else task.exception()
        if cause is None:
            self.lose(TransportError(f"server `{self.name}` was closed", sent=True))
        else:
            self.lose(self._translate(_root(cause)))

    async def request(
        self,
        request: types.ClientRequest,
        answer: type[ResultT],
        *,
        on_progress: OnProgress | None = None,
        on_elicit: OnElicit | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # it also decides which error is raised
    ) -> ResultT:
        """Send one request, once, and wait for its answer.

        Args:
            request: The request.
            answer: The type of its answer.
            on_progress: Called with the progress that the server reports.
            on_elicit: Answers the server's questions meanwhile. An exception from it ends the call.
            timeout: Seconds to wait, without the user's time to answer; None: no limit.

        Raises:
            TransportError: The session was lost, is over, or the time is up.
            ToolError: The server answered with an error.
        """
        if not self.usable:
            raise self._gone()
        send = self._ready.result().exchange(request, answer, _async_progress(on_progress))
        call = asyncio.create_task(send)  # it has the caller's context variables
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        elicitations = Elicitations(self.name, call, on_elicit)
        self._elicitations.append(elicitations)
        self._waiting += 1
        ends: set[asyncio.Future[Any]] = {call, self._lost, elicitations.failed}
        try:
            while True:
                done, _ = await asyncio.wait(
                    ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if done or not elicitations.is_answering:  # a question stops the clock
                    break
            if elicitations.failed.done() and not (call.done() or self._lost.done()):
                raise elicitations.failed.result()
            return self._result_of(call, timeout)
        finally:
            call.cancel()  # the session notifies the server
            self._elicitations.remove(elicitations)
            elicitations.close()
            self._waiting -= 1
            self._end_if_retired()

    def _result_of(self, call: asyncio.Task[ResultT], timeout: float | None) -> ResultT:
        error = call.exception() if call.done() and not call.cancelled() else None
        if call.done() and error is None and not call.cancelled():
            return call.result()
        if isinstance(error, Exception) and not (self.error and _is_close(error)):
            raise self._translate(error) from error
        if self.error is not None:
            raise copy.copy(self.error)
        raise TransportError(
            f"server `{self.name}` did not answer within {timeout:g} s",
            sent=True,
            hint=f"raise `timeout` of server `{self.name}` in the settings if it needs longer",
        )

    async def _answer(self, params: types.ElicitRequestFormParams) -> types.ElicitResult:
        """Answer a question of the server: the protocol does not say which call it belongs to."""
        asked = next((each for each in reversed(self._elicitations) if each.can_answer), None)
        if asked is None:
            return types.ElicitResult(action="decline")
        return await asked.answer(params)

    def lose(self, error: ToolError) -> None:
        """End the session; every call in progress fails with `error`. Later errors are ignored."""
        if self._lost.done():
            return
        self.error = error
        self._lost.set_result(None)
        self._ending.set()

    def _retire(self) -> None:
        """Refuse new calls; end when the calls in progress have ended."""
        self._retired = True
        asyncio.get_running_loop().call_soon(self._end_if_retired)

    def _end_if_retired(self) -> None:
        if self._retired and not self._waiting and self._ready.done():
            self.lose(self._gone())

    async def close(self) -> None:
        """End the session, and a server that fractale started. Waits until both have ended."""
        self.lose(TransportError(f"server `{self.name}` was closed", sent=True))
        for call in list(self._calls):
            call.cancel()
        if self._task is None:
            return
        patience = self._timing.close + 2 * self._timing.terminate + 1
        if not self._ready.done():
            self._task.cancel()  # it still waits for the server's first answer
        _, late = await asyncio.wait({self._task}, timeout=patience)
        for task in late:
            task.cancel()
            await asyncio.wait({task}, timeout=patience)

    def _log(self, level: str, message: str) -> None:
        self._client.log(level, message)

    def _gone(self) -> TransportError:
        return TransportError(f"the session with server `{self.name}` is over")

    def _translate(self, error: BaseException) -> ToolError:
        """The error that a user should see for an exception of the library."""
        if isinstance(error, McpError):
            kept = self._hooks.faults.take(error.error)
            return kept or self._refusal(error.error)
        if isinstance(error, ToolError):
            return copy.copy(error)
        if isinstance(error, (anyio.ClosedResourceError, anyio.BrokenResourceError)):
            self._retire()
            return self._gone()
        if isinstance(error, ValidationError):
            text = f"server `{self.name}` sent an answer that is not MCP's"
            return TransportError(text, sent=True)
        text = f"the session with server `{self.name}` broke: {str(error) or type(error).__name__}"
        return TransportError(text, sent=not isinstance(error, httpx.ConnectError))

    def _refusal(self, data: types.ErrorData) -> ToolError:
        if data.code == types.CONNECTION_CLOSED:
            return TransportError(f"server `{self.name}` closed the connection", sent=True)
        return ServerRefusal(f"server `{self.name}` refused: {data.message}", data.code)


def _async_progress(on_progress: OnProgress | None) -> ProgressFnT | None:
    if on_progress is None:
        return None

    async def report(progress: float, total: float | None, message: str | None) -> None:
        on_progress(progress, total, message)

    return report


def _root(error: BaseException) -> BaseException:
    """The first cause inside a task group's nested exceptions."""
    found = error
    while isinstance(found, BaseExceptionGroup):
        found = cast("BaseExceptionGroup[BaseException]", found).exceptions[0]
    return found


def _is_close(error: Exception) -> bool:
    return isinstance(error, McpError) and error.error.code == types.CONNECTION_CLOSED


def unsent(error: ToolError) -> ToolError:
    """The same error for a call that was not sent."""
    error = copy.copy(error)
    if isinstance(error, TransportError):
        error.sent = False
    return error


# Sessions


class AnySession(Protocol):
    """An open session, with a server anywhere."""

    @property
    def capabilities(self) -> types.ServerCapabilities:
        """The server's capabilities."""
        ...

    @property
    def version(self) -> str:
        """The server's name and version, as it says them."""
        ...

    async def exchange(
        self, request: types.ClientRequest, answer: type[ResultT], on_progress: ProgressFnT | None
    ) -> ResultT:
        """Send a request and wait for its answer; if cancelled, the server stops its work."""
        ...


@dataclass(frozen=True, slots=True)
class ClientSide:
    """Receives what a server sends of its own: its log, changes of its lists, and its questions.

    Args:
        name: The server's name.
        on_question: Answers a question.
    """

    name: str
    listeners: Listeners
    on_question: OnQuestion

    def log(self, level: str, message: str) -> None:
        """Log a message about the server as if it came from the server."""
        if self.listeners.on_log is not None:
            self.listeners.on_log(self.name, level, message)

    def logged(self, params: types.LoggingMessageNotificationParams) -> None:
        """Log a message of the server."""
        self.log(params.level, _log_text(params.data))

    def notified(self, notification: BaseModel) -> None:
        """Note that a list of the server changed."""
        if changed := CHANGES.get(type(notification)):
            self.listeners.on_change(changed)

    async def asked(self, params: types.ElicitRequestParams) -> types.ElicitResult:
        """Answer a question.

        Raises:
            Unanswered: The call that asked has ended.
        """
        if isinstance(params, types.ElicitRequestURLParams):
            words = f"asked to open {params.url}, which fractale declined: open it yourself"
            self.log("warning", words)
            return types.ElicitResult(action="decline")
        return await self.on_question(params)


def _log_text(data: Any) -> str:
    """A log record's text: servers send text, or a mapping with the text as `msg`."""
    if isinstance(data, Mapping):
        data = data.get("msg", data)  # pyright: ignore[reportUnknownVariableType]  # any JSON
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, default=str)


@contextlib.asynccontextmanager
async def _session_over(
    opening: AbstractAsyncContextManager[Streams], client: ClientSide
) -> AsyncGenerator[Session]:
    """Open a transport and the library's session on it."""
    async with opening as (read, write), Session(read, write, client) as session:
        began = await session.initialize()
        session.capabilities = began.capabilities
        session.version = f"{began.serverInfo.name} {began.serverInfo.version}"
        yield session


class Session(ClientSession):
    """The library's session. Results stay unchanged; the server is notified of cancelled calls."""

    capabilities: types.ServerCapabilities
    version: str

    def __init__(self, read: Any, write: Any, client: ClientSide) -> None:
        self._client = client
        streams: tuple[
            MemoryObjectReceiveStream[SessionMessage | Exception],
            MemoryObjectSendStream[SessionMessage],
        ] = (read, write)
        super().__init__(
            *streams,
            client_info=CLIENT_INFO,
            logging_callback=self._on_log,
            message_handler=self._on_message,
            elicitation_callback=self._on_elicit,
        )

    async def exchange(
        self, request: types.ClientRequest, answer: type[ResultT], on_progress: ProgressFnT | None
    ) -> ResultT:
        """Send a request and wait for its answer; if cancelled, notify the server."""
        request_id = self._request_id  # the ID that `send_request` uses before it first waits
        try:
            return await self.send_request(request, answer, progress_callback=on_progress)
        except asyncio.CancelledError:
            with contextlib.suppress(
                anyio.ClosedResourceError, anyio.BrokenResourceError, TimeoutError
            ):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await self._notify_cancelled(request_id)
            raise

    async def _notify_cancelled(self, request_id: types.RequestId) -> None:
        params = types.CancelledNotificationParams(
            requestId=request_id, reason="the caller stopped waiting"
        )
        notification = types.CancelledNotification(params=params)
        await self.send_notification(types.ClientNotification(notification))

    async def _on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self._client.logged(params)

    async def _on_message(
        self,
        message: RequestResponder[types.ServerRequest, types.ClientResult]
        | types.ServerNotification
        | Exception,
    ) -> None:
        if isinstance(message, types.ServerNotification):
            self._client.notified(message.root)

    async def _received_request(
        self, responder: RequestResponder[types.ServerRequest, types.ClientResult]
    ) -> None:
        if isinstance(responder.request.root, types.ElicitRequest):
            # The library reads nothing more until this returns, but the user may take a long time.
            self._task_group.start_soon(self._received_question, responder)
        else:
            await super()._received_request(responder)

    async def _received_question(
        self, responder: RequestResponder[types.ServerRequest, types.ClientResult]
    ) -> None:
        try:
            await super()._received_request(responder)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, Unanswered):
            self._in_flight.pop(responder.request_id, None)

    async def _on_elicit(
        self, context: RequestContext[ClientSession, Any], params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        return await self._client.asked(params)


# Questions of the server


class Unanswered(Exception):
    """The call that asked has ended: MCP expects no answer for a cancelled call."""


class Elicitations:
    """The questions that a server may ask in one call (MCP's elicitation).

    Args:
        server: The server's name.
        call: The task that waits for the call's answer.
        on_elicit: Answers questions; None: the call cannot answer any.

    Attributes:
        failed: The exception that `on_elicit` raised: it ends the call.
    """

    def __init__(self, server: str, call: asyncio.Task[Any], on_elicit: OnElicit | None) -> None:
        self._server = server
        self._call = call
        self._on_elicit = on_elicit
        # The answer has the caller's context variables, such as its task in a run.
        self._context = contextvars.copy_context()
        self.failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._answering: set[asyncio.Task[Mapping[str, Any]]] = set()

    @property
    def can_answer(self) -> bool:
        return self._on_elicit is not None

    @property
    def is_answering(self) -> bool:
        """Whether a question is open: the call's timeout does not run meanwhile."""
        return bool(self._answering)

    async def answer(self, params: types.ElicitRequestFormParams) -> types.ElicitResult:
        """The answer to one question. An exception of `on_elicit` ends the call.

        Raises:
            Unanswered: The call has ended: the server waits for no answer.
        """
        question = Elicitation(
            server=self._server, message=params.message, schema=params.requestedSchema
        )
        task = asyncio.create_task(self._ask(question), context=self._context)
        self._answering.add(task)
        try:
            await asyncio.wait({task})
            return _result(task.result())
        except ValidationError:
            message = f"the answer to a question of server `{self._server}` is none that it takes"
            self._end_call(ToolError(message))
            raise Unanswered from None
        except Exception as error:
            self._end_call(error)  # the call raises it again
            raise Unanswered from error
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Unanswered from None
        finally:
            self._answering.discard(task)
            task.cancel()

    async def _ask(self, question: Elicitation) -> Mapping[str, Any]:
        assert self._on_elicit is not None  # noqa: S101  # `can_answer`
        return await self._on_elicit(question)

    def _end_call(self, error: Exception) -> None:
        """End the call with `error`; the session notifies the server that it is cancelled."""
        if not self.failed.done():
            self.failed.set_result(error)

    def close(self) -> None:
        """Cancel open questions: the call is over."""
        for task in self._answering:
            task.cancel()


def _result(answer: Mapping[str, Any]) -> types.ElicitResult:
    """The answer in MCP's form.

    Raises:
        ValidationError: It is not valid.
    """
    accepted = answer.get("action") == "accept"
    content = answer.get("content") if accepted else None
    return types.ElicitResult.model_validate({"action": answer.get("action"), "content": content})
