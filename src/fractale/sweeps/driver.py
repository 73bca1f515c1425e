"""Drives a sweep: hands its rows to an executor until each has ended, or waits.

    async with opened_sweep(record) as sweep:       # the lock, the head, the states of the rows
        async with executor:
            view = await drive(sweep, executor, settings=settings)

`run_sweep` does both with the executor that the head names.

The driver may die at any time. Each decision is in the ledger before the driver acts: a line before
a run starts, and a line at its end. A later driver reads the ledger under the lock and continues.
It finds runs in progress by their IDs; their own locks and journals make it safe to resume them.

A row ends as its run does. A row whose worker was lost is performed again, since the worker resumes
the run. It fails after `MOST_LOSSES` losses in a row without progress of its run in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import os
import time
from array import array
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from fractale.errors import StoreError
from fractale.plan.build import load_plan
from fractale.store.run_record import RunRecord, RunRecords
from fractale.sweeps.budget import RunBound, SweepBudget, use_of
from fractale.sweeps.detach import queued_driver, withdraw
from fractale.sweeps.executors import Executor, WorkerLost, executor_of
from fractale.sweeps.notify import SweepNotifications, lost_words
from fractale.sweeps.record import (
    RowState,
    SweepLedger,
    SweepLock,
    SweepRecord,
    run_id_of,
)
from fractale.sweeps.results import (
    STATES,
    SweepView,
    answered_rows,
    state_after,
    status_of,
    view_of,
)
from fractale.sweeps.task import RunReport, RunTask

if TYPE_CHECKING:
    from fractale.settings import Settings

MOST_LOSSES: Final = 3
"""How often in a row a worker may be lost with one run that makes no progress."""

PAUSES: Final = (0.0, 2.0, 10.0)
"""Seconds before a row is performed again, after its first, second and third loss in a row."""

HELD_SECONDS: Final = 2.0
"""Seconds until a row is tried again whose run another process has."""

MOST_HELD_SECONDS: Final = 30.0

DUE_SECONDS: Final = 30.0
"""Seconds until a row is tried again whose run waits for a job or a time."""

LOOK_SECONDS: Final = 1.0
"""Seconds between two looks for requests of other processes."""

PROGRESS: Final = ("step_finished", "tool_finished", "model_finished", "answered")
"""The events of a run that count as progress, unless their result was recorded before."""

STOP_WORDS: Final = "the sweep stops"
"""Why the runs of a sweep stop that is stopped."""

Listener = Callable[[Mapping[str, Any], Mapping[str, int]], None]
"""Called with each new line of the ledger about a row, and state → number of rows after it."""


class RowTable:
    """The states of a sweep's rows: a byte for each, and more only for rows that need it.

    Args:
        rows: How many there are; all are pending.
    """

    def __init__(self, rows: int) -> None:
        self._states = bytearray(rows)
        self._attempts = array("H", bytes(2 * rows))
        self.counts = Counter[str]({"pending": rows})
        self.losses: dict[int, tuple[int, int]] = {}  # row → losses in a row, progress at the last
        self.waiting: dict[int, float] = {}  # row → since when it waits
        self.cancelled: set[int] = set()

    def __len__(self) -> int:
        return len(self._states)

    def state(self, row: int) -> RowState:
        return STATES[self._states[row]]

    def attempt(self, row: int) -> int:
        """The number of the present attempt, from 1."""
        return self._attempts[row] + 1

    def rows(self, *states: RowState) -> Iterator[int]:
        """The rows that are in one of these states when they are reached."""
        wanted = {STATES.index(state) for state in states}
        return (row for row in range(len(self)) if self._states[row] in wanted)

    def read(self, line: Mapping[str, Any]) -> None:
        """Take over a line of the ledger. Lines about the whole sweep change nothing."""
        row, what = line.get("row"), line.get("is")
        if not isinstance(row, int) or not 0 <= row < len(self):
            return
        if what == "retried":
            self._attempts[row] = self.attempt(row)
            self.losses.pop(row, None)
        elif what == "lost":
            self.losses[row] = (int(line.get("losses") or 1), int(line.get("progress") or 0))
        elif what == "ended":
            self.losses.pop(row, None)
        self.waiting.pop(row, None)
        if what == "ended" and line.get("status") == "waiting":
            self.waiting[row] = float(line.get("at") or 0.0)
        if (state := state_after(line)) is not None:
            self._set(row, state)
            (self.cancelled.add if what == "cancelled" else self.cancelled.discard)(row)

    def _set(self, row: int, state: RowState) -> None:
        self.counts[self.state(row)] -= 1
        self.counts[state] += 1
        self._states[row] = STATES.index(state)

    @property
    def shown(self) -> dict[str, int]:
        """State → number of rows, without zeros."""
        return {state: self.counts[state] for state in STATES if self.counts[state]}


class _Rows:
    """The inputs of rows, read from the file when they are needed."""

    def __init__(self, record: SweepRecord) -> None:
        self._record = record
        self._offsets = array("q")
        try:
            self._file: IO[bytes] = record.rows.open("rb")
            place = 0
            for line in self._file:
                self._offsets.append(place)
                place += len(line)
        except OSError as error:
            raise StoreError(
                f"the rows of sweep {record.sweep_id} cannot be read: {error}"
            ) from error

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            self._file.seek(self._offsets[row])
            return json.loads(self._file.readline())
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._record.rows}, line {row + 1}, is damaged: {error}") from error

    def close(self) -> None:
        self._file.close()


@dataclass(slots=True, kw_only=True)
class OpenSweep:
    """A sweep whose lock this process has.

    Args:
        head: How it was started; see `record`.
        table: The states of its rows.
        budget: What its runs have used, and what is reserved for them.
        ledger: Open for appending.
    """

    record: SweepRecord
    head: dict[str, Any]
    table: RowTable
    budget: SweepBudget
    ledger: SweepLedger
    rows: _Rows = field(repr=False)

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Append lines to the ledger, and change the states of the rows.

        Raises:
            StoreError: They cannot be written.
        """
        if lines:
            self.ledger.add(*lines)
        for line in lines:
            self.table.read(line)
            self.budget.count(line)

    def change_limits(self, limits: Mapping[str, float], run_limits: Mapping[str, Any]) -> None:
        """Have other limits from now on.

        Raises:
            StoreError: The ledger cannot be read.
        """
        self.head |= {"limits": dict(limits), "run_limits": dict(run_limits)}
        self.budget = SweepBudget(limits, self.record.read_ledger())

    def bound(self) -> RunBound | None:
        """The bound of each run; None for a sweep without limits whose plan is not kept.

        Raises:
            PlanError: The plan of a sweep with limits cannot be read.
        """
        if not self.budget.limits and not self.record.plan.is_file():
            return None
        return RunBound(load_plan(self.record.plan), self.head.get("run_limits") or {})


@asynccontextmanager
async def opened_sweep(record: SweepRecord) -> AsyncGenerator[OpenSweep]:
    """Have the lock of a sweep in the block, and its head and states as they are under it.

    Raises:
        RunHeld: Another process has it.
        StoreError: Its record cannot be read or written.
    """
    with SweepLock(record), SweepLedger(record) as ledger:
        head, rows = record.read_head(), _Rows(record)
        try:
            record.check_rows(head, len(rows))
            table, budget = RowTable(len(rows)), SweepBudget(head.get("limits") or {})
            for line in record.read_ledger():
                table.read(line)
                budget.count(line)
            yield OpenSweep(
                record=record, head=head, table=table, budget=budget, ledger=ledger, rows=rows
            )
        finally:
            rows.close()


async def run_sweep(
    record: SweepRecord,
    *,
    settings: Settings,
    listener: Listener | None = None,
    stop: asyncio.Event | None = None,
) -> SweepView:
    """Drive a sweep with the executor that its head names, until all rows have ended or wait.

    Args:
        listener: Hears each change of a row.
        stop: Once set, no row starts any more, and runs stop at the end of their present call.
        settings: Workers have their `environment`, so secret inputs that were typed belong there.

    Raises:
        RunHeld: Another process drives it.
        SettingsError: The settings do not have the executor.
        StoreError: Its record cannot be read or written. It can be resumed.
    """
    async with opened_sweep(record) as sweep:
        return await drive_here(sweep, settings, listener=listener, stop=stop)


async def drive_here(
    sweep: OpenSweep,
    settings: Settings,
    *,
    listener: Listener | None = None,
    stop: asyncio.Event | None = None,
    executor: Executor | None = None,
) -> SweepView:
    """As `run_sweep`, for a sweep whose lock this process has.

    Args:
        executor: Used instead of the one that the head names.
    """
    head, record = sweep.head, sweep.record
    if executor is None:
        name = str(head.get("executor") or "local")
        executor = executor_of(settings, name, record, head.get("max_parallel"))
    await withdraw(record, settings, queued_driver(record))
    notifications = SweepNotifications(record, settings)

    def hear(line: Mapping[str, Any], counts: Mapping[str, int]) -> None:
        notifications.hear(line, counts)
        if listener is not None:
            listener(line, counts)

    async with executor:
        view = await drive(sweep, executor, settings=settings, listener=hear, stop=stop)
    faults = await notifications.end(view, by_user=stop is not None and stop.is_set())
    if not faults:
        return view
    sweep.add({"is": "warning", "message": lost_words(faults), "at": time.time()})
    return view_of(record, driven=False)


async def drive(
    sweep: OpenSweep,
    executor: Executor,
    *,
    settings: Settings,
    listener: Listener | None = None,
    stop: asyncio.Event | None = None,
    pauses: tuple[float, ...] = PAUSES,
) -> SweepView:
    """Hand rows to an executor until each has ended, or waits.

    Args:
        executor: Open as long as the sweep is driven.
        listener, stop: See `run_sweep`.
        pauses: Seconds before a row is performed again, by the number of its losses in a row.

    Raises:
        StoreError: The ledger cannot be written. Runs in progress are stopped, and the sweep can
            be resumed.
    """
    return await _Drive(sweep, executor, settings, listener, stop, pauses).run()


class _GroupCommit:
    """Appends lines to the ledger in a thread: one write and one fsync for all that are ready."""

    def __init__(self, ledger: SweepLedger) -> None:
        self._ledger = ledger
        self._ready: list[tuple[tuple[Mapping[str, Any], ...], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def add(self, *lines: Mapping[str, Any]) -> None:
        """Append lines, and return when they are on the disk."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready.append((lines, written))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        await asyncio.sleep(0)  # all that is ready in this turn of the loop
        while self._ready:
            batch, self._ready = self._ready, []
            try:
                await asyncio.to_thread(self._ledger.add, *(x for lines, _ in batch for x in lines))
            except BaseException as error:  # noqa: BLE001 - raised in each task that waits
                for _, written in batch:
                    if not written.done():
                        written.set_exception(error)
                continue
            for _, written in batch:
                if not written.done():
                    written.set_result(None)

    async def finish(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            await asyncio.wait((self._writer,))


class _Drive:
    def __init__(
        self,
        sweep: OpenSweep,
        executor: Executor,
        settings: Settings,
        listener: Listener | None,
        stop: asyncio.Event | None,
        pauses: tuple[float, ...],
    ) -> None:
        self._sweep = sweep
        self._record = sweep.record
        self._table = sweep.table
        self._executor = executor
        self._settings = settings
        self._listener = listener
        self._stop = stop
        self._pauses = pauses
        self._runs = RunRecords(sweep.record.state_dir)
        self._lines = _GroupCommit(sweep.ledger)
        self._active: dict[asyncio.Task[None], int] = {}
        self._busy = 0  # tasks that the executor has
        self._later: list[tuple[float, int]] = []  # a heap: when, row
        self._held = Counter[int]()
        self._known_answers = 0
        # They have a reservation, so they go first.
        self._begun = iter([*self._table.rows("running"), *continued_rows(sweep)])
        self._due = self._due_at_start()
        self._wake = asyncio.Event()
        self._looked = 0.0
        self._asked: deque[int] = deque()
        self._bound = sweep.bound()
        self._unfit: deque[int] = deque()  # rows that do not fit into the budget now
        self._freed = False  # whether a run ended since the budget was compared with them
        self._error: BaseException | None = None
        self._stopping = ""
        self._cancelled = False
        self._reason: str | None = None
        self._reached: str | None = None

    # -- the loop ---------------------------------------------------------------------------------

    async def run(self) -> SweepView:
        self._record.stop_request.unlink(missing_ok=True)
        await self._lines.add({"is": "driving", "at": time.time(), "pid": os.getpid()})
        self._sweep.add(*self._settled_again())
        try:
            await self._loop()
        finally:
            await self._end_tasks()
        if self._cancelled:
            from fractale.sweeps.cancelling import cancel_rows

            await cancel_rows(self._sweep, self._settings)
        await self._lines.add(self._over())
        return view_of(self._record, driven=False)

    def _settled_again(self) -> Iterator[dict[str, Any]]:
        """Lines of the ledger about runs that are over and continued without the sweep since."""
        budget = self._sweep.budget
        for run in [*budget.open_runs] if budget.limits else ():
            use = use_of(self._runs.at(run))
            if use and budget.has_changed(run, use["used"]):
                row = int(run.split(".")[1])
                yield {"row": row, "is": "settled", "run": run, "at": time.time(), **use}

    async def _loop(self) -> None:
        while True:
            self._look()
            waits = self._fill()
            if self._error:
                raise self._error
            if self._unfit and not (self._freed or self._active or self._later):
                self._limit()
            if not self._active and (self._stopping or waits is None):
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if waits is None else min(waits, 1.0)):
                    await self._wake.wait()

    def _fill(self) -> float | None:
        """Start the rows that are due and for which there is a worker.

        Returns:
            Seconds until another row may be due; None if no row is.
        """
        while not self._stopping and self._busy < self._executor.workers:
            row = self._next()
            if row is None:
                break
            if not self._start(row):
                self._unfit.appendleft(row)
                self._freed = False
        if self._stopping:
            return None
        if self._later:
            return max(0.01, self._later[0][0] - time.monotonic())
        return None

    def _start(self, row: int) -> bool:
        """Reserve what the run of a row may use, and start the run.

        Returns:
            False if it does not fit into the budget now.
        """
        attempt, budget = self._table.attempt(row), self._sweep.budget
        run = run_id_of(self._record.sweep_id, row, attempt)
        most = self._most(run)
        if budget.obstacle(run, most):
            return False
        about: dict[str, Any] = {"row": row, "run": run, "attempt": attempt}
        line = {**about, "is": "started", "at": time.time(), **({"reserved": most} if most else {})}
        budget.count(line)  # at once: the next row is compared with it
        self._busy += 1
        task = asyncio.create_task(self._perform(row, line))
        self._active[task] = row
        task.add_done_callback(self._done)
        return True

    def _most(self, run: str) -> dict[str, float]:
        """The amounts to reserve for a run."""
        if self._bound is None:
            return {}
        try:
            return self._bound.of(self._runs.at(run))
        except StoreError:  # its worker will say so
            return self._bound.most

    def _limit(self) -> None:
        """Stop the sweep: no further run fits into its budget, and no run is left that may end."""
        row = self._unfit[0]
        run = run_id_of(self._record.sweep_id, row, self._table.attempt(row))
        most = self._most(run)
        if reached := self._sweep.budget.obstacle(run, most):
            self._reached, self._reason = reached, self._sweep.budget.why(reached, run, most)
            self._stopping = self._stopping or STOP_WORDS
        self._freed = not reached

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._active[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) and self._error is None:
            self._error = error

    def _due_at_start(self) -> Iterator[int]:
        """The other rows that are due: first those that began, then those that did not."""
        table = self._table
        yield from [*table.rows("stopped")]
        yield from table.rows("pending")

    def _next(self) -> int | None:
        """The next row that is due now; None if there is none."""
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[1]
        if self._asked:
            return self._asked.popleft()
        active = self._active.values()
        if (row := next((row for row in self._begun if row not in active), None)) is not None:
            return row
        if self._unfit:
            return self._unfit.popleft() if self._freed else None
        return next(self._due, None)

    def _again(self, row: int, seconds: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, row))
        self._wake.set()

    # -- one row ----------------------------------------------------------------------------------

    async def _perform(self, row: int, started: Mapping[str, Any]) -> None:
        """Perform a row once, and write its outcome.

        Args:
            started: Its line of the ledger, which the budget has counted.
        """
        about = {name: started[name] for name in ("row", "run", "attempt")}
        run = str(about["run"])
        try:
            await self._record_line(started)
            report = await self._executor.perform(self._task(row, run))
        except WorkerLost as lost:
            self._free()
            if lost.cannot_start:
                self._cannot_start(lost.reason)
            else:
                await self._lost(about, lost.reason)
            return
        except BaseException:
            self._free()
            raise
        self._free()
        await self._reported(about, report)

    def _free(self) -> None:
        self._busy -= 1
        self._wake.set()

    def _task(self, row: int, run: str) -> RunTask:
        head = self._sweep.head
        return RunTask(
            run=run,
            sweep=self._record.sweep_id,
            row=row,
            plan=str(self._record.plan.absolute()),
            plan_hash=str(head["plan_hash"]),
            inputs={**(head.get("inputs") or {}), **self._sweep.rows[row]},
            directory=str(head.get("folder") or Path.cwd()),
            state_dir=str(self._record.state_dir.absolute()),
            limits=head.get("run_limits") or {},
            options=head.get("options") or {},
        )

    async def _reported(self, about: Mapping[str, Any], report: RunReport) -> None:
        row = int(about["row"])
        if report.held:
            self._held[row] += 1
            self._again(row, min(HELD_SECONDS * self._held[row], MOST_HELD_SECONDS))
            return
        del self._held[row]
        if report.again and not self._stopping:
            await self._lost(about, report.error or "the run was stopped")
            return
        line = {
            **about,
            "is": "ended",
            "status": report.status,
            "at": time.time(),
            "seconds": round(report.seconds, 3),
            "outputs": dict(report.outputs),
            "used": dict(report.used),
        }
        if report.error:
            line["error"] = report.error
        if report.failed_at:
            line["failed_at"] = report.failed_at
        if report.status == "waiting":
            asks = [str(each.get("step") or "") for each in report.waiting if asks_user(each)]
            line["asks"] = list(dict.fromkeys(asks))
        await self._record_line(line)
        if report.status == "waiting" and not line["asks"]:
            self._again(row, DUE_SECONDS)

    async def _lost(self, about: Mapping[str, Any], reason: str) -> None:
        """Record that a worker was lost, and perform the row again, or let it fail."""
        row = int(about["row"])
        progress = progress_of(self._runs.at(str(about["run"])))
        losses, before = self._table.losses.get(row, (0, -1))
        losses = 1 if progress > before else losses + 1
        at = {"at": time.time()}
        await self._record_line(
            {**about, "is": "lost", "reason": reason, "losses": losses, "progress": progress, **at}
        )
        if losses >= MOST_LOSSES:
            words = f"lost {losses} times without progress; the last time: {reason}"
            line = {**about, "is": "ended", "status": "failed", "error": words, **at}
            await self._record_line({**line, **use_of(self._runs.at(str(about["run"])))})
        elif not self._stopping:
            self._again(row, self._pauses[min(losses, len(self._pauses)) - 1])

    def _cannot_start(self, reason: str) -> None:
        """Stop the sweep: no worker can start. No row is blamed."""
        self._reason = self._reason or reason
        self._stopping = self._stopping or STOP_WORDS
        self._wake.set()

    async def _record_line(self, line: Mapping[str, Any]) -> None:
        """Write a line about a row; then change its state, and call the listener."""
        await self._lines.add(line)
        self._table.read(line)
        if line["is"] != "started":
            self._sweep.budget.count(line)
            self._freed = True
        if self._listener:
            self._listener(line, self._table.shown)

    # -- requests, and the end --------------------------------------------------------------------

    def _look(self) -> None:
        """Look for requests: to stop, and answers to waiting rows."""
        if self._stop is not None and self._stop.is_set() and not self._stopping:
            self._stopping = STOP_WORDS
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if self._record.stop_request.exists():
            from fractale.runs.result import CANCEL_REQUEST

            self._stopping, self._cancelled = CANCEL_REQUEST, True
        if self._stopping:
            self._executor.stop()
            self._ask_runs_to_stop()
        else:
            self._take_answered()

    def _ask_runs_to_stop(self) -> None:
        """Ask the runs in progress to stop at a boundary. A run that just began is asked again."""
        from fractale.runs.cancelling import request_stop

        for row in self._active.values():
            run = run_id_of(self._record.sweep_id, row, self._table.attempt(row))
            record = self._runs.at(run)
            if record.path.is_dir():
                with contextlib.suppress(StoreError):
                    request_stop(record, self._stopping)

    def _take_answered(self) -> None:
        """Find the waiting rows that were answered since the last look."""
        answered, self._known_answers = answered_rows(self._record, self._known_answers)
        busy = {*self._active.values(), *self._asked}
        for row, since in answered.items():
            if self._table.waiting.get(row) == since and row not in busy:
                self._asked.append(row)

    async def _end_tasks(self) -> None:
        """Give up the tasks that are left after an error. Their runs can be resumed."""
        left = [*self._active]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        await self._lines.finish()

    def _over(self) -> dict[str, Any]:
        """The line that ends this process's work on the sweep."""
        status = "limit" if self._reached else status_of(self._table.shown)
        line: dict[str, Any] = {"is": "over", "status": status, "at": time.time()}
        if self._reached:
            line["reached"] = self._reached
        if self._reason:
            line["reason"] = self._reason
        elif self._cancelled:
            line["reason"] = "cancelled by `fractale sweep cancel`"
        return line


def continued_rows(sweep: OpenSweep) -> list[int]:
    """The rows whose runs waited, and wait for no answer now.

    They continued without the sweep, as after `fractale answer RUN`. Or they waited for a job or a
    time when the driver died.
    """
    runs, table, found = RunRecords(sweep.record.state_dir), sweep.table, list[int]()
    for row in table.waiting:
        run = runs.at(run_id_of(sweep.record.sweep_id, row, table.attempt(row)))
        with contextlib.suppress(StoreError):  # its worker will say so, once it is answered
            last = next(run.events_from_end(("run_started", "run_finished")), None)
            if last is not None and not any(map(asks_user, last.get("waiting") or ())):
                found.append(row)
    return found


def asks_user(waiting: Mapping[str, Any]) -> bool:
    """Whether something that a run waits for needs an answer; not jobs and times."""
    from fractale.questions import needs_no_answer

    return not needs_no_answer(waiting)


def progress_of(record: RunRecord) -> int:
    """How much a run has done: the number of its events that count as progress.

    A resume repeats events, but no result: so a run that only begins again and again has none.
    """
    try:
        return sum(
            event.get("event") in PROGRESS and not event.get("recorded")
            for event in record.read_events()
        )
    except (StoreError, OSError):
        return 0
