"""The trust store: files that the user agreed to, by their content.

These files may start programs and send data. The store is ``~/.config/fractale/trust.json``. An
entry is for one file (its real path) with one content (a SHA-256), so a changed, moved or copied
file must be agreed to again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from fractale.errors import SettingsError
from fractale.private import fault_of, locked, make_folder, open_private, write_private

TrustKind: TypeAlias = Literal["project", "plan", "registry", "run"]
"""The kind of an entry: a project's settings file, a plan, a registry file, a run's record."""

MAX_STORE: Final = 64 * 2**20
"""The maximum size of the store, in bytes."""


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustEntry:
    """One file that the user agreed to.

    Args:
        path: Absolute, without symbolic links.
        digest: SHA-256 of its content.
        at: When the user agreed, as UTC time such as ``2026-01-31T12:00:00Z``.
        shown: The text that the user was shown, without secrets. It allows reporting changes later.
    """

    kind: TrustKind
    path: str
    digest: str
    at: str
    shown: str = ""


class TrustStore:
    """The files that one user agreed to.

    Args:
        path: The store's file. It is made with the first entry (0600, its directory 0700).

    Every method raises `SettingsError` if the file is damaged, or another user owns it or may write
    to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """The store's file."""
        return self._path

    def holds(self, kind: TrustKind, path: Path | str, digest: str) -> bool:
        """Whether the user agreed to this file with this content."""
        return self.known(kind, path) == digest

    def known(self, kind: TrustKind, path: Path | str) -> str | None:
        """The content that the user agreed to last, as a digest; None if never."""
        found = self.find(kind, path)
        return found.digest if found else None

    def find(self, kind: TrustKind, path: Path | str) -> TrustEntry | None:
        """The entry of a file; None if the user never agreed to it."""
        return self._read().get((kind, os.path.realpath(path)))

    def add(self, kind: TrustKind, path: Path | str, digest: str, *, shown: str = "") -> None:
        """Record that the user agreed to a file with this content, replacing an earlier entry.

        Args:
            shown: The text that the user was shown, without secrets.

        Raises:
            SettingsError: The store cannot be written.
        """
        place = os.path.realpath(path)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = TrustEntry(kind=kind, path=place, digest=digest, at=now, shown=shown)

        def with_it(entries: _Entries) -> _Entries:
            return {**entries, (kind, place): entry}

        self._change(with_it)

    def remove(self, path: Path | str) -> int:
        """Remove all entries of a file, and of the files below it if it is a directory.

        Returns:
            How many there were.

        Raises:
            SettingsError: The store cannot be written.
        """
        place = os.path.realpath(path)
        gone: list[TrustEntry] = []

        def without(entries: _Entries) -> _Entries:
            below = place.rstrip("/") + "/"
            gone.extend(e for e in entries.values() if f"{e.path}/".startswith(below))
            return {key: entry for key, entry in entries.items() if entry not in gone}

        self._change(without)
        return len(gone)

    def entries(self) -> list[TrustEntry]:
        """All entries, by kind and path."""
        return [entry for _, entry in sorted(self._read().items())]

    def _change(self, change: Callable[[_Entries], _Entries]) -> None:
        try:
            make_folder(self._path.parent)
            self._check_folder()
            with locked(self._path.with_name(f"{self._path.name}.lock")):
                kept = change(self._read())
                rows = [asdict(entry) for _, entry in sorted(kept.items())]
                text = json.dumps({"version": 1, "entries": rows}, indent=1)
                write_private(self._path, f"{text}\n")
        except OSError as error:
            raise SettingsError(
                f"cannot write {self._path}: {error.strerror or error}",
                hint="check free space and permissions of the directory",
            ) from error

    def _check_folder(self) -> None:
        if why := fault_of(self._path.parent.stat()):
            raise _refused(self._path.parent, why)

    def _read(self) -> _Entries:
        try:
            with os.fdopen(open_private(self._path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                self._check_folder()
                if why := fault_of(os.fstat(file.fileno())):
                    raise _refused(self._path, why)
                data = file.read(MAX_STORE + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            why = error.strerror or str(error)
            raise SettingsError(f"cannot read {self._path}: {why}") from error
        try:
            return _entries(data)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise SettingsError(
                f"{self._path} is damaged: {error}",
                hint=f"remove it with `rm {self._path}`: fractale then asks you again",
            ) from error


_Entries: TypeAlias = dict[tuple[str, str], TrustEntry]


def _entries(data: bytes) -> _Entries:
    if len(data) > MAX_STORE:
        raise ValueError(f"larger than {MAX_STORE // 2**20} MiB")
    found: Any = json.loads(data)
    entries = [TrustEntry(**row) for row in found["entries"]]
    for entry in entries:
        texts = cast("Mapping[str, Any]", asdict(entry)).values()
        if not all(isinstance(text, str) for text in texts) or entry.kind not in get_args(
            TrustKind
        ):
            raise ValueError("an entry is not valid")
    return {(entry.kind, entry.path): entry for entry in entries}


def _refused(path: Path, why: str) -> SettingsError:
    return SettingsError(
        f"{path} is not used: {why}",
        hint=f"check its content, then: chmod go-w {path}",
    )
