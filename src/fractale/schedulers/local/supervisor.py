"""Supervises one local job: a program that imports nothing of fractale.

Its arguments: the job's directory, the descriptor of the job's locked file in the queue, the limit
in seconds and in bytes of memory (0 for none), the queue's directory, and the job's number. It has
its own session, so that it outlives the process that started it. It

1. claims the job's directory with the file `minder`,
2. starts the wrapper in another session,
3. ends the wrapper at a limit, or when it receives SIGTERM,
4. leaves `minded.STATE.CODE`, and
5. becomes the program that starts the next jobs.
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
    """When a process began, in ticks of the kernel's clock; empty if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def boot() -> str:
    """The kernel's boot id; empty if the machine has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def resident(session: int) -> int:
    """Resident bytes of memory of a session's processes."""
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
    """Open a file with mode 0600: an opener for `open`."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # the umask may have removed bits
    return descriptor


def claim(folder: Path) -> bool:
    """Claim a job's directory; False if another supervisor has claimed it."""
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


class Supervisor:
    """Runs a job's wrapper until it exits, reaches a limit, or the supervisor gets SIGTERM."""

    def __init__(self, folder: Path, number: str, seconds: float, memory: int) -> None:
        self._folder = folder
        self._number = number
        self._deadline = time.monotonic() + seconds if seconds else None
        self._memory = memory
        self._state = ""
        signal.signal(signal.SIGTERM, self._asked)

    def supervise(self) -> None:
        """Run the wrapper to its end."""
        ending = self._folder / ".minded"
        open(ending, "ab", opener=for_owner).close()
        with open(self._folder / "scheduler.log", "ab", opener=for_owner) as log:
            own = self._folder / "wrapper.sh"
            # The elements of an array share the array's wrapper.
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
        with contextlib.suppress(FileNotFoundError):  # the directory of an ended job was removed
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
        """End the remaining processes: SIGTERM, so that the wrapper can record it; then SIGKILL."""
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
    """Supervise the job that the arguments name."""
    folder, lock, seconds, memory, queue, number = sys.argv[1:7]
    supervisor = Supervisor(Path(folder), number, float(seconds), int(memory))
    if claim(Path(folder)):
        supervisor.supervise()
    os.close(int(lock))
    if len(list(Path(queue).glob("[0-9]*"))) > 1:
        program = str(Path(__file__).with_name("queue.py"))
        os.execv(  # noqa: S606 - no shell is wanted
            sys.executable, [sys.executable, "-IS", program, queue, __file__]
        )


if __name__ == "__main__":
    main()
