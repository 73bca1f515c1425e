"""The sub-agents that a run can ask: fractale's own, and a person's."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractale.agents.subagent import Subagent

BUILT_IN: Mapping[str, tuple[str, str]] = {
    "ask": ("fractale.agents.ask", "ASK"),
    "result_parse": ("fractale.agents.result_parse", "RESULT_PARSE"),
    "transform_jobspec": ("fractale.agents.transform_jobspec", "TRANSFORM_JOBSPEC"),
}


class Catalog:
    """Sub-agents by name.

    Args:
        own: A person's own; they come before fractale's.
    """

    def __init__(self, own: Sequence[Subagent] = ()) -> None:
        self._own = {agent.name: agent for agent in own}

    def find(self, name: str) -> Subagent | None:
        """The sub-agent of that name; None if there is none."""
        if name in self._own:
            return self._own[name]
        if name not in BUILT_IN:
            return None
        module, constant = BUILT_IN[name]
        return getattr(importlib.import_module(module), constant)

    def is_own(self, name: str) -> bool:
        """Whether it is a person's own."""
        return name in self._own

    def all(self) -> list[Subagent]:
        """All of them."""
        names = [*self._own, *(name for name in BUILT_IN if name not in self._own)]
        return [agent for name in names if (agent := self.find(name))]
