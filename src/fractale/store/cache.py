"""The results of steps that other runs may take over: one file for each, under its key.

    cache/secret                 random bytes, with which every key is hashed
    cache/GROUP/KEY.json         one result; GROUP is the kind of step with what it calls
    cache/locks/KEY              the lock of a result that is being computed

The names of files and the hashes in them are worthless without the secret.
Reading takes no lock: a file is replaced whole. A file that is damaged, or that another user could
have written, is as good as none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from fractale.errors import CHECK_SPACE, StoreError
from fractale.plain import to_json
from fractale.private import NO_LOCKS, fault_of, make_folder, open_private, write_private

CACHE: Final = "cache"
"""The directory of the results, in the state directory."""

VERSION: Final = 1
"""Of the form of an entry. An entry of another version is as good as none."""

MOST_BYTES: Final = 64 * 2**20
"""The largest entry that is kept."""

MOST_COMPARED: Final = 200
"""The entries of a group, the latest ones, that are compared with a step that was not found."""

_SECRET: Final = "secret"  # noqa: S105 - the name of a file
_LOCKS: Final = "locks"
_HASH: Final = 40
_PART_HASH: Final = 16
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One result.

    Args:
        key: Of all parts together.
        group: Of the kind of step and what it calls: only entries of one group are compared.
        run: The run that computed it, and `plan` and `step` in it.
        at: Unix time in seconds.
        parts: Name → hash of each part of the key.
        result: As JSON, see `fractale.graph.reuse`.
        files: Path → checksum of each file that the result names.
    """

    key: str
    group: str
    run: str
    plan: str
    step: str
    at: float
    parts: Mapping[str, str]
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class CacheSize:
    """The number of results, their bytes on the disk, and the age of the oldest in seconds."""

    entries: int
    bytes: int
    oldest: float


class CacheStore:
    """The results of one state directory.

    Args:
        state_dir: The state directory, which need not exist.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / CACHE
        self._secret: bytes | None = None

    # -- keys -----------------------------------------------------------------------------------

    def hash_of(self, value: Any, length: int = _PART_HASH) -> str:
        """The hash of a JSON value, which only this state directory makes.

        Raises:
            StoreError: The secret cannot be read or made.
        """
        text = to_json(value, compact=True).encode()
        return hmac.new(self._own_secret(), text, hashlib.sha256).hexdigest()[:length]

    def key_of(self, parts: Mapping[str, str]) -> str:
        """The key of all parts together.

        Args:
            parts: Name → hash.
        """
        return self.hash_of(sorted(parts.items()), _HASH)

    def _own_secret(self) -> bytes:
        if self._secret is None:
            path = self.path / _SECRET
            try:
                self._secret = _read_private(path) or self._new_secret(path)
            except OSError as error:
                raise StoreError(f"cannot use {path}: {error}", hint=CHECK_SPACE) from error
        return self._secret

    def _new_secret(self, path: Path) -> bytes:
        """Make the secret, unless another process makes it first.

        Raises:
            OSError: It cannot be written, or is not the user's own.
        """
        make_folder(self.path)
        mine = path.with_name(f".{_SECRET}.{secrets.token_hex(8)}")
        write_private(mine, secrets.token_bytes(_SECRET_BYTES))
        try:
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(mine)
        finally:
            mine.unlink()
        found = _read_private(path)
        if not found or len(found) != _SECRET_BYTES:
            raise PermissionError("it is damaged, or another user could have written it")
        return found

    # -- entries --------------------------------------------------------------------------------

    def _file(self, group: str, key: str) -> Path:
        return self.path / group / f"{key}.json"

    def find(self, group: str, key: str) -> Entry | None:
        """The result of a key; None if there is none that can be used."""
        return self._read(self._file(group, key))

    def _read(self, path: Path) -> Entry | None:
        try:
            data = _read_private(path)
            found = json.loads(data) if data else None
        except (OSError, ValueError, RecursionError):
            return None
        table = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        body: Any = table.get("entry")
        if table.get("version") != VERSION or not isinstance(body, dict):
            return None
        try:
            if not hmac.compare_digest(self._sum_of(body), str(table.get("sum"))):
                return None
            entry = Entry(**cast("dict[str, Any]", body))
        except (TypeError, StoreError):
            return None
        return entry if self._file(entry.group, entry.key) == path else None

    def _sum_of(self, body: Any) -> str:
        return self.hash_of(body, _HASH)

    def keep(self, entry: Entry) -> bool:
        """Keep a result; returns False if it is too large.

        Raises:
            StoreError: It cannot be written.
        """
        body = asdict(entry)
        text = to_json({"version": VERSION, "sum": self._sum_of(body), "entry": body})
        data = text.encode()
        if len(data) > MOST_BYTES:
            return False
        path = self._file(entry.group, entry.key)
        try:
            make_folder(path.parent)
            write_private(path, data)
        except OSError as error:
            raise StoreError(f"cannot keep a result in {path}: {error}") from error
        return True

    def near(self, group: str) -> Iterator[Entry]:
        """The latest results of a group, the latest first."""
        for path, _ in sorted(self._files(group), key=lambda f: -f[1].st_mtime)[:MOST_COMPARED]:
            if (entry := self._read(path)) is not None:
                yield entry

    # -- the whole ------------------------------------------------------------------------------

    def _files(self, group: str) -> list[tuple[Path, os.stat_result]]:
        found: list[tuple[Path, os.stat_result]] = []
        with contextlib.suppress(OSError), os.scandir(self.path / group) as files:
            for file in files:
                if file.name.endswith(".json") and not file.name.startswith("."):
                    with contextlib.suppress(OSError):
                        found.append((Path(file.path), file.stat(follow_symlinks=False)))
        return found

    def _all(self) -> Iterator[tuple[Path, os.stat_result]]:
        try:
            groups = sorted(each.name for each in self.path.iterdir() if each.is_dir())
        except OSError:
            return
        for group in groups:
            yield from () if group == _LOCKS else self._files(group)

    def size(self, *, older: float = 0.0) -> CacheSize:
        """The size of all results, or of those that are older than some seconds."""
        now = time.time()
        ages = [(now - stat.st_mtime, stat.st_size) for _, stat in self._all()]
        chosen = [each for each in ages if each[0] >= older]
        oldest = max((age for age, _ in chosen), default=0.0)
        return CacheSize(len(chosen), sum(size for _, size in chosen), oldest)

    def prune(self, *, older: float = 0.0) -> CacheSize:
        """Remove the results that are older than some seconds; returns what was removed.

        Raises:
            StoreError: One of them cannot be removed.
        """
        now, count, total, oldest = time.time(), 0, 0, 0.0
        for path, stat in self._all():
            age = now - stat.st_mtime
            if age < older:
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"cannot remove {path}: {error}") from error
            count, total, oldest = count + 1, total + stat.st_size, max(oldest, age)
        with contextlib.suppress(OSError):
            for path in (self.path / _LOCKS).iterdir():  # those that killed processes left
                with KeyLock(path) as lock:
                    lock.try_acquire()
        return CacheSize(count, total, oldest)

    def lock(self, key: str) -> KeyLock:
        """The lock of a result that is being computed."""
        return KeyLock(self.path / _LOCKS / key)


class KeyLock:
    """The right to compute the result of a key; others wait for the result instead.

    It is the kernel's lock on a file, so it ends with its process. The file is removed when the
    lock is released: who has waited for it looks whether its file still has the name.

    Args:
        path: The file of the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; on a file system without locks it always is.

        Raises:
            StoreError: The file cannot be made.
        """
        while True:
            try:
                make_folder(self._path.parent)
                descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise StoreError(f"cannot lock {self._path}: {error}", hint=CHECK_SPACE) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(descriptor)
                return False
            except OSError as error:
                os.close(descriptor)
                if error.errno in NO_LOCKS:
                    return True
                raise StoreError(f"cannot lock {self._path}: {error}") from error
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == os.fstat(descriptor).st_ino:
                    self._descriptor = descriptor
                    return True
            os.close(descriptor)

    def release(self) -> None:
        """Let others compute it; do nothing if the lock is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _read_private(path: Path) -> bytes | None:
    """The content of a file of the user's own; None if it is missing.

    Raises:
        OSError: It cannot be read.
        PermissionError: Another user could have written it.
    """
    try:
        descriptor = open_private(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if fault := fault_of(os.fstat(file.fileno())):
            raise PermissionError(fault)
        return file.read()
