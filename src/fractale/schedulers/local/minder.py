"""Minds one local job, as a scheduler does: a program of its own that needs nothing of fractale.

It is started with the job's folder, the descriptor of its locked file in the queue, the limit in
seconds and the limit in bytes of memory (0 for none), the folder of the queue and the job's number,
and is in a session of its own, so that it outlives whoever started it. It claims the folder
(`minder`), starts the wrapper in another session, ends it when it takes longer or more memory than
it may, or when it is itself asked to end, and leaves `minded.STATE.CODE` behind. Then it becomes
the program that starts the next jobs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

GRACE = 5.0
LOOK = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")


def ticks(pid: int | str) -> str:
    """When a process began, in the kernel's own clock; empty for one that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def boot() -> str:
    """The id of this run of the machine; empty where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def resident(session: int) -> int:
    """Bytes of memory that the processes of a session have."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if fields[3] == str(session):
            total += int(fields[21]) * _PAGE
    return total


def for_owner(path: str, flags: int) -> int:
    """Open a file, made for its owner only: an opener for `open`."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # whatever the umask took of it
    return descriptor


def claim(folder: Path) -> bool:
    """Whether this is the one that minds the job: whoever makes the link first."""
    note = folder / f".minder.{os.getpid()}"
    me = os.getpid()
    with open(note, "w", opener=for_owner) as file:
        file.write(f"id={me}\nhost={socket.gethostname()}\nboot={boot()}\nticks={ticks(me)}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(note, folder / "minder")
    except FileExistsError:
        return False
    finally:
        note.unlink()
    return True


class Minder:
    """One job's end, from whichever side it comes."""

    def __init__(self, folder: Path, number: str, seconds: float, memory: int) -> None:
        self._folder = folder
        self._number = number
        self._deadline = time.monotonic() + seconds if seconds else None
        self._memory = memory
        self._state = ""
        signal.signal(signal.SIGTERM, self._asked)

    def mind(self) -> None:
        """Run the wrapper to its end."""
        ending = self._folder / ".minded"
        open(ending, "ab", opener=for_owner).close()
        with open(self._folder / "scheduler.log", "ab", opener=for_owner) as log:
            own = self._folder / "wrapper.sh"
            # An element of an array is run by the wrapper of the array.
            path = own if own.exists() else self._folder.parents[1] / own.name
            wrapper = subprocess.Popen(  # noqa: S603 - written by fractale
                ["/bin/sh", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "FRACTALE_JOB_ID": self._number},
                start_new_session=True,
            )
        while wrapper.poll() is None and not self._over(wrapper.pid):
            try:
                wrapper.wait(LOOK)
            except subprocess.TimeoutExpired:
                continue
        self._end(wrapper)
        state = self._state or ("completed" if wrapper.returncode == 0 else "failed")
        with contextlib.suppress(FileNotFoundError):  # the folder was removed: the job was over
            ending.rename(self._folder / f"minded.{state}.{wrapper.returncode}")

    def _asked(self, _signal: int, _frame: FrameType | None) -> None:
        self._state = self._state or "cancelled"

    def _over(self, session: int) -> bool:
        if not self._state and self._deadline and time.monotonic() > self._deadline:
            self._state = "timeout"
        if not self._state and self._memory and resident(session) > self._memory:
            self._state = "out_of_memory"
        return bool(self._state)

    def _end(self, wrapper: subprocess.Popen[bytes]) -> None:
        """End what is left of the job: first asking, so that the wrapper can leave its word."""
        if wrapper.poll() is None:
            _kill(wrapper.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                wrapper.wait(GRACE)
        _kill(wrapper.pid, signal.SIGKILL)
        wrapper.wait()


def _kill(session: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, sign)


def main() -> None:
    """Mind the job that the arguments name."""
    folder, lock, seconds, memory, queue, number = sys.argv[1:7]
    minder = Minder(Path(folder), number, float(seconds), int(memory))
    if claim(Path(folder)):
        minder.mind()
    os.close(int(lock))
    if len(list(Path(queue).glob("[0-9]*"))) > 1:
        program = str(Path(__file__).with_name("queue.py"))
        os.execv(  # noqa: S606 - no shell is wanted
            sys.executable, [sys.executable, "-IS", program, queue, __file__]
        )


if __name__ == "__main__":
    main()
