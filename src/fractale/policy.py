"""Which calls are allowed: the one place that decides.

A call that the user wrote into a plan is agreed to, because it is there. The exception is a call
that would change something with a value that, by its server, strangers can write. A call that a
model chose, or that is part of a step that a model drafted, is not agreed to. It is free if it only
reads and stays in a closed world, or if no private data is in its reach. All other calls need
approval. A tool counts as changing, and as one of an open world, unless its server says otherwise.
`fractale.labels` says what is private and what is untrusted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

from fractale.errors import TemplateError
from fractale.labels import Source, Taint, is_open_world
from fractale.plain import to_json
from fractale.plan.model import Approve
from fractale.settings import PolicyList, PolicySettings, ToolRule
from fractale.toolbox import ToolInfo

Verdict = Literal["allow", "ask", "deny"]
Chooser = Literal["plan", "model"]


ALLOWED = "the settings allow it:"
NOT_COVERED = (
    "--yes does not cover it: an `allow` rule, `policy.sources.trusted` or `--answers` does, and "
    "`approve: never` on a step of your own"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call before it is made.

    Args:
        chosen_by: ``plan`` if the user wrote the call as a step; ``model`` if a model chose it, or
            drafted the step.
        approve: The `approve` of the step.
        inputs: The inputs that the user gave the run, for the `when` of rules.
        taints: Its arguments from untrusted sources. For a call that the user wrote, only from
            sources that call themselves untrusted.
        private: Private sources in its reach: of its arguments, or in the context of the model that
            chose it, unless every argument repeats the user's words.
        outside: Paths among its arguments that are outside the project and the run's directory, and
            that the user did not name.
        is_example: Whether it represents any call of the tool: rules about arguments are not
            applied.
    """

    tool: ToolInfo
    arguments: Mapping[str, Any]
    chosen_by: Chooser
    approve: Approve | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    taints: tuple[Taint, ...] = ()
    private: tuple[Source, ...] = ()
    outside: tuple[str, ...] = ()
    is_example: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Calls that the user agreed to beforehand.

    Args:
        tool: ``server.tool``.
        definition: The `ToolInfo.definition` that the user agreed to.
        fixed: Argument → the value that it must have. Others may have any value.
        exact: Whether a call may have no arguments other than `fixed`.
    """

    tool: str
    definition: str
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    exact: bool = False

    def covers(self, call: PlannedCall) -> bool:
        """Whether the user agreed to a call.

        A value with a secret in it is known as ``***`` only, so it never matches.
        """
        if (call.tool.qualified_name, call.tool.definition) != (self.tool, self.definition):
            return False
        given = call.arguments
        if self.exact and set(given) != set(self.fixed):
            return False
        return all(name in given and _same(given[name], v) for name, v in self.fixed.items())


def grant_of(question: Mapping[str, Any], answer: Any) -> Grant | None:
    """The calls that an answer to an approval allows for the rest of the run, or None.

    Questions in records from before 0.3 lack the server and the definition. They grant nothing:
    fractale asks again about the tool.

    Args:
        answer: As `fractale.questions.read_answer` returns it.
    """
    if question.get("kind") != "approval" or not question.get("definition"):
        return None
    fixed: Any
    if answer == "always":
        fixed = {}
    elif isinstance(answer, Mapping) and "always" in answer:
        fixed = cast("Mapping[str, Any]", answer)["always"]["fix"]
    else:
        return None
    exact = fixed == "all"
    return Grant(
        tool=f"{question['server']}.{question['tool']}",
        definition=str(question["definition"]),
        fixed=dict(question["arguments"]) if exact else dict(fixed),
        exact=exact,
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; unlike ``==``, true and 1 differ at any depth."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        a, b = cast("Mapping[str, Any]", one), cast("Mapping[str, Any]", other)
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        items, others = cast("list[Any]", one), cast("list[Any]", other)
        return len(items) == len(others) and all(map(_same, items, others))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


@dataclass(frozen=True, slots=True)
class Ruling:
    """The decision about a call, and why.

    Args:
        yes: Whether ``--yes`` agrees to a call that needs approval.
        agreed: Whether the call would need approval, but the user agreed to it beforehand.
    """

    verdict: Verdict
    why: str
    yes: bool = True
    agreed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Allow, ask or deny, by tool, by arguments and by who chose the call.

    Args:
        settings: The user's rules; their globs match the bare and the ``server.tool`` name. The
            strictest list that matches decides.
        yes: Whether the user agreed beforehand to every call that needs approval.
    """

    settings: PolicySettings = field(default_factory=PolicySettings)
    yes: bool = False

    def rule(self, call: PlannedCall, grants: Collection[Grant] = ()) -> Ruling:
        """Decide about a call.

        Args:
            grants: Calls that the user allowed for the rest of the run.

        Returns:
            ``ask`` if the user must agree first; never ``ask`` with `yes`.
        """
        if denied := _first(self.settings.deny, call, unknown=True):
            return Ruling("deny", f"the settings deny it: {denied}")
        why_ask = self._why_ask(call)
        if why_ask is None:
            why_free = self._why_free(call)
            return Ruling("allow", why_free, agreed=why_free.startswith(ALLOWED))
        covered = not call.taints or self.settings.yes_covers == "all"
        if self.yes and covered:
            return Ruling("allow", "agreed to beforehand: --yes", agreed=True)
        if any(_covers(grant, call) for grant in grants):
            return Ruling("allow", "allowed by a person for this run", agreed=True)
        parts = [why_ask, *map(str, call.taints)]
        if self.yes:
            parts.append(NOT_COVERED)
        return Ruling("ask", "; ".join(parts), yes=covered)

    def _why_ask(self, call: PlannedCall) -> str | None:
        """Why the user must agree; None if the call needs no approval."""
        # A step's `approve` can only ask for more approvals than the settings do, never for fewer.
        if call.approve == "always":
            return "the step says `approve: always`"
        if call.approve == "ask" and not reads_only(call.tool):
            return "it may change something, and the step says `approve: ask`"
        if call.chosen_by == "plan":
            return self._why_ask_planned(call)
        if asked := _first(self.settings.ask, call, unknown=True):
            return f"the settings ask before it: {asked}"
        if _first(self.settings.allow, call):
            return None
        if not reads_only(call.tool):
            return "it may change something, and a model chose it"
        if call.outside:
            paths = ", ".join(f"`{path}`" for path in call.outside)
            return f"a model chose it, and {paths} is outside the project"
        if is_open_world(call.tool) and call.private:
            seen = ", ".join(f"`{source}`" for source in call.private)
            return f"it may send what the model has seen of {seen} to the world outside"
        hosts = {taint.host for taint in call.taints if taint.host}
        if is_open_world(call.tool) and hosts:
            return (
                f"it would contact {', '.join(map(repr, sorted(hosts)))}, and you did not name it"
            )
        return None

    def _why_ask_planned(self, call: PlannedCall) -> str | None:
        """Why a call that the user wrote into the plan needs approval anyway.

        A server's statement about itself is believed here only if it makes the call less safe.
        """
        if not call.taints or reads_only(call.tool) or call.approve == "never":
            return None
        if _first(self.settings.allow, call):
            return None
        return "it may change something, with a value that strangers can write"

    def _why_free(self, call: PlannedCall) -> str:
        if call.chosen_by == "plan":
            return "it is written in the plan"
        if allowed := _first(self.settings.allow, call):
            return f"{ALLOWED} {allowed}"
        return "it only reads"


def _covers(grant: Grant, call: PlannedCall) -> bool:
    """Whether the user agreed beforehand to a call, and to each untrusted argument of it."""
    return grant.covers(call) and all(taint.argument in grant.fixed for taint in call.taints)


def rules_about(settings: PolicySettings, tool: ToolInfo) -> list[tuple[str, ToolRule]]:
    """The rules about a tool, whatever its arguments, each with its list; deny first."""
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


def _first(rules: PolicyList, call: PlannedCall, *, unknown: bool = False) -> ToolRule | None:
    """The first rule that applies to a call.

    Args:
        unknown: Whether a rule applies if its `when` cannot be evaluated for the call.
    """
    for rule in map(_as_rule, rules):
        if not _matches(call.tool, (rule.tool,)) or not _fits(rule.arguments, call.arguments):
            continue
        if rule.when is None or _is_true(rule, call, unknown=unknown and not call.is_example):
            return rule
    return None


def _is_true(rule: ToolRule, call: PlannedCall, *, unknown: bool) -> bool:
    """Whether the `when` of a rule is true for a call."""
    from fractale.plan.expressions import holds

    assert rule.when is not None  # noqa: S101 - the caller looked
    missing: list[str] = []
    scope = {
        "arguments": dict(call.arguments),
        "inputs": dict(call.inputs),
        "tool": call.tool.name,
        "server": call.tool.server,
    }
    try:
        is_true = holds(rule.when, scope, missing.append)
    except TemplateError:
        return unknown
    # A missing name decides nothing: the rule then applies only if that is the safe way.
    return unknown if missing else is_true


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
