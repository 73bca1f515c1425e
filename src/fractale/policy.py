"""Which calls are allowed: the one place that decides, and the labels of data that it decides by.

A call that the user wrote into a plan is agreed to, because it is there. The exception is a call
that would change something with a value that, by its server, strangers can write. A call that a
model chose, or that is part of a step that a model drafted, is not agreed to. It is free if it only
reads and stays in a closed world, or if no private data is in its reach. All other calls need
approval. A tool counts as changing, and as one of an open world, unless its server says otherwise.

Labels follow data through a run: who may have written a value, and who may see it. A value from a
tool of an open world may have been written by strangers: it is *untrusted*. Files, mail, logs and
everything else that a tool of a closed world reads belong to the user: they are *private*. A
`Source` says where a value came from and which of the two it is. Steps, templates and the context
of a model carry the sources of everything that flowed into them.

The user's own words (the plan, its inputs, an instruction) have no source: they are trusted. So is
every argument of a call that repeats them word for word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, TypeAlias, cast

from fractale.errors import TemplateError
from fractale.plain import as_text
from fractale.plan.model import Approve
from fractale.questions.parsing import brief
from fractale.settings import PolicyList, PolicySettings, SourcesSettings, ToolRule
from fractale.text import one_line
from fractale.toolbox import ToolInfo

# Labels

SourceKind = Literal["tool", "file", "resource", "prompt", "input"]

CLOSED_SERVERS: Final = frozenset({"local", "jobs", "fractale"})
"""Tools of the user's own process: closed-world unless they say otherwise."""

MOST_SOURCES: Final = 24
"""The number of sources that a record keeps by name; of the rest it keeps the number."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Source:
    """The origin of a value.

    Args:
        name: ``server.tool``, a path, a URI, or the name of an input.
        untrusted: Whether strangers may have written it.
        private: Whether it is for the user only.
        stated: Whether its server or the settings say that it is untrusted. If neither says
            anything, it is untrusted by default.
    """

    kind: SourceKind
    name: str
    untrusted: bool = False
    private: bool = False
    stated: bool = False

    def __str__(self) -> str:
        """The source as the user would say it."""
        return self.name if self.kind == "tool" else f"{self.kind} {self.name}"


_FIELDS: Final = tuple(each.name for each in fields(Source))

Labels: TypeAlias = frozenset[Source]

NO_LABELS: Final[Labels] = frozenset()


def to_data(labels: Iterable[Source]) -> list[dict[str, Any]]:
    """Labels as JSON, in a fixed order; of very many, the most important come first."""
    ordered = sorted(set(labels), key=lambda s: (not s.stated, not s.untrusted, s))
    kept, rest = ordered[:MOST_SOURCES], ordered[MOST_SOURCES:]
    if rest:
        kept.append(
            Source(
                kind="tool",
                name=f"{len(rest)} more",
                untrusted=any(each.untrusted for each in rest),
                private=any(each.private for each in rest),
                stated=any(each.stated for each in rest),
            )
        )
    return [{k: v for k in _FIELDS if (v := getattr(each, k)) is not False} for each in kept]


def from_data(data: Any) -> Labels:
    """The inverse of `to_data`; no labels for None."""
    return frozenset(Source(**each) for each in cast("list[dict[str, Any]]", data or []))


def is_open_world(tool: ToolInfo) -> bool:
    """Whether a tool deals with the world outside; MCP's default is that it does."""
    hint = tool.annotations.get("openWorldHint")
    return hint if isinstance(hint, bool) else tool.server not in CLOSED_SERVERS


def source_of(
    tool: ToolInfo, settings: SourcesSettings, outside: Sequence[str] = ()
) -> Source | None:
    """The source of a tool's answer; None if it is neither untrusted nor private.

    Args:
        outside: Paths among its arguments that are outside the project and the run's directory.
    """
    names = (tool.name, tool.qualified_name)
    stated = _is_listed(settings.untrusted, names)
    trusted = _is_listed(settings.trusted, names)
    open_world = is_open_world(tool)
    untrusted = stated or bool(outside) or (open_world and not trusted)
    private = not _is_listed(settings.public, names) and (
        not _is_stated_open(tool) or _is_listed(settings.private, names)
    )
    if not untrusted and not private:
        return None
    return Source(
        kind="file" if outside else "tool",
        name=outside[0] if outside else tool.qualified_name,
        untrusted=untrusted,
        private=private or bool(outside),
        stated=untrusted and (stated or (_is_stated_open(tool) and not trusted)),
    )


def _is_stated_open(tool: ToolInfo) -> bool:
    return tool.annotations.get("openWorldHint") is True


def _is_listed(globs: Sequence[str], names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in names)


# What flowed into an attempt

ADDRESSES: Final = ("url", "uri", "host", "link", "site", "domain", "address", "endpoint")
"""The ends of names of arguments that expect a host without a scheme."""

_SCHEME: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)/+|//+")
_HOST: Final = re.compile(r"[\w-]+(\.[\w-]+)+|\[[0-9a-fA-F:]+\]")

_BEFORE, _AFTER = re.compile(r"[\w@/.:~\\-]"), re.compile(r"[\w@/\\-]|[.:]\w")
"""Characters that make the user's words part of a longer word if they come before or after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """An argument of a call whose value came from an untrusted source.

    Args:
        value: The value, shortened.
        sources: Where it came from.
        copied: Whether it is word for word in what the sources gave; otherwise a model
            that had read them wrote it.
        host: The host on the network that it names, if it is an address that the user did not
            name and that was not contacted before; empty if it is not.
    """

    argument: str
    value: str
    sources: tuple[Source, ...]
    copied: bool
    host: str = ""

    def __str__(self) -> str:
        """The taint as the user would say it."""
        names = ", ".join(f"`{source}`" for source in self.sources)
        how = "came from" if self.copied else "was written by a model that had read"
        return f"`{self.argument}` ({self.value}) {how} {names}"


@dataclass(slots=True)
class Seen:
    """Everything that flowed into one attempt of a step, or into the context of its model.

    Texts are prepared when they are first compared, since most attempts have no model.

    Attributes:
        sources: Where it came from.
    """

    sources: set[Source] = field(default_factory=set[Source])
    _given: list[Any] = field(default_factory=list[Any])
    _given_texts: list[str] = field(default_factory=list[str])
    _read: list[tuple[Source, str]] = field(default_factory=list[tuple[Source, str]])
    _read_texts: list[tuple[Source, str]] = field(default_factory=list[tuple[Source, str]])
    _calls: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    _contacted: set[str] = field(default_factory=set[str])

    def add(self, labels: Iterable[Source], text: str = "") -> bool:
        """Record what flowed in; returns whether it had a new source."""
        new = False
        for source in labels:
            new = new or source not in self.sources
            self.sources.add(source)
            if text and source.untrusted:
                self._read.append((source, text))
        return new

    def trust(self, value: Any) -> None:
        """Record what the user said: a text, or other JSON."""
        self._given.append(value)

    def contact(self, arguments: Mapping[str, Any]) -> None:
        """Record a call whose hosts may be named again: it was approved, or needed no approval."""
        self._calls.append(arguments)

    @property
    def trusted(self) -> Sequence[str]:
        """The user's words, as text."""
        known = len(self._given_texts)
        self._given_texts += [one_line(as_text(value)) for value in self._given[known:]]
        return self._given_texts

    @property
    def _texts(self) -> Sequence[tuple[Source, str]]:
        """The texts of untrusted sources."""
        known = len(self._read_texts)
        self._read_texts += [(source, one_line(text)) for source, text in self._read[known:]]
        return self._read_texts

    @property
    def _hosts(self) -> Collection[str]:
        """The hosts that calls named."""
        for arguments in self._calls:
            for name, value in arguments.items():
                self._contacted |= {h for leaf in _leaves(value, {}) if (h := _host_of(name, leaf))}
        self._calls.clear()
        return self._contacted

    @property
    def untrusted(self) -> list[Source]:
        """The sources that strangers may have written in."""
        return sorted(each for each in self.sources if each.untrusted)

    @property
    def private(self) -> list[Source]:
        """The sources that are for the user only."""
        return sorted(each for each in self.sources if each.private)

    def taints_of(
        self, arguments: Mapping[str, Any], schema: Mapping[str, Any]
    ) -> tuple[Taint, ...]:
        """The arguments of a call that a model chose whose values are not the user's own.

        Args:
            schema: JSON Schema of the arguments. Words in it need no source.
        """
        untrusted = self.untrusted
        if not untrusted:
            return ()
        found: dict[str, Taint] = {}
        for name, leaf in self.composed(arguments, schema):
            taint = self._taint(name, leaf, untrusted)
            if name not in found or (taint.host and not found[name].host):
                found[name] = taint
        return tuple(found.values())

    def composed(
        self, arguments: Mapping[str, Any], schema: Mapping[str, Any]
    ) -> list[tuple[str, str]]:
        """The values that do not repeat the user's words, each with its argument."""
        properties: Any = schema.get("properties") or {}
        found: list[tuple[str, str]] = []
        for name, value in arguments.items():
            own: Any = properties.get(name)
            own = cast("Mapping[str, Any]", own) if isinstance(own, Mapping) else {}
            found += [(name, leaf) for leaf in _leaves(value, own) if not self._is_own(leaf)]
        return found

    def _is_own(self, leaf: str) -> bool:
        plain = one_line(leaf)
        if not plain:
            return len(leaf) < 2  # the number of blanks could carry a message
        return any(_has_word(text, plain) for text in self.trusted)

    def _is_own_host(self, host: str) -> bool:
        """Whether the user named a host, alone or in a URL."""
        word = re.compile(rf"(?<![\w.@-]){re.escape(host)}(?![\w@-]|\.\w)", re.IGNORECASE)
        return any(word.search(text) for text in self.trusted)

    def _taint(self, name: str, leaf: str, untrusted: Sequence[Source]) -> Taint:
        plain, host = one_line(leaf), _host_of(name, leaf)
        copied = {source for source, text in self._texts if plain in text}
        return Taint(
            argument=name,
            value=brief(leaf),
            sources=tuple(sorted(copied) or untrusted),
            copied=bool(copied),
            host="" if self._is_own_host(host) or host in self._hosts else host,
        )


def _has_word(text: str, word: str) -> bool:
    """Whether a text has a word, of any length, that is not part of a longer word."""
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        if not (
            _BEFORE.match(text[max(start - 1, 0) : start]) or _AFTER.match(text[end : end + 2])
        ):
            return True
        start = text.find(word, start + 1)
    return False


def _host_of(argument: str, leaf: str) -> str:
    """The host that a value names, if it is an address on the network; else an empty text.

    It is read as browsers read it: any number of slashes of either kind, and text before an ``@``.
    """
    text = leaf.strip().replace("\\", "/")
    found = _SCHEME.match(text)
    rest = text[found.end() :] if found else text
    host = re.split(r"[/?#\s]", rest, maxsplit=1)[0].rpartition("@")[2]
    host = host if host.startswith("[") else host.partition(":")[0]
    is_address = (
        found is not None
        or host.lower().startswith("www.")
        or (rest.startswith(f"{host}/") and _HOST.fullmatch(host) is not None)
        or (argument.lower().endswith(ADDRESSES) and _HOST.fullmatch(host) is not None)
    )
    return host.lower() if is_address else ""


def _leaves(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """The texts and numbers in a value, and the keys that its schema does not name.

    A flag, and a word that the schema lists, carry nothing from elsewhere.
    """
    if value is None or isinstance(value, bool) or value in (schema.get("enum") or ()):
        return
    if isinstance(value, Mapping):
        properties: Any = schema.get("properties") or {}
        for key, inner in cast("Mapping[str, Any]", value).items():
            own: Any = properties.get(key)
            if not isinstance(own, Mapping):
                yield key
                own = {}
            yield from _leaves(inner, cast("Mapping[str, Any]", own))
    elif isinstance(value, (list, tuple)):
        items: Any = schema.get("items")
        own = cast("Mapping[str, Any]", items) if isinstance(items, Mapping) else {}
        for inner in cast("Sequence[Any]", value):
            yield from _leaves(inner, own)
    else:
        yield as_text(value)


# The decision

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
        name in arguments and fnmatchcase(as_text(arguments[name]), glob)
        for name, glob in globs.items()
    )


def _names(tool: ToolInfo) -> tuple[str, ...]:
    return tool.name, tool.qualified_name, tool.qualified_name.partition(".")[2]


def _matches(tool: ToolInfo, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in _names(tool))
