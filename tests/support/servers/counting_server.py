"""An MCP server that writes down every call before it does anything, and can be held in one.

python counting_server.py stdio 0 FOLDER             over standard input and output
python counting_server.py http PORT FOLDER [HOW]     HOW: `json` answers, or `stateless`
python counting_server.py sse PORT FOLDER

A call whose value is V holds at FOLDER/hold-V: it renames that to FOLDER/held-V, and goes on when
that is removed. A server that finds FOLDER/down does not start; with a number in it, that often.
One that finds FOLDER/die-listing removes it and dies when it is asked for its tools.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from mcp import types
from mcp.server.lowlevel import Server

server = Server("counting")
FOLDER = Path(sys.argv[3])
HINTS = {
    "charge": types.ToolAnnotations(destructiveHint=True),
    "change": None,
    "put": types.ToolAnnotations(idempotentHint=True),
    "look": types.ToolAnnotations(readOnlyHint=True),
}


def write_down(name: str, value: object) -> None:
    call = {"tool": name, "value": value, "pid": os.getpid()}
    with (FOLDER / "calls.txt").open("a") as calls:
        calls.write(json.dumps(call) + "\n")


async def hold(value: object) -> None:
    held = FOLDER / f"held-{value}"
    try:
        (FOLDER / f"hold-{value}").rename(held)
    except FileNotFoundError:
        return
    while held.exists():  # noqa: ASYNC110  # a test removes it, in another process
        await asyncio.sleep(0.01)


@server.list_tools()
async def list_tools() -> list[types.Tool]:
    if (FOLDER / "die-listing").exists():
        (FOLDER / "die-listing").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return [
        types.Tool(name=name, inputSchema={"type": "object"}, annotations=hints)
        for name, hints in HINTS.items()
    ]


@server.call_tool(validate_input=False)
async def call_tool(name: str, arguments: dict) -> dict:
    value = arguments.get("value")
    write_down(name, value)
    await hold(value)
    return {"value": value, "pid": os.getpid()}


@server.list_prompts()
async def list_prompts() -> list[types.Prompt]:
    return [types.Prompt(name="greeting")]


@server.get_prompt()
async def get_prompt(name: str, arguments: dict | None) -> types.GetPromptResult:
    text = types.TextContent(type="text", text="Greet the person.")
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text)])


def stop_if_down() -> None:
    down = FOLDER / "down"
    if not down.exists():
        return
    left = down.read_text()
    if left:
        down.write_text(str(int(left) - 1))
    if left != "0":
        sys.exit("the node is down")


async def over_stdio() -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def http_app(how: str):
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from starlette.applications import Starlette
    from starlette.routing import Mount

    manager = StreamableHTTPSessionManager(
        server, json_response=how == "json", stateless=how == "stateless"
    )

    @asynccontextmanager
    async def lifespan(app):
        async with manager.run():
            yield

    return Starlette(routes=[Mount("/mcp", manager.handle_request)], lifespan=lifespan)


def sse_app():
    from mcp.server.sse import SseServerTransport
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route

    transport = SseServerTransport("/messages/")

    class Sse:
        async def __call__(self, scope, receive, send):
            async with transport.connect_sse(scope, receive, send) as (read, write):
                await server.run(read, write, server.create_initialization_options())

    messages = Mount("/messages/", transport.handle_post_message)
    return Starlette(routes=[Route("/sse", Sse(), methods=["GET"]), messages])


def over_http(kind: str, port: int, how: str) -> None:
    import uvicorn

    app = sse_app() if kind == "sse" else http_app(how)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    stop_if_down()
    if sys.argv[1] == "stdio":
        asyncio.run(over_stdio())
    else:
        over_http(sys.argv[1], int(sys.argv[2]), "".join(sys.argv[4:]))
