"""Removing runs, and what is kept beside them: folders of jobs, and listings of tools.

- The jobs of a run's own steps are in its folder and go with it. A run stays as long as one of
  them is not known to be over.
- Jobs that a tool submitted are in the state folder's ``jobs/``. Such a job's folder goes with the
  last run whose record speaks of it, and one that no run speaks of goes by its age.
- Listings of what servers offered are shared by runs, and go with the last of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
from fractale.record.offered import OFFERED_FILE, SHARED
from fractale.schedulers.folder import JobFolder
from fractale.settings import Settings
from fractale.store.prune import PruneReport, PruneRule, bytes_in, prune, remove_tree, texts_of
from fractale.store.records import RunFolder, RunFolders


async def prune_all(
    settings: Settings, rule: PruneRule, *, dry_run: bool = False, now: float | None = None
) -> PruneReport:
    """Remove runs, outputs that nothing refers to, jobs that are over, and unused listings.

    Args:
        dry_run: Only report what would be removed.
        now: The Unix time to reckon ages by.

    Raises:
        StoreError: The state folder or the checkpoints can't be used.
        UsageError: The rule says nothing.
    """
    now = time.time() if now is None else now
    beside = _Beside(settings, rule, dry_run=dry_run, now=now)
    listings = beside.listings()
    report = PruneReport(dry_run)
    if (settings.state_dir / "runs").is_dir():
        report = await prune(
            settings.state_dir,
            settings.checkpoints,
            rule,
            dry_run=dry_run,
            now=now,
            spares=beside.why_it_stays,
        )
    await beside.remove_jobs(report)
    beside.remove_listings(report, listings)
    return report


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
class _Beside:
    settings: Settings
    rule: PruneRule
    dry_run: bool
    now: float
    jobs: Jobs = field(init=False)
    told: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Run → the jobs of the state folder that its record speaks of."""
    listed: dict[str, int] = field(default_factory=dict[str, int])
    """Run → the number by which the file system knows its listing."""

    def __post_init__(self) -> None:
        self.jobs = Jobs.of(self.settings)

    # -- runs

    async def why_it_stays(self, folder: RunFolder) -> str | None:
        """Why a run that a rule takes stays; what it has is looked up before it goes."""
        mine = list(folders_in(folder.path / JOBS))
        for found in await check_ends(self.jobs, mine):
            if not (found.over or (found.lost and self.rule.force)):
                return f"its job {found.words}"
        if self._root.is_dir():
            self.told[folder.run_id] = names_in(texts_of(folder))
        self.listed[folder.run_id] = _inode(folder.path / OFFERED_FILE)
        return None

    # -- jobs

    @property
    def _root(self) -> Path:
        return self.settings.state_dir / JOBS

    async def remove_jobs(self, report: PruneReport) -> None:
        """Remove the jobs of the state folder whose runs are gone, or that are too old."""
        for path in leftovers_in(self._root):
            report.job_bytes += bytes_in(path)
            if not self.dry_run:
                remove_tree(path)
        folders = self._candidates(report)
        for folder, found in zip(folders, await check_ends(self.jobs, folders), strict=True):
            if self._goes(folder, found, report):
                size = bytes_in(folder.path)
                if self.dry_run or remove(folder):
                    report.jobs += 1
                    report.job_bytes += size

    def _candidates(self, report: PruneReport) -> list[JobFolder]:
        """The folders of which no run that stays speaks."""
        folders = list(folders_in(self._root))
        if not folders:
            return []
        gone = {run.id for run in report.removed}
        runs = RunFolders(self.settings.state_dir)
        kept: set[str] = set()
        for name in runs.names() - gone:
            kept |= names_in(texts_of(runs.at(name)))
        return [folder for folder in folders if folder.path.name not in kept]

    def _goes(self, folder: JobFolder, found: EndCheck, report: PruneReport) -> bool:
        was_a_runs = any(folder.path.name in self.told.get(run.id, ()) for run in report.removed)
        age, oldest = self.now - found.at, self.rule.older_than
        if not was_a_runs and (oldest is None or age <= oldest):
            return False
        if found.over or (found.lost and self.rule.force):
            return True
        report.jobs_left += 1
        return False

    # -- listings

    def listings(self) -> Mapping[int, _Listing]:
        """The listings that runs share, by their numbers in the file system."""
        found: dict[int, _Listing] = {}
        for path in (self.settings.state_dir / SHARED).glob("*.json"):
            status = path.stat()
            users = status.st_nlink - 1
            found[status.st_ino] = _Listing(path, status.st_size // status.st_nlink, users)
        return found

    def remove_listings(self, report: PruneReport, listings: Mapping[int, _Listing]) -> None:
        """Remove the listings that no run shares any more.

        A run that begins just then links to one or not: it loses nothing where the name goes.
        """
        for run in report.removed:
            if listing := listings.get(self.listed.get(run.id, 0)):
                listing.users -= 1
        for listing in listings.values():
            if listing.users <= 0 and (self.dry_run or _is_alone(listing.path)):
                report.listings += 1
                report.listing_bytes += listing.bytes
                if not self.dry_run:
                    listing.path.unlink(missing_ok=True)


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
