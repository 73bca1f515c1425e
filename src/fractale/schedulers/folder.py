"""A job's own folder: what is to be submitted, what was, and what its wrapper says happened.

.. code-block:: text

    jobs/NAME/               NAME is made from the job's key
      intent.json            what is to be submitted, and the tag by which the scheduler will know
                             it; on the disk before it is
      wrapper.sh, script     what the scheduler starts, and what that starts
      submit.out             what the submitting program said, even if nobody was left to read it
      handle.json            the scheduler's id for the job; on the disk before anybody is told it
      started                written by the wrapper before anything else: id, host, pid, time
      ended.CODE[.SIGNAL]    made by the wrapper when all is done. The name says it, and it is made
                             by renaming, so that a full disk can't lose it
      cancelled              when fractale cancelled it, if it did
      withdrawn              that it was cancelled with its whole run: a resume submits it again
      confined, tmp/         of a confined job: how it is, and its own temporary files
      queued.json            of a local job: what it needs to be started when there are cores for it
      log                    stdout and stderr of the script or command; the wrapper makes it, so
                             that it can be read while the job runs
      notices.json           what of the job's request does not count with its scheduler
      scheduler.log          what the scheduler itself writes into the job's output
      elements/INDEX/        of an array: `started`, `ended.CODE` and `log` of each element
      elements.sh            of an array whose elements run different things: what each runs
      lock                   held by whoever submits, also by the submitting program itself
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fractale.errors import JobError, JobInDoubt, StoreError
from fractale.private import make_folder, open_private, write_private
from fractale.schedulers.job import ELEMENTS, JobHandle, JobSpec
from fractale.schedulers.names import hosts_of
from fractale.schedulers.request import Array

WITHDRAWN: Final = "withdrawn"
DIGITS: Final = 13
"""With `fr` before it 15 characters, which is the longest name that every scheduler takes."""

LOCK_PATIENCE: Final = 90.0
_ENDED: Final = re.compile(r"ended\.(\d{1,3})(?:\.([A-Z0-9]+))?")
_LOCK_FAULTS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def name_of(key: str) -> str:
    """The name of the folder of the job with that key."""
    return "fr" + hashlib.sha256(key.encode()).hexdigest()[:DIGITS]


def new_tag(key: str) -> str:
    """A name by which a scheduler is to know a job: no two are the same.

    The key alone would not do: another state folder may have a job of the same key.
    """
    return name_of(f"{key} {uuid.uuid4()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the wrapper wrote when it began.

    Args:
        native_id: The scheduler's id of the job that the wrapper is in.
        boot: Of the host, where it has such an id.
        ticks: When the process began, in the kernel's own clock: with `pid`, who it is.
        nodes: All hosts of the job, as far as the scheduler tells the job itself.
    """

    native_id: str
    host: str
    pid: int
    at: float
    boot: str = ""
    ticks: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What the wrapper left when all was done.

    Args:
        signal: What the scheduler, or somebody, asked it to end with; empty for nothing.
    """

    code: int
    signal: str
    at: float


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder of one job, or of one element of an array.

    Args:
        of_array: Of an element, the folder of the whole array.
    """

    path: Path
    of_array: Path | None = None

    @classmethod
    def of(cls, root: Path, key: str) -> JobFolder:
        """The folder of the job with that key, whether it is there or not."""
        return cls(root.absolute() / name_of(key))

    @property
    def tag(self) -> str:
        """The name by which the scheduler knows the job; empty where there is no intent."""
        return str((self.intent() or {}).get("tag", ""))

    @property
    def log(self) -> Path:
        """Where the job's stdout and stderr go."""
        return self.path / "log"

    @property
    def scheduler_log(self) -> Path:
        """Where the scheduler writes what it has to say itself, and some only after the end."""
        return self.path / "scheduler.log"

    def element(self, index: int) -> JobFolder:
        """The folder of one element of an array; its wrapper makes it."""
        return JobFolder(self.path / ELEMENTS / str(index), of_array=self.path)

    def begun(self) -> frozenset[int]:
        """The elements of an array that have a folder: those that have begun."""
        try:
            with os.scandir(self.path / ELEMENTS) as found:
                return frozenset(int(each.name) for each in found if each.name.isdecimal())
        except FileNotFoundError:
            return frozenset()

    def array(self) -> Array | None:
        """The indices of the array that was submitted from here; None of a single job."""
        text = None if self.of_array else (self.intent() or {}).get("array")
        return Array.parse(str(text)) if text else None

    @property
    def wrapper(self) -> Path:
        """What the scheduler starts."""
        return self.path / "wrapper.sh"

    def make(self) -> None:
        """Make the folder, for its owner only.

        Raises:
            StoreError: It cannot be made.
        """
        with disk(self.path):
            make_folder(self.path)

    @contextlib.asynccontextmanager
    async def locked(self, patience: float = LOCK_PATIENCE) -> AsyncGenerator[int]:
        """Hold the lock; yields its descriptor, which a program may be given to hold it, too.

        Raises:
            JobInDoubt: Somebody else has had it for all that time.
            StoreError: The file system has no locks, or is full.
        """
        with disk(self.path):
            descriptor = open_private(self.path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            deadline = time.monotonic() + patience
            while not self._try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise JobInDoubt(
                        f"another process has been submitting this job for {patience:.0f} s",
                        hint=f"see who has {self.path / 'lock'} open, and try again then",
                    )
                await asyncio.sleep(0.05)
            yield descriptor
        finally:
            os.close(descriptor)

    def _try_lock(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCK_FAULTS:
                raise StoreError(
                    f"cannot lock {self.path / 'lock'}: {error}",
                    hint="set FRACTALE_STATE_DIR to a folder on a file system that has locks",
                ) from error
            return False
        return True

    def write_intent(
        self, spec: JobSpec, key: str, scheduler: str, array: Array | None = None
    ) -> None:
        """Write down what is to be submitted, before it is. A tag that was given stays.

        Args:
            array: That of the spec, or of its script.

        Raises:
            StoreError: It cannot be written.
        """
        intent = {
            "key": key,
            "tag": self.tag or new_tag(key),
            "scheduler": scheduler,
            "name": spec.name,
            "nodes": spec.nodes,
            "time": spec.time,
            "memory": spec.memory,
            "digest": digest(spec),
            "written": time.time(),
        }
        if array := array or spec.array:
            intent["array"] = str(array)
        self.write("intent.json", json.dumps(intent))

    def intent(self) -> dict[str, Any] | None:
        """What was to be submitted, also of an element's array; None where nothing was."""
        if self.of_array is not None:
            return JobFolder(self.of_array).intent()
        return self.json("intent.json")

    def write_notices(self, notices: Sequence[str]) -> None:
        """Write down what of the job's request does not count; a success does not hide it.

        Raises:
            StoreError: It cannot be written.
        """
        if notices:
            self.write("notices.json", json.dumps({"notices": list(notices)}))

    def notices(self) -> tuple[str, ...]:
        """What of the job's request does not count, in a sentence each."""
        return tuple(map(str, (self.json("notices.json") or {}).get("notices", ())))

    def write_handle(self, handle: JobHandle) -> None:
        """Write down what the scheduler calls the job.

        Raises:
            StoreError: It cannot be written.
        """
        self.write("handle.json", json.dumps(handle.as_dict()))

    def handle(self) -> JobHandle | None:
        """The job that was submitted, if it is written down. The folder may have been moved."""
        found = self.json("handle.json")
        if found is None:
            return None
        try:
            return JobHandle.from_dict({**found, "job_dir": str(self.path)})
        except ValueError as error:
            raise StoreError(f"{self.path / 'handle.json'} is damaged: {error}") from error

    def forget(self) -> None:
        """Take the intent back: the scheduler refused the job."""
        for name in ("intent.json", "submit.out"):
            (self.path / name).unlink(missing_ok=True)

    def started(self) -> Started | None:
        """What the wrapper wrote when it began; None where it has not."""
        try:
            path = self.path / "started"
            text, at = path.read_text(errors="replace"), path.stat().st_mtime
        except FileNotFoundError:
            return None
        facts = facts_of(text)
        return Started(
            native_id=facts.get("id", ""),
            host=facts.get("host", ""),
            pid=_int(facts.get("pid")) or 0,
            at=at,
            boot=facts.get("boot", ""),
            ticks=facts.get("ticks", ""),
            nodes=hosts_of(facts.get("nodes", "")),
        )

    def ended(self) -> Ended | None:
        """What the wrapper left at its end; None where it has not."""
        for entry in self._entries():
            if found := _ENDED.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    at = entry.stat().st_mtime
                    return Ended(code=int(found[1]), signal=found[2] or "", at=at)
        return None

    def marked(self, beginning: str) -> tuple[str, float] | None:
        """The rest of the name, and the time, of the file whose name begins so."""
        for entry in self._entries():
            if entry.name.startswith(beginning):
                return entry.name.removeprefix(beginning), entry.stat().st_mtime
        if self.of_array is not None and beginning == "cancelled":
            return JobFolder(self.of_array).marked(beginning)
        return None

    def unmark(self, name: str) -> None:
        """Take back a mark that was made by writing a file of that name."""
        (self.path / name).unlink(missing_ok=True)

    def _entries(self) -> list[os.DirEntry[str]]:
        """Read anew from the file system's server, which asking for one name may not be."""
        try:
            with os.scandir(self.path) as found:
                return list(found)
        except FileNotFoundError:
            return []

    def text(self, name: str, most: int = 65536) -> str:
        """The beginning of one of its files; empty where there is none."""
        try:
            with (self.path / name).open("rb") as file:
                return file.read(most).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def write(self, name: str, text: str) -> None:
        """Write a file whole and on the disk, or not at all.

        Raises:
            StoreError: It cannot be written.
        """
        with disk(self.path / name):
            write_private(self.path / name, text, sync="name", errors="surrogateescape")

    def json(self, name: str) -> dict[str, Any] | None:
        """One of its files; None where there is none.

        Raises:
            StoreError: It is damaged.
        """
        try:
            found: Any = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"cannot read {self.path / name}: {error}",
                hint="look for the job at the scheduler, then remove the folder",
            ) from error
        if not isinstance(found, dict):
            raise StoreError(f"{self.path / name} is damaged")
        return dict(found)  # pyright: ignore[reportUnknownArgumentType] - JSON


@contextlib.contextmanager
def disk(path: Path) -> Generator[None]:
    """What goes wrong with a file, as the room's own error.

    Raises:
        StoreError: It went wrong.
    """
    try:
        yield
    except OSError as error:
        hint = "check space and permissions, or set FRACTALE_STATE_DIR to another folder"
        raise StoreError(f"cannot write {path}: {error}", hint=hint) from error
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start : error.end])
        raise JobError(f"the job's text holds {found}, which is half a character") from error


def facts_of(text: str) -> dict[str, str]:
    """Lines of ``name=value``."""
    return {name: value for name, _, value in (line.partition("=") for line in text.splitlines())}


def _int(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def digest(spec: JobSpec) -> str:
    """What tells one spec from another; a key stands for one of them."""
    facts: dict[str, Any] = {**asdict(spec), "folder": str(spec.folder), "env": dict(spec.env)}
    del facts["launcher"]  # of this machine, and not of the job
    for later in ("confine", "array", "elements"):  # as of jobs from before there were such things
        if not facts[later]:
            del facts[later]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def same_job(folder: JobFolder, spec: JobSpec) -> None:
    """See that the key of a folder stands for this spec.

    Raises:
        JobError: It was used for another one.
    """
    intent = folder.intent()
    if intent is not None and intent.get("digest") != digest(spec):
        raise JobError(
            f"another job, `{intent.get('name')}`, was submitted with this key",
            hint="give each job a key of its own; the same key is for the same job only",
        )
