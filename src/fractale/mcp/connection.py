"""One live session with a server, and the task that holds it.

The MCP session and its transport must be opened and closed in one task, and a transport that
breaks cancels the task it was opened in. So a task of its own holds them: when the server dies,
only that task ends, and `Connection` fails the calls under way.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar, cast

import anyio
import httpx
from mcp import McpError, types
from pydantic import BaseModel, ValidationError

from fractale.errors import ToolError, TransportError
from fractale.mcp.asking import Asker
from fractale.mcp.session import Hooks, Session
from fractale.mcp.wire import Streams, Timing, Wire
from fractale.toolbox import OnElicit, OnProgress

ResultT = TypeVar("ResultT", bound=BaseModel)
OpenStreams: TypeAlias = "Callable[[Wire], AbstractAsyncContextManager[Streams]]"


class ServerRefusal(ToolError):
    """The server answered with a JSON-RPC error; `rpc_code` is its number."""

    def __init__(self, message: str, rpc_code: int) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code

    def __copy__(self) -> ServerRefusal:
        return ServerRefusal(self.message, self.rpc_code)


class SilentServer(TransportError):
    """The server was started or reached, and did not give its first answer in time."""


class Connection:
    """A session from its opening to its end; it is never opened again.

    Args:
        name: The server's name.
        open_streams: Opens the transport, given what it may tell the connection.
        timing: How long opening and closing may take.
        hooks: Who hears of logs and changed lists.
    """

    def __init__(
        self, name: str, open_streams: OpenStreams, *, timing: Timing, hooks: Hooks
    ) -> None:
        self.name = name
        self.error: ToolError | None = None
        self.capabilities = types.ServerCapabilities()
        self._open_streams = open_streams
        self._timing = timing
        self._hooks = hooks
        self._wire = Wire(
            server=name, timing=timing, lose=self.lose, retire=self._retire, log=self._log
        )
        self._retired = False
        self._ending = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._calls: set[asyncio.Task[Any]] = set()
        self._askers: list[Asker] = []
        self._waiting = 0
        self._owner: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether a new call may use this session."""
        return self._ready.done() and not self._retired and not self._lost.done()

    async def open(self) -> None:
        """Start the server or connect to it, and shake hands.

        Raises:
            TransportError: It cannot be reached, or did not answer in time.
            ToolError: It refused.
        """
        self._owner = asyncio.create_task(self._own(), name=f"mcp {self.name}")
        self._owner.add_done_callback(self._owner_ended)
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

    async def _own(self) -> None:
        async with (
            self._open_streams(self._wire) as (read, write),
            Session(self.name, read, write, self._hooks, self._answer) as session,
        ):
            self.capabilities = (await session.initialize()).capabilities
            self._ready.set_result(session)
            await self._ending.wait()

    def _owner_ended(self, owner: asyncio.Task[None]) -> None:
        cause = None if owner.cancelled() else owner.exception()
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
            on_progress: Takes the server's word of how far it is.
            on_elicit: Answers what the server asks meanwhile; what it raises ends the call.
            timeout: Seconds to wait, a person's time to answer not counted; None waits as long
                as it takes.

        Raises:
            TransportError: The session was lost, is over, or the time is up.
            ToolError: The server answered with an error.
        """
        if not self.usable:
            raise self._gone()
        send = self._ready.result().exchange(request, answer, _async_progress(on_progress))
        call = asyncio.create_task(send)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        asker = Asker(self.name, call, on_elicit)
        self._askers.append(asker)
        self._waiting += 1
        try:
            await asker.wait({call, self._lost}, timeout)
            return self._result_of(call, timeout)
        finally:
            call.cancel()  # the session tells the server
            self._askers.remove(asker)
            asker.close()
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
        asker = next((each for each in reversed(self._askers) if each.can_answer), None)
        if asker is None:
            return types.ElicitResult(action="decline")
        return await asker.answer(params)

    def lose(self, error: ToolError) -> None:
        """End the session; every call under way fails with `error`. The first error counts."""
        if self._lost.done():
            return
        self.error = error
        self._lost.set_result(None)
        self._ending.set()

    def _retire(self) -> None:
        """Take no new call; end once the calls under way have ended."""
        self._retired = True
        asyncio.get_running_loop().call_soon(self._end_if_retired)

    def _end_if_retired(self) -> None:
        if self._retired and not self._waiting and self._ready.done():
            self.lose(self._gone())

    async def close(self) -> None:
        """End the session and, where fractale started it, the server. Waits until that is done."""
        self.lose(TransportError(f"server `{self.name}` was closed", sent=True))
        for call in list(self._calls):
            call.cancel()
        if self._owner is None:
            return
        patience = self._timing.close + 2 * self._timing.terminate + 1
        if not self._ready.done():
            self._owner.cancel()  # it still waits for the server's first word
        _, late = await asyncio.wait({self._owner}, timeout=patience)
        for owner in late:
            owner.cancel()
            await asyncio.wait({owner}, timeout=patience)

    def _log(self, level: str, message: str) -> None:
        if self._hooks.on_log is not None:
            self._hooks.on_log(self.name, level, message)

    def _gone(self) -> TransportError:
        return TransportError(f"the session with server `{self.name}` is over")

    def _translate(self, error: BaseException) -> ToolError:
        """The error that a person should see for what the library raised."""
        if isinstance(error, McpError):
            kept = self._wire.faults.take(error.error)
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


def _async_progress(
    on_progress: OnProgress | None,
) -> Callable[[float, float | None, str | None], Awaitable[None]] | None:
    if on_progress is None:
        return None

    async def report(progress: float, total: float | None, message: str | None) -> None:
        on_progress(progress, total, message)

    return report


def _root(error: BaseException) -> BaseException:
    """The first cause inside task groups' bundles of errors."""
    found = error
    while isinstance(found, BaseExceptionGroup):
        found = cast("BaseExceptionGroup[BaseException]", found).exceptions[0]
    return found


def _is_close(error: Exception) -> bool:
    return isinstance(error, McpError) and error.error.code == types.CONNECTION_CLOSED


def unsent(error: ToolError) -> ToolError:
    """The same error for a call that never got so far: so it was never sent."""
    error = copy.copy(error)
    if isinstance(error, TransportError):
        error.sent = False
    return error
