"""A tool server without a server, for tests of plans.

Give it functions or canned answers, run a plan with it, and check its calls::

    tools = FakeToolServer()
    tools.answer("submit", {"job": 7}).answer("state", {"state": "RUNNING"}, {"state": "DONE"})
    tools.lose("logs").answer("logs", "42 lines")      # lost once, then there

    @tools.tool(read_only=True)
    def nodes(partition: str) -> list[str]:
        \"\"\"The nodes of a partition.\"\"\"
        return ["n1", "n2"]

    @tools.tool
    async def release(job: int) -> str:
        answer = await tools.elicit(f"Release job {job}?")     # asks the user of the run
        return answer["action"]

    ...
    assert [call.name for call in tools.calls] == ["submit", "state", "state"]

Each tool returns its answers in the order in which they were set, and then repeats the last one.
"""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast, overload

from pydantic import TypeAdapter

from fractale.errors import CallError, ToolError, TransportError
from fractale.registry.calls import pass_on
from fractale.text import did_you_mean
from fractale.toolbox import (
    Elicitation,
    OnElicit,
    OnProgress,
    PromptInfo,
    PromptMessage,
    Provenance,
    ResourceInfo,
    ServerStatus,
    ToolInfo,
    ToolResult,
    changed_meanwhile,
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
Answer = Callable[[Mapping[str, Any]], Any]


class FakeCall(NamedTuple):
    """One call: the tool's bare name and the arguments as they arrived."""

    name: str
    arguments: Mapping[str, Any]


CLOSED: Final[Mapping[str, Any]] = {"openWorldHint": False}
"""A fake tool's annotations by default."""


@dataclass(slots=True)
class _Fake:
    info: ToolInfo
    answers: list[Answer] = field(default_factory=list[Answer])

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Ended(BaseException):  # a tool's own `except Exception` does not keep a call alive
    """Answering a question raised `error`, which ends the call that asked."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class FakeToolServer:
    """A `fractale.toolbox.Toolbox` with prepared answers, which records its calls.

    Args:
        name: The server's name, before the dot of qualified names.

    Attributes:
        calls: Every tool call in the order made, including failed ones.
        version: Of the server and its code, as cached results know it.
    """

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.version = "1"
        self.calls: list[FakeCall] = []
        self._tools: dict[str, _Fake] = {}
        self._prompts: dict[str, tuple[PromptInfo, list[PromptMessage]]] = {}
        self._resources: dict[str, Mapping[str, Any]] = {}
        self._on_elicit: ContextVar[OnElicit | None] = ContextVar("on_elicit", default=None)

    # -- what it has ----------------------------------------------------------------------------

    @overload
    def tool(self, function: FunctionT) -> FunctionT: ...

    @overload
    def tool(
        self,
        *,
        name: str | None = None,
        read_only: bool = False,
        annotations: Mapping[str, Any] | None = None,
    ) -> Callable[[FunctionT], FunctionT]: ...

    def tool(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        read_only: bool = False,
        annotations: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make a function a tool; its signature and docstring describe it. Also a decorator.

        Args:
            function: May be async. An exception from it becomes an answer with ``isError``; a
                fractale error is raised as it is. It may return a `ToolResult`.
            name: The tool's name, if it is not the function's.
            read_only: Whether the tool says that it changes nothing.
            annotations: More of MCP's hints.

        Returns:
            The function, unchanged.
        """

        def register(found: Callable[..., Any]) -> Callable[..., Any]:
            own = name or found.__name__
            # pydantic also makes a schema of a function, but its stub does not say so.
            adapter = TypeAdapter(cast("type[Any]", found))
            self.describe(
                own,
                description=inspect.getdoc(found) or "",
                input_schema=adapter.json_schema(),
                annotations={"readOnlyHint": read_only, **(annotations or {})},
            )
            return self._register(own, found)

        return register if function is None else register(function)

    def _register(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        self._add(name, lambda arguments: function(**arguments))
        return function

    def describe(
        self,
        name: str,
        *,
        description: str = "",
        input_schema: Mapping[str, Any] | None = None,
        output_schema: Mapping[str, Any] | None = None,
        annotations: Mapping[str, Any] | None = None,
    ) -> FakeToolServer:
        """Set how the server describes a tool; without it, a tool accepts any arguments.

        Args:
            annotations: MCP's hints; a fake tool is of a closed world unless they say otherwise.
        """
        info = ToolInfo(
            name=name,
            server=self.name,
            description=description,
            input_schema=input_schema or {"type": "object"},
            output_schema=output_schema,
            annotations={**CLOSED, **(annotations or {})},
        )
        self._tools.setdefault(name, _Fake(info)).info = info
        return self

    def answer(self, name: str, *answers: Any) -> FakeToolServer:
        """Add canned answers: text, or JSON that becomes the structured result, or `ToolResult`."""
        for each in answers:
            self._add(name, lambda _arguments, value=each: value)
        return self

    def parts(
        self, name: str, *parts: Mapping[str, Any], structured: Any = None, is_error: bool = False
    ) -> FakeToolServer:
        """Add an answer of MCP's content parts in their JSON form; without parts, an empty answer.

        For example ``{"type": "image", "data": base64, "mimeType": "image/png"}``: text, image,
        audio, resource_link and resource (an embedded one, with `text` or `blob`).
        """
        return self.answer(name, _answer_of(*parts, structured=structured, is_error=is_error))

    def fail(self, name: str, message: str, *, structured: Any = None) -> FakeToolServer:
        """Add an answer with MCP's ``isError``."""
        failed = _result(structured, text=message, is_error=True)
        return self.answer(name, failed)

    def lose(self, name: str, *, sent: bool = True) -> FakeToolServer:
        """Add a loss of the server during the call.

        Args:
            name: The tool.
            sent: Whether the call may have reached the server before it was lost.
        """

        def lost(_arguments: Mapping[str, Any]) -> Any:
            raise TransportError(f"server `{self.name}` was lost during `{name}`", sent=sent)

        return self._add(name, lost)

    def prompt(
        self,
        name: str,
        *messages: str | PromptMessage,
        arguments: Sequence[Mapping[str, Any]] = (),
    ) -> FakeToolServer:
        """Add a prompt.

        Args:
            name: The prompt's name.
            messages: Its messages; text is a user's. ``{argument}`` is replaced by an argument.
            arguments: ``{name, description, required}`` for each.
        """
        made = [
            PromptMessage(role="user", text=each) if isinstance(each, str) else each
            for each in messages
        ]
        info = PromptInfo(name=name, server=self.name, arguments=tuple(arguments))
        self._prompts[name] = (info, made)
        return self

    def resource(
        self, uri: str, content: str | bytes, mime_type: str | None = None
    ) -> FakeToolServer:
        """Add a resource: text, or bytes."""
        said: dict[str, Any] = {"uri": uri} | ({"mimeType": mime_type} if mime_type else {})
        if isinstance(content, bytes):
            said["blob"] = base64.b64encode(content).decode()
        else:
            said["text"] = content
        self._resources[uri] = {"type": "resource", "resource": said}
        return self

    async def elicit(
        self, message: str, schema: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """Ask the user who runs the plan, from inside a tool: MCP's elicitation.

        Args:
            message: The question.
            schema: JSON Schema of the object to ask for; without it, ``{value: text}``.

        Returns:
            ``{action: accept, content: {...}}``, or another `action` without content; ``decline``
            if no user answers this call's questions.
        """
        handler = self._on_elicit.get()
        if handler is None:
            return {"action": "decline"}
        wanted = schema or {"type": "object", "properties": {"value": {"type": "string"}}}
        try:
            return await handler(Elicitation(server=self.name, message=message, schema=wanted))
        except Exception as error:
            raise _Ended(error) from error

    def _add(self, name: str, answer: Answer) -> FakeToolServer:
        if name not in self._tools:
            self.describe(name)
        self._tools[name].answers.append(answer)
        return self

    # -- the toolbox ----------------------------------------------------------------------------

    async def tools(self, names: Collection[str] | None = None) -> list[ToolInfo]:
        """Every tool, sorted by name."""
        return [self._tools[name].info for name in sorted(self._tools)]

    async def prompts(self, names: Collection[str] | None = None) -> list[PromptInfo]:
        """Every prompt, sorted by name."""
        return [self._prompts[name][0] for name in sorted(self._prompts)]

    async def resources(self) -> list[ResourceInfo]:
        """Every resource, sorted by URI."""
        return [ResourceInfo(uri=uri, server=self.name) for uri in sorted(self._resources)]

    async def servers(self, names: Collection[str] | None = None) -> list[ServerStatus]:
        """This server, which is always connected."""
        return [ServerStatus(name=self.name, connected=True, transport="fake")]

    async def provenance(self, server: str, tool: str | None = None) -> Provenance:
        """What works when a tool is called: `version`, with which a test changes its code."""
        known = {"server": [server, self.version], "code": f"{server}.{tool} {self.version}"}
        return Provenance(parts=known, directory=Path.cwd())

    async def find_tool(self, name: str) -> ToolInfo:
        """The tool of that bare or qualified name.

        Raises:
            ToolError: Unknown tool.
        """
        return self._find("tool", name, self._tools).info

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        on_elicit: OnElicit | None = None,
        definition: str | None = None,
    ) -> ToolResult:
        """Record the call and return the tool's next answer.

        Raises:
            ToolError: The tool is unknown, its definition is not the given one, or the answer is a
                fractale error.
            TransportError: The answer is a loss.
            Exception: An exception from `on_elicit`, unchanged.
        """
        fake = self._find("tool", name, self._tools)
        if definition not in (None, fake.info.definition):
            raise changed_meanwhile(self.name, fake.info.name)
        self.calls.append(FakeCall(fake.info.name, dict(arguments)))
        if not fake.answers:
            raise ToolError(
                f"the fake tool `{name}` has no answer", hint=f'add .answer("{name}", ...)'
            )
        token = self._on_elicit.set(on_elicit)
        try:
            value = fake.next()(arguments)
            value = await value if inspect.isawaitable(value) else value
        except _Ended as ended:
            raise ended.error from None
        except CallError:
            raise
        except Exception as error:  # noqa: BLE001  # as a server does: any error is an answer
            pass_on(error)
            return _result(None, text=str(error) or type(error).__name__, is_error=True)
        finally:
            self._on_elicit.reset(token)
        return value if isinstance(value, ToolResult) else _result(value)

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt.

        Raises:
            ToolError: The prompt is unknown, or a required argument is missing.
        """
        info, messages = self._find("prompt", name, self._prompts)
        for argument in info.arguments:
            if argument.get("required") and argument["name"] not in arguments:
                raise ToolError(f"prompt `{name}` needs `{argument['name']}`")
        return [PromptMessage(role=m.role, text=_fill(m.text, arguments)) for m in messages]

    async def read_resource(self, uri: str) -> ToolResult:
        """The contents of a resource.

        Raises:
            ToolError: The resource is unknown.
        """
        return _answer_of(self._find("resource", uri, self._resources))

    def _find(self, kind: str, name: str, table: Mapping[str, Any]) -> Any:
        bare = name.removeprefix(f"{self.name}.").removeprefix(f"{self.name}:")
        if bare in table:
            return table[bare]
        tail = did_you_mean(bare, table, before="; ")
        raise ToolError(f"no server has a {kind} `{name}`{tail}", hint="see `fractale list`")


def _result(value: Any, *, text: str | None = None, is_error: bool = False) -> ToolResult:
    """An answer as a server would send it: a mapping unchanged, other JSON under ``result``."""
    structured: Any = cast("Any", value) if isinstance(value, Mapping) else {"result": value}
    if value is None or isinstance(value, str):
        structured = None
    if text is None:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    content = ({"type": "text", "text": text},)
    return ToolResult(text=text, structured=structured, is_error=is_error, content=content)


def _answer_of(
    *parts: Mapping[str, Any], structured: Any = None, is_error: bool = False
) -> ToolResult:
    from mcp import types

    from fractale.mcp.toolbox import tool_result

    answer = {"content": parts, "structuredContent": structured, "isError": is_error}
    return tool_result(types.CallToolResult.model_validate(answer), "fake")


def _fill(text: str, arguments: Mapping[str, Any]) -> str:
    for name, value in arguments.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = text.replace(f"{{{name}}}", shown)
    return text
