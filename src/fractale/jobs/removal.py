"""Removes the directories of jobs that are over, and no others.

A directory is first renamed, so that it disappears at once. Otherwise an interrupted removal could
leave a directory without a handle, and fractale could not know whether the job was submitted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fractale.errors import JobError, StoreError
from fractale.schedulers.folder import DIGITS, JobFolder, name_of
from fractale.schedulers.job import JobHandle

if TYPE_CHECKING:
    from fractale.jobs.service import Jobs

REMOVED: Final = ".removed."
SETTLED: Final = 300.0
"""Seconds after a job's end until no process writes into its directory any more."""

MOST_AT_ONCE: Final = 16
_NAME: Final = re.compile(rb"\bfr[0-9a-f]{%d}\b" % DIGITS)
_KEY: Final = re.compile(rb'"key": ?("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class EndCheck:
    """The result of checking whether a job is over.

    Args:
        over: Whether the job is known to be over.
        at: When the job ended, or when its directory last changed, in Unix time.
        words: The job's state, for users.
        lost: Whether nothing shows how the job ended, and its scheduler no longer knows it.
    """

    over: bool
    at: float
    words: str
    lost: bool = False


def folders_in(root: Path) -> Iterator[JobFolder]:
    """Yield the jobs' directories in a directory."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(root.iterdir()):
            if _NAME.fullmatch(os.fsencode(path.name)) and path.is_dir():
                yield JobFolder(path.absolute())


def leftovers_in(root: Path) -> Iterator[Path]:
    """Yield the remains of directories whose removal was interrupted."""
    yield from root.glob(f"{REMOVED}*")


def names_in(texts: Iterable[bytes]) -> set[str]:
    """Find the names of jobs' directories in texts that mention them or the jobs' keys."""
    found: set[str] = set()
    for text in texts:
        found.update(name.decode() for name in _NAME.findall(text))
        for key in _KEY.findall(text):
            with contextlib.suppress(ValueError):
                found.add(name_of(json.loads(key)))
    return found


async def check_ends(jobs: Jobs, folders: Iterable[JobFolder]) -> list[EndCheck]:
    """Check whether each of some jobs is over, `MOST_AT_ONCE` at a time."""
    limit = asyncio.Semaphore(MOST_AT_ONCE)

    async def one(folder: JobFolder) -> EndCheck:
        async with limit:
            return await check_end(jobs, folder)

    return await asyncio.gather(*map(one, folders))


async def check_end(jobs: Jobs, folder: JobFolder) -> EndCheck:
    """Check whether a job is over; `over` is False if that is unknown."""
    try:
        handle, intent = folder.handle(), folder.intent()
        changed = folder.path.stat().st_mtime
    except (StoreError, OSError) as error:
        return EndCheck(
            over=False, at=time.time(), words=f"has a directory that cannot be read: {error}"
        )
    ended = folder.ended()
    if ended is not None and time.time() - ended.at > SETTLED:
        return EndCheck(over=True, at=ended.at, words=f"ended with exit code {ended.code}")
    if intent is None and handle is None:
        return EndCheck(over=True, at=changed, words="was never submitted")
    if handle is None:
        return EndCheck(over=False, at=changed, words="may or may not have been submitted")
    return await _asked(jobs, handle, changed)


async def _asked(jobs: Jobs, handle: JobHandle, changed: float) -> EndCheck:
    try:
        status = await jobs.status(handle)
    except JobError as error:
        return EndCheck(over=False, at=changed, words=f"cannot be looked up: {error.message}")
    lost = status.state == "unknown"
    return EndCheck(
        over=status.over and not lost, at=status.ended or changed, words=status.reason, lost=lost
    )


def remove(folder: JobFolder) -> bool:
    """Remove the directory of a job that is over; False if it is gone or being submitted again.

    Raises:
        StoreError: The directory cannot be removed.
    """
    gone = folder.path.with_name(f"{REMOVED}{folder.path.name}.{os.getpid()}.{time.time_ns()}")
    try:
        with _held(folder) as mine:
            if not mine:
                return False
            folder.path.rename(gone)
        # An epilogue may add a file during the removal. The next removal deletes it.
        shutil.rmtree(gone, ignore_errors=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"cannot remove {folder.path}: {error}", hint="check its permissions and try again"
        ) from error
    return True


@contextlib.contextmanager
def _held(folder: JobFolder) -> Generator[bool]:
    """Try to take the lock of a job's directory; yields whether this process holds it."""
    try:
        descriptor = os.open(folder.path / "lock", os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
