"""Event loops in threads, for work that waits for disks and programs.

Such waits in the loop of LangGraph's server hold up all other requests, and its development server
refuses them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cached_property
from typing import Any, TypeVar

T = TypeVar("T")


def allow_blocking() -> None:
    """Allow blocking calls in this thread's loop: only its own work waits in it.

    The server's detector of blocking calls (blockbuster) watches every loop of the process. It has
    no other way to exclude a loop.
    """
    try:
        from blockbuster import blockbuster
    except ImportError:
        return
    blockbuster._skip.value = True  # pyright: ignore[reportPrivateUsage] - see above


class WorkerLoop:
    """An event loop in a thread of its own, from its first use until the process ends."""

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=self._work, args=(loop,), name="fractale", daemon=True).start()
        return loop

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        allow_blocking()
        loop.run_forever()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there. If the caller is cancelled, it is cancelled, too."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
