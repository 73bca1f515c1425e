"""The effects of a sweep before it starts, and its cost at most: nothing is written or opened.

A figure is only given if something bounds it: the limits of each run, times the rows, or a limit of
the whole sweep. Without a bound it is None.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fractale.masking import MASK
from fractale.plan.model import Plan, Step
from fractale.plan.needs import models_of
from fractale.runs.dry_run import describe, shown_inputs
from fractale.runs.workspace import Extensions
from fractale.settings import Settings
from fractale.sweeps.begin import Prepared
from fractale.sweeps.budget import OF_MODELS, SUBMITTING, most_of
from fractale.sweeps.executors import executor_settings

FIRST, LAST = 3, 2
"""How many rows are shown from the beginning and from the end."""

COSTS: Final = ("tokens", "cost", "node_hours", "core_hours", "gpu_hours", "jobs")


def describe_sweep(
    prepared: Prepared, settings: Settings, extensions: Extensions | None = None
) -> dict[str, Any]:
    """Everything that a sweep would do, as JSON.

    Returns:
        The key `most` has for each of `COSTS` ``{each, rows, limit, most}``: what a run may use,
        that times the rows, the limit of the sweep, and the least of the two; None without a bound.
        `effects` is what `fractale run --dry-run` says of the first row.
    """
    spec, plan, rows = prepared.spec, prepared.plan, prepared.rows.rows
    secret = {name: MASK for name, each in plan.inputs.items() if each.secret}
    return {
        "sweep_file": spec.file,
        "description": spec.description,
        "plan": plan.name,
        "file": plan.file,
        "rows": len(rows),
        "varied": list(prepared.rows.varied),
        "inputs": {**prepared.rows.constant, **secret},
        "first": [dict(row) for row in rows[:FIRST]],
        "last": [dict(row) for row in rows[max(FIRST, len(rows) - LAST) :]],
        "table": spec.table,
        "sample": spec.sample,
        "seed": spec.seed if spec.sample is not None else None,
        "executor": spec.on,
        "at_a_time": at_a_time(prepared, settings),
        "limits": dict(spec.limits),
        "run_limits": dict(spec.run_limits),
        "answers": dict(spec.answers),
        "merit": spec.merit,
        "most": most(prepared),
        "effects": describe(plan, shown_inputs(plan, prepared.first_inputs), settings, extensions),
    }


def at_a_time(prepared: Prepared, settings: Settings) -> int:
    """The most runs that are in progress at a time."""
    spec = prepared.spec
    found = executor_settings(settings, spec.on)
    room = found.workers if found else settings.local_cores or len(os.sched_getaffinity(0))
    if spec.max_parallel is not None:
        room = min(room, spec.max_parallel) if found else spec.max_parallel
    return min(room, len(prepared.rows.rows))


def most(prepared: Prepared) -> dict[str, dict[str, float | None]]:
    """What all runs may use at most, for each of `COSTS`; see `describe_sweep`."""
    spec, plan, rows = prepared.spec, prepared.plan, len(prepared.rows.rows)
    of_run: Mapping[str, float] = most_of(plan, spec.run_limits)
    asks, submits = _asks_models(plan), _submits_jobs(plan)
    found: dict[str, dict[str, float | None]] = {}
    for name in COSTS:
        each = of_run.get(name)
        if not (asks if name in OF_MODELS else submits):
            each = 0
        product = None if each is None else each * rows
        limit = spec.limits.get(name)
        bounds = [bound for bound in (product, limit) if bound is not None]
        least = min(bounds) if bounds else None
        found[name] = {"each": each, "rows": product, "limit": limit, "most": least}
    return found


def _asks_models(plan: Plan) -> bool:
    return bool(plan.experts or models_of(plan))


def _submits_jobs(plan: Plan) -> bool:
    """Whether steps may submit batch jobs; a model may, by a tool of its choice."""
    return _asks_models(plan) or any(map(_submits, _steps(plan)))


def _submits(step: Step) -> bool:
    if step.kind != "tool":
        return step.kind == "job"
    # A name that is a template is not known yet.
    name = str(step.target)
    return "{" in name or name.rpartition(".")[2] in SUBMITTING


def _steps(plan: Plan) -> Iterator[Step]:
    for step in plan.walk():
        yield step
        if step.plan is not None:
            yield from _steps(step.plan)
