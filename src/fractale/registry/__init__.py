"""Registries: local tools, prompts, resources and sub-agents, named by dotted path in a YAML file.

- `files` reads a registry or server file into entries that know where they stand,
- `imports` turns an entry's path into the object behind it, or says what is wrong with it,
- `build` makes components of the objects (`tools`, `prompts`, `resources`: of each kind),
- `signature`, `schemas`, `docstrings`, `hints` say what a function takes and gives, `calls` runs
  it so that nothing of it blocks or ends the server, `values` makes an answer of what it returns,
- `local_server` and `fastmcp_server` serve components: the one starts at once and is for runs,
  the other is for other programs, and for runs whose modules use FastMCP (`fastmcp_made`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fractale.registry.files import Entry, Registry, ServerFileSettings, load_registry
from fractale.registry.imports import import_entry, local_entries

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from mcp.server.lowlevel import Server

    from fractale.errors import Problem

__all__ = [
    "Entry",
    "Registry",
    "ServerFileSettings",
    "build_fastmcp",
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
) -> Server[Any] | FastMCP[Any]:
    """A server inside this process with everything that the registries name.

    FastMCP takes a quarter of a second to import: it is the server only where it made one of the
    objects, or where a module that has one uses it. The same entry in two registries is served
    once.

    Args:
        registries: As `load_registry` and `local_entries` give them.
        functions: Python functions, LangChain or FastMCP tools, and sub-agents, beside them.
        name: What the server calls itself.
        on_warning: Takes what is wrong but doesn't stop the start; None: it is logged.

    Raises:
        PlanError: Paths that can't be imported, objects that can't be served, two entries of one
            name: all of them at once.
    """
    from fractale.registry.build import Builder

    builder = Builder(on_warning)
    components = builder.build(registries, functions)
    if builder.uses_fastmcp:
        from fractale.registry.fastmcp_server import fastmcp_server

        return fastmcp_server(name, components)
    from fractale.registry.local_server import local_server

    return local_server(name, components)


def build_fastmcp(
    registries: Sequence[Registry],
    *,
    functions: Sequence[Any] = (),
    name: str = "local",
    on_warning: Callable[[Problem], None] | None = None,
) -> FastMCP[Any]:
    """A FastMCP server with everything that the registries name, to be served to other programs.

    Arguments and errors are those of `build_server`.
    """
    from fractale.registry.build import Builder
    from fractale.registry.fastmcp_server import fastmcp_server

    return fastmcp_server(name, Builder(on_warning).build(registries, functions))
