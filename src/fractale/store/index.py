"""The list of runs: one row a run in ``index.sqlite``, so that listing reads no run's record.

The index only repeats what the folders of the runs say. It is made again from them where it is
missing or damaged, and a run that it does not know is added when it is looked for.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Self

from fractale.private import make_folder, touch_private
from fractale.store.faults import sqlite_faults
from fractale.store.filesystem import file_system
from fractale.store.locks import holder_of
from fractale.store.records import RunFolders
from fractale.store.run_row import RunRow, row_of
from fractale.store.schema import migrate

NAME = "index.sqlite"
WHAT = "index of runs"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
NOT_ENDED = ("waiting", "limit", "stopped")
"""What a run can go on from."""
MOST_LOOKED_AT = 1000
"""Of such runs, the latest ones, so that many of them don't make the list slow."""
WAIT = 10.0
"""Seconds to wait for another process that is writing."""

CHANGES = (
    (
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY, plan TEXT NOT NULL, file TEXT NOT NULL, status TEXT NOT NULL,
            started REAL NOT NULL, ended REAL, seconds REAL NOT NULL DEFAULT 0,
            tokens INTEGER NOT NULL DEFAULT 0, cost REAL NOT NULL DEFAULT 0,
            waits_for TEXT NOT NULL DEFAULT '') WITHOUT ROWID""",
        "CREATE INDEX runs_by_time ON runs (started)",
    ),
    (
        "ALTER TABLE runs ADD COLUMN parent TEXT",
        "ALTER TABLE runs ADD COLUMN forked_at TEXT",
        "CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL",
    ),
    ("ALTER TABLE runs ADD COLUMN seen INTEGER NOT NULL DEFAULT 0",),
    (
        "ALTER TABLE runs ADD COLUMN ran REAL NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN computed REAL NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN queued REAL NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN failed_at TEXT NOT NULL DEFAULT ''",
        "UPDATE runs SET ran = seconds",
    ),
    (
        "ALTER TABLE runs ADD COLUMN node_hours REAL NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN jobs INTEGER NOT NULL DEFAULT 0",
    ),
)
"""From a new file to version 5. Rows are kept."""

COLUMNS = tuple(field.name for field in fields(RunRow))
PUT = (
    f"INSERT OR REPLACE INTO runs ({', '.join(COLUMNS)}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(COLUMNS))})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; what is left out does not count.

    Args:
        plan: The plan's name, or a glob of it.
        status: One of these.
        since: Started at or after this Unix time.
        until: Started before it.
        parent: Forked from this run.
    """

    plan: str | None = None
    status: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    parent: str | None = None


class RunIndex:
    """The index of a state folder.

    Args:
        state_dir: The folder; the file is made where it is not there.
        mountinfo: The machine's mounts, see `fractale.store.filesystem`.

    Raises:
        StoreError: The file can't be used, or a newer fractale wrote it.
    """

    def __init__(self, state_dir: Path, *, mountinfo: str | None = None) -> None:
        self._folders = RunFolders(state_dir)
        self._path = state_dir / NAME
        network = file_system(state_dir, mountinfo).network
        self._journal = "DELETE" if network else "WAL"
        self._connection = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def put(self, row: RunRow) -> None:
        """Keep a run's row, in place of an earlier one."""
        self.put_all([row])

    def put_all(self, rows: Iterable[RunRow]) -> None:
        """Keep several rows in one transaction."""
        with self._writing() as connection:
            connection.executemany(PUT, (astuple(row) for row in rows))

    def remove(self, run_ids: Iterable[str]) -> None:
        """Forget runs."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM runs WHERE id = ?", ((i,) for i in run_ids))

    def get(self, run_id: str) -> RunRow | None:
        """A run's row; None if there is none."""
        return next(iter(self._select("WHERE id = ?", [run_id])), None)

    def find(self, which: RunFilter | None = None, limit: int | None = 50) -> list[RunRow]:
        """Runs, the latest first.

        Args:
            limit: At most so many; None for all.
        """
        where, values = _where(which or RunFilter())
        # A negative limit is none.
        return self._select(
            f"{where} ORDER BY started DESC, id LIMIT ?", [*values, -1 if limit is None else limit]
        )

    def refresh(self) -> int:
        """Make the index fit the folders.

        Runs that have a folder but no row are taken up, rows without a folder are forgotten, a
        run that was going on when its process was killed is no longer called ``running``, and
        one that has gone on since its row was written is read again.

        Returns:
            How many rows were changed.
        """
        there = self._folders.names()
        known = {run_id for (run_id,) in self._rows("SELECT id FROM runs", [])}
        running = {row.id for row in self.find(RunFilter(status=["running"]), limit=None)}
        dead = {i for i in running & there if holder_of(self._folders.at(i)) is None}
        left = self.find(RunFilter(status=NOT_ENDED), limit=MOST_LOOKED_AT)
        gone_on = {r.id for r in left if r.id in there and self._size(r.id) != r.seen}
        self._read_folders(there - known | dead | gone_on)
        if gone := known - there:
            self.remove(gone)
        return len(there ^ known) + len(dead | gone_on)

    def _size(self, run_id: str) -> int:
        """Bytes of a run's events."""
        try:
            # With thousands of runs, to make paths as objects takes longer than to look at files.
            return os.stat(f"{self._path.parent}/runs/{run_id}/events.jsonl").st_size  # noqa: PTH116
        except OSError:
            return 0

    def _read_folders(self, run_ids: Iterable[str]) -> None:
        rows = [row_of(self._folders.at(run_id)) for run_id in run_ids]
        if found := [row for row in rows if row is not None]:
            self.put_all(found)

    def _select(self, rest: str, values: Sequence[Any]) -> list[RunRow]:
        query = f"SELECT {', '.join(COLUMNS)} FROM runs {rest}"  # noqa: S608 - constants
        return [RunRow(*row) for row in self._rows(query, values)]

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with sqlite_faults(self._path, WHAT):
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._connection.close()
                self._connection = self._make_again()
                return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        with sqlite_faults(self._path, WHAT, writing=True), self._connection:
            yield self._connection

    def _open(self) -> sqlite3.Connection:
        """Open the file; it is made from the folders where it is missing or damaged."""
        with sqlite_faults(self._path, WHAT):
            make_folder(self._path.parent)
            if not self._path.exists():
                return self._make()
            try:
                return self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                return self._make_again()

    def _make_again(self) -> sqlite3.Connection:
        self._path.replace(self._path.with_name(f"{NAME}.damaged"))
        for tail in ("-wal", "-shm", "-journal"):
            Path(f"{self._path}{tail}").unlink(missing_ok=True)
        return self._make()

    def _make(self) -> sqlite3.Connection:
        touch_private(self._path)
        self._connection = self._connect()
        self._read_folders(self._folders.names())
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=WAIT)
        try:
            connection.execute(f"PRAGMA journal_mode = {self._journal}")
            # What a power cut takes from the index is still in the folders.
            connection.execute("PRAGMA synchronous = NORMAL")
            migrate(connection, CHANGES, str(self._path))
            connection.isolation_level = "DEFERRED"
        except BaseException:
            connection.close()
            raise
        return connection


def _is_damage(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in DAMAGED


def _where(which: RunFilter) -> tuple[str, list[Any]]:
    parts: list[tuple[str, list[Any]]] = []
    if which.plan is not None:
        parts.append(("plan GLOB ?", [which.plan]))
    if which.status:
        parts.append((f"status IN ({', '.join('?' * len(which.status))})", list(which.status)))
    if which.since is not None:
        parts.append(("started >= ?", [which.since]))
    if which.until is not None:
        parts.append(("started < ?", [which.until]))
    if which.parent is not None:
        parts.append(("parent = ?", [which.parent]))
    where = "WHERE " + " AND ".join(text for text, _ in parts) if parts else ""
    return where, [value for _, values in parts for value in values]
