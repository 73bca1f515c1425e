"""Check that runs can be kept: state directory, its file system and free space, and store."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from fractale.errors import FractaleError
from fractale.findings import Finding
from fractale.settings import Notify, Settings, without_password
from fractale.site.examination import Examination
from fractale.site.model import Check
from fractale.site.probes.folders import REFUSED, look_at, nearest, size
from fractale.store.locks import FileLock

SECTION = "runs"
LOW, TOO_LOW = 1 << 30, 64 << 20
FEW_FILES = 1000
ELSEWHERE = "set FRACTALE_STATE_DIR to a directory on a disk of this machine"


async def check_runs(exam: Examination) -> list[Check]:
    """Check the directory of the runs, and the server of their checkpoints if one is set."""
    folder = exam.settings.state_dir.absolute()
    try:
        found = await exam.place.wait_for(lambda: look_at(folder, "runs"))
        fault = await exam.place.wait_for(lambda: _lock_fault(folder))
    except TimeoutError:
        why = f"{folder} did not answer within {exam.timeout:g} s"
        return [_folder("missing", why, ELSEWHERE)]
    checks = [_usable(folder, found, fault), room(found)]
    if (privacy := _privacy(folder)) is not None:
        checks.append(privacy)
    if exam.settings.store is not None:
        checks.append(await _store(exam.settings, exam.timeout))
    return [*checks, *map(_notification, exam.settings.notify)]


def _notification(wanted: Notify) -> Check:
    """Describe a notification of the settings; nothing is sent."""
    kind = "posts to" if wanted.webhook else "runs"
    found, fix = f"{', '.join(wanted.on)}: {kind} {wanted.address}", ""
    if wanted.unset:
        fix = f"set the environment variable {', '.join(wanted.unset)}"
    elif wanted.command and shutil.which(wanted.command[0]) is None:
        fix = f"install `{wanted.command[0]}`, or name its path in {wanted.origin}"
    verdict = "warning" if fix else "ok"
    return Check(section=SECTION, what="notify", verdict=verdict, found=found, fix=fix)


def _folder(verdict: str, found: str, fix: str = "") -> Check:
    what = "state directory"
    if verdict == "ok":
        return Check(section=SECTION, what=what, found=found)
    bad = "missing" if verdict == "missing" else "warning"
    return Check(section=SECTION, what=what, verdict=bad, found=found, fix=fix)


def _usable(folder: Path, found: Finding, fault: str) -> Check:
    where = f"{folder} ({found.details.get('file_system', 'unknown')})"
    if found.state != "works":
        return _folder("missing", f"{where}: {found.problem}", ELSEWHERE)
    if fault:
        return _folder("missing", f"{where}: {fault}", ELSEWHERE)
    if found.details["runs"] == REFUSED:
        fix = f"{ELSEWHERE}, or FRACTALE_STORE to a PostgreSQL server"
        return _folder("missing", f"{where}: runs are {REFUSED}", fix)
    return _folder("ok", f"{where}: writable, locks work, runs are {found.details['runs']}")


def _lock_fault(folder: Path) -> str:
    """Write, lock and remove a file in the directory of the runs; return the error, if any."""
    there = nearest(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".fractale-doctor-", dir=there) as made:
            lock = FileLock(Path(made, "lock"), "a lock to try", hint="")
            lock.acquire()
            lock.release()
    except FractaleError as error:
        return error.message
    except OSError as error:
        return f"can't be written to: {error.strerror or error}"
    return ""


def room(found: Finding) -> Check:
    """Check whether the directory of a finding has enough free space for runs."""
    free, files = found.details.get("free_bytes"), found.details.get("free_files")
    if free is None:
        return Check(section=SECTION, what="space", verdict="warning", found="unknown")
    told = f"{size(free)} free" + (f", space for {files:,} files" if files is not None else "")
    few = files is not None and files < FEW_FILES
    if free >= LOW and not few:
        return Check(section=SECTION, what="space", found=told)
    return Check(
        section=SECTION,
        what="space",
        verdict="missing" if free < TOO_LOW or files == 0 else "warning",
        found=told,
        fix=f"`fractale runs prune`, free some space, or {ELSEWHERE}",
    )


def _privacy(folder: Path) -> Check | None:
    try:
        mode = folder.stat().st_mode & 0o777
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return Check(
        section=SECTION,
        what="privacy",
        verdict="warning",
        found=f"others can list {folder} (mode {mode:o}), but not read its files",
        fix=f"chmod 700 {folder}",
    )


async def _store(settings: Settings, wait: float) -> Check:
    """Check whether the PostgreSQL server of the settings accepts a connection. Writes nothing."""
    where = f"{without_password(settings.store)}"
    try:
        await _connect(settings.store or "", wait)
    except FractaleError as error:
        return Check(
            section=SECTION,
            what="store",
            verdict="missing",
            found=error.message,
            fix=error.hint or "",
        )
    return Check(section=SECTION, what="store", found=f"{where} answered")


async def _connect(url: str, wait: float) -> None:
    """Connect to a PostgreSQL server and disconnect.

    Raises:
        FractaleError: The server can't be reached, or its Python packages are missing.
    """
    from fractale.store.postgres import connected

    async with connected(url, wait, f"fractale doctor {os.getpid()}"):
        pass
