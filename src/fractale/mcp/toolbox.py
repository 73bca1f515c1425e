"""All servers as one toolbox: it finds the server of a name, and returns fractale's own types."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from types import TracebackType
from typing import Any

from mcp import types
from pydantic import AnyUrl, ValidationError

from fractale.errors import ToolError, TransportError, UsageError
from fractale.mcp.session import SessionManager
from fractale.mcp.transport import (
    MAX_OWN_ANSWER_BYTES,
    AnyServer,
    OnLog,
    Timing,
    quiet_departures,
    too_long,
)
from fractale.text import did_you_mean, similar
from fractale.toolbox import (
    OnElicit,
    OnProgress,
    PromptInfo,
    PromptMessage,
    Provenance,
    ResourceInfo,
    ServerStatus,
    ToolInfo,
    ToolResult,
)


@dataclass(frozen=True, slots=True)
class _LastFound:
    """The last result for a name, and the other connected servers that did not have it then."""

    found: Found
    others: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Tools:
    """The tools of all servers, at certain versions of their catalogs."""

    versions: tuple[int, ...]
    names: Names
    infos: Mapping[tuple[str, str], ToolInfo]


class McpToolbox:
    """The tools, prompts and resources of several MCP servers; see `fractale.toolbox.Toolbox`.

    Use it as an async context manager. It connects to all servers at once in the background. At the
    end it closes every session and ends the servers it started. A server that is not connected does
    not affect the others; when it is needed, it is tried again, with growing pauses.

    A call is sent once. It is sent on the next session only if its session was certainly over
    before the call went out. Cancelling a call does not change its session. A tool is called only
    while it has the definition that the caller agreed to, or the one that was seen first.

    Args:
        servers: The servers, each with a unique name.
        on_log: Called with messages that servers log or write to their standard error.
        timing: How long things may take.
        pins: The agreed definitions of tools: the `fractale.pins.Pins` of runs with these servers.

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
        self._managers: dict[str, SessionManager] = {}
        self._grace_ends = 0.0
        self._passed_over: set[str] = set()
        self._last_found: dict[str, _LastFound] = {}
        self._tools = _Tools((), _names_of("tool", {}), {})

    async def __aenter__(self) -> McpToolbox:
        """Begin to connect to every server; returns at once."""
        quiet_departures()
        self._grace_ends = time.monotonic() + self._timing.grace
        for spec in self._specs:
            manager = SessionManager(spec, timing=self._timing, on_log=self._on_log)
            self._managers[spec.name] = manager
            manager.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every session and end the servers that were started."""
        closing = asyncio.ensure_future(
            asyncio.gather(*(manager.close() for manager in self._managers.values()))
        )
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing  # cancelled again while closing: no server may keep running
            raise

    # -- lists ----------------------------------------------------------------------------------

    async def tools(self, names: Collection[str] | None = None) -> list[ToolInfo]:
        """Every tool, sorted by server and name; see `fractale.toolbox` for `names`."""
        await self._settle(names)
        return list(self._current_tools().infos.values())

    async def find_tool(self, name: str) -> ToolInfo:
        """The tool of that bare or qualified name.

        Raises:
            ToolError: No server has it, or several have.
            TransportError: The server that has it, or may have it, cannot be reached.
        """
        found = self._current(name) or await self._find(name)
        return self._tools.infos[found.server, found.name]

    async def servers(self, names: Collection[str] | None = None) -> list[ServerStatus]:
        """Every server, in the order given, connected or not."""
        await self._settle(names)
        return [manager.status() for manager in self._managers.values()]

    async def prompts(self, names: Collection[str] | None = None) -> list[PromptInfo]:
        """Every prompt, sorted by server and name; see `fractale.toolbox` for `names`."""
        prompts = await self._prompts(names)
        shown = _names_of("prompt", prompts).shown
        infos = [
            replace(prompt, name=shown(server, prompt.name))
            for server, own in prompts.items()
            for prompt in own
        ]
        return sorted(infos, key=lambda info: (info.server, info.name))

    async def resources(self) -> list[ResourceInfo]:
        """Every resource and resource template, sorted by server and URI."""
        return await self._resources_of(self._managers.values())

    async def _resources_of(self, managers: Iterable[SessionManager]) -> list[ResourceInfo]:
        asked = [(manager, kind) for manager in managers for kind in ("resources", "templates")]
        lists = await asyncio.gather(*(manager.list_of(kind) for manager, kind in asked))
        infos: list[ResourceInfo] = [item for items in lists for item in items]
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
            on_progress: Called with the progress that the tool reports.
            on_elicit: Answers the server's questions meanwhile. An exception from it ends the call
                and is raised here. Without it, the server gets no answers. If a server has several
                calls in progress, its question is assigned to the latest one.
            definition: The `ToolInfo.definition` that was agreed to; None: the first one seen.

        Raises:
            ToolError: The name is unknown or ambiguous, the server refused, the tool has another
                definition by now, or its answer is over the limit.
            TransportError: The server cannot be reached, was lost, or did not answer in time.
        """
        found = self._current(name) or await self._find(name)
        manager = self._managers[found.server]
        params = types.CallToolRequestParams(name=found.name, arguments=dict(arguments))
        try:
            result = await manager.request(
                types.ClientRequest(types.CallToolRequest(params=params)),
                types.CallToolResult,
                on_progress=on_progress,
                on_elicit=on_elicit,
                tool=(found.name, definition),
            )
        except ToolError as error:
            error.hint = error.hint or manager.hint_if_refused(error.message)
            raise
        if result.isError and (hint := manager.hint_if_refused(str(result.content))):
            result.content.append(types.TextContent(type="text", text=hint))
        return tool_result(result, found.server)

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt; arguments that are not text are sent as JSON.

        Raises:
            ToolError: The name is unknown or ambiguous, required arguments are missing, or the
                server refused.
            TransportError: The server cannot be reached or was lost.
        """
        tried = self._tried()
        prompts = await self._prompts([name])
        names = _names_of("prompt", prompts)
        found = names.find(name)
        if found is None:
            await self._need(name, tried)
            prompts = await self._prompts([name])
            names = _names_of("prompt", prompts)
            found = names.find(name)
        if found is None:
            raise self._unknown(names, name)
        prompt = next(each for each in prompts[found.server] if each.name == found.name)
        params = types.GetPromptRequestParams(
            name=found.name, arguments=_prompt_arguments(prompt, arguments)
        )
        request = types.ClientRequest(types.GetPromptRequest(params=params))
        answer = await self._managers[found.server].request(request, types.GetPromptResult)
        return prompt_messages(answer)

    async def read_resource(self, uri: str) -> ToolResult:
        """The contents of a resource, as a tool's answer that embeds it.

        Args:
            uri: The resource's URI; ``server:URI`` if several servers have it.

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
        answer = await self._managers[server].request(request, types.ReadResourceResult)
        return _resource_result(answer, server)

    async def provenance(self, server: str, tool: str | None = None) -> Provenance:
        """What works when a tool is called; see `fractale.toolbox.provenance_of`."""
        manager = self._managers.get(server)
        if manager is None:
            return Provenance(unknown=f"server `{server}` is not in the settings")
        return await manager.provenance(tool)

    # -- names ----------------------------------------------------------------------------------

    async def _settle(self, names: Collection[str] | None = None, kind: str = "tools") -> None:
        """Wait for the servers that may have one of `names`; None: for all.

        A bare name may be on any server. If a connected server has it, this does not wait for the
        late ones.

        Args:
            kind: What the names are of: ``tools`` or ``prompts``.
        """
        waiting = {
            asyncio.create_task(manager.settle()): manager
            for manager in self._managers.values()
            if not manager.settled and self._is_needed(manager, names, ())
        }
        try:
            await self._wait(waiting, names, kind)
        finally:
            for task in waiting:
                task.cancel()
        for manager in self._managers.values():
            if not manager.usable:
                manager.start()  # in the background: the connected servers need not wait for it

    async def _wait(
        self,
        waiting: Mapping[asyncio.Task[None], SessionManager],
        names: Collection[str] | None,
        kind: str,
    ) -> None:
        late = set(waiting)
        if late:
            grace = max(0.0, self._grace_ends - time.monotonic())
            _, late = await asyncio.wait(late, timeout=grace)
        reported: set[asyncio.Task[None]] = set()
        while late:
            known = await self._bare_names(kind)
            if not any(self._is_needed(waiting[task], names, known) for task in late):
                self._continue_without([waiting[task] for task in late])
                return
            for task in late - reported:
                waiting[task].log("warning", _still_waiting(waiting[task], self._timing.grace))
            reported |= late
            _, late = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)

    def _continue_without(self, late: Iterable[SessionManager]) -> None:
        """Report, once per server, the servers that did not connect within the grace."""
        for manager in late:
            if manager.name not in self._passed_over:
                self._passed_over.add(manager.name)
                manager.log("warning", _not_waited_for(self._timing.grace))

    def _is_needed(
        self, manager: SessionManager, names: Collection[str] | None, known: Collection[str]
    ) -> bool:
        """Whether one of `names` is of that server.

        A bare name is, unless another server is known to have it. A bare pattern may match
        something on any server.
        """
        return names is None or any(
            name.startswith(f"{manager.name}.")
            or (not self._is_qualified(name) and (has_magic(name) or name not in known))
            for name in names
        )

    async def _bare_names(self, kind: str) -> set[str]:
        """The bare names of the tools or prompts on connected servers."""
        there = [manager for manager in self._managers.values() if manager.settled]
        if kind == "tools":
            return {tool.name for manager in there for tool in manager.catalog.tools}
        lists = await asyncio.gather(*(manager.list_of(kind) for manager in there))
        return {item.name for items in lists for item in items}

    def _current_tools(self) -> _Tools:
        """All tools and their names, rebuilt only if a server's list has changed."""
        versions = tuple(manager.catalog.version for manager in self._managers.values())
        if self._tools.versions != versions:
            found = {name: manager.catalog.tools for name, manager in self._managers.items()}
            names = _names_of("tool", found)
            infos = {
                (server, tool.name): replace(
                    tool,
                    name=names.shown(server, tool.name),
                    traces_itself=tool.traces_itself and self._managers[server].is_embedded,
                )
                for server, tools in found.items()
                for tool in tools
            }
            order = sorted(infos.items(), key=lambda item: (item[1].server, item[1].name))
            self._tools = _Tools(versions, names, dict(order))
        return self._tools

    def _current(self, name: str) -> Found | None:
        """The tool of a qualified name, if its server's list is current and has it."""
        server, _, own = name.partition(".")
        manager = self._managers.get(server)
        if (
            manager is None
            or not manager.settled
            or (server, own) not in self._current_tools().infos
        ):
            return None
        return Found(server, own, name)

    async def _find(self, name: str) -> Found:
        """The tool of a name, after waiting for the servers that may have it.

        Raises:
            ToolError: No server has it, or several have.
            TransportError: The server that has it, or may have it, cannot be reached.
        """
        tried = self._tried()
        for again in (False, True):
            if again:
                await self._need(name, tried)
            await self._settle([name])
            names = self._current_tools().names
            if (found := self._found(names, name)) is not None:
                return found
        raise self._unknown(self._tools.names, name)

    def _found(self, names: Names, name: str) -> Found | None:
        """The tool of a name; it stays the same if a late server has the name, too.

        Raises:
            ToolError: Several servers have it.
        """
        try:
            found = names.find(name)
        except ToolError:
            last = self._last_found.get(name)
            if last is None or self._rivals(name, last.found.server) & last.others:
                raise
            return last.found
        if found is not None:
            there = frozenset(m.name for m in self._managers.values() if m.was_connected)
            self._last_found[name] = _LastFound(found, there - {found.server})
        return found

    def _rivals(self, name: str, server: str) -> set[str]:
        """The other servers with a tool of that bare name."""
        return {
            manager.name
            for manager in self._managers.values()
            if manager.name != server and any(tool.name == name for tool in manager.catalog.tools)
        }

    def _tried(self) -> list[SessionManager]:
        """The servers that were tried and never connected."""
        return [manager for manager in self._never_there() if manager.was_tried]

    async def _need(self, name: str, tried: Iterable[SessionManager]) -> None:
        """Try once more to reach the servers that may have `name` and never connected.

        A server whose first answer timed out is not waited for again.

        Args:
            tried: The servers that had been tried before the search for the name.
        """
        meant = [
            manager
            for manager in tried
            if not manager.is_silent
            and (name.startswith(f"{manager.name}.") or not self._is_qualified(name))
        ]
        await asyncio.gather(*(self._reach(manager) for manager in meant))

    async def _reach(self, manager: SessionManager) -> None:
        try:
            await manager.connection()
        except ToolError:
            return  # `_unknown` reports it
        await manager.settle()

    def _never_there(self) -> list[SessionManager]:
        return [manager for manager in self._managers.values() if not manager.was_connected]

    def _is_qualified(self, name: str) -> bool:
        return any(name.startswith(f"{server}.") for server in self._managers)

    def _unknown(self, names: Names, name: str) -> ToolError:
        """The error for an unknown name: an unconnected server may be the reason."""
        absent = [(manager, error) for manager in self._never_there() if (error := manager.error)]
        for manager, error in absent:
            if name.startswith(f"{manager.name}."):
                return error
        if not absent or self._is_qualified(name):
            return names.unknown(name)
        errors = [error for _, error in absent]
        lost = [error for error in errors if isinstance(error, TransportError)]
        parts = [f"`{name}` is on no server that is connected", names.suggestion(name)]
        parts += [error.message for error in errors]
        kind = TransportError if lost else ToolError
        return kind("; ".join(filter(None, parts)), hint=(lost or errors)[0].hint)

    async def _prompts(
        self, names: Collection[str] | None = None
    ) -> dict[str, Sequence[PromptInfo]]:
        """The prompts of each server; none of a late server that is not needed."""
        await self._settle(names, "prompts")
        there = [manager for manager in self._managers.values() if manager.was_tried]
        lists = await asyncio.gather(*(manager.list_of("prompts") for manager in there))
        return {manager.name: found for manager, found in zip(there, lists, strict=True)}

    async def _find_resource(self, uri: str) -> tuple[str, str]:
        """The server that has a resource, and its URI there.

        If the URI begins with a server's name, only that server is asked, unless it does not have
        the resource.
        """
        named = [m for m in self._managers.values() if uri.startswith((f"{m.name}:", f"{m.name}."))]
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


def _still_waiting(manager: SessionManager, seconds: float) -> str:
    return (
        f"has not answered after {seconds:g} s; waiting for it up to {manager.handshake:g} s "
        f"(`handshake` of server `{manager.name}` in the settings)"
    )


def _not_waited_for(seconds: float) -> str:
    return f"has not answered after {seconds:g} s; continuing: others have what is needed"


def _resources_at(uri: str, infos: Sequence[ResourceInfo]) -> list[tuple[str, str]]:
    """The servers that have a resource, each with its URI there."""
    found = [(info.server, uri) for info in infos if _matches(info, uri)] or [
        (info.server, own)
        for info in infos
        for sign in ":."
        if (own := uri.removeprefix(f"{info.server}{sign}")) != uri and _matches(info, own)
    ]
    return list(dict.fromkeys(found))


def _matches(info: ResourceInfo, uri: str) -> bool:
    """Whether a resource is the one at `uri`, or a template that can make it."""
    if not info.is_template:
        return info.uri == uri
    parts = re.split(r"\{([^}]*)\}", info.uri)
    pattern = "".join(
        re.escape(part) if index % 2 == 0 else _variable(part) for index, part in enumerate(parts)
    )
    return re.fullmatch(pattern, uri) is not None


def _variable(name: str) -> str:
    """A variable of a URI template as a pattern: ``{+path}``, ``{path*}`` may have slashes."""
    return ".*" if name[:1] in "+#/?&;." or name.endswith("*") else "[^/]*"


def _names_of(kind: str, found: Mapping[str, Iterable[ToolInfo | PromptInfo]]) -> Names:
    return Names(kind, {server: [item.name for item in items] for server, items in found.items()})


# Names


@dataclass(frozen=True, slots=True)
class Found:
    """The result for a name: a server, the server's name for it, and the name in the run."""

    server: str
    name: str
    shown: str


class Names:
    """All names of one kind.

    A name is bare if only one server has it, else ``server.name``. A name that looks like another
    server's qualified name is never bare, so no server can impersonate another.

    Args:
        kind: ``tool`` or ``prompt``, for messages.
        names: For each server, the names it has.
    """

    def __init__(self, kind: str, names: Mapping[str, Iterable[str]]) -> None:
        self._kind = kind
        self._names = {server: dict.fromkeys(own) for server, own in names.items()}
        self._count = Counter(name for own in self._names.values() for name in own)

    def shown(self, server: str, name: str) -> str:
        """The name to use in a run for what `server` calls `name`."""
        return name if self._is_bare(name) else f"{server}.{name}"

    def _is_bare(self, name: str) -> bool:
        qualified = any(name.startswith(f"{server}.") for server in self._names)
        return self._count[name] == 1 and not qualified

    def find(self, name: str) -> Found | None:
        """The entry of a bare or qualified name, or None.

        Raises:
            ToolError: Several servers have it.
        """
        found = [
            Found(server, own, self.shown(server, own)) for server, own in self._candidates(name)
        ]
        if len(found) > 1:
            choices = " or ".join(f"`{each.server}.{each.name}`" for each in found)
            raise ToolError(
                f"`{name}` is a {self._kind} of {len(found)} servers", hint=f"write {choices}"
            )
        return found[0] if found else None

    def _candidates(self, name: str) -> list[tuple[str, str]]:
        qualified = [
            (server, name[len(server) + 1 :])
            for server, own in self._names.items()
            if name.startswith(f"{server}.") and name[len(server) + 1 :] in own
        ]
        # If it reads as a server's qualified name, a bare tool of that name is ignored.
        if qualified or any(name.startswith(f"{server}.") for server in self._names):
            return qualified
        return [(server, name) for server, own in self._names.items() if name in own]

    def _all(self) -> Iterator[tuple[str, str]]:
        return ((server, own) for server, names in self._names.items() for own in names)

    def suggestion(self, name: str) -> str:
        """The nearest names to an unknown one: ``did you mean …?``; empty if none is similar."""
        shown: dict[str, list[str]] = {}
        for server, own in self._all():
            shown.setdefault(own, []).append(self.shown(server, own))
            shown.setdefault(f"{server}.{own}", []).append(self.shown(server, own))
        near = list(dict.fromkeys(each for own in similar(name, shown, 2) for each in shown[own]))
        return f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""

    def unknown(self, name: str) -> ToolError:
        """The error for an unknown name, with the nearest known name."""
        suggestion = self.suggestion(name)
        tail = f"; {suggestion}" if suggestion else ""
        return ToolError(
            f"no server has a {self._kind} `{name}`{tail}",
            hint="`fractale list` shows all there are",
        )


# Answers


def tool_result(result: types.CallToolResult, server: str) -> ToolResult:
    """A tool's complete answer.

    Raises:
        ToolError: Its text is over the limit of an embedded server, whose answers pass no transport
            that checks them.
    """
    said = (_text_in(part) for part in result.content)
    text = "\n".join(each for each in said if each is not None)
    if len(text) > MAX_OWN_ANSWER_BYTES:
        raise too_long(server, len(text), MAX_OWN_ANSWER_BYTES)
    return ToolResult(
        text=text,
        structured=result.structuredContent,
        is_error=result.isError,
        content=tuple(_json(part) for part in result.content),
    )


def _text_in(part: types.ContentBlock) -> str | None:
    """The text of a part; None if the part is bytes."""
    if isinstance(part, types.TextContent):
        return part.text
    if isinstance(part, types.ResourceLink):
        return _link_line(part)
    if isinstance(part, types.EmbeddedResource) and isinstance(
        part.resource, types.TextResourceContents
    ):
        return part.resource.text
    return None


def _link_line(link: types.ResourceLink) -> str:
    about = ", ".join(filter(None, (link.title or link.name, link.mimeType)))
    line = f"{link.uri} ({about})" if about else str(link.uri)
    return f"{line}: {link.description}" if link.description else line


def _json(part: types.ContentBlock) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)


def _resource_result(result: types.ReadResourceResult, server: str) -> ToolResult:
    """The contents of a resource, as the answer of a tool that embeds it.

    Raises:
        ToolError: Its text is over the limit.
    """
    parts = [types.EmbeddedResource(type="resource", resource=each) for each in result.contents]
    return tool_result(types.CallToolResult(content=[*parts]), server)


def _prompt_arguments(prompt: PromptInfo, arguments: Mapping[str, Any]) -> dict[str, str]:
    """A prompt's arguments as text, the only type that MCP has for them; other values become JSON.

    Raises:
        ToolError: Required ones are missing.
    """
    required = [a["name"] for a in prompt.arguments if a["required"]]
    if missing := [name for name in required if arguments.get(name) is None]:
        names = ", ".join(f"`{name}`" for name in missing)
        raise ToolError(
            f"prompt `{prompt.name}` needs {names}", hint=f"set {names} under the step's `inputs`"
        )
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in arguments.items()
        if value is not None
    }


def prompt_messages(result: types.GetPromptResult) -> list[PromptMessage]:
    """A prompt's messages in order, with their roles."""
    return [
        message
        for each in result.messages
        for message in _unwrapped(each.role, _text_of(each.content))
    ]


def _text_of(part: types.ContentBlock) -> str:
    text = _text_in(part)
    if text is not None:
        return text
    kind = part.type if isinstance(part, (types.ImageContent, types.AudioContent)) else "bytes"
    raise ToolError(
        f"the prompt has a message of {kind}, which is not text",
        hint="give the model a file's path in the step's `instruction` instead",
    )


def _unwrapped(role: str, text: str) -> Iterator[PromptMessage]:
    """The messages inside a text that is itself ``{"messages": [...]}``, as 0.1.0's prompts are."""
    if text.lstrip().startswith("{"):
        try:
            data: Any = json.loads(text)
            inner = [
                PromptMessage(
                    role=str(message.get("role", role)), text=str(message["content"]["text"])
                )
                for message in data["messages"]
            ]
        except (ValueError, LookupError, TypeError, AttributeError):
            inner = []
        if inner:
            yield from inner
            return
    yield PromptMessage(role=role, text=text)
