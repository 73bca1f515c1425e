"""What a run cost: time, tokens, dollars and node-hours by step and by model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fractale.durations import in_words
from fractale.errors import StoreError
from fractale.plan.paths import without_indexes
from fractale.render.summary import LEAST_HOURS
from fractale.render.text import inert

if TYPE_CHECKING:
    from fractale.record.history import RecordedJob, RunHistory

OTHER_JOBS = "(jobs of tools)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """One step or one model; a cell is empty if there is nothing to say.

    Args:
        name: The step's path without indexes of items, or the model.
        attempts: Of a step.
        time: Of the step's attempts together; of a model, of its calls.
        calls: Of tools and models.
        tokens: Read and written.
        waited: How long the step's jobs waited in the queue.
    """

    name: str
    attempts: str = ""
    time: str = ""
    calls: str = ""
    tokens: str = ""
    cost: str = ""
    jobs: str = ""
    node_hours: str = ""
    waited: str = ""


@dataclass(slots=True)
class _Sums:
    attempts: int = 0
    seconds: float = 0.0
    tool_calls: int = 0
    model_calls: int = 0
    read: int = 0
    written: int = 0
    cost: float = 0.0
    jobs: int = 0
    node_hours: float = 0.0
    waited: float = 0.0

    def row(self, name: str) -> CostRow:
        kinds = [(self.tool_calls, "tool"), (self.model_calls, "model")]
        used = self.read + self.written
        return CostRow(
            name=inert(name, 200),
            attempts=str(self.attempts) if self.attempts else "",
            time=in_words(self.seconds) if self.seconds else "",
            calls=", ".join(f"{number:,} {kind}" for number, kind in kinds if number),
            tokens=f"{self.read:,} + {self.written:,}" if used else "",
            cost=f"${self.cost:.4f}" if self.cost else "",
            jobs=f"{self.jobs:,}" if self.jobs else "",
            node_hours=hours_text(self.node_hours),
            waited=in_words(self.waited) if self.waited else "",
        )


def hours_text(hours: float) -> str:
    """Node-hours in a cell."""
    if not hours:
        return ""
    return f"{hours:.4g}" if hours >= LEAST_HOURS else f"< {LEAST_HOURS:g}"


def by_step(history: RunHistory) -> Iterable[CostRow]:
    """The steps in the order in which they were started, and their total if there are several."""
    sums: dict[str, _Sums] = {}
    hours = node_hours(history)
    total = _Sums()
    for attempt in history.attempts:
        own = sums.setdefault(without_indexes(attempt.path), _Sums())
        own.attempts += attempt.outcome != "skipped"
        own.seconds += attempt.seconds or 0.0
        for each in (own, total):
            each.tool_calls += sum(1 for call in attempt.calls if call.kind == "tool")
            each.model_calls += sum(1 for call in attempt.calls if call.kind == "model")
            each.read += sum(call.input_tokens for call in attempt.calls)
            each.written += sum(call.output_tokens for call in attempt.calls)
            each.cost += attempt.cost
            each.jobs += len(attempt.jobs)
            for job in attempt.jobs:
                each.node_hours += hours.get(_key(job), 0.0)
                if job.submitted and job.started:
                    each.waited += max(0.0, job.started - job.submitted)
    known = {_key(job) for v in history.attempts for job in v.jobs}
    if other := [amount for key, amount in hours.items() if key not in known and amount]:
        sums[OTHER_JOBS] = _Sums(jobs=len(other), node_hours=sum(other))
        total.jobs += len(other)
        total.node_hours += sum(other)
    yield from (each.row(name) for name, each in sums.items())
    if len(sums) > 1:
        total.seconds = float(history.usage.get("seconds") or 0.0)
        yield total.row("all steps")


def by_model(history: RunHistory) -> Iterable[CostRow]:
    """The models that were called."""
    sums: dict[str, _Sums] = {}
    for call in history.calls():
        if call.kind == "model":
            own = sums.setdefault(call.name, _Sums())
            own.model_calls += 1
            own.seconds += call.seconds or 0.0
            own.read += call.input_tokens
            own.written += call.output_tokens
            own.cost += call.cost
    yield from (each.row(name) for name, each in sums.items())


def _key(job: RecordedJob) -> str:
    return job.key if job.index is None else f"{job.key}[{job.index}]"


def node_hours(history: RunHistory) -> dict[str, float]:
    """The node-hours that each batch job used, by its key; elements of arrays as ``KEY[3]``."""
    from fractale.jobs.budget import FileLedger

    found: dict[str, float] = {}
    try:
        lines = FileLedger(history.record.job_ledger).lines()
    except StoreError:
        return found
    for line in lines:
        if line.get("is") == "used":
            amount = cast("dict[str, Any]", line.get("amount") or {})
            found[str(line.get("key"))] = float(amount.get("node_hours") or 0.0)
    return found
