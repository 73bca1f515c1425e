"""The event stream of a response: bounded, checked, and never without an end."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
from mcp import types

from fractale.errors import ToolError, TransportError
from fractale.mcp.wire import MAX_ANSWER_BYTES, Wire, too_long

END_OF_EVENT = re.compile(rb"\r?\n\r?\n|\r\r")
LONGEST_END = 4


class EventStream(httpx.AsyncByteStream):
    """Passes events on and adds the fault where the stream ends without the call's answer.

    Args:
        inner: The bytes as the server sends them.
        wire: Where faults are kept.
        call: The call whose answer is awaited here; ``everyone`` if all answers come here, so
            that the end of the stream is the end of the session; None for a stream of
            notifications, which the library opens again.
        last_event: For each call, the id of the last event that had one: the library asks for
            the rest of such a stream again, so its end is no fault.
    """

    def __init__(
        self,
        inner: httpx.AsyncByteStream,
        wire: Wire,
        call: types.RequestId | None,
        last_event: dict[types.RequestId, str],
    ) -> None:
        self._inner = inner
        self._wire = wire
        self._shared = call == "everyone"
        self._call = None if self._shared else call
        self._last_event = last_event
        self._answered = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Whole events, the last one a fault if the call was not answered."""
        name = self._wire.server
        error: ToolError = TransportError(f"server `{name}` was lost before it answered", sent=True)
        try:
            async for event in self._events():
                self._inspect(event)
                yield event
        except ToolError as found:
            error = found
            self._last_event.pop(self._call or "", None)
        except httpx.TransportError:
            pass  # broken off is an end like any other
        if self._shared:
            self._wire.lose(error)
        elif self._call is not None and not self._answered and self._call not in self._last_event:
            message = self._wire.faults.answer(self._call, error).model_dump_json(exclude_none=True)
            yield f"event: message\ndata: {message}\n\n".encode()

    async def _events(self) -> AsyncIterator[bytes]:
        buffer, searched = bytearray(), 0
        async for chunk in self._inner:
            buffer += chunk
            while end := END_OF_EVENT.search(buffer, searched):
                yield bytes(buffer[: end.end()])
                del buffer[: end.end()]
                searched = 0
            searched = max(0, len(buffer) - LONGEST_END)
            if len(buffer) > MAX_ANSWER_BYTES:
                raise too_long(self._wire.server, None)
        if buffer:
            yield bytes(buffer) + b"\n\n"

    def _inspect(self, event: bytes) -> None:
        """Note what an event means for the call.

        Raises:
            TransportError: It holds a message that is not JSON.
            ToolError: It is too long.
        """
        if len(event) > MAX_ANSWER_BYTES:
            raise too_long(self._wire.server, len(event))
        if self._call is None:
            return
        lines = event.splitlines()
        data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
        message = self._parse(data) if data else {}
        if message.get("id") == self._call and ("result" in message or "error" in message):
            self._answered = True
            self._last_event.pop(self._call, None)
        for line in lines if not self._answered else []:
            if line.startswith(b"id:") and line[3:].strip():
                self._last_event[self._call] = line[3:].strip().decode(errors="replace")

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            message: Any = json.loads(data)
        except ValueError:
            message = None
        if isinstance(message, dict):
            return cast("dict[str, Any]", message)
        raise TransportError(
            f"server `{self._wire.server}` sent a message that is broken", sent=True
        )

    async def aclose(self) -> None:
        """Close the response below."""
        await self._inner.aclose()
