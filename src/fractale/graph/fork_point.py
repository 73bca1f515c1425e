"""Where a forked run begins: a step in the middle of its plan, with what led there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from fractale.graph.state import PlanState, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """What was known of a plan just before one of its steps was entered.

    Args:
        step: The step's name in its plan.
        attempt: Which attempt of it this will be, as the run that was forked counts.
        records: What is known of the plan's steps; their `inherited` says how many of the
            `attempts` were that run's.
        last: The step that led here.
        inside: For a step that runs a plan, the point in that plan.
        draft: For a step that the planner drafted, the draft (a state of
            `fractale.graph.drafting`), which is not asked for again.
    """

    step: str
    attempt: int
    records: Mapping[str, Record] = field(default_factory=dict[str, Record])
    last: str | None = None
    inside: ForkPoint | None = None
    draft: Mapping[str, Any] | None = None

    def into(self, state: PlanState) -> PlanState:
        """A state in which a graph starts, with what is known here."""
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
        """It as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ForkPoint:
        """What `as_dict` gave."""
        fields: dict[str, Any] = dict(data)
        if fields["inside"]:
            fields["inside"] = cls.from_dict(fields["inside"])
        return cls(**fields)
