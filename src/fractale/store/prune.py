"""Keeping space bounded: runs that nobody needs any more are removed as a whole.

What goes with a run is its folder (record, journal, outputs), its checkpoints and its row in the
index. Of runs that stay, outputs go that nothing refers to, as a crash leaves them behind.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fractale.errors import RunHeld, StoreError, UsageError
from fractale.store.checkpoints import open_checkpoints
from fractale.store.index import RunIndex
from fractale.store.locks import RunLock, holder_of
from fractale.store.outputs import FileOutputs
from fractale.store.records import RunFolder, RunFolders
from fractale.store.run_row import RunRow, row_of
from fractale.store.saving import RunSaver, references_in

Spares = Callable[[RunFolder], Awaitable[str | None]]
"""Why a run stays, in words; None where it may go."""

SETTLED = 3600.0
"""Seconds after which an output that nothing refers to is not about to be referred to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRule:
    """Which runs go: those that any of these takes.

    Args:
        older_than: Seconds since the run ended, or began where it did not end.
        keep: All but so many of the latest.
        max_bytes: The latest stay as long as they fit together.
        force: Also runs that wait for an answer.
    """

    older_than: float | None = None
    keep: int | None = None
    max_bytes: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        given = [v for v in (self.older_than, self.keep, self.max_bytes) if v is not None]
        if not given or min(given) < 0:
            raise UsageError(
                "which runs to remove is said by an age, a number to keep, or a size, none below 0"
            )


@dataclass(frozen=True, slots=True)
class Pruned:
    """A run that was removed, would be, or stays though a rule takes it.

    Args:
        bytes: Of its folder and its checkpoints.
        reason: Which rule takes it, or why it stays.
    """

    id: str
    plan: str
    status: str
    started: float
    bytes: int
    reason: str


@dataclass(slots=True)
class PruneReport:
    """What was removed, or would be.

    Args:
        removed: The latest first.
        spared: Runs that a rule takes, but that wait or are held.
        outputs: Files of outputs of other runs, that nothing referred to; `output_bytes` theirs.
        jobs: Folders of jobs that are over; `job_bytes` theirs. `jobs_left` had gone as well, were
            they known to be over.
        listings: Files of what servers offered to runs, that no run shares any more.
        runs: How many runs are left, with `bytes`.
    """

    dry_run: bool
    removed: list[Pruned] = field(default_factory=list[Pruned])
    spared: list[Pruned] = field(default_factory=list[Pruned])
    outputs: int = 0
    output_bytes: int = 0
    jobs: int = 0
    job_bytes: int = 0
    jobs_left: int = 0
    listings: int = 0
    listing_bytes: int = 0
    runs: int = 0
    bytes: int = 0

    @property
    def freed(self) -> int:
        """Bytes that were removed, or would be."""
        beside = self.output_bytes + self.job_bytes + self.listing_bytes
        return sum(run.bytes for run in self.removed) + beside

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**asdict(self), "freed": self.freed}


async def prune(
    state_dir: Path,
    where: Path | str,
    rule: PruneRule,
    *,
    dry_run: bool = False,
    now: float | None = None,
    spares: Spares | None = None,
) -> PruneReport:
    """Remove runs, and outputs that nothing refers to. What is beside them is not looked at.

    A run that a process has is never touched, and one that waits for an answer only with
    `PruneRule.force`.

    Args:
        where: The checkpoints, as `Settings.checkpoints` says.
        dry_run: Only report what would be removed.
        now: The Unix time to reckon ages by.
        spares: Why a run that the rule takes stays all the same; asked just before it goes.

    Raises:
        StoreError: The state folder or the checkpoints can't be used.
        UsageError: The rule says nothing.
    """
    async with _opened(state_dir, where) as (index, saver):
        work = _Pruning(RunFolders(state_dir), index, saver, rule, PruneReport(dry_run), spares)
        await work.all(time.time() if now is None else now)
        return work.report


@asynccontextmanager
async def _opened(state_dir: Path, where: Path | str) -> AsyncGenerator[tuple[RunIndex, RunSaver]]:
    async with open_checkpoints(where) as saver:
        with RunIndex(state_dir) as index:
            yield index, saver


@dataclass(slots=True)
class _Pruning:
    folders: RunFolders
    index: RunIndex
    saver: RunSaver
    rule: PruneRule
    report: PruneReport
    spares: Spares | None = None

    async def all(self, now: float) -> None:
        self.index.refresh()
        rows = self.index.find(limit=None)
        sizes = await self._sizes(rows)
        kept: list[RunRow] = []
        for row, reason in _taken(rows, sizes, self.rule, now):
            if reason is None or not await self._remove(row, sizes[row.id], reason):
                kept.append(row)
        for row in kept:
            await self._collect(self.folders.at(row.id), now)
        if not self.report.dry_run:
            await self.saver.reclaim()
        self.report.runs = len(kept)
        self.report.bytes = sum(sizes[row.id] for row in kept) - self.report.output_bytes

    async def _sizes(self, rows: Iterable[RunRow]) -> Mapping[str, int]:
        stored = await self.saver.sizes()
        return {r.id: bytes_in(self.folders.at(r.id).path) + stored.get(r.id, 0) for r in rows}

    async def _remove(self, row: RunRow, size: int, reason: str) -> bool:
        """Whether the run was removed, or would be."""
        folder = self.folders.at(row.id)
        spared = await self._spared(row, folder)
        entry = Pruned(row.id, row.plan, row.status, row.started, size, spared or reason)
        (self.report.spared if spared else self.report.removed).append(entry)
        return spared is None

    async def _spared(self, row: RunRow, folder: RunFolder) -> str | None:
        """Why a run stays; None once it is removed, or would be."""
        row = row_of(folder) or row  # it may have gone on since the index was written
        if row.status == "waiting" and not self.rule.force:
            return f"waits for {row.waits_for or 'an answer'}"
        if self.report.dry_run:
            holder = holder_of(folder)
            return f"held by {holder}" if holder else await self._why_spared(folder)
        try:
            with RunLock(folder):
                if why := await self._why_spared(folder):
                    return why
                async with self.saver.holding(row.id):
                    # The folder goes last: while it is there, a crash leaves a run to remove.
                    await self.saver.adelete_thread(row.id)
                    self.index.remove([row.id])
                    remove_tree(folder.path)
        except RunHeld as error:
            return error.message
        return None

    async def _why_spared(self, folder: RunFolder) -> str | None:
        return await self.spares(folder) if self.spares else None

    async def _collect(self, folder: RunFolder, now: float) -> None:
        """Remove the outputs of a run that nothing refers to."""
        old = [path for path in _outputs(folder) if now - path.stat().st_mtime > SETTLED]
        if not old:
            return
        try:
            with RunLock(folder):
                known = references_in(texts_of(folder)) | await self.saver.references(folder.run_id)
                for path in old:
                    if FileOutputs.digest_of(path) not in known:
                        self._drop(path)
        except RunHeld:
            return

    def _drop(self, path: Path) -> None:
        self.report.outputs += 1
        self.report.output_bytes += path.stat().st_size
        if not self.report.dry_run:
            path.unlink(missing_ok=True)


def _taken(
    rows: Sequence[RunRow], sizes: Mapping[str, int], rule: PruneRule, now: float
) -> Iterator[tuple[RunRow, str | None]]:
    """Each run, the latest first, with the rule that takes it, if one does."""
    total = 0
    for number, row in enumerate(rows, 1):
        total += sizes[row.id]
        if rule.keep is not None and number > rule.keep:
            yield row, f"not among the latest {rule.keep}"
        elif rule.older_than is not None and now - (row.ended or row.started) > rule.older_than:
            yield row, "too old"
        elif rule.max_bytes is not None and total > rule.max_bytes:
            yield row, f"more than {rule.max_bytes} bytes together with later runs"
        else:
            yield row, None


def bytes_in(folder: Path) -> int:
    """What the files in a folder take; of one with several names, this name's share."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                status = (Path(root) / name).lstat()
                total += status.st_size // max(status.st_nlink, 1)
            except FileNotFoundError:  # it went meanwhile
                continue
    return total


def _outputs(folder: RunFolder) -> list[Path]:
    """The files of outputs that are kept by their content, and what a crash left of one."""
    return [path for path in folder.outputs.glob("[0-9a-f][0-9a-f]/*") if path.is_file()]


def texts_of(folder: RunFolder) -> Iterator[bytes]:
    """The files of a run's record, and outputs that others may be named in."""
    for path in [*folder.path.glob("*.json*"), *_outputs(folder)]:
        try:
            yield path.read_bytes()
        except FileNotFoundError:  # of a run that goes on: it has another name by now
            continue
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error}") from error


def remove_tree(path: Path) -> None:
    """Remove a folder.

    Raises:
        StoreError: It cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StoreError(
            f"cannot remove {path}: {error}", hint="check its permissions and prune again"
        ) from error
