"""The requirements of tools in addition to their Python package, from ``needs.yaml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from fractale.errors import SettingsError
from fractale.plan.source import MAX_BYTES
from fractale.schedulers.homes import NAMES
from fractale.settings import read_table

Kind: TypeAlias = Literal["program", "works", "any", "first", "scheduler", "module", "packages"]
KINDS: tuple[Kind, ...] = (
    "program",
    "works",
    "any",
    "first",
    "scheduler",
    "module",
    "packages",
)
BY_FINDINGS: frozenset[Kind] = frozenset({"works", "any", "first", "scheduler"})
FILE = "needs.yaml"
EVERY = "every"
"""All schedulers, as the value of `scheduler`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A requirement of tools.

    Args:
        kind: How to check that the requirement is met.
        targets: The program, module or packages; for `BY_FINDINGS`, names of findings.
        what: A description, as text.
        get: How to install it.
        chosen_by: The argument of a call that names the target to use.
    """

    name: str
    kind: Kind
    targets: tuple[str, ...]
    what: str = ""
    get: str = ""
    chosen_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The package to install for a module.

    Args:
        note: A further hint for the user.
    """

    install: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsTable:
    """The contents of all files of needs."""

    needs: Mapping[str, Need] = field(default_factory=dict[str, Need])
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    packages: Mapping[str, Package] = field(default_factory=dict[str, Package])

    def of(self, path: str) -> list[Need]:
        """The needs of the tool with a dotted path; empty if the table does not list it."""
        known = self._known(path)
        return [self.needs[name] for name in self.tools[known]] if known else []

    def knows(self, path: str) -> bool:
        """Whether the table lists the tool with a dotted path, even without needs."""
        return self._known(path) is not None

    def _known(self, path: str) -> str | None:
        """The longest path in the table that is a prefix of a path."""
        fitting = [known for known in self.tools if path == known or path.startswith(f"{known}.")]
        return max(fitting, key=len, default=None)

    def program(self, name: str) -> Need | None:
        """The need of a program by its name, from the last file that mentions it."""
        found = [n for n in self.needs.values() if n.kind == "program" and n.targets == (name,)]
        return found[-1] if found else None

    def install(self, module: str) -> str:
        """How to install the package of a module, as text; empty if unknown."""
        package = self.packages.get(module.partition(".")[0])
        if package is None:
            return ""
        quote = "'" if "[" in package.install else ""
        return f"pip install {quote}{package.install}{quote}" + (
            f" ({package.note})" if package.note else ""
        )

    def findings(self) -> set[str]:
        """The names of all findings that a need may refer to."""
        asked = [need for need in self.needs.values() if need.kind in BY_FINDINGS]
        return {target for need in asked for target in need.targets}


def load_needs(more: Path | None = None) -> NeedsTable:
    """Load fractale's own table, and the user's table over it.

    Args:
        more: A file of the same form; it need not exist.

    Raises:
        SettingsError: The user's file has another form.
    """
    own = _shipped()
    if more is None or not more.is_file():
        return own
    try:
        with more.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {more}: {error.strerror}") from error
    return read_needs(read_table(data, str(more)), str(more), own)


@functools.cache
def _shipped() -> NeedsTable:
    import yaml

    return read_needs(
        yaml.safe_load(files("fractale.site").joinpath(FILE).read_text("utf-8")), FILE
    )


def read_needs(data: Any, file: str, under: NeedsTable | None = None) -> NeedsTable:
    """Read the needs in a file's data, over other needs.

    Raises:
        SettingsError: The data does not have the form that ``needs.yaml`` describes.
    """
    under = under or NeedsTable()
    try:
        table = cast("dict[str, Any]", data or {})
        needs = {name: _need(name, row) for name, row in dict(table.get("needs") or {}).items()}
        rows = cast("list[dict[str, Any]]", table.get("tools") or [])
        tools = {str(row["path"]): tuple(str(n) for n in row.get("needs") or ()) for row in rows}
        packages = {
            str(name): Package(install=str(row["install"]), note=str(row.get("note") or ""))
            for name, row in dict(table.get("packages") or {}).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"{file} is not a table of needs: {error}",
            hint="docs/site.md shows its form",
        ) from error
    all_needs = {**under.needs, **needs}
    unknown = sorted({name for row in tools.values() for name in row} - set(all_needs))
    if unknown:
        raise SettingsError(f"{file}: `{unknown[0]}` is not defined; add it to `needs`")
    return NeedsTable(
        needs=all_needs, tools={**under.tools, **tools}, packages={**under.packages, **packages}
    )


def _need(name: str, row: Mapping[str, Any]) -> Need:
    kinds: list[Kind] = [kind for kind in KINDS if kind in row]
    if len(kinds) != 1:
        raise ValueError(f"`{name}` must have one of {', '.join(KINDS)}")
    value: Any = row[kinds[0]]
    targets = cast("Sequence[Any]", value) if isinstance(value, list) else [value]
    if kinds[0] == "scheduler" and value == EVERY:
        targets = NAMES
    return Need(
        name=str(name),
        kind=kinds[0],
        targets=tuple(str(target) for target in targets),
        what=str(row.get("what") or name),
        get=str(row.get("get") or ""),
        chosen_by=str(row.get("chosen_by") or ""),
    )
