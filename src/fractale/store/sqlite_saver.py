"""LangGraph's SQLite saver on one file, opened as safely as its file system allows.

Each value and row has a checksum: `fractale.store.integrity` says what is detected and how.

The disk confirms each transaction, so their number decides what a step costs. LangGraph hands over
the writes of a task when it ends, and right after the last task of a step the step's checkpoint. So
writes wait for `TOGETHER` seconds: the checkpoint, or the writes of other tasks, that come in that
time are in the same transaction. A killed process loses the writes that waited. Their tasks run
again then, and find their calls in the journal.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from fractale.errors import StoreError
from fractale.private import fault_of, make_folder, write_private
from fractale.store.filesystem import FileSystem, file_system
from fractale.store.integrity import (
    HEAD,
    HEADS,
    REPAIR,
    check_wal,
    head_of,
    seal_checkpoint,
    seal_writes,
    unseal,
)
from fractale.store.locks import FileLock
from fractale.store.serializer import StrictSerializer
from fractale.store.sqlite import damage, migrate, sqlite_errors

T = TypeVar("T")

LOCK_WAIT = 30.0
"""Seconds to wait for another process that is writing."""
TOGETHER = 0.005
"""Seconds for which the writes of a task wait for a checkpoint, or for other writes."""
PAGE_BYTES = 1024
"""Pages are small, since most runs are short: one step takes 17 KB, and 40 take 8 KB per step."""
TAILS = ("", "-wal", "-shm", "-journal")
"""The ends of the names of a database and of SQLite's files beside it."""
SMALLEST = 512
"""The smallest page size of SQLite, in bytes."""

_LANGGRAPH = (
    """CREATE TABLE IF NOT EXISTS checkpoints (
        thread_id TEXT NOT NULL,
        checkpoint_ns TEXT NOT NULL DEFAULT '',
        checkpoint_id TEXT NOT NULL,
        parent_checkpoint_id TEXT,
        type TEXT,
        checkpoint BLOB,
        metadata BLOB,
        PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id))""",
    """CREATE TABLE IF NOT EXISTS writes (
        thread_id TEXT NOT NULL,
        checkpoint_ns TEXT NOT NULL DEFAULT '',
        checkpoint_id TEXT NOT NULL,
        task_id TEXT NOT NULL,
        task_path TEXT NOT NULL DEFAULT '',
        idx INTEGER NOT NULL,
        channel TEXT NOT NULL,
        type TEXT,
        value BLOB,
        PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx))""",
)
"""The same tables as LangGraph 1.2 makes: its own saver can use the file, too."""

CHANGES = ((*_LANGGRAPH, *HEADS),)
"""The changes from a new file, or one of fractale 0.2.0 or LangGraph, to version 1."""

STORED = """SELECT checkpoint FROM checkpoints WHERE thread_id = ?
    UNION ALL SELECT value FROM writes WHERE thread_id = ?"""

SIZES = """SELECT thread_id, sum(size) FROM (
        SELECT thread_id, length(checkpoint) + length(metadata) AS size FROM checkpoints
        UNION ALL SELECT thread_id, length(value) FROM writes)
    GROUP BY thread_id"""

_COLUMNS = {
    "checkpoints": "thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, "
    "checkpoint, metadata",
    "writes": "thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, "
    "value",
}
COPY_THREAD = tuple(
    f"INSERT INTO target.{table} ({columns}) SELECT {columns} FROM main.{table} "  # noqa: S608
    "WHERE thread_id = ?"
    for table, columns in _COLUMNS.items()
)
"""Statements that copy a thread; the target's triggers keep its table ``heads``."""


PUT, PUT_WRITE, PUT_SPECIAL = (
    f"INSERT OR {rule} INTO {table} ({_COLUMNS[table]}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(_COLUMNS[table].split(',')))})"
    for rule, table in (("REPLACE", "checkpoints"), ("IGNORE", "writes"), ("REPLACE", "writes"))
)
"""Of a task's results, the first count; of its questions, answers and errors, the latest do."""


class Connection(aiosqlite.Connection):
    """A connection whose thread can do several things at once."""

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in the connection's thread."""
        return cast("T", await self._execute(work, self._conn))


Change: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]
"""A statement, and the rows to make it with."""


def _transact(changes: Sequence[Change], connection: sqlite3.Connection) -> None:
    """Make changes in one transaction."""
    try:
        for statement, rows in changes:
            connection.executemany(statement, rows)
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


@dataclass(slots=True)
class _Waiting:
    """Writes that are not in the file yet.

    Args:
        done: Ends when they are in the file, or with the error that kept them out.
        threads: The threads that they belong to, with the namespaces of checkpoints.
    """

    done: asyncio.Future[None]
    rows: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])
    threads: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def end(self, transaction: asyncio.Future[None]) -> None:
        """Pass the end of the transaction on to all that wait for it."""
        if self.done.done():
            return
        error = None if transaction.cancelled() else transaction.exception()
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
            self.done.exception()  # perhaps no one waits any more


class SqliteSaver(AsyncSqliteSaver):
    """LangGraph's saver on a file that `open_sqlite` prepared.

    Every method raises `StoreError` if the file is damaged or cannot be used.
    """

    conn: Connection

    def __init__(self, connection: Connection, path: Path) -> None:
        super().__init__(connection, serde=StrictSerializer())
        self._path = path
        self._checked = False
        self._closed = False
        self._turn = asyncio.Lock()
        self._waiting: _Waiting | None = None
        self._later: set[asyncio.Task[None]] = set()
        self.is_setup = True

    async def setup(self) -> None:
        """Do nothing: LangGraph's own would force the write-ahead log."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        fields = config.get("configurable", {})
        thread = (str(fields["thread_id"]), str(fields.get("checkpoint_ns", "")))
        if self._waiting and thread in self._waiting.threads:
            await self._commit()
        with sqlite_errors(self._path):
            found = await super().aget_tuple(config)
            await self._check_found(config, found)
            return unseal(found) if found else None

    async def _check_found(self, config: RunnableConfig, found: CheckpointTuple | None) -> None:
        """Compare the found checkpoint with the table ``heads``."""
        fields = config.get("configurable", {})
        asked = get_checkpoint_id(config)
        thread = (str(fields["thread_id"]), str(fields.get("checkpoint_ns", "")))
        rows = await self._rows(HEAD, thread)
        head = tuple(rows[0]) if rows else None
        if asked and (head is None or asked != head[0]):
            await self._check_file()
        elif head != head_of(found):
            await self._check_file()
            await self._write(REPAIR, thread)

    async def _check_file(self) -> None:
        """Have SQLite check the whole file, once for as long as it is open.

        Raises:
            sqlite3.DatabaseError: It is damaged.
        """
        if self._checked:
            return
        rows = await self._rows("PRAGMA integrity_check(1)")
        if (said := str(rows[0][0])) != "ok":
            raise damage(said.splitlines()[-1])
        self._checked = True

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        await self._commit()
        rows = super().alist(config, filter=filter, before=before, limit=limit)
        with sqlite_errors(self._path):
            await self._check_file()
            async with aclosing(cast("AsyncGenerator[CheckpointTuple]", rows)) as found_ones:
                async for found in found_ones:
                    yield unseal(found)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        del new_versions
        with sqlite_errors(self._path, writing=True):
            sealed = seal_checkpoint(config, checkpoint, metadata)
            fields = config.get("configurable", {})
            thread, namespace = str(fields["thread_id"]), str(fields["checkpoint_ns"])
            words = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False)
            row = (
                *(thread, namespace, checkpoint["id"], fields.get("checkpoint_id")),
                *self.serde.dumps_typed(sealed),
                words.encode("utf-8", "ignore"),
            )
        await self._commit((PUT, [row]))
        own = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}
        return cast("RunnableConfig", {"configurable": own})

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep the writes of a task; do nothing if the saver is closed.

        LangGraph records that a task was cancelled in a write that it doesn't wait for.
        """
        if self._closed or not writes:
            return
        with sqlite_errors(self._path, writing=True):
            fields = config.get("configurable", {})
            thread = (str(fields["thread_id"]), str(fields["checkpoint_ns"]))
            where = (*thread, str(fields["checkpoint_id"]), task_id, task_path)
            sealed = seal_writes(config, writes, task_id, task_path)
            rows = [
                (*where, WRITES_IDX_MAP.get(name, place), name, *self.serde.dumps_typed(value))
                for place, (name, value) in enumerate(sealed)
            ]
        if all(name in WRITES_IDX_MAP for name, _ in writes):
            await self._commit((PUT_SPECIAL, rows))
        else:
            await self._commit_together(thread, rows)

    async def _commit_together(self, thread: tuple[str, str], rows: list[tuple[Any, ...]]) -> None:
        """Keep the writes of a task in the next transaction, which begins soon."""
        if self._waiting is None:
            self._waiting = _Waiting(asyncio.get_running_loop().create_future())
            later = asyncio.create_task(self._commit_soon(self._waiting))
            self._later.add(later)
            later.add_done_callback(self._later.discard)
        waiting = self._waiting
        waiting.rows += rows
        waiting.threads.add(thread)
        with sqlite_errors(self._path, writing=True):
            await asyncio.shield(waiting.done)

    async def _commit_soon(self, waiting: _Waiting) -> None:
        await asyncio.sleep(TOGETHER)
        if self._waiting is waiting:
            with suppress(StoreError):  # those who wait for it raise it
                await self._commit()

    async def _commit(self, *changes: Change) -> None:
        """Make changes in one transaction with the writes that wait: all of them, or none.

        If the caller is cancelled, the transaction is completed all the same.
        """
        async with self._turn, self.lock:
            waiting, self._waiting = self._waiting, None
            if waiting:
                changes = ((PUT_WRITE, waiting.rows), *changes)
            if not changes:
                return
            transaction = asyncio.ensure_future(self.conn.do(partial(_transact, changes)))
            if waiting:
                transaction.add_done_callback(waiting.end)
            with sqlite_errors(self._path, writing=True):
                await asyncio.shield(transaction)

    async def adelete_thread(self, thread_id: str) -> None:
        await self._commit()
        async with self._writing():
            await super().adelete_thread(thread_id)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """LangGraph's general implementation, which uses `aget_tuple` and so sees no seals."""
        return await BaseCheckpointSaver[str].aget_delta_channel_history(
            self, config=config, channels=channels
        )

    async def has(self, thread_id: str) -> bool:
        """Whether the file has a checkpoint of a thread."""
        with sqlite_errors(self._path):
            return bool(await self._rows("SELECT 1 FROM heads WHERE thread_id = ?", (thread_id,)))

    async def stored(self, thread_id: str) -> list[Any]:
        """The values of a thread's checkpoints and writes as they are in the file."""
        await self._commit()
        with sqlite_errors(self._path):
            return [row[0] for row in await self._rows(STORED, (thread_id, thread_id))]

    async def sizes(self) -> Mapping[str, int]:
        """The size of each thread's checkpoints in bytes."""
        await self._commit()
        with sqlite_errors(self._path):
            return {str(thread): int(size) for thread, size in await self._rows(SIZES)}

    async def copy_rows(self, thread_id: str, target: Path) -> None:
        """Copy a thread's rows into a file that has the same tables, after a check of this one."""
        await self._commit()
        with sqlite_errors(self._path):
            await self._check_file()
            async with self._turn, self.lock:
                await self.conn.execute("ATTACH DATABASE ? AS target", (str(target),))
                try:
                    for copy in COPY_THREAD:
                        await self.conn.execute(copy, (thread_id,))
                    await self.conn.commit()
                finally:
                    await self.conn.rollback()
                    await self.conn.execute("DETACH DATABASE target")

    async def reclaim(self) -> None:
        """Return free pages to the disk; a file of fractale 0.2.0 only uses them again."""
        await self._commit()
        with sqlite_errors(self._path):
            async with self.lock:
                # As a script: a single execute would stop after the first page.
                await self.conn.executescript("PRAGMA incremental_vacuum;")
            await self._rows("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        async with self.lock, self.conn.execute(query, values) as cursor:
            return list(await cursor.fetchall())

    async def _write(self, statements: Sequence[str], values: Sequence[Any]) -> None:
        async with self._writing(), self.lock:
            for statement in statements:
                await self.conn.execute(statement, values)
            await self.conn.commit()

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[None]:
        """A change is made completely or not at all, also if it fails or is cancelled."""
        with sqlite_errors(self._path, writing=True):
            async with self._turn:
                try:
                    yield
                except BaseException:
                    await self.conn.rollback()
                    raise

    async def close(self) -> None:
        """Close the file after the changes in progress.

        If SQLite is closed within a change, it keeps its lock for as long as anything refers to it.
        """
        self._closed = True
        try:
            with suppress(StoreError):  # those who wait for it raise it
                await self._commit()
        finally:
            await self.conn.close()


# -- opening ---------------------------------------------------------------------------------------


@asynccontextmanager
async def open_sqlite(
    path: Path, *, wait: float = LOCK_WAIT, wait_for_lock: float = 0.0, mountinfo: str | None = None
) -> AsyncGenerator[SqliteSaver]:
    """The checkpoints in a SQLite file; a new file has mode 0600, a new directory 0700.

    On a file system of this machine the file has a write-ahead log. On a network file system it
    has a rollback journal, and a lock file beside it lets one process at a time use it.

    Args:
        wait: Seconds to wait for another process that is writing.
        wait_for_lock: Seconds to wait for the lock file.
        mountinfo: The machine's mounts, see `fractale.store.filesystem`.

    Raises:
        StoreError: The file cannot be made, opened or locked, or is not a database of fractale.
    """
    system = file_system(path, mountinfo)
    with ExitStack() as stack:
        await asyncio.to_thread(_prepare, path, system, wait, wait_for_lock, stack)
        with sqlite_errors(path):
            connection = Connection(lambda: sqlite3.connect(path, timeout=wait), 64)
            await connection
        try:
            with sqlite_errors(path):
                await connection.executescript(_pragmas(system))
            saver = SqliteSaver(connection, path)
        except BaseException:
            await connection.close()
            raise
        try:
            yield saver
        finally:
            await saver.close()


def _prepare(
    path: Path, system: FileSystem, wait: float, wait_for_lock: float, stack: ExitStack
) -> None:
    """Make the file if it is missing, and bring its layout up to date."""
    with sqlite_errors(path):
        make_folder(path.parent)
    if system.network:
        stack.enter_context(_lock(path, system, wait_for_lock))
    with sqlite_errors(path):
        _check_owner(path)
        if not path.exists():
            with new_file(path, system) as part:
                publish(part, path)
            return
        if (size := path.stat().st_size) < SMALLEST:
            # SQLite would treat it as a new one.
            raise damage(f"the file is cut off after {size} bytes")
    check_wal(path)
    with sqlite_errors(path), closing(sqlite3.connect(path, timeout=wait)) as connection:
        connection.executescript(_pragmas(system))
        connection.execute(f"PRAGMA journal_mode = {_journal(system)}")
        migrate(connection, CHANGES, str(path))


def _check_owner(path: Path) -> None:
    """Refuse files that another user could have put there: SQLite follows symbolic links.

    Raises:
        StoreError: The file or one beside it is a link, or is not the user's own.
    """
    for tail in TAILS:
        with suppress(FileNotFoundError):
            found = Path(f"{path}{tail}").lstat()
            link = stat.S_ISLNK(found.st_mode)
            if why := "it is a symbolic link" if link else fault_of(found):
                raise StoreError(f"{path}{tail} is not used: {why}", hint="remove it, or the run")


@contextmanager
def new_file(path: Path, system: FileSystem) -> Generator[Path]:
    """A file with empty tables under another name, until `publish` gives it its final name.

    So a file is complete when it appears under its final name, and only its content is synced.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        write_private(part, _empty(_journal(system)), sync="none")
        yield part
    finally:
        for tail in TAILS:
            Path(f"{part}{tail}").unlink(missing_ok=True)


@cache
def _empty(journal: str) -> bytes:
    """The content of a file with empty tables: SQLite makes it once, and each run gets a copy."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        migrate(connection, CHANGES, "a new file")
        made = bytearray(connection.serialize())
    # A database in memory has no log, so the form of the journal is set in the file's header:
    # https://www.sqlite.org/fileformat2.html#file_format_version_numbers
    made[18:20] = b"\2\2" if journal == "WAL" else b"\1\1"
    return bytes(made)


def publish(part: Path, path: Path) -> None:
    """Give a new file its final name; if another process made that file first, its file stays."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(part, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        part.rename(path)


def remove_file(path: Path) -> None:
    """Remove a file of checkpoints that no process uses, its log first."""
    with sqlite_errors(path):
        for tail in reversed(TAILS):
            Path(f"{path}{tail}").unlink(missing_ok=True)


def _journal(system: FileSystem) -> str:
    return "DELETE" if system.network else "WAL"


def _pragmas(system: FileSystem) -> str:
    """Every commit is on the disk when it returns; triggers also run for rows that are replaced."""
    shared = "PRAGMA recursive_triggers = ON; PRAGMA synchronous = FULL;"
    if not system.network:
        return shared
    # With the file locked permanently, SQLite needs no memory shared between machines.
    return f"PRAGMA locking_mode = EXCLUSIVE; {shared} PRAGMA synchronous = EXTRA;"


def _lock(path: Path, system: FileSystem, wait: float) -> FileLock:
    """The lock that lets one process at a time use a file on a network file system."""
    ways = (
        "set FRACTALE_STATE_DIR to a directory on a disk of this machine, or FRACTALE_STORE to a "
        "PostgreSQL server"
    )
    if not system.locks_everywhere:
        raise StoreError(
            f"{path} is on {system.kind} ({system.mount}), mounted so that locks do not reach "
            "other machines",
            hint=ways,
        )
    return FileLock(
        path.with_name(f"{path.name}.lock"),
        f"{path}, on a network file system ({system.kind}) and so for one process at a time,",
        hint=f"wait until it is done, {ways}",
        wait=wait,
    )
