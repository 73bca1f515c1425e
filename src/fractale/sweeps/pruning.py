"""The sweeps of a state directory as groups of runs, for `fractale.record.pruning`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fractale.errors import StoreError
from fractale.record.pruning import RunGroup
from fractale.sweeps.record import SweepLock, SweepRecord, SweepRecords


def groups_in(state_dir: Path) -> list[RunGroup]:
    """The sweeps of a state directory. One whose record is damaged is also one."""
    records = SweepRecords(state_dir)
    return [_group(records.at(sweep_id)) for sweep_id in records.ids()]


def _group(record: SweepRecord) -> RunGroup:
    try:
        head = record.read_head()
        plan, started = str(head["plan"]), float(head["started"])
    except (StoreError, KeyError, TypeError, ValueError):
        plan, started = "", _written(record.head)
    return RunGroup(
        id=record.sweep_id,
        plan=plan,
        path=record.path,
        lock=partial(SweepLock, record),
        lock_file=record.lock,
        status="sweep",
        started=started,
        changed=max(started, _written(record.ledger)),
    )


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
