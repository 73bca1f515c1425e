"""One continuation of a thread at a time: two at once would each make the call that was approved.

LangGraph lets two calls continue the same thread. Each reads the same checkpoint, with the same
question, and does what its answer allows. Here, the later one waits for the earlier one. This
holds inside a process; two processes share a thread by a server that has such a lock itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from fractale.errors import UsageError

PATIENCE: Final = 60.0
"""The default of `turn_of`: seconds."""

AT_PAUSE: Final = 0.5
"""The same in seconds after a chunk with a question: most callers leave the stream there."""

_PAUSE: Final = 0.02

_held: dict[tuple[int, str], Turn] = {}
_lock = threading.Lock()


@dataclass(slots=True, eq=False)
class Turn:
    """The right to continue a thread.

    Attributes:
        waited: Whether another continuation was in progress, so the thread may have changed.
    """

    home: Any
    thread: str
    waited: bool = False
    _idle_since: float | None = None
    _is_paused: bool = False

    def take(self) -> Turn | None:
        """Take the turn if it is free; else return the one that has it."""
        with _lock:
            held = _held.setdefault((id(self.home), self.thread), self)
            return None if held is self else held

    def release(self) -> None:
        """Let others continue the thread. It may be called several times."""
        with _lock:
            if _held.get((id(self.home), self.thread)) is self:
                del _held[id(self.home), self.thread]

    def shown(self, *, is_paused: bool) -> None:
        """Note that the caller has a chunk, and may not come back for the next one.

        Args:
            is_paused: Whether the run now waits for an answer.
        """
        self._is_paused = is_paused
        self._idle_since = time.monotonic()

    def goes_on(self) -> None:
        """Note that the caller came back."""
        self._idle_since = None

    def give_way(self, began: float, patience: float) -> bool:
        """Let another one continue, if the caller does not come back.

        Args:
            began: The time since which the other one waits.
            patience: See `turn_of`.

        Returns:
            Whether the other one may know the question: it was shown before.

        Raises:
            UsageError: The caller left in the middle, and may have calls in progress.
        """
        since = self._idle_since
        idle = 0.0 if since is None else time.monotonic() - since
        if self._is_paused and idle > AT_PAUSE:
            self.release()
            return since is not None and since < began
        if idle > patience:
            raise UsageError(
                f"the thread `{self.thread}` is being continued by a call whose stream is open",
                hint="close that stream with `aclose()`, or read it to its end",
            )
        return False


@asynccontextmanager
async def turn_of(home: Any, thread: str, *, patience: float = PATIENCE) -> AsyncGenerator[Turn]:
    """Continue a thread in the block, once no other continuation of it is in progress.

    Args:
        home: The object that keeps the checkpoints: the saver, or its connection.
        patience: Seconds to wait for one whose caller does not take the next chunk.

    Raises:
        UsageError: The stream of another one was left in the middle, and is still open.
    """
    turn, began = Turn(home, thread), time.monotonic()
    while (other := turn.take()) is not None:
        turn.waited = not other.give_way(began, patience)
        await asyncio.sleep(_PAUSE)  # the other one may be of another loop
    try:
        yield turn
    finally:
        turn.release()
