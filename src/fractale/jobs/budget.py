"""What a run's batch jobs may use, and what they have used: jobs, and node-, core- and GPU-hours.

Before a job is submitted, the most that it may use is reserved; when it is over, what it used
takes that place. Both are lines of a ledger that is on the disk before the job is submitted, so a
run that is killed and resumed neither forgets a job nor counts one twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Protocol

from fractale.errors import LimitReached, StoreError
from fractale.private import open_private
from fractale.schedulers.request import Array, Request

LIMITS: Final[Mapping[str, str]] = {
    "node_hours": "node-hours",
    "core_hours": "core-hours",
    "gpu_hours": "GPU-hours",
    "jobs": "jobs",
}
"""Limits of a plan that hold for jobs, and their names for people."""

INHERITED: Final = "(inherited)"
"""The key of what the run had used that a run was forked from."""

HOUR: Final = 3600.0
GLANCE: Final = 0.2
"""Seconds between two looks at whether the run is to be left."""

RAISE: Final = "raise it with --limit {name}=… and go on with `fractale resume`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What jobs use, or may use.

    Args:
        jobs: Each element of an array is one.
    """

    node_hours: float = 0.0
    core_hours: float = 0.0
    gpu_hours: float = 0.0
    jobs: int = 0

    @classmethod
    def total(cls, amounts: Iterable[Amount]) -> Amount:
        """The sum; exact but for the last rounding."""
        listed = list(amounts)
        return cls(
            node_hours=math.fsum(each.node_hours for each in listed),
            core_hours=math.fsum(each.core_hours for each in listed),
            gpu_hours=math.fsum(each.gpu_hours for each in listed),
            jobs=sum(each.jobs for each in listed),
        )

    def as_dict(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Amount:
        """What `as_dict` gave; what it does not name is nothing."""
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a job has while it runs, and for how long at most.

    Args:
        nodes: None where the scheduler chooses how many.
        most_nodes: How many it may be at most.
        elements: Of an array; 1 of a single job.
        seconds: Of one element, at most; None where nothing bounds it.
        whole_nodes: Whether it has its nodes to itself: then it has more cores than it asks for.
    """

    nodes: int | None
    most_nodes: int
    cores: int
    gpus: int
    elements: int = 1
    seconds: float | None = None
    whole_nodes: bool = False

    @classmethod
    def of(cls, request: Request, longest: Callable[[float], float], *, one_node: bool) -> Size:
        """The size of a job.

        Args:
            longest: From a time limit to how long the scheduler lets a job run that has it.
            one_node: Whether the scheduler has no more than one.
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
        """What it uses if it runs into its time limit; of time, nothing where it has none."""
        hours = self.elements * (self.seconds or 0.0) / HOUR
        return Amount(
            node_hours=self.most_nodes * hours,
            core_hours=self.cores * hours,
            gpu_hours=self.gpus * hours,
            jobs=self.elements,
        )

    def used(self, seconds: float, nodes: int) -> Amount:
        """What it used.

        Args:
            seconds: That it ran; of an array, the sum over its elements.
            nodes: On how many, as far as its end shows; 0 where nothing does.
        """
        hours = seconds / HOUR
        return Amount(
            node_hours=(self.nodes or nodes or self.most_nodes) * hours,
            core_hours=self.cores * hours,
            gpu_hours=self.gpus * hours,
            jobs=self.elements,
        )


class Ledger(Protocol):
    """Where the lines of a budget are kept."""

    def lines(self) -> list[dict[str, Any]]:
        """All lines, in order."""
        ...

    def add(self, line: Mapping[str, Any]) -> None:
        """Keep one more line; it is on the disk afterwards."""
        ...


class MemoryLedger:
    """The ledger of a run that is not kept."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []

    def lines(self) -> list[dict[str, Any]]:
        """All lines, in order."""
        return list(self._lines)

    def add(self, line: Mapping[str, Any]) -> None:
        """Keep one more line."""
        self._lines.append(dict(line))


@dataclass(frozen=True, slots=True)
class FileLedger:
    """A ledger of one JSON line for each entry."""

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """All lines, in order; a last one that a crash cut had no effect yet, and is left out.

        Raises:
            StoreError: It cannot be read, or is damaged.
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
        """Keep one more line; it is on the disk afterwards.

        Raises:
            StoreError: It cannot be written.
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
        """How many bytes of the file are whole lines."""
        return os.pread(descriptor, size, 0).rfind(b"\n") + 1


class Budget:
    """The jobs of a whole run: what they may use, have reserved, and have used.

    Args:
        limits: Name (`LIMITS`) → the most; those that are not there are not limited.
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
        """Keep that what was reserved for `key` is for the job that its tool calls `job`."""
        if job not in self._names:
            line = {"is": "named", "key": key, "job": job, "at": time.time()}
            self._ledger.add(line)
            self._count(line)

    def reserved_for(self, job: str) -> tuple[str, Size] | None:
        """The key under which something is reserved for a job of a tool, and the job's size."""
        key = self._names.get(job, job)
        size = self._sizes.get(key)
        return (key, Size(**size)) if size and key not in self._used else None

    @property
    def limits(self) -> Mapping[str, float]:
        """The limits that are set."""
        return self._limits

    @property
    def used(self) -> Amount:
        """What jobs that are over have used."""
        return Amount.total(self._used.values())

    @property
    def reserved(self) -> Amount:
        """What jobs that are not over may still use."""
        return Amount.total(a for key, a in self._reserved.items() if key not in self._used)

    def needs_time(self) -> str:
        """The first limit under which a job needs a time limit; empty if there is none."""
        return next((name for name in self._limits if name != "jobs"), "")

    async def reserve(
        self,
        key: str,
        most: Amount,
        leave: Callable[[], None],
        size: Size | None = None,
        array: Array | None = None,
    ) -> None:
        """Set aside the most that a job may use, before it is submitted; once for each key.

        Where only what other jobs of this process have reserved is in the way, their ends are
        waited for: mostly they use less.

        Args:
            leave: Is called now and then meanwhile; may raise to end the waiting.
            size: Is kept for whoever settles it, see `reserved_for`.
            array: Then `most` is of each of its elements, ``KEY[INDEX]``, which are settled one by
                one.

        Raises:
            LimitReached: There is not so much left.
            StoreError: It cannot be written down.
        """
        keys = _keys(key, str(array) if array else None)
        total = Amount.total([most] * len(keys))
        while keys[0] not in self._reserved and not self._has_room(total):
            await self._change(leave)
        if keys[0] not in self._reserved:
            self._write("reserved", key, most, size, array)
        # Only now: whoever waits for room makes none for another one that waits.
        self._under_way.update(each for each in keys if each not in self._used)

    def _has_room(self, most: Amount) -> bool:
        """Whether there is room now, or only once other jobs of this process are over.

        Raises:
            LimitReached: There will be none.
        """
        name = self._in_the_way(most)
        if not name:
            return True
        others = self._under_way - self._used.keys()
        if not others or self._over(name, self._used_of(name) + getattr(most, name)):
            raise self._limit(name, most)
        return False

    async def _change(self, leave: Callable[[], None]) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(GLANCE):
                    await self._changed.wait()
            except TimeoutError:
                leave()

    async def settle(self, key: str, used: Amount | None) -> None:
        """Put what a job used in the place of what it had reserved.

        Args:
            used: None where nobody knows: then it counts as all that was reserved.

        Raises:
            StoreError: It cannot be written down.
        """
        self._under_way.discard(key)
        if key in self._used or key not in self._reserved:
            return
        self._write("used", key, self._reserved[key] if used is None else used)
        async with self._changed:
            self._changed.notify_all()

    async def release(self, key: str, array: Array | None = None) -> None:
        """Take back what was reserved: no job came of it.

        Raises:
            StoreError: It cannot be written down.
        """
        keys = _keys(key, str(array) if array else None)
        self._under_way.difference_update(keys)
        if keys[0] in self._reserved and keys[0] not in self._used:
            self._write("released", key, Amount(), array=array)
            async with self._changed:
                self._changed.notify_all()

    def leave(self, key: str) -> None:
        """Say that nobody of this process waits for a job: its end makes no room for others."""
        self._under_way.discard(key)

    @contextlib.contextmanager
    def watched(self, key: str) -> Generator[None]:
        """While a job is waited for: its end may make room for another one."""
        self._under_way.add(key)
        try:
            yield
        except BaseException:  # the run is left, and the job goes on
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
        """Whether so much may be reserved now."""
        return not self._in_the_way(more)

    def _in_the_way(self, more: Amount) -> str:
        """The first limit that would be passed; empty if none would."""
        return next(
            (n for n in self._limits if self._over(n, self._taken[n] + getattr(more, n))), ""
        )

    def _over(self, name: str, total: float) -> bool:
        return total > self._limits[name] * (1 + 1e-9)

    def _limit(self, name: str, more: Amount) -> LimitReached:
        most, more_words = self._limits[name], amount_words(name, getattr(more, name))
        used, reserved = getattr(self.used, name), getattr(self.reserved, name)
        taken = f"{figure(used)} are used"
        if reserved:
            taken += f", {figure(reserved)} are reserved"
        return LimitReached(
            name,
            f"the next job may use {more_words}, which the limit of "
            f"{figure(most)} leaves no room for: {taken}",
            hint=RAISE.format(name=name),
        )

    def words(self, more: Amount) -> str:
        """What a job is about to reserve, for whoever is to agree to it."""
        parts = [
            amount_words(name, amount) + self._of(name)
            for name in LIMITS
            if (amount := getattr(more, name)) and (name in self._limits or name == "node_hours")
        ]
        fits = "" if self.has_room_for(more) else "; there is no room for it"
        return ", ".join(parts) + fits

    def _of(self, name: str) -> str:
        if name not in self._limits:
            return ""
        taken = getattr(self.used, name) + getattr(self.reserved, name)
        return f" ({figure(taken)} of {figure(self._limits[name])} taken so far)"


def _keys(key: str, array: object) -> list[str]:
    """The keys that a line is about: of an array, one for each element."""
    return [f"{key}[{index}]" for index in Array.parse(str(array)).indices] if array else [key]


def amount_words(name: str, amount: float) -> str:
    """An amount with what it is of: ``1 job``, ``2.5 node-hours``."""
    noun = LIMITS[name]
    return f"{figure(amount)} {noun.removesuffix('s') if amount == 1 else noun}"


def figure(amount: float) -> str:
    """An amount as people write it: ``0.004``, ``1.25``, ``40``."""
    return f"{amount:.4g}" if amount < 1000 else f"{amount:,.0f}"


def inherited(ledger: Ledger, until: float | None = None) -> dict[str, Any] | None:
    """A first line for the ledger of a fork: what the run that it comes from has used or reserved.

    Args:
        until: Unix time: later lines do not count.
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
