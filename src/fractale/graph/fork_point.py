"""The step at which a forked run begins, with the records of the steps before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from fractale.graph.state import PlanState, Record


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
    """

    step: str
    attempt: int
    records: Mapping[str, Record] = field(default_factory=dict[str, Record])
    last: str | None = None
    inside: ForkPoint | None = None
    draft: Mapping[str, Any] | None = None

    def into(self, state: PlanState) -> PlanState:
        """The state in which a graph starts from this point."""
        known = PlanState(steps=dict(self.records), last=self.last, goto=self.step)
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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ForkPoint:
        """Restore a point from the result of `as_dict`."""
        fields: dict[str, Any] = dict(data)
        if fields["inside"]:
            fields["inside"] = cls.from_dict(fields["inside"])
        return cls(**fields)
