"""The record of a sweep: its directory ``sweeps/ID/``, and all that fractale keeps there.

`SweepRecord` is the one place that knows the layout. The runs of a sweep are ordinary runs beside
it, in ``runs/``; their heads name the sweep and the row. No process but the one that has the
sweep's lock (`SweepLock`) writes the ledger. Only requests come from other processes: `stop_request`.

The ledger is a file of JSON lines. The state of a row is that of its last line:

    {"row": 17, "is": "started", "run": "s.17", "attempt": 1, "at": 1800000000.0, "reserved": {…}}
    {"row": 17, "is": "ended", "run": "s.17", "attempt": 1, "status": "success", "used": {…}, …}
    {"row": 17, "is": "lost", "run": "s.17", "attempt": 1, "reason": "worker 3 was killed"}
    {"row": 17, "is": "retried"}
    {"row": 17, "is": "cancelled"}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fractale.errors import RunHeld
from fractale.store.locks import FileLock

SWEEPS: Final = "sweeps"
"""The directory of the sweeps' directories, in the state directory."""

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
    def stop_request(self) -> Path:
        """Made by `fractale sweep cancel`; its text says why."""
        return self.path / "stop"

    @property
    def output(self) -> Path:
        """What a detached driver printed."""
        return self.path / "output.txt"

    @property
    def workers(self) -> Path:
        """A directory: the workers' output, and what an executor keeps."""
        return self.path / "workers"

    @property
    def state_dir(self) -> Path:
        return self.path.parent.parent

    def read_head(self) -> dict[str, Any]:
        """How the sweep was started.

        Raises:
            StoreError: The file is missing or damaged.
        """
        raise NotImplementedError

    def write_head(self, head: Mapping[str, Any]) -> None:
        """Keep how the sweep was started.

        Raises:
            StoreError: It cannot be written.
        """
        raise NotImplementedError

    def read_rows(self) -> list[dict[str, Any]]:
        """The inputs of each row that vary.

        Raises:
            StoreError: The file is missing or damaged.
        """
        raise NotImplementedError

    def read_ledger(self) -> Iterator[dict[str, Any]]:
        """The complete lines of the ledger, in order; a last line that a crash cut is left out.

        Raises:
            StoreError: The file is damaged.
        """
        raise NotImplementedError


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
            hint="nothing was done; wait until that process ends, or end it",
            error=RunHeld,
        )


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
        raise NotImplementedError

    def ids(self) -> list[str]:
        """The IDs of all sweeps, the latest first."""
        raise NotImplementedError
