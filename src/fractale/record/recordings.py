"""Recordings: runs that can be replayed, in place or exported to be replayed elsewhere.

A run's own directory is a recording. ``fractale export RUN --recording PATH`` copies the
files that a replay needs into another directory, or into one file if the path ends in ``.zip``.
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fractale import shipped
from fractale.errors import NotRecorded, StoreError, UsageError
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.plan.build import load_plan
from fractale.plan.model import Plan
from fractale.private import make_folder, open_private, write_private
from fractale.record.plans import plan_of
from fractale.settings import Settings
from fractale.settings.own_runs import is_agreed
from fractale.store.locks import holder_of
from fractale.store.run_record import RunRecord, RunRecords

ABOUT_FILE, ZIP = "recording.json", ".zip"
FILES = tuple(
    file.name
    for file in (
        RunRecord.head,
        RunRecord.events,
        RunRecord.journal,
        RunRecord.offered,
        RunRecord.entry,
        RunRecord.plan,
    )
)
PATTERNS = (
    "plan/**/*.yaml",
    "drafts/**/*.yaml",
    "outputs/*/*.json",
    "outputs/[0-9a-f][0-9a-f]/*.txt",
    "jobs/*/log",
    "jobs/*/elements/*/log",
)
UNMASKED = ("plan/", "drafts/", "jobs/", RunRecord.plan.name)
"""Files that a run writes unmasked: jobs write logs, users and models write plans."""
BLOCK = 1024 * 1024
MOST_BYTES = 2 * 1024**3
"""The largest size of a recording in one file, unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recorded run that can be replayed.

    Args:
        name: Its name in lists.
        record: Its files.
        source: The directory or file that the user named.
        about: Facts about its export; empty for a run's own directory.
        own: Whether it is a run of the state directory. Any other recording may be a stranger's:
            nothing that it names is imported, and no file outside of it is read.
    """

    name: str
    record: RunRecord
    head: Mapping[str, Any]
    source: Path
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    own: bool = False

    def given(self, registries: Sequence[str], agents: Sequence[str]) -> Recording:
        """The same recording with the registries and sub-agents that the user names.

        If the user names none, a run of their own has those that it was started with, and any other
        recording has none.
        """
        kept: Mapping[str, Any] = self.head if self.own else {}
        named = {
            "registries": [*registries] or kept.get("registries") or [],
            "agents": [*agents] or kept.get("agents") or [],
        }
        return replace(self, head={**self.head, **named})

    @property
    def left_out(self) -> list[str]:
        """The options for a replay to use the registries and agents that were not imported."""
        if self.own:
            return []
        registries = [f"-r {path}" for path in self.head.get("registries") or ()]
        agents = [*(self.head.get("agents") or ()), *self._planned()]
        return [*registries, *(f"-a {path}" for path in dict.fromkeys(agents))]

    def _planned(self) -> list[str]:
        try:
            return [ref.path for ref in self.plan_then().registered]
        except NotRecorded:
            return []

    def find(self, path: str) -> Path | None:
        """Find a file of the run where it is now; None if it is gone.

        The search order is: relative to the recording, relative to the working directory, and the
        original path.
        """
        if shipped.is_named(path):
            return shipped.files("registry").get(path.removeprefix(shipped.SCHEME))
        file = Path(path)
        places = [(self.about.get("exported_to"), self.source.absolute().parent)]
        places.append((self.head.get("folder"), Path.cwd()))
        tries = [here / os.path.relpath(file, then) for then, here in places if then]
        if not self.about:  # it never moved
            tries.insert(0, file)
        return next((each.resolve() for each in [*tries, file] if each.is_file()), None)

    def plan_today(self) -> Plan | None:
        """The plan in its file now; None if the file is gone.

        Raises:
            PlanError: It is invalid.
        """
        file = self.find(str(self.head.get("file") or ""))
        return load_plan(file) if file else None

    def plan_then(self) -> Plan:
        """The plan as it was run.

        Raises:
            NotRecorded: The record does not have it.
        """
        plan = plan_of(self.record, self.head)
        if plan is None:
            raise NotRecorded(
                "no-plan",
                f"the plan of run {self.record.run_id} was not found, or cannot be read",
                hint="name the plan with --plan FILE",
            )
        return plan

    @property
    def run_dir(self) -> Path:
        """The path of the run's directory while it ran, which its templates may have used."""
        return Path(str(self.about.get("run_dir") or self.record.path))


def _is_own(made: Recording, settings: Settings) -> bool:
    kept = RunRecords(settings.state_dir).has(made.record.path) and not made.about
    return kept and is_agreed(made.record.path, made.head, settings.environment)


@contextmanager
def open_recording(
    path: Path, name: str = "", *, settings: Settings | None = None
) -> Generator[Recording]:
    """Open a recording in a directory or a file.

    Args:
        settings: They say where the user's own runs are.

    Raises:
        NotRecorded: It is not a recording, or is damaged.
    """
    if path.is_dir():
        made = _in_directory(path, path, name)
        yield replace(made, own=settings is not None and _is_own(made, settings))
        return
    with tempfile.TemporaryDirectory(prefix="fractale-") as directory:
        _unpack(path, Path(directory))
        yield _in_directory(Path(directory), path, name)


def recording_path(run: str, settings: Settings) -> Path:
    """The path of a run's record, or of a recording.

    Args:
        run: The id of a run, with ``-1`` for the latest, or a path.

    Raises:
        UsageError: It was not found.
    """
    records = RunRecords(settings.state_dir)
    path = Path(run)
    if run not in records.names():
        if path.is_file() or (path / "run.json").is_file():
            return path
        if path.is_dir() or path.suffix == ".zip":
            raise UsageError(
                f"{run} is not a recording" if path.is_dir() else f"file {run} not found",
                hint="create one: fractale export RUN --recording FILE.zip",
            )
    return records.find(run).path


def _in_directory(directory: Path, source: Path, name: str) -> Recording:
    about: dict[str, Any] = {}
    try:
        if (directory / ABOUT_FILE).exists():
            about = json.loads((directory / ABOUT_FILE).read_text(encoding="utf-8"))
        run = RunRecord(str(about.get("run") or directory.name), directory)
        head = run.read_head()
    except (OSError, ValueError, StoreError) as error:
        raise NotRecorded("bad-recording", f"{source} is not a recording: {error}") from error
    return Recording(name=name or str(source), record=run, head=head, source=source, about=about)


def _unpack(path: Path, directory: Path) -> None:
    """Unpack a recording's file; nothing is written outside of the directory."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if sum(info.file_size for info in infos) > MOST_BYTES:
                raise NotRecorded(
                    "bad-recording", f"{path} is larger than the size limit of recordings"
                )
            for info in infos:
                parts = PurePosixPath(info.filename).parts
                if ".." in parts or PurePosixPath(info.filename).is_absolute():
                    raise NotRecorded(
                        "bad-recording", f"{path} contains a path outside of the recording"
                    )
                archive.extract(info, directory)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise NotRecorded("bad-recording", f"{path} is not a recording: {error}") from error


def find_recordings(root: Path) -> list[Path]:
    """Every recording in a directory and below, by name; the directory itself if it is one.

    Raises:
        UsageError: The directory does not exist.
    """
    if root.is_file() or (root / "run.json").is_file():
        return [root]
    if not root.is_dir():
        raise UsageError(f"directory {root} not found")
    return sorted(_below(root))


def _below(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        if "run.json" in files:
            names.clear()  # no directory inside a run is a recording
            yield Path(directory)
        else:
            yield from (Path(directory) / name for name in files if name.endswith(ZIP))


def write_recording(record: RunRecord, target: Path, secrets: Iterable[str]) -> None:
    """Write the files that a replay needs into a directory, or into one file.

    Args:
        secrets: Texts to mask in logs, drafts and plans; the rest of the record is masked already.
        target: A file if it ends in ``.zip``; otherwise a directory, which must be new or empty.

    Raises:
        NotRecorded: The run can't be replayed.
        UsageError: It is still running, or the target exists.
        StoreError: It can't be written.
    """
    if holder_of(record) is not None:
        raise UsageError(f"run {record.run_id} is still running", hint="wait until it ends")
    if not record.offered.is_file():
        raise NotRecorded(
            "no-tools",
            f"the record of run {record.run_id} does not list the tools that were available",
            hint="an older version of fractale made it; run the plan again",
        )
    masker = Masker(secrets)
    about = {
        "version": 1,
        "run": record.run_id,
        "run_dir": str(record.path.absolute()),
        "exported_to": str(target.absolute().parent),
    }
    files = {str(path.relative_to(record.path)): path for path in _files(record.path)}
    try:
        if target.suffix == ZIP:
            _write_zip(target, files, about, masker)
        else:
            _write_directory(target, files, about, masker)
    except OSError as error:
        raise StoreError(f"the recording cannot be written to {target}: {error}") from error


def _files(directory: Path) -> Iterator[Path]:
    yield from (directory / name for name in FILES if (directory / name).is_file())
    for pattern in PATTERNS:
        yield from sorted(path for path in directory.glob(pattern) if path.is_file())


def _write_zip(
    target: Path, files: Mapping[str, Path], about: Mapping[str, Any], masker: Masker
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    descriptor = open_private(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with (
            os.fdopen(descriptor, "w+b") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            archive.writestr(ABOUT_FILE, to_json(about, indent=1))
            for name, path in files.items():
                with archive.open(name, "w", force_zip64=True) as place:
                    _copy(name, path, place, masker)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _copy(name: str, path: Path, place: IO[bytes], masker: Masker) -> None:
    """Copy a file; mask it in pieces unless it was masked before."""
    with path.open("rb") as source:
        if not masker or not name.startswith(UNMASKED):
            shutil.copyfileobj(source, place)
            return
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

        def write(text: str) -> None:
            place.write(text.encode("utf-8", "surrogateescape"))

        stream = masker.stream(write)
        while piece := source.read(BLOCK):
            stream.feed(decoder.decode(piece))
        stream.feed(decoder.decode(b"", final=True))
        stream.end()


def _write_directory(
    target: Path, files: Mapping[str, Path], about: Mapping[str, Any], masker: Masker
) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} already exists", hint="choose a new directory or FILE.zip")
    make_folder(target)
    for name, path in files.items():
        place = target / name
        make_folder(place.parent)
        descriptor = open_private(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(descriptor, "wb") as file:
            _copy(name, path, file, masker)
    write_private(target / ABOUT_FILE, to_json(about, indent=1), sync="none")
