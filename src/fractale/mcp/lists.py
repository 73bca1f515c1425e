"""What one server lists, kept until it says that it changed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mcp import types

from fractale.errors import ToolError
from fractale.mcp import convert
from fractale.mcp.connection import Connection, ServerRefusal
from fractale.toolbox import changed_meanwhile

MAX_PAGES = 1_000
KINDS: dict[str, tuple[Any, type[types.PaginatedResult], str]] = {
    "tools": (types.ListToolsRequest, types.ListToolsResult, "tools"),
    "prompts": (types.ListPromptsRequest, types.ListPromptsResult, "prompts"),
    "resources": (types.ListResourcesRequest, types.ListResourcesResult, "resources"),
    "templates": (
        types.ListResourceTemplatesRequest,
        types.ListResourceTemplatesResult,
        "resourceTemplates",
    ),
}


class Lists:
    """The lists of one server, over all of its sessions.

    Args:
        server: The server's name.
        patience: Seconds that it may take to answer with a page of a list.

    Attributes:
        tools: Its tools; the last known ones while it is not there.
        version: Another number each time `tools` was read.
    """

    def __init__(self, server: str, patience: float) -> None:
        self.tools: Sequence[types.Tool] = ()
        self.version = 0
        self._server = server
        self._patience = patience
        self._known: dict[str, Sequence[Any]] = {}
        self._changes: Counter[str] = Counter()
        self._asking = asyncio.Lock()
        self._current: dict[str, types.Tool] = {}
        self._first_seen: dict[str, types.Tool] = {}

    @property
    def has_tools(self) -> bool:
        """Whether `tools` is what the server last said."""
        return "tools" in self._known

    def forget(self) -> None:
        """A new session may have other lists."""
        self._known = {}

    def changed(self, kind: str) -> None:
        """Take note that the server has another list than before."""
        for each in (kind, "templates") if kind == "resources" else (kind,):
            self._changes[each] += 1
            self._known.pop(each, None)

    async def read_tools(self, connection: Connection) -> None:
        """Make `tools` current.

        Raises:
            ToolError: The server did not say.
        """
        if self.has_tools:
            return
        tools: Sequence[types.Tool] = await self.read(connection, "tools")
        self._current = {tool.name: tool for tool in tools}
        for tool in tools:
            self._first_seen.setdefault(tool.name, tool)
        self.tools = list(self._current.values())
        self.version += 1

    def check_unchanged(self, name: str, definition: str | None = None) -> None:
        """See that a tool still is the one that was agreed to.

        Args:
            definition: The hash of what was agreed to; None: what was seen first.

        Raises:
            ToolError: It is not.
        """
        now, first = self._current.get(name), self._first_seen.get(name)
        if now is None or first is None:
            return
        if definition is None:
            same = _definition(now) == _definition(first)
        else:
            same = _definition(now) == definition
        if not same:
            raise changed_meanwhile(self._server, name, _changed_part(first, now))

    async def read(self, connection: Connection, kind: str) -> Sequence[Any]:
        """Its ``tools``, ``prompts``, ``resources`` or ``templates``; asks only where it must.

        Raises:
            ToolError: The server did not say.
        """
        async with self._asking:
            if kind in self._known:
                return self._known[kind]
            changes = self._changes[kind]
            items = await self._pages(connection, kind)
            # Where it changed meanwhile, the next need asks again.
            if changes == self._changes[kind]:
                self._known[kind] = items
            return items

    async def _pages(self, connection: Connection, kind: str) -> list[Any]:
        capability = "resources" if kind == "templates" else kind
        if getattr(connection.capabilities, capability) is None:
            return []
        items: list[Any] = []
        cursor: str | None = None
        make, answer, field = KINDS[kind]
        for _ in range(MAX_PAGES):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
            request = types.ClientRequest(make(params=params))
            try:
                page = await connection.request(request, answer, timeout=self._patience)
            except ServerRefusal as error:
                if error.rpc_code == types.METHOD_NOT_FOUND:
                    return items
                raise
            items += getattr(page, field)
            cursor = page.nextCursor
            if not cursor:
                return items
        raise ToolError(f"server `{self._server}` lists its {kind} without end")


def _definition(tool: types.Tool) -> str:
    return convert.tool_info(tool, "", tool.name).definition


def _changed_part(before: types.Tool, now: types.Tool) -> str:
    """The first part of a tool's definition that differs, in one word."""
    then = convert.tool_info(before, "", before.name).described
    today = convert.tool_info(now, "", now.name).described
    words = {"input_schema": "schema", "output_schema": "output schema"}
    changed = (words.get(part, part) for part in then if then[part] != today[part])
    return next(changed, "definition")
