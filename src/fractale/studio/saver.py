"""The server's threads: the run of each thread, and the run's checkpoints.

The server identifies threads by UUID, fractale identifies runs by short ids. The id of a run that
was started in Studio is the last block of its thread's UUID, and its record names the thread. For
other runs, the thread's UUID is computed from the run's id.

Through `StudioSaver`, the server reads checkpoints and changes states that a user edits; a run
writes its own checkpoints. Each use opens and closes the store, so that the server does not block
other processes in between.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
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

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

NAMESPACE = uuid.UUID("5b1b2f0e-6a0f-5d6b-9a52-0d5f6f1c7a11")
KEPT_AS = "studio"
"""The key in a run's head for the thread on which the run was started."""


class RunThreads:
    """The threads of the runs of one state directory."""

    def __init__(self, records: RunRecords) -> None:
        self._records = records

    def run_of(self, thread: str) -> RunRecord | None:
        """The run of a thread; None if the thread has no run yet."""
        for run_id in _own_ids(thread):
            record = self._records.at(run_id)
            if _started_on(read_head(record)) == thread:
                return record
        # A version 5 UUID was computed from a run's id.
        if uuid.UUID(thread).version != 5:
            return None
        names = self._records.names()
        found = next((name for name in names if thread_of_id(name) == thread), None)
        return self._records.at(found) if found else None

    def id_for(self, thread: str) -> str:
        """The id for the run of a new thread."""
        short, whole = _own_ids(thread)
        return whole if read_head(self._records.at(short)) else short


def thread_of(run_id: str, head: Mapping[str, Any]) -> str:
    """Return the UUID of a run's thread."""
    return _started_on(head) or thread_of_id(run_id)


def thread_of_id(run_id: str) -> str:
    """The thread of a run that was not started in Studio."""
    return str(uuid.uuid5(NAMESPACE, run_id))


def read_head(record: RunRecord) -> dict[str, Any]:
    """Read how a run was started; empty if the run does not exist or has no head yet."""
    try:
        return record.read_head()
    except StoreError:
        return {}


def _own_ids(thread: str) -> tuple[str, str]:
    return thread.rpartition("-")[2], thread


def _started_on(head: Mapping[str, Any]) -> str | None:
    return head.get(KEPT_AS, {}).get("thread")


# -- the checkpoints of a thread -------------------------------------------------------------------

CONFLICT, FAILED = 409, 500


def open_saver() -> StudioSaver:
    """Open the saver that ``langgraph.json`` names, with the current settings."""
    return StudioSaver(load_settings())


class StudioSaver(BaseCheckpointSaver[str]):
    """Checkpoints of runs, for the development server.

    Every method raises `HTTPException`, which the server can show.

    Args:
        settings: The settings with the state directory and the store of the runs.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(serde=StrictSerializer())
        self._where = settings.checkpoints
        self._threads = RunThreads(RunRecords(settings.state_dir))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return a checkpoint of the thread's run, or its latest; None if there is none."""
        thread = _thread(config)
        record = await asyncio.to_thread(self._threads.run_of, thread)
        if record is None:
            return None
        async with self._open() as saver:
            found = await saver.aget_tuple(_of_thread(config, record.run_id))
        return _renamed(found, thread) if found else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield checkpoints of the thread's run, latest first."""
        if config is None:
            return
        thread = _thread(config)
        record = await asyncio.to_thread(self._threads.run_of, thread)
        if record is None:
            return
        known = _of_thread(config, record.run_id)
        async with self._open() as saver:
            rows = saver.alist(known, filter=filter, before=before, limit=limit)
            found = [each async for each in rows]
        for each in found:
            yield _renamed(each, thread)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Save the checkpoint of an edit."""
        thread = _thread(config)
        async with self._changing(thread) as (saver, record):
            known = _of_thread(config, record.run_id)
            kept = await saver.aput(known, checkpoint, metadata, new_versions)
        return _of_thread(kept, thread)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Save the writes of an edit in the name of a step."""
        async with self._changing(_thread(config)) as (saver, record):
            await saver.aput_writes(_of_thread(config, record.run_id), writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """Do nothing: the record of a run stays; ``fractale runs prune`` removes runs."""

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[RunSaver]:
        with _as_http():
            async with open_checkpoints(self._where) as saver:
                yield saver

    @asynccontextmanager
    async def _changing(self, thread: str) -> AsyncGenerator[tuple[RunSaver, RunRecord]]:
        """Open the store, and lock the thread's run."""
        record = await asyncio.to_thread(self._threads.run_of, thread)
        if record is None:
            raise HTTPException(CONFLICT, "this thread has no run yet: start one first")
        lock = RunLock(record)
        with _as_http():
            await asyncio.to_thread(lock.acquire)
        try:
            async with self._open() as saver, saver.holding(record.run_id):
                yield saver, record
        finally:
            lock.release()


def _thread(config: RunnableConfig) -> str:
    return str(config.get("configurable", {}).get("thread_id"))


def _of_thread(config: RunnableConfig, thread: str) -> RunnableConfig:
    """The same checkpoint in a thread with another name."""
    fields = config.get("configurable", {})
    # The server may also pass a checkpoint's id as a UUID.
    at = {"checkpoint_id": str(fields["checkpoint_id"])} if fields.get("checkpoint_id") else {}
    return {"configurable": {"checkpoint_ns": "", **fields, "thread_id": thread, **at}}


def _renamed(found: CheckpointTuple, thread: str) -> CheckpointTuple:
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
        raise HTTPException(CONFLICT if held else FAILED, with_hint(error)) from error


def with_hint(error: FractaleError) -> str:
    """An error with its hint, as text."""
    return f"{error} ({error.hint})" if error.hint else str(error)
