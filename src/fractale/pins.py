"""Servers' descriptions of their tools, pinned across runs in ``fractale.lock``.

A tool is pinned when it is first seen. If its server later describes it differently (description,
schemas, hints), the user sees the difference and decides. Until then, the tool is not offered to a
model or called. A new or removed tool does not count as a change.

The file is JSON: server → tool → the server's description of the tool, and its hash.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, cast

from fractale.errors import SettingsError, StoreError
from fractale.plain import to_json
from fractale.private import write_private
from fractale.store.locks import FileLock
from fractale.toolbox import Toolbox, ToolInfo

VERSION = 1
LOCAL = "local"
"""The server of the user's own registries and functions: its tools are never pinned."""

PATIENCE = 20.0
"""Seconds to wait for another process that writes the file."""

MOST_TEXT = 50_000
"""Characters of one part of a definition that a comparison shows."""

Described: TypeAlias = Mapping[str, Any]
"""A server's description of a tool, as `ToolInfo.described`; ``definition`` beside it is the hash.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChange:
    """A tool that its server describes differently than before.

    Args:
        before: The description that was agreed to; None if only its hash is known.
        after: The server's description now.
        definition: The hash of `after`.
    """

    server: str
    tool: str
    before: Described | None
    after: Described
    definition: str

    @property
    def parts(self) -> list[str]:
        """The parts that differ, as text: ``description``, ``input schema``, ``annotations.…``."""
        if self.before is None:
            return ["definition"]
        found: list[str] = []
        for part in ("description", "input_schema", "output_schema", "annotations"):
            then, now = self.before.get(part), self.after.get(part)
            if part == "annotations":
                a, b = dict(then or {}), dict(now or {})
                found += [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
            elif then != now:
                found.append(part.replace("_", " "))
        return found or ["definition"]

    def diff(self) -> str:
        """A unified diff, part by part."""
        if self.before is None:
            head = "the definition that was agreed to is not recorded; it is now:"
            return "\n".join([head, *(f"+ {line}" for line in _all_lines(self.after))])
        lines: list[str] = []
        for part in ("description", "input_schema", "output_schema", "annotations"):
            then, now = _lines(self.before.get(part)), _lines(self.after.get(part))
            if then != now:
                name = part.replace("_", " ")
                found = difflib.unified_diff(then, now, f"{name} before", f"{name} now", "", "", 2)
                lines += [line.rstrip("\n") for line in found]
        return "\n".join(lines)


def _all_lines(described: Described) -> Iterator[str]:
    for part in ("description", "input_schema", "output_schema", "annotations"):
        if described.get(part):
            yield f"{part.replace('_', ' ')}:"
            yield from (f"  {line}" for line in _lines(described[part]))


def _lines(value: Any) -> list[str]:
    if value is None or value == {}:
        return []
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=dict)
    )
    if (left_out := len(text) - MOST_TEXT) > 0:
        text = f"{text[:MOST_TEXT]}\n[{left_out} characters are left out here]"
    return text.splitlines()


def change_between(before: Described | None, tool: ToolInfo) -> ToolChange:
    """The difference between a tool and the description that was agreed to."""
    return ToolChange(
        server=tool.server,
        tool=tool.own_name,
        before=before,
        after=tool.described,
        definition=tool.definition,
    )


def tool_from(described: Described, name: str, server: str) -> ToolInfo:
    """The tool that a `described` mapping came from."""
    return ToolInfo(
        name=name,
        server=server,
        description=str(described.get("description") or ""),
        input_schema=described.get("input_schema") or {},
        output_schema=described.get("output_schema"),
        annotations=described.get("annotations") or {},
    )


def hash_of(described: Described) -> str:
    """The `ToolInfo.definition` of a server's description."""
    return tool_from(described, "", "").definition


def pins_of(toolbox: Toolbox) -> Pins:
    """The pins that a toolbox was opened with; empty ones if it has none."""
    pins = getattr(toolbox, "pins", None)
    return pins if isinstance(pins, Pins) else Pins()


class Pins:
    """The pinned tools of some servers.

    Args:
        path: The file; it is read when it is first needed. None: nothing is written.
        servers: The servers whose tools are pinned.
        mask: Removes secrets from the text that is written; the hash is of the whole.
    """

    def __init__(
        self,
        path: Path | None = None,
        servers: Collection[str] = (),
        mask: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.path = path
        self._servers = frozenset(servers)
        self._mask = mask
        self._first: dict[str, dict[str, Described]] = {}
        self._accepted: dict[str, dict[str, Described]] = {}

    @cached_property
    def _kept(self) -> dict[str, dict[str, Described]]:
        return _read(self.path) if self.path and self._servers else {}

    def covers(self, server: str) -> bool:
        return server in self._servers

    def known(self, server: str) -> Collection[str] | None:
        """The names of the tools that a server had; None if it was never seen.

        Raises:
            SettingsError: The file is damaged.
        """
        if not self.covers(server):
            return None
        tables = (self._kept, self._first, self._accepted)
        found = [table[server] for table in tables if server in table]
        return {name for each in found for name in each} if found else None

    def of(self, server: str, tool: str) -> Described | None:
        """The description of a tool that was agreed to, its hash as `definition`, or None.

        Raises:
            SettingsError: The file is damaged.
        """
        if not self.covers(server):
            return None
        for table in (self._accepted, self._kept, self._first):
            if (found := table.get(server, {}).get(tool)) is not None:
                return found
        return None

    def changes(self, tools: Iterable[ToolInfo]) -> list[ToolChange]:
        """The tools that differ from their pins."""
        found: list[ToolChange] = []
        for tool in tools:
            pinned = self.of(tool.server, tool.own_name)
            if pinned is not None and pinned["definition"] != tool.definition:
                found.append(change_between(pinned, tool))
        return found

    def see(self, tools: Iterable[ToolInfo], servers: Iterable[str] = ()) -> None:
        """Pin tools and servers that are seen for the first time.

        Args:
            servers: Those that listed their tools, even if the list was empty.
        """
        for server in servers:
            if self.known(server) is None and self.covers(server):
                self._first.setdefault(server, {})
        for tool in tools:
            if self.covers(tool.server) and self.of(tool.server, tool.own_name) is None:
                self._first.setdefault(tool.server, {})[tool.own_name] = self._entry(tool)

    def accept(self, tools: Iterable[ToolInfo]) -> None:
        """Pin tools as they are now."""
        for tool in tools:
            if self.covers(tool.server):
                self._accepted.setdefault(tool.server, {})[tool.own_name] = self._entry(tool)

    def _entry(self, tool: ToolInfo) -> Described:
        return {"definition": tool.definition, **self._mask(dict(tool.described))}

    def save(self) -> None:
        """Write new pins into the file, and keep pins that other processes wrote meanwhile.

        If two processes see a tool for the first time, the first one to write pins it.

        Raises:
            SettingsError: The file is damaged.
            StoreError: It cannot be written.
        """
        if self.path is None or not (self._first or self._accepted):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        with _held(self.path):
            table = _read(self.path)
            before = json.dumps(table, sort_keys=True, default=dict)
            for server, tools in self._first.items():
                table[server] = {**tools, **table.get(server, {})}
            for server, tools in self._accepted.items():
                table[server] = {**table.get(server, {}), **tools}
            if json.dumps(table, sort_keys=True, default=dict) != before:
                _write(self.path, table)
        self._kept = table
        self._first, self._accepted = {}, {}


def _held(path: Path) -> FileLock:
    return FileLock(
        path.with_name(f".{path.name}.held"),
        str(path),
        hint="wait until that process ends, or end it",
        wait=PATIENCE,
    )


def _read(path: Path) -> dict[str, dict[str, Described]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    table: Any = cast("dict[str, Any]", data).get("servers") if isinstance(data, dict) else None
    if not _is_table(table):
        raise _damaged(path, "it is not `{version, servers: {server: {tool: {definition, …}}}}`")
    if cast("dict[str, Any]", data).get("version") != VERSION:
        raise SettingsError(
            f"{path} was written by another version of fractale",
            hint="use that version, or remove the file to pin the tools as they are now",
        )
    return table


def _is_table(table: Any) -> bool:
    """Whether a value is server → tool → entry with a hash."""
    if not isinstance(table, dict):
        return False
    servers = cast("dict[str, Any]", table).values()
    if not all(isinstance(tools, dict) for tools in servers):
        return False
    entries = [entry for tools in servers for entry in cast("dict[str, Any]", tools).values()]
    return all(
        isinstance(entry, dict) and isinstance(cast("dict[str, Any]", entry).get("definition"), str)
        for entry in entries
    )


def _damaged(path: Path, why: str) -> SettingsError:
    return SettingsError(
        f"{path} cannot be read: {why}",
        hint="put it back from a copy, or remove it: then all tools are pinned as they are now",
    )


def _write(path: Path, table: Mapping[str, Mapping[str, Described]]) -> None:
    servers = {name: dict(sorted(table[name].items())) for name in sorted(table)}
    text = to_json({"version": VERSION, "servers": servers}, indent=1, default=dict)
    try:
        write_private(path, f"{text}\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write {path}, which pins the tools of your servers: {error}",
        hint="check space and permissions of its directory",
    )
