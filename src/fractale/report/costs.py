"""The cost of a run: time, tokens, dollars and node-hours by step and by model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from fractale.durations import in_words
from fractale.errors import StoreError
from fractale.jobs.budget import INHERITED
from fractale.plan.paths import without_indexes
from fractale.render.summary import LEAST_HOURS
from fractale.render.text import inert
from fractale.report.plots import TableView
from fractale.report.timeline import Span, length, union

if TYPE_CHECKING:
    from fractale.record.history import RecordedCall, RecordedJob, RunHistory

OTHER_JOBS = "(jobs of tools)"
BEFORE = "(before the fork)"
"""The node-hours of the run that was forked: they count in the budget of the fork."""


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

    def add_calls(self, calls: Iterable[RecordedCall]) -> None:
        for call in calls:
            self.tool_calls += call.kind == "tool"
            self.model_calls += call.kind == "model"
            self.read += call.input_tokens
            self.written += call.output_tokens
            self.cost += call.cost

    def cells(self) -> tuple[str, ...]:
        """The cells of `COLUMNS`; one is empty if there is nothing to say."""
        kinds = [(self.tool_calls, "tool"), (self.model_calls, "model")]
        used = self.read + self.written
        return (
            str(self.attempts) if self.attempts else "",
            in_words(self.seconds) if self.seconds else "",
            ", ".join(f"{number:,} {kind}" for number, kind in kinds if number),
            f"{self.read:,} + {self.written:,}" if used else "",
            f"${self.cost:.4f}" if self.cost else "",
            f"{self.jobs:,}" if self.jobs else "",
            hours_text(self.node_hours),
            in_words(self.waited) if self.waited else "",
        )


COLUMNS = (
    *("attempts", "time", "calls", "tokens in + out", "cost"),
    *("jobs", "node-hours", "jobs waited"),
)


def cost_tables(history: RunHistory) -> tuple[TableView, ...]:
    """The cost by step and by model; columns without a value are left out."""
    tables = [
        _table("Cost by step", "step", _by_step(history)),
        _table("Cost by model", "model", _by_model(history)),
    ]
    return tuple(table for table in tables if table.rows)


def _table(title: str, first: str, sums: Mapping[str, _Sums]) -> TableView:
    rows = [(inert(name, 200), *own.cells()) for name, own in sums.items()]
    used = [i for i, _ in enumerate(("", *COLUMNS)) if i == 0 or any(row[i] for row in rows)]
    heads = (first, *COLUMNS)
    return TableView(
        title=title,
        step="",
        columns=tuple(heads[i] for i in used),
        numeric=tuple(i > 0 for i in used),
        rows=tuple(tuple(row[i] for i in used) for row in rows),
        named=True,
    )


def hours_text(hours: float) -> str:
    """Node-hours in a cell."""
    if not hours:
        return ""
    return f"{hours:.4g}" if hours >= LEAST_HOURS else f"< {LEAST_HOURS:g}"


def _by_step(history: RunHistory) -> dict[str, _Sums]:
    """The steps in the order in which they were started, and their total if there are several.

    Each has what it used itself, without the steps inside of it, so that the rows add up.
    """
    sums: dict[str, _Sums] = {}
    hours = node_hours(history)
    before = hours.pop(INHERITED, 0.0)
    times = _own_seconds(history)
    for attempt in history.attempts:
        own = sums.setdefault(without_indexes(attempt.path), _Sums())
        own.attempts += attempt.outcome != "skipped"
        own.seconds += times[id(attempt)]
        own.add_calls(attempt.calls)
        own.jobs += len(attempt.jobs)
        for job in attempt.jobs:
            own.node_hours += hours.get(_key(job), 0.0)
            if job.submitted and job.started:
                own.waited += max(0.0, job.started - job.submitted)
    known = {_key(job) for attempt in history.attempts for job in attempt.jobs}
    if other := [amount for key, amount in hours.items() if key not in known and amount]:
        sums[OTHER_JOBS] = _Sums(jobs=len(other), node_hours=sum(other))
    if before:
        sums[BEFORE] = _Sums(node_hours=before)
    if len(sums) > 1:
        sums["together"] = _together(sums.values())
    return sums


def _together(sums: Iterable[_Sums]) -> _Sums:
    total = _Sums()
    for each in sums:
        for field in fields(_Sums):
            setattr(total, field.name, getattr(total, field.name) + getattr(each, field.name))
    return total


def _own_seconds(history: RunHistory) -> dict[int, float]:
    """The time of each attempt, by its `id`, in which no step inside of it ran."""
    inside: dict[int, list[Span]] = {}
    for attempt in history.attempts:
        if attempt.parent is not None and attempt.seconds:
            end = attempt.ended or attempt.started + attempt.seconds
            inside.setdefault(id(attempt.parent), []).append((end - attempt.seconds, end))
    return {
        id(attempt): max(0.0, (attempt.seconds or 0.0) - length(union(inside.get(id(attempt), []))))
        for attempt in history.attempts
    }


def _by_model(history: RunHistory) -> dict[str, _Sums]:
    sums: dict[str, _Sums] = {}
    for call in history.calls():
        if call.kind == "model":
            own = sums.setdefault(call.name, _Sums())
            own.add_calls([call])
            own.seconds += call.seconds or 0.0
    return sums


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
