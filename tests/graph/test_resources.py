"""MCP resources: read into a step's inputs, by an agent, and listed with their URIs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.cli import run_command
from fractale.mcp import McpToolbox
from fractale.plan.build import parse_plan
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.dump import dump_plan
from fractale.settings import PolicySettings
from fractale.testing import FakeToolServer, Reply, ScriptedModel, ToolServer
from replays import Stage

READ = [("read_resource", {"uri": "docs:note://in.lj"})]
INPUT = "pair_style lj/cut 2.5"


@pytest.fixture
def docs() -> FakeToolServer:
    server = FakeToolServer("docs").describe("use", annotations={"readOnlyHint": True})
    server.answer("use", {"ok": True})
    server.resource("note://in.lj", INPUT).resource("note://empty", "")
    return server.resource("note://plot", b"\x89PNG", "image/png")


def step(inputs: str, more: str = "") -> str:
    return f"name: p\nsteps:\n  - {{name: s, tool: use, inputs: {inputs}{more}}}\n"


ROWS = {
    "text": ('{text: {resource: "docs:note://in.lj"}}', {"text": INPUT}),
    "a bare URI": ('{text: {resource: "note://in.lj"}}', {"text": INPUT}),
    "empty text": ('{text: {resource: "note://empty"}}', {"text": ""}),
    "at any depth": (
        '{a: {b: [1, {resource: "docs:note://in.lj"}]}, c: 2}',
        {"a": {"b": [1, INPUT]}, "c": 2},
    ),
    "from a template": (
        '{text: {resource: "docs:note://{{ inputs.name }}"}}',
        {"text": INPUT},
    ),
    "an argument of that name": ("{resource: note}", {"resource": "note"}),
    "a mapping with more": ("{a: {resource: gpu, n: 1}}", {"a": {"resource": "gpu", "n": 1}}),
    "data from a template": (
        "{a: \"{{ {'resource': 'docs:note://in.lj'} }}\"}",
        {"a": {"resource": "docs:note://in.lj"}},
    ),
}


@pytest.mark.parametrize(("inputs", "arguments"), ROWS.values(), ids=ROWS)
async def test_a_steps_input_reads_a_resource(run_plan, docs, inputs, arguments):
    plan = f"inputs: {{name: in.lj}}\n{step(inputs)}"
    seen = await run_plan(plan, tools=docs)
    assert seen.path == ["s:success"]
    assert docs.calls == [("use", arguments)]


async def test_bytes_become_a_file_that_the_input_names(run_plan, docs):
    seen = await run_plan(step('{file: {resource: "docs:note://plot"}}'), tools=docs, keep=True)
    (call,) = docs.calls
    given = call.arguments["file"]
    assert {**given, "path": None} == {"path": None, "mime_type": "image/png", "bytes": 4}
    assert seen.result.record is not None
    kept = Path(given["path"])
    assert await asyncio.to_thread(kept.read_bytes) == b"\x89PNG"


async def test_each_item_of_a_foreach_reads_its_own(run_plan, docs):
    docs.resource("note://2", "two")
    inputs = '{text: {resource: "docs:note://{{ item }}"}}'
    await run_plan(step(inputs, ", foreach: \"['in.lj', '2']\", max_parallel: 1"), tools=docs)
    assert [call.arguments["text"] for call in docs.calls] == [INPUT, "two"]


async def test_an_agent_and_an_included_plan_are_given_what_a_resource_says(
    run_plan, docs, tmp_path
):
    (tmp_path / "inner.yaml").write_text(
        "name: inner\ninputs: {text: {type: string}}\n"
        'steps: [{name: i, tool: use, inputs: {text: "{{ inputs.text }}"}}]\n'
    )
    plan = tmp_path / "outer.yaml"
    plan.write_text(
        "name: outer\nsteps:\n"
        '  - {name: a, plan: inner.yaml, inputs: {text: {resource: "docs:note://in.lj"}}}\n'
        "  - {name: b, agent: ask, allow_tools: false, instruction: Look,"
        ' inputs: {deck: {resource: "docs:note://in.lj"}}}\n'
    )
    model = ScriptedModel(["Fine."])
    seen = await run_plan(plan, tools=docs, model=model)
    assert seen.status == "success"
    assert docs.calls[0].arguments == {"text": INPUT}
    assert INPUT in model.requests[0][-1].text


async def test_a_read_is_a_recorded_call_that_is_not_made_again(run_plan, docs):
    seen = await run_plan(step('{text: {resource: "docs:note://in.lj"}}'), tools=docs)
    started = [(e["tool"], e["arguments"]) for e in seen.of("tool_started")]
    assert started[0] == ("read_resource", {"uri": "docs:note://in.lj"})
    assert started[1] == ("use", {"text": INPUT})


async def test_a_replay_reads_nothing_and_comes_to_the_same(tmp_path, settings, docs):
    docs.parts("use", {"type": "image", "data": "iVBORw==", "mimeType": "image/png"})
    stage = Stage(
        tmp_path, settings, docs, script=[Reply(tool_calls=[*READ, ("use", {})]), "Done."]
    )
    inputs = '{text: {resource: "docs:note://in.lj"}, file: {resource: "docs:note://plot"}}'
    agent = "  - {name: a, type: agent, instruction: Go, tools: [read_resource, use]}\n"
    await stage.record(step(inputs) + agent)
    assert stage.result.status == "success"
    await stage.equal()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ('{text: {resource: "docs:note://in.l"}}', "did you mean `note://in.lj`?"),
        ('{text: {resource: "{{ inputs.uri }}"}}', "no server has a resource `nothing`"),
    ],
)
async def test_a_resource_that_is_not_there_fails_the_step(run_plan, docs, inputs, words):
    seen = await run_plan(f"inputs: {{uri: nothing}}\n{step(inputs)}", tools=docs)
    assert seen.path == ["s:failure"]
    assert words in seen.result.error
    assert docs.calls == []


async def test_what_the_policy_refuses_is_not_read(run_plan, docs, settings):
    refused = replace(settings, policy=PolicySettings(deny=("read_resource",)))
    plan = step('{text: {resource: "docs:note://in.lj"}}')
    seen = await run_plan(plan, tools=docs, settings=refused)
    assert seen.path == ["s:failure"]
    assert "`read_resource` was not called" in seen.result.error


@pytest.mark.parametrize("uri", ["5", "in.lj", '""', "[a]", "null", "{a: b}"])
def test_what_is_no_uri_is_found_before_the_run(uri):
    (problem,) = check_plan(parse_plan(step(f"{{a: {{b: [{{resource: {uri}}}]}}}}")))
    assert (problem.code, problem.path) == ("bad-resource", "steps[0].inputs.a.b[0]")
    assert problem.position.line == 3


def test_a_resource_fits_any_argument_and_is_written_back_as_it_was():
    plan = parse_plan(step('{text: {resource: "docs:note://in.lj"}}'))
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    assert check_against_tools(plan, {"use": {"input_schema": schema}}, {}) == []
    again = parse_plan(dump_plan(plan))
    assert again.steps[0].inputs == {"text": {"resource": "docs:note://in.lj"}}


# -- agents ---------------------------------------------------------------------------------------


AGENT = "name: p\nsteps: [{{name: s, type: agent, instruction: Go{}}}]\n"


async def test_an_agent_reads_resources_with_a_tool(run_plan, docs):
    turn = Reply(tool_calls=[("read_resource", {"uri": "docs:note://in.lj"})])
    model = ScriptedModel([turn, "Done."])
    seen = await run_plan(AGENT.format(""), tools=docs, model=model)
    assert seen.status == "success"
    (offered,) = [
        tool["function"]
        for tool in model.options[0]["tools"]
        if tool["function"]["name"] == "read_resource"
    ]
    assert "docs:note://in.lj" in offered["description"]
    assert model.requests[1][-1].text == INPUT


async def test_an_agent_is_told_of_a_resource_that_is_not_there(run_plan, docs):
    turn = Reply(tool_calls=[("read_resource", {"uri": "note://nope"}), ("read_resource", {})])
    model = ScriptedModel([turn, "Done."])
    await run_plan(AGENT.format(""), tools=docs, model=model)
    first, second = model.requests[1][-2:]
    assert "no server has a resource `note://nope`" in first.text
    assert "`uri` is missing" in second.text


@pytest.mark.parametrize(
    ("more", "resources", "offered"),
    [
        ("", True, True),
        ("", False, False),
        (", tools: [use]", True, False),
        (", tools: [use, read_resource]", True, True),
    ],
)
async def test_the_tool_is_offered_where_there_are_resources_and_the_step_allows_it(
    run_plan, docs, more, resources, offered
):
    server = docs if resources else FakeToolServer("docs").answer("use", 1)
    model = ScriptedModel(["Done."])
    await run_plan(AGENT.format(more), tools=server, model=model)
    names = [tool["function"]["name"] for tool in model.options[0]["tools"]]
    assert ("read_resource" in names) == offered


# -- over the wire, and on the command line -------------------------------------------------------


async def test_resources_are_read_over_http_as_they_are(run_plan, docs):
    with ToolServer(docs) as server:
        async with McpToolbox([server.settings()]) as box:
            for uri in ("note://in.lj", "docs:note://in.lj", "docs.note://plot"):
                assert await box.read_resource(uri) == await docs.read_resource(uri)


def test_the_list_shows_uris(docs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with ToolServer(docs) as server:
        (tmp_path / ".fractale").mkdir()
        (tmp_path / ".fractale" / "config.yaml").write_text(f"servers: {{docs: '{server.url}'}}\n")
        assert run_command(["list", "resources"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "resources"
    assert [line.split()[:2] for line in lines[1:]] == [
        ["note://empty", "docs"],
        ["note://in.lj", "docs"],
        ["note://plot", "docs"],
    ]
