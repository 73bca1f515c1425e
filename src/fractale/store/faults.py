"""What a database says when it cannot go on, as a `StoreError` that says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fractale.errors import StoreError

ELSEWHERE = "or set FRACTALE_STATE_DIR to another folder"
HINTS: Mapping[int, str] = {
    sqlite3.SQLITE_BUSY: f"another process is using it: try again when it is done, {ELSEWHERE}",
    sqlite3.SQLITE_LOCKED: f"another process is using it: try again when it is done, {ELSEWHERE}",
    sqlite3.SQLITE_READONLY: f"make it and its folder writable for you, {ELSEWHERE}",
    sqlite3.SQLITE_PERM: f"make it and its folder writable for you, {ELSEWHERE}",
    sqlite3.SQLITE_CANTOPEN: f"make it and its folder readable and writable for you, {ELSEWHERE}",
    sqlite3.SQLITE_FULL: f"free some space and resume the run, {ELSEWHERE}",
    sqlite3.SQLITE_IOERR: f"check the disk's space and health and resume the run, {ELSEWHERE}",
    sqlite3.SQLITE_CORRUPT: f"the file is damaged: put it back from a copy, {ELSEWHERE}; "
    "runs/ID/events.jsonl still tells what each run did",
    sqlite3.SQLITE_NOTADB: f"the file is damaged: put it back from a copy, {ELSEWHERE}; "
    "runs/ID/events.jsonl still tells what each run did",
}


@contextmanager
def sqlite_faults(
    path: Path, what: str = "checkpoints", *, writing: bool = False
) -> Generator[None]:
    """Turn what SQLite, or a value that it hands out, fails with into a `StoreError`.

    Args:
        what: What the file holds, for the message.
        writing: A value that does not fit is the writer's, and no damage of the file.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error, what) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        if writing:
            raise StoreError(f"a value cannot be kept in the {what}: {error}") from error
        # A damaged row can hold anything where a text, a number or JSON was written.
        damaged = sqlite3.DatabaseError(f"a row cannot be read ({error})")
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise unusable(path, damaged, what) from error


def cut_off(path: Path) -> sqlite3.DatabaseError:
    """What is wrong with a file that is too short to be a database."""
    error = sqlite3.DatabaseError(f"the file is cut off after {path.stat().st_size} bytes")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def unusable(path: Path, error: Exception, what: str = "checkpoints") -> StoreError:
    """The `StoreError` for what a database or its file failed with."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    hint = HINTS.get(code & 0xFF, f"check space and permissions, {ELSEWHERE}")
    return StoreError(f"cannot use the {what} in {path}: {error}", hint=hint)
