"""LangGraph's checkpoints of runs: one SQLite file per run, or a PostgreSQL server.

The checkpoints of run ID are in ``runs/ID/checkpoints.sqlite``. Only the process that has the run's
lock writes there. So any number of runs can be in progress, on a network file system, too, and a
damaged file affects one run only.

Up to 0.2, one ``checkpoints.sqlite`` in the state directory had the checkpoints of all runs. It is
still read. When such a run is resumed, its checkpoints are copied into the run's own file; the old
ones stay until the run is pruned.
"""

from __future__ import annotations

import asyncio
import re
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from fractale.errors import StoreError
from fractale.store.filesystem import file_system
from fractale.store.postgres import is_postgres, open_postgres
from fractale.store.run_record import (
    HANDLERS_THREAD,
    ID,
    RunRecord,
    RunRecords,
    threads_of,
)
from fractale.store.serializer import StrictSerializer
from fractale.store.sqlite import sqlite_errors
from fractale.store.sqlite_saver import (
    LOCK_WAIT,
    SqliteSaver,
    new_file,
    open_sqlite,
    publish,
    remove_file,
)

MOST_OPEN = 16
"""The number of files that stay open at the same time, not counting those in use."""

REFERENCE = re.compile(rb"sha256:([0-9a-f]{64})")
"""A reference to an output, as it appears in stored data."""


@asynccontextmanager
async def open_checkpoints(
    where: Path | str, *, wait: float = LOCK_WAIT, mountinfo: str | None = None
) -> AsyncGenerator[RunSaver]:
    """The checkpoints of runs, as LangGraph's saver.

    Args:
        where: The state directory, or ``postgresql://user:password@host:port/database``.
        wait: Seconds to wait for another process's lock or for the server.
        mountinfo: The machine's mounts, see `fractale.store.filesystem`.

    Raises:
        DependencyMissing: The packages for PostgreSQL are not installed.
        StoreError: The server cannot be reached.
    """
    if is_postgres(where):
        async with open_postgres(str(where), wait=wait) as saver:
            yield saver
        return
    files = RunFiles(Path(where), wait, mountinfo)
    try:
        yield files
    finally:
        await files.close()


class RunSaver(BaseCheckpointSaver[str]):
    """A saver that knows about runs. The ID of a thread is the ID of its run."""

    @abstractmethod
    def holding(self, run_id: str) -> AbstractAsyncContextManager[None]:
        """Be the only process that has a run, among all that use the same checkpoints.

        Raises:
            RunHeld: Another process has it.
        """

    @abstractmethod
    async def open_run(self, run_id: str) -> None:
        """Prepare to write checkpoints of a run, whose lock the caller has.

        Raises:
            StoreError: They cannot be written, or the existing ones are damaged.
        """

    @abstractmethod
    async def references(self, thread_id: str) -> set[str]:
        """The hashes of the outputs that a run's checkpoints refer to, old ones included."""

    @abstractmethod
    async def sizes(self) -> Mapping[str, int]:
        """The bytes of each run's checkpoints that are not in the run's directory."""

    @abstractmethod
    async def reclaim(self) -> None:
        """Free the space of deleted checkpoints, if no other process needs the database."""


@dataclass(slots=True)
class _OpenFile:
    saver: SqliteSaver
    stack: AsyncExitStack
    users: int = 0


class RunFiles(RunSaver):
    """Checkpoints in one SQLite file per run, opened when they are needed.

    Args:
        state_dir: Has the runs' directories in ``runs/``.
        wait, mountinfo: As `open_sqlite` expects them.
    """

    def __init__(self, state_dir: Path, wait: float, mountinfo: str | None) -> None:
        super().__init__(serde=StrictSerializer())
        self._records = RunRecords(state_dir)
        self._shared = state_dir / "checkpoints.sqlite"
        self._wait, self._mountinfo = wait, mountinfo
        self._files: dict[Path, _OpenFile] = {}
        self._turn, self._copying = asyncio.Lock(), asyncio.Lock()
        self._closed = False

    # -- methods for LangGraph

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        async with self._reading(_thread(config)) as saver:
            return await saver.aget_tuple(config) if saver else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of one thread, the latest first."""
        if config is None:
            raise StoreError("checkpoints are listed for one run at a time")
        async with self._reading(_thread(config)) as saver:
            if saver is None:
                return
            rows = saver.alist(config, filter=filter, before=before, limit=limit)
            async with aclosing(cast("AsyncGenerator[CheckpointTuple]", rows)) as found:
                async for each in found:
                    yield each

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        async with self._writing(_thread(config)) as saver:
            return await saver.aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep the writes of a task; do nothing if the saver is closed."""
        try:
            async with self._writing(_thread(config)) as saver:
                await saver.aput_writes(config, writes, task_id, task_path)
        except StoreError:
            if not self._closed:
                raise

    async def adelete_thread(self, thread_id: str) -> None:
        path = self._record(thread_id).checkpoints
        async with self._turn:
            await self._close(path)
            await asyncio.to_thread(remove_file, path)
        if await self._is_shared(thread_id):
            async with self._using(self._shared) as shared:
                await shared.adelete_thread(thread_id)

    def get_next_version(self, current: str | None, channel: None) -> str:
        return SqliteSaver.get_next_version(cast("Any", self), current, channel)

    # -- methods for fractale

    @asynccontextmanager
    async def holding(self, run_id: str) -> AsyncGenerator[None]:
        """Do nothing: every process that sees the run's files sees its lock."""
        del run_id
        yield

    async def open_run(self, run_id: str) -> None:
        record = self._record(run_id)
        if record.checkpoints.exists() or record.is_new or await self._is_shared(run_id):
            async with self._writing(run_id):
                return
        # A resumed run without checkpoints gets no empty file in their place.

    async def references(self, thread_id: str) -> set[str]:
        stored: list[Any] = []
        for path in (self._record(thread_id).checkpoints, self._shared):
            if path.exists():
                async with self._using(path) as saver:
                    for thread in threads_of(thread_id):
                        stored += await saver.stored(thread)
        return references_in(stored)

    async def sizes(self) -> Mapping[str, int]:
        if not self._shared.exists():
            return {}
        async with self._using(self._shared) as shared:
            return await shared.sizes()

    async def reclaim(self) -> None:
        if self._shared.exists():
            async with self._using(self._shared) as shared:
                await shared.reclaim()

    # -- which file

    def _record(self, thread_id: str) -> RunRecord:
        run_id = thread_id.removesuffix(HANDLERS_THREAD)
        if not ID.fullmatch(run_id):
            raise StoreError(f"`{thread_id}` is not a valid ID of a run")
        return self._records.at(run_id)

    @asynccontextmanager
    async def _reading(self, thread_id: str) -> AsyncGenerator[SqliteSaver | None]:
        """The file that has a run's checkpoints; None if there is none."""
        path = self._record(thread_id).checkpoints
        if path in self._files or path.exists():
            async with self._using(path) as saver:
                yield saver
        elif await self._is_shared(thread_id):
            async with self._using(self._shared) as saver:
                yield saver
        else:
            yield None

    @asynccontextmanager
    async def _writing(self, thread_id: str) -> AsyncGenerator[SqliteSaver]:
        """The run's own file; made if it is missing."""
        path = self._record(thread_id).checkpoints
        if path not in self._files and not path.exists():
            async with self._copying:
                if not path.exists() and await self._is_shared(thread_id):
                    await self._copy(thread_id, path)
        async with self._using(path) as saver:
            yield saver

    async def _is_shared(self, thread_id: str) -> bool:
        """Whether the file of fractale 0.2 has checkpoints of a run."""
        if self._record(thread_id).is_new or not self._shared.exists():
            return False
        async with self._using(self._shared) as shared:
            return await shared.has(thread_id)

    async def _copy(self, thread_id: str, path: Path) -> None:
        """Copy a run's checkpoints from the shared file into its own, completely or not at all."""
        system = file_system(path, self._mountinfo)
        with sqlite_errors(path), new_file(path, system) as part:
            async with self._using(self._shared) as shared:
                await shared.copy_rows(thread_id, part)
            await asyncio.to_thread(publish, part, path)

    # -- open files

    @asynccontextmanager
    async def _using(self, path: Path) -> AsyncGenerator[SqliteSaver]:
        async with self._turn:
            if self._closed:
                raise StoreError("the checkpoints are closed")
            file = self._files.get(path) or await self._open(path)
            file.users += 1
        try:
            yield file.saver
        finally:
            file.users -= 1

    async def _open(self, path: Path) -> _OpenFile:
        idle = [path for path, file in self._files.items() if not file.users]
        for other in idle[: max(0, len(self._files) - MOST_OPEN + 1)]:
            await self._close(other)
        stack = AsyncExitStack()
        opened = open_sqlite(
            path,
            wait=self._wait,
            # Each process needs the shared file for a moment only.
            wait_for_lock=self._wait if path == self._shared else 0.0,
            mountinfo=self._mountinfo,
        )
        saver = await stack.enter_async_context(opened)
        self._files[path] = file = _OpenFile(saver, stack)
        return file

    async def _close(self, path: Path) -> None:
        if file := self._files.pop(path, None):
            await file.stack.aclose()

    async def close(self) -> None:
        """Close all files after the changes in progress."""
        self._closed = True
        async with self._turn, AsyncExitStack() as stack:
            for file in self._files.values():
                stack.push_async_callback(file.stack.aclose)
            self._files.clear()


def _thread(config: RunnableConfig) -> str:
    return str(config.get("configurable", {})["thread_id"])


def references_in(stored: Iterable[Any]) -> set[str]:
    """The hashes of the outputs that stored values refer to."""
    found: set[str] = set()
    for value in stored:
        data = value.encode() if isinstance(value, str) else bytes(value or b"")
        found.update(match.decode() for match in REFERENCE.findall(data))
    return found
