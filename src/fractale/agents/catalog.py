"""The sub-agents that a run can ask: a person's own, fractale's, and those of installed packages.

A sub-agent is imported when it is needed, by name: to list them imports none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from fractale.agents.subagent import Subagent

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
"""What a list says of a built-in agent, so that it need not import it."""

GROUP = "fractale.agents"
"""The group of entry points by which a package offers its sub-agents."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A sub-agent as a list shows it.

    Args:
        source: ``fractale``, ``own``, or the package that offers it.
    """

    name: str
    description: str
    source: str


class Catalog:
    """Sub-agents by name.

    Args:
        own: A person's own; they come before fractale's, and those before a package's: to install
            something does not change what a name means.
    """

    def __init__(self, own: Sequence[Subagent] = ()) -> None:
        self._own = {agent.name: agent for agent in own}
        self._loaded: dict[str, Subagent] = {}

    def find(self, name: str) -> Subagent | None:
        """The sub-agent of that name; None if there is none.

        Raises:
            PlanError: A package offers it, and it can't be loaded.
        """
        if name in self._own:
            return self._own[name]
        if name in BUILT_IN:
            module, constant = BUILT_IN[name]
            return getattr(importlib.import_module(module), constant)
        if name not in self._loaded and name in self._installed:
            from fractale.agents.own import load_installed

            self._loaded[name] = load_installed(self._installed[name])
        return self._loaded.get(name)

    def is_own(self, name: str) -> bool:
        """Whether it is a person's own."""
        return name in self._own

    def names(self) -> list[str]:
        """The names of all of them. Imports none."""
        return list(dict.fromkeys([*self._own, *BUILT_IN, *self._installed]))

    def matching(self, wanted: Callable[[str], bool]) -> list[Subagent]:
        """Those whose names are wanted; only they are imported.

        Raises:
            PlanError: A package offers one of them, and it can't be loaded.
        """
        found = [self.find(name) for name in self.names() if wanted(name)]
        return [agent for agent in found if agent is not None]

    def all(self) -> list[Subagent]:
        """All but those of installed packages, whose code runs only where their name is used."""
        return self.matching(lambda name: name in self._own or name in BUILT_IN)

    def describe(self) -> list[Listed]:
        """All of them as a list shows them. Imports none."""
        return [self._listed(name) for name in self.names()]

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
        from importlib.metadata import entry_points

        return {entry.name: entry for entry in entry_points(group=GROUP)}
