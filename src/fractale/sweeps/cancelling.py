"""Ending a sweep: its runs stop, their jobs end, and no further row starts. It can be resumed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fractale.audit import AuditLog
from fractale.errors import CHECK_SPACE, FractaleError, RunHeld, StoreError, UsageError
from fractale.private import write_private
from fractale.runs.cancelling import cancel_run
from fractale.store.locks import holder_of_lock
from fractale.store.run_record import RunRecords
from fractale.sweeps.budget import use_of
from fractale.sweeps.detach import queued_driver, withdraw
from fractale.sweeps.driver import OpenSweep, opened_sweep
from fractale.sweeps.record import SweepRecord, run_id_of
from fractale.sweeps.results import OPEN, SweepView, view_of

if TYPE_CHECKING:
    from fractale.settings import Settings

STOP_SECONDS: Final = 60.0
"""Seconds to wait until the driver of a sweep has stopped."""

LOOK_SECONDS: Final = 0.2

CANCELLED: Final = "cancelled by `fractale sweep cancel`"
"""The reason of a sweep that was cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledSweep:
    """The result of cancelling a sweep.

    Args:
        view: The sweep after it.
        rows: How many rows were cancelled.
        stopped: False: its driver is in the middle of calls, and cancels the rows after them.
        troubles: Why jobs or `finally` steps of runs could not be ended.
    """

    view: SweepView
    rows: int
    stopped: bool
    troubles: tuple[str, ...] = ()


async def cancel_sweep(
    record: SweepRecord, settings: Settings, *, seconds: float = STOP_SECONDS
) -> CancelledSweep:
    """End a sweep: ask its driver to stop, end the jobs of its runs, and cancel its open rows.

    Args:
        seconds: The most seconds to wait for the driver.

    Raises:
        UsageError: It has ended, or was cancelled: there is nothing to cancel.
        StoreError: Its record cannot be read or written.
    """
    before = view_of(record)
    check_open(before)
    AuditLog.of(settings).record("cancel", sweep=record.sweep_id, rows=before.open)
    queued = queued_driver(record)
    until = time.monotonic() + seconds
    while True:
        try:
            async with opened_sweep(record) as sweep:
                troubles = await cancel_rows(sweep, settings)
                at = time.time()
                sweep.add({"is": "over", "status": "stopped", "reason": CANCELLED, "at": at})
                break
        except RunHeld:
            _ask_driver(record)
        if time.monotonic() > until:
            return CancelledSweep(view=view_of(record), rows=0, stopped=False)
        await asyncio.sleep(LOOK_SECONDS)
    if trouble := await withdraw(record, settings, queued):
        troubles.append(trouble)
    after = view_of(record)
    return CancelledSweep(
        view=after, rows=after.counts.get("stopped", 0), stopped=True, troubles=tuple(troubles)
    )


def check_open(view: SweepView) -> None:
    """Check that there is something to cancel.

    Raises:
        UsageError: The sweep has ended, or was cancelled before.
    """
    if view.status in ("running", "queued") or view.open:
        return
    words = "was stopped before" if view.counts.get("stopped") else "has ended"
    raise UsageError(
        f"sweep {view.id} {words}: there is nothing to cancel",
        hint=f"next: {view.next[0]}" if view.next else None,
    )


def _ask_driver(record: SweepRecord) -> None:
    """Ask the process that drives a sweep to stop, and to cancel the rows."""
    if record.stop_request.exists() or holder_of_lock(record.lock) is None:
        return
    try:
        write_private(record.stop_request, f"{CANCELLED}\n")
    except OSError as error:
        raise StoreError(
            f"cannot ask sweep {record.sweep_id} to stop: {error}", hint=CHECK_SPACE
        ) from error


async def cancel_rows(sweep: OpenSweep, settings: Settings) -> list[str]:
    """Cancel all rows that are not over, with the jobs of their runs. None of them is performed.

    Returns:
        Why the jobs or the `finally` steps of some runs could not be ended.
    """
    runs = RunRecords(sweep.record.state_dir)
    troubles: list[str] = []
    table = sweep.table
    for row in [row for row in table.rows(*OPEN) if row not in table.cancelled]:
        line: dict[str, Any] = {"row": row, "is": "cancelled"}
        if table.state(row) != "pending":
            run = runs.at(run_id_of(sweep.record.sweep_id, row, table.attempt(row)))
            if run.head.exists():
                try:
                    ended = await cancel_run(run, settings)
                    troubles += [each.trouble for each in ended.failed]
                    troubles += [ended.trouble] if ended.trouble else []
                except FractaleError as error:
                    troubles.append(f"run {run.run_id}: {error}")
            line |= {"run": run.run_id, **use_of(run)}
        sweep.add(line)
    sweep.record.stop_request.unlink(missing_ok=True)
    return troubles
