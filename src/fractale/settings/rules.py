"""The policy in the settings: which calls are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, cast

from fractale.errors import Position, SettingsError
from fractale.plan.model import Expression


@dataclass(frozen=True, slots=True)
class ToolRule:
    """One entry of a policy's list: the calls that it applies to.

    Args:
        tool: A glob of the bare or the ``server.tool`` name.
        arguments: Argument → glob of its text (of its JSON, if it is not text). All of them must be
            given and match.
        origin: The file that has it.
        when: An expression of the plan language over `arguments`, `inputs` (those that the user
            gave the run), `tool` and `server`; None: always.
    """

    tool: str
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    origin: str = field(default="", compare=False)
    when: Expression | None = None

    def __str__(self) -> str:
        """The entry as the user would say it."""
        words = self.tool
        if self.arguments:
            words += f" where {', '.join(f'{k} is {v}' for k, v in self.arguments.items())}"
        return f"{words} when {self.when.source}" if self.when else words


PolicyList: TypeAlias = "tuple[str | ToolRule, ...]"
"""Globs of tool names, or rules about arguments, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesSettings:
    """The user's statements about sources, which override those of servers: globs of tools.

    Args:
        trusted: Answers of these tools count as written by the user.
        untrusted: Strangers can write the answers of these tools.
        public: The answers of these tools are not private.
        private: The answers of these tools are for the user only.
    """

    trusted: tuple[str, ...] = ()
    untrusted: tuple[str, ...] = ()
    public: tuple[str, ...] = ()
    private: tuple[str, ...] = ()


YesCovers = Literal["trusted", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Calls that a model may make freely, calls that need approval, and forbidden calls.

    Args:
        sources: Where values come from.
        yes_covers: Whether ``--yes`` also approves calls with untrusted arguments: ``all``.
    """

    allow: PolicyList = ()
    ask: PolicyList = ()
    deny: PolicyList = ()
    sources: SourcesSettings = field(default_factory=SourcesSettings)
    yes_covers: YesCovers = "trusted"


POLICY_LISTS = ("allow", "ask", "deny")
POLICY_KEYS = (*POLICY_LISTS, "sources", "yes_covers")
SOURCE_KEYS = tuple(each.name for each in fields(SourcesSettings))


def read_policy(entry: Any, origin: str) -> PolicySettings:
    """The `policy` of a settings file.

    Raises:
        SettingsError: It does not have the form of a policy.
    """
    if not isinstance(entry, dict) or not set(cast("dict[str, Any]", entry)) <= {*POLICY_KEYS}:
        raise SettingsError(f"{origin}: policy must be a mapping with {_listed(POLICY_KEYS)}")
    given = cast("dict[str, Any]", entry)
    lists: dict[str, Any] = {
        key: tuple(
            _tool_rule(rule, f"{origin}: `policy.{key}[{number}]`", origin)
            for number, rule in enumerate(_list(given[key], f"{origin}: `policy.{key}`"))
        )
        for key in POLICY_LISTS
        if key in given
    }
    covers = given.get("yes_covers", "trusted")
    if covers not in ("trusted", "all"):
        raise SettingsError(f"{origin}: `policy.yes_covers` must be `trusted` or `all`")
    sources = _sources(given.get("sources", {}), origin)
    return PolicySettings(**lists, sources=sources, yes_covers=covers)


def _sources(entry: Any, origin: str) -> SourcesSettings:
    where = f"{origin}: `policy.sources`"
    if not isinstance(entry, dict) or not set(cast("dict[str, Any]", entry)) <= {*SOURCE_KEYS}:
        raise SettingsError(f"{where} must be a mapping with {_listed(SOURCE_KEYS)}")
    lists: dict[str, tuple[str, ...]] = {}
    for key, globs in cast("dict[str, Any]", entry).items():
        texts = _list(globs, f"{where[:-1]}.{key}`")
        if not all(isinstance(glob, str) and glob for glob in texts):
            raise SettingsError(f"{where[:-1]}.{key}` must be a list of globs of tool names")
        lists[key] = tuple(texts)
    return SourcesSettings(**lists)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise SettingsError(f"{where} must be a list of globs of tool names")
    return cast("list[Any]", value)


def _tool_rule(rule: Any, where: str, origin: str) -> ToolRule:
    """One entry: a glob, or ``{tool: glob, arguments: {name: glob}, when: expression}``."""
    if isinstance(rule, str) and rule:
        return ToolRule(rule, origin=origin)
    if isinstance(rule, dict):
        table = cast("dict[str, Any]", rule)
        arguments, when = table.get("arguments", {}), table.get("when")
        known = set(table) <= {"tool", "arguments", "when"} and isinstance(arguments, dict)
        texts = cast("dict[Any, Any]", arguments) if known else {}
        is_text = all(isinstance(each, str) for pair in texts.items() for each in pair)
        if known and is_text and isinstance(table.get("tool"), str):
            return ToolRule(table["tool"], texts, origin, _condition(when, where))
    raise SettingsError(
        f"{where} must be a glob of tool names, or "
        "{tool: GLOB, arguments: {NAME: GLOB}, when: EXPRESSION}",
        hint="put globs in quotes: in YAML a bare * has another meaning",
    )


def _condition(source: Any, where: str) -> Expression | None:
    """The expression of a rule's `when`, checked; None if there is none."""
    if source is None:
        return None
    from fractale.plan.expressions import references, syntax_problems

    found = Expression(str(source), Position(where, 1, 1))
    problems = [problem.message for problem in syntax_problems(found, "when")]
    problems += [
        f"`{reference.path[0]}` is not defined; use {_listed(WHEN_NAMES)}"
        for reference in references(found)
        if reference.path[0] not in WHEN_NAMES
    ]
    if not isinstance(source, str) or problems:
        what = "; ".join(problems) or "not a valid expression"
        raise SettingsError(f"{where}: `when: {source}`: {what}")
    return found


WHEN_NAMES = ("arguments", "inputs", "tool", "server")
"""The names that the `when` of a rule can use."""


def added(first: PolicySettings, more: PolicySettings) -> PolicySettings:
    """The rules of both files: a later file adds to an earlier one."""
    lists: dict[str, Any] = {
        key: (*getattr(first, key), *getattr(more, key)) for key in POLICY_LISTS
    }
    sources = SourcesSettings(
        **{key: (*getattr(first.sources, key), *getattr(more.sources, key)) for key in SOURCE_KEYS}
    )
    covers = "all" if "all" in (first.yes_covers, more.yes_covers) else "trusted"
    return PolicySettings(**lists, sources=sources, yes_covers=covers)
