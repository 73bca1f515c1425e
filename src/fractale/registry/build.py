"""Registries → an MCP server, or every problem with them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from mcp.server.lowlevel import Server

from fractale.code_files import note_loaded
from fractale.errors import PlanError, Problem, ProblemList
from fractale.registry.calls import error_text
from fractale.registry.fastmcp_uses import FastMCPMade, may_use_fastmcp
from fractale.registry.files import Registry, RegistryEntry
from fractale.registry.imports import import_entry
from fractale.registry.prompts import make_prompt
from fractale.registry.resources import make_resource
from fractale.registry.server import Component, serve_components
from fractale.registry.tools import is_agent_like, make_tool

_log = logging.getLogger("fractale.registry")

Found: TypeAlias = Component | FastMCPMade


def build_server(
    registries: Sequence[Registry],
    *,
    functions: Sequence[Any] = (),
    name: str = "local",
    on_warning: Callable[[Problem], None] | None = None,
    objects: dict[str, tuple[Any, Path | None]] | None = None,
) -> Server[Any]:
    """Build the MCP server of everything that registries name.

    The same entry in two registries is served once.

    Args:
        registries: As `load_registry` and `local_entries` return them.
        functions: Python functions, LangChain or FastMCP tools, and sub-agents, after those of
            the registries.
        name: The server's name in MCP's handshake.
        on_warning: Called with each problem that doesn't prevent the start; None: it is logged.
        objects: Receives, for each tool's name, its object and the directory of the registry file.

    Raises:
        PlanError: Paths that can't be imported, objects that can't be served, two entries with
            one name: every problem at once.
    """
    builder = _Builder(on_warning)
    found = builder.build(registries, functions)
    if objects is not None:
        note_loaded()
        objects.update(builder.objects)
    if not builder.uses_fastmcp:
        return serve_components(name, [e for e in found if not isinstance(e, FastMCPMade)])
    from fractale.registry.fastmcp_mount import mount

    components, lifespan = mount(name, found)
    return serve_components(name, components, lifespan)


@dataclass(slots=True)
class _Builder:
    """Collects the components of one server, and every problem with them.

    Args:
        uses_fastmcp: Whether FastMCP made one of the objects, or the module of one uses FastMCP
            and may ask for the running server.
        objects: Name of a tool → its object, and the directory of the registry file.
    """

    on_warning: Callable[[Problem], None] | None = None
    uses_fastmcp: bool = False
    objects: dict[str, tuple[Any, Path | None]] = field(
        default_factory=dict[str, "tuple[Any, Path | None]"]
    )
    _problems: ProblemList = field(default_factory=ProblemList)
    _taken: dict[tuple[str, str], RegistryEntry] = field(
        default_factory=dict[tuple[str, str], RegistryEntry]
    )

    def build(self, registries: Sequence[Registry], functions: Sequence[Any]) -> list[Found]:
        """Make the components, those of registries first.

        Raises:
            PlanError: Every problem of every entry.
        """
        for registry in registries:
            self._warn(registry.warnings)
        found = [*self._imported(registries), *_given(functions)]
        components = [self._component(entry, each) for entry, each in found]
        self._warn(p for p in self._problems.problems if p.severity == "warning")
        self._problems.raise_if_any()
        return [component for component in components if component is not None]

    def _warn(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if self.on_warning:
                self.on_warning(problem)
            else:
                _log.warning("%s", problem)

    def _imported(self, registries: Sequence[Registry]) -> Iterator[tuple[RegistryEntry, Any]]:
        for registry in registries:
            for entry in registry.entries:
                try:
                    found = import_entry(entry)
                except PlanError as error:
                    self._problems.problems.extend(error.problems)
                    continue
                yield from self._of_catalog(entry, found)

    def _of_catalog(self, entry: RegistryEntry, found: Any) -> Iterator[tuple[RegistryEntry, Any]]:
        """A catalog's tools are its methods that are marked ``is_tool``."""
        if entry.kind != "catalog":
            yield entry, found
            return
        try:
            catalog = found()
            if hasattr(catalog, "probe"):
                catalog.probe()
            methods = inspect.getmembers(catalog, inspect.ismethod)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - reported with its cause
            self._unusable(entry, error)
            return
        for name, method in methods:
            if getattr(method, "is_tool", False):
                yield replace(entry, kind="tool", name=name, path=f"{entry.path}.{name}"), method

    def _unusable(self, entry: RegistryEntry, error: BaseException) -> None:
        message = f"`{entry.path}` can't be served as {_NOUNS[entry.kind]}: {error_text(error)}"
        self._problems.add(entry.problem("unusable-entry", message))

    def _component(self, entry: RegistryEntry, found: Any) -> Found | None:
        """The component of an object; None if it can't be served, or is served already."""
        if entry.kind == "agent" and not is_agent_like(found):
            message = (
                f"`{entry.path}` is not a sub-agent: that is a class with `name`, `description`, "
                "`input_schema` and `__call__`; a function belongs into a registry file"
            )
            self._problems.add(entry.problem("not-an-agent", message))
            return None
        try:
            component = _MAKERS.get(entry.kind, make_tool)(entry, found)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - reported with its cause
            self._unusable(entry, error)
            return None
        if not self._is_new(entry, component):
            return None
        if entry.kind not in ("prompt", "resource"):
            self.objects[_name(component)] = found, entry.folder
        if isinstance(component, FastMCPMade) or may_use_fastmcp(found):
            self.uses_fastmcp = True
        return component

    def _is_new(self, entry: RegistryEntry, component: Found) -> bool:
        space = "tool" if entry.kind == "agent" else entry.kind
        first = self._taken.setdefault((space, _name(component)), entry)
        if first is entry:
            return True
        if first.path != entry.path:
            where = f" at {first.position}" if first.position else ""
            message = (
                f"`{entry.path}` and `{first.path}`{where} are both called `{_name(component)}`; "
                "give one of them another `name`"
            )
            self._problems.add(entry.problem("same-name", message))
        return False


_MAKERS: dict[str, Callable[[RegistryEntry, Any], Found]] = {
    "prompt": make_prompt,
    "resource": make_resource,
}
_NOUNS = {
    "tool": "a tool",
    "agent": "a sub-agent",
    "prompt": "a prompt",
    "resource": "a resource",
    "catalog": "a catalog",
}


def _name(component: Found) -> str:
    return component.name if isinstance(component, FastMCPMade) else component.listing.name


def _given(functions: Sequence[Any]) -> Iterator[tuple[RegistryEntry, Any]]:
    """Objects that a program passes in, each with an entry that names it."""
    for index, found in enumerate(functions):
        name = getattr(found, "name", None) or getattr(found, "__qualname__", None)
        module = getattr(found, "__module__", None)
        path = f"{module}.{name or type(found).__name__}" if module else f"tools[{index}]"
        yield RegistryEntry(kind="tool", path=path), found
