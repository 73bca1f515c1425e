"""The interface through which a run uses tools, prompts and resources.

A run calls tools through one `Toolbox`, whatever implements it: MCP servers (`fractale.mcp`), the
embedded server of local tools, or the fake toolbox of `fractale.testing`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from fractale.errors import ToolError
from fractale.schemas import CompiledSchema, UnusableSchema, compile_schema

OnProgress = Callable[[float, float | None, str | None], None]
"""Called with the progress so far, the total if known, and a message if there is one."""


TRACES_ITSELF: Final = "fractale/traces_itself"
"""The key in ``_meta`` of a tool of this process that is `ToolInfo.traces_itself`."""


LARGE_ANSWER: Final = 8 * 1024 * 1024
"""Characters of an answer from which a run warns: each reader of the record loads them."""


@dataclass(frozen=True, kw_only=True)  # without slots, for its cached properties
class ToolInfo:
    """A tool as its server describes it.

    Args:
        name: The name to call it by: bare if only one server has it, else ``server.tool``.
        server: The server's name in the settings; ``local`` for the embedded server.
        input_schema: JSON Schema of the arguments.
        output_schema: JSON Schema of the structured result, if the server gives one.
        annotations: MCP's hints (``readOnlyHint``, ``destructiveHint``, ``idempotentHint``,
            ``openWorldHint``, ``title``) and fractale's own (``fractale.type: agent``).
        traces_itself: Whether it reports its calls to LangChain's callbacks: a LangChain tool of
            this process does. It is not part of the tool's definition.
    """

    name: str
    server: str
    description: str = ""
    input_schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    output_schema: Mapping[str, Any] | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict[str, Any])
    traces_itself: bool = field(default=False, compare=False)

    @property
    def qualified_name(self) -> str:
        """``server.tool``: always unambiguous."""
        return f"{self.server}.{self.own_name}"

    @property
    def own_name(self) -> str:
        """The tool's name on its server."""
        return self.name.removeprefix(f"{self.server}.")

    @property
    def described(self) -> dict[str, Any]:
        """Everything that its server says about it except its name, as JSON: its definition."""
        return {
            "description": self.description,
            "input_schema": self.input_schema,
            "output_schema": self.output_schema,
            "annotations": self.annotations,
        }

    @cached_property
    def definition(self) -> str:
        """A hash of `described`: with another hash, it is another tool, whatever its name.

        The order of keys does not matter. The hash is the same in every process and release.
        """
        text = json.dumps(self.described, sort_keys=True, ensure_ascii=False, default=dict)
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()

    @cached_property
    def compiled_output_schema(self) -> CompiledSchema | None:
        """Its `output_schema`, prepared to check answers; None if that cannot be used."""
        try:
            return compile_schema(self.output_schema) if self.output_schema else None
        except UnusableSchema:
            return None

    @property
    def is_agent(self) -> bool:
        """Whether the entry is a sub-agent rather than a tool."""
        return self.annotations.get("fractale.type") == "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInfo:
    """A prompt as its server describes it; arguments are ``{name, description, required}``."""

    name: str
    server: str
    description: str = ""
    arguments: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceInfo:
    """A resource, or a template of resources, as its server describes it."""

    uri: str
    server: str
    name: str = ""
    description: str = ""
    mime_type: str | None = None
    is_template: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """A tool's complete answer.

    Args:
        text: The parts that are text, joined by newlines: text, the text of embedded resources, and
            one line for each link to a resource.
        structured: MCP's ``structuredContent``, also on errors; None if there was none.
        is_error: MCP's ``isError``.
        content: All parts in MCP's JSON form (text, image, audio, resource).
        files: The parts that are bytes, as the run keeps them: ``{path, mime_type, bytes}``.
        misfit: How the answer breaks the tool's own output schema, as text.
        arguments: The arguments of the call, if the user changed the requested ones.
        seconds: How long the call took, if a run made it.
    """

    text: str
    structured: Any = None
    is_error: bool = False
    content: tuple[Mapping[str, Any], ...] = ()
    files: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    misfit: str | None = field(default=None, compare=False)
    arguments: Mapping[str, Any] | None = None
    seconds: float | None = field(default=None, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether the answer is empty: no text, no structure, no bytes."""
        only_text = all(part.get("type") == "text" for part in self.content)
        return self.structured is None and only_text and not self.text.strip()

    @property
    def fault(self) -> str | None:
        """Why the answer does not count as one, as text; None if it does."""
        if self.is_error:
            return self.text.strip() or "the tool reported an error and said nothing"
        if self.is_empty:
            return "the tool answered with nothing, which does not show that it did its work"
        return self.misfit


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMessage:
    """One message of a prompt: role ``user`` or ``assistant`` (MCP's words), and its text."""

    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """Whether a server can be used, and if not, why.

    Args:
        listed: Whether its tools are known: it listed them in this process.
        confined: Whether it is a program that is confined (`fractale.confine`).
    """

    name: str
    connected: bool
    transport: str = ""
    address: str = ""
    error: str | None = None
    listed: bool = True
    confined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Elicitation:
    """A server's question to the user in the middle of a call (MCP's elicitation).

    Args:
        schema: JSON Schema of the object that the server asks for.
    """

    server: str
    message: str
    schema: Mapping[str, Any] = field(default_factory=dict[str, Any])


OnElicit = Callable[[Elicitation], Awaitable[Mapping[str, Any]]]
"""Returns ``{action: accept, content: {...}}``, ``{action: decline}`` or ``{action: cancel}``."""


@dataclass(slots=True)
class LocalCall:
    """A call in progress, as the code of a tool in this process sees it.

    Args:
        id: Identifies the call, as LangChain's ``tool_call_id``.
        task: LangGraph's namespace of the task that makes the call.
        context: The `context` of the caller's graph, for LangGraph's ``ToolRuntime``.

    Attributes:
        passed_on: The exception of LangGraph that the tool raised. It ends the task of the caller,
            as if the caller had called the tool's function, and is not the tool's answer.
    """

    id: str
    task: str = ""
    context: Any = field(default=None, repr=False)
    passed_on: Exception | None = None


LOCAL_CALL: ContextVar[LocalCall | None] = ContextVar("fractale_local_call", default=None)
"""The call that the running code serves. A tool in this process has its caller's variables."""


class Toolbox(Protocol):
    """All the tools, prompts and resources that a run may use.

    Names are bare (``flux_submit_job``) or qualified (``hpc.flux_submit_job``). A bare name that
    two servers have raises ToolError with both qualified names.

    `names` are those of tools or prompts, or patterns of them (``hpc.*``). If a server cannot have
    one of them, no method waits for it; its known tools are listed. Without `names`, the methods
    wait for every server.

    Every method may raise ToolError if the name is unknown (with the nearest names) or ambiguous,
    and TransportError if the server cannot be reached or was lost during the call.
    """

    async def tools(self, names: Collection[str] | None = None) -> list[ToolInfo]:
        """Every tool, sorted by server and name."""
        ...

    async def prompts(self, names: Collection[str] | None = None) -> list[PromptInfo]:
        """Every prompt, sorted by server and name."""
        ...

    async def resources(self) -> list[ResourceInfo]:
        """Every resource and resource template."""
        ...

    async def servers(self, names: Collection[str] | None = None) -> list[ServerStatus]:
        """Every server, connected or not."""
        ...

    async def find_tool(self, name: str) -> ToolInfo:
        """The tool of that bare or qualified name."""
        ...

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        on_elicit: OnElicit | None = None,
        definition: str | None = None,
    ) -> ToolResult:
        """Call a tool once. The call is never sent a second time automatically.

        If the call is cancelled before it was sent, the `CancelledError` may have a TransportError
        as its argument. That error says what the call waited for.

        Args:
            on_elicit: Answers the server's questions meanwhile. An exception from it ends the call.
            definition: The `ToolInfo.definition` that was agreed to. If the tool has another
                definition by then, the call is not sent (ToolError).
        """
        ...

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt; arguments that are not text are sent as JSON."""
        ...

    async def read_resource(self, uri: str) -> ToolResult:
        """The contents of a resource, as a tool's answer that embeds it.

        Args:
            uri: The resource's URI; ``server:URI`` if several servers have it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What works when a tool is called: its server, and the code that this starts.

    Args:
        parts: Name → JSON: whatever may change the answer of the tool, as far as it is known.
        unknown: Why its code is not known, as the end of a sentence; empty if it is known.
        remote: Whether the server is on another machine, or another user started it.
        directory: The directory to which its relative paths belong; None if that is not known.
        names: Texts in its code that may name files in that directory.
    """

    parts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    unknown: str = ""
    remote: bool = False
    directory: Path | None = None
    names: tuple[str, ...] = ()


async def provenance_of(toolbox: Toolbox, server: str, tool: str | None = None) -> Provenance:
    """The provenance of a tool's answers, if the toolbox knows it.

    Args:
        tool: The name of the tool on its server; None: of anything on that server.
    """
    ask: Callable[[str, str | None], Awaitable[Provenance]] | None
    ask = getattr(toolbox, "provenance", None)
    if ask is None:
        return Provenance(unknown="the toolbox does not say what its tools run")
    return await ask(server, tool)


def changed_meanwhile(server: str, tool: str, part: str = "definition") -> ToolError:
    """The error for a call of a tool whose definition is no longer the one that was agreed to.

    Args:
        part: The part of its definition that changed, in one word.
    """
    return ToolError(
        f"tool `{tool}` of server `{server}` changed its {part} during the run; it was not called",
        hint=f"if the server was updated, look at the change: fractale list --changes {server}",
    )
