"""Registries: local tools, prompts, resources and sub-agents, named by dotted path in a YAML file.

- `files` reads a registry or server file into entries that know where they stand,
- `imports` turns an entry's path into the object behind it, or says what is wrong with it,
- `build` makes an MCP server of the objects (`tools`, `prompts`: of each kind of object),
- `calls` runs what they call so that nothing of it blocks or ends the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fractale.registry.files import Entry, Registry, ServerFileSettings, load_registry
from fractale.registry.imports import import_entry, local_entries

if TYPE_CHECKING:
    from fastmcp import FastMCP

    from fractale.errors import Problem

__all__ = [
    "Entry",
    "Registry",
    "ServerFileSettings",
    "build_server",
    "import_entry",
    "load_registry",
    "local_entries",
]


def build_server(
    registries: Sequence[Registry],
    *,
    functions: Sequence[Any] = (),
    name: str = "local",
    on_warning: Callable[[Problem], None] | None = None,
) -> FastMCP[Any]:
    """A FastMCP server with everything that the registries name.

    The same entry in two registries is served once.

    Args:
        registries: As `load_registry` and `local_entries` give them.
        functions: Python functions, LangChain or FastMCP tools, and sub-agents, beside them.
        name: What the server calls itself.
        on_warning: Takes what is wrong but doesn't stop the start; None: it is logged.

    Raises:
        PlanError: Paths that can't be imported, objects that can't be served, two entries of one
            name: all of them at once.
    """
    # FastMCP takes most of a second to import: only who serves something pays for it.
    from fractale.registry.build import Builder

    return Builder(name, on_warning).build(registries, functions)
