"""Opening LangGraph's checkpoints in a SQLite file, as safely as its file system allows."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiosqlite

from fractale.errors import StoreError
from fractale.private import make_folder, touch_private
from fractale.store.faults import cut_off, sqlite_faults
from fractale.store.filesystem import FileSystem, file_system
from fractale.store.locks import FileLock
from fractale.store.schema import migrate
from fractale.store.sqlite_layout import CHANGES
from fractale.store.sqlite_saver import SqliteSaver
from fractale.store.wal import check_wal

SMALLEST = 512
"""Bytes of a page of SQLite, at the least."""
LOCK_WAIT = 30.0
"""Seconds to wait for another process that is writing."""


@asynccontextmanager
async def open_sqlite(
    path: Path, *, wait: float = LOCK_WAIT, mountinfo: str | None = None
) -> AsyncGenerator[SqliteSaver]:
    """The checkpoints in a SQLite file, made with its folder (0700, file 0600) if not there.

    On a file system of this machine it uses a write-ahead log; on a network file system a
    rollback journal, and a lock beside the file that lets one process at a time use it.

    Args:
        wait: Seconds to wait for another process that is writing.
        mountinfo: The machine's mounts, see `fractale.store.filesystem`.

    Yields:
        A saver that LangGraph can use.

    Raises:
        StoreError: The file cannot be made, opened or locked, or is no database of ours.
    """
    place = file_system(path, mountinfo)
    with ExitStack() as stack:
        await asyncio.to_thread(_prepare, path, place, wait, stack)
        with sqlite_faults(path):
            connection = await aiosqlite.connect(path, timeout=wait)
        try:
            with sqlite_faults(path):
                await connection.executescript(_pragmas(place))
            saver = SqliteSaver(connection, path)
        except BaseException:
            await connection.close()
            raise
        try:
            yield saver
        finally:
            await saver.close()


def _prepare(path: Path, place: FileSystem, wait: float, stack: ExitStack) -> None:
    """Make the file where it is not there, and bring its layout up to date."""
    with sqlite_faults(path):
        make_folder(path.parent)
    if place.network:
        stack.enter_context(_lock(path, place))
    with sqlite_faults(path):
        if not path.exists():
            _make(path, place, wait)
        if path.stat().st_size < SMALLEST:
            # SQLite would take it for a new one.
            raise cut_off(path)
    check_wal(path)
    _set_up(path, place, wait)


def _make(path: Path, place: FileSystem, wait: float) -> None:
    """Make the file under another name first: under its own it is whole from the start.

    It has no write-ahead log yet: on a full disk, what is in that would stay behind.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    touch_private(part)
    try:
        _set_up(part, place, wait, journal="DELETE")
        with suppress(FileExistsError):  # another process was quicker
            _give_name(part, path)
    finally:
        for tail in ("", "-journal"):
            Path(f"{part}{tail}").unlink(missing_ok=True)


def _give_name(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        part.rename(path)


def _set_up(path: Path, place: FileSystem, wait: float, journal: str | None = None) -> None:
    journal = journal or ("DELETE" if place.network else "WAL")
    with sqlite_faults(path):
        connection = sqlite3.connect(path, timeout=wait, isolation_level=None)
        try:
            if not path.stat().st_size:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.executescript(_pragmas(place))
            connection.execute(f"PRAGMA journal_mode = {journal}")
            migrate(connection, CHANGES, str(path))
        finally:
            connection.close()


def _pragmas(place: FileSystem) -> str:
    """Every commit is on the disk when it returns; triggers also see rows that are replaced."""
    shared = "PRAGMA recursive_triggers = ON; PRAGMA synchronous = FULL;"
    if not place.network:
        return shared
    # With the file locked for good, SQLite needs no memory shared between machines.
    return f"PRAGMA locking_mode = EXCLUSIVE; {shared} PRAGMA synchronous = EXTRA;"


def _lock(path: Path, place: FileSystem) -> FileLock:
    """The lock that lets one process at a time use a file on a network file system."""
    ways = (
        "set FRACTALE_STATE_DIR to a folder on a disk of this machine, or FRACTALE_STORE to a "
        "PostgreSQL server"
    )
    if not place.locks_everywhere:
        raise StoreError(
            f"{path} is on {place.kind} ({place.mount}), mounted so that locks do not reach "
            "other machines",
            hint=ways,
        )
    return FileLock(
        path.with_name(f"{path.name}.lock"),
        f"{path}, on a network file system ({place.kind}) and so for one process at a time,",
        hint=f"wait until it is done, {ways}",
    )
