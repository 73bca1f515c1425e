"""LangGraph's SQLite saver, with sums over all that counts.

SQLite finds most damage of its structure when it comes across it, but not a bit that changed in
a value or in a key, by which a row would be another row or not be found. So every value and row
has a sum (`fractale.store.seals`), and the table ``heads`` says which checkpoint is a thread's
latest and how many writes wait beside it. Triggers keep it in the same transaction. Where it
does not fit what is found, and before older checkpoints are read, SQLite checks the whole file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
)
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from fractale.store.faults import sqlite_faults
from fractale.store.saving import RunSaver, references_in
from fractale.store.seals import seal_checkpoint, seal_writes, unseal
from fractale.store.serializer import StrictSerializer
from fractale.store.sqlite_layout import HEAD, REPAIR, SIZES, STORED


class SqliteSaver(AsyncSqliteSaver, RunSaver):
    """LangGraph's saver on a file that `fractale.store.sqlite` prepared.

    Every method raises `StoreError` where the file is damaged or can't be used.
    """

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        super().__init__(connection, serde=StrictSerializer())
        self._path = path
        self._checked = False
        self._closed = False
        self._turn = asyncio.Lock()
        self.is_setup = True

    async def setup(self) -> None:
        """Nothing is left to do: LangGraph's own would force the write-ahead log."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint, or a thread's latest; None if there is none."""
        with sqlite_faults(self._path):
            found = await super().aget_tuple(config)
            await self._check_found(config, found)
            return unseal(found) if found else None

    async def _check_found(self, config: RunnableConfig, found: CheckpointTuple | None) -> None:
        """Find out whether it is all that there is to find.

        Raises:
            sqlite3.DatabaseError: The file is damaged.
        """
        fields = config.get("configurable", {})
        asked = get_checkpoint_id(config)
        thread = (str(fields["thread_id"]), str(fields.get("checkpoint_ns", "")))
        rows = await self._rows(HEAD, thread)
        head = tuple(rows[0]) if rows else None
        if asked and (head is None or asked != head[0]):
            await self._check_file()
        elif head != _count(found):
            await self._check_file()
            await self._write(REPAIR, thread)

    async def _check_file(self) -> None:
        """Have SQLite check all of the file, once for as long as it is open.

        Raises:
            sqlite3.DatabaseError: It is damaged.
        """
        if self._checked:
            return
        rows = await self._rows("PRAGMA integrity_check(1)")
        if (said := str(rows[0][0])) != "ok":
            error = sqlite3.DatabaseError(said.splitlines()[-1])
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        self._checked = True

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the latest first."""
        rows = super().alist(config, filter=filter, before=before, limit=limit)
        with sqlite_faults(self._path):
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
        """Keep a checkpoint."""
        sealed = seal_checkpoint(config, checkpoint, metadata)
        async with self._writing():
            return await super().aput(config, sealed, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep what a task of a checkpoint wrote; nothing where the saver is closed.

        LangGraph notes that a task was cancelled in a write that nobody waits for.
        """
        sealed = seal_writes(config, writes, task_id, task_path)
        async with self._writing():
            if not self._closed:
                await super().aput_writes(config, sealed, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread's checkpoints and writes."""
        async with self._writing():
            await super().adelete_thread(thread_id)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """LangGraph's general way, which reads through `aget_tuple` and so sees no seals."""
        return await BaseCheckpointSaver[str].aget_delta_channel_history(
            self, config=config, channels=channels
        )

    async def references(self, thread_id: str) -> set[str]:
        """The hashes of the outputs that a run's checkpoints refer to, old ones included."""
        with sqlite_faults(self._path):
            rows = await self._rows(STORED, (thread_id, thread_id))
        return references_in(row[0] for row in rows)

    async def sizes(self) -> Mapping[str, int]:
        """How many bytes each run's checkpoints take."""
        with sqlite_faults(self._path):
            return {str(thread): int(size) for thread, size in await self._rows(SIZES)}

    async def reclaim(self) -> None:
        """Give free pages back to the disk; a file of fractale 0.2 only uses them again."""
        with sqlite_faults(self._path):
            async with self.lock:
                # As a script: a single execute would stop after the first page.
                await self.conn.executescript("PRAGMA incremental_vacuum;")
            await self._rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @asynccontextmanager
    async def holding(self, run_id: str) -> AsyncGenerator[None]:
        """Nothing to do: the lock in the run's folder is seen by all that see this file."""
        del run_id
        yield

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
        """A change is made as a whole or not at all, also where it fails or ends on the way."""
        with sqlite_faults(self._path, writing=True):
            async with self._turn:
                try:
                    yield
                except BaseException:
                    await self.conn.rollback()
                    raise

    async def close(self) -> None:
        """Close the file, after the changes that are under way.

        Closed within a change, SQLite would hold its lock for as long as anything refers to it.
        """
        try:
            async with self._turn:
                self._closed = True
        finally:
            await self.conn.close()


def _count(found: CheckpointTuple | None) -> tuple[str, int] | None:
    """What ``heads`` says of a thread whose latest checkpoint was found."""
    if found is None:
        return None
    latest = found.config.get("configurable", {})["checkpoint_id"]
    return str(latest), len(found.pending_writes or ())
