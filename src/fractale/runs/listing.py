"""The list of runs, from the index of the state folder."""

from __future__ import annotations

import os
from pathlib import Path

from fractale.store.index import RunFilter, RunIndex
from fractale.store.records import RunFolders
from fractale.store.run_row import RunRow, row_of

NOT_ENDED = ("waiting", "limit", "stopped")
"""What a run can go on from."""
MOST_LOOKED_AT = 1000
"""Of such runs, the latest ones, so that many of them don't make the list slow."""


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
        _catch_up(index, state_dir)
        return index.find(which, limit=limit)


def _catch_up(index: RunIndex, state_dir: Path) -> None:
    """Read again what has gone on since its row was written, and was killed before it wrote one."""
    folders, found = RunFolders(state_dir), list[RunRow]()
    for row in index.find(RunFilter(status=NOT_ENDED), limit=MOST_LOOKED_AT):
        # A row is written right after the last event; only what is clearly later is news.
        if _changed(state_dir, row.id) > (row.ended or row.started) + 1:
            again = row_of(folders.at(row.id))
            if again is not None and again != row:
                found.append(again)
    if found:
        index.put_all(found)


def _changed(state_dir: Path, run_id: str) -> float:
    """When a run's record was last written to."""
    try:
        # With thousands of runs, to make paths as objects takes longer than to look at files.
        return os.stat(f"{state_dir}/runs/{run_id}/events.jsonl").st_mtime  # noqa: PTH116
    except OSError:
        return 0.0
