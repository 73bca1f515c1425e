"""All servers as one toolbox."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from mcp import types
from pydantic import AnyUrl, ValidationError

from fractale.errors import ToolError, TransportError, UsageError
from fractale.mcp import convert
from fractale.mcp.owner import ServerOwner
from fractale.mcp.routes import Route, Routes, nearest
from fractale.mcp.wire import AnyServer, OnLog, Timing
from fractale.toolbox import (
    OnElicit,
    OnProgress,
    PromptInfo,
    PromptMessage,
    ResourceInfo,
    ServerStatus,
    ToolInfo,
    ToolResult,
)


class McpToolbox:
    """The tools, prompts and resources of several MCP servers; see `fractale.toolbox.Toolbox`.

    Use it as an async context manager: it connects to all servers at once in the background, and
    at the end closes every session and ends the servers it started. A server that is not there
    takes nothing away from the others; it is tried again, ever more rarely, when it is needed.

    A call is sent once. Only where its session was certainly over before the call went out is it
    sent on the next session. Cancelling a call leaves its session as it is. The order and the
    descriptions of tools are what each server said first; a tool whose description, schema or
    hints change during the run is not called any more.

    Args:
        servers: The servers, each with a name of its own.
        on_log: Takes what servers log or write to their standard error, as they do.
        timing: How long things may take.

    Raises:
        UsageError: Two servers have the same name.
    """

    def __init__(
        self,
        servers: Sequence[AnyServer],
        *,
        on_log: OnLog | None = None,
        timing: Timing | None = None,
    ) -> None:
        names = [server.name for server in servers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"two servers are named `{twice[0]}`", hint="give each its own name")
        self._specs = list(servers)
        self._on_log = on_log
        self._timing = timing or Timing()
        self._owners: dict[str, ServerOwner] = {}
        self._known: tuple[tuple[int, ...], Routes, list[ToolInfo]] | None = None

    async def __aenter__(self) -> McpToolbox:
        """Begin to connect to every server; returns at once."""
        for spec in self._specs:
            owner = ServerOwner(spec, timing=self._timing, on_log=self._on_log)
            self._owners[spec.name] = owner
            owner.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every session and end the servers that were started."""
        closing = asyncio.ensure_future(
            asyncio.gather(*(owner.close() for owner in self._owners.values()))
        )
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing  # cancelled again while closing: no server may be left behind
            raise

    # -- what there is --------------------------------------------------------------------------

    async def tools(self) -> list[ToolInfo]:
        """Every tool, sorted by server and name."""
        return list((await self._catalog())[1])

    async def find_tool(self, name: str) -> ToolInfo:
        """The tool of that bare or qualified name.

        Raises:
            ToolError: No server has it, or several have.
            TransportError: The server that has it, or may have it, cannot be reached.
        """
        route = await self._route(name)
        tools = (await self._catalog())[1]
        return next(
            tool for tool in tools if (tool.server, tool.name) == (route.server, route.shown)
        )

    async def servers(self) -> list[ServerStatus]:
        """Every server, in the order given, whether it is there or not."""
        await self._settle()
        return [owner.status() for owner in self._owners.values()]

    async def prompts(self) -> list[PromptInfo]:
        """Every prompt, sorted by server and name."""
        found = await self._prompts()
        routes = _routes("prompt", found)
        infos = [
            convert.prompt_info(prompt, server, routes.shown(server, prompt.name))
            for server, prompts in found.items()
            for prompt in prompts
        ]
        return sorted(infos, key=lambda info: (info.server, info.name))

    async def resources(self) -> list[ResourceInfo]:
        """Every resource and resource template, sorted by server and URI."""
        kinds = ("resources", "templates")
        lists = await asyncio.gather(
            *(owner.list_of(kind) for owner in self._owners.values() for kind in kinds)
        )
        servers = [name for name in self._owners for _ in kinds]
        infos = [
            convert.resource_info(item, server)
            for server, items in zip(servers, lists, strict=True)
            for item in items
        ]
        return sorted(infos, key=lambda info: (info.server, info.is_template, info.uri))

    # -- calls ----------------------------------------------------------------------------------

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        on_elicit: OnElicit | None = None,
    ) -> ToolResult:
        """Call a tool once.

        Args:
            name: Bare or qualified.
            arguments: Plain JSON; the server checks them against the tool's schema.
            on_progress: Takes how far the tool says it is.
            on_elicit: Answers what the server asks meanwhile. What it raises ends the call, and is
                raised here. Without it, the server is told that nobody answers. Of several calls
                under way on a server, the latest is taken for the one that asks.

        Raises:
            ToolError: The name is unknown or ambiguous, the server refused, the tool changed
                since it was first seen, or its answer is over the limit.
            TransportError: The server cannot be reached, was lost, or did not answer in time.
        """
        route = await self._route(name)
        params = types.CallToolRequestParams(name=route.name, arguments=dict(arguments))
        request = types.ClientRequest(types.CallToolRequest(params=params))
        result = await self._owners[route.server].call_tool(
            route.name, request, on_progress, on_elicit
        )
        return convert.tool_result(result, route.server)

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt; arguments that are not text are sent as JSON.

        Raises:
            ToolError: The name is unknown or ambiguous, required arguments are missing, or the
                server refused.
            TransportError: The server cannot be reached or was lost.
        """
        found = await self._prompts()
        routes = _routes("prompt", found)
        route = routes.find(name)
        if route is None:
            await self._need(name)
            found = await self._prompts()
            routes = _routes("prompt", found)
            route = routes.find(name)
        if route is None:
            raise self._unknown(routes, name)
        prompt = next(each for each in found[route.server] if each.name == route.name)
        params = types.GetPromptRequestParams(
            name=route.name, arguments=convert.prompt_arguments(prompt, arguments)
        )
        request = types.ClientRequest(types.GetPromptRequest(params=params))
        answer = await self._owners[route.server].request(request, types.GetPromptResult)
        return convert.prompt_messages(answer)

    async def read_resource(self, uri: str) -> ToolResult:
        """What a resource contains, as a tool's answer that embeds it.

        Args:
            uri: The resource's URI; ``server:URI`` where several servers have it.

        Raises:
            ToolError: No server has it, several have, or the server refused.
            TransportError: The server cannot be reached or was lost.
        """
        server, own = await self._find_resource(uri)
        try:
            params = types.ReadResourceRequestParams(uri=AnyUrl(own))
        except ValidationError as error:
            raise ToolError(f"`{uri}` is not a URI") from error
        request = types.ClientRequest(types.ReadResourceRequest(params=params))
        answer = await self._owners[server].request(request, types.ReadResourceResult)
        return convert.resource_result(answer, server)

    # -- names ----------------------------------------------------------------------------------

    async def _settle(self) -> None:
        waiting = [owner for owner in self._owners.values() if not owner.settled]
        if waiting:
            await asyncio.gather(*(owner.settle() for owner in waiting))
        for owner in self._owners.values():
            if not owner.usable:
                owner.start()  # in the background: those that are there need not wait for it

    async def _catalog(self) -> tuple[Routes, list[ToolInfo]]:
        """All tools and their names, made anew only when some list has changed."""
        await self._settle()
        versions = tuple(owner.lists.version for owner in self._owners.values())
        if self._known is None or self._known[0] != versions:
            found = {name: owner.lists.tools for name, owner in self._owners.items()}
            routes = _routes("tool", found)
            infos = [
                convert.tool_info(tool, server, routes.shown(server, tool.name))
                for server, tools in found.items()
                for tool in tools
            ]
            infos.sort(key=lambda info: (info.server, info.name))
            self._known = (versions, routes, infos)
        return self._known[1], self._known[2]

    async def _route(self, name: str) -> Route:
        routes, _ = await self._catalog()
        if (route := routes.find(name)) is not None:
            return route
        await self._need(name)
        routes, _ = await self._catalog()
        if (route := routes.find(name)) is not None:
            return route
        raise self._unknown(routes, name)

    async def _need(self, name: str) -> None:
        """Try once more to reach the servers that may have `name` and were never there."""
        for owner in self._never_there():
            if name.startswith(f"{owner.name}.") or not self._is_qualified(name):
                try:
                    await owner.connection()
                except ToolError:
                    continue  # `_unknown` tells of it
                await owner.settle()

    def _never_there(self) -> list[ServerOwner]:
        return [owner for owner in self._owners.values() if not owner.was_connected]

    def _is_qualified(self, name: str) -> bool:
        return any(name.startswith(f"{server}.") for server in self._owners)

    def _unknown(self, routes: Routes, name: str) -> ToolError:
        """The error for an unknown name: a server that is not there may be the reason."""
        for owner in self._never_there():
            error = owner.error
            if error is None:
                continue
            if name.startswith(f"{owner.name}."):
                return error
            if not self._is_qualified(name) and isinstance(error, TransportError):
                return TransportError(
                    f"`{name}` is on no server that is there, and `{owner.name}` is not: {error}",
                    hint=error.hint,
                )
        return routes.unknown(name)

    async def _prompts(self) -> dict[str, Sequence[types.Prompt]]:
        lists = await asyncio.gather(*(o.list_of("prompts") for o in self._owners.values()))
        return dict(zip(self._owners, lists, strict=True))

    async def _find_resource(self, uri: str) -> tuple[str, str]:
        """The server that has a resource, and its URI there."""
        infos = await self.resources()
        wanted = [(info.server, uri) for info in infos if convert.matches(info, uri)] or [
            (info.server, own)
            for info in infos
            for sign in ":."
            if (own := uri.removeprefix(f"{info.server}{sign}")) != uri
            and convert.matches(info, own)
        ]
        found = list(dict.fromkeys(wanted))
        if len(found) > 1:
            choices = " or ".join(f"`{server}:{own}`" for server, own in found)
            raise ToolError(f"`{uri}` is a resource of several servers", hint=f"write {choices}")
        if found:
            return found[0]
        near = nearest(uri, [info.uri for info in infos])
        tail = f"; did you mean `{near[0]}`?" if near else ""
        raise ToolError(
            f"no server has a resource `{uri}`{tail}", hint="see `fractale list resources`"
        )


def _routes(kind: str, found: Mapping[str, Iterable[types.Tool | types.Prompt]]) -> Routes:
    return Routes(kind, {server: [item.name for item in items] for server, items in found.items()})
