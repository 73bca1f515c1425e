"""A run that names values in a loop and asks an agent of its plan is killed, and loses nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forked import Forking, Process
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

TOOLS = '''
import os, time

def measure(n: int) -> dict:
    """Measure something, and note that."""
    file = os.open("calls.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, f"{n}\\n".encode())
    os.close(file)
    time.sleep(0.03)
    return {"value": 10 * n}
'''

PLAN = """
name: grows
agents:
  - {name: judge_of_times, instruction: You judge times., tools: [measure]}
steps:
  - {name: measure, tool: measure, inputs: {n: "{{ attempts }}"}}
  - name: keep
    set: {found: "{{ values.found | default([]) + [steps.measure.outputs.value] }}"}
    rules: {more: values.found | length < 3}
    transitions: {more: measure}
  - name: both
    parallel:
      - {name: sum, set: {sum: "{{ values.found | sum }}"}}
      - {name: most, set: {most: "{{ values.found | max }}"}}
  - {name: verdict, agent: judge_of_times, instruction: "Is {{ values.sum }} enough?"}
  - name: end
    set: {verdict: "{{ steps.verdict.outputs.content }}"}
    rules: {failed: "true"}
    reason: "{{ values.verdict }}: {{ values.most }} of {{ values.sum }}"
outputs:
  found: "{{ values.found }}"
"""

OUTPUTS = {"found": [10, 20, 30]}
REASON = "It is enough: 30 of 60"
POINTS = [
    ("keep", "step_started", 1),
    ("keep", "step_finished", 2),
    ("both", "step_started", 1),
    ("both/sum", "step_finished", 1),
    ("both", "step_finished", 1),
    ("verdict", "model_started", 1),
    ("verdict", "tool_finished", 1),
    ("verdict", "model_finished", 2),
    ("end", "step_started", 1),
    ("end", "step_finished", 1),
]


def model(request: ModelRequest) -> Reply:
    said = request.body["messages"]
    assert "You judge times." in said[0]["content"]
    assert "Is 60 enough?" in json.dumps(said)
    if not any(message["role"] == "tool" for message in said):
        return Reply(tool_calls=[("measure", {"n": 9})])
    return Reply(text="It is enough")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(model) as server:
        yield server


def start(folder: Path, processes: Forking, server: ModelServer, *words: str) -> Process:
    env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
    env |= {"OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
    env |= {"HOME": str(folder), "PYTHONUNBUFFERED": "1", "FRACTALE_TRUST_PROJECT": "1"}
    return processes.start([*words, "--json"], cwd=folder, env=env)


def kill_at(process: Process, step: str, kind: str, number: int) -> None:
    """Kill the process at the n-th event of its kind of a step."""
    for line in process.stdout:
        event = json.loads(line)
        number -= event["event"] == kind and event.get("step") == step
        if number == 0:
            process.kill()
            break
    process.communicate(timeout=60)
    assert number == 0, f"{step} has no such event"


def finish(folder: Path, processes: Forking, server: ModelServer) -> dict[str, Any]:
    """Resume to the end; a call in doubt was made, as `calls.txt` shows."""
    answers: list[str] = []
    for _ in range(8):
        process = start(folder, processes, server, "resume", "-1", *answers)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        last = json.loads(out.splitlines()[-1])
        if process.returncode != 4:
            return last
        answers = [word for each in last["waiting"] for word in ("--answer", answer(each))]
    raise AssertionError("the run never ends")


def answer(question: dict[str, Any]) -> str:
    outputs = {"value": 10 * question["arguments"]["n"]}
    in_doubt = question["kind"] == "in_doubt"
    return f"{question['step']}={json.dumps({'outputs': outputs}) if in_doubt else 'yes'}"


@pytest.mark.parametrize(("step", "kind", "number"), POINTS)
def test_a_kill_loses_no_value_and_repeats_no_call(tmp_path, processes, server, step, kind, number):
    (tmp_path / "value_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text("tools:\n  - path: value_tools.measure\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    words = ("run", "plan.yaml", "-r", "tools.yaml", "--model", "openai:scripted", "--yes")
    kill_at(start(tmp_path, processes, server, *words), step, kind, number)
    last = finish(tmp_path, processes, server)
    assert (last["status"], last["error"]) == ("failed", REASON)
    assert last["outputs"] == OUTPUTS
    calls = (tmp_path / "calls.txt").read_text().split()
    # A call that the kill cut off before its tool did its work is answered above as made.
    assert len(calls) == len(set(calls)), "nothing twice"
    assert {"1", "2", "9"} <= set(calls) <= {"1", "2", "3", "9"}
