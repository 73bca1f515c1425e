"""What a tool answers, kind by kind: what a plan gets of it, what a model is shown of it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from mcp import types

from fractale.errors import ToolError
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.mcp.toolbox import prompt_messages
from fractale.registry import build_server, load_registry
from fractale.testing import FakeToolServer, ModelServer, Reply, ScriptedModel, ToolServer

PNG = base64.b64encode(b"\x89PNG not really").decode()
WAV = base64.b64encode(b"RIFF").decode()
NUMBER = {"type": "object", "properties": {"v": {"type": "integer"}}, "required": ["v"]}
READS = {"readOnlyHint": True}
STEP = "name: p\nsteps: [{name: s, tool: t}]\noutputs: {all: '{{ steps.s.outputs }}'}\n"
AGENT = "name: p\nsteps: [{name: s, type: agent, instruction: Go}]\n"


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def embedded(**resource: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": "note://1", **resource}}


def image() -> dict[str, Any]:
    return {"type": "image", "data": PNG, "mimeType": "image/png"}


def link(**more: str) -> dict[str, Any]:
    return {"type": "resource_link", "uri": "file:///log.txt", "name": "log", **more}


def file(mime_type: str, size: int) -> dict[str, Any]:
    """A file of the run in a step's outputs; PATH stands for where it is."""
    return {"path": "PATH", "mime_type": mime_type, "bytes": size}


@dataclass(frozen=True)
class Row:
    """An answer and the right value of all that becomes of it.

    Args:
        decided: The outcome and what decided it.
        shown: The text of the tool message that a model is given; PATH stands for a file's path.
        images: How many images a model that sees is given.
    """

    name: str
    parts: tuple[dict[str, Any], ...]
    outputs: dict[str, Any]
    shown: str
    structured: Any = None
    is_error: bool = False
    schema: dict[str, Any] | None = None
    decided: tuple[str, str] = ("success", "default")
    images: int = 0
    files: tuple[bytes, ...] = field(default=())

    def on(self, server: FakeToolServer) -> None:
        server.describe(self.name, output_schema=self.schema)
        server.parts(self.name, *self.parts, structured=self.structured, is_error=self.is_error)


NOTHING = "the tool answered with nothing, which does not show that it did its work"
INVALID = "invalid structured content returned by tool t: `v`: 'no' is not of type 'integer'"
MISSING = "tool t has an output schema but did not return structured content"
PICTURE_WITHOUT_FOLDER = "[image/png, 15 bytes, not kept: the run has no directory]"
PICTURE = "[image/png, 15 bytes, kept as PATH]"
ROWS = [
    Row("text", (text("42 lines"),), {"content": "42 lines"}, "42 lines"),
    Row(
        "embedded text",
        (embedded(text="pair_style lj/cut 2.5"),),
        {"content": "pair_style lj/cut 2.5"},
        "pair_style lj/cut 2.5",
    ),
    Row("embedded JSON", (embedded(text='{"a": 1}'),), {"a": 1}, '{"a": 1}'),
    Row(
        "text beside embedded text",
        (text("The file:"), embedded(text="run 100")),
        {"content": "The file:\nrun 100"},
        "The file:\nrun 100",
    ),
    Row(
        "link",
        (link(mimeType="text/plain", description="The log"),),
        {"content": "file:///log.txt (log, text/plain): The log"},
        "file:///log.txt (log, text/plain): The log",
    ),
    Row("bare link", (link(),), {"content": "file:///log.txt (log)"}, "file:///log.txt (log)"),
    Row(
        "image",
        (image(),),
        {"content": "", "files": [file("image/png", 15)]},
        PICTURE,
        images=1,
        files=(b"\x89PNG not really",),
    ),
    Row(
        "text and image",
        (text("A plot"), image()),
        {"content": "A plot", "files": [file("image/png", 15)]},
        f"A plot\n{PICTURE}",
        images=1,
    ),
    Row(
        "audio",
        ({"type": "audio", "data": WAV, "mimeType": "audio/wav"},),
        {"content": "", "files": [file("audio/wav", 4)]},
        "[audio/wav, 4 bytes, kept as PATH]",
        files=(b"RIFF",),
    ),
    Row(
        "embedded bytes",
        (embedded(blob=WAV, mimeType="application/gzip"),),
        {"content": "", "files": [file("application/gzip", 4)]},
        "[application/gzip, 4 bytes, kept as PATH]",
    ),
    Row(
        "embedded image",
        (embedded(blob=PNG, mimeType="image/png"),),
        {"content": "", "files": [file("image/png", 15)]},
        PICTURE,
        images=1,
    ),
    Row(
        "structure beside an image",
        (text('{"a": 1}'), image()),
        {"a": 1, "files": [file("image/png", 15)]},
        f'{{"a": 1}}\n{PICTURE}',
        structured={"a": 1},
        images=1,
    ),
    Row(
        "two JSON blocks",
        (text('{"a": 1}'), text('{"b": 2}')),
        {"result": [{"a": 1}, {"b": 2}]},
        '{"a": 1}\n{"b": 2}',
    ),
    Row(
        "a log line and JSON",
        (text("reading x"), text('{"returncode": 3, "stderr": "no such node"}')),
        {"returncode": 3, "stderr": "no such node"},
        'reading x\n{"returncode": 3, "stderr": "no such node"}',
        decided=("failure", "exit_code"),
    ),
    Row(
        "JSON quoted in prose",
        (text('It said {"error": "none"} and went on.'),),
        {"content": 'It said {"error": "none"} and went on.'},
        'It said {"error": "none"} and went on.',
    ),
    Row(
        "structure that the text does not say",
        (text("done"),),
        {"job": 7},
        'done\n{"job": 7}',
        structured={"job": 7},
    ),
    Row("structure alone", (), {"job": 7}, '{"job": 7}', structured={"job": 7}),
    Row(
        "structure that FastMCP wraps",
        (text("[1, 2]"),),
        {"result": [1, 2]},
        "[1, 2]",
        structured={"result": [1, 2]},
    ),
    Row(
        "null as the structure",
        (),
        {"result": None},
        '{"result": null}',
        structured={"result": None},
    ),
    Row(
        "isError",
        (text("no such partition"),),
        {"content": "no such partition"},
        "Error: no such partition",
        is_error=True,
        decided=("failure", "error"),
    ),
    Row(
        "isError with structure",
        (text("no such partition"),),
        {"partition": "debgu"},
        'Error: no such partition\n{"partition": "debgu"}',
        structured={"partition": "debgu"},
        is_error=True,
        decided=("failure", "error"),
    ),
    Row(
        "isError without a word",
        (),
        {"content": ""},
        "Error: the tool reported an error and said nothing",
        is_error=True,
        decided=("failure", "error"),
    ),
    Row("nothing", (), {"content": ""}, f"Error: {NOTHING}", decided=("failure", "error")),
    Row(
        "blank text",
        (text(" \n"),),
        {"content": " \n"},
        f"Error: {NOTHING}",
        decided=("failure", "error"),
    ),
    Row(
        "structure as its schema says",
        (text('{"v": 1}'),),
        {"v": 1},
        '{"v": 1}',
        {"v": 1},
        schema=NUMBER,
    ),
    Row(
        "structure that breaks its schema",
        (text('{"v": "no"}'),),
        {"v": "no"},
        f'Error: {INVALID}\n{{"v": "no"}}',
        structured={"v": "no"},
        schema=NUMBER,
        decided=("failure", "schema"),
    ),
    Row(
        "no structure though there is a schema",
        (text("1"),),
        {"content": "1"},
        f"Error: {MISSING}\n1",
        schema=NUMBER,
        decided=("failure", "schema"),
    ),
    Row(
        "an exit code beside a broken schema",
        (),
        {"returncode": 2},
        f"Error: {INVALID.partition(':')[0]}: 'v' is a required property\n{{\"returncode\": 2}}",
        structured={"returncode": 2},
        schema=NUMBER,
        decided=("failure", "exit_code"),
    ),
    Row(
        "a schema that is none",
        (),
        {"v": 1},
        '{"v": 1}',
        structured={"v": 1},
        schema={"type": "objekt"},
    ),
]
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


def named(row: Row) -> FakeToolServer:
    server = FakeToolServer()
    server.describe("t", output_schema=row.schema, annotations=READS)
    server.parts("t", *row.parts, structured=row.structured, is_error=row.is_error)
    return server


def paths_in(value: Any) -> list[Path]:
    return [Path(each["path"]) for each in value.get("files", [])]


@each_row
async def test_a_step_gets_all_that_its_tool_answered(run_plan, row):
    seen = await run_plan(STEP, tools=named(row), keep=True)
    step = seen.result.steps[0]
    assert (step["outcome"], step["decided_by"]) == row.decided
    outputs = seen.of("step_finished")[0]["outputs"]
    paths = paths_in(outputs)
    assert json.loads(json.dumps(outputs)) == _with_paths(row.outputs, paths)
    assert all(path.is_file() for path in paths)
    if row.files:
        assert [path.read_bytes() for path in paths] == list(row.files)
    assert seen.of("tool_finished")[0]["is_error"] == (row.shown.startswith("Error: "))


def _with_paths(outputs: dict[str, Any], paths: list[Path]) -> dict[str, Any]:
    if "files" not in outputs:
        return outputs
    found = zip(outputs["files"], paths, strict=True)
    return {**outputs, "files": [{**file, "path": str(path)} for file, path in found]}


@each_row
@pytest.mark.parametrize("sees", [True, False], ids=["sees", "blind"])
async def test_a_model_is_shown_all_that_a_tool_answered(run_plan, row, sees):
    model = ScriptedModel([Reply(tool_calls=[("t", {})]), "Done."], image_inputs=sees)
    seen = await run_plan(AGENT, tools=named(row), model=model, keep=True)
    assert seen.status == "success"
    *_, answer = [m for m in model.requests[1] if m.type == "tool"]
    files = [Path(part).parent for part in answer.text.split() if "/outputs/files/" in part]
    shown = answer.content
    for path in {word.rstrip("]") for word in str(shown).split() if "/outputs/files/" in word}:
        shown = shown.replace(path, "PATH")
    assert shown == row.shown
    assert len(files) == shown.count("PATH")
    assert answer.status == ("error" if row.shown.startswith("Error: ") else "success")
    images = [
        block
        for message in model.requests[1]
        if message.type == "human" and isinstance(message.content, list)
        for block in message.content
        if block["type"] == "image"
    ]
    assert [block["base64"] for block in images] == [PNG] * (row.images if sees else 0)


async def test_answers_arrive_over_http_as_they_were_given():
    tools = FakeToolServer("odd")
    for row in ROWS:
        row.on(tools)
    with ToolServer(tools) as server:
        async with McpToolbox([server.settings()]) as box:
            for row in ROWS:
                given = await tools.call_tool(row.name, {})
                assert await box.call_tool(row.name, {}) == given, row.name


async def test_images_come_after_all_answers_of_a_turn(run_plan):
    server = FakeToolServer().describe("plot", annotations=READS).parts("plot", image())
    server.describe("state", annotations=READS).answer("state", "RUNNING")
    turn = Reply(tool_calls=[("plot", {}), ("state", {})])
    model = ScriptedModel([turn, "Done."], image_inputs=True)
    await run_plan(AGENT, tools=server, model=model)
    assert [m.type for m in model.requests[1]][-4:] == ["ai", "tool", "tool", "human"]


async def test_a_model_over_http_is_sent_the_image_as_its_protocol_has_it(run_plan, settings):
    server = FakeToolServer().describe("plot", annotations=READS).parts("plot", image())
    with ModelServer([Reply(tool_calls=[("plot", {})]), "Done."]) as http:
        over = replace(
            settings, model="openai:gpt-4o", openai_api_key="k", openai_base_url=http.openai_url
        )
        seen = await run_plan(AGENT, tools=server, settings=over)
        *_, answer, shown = http.requests[1].body["messages"]
    assert seen.status == "success"
    assert (answer["role"], answer["content"]) == ("tool", PICTURE_WITHOUT_FOLDER)
    (picture,) = [part for part in shown["content"] if part["type"] == "image_url"]
    assert picture["image_url"]["url"] == f"data:image/png;base64,{PNG}"


async def test_bytes_of_a_run_without_a_folder_are_told_as_not_kept(run_plan):
    server = FakeToolServer().describe("t", annotations=READS).parts("t", image())
    seen = await run_plan(STEP, tools=server)
    assert seen.result.outputs["all"]["files"] == [{"mime_type": "image/png", "bytes": 15}]
    model = ScriptedModel([Reply(tool_calls=[("t", {})]), "Done."])
    await run_plan(AGENT, tools=server, model=model)
    answer = model.requests[1][-1]
    assert answer.text == PICTURE_WITHOUT_FOLDER


async def test_bytes_that_are_no_base64_fail_the_step(run_plan):
    broken = {"type": "image", "data": "***", "mimeType": "image/png"}
    seen = await run_plan(STEP, tools=FakeToolServer().parts("t", broken))
    assert seen.path == ["s:failure"]
    assert "image/png that is not base64" in seen.result.error


async def test_a_tools_own_output_named_files_is_kept(run_plan):
    server = FakeToolServer().parts("t", image(), structured={"files": 2})
    seen = await run_plan(STEP, tools=server)
    assert seen.result.outputs["all"] == {"files": 2}


@pytest.mark.parametrize("fastmcp", [False, True])
async def test_a_function_that_returns_nothing_has_done_its_work(run_plan, tmp_path, fastmcp):
    # A remote server's empty answer is no sign of work; a function of ours that returned is.
    lines = ["def note() -> None: pass"]
    if fastmcp:
        lines = ["from fastmcp.tools import tool", "@tool", *lines]
    (tmp_path / "voids.py").write_text("\n".join(lines))
    registry = tmp_path / "tools.yaml"
    registry.write_text("tools: [{path: voids.note}]\n")
    server = build_server([load_registry(registry)])
    async with McpToolbox([EmbeddedServer(server=server)]) as box:
        seen = await run_plan(STEP.replace("tool: t", "tool: note"), tools=box)
    assert seen.result.steps[0]["outcome"] == "success"
    assert seen.result.outputs["all"] == {"result": None}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (text("Be an expert."), "Be an expert."),
        (embedded(text="run 100"), "run 100"),
        (link(), "file:///log.txt (log)"),
        (image(), None),
        (embedded(blob=WAV), None),
    ],
)
def test_a_prompts_message_is_text_or_the_prompt_is_refused(part, said):
    answer = {"messages": [{"role": "user", "content": part}]}
    result = types.GetPromptResult.model_validate(answer)
    if said is None:
        with pytest.raises(ToolError, match="which is not text"):
            prompt_messages(result)
    else:
        assert [message.text for message in prompt_messages(result)] == [said]


async def test_a_judge_sees_an_answer_that_is_structure_alone(run_plan):
    model = ScriptedModel([Reply(data={"success": True, "reason": "there is a job"})])
    server = FakeToolServer().parts("t", structured={"job": 7})
    await run_plan(STEP.replace("tool: t}", "tool: t, judge: true}"), tools=server, model=model)
    assert '{"job": 7}' in model.requests[0][-1].text
