"""What a run's record says of the software that it used: versions, and hashes of tools' schemas."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from functools import cache
from importlib import metadata

from fractale.toolbox import ToolInfo

PACKAGES = ("fractale", "langgraph", "langchain", "langchain-core", "mcp", "fastmcp")


def versions() -> dict[str, str]:
    """Package → version, of what is installed, and Python's own."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    return {"python": platform.python_version(), **found}


@cache
def _version(package: str) -> str | None:
    """The version of a package as this process has it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def tool_hashes(tools: Iterable[ToolInfo]) -> dict[str, str]:
    """Tool → a hash of what it takes and gives; the order of a schema's keys does not count."""
    found: dict[str, str] = {}
    for tool in tools:
        schemas = {"input": tool.input_schema, "output": tool.output_schema}
        text = json.dumps(schemas, sort_keys=True, ensure_ascii=False, default=dict)
        found[tool.name] = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return dict(sorted(found.items()))
