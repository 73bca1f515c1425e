"""What may be called: the one place that decides.

A call that a person wrote into a plan is agreed to by being there. A call that a model chose is
not: tools that only read are free, tools that may change something need agreement, and a tool
whose server does not say counts as changing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from fractale.plan.model import Approve
from fractale.settings import PolicySettings
from fractale.toolbox import ToolInfo

Verdict = Literal["allow", "ask", "deny"]
Chooser = Literal["plan", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call before it is made.

    Args:
        approve: The step's own word on it.
    """

    tool: ToolInfo
    arguments: Mapping[str, Any]
    chosen_by: Chooser
    approve: Approve | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is decided about a call, and why."""

    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Allow, ask or deny, by tool name and by who chose the call.

    Args:
        settings: The person's globs; they match the bare and the ``server.tool`` name. The
            strictest list that matches decides.
        yes: The person agreed beforehand to every call that would be asked about.
    """

    settings: PolicySettings = field(default_factory=PolicySettings)
    yes: bool = False

    def decide(self, tool: ToolInfo, chosen_by: Chooser) -> Verdict:
        """Whether a call of the tool may be made.

        Returns:
            ``ask`` where a person must agree first; never ``ask`` with `yes`.
        """
        if _matches(tool, self.settings.deny):
            return "deny"
        if chosen_by == "plan":
            return "allow"
        if _matches(tool, self.settings.ask):
            return "allow" if self.yes else "ask"
        if self.yes or _matches(tool, self.settings.allow) or reads_only(tool):
            return "allow"
        return "ask"


    def rule(self, call: PlannedCall, grants: frozenset[str] = frozenset()) -> Ruling:
        """Decide about a call.

        Args:
            grants: Names of tools that a person allowed for the rest of the run.
        """
        verdict = self.decide(call.tool, call.chosen_by)
        if verdict == "deny":
            return Ruling("deny", "the settings deny it")
        if self.yes or call.tool.name in grants:
            return Ruling("allow", "agreed beforehand")
        if call.approve == "always":
            return Ruling("ask", "the step says `approve: always`")
        if call.approve == "ask" and not reads_only(call.tool):
            return Ruling("ask", "the step says `approve: ask`")
        if verdict == "ask":
            return Ruling("ask", "it may change something, and a model chose it")
        return Ruling("allow", "")


def reads_only(tool: ToolInfo) -> bool:
    """Whether the server says that the tool changes nothing."""
    return tool.annotations.get("readOnlyHint") is True


def may_repeat(tool: ToolInfo) -> bool:
    """Whether the server says that calling the tool twice does no more than calling it once."""
    return reads_only(tool) or tool.annotations.get("idempotentHint") is True


def allowed_by(globs: tuple[str, ...] | None, tool: ToolInfo) -> bool:
    """Whether a step's `tools:` list lets the model see the tool; None lists every tool."""
    return globs is None or _matches(tool, globs)


def _matches(tool: ToolInfo, globs: tuple[str, ...]) -> bool:
    names = (tool.name, tool.qualified_name, tool.qualified_name.partition(".")[2])
    return any(fnmatchcase(name, glob) for glob in globs for name in names)
