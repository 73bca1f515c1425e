"""The sub-agents that a run can ask: the user's own, fractale's, and those of installed packages.

A sub-agent is imported when its name is used. Listing the sub-agents imports none.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from fractale.agents.subagent import Subagent
    from fractale.plan.agents import Expert
    from fractale.plan.model import Plan

BUILT_IN: Mapping[str, tuple[str, str]] = {
    "ask": ("fractale.agents.ask", "ASK"),
    "ask_or_plan": ("fractale.agents.ask", "ASK_OR_PLAN"),
    "optimize": ("fractale.agents.optimize", "OPTIMIZE"),
    "planner": ("fractale.agents.planner", "PLANNER"),
    "result_parse": ("fractale.agents.result_parse", "RESULT_PARSE"),
    "transform_jobspec": ("fractale.agents.transform_jobspec", "TRANSFORM_JOBSPEC"),
}
"""Name → the module and the constant in it."""

SUMMARIES: Mapping[str, str] = {
    "ask": "The generalist: investigates with tools, asks the person, answers.",
    "ask_or_plan": "What `fractale prompt` asks: works at once, or hands over to the planner.",
    "planner": "The planner: looks at what is there and drafts the steps of a plan.",
    "result_parse": "Finds a metric in the text of a log by a regular expression.",
    "optimize": "Tunes a job for a figure of merit: proposes, runs, measures, decides.",
    "transform_jobspec": "Translates a batch script between workload managers.",
}
"""Descriptions for lists, which do not import the agents."""

GROUP = "fractale.agents"
"""The entry point group of sub-agents in packages."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A sub-agent in a list.

    Args:
        source: ``fractale``, ``own``, ``plan``, or the name of its package.
    """

    name: str
    description: str
    source: str


class Catalog:
    """Sub-agents by name.

    Args:
        own: The user's own. They precede fractale's, and fractale's precede those of packages, so
            that installing a package does not change the meaning of a name.
    """

    def __init__(self, own: Sequence[Subagent] = ()) -> None:
        self._own = {agent.name: agent for agent in own}
        self._by_path = {agent.path: agent for agent in own if agent.path}
        self._loaded: dict[str, Subagent] = {}

    def with_experts(self, plan: Plan) -> Catalog:
        """The catalog inside a plan: the agents that the plan writes itself come first."""
        if not plan.experts:
            return self
        from fractale.agents.experts import expert_agent

        return _InPlan(self, [expert_agent(expert) for expert in plan.experts], plan.experts)

    def find(self, name: str) -> Subagent | None:
        """The sub-agent of that name; None if the name is unknown.

        Raises:
            PlanError: The sub-agent belongs to a package, and cannot be loaded.
        """
        if name in self._own:
            return self._own[name]
        if name in self._by_path:
            return self._by_path[name]
        if name in BUILT_IN:
            module, constant = BUILT_IN[name]
            return getattr(importlib.import_module(module), constant)
        if name not in self._loaded and name in self._installed:
            from fractale.agents.own import load_installed

            self._loaded[name] = load_installed(self._installed[name])
        return self._loaded.get(name)

    def is_own(self, name: str) -> bool:
        """Whether the name is one of the user's own agents."""
        return name in self._own or name in self._by_path

    def is_built_in(self, name: str) -> bool:
        """Whether the name is one of fractale's own agents."""
        return name in BUILT_IN and not self.is_own(name)

    def expert(self, name: str) -> Expert | None:
        """The agent of that name that the plan writes itself; None if it is another one's."""
        del name

    def names(self) -> list[str]:
        """All names, and the dotted paths of the user's own. Imports nothing."""
        return list(dict.fromkeys([*self._names(), *self._by_path]))

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self._own, *BUILT_IN, *self._installed]))

    def matching(self, wanted: Callable[[str], bool]) -> list[Subagent]:
        """The sub-agents whose names are wanted. Imports only these.

        Raises:
            PlanError: A sub-agent belongs to a package, and cannot be loaded.
        """
        found = {name: self.find(name) for name in self.names() if wanted(name)}
        return list({agent.name: agent for agent in found.values() if agent is not None}.values())

    def all(self) -> list[Subagent]:
        """All, except those of packages: their code runs only if their name is used."""
        return self.matching(lambda name: name in self._own or name in BUILT_IN)

    def describe(self) -> list[Listed]:
        """All, for a list. Imports nothing."""
        return [self._listed(name) for name in self._names()]

    def _listed(self, name: str) -> Listed:
        if name in self._own:
            return Listed(name, self._own[name].description, "own")
        if name in BUILT_IN:
            return Listed(name, SUMMARIES.get(name, ""), "fractale")
        package = self._installed[name].dist
        if package is None:
            return Listed(name, "", "installed")
        return Listed(name, str(package.metadata.json.get("summary", "")), package.name)

    @cached_property
    def _installed(self) -> Mapping[str, EntryPoint]:
        return {entry.name: entry for entry in installed()}


class _InPlan(Catalog):
    """The sub-agents inside a plan that writes some itself."""

    def __init__(
        self, outer: Catalog, experts: Sequence[Subagent], written: Sequence[Expert]
    ) -> None:
        super().__init__(experts)
        self._outer = outer
        self._written = {each.name: each for each in written}

    def expert(self, name: str) -> Expert | None:
        return self._written.get(name) or self._outer.expert(name)

    def find(self, name: str) -> Subagent | None:
        return self._own.get(name) or self._outer.find(name)

    def is_own(self, name: str) -> bool:
        return name in self._own or self._outer.is_own(name)

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self._own, *self._outer.names()]))

    def all(self) -> list[Subagent]:
        others = [agent for agent in self._outer.all() if agent.name not in self._own]
        return [*self._own.values(), *others]

    def describe(self) -> list[Listed]:
        others = [each for each in self._outer.describe() if each.name not in self._own]
        return [*(Listed(a.name, a.description, "plan") for a in self._own.values()), *others]


def installed() -> tuple[EntryPoint, ...]:
    """The entry points of installed packages that are sub-agents.

    To find them reads a file of each package that is installed, so they are remembered until a
    directory of packages changes.
    """
    return _installed_in(tuple((path, _changed(path)) for path in sys.path))


@lru_cache(maxsize=4)
def _installed_in(paths: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points

    del paths  # Python's own search knows them
    return tuple(entry_points(group=GROUP))


def _changed(path: str) -> int:
    """When a directory last changed, in nanoseconds; 0 if there is none."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0
