"""Paths of steps in a run: ``outer/inner``, and ``each[3]/inner`` inside an item of a foreach."""

from __future__ import annotations

import re

_INDEX = re.compile(r"\[\d+\]")


def without_indexes(path: str) -> str:
    """The path without the indexes of items: of ``a[3]/b``, ``a/b``."""
    return _INDEX.sub("", path)


def around(path: str) -> list[str]:
    """The paths that contain this one, the nearest first: ``a[1]`` and ``a`` for ``a[1]/b``."""
    found: list[str] = []
    while path := path[: max(path.rfind("["), path.rfind("/"), 0)]:
        found.append(path)
    return found
