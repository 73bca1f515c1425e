"""One run that a worker is to perform, and what it reports: both are JSON.

The driver sends a `RunTask` to an executor, which may be in another process or on another machine
that shares the state directory. The worker resumes the run if its record exists, and starts it
otherwise. So a task may be sent again after a worker was lost: the run's lock and journal make that
safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTask:
    """One run to be performed.

    Args:
        run: The ID of the run, `record.run_id_of`.
        sweep: The ID of the sweep.
        row: From 0.
        plan: The path of the plan's file, absolute.
        plan_hash: `fractale.record.plans.plan_hash` of the plan when the sweep was started. A
            worker that reads another plan reports the row as failed and runs nothing.
        inputs: All inputs of the run. Secret ones are left out: workers read these from their
            environment.
        directory: The working directory of the run.
        state_dir: Absolute. The record of the run is made there.
        limits: The limits of this run, as the `limits` of a plan.
        options: What the whole sweep shares, for all its runs: ``{registries, agents, model,
            provider, max_attempts, store, yes, answers, trusted, reuse}``; missing keys: the
            default.
        replies: Answers to the questions that the run waits for: only used to resume it.
    """

    run: str
    sweep: str
    row: int
    plan: str
    plan_hash: str
    inputs: Mapping[str, Any]
    directory: str
    state_dir: str
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replies: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def attempt(self) -> int:
        """The number of the row's attempt, from 1; the run's ID has it."""
        _, _, attempt = self.run.removeprefix(f"{self.sweep}.").partition(".")
        return int(attempt) if attempt.isdecimal() else 1

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunTask:
        """The inverse of `as_dict`."""
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """The outcome of a task.

    Args:
        status: Of the run. A run that could not be started or whose record could not be read is
            ``failed`` only if it certainly did nothing and never will; else the worker raises, and
            the driver counts a loss.
        outputs: Those of the plan. A text of more than 1,000 characters is cut; the run's record
            has the whole.
        waiting: The questions, jobs and times that the run waits for, as in `RunResult`.
        used: What the run has used in all, over all its processes: ``{tokens, cost, node_hours,
            core_hours, gpu_hours, jobs}``.
        error: The sentence that says why it failed.
        failed_at: The step at which it failed.
        seconds: How long the run was in progress, over all its processes, with its batch jobs.
        held: Whether another process has the run: nothing was done, and the driver asks later.
        again: Whether the run stopped for a reason of its machine, such as a full disk or the end
            of its worker. The driver then treats it as a lost worker.
    """

    run: str
    status: str
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    waiting: tuple[Mapping[str, Any], ...] = ()
    used: Mapping[str, float] = field(default_factory=dict[str, float])
    error: str | None = None
    failed_at: str = ""
    seconds: float = 0.0
    held: bool = False
    again: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunReport:
        """The inverse of `as_dict`."""
        known: dict[str, Any] = {**data, "waiting": tuple(data.get("waiting") or ())}
        return cls(**known)
