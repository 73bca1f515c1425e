"""What a run may use, and what it has used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fractale.graph.limits import Meter
from fractale.graph.state import Spent
from fractale.models import Usage
from fractale.plan.model import Limits, Plan
from fractale.runs.options import RunOptions

FOR_ALL = ("steps", "time", "tokens", "cost", "node_hours", "core_hours", "gpu_hours", "jobs")
"""The limits that count for the whole run."""
FOR_STEPS = ("attempts", "depth")
"""How often a step may be entered, and how deep plans may nest."""


def limits_of(plan: Plan, options: RunOptions) -> Limits:
    """The plan's limits with those of the options over them."""
    return replace(plan.limits, **limits_set(options.limits, Limits.__slots__))


def limits_set(limits: Limits, names: Iterable[str]) -> dict[str, Any]:
    """Those of some limits that are set."""
    values = {name: getattr(limits, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def used_in(event: Mapping[str, Any]) -> Usage:
    """What a call of a model used, as the record tells it; nothing where it was not made again."""
    if event.get("recorded"):
        return Usage()
    return Usage(
        input_tokens=event["input_tokens"],
        output_tokens=event["output_tokens"],
        cost=event["cost"],
    )


def spent_by(state: Spent | None, used: Usage) -> Spent:
    """What a run has used: the state's sum, or more where a step was cut off in the middle."""
    known = state or Spent()
    return Spent(
        steps=known.get("steps", 0),
        seconds=known.get("seconds", 0.0),
        input_tokens=max(known.get("input_tokens", 0), used.input_tokens),
        output_tokens=max(known.get("output_tokens", 0), used.output_tokens),
        cost=max(known.get("cost", 0.0), used.cost),
    )


def usage_data(meter: Meter) -> dict[str, Any]:
    """What a run has used, as its result tells it; see `RunResult`."""
    total = meter.total
    used = {k: total.get(k, 0) for k in ("input_tokens", "output_tokens")}
    return {
        **used,
        "total_tokens": sum(used.values()),
        "cost": round(total.get("cost", 0.0), 6),
        "seconds": round(meter.seconds, 3),
        **_jobs_data(meter),
    }


def _jobs_data(meter: Meter) -> dict[str, Any]:
    """What batch jobs have used and still have reserved; nothing of a run that had none."""
    used, reserved = meter.jobs.used.as_dict(), meter.jobs.reserved.as_dict()
    told = {name: amount for name, amount in used.items() if amount or reserved["jobs"]}
    if reserved["jobs"]:
        told["reserved"] = reserved
    return told
