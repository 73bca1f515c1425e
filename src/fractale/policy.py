"""What may be called: the one place that decides.

A call that a person wrote into a plan is agreed to by being there. A call that a model chose, or
that stands in a step that a model drafted, is not: tools that only read are free, tools that may
change something need agreement, and a tool whose server does not say counts as changing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from fractale.grants import Grant
from fractale.plain import to_json
from fractale.plan.model import Approve
from fractale.settings import PolicyList, PolicySettings, ToolRule
from fractale.toolbox import ToolInfo

Verdict = Literal["allow", "ask", "deny"]
Chooser = Literal["plan", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call before it is made.

    Args:
        chosen_by: ``plan`` where a person wrote the call as a step; ``model`` where a model chose
            it, or drafted the step.
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
    """Allow, ask or deny, by tool, by arguments and by who chose the call.

    Args:
        settings: The person's rules; their globs match the bare and the ``server.tool`` name. The
            strictest list that matches decides.
        yes: The person agreed beforehand to every call that would be asked about.
    """

    settings: PolicySettings = field(default_factory=PolicySettings)
    yes: bool = False

    def rule(self, call: PlannedCall, grants: Collection[Grant] = ()) -> Ruling:
        """Decide about a call.

        Args:
            grants: Calls that a person allowed for the rest of the run.

        Returns:
            ``ask`` where a person must agree first; never ``ask`` with `yes`.
        """
        if denied := _first(self.settings.deny, call):
            return Ruling("deny", f"the settings deny it: {denied}")
        why_ask = self._why_ask(call)
        if why_ask is None:
            return Ruling("allow", self._why_free(call))
        if self.yes:
            return Ruling("allow", "agreed to beforehand: --yes")
        if any(grant.covers(call) for grant in grants):
            return Ruling("allow", "allowed by a person for this run")
        return Ruling("ask", why_ask)

    def _why_ask(self, call: PlannedCall) -> str | None:
        """Why a person must agree; None if nobody needs to."""
        # A step's own word can only ask for more than the settings do, never for less.
        if call.approve == "always":
            return "the step says `approve: always`"
        if call.approve == "ask" and not reads_only(call.tool):
            return "it may change something, and the step says `approve: ask`"
        if call.chosen_by == "plan":
            return None
        if asked := _first(self.settings.ask, call):
            return f"the settings ask before it: {asked}"
        if reads_only(call.tool) or _first(self.settings.allow, call):
            return None
        return "it may change something, and a model chose it"

    def _why_free(self, call: PlannedCall) -> str:
        if call.chosen_by == "plan":
            return "it stands in the plan"
        if allowed := _first(self.settings.allow, call):
            return f"the settings allow it: {allowed}"
        return "it only reads"


def rules_about(settings: PolicySettings, tool: ToolInfo) -> list[tuple[str, ToolRule]]:
    """The rules that speak of a tool, whatever its arguments, each with its list; deny first."""
    lists = {"deny": settings.deny, "ask": settings.ask, "allow": settings.allow}
    rules = [(kind, _as_rule(rule)) for kind, each in lists.items() for rule in each]
    return [(kind, rule) for kind, rule in rules if _matches(tool, (rule.tool,))]


def reads_only(tool: ToolInfo) -> bool:
    """Whether the server says that the tool changes nothing."""
    return tool.annotations.get("readOnlyHint") is True


def may_repeat(tool: ToolInfo) -> bool:
    """Whether the server says that calling the tool twice does no more than calling it once."""
    return reads_only(tool) or tool.annotations.get("idempotentHint") is True


def allowed_by(globs: tuple[str, ...] | None, tool: ToolInfo) -> bool:
    """Whether a step's `tools:` list lets the model see the tool; None lists every tool."""
    return globs is None or _matches(tool, globs)


def _first(rules: PolicyList, call: PlannedCall) -> ToolRule | None:
    """The first rule that speaks of a call."""
    for rule in map(_as_rule, rules):
        if _matches(call.tool, (rule.tool,)) and _fits(rule.arguments, call.arguments):
            return rule
    return None


def _as_rule(rule: str | ToolRule) -> ToolRule:
    return ToolRule(rule) if isinstance(rule, str) else rule


def _fits(globs: Mapping[str, str], arguments: Mapping[str, Any]) -> bool:
    """Whether every argument that a rule names is given and matches its glob."""
    return all(
        name in arguments and fnmatchcase(_text(arguments[name]), glob)
        for name, glob in globs.items()
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


def _names(tool: ToolInfo) -> tuple[str, ...]:
    return tool.name, tool.qualified_name, tool.qualified_name.partition(".")[2]


def _matches(tool: ToolInfo, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in _names(tool))
