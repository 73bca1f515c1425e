"""The list of runs, from the index of the state folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from fractale.store.index import NAME, RunFilter, RunIndex
from fractale.store.records import RunFolders
from fractale.store.run_row import RunRow, row_of


def list_runs(
    state_dir: Path, which: RunFilter | None = None, limit: int | None = None
) -> list[RunRow]:
    """The runs of a state folder, the latest first.

    Where the folder can only be read, as somebody else's or an archive's, each run's own folder is.

    Args:
        which: Only these.
        limit: At most so many; None for all.

    Raises:
        StoreError: The index can't be used.
    """
    if not (state_dir / "runs").is_dir():
        RunFolders(state_dir).names()  # an error where something else is in its place
        return []  # to list is no reason to make a state folder
    if not _can_be_written(state_dir):
        rows = _rows(state_dir, which or RunFilter())
        return sorted(rows, key=lambda row: (-row.started, row.id))[:limit]
    with RunIndex(state_dir) as index:
        index.refresh()
        return index.find(which, limit=limit)


def _can_be_written(state_dir: Path) -> bool:
    places = [place for place in (state_dir, state_dir / NAME) if place.exists()]
    return all(os.access(place, os.W_OK, effective_ids=True) for place in places)


def _rows(state_dir: Path, which: RunFilter) -> Iterator[RunRow]:
    folders = RunFolders(state_dir)
    for name in folders.names():
        row = row_of(folders.at(name))
        if row is not None and _fits(row, which):
            yield row


def _fits(row: RunRow, which: RunFilter) -> bool:
    """Whether a run is one of these, as `RunIndex.find` has it."""
    return (
        (which.plan is None or fnmatchcase(row.plan, which.plan))
        and (not which.status or row.status in which.status)
        and (which.since is None or row.started >= which.since)
        and (which.until is None or row.started < which.until)
        and which.parent in (None, row.parent)
    )
