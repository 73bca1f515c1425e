"""Tool names of a run: the server's tool that a name is bound to, and the approved definition.

A bare name is resolved once: for a step of the plan when the run starts, for a model when the tool
is offered. From then on the name means that server's tool. Neither a resume, a changed list of the
server nor a server that is down alters that. If a tool's definition differs from the approved one,
fractale asks the user before it offers or calls the tool again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import has_magic
from typing import TYPE_CHECKING, Any, TypeAlias

from fractale import questions
from fractale.errors import PolicyError, ToolError, TransportError
from fractale.pins import (
    LOCAL,
    Described,
    Pins,
    ToolChange,
    change_between,
    hash_of,
    pins_of,
    tool_from,
)
from fractale.plan.kinds import EXTRA_TOOLS
from fractale.policy import allowed_by
from fractale.store.notes import MemoryNotes, Notes
from fractale.toolbox import PromptInfo, Toolbox, ToolInfo

if TYPE_CHECKING:
    from fractale.graph.call import Attempt

KEY = "bindings"
PROMPT = "prompt:"
"""The prefix of a prompt's name: a prompt and a tool can have the same name."""
Snapshot: TypeAlias = "Callable[[Bound], Described | None]"


@dataclass(frozen=True, slots=True)
class Bound:
    """The server of a tool, and the tool's name there."""

    server: str
    tool: str

    @property
    def qualified_name(self) -> str:
        """``server.tool``."""
        return f"{self.server}.{self.tool}"


def bound_to(tool: ToolInfo) -> Bound:
    """The binding of a tool, without its description."""
    return Bound(tool.server, tool.own_name)


@dataclass(slots=True)
class Bindings:
    """The bound names of one run.

    Args:
        notes: Keeps the names for later processes of the run.
        pins: The definitions that were approved in earlier runs.
        snapshots: Each returns a tool's definition at the start of a run, for comparisons.
        accepted: Changed tools that the user accepted in this process.
    """

    notes: Notes = field(default_factory=MemoryNotes)
    pins: Pins = field(default_factory=Pins)
    snapshots: list[Snapshot] = field(default_factory=list["Snapshot"])
    accepted: set[Bound] = field(default_factory=set[Bound])
    _names: dict[str, Bound] = field(default_factory=dict[str, Bound])
    _agreed: dict[Bound, str] = field(default_factory=dict[Bound, str])
    _rejected: set[tuple[Bound, str]] = field(default_factory=set[tuple[Bound, str]])

    # -- what is kept ---------------------------------------------------------------------------

    def take(self, data: Mapping[str, Any]) -> None:
        """Add the names that an earlier process kept. Names that are bound do not change."""
        names: Mapping[str, Sequence[str]] = data.get("names") or {}
        agreed: Mapping[str, Mapping[str, str]] = data.get("agreed") or {}
        rejected: Sequence[Sequence[str]] = data.get("rejected") or ()
        for name, (server, tool) in names.items():
            self._names.setdefault(name, Bound(server, tool))
        for server, tools in agreed.items():
            self._agreed |= {Bound(server, tool): each for tool, each in tools.items()}
        self._rejected |= {(Bound(server, tool), each) for server, tool, each in rejected}

    def data(self) -> dict[str, Any]:
        """All names and approvals as JSON."""
        agreed: dict[str, dict[str, str]] = {}
        for bound, definition in self._agreed.items():
            agreed.setdefault(bound.server, {})[bound.tool] = definition
        return {
            "names": {name: [each.server, each.tool] for name, each in self._names.items()},
            "agreed": agreed,
            "rejected": [[b.server, b.tool, definition] for b, definition in self._rejected],
        }

    def attach(self, notes: Notes) -> None:
        """Take over the names in the run's notes, and keep new names there."""
        self.notes = notes
        self.take(notes.get(KEY) or {})

    def keep(self) -> None:
        """Keep the names for later processes of the run."""
        self.notes.put(KEY, self.data())

    # -- names ----------------------------------------------------------------------------------

    @property
    def names(self) -> Mapping[str, Bound]:
        """Every bound name."""
        return self._names

    def of(self, name: str) -> Bound | None:
        """The tool that a bare name is bound to; None if it is not bound."""
        return self._names.get(name)

    def meaning(self, name: str) -> Bound | None:
        """The tool of a bound name, or of the qualified name of an approved tool."""
        bound = Bound(*name.split(".", 1)) if "." in name else None
        return self._names.get(name) or (bound if bound in self._agreed else None)

    def of_server(self, server: str) -> set[str]:
        """The names that a server gives to its tools of which the run has approved a definition."""
        return {bound.tool for bound in self._agreed if bound.server == server}

    def bind(self, name: str, tool: ToolInfo) -> bool:
        """Bind a name for the rest of the run, unless it is bound. Returns if anything changed."""
        new = name not in self._names and name != tool.qualified_name
        if new:
            self._names[name] = bound_to(tool)
        return self._agree_at_first(tool) or new

    def bind_prompt(self, key: str, bound: Bound) -> None:
        """Bind the name of a prompt for the rest of the run."""
        self._names.setdefault(key, bound)

    def bind_missing(self, name: str, bound: Bound, definition: str) -> None:
        """Bind a name to the pinned definition of a tool that is missing now."""
        self._names.setdefault(name, bound)
        self._agreed.setdefault(bound, definition)

    def _agree_at_first(self, tool: ToolInfo) -> bool:
        """Approve the first definition that a run sees, unless another definition is pinned."""
        bound = bound_to(tool)
        if bound in self._agreed:
            return False
        pinned = self.pins.of(tool.server, tool.own_name)
        self._agreed[bound] = str(pinned["definition"]) if pinned else tool.definition
        return True

    def shown(self, tool: ToolInfo) -> ToolInfo:
        """The tool under a name that means it: qualified if its bare name means another tool."""
        other = self._names.get(tool.name)
        if other is None or other == bound_to(tool):
            return tool
        return replace(tool, name=tool.qualified_name)

    def absent(self, servers: Collection[str]) -> list[ToolInfo]:
        """The bound tools of servers that did not answer yet, with their approved definitions."""
        found: list[ToolInfo] = []
        for name, bound in self._names.items():
            agreed = self._agreed.get(bound)  # none of a prompt
            if agreed and bound.server in servers and (described := self._before(bound, agreed)):
                found.append(tool_from(described, name, bound.server))
        return found

    def exact(self, globs: Sequence[str]) -> tuple[str, ...]:
        """A list of tools with each bound name in it qualified. Patterns stay as they are."""
        return tuple(
            bound.qualified_name if (bound := self._names.get(glob)) else glob for glob in globs
        )

    # -- definitions ----------------------------------------------------------------------------

    def definition(self, tool: ToolInfo) -> str | None:
        """The hash of the approved definition of a tool. None accepts any definition."""
        return None if self._is_own(tool) else self._agreed.get(bound_to(tool))

    def _is_own(self, tool: ToolInfo) -> bool:
        """Whether the tool is a user's own function, which may change at any time."""
        return tool.server == LOCAL and not self.pins.covers(LOCAL)

    def change_of(self, tool: ToolInfo) -> ToolChange | None:
        """The differences between a tool and its approved definition. None if there are none."""
        agreed = self._agreed.get(bound_to(tool))
        if agreed is None or self._is_own(tool) or agreed == tool.definition:
            return None
        return change_between(self._before(bound_to(tool), agreed), tool)

    def _before(self, bound: Bound, agreed: str) -> Described | None:
        pinned = self.pins.of(bound.server, bound.tool)
        if pinned is not None and pinned["definition"] == agreed:
            return pinned
        found = (snapshot(bound) for snapshot in self.snapshots)
        return next((each for each in found if each and hash_of(each) == agreed), None)

    def is_rejected(self, tool: ToolInfo) -> bool:
        """Whether the user refused this definition of the tool in this run."""
        # Without rejections, the definition need not be hashed.
        return bool(self._rejected) and (bound_to(tool), tool.definition) in self._rejected

    def accept(self, tools: Iterable[ToolInfo]) -> None:
        """Approve tools as they are now, in this run and in later ones."""
        found = list(tools)
        for tool in found:
            self._agreed[bound_to(tool)] = tool.definition
            self.accepted.add(bound_to(tool))
        self.keep()
        self.pins.accept(found)
        self.pins.save()

    def reject(self, tools: Iterable[ToolInfo]) -> None:
        """Stop using the present definitions of tools in this run."""
        self._rejected.update((bound_to(tool), tool.definition) for tool in tools)
        self.keep()


# -- finding a tool by its name ------------------------------------------------------------------


async def resolve(toolbox: Toolbox, bindings: Bindings, name: str) -> ToolInfo:
    """The tool that a name means in a run. Binds a name that was not bound.

    Raises:
        Unclear: A server that did not answer may have a tool of that bare name.
        ToolError: No server has the tool, or several servers have it.
        TransportError: Its server cannot be reached.
    """
    if bound := bindings.of(name):
        return await _of_server(toolbox, name, bound)
    unheard = await _wait_for_those_who_may(toolbox, bindings.pins, name)
    try:
        tool = await _find(toolbox, name)
    except ToolError:
        _bind_missing(bindings, name, unheard)
        raise
    if name != tool.qualified_name and tool.server != LOCAL:
        _check_clear(bindings.pins, name, tool, unheard)
    if bindings.bind(name, tool):
        bindings.keep()
    return tool


async def _find(toolbox: Toolbox, name: str) -> ToolInfo:
    """The tool of a name. It does not wait for servers that are known not to have the name."""
    wanted = await waited_for(toolbox, [name])
    if name not in wanted:
        tools = await toolbox.tools(wanted)
        found = [tool for tool in tools if tool.own_name == name]
        if len(found) == 1:
            return found[0]
    return await toolbox.find_tool(name)


async def waited_for(toolbox: Toolbox, names: Iterable[str]) -> list[str]:
    """The names to wait for: a bare name that some server is known to have becomes qualified.

    A bare name stays if a server was never seen, since that server may have the name. It does not
    stay if a user's own function has that name.
    """
    pins = pins_of(toolbox)
    servers = [status.name for status in await toolbox.servers(())]
    remote = [server for server in servers if server != LOCAL or pins.covers(server)]
    known = {server: pins.known(server) for server in remote}
    own = await _own_names(toolbox, pins)
    found: list[str] = []
    for name in names:
        had = [server for server, tools in known.items() if name in (tools or ())]
        bare = not has_magic(name) and not any(name.startswith(f"{each}.") for each in servers)
        if bare and name in own:
            found += [f"{server}.{name}" for server in (LOCAL, *had)]
        elif bare and had and None not in known.values():
            found += [f"{server}.{name}" for server in (*had, *set(servers).difference(remote))]
        else:
            found.append(name)
    return found


async def _own_names(toolbox: Toolbox, pins: Pins) -> set[str]:
    """The tools that are a user's own functions."""
    there = LOCAL in {status.name for status in await toolbox.servers(())}
    if not there or pins.covers(LOCAL):
        return set()
    tools = await toolbox.tools([f"{LOCAL}.*"])
    return {tool.own_name for tool in tools if tool.server == LOCAL}


class Unclear(ToolError):
    """A server has the bare name, and another server that did not answer may have it, too."""


async def _of_server(toolbox: Toolbox, name: str, bound: Bound) -> ToolInfo:
    """A bound tool. Another server's tool of the same name never replaces it."""
    try:
        tool = await toolbox.find_tool(bound.qualified_name)
    except TransportError:
        raise
    except ToolError as error:
        if bound.server not in {server.name for server in await toolbox.servers(())}:
            raise _server_gone(name, bound) from error
        if (bound.server, True) in {(s.name, s.connected) for s in await toolbox.servers(())}:
            raise ToolError(
                f"server `{bound.server}` has no tool `{bound.tool}` any more; `{name}` means "
                "that one in this run",
                hint=f"see what it has: fractale list tools; or write another server's tool as "
                f"`SERVER.{bound.tool}` and run the plan again",
            ) from error
        raise
    if (tool.server, tool.own_name) != (bound.server, bound.tool):
        raise _server_gone(name, bound)
    return tool


def _server_gone(name: str, bound: Bound) -> TransportError:
    return TransportError(
        f"`{name}` means `{bound.qualified_name}` in this run, and the run has no server "
        f"`{bound.server}` now",
        sent=False,
        hint=f"put `{bound.server}` back into the settings: fractale config",
    )


async def _wait_for_those_who_may(toolbox: Toolbox, pins: Pins, name: str) -> set[str]:
    """Wait for servers that may have a bare name. Returns those that still did not answer.

    It does not wait for a server that is known not to have had the name. If a user's own function
    has the name, it does not wait for servers that were never seen, either.
    """
    statuses = await toolbox.servers(())
    if any(name.startswith(f"{status.name}.") for status in statuses):
        return set()
    unheard = {status.name for status in statuses if not status.listed}
    own = bool(unheard) and name in await _own_names(toolbox, pins)
    meant = {s for s in unheard if name in (had if (had := pins.known(s)) is not None else [name])}
    meant -= {s for s in meant if own and pins.known(s) is None}
    if meant:
        await toolbox.tools([f"{server}.{name}" for server in meant])
    return {s.name for s in await toolbox.servers(()) if not s.listed} if unheard else set()


def _check_clear(pins: Pins, name: str, tool: ToolInfo, unheard: Iterable[str]) -> None:
    """Check that no server that did not answer may have the tool that a name means.

    Raises:
        Unclear: Such a server may have it.
    """
    for server in sorted(set(unheard) - {tool.server}):
        had = pins.known(server)
        if had is not None and name not in had:
            continue
        known = "has it, too" if had is not None else "may have it"
        others = f" or `{server}.{tool.own_name}`" if had is not None else ""
        raise Unclear(
            f"`{name}` is on `{tool.server}`, but `{server}` did not answer and {known}",
            hint=f"write `{tool.qualified_name}`{others}; why it does not answer: "
            "fractale list servers",
        )


def _bind_missing(bindings: Bindings, name: str, unheard: Iterable[str]) -> None:
    """Bind a name to the only server that had it and does not answer now."""
    had = [server for server in unheard if name in (bindings.pins.known(server) or ())]
    if len(had) == 1 and (pinned := bindings.pins.of(had[0], name)):
        bindings.bind_missing(name, Bound(had[0], name), str(pinned["definition"]))
        bindings.keep()


async def resolve_prompt(toolbox: Toolbox, bindings: Bindings, name: str) -> str:
    """``server.prompt`` of the prompt that a name means in a run. Binds a name that was not bound.

    A name that no listed prompt has is returned unchanged: the toolbox reports the problem.

    Raises:
        TransportError: The run does not have the prompt's server any more.
    """
    key = f"{PROMPT}{name}"
    bound = bindings.of(key)
    wanted = bound.qualified_name if bound else name
    prompts = await toolbox.prompts([wanted])
    if bound is not None:
        there = {server.name for server in await toolbox.servers(())}
        if there and bound.server not in there:
            raise _server_gone(name, bound)
        return bound.qualified_name
    found = [p for p in prompts if name in (p.name, f"{p.server}.{_own_name(p)}")]
    if len(found) != 1 or found[0].name != name:
        return name
    bindings.bind_prompt(key, Bound(found[0].server, _own_name(found[0])))
    bindings.keep()
    return f"{found[0].server}.{_own_name(found[0])}"


def _own_name(prompt: PromptInfo) -> str:
    return prompt.name.removeprefix(f"{prompt.server}.")


# -- in a step -----------------------------------------------------------------------------------


async def find_tool(attempt: Attempt, name: str) -> ToolInfo:
    """The tool that a step names, as the user approved it.

    Raises:
        PolicyError: The tool changed, and the user refused the change.
        ToolError: See `resolve`.
        GraphInterrupt: The tool changed, and the user has not answered yet.
    """
    bindings = attempt.context.bindings
    tool = await resolve(attempt.deps.toolbox, bindings, name)
    if not agreed_to(attempt, [tool]):
        raise PolicyError(
            f"`{tool.qualified_name}` was not called: its server changed it, and you rejected that",
            hint=f"see what changed: fractale list --changes {tool.qualified_name}",
        )
    return tool


def offered(attempt: Attempt, tools: Iterable[ToolInfo]) -> list[ToolInfo]:
    """The bound tools that a model may be shown, as the user approved them.

    Raises:
        GraphInterrupt: A tool changed, and the user has not answered yet.
    """
    bindings = attempt.context.bindings
    found = [bindings.shown(tool) for tool in tools]
    new = [tool for tool in found if bindings.bind(tool.name, tool)]
    if new:
        bindings.keep()
    return agreed_to(attempt, found)


def agreed_to(attempt: Attempt, tools: Sequence[ToolInfo]) -> list[ToolInfo]:
    """The tools whose definitions the user approved. fractale asks the user about the others.

    Raises:
        GraphInterrupt: The user has not answered yet.
    """
    from fractale.graph.interrupts import ask  # reading a record must not import the engine

    bindings = attempt.context.bindings
    changed: dict[str, list[tuple[ToolInfo, ToolChange]]] = {}
    for tool in tools:
        change = None if bindings.is_rejected(tool) else bindings.change_of(tool)
        if change is not None:
            changed.setdefault(tool.server, []).append((tool, change))
    for server, found in changed.items():
        hashes = {change.tool: change.definition for _, change in found}
        answer = ask(attempt, questions.tool_changed(attempt.path, server, hashes, diff_of(found)))
        (bindings.accept if answer == "accept" else bindings.reject)([tool for tool, _ in found])
    return [tool for tool in tools if not bindings.is_rejected(tool)]


def diff_of(found: Sequence[tuple[ToolInfo, ToolChange]]) -> str:
    """The changes in some tools of a server, each under its name if there are several."""
    if len(found) == 1:
        return found[0][1].diff()
    return "\n".join(f"{change.server}.{change.tool}\n{change.diff()}" for _, change in found)


async def check_tools(attempt: Attempt) -> None:
    """Check, before its model works, that the tools that a step lists exist.

    A model without its tools answers with text only, which does not prove that it did any work.
    fractale warns of servers that are not connected and of patterns that match nothing.

    Raises:
        ToolError: A tool that the step names does not exist, or nothing in its list does.
    """
    listed = attempt.step.tools
    if listed == ():
        return
    bindings = attempt.context.bindings
    own = (*EXTRA_TOOLS, *attempt.deps.agents.names())
    wanted = [glob for glob in listed or () if not any(fnmatchcase(name, glob) for name in own)]
    if listed and not wanted:
        return
    tools = await attempt.deps.toolbox.tools(bindings.exact(wanted) or None)
    for name in wanted:
        meant = [tool for tool in tools if allowed_by((name,), tool)]
        if len(meant) == 1 and not has_magic(name):
            await resolve(attempt.deps.toolbox, bindings, name)
    wanted = list(bindings.exact(wanted))
    missing = [glob for glob in wanted if not any(allowed_by((glob,), tool) for tool in tools)]
    named = [name for name in missing if not has_magic(name)]
    if named or (missing and len(missing) == len(listed or ())):
        # The toolbox reports why the tool is missing.
        await resolve(attempt.deps.toolbox, bindings, (named or missing)[0])
        raise ToolError(f"no server has the step's tools: {', '.join(missing)}")
    if attempt.scope.get("index", 0) == 0:  # not again for each item of a foreach
        await _warn_of_missing(attempt, wanted, missing)


async def _warn_of_missing(attempt: Attempt, wanted: list[str], missing: list[str]) -> None:
    for server in await attempt.deps.toolbox.servers(wanted or None):
        if not server.connected:
            words = f"the tools of server `{server.name}` are not there: {server.error}"
            attempt.emit("warning", code="server-not-there", message=words)
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        words = f"no server has what the step lists in `tools`: {names}"
        attempt.emit("warning", code="tool-not-there", message=words)
