"""The fake tool server that users test their plans with."""

from __future__ import annotations

import pytest

from fractale.errors import ToolError, TransportError
from fractale.testing import FakeToolServer
from fractale.toolbox import PromptMessage, Toolbox, ToolResult


async def test_answers_come_in_the_order_set_and_the_last_again():
    tools = FakeToolServer().answer("state", {"state": "RUNNING"}, {"state": "DONE"})
    states = [(await tools.call_tool("state", {"job": n})).structured["state"] for n in range(3)]
    assert states == ["RUNNING", "DONE", "DONE"]
    assert tools.calls == [("state", {"job": n}) for n in range(3)]
    assert tools.calls[0].name == "state"


async def test_canned_answers_are_what_a_server_would_send():
    whole = ToolResult(text="as it is", is_error=True)
    tools = FakeToolServer().answer("t", "words", [1, 2], 3, {"a": 1}, whole)
    answers = [await tools.call_tool("t", {}) for _ in range(5)]
    assert [answer.text for answer in answers] == ["words", "[1, 2]", "3", '{"a": 1}', "as it is"]
    assert [answer.structured for answer in answers] == [
        None, {"result": [1, 2]}, {"result": 3}, {"a": 1}, None,
    ]  # fmt: skip
    assert answers[0].content == ({"type": "text", "text": "words"},)
    assert answers[4] is whole


async def test_failures_and_losses():
    tools = FakeToolServer().fail("t", "no such partition", structured={"partition": "gpu"})
    tools.lose("t", sent=False).lose("t")
    failed = await tools.call_tool("t", {})
    assert (failed.is_error, failed.text) == (True, "no such partition")
    assert failed.structured == {"partition": "gpu"}
    for sent in (False, True):
        with pytest.raises(TransportError, match="lost during `t`") as caught:
            await tools.call_tool("t", {})
        assert caught.value.sent is sent
    assert len(tools.calls) == 3


async def test_functions_are_described_by_their_signature_and_what_they_raise_is_an_answer():
    tools = FakeToolServer("site")

    @tools.tool
    def nodes(partition: str, idle: bool = False) -> list[str]:
        """The nodes of a partition."""
        return [f"{partition}1"]

    @tools.tool(name="check", read_only=True)
    async def look(path: str) -> str:
        raise ValueError(f"no file {path}")

    assert nodes("debug") == ["debug1"], "the function itself is as it was"
    info = await tools.find_tool("site.nodes")
    assert info.description == "The nodes of a partition."
    assert info.input_schema["required"] == ["partition"]
    assert info.input_schema["properties"]["idle"]["type"] == "boolean"
    assert (await tools.call_tool("nodes", {"partition": "gpu"})).structured == {"result": ["gpu1"]}
    assert (await tools.find_tool("check")).annotations["readOnlyHint"] is True
    failed = await tools.call_tool("check", {"path": "/x"})
    assert (failed.is_error, failed.text) == (True, "no file /x")
    assert (await tools.call_tool("nodes", {})).is_error, "a missing argument is an answer too"


async def test_prompts_and_resources():
    tools = FakeToolServer()
    tools.prompt(
        "build",
        "Build {application} on {nodes}.",
        PromptMessage(role="assistant", text="With what?"),
        arguments=[{"name": "application", "required": True}],
    ).resource("note://a", "text")
    messages = await tools.get_prompt("build", {"application": "amg", "nodes": [1]})
    assert [(m.role, m.text) for m in messages] == [
        ("user", "Build amg on [1]."),
        ("assistant", "With what?"),
    ]
    with pytest.raises(ToolError, match="needs `application`"):
        await tools.get_prompt("build", {})
    assert (await tools.read_resource("note://a")).text == "text"
    assert [info.uri for info in await tools.resources()] == ["note://a"]
    assert [info.name for info in await tools.prompts()] == ["build"]
    assert [status.connected for status in await tools.servers()] == [True]


async def test_unknown_names_say_what_is_near():
    box: Toolbox = FakeToolServer().answer("submit", 1).describe("silent")
    with pytest.raises(ToolError, match="tool `submt`; did you mean `submit`"):
        await box.find_tool("submt")
    with pytest.raises(ToolError, match="`silent` has no answer"):
        await box.call_tool("silent", {})
    assert [tool.name for tool in await box.tools()] == ["silent", "submit"]
