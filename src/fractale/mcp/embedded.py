"""A server in this process: its handlers are called directly, without messages.

A handler runs in the task of its call, so it has the caller's context variables and is cancelled
with the call. `ServerSide` is what it sees of the session, as `mcp`'s own request context has it:
its notifications and questions reach the client as calls, too. Requests and answers are copied as
JSON, as any transport does, so neither side can change a value of the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from mcp import McpError, types
from mcp.server.experimental.request_context import Experimental
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.server import request_ctx
from mcp.server.session import ServerSession
from mcp.shared.context import RequestContext
from mcp.shared.session import ProgressFnT
from pydantic import BaseModel

from fractale.mcp.session import CLIENT_INFO, ClientSide, Unanswered
from fractale.mcp.transport import EmbeddedServer

ModelT = TypeVar("ModelT", bound=BaseModel)

CLIENT_CAPABILITIES = types.ClientCapabilities(
    elicitation=types.ElicitationCapability(
        form=types.FormElicitationCapability(), url=types.UrlElicitationCapability()
    )
)


@contextlib.asynccontextmanager
async def embedded_session(
    embedded: EmbeddedServer, client: ClientSide
) -> AsyncGenerator[EmbeddedSession]:
    """Open the server's lifespan while the session lives. At the end, no handler is running."""
    server, outer = _low_level(embedded.server)
    # The lifespans are the outer contexts: their resources must outlive the handlers.
    async with outer, server.lifespan(server) as lifespan:
        session = EmbeddedSession(server, lifespan, client)
        try:
            yield session
        finally:
            await session.cancel_all()


def _low_level(server: Any) -> tuple[Server[Any], contextlib.AbstractAsyncContextManager[Any]]:
    """The protocol server inside any of the kinds of server, and its lifespan."""
    if not hasattr(server, "run") and callable(server):
        server = server()
    manager = getattr(server, "_lifespan_manager", None)
    lifespan = manager() if manager is not None else contextlib.nullcontext()
    return getattr(server, "_mcp_server", server), lifespan


class EmbeddedSession:
    """A session with a server in this process; see `fractale.mcp.session.AnySession`."""

    def __init__(self, server: Server[Any], lifespan: Any, client: ClientSide) -> None:
        options = server.create_initialization_options()
        self.capabilities = options.capabilities
        self.version = f"{options.server_name} {options.server_version}"
        self._server = server
        self._lifespan = lifespan
        self._far = ServerSide(client)
        self._requests = 0
        self._running: set[asyncio.Task[Any]] = set()

    async def exchange(
        self, request: types.ClientRequest, answer: type[ModelT], on_progress: ProgressFnT | None
    ) -> ModelT:
        """Run the handler of a request.

        Raises:
            McpError: The handler's error, as the protocol carries it.
        """
        asked = _copied(request.root, type(request.root))
        handler = self._server.request_handlers.get(type(asked))
        if handler is None:
            raise McpError(types.ErrorData(code=types.METHOD_NOT_FOUND, message="Method not found"))
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine
        self._running.add(task)
        self._requests += 1
        number = self._requests
        try:
            with self._far.progress(number, on_progress) as meta:
                request_ctx.set(self._context(number, meta))  # of this task, which ends here
                result = (await handler(asked)).root
        except McpError:
            raise
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            text = "something that the server waited for was cancelled"
            raise McpError(types.ErrorData(code=0, message=text)) from error
        except Exception as error:
            raise McpError(types.ErrorData(code=0, message=str(error))) from error
        finally:
            self._running.discard(task)
        return _copied(result, answer)

    def _context(
        self, number: int, meta: types.RequestParams.Meta | None
    ) -> RequestContext[ServerSession, Any, Any]:
        experimental = Experimental(_client_capabilities=CLIENT_CAPABILITIES, _session=self._far)
        return RequestContext(number, meta, self._far, self._lifespan, experimental)

    async def cancel_all(self) -> None:
        """Cancel the running handlers, and wait until they have ended."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)


def _copied(message: BaseModel, kind: type[ModelT]) -> ModelT:
    """A message as the other side of a transport would read it."""
    return kind.model_validate(message.model_dump(by_alias=True, mode="json", exclude_none=True))


class ServerSide(ServerSession):
    """The session as a handler sees it.

    Every other method of the library's session sends by one of the two below.
    """

    def __init__(self, client: ClientSide) -> None:  # no streams: not the library's own
        self._client = client
        self._client_params = types.InitializeRequestParams(
            protocolVersion=types.LATEST_PROTOCOL_VERSION,
            capabilities=CLIENT_CAPABILITIES,
            clientInfo=CLIENT_INFO,
        )
        self._on_progress: dict[types.ProgressToken, ProgressFnT] = {}

    @contextlib.contextmanager
    def progress(self, token: types.ProgressToken, on_progress: ProgressFnT | None) -> Any:
        """Pass on the progress of a request; the metadata by which its handler reports it."""
        if on_progress is None:
            yield None
            return
        self._on_progress[token] = on_progress
        try:
            yield types.RequestParams.Meta(progressToken=token)
        finally:
            del self._on_progress[token]

    async def send_request(
        self, request: types.ServerRequest, result_type: type[Any], *_: Any, **__: Any
    ) -> Any:
        """Ask the client; it answers elicitations only."""
        asked = request.root
        if not isinstance(asked, types.ElicitRequest):
            text = f"{asked.method} is not supported"
            raise McpError(types.ErrorData(code=types.INVALID_REQUEST, message=text))
        try:
            return _copied(await self._client.asked(asked.params), result_type)
        except Unanswered:  # the call has ended, which cancels this task
            return await asyncio.get_running_loop().create_future()

    async def send_notification(
        self, notification: types.ServerNotification, related_request_id: Any = None
    ) -> None:
        """Report progress, a log message, or a changed list to the client."""
        told = _copied(notification.root, type(notification.root))
        if isinstance(told, types.LoggingMessageNotification):
            self._client.logged(told.params)
        elif not isinstance(told, types.ProgressNotification):
            self._client.notified(told)
        elif on_progress := self._on_progress.get(told.params.progressToken):
            await on_progress(told.params.progress, told.params.total, told.params.message)
