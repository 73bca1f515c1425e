"""The contents of a run's checkpoint, and the point at which a forked run begins.

Everything is plain JSON. A step's `Record` has the latest attempt only. The history is in the
checkpoints themselves and in the event stream. So an attempt in a loop of a thousand attempts costs
no more than in a loop of ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from typing_extensions import TypedDict

from fractale.evidence import Notice

if TYPE_CHECKING:
    from langgraph.types import StateSnapshot

Outcome = Literal["success", "failure", "skipped"]
DecidedBy = Literal[
    "rule",
    "error",
    "agent",
    "exit_code",
    "schema",
    "judge",
    "default",
    "when",
    "creates",
    "up_to_date",
]


class Record(TypedDict, total=False):
    """The latest attempt of one step.

    ``inputs``, ``outputs`` and ``conversation`` are values or references into the store of outputs.
    The run that this one was forked from made ``inherited`` of the ``attempts``. ``sources`` are
    the sources of the outputs (`fractale.policy`). ``reused`` has the run and the step whose result
    was taken over. Keys that would be empty are left out.
    """

    outcome: Outcome
    event: str
    decided_by: DecidedBy
    reason: str
    error: str
    attempts: int
    inputs: Any
    outputs: Any
    conversation: Any
    inherited: int
    notices: list[Notice]
    sources: list[dict[str, Any]]
    reused: dict[str, Any]


class Spent(TypedDict, total=False):
    """The usage of a run so far: counts, US dollars, and seconds of running."""

    steps: int
    input_tokens: int
    output_tokens: int
    cost: float
    seconds: float


def merge_records(old: dict[str, Record], new: dict[str, Record]) -> dict[str, Record]:
    """A reducer: the newer record of a step replaces the older one."""
    return {**old, **new}


def add_spent(old: Spent, new: Spent) -> Spent:
    """A reducer: adds up the usage."""
    total: Any = dict(old)
    for key, value in new.items():
        total[key] = total.get(key, 0) + value
    return total


def merge_values(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A reducer: the newer value of a name replaces the older one."""
    return {**old, **new}


def merge_items(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A reducer: results of a foreach by index, which is text since every serializer keeps text."""
    return {**old, **new}


class PlanEnd(TypedDict, total=False):
    """How a plan ended, for the steps of its handlers.

    Keys:
        outcome: ``success``, ``failed``, ``limit`` or ``cancelled``.
        step, error: Of a plan that failed: the step's path, and why.
        handler: The handler that the state belongs to: ``on_failure`` or ``finally``.
        at: The checkpoint at which the plan ended.
        report: The rest of what is reported about the end.
    """

    outcome: Literal["success", "failed", "limit", "cancelled"]
    step: str | None
    error: str | None
    handler: str
    at: str
    report: dict[str, Any]


class PlanState(TypedDict, total=False):
    """The state of one plan's graph, or of a segment of it.

    A thread's `status`, `outputs`, `error`, `inputs`, `steps` and `spent` are for applications, as
    ``graph.get_state(config).values`` has them. The other keys are fractale's own.

    Keys:
        inputs: The plan's inputs, secret ones left out, large ones by reference.
        sources: Of a plan inside another, the sources of its inputs: name → labels as JSON.
        steps: Step name → its latest record.
        last: The name of the step that led here.
        goto: The step in another segment at which the run continues.
        prefix: The path of an included plan in its run, such as ``outer/``; empty at the top.
        spent: The usage of this graph's steps.
        status: ``success`` or ``failed`` once an end is reached; ``limit`` only in the result of
            `PlanGraph`: the thread's step is still due.
        error: Why the plan failed.
        outputs: The outputs of the plan.
        values: What `set` steps named: name → value, large ones by reference. Only a plan with such
            steps has it.
        value_sources: The sources of these values: name → labels as JSON.
        ended: Of the handlers of a plan, how the plan ended.
    """

    inputs: dict[str, Any]
    sources: dict[str, Any]
    steps: Annotated[dict[str, Record], merge_records]
    last: str | None
    goto: str | None
    prefix: str
    spent: Annotated[Spent, add_spent]
    status: Literal["success", "failed", "limit"] | None
    error: str | None
    outputs: Any
    values: Annotated[dict[str, Any], merge_values]
    value_sources: Annotated[dict[str, Any], merge_values]
    ended: PlanEnd


class ItemState(TypedDict, total=False):
    """The state of a foreach: the result of each item by index, and each item's input."""

    items: list[Any]
    item: Any
    index: int
    total: int
    results: Annotated[dict[str, Any], merge_items]
    spent: Annotated[Spent, add_spent]


def initial_state(inputs: Mapping[str, Any], prefix: str = "") -> PlanState:
    """The state in which a graph starts."""
    return PlanState(inputs=dict(inputs), steps={}, spent={}, prefix=prefix)


def values_in(state: PlanState) -> PlanState:
    """The named values of a state, for the state of a graph inside it; empty without values."""
    found = PlanState()
    if values := state.get("values"):
        found["values"] = values
        found["value_sources"] = state.get("value_sources", {})
    return found


def latest_state(snapshot: StateSnapshot) -> PlanState:
    """The state of a plan that is stopped: a segment has newer values than the graph around it.

    Args:
        snapshot: With those of the graphs inside it.
    """
    known: dict[str, Any] = dict(snapshot.values)
    for task in snapshot.tasks:
        inner: Any = task.state
        if inner is None or isinstance(inner, Mapping):
            continue
        if inner.values.get("prefix", "") != known.get("prefix", ""):
            continue  # a plan inside the plan, or a block
        below = latest_state(inner)
        for part in ("steps", "values"):
            known[part] = {**known.get(part, {}), **below.get(part, {})}
        known["last"] = below.get("last", known.get("last"))
    return cast("PlanState", known)


# Where a fork begins


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """The state of a plan just before one of its steps was entered.

    Args:
        step: The step's name in its plan.
        attempt: The number of its next attempt, as the run that was forked counts.
        records: The records of the plan's steps. Their `inherited` says how many of the `attempts`
            the forked run made.
        last: The step that led here.
        inside: For a step that runs a plan, the point at which that plan is entered.
        draft: For a `plan` step, its draft (a `fractale.agents.planner.DraftState`). The planner
            is not asked again.
        values, value_sources: What `set` steps of the plan had named, as `PlanState` has them.
    """

    step: str
    attempt: int
    records: Mapping[str, Record] = field(default_factory=dict[str, Record])
    last: str | None = None
    inside: ForkPoint | None = None
    draft: Mapping[str, Any] | None = None
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    value_sources: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def into(self, state: PlanState) -> PlanState:
        """The state in which a graph starts from this point."""
        known = PlanState(steps=dict(self.records), last=self.last, goto=self.step)
        if self.values:
            known["values"] = dict(self.values)
            known["value_sources"] = dict(self.value_sources)
        return cast("PlanState", {**state, **known})

    def below(self, step: str, attempt: int) -> ForkPoint | None:
        """Where the plan inside a step is entered; None: at its first step."""
        return self.inside if (step, attempt) == (self.step, self.attempt) else None

    @property
    def innermost(self) -> ForkPoint:
        """The point in the plan that has the step itself."""
        return self.inside.innermost if self.inside else self

    def with_records(self, records: Mapping[str, Record]) -> ForkPoint:
        """The same point with other records in the plan that has the step itself."""
        if self.inside:
            return replace(self, inside=self.inside.with_records(records))
        return replace(self, records=records)

    def with_values(self, values: Mapping[str, Any]) -> ForkPoint:
        """The same point with other named values in the plan that has the step itself."""
        if self.inside:
            return replace(self, inside=self.inside.with_values(values))
        return replace(self, values=values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ForkPoint:
        """Restore a point from the result of `as_dict`."""
        fields: dict[str, Any] = dict(data)
        if fields["inside"]:
            fields["inside"] = cls.from_dict(fields["inside"])
        return cls(**fields)
