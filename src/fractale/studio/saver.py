"""The development server's checkpointer: the checkpoints of runs, by the UUIDs of threads.

The server only reads through it, and changes states that a person edits; a run writes its own
checkpoints. Each use opens the store and closes it again, so that the server stands in nobody's
way between them, also where one process at a time can have the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from starlette.exceptions import HTTPException

from fractale.errors import FractaleError, RunHeld, StoreError
from fractale.settings import Settings, load_settings
from fractale.store.checkpoints import RunSaver, open_checkpoints
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecord, RunRecords
from fractale.store.serializer import StrictSerializer
from fractale.studio.threads import RunThreads

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

CONFLICT, FAILED = 409, 500


def open_saver() -> StudioSaver:
    """The saver that ``langgraph.json`` names, with the settings of the folder and environment."""
    return StudioSaver(load_settings())


class StudioSaver(BaseCheckpointSaver[str]):
    """Checkpoints of runs, for the development server.

    Every method raises `HTTPException`, which is what the server can tell a person.

    Args:
        settings: Whose state folder and store hold the runs.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(serde=StrictSerializer())
        self._where = settings.checkpoints
        self._threads = RunThreads(RunRecords(settings.state_dir))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint of the thread's run, or its latest; None if there is none."""
        thread = _thread(config)
        folder = await asyncio.to_thread(self._threads.run_of, thread)
        if folder is None:
            return None
        async with self._open() as saver:
            found = await saver.aget_tuple(_of_thread(config, folder.run_id))
        return _told(found, thread) if found else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of the thread's run, the latest first."""
        if config is None:
            return
        thread = _thread(config)
        folder = await asyncio.to_thread(self._threads.run_of, thread)
        if folder is None:
            return
        known = _of_thread(config, folder.run_id)
        async with self._open() as saver:
            rows = saver.alist(known, filter=filter, before=before, limit=limit)
            found = [each async for each in rows]
        for each in found:
            yield _told(each, thread)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint that a person's edit makes."""
        thread = _thread(config)
        async with self._changing(thread) as (saver, folder):
            known = _of_thread(config, folder.run_id)
            kept = await saver.aput(known, checkpoint, metadata, new_versions)
        return _of_thread(kept, thread)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep what a person's edit writes in the place of a step."""
        async with self._changing(_thread(config)) as (saver, folder):
            await saver.aput_writes(_of_thread(config, folder.run_id), writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """Nothing: what a run did stays on record; ``fractale runs prune`` removes runs."""

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[RunSaver]:
        with _as_http():
            async with open_checkpoints(self._where) as saver:
                yield saver

    @asynccontextmanager
    async def _changing(self, thread: str) -> AsyncGenerator[tuple[RunSaver, RunRecord]]:
        """The store, with the thread's run for oneself."""
        folder = await asyncio.to_thread(self._threads.run_of, thread)
        if folder is None:
            raise HTTPException(CONFLICT, "this thread has no run yet: start one first")
        lock = RunLock(folder)
        with _as_http():
            await asyncio.to_thread(lock.acquire)
        try:
            async with self._open() as saver, saver.holding(folder.run_id):
                yield saver, folder
        finally:
            lock.release()


def _thread(config: RunnableConfig) -> str:
    return str(config.get("configurable", {}).get("thread_id"))


def _of_thread(config: RunnableConfig, thread: str) -> RunnableConfig:
    """The same checkpoint in a thread of another name."""
    fields = config.get("configurable", {})
    # The server gives a checkpoint's id also as a UUID.
    at = {"checkpoint_id": str(fields["checkpoint_id"])} if fields.get("checkpoint_id") else {}
    return {"configurable": {"checkpoint_ns": "", **fields, "thread_id": thread, **at}}


def _told(found: CheckpointTuple, thread: str) -> CheckpointTuple:
    parent = found.parent_config
    return found._replace(
        config=_of_thread(found.config, thread),
        parent_config=_of_thread(parent, thread) if parent else None,
    )


@contextmanager
def _as_http() -> Generator[None]:
    try:
        yield
    except (StoreError, RunHeld) as error:
        held = isinstance(error, RunHeld)
        raise HTTPException(CONFLICT if held else FAILED, told(error)) from error


def told(error: FractaleError) -> str:
    """An error in one line, with what to do."""
    return f"{error} ({error.hint})" if error.hint else str(error)
