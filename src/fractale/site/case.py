"""What the doctor examines: a site, and what somebody wants to do on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fractale.plan.model import Plan, Step
from fractale.registry import Registry
from fractale.settings import Settings
from fractale.site.calls import Call, calls_of
from fractale.site.model import Site
from fractale.site.needs import Needs
from fractale.site.programs import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One examination.

    Args:
        plan: None where none was given, or where it can't be read.
        wanted: The plan's file as it was given.
        registries: Those of ``-r``, which a run serves itself.
        served: Server files, for ``fractale serve``.
        agents: Sub-agents by dotted path.
        online: Whether models may be asked, which costs some tokens.
        inputs: Of the plan, as somebody wants to give them.
    """

    settings: Settings
    place: Machine
    site: Site
    needs: Needs
    plan: Plan | None = None
    wanted: str | None = None
    registries: Sequence[Registry] = ()
    served: Sequence[Registry] = ()
    agents: Sequence[str] = ()
    online: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def timeout(self) -> float:
        """Seconds that one answer may take."""
        return self.place.timeout

    @property
    def is_general(self) -> bool:
        """Whether nothing was given: then the site is examined for every feature."""
        return self.wanted is None and not self.registries and not self.served


@dataclass(frozen=True, slots=True)
class Named:
    """What a plan names, and the steps that name it.

    Args:
        names: Tool, prompt or agent → the steps that call it or let a model call it.
        free: Steps whose model may call any tool.
        calls: Of tools, with their arguments.
    """

    names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    free: list[str] = field(default_factory=list[str])
    calls: list[Call] = field(default_factory=list[Call])

    def arguments(self, tools: Collection[str], name: str) -> list[Any]:
        """The values that calls of some tools have for one argument; None where it is left out."""
        names = {form for tool in tools for form in (tool, f"local.{tool}")}
        return [call.arguments.get(name) for call in self.calls if call.tool in names]


def named_by(plan: Plan | None, inputs: Mapping[str, Any] | None = None) -> Named:
    """What a plan and the plans that it includes name.

    Args:
        inputs: The plan's, as far as they are given.
    """
    if plan is None:
        return Named()
    found = Named(calls=calls_of(plan, inputs or {}))
    _add(plan, "", found)
    return found


def _add(plan: Plan, prefix: str, found: Named) -> None:
    for step in plan.walk():
        name = f"{prefix}{step.name}"
        for target in _targets(step):
            found.names.setdefault(target, []).append(name)
        if step.kind in ("agent", "plan") and step.tools is None and step.plan is None:
            found.free.append(name)
        if step.plan is not None:
            _add(step.plan, f"{name}/", found)


def _targets(step: Step) -> list[str]:
    """Names and globs of what a step calls."""
    own = [step.target] if step.target and step.kind in ("tool", "prompt", "agent") else []
    return [*own, *(step.tools or ())]
