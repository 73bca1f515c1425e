"""What a sweep's record says, read for people: every display and export of a sweep uses this.

Reading takes no lock, so a view of a sweep in progress is a moment's picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fractale.sweeps.record import RowState


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One row of a sweep.

    Args:
        inputs: The inputs that vary.
        run: The run of its latest attempt; empty if none has started.
        attempt: From 1; 0 if none has started.
        used: As in `task.RunReport`.
        asks: The steps whose questions the run waits for.
        losses: How often a worker was lost with it, in its latest attempt.
    """

    row: int
    inputs: Mapping[str, Any]
    state: RowState
    run: str = ""
    attempt: int = 0
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    used: Mapping[str, float] = field(default_factory=dict[str, float])
    error: str | None = None
    failed_at: str = ""
    asks: tuple[str, ...] = ()
    seconds: float = 0.0
    losses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """A limit of the sweep.

    Args:
        name: As in `limits` of a plan: ``tokens``, ``cost``, ``node_hours``, …
        reserved: By runs that are not over.
    """

    name: str
    limit: float
    used: float
    reserved: float

    @property
    def left(self) -> float:
        return max(0.0, self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepView:
    """A sweep.

    Args:
        plan: The name of the plan, and `file` its path.
        varied: The names of the inputs that vary, in order.
        executor: The name of the executor: ``local`` or one of the settings.
        status: ``running`` while a process drives it; ``queued`` while its detached driver has not
            begun; else ``success``, ``failed``, ``waiting``, ``limit`` or ``stopped``.
        counts: State → number of rows, without zeros.
        reached: The name of the limit at which the sweep stopped.
        next: The commands to type next.
        merit: The output by which the user compares rows, if the sweep names one.
        used: The sums over all rows.
    """

    id: str
    plan: str
    file: str
    plan_hash: str
    started: float
    ended: float | None
    varied: tuple[str, ...]
    executor: str
    status: str
    counts: Mapping[str, int]
    rows: tuple[RowView, ...]
    limits: tuple[LimitView, ...]
    used: Mapping[str, float]
    reached: str | None = None
    reason: str | None = None
    next: tuple[str, ...] = ()
    merit: str | None = None
