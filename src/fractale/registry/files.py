"""Registry and server files: read into entries with positions, and found near a plan.

A *registry* file lists ``tools``; a *server* file also has ``prompts``, ``resources`` and
``server``. One reader reads both formats. Reading a file imports none of its modules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from fractale import shipped
from fractale.errors import PlanError, Position, Problem
from fractale.plan.fields import Fields, Reader, join
from fractale.plan.node import Node
from fractale.plan.source import read_file

Kind = Literal["tool", "prompt", "resource", "agent", "catalog"]
Transport = Literal["http", "sse", "stdio"]

SECTIONS: Final[dict[str, Kind]] = {
    "tools": "tool",
    "prompts": "prompt",
    "resources": "resource",
    "catalogs": "catalog",
}
UNSUPPORTED: Final = {
    "events": "fractale serves no event streams",
    "discovery": "list the tools of the modules under `tools`",
    "settings": "fractale has no tags to include or exclude: list the tools that are meant",
}
_KEYS: Final = (*SECTIONS, "server", *UNSUPPORTED)
_ENTRY_KEYS: Final = ("path", "name", "optional", "annotations", "uri")
_SERVER_KEYS: Final = ("transport", "host", "port", "path", "ssl_keyfile", "ssl_certfile")
_TRANSPORTS: Final[dict[str, Transport]] = {
    "http": "http",
    "streamable-http": "http",
    "sse": "sse",
    "stdio": "stdio",
}
MCP_HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
OWN_PREFIX: Final = "fractale."
_MOST_PORT: Final = 65_535
_FOLDER: Final = "registries"
_MOST_FILES: Final = 100
_PLAN = "that belongs to a plan: `fractale run` runs one"
_PLAN_KEYS: Final[dict[str, str]] = {"steps": _PLAN, "inputs": _PLAN, "limits": _PLAN}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """One entry of a registry file.

    Args:
        path: Dotted path of a function or a class: ``pkg.module.Name``.
        name: Its name in plans; None: the object's own name.
        optional: Whether it is only a warning if the object can't be imported or served.
        position: Of the path in its file; None if the path is from the command line.
        where: Key of the path in the file: ``tools[2].path``.
        annotations: MCP's hints for a tool, and fractale's own.
        uri: URI of a resource; None: made from its name.
        folder: Directory of modules that aren't installed; None: only installed modules.
    """

    kind: Kind
    path: str
    name: str | None = None
    optional: bool = False
    position: Position | None = None
    where: str = ""
    annotations: Mapping[str, Any] = field(default_factory=dict[str, Any])
    uri: str | None = None
    folder: Path | None = None

    @property
    def served_name(self) -> str:
        """The name in plans, if the file or the path decides it."""
        return self.name or self.path.rpartition(".")[2]

    def problem(self, code: str, message: str, suggestion: str | None = None) -> Problem:
        """Make a problem of the entry: a warning if the entry is optional, else an error."""
        severity = "warning" if self.optional else "error"
        place, path, length = self.position, self.where, len(self.path)
        return Problem(code, message, place, path, length, suggestion=suggestion, severity=severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFileSettings:
    """The ``server`` section of a file; None for a key that isn't there."""

    transport: Transport | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The content of a registry or server file.

    Args:
        file: The path as it was given.
        entries: In file order, section by section.
        server: Options of ``fractale serve``.
        warnings: Parts of the file without effect.
    """

    file: str
    entries: tuple[RegistryEntry, ...] = ()
    server: ServerFileSettings = field(default_factory=ServerFileSettings)
    warnings: tuple[Problem, ...] = ()


def load_registry(path: str | Path) -> Registry:
    """Read a registry or server file, including those of fractale 0.1.0 and mcp-serve.

    Args:
        path: A YAML file, or ``fractale:NAME`` for one that comes with fractale.

    Raises:
        PlanError: Every problem of the file, with its position.
    """
    named, path = path, shipped.located(path, "registry")
    try:
        root = read_file(path)
    except PlanError as error:
        raise shipped.or_shipped(error, path, "registry") from error
    reader = Reader()
    top = reader.fields(root, "", _KEYS, "a registry", _PLAN_KEYS)
    if top is None:
        raise PlanError(reader.problems.errors)
    folder = Path(path).absolute().parent
    entries = [
        entry
        for section, kind in SECTIONS.items()
        for entry in _entries(top, section, kind, folder)
    ]
    server = _server(top)
    reader.problems.raise_if_any()
    warnings = [] if entries else [_empty(root)]
    warnings.extend(_unsupported(top))
    return Registry(
        file=str(named), entries=tuple(entries), server=server, warnings=tuple(warnings)
    )


def _empty(root: Node) -> Problem:
    message = "the file lists no tools, prompts or resources"
    return Problem("empty-registry", message, root.position, severity="warning")


def _unsupported(top: Fields) -> Iterator[Problem]:
    for key, instead in UNSUPPORTED.items():
        node = top.get(key)
        if node is not None and node.value not in ([], {}):
            place = top.node.keys[key]
            message = f"`{key}` has no effect: {instead}"
            yield Problem(
                "not-supported", message, place.position, key, place.length, severity="warning"
            )


def _entries(top: Fields, section: str, kind: Kind, folder: Path) -> Iterator[RegistryEntry]:
    for where, node in top.items(section):
        if isinstance(node.value, str):  # a bare path
            if path := top.reader.name(node, where, "the path"):
                yield RegistryEntry(
                    kind=kind, path=path, position=node.position, where=where, folder=folder
                )
        elif entry := _entry(top.reader, node, where, kind, folder):
            yield entry


def _entry(
    reader: Reader, node: Node, where: str, kind: Kind, folder: Path
) -> RegistryEntry | None:
    found = reader.fields(node, where, _ENTRY_KEYS, "an entry", {})
    if found is None:
        return None
    path = found.name("path")
    if found.get("path") is None:
        message = "an entry needs a `path`, such as `package.module.function`"
        reader.fail("missing-key", message, node, where)
    entry = RegistryEntry(
        kind=kind,
        path=path or "",
        name=found.name("name"),
        optional=bool(found.flag("optional")),
        position=found.at("path").position,
        where=join(where, "path"),
        annotations=_annotations(found),
        uri=found.text("uri") or None,
        folder=folder,
    )
    return entry if path else None


def _annotations(entry: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, key_node, node in entry.entries("annotations"):
        where = join(join(entry.path, "annotations"), key)
        if key in MCP_HINTS and not isinstance(node.value, bool):
            message = f"`{key}` must be `true` or `false`, not {node.found()}"
            entry.reader.fail("wrong-type", message, node, where)
        elif key not in MCP_HINTS and key != "title" and not key.startswith(OWN_PREFIX):
            message = f"MCP knows no annotation `{key}`"
            known = (*MCP_HINTS, "title", "fractale.type")
            entry.reader.fail("unknown-key", message, key_node, where, near=(key, known))
        found[key] = node.plain()
    return found


def _server(top: Fields) -> ServerFileSettings:
    node = top.get("server")
    found = node and top.reader.fields(node, "server", _SERVER_KEYS, "`server`", {})
    if not found:
        return ServerFileSettings()
    transport = found.choice("transport", tuple(_TRANSPORTS))
    return ServerFileSettings(
        transport=_TRANSPORTS[transport] if transport else None,
        host=found.name("host"),
        port=_port(found),
        path=found.name("path"),
        ssl_keyfile=found.text("ssl_keyfile") or None,
        ssl_certfile=found.text("ssl_certfile") or None,
    )


def _port(server: Fields) -> int | None:
    port = server.whole("port", least=0)
    if port is not None and port > _MOST_PORT:
        server.fail("port", "bad-value", f"`port` must be at most {_MOST_PORT}, not {port}")
    return port


# -- near a plan --------------------------------------------------------------------------------


def registries_with(names: Iterable[str], plan: str) -> Mapping[str, list[str]]:
    """Find registry files that list these tools, prompts or sub-agents.

    Searched are the directories ``registries`` in the working directory, beside the plan, and
    beside the plan's directory, and then the registries that come with fractale.

    Args:
        names: Names in the plan.
        plan: Path of the plan's file.

    Returns:
        The fewest files that list the names, the one with most names first. Each has the names
        that no earlier file lists. A file that comes with fractale is ``fractale:NAME``.
    """
    left = dict.fromkeys(names)
    near = {str(path): path for path in _files(plan)} if left else {}
    found = _fewest(left, near)
    left = {name: None for name in left if all(name not in here for here in found.values())}
    own = {f"{shipped.SCHEME}{name}": path for name, path in shipped.files("registry").items()}
    return {**found, **(_fewest(left, own) if left else {})}


def _fewest(left: dict[str, None], files: Mapping[str, Path]) -> dict[str, list[str]]:
    listed = {name: _names_in(path) for name, path in files.items()}
    found: dict[str, list[str]] = {}
    while left and listed:
        best = max(listed, key=lambda path: len(listed[path] & left.keys()))
        if not (here := [name for name in left if name in listed[best]]):
            break
        found[best] = here
        left = {name: None for name in left if name not in here}
    return found


def _files(plan: str) -> list[Path]:
    """The registry files, sorted by name: each call finds the same."""
    beside = Path(plan).parent
    folders = {
        folder.absolute(): folder
        for place in (beside / "..", beside, Path())
        for folder in [Path(os.path.normpath(place / _FOLDER))]
    }
    # Those that come with fractale have shorter names than their paths.
    near = [f for f in folders.values() if not (f.is_absolute() and shipped.ships(f))]
    return sorted(path for folder in near for path in _yaml_in(folder))[:_MOST_FILES]


def _yaml_in(folder: Path) -> Iterator[Path]:
    try:
        found = [path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")]
    except OSError:
        return
    yield from (path for path in found if path.is_file())


def _names_in(path: Path) -> set[str]:
    """The names in a file; none if the file is not a registry."""
    try:
        entries = load_registry(path).entries
    except PlanError:
        return set()
    return {entry.served_name for entry in entries}
