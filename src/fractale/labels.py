"""Labels that follow data through a run: who may have written a value, and who may see it.

A value from a tool of an open world may have been written by strangers: it is *untrusted*. Files,
mail, logs and everything else that a tool of a closed world reads belong to the user: they are
*private*. A `Source` says where a value came from and which of the two it is. Steps, templates and
the context of a model carry the sources of everything that flowed into them.

The user's own words (the plan, its inputs, an instruction) have no source: they are trusted. So is
every argument of a call that repeats them word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, TypeAlias, cast

from fractale.plain import to_json
from fractale.settings import SourcesSettings
from fractale.text import clip, one_line
from fractale.toolbox import ToolInfo

Kind = Literal["tool", "file", "resource", "prompt", "input"]

CLOSED_SERVERS: Final = frozenset({"local", "jobs", "fractale"})
"""Tools of the user's own process: closed-world unless they say otherwise."""

MOST_SOURCES: Final = 24
"""The number of sources that a record keeps by name; of the rest it keeps the number."""

MOST_SHOWN: Final = 60
"""Characters of a value that a question shows."""

ADDRESSES: Final = ("url", "uri", "host", "link", "site", "domain", "address", "endpoint")
"""The ends of names of arguments that expect a host without a scheme."""

_SCHEME: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)/+|//+")
_HOST: Final = re.compile(r"[\w-]+(\.[\w-]+)+|\[[0-9a-fA-F:]+\]")

_BEFORE, _AFTER = re.compile(r"[\w@/.:~\\-]"), re.compile(r"[\w@/\\-]|[.:]\w")
"""Characters that make the user's words part of a longer word if they come before or after them."""


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

    kind: Kind
    name: str
    untrusted: bool = False
    private: bool = False
    stated: bool = False

    def __str__(self) -> str:
        """The source as the user would say it."""
        return self.name if self.kind == "tool" else f"{self.kind} {self.name}"


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
    return [{k: v for k, v in asdict(each).items() if v is not False} for each in kept]


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
    stated = _matches(settings.untrusted, names)
    trusted = _matches(settings.trusted, names)
    open_world = is_open_world(tool)
    untrusted = stated or bool(outside) or (open_world and not trusted)
    private = not _matches(settings.public, names) and (
        not _is_stated_open(tool) or _matches(settings.private, names)
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


def _matches(globs: Sequence[str], names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in names)


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

    Attributes:
        sources: Where it came from.
    """

    sources: set[Source] = field(default_factory=set[Source])
    _trusted: list[str] = field(default_factory=list[str])
    _texts: list[tuple[Source, str]] = field(default_factory=list[tuple[Source, str]])
    _contacted: set[str] = field(default_factory=set[str])

    def add(self, labels: Iterable[Source], text: str = "") -> bool:
        """Record what flowed in; returns whether it had a new source."""
        new = False
        for source in labels:
            new = new or source not in self.sources
            self.sources.add(source)
            if text and source.untrusted:
                self._texts.append((source, one_line(text)))
        return new

    def trust(self, value: Any) -> None:
        """Record what the user said: a text, or other JSON."""
        self._trusted.append(one_line(value if isinstance(value, str) else to_json(value)))

    def contact(self, arguments: Mapping[str, Any]) -> None:
        """Record the hosts that a call names: the call was approved, or needed no approval."""
        for name, value in arguments.items():
            self._contacted |= {
                host for leaf in _leaves(value, {}) if (host := _host_of(name, leaf))
            }

    @property
    def trusted(self) -> tuple[str, ...]:
        """The user's words, as text."""
        return tuple(self._trusted)

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
        return any(_has_word(text, plain) for text in self._trusted)

    def _is_own_host(self, host: str) -> bool:
        """Whether the user named a host, alone or in a URL."""
        word = re.compile(rf"(?<![\w.@-]){re.escape(host)}(?![\w@-]|\.\w)", re.IGNORECASE)
        return any(word.search(text) for text in self._trusted)

    def _taint(self, name: str, leaf: str, untrusted: Sequence[Source]) -> Taint:
        plain, host = one_line(leaf), _host_of(name, leaf)
        copied = {source for source, text in self._texts if plain in text}
        return Taint(
            argument=name,
            value=shown(leaf),
            sources=tuple(sorted(copied) or untrusted),
            copied=bool(copied),
            host="" if self._is_own_host(host) or host in self._contacted else host,
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


def shown(value: Any) -> str:
    """A value on one line, shortened."""
    return clip(value if isinstance(value, str) else to_json(value), MOST_SHOWN)


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
        yield value if isinstance(value, str) else to_json(value)
