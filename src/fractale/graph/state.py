"""What a checkpoint of a run holds.

Everything is plain JSON. A step's `Record` holds the latest attempt only: the history is in the
checkpoints themselves and in the event stream, so that a loop of a thousand attempts costs no
more per attempt than one of ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypedDict

from fractale.evidence import Notice

Outcome = Literal["success", "failure", "skipped"]
DecidedBy = Literal[
    "rule", "error", "agent", "exit_code", "schema", "judge", "default", "when", "attempts"
]


class Record(TypedDict, total=False):
    """The latest attempt of one step.

    ``inputs``, ``outputs`` and ``conversation`` are values or references into the store of
    outputs; ``inherited`` of the ``attempts`` were made by the run that this one was forked from;
    ``sources`` says where the outputs came from (`fractale.labels`).
    Keys that would be empty are left out.
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


class Spent(TypedDict, total=False):
    """What a run has used so far: counts, US dollars, and seconds of running."""

    steps: int
    input_tokens: int
    output_tokens: int
    cost: float
    seconds: float


def merge_records(old: dict[str, Record], new: dict[str, Record]) -> dict[str, Record]:
    """A reducer: the newer record of a step replaces the older one."""
    return {**old, **new}


def add_spent(old: Spent, new: Spent) -> Spent:
    """A reducer: sums what was used."""
    total: Any = dict(old)
    for key, value in new.items():
        total[key] = total.get(key, 0) + value
    return total


def merge_items(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A reducer: results of a foreach by index (as text, which every serializer keeps)."""
    return {**old, **new}


class PlanState(TypedDict, total=False):
    """The state of one plan's graph, or of a segment of it.

    Keys:
        inputs: The plan's inputs, secret ones left out, large ones by reference.
        sources: Of a plan inside another, where its inputs came from: name → labels as JSON.
        steps: Step name → its latest record.
        last: The name of the step that led here.
        goto: A step in another segment where the run goes on.
        prefix: The path of an included plan in its run, such as ``outer/``; empty at the top.
        spent: What this graph's steps have used.
        status: ``success`` or ``failed`` once an end is reached.
        error: Why it failed.
        outputs: What the plan returns.
    """

    inputs: dict[str, Any]
    sources: dict[str, Any]
    steps: Annotated[dict[str, Record], merge_records]
    last: str | None
    goto: str | None
    prefix: str
    spent: Annotated[Spent, add_spent]
    status: Literal["success", "failed"] | None
    error: str | None
    outputs: Any


class ItemState(TypedDict, total=False):
    """The state of a foreach: each item's result by index, and what each item was given."""

    items: list[Any]
    item: Any
    index: int
    total: int
    results: Annotated[dict[str, Any], merge_items]
    spent: Annotated[Spent, add_spent]


def initial_state(inputs: Mapping[str, Any], prefix: str = "") -> PlanState:
    """The state in which a graph starts."""
    return PlanState(inputs=dict(inputs), steps={}, spent={}, prefix=prefix)
