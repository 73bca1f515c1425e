"""One live session with a server: the task that owns it, its requests, and the server's questions.

The MCP session and its transport must be opened and closed in one task, and a transport that breaks
cancels the task it was opened in. So a separate task owns them. When the server dies, only that
task ends, and `Connection` fails the calls in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeAlias, TypeVar, cast

import anyio
import httpx
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import ClientSession, McpError, types
from mcp.shared.context import RequestContext
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp.shared.session import RequestResponder
from pydantic import BaseModel, ValidationError

from fractale.errors import ToolError, TransportError
from fractale.mcp.transport import OnLog, Streams, Timing, TransportHooks
from fractale.toolbox import Elicitation, OnElicit, OnProgress

ResultT = TypeVar("ResultT", bound=BaseModel)
OpenStreams: TypeAlias = "Callable[[TransportHooks], AbstractAsyncContextManager[Streams]]"
OnChange: TypeAlias = Callable[[str], None]
"""Called with the server's list that changed: ``tools``, ``prompts`` or ``resources``."""

OnQuestion: TypeAlias = Callable[[types.ElicitRequestFormParams], Awaitable[types.ElicitResult]]

CANCEL_SECONDS = 2.0
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


class Connection:
    """A session from its opening to its end; it is never reopened.

    Args:
        name: The server's name.
        open_streams: Opens the transport, given the hooks that it may call.
        timing: How long opening and closing may take.
        listeners: Who gets logs and changes of lists.
        passes_context: Whether requests carry the caller's context variables.
    """

    def __init__(
        self,
        name: str,
        open_streams: OpenStreams,
        *,
        timing: Timing,
        listeners: Listeners,
        passes_context: bool = False,
    ) -> None:
        self.name = name
        self.error: ToolError | None = None
        self.capabilities = types.ServerCapabilities()
        self._open_streams = open_streams
        self._timing = timing
        self._listeners = listeners
        self._passes_context = passes_context
        self._hooks = TransportHooks(
            server=name, timing=timing, lose=self.lose, retire=self._retire, log=self._log
        )
        self._retired = False
        self._ending = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._calls: set[asyncio.Task[Any]] = set()
        self._elicitations: list[Elicitations] = []
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether a new call may use this session."""
        return self._ready.done() and not self._retired and not self._lost.done()

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
        async with (
            self._open_streams(self._hooks) as (read, write),
            Session(self.name, read, write, self._listeners, self._answer) as session,
        ):
            self.capabilities = (await session.initialize()).capabilities
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
        here = contextvars.copy_context() if self._passes_context else None
        send = self._ready.result().exchange(request, answer, _async_progress(on_progress), here)
        call = asyncio.create_task(send)
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
        if self._listeners.on_log is not None:
            self._listeners.on_log(self.name, level, message)

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


def _async_progress(
    on_progress: OnProgress | None,
) -> Callable[[float, float | None, str | None], Awaitable[None]] | None:
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


# The MCP library's session


class Session(ClientSession):
    """The library's session. Results stay unchanged; the server is notified of cancelled calls."""

    def __init__(
        self, name: str, read: Any, write: Any, listeners: Listeners, on_question: OnQuestion
    ) -> None:
        self._name = name
        self._listeners = listeners
        self._on_question = on_question
        streams: tuple[
            MemoryObjectReceiveStream[SessionMessage | Exception],
            MemoryObjectSendStream[SessionMessage],
        ] = (read, write)
        super().__init__(
            *streams,
            client_info=types.Implementation(name="fractale", version=version("fractale")),
            logging_callback=self._on_log,
            message_handler=self._on_message,
            elicitation_callback=self._on_elicit,
        )

    async def exchange(
        self,
        request: types.ClientRequest,
        answer: type[ResultT],
        on_progress: Any,
        here: contextvars.Context | None = None,
    ) -> ResultT:
        """Send a request and wait for its answer; if cancelled, notify the server.

        Args:
            here: The caller's context variables, for a server in this process that uses them.
        """
        request_id = self._request_id  # the ID that `send_request` uses before it first waits
        beside = ServerMessageMetadata(request_context=here) if here is not None else None
        try:
            return await self.send_request(
                request, answer, metadata=beside, progress_callback=on_progress
            )
        except asyncio.CancelledError:
            with contextlib.suppress(
                anyio.ClosedResourceError, anyio.BrokenResourceError, TimeoutError
            ):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await self._notify_cancelled(request_id)
            raise

    async def _notify_cancelled(self, request_id: types.RequestId) -> None:
        params = types.CancelledNotificationParams(requestId=request_id, reason="given up")
        notification = types.CancelledNotification(params=params)
        await self.send_notification(types.ClientNotification(notification))

    def _log(self, level: str, message: str) -> None:
        if self._listeners.on_log is not None:
            self._listeners.on_log(self._name, level, message)

    async def _on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self._log(params.level, _log_text(params.data))

    async def _on_message(
        self,
        message: RequestResponder[types.ServerRequest, types.ClientResult]
        | types.ServerNotification
        | Exception,
    ) -> None:
        if not isinstance(message, types.ServerNotification):
            return
        if changed := CHANGES.get(type(message.root)):
            self._listeners.on_change(changed)

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
        if isinstance(params, types.ElicitRequestURLParams):
            words = f"asked to open {params.url}, which fractale declined: open it yourself"
            self._log("warning", words)
            return types.ElicitResult(action="decline")
        return await self._on_question(params)


def _log_text(data: Any) -> str:
    """A log record's text: servers send text, or a mapping with the text as `msg`."""
    if isinstance(data, Mapping):
        data = data.get("msg", data)  # pyright: ignore[reportUnknownVariableType]  # any JSON
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, default=str)


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
