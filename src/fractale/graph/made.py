"""The files that a step creates and needs: whether they are up to date, and whether they exist.

A small file in the state directory says from what the files of `creates` were made: the checksums
of the files of `needs`, and that of the step's rendered text. It has the size and the time of each
file of `creates`, too. It is removed before the step runs, and written after the step has
succeeded. So the step of a later run is skipped only if its files are as that step left them.

Both looks at the files are calls in the journal: a resume and a replay decide as the run did.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fractale.errors import PolicyError, StoreError, TemplateError
from fractale.graph.call import Attempt, once
from fractale.graph.kinds.tool import QuietCodec
from fractale.graph.outcome import Decision
from fractale.paths import is_inside
from fractale.plan.expressions import render
from fractale.plan.model import FAILURE, SUCCESS, Value
from fractale.private import make_folder, write_private
from fractale.store.journal import Call, digest_of
from fractale.text import clip, count, listing
from fractale.toolbox import ToolResult

NOT_TEXT: Final = ("time", "queue", "account", "memory")
"""Keys of a job that do not change what it makes."""

SETTLED: Final = 2.0
"""Seconds after which a file that has its recorded size and time is known to be the same."""

UNSEEN_SECONDS: Final = 30.0
"""Seconds that a file which another machine made may take to appear on this one."""

MOST_NAMED: Final = 4
MOST_LETTERS: Final = 200
"""The most letters of a path that a fault shows."""

CHUNK: Final = 1024 * 1024


class Unseen(Exception):
    """A file of a key cannot be looked at, such as one in another user's directory.

    Args:
        key: ``creates`` or ``needs``.
    """

    def __init__(self, key: str, path: Path, error: OSError) -> None:
        name = clip(str(path), MOST_LETTERS)
        super().__init__(f"a file of `{key}` cannot be read: `{name}`: {error.strerror or error}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one attempt.

    Args:
        creates: The files that it makes.
        needs: The files that they are made from → checksum, size and time of each.
        text: The checksum of its rendered text.
        up_to_date: The decision to skip the step; None: it must run.
    """

    attempt: Attempt
    creates: tuple[Path, ...]
    needs: Mapping[str, list[Any]]
    text: str
    up_to_date: Decision | None

    async def created(self, decision: Decision) -> Decision:
        """The decision if all files exist after a success, otherwise a failure.

        An event that a rule gave the step does not replace the files. Only a step that ended with
        `success` is skipped later, since a skipped step leads where `success` leads.
        """
        if decision.outcome != SUCCESS:
            return decision

        async def make() -> ToolResult:
            fault, missing = "", list[str]()
            try:
                missing = await self._missing()
                if not missing and decision.event == SUCCESS:
                    await asyncio.to_thread(self._keep)
            except Unseen as unseen:
                fault = str(unseen)
            return ToolResult(text="", structured={"missing": missing, "fault": fault})

        found = await _call(self.attempt, "files.created", self.text, make)
        if missing := cast("list[str]", found["missing"]):
            fault = f"did not create {_named(missing, self.attempt.context.start_dir)}"
        elif not (fault := cast("str", found["fault"])):
            return decision
        reason = f"the step ended well, but {fault}"
        return Decision(outcome="failure", event=FAILURE, decided_by="creates", reason=reason)

    async def _missing(self) -> list[str]:
        """The files that do not exist, with patience for those of other machines."""
        outside = self.attempt.step.kind == "job" and self.attempt.deps.patient
        deadline = time.monotonic() + (UNSEEN_SECONDS if outside else 0.0)
        while missing := await asyncio.to_thread(_absent, "creates", self.creates):
            if time.monotonic() >= deadline or self._was_local():
                break
            await asyncio.sleep(1.0)
        return missing

    def _was_local(self) -> bool:
        job = self.attempt.step.job
        chosen = self.attempt.inputs.get("scheduler")
        if job is None or chosen == "local":
            return True
        jobs = self.attempt.deps.jobs
        return not chosen and (jobs is None or jobs(None).scheduler == "local")

    def _keep(self) -> None:
        """Record from what the files were made.

        Raises:
            Unseen: One of them cannot be looked at.
            StoreError: The record cannot be written.
        """
        if (path := _record_of(self.attempt, self.creates)) is None:
            return
        written = {
            "creates": _states(self.creates),
            "needs": self.needs,
            "text": self.text,
            "run": self.attempt.context.run_id,
            "at": time.time(),
        }
        try:
            make_folder(path.parent)
            write_private(path, json.dumps(written))
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}") from error


async def files_of(attempt: Attempt) -> Files:
    """The files of an attempt whose inputs are rendered, and whether they are up to date.

    Raises:
        TemplateError: A template gave something else than a path, a needed file does not exist, or
            a file cannot be looked at.
        PolicyError: A path has a secret in it, or a drafted step names a file outside the project.
    """
    step = attempt.step
    creates = _paths(attempt, "creates", step.creates)
    needs = _paths(attempt, "needs", step.needs)
    text = _text_of(attempt)

    async def make() -> ToolResult:
        try:
            found = await asyncio.to_thread(_look, attempt, files, text)
        except Unseen as unseen:
            found = {"fault": str(unseen), "key": unseen.key}
        return ToolResult(text="", structured=found)

    files = (creates, needs)
    found = await _call(attempt, "files.up_to_date", text, make)
    if fault := found.get("fault"):
        raise TemplateError(str(fault), position=step.where(str(found["key"])))
    start = attempt.context.start_dir
    if absent := cast("list[str]", found["absent"]):
        do = "do" if len(absent) > 1 else "does"
        raise TemplateError(
            f"the step needs {_named(absent, start)}, which {do} not exist",
            position=step.where("needs"),
        )
    decision = None
    if run := found["run"]:
        verb = "is" if len(creates) == 1 else "are"
        named = _named([str(path) for path in creates], start)
        reason = f"{named} {verb} up to date, made by run {run}"
        decision = Decision(
            outcome="skipped", event=SUCCESS, decided_by="up_to_date", reason=reason
        )
    return Files(attempt, creates, found["needs"], text, decision)


async def _call(attempt: Attempt, name: str, text: str, make: Any) -> Mapping[str, Any]:
    call = Call(kind="tool", name=name, digest=digest_of(text), safe=True)
    result = await once(
        attempt, attempt.journal.next_site(part="files"), call, make, QuietCodec(attempt)
    )
    return cast("Mapping[str, Any]", result.structured)


def _text_of(attempt: Attempt) -> str:
    """The checksum of what the step does: its tool and arguments, its script or its job."""
    step = attempt.step
    inputs = {name: value for name, value in attempt.inputs.items() if name not in NOT_TEXT}
    given = inputs if step.job is not None else dict(attempt.inputs)
    return attempt.digest({"kind": step.kind, "target": step.target, "inputs": given})


def _paths(attempt: Attempt, key: str, values: Sequence[Value]) -> tuple[Path, ...]:
    """Rendered paths, relative to the directory in which the run was started.

    Raises:
        TemplateError: A value is not a path.
        PolicyError: It has a secret in it, or a drafted step names a file outside the project.
    """
    context, found = attempt.context, list[Path]()
    for value in values:
        rendered: Any = render(value, attempt.scope)
        for each in cast("list[Any]", rendered if isinstance(rendered, list) else [rendered]):
            where = getattr(value, "position", None) or attempt.step.where(key)
            if not isinstance(each, str) or not each.strip() or "\0" in each:
                message = f"a file of `{key}` must be a path, not `{str(each)[:60]}`"
                raise TemplateError(message, position=where)
            if context.mask(each) != each:
                message = f"a file of `{key}` has a secret in its path, which is written to disk"
                raise PolicyError(message, position=where)
            found.append(context.start_dir / each.strip())
    roots = (context.start_dir,) if context.roots is None else context.roots
    for path in found if context.drafted else ():
        if not is_inside(str(path), roots):
            raise PolicyError(f"a planned step may not name a file outside the project: `{path}`")
    return tuple(found)


def _look(
    attempt: Attempt, files: tuple[tuple[Path, ...], tuple[Path, ...]], text: str
) -> dict[str, Any]:
    """The run that made the files as they are, if they are up to date; else they are forgotten.

    Raises:
        Unseen: A file cannot be looked at.
        StoreError: The record of the files cannot be removed.
    """
    creates, needs = files
    record = _record_of(attempt, creates)
    known = _read(record)
    missing = _absent("creates", creates)
    if absent := _absent("needs", needs):
        return {"absent": absent, "needs": {}, "run": ""}
    sums = {str(path): _checksum(path, known) for path in needs}
    same = {path: each[0] for path, each in sums.items()} == {
        path: each[0] for path, each in known.get("needs", {}).items()
    }
    made = not missing and known.get("creates") == _states(creates)
    if made and known.get("text") == text and same:
        return {"absent": [], "needs": sums, "run": str(known.get("run") or "unknown")}
    if record is not None:
        try:
            record.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {record}: {error}") from error
    return {"absent": [], "needs": sums, "run": ""}


def _record_of(attempt: Attempt, creates: Sequence[Path]) -> Path | None:
    """The file that says from what these files were made."""
    made = attempt.deps.made
    if made is None:
        return None
    name = hashlib.sha256("\0".join(sorted(map(str, creates))).encode()).hexdigest()[:32]
    return made / f"{name}.json"


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _absent(key: str, files: Sequence[Path]) -> list[str]:
    """The files that do not exist. Listing a directory asks a file server again.

    Raises:
        Unseen: It is not known whether one exists.
    """
    missing: list[str] = []
    for path in files:
        try:
            if not path.exists():
                with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
                    next(entries, None)
                if not path.exists():
                    missing.append(str(path))
        except OSError as error:
            raise Unseen(key, path, error) from error
    return missing


def _states(creates: Sequence[Path]) -> dict[str, list[int]]:
    """The size and the time of each file; nothing of a directory, which later steps may fill.

    Raises:
        Unseen: One of them cannot be looked at.
    """
    states: dict[str, list[int]] = {}
    for path in creates:
        try:
            now = path.stat()
        except OSError as error:
            raise Unseen("creates", path, error) from error
        states[str(path)] = [] if stat.S_ISDIR(now.st_mode) else [now.st_size, now.st_mtime_ns]
    return states


def _checksum(path: Path, known: Mapping[str, Any]) -> list[Any]:
    """Checksum, size and time of a file. An unchanged file is not read again.

    Raises:
        Unseen: It cannot be read.
    """
    try:
        now = path.stat()
        before = known.get("needs", {}).get(str(path))
        is_settled = float(known.get("at", 0)) - now.st_mtime > SETTLED
        if before and is_settled and before[1:] == [now.st_size, now.st_mtime_ns]:
            return list(before)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
    except OSError as error:
        raise Unseen("needs", path, error) from error
    return [digest.hexdigest(), now.st_size, now.st_mtime_ns]


def _named(files: Sequence[str], start: Path) -> str:
    """Some files for users: the first ones by name, relative to the run's directory."""
    here = f"{start}/"
    more = len(files) - MOST_NAMED
    names = listing([file.removeprefix(here) for file in files[:MOST_NAMED]])
    return f"{names} and {count(more, 'more file')}" if more > 0 else names
