"""The way that a run took through its plan, as drawings show it: states of steps, arrows taken.

`fractale.record.way` reads it from a run's record. This package knows no records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

State: TypeAlias = Literal[
    "not reached", "kept", "running", "waiting", "stopped", "success", "failed", "skipped"
]

STATES: Final[Mapping[State, str]] = {
    "not reached": "not reached",
    "kept": "done before the fork",
    "running": "running",
    "waiting": "waiting",
    "stopped": "stopped",
    "success": "success",
    "failed": "failed",
    "skipped": "skipped",
}
"""State → its words in a drawing. A killed run leaves steps ``stopped``; ``kept`` is of a fork."""

MARKS: Final[Mapping[State, str]] = {
    "not reached": "○",
    "kept": "◇",
    "running": "●",
    "waiting": "?",
    "stopped": "■",
    "success": "✓",
    "failed": "✗",
    "skipped": "\u2013",
}
"""State → its mark in a terminal."""


def times(number: int) -> str:
    """How often something happened, as ``x3`` with a multiplication sign."""
    return f"\u00d7{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCounts:
    """The items of a foreach, or the elements of a job array.

    Args:
        total: None if no item was started.
        done: Those that ended, with the failed ones.
    """

    total: int | None = None
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """The state of one step of a plan.

    Args:
        attempts: How often it was started; inside of items, the most of one item.
        items: None for a step that is neither a foreach nor inside one.
        shown_by: The path of an attempt with this state, such as ``each[3]/inner``; empty if it is
            the step's own path.
    """

    state: State = "not reached"
    attempts: int = 0
    items: ItemCounts | None = None
    shown_by: str = ""

    @property
    def words(self) -> str:
        """Such as ``running · 3/100 items, 1 failed``, with the number of attempts if above one."""
        words = STATES[self.state]
        if self.attempts > 1:
            words += f" {times(self.attempts)}"
        if self.items is not None:
            total = "" if self.items.total is None else f"/{self.items.total}"
            words += f" · {self.items.done}{total} items"
            words += f", {self.items.failed} failed" if self.items.failed else ""
        return words


NOT_REACHED: Final = StepState()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWay:
    """The way of a run.

    Args:
        steps: Step path without indexes of items, such as ``each/inner`` → its state. Steps that
            were not reached may be left out.
        arrows: (path of a step, name of its target: a step beside it, ``success`` or ``failed``)
            → how often the run went there.
        events: (path of a step, its event) → how often it happened.
    """

    steps: Mapping[str, StepState] = field(default_factory=dict[str, StepState])
    arrows: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    events: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def of(self, path: str) -> StepState:
        """The state of the step with a path."""
        return self.steps.get(path, NOT_REACHED)
