"""All servers as one toolbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from types import TracebackType
from typing import Any

from mcp import types
from pydantic import AnyUrl, ValidationError

from fractale.errors import ToolError, TransportError, UsageError
from fractale.mcp import convert
from fractale.mcp.logs import quiet_departures
from fractale.mcp.owner import ServerOwner
from fractale.mcp.routes import Route, Routes
from fractale.mcp.wire import AnyServer, OnLog, Timing
from fractale.text import did_you_mean
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


@dataclass(frozen=True, slots=True)
class _Routed:
    """Where a name led, and the other servers that were there then and did not have it."""

    route: Route
    others: frozenset[str]

    @property
    def server(self) -> str:
        return self.route.server


class McpToolbox:
    """The tools, prompts and resources of several MCP servers; see `fractale.toolbox.Toolbox`.

    Use it as an async context manager: it connects to all servers at once in the background, and
    at the end closes every session and ends the servers it started. A server that is not there
    takes nothing away from the others; it is tried again, ever more rarely, when it is needed.

    A call is sent once. Only where its session was certainly over before the call went out is it
    sent on the next session. Cancelling a call leaves its session as it is. A tool is called only
    while it has the definition that the caller agreed to, or the one that was seen first.

    Args:
        servers: The servers, each with a name of its own.
        on_log: Takes what servers log or write to their standard error, as they do.
        timing: How long things may take.
        pins: What was agreed to of the servers' tools: the `fractale.pins.Pins` of runs with them.

    Raises:
        UsageError: Two servers have the same name.
    """

    def __init__(
        self,
        servers: Sequence[AnyServer],
        *,
        on_log: OnLog | None = None,
        timing: Timing | None = None,
        pins: object = None,
    ) -> None:
        self.pins = pins
        names = [server.name for server in servers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"two servers are named `{twice[0]}`", hint="give each its own name")
        self._specs = list(servers)
        self._on_log = on_log
        self._timing = timing or Timing()
        self._owners: dict[str, ServerOwner] = {}
        self._grace_ends = 0.0
        self._passed_over: set[str] = set()
        self._routed: dict[str, _Routed] = {}
        self._known: tuple[tuple[int, ...], Routes, list[ToolInfo]] | None = None

    async def __aenter__(self) -> McpToolbox:
        """Begin to connect to every server; returns at once."""
        quiet_departures()
        self._grace_ends = time.monotonic() + self._timing.grace
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

    async def tools(self, names: Collection[str] | None = None) -> list[ToolInfo]:
        """Every tool, sorted by server and name; see `fractale.toolbox` for `names`."""
        return list((await self._catalog(names))[1])

    async def find_tool(self, name: str) -> ToolInfo:
        """The tool of that bare or qualified name.

        Raises:
            ToolError: No server has it, or several have.
            TransportError: The server that has it, or may have it, cannot be reached.
        """
        route = await self._route(name)
        tools = (await self._catalog([name]))[1]
        return next(
            tool
            for tool in tools
            if tool.server == route.server and tool.qualified_name == f"{route.server}.{route.name}"
        )

    async def servers(self, names: Collection[str] | None = None) -> list[ServerStatus]:
        """Every server, in the order given, whether it is there or not."""
        await self._settle(names)
        return [owner.status() for owner in self._owners.values()]

    async def prompts(self, names: Collection[str] | None = None) -> list[PromptInfo]:
        """Every prompt, sorted by server and name; see `fractale.toolbox` for `names`."""
        found = await self._prompts(names)
        routes = _routes("prompt", found)
        infos = [
            convert.prompt_info(prompt, server, routes.shown(server, prompt.name))
            for server, prompts in found.items()
            for prompt in prompts
        ]
        return sorted(infos, key=lambda info: (info.server, info.name))

    async def resources(self) -> list[ResourceInfo]:
        """Every resource and resource template, sorted by server and URI."""
        return await self._resources_of(self._owners.values())

    async def _resources_of(self, owners: Iterable[ServerOwner]) -> list[ResourceInfo]:
        asked = [(owner, kind) for owner in owners for kind in ("resources", "templates")]
        lists = await asyncio.gather(*(owner.list_of(kind) for owner, kind in asked))
        infos = [
            convert.resource_info(item, owner.name)
            for (owner, _), items in zip(asked, lists, strict=True)
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
        definition: str | None = None,
    ) -> ToolResult:
        """Call a tool once.

        Args:
            name: Bare or qualified.
            arguments: Plain JSON; the server checks them against the tool's schema.
            on_progress: Takes how far the tool says it is.
            on_elicit: Answers what the server asks meanwhile. What it raises ends the call, and is
                raised here. Without it, the server is told that nobody answers. Of several calls
                under way on a server, the latest is taken for the one that asks.
            definition: The `ToolInfo.definition` that was agreed to; None: what was seen first.

        Raises:
            ToolError: The name is unknown or ambiguous, the server refused, the tool has another
                definition by now, or its answer is over the limit.
            TransportError: The server cannot be reached, was lost, or did not answer in time.
        """
        route = await self._route(name)
        params = types.CallToolRequestParams(name=route.name, arguments=dict(arguments))
        request = types.ClientRequest(types.CallToolRequest(params=params))
        result = await self._owners[route.server].call_tool(
            route.name, request, on_progress, on_elicit, definition
        )
        return convert.tool_result(result, route.server)

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt; arguments that are not text are sent as JSON.

        Raises:
            ToolError: The name is unknown or ambiguous, required arguments are missing, or the
                server refused.
            TransportError: The server cannot be reached or was lost.
        """
        tried = self._tried()
        found = await self._prompts([name])
        routes = _routes("prompt", found)
        route = routes.find(name)
        if route is None:
            await self._need(name, tried)
            found = await self._prompts([name])
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

    async def _settle(self, names: Collection[str] | None = None, kind: str = "tools") -> None:
        """Wait for the servers that may have one of `names`; None: for all.

        A bare name may be on any server. Those that are late are not waited for where the ones
        that are there have it.

        Args:
            kind: What the names are of: ``tools`` or ``prompts``.
        """
        waiting = {
            asyncio.create_task(owner.settle()): owner
            for owner in self._owners.values()
            if not owner.settled and self._is_needed(owner, names, ())
        }
        try:
            await self._wait(waiting, names, kind)
        finally:
            for task in waiting:
                task.cancel()
        for owner in self._owners.values():
            if not owner.usable:
                owner.start()  # in the background: those that are there need not wait for it

    async def _wait(
        self,
        waiting: Mapping[asyncio.Task[None], ServerOwner],
        names: Collection[str] | None,
        kind: str,
    ) -> None:
        late = set(waiting)
        if late:
            grace = max(0.0, self._grace_ends - time.monotonic())
            _, late = await asyncio.wait(late, timeout=grace)
        told: set[asyncio.Task[None]] = set()
        while late:
            known = await self._names_of(kind)
            if not any(self._is_needed(waiting[task], names, known) for task in late):
                self._go_on_without([waiting[task] for task in late])
                return
            for task in late - told:
                waiting[task].tell("warning", _still_waiting(waiting[task], self._timing.grace))
            told |= late
            _, late = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)

    def _go_on_without(self, late: Iterable[ServerOwner]) -> None:
        """Tell once of each server that the grace was spent on in vain."""
        for owner in late:
            if owner.name not in self._passed_over:
                self._passed_over.add(owner.name)
                owner.tell("warning", _not_waited_for(self._timing.grace))

    def _is_needed(
        self, owner: ServerOwner, names: Collection[str] | None, known: Collection[str]
    ) -> bool:
        """Whether one of `names` is of that server; a bare one is if no other is known to have it.

        A bare pattern may fit something on any server.
        """
        return names is None or any(
            name.startswith(f"{owner.name}.")
            or (not self._is_qualified(name) and (has_magic(name) or name not in known))
            for name in names
        )

    async def _names_of(self, kind: str) -> set[str]:
        """The bare names of the tools or prompts on servers that are there."""
        there = [owner for owner in self._owners.values() if owner.settled]
        if kind == "tools":
            return {tool.name for owner in there for tool in owner.lists.tools}
        lists = await asyncio.gather(*(owner.list_of(kind) for owner in there))
        return {item.name for items in lists for item in items}

    async def _catalog(self, names: Collection[str] | None = None) -> tuple[Routes, list[ToolInfo]]:
        """All tools and their names, made anew only when some list has changed."""
        await self._settle(names)
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
        tried = self._tried()
        for attempt in (1, 2):
            if attempt == 2:
                await self._need(name, tried)
            routes, _ = await self._catalog([name])
            if (route := self._found(routes, name)) is not None:
                return route
        raise self._unknown(routes, name)

    def _found(self, routes: Routes, name: str) -> Route | None:
        """Where a name leads; still there where a server that was late has the name, too.

        Raises:
            ToolError: Several servers have it.
        """
        try:
            route = routes.find(name)
        except ToolError:
            first = self._routed.get(name)
            if first is None or self._rivals(name, first.server) & first.others:
                raise
            return first.route
        if route is not None:
            there = frozenset(o.name for o in self._owners.values() if o.was_connected)
            self._routed[name] = _Routed(route, there - {route.server})
        return route

    def _rivals(self, name: str, server: str) -> set[str]:
        """The other servers with a tool of that bare name."""
        return {
            owner.name
            for owner in self._owners.values()
            if owner.name != server and any(tool.name == name for tool in owner.lists.tools)
        }

    def _tried(self) -> list[ServerOwner]:
        """The servers that were never there, and were tried."""
        return [owner for owner in self._never_there() if owner.was_tried]

    async def _need(self, name: str, tried: Iterable[ServerOwner]) -> None:
        """Try once more to reach the servers that may have `name` and were never there.

        A server that let the time for its first answer go by is not waited for again.

        Args:
            tried: Those that had been tried before the name was looked for.
        """
        meant = [
            owner
            for owner in tried
            if not owner.is_silent
            and (name.startswith(f"{owner.name}.") or not self._is_qualified(name))
        ]
        await asyncio.gather(*(self._reach(owner) for owner in meant))

    async def _reach(self, owner: ServerOwner) -> None:
        try:
            await owner.connection()
        except ToolError:
            return  # `_unknown` tells of it
        await owner.settle()

    def _never_there(self) -> list[ServerOwner]:
        return [owner for owner in self._owners.values() if not owner.was_connected]

    def _is_qualified(self, name: str) -> bool:
        return any(name.startswith(f"{server}.") for server in self._owners)

    def _unknown(self, routes: Routes, name: str) -> ToolError:
        """The error for an unknown name: a server that is not there may be the reason."""
        absent = [(owner, error) for owner in self._never_there() if (error := owner.error)]
        for owner, error in absent:
            if name.startswith(f"{owner.name}."):
                return error
        if not absent or self._is_qualified(name):
            return routes.unknown(name)
        errors = [error for _, error in absent]
        lost = [error for error in errors if isinstance(error, TransportError)]
        parts = [f"`{name}` is on no server that is connected", routes.suggestion(name)]
        parts += [error.message for error in errors]
        kind = TransportError if lost else ToolError
        return kind("; ".join(filter(None, parts)), hint=(lost or errors)[0].hint)

    async def _prompts(
        self, names: Collection[str] | None = None
    ) -> dict[str, Sequence[types.Prompt]]:
        """The prompts of each server; of one that is late and not needed, none."""
        await self._settle(names, "prompts")
        there = [owner for owner in self._owners.values() if owner.was_tried]
        lists = await asyncio.gather(*(owner.list_of("prompts") for owner in there))
        return {owner.name: found for owner, found in zip(there, lists, strict=True)}

    async def _find_resource(self, uri: str) -> tuple[str, str]:
        """The server that has a resource, and its URI there.

        Where the URI begins with a server's name, only that one is asked, unless it has none.
        """
        named = [o for o in self._owners.values() if uri.startswith((f"{o.name}:", f"{o.name}."))]
        infos = await self._resources_of(named)
        found = _resources_at(uri, infos)
        if not found:
            infos = await self.resources()
            found = _resources_at(uri, infos)
        if len(found) > 1:
            choices = " or ".join(f"`{server}:{own}`" for server, own in found)
            raise ToolError(f"`{uri}` is a resource of several servers", hint=f"write {choices}")
        if found:
            return found[0]
        tail = did_you_mean(uri, [info.uri for info in infos], before="; ")
        raise ToolError(
            f"no server has a resource `{uri}`{tail}", hint="see `fractale list resources`"
        )


def _still_waiting(owner: ServerOwner, seconds: float) -> str:
    return (
        f"has not answered after {seconds:g} s; waiting for it up to {owner.handshake:g} s "
        f"(`handshake` of server `{owner.name}` in the settings)"
    )


def _not_waited_for(seconds: float) -> str:
    return f"has not answered after {seconds:g} s; going on without it: others have what is needed"


def _resources_at(uri: str, infos: Sequence[ResourceInfo]) -> list[tuple[str, str]]:
    """The servers that have a resource, each with its URI there."""
    found = [(info.server, uri) for info in infos if convert.matches(info, uri)] or [
        (info.server, own)
        for info in infos
        for sign in ":."
        if (own := uri.removeprefix(f"{info.server}{sign}")) != uri and convert.matches(info, own)
    ]
    return list(dict.fromkeys(found))


def _routes(kind: str, found: Mapping[str, Iterable[types.Tool | types.Prompt]]) -> Routes:
    return Routes(kind, {server: [item.name for item in items] for server, items in found.items()})
