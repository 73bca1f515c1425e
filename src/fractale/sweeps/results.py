"""The record of a sweep, read for people: every display and export of a sweep uses this.

Reading takes no lock, so a view of a sweep in progress is a moment's picture.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import StoreError
from fractale.schedulers.folder import JobFolder
from fractale.store.locks import holder_of_lock
from fractale.sweeps.budget import SweepBudget
from fractale.sweeps.record import RowState, SweepRecord, run_id_of

DRIVER_ENDED: Final = "the process that drove it ended before all rows had"

OPEN: Final[tuple[RowState, ...]] = ("pending", "running", "waiting", "limit", "stopped")
"""States of rows that can be cancelled, unless they were: jobs of a stopped run may continue."""

STATES: Final[tuple[RowState, ...]] = (
    "pending",
    "running",
    "waiting",
    "success",
    "failed",
    "stopped",
    "limit",
)
"""All states of rows, in the order in which displays count them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One row of a sweep.

    Args:
        inputs: The inputs that vary.
        state: As the ledger says. A run that was in progress when the driver died is ``stopped``.
        run: The run of its latest attempt; empty if none has started.
        attempt: From 1; 0 if none has started.
        used: As in `task.RunReport`.
        asks: The steps whose questions the run waits for; none once it was answered.
        answered: Whether the questions that the run waited for were answered, and the run was not
            resumed since.
        since: When the run last ended or began to wait, in Unix time; 0 if it never did.
        losses: How often a worker was lost with it, in its latest attempt.
    """

    row: int
    inputs: Mapping[str, Any]
    state: RowState
    run: str = ""
    attempt: int = 0
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    used: Mapping[str, float] = field(default_factory=dict[str, float])
    error: str | None = None
    failed_at: str = ""
    asks: tuple[str, ...] = ()
    seconds: float = 0.0
    losses: int = 0
    answered: bool = False
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """A limit of the sweep.

    Args:
        name: As in `limits` of a plan: ``tokens``, ``cost``, ``node_hours``, …
        reserved: By runs that are not over.
    """

    name: str
    limit: float
    used: float
    reserved: float

    @property
    def left(self) -> float:
        return max(0.0, self.limit - self.used - self.reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepView:
    """A sweep.

    Args:
        plan: The name of the plan, and `file` its path.
        varied: The names of the inputs that vary, in order.
        executor: The name of the executor: ``local`` or one of the settings.
        status: ``running`` while a process drives it; ``queued`` while its detached driver has not
            begun; else ``success``, ``failed``, ``waiting``, ``limit`` or ``stopped``.
        counts: State → number of rows, without zeros.
        reached: The name of the limit at which the sweep stopped.
        next: The commands to type next.
        merit: The output by which the user compares rows, if the sweep names one.
        used: The sums over all rows.
        asking: How many rows ask a question.
        open: How many rows can be cancelled.
        warning: What went wrong beside the runs, such as a notification that was not sent.
    """

    id: str
    plan: str
    file: str
    plan_hash: str
    started: float
    ended: float | None
    varied: tuple[str, ...]
    executor: str
    status: str
    counts: Mapping[str, int]
    rows: tuple[RowView, ...]
    limits: tuple[LimitView, ...]
    used: Mapping[str, float]
    reached: str | None = None
    reason: str | None = None
    next: tuple[str, ...] = ()
    merit: str | None = None
    asking: int = 0
    open: int = 0
    warning: str | None = None


# -- reading a record -----------------------------------------------------------------------------


def view_of(record: SweepRecord, *, driven: bool | None = None) -> SweepView:
    """A sweep as its record shows it now.

    Args:
        driven: Whether a process drives it; None: as its lock says.

    Raises:
        StoreError: The record cannot be read.
    """
    head, inputs = record.read_head(), record.read_rows()
    record.check_rows(head, len(inputs))
    held = holder_of_lock(record.lock) is not None if driven is None else driven
    budget = SweepBudget(head.get("limits") or {})
    lines, about = _last_lines(record, len(inputs), budget)
    answered, _ = answered_rows(record)
    rows = tuple(
        _row_view(record.sweep_id, row, inputs[row], lines[row], answered.get(row), held=held)
        for row in range(len(inputs))
    )
    counts = Counter[str](row.state for row in rows)
    stopped = any(
        row.state == "stopped" and row.run and not each.cancelled
        for row, each in zip(rows, lines, strict=True)
    )
    shown = {state: counts[state] for state in STATES if counts[state]}
    over = about.get("over")
    status, reason = status_of(shown), over.get("reason") if over else None
    reached = over.get("reached") if over else None
    if held:
        status, reason, reached = "running", None, None
    elif (waits := about.get("queued")) and status == "stopped":
        title, reached = f"{waits.get('scheduler')} job {waits.get('job')}", None
        if JobFolder(Path(str(waits.get("folder")))).ended() is None:
            status, reason = "queued", f"its driver waits as {title}"
        else:
            reason = f"its driver, {title}, ended before it began; see {record.output}"
    elif over:
        status = _status_now(over, status)
    elif "driving" in about and status == "stopped":
        reason = DRIVER_ENDED
    ended = (over or {}).get("at") if not held else None
    return SweepView(
        id=record.sweep_id,
        plan=str(head.get("plan") or ""),
        file=str(head.get("file") or ""),
        plan_hash=str(head.get("plan_hash") or ""),
        started=float(head.get("started") or 0.0),
        ended=float(ended) if ended else None,
        varied=tuple(head.get("varied") or ()),
        executor=str(head.get("executor") or "local"),
        status=status,
        counts=shown,
        rows=rows,
        limits=budget.views(),
        used=_sum(lines),
        reached=str(reached) if reached else None,
        reason=str(reason) if reason else None,
        next=_next(record.sweep_id, status, shown, rows, reached, stopped=stopped),
        merit=head.get("merit"),
        asking=sum(bool(row.asks) for row in rows),
        open=sum(each.state in OPEN and not each.cancelled for each in lines),
        warning=_text_of(about.get("warning")),
    )


def _text_of(line: Mapping[str, Any] | None) -> str | None:
    return str(line.get("message") or "") or None if line else None


def status_of(counts: Mapping[str, int]) -> str:
    """The status of a sweep that no process drives, from the states of its rows."""
    for states, status in (
        (("pending", "running", "stopped"), "stopped"),
        (("waiting",), "waiting"),
        (("limit",), "limit"),
        (("failed",), "failed"),
    ):
        if any(counts.get(state) for state in states):
            return status
    return "success"


def _status_now(over: Mapping[str, Any], by_rows: str) -> str:
    """The status at the end of the latest driver, unless rows have changed since."""
    return "limit" if over.get("reached") and by_rows == "stopped" else by_rows


@dataclass(slots=True)
class _Lines:
    """The lines of the ledger about one row.

    Args:
        ended: The latest end of its latest run.
        earlier: What the runs of earlier attempts used.
    """

    state: RowState = "pending"
    attempt: int = 1
    began: bool = False
    cancelled: bool = False
    ended: Mapping[str, Any] | None = None
    losses: int = 0
    earlier: tuple[Mapping[str, float], ...] = ()

    @property
    def used(self) -> Mapping[str, float]:
        """The amounts that the latest run has used."""
        return _used(self.ended or {})

    def read(self, line: Mapping[str, Any]) -> None:
        """Take over a line about the row."""
        match line.get("is"):
            case "started":
                self.began = True
            case "lost":
                self.losses += 1
            case "ended":
                self.ended = line
            case "cancelled" | "settled" if any(_used(line).values()):
                self.ended = {**(self.ended or {}), "used": _used(line)}
            case "retried":
                used = {**self.used, **_used(line)}
                self.earlier = (*self.earlier, used) if used else self.earlier
                self.attempt, self.began, self.losses, self.ended = self.attempt + 1, False, 0, None
            case _:
                pass
        if (state := state_after(line)) is not None:
            self.state, self.cancelled = state, line.get("is") == "cancelled"


def _used(line: Mapping[str, Any]) -> Mapping[str, float]:
    return cast("Mapping[str, float]", line.get("used") or {})


def _last_lines(
    record: SweepRecord, rows: int, budget: SweepBudget
) -> tuple[list[_Lines], dict[str, Mapping[str, Any]]]:
    """The lines of the ledger about each row, and the latest ones about the whole sweep.

    Args:
        budget: Counts the lines.
    """
    found = [_Lines() for _ in range(rows)]
    about: dict[str, Mapping[str, Any]] = {}
    for line in record.read_ledger():
        budget.count(line)
        row, what = line.get("row"), line.get("is")
        if not isinstance(row, int):
            if what in ("driving", "over", "queued"):
                about.pop("queued", None)
            if what == "driving":
                about.pop("over", None)
            about[str(what)] = line
            continue
        if 0 <= row < rows:
            found[row].read(line)
    return found, about


def state_after(line: Mapping[str, Any]) -> RowState | None:
    """The state of a row after a line of the ledger; None if the line does not change it."""
    match line.get("is"):
        case "started" | "lost" | "resumed":
            return "running"
        case "ended":
            status = line.get("status")
            return status if status in STATES else "failed"
        case "retried":
            return "pending"
        case "cancelled":
            return "stopped"
        case _:
            return None


def _row_view(
    sweep: str,
    row: int,
    inputs: Mapping[str, Any],
    lines: _Lines,
    answered: float | None,
    *,
    held: bool,
) -> RowView:
    ended = lines.ended or {}
    waits = lines.state == "waiting"
    is_answered = answered is not None and answered == ended.get("at")
    return RowView(
        row=row,
        inputs=inputs,
        state="stopped" if lines.state == "running" and not held else lines.state,
        run=run_id_of(sweep, row, lines.attempt) if lines.began else "",
        attempt=lines.attempt if lines.began else 0,
        outputs=ended.get("outputs") or {},
        used=lines.used,
        error=ended.get("error"),
        failed_at=str(ended.get("failed_at") or ""),
        asks=tuple(ended.get("asks") or ()) if waits and not is_answered else (),
        seconds=float(ended.get("seconds") or 0.0),
        losses=lines.losses,
        answered=waits and is_answered,
        since=float(ended.get("at") or 0.0),
    )


def _sum(lines: Iterable[_Lines]) -> dict[str, float]:
    """What all runs used that have ended or wait, those of earlier attempts, too."""
    total: dict[str, float] = {}
    for each in lines:
        for used in (*each.earlier, each.used):
            for name, amount in used.items():
                total[name] = total.get(name, 0) + amount
    return total


def _next(
    sweep: str,
    status: str,
    counts: Mapping[str, int],
    rows: Sequence[RowView],
    reached: str | None,
    *,
    stopped: bool,
) -> tuple[str, ...]:
    """The commands to type next.

    Args:
        stopped: Whether a run was stopped, and not cancelled: its batch jobs may be in progress.
    """
    if status == "running":
        return (_command("watch", sweep), _command("cancel", sweep))
    if status == "queued":
        return (_command("show", sweep), _command("cancel", sweep))
    found: list[str] = []
    if reached:
        found.append(_command("resume", sweep, "--limit", f"{reached}=…"))
    if any(row.asks for row in rows):
        found.append(_command("answer", sweep))
    if any(row.answered for row in rows) or (status == "stopped" and not reached):
        found.append(_command("resume", sweep))
    if stopped:
        found.append(_command("cancel", sweep))
    if counts.get("failed"):
        found += [_command("show", sweep, "--failed"), _command("retry", sweep, "--failed")]
    if counts.get("limit"):
        found.append(_command("resume", sweep, "--run-limit", "NAME=…"))
    return tuple(found or [_command("show", sweep)])


def _command(name: str, sweep: str, *words: str) -> str:
    return " ".join(["fractale sweep", name, sweep, *words])


# -- answers --------------------------------------------------------------------------------------


def answered_rows(record: SweepRecord, size: int = 0) -> tuple[dict[int, float], int]:
    """The answers that were given to waiting rows.

    Args:
        size: The bytes of the file that were read before.

    Returns:
        Row → when its run began to wait, as the ledger says; of the lines after `size`. Then the
        bytes that are read now. An answer counts only while the row waits since then.
    """
    try:
        with record.answered.open("rb") as file:
            file.seek(size)
            text = file.read()
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        raise StoreError(f"{record.answered} cannot be read: {error}") from error
    whole, newline, _ = text.rpartition(b"\n")
    found: dict[int, float] = {}
    for line in whole.splitlines():
        try:
            data = json.loads(line)
            found[int(data["row"])] = float(data["since"])
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{record.answered} is damaged: {error}") from error
    return found, size + len(whole) + len(newline)
