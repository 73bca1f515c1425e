"""The list of runs: one row per run in ``index.sqlite``, so that listing reads no run's record.

The index only repeats what the runs' directories say. fractale makes it again from them if it is
missing or damaged. A run that it does not have is added when someone looks for it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Any, Self

from fractale.errors import StoreError
from fractale.plain import readable
from fractale.private import make_folder, touch_private
from fractale.store.filesystem import file_system
from fractale.store.locks import holder_of
from fractale.store.run_record import RUNS, RunRecord, RunRecords
from fractale.store.sqlite import migrate, sqlite_errors

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run in the index.

    Args:
        file: The plan's path.
        status: ``running``, or how it ended as in the event `run_finished`.
        started: Unix time in seconds, as `ended`.
        seconds: Of its steps' own work, summed over all its processes: none pass while a job or a
            the user is waited for.
        tokens: Of all its model calls.
        cost: US dollars.
        waits_for: The steps whose questions or jobs it waits for, with commas between.
        parent: The run that it was forked from, and `forked_at` the step.
        ran: Seconds for which the run or a batch job of it was in progress.
        computed: Seconds for which its jobs ran, all together.
        queued: Seconds for which its jobs waited to start, all together.
        failed_at: The step at which it failed; empty if it did not.
        node_hours: Of its batch jobs that are over.
        jobs: How many of its batch jobs are over; each element of an array is one.
        seen: Bytes of the run's events that this row was read from. If there are more by now, the
            run has continued since.
        sweep: The sweep that the run belongs to, with its row and the attempt of this row.
    """

    id: str
    plan: str
    file: str
    status: str
    started: float
    ended: float | None = None
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0
    waits_for: str = ""
    parent: str | None = None
    forked_at: str | None = None
    ran: float = 0.0
    computed: float = 0.0
    queued: float = 0.0
    failed_at: str = ""
    node_hours: float = 0.0
    jobs: int = 0
    seen: int = field(default=0, compare=False)
    sweep: str | None = None
    sweep_row: int | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRuns:
    """The runs of one sweep, summed up.

    Args:
        counts: Status → number of rows; of a row with several attempts, the status of the latest.
        runs: How many runs there are, with all attempts. The amounts are the sums over these.
        started: When the first one was started, Unix time in seconds.
        ended: When the last one ended; None if none has.
    """

    sweep: str
    plan: str
    file: str
    started: float
    ended: float | None
    runs: int
    tokens: int
    cost: float
    node_hours: float
    jobs: int
    ran: float
    computed: float
    queued: float
    counts: Mapping[str, int] = field(default_factory=dict[str, int])


SUMMED = ("tokens", "cost", "node_hours", "jobs", "ran", "computed", "queued")
"""The columns of runs of which `SweepRuns` has the sums."""


def row_of(record: RunRecord) -> RunRow | None:
    """The row of a run by its record; None if the record does not say how it began."""
    try:
        seen = record.events.stat().st_size if record.events.exists() else 0
        head = record.read_head()
        last = next(record.events_from_end(("run_finished", "run_started")), None)
        alive = holder_of(record) is not None
        return row_from(record.run_id, head, last, alive=alive, seen=seen)
    except (OSError, StoreError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None  # damaged: `fractale show` says how


def row_from(
    run_id: str,
    head: Mapping[str, Any],
    last: Mapping[str, Any] | None,
    *,
    alive: bool,
    seen: int = 0,
) -> RunRow:
    """The row of a run.

    Args:
        head: What `RunRecord.read_head` returns.
        last: Its latest event `run_started` or `run_finished`, in the flat form.
        alive: Whether a process has the run. If no process has a run that did not finish, it was
            killed and can be resumed: its status is ``stopped``.
        seen: Bytes of its events.
    """
    ended: Mapping[str, Any] = last if last and last["event"] == "run_finished" else NOTHING
    usage: Mapping[str, Any] = ended.get("usage") or NOTHING
    parent: Mapping[str, Any] = head.get("parent") or NOTHING
    sweep: Mapping[str, Any] = head.get("sweep") or NOTHING
    waiting: list[dict[str, Any]] = ended.get("waiting") or []
    seconds = float(usage.get("seconds") or 0.0)
    return RunRow(
        id=run_id,
        plan=str(head["plan"]),
        file=readable(str(head["file"])),
        status="running" if alive else str(ended.get("status") or "stopped"),
        started=float(head["started"]),
        ended=float(ended["time"]) if ended and not alive else None,
        seconds=seconds,
        tokens=int(usage.get("total_tokens") or 0),
        cost=float(usage.get("cost") or 0.0),
        waits_for=", ".join(_waits_for(each) for each in waiting),
        parent=_text(parent.get("run")),
        forked_at=_text(parent.get("step")),
        ran=float(usage.get("elapsed") or seconds),
        computed=float(usage.get("job_seconds") or 0.0),
        queued=float(usage.get("queue_seconds") or 0.0),
        failed_at="" if alive else _failed_at(ended),
        node_hours=float(usage.get("node_hours") or 0.0),
        jobs=int(usage.get("jobs") or 0),
        seen=seen,
        sweep=_text(sweep.get("id")),
        sweep_row=int(sweep["row"]) if sweep else None,
        attempt=int(sweep.get("attempt") or 1) if sweep else None,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _failed_at(ended: Mapping[str, Any]) -> str:
    decided: Mapping[str, Any] = ended.get("decided") or NOTHING
    if ended.get("status") != "failed":
        return ""
    return readable(str(decided.get("gave_up") or decided.get("step") or ""))


def _waits_for(waiting: Mapping[str, Any]) -> str:
    step = str(waiting.get("step"))
    job = waiting.get("job") if waiting.get("kind") == "job" else None
    if waiting.get("kind") == "timer" and (due := waiting.get("due")):
        return f"{step} (until {time.strftime('%Y-%m-%d %H:%M', time.localtime(due['until']))})"
    return f"{step} (job {job})" if job else step


# -- the index

NAME = "index.sqlite"
WHAT = "index of runs"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
NOT_ENDED = ("waiting", "limit", "stopped")
"""The statuses of runs that can be resumed."""
MOST_LOOKED_AT = 1000
"""How many of those runs, the latest ones, to check, so that many of them do not slow the list."""
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
    (
        "ALTER TABLE runs ADD COLUMN sweep TEXT",
        "ALTER TABLE runs ADD COLUMN sweep_row INTEGER",
        "ALTER TABLE runs ADD COLUMN attempt INTEGER",
        """CREATE INDEX runs_by_sweep ON runs (sweep, sweep_row, attempt)
            WHERE sweep IS NOT NULL""",
        "CREATE INDEX single_runs_by_time ON runs (started) WHERE sweep IS NULL",
    ),
)
"""The changes from a new file to version 6. Rows are kept."""

COLUMNS = tuple(field.name for field in fields(RunRow))
VALUES = attrgetter(*COLUMNS)  # `dataclasses.astuple` copies each value: ten times as slow
PUT = (
    f"INSERT OR REPLACE INTO runs ({', '.join(COLUMNS)}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(COLUMNS))})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; a criterion that is left out is not checked.

    Args:
        plan: The plan's name, or a glob of it.
        plan_or_file: The plan's name, or the name of its file with or without its ending, or a glob
            of one of them.
        status: One of these.
        since: Started at or after this Unix time.
        until: Started before it.
        parent: Forked from this run.
        sweep: Of this sweep.
        single: Of no sweep.
    """

    plan: str | None = None
    plan_or_file: str | None = None
    status: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    parent: str | None = None
    sweep: str | None = None
    single: bool = False


class RunIndex:
    """The index of a state directory.

    Args:
        state_dir: The directory. The file is made if it is missing.
        mountinfo: The machine's mounts, see `fractale.store.filesystem`.

    Raises:
        StoreError: The file cannot be used, or a newer fractale wrote it.
    """

    def __init__(self, state_dir: Path, *, mountinfo: str | None = None) -> None:
        self._records = RunRecords(state_dir)
        self._path = state_dir / NAME
        network = file_system(state_dir, mountinfo).network
        self._journal = "DELETE" if network else "WAL"
        self._connection = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def put(self, row: RunRow) -> None:
        """Store a run's row, replacing an earlier one."""
        self.put_all([row])

    def put_all(self, rows: Iterable[RunRow]) -> None:
        """Keep several rows in one transaction."""
        with self._writing() as connection:
            connection.executemany(PUT, map(VALUES, rows))

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
        # SQLite reads a negative limit as none.
        return self._select(
            f"{where} ORDER BY started DESC, id LIMIT ?", [*values, -1 if limit is None else limit]
        )

    def sweeps(self, which: RunFilter | None = None) -> list[SweepRuns]:
        """The runs of each sweep, summed up, the latest sweep first.

        Args:
            which: Only these runs are counted; a sweep without any is left out.
        """
        where, values = _where(which or RunFilter())
        where = f"{where} AND sweep IS NOT NULL" if where else "WHERE sweep IS NOT NULL"
        sums = ", ".join(f"SUM({name})" for name in SUMMED)
        whole = self._rows(
            "SELECT sweep, MIN(plan), MIN(file), MIN(started), MAX(ended), COUNT(*), "  # noqa: S608 - constants
            f"{sums} FROM runs {where} GROUP BY sweep ORDER BY MIN(started) DESC, sweep",
            values,
        )
        counted = self._rows(
            f"SELECT sweep, status, COUNT(*) FROM runs AS run {where} AND NOT EXISTS "  # noqa: S608 - constants
            "(SELECT 1 FROM runs AS later WHERE later.sweep = run.sweep "
            "AND later.sweep_row = run.sweep_row AND later.attempt > run.attempt) "
            "GROUP BY sweep, status",
            values,
        )
        counts: dict[str, dict[str, int]] = {}
        for sweep, status, number in counted:
            counts.setdefault(sweep, {})[status] = number
        return [_summed_up(row, counts.get(row[0], {})) for row in whole]

    def refresh(self) -> int:
        """Make the index agree with the directories.

        Four things are corrected. A run with a directory but no row is added. A row without a
        directory is removed. A run that was in progress when its process was killed is no longer
        ``running``. A run that has continued since its row was written is read again.

        Returns:
            How many rows were changed.
        """
        there = self._records.names()
        known = {run_id for (run_id,) in self._rows("SELECT id FROM runs", [])}
        running = {row.id for row in self.find(RunFilter(status=["running"]), limit=None)}
        dead = {i for i in running & there if holder_of(self._records.at(i)) is None}
        left = self.find(RunFilter(status=NOT_ENDED), limit=MOST_LOOKED_AT)
        size = self._records.events_size
        gone_on = {row.id for row in left if row.id in there and size(row.id) != row.seen}
        self._read_folders(there - known | dead | gone_on)
        if gone := known - there:
            self.remove(gone)
        return len(there ^ known) + len(dead | gone_on)

    def _read_folders(self, run_ids: Iterable[str]) -> None:
        rows = [row_of(self._records.at(run_id)) for run_id in run_ids]
        if found := [row for row in rows if row is not None]:
            self.put_all(found)

    def _select(self, rest: str, values: Sequence[Any]) -> list[RunRow]:
        query = f"SELECT {', '.join(COLUMNS)} FROM runs {rest}"  # noqa: S608 - constants
        return [RunRow(*row) for row in self._rows(query, values)]

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with sqlite_errors(self._path, WHAT):
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
        with sqlite_errors(self._path, WHAT, writing=True), self._connection:
            yield self._connection

    def _open(self) -> sqlite3.Connection:
        """Open the file; make it from the directories if it is missing or damaged."""
        with sqlite_errors(self._path, WHAT):
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
        self._read_folders(self._records.names())
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=WAIT)
        try:
            connection.execute(f"PRAGMA journal_mode = {self._journal}")
            # Rows that the index loses in a power cut are still in the directories.
            connection.execute("PRAGMA synchronous = NORMAL")
            migrate(connection, CHANGES, str(self._path))
            connection.create_function("is_named", 3, is_named, deterministic=True)
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
    if which.plan_or_file is not None:
        parts.append(("is_named(plan, file, ?)", [which.plan_or_file]))
    if which.status:
        parts.append((f"status IN ({', '.join('?' * len(which.status))})", list(which.status)))
    if which.since is not None:
        parts.append(("started >= ?", [which.since]))
    if which.until is not None:
        parts.append(("started < ?", [which.until]))
    if which.parent is not None:
        parts.append(("parent = ?", [which.parent]))
    if which.sweep is not None:
        parts.append(("sweep = ?", [which.sweep]))
    if which.single:
        parts.append(("sweep IS NULL", []))
    where = "WHERE " + " AND ".join(text for text, _ in parts) if parts else ""
    return where, [value for _, values in parts for value in values]


def _summed_up(row: Sequence[Any], counts: Mapping[str, int]) -> SweepRuns:
    sweep, plan, file, started, ended, runs, *sums = row
    about = {"sweep": sweep, "plan": plan, "file": file, "started": started, "ended": ended}
    amounts = dict(zip(SUMMED, sums, strict=True))
    return SweepRuns(**about, runs=runs, **amounts, counts=counts)


def is_named(plan: str, file: str, pattern: str) -> bool:
    """Whether a glob fits a plan's name, or its file's name with or without its ending."""
    path = PurePath(file)
    return any(fnmatchcase(name, pattern) for name in (plan, path.name, path.stem))


def list_runs(
    state_dir: Path, which: RunFilter | None = None, limit: int | None = None
) -> list[RunRow]:
    """The runs of a state directory, the latest first.

    If the directory is read-only (another user's, or an archive), each run's own directory is read.

    Args:
        which: Only these.
        limit: At most so many; None for all.

    Raises:
        StoreError: The index cannot be used.
    """
    if not (state_dir / RUNS).is_dir():
        RunRecords(state_dir).names()  # an error if something else is in its place
        return []  # listing should not make a state directory
    if not _can_be_written(state_dir):
        rows = _rows(state_dir, which or RunFilter())
        return sorted(rows, key=lambda row: (-row.started, row.id))[:limit]
    with RunIndex(state_dir) as index:
        index.refresh()
        return index.find(which, limit=limit)


def list_sweep_runs(state_dir: Path, which: RunFilter | None = None) -> list[SweepRuns]:
    """The runs of each sweep of a state directory, summed up, the latest sweep first.

    Args:
        which: Only these runs are counted; a sweep without any is left out.

    Raises:
        StoreError: The index cannot be used.
    """
    if not (state_dir / RUNS).is_dir():
        return []
    if not _can_be_written(state_dir):
        return sums_of(_rows(state_dir, which or RunFilter()))
    with RunIndex(state_dir) as index:
        index.refresh()
        return index.sweeps(which)


def sums_of(rows: Iterable[RunRow]) -> list[SweepRuns]:
    """As `RunIndex.sweeps`, for rows that are in no index."""
    groups: dict[str, list[RunRow]] = {}
    for row in rows:
        if row.sweep is not None:
            groups.setdefault(row.sweep, []).append(row)
    found: list[SweepRuns] = []
    for sweep, mine in groups.items():
        mine.sort(key=lambda row: row.attempt or 1)
        latest = {row.sweep_row: row.status for row in mine}
        counts = {each: [*latest.values()].count(each) for each in {*latest.values()}}
        ends = [row.ended for row in mine if row.ended is not None]
        names = [min(row.plan for row in mine), min(row.file for row in mine)]
        about = [sweep, *names, min(row.started for row in mine)]
        sums = [sum(getattr(row, name) for row in mine) for name in SUMMED]
        found.append(_summed_up([*about, max(ends, default=None), len(mine), *sums], counts))
    return sorted(found, key=lambda each: (-each.started, each.sweep))


def _can_be_written(state_dir: Path) -> bool:
    places = [place for place in (state_dir, state_dir / NAME) if place.exists()]
    return all(os.access(place, os.W_OK, effective_ids=True) for place in places)


def _rows(state_dir: Path, which: RunFilter) -> Iterator[RunRow]:
    records = RunRecords(state_dir)
    for name in records.names():
        row = row_of(records.at(name))
        if row is not None and _fits(row, which):
            yield row


def _fits(row: RunRow, which: RunFilter) -> bool:
    """Whether a run passes the filter, as in `RunIndex.find`."""
    return (
        (which.plan is None or fnmatchcase(row.plan, which.plan))
        and (which.plan_or_file is None or is_named(row.plan, row.file, which.plan_or_file))
        and (not which.status or row.status in which.status)
        and (which.since is None or row.started >= which.since)
        and (which.until is None or row.started < which.until)
        and which.parent in (None, row.parent)
        and which.sweep in (None, row.sweep)
        and not (which.single and row.sweep)
    )
