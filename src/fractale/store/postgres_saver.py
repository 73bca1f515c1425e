"""LangGraph's saver for PostgreSQL, with fractale's serializer and errors."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar, cast

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from fractale.errors import RunHeld, StoreError
from fractale.store.checkpoints import RunSaver, references_in
from fractale.store.postgres import postgres_faults
from fractale.store.run_record import threads_of
from fractale.store.serializer import StrictSerializer

T = TypeVar("T")

SETUP_LOCK = 0x66726163
"""The lock held while the tables are made: two processes at once would disturb each other."""
SETUP_TRIES, SETUP_PAUSE = 300, 0.2
RUN_LOCKS = 0x72756E73
"""The first half of the advisory locks on runs; the second half is a hash of the run's ID."""

STORED = """SELECT checkpoint::text AS stored FROM checkpoints WHERE thread_id = %(thread)s
    UNION ALL SELECT encode(blob, 'escape') FROM checkpoint_blobs WHERE thread_id = %(thread)s
    UNION ALL SELECT encode(blob, 'escape') FROM checkpoint_writes WHERE thread_id = %(thread)s"""
SIZES = """SELECT thread_id, sum(size) AS size FROM (
        SELECT thread_id, pg_column_size(checkpoint) + pg_column_size(metadata) AS size
            FROM checkpoints
        UNION ALL SELECT thread_id, pg_column_size(blob) FROM checkpoint_blobs
        UNION ALL SELECT thread_id, pg_column_size(blob) FROM checkpoint_writes) AS all_rows
    GROUP BY thread_id"""
HOLDER = """SELECT application_name, to_char(backend_start, 'YYYY-MM-DD HH24:MI') AS since
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid::bigint = %s AND objid::bigint = %s AND granted"""


async def connect(url: str, wait: float, name: str) -> AsyncConnection[DictRow]:
    """Open a connection with the options that LangGraph's saver needs.

    Args:
        wait: Seconds to wait for the server.
        name: The connection's name in the server's list of connections.

    Raises:
        psycopg.Error: The server cannot be reached, or refuses.
    """
    return await AsyncConnection[DictRow].connect(
        url,
        autocommit=True,
        prepare_threshold=0,
        row_factory=dict_row,
        connect_timeout=max(2, round(wait)),
        application_name=name[:63],
    )


async def _completed(work: Coroutine[Any, Any, T]) -> T:
    """Await work that is completed even if the caller is cancelled: others share the connection."""
    return await asyncio.shield(asyncio.ensure_future(work))


class PostgresSaver(AsyncPostgresSaver, RunSaver):
    """LangGraph's saver on a connection of `connect`, which other runs of the process may share.

    Every method raises `StoreError` if the server fails or its data is damaged.

    Args:
        lock: Taken while the connection is in use.
        held: The runs that are locked by the connection: the server would lock them twice for it.
    """

    def __init__(
        self,
        connection: AsyncConnection[DictRow],
        url: str,
        *,
        lock: asyncio.Lock,
        held: set[str],
    ) -> None:
        super().__init__(connection, serde=StrictSerializer())
        self.lock = lock
        self._connection = connection
        self._held_here = held
        self._url = url
        self._closed = False
        self._turn = asyncio.Lock()

    async def setup(self) -> None:
        """Make the tables or bring them up to date, by LangGraph's own version numbers.

        It takes a lock only if there is something to do: runs that start together must not wait
        for each other.
        """
        with self._faults():
            if await self._is_current():
                return
            await self._alone()
            try:
                await self._refuse_newer()
                await super().setup()
            finally:
                await self._rows("SELECT pg_advisory_unlock(%s)", (SETUP_LOCK,))

    async def _is_current(self) -> bool:
        """Whether the tables have the version that LangGraph's saver makes."""
        try:
            rows = await self._rows("SELECT max(v) AS version FROM checkpoint_migrations")
        except psycopg.errors.UndefinedTable:
            return False
        return rows[0]["version"] == len(self.MIGRATIONS) - 1

    async def _alone(self) -> None:
        """Wait until no other process makes the tables.

        It tries the lock repeatedly instead of waiting in the server: the other process's CREATE
        INDEX CONCURRENTLY would wait for a statement that waits here.
        """
        for _ in range(SETUP_TRIES):
            rows = await self._rows("SELECT pg_try_advisory_lock(%s) AS got", (SETUP_LOCK,))
            if rows[0]["got"]:
                return
            await asyncio.sleep(SETUP_PAUSE)
        raise StoreError(
            "another process has been making the tables in the database for long",
            hint="see what it waits for with pg_stat_activity",
        )

    async def _refuse_newer(self) -> None:
        there = await self._rows("SELECT to_regclass('checkpoint_migrations') AS name")
        if there[0]["name"] is None:
            return
        rows = await self._rows("SELECT max(v) AS version FROM checkpoint_migrations")
        version, known = rows[0]["version"] or 0, len(self.MIGRATIONS) - 1
        if version > known:
            raise StoreError(
                f"the tables in the database have version {version} of their layout, this "
                f"langgraph-checkpoint-postgres knows up to {known}",
                hint="install the newer langgraph-checkpoint-postgres",
            )

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        with self._faults():
            return await _completed(super().aget_tuple(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        rows = super().alist(config, filter=filter, before=before, limit=limit)
        with self._faults():
            async with aclosing(cast("AsyncGenerator[CheckpointTuple]", rows)) as found_ones:
                async for found in found_ones:
                    yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        with self._faults():
            return await _completed(super().aput(config, checkpoint, metadata, new_versions))

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
        with self._faults():
            async with self._turn:
                if not self._closed:
                    await _completed(super().aput_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        with self._faults():
            for thread in threads_of(thread_id):
                await super().adelete_thread(thread)

    async def references(self, thread_id: str) -> set[str]:
        with self._faults():
            threads = threads_of(thread_id)
            found = [await self._rows(STORED, {"thread": thread}) for thread in threads]
        return references_in(row["stored"] for rows in found for row in rows)

    async def sizes(self) -> Mapping[str, int]:
        with self._faults():
            return {str(row["thread_id"]): int(row["size"] or 0) for row in await self._rows(SIZES)}

    async def open_run(self, run_id: str) -> None:
        """Do nothing: the connection is open."""

    async def reclaim(self) -> None:
        """Do nothing: the server reclaims space automatically."""

    async def close(self) -> None:
        """Refuse new writes, after those in progress; the connection stays open."""
        async with self._turn:
            self._closed = True

    @asynccontextmanager
    async def holding(self, run_id: str) -> AsyncGenerator[None]:
        """Be the only process that has a run, on the whole server.

        The lock ends with the block, or with the connection.

        Raises:
            RunHeld: Another process has it.
        """
        key = (RUN_LOCKS, zlib.crc32(run_id.encode()) - 2**31)
        with self._faults():
            if not await self._lock_run(run_id, key):
                raise await self._held(run_id, key)
        try:
            yield
        finally:
            self._held_here.discard(run_id)
            if not self._connection.closed:
                with self._faults():
                    await self._rows("SELECT pg_advisory_unlock(%s, %s)", key)

    async def _lock_run(self, run_id: str, key: tuple[int, int]) -> bool:
        """Lock a run; False if it is locked already, also by this connection."""
        if run_id in self._held_here:
            return False
        self._held_here.add(run_id)
        got = False
        try:
            rows = await self._rows("SELECT pg_try_advisory_lock(%s, %s) AS got", key)
            got = bool(rows[0]["got"])
        finally:
            if not got:
                self._held_here.discard(run_id)
        return got

    async def _held(self, run_id: str, key: tuple[int, int]) -> RunHeld:
        rows = await self._rows(HOLDER, (key[0], key[1] % 2**32))
        who = "another process"
        if rows:
            name = str(rows[0]["application_name"]).removeprefix("fractale ")
            pid, _, host = name.partition("@")
            who = f"process {pid} on {host or 'another machine'} since {rows[0]['since']}"
        return RunHeld(
            f"run {run_id} is held by {who}",
            hint="nothing was done; wait until that process ends, or end it",
        )

    async def _rows(self, query: str, values: Any = None) -> list[DictRow]:
        async with self.lock, self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query, values)  # pyright: ignore[reportArgumentType] - the queries here are constants
            return await cursor.fetchall()

    def _faults(self) -> Any:
        return postgres_faults(self._url, psycopg.Error)
