"""LangChain's tools in a plan: called as a model calls them, so that their status counts."""

from __future__ import annotations

import base64
from typing import Annotated

import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import InjectedToolCallId, StructuredTool, ToolException, tool
from langchain_mcp_adapters.tools import load_mcp_tools
from langgraph.types import Command
from mcp.shared.memory import create_connected_server_and_client_session

from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.registry import build_server
from servers.tools_server import server as low_level_server

STEP = "name: p\nsteps: [{name: s, tool: t}]\noutputs: {all: '{{ steps.s.outputs }}'}\n"
PNG = base64.b64encode(b"\x89PNG").decode()


def made(function, **more):
    return StructuredTool.from_function(function, name="t", description="A tool.", **more)


def refuses() -> str:
    raise ToolException("no such partition")


def says_status(call_id: Annotated[str, InjectedToolCallId]) -> ToolMessage:
    return ToolMessage("no such partition", tool_call_id=call_id, status="error")


def with_artifact() -> tuple[str, dict]:
    return "ran", {"returncode": 3}


def with_list() -> tuple[str, list]:
    return "ran", [1, 2]


def with_object() -> tuple[str, object]:
    return "ran", object()


def command() -> Command:
    return Command(goto="elsewhere")


BOTH = {"response_format": "content_and_artifact"}
FAILED = ("failure", "error")


@pytest.mark.parametrize(
    ("found", "decided", "outputs"),
    [
        (made(refuses, handle_tool_error=True), FAILED, {"content": "no such partition"}),
        (made(refuses), FAILED, {"content": "ToolException: no such partition"}),
        (made(says_status), FAILED, {"content": "no such partition"}),
        (made(command), FAILED, None),
        (made(lambda: {"returncode": 3}), ("failure", "exit_code"), {"returncode": 3}),
        (made(with_artifact, **BOTH), ("failure", "exit_code"), {"returncode": 3}),
        (made(with_list, **BOTH), ("success", "default"), {"result": [1, 2]}),
        (made(with_object, **BOTH), ("success", "default"), {"content": "ran"}),
        (made(lambda: "42 lines"), ("success", "default"), {"content": "42 lines"}),
        (made(lambda: 42), ("success", "default"), {"content": "42"}),
        (made(lambda: None), ("success", "default"), {"result": None}),
        (made(lambda: ""), FAILED, {"content": ""}),
        (
            made(lambda: [{"type": "image", "base64": PNG, "mime_type": "image/png"}]),
            ("success", "default"),
            {"content": "", "files": [{"mime_type": "image/png", "bytes": 4}]},
        ),
        (
            made(lambda: [{"type": "text", "text": "a"}, {"type": "file", "url": "http://x/y"}]),
            ("success", "default"),
            {"content": "a\nhttp://x/y (file, application/octet-stream)"},
        ),
    ],
    ids=[
        *("handled", "raised", "its own message", "command", "dict", "artifact", "list", "object"),
        *("text", "number", "nothing", "empty", "image", "file"),
    ],
)
async def test_what_a_langchain_tool_answers(run_plan, found, decided, outputs):
    seen = await run_plan(STEP, tools=[found])
    step = seen.result.steps[0]
    assert (step["outcome"], step["decided_by"]) == decided
    if outputs is not None:
        assert seen.of("step_finished")[0]["outputs"] == outputs


async def test_a_tool_of_the_adapters_that_failed_fails_its_step(run_plan):
    async with create_connected_server_and_client_session(low_level_server) as session:
        found = {each.name: each for each in await load_mcp_tools(session)}
        plan = STEP.replace("tool: t", "tool: broken_part")
        failed = await run_plan(plan, tools=[found["broken_part"]])
        plan = "name: p\nsteps: [{name: s, tool: echo, inputs: {value: {deep: [1]}}}]\n"
        echoed = await run_plan(plan, tools=[found["echo"]])
    assert failed.path == ["s:failure"]
    assert "no such node" in failed.result.error
    assert echoed.of("step_finished")[0]["outputs"] == {"result": {"deep": [1]}}


async def test_what_a_person_registers_by_path_is_called_alike():
    @tool
    def fails() -> str:
        """Fail."""
        raise ToolException("not today")

    fails.handle_tool_error = True
    async with McpToolbox([EmbeddedServer(server=build_server([], functions=[fails]))]) as box:
        assert (await box.call_tool("fails", {})).is_error
