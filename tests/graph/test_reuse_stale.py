"""Results that look equal and are not: each of these steps must make its call again."""

# ruff: noqa: ASYNC240 - these tests change files between runs
from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.testing import FakeToolServer

CLOSED = {"readOnlyHint": True, "openWorldHint": False}
OPEN = {"readOnlyHint": True, "openWorldHint": True}


@pytest.fixture
def settings(settings, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return replace(settings, environment={"PATH": "/usr/bin:/bin"})


def taken(run) -> list[str]:
    return [each["step"] for each in run.of("step_finished") if each.get("reused")]


@pytest.mark.parametrize(
    "block",
    [
        "steps: [{name: a, tool: t}]",
        "plan: inner.yaml",
        "parallel: [{name: a, tool: t}]",
        "foreach: '[1]'\n    tool: t",
    ],
)
async def test_what_is_in_a_step_that_the_run_comes_back_to_makes_its_call(run_plan, block):
    tools = FakeToolServer()
    tools.describe("t", annotations=CLOSED).answer("t", {"n": 1}, {"n": 2}, {"n": 3})
    tools.describe("more", annotations=OPEN).answer("more", {"n": 1}, {"n": 2}, {"n": 3})
    Path("inner.yaml").write_text("name: q\nsteps: [{name: a, tool: t}]\n")
    plan = f"""
name: p
steps:
  - name: block
    {block}
  - name: check
    tool: more
    rules: {{more: [outputs.n < 3]}}
    transitions: {{more: block}}
"""
    Path("p.yaml").write_text(textwrap.dedent(plan))
    run = await run_plan(Path("p.yaml"), tools=tools, reuse=True)
    assert (run.status, len(tools.calls)) == ("success", 6)


@pytest.mark.parametrize("answer", ["file", "text", "directory"])
async def test_a_file_that_only_the_result_names_must_be_as_the_step_left_it(run_plan, answer):
    tools = FakeToolServer()

    @tools.tool
    def simulate(n: int) -> dict:
        Path("out").mkdir(exist_ok=True)
        Path("out/traj.xyz").write_text(str(n))
        said = {"file": "out/traj.xyz", "text": "It wrote out/traj.xyz.", "directory": "out"}
        return {"said": said[answer]}

    step = "{name: a, tool: simulate, inputs: {n: '{{ inputs.n }}'}, cache: true}"
    plan = f"name: p\ninputs: {{n: 1}}\nsteps: [{step}]"
    for n in (1, 1, 2, 1):
        run = await run_plan(plan, {"n": n}, tools=tools)
        assert Path("out/traj.xyz").read_text() == str(n)
    assert taken(run) == []
    assert len(tools.calls) == 3


@pytest.mark.parametrize(
    "argument",
    [
        "path: d",  # a directory with a link to another
        "cmd: 'cat $DATA/in.dat'",
        "cmd: 'cat ${DATA}/in.dat'",
        "path: 'file://{here}/my%20file'",
        "path: '{state}/x'",
    ],
)
async def test_files_that_arguments_name_in_other_ways(
    run_plan, settings, tmp_path, monkeypatch, argument
):
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    changed = [tmp_path / "data" / "in.dat", Path("my file"), settings.state_dir / "x" / "y"]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    Path("d").mkdir()
    Path("d/link").symlink_to(tmp_path / "data")
    argument = argument.replace("{here}", str(Path.cwd()))
    argument = argument.replace("{state}", str(settings.state_dir))
    tools = FakeToolServer()
    tools.describe("look", annotations=CLOSED).answer("look", {"n": 1})
    plan = f"name: p\nsteps: [{{name: a, tool: look, inputs: {{{argument}}}}}]"
    await run_plan(plan, tools=tools, reuse=True)
    for path in changed:
        path.write_text("2")
    assert taken(await run_plan(plan, tools=tools, reuse=True)) == []


async def test_what_a_server_remembers_of_the_run_is_not_taken_over(run_plan):
    tools, kept = FakeToolServer(), list[int]()

    @tools.tool
    def put(n: int) -> dict:
        kept.append(n)
        return {"ok": True}

    @tools.tool(read_only=True)
    def get() -> dict:
        return {"n": kept[-1]}

    plan = """
    name: p
    inputs: {n: 1}
    steps:
      - {name: a, tool: put, inputs: {n: "{{ inputs.n }}"}}
      - {name: b, tool: get}
    outputs: {n: "{{ steps.b.outputs.n }}"}
    """
    for n in (1, 2, 1):
        run = await run_plan(plan, {"n": n}, tools=tools, reuse=True)
        assert run.outputs == {"n": n}
