"""The listener of a run that a caller gives: a function, or an async function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias

from fractale.errors import ListenerError
from fractale.events import Event

OnEvent: TypeAlias = Callable[[Event], Awaitable[Any] | None]
"""Called with every event of a run, in order. If it is async, its calls are awaited in order."""


class Stoppable(Protocol):
    """A run that can be asked to stop at the next boundary of a step."""

    def request_drain(self, reason: str = ...) -> None:
        """Ask the run to stop."""
        ...


class CallerListener:
    """Passes events to the caller's function.

    An exception of the function must neither be lost nor interrupt a call that the run is making.
    So the function gets no further event, and the run stops at the next boundary of a step.

    Args:
        run: The run that stops; None: it continues to its end or next question, without events.

    Attributes:
        error: Set if the function raised.
        result: The end of the run, once the caller of this has it.
    """

    def __init__(self, call: OnEvent, run: Stoppable | None) -> None:
        self._call = call
        self._run = run
        self._later: asyncio.Queue[Event | None] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self.error: ListenerError | None = None
        self.result: Any = None

    def __call__(self, event: Event) -> None:
        """Pass an event on, at once or, to an async function, after the events before it."""
        if self.error is not None:
            return
        if self._worker is not None:
            self._later.put_nowait(event)
            return
        try:
            answer = self._call(event)
        except Exception as error:  # noqa: BLE001 - any exception of the caller's function
            self._fail(event, error)
            return
        if inspect.isawaitable(answer):
            self._worker = asyncio.create_task(self._await_all(event, answer))

    async def _await_all(self, first: Event, answer: Awaitable[Any]) -> None:
        event: Event | None = first
        pending: Awaitable[Any] | None = answer
        while event is not None:
            try:
                await (pending or self._call(event) or _nothing())
            except Exception as error:  # noqa: BLE001 - any exception of the caller's function
                self._fail(event, error)
                return
            pending, event = None, await self._later.get()

    def _fail(self, event: Event, error: Exception) -> None:
        step = event.data.get("step")
        where = f"`{event.kind}`" + (f" of step `{step}`" if step else "")
        self.error = ListenerError(
            f"`on_event` raised {type(error).__name__} at the event {where}: {error}",
            hint=None if self._run else "the run continued to its end or next question",
        )
        self.error.__cause__ = error
        if self._run is not None:
            self._run.request_drain("`on_event` raised an exception")

    async def ended(self) -> None:
        """Wait until the function has had every event."""
        if self._worker is not None:
            self._later.put_nowait(None)
            await self._worker

    def cancel(self) -> None:
        """Drop the events that the function has not had yet."""
        if self._worker is not None:
            self._worker.cancel()


async def _nothing() -> None:
    """Stands in for the answer of a call that is not async, although earlier ones were."""


@asynccontextmanager
async def caller_listener(
    call: OnEvent, run: Stoppable | None = None
) -> AsyncGenerator[CallerListener]:
    """The listener of a run that takes place in the block; see `CallerListener`.

    Raises:
        ListenerError: The block ended well, but the caller's function raised.
    """
    listener = CallerListener(call, run)
    try:
        yield listener
    except Exception:
        await listener.ended()
        raise
    else:
        await listener.ended()
    finally:
        listener.cancel()
    if listener.error is not None:
        listener.error.result = listener.result
        raise listener.error
