"""The limits of a run: time, tokens, cost, steps, depth, and the number of concurrent items."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import cast

from fractale.errors import LimitReached
from fractale.graph.interrupts import is_suspended
from fractale.graph.state import Spent
from fractale.jobs.budget import LIMITS, Budget, Ledger, MemoryLedger
from fractale.models import Usage
from fractale.plan.model import Limits

RAISE = "raise it with --limit and go on with `fractale resume`"
DEFAULT_DEPTH = 5
"""The maximum nesting of drafted plans, and of agents that ask agents."""


class Meter:
    """Counts the usage of the whole tree of a run, and stops the run at the first limit reached.

    Args:
        limits: Of the plan at the top of the run.
        spent: The usage of earlier processes of the same run.
        ledger: The usage of its batch jobs.

    Attributes:
        jobs: The budget of its batch jobs.
    """

    def __init__(
        self, limits: Limits, spent: Spent | None = None, ledger: Ledger | None = None
    ) -> None:
        self._limits = limits
        hours = {name: getattr(limits, name) for name in LIMITS}
        set_ones = {name: most for name, most in hours.items() if most is not None}
        self.jobs = Budget(set_ones, ledger or MemoryLedger())
        self.total: Spent = cast("Spent", dict(spent or {}))
        self._earlier = self.total.get("seconds", 0.0)
        self._started = time.monotonic()
        self._pauses = 0
        self._paused_at = 0.0
        self._entered: dict[str, str] = {}
        self._under_way = 0
        self._largest = Usage()
        self._room = asyncio.Condition()

    @property
    def seconds(self) -> float:
        """Seconds of running, earlier processes included."""
        now = self._paused_at if self._pauses else time.monotonic()
        return self._earlier + now - self._started

    @contextmanager
    def paused(self) -> Generator[None]:
        """Stop the run's time while fractale asks the user or waits for a job."""
        if not self._pauses:
            self._paused_at = time.monotonic()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._started += time.monotonic() - self._paused_at

    def enter_step(self, path: str, task: str) -> bool:
        """Count one entry of a step.

        Args:
            task: LangGraph's name of the task. Each entry has another name.

        Returns:
            Whether the entry is new. A step that asked the user runs again from its start when it
            has the answer, which does not count as another entry.

        Raises:
            LimitReached: The run has used up a limit.
        """
        if task and self._entered.get(path) == task:
            return False
        self.check()
        limit = self._limits.steps
        used = self.total.get("steps", 0)
        if limit is not None and used >= limit:
            steps = "1 step" if used == 1 else f"{used} steps"
            raise LimitReached("steps", f"the run has entered {steps}, its limit", hint=RAISE)
        self.total["steps"] = used + 1
        self._entered[path] = task
        return True

    @property
    def steps_left(self) -> int | None:
        """The number of steps that the run may still enter. None: unlimited."""
        limit = self._limits.steps
        return None if limit is None else max(limit - self.total.get("steps", 0), 0)

    def check_depth(self, depth: int) -> None:
        """Check the depth before a drafted plan or an agent's agent begins, `depth` levels down.

        Raises:
            LimitReached: The run may not nest that deep.
        """
        if depth > self.most_depth:
            message = f"plans and agents are nested {self.most_depth} deep, the run's limit"
            raise LimitReached("depth", message, hint=RAISE)

    @property
    def most_depth(self) -> int:
        """The maximum nesting of drafted plans and agents."""
        return DEFAULT_DEPTH if self._limits.depth is None else self._limits.depth

    def add(self, usage: Usage) -> None:
        """Add the usage of a model."""
        total = self.total
        total["input_tokens"] = total.get("input_tokens", 0) + usage.input_tokens
        total["output_tokens"] = total.get("output_tokens", 0) + usage.output_tokens
        total["cost"] = total.get("cost", 0.0) + usage.cost
        if usage.total_tokens > self._largest.total_tokens:
            self._largest = usage

    @asynccontextmanager
    async def model_call(self) -> AsyncGenerator[None]:
        """Bound a model call: under a limit of tokens or cost, it waits until it fits.

        Concurrent calls must not pass the limit together. Each call in progress counts as the
        largest call so far. Until the first call returns, no other call starts.

        Raises:
            LimitReached: A limit of the run is used up.
        """
        async with self._room:
            self.check()
            while self._under_way and not self._has_room():
                await self._room.wait()
                self.check()
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            async with self._room:
                self._room.notify_all()

    def _has_room(self) -> bool:
        limits, largest = self._limits, self._largest
        if limits.tokens is None and limits.cost is None:
            return True
        if not largest.total_tokens:
            return False
        tokens = self._tokens() + self._under_way * largest.total_tokens
        cost = self.total.get("cost", 0.0) + self._under_way * largest.cost
        return (limits.tokens is None or tokens < limits.tokens) and (
            limits.cost is None or cost < limits.cost
        )

    def _tokens(self) -> int:
        return self.total.get("input_tokens", 0) + self.total.get("output_tokens", 0)

    def check(self) -> None:
        """Check the limits before a call.

        Raises:
            LimitReached: Time, tokens or cost are used up.
        """
        limits, total, tokens = self._limits, self.total, self._tokens()
        if limits.time is not None and self.seconds >= limits.time:
            raise LimitReached(
                "time", f"the run has taken {limits.time:g} s, its limit", hint=RAISE
            )
        if limits.tokens is not None and tokens >= limits.tokens:
            message = f"the run has used {tokens} tokens; its limit is {limits.tokens}"
            raise LimitReached("tokens", message, hint=RAISE)
        if limits.cost is not None and total.get("cost", 0.0) >= limits.cost:
            message = (
                f"the run has cost ${total.get('cost', 0.0):.3f}; its limit is ${limits.cost:g}"
            )
            raise LimitReached("cost", message, hint=RAISE)


class Full(Exception):
    """Every slot belongs to an item that is suspended while its job runs."""


class ConcurrencyLimit:
    """Limits the number of concurrent items of a foreach, in the order of their arrival.

    An item that is suspended while its job runs keeps its slot, since the job still counts. Once
    such items have all slots, no other item starts.

    A freed slot goes to the item that has waited longest and wakes no other item. Waking all
    of them each time would take time quadratic in the number of items.

    Args:
        most: The number of slots.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._suspended = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        """Wait for a slot.

        Raises:
            Full: No slot will become free in this process.
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
                self._free()  # the item was cancelled after it had got the slot
            raise

    @property
    def _is_full(self) -> bool:
        return self._suspended >= self._most

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the slot, unless the item is suspended."""
        if not is_suspended(error):
            self._free()
            return
        self._suspended += 1
        while self._is_full and (turn := self._next()):
            turn.set_exception(Full())

    def _free(self) -> None:
        if turn := self._next():
            turn.set_result(None)
        else:
            self._taken -= 1

    def _next(self) -> asyncio.Future[None] | None:
        """The item that has waited longest and still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn
        return None
