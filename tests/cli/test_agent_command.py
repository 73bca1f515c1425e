"""`fractale agent` and `fractale prompt`: words become a plan of one step, and its run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastmcp import FastMCP

import forked
from fractale.agents.catalog import Catalog
from fractale.cli import run_command
from fractale.errors import ToolError, UsageError
from fractale.mcp import EmbeddedServer, McpToolbox
from fractale.plan.build import load_plan
from fractale.plan.check import check_plan
from fractale.runs.one_step import NamedExpert, find_agent, find_prompt, keep_plan, one_step_plan
from fractale.testing import FakeToolServer, ModelServer, Reply

HOSTILE = "Say {{ inputs.secret }} and {% raise %}: - not: [yaml\n\"quoted\" 'too' --yes #x"
TOOLS = '''
class Tuner:
    """A sub-agent of the older kind."""
    name = "tuner"
    description = "Tunes."
    input_schema = {
        "type": "object",
        "properties": {"goal": {"type": "string"}, "nodes": {"type": "integer"}},
        "required": ["goal", "nodes"],
        "annotations": {"fractale.type": "agent"},
    }
    async def __call__(self, goal, nodes):
        return {"tuned": goal, "nodes": nodes}

class Silent:
    """One that takes no words."""
    name = "silent"
    description = "Does one thing."
    input_schema = {"type": "object", "annotations": {"fractale.type": "agent"}}
    async def __call__(self):
        return {"done": True}

def greet(who: str) -> dict:
    """Say hello."""
    return {"text": f"hello {who}"}

def expert_on(topic: str, depth: str = "short") -> str:
    """An expert."""
    return f"You are an expert on {topic}; be {depth}."
'''
REGISTRY = """
tools:
  - {path: my_tools.greet, annotations: {readOnlyHint: true}}
prompts:
  - {path: my_tools.expert_on}
"""
PLAN = """
name: hello
inputs: {who: world}
steps: [{name: greet, tool: greet, inputs: {who: "{{ inputs.who }}"}}]
outputs: {text: "{{ steps.greet.outputs.text }}"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    (tmp_path / "r.yaml").write_text(REGISTRY)
    (tmp_path / "hello.yaml").write_text(PLAN)
    return tmp_path


class Command:
    """The command line in a project folder, with a scripted model behind it."""

    def __init__(self, project: Path, server: ModelServer) -> None:
        self.project, self.server = project, server

    def __call__(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE_")}
        return forked.run(
            words,
            cwd=self.project,
            env={
                **kept,
                "HOME": str(self.project),
                "PYTHONPATH": str(self.project),
                "FRACTALE_LLM_PROVIDER": "openai",
                "OPENAI_API_KEY": "k-1234567890",
                "OPENAI_BASE_URL": self.server.openai_url,
            },
            input=stdin,
            timeout=60,
        )

    def end(self, *words: str, **options: Any) -> dict[str, Any]:
        """The last event of what the words run."""
        command, *rest = words
        done = self(command, "--json", *rest, **options)
        assert done.stdout, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @property
    def told(self) -> str:
        """The last message that the model was sent."""
        return self.server.requests[-1].body["messages"][-1]["content"]


@pytest.fixture
def answers() -> list[Any]:
    """What the model says, in order; a test adds to it."""
    return []


@pytest.fixture
def fractale(project, answers) -> Iterator[Command]:
    with ModelServer(lambda _request: answers.pop(0)) as server:
        yield Command(project, server)


# -- asked at once --------------------------------------------------------------------------------


def test_an_agent_is_told_the_words_as_they_were_typed(fractale, answers):
    answers.append("42")
    words = ("What", "is  {{ 6 * 7 }}?", "--yes", "-r", "x")
    end = fractale.end("agent", "--direct", "ask", *words)
    assert end["status"] == "success", end
    assert end["outputs"] == {"answer": "42"}
    assert fractale.told == "What is  {{ 6 * 7 }}? --yes -r x"


def test_words_can_come_from_stdin(fractale, answers):
    answers.append("yes")
    end = fractale.end("agent", "--direct", "ask", "-", stdin=f"{HOSTILE}\n")
    assert end["outputs"] == {"answer": "yes"}
    assert fractale.told == HOSTILE


def test_a_prompt_in_words_asks_the_generalist(fractale, answers):
    answers.append(Reply(data={"joke": "A penguin."}))
    end = fractale.end("prompt", "--direct", "Tell", "me", "a", "joke.")
    assert end["outputs"] == {"answer": {"joke": "A penguin."}}
    assert fractale.told == "Tell me a joke."


def test_a_question_to_the_person_waits_and_resume_goes_on_with_the_answer(fractale, answers):
    question = {"question": "Which category?", "choices": ["penguins", "supercomputers"]}
    answers += [Reply(tool_calls=[("ask_person", question)]), "Why do penguins ...?"]
    done = fractale("prompt", "--direct", "Tell me a joke, and give me choices.")
    assert done.returncode == 4, done.stderr
    assert "Which category?" in done.stderr
    run = next((fractale.project / ".fractale/runs").iterdir()).name
    after = fractale("resume", run, "--answer", "ask=penguins", "--json")
    end = json.loads(after.stdout.splitlines()[-1])
    assert end["outputs"] == {"answer": "Why do penguins ...?"}, after.stderr
    assert fractale.told == "penguins"


def test_a_question_can_be_answered_beforehand(fractale, answers):
    question = {"question": "Which category?", "choices": ["penguins", "supercomputers"]}
    answers += [Reply(tool_calls=[("ask_person", question)]), "Why do penguins ...?"]
    end = fractale.end("prompt", "--direct", "--answer", "ask=penguins", "Tell me a joke.")
    assert end["outputs"] == {"answer": "Why do penguins ...?"}, end


def test_a_servers_prompt_is_asked_by_its_name_with_its_arguments(fractale, answers):
    answers.append("Short: it computes.")
    inputs = ("-i", "topic=Flux")
    end = fractale.end("prompt", "--direct", "-r", "r.yaml", *inputs, "expert_on", "Say", "more.")
    assert end["outputs"] == {"answer": "Short: it computes."}, end
    said = [m["content"] for m in fractale.server.requests[-1].body["messages"]]
    assert said[-2:] == ["You are an expert on Flux; be short.", "Say more."]


def test_a_prompt_whose_argument_is_missing_says_how_to_give_it(fractale):
    done = fractale("prompt", "--direct", "-r", "r.yaml", "expert_on")
    assert done.returncode == 2
    assert "-i topic=" in done.stderr


def test_an_agent_of_the_older_kind_gets_the_words_as_its_goal(fractale):
    words = ("-a", "my_tools.Tuner", "-i", "nodes=4", "tuner", "Make", "it", "fast")
    end = fractale.end("agent", "--direct", *words)
    assert end["outputs"] == {"answer": {"tuned": "Make it fast", "nodes": 4}}, end


def test_one_that_takes_no_words_says_so(fractale):
    done = fractale("agent", "--direct", "-a", "my_tools.Silent", "silent", "Go", "on")
    assert done.returncode == 2
    assert "does not accept an instruction" in done.stderr
    end = fractale.end("agent", "--direct", "-a", "my_tools.Silent", "silent")
    assert end["outputs"] == {"answer": {"done": True}}


def test_the_plan_is_kept_for_its_owner_and_not_made_twice(fractale, answers):
    answers += ["a", "b"]
    for _ in range(2):
        assert fractale("agent", "--direct", "ask", "Hello").returncode == 0
    (path,) = (fractale.project / ".fractale/asked").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    assert check_plan(load_plan(path)) == []


# -- a plan in the place of an agent --------------------------------------------------------------


def test_a_plan_file_is_run_and_that_is_said(fractale):
    done = fractale("agent", "-r", "r.yaml", "-i", "who=Ada", "hello.yaml")
    assert done.returncode == 0, done.stderr
    assert "is a plan" in done.stderr
    assert "hello Ada" in done.stderr


def test_a_plan_takes_no_words(fractale):
    done = fractale("agent", "-r", "r.yaml", "hello.yaml", "Say", "hello")
    assert done.returncode == 2
    assert "-i NAME=VALUE" in done.stderr


# -- what a sub-agent takes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("result_parse",), ["metric_name: string, required", "The log, as one text", "regex:"]),
        (("optimize",), ['direction: "minimize"|"maximize", required', "{trial}", "stopped_by"]),
        (("ask",), ["  none", "content: string"]),
        (("-a", "my_tools.Tuner", "tuner"), ["Tunes.", "goal: string, required", "nodes: integer"]),
    ],
)
def test_help_after_its_name_shows_what_it_takes_and_gives(
    project, monkeypatch, capsys, words, says
):
    """Neither a key nor, for fractale's own, a server is needed."""
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    assert run_command(["agent", *words, "--help"]) == 0
    shown = capsys.readouterr().out
    for text in says:
        assert text in shown
    assert "instruction" not in shown


def test_help_for_one_that_is_not_there_says_so(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert run_command(["agent", "optimise", "--help"]) == 2
    assert "did you mean `optimize`" in capsys.readouterr().err


# -- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("agent", "--direct", "aks", "hello"), "did you mean `ask`"),
        (("agent", "--direct", "ask"), "the instruction is missing"),
        (("prompt",), "the instruction is missing"),
        (("agent", "ask", "--direct", "hello"), "must come before the instruction"),
        (("agent", "ask", "--model=x", "hello"), "must come before the instruction"),
        (("agent", "--direct", "-i", "instruction=a", "ask", "b"), "given twice"),
        (("agent", "--no-such-option", "ask"), "--no-such-option"),
        (("agent", "--direct", "ask", "-"), "stdin is empty"),
        (("agent", "-i", "agent=x", "ask", "hello"), "--direct"),
        (("agent", "-i", "log_text=5", "-i", "max_tries=0", "result_parse", "x"), "max_tries"),
    ],
)
def test_wrong_use_says_what_would_be_right(fractale, words, says):
    done = fractale(*words)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert fractale.server.requests == []


@pytest.mark.parametrize(
    ("typed", "offered"), [("re", "result_parse"), ("hel", "hello.yaml"), ("", "ask")]
)
def test_completion_offers_agents_and_plans(project, typed, offered):
    env = {
        **os.environ,
        "_FRACTALE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"fractale agent {typed}",
        "COMP_CWORD": "2",
    }
    code = "from fractale.cli import cli; cli(prog_name='fractale')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=env, capture_output=True, text=True
    )
    assert offered in [line.partition(",")[2] for line in done.stdout.splitlines()]


# -- the plan of one step -------------------------------------------------------------------------

ASK = NamedExpert(kind="agent", name="ask")


def built(tmp_path: Path, *given: Any, direct: bool = True):
    data = one_step_plan(*given, direct=direct)
    plan = load_plan(keep_plan(data, tmp_path))
    assert [p for p in check_plan(plan) if p.severity == "error"] == []
    return plan


@pytest.mark.parametrize("name", ["ask", "hpc.tune-it", "9lives", "success", "ünder score"])
def test_any_name_makes_a_valid_plan(tmp_path, name):
    plan = built(tmp_path, NamedExpert(kind="agent", name="ask"), "x", {})
    assert plan.steps[0].target == "ask"
    data = one_step_plan(
        NamedExpert(kind="agent", name=name), "Do it", {}, direct=False, small=True
    )
    plan = load_plan(keep_plan(data, tmp_path))
    assert plan.steps[0].inputs["agent"] == name


@pytest.mark.parametrize("direct", [True, False])
def test_no_word_of_the_instruction_is_a_template_or_yaml(tmp_path, direct):
    plan = built(tmp_path, ASK, HOSTILE, {}, direct=direct)
    assert list(plan.inputs) == ["instruction"]
    assert plan.steps[0].instruction.source == "{{ inputs.instruction }}"


@pytest.mark.parametrize("kind", ["agent", "prompt"])
def test_the_manager_is_told_whom_to_ask(tmp_path, kind):
    expert = NamedExpert(kind=kind, name="expert_on", input_schema={"required": ["topic"]})
    plan = built(tmp_path, expert, "Explain", {"depth": "deep"}, direct=False)
    (step,) = plan.steps
    assert (step.kind, step.target) == ("plan", None)
    assert step.inputs[kind] == "expert_on"
    assert step.inputs["depth"].source == "{{ inputs.depth }}"
    assert set(plan.inputs) == {"instruction", "depth"}


@pytest.mark.parametrize(
    ("words", "inputs", "kind"),
    [
        ("", {"nodes": 4}, "agent"),
        ("Make it fast", {"nodes": 4}, "plan"),
        ("", {"skin": 1}, "plan"),
    ],
)
def test_only_what_is_left_open_is_planned(tmp_path, words, inputs, kind):
    schema = {"properties": {"nodes": {}, "skin": {}}, "required": ["nodes"]}
    expert = NamedExpert(kind="agent", name="tune", input_schema=schema)
    assert [s.kind for s in built(tmp_path, expert, words, inputs, direct=False).steps] == [kind]


def test_inputs_have_the_types_of_the_agents_schema(tmp_path):
    schema = {
        "properties": {"nodes": {"type": "integer", "description": "How many."}, "x-y": {}},
        "required": ["nodes"],
    }
    expert = NamedExpert(kind="agent", name="tune", input_schema=schema)
    plan = built(tmp_path, expert, "", {"x-y": "1"})
    assert (plan.inputs["nodes"].type, plan.inputs["nodes"].required) == ("integer", True)
    assert plan.inputs["nodes"].description == "How many."
    assert plan.steps[0].inputs["x-y"].source == '{{ inputs["x-y"] }}'


def test_outputs_are_those_that_the_agent_says_it_has(tmp_path):
    schema = {"properties": {"value": {}, "regex": {}, "not a name": {}}}
    expert = NamedExpert(kind="agent", name="parse", output_schema=schema)
    assert list(built(tmp_path, expert, "x", {}).outputs) == ["value", "regex"]
    assert list(built(tmp_path, ASK, "x", {}).outputs) == ["answer"]


async def test_prompts_are_found_by_bare_and_qualified_name():
    tools = FakeToolServer("hpc").prompt(
        "expert", "hi", arguments=[{"name": "a", "required": True}]
    )
    for name in ("expert", "hpc.expert"):
        found = await find_prompt(name, tools)
        assert found is not None
        assert (found.name, found.input_schema["required"]) == ("expert", ["a"])
    assert await find_prompt("Tell", tools) is None


async def test_a_prompt_that_two_servers_have_is_asked_by_its_whole_name():
    def server() -> FastMCP:
        made = FastMCP("made")
        made.prompt(lambda: "hi", name="expert")
        return made

    servers = [EmbeddedServer(name=name, server=server) for name in ("a", "b")]
    async with McpToolbox(servers) as box:
        with pytest.raises(ToolError, match="several servers") as error:
            await find_prompt("expert", box)
        assert "`a.expert` or `b.expert`" in str(error.value.hint)
        found = await find_prompt("b.expert", box)
        assert found is not None
        assert found.name == "b.expert"


async def test_an_agent_that_nobody_has_is_an_error_with_the_names_there_are():
    with pytest.raises(UsageError, match="sub-agent `optimise` not found") as error:
        await find_agent("optimise", FakeToolServer(), Catalog())
    assert "ask" in str(error.value.hint)


def test_the_file_is_plain_yaml_that_a_person_can_keep(tmp_path):
    path = keep_plan(one_step_plan(ASK, "Tell me a joke.", {}, direct=True), tmp_path)
    data = yaml.safe_load(path.read_text())
    assert data["description"] == "Tell me a joke."
    assert data["steps"] == [
        {"name": "ask", "agent": "ask", "instruction": "{{ inputs.instruction }}"}
    ]
