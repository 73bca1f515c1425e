"""Tool calls as LangChain's tool runs: ``on_tool_start``, ``on_tool_end`` and ``on_tool_error``.

The run of a call is a child of the node that makes it, and the parent of everything that the tool
itself invokes. Without callbacks, a call costs nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    merge_configs,
    patch_config,
    set_config_context,
    var_child_runnable_config,
)
from langchain_core.tools import ToolException

from fractale.toolbox import ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

Make = Callable[[], Awaitable[ToolResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A call as callbacks see it.

    Args:
        arguments: Of the call, secrets masked.
        id: Identifies the call, as LangChain's ``tool_call_id``.
        metadata: Of the run, and of all runs inside it.
        mask: Masks secrets in the answer.
    """

    tool: ToolInfo
    arguments: Mapping[str, Any]
    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mask: Callable[[Any], Any] = lambda value: value

    async def around(self, make: Make) -> ToolResult:
        """Make the call, and report it to the callbacks of the node, if it has any.

        A LangChain tool reports its calls itself. Handlers of a run mask secrets
        (`fractale.graph.tracing`).
        """
        config = var_child_runnable_config.get()
        if config is None or not _has_handlers(config):
            return await make()
        config = merge_configs(config, {"metadata": dict(self.metadata)})
        if self.tool.traces_itself:
            return await _within(config, make)
        return await self._reported(config, make)

    async def _reported(self, config: RunnableConfig, make: Make) -> ToolResult:
        manager = get_async_callback_manager_for_config(config)
        run = await manager.on_tool_start(
            {"name": self.tool.name, "description": self.tool.description},
            str(dict(self.arguments)),
            name=self.tool.name,
            inputs=dict(self.arguments),
            tool_call_id=self.id,
        )
        try:
            inside = patch_config(config, callbacks=run.get_child())
            result = await _within(inside, make)
        except BaseException as error:
            await run.on_tool_error(error)
            raise
        text = self.mask(result.fault or result.text)
        message = ToolMessage(
            text,
            name=self.tool.name,
            tool_call_id=self.id,
            artifact=self.mask(result.structured),
            status="error" if result.fault else "success",
        )
        if result.fault:
            await run.on_tool_error(ToolException(text), output=message)
        else:
            await run.on_tool_end(message)
        return result


async def _within(config: RunnableConfig, make: Make) -> ToolResult:
    """Make the call with the config as LangChain's own of the running code."""
    with set_config_context(config) as context:
        return await asyncio.create_task(cast("Any", make()), context=context)


def _has_handlers(config: RunnableConfig) -> bool:
    callbacks: Any = config.get("callbacks")
    return bool(getattr(callbacks, "handlers", callbacks))
