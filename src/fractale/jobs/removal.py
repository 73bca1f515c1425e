"""Removing the folders of jobs that are over, and of no others.

A folder is renamed first, so that none is ever there in part: of a job whose handle were gone and
whose folder were not, nobody could tell whether it was submitted.
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
"""Seconds after which whoever saw a job end has nothing more to write into its folder."""

MOST_AT_ONCE: Final = 16
_NAME: Final = re.compile(rb"\bfr[0-9a-f]{%d}\b" % DIGITS)
_KEY: Final = re.compile(rb'"key": ?("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a job is over.

    Args:
        over: It is known to be.
        lost: Nothing shows how it ended, and nobody knows of it any more.
        at: When it ended, or when its folder was last changed, in Unix time.
        words: How it is, in words.
    """

    over: bool
    at: float
    words: str
    lost: bool = False


def folders_in(root: Path) -> Iterator[JobFolder]:
    """The jobs that have their folders in one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(root.iterdir()):
            if _NAME.fullmatch(os.fsencode(path.name)) and path.is_dir():
                yield JobFolder(path.absolute())


def leftovers_in(root: Path) -> Iterator[Path]:
    """What is left of folders whose removal was cut off."""
    yield from root.glob(f"{REMOVED}*")


def names_in(texts: Iterable[bytes]) -> set[str]:
    """The names of the folders of jobs that texts speak of, by themselves or by the jobs' keys."""
    found: set[str] = set()
    for text in texts:
        found.update(name.decode() for name in _NAME.findall(text))
        for key in _KEY.findall(text):
            with contextlib.suppress(ValueError):
                found.add(name_of(json.loads(key)))
    return found


async def standings(jobs: Jobs, folders: Iterable[JobFolder]) -> list[Standing]:
    """Whether each of some jobs is over, some of them asked for at the same time."""
    slots = asyncio.Semaphore(MOST_AT_ONCE)

    async def one(folder: JobFolder) -> Standing:
        async with slots:
            return await standing(jobs, folder)

    return await asyncio.gather(*map(one, folders))


async def standing(jobs: Jobs, folder: JobFolder) -> Standing:
    """Whether a job is over. What cannot be told is not."""
    try:
        handle, intent = folder.handle(), folder.intent()
        changed = folder.path.stat().st_mtime
    except (StoreError, OSError) as error:
        return Standing(
            over=False, at=time.time(), words=f"has a folder that cannot be read: {error}"
        )
    ended = folder.ended()
    if ended is not None and time.time() - ended.at > SETTLED:
        return Standing(over=True, at=ended.at, words=f"ended with exit code {ended.code}")
    if intent is None and handle is None:
        return Standing(over=True, at=changed, words="was never submitted")
    if handle is None:
        return Standing(over=False, at=changed, words="may or may not have been submitted")
    return await _asked(jobs, handle, changed)


async def _asked(jobs: Jobs, handle: JobHandle, changed: float) -> Standing:
    try:
        status = await jobs.status(handle)
    except JobError as error:
        return Standing(over=False, at=changed, words=f"cannot be looked up: {error.message}")
    lost = status.state == "unknown"
    return Standing(
        over=status.over and not lost, at=status.ended or changed, words=status.reason, lost=lost
    )


def remove(folder: JobFolder) -> bool:
    """Remove the folder of a job that is over, unless somebody is submitting it again.

    Raises:
        StoreError: It cannot be removed.
    """
    gone = folder.path.with_name(f"{REMOVED}{folder.path.name}.{os.getpid()}.{time.time_ns()}")
    try:
        with _held(folder) as mine:
            if not mine:
                return False
            folder.path.rename(gone)
        # What still writes into it, such as an epilogue, may add a file meanwhile: the next
        # removal takes what is left.
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
    """Whether nobody else has the lock of a job's folder; it is held meanwhile."""
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
