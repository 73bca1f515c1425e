"""The MCP library's session, as fractale needs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeAlias, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import ClientSession, types
from mcp.shared.context import RequestContext
from mcp.shared.message import SessionMessage
from mcp.shared.session import RequestResponder
from pydantic import BaseModel

from fractale.mcp.asking import OnQuestion, Unanswered
from fractale.mcp.wire import OnLog

ResultT = TypeVar("ResultT", bound=BaseModel)
OnChange: TypeAlias = Callable[[str], None]
"""Takes which list of the server changed: ``tools``, ``prompts`` or ``resources``."""


CANCEL_SECONDS = 2.0
CHANGES: Mapping[type[BaseModel], str] = {
    types.ToolListChangedNotification: "tools",
    types.PromptListChangedNotification: "prompts",
    types.ResourceListChangedNotification: "resources",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Who is told what a server says between answers."""

    on_change: OnChange
    on_log: OnLog | None = None


class Session(ClientSession):
    """The library's session, but results are kept as they came and cancelled calls are told."""

    def __init__(
        self, name: str, read: Any, write: Any, hooks: Hooks, on_question: OnQuestion
    ) -> None:
        self._name = name
        self._hooks = hooks
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
        self, request: types.ClientRequest, answer: type[ResultT], on_progress: Any
    ) -> ResultT:
        """Send a request and wait; if cancelled, tell the server that nobody waits any more."""
        request_id = self._request_id  # the one that `send_request` takes before it first waits
        try:
            return await self.send_request(request, answer, progress_callback=on_progress)
        except asyncio.CancelledError:
            with contextlib.suppress(
                anyio.ClosedResourceError, anyio.BrokenResourceError, TimeoutError
            ):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await self._give_up(request_id)
            raise

    async def _give_up(self, request_id: types.RequestId) -> None:
        params = types.CancelledNotificationParams(requestId=request_id, reason="given up")
        notification = types.CancelledNotification(params=params)
        await self.send_notification(types.ClientNotification(notification))

    def _tell(self, level: str, message: str) -> None:
        if self._hooks.on_log is not None:
            self._hooks.on_log(self._name, level, message)

    async def _on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self._tell(params.level, _log_text(params.data))

    async def _on_message(
        self,
        message: RequestResponder[types.ServerRequest, types.ClientResult]
        | types.ServerNotification
        | Exception,
    ) -> None:
        if not isinstance(message, types.ServerNotification):
            return
        if changed := CHANGES.get(type(message.root)):
            self._hooks.on_change(changed)

    async def _received_request(
        self, responder: RequestResponder[types.ServerRequest, types.ClientResult]
    ) -> None:
        if isinstance(responder.request.root, types.ElicitRequest):
            # The library reads nothing more until this returns; but a person may take their time.
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
            self._tell("warning", words)
            return types.ElicitResult(action="decline")
        return await self._on_question(params)


def _log_text(data: Any) -> str:
    """A log record's text: servers send text, or a mapping that holds it as `msg`."""
    if isinstance(data, Mapping):
        data = data.get("msg", data)  # pyright: ignore[reportUnknownVariableType]  # any JSON
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, default=str)
