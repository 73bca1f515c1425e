"""A fake tool server over real HTTP, with the errors that real servers show.

It serves the answers of a `FakeToolServer`, over MCP's streamable HTTP::

    tools = FakeToolServer()
    tools.answer("state", {"state": "RUNNING"})
    with ToolServer(tools) as server:
        server.refuse(401)                                  # every request, from now on
        settings = replace(Settings(), servers={"site": server.settings("site")})
        ...

To test a server over standard input and output that never answers, use this program:
``command: sleep, args: ["600"]``.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fractale.errors import ToolError
from fractale.settings import ServerSettings
from fractale.testing.loopback import LoopbackHandler, LoopbackServer
from fractale.testing.tools import FakeToolServer
from fractale.toolbox import ToolInfo

PROTOCOL = "2025-11-25"
SESSION = "mcp-session-id"
INVALID_PARAMS, METHOD_NOT_FOUND, BAD_REQUEST = -32602, -32601, -32000


@dataclass(frozen=True, slots=True)
class _Refusal:
    """How requests are refused: an HTTP status, and a JSON-RPC error as its body."""

    status: int
    message: str | None = None
    code: int = BAD_REQUEST


class ToolServer:
    """Serves a `FakeToolServer` on a free port of the loopback interface.

    Args:
        tools: Its tools and answers.

    Attributes:
        sessions: How many sessions were opened.
        client: The last client's description of itself: ``{name, version}``.
    """

    def __init__(self, tools: FakeToolServer) -> None:
        self.tools = tools
        self.sessions = 0
        self.client: Mapping[str, Any] = {}
        self._going_on = threading.Event()
        self._going_on.set()
        self._known: set[str] = set()
        self._forgotten = _Refusal(404)
        self._refusal: _Refusal | None = None
        self._http: LoopbackServer[ToolServer] | None = None

    @property
    def hangs(self) -> bool:
        """Whether requests get no answer, until this is false again."""
        return not self._going_on.is_set()

    @hangs.setter
    def hangs(self, value: bool) -> None:
        (self._going_on.clear if value else self._going_on.set)()

    # -- errors ---------------------------------------------------------------------------------

    def refuse(self, status: int, message: str | None = None, code: int = BAD_REQUEST) -> None:
        """Refuse every request from now on.

        Args:
            status: The HTTP status.
            message: The message of a JSON-RPC error in the body; None: the body is empty.
            code: The code of that error.
        """
        self._refusal = _Refusal(status, message, code)

    def forget_sessions(self, status: int = 404) -> None:
        """Forget the sessions so far, as a restarted server does.

        Args:
            status: 404 as MCP prescribes, or 400 with the JSON-RPC error -32000 of servers that
                are built on the TypeScript SDK's examples.
        """
        words = "Bad Request: No valid session ID provided" if status == 400 else None
        self._forgotten = _Refusal(status, words)
        self._known.clear()

    # -- the server -----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT/mcp``."""
        if self._http is None:
            raise RuntimeError("the tool server is not started: use it in a `with` block")
        return f"{self._http.url}/mcp"

    def settings(self, name: str | None = None, **more: Any) -> ServerSettings:
        """The server as an entry of the settings' `servers`.

        Args:
            name: Its name; None: that of the tools.
            more: Other fields of the entry.
        """
        return ServerSettings(name=name or self.tools.name, transport="http", url=self.url, **more)

    def __enter__(self) -> Self:
        self._http = LoopbackServer(self, _Handler).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._going_on.set()
        if self._http is not None:
            self._http.close()
            self._http = None

    def refusal_of(self, method: str, session: str | None) -> _Refusal | None:
        """How a request is refused; None if it is answered. Waits if the server hangs."""
        self._going_on.wait()
        if self._refusal or method == "initialize":
            return self._refusal
        return None if session in self._known else self._forgotten

    def open_session(self, client: Mapping[str, Any]) -> str:
        """The id of a new session."""
        self.sessions += 1
        self.client = client
        session = secrets.token_hex(8)
        self._known.add(session)
        return session


class _Handler(LoopbackHandler):
    server: LoopbackServer[ToolServer]  # pyright: ignore[reportIncompatibleVariableOverride] - always ours

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        """Refuse: the server has no stream of notifications."""
        self.send_json(405)

    def do_DELETE(self) -> None:  # noqa: N802 - the name that http.server calls
        """End a session."""
        self.send_json(200)

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        """Answer one message."""
        message = self.read_json()
        method, asked = str(message.get("method")), message.get("id")
        refusal = self.server.owner.refusal_of(method, self.headers.get(SESSION))
        if refusal:
            error = {"code": refusal.code, "message": refusal.message}
            self.send_json(refusal.status, _error(asked, error) if refusal.message else None)
        elif asked is None:
            self.send_json(202)
        else:
            self._answer(asked, method, message.get("params") or {})

    def _answer(self, asked: Any, method: str, params: Mapping[str, Any]) -> None:
        answer, headers = _ANSWERS.get(method), dict[str, str]()
        if method == "initialize":
            headers[SESSION] = self.server.owner.open_session(params.get("clientInfo") or {})
        if answer is None:
            self.send_json(200, _error(asked, {"code": METHOD_NOT_FOUND, "message": method}))
            return
        try:
            result = answer(self.server.owner.tools, params)
        except ToolError as error:
            self.send_json(200, _error(asked, {"code": INVALID_PARAMS, "message": error.message}))
            return
        self.send_json(200, {"jsonrpc": "2.0", "id": asked, "result": result}, headers)


def _error(asked: Any, error: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": asked, "error": dict(error)}


# -- answers --------------------------------------------------------------------------------------


def _initialize(tools: FakeToolServer, params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "protocolVersion": params.get("protocolVersion", PROTOCOL),
        "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
        "serverInfo": {"name": tools.name, "version": "0"},
    }


def _list_tools(tools: FakeToolServer, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"tools": [_described(tool) for tool in asyncio.run(tools.tools())]}


def _described(tool: ToolInfo) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": dict(tool.input_schema),
        "annotations": dict(tool.annotations),
    }
    return found | ({"outputSchema": dict(tool.output_schema)} if tool.output_schema else {})


def _call_tool(tools: FakeToolServer, params: Mapping[str, Any]) -> dict[str, Any]:
    result = asyncio.run(tools.call_tool(str(params["name"]), params.get("arguments") or {}))
    answer: dict[str, Any] = {
        "content": [dict(part) for part in result.content],
        "isError": result.is_error,
    }
    return (
        answer if result.structured is None else {**answer, "structuredContent": result.structured}
    )


def _list_prompts(tools: FakeToolServer, _: Mapping[str, Any]) -> dict[str, Any]:
    found = asyncio.run(tools.prompts())
    return {
        "prompts": [{"name": p.name, "arguments": [dict(a) for a in p.arguments]} for p in found]
    }


def _get_prompt(tools: FakeToolServer, params: Mapping[str, Any]) -> dict[str, Any]:
    found = asyncio.run(tools.get_prompt(str(params["name"]), params.get("arguments") or {}))
    return {
        "messages": [
            {"role": each.role, "content": {"type": "text", "text": each.text}} for each in found
        ]
    }


def _list_resources(tools: FakeToolServer, _: Mapping[str, Any]) -> dict[str, Any]:
    found = asyncio.run(tools.resources())
    return {"resources": [{"uri": each.uri, "name": each.name or each.uri} for each in found]}


def _read_resource(tools: FakeToolServer, params: Mapping[str, Any]) -> dict[str, Any]:
    result = asyncio.run(tools.read_resource(str(params["uri"])))
    return {"contents": [dict(part["resource"]) for part in result.content]}


_ANSWERS: Mapping[str, Callable[[FakeToolServer, Mapping[str, Any]], dict[str, Any]]] = {
    "initialize": _initialize,
    "ping": lambda _tools, _params: {},
    "tools/list": _list_tools,
    "tools/call": _call_tool,
    "prompts/list": _list_prompts,
    "prompts/get": _get_prompt,
    "resources/list": _list_resources,
    "resources/templates/list": lambda _tools, _params: {"resourceTemplates": []},
    "resources/read": _read_resource,
}
