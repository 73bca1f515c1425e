"""One budget over all runs of a sweep, exact over kills.

Before a run starts, the sweep reserves the most that the run can use, which the limits of the run
bound (`most_of`). When the run is over, its actual use (`used_by`) replaces the reservation. The
sweep's ledger has both, and each is on the disk before anything follows from it:

- `started` has `reserved`. It is written before the run starts, so a killed driver forgets no run.
- `ended` has `used`: what the run used over all its processes, read from its record.

`SweepBudget.count` counts each line, when the ledger is read and when a line is added. So a driver
that continues after a kill has the same sums.

Amounts are counted in billionths, as integers: sums are exact, in any order.

The guarantee: when a run starts, the uses and the reservations together are within every limit
of the sweep. Hours and jobs never pass a reservation, since a run reserves them before it submits a
job (`fractale.jobs.budget`). The tokens of a model's call are known only after the call: a run may
pass its limit by the calls that are in progress when it reaches the limit, and the handlers of its
plan begin anew after a kill. The sweep may pass a limit of tokens or cost by as much.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, cast

from fractale.errors import StoreError, UsageError
from fractale.jobs.budget import LIMITS as JOB_LIMITS
from fractale.jobs.budget import Amount, Budget, FileLedger, short_amount
from fractale.plan.kinds import KINDS
from fractale.plan.model import Plan, Step
from fractale.store.locks import holder_of
from fractale.store.run_record import RunRecord

if TYPE_CHECKING:
    from fractale.sweeps.results import LimitView

AT_ONCE: Final = "jobs_at_once"
"""The limit of a sweep on its batch jobs in progress. A run counts with its own limit `jobs` while
it is in progress, and with nothing after that."""

OF_MODELS: Final = ("tokens", "cost")

SWEEP_LIMITS: Final[Mapping[str, str]] = {
    "tokens": "tokens",
    "cost": "dollars",
    **JOB_LIMITS,
    AT_ONCE: "jobs at a time",
}
"""Limits of a sweep → their units for users."""

OVER: Final = ("success", "failed", "stopped", "limit")
"""Statuses of a run whose use replaces its reservation. A run that waits keeps its reservation."""

RESUMABLE: Final = ("stopped", "limit")
"""Those of them after which the same run may start again."""

PARTS: Final = 10**9
"""Amounts are counted in billionths."""

SUBMITTING: Final = ("job_submit", "job_run")
"""The tools that submit jobs of fractale's budget."""


# -- what a run can use at most, and what it has used ---------------------------------------------


def most_of(plan: Plan, run_limits: Mapping[str, Any]) -> dict[str, float]:
    """The most that one run of a plan can use, for each limit of `SWEEP_LIMITS` that bounds it.

    Args:
        run_limits: The limits of each run of the sweep; they replace those of the plan.

    Returns:
        Name → amount. A missing name: nothing bounds it.
    """
    limits = {
        name: value
        for name in SWEEP_LIMITS
        if (value := run_limits.get(name, getattr(plan.limits, name, None))) is not None
    }
    asking = sum(_asks_models(each) for each in plan.handlers.values())
    most: dict[str, float] = {}
    for name, value in limits.items():
        if name in OF_MODELS:
            most[name] = value * (1 + asking)  # each handler has the limit for itself
        elif not any(_submits(each) for each in plan.handlers.values()):
            most[name] = value
    if "jobs" in most:
        most[AT_ONCE] = most["jobs"]
    return most


class RunBound:
    """The most that each run of a sweep can use: what is reserved for it.

    Args:
        plan: As it was when the sweep was started.
        run_limits: Of each run; they replace those of the plan.
    """

    def __init__(self, plan: Plan, run_limits: Mapping[str, Any]) -> None:
        self.most = most_of(plan, run_limits)
        self._adds = any(_asks_models(each) for each in plan.handlers.values())

    def of(self, record: RunRecord) -> dict[str, float]:
        """What to reserve for a run that starts or is resumed: its use so far and to come.

        Args:
            record: Of the run, which need not exist.

        Raises:
            StoreError: The record cannot be read, or is damaged.
        """
        if not record.path.exists():
            return self.most
        used, total = used_by(record), dict(self.most)
        for name, most in self.most.items():
            # Handlers begin anew with limits of their own, at each end of their plan and after a
            # kill. Any other step is bound by what the run has used already.
            anew = self._adds and name in OF_MODELS
            total[name] = most + used[name] if anew else max(most, used[name])
        return total


def _asks_models(plan: Plan) -> bool:
    """Whether steps of a handler may ask a model, also one of a sub-agent's own."""
    steps = _steps(plan)
    return any(KINDS[each.kind].asks_model or each.judge is not False for each in steps)


def _submits(plan: Plan) -> bool:
    """Whether steps of a handler may submit jobs, which no limit of the run bounds."""
    return any(_may_submit(step) for step in _steps(plan))


def _may_submit(step: Step) -> bool:
    if step.kind == "job" or step.is_drafted:
        return True
    if step.kind == "tool":
        return _names_submitting(str(step.target))
    chooses = KINDS[step.kind].chooses_tools and step.plan is None and step.tools is None
    return chooses or any(map(_names_submitting, step.tools or ()))


def _names_submitting(glob: str) -> bool:
    """Whether a name or pattern of tools, with or without a server's name, has one that submits."""
    last = glob.rpartition(".")[2]
    return any(fnmatchcase(name, each) for name in SUBMITTING for each in (glob, last))


def _steps(plan: Plan) -> Iterator[Step]:
    for step in plan.walk():
        yield step
        if step.plan:
            yield from _steps(step.plan)


def check_limits(limits: Mapping[str, float], plan: Plan, run_limits: Mapping[str, Any]) -> None:
    """Check that the limits of a sweep can be kept, and that one run fits.

    Args:
        limits: Of the whole sweep.
        run_limits: Of each run; they replace those of the plan.

    Raises:
        UsageError: A name is not a limit of a sweep; no limit of a run bounds it; or one run alone
            may use more. The message has every fault.
    """
    most, faults, hints = most_of(plan, run_limits), list[str](), list[str]()
    for name, limit in limits.items():
        if name not in SWEEP_LIMITS:
            faults.append(f"`{name}` is not a limit of a sweep; they are {', '.join(SWEEP_LIMITS)}")
            hints.append(f"limit each run: `--run-limit {name}=…`")
            continue
        own = "jobs" if name == AT_ONCE else name
        if name in most:
            if parts(most[name]) > parts(limit):
                faults.append(
                    f"one run may use {words(name, most[name])}, more than the sweep's limit of "
                    f"{short_amount(limit)}"
                )
                hints.append(f"lower `--run-limit {own}=…`, or raise `--limit {name}=…`")
        elif run_limits.get(own, getattr(plan.limits, own, None)) is None:
            faults.append(f"the sweep's limit `{name}` needs a limit `{own}` of each run")
            hints.append(
                f"add `--run-limit {own}=…`, or `limits: {{{own}: …}}` to the plan: so much is "
                "reserved for a run"
            )
        else:
            faults.append(f"the sweep's limit `{name}` cannot be kept: handlers may submit jobs")
            hints.append(
                "the limits of a run do not bound the jobs of `on_failure` and `finally`: submit "
                f"jobs in `steps` only, or leave out the limit `{name}`"
            )
    if faults:
        raise UsageError("; ".join(faults), hint="; ".join(dict.fromkeys(hints)))


def used_by(record: RunRecord) -> dict[str, float]:
    """Read from a run's record what it has used so far, over all its processes.

    A batch job whose end the record does not have counts with all that it may use. A call of a
    model that a kill cut off counts with nothing, since its answer is not known.

    Args:
        record: Of the run, which need not exist: then nothing was used.

    Returns:
        Name → amount, for each name of `SWEEP_LIMITS`. `jobs_at_once` is the number of jobs whose
        end the record does not have.

    Raises:
        StoreError: The record cannot be read, or is damaged.
    """
    tokens, cost = _used_of_models(record)
    used, left = Amount(), Amount()
    if record.job_ledger.exists():
        jobs = Budget({}, FileLedger(record.job_ledger))
        used, left = jobs.used, jobs.reserved
    total = Amount.total((used, left)).as_dict()
    found: dict[str, float] = {"tokens": tokens, "cost": cost, **total, AT_ONCE: left.jobs}
    return {name: _amount(parts(found[name])) for name in SWEEP_LIMITS}


def use_of(record: RunRecord) -> dict[str, Any]:
    """The field ``used`` of a ledger line about a run that no worker reported on.

    Returns:
        Empty if a process has the run, or its record cannot be read: its reservation stays.
    """
    try:
        return {} if holder_of(record) is not None else {"used": used_by(record)}
    except StoreError:
        return {}


def _used_of_models(record: RunRecord) -> tuple[int, float]:
    """The tokens and the cost of all models' calls of a run.

    An answer that was recorded by a process that was killed before it reported the call is reported
    by the next process, as recorded. It counts if no process reported the call before.
    """
    seen, tokens, cost, least = set[str](), 0, 0.0, (0, 0.0)
    for event in _events(record, ("model_finished", "run_finished")):
        if event["event"] == "run_finished":
            usage: Mapping[str, Any] = event.get("usage") or {}
            least = (usage.get("total_tokens") or 0, usage.get("cost") or 0.0)
            continue
        key = str(event.get("key"))
        if event.get("recorded") and key in seen:
            continue
        seen.add(key)
        tokens += event["input_tokens"] + event["output_tokens"]
        cost += event["cost"]
    # A power cut may lose the last events, which are not synced, but not the checkpoint's sums.
    return max(tokens, least[0]), max(cost, least[1])


def _events(record: RunRecord, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The events of some kinds, the oldest first, without parsing those of other kinds."""
    marks = [f'"{kind}"'.encode() for kind in kinds]
    try:
        with record.events.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or not any(mark in line for mark in marks):
                    continue
                event = cast("dict[str, Any]", json.loads(line))
                if event.get("event") in kinds:
                    yield event
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise StoreError(f"{record.events} cannot be read: {error}") from error


# -- the budget of a sweep ------------------------------------------------------------------------


def parts(amount: float) -> int:
    """An amount in billionths."""
    return round(amount * PARTS)


def words(name: str, amount: float) -> str:
    """An amount with its unit: ``2.5 node-hours``, ``$0.25``."""
    if name == "cost":
        return f"${amount:.4g}"
    unit = SWEEP_LIMITS[name]
    return f"{short_amount(amount)} {unit.removesuffix('s') if amount == 1 else unit}"


@dataclass(slots=True)
class _OpenRun:
    """A run that has a reservation, or that may start again.

    Args:
        reserved: Name → billionths; empty if the run is over.
        settled: What counts as its use, while it is over.
    """

    reserved: dict[str, int]
    settled: dict[str, int]


class SweepBudget:
    """The limits of a sweep, and what its runs have reserved and used.

    It is a function of the ledger's lines: two budgets that counted the same lines are equal. It
    keeps an entry per run only for runs that are not over or may start again.

    Args:
        limits: Name (`SWEEP_LIMITS`) → limit; a missing name means no limit.
        lines: The lines of the sweep's ledger so far.
    """

    def __init__(
        self, limits: Mapping[str, float], lines: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        self._limits = {name: limits[name] for name in SWEEP_LIMITS if name in limits}
        self._reserved = dict.fromkeys(SWEEP_LIMITS, 0)
        self._used = dict.fromkeys(SWEEP_LIMITS, 0)
        self._open: dict[str, _OpenRun] = {}
        for line in lines:
            self.count(line)

    @property
    def limits(self) -> Mapping[str, float]:
        return self._limits

    @property
    def used(self) -> dict[str, float]:
        """The amounts that runs which are over have used, their failed attempts included."""
        return {name: _amount(total) for name, total in self._used.items()}

    @property
    def reserved(self) -> dict[str, float]:
        """The amounts that are reserved for runs that are not over."""
        return {name: _amount(total) for name, total in self._reserved.items()}

    @property
    def open_runs(self) -> Collection[str]:
        """The runs that have a reservation, or may start again."""
        return self._open.keys()

    def has_changed(self, run: str, used: Mapping[str, float]) -> bool:
        """Whether a run is over and counts with another use: it continued without the sweep."""
        entry = self._open.get(run)
        now = _in_parts(used)
        return entry is not None and not entry.reserved and bool(now) and entry.settled != now

    def views(self) -> tuple[LimitView, ...]:
        """The limits for displays, in the order of `SWEEP_LIMITS`."""
        from fractale.sweeps.results import LimitView  # which reads a sweep with this module

        return tuple(
            LimitView(
                name=name,
                limit=limit,
                used=_amount(self._used[name]),
                reserved=_amount(self._reserved[name]),
            )
            for name, limit in self._limits.items()
        )

    # -- the ledger

    def count(self, line: Mapping[str, Any]) -> None:
        """Count a line of the sweep's ledger, once, in the order of the ledger.

        - `started` reserves; again for the same run (it is resumed), it replaces what that run had
          reserved or used, since the use of a run is its total.
        - `ended` replaces the reservation by the use if the run is over. A second `ended`, or one
          of a run that did not start, counts nothing. Without `used` the reservation counts whole.
        - `cancelled` with `used` replaces the reservation as `ended` does; without it, it stays. So
          does `retried`: the use of the attempt before it stays.
        - `settled` replaces the use of a run that is over and continued without the sweep.
        - `lost` changes nothing: the run is resumed, and has its reservation still.
        """
        kind, run = line["is"], str(line.get("run") or "")
        if kind == "started":
            self._start(run, _in_parts(line.get("reserved")))
        elif kind == "ended" and line.get("status") in OVER:
            used = _in_parts(line["used"]) if "used" in line else None
            self._settle(run, used, keep=line["status"] in RESUMABLE)
        elif kind in ("cancelled", "retried", "settled") and "used" in line:
            self._settle(run, _in_parts(line["used"]), keep=kind != "retried")

    def _start(self, run: str, reserved: dict[str, int]) -> None:
        if before := self._open.get(run):
            _add(self._reserved, before.reserved, -1)
            _add(self._used, before.settled, -1)
        self._open[run] = _OpenRun(reserved, {})
        _add(self._reserved, reserved)

    def _settle(self, run: str, used: dict[str, int] | None, *, keep: bool) -> None:
        """Replace the reservation of a run by its use.

        Args:
            used: None: the whole reservation.
            keep: Whether the same run may start again.
        """
        entry = self._open.get(run)
        if entry is None or (entry.settled and not used):
            return  # it is counted already: a record that was removed since does not change that
        settled = entry.reserved if used is None else used
        _add(self._reserved, entry.reserved, -1)
        _add(self._used, entry.settled, -1)
        _add(self._used, settled)
        if keep:
            self._open[run] = _OpenRun({}, settled)
        else:
            del self._open[run]

    # -- the next run

    def obstacle(self, run: str, most: Mapping[str, float]) -> str:
        """The first limit that a run does not fit into now; empty if it fits.

        Args:
            run: Its ID. If it has a reservation, or has used something, the new reservation takes
                that place.
            most: What it would reserve.
        """
        return self._first_over(run, most, {**self._reserved})

    def is_spent(self, run: str, most: Mapping[str, float]) -> bool:
        """Whether a run would not fit even if every other run used nothing of its reservation.

        If not, it may fit after the ends of other runs.
        """
        return bool(self._first_over(run, most, {}))

    def _first_over(self, run: str, most: Mapping[str, float], reserved: dict[str, int]) -> str:
        entry = self._open.get(run)
        for name, limit in self._limits.items():
            taken = self._used[name] + reserved.get(name, 0) + parts(most.get(name, 0))
            if entry is not None:
                taken -= entry.settled.get(name, 0)
                taken -= entry.reserved.get(name, 0) if reserved else 0
            if taken > parts(limit):
                return name
        return ""

    def why(self, name: str, run: str, most: Mapping[str, float]) -> str:
        """A sentence that says why a run does not fit into a limit."""
        used, reserved = self._used[name], self._reserved[name]
        taken = f"{short_amount(_amount(used))} are used"
        if reserved:
            taken += f", {short_amount(_amount(reserved))} are reserved by runs that are not over"
            taken += "" if self.is_spent(run, most) else "; their ends may free enough"
        return (
            f"the next run may use {words(name, most.get(name, 0))}, more than the sweep's limit "
            f"`{name}` of {short_amount(self._limits[name])} leaves: {taken}"
        )


def _amount(total: int) -> float:
    """An amount of billionths; a whole number as an integer."""
    whole, rest = divmod(total, PARTS)
    return total / PARTS if rest else whole


def _in_parts(amounts: Any) -> dict[str, int]:
    """The amounts of a line of the ledger that are not zero, in billionths."""
    if amounts is None:
        return {}
    found = cast("Mapping[str, float]", amounts)
    return {name: n for name in SWEEP_LIMITS if (n := parts(found.get(name) or 0))}


def _add(totals: dict[str, int], amounts: Mapping[str, int], sign: int = 1) -> None:
    for name, amount in amounts.items():
        totals[name] += sign * amount
