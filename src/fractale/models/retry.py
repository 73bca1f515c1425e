"""When to ask a model again, and how long to wait before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fractale.errors import ModelUnavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a model that is busy or out of reach is asked again; times in seconds.

    Args:
        tries: All of them, the first included.
        delay: Before the second try; it grows by `backoff` from try to try.
        max_delay: The longest delay of our own.
        patience: The longest delay that a server may ask for; beyond it, the call fails at once
            and says how long the server asked to wait.
        sleep: Waits; a test may pass another one.
        random: A number from 0 to 1, for jitter: many steps must not come back together.
    """

    tries: int = 4
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 30.0
    patience: float = 120.0
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)
    random: Callable[[], float] = field(default=random.random, repr=False)

    def wait_before(self, failed: int, retry_after: float | None) -> float:
        """Seconds to wait after that many failed tries.

        Between half and all of the delay that has grown so far; where the server said how long
        to wait, never less than that.
        """
        delay = min(self.delay * self.backoff ** (failed - 1), self.max_delay)
        jittered = delay * (0.5 + 0.5 * self.random())
        return jittered if retry_after is None else max(jittered, retry_after + 0.1 * jittered)

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make the call, again where that may help.

        Raises:
            ModelUnavailable: Every try failed, or the server asks for more than `patience`.
            ModelError: The model failed in a way that asking again does not change.
        """
        failed = 0
        while True:
            try:
                return await attempt()
            except ModelUnavailable as error:
                failed += 1
                asked = error.retry_after
                if failed >= self.tries or (asked or 0) > self.patience:
                    raise _told(error, failed) from error.__cause__
                await self.sleep(self.wait_before(failed, asked))


def _told(error: ModelUnavailable, tries: int) -> ModelUnavailable:
    wait = f"; it asks to wait {error.retry_after:g} s" if error.retry_after else ""
    count = f" ({tries} tries)" if tries > 1 else ""
    return ModelUnavailable(
        f"{error.message}{wait}{count}", retry_after=error.retry_after, hint=error.hint
    )
