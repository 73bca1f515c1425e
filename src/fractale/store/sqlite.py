"""Common code of all SQLite files: errors with hints, and versions of the layout.

SQLite keeps a number for its user in the file's header (``PRAGMA user_version``). A file has
version n when the first n changes of its list were made to it; a new file has version 0.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fractale.errors import StoreError

ELSEWHERE = "or set FRACTALE_STATE_DIR to another directory"
DAMAGED = (
    "the file is damaged: restore it from a copy, or remove it; events.jsonl in runs/ID still "
    "has what each run did"
)
HINTS: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: f"another process is using it: try again when it is done, {ELSEWHERE}",
    sqlite3.SQLITE_LOCKED: f"another process is using it: try again when it is done, {ELSEWHERE}",
    sqlite3.SQLITE_READONLY: f"make it and its directory writable for you, {ELSEWHERE}",
    sqlite3.SQLITE_PERM: f"make it and its directory writable for you, {ELSEWHERE}",
    sqlite3.SQLITE_CANTOPEN: f"make it and its directory readable and writable, {ELSEWHERE}",
    sqlite3.SQLITE_FULL: f"free some space and resume the run, {ELSEWHERE}",
    sqlite3.SQLITE_IOERR: f"check the disk's space and health and resume the run, {ELSEWHERE}",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
}


@contextmanager
def sqlite_errors(
    path: Path, what: str = "checkpoints", *, writing: bool = False
) -> Generator[None]:
    """Turn errors of SQLite, or of reading a value that it returned, into a `StoreError`.

    Args:
        what: The file's content, for the message.
        writing: Whether a value of a wrong type is the caller's error, not a sign of damage.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _store_error(path, error, what) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        if writing:
            raise StoreError(f"a value cannot be kept in the {what}: {error}") from error
        # A damaged row can have anything instead of a text, a number or JSON.
        raise _store_error(path, damage(f"a row cannot be read ({error})"), what) from error


def damage(words: str) -> sqlite3.DatabaseError:
    """An error as SQLite raises it for a damaged file."""
    error = sqlite3.DatabaseError(words)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _store_error(path: Path, error: Exception, what: str) -> StoreError:
    code = getattr(error, "sqlite_errorcode", None) or 0
    hint = HINTS.get(code & 0xFF, f"check space and permissions, {ELSEWHERE}")
    return StoreError(f"cannot use the {what} in {path}: {error}", hint=hint)


Change = Sequence[str]
"""The statements that bring a file from one version to the next."""


def migrate(connection: sqlite3.Connection, changes: Sequence[Change], what: str) -> int:
    """Make the changes that a file does not have yet, all of them or none.

    Args:
        connection: To the file; in no transaction.
        changes: The first brings version 0 to 1.
        what: The file, for messages.

    Returns:
        How many changes were made.

    Raises:
        StoreError: A newer fractale wrote the file.
        sqlite3.Error: The file cannot be written, or is damaged.
    """
    if (version := _version(connection, what, len(changes))) == len(changes):
        return 0
    connection.isolation_level = None
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been quicker.
        version = _version(connection, what, len(changes))
        for change in changes[version:]:
            for statement in change:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(changes)}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return len(changes) - version


def _version(connection: sqlite3.Connection, what: str, newest: int) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not 0 <= version <= newest:
        raise StoreError(
            f"{what} has version {version} of its layout, this fractale knows up to {newest}",
            hint="install the newer fractale, or set FRACTALE_STATE_DIR to another directory",
        )
    return version
