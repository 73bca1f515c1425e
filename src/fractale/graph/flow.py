"""Where the values of one step come from: labels through templates, records and plans inside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fractale.graph.scope import foreach_expressions
from fractale.graph.state import PlanState, Record
from fractale.labels import NO_LABELS, Labels, Source, from_data, to_data
from fractale.plan.expressions import references
from fractale.plan.model import Expression, ForEach, Template, Value

_TEMPLATE: Final = re.compile(r"\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The labels of every name that the templates of a step can use.

    Args:
        records: Of the steps of the same plan.
        inputs: Of the plan's inputs, those that have any.
        last: The step that led here.
        secrets: The names of the plan's secret inputs.
        item: Of the item, inside a foreach.
        base: What a model had read that wrote the step itself.
    """

    records: Mapping[str, Record] = field(default_factory=dict[str, Record])
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    last: str | None = None
    secrets: frozenset[str] = frozenset()
    item: Labels = NO_LABELS
    base: Labels = NO_LABELS

    @property
    def previous(self) -> Labels:
        """Of the step that led here."""
        return self._of_step(self.last) if self.last else NO_LABELS

    def of(self, value: Value | Expression) -> Labels:
        """The labels of what a value renders to."""
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

    def for_items(self, foreach: ForEach) -> Flow:
        """The flow inside a foreach, where `item` has the labels of what it runs over."""
        item = NO_LABELS.union(*map(self.of, foreach_expressions(foreach)))
        return replace(self, item=item)


def flow_of(state: PlanState, secrets: Iterable[str], base: Labels) -> Flow:
    """The flow into a step that is entered with a state."""
    return Flow(
        records=state.get("steps", {}),
        inputs=state.get("sources", {}),
        last=state.get("last"),
        secrets=frozenset(secrets),
        base=base,
    )


def labels_of(*records: Mapping[str, Any]) -> Labels:
    """The labels of what steps gave, or items of a foreach."""
    return NO_LABELS.union(*(from_data(record.get("sources")) for record in records))


def sources_data(labels: Mapping[str, Labels]) -> dict[str, Any]:
    """The labels of a plan's inputs, as its state holds them: those that have any."""
    return {name: to_data(own) for name, own in labels.items() if own}


def literal_of(value: Value) -> str:
    """What of a text was written by whoever wrote the plan: all but its templates."""
    if isinstance(value, Template):
        return _TEMPLATE.sub(" ", value.source)
    return value if isinstance(value, str) else ""
