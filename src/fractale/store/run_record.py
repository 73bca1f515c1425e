"""The record of a run: its directory ``runs/ID/``, and all that fractale keeps there.

`RunRecord` is the one place that knows the layout. Only the owner can read the files; tools and
jobs of the run write files of other names beside them. No process but the one that has the run's
lock (`fractale.store.locks.RunLock`) changes them, except for the requests of other processes:
`stop_request` and `answers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

from fractale.errors import CHECK_SPACE, StoreError, UsageError
from fractale.events import events_from_end, read_events
from fractale.plain import to_json
from fractale.private import make_folder, new_folder, open_private, write_private
from fractale.store.outputs import LARGE_TEXT, FileOutputs

ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
ID_LENGTH = 5
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHARED_ID_LENGTH = 10
"""The length of the ID of runs with checkpoints on a server, which state directories may share."""
HANDLERS_THREAD = "~handlers"
"""The end of the name of the second thread of a run: the checkpoints of its plan's handlers."""
RUNS = "runs"
"""The directory of the runs' directories, in the state directory."""
SWEEPS = "sweeps"
"""The directory of the sweeps: see `fractale.sweeps.record`."""


def threads_of(run_id: str) -> tuple[str, str]:
    """The threads of LangGraph that have the checkpoints of a run."""
    return run_id, f"{run_id}{HANDLERS_THREAD}"


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file or directory of a record, by its name; of a `RunRecord`, its path."""

    name: str

    @overload
    def __get__(self, record: None, owner: type[RunRecord]) -> Self: ...
    @overload
    def __get__(self, record: RunRecord, owner: type[RunRecord]) -> Path: ...
    def __get__(self, record: RunRecord | None, owner: type[RunRecord]) -> Self | Path:
        return self if record is None else record.path / self.name


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record of one run."""

    run_id: str
    path: Path

    head = RecordFile("run.json")  # how the run was started
    plan = RecordFile("plan.yaml")  # as it was then
    included_plans = RecordFile("plan")
    offered = RecordFile("tools.json")  # the tools, prompts and resources of servers
    conditions = RecordFile("conditions.json")  # what it ran with, to compare another run
    bindings = RecordFile("bindings.json")  # the tools of names that were bound later
    entry = RecordFile("entry.json")  # of a fork: its fork point, and its inputs there
    events = RecordFile("events.jsonl")
    journal = RecordFile("journal.jsonl")  # of calls
    checkpoints = RecordFile("checkpoints.sqlite")
    outputs = RecordFile("outputs")  # large values, and outputs as text files
    drafts = RecordFile("drafts")  # accepted drafts: ``outer/inner.yaml`` per planned step
    notes = RecordFile("notes.json")  # of its agents
    jobs = RecordFile("jobs")  # a directory per batch job
    job_ledger = RecordFile("jobs.jsonl")  # the budget that batch jobs reserved and used
    lock = RecordFile("lock")
    stop_request = RecordFile("stop")
    written = RecordFile("written.json")  # the ends of texts that models are writing
    answers = RecordFile("answers")  # of other processes to open questions, see `runs.mailbox`
    output = RecordFile("output.txt")  # of background processes
    studio_orders = RecordFile("studio-orders.txt")  # Studio's orders, each once

    @property
    def state_dir(self) -> Path:
        return self.path.parent.parent

    def sibling(self, run_id: str) -> RunRecord:
        """The record of another run of the same state directory, which need not exist."""
        return RunRecord(run_id, self.path.with_name(run_id))

    @property
    def is_new(self) -> bool:
        """Whether the run has neither reported an event nor made a call."""
        return not any(_size(path) for path in (self.events, self.journal))

    # -- the head

    def write_head(self, head: Mapping[str, Any]) -> None:
        """Keep how the run was started, replacing what was there."""
        try:
            write_private(self.head, to_json(head, indent=1))
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def read_head(self) -> dict[str, Any]:
        """How the run was started.

        Raises:
            StoreError: The file is missing or damaged.
        """
        try:
            return json.loads(self.head.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"the record of run {self.run_id} cannot be read: {error}") from error

    # -- events

    def read_events(self) -> Iterator[dict[str, Any]]:
        """The events so far, oldest first; see `fractale.events.read_events`."""
        return read_events(self.events)

    def events_from_end(self, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """The events of some kinds, the latest first; see `fractale.events.events_from_end`."""
        return events_from_end(self.events, kinds)

    # -- outputs and drafts

    def write_output(self, name: str, text: str) -> Path:
        """Write an output of the run as a text file; returns its path.

        Raises:
            StoreError: It cannot be written.
        """
        path = self.outputs / f"{name}.txt"
        try:
            make_folder(self.outputs)
            if len(text) > LARGE_TEXT:
                with contextlib.suppress(OSError):  # a file system without links
                    FileOutputs(self.outputs).link_text(text, path)
                    return path
            if _links(path) > 1:  # a name of a stored text, which stays as it is
                path.unlink()
            descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return path

    def keep_draft(self, path: str, text: str) -> None:
        """Keep the accepted draft of a planned step, replacing an earlier one.

        Args:
            path: The step's path in the run.
            text: The draft, YAML.

        Raises:
            StoreError: It cannot be written.
        """
        file = self.drafts / f"{path}.yaml"
        try:
            make_folder(file.parent)
            write_private(file, text, sync="none")
        except OSError as error:
            raise StoreError(
                f"the draft of `{path}` cannot be kept: {error}", hint=CHECK_SPACE
            ) from error

    def read_drafts(self) -> dict[str, str]:
        """The accepted drafts by the paths of their steps, in the order of the paths."""
        return {
            file.relative_to(self.drafts).with_suffix("").as_posix(): file.read_text(
                encoding="utf-8", errors="replace"
            )
            for file in sorted(self.drafts.rglob("*.yaml"))
        }

    def remove(self) -> None:
        """Remove the record of a run that did not begin."""
        shutil.rmtree(self.path, ignore_errors=True)


def _links(path: Path) -> int:
    """The number of names of a file; 0 for a symbolic link, or if there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_nlink if stat.S_ISREG(found.st_mode) else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def random_id(length: int = SHARED_ID_LENGTH) -> str:
    """A random ID for a run."""
    return "".join(secrets.choice(ID_LETTERS) for _ in range(length))


class RunRecords:
    """The runs of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / RUNS

    def new(self, run_id: str | None = None, *, length: int = ID_LENGTH) -> RunRecord:
        """Make the directory of a new run, with an ID that no other run has.

        Args:
            run_id: Its ID; None: a random one of `length` letters.

        Raises:
            StoreError: The directory cannot be made.
            UsageError: The ID is in use, or is not a valid ID.
        """
        if run_id is not None and not ID.fullmatch(run_id):
            raise UsageError(
                f"`{run_id}` is not a valid id of a run",
                hint="letters, digits, `-`, `_` and `.`, at most 64, with a letter or digit first",
            )
        for _ in range(100):
            name = run_id or random_id(length)
            try:
                self._make_root()
                new_folder(self._root / name)
            except FileExistsError:
                if run_id and self.at(name).head.exists():
                    raise UsageError(f"there is a run `{run_id}` already") from None
                if run_id:  # the process that made the directory ended before the run began
                    return self.at(name)
                continue
            except OSError as error:
                raise _unwritable(self._root, error) from error
            return self.at(name)
        raise StoreError(f"no free run id in {self._root}", hint="remove old runs")

    def _make_root(self) -> None:
        try:
            make_folder(self._root)
        except (FileExistsError, NotADirectoryError) as error:
            raise _no_folder(self._root) from error

    def find(self, run_id: str) -> RunRecord:
        """The record of a run; ``-1`` is the latest.

        Raises:
            UsageError: The run does not exist.
        """
        if ID.fullmatch(run_id):  # neither -1 nor a path such as `..`
            path = self._root / run_id
            if path.is_dir() and not path.is_symlink():
                return self.at(run_id)
        names = self.ids()
        if run_id == "-1" and names:
            return self.at(names[0])
        if run_id not in names:
            if ID.fullmatch(run_id) and (self._root.parent / SWEEPS / run_id).is_dir():
                raise UsageError(
                    f"`{run_id}` is a sweep, not a run",
                    hint=f"`fractale sweep show {run_id}` shows it; its runs are {run_id}.0 and on",
                )
            some = f"the latest: {', '.join(names[:5])}" if names else "there are no runs here"
            raise UsageError(f"run `{run_id}` not found in {self._root.parent}", hint=some)
        return self.at(run_id)

    def at(self, run_id: str) -> RunRecord:
        """The record of a run, which need not exist."""
        return RunRecord(run_id, self._root / run_id)

    def has(self, path: Path) -> bool:
        """Whether a path is a run's directory here."""
        return path.resolve().parent == self._root.resolve()

    def names(self) -> set[str]:
        """The IDs of all runs, in no order: faster than `ids`."""
        try:
            with os.scandir(self._root) as entries:
                return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        except FileNotFoundError:
            return set()
        except NotADirectoryError as error:
            raise _no_folder(self._root) from error

    def ids(self) -> list[str]:
        """The IDs of all runs, by the time at which their records were made, the latest first.

        The time of a directory is not reliable: SQLite makes and removes files there, also to read.
        """
        times = [(_made(self.at(name)), name) for name in self.names()]
        return [name for _, name in sorted(times, reverse=True)]

    def events_size(self, run_id: str) -> int:
        """The size of a run's events in bytes; 0 if there are none."""
        try:
            # With thousands of runs, making a path is slower than reading the file's size.
            return os.stat(f"{self._root}/{run_id}/{RunRecord.events.name}").st_size  # noqa: PTH116
        except OSError:
            return 0


def _made(record: RunRecord) -> int:
    try:
        return record.head.stat().st_mtime_ns
    except FileNotFoundError:
        return record.path.stat().st_mtime_ns


def _no_folder(path: Path) -> StoreError:
    """The error for a path that should be a directory, but is a file or leads through one."""
    wrong = next((each for each in (path, *path.parents) if each.exists()), path)
    return StoreError(
        f"the state directory cannot be used: {wrong} is not a directory",
        hint="move that file away, or set FRACTALE_STATE_DIR to another directory",
    )


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write the run's record in {path}: {error}",
        hint=CHECK_SPACE,
    )
