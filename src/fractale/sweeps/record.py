"""The record of a sweep: its directory ``sweeps/ID/``, and all that fractale keeps there.

`SweepRecord` is the one place that knows the layout. The runs of a sweep are ordinary runs beside
it, in ``runs/``; their heads name the sweep and the row. No process but the one that has the
sweep's lock (`SweepLock`) writes the ledger. Other processes only send requests: `stop_request`.

The head has all that a process needs to drive the sweep, and no secret:

    version, plan (its name), file, plan_hash, sweep_file (or null)
    `folder`    the working directory of the runs
    inputs      constant ones, typed, with the plan's defaults; those of a row come from `rows`
    varied      the names of the inputs that vary
    rows        how many
    limits      of the whole sweep: name → number, as in a plan's `limits`, times in seconds
    run_limits  of each run: replace those of the plan
    executor    ``local``, or the name of one of the settings
    max_parallel  how many runs at a time; null: as many as the executor has workers
    options     as in `task.RunTask`
    merit       the output by which the user compares rows; null: none
    started     Unix time

The ledger is a file of JSON lines. The state of a row is that of its last line:

    {"row": 17, "is": "started", "run": "s.17", "attempt": 1, "at": 1800000000.0, "reserved": {…}}
    {"row": 17, "is": "ended", "run": "s.17", "attempt": 1, "status": "success", "used": {…}, …}
    {"row": 17, "is": "lost", "run": "s.17", "attempt": 1, "reason": "worker 3 was killed", …}
    {"row": 17, "is": "retried"}             its next attempt is due
    {"row": 17, "is": "resumed"}             its run, which reached a limit, is due again
    {"row": 17, "is": "cancelled"}
    {"row": 17, "is": "settled", "run": "s.17", "used": {…}}    it continued without the sweep

Lines about the whole sweep name no row: a driver waits as a job, begins, and is done.

    {"is": "queued", "at": 1800000000.0, "scheduler": "slurm", "job": "4711", …}
    {"is": "driving", "at": 1800000000.0, "pid": 4711}
    {"is": "over", "status": "limit", "reached": "tokens", "reason": "…", "at": 1800000000.0}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

from fractale.errors import CHECK_SPACE, RunHeld, StoreError, UsageError
from fractale.plain import to_json
from fractale.private import NO_LOCKS, append_line, cut_torn_line, open_private, write_private
from fractale.store.locks import LOOKED_AT, FileLock
from fractale.store.run_record import ID, RUNS, SWEEPS
from fractale.text import clip

SWEEP_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
"""The ID of a sweep has no dot: that of its runs is ``SWEEP.ROW`` or ``SWEEP.ROW.ATTEMPT``."""

RowState = Literal["pending", "running", "waiting", "success", "failed", "stopped", "limit"]
"""``pending``: not started. ``running``: started and not over, also if its worker was lost and it
will be resumed. ``stopped``: cancelled, or its process was asked to stop; resumable. ``limit``: it
reached a limit of its own. The others are the statuses of runs."""

OVER: Final[tuple[RowState, ...]] = ("success", "failed")
"""States in which nothing is left to do unless the user asks for a retry."""


def run_id_of(sweep: str, row: int, attempt: int = 1) -> str:
    """The ID of the run of a row, which follows from the sweep: a restart finds it again.

    Args:
        row: From 0.
        attempt: 1 for the first run of the row; each `sweep retry` of a failed row makes another.
    """
    return f"{sweep}.{row}" if attempt == 1 else f"{sweep}.{row}.{attempt}"


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """The record of one sweep."""

    sweep_id: str
    path: Path

    @property
    def head(self) -> Path:
        """How the sweep was started: what `spec.SweepSpec` has, the plan's hash, the time."""
        return self.path / "sweep.json"

    @property
    def plan(self) -> Path:
        """The plan as it was then."""
        return self.path / "plan.yaml"

    @property
    def included_plans(self) -> Path:
        """A directory: the plans that the plan includes."""
        return self.path / "plan"

    @property
    def rows(self) -> Path:
        """JSON lines: the inputs of each row that vary, in the order of the rows."""
        return self.path / "rows.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def row_locks(self) -> Path:
        """The worker that performs row N has a lock on byte N: see `row_lock`."""
        return self.path / "row-locks"

    @property
    def stop_request(self) -> Path:
        """Made by `fractale sweep cancel`; its text says why."""
        return self.path / "stop"

    @property
    def answered(self) -> Path:
        """JSON lines: the rows whose runs were answered, by processes that need not drive it."""
        return self.path / "answered.jsonl"

    @property
    def output(self) -> Path:
        """The output of a detached driver."""
        return self.path / "output.txt"

    @property
    def driver_jobs(self) -> Path:
        """A directory: the jobs of detached drivers."""
        return self.path / "driver"

    @property
    def workers(self) -> Path:
        """A directory: the workers' output, and what an executor keeps."""
        return self.path / "workers"

    @property
    def state_dir(self) -> Path:
        return self.path.parent.parent

    def read_head(self) -> dict[str, Any]:
        """How the sweep was started: its keys are above.

        Raises:
            StoreError: The file is missing or damaged.
        """
        try:
            head: Any = json.loads(self.head.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        if not isinstance(head, dict):
            raise self._unreadable("sweep.json is not a table")
        return cast("dict[str, Any]", head)

    def write_head(self, head: Mapping[str, Any]) -> None:
        """Keep how the sweep was started, replacing what was there.

        Raises:
            StoreError: It cannot be written.
        """
        try:
            write_private(self.head, to_json(head, indent=1), sync="name")
        except OSError as error:
            raise self._unwritable(error) from error

    def read_rows(self) -> list[dict[str, Any]]:
        """The inputs of each row that vary.

        Raises:
            StoreError: The file is missing or damaged.
        """
        rows = list(self._lines_of(self.rows))
        if not self.rows.is_file():
            raise self._unreadable("rows.jsonl is missing")
        return rows

    def check_rows(self, head: Mapping[str, Any], found: int) -> None:
        """Check that the file of rows has as many as the sweep was started with.

        Args:
            found: How many it has now.

        Raises:
            StoreError: It has another number.
        """
        if (begun := head.get("rows")) != found:
            raise self._unreadable(f"rows.jsonl has {found} rows, and it began with {begun}")

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep the inputs of each row that vary.

        Raises:
            StoreError: They cannot be written.
        """
        text = "".join(f"{to_json(row, compact=True)}\n" for row in rows)
        try:
            write_private(self.rows, text)
        except OSError as error:
            raise self._unwritable(error) from error

    def read_ledger(self) -> Iterator[dict[str, Any]]:
        """The complete lines of the ledger, in order; a last line that a crash cut is left out.

        Raises:
            StoreError: The file is damaged.
        """
        for number, line in enumerate(self._lines_of(self.ledger), 1):
            if wrong := _fault_of(line):
                raise StoreError(f"{self.ledger}, line {number}, is damaged: {wrong}")
            yield line

    def _lines_of(self, path: Path) -> Iterator[dict[str, Any]]:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        return
                    yield _table_of(line, path, number)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(error) from error

    def remove(self) -> None:
        """Remove the record of a sweep that did not begin."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _unreadable(self, why: object) -> StoreError:
        return StoreError(f"the record of sweep {self.sweep_id} cannot be read: {why}")

    def _unwritable(self, error: OSError) -> StoreError:
        why = error.strerror or error
        return StoreError(
            f"cannot write the sweep's record in {self.path}: {why}", hint=CHECK_SPACE
        )


def _table_of(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise StoreError(f"{path}, line {number}, is damaged: {error}") from error
    if not isinstance(found, dict):
        raise StoreError(f"{path}, line {number}, is damaged: not a table")
    return cast("dict[str, Any]", found)


_FORMS: Final[Mapping[str, tuple[type, ...]]] = {
    "is": (str,),
    "run": (str,),
    "status": (str,),
    "attempt": (int,),
    "at": (int, float),
    "seconds": (int, float),
    "losses": (int,),
    "progress": (int,),
    "outputs": (dict,),
    "reserved": (dict,),
    "used": (dict,),
    "asks": (list,),
}
"""Keys of the ledger's lines that are read → the types of their values."""


def _fault_of(line: Mapping[str, Any]) -> str:
    """Why a line of the ledger is not one that fractale wrote; empty if it may be one."""
    if "is" not in line:
        return "it has no `is`"
    for name in _FORMS.keys() & line.keys():
        if not isinstance(line[name], _FORMS[name]):
            return f"`{name}` has another type"
    amounts = (value for name in ("reserved", "used") for value in line.get(name, {}).values())
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in amounts):
        return "an amount is not a number"
    return ""


class SweepLedger:
    """The ledger of a sweep, open for appending in a ``with`` block.

    Only the process that has the `SweepLock` opens it. A last line that a crash left without its
    end had no effect, and is cut off when the ledger is opened.

    Raises:
        StoreError: On entering the block, if the file cannot be opened.
    """

    def __init__(self, record: SweepRecord) -> None:
        self._record = record
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._descriptor = open_private(self._record.ledger, flags)
            cut_torn_line(self._descriptor)
        except OSError as error:
            self.close()
            raise self._unwritable(error) from error
        return self

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Append lines, and return when they are on the disk. Lines of one call share one write.

        Raises:
            StoreError: They cannot be written; the file is as it was.
        """
        if self._descriptor is None:
            raise RuntimeError("the ledger is not open")
        data = "".join(f"{to_json(line, compact=True)}\n" for line in lines).encode()
        try:
            append_line(self._descriptor, data)
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file; do nothing if it is not open."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> StoreError:
        why = error.strerror or error
        return StoreError(f"cannot write {self._record.ledger}: {why}", hint=CHECK_SPACE)


class SweepLock(FileLock):
    """The lock on a sweep: only the process that has it drives, changes or removes the sweep.

    It is taken before the ledger is read, and held while the process acts on what it read.

    Raises:
        RunHeld: On `acquire`, if another has it.
    """

    def __init__(self, record: SweepRecord) -> None:
        super().__init__(
            record.lock,
            f"sweep {record.sweep_id}",
            hint=f"nothing was done; follow it: fractale sweep watch {record.sweep_id}\n"
            f"or stop it: fractale sweep cancel {record.sweep_id}",
            error=RunHeld,
            wait=LOOKED_AT,
        )


@contextlib.contextmanager
def row_lock(record: SweepRecord, row: int) -> Generator[None]:
    """Be the only process that performs a row, in the block.

    The lock of a run exists only once the run does. Without this lock, two workers could begin the
    same run: one of them may be left from a driver that died. The end of the process frees it. A
    file system without locks has none.

    Raises:
        RunHeld: Another process performs the row.
        StoreError: The file cannot be made.
    """
    try:
        descriptor = open_private(record.row_locks, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise StoreError(
            f"cannot lock a row in {record.path}: {error}", hint=CHECK_SPACE
        ) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            words = f"row {row} of sweep {record.sweep_id} is performed by another process"
            raise RunHeld(words) from error
    try:
        yield
    finally:
        os.close(descriptor)


class SweepRecords:
    """The sweeps of one state directory.

    Args:
        state_dir: The state directory, which need not exist.
    """

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / SWEEPS

    def at(self, sweep_id: str) -> SweepRecord:
        """The record of a sweep, which need not exist."""
        return SweepRecord(sweep_id, self._root / sweep_id)

    def find(self, sweep_id: str) -> SweepRecord:
        """The record of a sweep; ``-1`` is the latest.

        Raises:
            UsageError: The sweep does not exist.
        """
        if SWEEP_ID.fullmatch(sweep_id) and self._is_there(sweep_id):
            return self.at(sweep_id)
        names = self.ids()
        if sweep_id == "-1" and names:
            return self.at(names[0])
        if ID.fullmatch(sweep_id) and (self._root.with_name(RUNS) / sweep_id).is_dir():
            raise UsageError(
                f"`{sweep_id}` is a run, not a sweep", hint=f"`fractale show {sweep_id}` shows it"
            )
        some = f"the latest: {', '.join(names[:5])}" if names else "there are no sweeps here"
        raise UsageError(
            f"sweep `{clip(sweep_id)}` not found in {self._root.parent}",
            hint=f"{some}; `fractale sweep list` lists all",
        )

    def has(self, sweep_id: str) -> bool:
        """Whether a sweep of this ID has begun: for errors that name the right command."""
        return bool(SWEEP_ID.fullmatch(sweep_id)) and self._is_there(sweep_id)

    def ids(self) -> list[str]:
        """The IDs of all sweeps, the latest first."""
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in entries if SWEEP_ID.fullmatch(entry.name)]
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise StoreError(
                f"the state directory cannot be used: {self._root} is not a directory",
                hint="move that file away, or set FRACTALE_STATE_DIR to another directory",
            ) from error
        made = [(_made(self.at(name)), name) for name in names if self._is_there(name)]
        return [name for _, name in sorted(made, reverse=True)]

    def _is_there(self, sweep_id: str) -> bool:
        """Whether a sweep has begun: its head is what is written last."""
        path = self._root / sweep_id
        return path.is_dir() and not path.is_symlink() and self.at(sweep_id).head.is_file()


def _made(record: SweepRecord) -> int:
    """When a sweep was started. Its rows are written once, and its head may be written again."""
    try:
        return record.rows.stat().st_mtime_ns
    except OSError:
        return record.path.stat().st_mtime_ns
