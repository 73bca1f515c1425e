"""LangGraph agents from the command line: named in three ways, resumed, replayed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import forked

MODULE = '''
import dataclasses
import typing
import pydantic
import typing_extensions
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from fractale.testing import Reply, ScriptedModel

def said(messages):
    """A model that buys once and then reports; it reads only the conversation."""
    last = messages[-1]
    with open("models.txt", "a") as file:
        file.write(last.type + "\\n")
    if last.type == "tool":
        return "Bought: " + last.text
    return Reply(tool_calls=[("buy", {"what": "tea"})])

@tool
def buy(what: str) -> str:
    """Buy something."""
    with open("bought.txt", "a") as file:
        file.write(what + "\\n")
    return what

GRAPH = create_agent(ScriptedModel(said), tools=[buy])
REVIEWED = create_agent(
    ScriptedModel(said), tools=[buy], name="careful",
    middleware=[HumanInTheLoopMiddleware(interrupt_on={"buy": True})],
)

def make_graph():
    """Makes an agent."""
    return GRAPH

def asking(state: MessagesState):
    return {"messages": [AIMessage("You said " + interrupt("Which one?"))]}

ASKS = StateGraph(MessagesState).add_node("n", asking).add_edge(START, "n")

class Offer(pydantic.BaseModel):
    price: int

@dataclasses.dataclass
class Note:
    text: str

class Typed(typing_extensions.TypedDict):
    offer: Offer
    notes: list[Note]
    said: str

def offers(state: Typed):
    return {"offer": Offer(price=3), "notes": [Note("cheap")]}

def decides(state: Typed):
    price, (note,) = state["offer"].price, state["notes"]
    return {"said": f"{interrupt(Offer(price=4))}: {price}, {note.text}"}

TYPED = StateGraph(Typed).add_node("a", offers).add_node("b", decides)
TYPED.add_edge(START, "a").add_edge("a", "b")

class Raw(typing.TypedDict):
    """LangGraph's own examples use it, and pydantic refuses it on Python 3.11."""
    topic: str

RAW = StateGraph(Raw).add_node("n", lambda s: {"topic": s["topic"] * 2}).add_edge(START, "n")
'''
PLAN = """
name: p
steps: [{{name: s, agent: {name}, instruction: Buy tea., inputs: {{{inputs}}}}}]
outputs: {{all: "{{{{ steps.s.outputs }}}}"}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_agents.py").write_text(MODULE)
    return tmp_path


def plan(project: Path, name: str, inputs: str = "") -> None:
    (project / "plan.yaml").write_text(PLAN.format(name=name, inputs=inputs))


def fractale(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE_")}
    env = {**kept, "HOME": str(project), "PYTHONPATH": str(project)}
    return forked.run(words, cwd=project, env=env, timeout=120)


def end(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last event of a run."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def bought(project: Path) -> list[str]:
    file = project / "bought.txt"
    return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize("name", ["GRAPH", "my_agents.GRAPH"])
def test_one_of_the_command_line(project, name):
    plan(project, name)
    done = fractale(project, "run", "plan.yaml", "-a", "my_agents.GRAPH", "--yes", "--json")
    ended = end(done)
    assert ended["outputs"] == {"all": {"content": "Bought: tea"}}, ended
    assert bought(project) == ["tea"]
    assert "callback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "name"), [("my_agents.make_graph", "make_graph"), ("my_agents.REVIEWED", "careful")]
)
def test_a_function_and_a_graph_with_a_name(project, path, name):
    plan(project, name)
    ended = end(fractale(project, "run", "plan.yaml", "-a", path, "--yes", "--json"))
    assert ended["outputs"] == {"all": {"content": "Bought: tea"}}, ended


def test_one_of_a_registry_and_of_a_package(project):
    plan(project, "buyer")
    (project / "r.yaml").write_text("tools: [{path: my_agents.GRAPH, name: buyer}]\n")
    ended = end(fractale(project, "run", "plan.yaml", "-r", "r.yaml", "--yes", "--json"))
    assert ended["outputs"] == {"all": {"content": "Bought: tea"}}, ended
    info = project / "hpc_buying-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hpc-buying\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fractale.agents]\nbuyer = my_agents:GRAPH\n")
    ended = end(fractale(project, "run", "plan.yaml", "--yes", "--json"))
    assert ended["outputs"] == {"all": {"content": "Bought: tea"}}, ended


def test_a_builder_whose_state_has_no_schema(project):
    plan(project, "RAW", "topic: tea")
    ended = end(fractale(project, "run", "plan.yaml", "-a", "my_agents.RAW", "--json"))
    assert ended["outputs"] == {"all": {"topic": "teatea"}}, ended
    listed = fractale(project, "list", "agents", "-a", "my_agents.RAW", "--json")
    assert "RAW" in listed.stdout, listed.stderr
    served = fractale(project, "validate", "plan.yaml", "-a", "my_agents.RAW")
    assert served.returncode == 0, served.stdout + served.stderr


def test_a_call_waits_for_approval_and_another_process_makes_it(project):
    plan(project, "GRAPH")
    done = fractale(project, "run", "plan.yaml", "-a", "my_agents.GRAPH", "--run-id", "r")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "GRAPH.buy" in done.stderr
    assert bought(project) == []
    done = fractale(project, "resume", "r", "--answer", "s=yes", "--json")
    assert end(done)["outputs"] == {"all": {"content": "Bought: tea"}}, done
    assert bought(project) == ["tea"]
    assert (project / "models.txt").read_text().split() == ["human", "tool"]
    shown = fractale(project, "show", "r", "s")
    assert "buy" in shown.stdout, shown
    replayed = fractale(project, "replay", "r")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert bought(project) == ["tea"]


@pytest.mark.parametrize(("answer", "made"), [("yes", ["tea"]), ("no", [])])
def test_a_review_is_answered_in_another_process(project, answer, made):
    plan(project, "careful")
    done = fractale(project, "run", "plan.yaml", "-a", "my_agents.REVIEWED", "--run-id", "r")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "may it call buy?" in done.stderr
    assert "fractale answer r s=yes" in done.stderr
    done = fractale(project, "resume", "r", "--answer", f"s={answer}", "--json")
    assert end(done)["status"] == ("success" if made else "failed"), done
    assert bought(project) == made
    replayed = fractale(project, "replay", "r")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_its_own_question_is_answered_in_another_process(project):
    plan(project, "ASKS")
    done = fractale(project, "run", "plan.yaml", "-a", "my_agents.ASKS", "--run-id", "r")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Which one?" in done.stderr
    done = fractale(project, "resume", "r", "--answer", "s=the green one", "--json")
    assert end(done)["outputs"] == {"all": {"content": "You said the green one"}}, done
    replayed = fractale(project, "replay", "r")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_a_state_of_its_own_types(project):
    plan(project, "TYPED")
    done = fractale(project, "run", "plan.yaml", "-a", "my_agents.TYPED", "--run-id", "r")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "price" in done.stderr
    ended = end(fractale(project, "resume", "r", "--answer", "s=agreed", "--json"))
    assert ended["outputs"] == {
        "all": {"offer": {"price": 3}, "notes": [{"text": "cheap"}], "said": "agreed: 3, cheap"}
    }, ended


def test_a_limit_is_reached_and_raised(project):
    plan(project, "GRAPH")
    words = ("-a", "my_agents.GRAPH", "--run-id", "r", "--yes", "--limit", "tokens=2")
    done = fractale(project, "run", "plan.yaml", *words)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "callback" not in done.stderr
    done = fractale(project, "resume", "r", "--yes", "--limit", "tokens=500", "--json")
    assert end(done)["status"] == "success", done
    assert bought(project) == ["tea"]
    assert (project / "models.txt").read_text().split() == ["human", "tool"]


def test_a_plan_names_a_graph_beside_an_agent_of_its_own(project):
    plan(project, "buyer")
    own = (
        "agents:\n  - {path: my_agents.GRAPH, name: buyer}\n  - {name: critic, instruction: No.}\n"
    )
    text = (project / "plan.yaml").read_text()
    (project / "plan.yaml").write_text(text.replace("steps:", f"{own}steps:"))
    run = ("run", "plan.yaml", "--yes", "--json")
    ended = end(fractale(project, *run, "-a", "my_agents.GRAPH"))
    assert ended["outputs"] == {"all": {"content": "Bought: tea"}}, ended
    refused = fractale(project, *run)
    assert "`my_agents.GRAPH` is not registered as a sub-agent" in " ".join(refused.stderr.split())
