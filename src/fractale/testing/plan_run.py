"""A run of a plan in a test: its result and its events."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fractale.events import Event, EventKind

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fractale.runs.invocation import PlanSource, RunKeywords
    from fractale.runs.result import RunResult


@dataclass
class PlanRun:
    """A run's result with its events."""

    result: RunResult
    events: list[Event] = field(default_factory=list[Event])

    @property
    def status(self) -> str:
        """How the run ended: ``success``, ``failed``, ``waiting``, ``limit`` or ``stopped``."""
        return self.result.status

    @property
    def outputs(self) -> dict[str, Any]:
        """The plan's outputs."""
        return self.result.outputs

    @property
    def path(self) -> list[str]:
        """The attempts of steps in their order, as ``NAME:OUTCOME``."""
        return [f"{each['name']}:{each['outcome']}" for each in self.result.steps]

    def of(self, kind: EventKind) -> list[dict[str, Any]]:
        """The fields of each event of a kind."""
        return [event.data for event in self.events if event.kind == kind]

    def decided(self, step: str) -> str:
        """The evidence that decided the outcome of a step's last attempt, such as ``rule``."""
        return [each["decided_by"] for each in self.result.steps if each["name"] == step][-1]


async def arun_plan(
    plan: PlanSource, inputs: Mapping[str, Any] | None = None, **keywords: Unpack[RunKeywords]
) -> PlanRun:
    """Run a plan as `fractale.arun` does, and record its events.

    Args:
        plan: A path, a `Plan`, or YAML text, which may be indented.
    """
    from fractale.api import arun

    events: list[Event] = []
    listener = keywords.pop("on_event", None)

    async def record(event: Event) -> None:
        events.append(event)
        if listener and inspect.isawaitable(answer := listener(event)):
            await answer

    keywords["on_event"] = record if listener else events.append
    text = textwrap.dedent(plan) if isinstance(plan, str) else plan
    return PlanRun(await arun(text, inputs, **keywords), events)
