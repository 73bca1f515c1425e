"""How many items of a foreach run at the same time, those among them that left a job running."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, NoReturn

from langgraph.config import get_config
from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt

from fractale import questions


def leave(waiting: dict[str, Any]) -> NoReturn:
    """End a node, and the run with it once nothing else goes on, until it is run again.

    It is LangGraph's interrupt, but nobody has to answer it: to go on is enough. A node that
    leaves so can do it any number of times, and ask questions in between.

    Args:
        waiting: What the run waits for, as `fractale.questions.job` says it.
    """
    place = str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    raise GraphInterrupt((Interrupt.from_ns(value=waiting, ns=place),))


def left_a_job(error: BaseException | None) -> bool:
    """Whether an error is that of a node that left while its job goes on."""
    found: Any = error.args[0] if isinstance(error, GraphInterrupt) and error.args else ()
    return any(questions.is_job(interrupt.value) for interrupt in found)


def asks(error: GraphInterrupt) -> bool:
    """Whether an interrupt is a question, that somebody has to answer."""
    found: Any = error.args[0] if error.args else ()
    return any(not questions.is_job(each.value) for each in found)


class Full(Exception):
    """Every slot belongs to an item that left the run, and whose job goes on."""


class Slots:
    """A concurrency limit: lets in so many at a time, in the order in which they came.

    An item that leaves while its job goes on keeps its slot: the job still counts. Once such
    items have all of them, nobody else comes in.

    A slot that is given back goes to the one that waits longest, and wakes no other: waking all
    at each end would take a time that grows with the square of the number of items.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._left = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        """Wait for a slot.

        Raises:
            Full: There will be none in this process.
        """
        if self._is_full:
            raise Full
        if self._taken < self._most:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back()  # cancelled when the slot was its own already
            raise

    @property
    def _is_full(self) -> bool:
        return self._left >= self._most

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the slot back, unless a job of the item goes on."""
        if not left_a_job(error):
            self._give_back()
            return
        self._left += 1
        while self._is_full and (turn := self._next()):
            turn.set_exception(Full())

    def _give_back(self) -> None:
        if turn := self._next():
            turn.set_result(None)
        else:
            self._taken -= 1

    def _next(self) -> asyncio.Future[None] | None:
        """The one that waits longest, and still does."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn
        return None
