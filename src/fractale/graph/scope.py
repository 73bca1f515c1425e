"""The names that templates and rules see, built from a run's state.

Outputs that the state holds by reference are read only for the steps that a template names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fractale.graph.context import RunContext
from fractale.graph.state import PlanState, Record
from fractale.plan.expressions import references
from fractale.plan.model import Expression, ForEach, Step, Value
from fractale.store.outputs import OutputStore


def step_values(step: Step) -> list[Value | Expression]:
    """Every template and expression of a step, with those of the steps inside it."""
    values: list[Value | Expression] = [dict(step.inputs), step.instruction]
    if step.job:
        values.append(step.job.values())
    values += [rule.expression for rule in step.rules]
    if step.when:
        values.append(step.when)
    if step.foreach:
        values += foreach_expressions(step.foreach)
    for inner in step.steps:
        values += step_values(inner)
    return values


def foreach_expressions(foreach: ForEach) -> list[Expression]:
    """The expressions among what a foreach runs over."""
    items = foreach.items
    parts = items.values() if isinstance(items, Mapping) else [items]
    return [part for part in parts if isinstance(part, Expression)]


@dataclass(frozen=True, slots=True)
class Needs:
    """What the templates of a step may read, known before the run.

    Args:
        steps: The steps whose inputs and outputs are read; None where that can't be known.
        previous: Whether `previous` is read.
    """

    steps: frozenset[str] | None
    previous: bool


def needs_of(values: Iterable[Value | Expression]) -> Needs:
    """What the values may read."""
    names: set[str] = set()
    previous, anything = False, False
    for value in values:
        for reference in references(value):
            path = reference.path
            previous = previous or path[:1] == ("previous",)
            if path[:1] == ("steps",):
                anything = anything or len(path) < 2
                names.update(str(part) for part in path[1:2])
    return Needs(None if anything else frozenset(names), previous)


def build_scope(
    state: PlanState, context: RunContext, store: OutputStore, needs: Needs
) -> dict[str, Any]:
    """`inputs`, `steps`, `previous` and `run` for the templates of one step.

    Values that `needs` does not name are not read from the store.
    """
    records = state.get("steps", {})
    inputs = {key: store.get(value) for key, value in state.get("inputs", {}).items()}
    last = state.get("last")
    return {
        "inputs": {**inputs, **context.secret_inputs},
        "steps": {
            name: _view(record, store, read=needs.steps is None or name in needs.steps)
            for name, record in records.items()
        },
        "previous": _previous(
            last, records.get(last, Record()) if last else Record(), store, read=needs.previous
        ),
        "run": context.variables(),
    }


def _view(record: Record, store: OutputStore, *, read: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "outcome": record.get("outcome"),
        "attempts": record.get("attempts", 0),
        "outputs": {},
        "inputs": {},
    }
    if "error" in record:  # without one it is undefined, so that `| default(…)` works
        view["error"] = record["error"]
    if read:
        view["outputs"] = store.get(record.get("outputs", {}))
        view["inputs"] = store.get(record.get("inputs", {}))
    return view


def _previous(
    name: str | None, record: Record, store: OutputStore, *, read: bool
) -> dict[str, Any]:
    if name is None:
        return {}
    view: dict[str, Any] = {
        "name": name,
        "outcome": record.get("outcome"),
        "outputs": store.get(record.get("outputs", {})) if read else {},
    }
    if "error" in record:
        view["error"] = record["error"]
    return view
