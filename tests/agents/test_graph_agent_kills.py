"""A process is killed inside a LangGraph agent, and another one resumes the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_graph_agents_cli import MODULE, bought, end, fractale, plan

KILLS = '''
import os, pathlib, signal

def once(name):
    """Kill this process, the first time."""
    mark = pathlib.Path(name)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

def dies(messages):
    answer = said(messages)
    if messages[-1].type == "tool":
        once("killed")
    return answer

@tool
def order(what: str) -> str:
    """Order something."""
    with open("bought.txt", "a") as file:
        file.write(what + "\\\\n")
    once("killed")
    return what

def orders(messages):
    answer = said(messages)
    return answer if isinstance(answer, str) else Reply(tool_calls=[("order", {"what": "tea"})])

IN_MODEL = create_agent(ScriptedModel(dies), tools=[buy])
IN_TOOL = create_agent(ScriptedModel(orders), tools=[order])
'''.replace("\\\\n", "\\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_agents.py").write_text(MODULE + KILLS)
    return tmp_path


def killed(project: Path, name: str) -> None:
    plan(project, name)
    done = fractale(
        project, "run", "plan.yaml", "-a", f"my_agents.{name}", "--run-id", "r", "--yes"
    )
    assert done.returncode in (-9, 137), done.stdout + done.stderr


def test_what_was_done_before_a_model_call_is_not_done_again(project):
    killed(project, "IN_MODEL")
    ended = end(fractale(project, "resume", "r", "--yes", "--json"))
    assert ended["outputs"] == {"all": {"content": "Bought: tea"}}, ended
    assert bought(project) == ["tea"]
    # The call that was in progress is made again, no other.
    assert (project / "models.txt").read_text().split() == ["human", "tool", "tool"]


@pytest.mark.parametrize(
    ("answer", "says", "made"),
    [
        ("again", "Bought: tea", 2),
        ('{"outputs": {"what": "tea"}}', "this call was made before, and answered", 1),
        ("failed", "", 1),
    ],
)
def test_a_tool_call_in_progress_is_asked_about(project, answer, says, made):
    killed(project, "IN_TOOL")
    done = fractale(project, "resume", "r", "--yes")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "may or may not have run" in done.stderr
    ended = end(fractale(project, "resume", "r", "--answer", f"s={answer}", "--json"))
    assert len(bought(project)) == made
    assert ended["status"] == ("success" if says else "failed"), ended
    assert says in str(ended["outputs"])
