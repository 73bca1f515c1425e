"""The list of runs, from the index of the state folder."""

from __future__ import annotations

from pathlib import Path

from fractale.store.index import RunFilter, RunIndex
from fractale.store.run_row import RunRow


def list_runs(
    state_dir: Path, which: RunFilter | None = None, limit: int | None = None
) -> list[RunRow]:
    """The runs of a state folder, the latest first.

    Args:
        which: Only these.
        limit: At most so many; None for all.

    Raises:
        StoreError: The index can't be used.
    """
    if not (state_dir / "runs").is_dir():
        return []  # to list is no reason to make a state folder
    with RunIndex(state_dir) as index:
        index.refresh()
        return index.find(which, limit=limit)
