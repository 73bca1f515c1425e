"""Continuing a sweep: after its driver died, with other limits, or failed rows anew.

A sweep is acted on only if the user started it, as a run is (`settings.own_runs`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fractale.audit import AuditLog
from fractale.errors import SettingsError, UsageError
from fractale.plan.build import load_plan
from fractale.settings.own_runs import is_agreed, marked, why_not_own
from fractale.store.run_record import RunRecords
from fractale.sweeps.budget import check_limits, use_of
from fractale.sweeps.driver import (
    Listener,
    OpenSweep,
    continued_rows,
    drive_here,
    opened_sweep,
)
from fractale.sweeps.executors import Executor
from fractale.sweeps.record import RowState, SweepRecord, run_id_of
from fractale.sweeps.results import SweepView, answered_rows, view_of
from fractale.text import count

if TYPE_CHECKING:
    from fractale.settings import Settings

DUE: Final[tuple[RowState, ...]] = ("pending", "running", "stopped")
"""States of rows that a driver continues without being asked for them."""

RETRIED: Final[tuple[RowState, ...]] = ("failed", "limit", "stopped")
"""States of rows that can begin anew, in another attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The result of continuing a sweep.

    Args:
        view: The sweep after it.
        rows: How many rows were due; 0: nothing was done.
    """

    view: SweepView
    rows: int


def check_own(record: SweepRecord, head: Mapping[str, Any], settings: Settings) -> None:
    """Check that a sweep may be acted on: it names code that its runs import.

    If the caller made the settings by hand, the caller also named the state directory.

    Raises:
        SettingsError: Another user started it, or its head was changed.
    """
    by_hand = "state_dir" not in settings.origins
    if by_hand or is_agreed(record.path, head, settings.environment):
        return
    sweep = record.sweep_id
    raise SettingsError(
        f"you did not start sweep {sweep}, or its record was changed",
        hint=f"review it with `fractale sweep show {sweep}`; then add --trust-project, "
        f"or set FRACTALE_TRUST_PROJECT=1\n{why_not_own(settings.environment)}",
    )


async def resume_sweep(
    record: SweepRecord,
    settings: Settings,
    *,
    limits: Mapping[str, float] | None = None,
    run_limits: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
    stop: asyncio.Event | None = None,
    executor: Executor | None = None,
) -> Resumed:
    """Continue a sweep: all rows that are not over, and those that were answered.

    Args:
        limits: Replace the limits of the sweep of the same name, from now on.
        run_limits: Replace those of each run. Rows that reached a limit of their own are then
            continued, too.
        listener, stop: As of `driver.run_sweep`.
        executor: Used instead of the one that the sweep's head names.

    Raises:
        RunHeld: Another process drives it.
        SettingsError: Another user started it, or the settings do not have its executor.
        UsageError: Nothing bounds what a limit is about, or one run may use more than it.
        StoreError: Its record cannot be read or written.
    """
    async with opened_sweep(record) as sweep:
        check_own(record, sweep.head, settings)
        if limits or run_limits:
            change_limits(sweep, settings, limits or {}, run_limits or {})
        rows = due_rows(sweep)
        if not rows:
            return Resumed(view=view_of(record, driven=False), rows=0)
        AuditLog.of(settings).record("resume", sweep=record.sweep_id, rows=rows)
        view = await drive_here(sweep, settings, listener=listener, stop=stop, executor=executor)
        return Resumed(view=view, rows=rows)


def due_rows(sweep: OpenSweep) -> int:
    """How many rows a driver would perform now."""
    answered, _ = answered_rows(sweep.record)
    table = sweep.table
    taken = sum(table.waiting.get(row) == since for row, since in answered.items())
    taken += len(continued_rows(sweep))
    return taken + sum(table.counts[state] for state in DUE)


def change_limits(
    sweep: OpenSweep,
    settings: Settings,
    limits: Mapping[str, float],
    run_limits: Mapping[str, Any],
) -> None:
    """Change the limits of a sweep and of its runs, in its head and its budget.

    Raises:
        UsageError: Nothing bounds what a limit is about, or one run may use more than it.
        StoreError: The head cannot be written.
    """
    of_sweep: dict[str, float] = {**(sweep.head.get("limits") or {}), **limits}
    of_run: dict[str, Any] = {**(sweep.head.get("run_limits") or {}), **run_limits}
    check_limits(of_sweep, load_plan(sweep.record.plan), of_run)
    head = {**sweep.head, "limits": of_sweep, "run_limits": of_run}
    sweep.record.write_head(marked(head, settings.environment))
    sweep.change_limits(of_sweep, of_run)
    if run_limits:
        sweep.add(*({"row": row, "is": "resumed"} for row in [*sweep.table.rows("limit")]))


async def retry_rows(
    record: SweepRecord, settings: Settings, rows: Iterable[int] | None = None
) -> list[int]:
    """Let rows begin anew, each as the next attempt of its row. None is performed yet.

    Args:
        rows: Those that failed, were cancelled or reached a limit; None: all that failed.

    Returns:
        The rows.

    Raises:
        UsageError: A row cannot be retried, or none has failed.
        RunHeld: Another process drives the sweep.
        SettingsError: Another user started it.
    """
    async with opened_sweep(record) as sweep:
        check_own(record, sweep.head, settings)
        chosen = [*sweep.table.rows("failed")] if rows is None else [*dict.fromkeys(rows)]
        _check_retry(sweep, chosen)
        sweep.add(*({"row": row, "is": "retried", **_settled(sweep, row)} for row in chosen))
        AuditLog.of(settings).record("retry", sweep=record.sweep_id, rows=len(chosen))
        return chosen


def _settled(sweep: OpenSweep, row: int) -> dict[str, Any]:
    """The run of an attempt that another one replaces, and its use, if the budget waits for it."""
    run = run_id_of(sweep.record.sweep_id, row, sweep.table.attempt(row))
    if run not in sweep.budget.open_runs:
        return {}
    return {"run": run, **use_of(RunRecords(sweep.record.state_dir).at(run))}


def _check_retry(sweep: OpenSweep, rows: list[int]) -> None:
    sweep_id, most = sweep.record.sweep_id, len(sweep.table)
    if not rows:
        raise UsageError(
            f"no row of sweep {sweep_id} has failed: there is nothing to retry",
            hint=f"`fractale sweep show {sweep_id}` shows its rows",
        )
    for row in rows:
        if not 0 <= row < most:
            raise UsageError(
                f"sweep {sweep_id} has no row {row}: it has {count(most, 'row')}, from 0",
                hint=f"`fractale sweep show {sweep_id}` shows its rows",
            )
        if (state := sweep.table.state(row)) not in RETRIED:
            raise UsageError(
                f"row {row} of sweep {sweep_id} cannot be retried: it is {state}",
                hint="only rows that failed, were stopped or reached a limit can begin anew",
            )
