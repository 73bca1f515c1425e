"""The budget of a run's batch jobs: jobs, and node-, core- and GPU-hours.

Before a run submits a job, it reserves the most that the job can use. When the job is over, its
actual use replaces the reservation. The ledger records both, and the reservation is on the disk
before the submission. So a killed and resumed run neither forgets a job nor counts one twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Protocol

from fractale.errors import LimitReached, StoreError
from fractale.private import open_private
from fractale.schedulers.asked import asked_of
from fractale.schedulers.homes import longest
from fractale.schedulers.job import JobSpec
from fractale.schedulers.request import Array, Request

LIMITS: Final[Mapping[str, str]] = {
    "node_hours": "node-hours",
    "core_hours": "core-hours",
    "gpu_hours": "GPU-hours",
    "jobs": "jobs",
}
"""Limits of a plan for jobs → their names for users."""

LEDGER: Final = "jobs.jsonl"
"""The ledger's file, in a run's directory."""

INHERITED: Final = "(inherited)"
"""Key, in the ledger of a forked run, of the amount that the original run had used."""

HOUR: Final = 3600.0
GLANCE: Final = 0.2
"""Seconds between two calls of `glance`."""

RAISE: Final = "raise it with --limit {name}=… and continue with `fractale resume`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """The jobs and hours that jobs use, or can use at most.

    Args:
        jobs: Number of jobs; each element of an array counts.
    """

    node_hours: float = 0.0
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    jobs: int = 0

    @classmethod
    def total(cls, amounts: Iterable[Amount]) -> Amount:
        """Add up amounts, rounding only once."""
        listed = list(amounts)
        return cls(
            node_hours=math.fsum(each.node_hours for each in listed),
            core_hours=math.fsum(each.core_hours for each in listed),
            gpu_hours=math.fsum(each.gpu_hours for each in listed),
            jobs=sum(each.jobs for each in listed),
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Amount:
        """The inverse of `as_dict`; missing keys are zero."""
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The resources that a job occupies while it runs, and its longest run time.

    Args:
        nodes: Number of nodes; None if the scheduler chooses it.
        most_nodes: The largest number of nodes.
        elements: Number of elements of an array; 1 for a single job.
        seconds: Longest run time of one element; None if nothing limits it.
        whole_nodes: Whether the job has its nodes exclusively. It then has more cores than it
            requests.
    """

    nodes: int | None
    most_nodes: int
    cores: int
    gpus: int
    elements: int = 1
    seconds: float | None = None
    whole_nodes: bool = False

    @classmethod
    def of(cls, spec: JobSpec, scheduler: str, *, whole: bool = False) -> Size:
        """Compute the size of a job from its fields and its script's directives.

        Args:
            whole: Whether to count all elements of an array together, instead of one of them.
        """
        request = asked_of(spec, scheduler)
        if not whole:
            request = replace(request, array=None)
        limit_of = functools.partial(longest, scheduler)
        return cls.of_request(request, limit_of, one_node=scheduler == "local")

    @classmethod
    def of_request(
        cls, request: Request, longest: Callable[[float], float], *, one_node: bool
    ) -> Size:
        """Compute the size of a job from its complete request.

        Args:
            longest: Time limit → longest run time that the scheduler allows.
            one_node: Whether the scheduler has only one node.
        """
        totals, seconds = request.totals(), request.seconds
        nodes = 1 if one_node else totals.nodes
        most = request.most_nodes or nodes or totals.tasks
        if request.most_nodes and request.most_nodes != nodes:
            nodes = None
        return cls(
            nodes=nodes,
            most_nodes=most,
            cores=totals.cores,
            gpus=totals.gpus,
            elements=len(request.array.indices) if request.array else 1,
            seconds=longest(seconds) if seconds and math.isfinite(seconds) else None,
            whole_nodes=bool(request.exclusive) and not one_node,
        )

    def most(self) -> Amount:
        """The amount that a job uses if it reaches its time limit; no hours without a limit."""
        hours = self.elements * (self.seconds or 0.0) / HOUR
        return Amount(
            node_hours=self.most_nodes * hours,
            core_hours=self.cores * hours,
            gpu_hours=self.gpus * hours,
            jobs=self.elements,
        )

    def used(self, seconds: float, nodes: int) -> Amount:
        """The amount that a job used.

        Args:
            seconds: The job's run time; of an array, the sum over its elements.
            nodes: Number of nodes that the end of the job shows; 0 if unknown.
        """
        hours = seconds / HOUR
        return Amount(
            node_hours=(self.nodes or nodes or self.most_nodes) * hours,
            core_hours=self.cores * hours,
            gpu_hours=self.gpus * hours,
            jobs=self.elements,
        )


class Ledger(Protocol):
    """Stores the lines of a budget, in order."""

    def lines(self) -> list[dict[str, Any]]:
        """Read all lines, in order."""
        ...

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line, and return when it is on the disk."""
        ...


class MemoryLedger:
    """The ledger of a run without a directory."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []

    def lines(self) -> list[dict[str, Any]]:
        return list(self._lines)

    def add(self, line: Mapping[str, Any]) -> None:
        self._lines.append(dict(line))


@dataclass(frozen=True, slots=True)
class FileLedger:
    """A ledger in a file of JSON lines."""

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """Read all lines, in order.

        A crash may cut the last line. Such a line had no effect yet, and is omitted.

        Raises:
            StoreError: The file cannot be read, or is damaged.
        """
        try:
            whole, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        try:
            return [json.loads(line) for line in whole.splitlines() if line]
        except ValueError as error:
            raise StoreError(f"{self.path} is damaged: {error}") from error

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line, and return when it is on the disk.

        Raises:
            StoreError: The file cannot be written.
        """
        try:
            descriptor = open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                size = os.fstat(descriptor).st_size
                torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
                if torn:
                    os.ftruncate(descriptor, self._whole(descriptor, size))
                os.write(descriptor, (json.dumps(line) + "\n").encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            hint = "check space and permissions; the job was not submitted"
            raise StoreError(f"cannot write {self.path}: {error}", hint=hint) from error

    def _whole(self, descriptor: int, size: int) -> int:
        """The size of the complete lines, in bytes."""
        return os.pread(descriptor, size, 0).rfind(b"\n") + 1


class Budget:
    """The limits of a run's jobs, and the amounts that the jobs have reserved and used.

    Args:
        limits: Name (`LIMITS`) → limit; a missing name means no limit.
    """

    def __init__(self, limits: Mapping[str, float], ledger: Ledger) -> None:
        self._limits = {name: most for name, most in limits.items() if name in LIMITS}
        self._ledger = ledger
        self._reserved: dict[str, Amount] = {}
        self._used: dict[str, Amount] = {}
        self._taken: dict[str, float] = dict.fromkeys(LIMITS, 0.0)  # used, and still reserved
        self._sizes: dict[str, dict[str, Any]] = {}
        self._names: dict[str, str] = {}
        for line in ledger.lines():
            self._count(line)
        self._under_way: set[str] = set()
        self._changed = asyncio.Condition()

    def unlimited(self) -> Budget:
        """The same budget without its limits: what is used counts in both."""
        budget = copy.copy(self)
        budget._limits = {}
        return budget

    def _count(self, line: Mapping[str, Any]) -> None:
        key = str(line["key"])
        if line["is"] == "named":
            self._names[str(line["job"])] = key
        elif line["is"] == "reserved":
            for each in _keys(key, line.get("array")):
                self._reserved[each] = Amount.from_dict(line["amount"])
                self._sizes[each] = line.get("size") or {}
                self._take(self._reserved[each])
        elif line["is"] == "released":
            for each in _keys(key, line.get("array")):
                if (amount := self._reserved.pop(each, None)) and each not in self._used:
                    self._take(amount, -1)
        else:
            self._used[key] = Amount.from_dict(line["amount"])
            self._take(self._used[key])
            if key in self._reserved:
                self._take(self._reserved[key], -1)

    def _take(self, amount: Amount, sign: int = 1) -> None:
        for name in self._taken:
            self._taken[name] += sign * getattr(amount, name)

    def name(self, key: str, job: str) -> None:
        """Record that the reservation `key` is for the job that its tool calls `job`."""
        if job not in self._names:
            line = {"is": "named", "key": key, "job": job, "at": time.time()}
            self._ledger.add(line)
            self._count(line)

    def reserved_for(self, job: str) -> tuple[str, Size] | None:
        """Find the reservation for a job of a tool: its key, and the job's size."""
        key = self._names.get(job, job)
        size = self._sizes.get(key)
        return (key, Size(**size)) if size and key not in self._used else None

    @property
    def limits(self) -> Mapping[str, float]:
        return self._limits

    @property
    def used(self) -> Amount:
        """The amount that finished jobs have used."""
        return Amount.total(self._used.values())

    @property
    def reserved(self) -> Amount:
        """The amount that unfinished jobs have reserved."""
        return Amount.total(a for key, a in self._reserved.items() if key not in self._used)

    def needs_time(self) -> str:
        """Find the first limit that counts hours; empty if no limit does."""
        return next((name for name in self._limits if name != "jobs"), "")

    async def reserve(
        self,
        key: str,
        most: Amount,
        glance: Callable[[], None],
        size: Size | None = None,
        array: Array | None = None,
    ) -> None:
        """Reserve the most that a job can use, before it is submitted; once per key.

        If only the reservations of this process's other jobs prevent it, wait until those jobs end.
        Most jobs use less than they reserve.

        Args:
            glance: Called every `GLANCE` seconds during the wait; may raise to end the wait.
            size: Recorded for `reserved_for`.
            array: The array of the job; `most` is then the amount per element. Each element has the
                key ``KEY[INDEX]`` and is settled separately.

        Raises:
            LimitReached: The amount exceeds a limit.
            StoreError: The ledger cannot be written.
        """
        keys = _keys(key, str(array) if array else None)
        total = Amount.total([most] * len(keys))
        while keys[0] not in self._reserved and not self._has_room(total):
            await self._change(glance)
        if keys[0] not in self._reserved:
            self._write("reserved", key, most, size, array)
        # Only now: a job that still waits cannot free any amount for another job.
        self._under_way.update(each for each in keys if each not in self._used)

    def _has_room(self, most: Amount) -> bool:
        """Whether the amount fits now; False if this process's other jobs may free enough of it.

        Raises:
            LimitReached: The amount will not fit.
        """
        name = self._in_the_way(most)
        if not name:
            return True
        others = self._under_way - self._used.keys()
        if not others or self._over(name, self._used_of(name) + getattr(most, name)):
            raise self._limit(name, most)
        return False

    async def _change(self, glance: Callable[[], None]) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(GLANCE):
                    await self._changed.wait()
            except TimeoutError:
                glance()

    async def settle(self, key: str, used: Amount | None) -> None:
        """Replace the reservation of a job by the amount that the job used.

        Args:
            used: None if unknown: then the whole reservation counts as used.

        Raises:
            StoreError: The ledger cannot be written.
        """
        self._under_way.discard(key)
        if key in self._used or key not in self._reserved:
            return
        self._write("used", key, self._reserved[key] if used is None else used)
        async with self._changed:
            self._changed.notify_all()

    async def release(self, key: str, array: Array | None = None) -> None:
        """Cancel a reservation, because no job was submitted.

        Raises:
            StoreError: The ledger cannot be written.
        """
        keys = _keys(key, str(array) if array else None)
        self._under_way.difference_update(keys)
        if keys[0] in self._reserved and keys[0] not in self._used:
            self._write("released", key, Amount(), array=array)
            async with self._changed:
                self._changed.notify_all()

    def unwatch(self, key: str) -> None:
        """Stop expecting a job to free its amount: this process does not wait for its end."""
        self._under_way.discard(key)

    @contextlib.contextmanager
    def watched(self, key: str) -> Generator[None]:
        """Expect, within the block, that the end of a job may free an amount for another job."""
        self._under_way.add(key)
        try:
            yield
        except BaseException:  # the run is suspended, and the job keeps running
            self._under_way.discard(key)
            raise

    def _write(
        self,
        what: str,
        key: str,
        amount: Amount,
        size: Size | None = None,
        array: Array | None = None,
    ) -> None:
        line: dict[str, Any] = {"is": what, "key": key, "amount": amount.as_dict()}
        line |= {"at": time.time(), **({"size": asdict(size)} if size else {})}
        line |= {"array": str(array)} if array else {}
        self._ledger.add(line)
        self._count(line)

    def _used_of(self, name: str) -> float:
        return math.fsum(getattr(amount, name) for amount in self._used.values())

    def has_room_for(self, more: Amount) -> bool:
        """Whether this amount can be reserved now."""
        return not self._in_the_way(more)

    def _in_the_way(self, more: Amount) -> str:
        """Find the first limit that the amount would exceed; empty if it fits."""
        return next(
            (n for n in self._limits if self._over(n, self._taken[n] + getattr(more, n))), ""
        )

    def _over(self, name: str, total: float) -> bool:
        return total > self._limits[name] * (1 + 1e-9)

    def _limit(self, name: str, more: Amount) -> LimitReached:
        most, more_words = self._limits[name], amount_words(name, getattr(more, name))
        used, reserved = getattr(self.used, name), getattr(self.reserved, name)
        taken = f"{short_amount(used)} are used"
        if reserved:
            taken += f", {short_amount(reserved)} are reserved"
        return LimitReached(
            name,
            f"the next job may use {more_words}, more than the limit of "
            f"{short_amount(most)} leaves: {taken}",
            hint=RAISE.format(name=name),
        )

    def words(self, more: Amount) -> str:
        """Describe the amount that a job would reserve, for the user who has to approve it."""
        parts = [
            amount_words(name, amount) + self._of(name)
            for name in LIMITS
            if (amount := getattr(more, name)) and (name in self._limits or name == "node_hours")
        ]
        fits = "" if self.has_room_for(more) else "; it does not fit"
        return ", ".join(parts) + fits

    def _of(self, name: str) -> str:
        if name not in self._limits:
            return ""
        taken = getattr(self.used, name) + getattr(self.reserved, name)
        return f" ({short_amount(taken)} of {short_amount(self._limits[name])} taken so far)"


def _keys(key: str, array: object) -> list[str]:
    """List the keys of a line: for an array, one per element."""
    return [f"{key}[{index}]" for index in Array.parse(str(array)).indices] if array else [key]


def amount_words(name: str, amount: float) -> str:
    """Write an amount with its unit: ``1 job``, ``2.5 node-hours``."""
    noun = LIMITS[name]
    return f"{short_amount(amount)} {noun.removesuffix('s') if amount == 1 else noun}"


def short_amount(amount: float) -> str:
    """Write an amount for users: ``0.004``, ``1.25``, ``40``."""
    return f"{amount:.4g}" if amount < 1000 else f"{amount:,.0f}"


def inherited(ledger: Ledger, until: float | None = None) -> dict[str, Any] | None:
    """Write the first line of a fork's ledger: the amounts that the original run used and reserved.

    Args:
        until: Unix time; later lines do not count.
    """
    then = MemoryLedger()
    for line in ledger.lines():
        if until is None or line.get("at", 0.0) <= until:
            then.add(line)
    budget = Budget({}, then)
    total = Amount.total([budget.used, budget.reserved])
    if total == Amount():
        return None
    return {"is": "used", "key": INHERITED, "amount": total.as_dict(), "at": 0.0}
