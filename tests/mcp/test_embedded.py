"""A server in this process is called directly, and means what one behind a transport means."""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from mcp import types
from mcp.server.lowlevel import Server

from fractale.errors import ToolError, TransportError
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.registry import build_server
from fractale.registry.calls import Progress

HERE = contextvars.ContextVar("here", default="nowhere")


@asynccontextmanager
async def served(*functions: Any):
    async with McpToolbox([EmbeddedServer(server=build_server([], functions=functions))]) as box:
        yield box


async def test_a_function_has_the_variables_of_its_caller_and_leaves_none_behind():
    async def t() -> dict:
        found = HERE.get()
        HERE.set("the tool")
        return {"found": found}

    HERE.set("the caller")
    async with served(t) as box:
        assert (await box.call_tool("t", {})).structured == {"found": "the caller"}
    assert HERE.get() == "the caller"


async def test_neither_side_changes_a_value_of_the_other():
    kept = {"list": [1], "none": None}

    async def takes(table: dict) -> dict:
        table["list"].append("mine")
        table["none"] = 0
        return {}

    async def gives() -> types.CallToolResult:
        return types.CallToolResult(content=[], structuredContent=kept)

    given = {"table": {"list": [1], "none": None}}
    async with served(takes, gives) as box:
        await box.call_tool("takes", given)
        answer = await box.call_tool("gives", {})
        assert answer.structured == {"list": [1], "none": None}
        answer.structured["list"].append("theirs")
        for schema in [(await box.find_tool("takes")).input_schema]:
            schema["properties"].clear()
        async with served(takes) as other:
            assert (await other.find_tool("takes")).input_schema["properties"]
    assert given == {"table": {"list": [1], "none": None}}
    assert kept == {"list": [1], "none": None}


async def test_a_cancelled_call_ends_its_function():
    begun, ended = asyncio.Event(), asyncio.Event()

    async def t() -> dict:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    async with served(t) as box:
        call = asyncio.create_task(box.call_tool("t", {}))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ended.wait(), 10)


async def test_a_function_that_ignores_its_cancellation_holds_nobody():
    begun, end = asyncio.Event(), asyncio.Event()

    async def t() -> dict:
        begun.set()
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue
        return {}

    async with served(t) as box:
        call = asyncio.create_task(box.call_tool("t", {}))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        end.set()


async def test_calls_in_progress_end_with_the_toolbox_and_before_the_lifespan():
    said: list[Any] = []
    begun = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_: Any):
        said.append("open")
        yield {"pool": 1}
        said.append("closed")

    server: Server[Any] = Server("s", lifespan=lifespan)

    async def call(_: Any) -> types.ServerResult:
        said.append(server.request_context.lifespan_context)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            said.append("cancelled")
        raise AssertionError

    async def listed(_: Any) -> types.ServerResult:
        tool = types.Tool(name="t", inputSchema={"type": "object"})
        return types.ServerResult(types.ListToolsResult(tools=[tool]))

    server.request_handlers[types.CallToolRequest] = call
    server.request_handlers[types.ListToolsRequest] = listed
    async with McpToolbox([EmbeddedServer(server=server)]) as box:
        await box.find_tool("t")
        call_ = asyncio.create_task(box.call_tool("t", {}))
        await begun.wait()
    with pytest.raises(TransportError, match="was closed"):
        await call_
    assert said == ["open", {"pool": 1}, "cancelled", "closed"]


async def test_a_function_whose_own_work_was_cancelled_has_failed():
    async def t() -> dict:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
        return {}

    server: Server[Any] = Server("low")

    async def call(_: Any) -> types.ServerResult:
        raise asyncio.CancelledError

    async def listed(_: Any) -> types.ServerResult:
        tool = types.Tool(name="t", inputSchema={"type": "object"})
        return types.ServerResult(types.ListToolsResult(tools=[tool]))

    server.request_handlers[types.CallToolRequest] = call
    server.request_handlers[types.ListToolsRequest] = listed
    async with served(t) as box:
        answer = await box.call_tool("t", {})
        assert answer.is_error
        assert answer.text == "something that the function waited for was cancelled"
    async with McpToolbox([EmbeddedServer(server=server)]) as box:
        with pytest.raises(ToolError, match="refused: something that the server waited for was"):
            await box.call_tool("t", {})


async def test_progress_belongs_to_its_call():
    async def t(name: str, progress: Progress) -> dict:
        for n in (1, 2):
            await progress.report_progress(n, 2, name)
            await asyncio.sleep(0)
        return {}

    said: dict[str, list[Any]] = {"a": [], "b": []}
    async with served(t) as box:
        await asyncio.gather(
            *(
                box.call_tool("t", {"name": name}, on_progress=lambda *n, to=to: to.append(n))
                for name, to in said.items()
            ),
            box.call_tool("t", {"name": "nobody listens"}),
        )
    assert said == {"a": [(1, 2, "a"), (2, 2, "a")], "b": [(1, 2, "b"), (2, 2, "b")]}


async def test_the_context_of_fastmcp_has_a_session():
    server = FastMCP("zoo")
    seen: dict[str, Any] = {}

    @server.tool
    async def t(context: Context) -> str:
        await context.report_progress(1, 2, "half")
        await context.info("a word")
        seen.setdefault("sessions", set()).add(context.session_id)
        sampling = types.ClientCapabilities(sampling=types.SamplingCapability())
        asking = types.ClientCapabilities(elicitation=types.ElicitationCapability())
        seen["can"] = [context.session.check_client_capability(c) for c in (sampling, asking)]
        return (await context.sample("Say it.")).text

    said: list[Any] = []

    def on_log(*words: str) -> None:
        said.append(words)

    async with McpToolbox([EmbeddedServer(server=server)], on_log=on_log) as box:
        for _ in range(2):
            answer = await box.call_tool("t", {}, on_progress=lambda *n: said.append(n))
            assert answer.is_error
            assert "not support" in answer.text
    assert len(seen["sessions"]) == 1
    assert seen["can"] == [False, True]
    assert said == [(1, 2, "half"), ("local", "info", "a word")] * 2


async def test_a_question_that_pauses_the_caller_ends_the_function():
    server = FastMCP("zoo")
    ended = asyncio.Event()

    @server.tool
    async def t(context: Context) -> str:
        try:
            await context.elicit("Which?", response_type=str)
        finally:
            ended.set()
        raise AssertionError("no answer was given")

    class Pause(Exception):
        pass

    async def pause(_: Any) -> Any:
        raise Pause

    async with McpToolbox([EmbeddedServer(server=server)]) as box:
        with pytest.raises(Pause):
            await box.call_tool("t", {}, on_elicit=pause)
        await asyncio.wait_for(ended.wait(), 10)


async def test_a_warning_of_a_function_is_pythons_own():
    async def t() -> dict:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return {}

    async with served(t) as box:
        with pytest.warns(DeprecationWarning, match="old"):
            await box.call_tool("t", {})
