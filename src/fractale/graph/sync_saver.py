"""A saver of a sync application, such as `SqliteSaver`, for a run, which needs an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointTuple


class LoopSaver(BaseCheckpointSaver[Any]):
    """A saver with async methods, even if it only has sync ones.

    `SqliteSaver` and `PostgresSaver` refuse async calls with NotImplementedError. The sync method
    then blocks the loop, which belongs to one sync call and has nothing else to do.

    Args:
        saver: The application's saver.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.saver.get_next_version(current, channel)

    def with_allowlist(self, *args: Any, **options: Any) -> BaseCheckpointSaver[Any]:
        return LoopSaver(self.saver.with_allowlist(*args, **options))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        try:
            return await self.saver.aget_tuple(config)
        except NotImplementedError:
            return self.saver.get_tuple(config)

    async def alist(
        self, config: RunnableConfig | None, **options: Any
    ) -> AsyncIterator[CheckpointTuple]:
        try:
            async for found in self.saver.alist(config, **options):
                yield found
        except NotImplementedError:
            for found in self.saver.list(config, **options):
                yield found

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: Any, new_versions: Any
    ) -> RunnableConfig:
        try:
            return await self.saver.aput(config, checkpoint, metadata, new_versions)
        except NotImplementedError:
            return self.saver.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        try:
            await self.saver.aput_writes(config, writes, task_id, task_path)
        except NotImplementedError:
            self.saver.put_writes(config, writes, task_id, task_path)
