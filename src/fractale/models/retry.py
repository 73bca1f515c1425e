"""When to ask a model again, and how long to wait before that."""

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
    """How often to ask again a model that is busy or unreachable; times in seconds.

    Args:
        tries: Number of attempts, including the first.
        delay: Wait before the second attempt; each later wait is `backoff` times longer.
        max_delay: The longest wait that the policy itself chooses.
        patience: The longest wait that a server may ask for. If it asks for more, the call fails at
            once and reports the requested wait.
        sleep: The function that waits; tests may pass another one.
        random: A number from 0 to 1, for jitter: many steps must not retry at the same time.
    """

    tries: int = 4
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 30.0
    patience: float = 120.0
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)
    random: Callable[[], float] = field(default=random.random, repr=False)

    def wait_before(self, failed: int, retry_after: float | None) -> float:
        """Return the seconds to wait after a number of failed attempts.

        The wait is half to all of the delay for that attempt, and never shorter than the server
        asked for.
        """
        delay = min(self.delay * self.backoff ** (failed - 1), self.max_delay)
        jittered = delay * (0.5 + 0.5 * self.random())
        return jittered if retry_after is None else max(jittered, retry_after + 0.1 * jittered)

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make the call, and retry it if that may help.

        Raises:
            ModelUnavailable: Every attempt failed, or the server asks for more than `patience`. Its
                `usage` is the usage of all attempts.
            ModelError: The model failed in a way that a retry does not change.
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
