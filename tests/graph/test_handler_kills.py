"""A run that is killed in a handler of its plan finishes the rest, and does nothing twice."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from forked import Forking
from kill_plan import TOOLS

FULL = bool(os.environ.get("FRACTALE_FAULTS"))

INNER = """
name: inner
steps:
  - {name: within, tool: change, inputs: {what: within}}
finally:
  - {name: sweep, tool: change, inputs: {what: sweep}}
"""

PLAN = """
name: handled
inputs: {good: true}
steps:
  - {name: one, tool: change, inputs: {what: one}}
  - {name: two, plan: inner.yaml}
  - {name: three, tool: change, inputs: {what: three}, rules: {failed: ["not inputs.good"]}}
on_failure:
  - {name: tell, tool: change, inputs: {what: "tell {{ run.failed.step }}"}}
finally:
  - {name: clean, tool: change, inputs: {what: "clean {{ run.outcome }}"}}
  - {name: stop, tool: change, inputs: {what: "stop {{ steps.one.outputs.changed }}"}}
"""
STEPS = ["one", "within", "sweep", "three"]
CHANGES = {
    "success": [*STEPS, "clean success", "stop one"],
    "failed": [*STEPS, "tell three", "clean failed", "stop one"],
    "limit": ["one", "clean limit", "stop one"],
}
"""End → what `change` is called with, each exactly once."""
OPTIONS = {"success": [], "failed": ["-i", "good=false"], "limit": ["--limit", "steps=1"]}
CODES = {"success": 0, "failed": 1, "limit": 5}
KINDS = {"begun": "step_started", "inside": "tool_started", "done": "step_finished"}

EVERY = [
    (end, step, when)
    for end, steps in {
        "success": ["three", "finally/clean", "finally/stop", "two/finally/sweep"],
        "failed": ["three", "on_failure/tell", "finally/clean", "finally/stop"],
        "limit": ["one", "finally/clean", "finally/stop"],
    }.items()
    for step in steps
    for when in KINDS
]
SOME = [
    ("success", "three", "done"),
    ("success", "finally/stop", "done"),
    ("success", "two/finally/sweep", "inside"),
    ("failed", "on_failure/tell", "inside"),
    ("failed", "finally/clean", "begun"),
    ("limit", "finally/clean", "done"),
    ("limit", "finally/stop", "done"),
]


@pytest.mark.parametrize(("end", "step", "when"), EVERY if FULL else SOME)
def test_a_kill_in_a_handler_loses_nothing_and_repeats_nothing(
    tmp_path: Path, processes: Forking, end: str, step: str, when: str
):
    (tmp_path / "kill_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text("tools: [{path: kill_tools.change}]")
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "inner.yaml").write_text(INNER)
    env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
    env |= {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}

    def start(*words: str):
        return processes.start([*words, "--json"], cwd=tmp_path, env=env)

    process = start("run", "plan.yaml", "-r", "tools.yaml", *OPTIONS[end])
    reached = False
    for line in process.stdout:
        event = json.loads(line)
        reached = event.get("step") == step and event["event"] == KINDS[when]
        if reached:
            process.kill()
            break
    process.communicate(timeout=60)
    assert reached
    killed_before = Counter(_changes(tmp_path))
    limits = ["--limit", "steps=1"] if end == "limit" and step == "one" else []
    last = _finish(start, tmp_path, CODES[end], limits)
    assert last["status"] == end
    assert sorted(_changes(tmp_path)) == sorted(CHANGES[end]), killed_before


def test_a_signal_in_a_handler_stops_the_run_and_a_resume_finishes_the_rest(
    tmp_path: Path, processes: Forking
):
    (tmp_path / "kill_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text("tools: [{path: kill_tools.change}]")
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "inner.yaml").write_text(INNER)
    env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
    env |= {"HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    words = ("run", "plan.yaml", "-r", "tools.yaml", "--json")
    process = processes.start([*words], cwd=tmp_path, env=env)
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "tool_started" and event["step"] == "finally/clean":
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert _changes(tmp_path)[-1] == "clean success"
    process = processes.start(["resume", "-1", "--json"], cwd=tmp_path, env=env)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["status"] == "success"
    assert sorted(_changes(tmp_path)) == sorted(CHANGES["success"])


def _finish(start: Any, folder: Path, code: int, limits: list[str]) -> dict[str, Any]:
    """Resume, answering what is asked about calls as a person would who looks what happened."""
    answers: list[str] = []
    for _ in range(5):
        process = start("resume", "-1", *answers, *limits)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        last = json.loads(out.splitlines()[-1])
        if process.returncode == code:
            return last
        assert process.returncode == 4, out + err
        done, answers = Counter(_changes(folder)), []
        for question in last["waiting"]:
            assert question["kind"] == "in_doubt"
            what = question["arguments"]["what"]
            outputs = json.dumps({"outputs": {"returncode": 0, "changed": what}})
            answers += ["--answer", f"{question['step']}={outputs if done[what] else 'again'}"]
    raise AssertionError("the run never ends")


def _changes(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)[1]["what"] for line in lines]
