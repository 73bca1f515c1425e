"""The queue of local jobs: which run, and which wait for free cores. Also a standalone program.

.. code-block:: text

    local/HOST/       in the state directory: the queue of one machine
      gate            locked by each process that reads the queue, adds to it, or starts jobs
      last            the number of the last job
      00000017        a job: its directory, its cores, and the limit of cores in use. Locked by its
                      supervisor
      00000018        an array: also its indices, how many may run at a time, and how many of them
                      had their turn. Never locked
      00000018.7      an element of the array whose turn has come; like a job

A job's number is its position. The facts for starting it are in its own directory
(`queued.json`), so that a later check of the job can restore a lost queue. Locks end with their
processes: a job waits while its file is not locked and its directory is not claimed. The program
starts the jobs that can start, in order. Each process that submits or checks a job runs it, and
so does each supervisor at its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

QUEUED = "queued.json"
WITHDRAWN = "minded.cancelled.-15"
"""The ending that a supervisor records for a cancelled job; also made for a job without one."""

TRIED = "submit.err"
CANCELLED = "cancelled"
ELEMENTS = "elements"


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A job or an array in the queue. An array's elements become entries at their turn.

    Args:
        cores: Cores of the job, or of each element; never more than the limit.
        limit: How many cores all jobs may use, including this one.
        indices: An array's indices, as ``[first, last, step]`` each.
        most: How many elements may run at a time; 0 for any number.
        turn: How many elements had their turn.
    """

    path: Path
    folder: Path
    cores: int
    limit: int
    indices: tuple[tuple[int, int, int], ...] = ()
    most: int = 0
    turn: int = 0

    @property
    def number(self) -> int:
        """The position in the queue; an element has its array's."""
        return int(self.path.name.partition(".")[0])

    def next_index(self) -> int | None:
        """The index of the next element; None if all elements had their turn."""
        left = self.turn
        for first, last, step in self.indices:
            span = range(first, last + 1, step)
            if left < len(span):
                return span[left]
            left -= len(span)
        return None


@dataclass(slots=True)
class LocalQueue:
    """The queue at one moment.

    Args:
        used: Cores in use.
        running: The numbers of the running jobs.
        elements: Number of an array → how many of its elements run.
        waiting: The waiting entries, in order.
    """

    used: int = 0
    running: set[int] = field(default_factory=set[int])
    elements: dict[int, int] = field(default_factory=dict[int, int])
    waiting: list[QueueEntry] = field(default_factory=list[QueueEntry])

    @property
    def can_start(self) -> bool:
        """Whether the first waiting entry can start: no entry starts before it."""
        ready = next((entry for entry in self.waiting if not self.is_full(entry)), None)
        return ready is not None and self.fits(ready)

    def fits(self, entry: QueueEntry) -> bool:
        """Whether enough cores are free for a job."""
        return not self.used or self.used + entry.cores <= entry.limit

    def is_full(self, entry: QueueEntry) -> bool:
        """Whether an array runs its maximum of elements; then the entries after it may start."""
        return bool(entry.most) and self.elements.get(entry.number, 0) >= entry.most

    def runs(self, entry: QueueEntry) -> None:
        """Count a job or an element as running."""
        self.used += entry.cores
        if "." in entry.path.name:
            self.elements[entry.number] = self.elements.get(entry.number, 0) + 1
        else:
            self.running.add(entry.number)


@contextlib.contextmanager
def gate(queue: Path) -> Generator[None]:
    """Lock the queue for this process alone."""
    for folder in (*reversed(queue.parents[:2]), queue):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
    descriptor = _for_owner(f"{queue / 'gate'}", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def new_number(queue: Path) -> int:
    """A number that no job of the queue had. Call it only inside the gate."""
    known = [entry.number for entry in _entries(queue)]
    with contextlib.suppress(FileNotFoundError, ValueError):
        known.append(int((queue / "last").read_text()))
    number = max(known, default=0) + 1
    _write(queue / "last", str(number))
    return number


def add(queue: Path, number: int, folder: Path, facts: Mapping[str, Any]) -> None:
    """Put a job into its position, if it is not there. Call it only inside the gate."""
    path = queue / f"{number:08d}"
    if not path.exists():
        written = {"folder": str(folder), "cores": facts["cores"], "limit": facts["limit"]}
        if facts.get("indices"):
            written |= {"indices": facts["indices"], "most": facts["most"], "turn": 0}
        _write(path, json.dumps(written))


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}")
    with open(part, "w", opener=_for_owner) as file:
        file.write(text)
    part.replace(path)


def _for_owner(path: str, flags: int) -> int:
    """Open a file with mode 0600. This program is standalone, so it cannot import the function."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # the umask may have removed bits
    return descriptor


def _entries(queue: Path) -> Iterator[QueueEntry]:
    for path in sorted(queue.glob("[0-9]*")):
        try:
            written = json.loads(path.read_text())
            limit = max(int(written["limit"]), 1)
            cores = min(max(int(written["cores"]), 1), limit)
            more = (), 0, 0
            if written.get("indices"):
                spans = tuple((int(a), int(b), int(c)) for a, b, c in written["indices"])
                more = spans, int(written["most"]), int(written["turn"])
            yield QueueEntry(path, Path(written["folder"]), cores, limit, *more)
        except FileNotFoundError:
            continue
        except (ValueError, LookupError, TypeError):  # a power failure emptied the file
            path.unlink(missing_ok=True)


def survey(queue: Path) -> LocalQueue:
    """Find running and waiting jobs, and remove ended ones. Call it only inside the gate."""
    found = LocalQueue()
    for entry in _entries(queue):
        if entry.indices:
            standing = _standing_of_array(entry)
        else:
            with _taken(entry) as descriptor:
                standing = "runs" if descriptor is None else _standing(entry.folder)
        if standing == "over":
            entry.path.unlink(missing_ok=True)
        elif standing == "waits":
            found.waiting.append(entry)
        else:
            found.runs(entry)
    return found


def _standing_of_array(entry: QueueEntry) -> str:
    """Whether elements of an array wait for their turn. The other elements are entries."""
    try:
        names = {path.name for path in entry.folder.iterdir()}
    except FileNotFoundError:
        return "over"
    if QUEUED not in names or CANCELLED in names or entry.next_index() is None:
        return "over"
    return "waits"


@contextlib.contextmanager
def _taken(entry: QueueEntry) -> Generator[int | None]:
    """The descriptor of a job's locked file; None if the supervisor has the lock."""
    descriptor = os.open(entry.path, os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _standing(folder: Path) -> str:
    """The state of a job whose file is not locked."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return "over"
    if QUEUED not in names or any(name.startswith("minded.") for name in names):
        return "over"
    if "minder" in names:
        return "runs" if _goes_on(folder) else "over"
    if CANCELLED in names or (folder.parent.parent / CANCELLED).exists():
        open(folder / WITHDRAWN, "ab", opener=_for_owner).close()
        return "over"
    return "waits"


def _goes_on(folder: Path) -> bool:
    """Whether the job still runs after its supervisor was killed."""
    try:
        lines = (folder / "started").read_text().splitlines()
        facts = dict(line.split("=", 1) for line in lines if "=" in line)
        stat = Path(f"/proc/{int(facts['pid'])}/stat").read_text().rpartition(")")[2].split()
        return stat[0] != "Z" and stat[19] == facts["ticks"]
    except (OSError, LookupError, ValueError):
        return False


def start_next(queue: Path, supervisor: str) -> None:
    """Start the jobs that can start now."""
    with gate(queue):
        found = survey(queue)
        for entry in found.waiting:
            if entry.indices:
                if not _start_elements(queue, found, entry, supervisor):
                    return
            elif not found.fits(entry):
                return
            else:
                _try_start(queue, found, entry, supervisor)


def _try_start(queue: Path, found: LocalQueue, entry: QueueEntry, supervisor: str) -> None:
    """Start a job. A job that cannot start does not block the others."""
    with contextlib.suppress(OSError, ValueError, LookupError), _taken(entry) as descriptor:
        if descriptor is not None:
            _start(queue, entry, supervisor, descriptor)
            found.runs(entry)


def _start_elements(queue: Path, found: LocalQueue, array: QueueEntry, supervisor: str) -> bool:
    """Start the elements of an array whose turn it is.

    Returns:
        Whether the entries after the array may start: all elements had their turn, or the maximum
        runs.
    """
    facts = json.loads((array.folder / QUEUED).read_text())
    while (index := array.next_index()) is not None and not found.is_full(array):
        if not found.fits(array):
            return False
        if element := _take_turn(array, index, facts):
            _try_start(queue, found, element, supervisor)
        array = replace(array, turn=array.turn + 1)
        written = json.loads(array.path.read_text())
        _write(array.path, json.dumps({**written, "turn": array.turn}))
    return True


def _take_turn(array: QueueEntry, index: int, facts: Mapping[str, Any]) -> QueueEntry | None:
    """Make an entry for an element; None if it had its turn, but the array does not record it."""
    folder = array.folder / ELEMENTS / str(index)
    path = array.path.with_name(f"{array.path.name}.{index}")
    try:
        names = {each.name for each in folder.iterdir()}
    except FileNotFoundError:
        names = set[str]()
    if path.exists() or any(name.startswith(("minder", "minded.")) for name in names):
        return None
    for each in (folder.parent, folder):
        if not each.is_dir():
            each.mkdir(exist_ok=True)
            each.chmod(0o700)
    own = {key: value for key, value in facts.items() if key not in ("indices", "most")}
    env = {**own["environment"], "FRACTALE_INDEX": str(index)}
    _write(folder / QUEUED, json.dumps({**own, "id": f"{facts['id']}_{index}", "environment": env}))
    _write(path, json.dumps({"folder": str(folder), "cores": array.cores, "limit": array.limit}))
    return QueueEntry(path, folder, array.cores, array.limit)


def _start(queue: Path, entry: QueueEntry, supervisor: str, descriptor: int) -> None:
    """Start the supervisor of a job. The supervisor keeps the lock while it lives."""
    facts = json.loads((entry.folder / QUEUED).read_text())
    limits = (str(facts["seconds"]), str(facts["memory"]))
    more = (str(queue), str(facts["id"]))
    with open(entry.folder / TRIED, "wb", opener=_for_owner) as said:
        subprocess.Popen(  # noqa: S603 - written by fractale
            [sys.executable, "-IS", supervisor, str(entry.folder), str(descriptor), *limits, *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=dict(facts["environment"]),
            pass_fds=(descriptor,),
            start_new_session=True,
        )


def main() -> None:
    """Start the jobs of one queue; the arguments name the queue and the supervisor's file."""
    start_next(Path(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()
