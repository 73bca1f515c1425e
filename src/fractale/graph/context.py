"""What the nodes of a run may use, and what they have used.

`Dependencies` are the outside things, one adapter each, given once to `compile_plan`.
`RunContext` belongs to one run and reaches the nodes through LangGraph's own context.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fractale.errors import LimitReached
from fractale.events import Event, EventKind
from fractale.graph.state import Spent
from fractale.models import Models, Usage
from fractale.plan.model import Limits
from fractale.policy import Policy
from fractale.settings import DEFAULT_MAX_ATTEMPTS, Settings
from fractale.store.outputs import MemoryOutputs, OutputStore
from fractale.toolbox import Toolbox

MASK = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The outside world as a graph sees it. Each part can be another one in a test."""

    toolbox: Toolbox
    models: Models = field(default_factory=lambda: Models(Settings()))
    outputs: OutputStore = field(default_factory=MemoryOutputs)
    policy: Policy = field(default_factory=Policy)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


class Meter:
    """Counts what the whole tree of a run uses and stops it at the first limit reached.

    Args:
        limits: Of the plan at the top of the run.
        spent: What earlier processes of the same run have used.
    """

    def __init__(self, limits: Limits, spent: Spent | None = None) -> None:
        self._limits = limits
        self.total: Spent = cast("Spent", dict(spent or {}))
        self._earlier = self.total.get("seconds", 0.0)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of running, earlier processes included."""
        return self._earlier + time.monotonic() - self._started

    def enter_step(self) -> None:
        """Count one entry of a step.

        Raises:
            LimitReached: The run has used up a limit.
        """
        self.check()
        limit = self._limits.steps
        used = self.total.get("steps", 0)
        if limit is not None and used >= limit:
            raise LimitReached("steps", f"the run has entered {used} steps, its limit", hint=RAISE)
        self.total["steps"] = used + 1

    def add(self, usage: Usage) -> None:
        """Count what a model used."""
        total = self.total
        total["input_tokens"] = total.get("input_tokens", 0) + usage.input_tokens
        total["output_tokens"] = total.get("output_tokens", 0) + usage.output_tokens
        total["cost"] = total.get("cost", 0.0) + usage.cost

    def check(self) -> None:
        """Called before each call.

        Raises:
            LimitReached: Time, tokens or cost are used up.
        """
        limits, total = self._limits, self.total
        tokens = total.get("input_tokens", 0) + total.get("output_tokens", 0)
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


RAISE = "raise it with --limit and go on with `fractale resume`"


@dataclass(slots=True, kw_only=True)
class RunContext:
    """One run, as its nodes see it.

    Args:
        emit_event: Takes every event of the run.
        secret_inputs: Secret inputs of the plan; they live here only, never in the state.
        secrets: Texts that must not be shown or stored; each is replaced by ``***``.
        item_scope, item_path, slots: Inside a foreach: the names that its templates see, its
            path, and how many items may run at the same time.
    """

    run_id: str = "run"
    plan_name: str = ""
    run_dir: Path | None = None
    emit_event: Callable[[Event], None] = lambda _event: None
    meter: Meter = field(default_factory=lambda: Meter(Limits()))
    secret_inputs: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    item_scope: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    item_path: str = ""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    _pattern: re.Pattern[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        texts = sorted({*self.secrets, *self.secret_inputs.values()} - {""}, key=len, reverse=True)
        if texts:
            self._pattern = re.compile("|".join(re.escape(text) for text in texts))

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Tell every listener what happened, secrets masked."""
        self.emit_event(Event(kind, self.run_id, cast("dict[str, Any]", self.mask(data))))

    def mask(self, value: Any) -> Any:
        """The same JSON value with each secret in it replaced by ``***``."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(MASK, value)
        if isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            return {self.mask(key): self.mask(item) for key, item in table.items()}
        if isinstance(value, (list, tuple)):
            return [self.mask(item) for item in cast("list[Any]", value)]
        return value

    def variables(self) -> dict[str, Any]:
        """The `run` of templates; a run that is not kept has no `dir`."""
        known = {"id": self.run_id, "plan": self.plan_name}
        return {**known, "dir": str(self.run_dir)} if self.run_dir else known
