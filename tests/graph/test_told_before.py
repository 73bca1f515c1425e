"""What a step is told of the one before it: `previous`, its error, and the run's directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.testing import FakeToolServer, ScriptedModel


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def say(text: str = "") -> dict:
        return {"text": text}

    @server.tool
    def fail() -> dict:
        return {"error": "disk full"}

    return server


@pytest.mark.parametrize(
    "value",
    [
        "{{ previous.error if previous is defined else 'first' }}",
        "{{ previous.error | default('first') }}",
        "{{ previous.outputs.text | default('first') }}",
        "{{ previous.name if previous is defined else 'first' }}",
    ],
)
async def test_nothing_leads_to_the_first_step(run_plan, tools, value):
    plan = f'''
    name: p
    steps: [{{name: a, tool: say, inputs: {{text: "{value}"}}}}]
    outputs: {{text: "{{{{ steps.a.outputs.text }}}}"}}
    '''
    seen = await run_plan(plan, tools=tools)
    assert (seen.status, seen.outputs) == ("success", {"text": "first"})


@pytest.mark.parametrize("value", ["previous.error", "previous", "previous.outputs.x"])
async def test_the_check_says_so_before_the_run_and_the_run_says_the_same(run_plan, tools, value):
    text = (
        "name: p\nsteps:\n"
        f'- {{name: a, tool: say, inputs: {{text: "{{{{ {value} }}}}"}}, max_attempts: 2}}\n'
    )
    (problem,) = check_plan(parse_plan(text))
    assert (problem.code, problem.severity) == ("not-yet-run", "error")
    assert "the plan begins with `a`: then there is no `previous`" in problem.message
    graph = compile_plan(parse_plan(text), Dependencies(toolbox=tools)).compile()
    last = await graph.ainvoke({})
    assert "`previous` is not defined: the plan begins here" in last["error"]


def problems(first: str, second: str) -> list[tuple[str, str]]:
    text = (
        f"name: p\nsteps:\n- {{name: a, tool: say, {first}}}\n- {{name: b, tool: say, {second}}}\n"
    )
    return [(p.code, p.severity) for p in check_plan(parse_plan(text))]


ERROR = 'inputs: {text: "{{ previous.error }}"}'
GUARDED = "inputs: {text: \"{{ previous.error if previous is defined else '' }}\"}"
SAFE = "inputs: {text: \"{{ previous.error | default('') }}\"}"


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("description: x", ERROR, [("no-error", "warning")]),
        ("description: x", GUARDED, [("no-error", "warning")]),
        ("description: x", SAFE, []),
        ("description: x", "inputs: {text: '{{ previous.name }}'}", []),
        ("description: x", f"when: previous.error, {ERROR}", []),
        ("transitions: {success: success, failure: b}", ERROR, []),
        ("when: previous is defined, " + ERROR, "transitions: {success: success}", []),
    ],
)
def test_the_check_knows_whether_a_step_that_failed_leads_there(first, second, found):
    assert problems(first, second) == found


async def test_a_step_reached_by_a_failure_has_its_error(run_plan, tools):
    plan = """
    name: p
    steps:
      - {name: a, tool: fail, transitions: {failure: b, success: success}}
      - {name: b, tool: say, inputs: {text: "{{ previous.error }} {{ previous.outcome }}"}}
    outputs: {text: "{{ steps.b.outputs.text }}"}
    """
    seen = await run_plan(plan, tools=tools)
    assert seen.outputs == {"text": "disk full failure"}


DIRECTORY = """
name: p
steps:
  - {name: a, tool: say, inputs: {text: "{{ run.dir }}"}}
  - {name: go, ask: "Go on?", default: "yes"}
  - {name: b, tool: say, inputs: {text: "{{ run.dir }}"}}
outputs: {a: "{{ steps.a.outputs.text }}", b: "{{ steps.b.outputs.text }}", c: "{{ run.dir }}"}
"""


def remove(directory: str) -> None:
    """Remove the directory of a run, which only its user may read."""
    assert Path(directory).stat().st_mode & 0o77 == 0
    Path(directory).rmdir()


async def test_a_run_that_is_not_kept_has_a_directory(run_plan, tools):
    seen = await run_plan(DIRECTORY, tools=tools, yes=True)
    assert seen.status == "success", seen.result.error
    (directory,) = set(seen.outputs.values())
    remove(directory)


async def test_a_graph_keeps_its_directory_when_it_is_resumed(tools):
    plan = parse_plan(DIRECTORY)
    graph = compile_plan(plan, Dependencies(toolbox=tools)).compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in await graph.ainvoke({}, thread)
    last = await graph.ainvoke(Command(resume="yes"), thread)
    (directory,) = set(last["outputs"].values())
    remove(directory)


async def test_a_plan_that_does_not_read_it_makes_no_directory(
    run_plan, tools, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    plan = "name: p\nsteps: [{name: a, tool: say, inputs: {text: '{{ run.id }}'}}]\n"
    assert (await run_plan(plan, tools=tools)).status == "success"


class TestTheLastAttempt:
    """`The last attempt failed: …` goes to an agent that tried, once."""

    async def test_a_reporter_that_never_tried_is_not_told_so(self, run_plan, tools):
        model = ScriptedModel(["It is full."])
        plan = """
        name: p
        steps:
          - {name: a, tool: fail, transitions: {failure: tell, success: success}}
          - name: tell
            agent: ask
            allow_tools: false
            instruction: "Explain {{ previous.error }}"
        """
        seen = await run_plan(plan, tools=tools, model=model)
        assert seen.status == "success", seen.result.error
        text = str(model.requests)
        assert "last attempt failed" not in text
        assert "Explain disk full" in text

    RETRY = """
    name: p
    steps:
      - name: write
        agent: ask
        allow_tools: false
        instruction: Write it.INSTRUCTION
        max_attempts: 2
      - {name: check, tool: fail, transitions: {failure: write}}
    """

    async def test_an_agent_that_tried_is_told_once(self, run_plan, tools):
        model = ScriptedModel(["one", "two"])
        plan = self.RETRY.replace("INSTRUCTION", "")
        await run_plan(plan, tools=tools, model=model)
        first, second = map(str, model.requests)
        assert "last attempt failed" not in first
        assert second.count("The last attempt failed: disk full") == 1

    async def test_a_plan_that_says_it_itself_is_not_doubled(self, run_plan, tools):
        model = ScriptedModel(["one", "two"])
        said = "\n          Before: {{ previous.error | default('nothing') }}"
        plan = self.RETRY.replace("Write it.INSTRUCTION", f">-{said}")
        await run_plan(plan, tools=tools, model=model)
        first, second = map(str, model.requests)
        assert "Before: nothing" in first
        assert second.count("disk full") == 1
        assert "last attempt" not in second
