"""What a run's record says of the software that it used: versions, and hashes of tools' schemas."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from fractale.toolbox import ToolInfo

PACKAGES = ("fractale", "langgraph", "langchain", "langchain-core", "mcp", "fastmcp")


def versions() -> dict[str, str]:
    """Package → version, of what is installed, and Python's own."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def tool_hashes(tools: Iterable[ToolInfo]) -> dict[str, str]:
    """Tool → a hash of what it takes and gives; the order of a schema's keys does not count."""
    found: dict[str, str] = {}
    for tool in tools:
        schemas = {"input": tool.input_schema, "output": tool.output_schema}
        text = json.dumps(schemas, sort_keys=True, ensure_ascii=False, default=dict)
        found[tool.name] = hashlib.sha256(text.encode()).hexdigest()
    return dict(sorted(found.items()))
