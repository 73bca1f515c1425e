"""Registries: local tools, prompts, resources and sub-agents, named by dotted path in a YAML file.

A registry becomes a server in this order:

1. `files` reads registry and server files into entries with positions, and imports nothing.
2. `imports` imports an entry's module: this runs a person's code. It states what is checked.
3. `build` makes a component of each object: `tools` (and `langchain`), `prompts`, `resources`.
   They rest on `signature` and `schemas` (what a function takes and returns), `calls` (a call that
   neither blocks nor ends the server) and `values` (a returned value as MCP's content).
4. `server` serves the components, inside a run and under ``fractale serve``: one low-level MCP
   server. If a module uses FastMCP (`fastmcp_uses`), `fastmcp_mount` adds FastMCP's objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fractale.registry.files import Registry, RegistryEntry, ServerFileSettings, load_registry
from fractale.registry.imports import import_entry, local_entries

if TYPE_CHECKING:
    from fractale.registry.build import build_server

__all__ = [
    "Registry",
    "RegistryEntry",
    "ServerFileSettings",
    "build_server",
    "import_entry",
    "load_registry",
    "local_entries",
]


def __getattr__(name: str) -> Any:
    """`build_server` on first use: the MCP library takes a while to import."""
    if name == "build_server":
        from fractale.registry.build import build_server

        return build_server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
