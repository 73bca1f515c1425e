"""Removes the directories of jobs that are over, and of no others.

A directory is renamed first, so that it disappears at once. With a directory that lacks only its
handle, it would be unknown whether the job was submitted.
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
"""Seconds after a job's end; after them no process writes into its directory any more."""

MOST_AT_ONCE: Final = 16
_NAME: Final = re.compile(rb"\bfr[0-9a-f]{%d}\b" % DIGITS)
_KEY: Final = re.compile(rb'"key": ?("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class EndCheck:
    """Whether a job is over.

    Args:
        over: Whether it is known to be over.
        at: When it ended, or when its directory was last changed, in Unix time.
        words: Its state, in words.
        lost: Whether nothing shows how it ended, and its scheduler does not know it any more.
    """

    over: bool
    at: float
    words: str
    lost: bool = False


def folders_in(root: Path) -> Iterator[JobFolder]:
    """The jobs' directories in a directory."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(root.iterdir()):
            if _NAME.fullmatch(os.fsencode(path.name)) and path.is_dir():
                yield JobFolder(path.absolute())


def leftovers_in(root: Path) -> Iterator[Path]:
    """What is left of directories whose removal was interrupted."""
    yield from root.glob(f"{REMOVED}*")


def names_in(texts: Iterable[bytes]) -> set[str]:
    """The names of jobs' directories that texts mention, directly or by the jobs' keys."""
    found: set[str] = set()
    for text in texts:
        found.update(name.decode() for name in _NAME.findall(text))
        for key in _KEY.findall(text):
            with contextlib.suppress(ValueError):
                found.add(name_of(json.loads(key)))
    return found


async def check_ends(jobs: Jobs, folders: Iterable[JobFolder]) -> list[EndCheck]:
    """Whether each of some jobs is over, `MOST_AT_ONCE` checked at a time."""
    limit = asyncio.Semaphore(MOST_AT_ONCE)

    async def one(folder: JobFolder) -> EndCheck:
        async with limit:
            return await check_end(jobs, folder)

    return await asyncio.gather(*map(one, folders))


async def check_end(jobs: Jobs, folder: JobFolder) -> EndCheck:
    """Whether a job is over; False if it is not known."""
    try:
        handle, intent = folder.handle(), folder.intent()
        changed = folder.path.stat().st_mtime
    except (StoreError, OSError) as error:
        return EndCheck(
            over=False, at=time.time(), words=f"has a folder that cannot be read: {error}"
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
    """Remove the directory of a job that is over; False if it is gone, or being submitted again.

    Raises:
        StoreError: It cannot be removed.
    """
    gone = folder.path.with_name(f"{REMOVED}{folder.path.name}.{os.getpid()}.{time.time_ns()}")
    try:
        with _held(folder) as mine:
            if not mine:
                return False
            folder.path.rename(gone)
        # An epilogue may add a file meanwhile: the next removal takes what is left.
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
    """Hold the lock of a job's directory, if no other process does; yields whether it is held."""
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
