"""An MCP server with a tool for each thing a client may meet.

python tools_server.py                         over standard input and output
python tools_server.py http PORT [TOKEN]       streamable HTTP on 127.0.0.1
python tools_server.py sse PORT
"""

import asyncio
import base64
import os
import signal
import sys
from pathlib import Path

from mcp import types
from mcp.server.lowlevel import Server

server = Server("tools")
LATE_TOOLS: list[str] = []


def text(value: str, *, structured: dict | None = None, error: bool = False):
    content = [types.TextContent(type="text", text=value)]
    return types.CallToolResult(content=content, structuredContent=structured, isError=error)


def leave(arguments: dict, name: str) -> None:
    if folder := arguments.get("folder"):
        Path(folder, name).touch()


async def echo(arguments: dict):
    return text(str(arguments.get("value")), structured={"result": arguments.get("value")})


async def pid(arguments: dict):
    return text(str(os.getpid()), structured={"pid": os.getpid()})


async def slow(arguments: dict):
    """Sleep; write a file at the start and one when cancelled, for tests to see both."""
    leave(arguments, "started")
    try:
        await asyncio.sleep(arguments["seconds"])
    except BaseException:
        leave(arguments, "cancelled")
        raise
    return text("slept")


async def broken_part(arguments: dict):
    return text("no such node", structured={"returncode": 3}, error=True)


async def progress(arguments: dict):
    context = server.request_context
    token = context.meta.progressToken if context.meta else None
    for done in (1, 2):
        if token is not None:
            await context.session.send_progress_notification(
                token, done, 2, f"{done} of 2", related_request_id=str(context.request_id)
            )
    return text("done")


async def log(arguments: dict):
    context = server.request_context
    await context.session.send_log_message(
        "warning", {"msg": "disk is nearly full"}, "disk", related_request_id=context.request_id
    )
    return text("logged")


async def crash(arguments: dict):
    if arguments.get("words"):
        print(arguments["words"], file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


async def many_parts(arguments: dict):
    png = base64.b64encode(b"not really a picture").decode()
    return [
        types.TextContent(type="text", text="one"),
        types.ImageContent(type="image", data=png, mimeType="image/png"),
        types.TextContent(type="text", text="two"),
    ]


async def environment(arguments: dict):
    return text("", structured={"environment": dict(os.environ)})


async def add_tool(arguments: dict):
    LATE_TOOLS.append(arguments["name"])
    await server.request_context.session.send_tool_list_changed()
    return text("added")


async def noise(arguments: dict):
    print("this line is no message", flush=True)
    return text("quiet again")


async def sizes(arguments: dict):
    return text("x" * arguments["bytes"])


TOOLS = {
    tool.__name__: tool
    for tool in (
        echo, pid, slow, broken_part, progress, log, crash, many_parts, environment, add_tool,
        noise, sizes,
    )
}  # fmt: skip


@server.list_tools()
async def list_tools(request: types.ListToolsRequest) -> types.ListToolsResult:
    """Two pages."""
    names = [*TOOLS, *LATE_TOOLS]
    cursor = request.params.cursor if request and request.params else None
    page, following = (names[5:], None) if cursor else (names[:5], "second")
    tools = [
        types.Tool(
            name=name,
            description=f"The tool {name}.",
            inputSchema={"type": "object"},
            annotations=types.ToolAnnotations(readOnlyHint=name == "echo"),
            _meta={"fractale.type": "agent"} if name == "slow" else None,
        )
        for name in page
    ]
    return types.ListToolsResult(tools=tools, nextCursor=following)


@server.call_tool(validate_input=False)
async def call_tool(name: str, arguments: dict):
    return await TOOLS.get(name, echo)(arguments)


@server.list_prompts()
async def list_prompts() -> list[types.Prompt]:
    wanted = types.PromptArgument(name="application", required=True)
    maybe = types.PromptArgument(name="nodes", required=False)
    return [
        types.Prompt(name="build", arguments=[wanted, maybe]),
        types.Prompt(name="wrapped", arguments=[]),
    ]


@server.get_prompt()
async def get_prompt(name: str, arguments: dict | None) -> types.GetPromptResult:
    def message(role: str, value: str) -> types.PromptMessage:
        return types.PromptMessage(role=role, content=types.TextContent(type="text", text=value))

    if name == "wrapped":
        inner = '{"messages": [{"role": "user", "content": {"type": "text", "text": "inside"}}]}'
        return types.GetPromptResult(messages=[message("user", inner)])
    arguments = arguments or {}
    return types.GetPromptResult(
        messages=[
            message("user", f"Build {arguments['application']}."),
            message("assistant", "With what?"),
            message("user", arguments.get("nodes", "nothing")),
        ]
    )


@server.list_resources()
async def list_resources() -> list[types.Resource]:
    return [
        types.Resource(uri="note://readme", name="readme", mimeType="text/plain"),
        types.Resource(uri="note://picture", name="picture", mimeType="image/png"),
    ]


@server.list_resource_templates()
async def list_resource_templates() -> list[types.ResourceTemplate]:
    return [types.ResourceTemplate(uriTemplate="job://{id}/log", name="log of a job")]


@server.read_resource()
async def read_resource(uri):
    from mcp.server.lowlevel.helper_types import ReadResourceContents

    if str(uri) == "note://picture":
        return [ReadResourceContents(content=b"\x89PNG", mime_type="image/png")]
    return [ReadResourceContents(content=f"text of {uri}", mime_type="text/plain")]


async def over_stdio() -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def over_http(kind: str, port: int, token: str | None) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    if kind == "http":
        from contextlib import asynccontextmanager

        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        manager = StreamableHTTPSessionManager(server)

        @asynccontextmanager
        async def lifespan(app):
            async with manager.run():
                yield

        async def endpoint(scope, receive, send):
            headers = dict(scope["headers"])
            if token and headers.get(b"authorization") != f"Bearer {token}".encode():
                await PlainTextResponse("no", 401)(scope, receive, send)
            else:
                await manager.handle_request(scope, receive, send)

        app = Starlette(routes=[Mount("/mcp", endpoint)], lifespan=lifespan)
    else:
        from mcp.server.sse import SseServerTransport

        transport = SseServerTransport("/messages/")

        class Sse:
            async def __call__(self, scope, receive, send):
                async with transport.connect_sse(scope, receive, send) as (read, write):
                    await server.run(read, write, server.create_initialization_options())

        app = Starlette(
            routes=[
                Route("/sse", Sse(), methods=["GET"]),
                Mount("/messages/", transport.handle_post_message),
            ]
        )
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        over_http(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
    else:
        asyncio.run(over_stdio())
