"""Registry files near a plan that list what it lacks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from fractale.errors import PlanError
from fractale.registry.files import load_registry

FOLDER: Final = "registries"
_MOST_FILES: Final = 100


def registries_with(names: Iterable[str], plan: str) -> Mapping[str, list[str]]:
    """Find registry files that list these tools, prompts or sub-agents; imports nothing.

    It looks into the folder ``registries`` here, beside the plan, and beside the plan's folder.

    Args:
        names: As the plan calls them.
        plan: The path of its file.

    Returns:
        As few files as will do, the one with most of the names first, each with those that no
        file before it lists.
    """
    left = dict.fromkeys(names)
    listed = {path: _names_in(path) for path in _files(plan)} if left else {}
    found: dict[str, list[str]] = {}
    while left and listed:
        best = max(listed, key=lambda path: len(listed[path] & left.keys()))
        if not (here := [name for name in left if name in listed[best]]):
            break
        found[str(best)] = here
        left = {name: None for name in left if name not in here}
    return found


def _files(plan: str) -> list[Path]:
    """In the order of their names, so that the same one is named each time."""
    beside = Path(plan).parent
    folders = {
        folder.absolute(): folder
        for place in (beside / "..", beside, Path())
        for folder in [Path(os.path.normpath(place / FOLDER))]
    }
    return sorted(path for folder in folders.values() for path in _yaml_in(folder))[:_MOST_FILES]


def _yaml_in(folder: Path) -> Iterator[Path]:
    try:
        found = [path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")]
    except OSError:
        return
    yield from (path for path in found if path.is_file())


def _names_in(path: Path) -> set[str]:
    """What a file lists; nothing where it is no registry."""
    try:
        entries = load_registry(path).entries
    except PlanError:
        return set()
    return {entry.name or entry.path.rpartition(".")[2] for entry in entries}
