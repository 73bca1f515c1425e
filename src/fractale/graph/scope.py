"""The names that templates and rules see, and the sources of these names' values.

Both are built from a run's state. Outputs that the state stores by reference are read only for the
steps that a template names. A set of labels (`fractale.labels`) describes the sources of a value.
The labels follow values through templates, records and plans inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from fractale.graph.state import PlanState, Record
from fractale.labels import NO_LABELS, Labels, Source, from_data, to_data
from fractale.plan.expressions import references
from fractale.plan.model import Expression, ForEach, Step, Template, Value
from fractale.store.outputs import OutputStore

if TYPE_CHECKING:
    from fractale.graph.context import RunContext


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
    """The expressions in the values that a foreach runs over."""
    items = foreach.items
    parts = items.values() if isinstance(items, Mapping) else [items]
    return [part for part in parts if isinstance(part, Expression)]


@dataclass(frozen=True, slots=True)
class Needs:
    """The values that the templates of a step may read, known before the run.

    Args:
        steps: The steps whose inputs and outputs are read; None if they are unknown.
        previous: Whether `previous` is read.
    """

    steps: frozenset[str] | None
    previous: bool


def needs_of(values: Iterable[Value | Expression]) -> Needs:
    """The names that the values may read."""
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
    if "error" in record:  # an absent error is undefined, so that `| default(…)` works
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


# The sources of values

_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFlow:
    """The labels of every name that the templates of a step can use.

    Args:
        records: Of the steps of the same plan.
        inputs: Of the plan's inputs that have labels.
        last: The step that led here.
        secrets: The names of the plan's secret inputs.
        item: Of the item, inside a foreach.
        base: Of the sources that a model had read before it wrote the step.
    """

    records: Mapping[str, Record] = field(default_factory=dict[str, Record])
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    last: str | None = None
    secrets: frozenset[str] = frozenset()
    item: Labels = NO_LABELS
    base: Labels = NO_LABELS

    @property
    def previous(self) -> Labels:
        """The labels of the step that led here."""
        return self._of_step(self.last) if self.last else NO_LABELS

    def of(self, value: Value | Expression) -> Labels:
        """The labels of the value's rendered result."""
        found: set[Source] = set(self.base)
        for reference in references(value):
            found.update(self._of_path(reference.path))
        return frozenset(found)

    def _of_path(self, path: tuple[str | int, ...]) -> Iterable[Source]:
        root, name = path[0], str(path[1]) if len(path) > 1 else None
        if root == "steps":
            return self._of_step(name) if name else self._of_all()
        if root == "inputs":
            return self._of_input(name) if name else self._of_inputs()
        if root == "previous":
            return self.previous
        return self.item if root == "item" else ()

    def _of_step(self, name: str) -> Labels:
        return labels_of(self.records.get(name, Record()))

    def _of_all(self) -> Labels:
        return labels_of(*self.records.values())

    def _of_input(self, name: str) -> Labels:
        labels = from_data(self.inputs.get(name))
        secret = Source(kind="input", name=name, private=True)
        return labels | {secret} if name in self.secrets else labels

    def _of_inputs(self) -> Labels:
        return NO_LABELS.union(*map(self._of_input, {*self.inputs, *self.secrets}))

    def for_items(self, foreach: ForEach) -> LabelFlow:
        """The flow inside a foreach, where `item` has the labels of the values it runs over."""
        item = NO_LABELS.union(*map(self.of, foreach_expressions(foreach)))
        return replace(self, item=item)


def flow_of(state: PlanState, secrets: Iterable[str], base: Labels) -> LabelFlow:
    """The flow into a step that is entered with a state."""
    return LabelFlow(
        records=state.get("steps", {}),
        inputs=state.get("sources", {}),
        last=state.get("last"),
        secrets=frozenset(secrets),
        base=base,
    )


def labels_of(*records: Mapping[str, Any]) -> Labels:
    """The labels of the outputs of steps, or of items of a foreach."""
    return NO_LABELS.union(*(from_data(record.get("sources")) for record in records))


def sources_data(labels: Mapping[str, Labels]) -> dict[str, Any]:
    """The labels of a plan's inputs, in the form that its state stores. Empty ones are left out."""
    return {name: to_data(own) for name, own in labels.items() if own}


def literal_of(value: Value) -> str:
    """The parts of a text that the plan's author wrote: everything but its templates."""
    if isinstance(value, Template):
        return _TEMPLATE.sub(" ", value.source)
    return value if isinstance(value, str) else ""
