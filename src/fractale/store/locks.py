"""Locks that one process at a time has, and that end with it, also after a crash or ``kill -9``.

The lock is the kernel's, on an open file (``flock``). The file's content only says who has it. The
file is never removed while it may be in use: a lock on a removed file would exclude no one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fractale.errors import CHECK_SPACE, FractaleError, RunHeld, StoreError
from fractale.private import NO_LOCKS, open_private

if TYPE_CHECKING:
    from fractale.store.run_record import RunRecord

LOCK_PAUSE = 0.01
LOOKED_AT = 0.25
"""Seconds to wait for a run's lock: who looks whether a process has the run has it for a moment."""
SIGNING_TRIES = 40
SIGNING_PAUSE = 0.025


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a lock.

    Args:
        pid: The process on that machine.
        since: Unix time in seconds.
    """

    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        then, now = time.localtime(self.since), time.localtime()
        form = "%H:%M" if then[:3] == now[:3] else "%Y-%m-%d %H:%M"
        return f"process {self.pid} on {self.host} since {time.strftime(form, then)}"


class FileLock:
    """A lock on a file of its own, held from `acquire` to `release` or in a ``with`` block.

    Args:
        path: Made if it is missing, readable by its owner only.
        what: The locked thing, for the message.
        hint: The hint if it is held.
        error: The type of the error if it is held.
        wait: Seconds to wait for it if it is held.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        *,
        hint: str,
        error: type[FractaleError] = StoreError,
        wait: float = 0.0,
    ) -> None:
        self._path = path
        self._what = what
        self._hint = hint
        self._error = error
        self._wait = wait
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            FractaleError: Another process has it, or other code of this process: the type
                is `error`.
            StoreError: The file cannot be made, or its file system has no locks.
        """
        try:
            descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._lock(descriptor, time.monotonic() + self._wait)
            self._sign(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int, until: float) -> None:
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() >= until:
                    who = _holder(descriptor) or "another process"
                    raise self._error(f"{self._what} is held by {who}", hint=self._hint) from error
            except OSError as error:
                raise self._unusable(error) from error
            time.sleep(LOCK_PAUSE)

    def _sign(self, descriptor: int) -> None:
        try:
            if os.fstat(descriptor).st_ino != self._path.stat().st_ino:
                raise FileNotFoundError(errno.ENOENT, "it was removed meanwhile")
            me = Holder(os.getpid(), socket.gethostname(), time.time())
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StoreError:
        hint = CHECK_SPACE
        if error.errno in NO_LOCKS:
            hint = "its file system has no locks: set FRACTALE_STATE_DIR to a directory on another"
        return StoreError(f"cannot lock {self._path}: {error}", hint=hint)

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class RunLock(FileLock):
    """The lock on a run: only the process that has it may resume, change or remove the run.

    Raises:
        RunHeld: On `acquire`, if another has it.
    """

    def __init__(self, record: RunRecord) -> None:
        super().__init__(
            record.lock,
            f"run {record.run_id}",
            hint="nothing was done; wait until that process ends, or end it",
            error=RunHeld,
            wait=LOOKED_AT,
        )


def holder_of(record: RunRecord) -> Holder | None:
    """The process that has a run now; None if no process has."""
    return holder_of_lock(record.lock)


def holder_of_lock(path: Path) -> Holder | None:
    """The process that has the lock on a file now; None if no process has."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _holder(descriptor) or Holder(0, "an unknown machine", time.time())
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _holder(descriptor: int) -> Holder | None:
    """Who has a lock that was just found held.

    A lock is taken first and signed after: for a moment the file is empty, or names a process that
    has ended.
    """
    for _ in range(SIGNING_TRIES):
        holder = _signed(descriptor)
        if holder is not None and not _ended(holder):
            return holder
        time.sleep(SIGNING_PAUSE)
    return None


def _ended(holder: Holder) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _signed(descriptor: int) -> Holder | None:
    """The holder that signed the lock; None if it has not signed yet."""
    try:
        words = json.loads(os.pread(descriptor, 1000, 0))
        return Holder(int(words["pid"]), str(words["host"]), float(words["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
