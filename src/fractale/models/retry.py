"""When to ask a model again, and how long to wait before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fractale.errors import ModelUnavailable
from fractale.models.usage import Usage

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
            ModelUnavailable: Every try failed, or the server asks for more than `patience`. Its
                `usage` is what all tries used.
            ModelError: The model failed in a way that asking again does not change.
        """
        failed, used = 0, Usage()
        while True:
            try:
                return await attempt()
            except ModelUnavailable as error:
                failed += 1
                used += error.usage or Usage()
                asked = error.retry_after
                if failed >= self.tries or (asked or 0) > self.patience:
                    raise _after_tries(error, failed, used) from error.__cause__
                await self.sleep(self.wait_before(failed, asked))


def _after_tries(error: ModelUnavailable, tries: int, used: Usage) -> ModelUnavailable:
    wait = f"; it asks to wait {error.retry_after:g} s" if error.retry_after else ""
    count = f" ({tries} tries)" if tries > 1 else ""
    last = ModelUnavailable(
        f"{error.message}{wait}{count}", retry_after=error.retry_after, hint=error.hint
    )
    last.usage = used if used.calls else None
    return last
