"""A run in a thread of its own, whose chunks arrive in the server's loop.

A run waits for disks, as its journal must, and for other processes. In the server's own loop that
would hold up everybody, which the development server looks out for and refuses.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

Emit = Callable[[Any], None]
"""Takes one chunk of a run's stream."""

Work = Callable[[Emit], Awaitable[None]]


class _End:
    """The end of the work, with what ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Worker:
    """One thread with a loop that does one piece of work."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._home = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancelled = False
        self.chunks: asyncio.Queue[Any] = asyncio.Queue()

    def start(self) -> None:
        threading.Thread(target=self._main, name="fractale-run", daemon=True).start()

    def cancel(self) -> None:
        """End the work as Ctrl-C would."""
        self._cancelled = True
        if self._loop and self._task:
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _main(self) -> None:
        _may_wait()
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(self._do())
        except BaseException as raised:  # noqa: BLE001 - it is raised again where it is waited for
            error = raised
        self._tell(_End(error))

    async def _do(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if not self._cancelled:
            await self._work(self._tell)

    def _tell(self, chunk: Any) -> None:
        self._home.call_soon_threadsafe(self.chunks.put_nowait, chunk)


async def in_own_thread(work: Work) -> AsyncGenerator[Any]:
    """Do work in a thread of its own.

    Args:
        work: Takes a function that takes each chunk.

    Yields:
        The chunks. Where the reader goes away, the work is cancelled, and its end waited for.

    Raises:
        BaseException: What the work raised.
    """
    worker = _Worker(work)
    worker.start()
    ended = False
    try:
        while True:
            chunk = await worker.chunks.get()
            if isinstance(chunk, _End):
                ended = True
                if chunk.error:
                    raise chunk.error
                return
            yield chunk
    finally:
        if not ended:
            worker.cancel()
            await asyncio.shield(asyncio.ensure_future(_end_of(worker)))


async def _end_of(worker: _Worker) -> None:
    while not isinstance(await worker.chunks.get(), _End):
        pass


def _may_wait() -> None:
    """Let this thread's loop wait: nobody but its own run does so.

    The server's watch over blocking calls (blockbuster) looks at every loop of the process, not
    only at the server's, and has no other way to leave one out.
    """
    try:
        from blockbuster import blockbuster
    except ImportError:
        return
    blockbuster._skip.value = True  # pyright: ignore[reportPrivateUsage] - see above
