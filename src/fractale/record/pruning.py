"""Removal of runs, job directories and tool listings.

- A run is removed with its directory (record, journal, outputs, checkpoints), its checkpoints
  elsewhere and its row in the index.
- If a run stays, its outputs are removed that nothing refers to. A crash leaves such outputs.
- The jobs of a run's own steps are in its directory and are removed with it. A run stays as long as
  one of them may still be running.
- Jobs that a tool submitted are in the state directory's ``jobs/``. Such a job's directory is
  removed with the last run whose record names it. If no run names it, its age decides.
- Runs share listings of the tools that servers offered; a listing is removed with its last run.
- The runs of a group, such as those of a sweep, stay or go together: rules apply to the whole, and
  one run that must stay keeps all. The group's own directory is removed last.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fractale.errors import RunHeld, StoreError, UsageError
from fractale.jobs import Jobs
from fractale.jobs.removal import (
    EndCheck,
    check_ends,
    folders_in,
    leftovers_in,
    names_in,
    remove,
)
from fractale.record.jobs import JOBS
from fractale.record.snapshot import SHARED
from fractale.schedulers.folder import JobFolder
from fractale.settings import Settings
from fractale.store.checkpoints import RunSaver, open_checkpoints, references_in
from fractale.store.index import RunIndex, RunRow, row_of
from fractale.store.locks import FileLock, RunLock, holder_of, holder_of_lock
from fractale.store.outputs import FileOutputs
from fractale.store.run_record import RUNS, RunRecord, RunRecords

UNUSED = 3600.0
"""After so many seconds, no run is about to refer to an output that nothing refers to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRule:
    """Which runs to remove: those that match any of these rules.

    Args:
        older_than: Seconds since the run ended, or began if it did not end.
        keep: All but so many of the latest.
        max_bytes: The latest runs stay as long as their total size is below this.
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
                "choose the runs to remove by an age, a number to keep, or a size, each at least 0"
            )


@dataclass(frozen=True, slots=True)
class Pruned:
    """A run that was removed or would be, or that stays although a rule matches it.

    Args:
        bytes: The size of its directory and its checkpoints.
        reason: The rule that matches it, or why it stays.
        runs: Of a group, how many runs it has, all of which `bytes` counts; None for a single run.
    """

    id: str
    plan: str
    status: str
    started: float
    bytes: int
    reason: str
    runs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGroup:
    """Runs that stay or go together.

    Args:
        id: As in `RunRow.sweep`.
        path: The group's own directory, which is removed after its runs.
        lock: Makes the lock of the group, and `lock_file` is its file: while a process has it, the
            group stays.
        status: As a word.
        changed: When something of the group was last written, Unix time.
    """

    id: str
    plan: str
    path: Path
    lock: Callable[[], FileLock]
    lock_file: Path
    status: str
    started: float
    changed: float


@dataclass(frozen=True, slots=True)
class _Unit:
    """A run, or the runs of a group.

    Args:
        bytes: With all runs, and the group's own directory.
        changed: When it ended, or began if it did not end.
    """

    rows: tuple[RunRow, ...]
    group: RunGroup | None
    started: float
    changed: float
    bytes: int


@dataclass(slots=True)
class PruneReport:
    """The runs, outputs, jobs and listings that were removed, or would be.

    Args:
        removed: Runs and groups, the latest first.
        spared: Runs that a rule matches, but that wait or are locked.
        outputs: Files of outputs of other runs that nothing referred to; `output_bytes` is their
            size.
        jobs: Directories of jobs that are over; `job_bytes` is their size. `jobs_left` would have
            been removed as well, but may still be running.
        listings: Files of tool listings that no run shares any more.
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
    settings: Settings,
    rule: PruneRule,
    *,
    dry_run: bool = False,
    now: float | None = None,
    groups: Sequence[RunGroup] = (),
) -> PruneReport:
    """Remove runs, outputs that nothing refers to, jobs that are over, and unused listings.

    A run that a process has is never removed. A run that waits for an answer is removed only with
    `PruneRule.force`.

    Args:
        dry_run: Only report what would be removed.
        now: The Unix time from which ages are counted.
        groups: All groups of the state directory. Each counts as one for `PruneRule.keep`.

    Raises:
        StoreError: The state directory or the checkpoints cannot be used.
    """
    moment = time.time() if now is None else now
    work = _Pruning(settings, rule, PruneReport(dry_run), moment, groups)
    if groups or (settings.state_dir / RUNS).is_dir():
        async with open_checkpoints(settings.checkpoints) as saver:
            with RunIndex(settings.state_dir) as index:
                await work.prune_runs(saver, index)
    await work.prune_jobs()
    work.prune_listings()
    return work.report


@dataclass(slots=True)
class _Listing:
    """A shared file.

    Args:
        users: How many runs have it.
    """

    path: Path
    bytes: int
    users: int


@dataclass(slots=True)
class _Pruning:
    settings: Settings
    rule: PruneRule
    report: PruneReport
    now: float
    groups: Sequence[RunGroup]
    records: RunRecords = field(init=False)
    jobs: Jobs = field(init=False)
    listings: Mapping[int, _Listing] = field(init=False)
    """Listings by their inodes, before any run is removed."""
    named_jobs: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Run → the jobs of the state directory that its record names."""
    listings_of: dict[str, tuple[int, ...]] = field(default_factory=dict[str, "tuple[int, ...]"])
    """Run → the inodes of its listings: the tools that were offered, and the run's conditions."""
    gone: list[str] = field(default_factory=list[str])
    """The runs that were removed, or would be."""

    def __post_init__(self) -> None:
        self.records = RunRecords(self.settings.state_dir)
        self.jobs = Jobs.of(self.settings)
        self.listings = _listings(self.settings.state_dir / SHARED)

    # -- runs

    async def prune_runs(self, saver: RunSaver, index: RunIndex) -> None:
        index.refresh()
        rows = index.find(limit=None)
        elsewhere = await saver.sizes()
        sizes = {r.id: bytes_in(self.records.at(r.id).path) + elsewhere.get(r.id, 0) for r in rows}
        kept: list[RunRow] = []
        left = 0
        for unit, reason in _taken(_units(rows, self.groups, sizes), self.rule, self.now):
            if reason is None or not await self._prune_unit(saver, index, unit, reason):
                kept += unit.rows
                left += unit.bytes
        for row in kept:
            await self._prune_outputs(saver, self.records.at(row.id))
        if not self.report.dry_run:
            await saver.reclaim()
        self.report.runs = len(kept)
        self.report.bytes = left - self.report.output_bytes

    async def _prune_unit(self, saver: RunSaver, index: RunIndex, unit: _Unit, reason: str) -> bool:
        """Whether the run or the group was removed, or would be."""
        group = unit.group
        if group is None:
            (row,) = unit.rows
            spared = await self._remove_run(saver, index, row)
            about = (row.id, row.plan, row.status, row.started)
        else:
            spared = await self._remove_group(saver, index, group, unit.rows)
            about = (group.id, group.plan, group.status, group.started)
        runs = len(unit.rows) if group else None
        pruned = Pruned(*about, unit.bytes, spared or reason, runs)
        (self.report.spared if spared else self.report.removed).append(pruned)
        if not spared:
            self.gone += [row.id for row in unit.rows]
        return spared is None

    async def _remove_run(self, saver: RunSaver, index: RunIndex, row: RunRow) -> str | None:
        """Why a run stays; None when it is removed, or would be."""
        record = self.records.at(row.id)
        if why := self._why_waits(record, row):
            return why
        if self.report.dry_run:
            holder = holder_of(record)
            return f"in use by {holder}" if holder else await self._why_needed(record)
        try:
            with RunLock(record):
                if why := await self._why_needed(record):
                    return why
                await self._remove(saver, index, record)
        except RunHeld as error:
            return error.message
        return None

    async def _remove(self, saver: RunSaver, index: RunIndex, record: RunRecord) -> None:
        """Remove a run, whose lock this process has.

        The directory is removed last: until then, a crash leaves a run that can be removed.
        """
        async with saver.holding(record.run_id):
            await saver.adelete_thread(record.run_id)
            index.remove([record.run_id])
            _remove_tree(record.path)

    def _why_waits(self, record: RunRecord, row: RunRow) -> str | None:
        row = row_of(record) or row  # it may have been resumed since the index was written
        if row.status == "waiting" and not self.rule.force:
            return f"waiting for {row.waits_for or 'an answer'}"
        return None

    async def _remove_group(
        self, saver: RunSaver, index: RunIndex, group: RunGroup, rows: Sequence[RunRow]
    ) -> str | None:
        """Why a group stays; None when it is removed with all its runs, or would be."""
        if self.report.dry_run:
            holder = holder_of_lock(group.lock_file)
            return f"in use by {holder}" if holder else await self._why_group_stays(rows)
        removed = 0
        try:
            with group.lock():
                if why := await self._why_group_stays(rows):
                    return why
                for row in rows:
                    record = self.records.at(row.id)
                    with RunLock(record):
                        await self._remove(saver, index, record)
                    removed += 1
                _remove_tree(group.path)
        except RunHeld as error:  # of a run: another process took it after it was checked
            part = f"{removed} of its {len(rows)} runs were removed; " if removed else ""
            return f"{part}{error.message}"
        return None

    async def _why_group_stays(self, rows: Sequence[RunRow]) -> str | None:
        for row in rows:
            record = self.records.at(row.id)
            holder = holder_of(record)
            why = f"in use by {holder}" if holder else self._why_waits(record, row)
            if why := why or await self._why_needed(record):
                return f"run {row.id}: {why}"
        return None

    async def _why_needed(self, record: RunRecord) -> str | None:
        """Why a run stays although a rule matches it; its shared files are recorded here."""
        mine = list(folders_in(record.jobs))
        for found in await check_ends(self.jobs, mine):
            if not (found.over or (found.lost and self.rule.force)):
                return f"its job {found.words}"
        if self._jobs_root.is_dir():
            self.named_jobs[record.run_id] = names_in(_texts_of(record))
        self.listings_of[record.run_id] = _inode(record.offered), _inode(record.conditions)
        return None

    async def _prune_outputs(self, saver: RunSaver, record: RunRecord) -> None:
        old = [path for path in _outputs(record) if self.now - path.stat().st_mtime > UNUSED]
        if not old:
            return
        try:
            with RunLock(record):
                known = references_in(_texts_of(record)) | await saver.references(record.run_id)
        except StoreError:  # the references in its checkpoints are unknown: its outputs stay
            return
        except RunHeld:
            return
        for path in old:
            if FileOutputs.digest_of(path) not in known:
                self.report.outputs += 1
                self.report.output_bytes += path.stat().st_size
                if not self.report.dry_run:
                    path.unlink(missing_ok=True)

    # -- jobs that tools submitted

    @property
    def _jobs_root(self) -> Path:
        return self.settings.state_dir / JOBS

    async def prune_jobs(self) -> None:
        """Remove the jobs of the state directory whose runs are gone, or that are too old."""
        for path in leftovers_in(self._jobs_root):
            self.report.job_bytes += bytes_in(path)
            if not self.report.dry_run:
                _remove_tree(path)
        folders = self._unnamed_jobs()
        for folder, found in zip(folders, await check_ends(self.jobs, folders), strict=True):
            if self._job_goes(folder, found):
                size = bytes_in(folder.path)
                if self.report.dry_run or remove(folder):
                    self.report.jobs += 1
                    self.report.job_bytes += size

    def _unnamed_jobs(self) -> list[JobFolder]:
        """The jobs that no remaining run names."""
        folders = list(folders_in(self._jobs_root))
        if not folders:
            return []
        kept: set[str] = set()
        for name in self.records.names() - {*self.gone}:
            kept |= names_in(_texts_of(self.records.at(name)))
        return [folder for folder in folders if folder.path.name not in kept]

    def _job_goes(self, folder: JobFolder, found: EndCheck) -> bool:
        was_named = any(folder.path.name in self.named_jobs.get(run, ()) for run in self.gone)
        age, oldest = self.now - found.at, self.rule.older_than
        if not was_named and (oldest is None or age <= oldest):
            return False
        if found.over or (found.lost and self.rule.force):
            return True
        self.report.jobs_left += 1
        return False

    # -- listings

    def prune_listings(self) -> None:
        """Remove the listings that no run shares any more.

        A run that begins at the same time either has its own link or writes its own file, so
        removing this name does no harm.
        """
        for run in self.gone:
            for inode in self.listings_of.get(run, ()):
                if listing := self.listings.get(inode):
                    listing.users -= 1
        for listing in self.listings.values():
            if listing.users <= 0 and (self.report.dry_run or _is_alone(listing.path)):
                self.report.listings += 1
                self.report.listing_bytes += listing.bytes
                if not self.report.dry_run:
                    listing.path.unlink(missing_ok=True)


def _units(
    rows: Sequence[RunRow], groups: Sequence[RunGroup], sizes: Mapping[str, int]
) -> list[_Unit]:
    """The runs and groups, the latest first. A run whose group is unknown is a single run.

    Args:
        sizes: Run → its bytes.
    """
    of_group: dict[str, list[RunRow]] = {group.id: [] for group in groups}
    found: list[_Unit] = []
    for row in rows:
        if row.sweep in of_group:
            of_group[row.sweep].append(row)
        else:
            changed = row.ended or row.started
            found.append(_Unit((row,), None, row.started, changed, sizes[row.id]))
    for group in groups:
        mine = of_group[group.id]
        total = bytes_in(group.path) + sum(sizes[row.id] for row in mine)
        changed = max([group.changed, *(row.ended or row.started for row in mine)])
        found.append(_Unit(tuple(mine), group, group.started, changed, total))
    return sorted(found, key=lambda unit: -unit.started)


def _taken(
    units: Sequence[_Unit], rule: PruneRule, now: float
) -> Iterator[tuple[_Unit, str | None]]:
    """Each run or group, the latest first, with the rule that matches it, if any."""
    total = 0
    for number, unit in enumerate(units, 1):
        total += unit.bytes
        if rule.keep is not None and number > rule.keep:
            yield unit, f"not among the latest {rule.keep}"
        elif rule.older_than is not None and now - unit.changed > rule.older_than:
            yield unit, "too old"
        elif rule.max_bytes is not None and total > rule.max_bytes:
            yield unit, f"more than {rule.max_bytes} bytes together with later runs"
        else:
            yield unit, None


def bytes_in(directory: Path) -> int:
    """The size of the files in a directory; a file with several names counts by its share."""
    total = 0
    for root, _, files in os.walk(directory):
        for name in files:
            try:
                status = (Path(root) / name).lstat()
                total += status.st_size // max(status.st_nlink, 1)
            except FileNotFoundError:  # it was removed meanwhile
                continue
    return total


def _outputs(record: RunRecord) -> list[Path]:
    """The files of outputs that are stored by content, and unfinished files from a crash."""
    return [path for path in record.outputs.glob("[0-9a-f][0-9a-f]/*") if path.is_file()]


def _texts_of(record: RunRecord) -> Iterator[bytes]:
    """The files of a run's record, and its outputs, that may name other outputs."""
    for path in [*record.path.glob("*.json*"), *_outputs(record)]:
        try:
            yield path.read_bytes()
        except FileNotFoundError:  # of a run that is in progress: the file has another name by now
            continue
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error}") from error


def _remove_tree(path: Path) -> None:
    """Remove a directory.

    Raises:
        StoreError: It cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StoreError(
            f"cannot remove {path}: {error}", hint="check its permissions and prune again"
        ) from error


def _listings(directory: Path) -> dict[int, _Listing]:
    found: dict[int, _Listing] = {}
    for path in directory.glob("*.json"):
        status = path.stat()
        users = status.st_nlink - 1
        found[status.st_ino] = _Listing(path, status.st_size // status.st_nlink, users)
    return found


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _is_alone(path: Path) -> bool:
    try:
        return path.stat().st_nlink == 1
    except FileNotFoundError:
        return False
