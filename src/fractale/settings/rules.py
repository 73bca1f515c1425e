"""What may be called, as the settings say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from fractale.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ToolRule:
    """One entry of a policy's list: which calls it speaks of.

    Args:
        tool: A glob of the bare or the ``server.tool`` name.
        arguments: Argument → glob of its text (of its JSON, where it is not text). All of them
            must be given and match.
        origin: The file that it stands in.
    """

    tool: str
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    origin: str = field(default="", compare=False)

    def __str__(self) -> str:
        """The entry as a person would say it."""
        if not self.arguments:
            return self.tool
        return f"{self.tool} where {', '.join(f'{k} is {v}' for k, v in self.arguments.items())}"


PolicyList: TypeAlias = "tuple[str | ToolRule, ...]"
"""Globs of tool names, or rules that look at arguments, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Calls that a model may make freely, or after asking, and those that nobody may make."""

    allow: PolicyList = ()
    ask: PolicyList = ()
    deny: PolicyList = ()


POLICY_LISTS = ("allow", "ask", "deny")


def read_policy(entry: Any, origin: str) -> PolicySettings:
    """The `policy` of a settings file.

    Raises:
        SettingsError: It is not of that form.
    """
    if not isinstance(entry, dict) or not set(cast("dict[str, Any]", entry)) <= {*POLICY_LISTS}:
        raise SettingsError(f"{origin}: policy must be a mapping with `allow`, `ask`, `deny`")
    lists = cast("dict[str, Any]", entry)
    for key, rules in lists.items():
        if not isinstance(rules, list):
            raise SettingsError(f"{origin}: `policy.{key}` must be a list of globs of tool names")
    return PolicySettings(
        **{
            key: tuple(
                _tool_rule(rule, f"{origin}: `policy.{key}[{number}]`", origin)
                for number, rule in enumerate(cast("list[Any]", rules))
            )
            for key, rules in lists.items()
        }
    )


def _tool_rule(rule: Any, where: str, origin: str) -> ToolRule:
    """One entry: a glob, or ``{tool: glob, arguments: {name: glob}}``."""
    if isinstance(rule, str) and rule:
        return ToolRule(rule, origin=origin)
    if isinstance(rule, dict):
        table = cast("dict[str, Any]", rule)
        arguments = table.get("arguments", {})
        known = set(table) <= {"tool", "arguments"} and isinstance(arguments, dict)
        if known and isinstance(table.get("tool"), str):
            texts = cast("dict[Any, Any]", arguments)
            if all(isinstance(each, str) for pair in texts.items() for each in pair):
                return ToolRule(table["tool"], texts, origin)
    raise SettingsError(
        f"{where} must be a glob of tool names, or {{tool: GLOB, arguments: {{NAME: GLOB}}}}",
        hint="put globs in quotes: YAML takes a bare * for something else",
    )


def added(first: PolicySettings, more: PolicySettings) -> PolicySettings:
    """The rules of both."""
    """The lists of both: a later file adds to what an earlier one says."""
    return PolicySettings(
        **{key: (*getattr(first, key), *getattr(more, key)) for key in POLICY_LISTS}
    )
