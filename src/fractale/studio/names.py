"""Names: of graphs, and of Studio's pages."""

from __future__ import annotations

import re
from pathlib import Path

STUDIO = ("https://smith.langchain.com", "https://eu.smith.langchain.com")
"""Where Studio's page comes from."""


def graph_name(path: Path) -> str:
    """A plan's file as a name in Python: ``my-plan.yaml`` is ``my_plan``."""
    return re.sub(r"\W", "_", path.stem)
