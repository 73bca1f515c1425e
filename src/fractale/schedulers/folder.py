"""A job's directory: the planned submission, the submitted job, and the wrapper's evidence.

.. code-block:: text

    jobs/NAME/               NAME is made from the job's key
      intent.json            the planned submission, with the tag that identifies the job to the
                             scheduler; on the disk before the submission
      wrapper.sh, script     the wrapper that the scheduler starts, and the script that it runs
      submit.out             output of the submitting program, even if fractale was killed meanwhile
      handle.json            the scheduler's id of the job; on the disk before the caller gets it
      started                written by the wrapper before anything else: id, host, pid, time
      ended.CODE[.SIGNAL]    made by the wrapper when all is done. The name has the result, and is
                             made by renaming, so that a full disk cannot lose it
      cancelled              time of the cancellation, if fractale cancelled the job
      withdrawn              the job was cancelled with its whole run: a resume submits it again
      confined, tmp/         of a confined job: the method, and its private temporary files
      queued.json            of a local job: the data to start it when enough cores are free
      stdin, stdin-N         what the script or command reads, if anything; of an element, stdin-N
      log                    stdout and stderr of the script or command; the wrapper makes it, so
                             that it can be read while the job runs
      stdout                 of a short program: its stdout; its log is then its stderr
      notices.json           parts of the job's request that its scheduler ignores
      scheduler.log          the scheduler's own messages in the job's output
      elements/INDEX/        of an array: `started`, `ended.CODE` and `log` of each element
      elements.sh            of an array whose elements run different things: each element's command
      lock                   held by the submitting process, and by the submitting program it starts
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
from typing import Any, Final, Literal

from fractale.errors import JobError, JobInDoubt, StoreError
from fractale.private import make_folder, open_private, write_private
from fractale.schedulers.job import ELEMENTS, JobHandle, JobSpec
from fractale.schedulers.notation import hosts_of
from fractale.schedulers.request import Array

WITHDRAWN: Final = "withdrawn"
DIGITS: Final = 13
"""With `fr` before it 15 characters: the longest name that every scheduler accepts."""

LOCK_PATIENCE: Final = 90.0
_ENDED: Final = re.compile(r"ended\.(\d{1,3})(?:\.([A-Z0-9]+))?")
_LOCK_FAULTS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def name_of(key: str) -> str:
    """Make the name of a job's directory from the job's key."""
    return "fr" + hashlib.sha256(key.encode()).hexdigest()[:DIGITS]


def new_tag(key: str) -> str:
    """Make a unique name by which a scheduler can identify a job.

    The key is not enough, because another state directory may have a job of the same key.
    """
    return name_of(f"{key} {uuid.uuid4()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The wrapper's evidence that it began.

    Args:
        native_id: The scheduler's id of the job that the wrapper runs in.
        boot: Boot id of the host, if the host has one.
        ticks: Start time of the process by the kernel's clock; identifies the process with `pid`.
        nodes: All hosts of the job, as far as the scheduler reports them to the job.
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
    """The wrapper's evidence that the job is over.

    Args:
        signal: The signal by which the scheduler or a user asked the job to end; empty without
            one.
    """

    code: int
    signal: str
    at: float


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The directory of one job, or of one element of an array.

    Args:
        of_array: For an element, the directory of the whole array.
    """

    path: Path
    of_array: Path | None = None

    @classmethod
    def of(cls, root: Path, key: str) -> JobFolder:
        """Get the directory of the job with that key, which may not exist yet."""
        return cls(root.absolute() / name_of(key))

    @property
    def tag(self) -> str:
        """The name that identifies the job to the scheduler; empty without an intent."""
        return str((self.intent() or {}).get("tag", ""))

    @property
    def log(self) -> Path:
        """The file of the job's stdout and stderr."""
        return self.path / "log"

    @property
    def scheduler_log(self) -> Path:
        """The file of the scheduler's own messages, some of which it writes only after the end."""
        return self.path / "scheduler.log"

    def element(self, index: int) -> JobFolder:
        """The directory of one element of an array, which the element's wrapper makes."""
        return JobFolder(self.path / ELEMENTS / str(index), of_array=self.path)

    def begun(self) -> frozenset[int]:
        """Find the elements of an array that have begun: they have a directory."""
        try:
            with os.scandir(self.path / ELEMENTS) as found:
                return frozenset(int(each.name) for each in found if each.name.isdecimal())
        except FileNotFoundError:
            return frozenset()

    def array(self) -> Array | None:
        """The indices of the submitted array; None for a single job."""
        text = None if self.of_array else (self.intent() or {}).get("array")
        return Array.parse(str(text)) if text else None

    @property
    def wrapper(self) -> Path:
        """The script that the scheduler starts."""
        return self.path / "wrapper.sh"

    def make(self) -> None:
        """Make the directory, for its owner only.

        Raises:
            StoreError: The directory cannot be made.
        """
        with disk(self.path):
            make_folder(self.path)

    @contextlib.asynccontextmanager
    async def locked(self, patience: float = LOCK_PATIENCE) -> AsyncGenerator[int]:
        """Hold the lock within the block; yields its descriptor, which a program may inherit.

        Raises:
            JobInDoubt: Another process held the lock for all of `patience`.
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
                        hint=f"try again when no process has {self.path / 'lock'} open",
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
                    hint="set FRACTALE_STATE_DIR to a directory on a file system with locks",
                ) from error
            return False
        return True

    def write_intent(
        self, spec: JobSpec, key: str, scheduler: str, array: Array | None = None
    ) -> None:
        """Record the planned submission before the submission. An existing tag stays the same.

        Args:
            array: The array of the spec, or of its script.

        Raises:
            StoreError: The file cannot be written.
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
        self.write("intent.json", json.dumps(intent), sync="name")

    def intent(self) -> dict[str, Any] | None:
        """Read the planned submission, for an element that of its array; None without one."""
        if self.of_array is not None:
            return JobFolder(self.of_array).intent()
        return self.json("intent.json")

    def write_notices(self, notices: Sequence[str]) -> None:
        """Record the ignored parts of the job's request; a success does not hide them.

        Raises:
            StoreError: The file cannot be written.
        """
        if notices:
            self.write("notices.json", json.dumps({"notices": list(notices)}))

    def notices(self) -> tuple[str, ...]:
        """Read the ignored parts of the job's request, one sentence each."""
        return tuple(map(str, (self.json("notices.json") or {}).get("notices", ())))

    def write_handle(self, handle: JobHandle) -> None:
        """Record the scheduler's id of the job.

        Raises:
            StoreError: The file cannot be written.
        """
        self.write("handle.json", json.dumps(handle.as_dict()))

    def handle(self) -> JobHandle | None:
        """Read the handle of the submitted job; its path is right even if the directory moved."""
        found = self.json("handle.json")
        if found is None:
            return None
        try:
            return JobHandle.from_dict({**found, "job_dir": str(self.path)})
        except ValueError as error:
            raise StoreError(f"{self.path / 'handle.json'} is damaged: {error}") from error

    def forget(self) -> None:
        """Delete the intent, because the scheduler refused the job."""
        for name in ("intent.json", "submit.out"):
            (self.path / name).unlink(missing_ok=True)

    def started(self) -> Started | None:
        """Read the wrapper's evidence that it began; None without it."""
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
        """Read the wrapper's evidence that the job is over; None without it."""
        for entry in self._entries():
            if found := _ENDED.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    at = entry.stat().st_mtime
                    return Ended(code=int(found[1]), signal=found[2] or "", at=at)
        return None

    def marked(self, beginning: str) -> tuple[str, float] | None:
        """Find a file by the beginning of its name; returns the rest of the name, and the time."""
        for entry in self._entries():
            if entry.name.startswith(beginning):
                return entry.name.removeprefix(beginning), entry.stat().st_mtime
        if self.of_array is not None and beginning == "cancelled":
            return JobFolder(self.of_array).marked(beginning)
        return None

    def unmark(self, name: str) -> None:
        """Delete a mark, which is a file of that name."""
        (self.path / name).unlink(missing_ok=True)

    def _entries(self) -> list[os.DirEntry[str]]:
        """List the directory. This asks the file server again; a look-up of one name may not."""
        try:
            with os.scandir(self.path) as found:
                return list(found)
        except FileNotFoundError:
            return []

    def text(self, name: str, most: int = 65536) -> str:
        """Read the beginning of one of the files; empty if the file does not exist."""
        try:
            with (self.path / name).open("rb") as file:
                return file.read(most).decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def write(self, name: str, text: str, *, sync: Literal["file", "name"] = "file") -> None:
        """Write a complete file, or nothing.

        Args:
            sync: ``name``: the file survives a power cut from now on, as the intent must before the
                submission. ``file``: if it survives, it is complete. All that follows the intent
                can be found again, or is written again.

        Raises:
            StoreError: The file cannot be written.
        """
        with disk(self.path / name):
            write_private(self.path / name, text, sync=sync, errors="surrogateescape")

    def json(self, name: str) -> dict[str, Any] | None:
        """Read one of the JSON files; None if the file does not exist.

        Raises:
            StoreError: The file is damaged.
        """
        try:
            found: Any = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"cannot read {self.path / name}: {error}",
                hint="look for the job at the scheduler, then remove the directory",
            ) from error
        if not isinstance(found, dict):
            raise StoreError(f"{self.path / name} is damaged")
        return dict(found)  # pyright: ignore[reportUnknownArgumentType] - JSON


@contextlib.contextmanager
def disk(path: Path) -> Generator[None]:
    """Turn errors of the file system into `StoreError`.

    Raises:
        StoreError: An operation on the file failed.
    """
    try:
        yield
    except OSError as error:
        hint = "check space and permissions, or set FRACTALE_STATE_DIR to another directory"
        raise StoreError(f"cannot write {path}: {error}", hint=hint) from error
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start : error.end])
        raise JobError(f"the job's text holds {found}, which is half a character") from error


def facts_of(text: str) -> dict[str, str]:
    """Read lines of ``name=value``."""
    return {name: value for name, _, value in (line.partition("=") for line in text.splitlines())}


def _int(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def digest(spec: JobSpec) -> str:
    """Compute a checksum of a spec, because a key may belong to one spec only."""
    facts: dict[str, Any] = {**asdict(spec), "folder": str(spec.folder), "env": dict(spec.env)}
    del facts["launcher"]  # belongs to this machine, not to the job
    for later in ("confine", "array", "elements", "stdin", "short"):  # older jobs lack them
        if not facts[later]:
            del facts[later]
    for element in facts.get("elements", {}).values():
        if not element["stdin"]:
            del element["stdin"]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def whole_of(folder: JobFolder) -> JobFolder:
    """The directory of an element's array; for a single job, its own directory."""
    path = folder.path
    return JobFolder(path.parents[1]) if path.parent.name == ELEMENTS else folder


def same_job(folder: JobFolder, spec: JobSpec) -> None:
    """Check that the key of a directory belongs to this spec.

    Raises:
        JobError: The key was used for another spec.
    """
    intent = folder.intent()
    if intent is not None and intent.get("digest") != digest(spec):
        raise JobError(
            f"another job, `{intent.get('name')}`, was submitted with this key",
            hint="give each job its own key; use a key again only for the same job",
        )
