"""A run that is killed inside an agent goes on inside it: no turn and no call is made again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import forked
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

TOOLS = '''
import os

def note(text: str) -> dict:
    """Write a line into the log of what was done."""
    with open("calls.txt", "a") as file:
        file.write(text + "\\n")
    return {"noted": text}
'''
PLAN = """
name: p
steps:
  - {name: work, type: agent, instruction: Note one to four., model: "openai:scripted"}
  - {name: last, tool: note, inputs: {text: "{{ steps.work.outputs.content }}"}}
outputs: {said: "{{ steps.work.outputs.content }}"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text(
        "tools: [{path: my_tools.note, annotations: {readOnlyHint: true}}]\n"
    )
    (tmp_path / "p.yaml").write_text(PLAN)
    return tmp_path


class Model:
    """Calls `note` with each word and then answers; stands still before the turn `stop_at`."""

    def __init__(self, stop_at: int) -> None:
        self.stop_at: int | None = stop_at
        self.turns: list[int] = []
        self.reached = threading.Event()

    def __call__(self, request: ModelRequest) -> Reply:
        words = ("one", "two", "three", "four")
        turn = sum(message["role"] == "tool" for message in request.body["messages"])
        if turn == self.stop_at:
            self.reached.set()
            return Reply(text="too late", delay=60)
        self.turns.append(turn)
        if turn < len(words):
            return Reply(tool_calls=[("note", {"text": words[turn]})])
        return Reply(text="all noted")


def start(project: Path, server: ModelServer, *words: str) -> forked.Process:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FRACTALE_")}
    env |= {
        "HOME": str(project),
        "OPENAI_BASE_URL": server.openai_url,
        "OPENAI_API_KEY": "k-1234567890",
    }
    return forked.start(words, cwd=project, env=env)


def wait_for(condition: Callable[[], bool], process: forked.Process) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it never came so far")


@pytest.mark.parametrize("stop_at", [0, 1, 3, 4])
def test_a_kill_between_the_turns_of_an_agent_repeats_nothing(project, stop_at):
    model = Model(stop_at)
    with ModelServer(model) as server:
        process = start(project, server, "run", "p.yaml", "-r", "tools.yaml")
        wait_for(model.reached.is_set, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        model.stop_at = None
        resumed = start(project, server, "resume", "-1", "--json")
        out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, out + err
    assert json.loads(out.splitlines()[-1])["outputs"] == {"said": "all noted"}
    assert model.turns == [0, 1, 2, 3, 4]
    noted = (project / "calls.txt").read_text().split("\n")[:-1]
    assert noted == ["one", "two", "three", "four", "all noted"]


def test_tokens_of_an_agent_that_was_killed_are_counted_on(project):
    model = Model(3)
    with ModelServer(model) as server:
        process = start(project, server, "run", "p.yaml", "-r", "tools.yaml")
        wait_for(model.reached.is_set, process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        model.stop_at = None
        out, err = start(project, server, "resume", "-1", "--json").communicate(timeout=120)
        again = start(project, server, "run", "p.yaml", "-r", "tools.yaml", "--json")
        whole, _ = again.communicate(timeout=120)
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["status"] == "success", err
    expected = json.loads(whole.splitlines()[-1])["usage"]["total_tokens"]
    assert events[-1]["usage"]["total_tokens"] == expected


def test_an_approval_inside_an_agent_waits_and_goes_on_in_another_process(project):
    (project / "tools.yaml").write_text("tools: [{path: my_tools.note}]\n")
    model = Model(-1)
    with ModelServer(model) as server:
        first = start(project, server, "run", "p.yaml", "-r", "tools.yaml")
        _, err = first.communicate(timeout=120)
        assert first.returncode == 4, err
        assert "note" in err
        second = start(project, server, "resume", "-1", "--answer", "work=yes")
        _, err = second.communicate(timeout=120)
        assert second.returncode == 4, "a yes is for one call"
        third = start(project, server, "resume", "-1", "--answer", "work=always")
        _, err = third.communicate(timeout=120)
    assert third.returncode == 0, err
    assert model.turns == [0, 1, 2, 3, 4]
    noted = (project / "calls.txt").read_text().split("\n")[:-1]
    assert noted == ["one", "two", "three", "four", "all noted"]
