"""A run that is killed while it plans: once a draft is stored, the model is not asked again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forked
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

TOOLS = '''
import os, time

def note(text: str) -> dict:
    """Note a word."""
    while os.path.exists("hold-" + text):
        open("held-" + text, "w").close()
        time.sleep(0.02)
    with open("noted.txt", "a") as file:
        file.write(text + "\\n")
    return {"noted": text}
'''
REGISTRY = "tools: [{path: my_tools.note, annotations: {idempotentHint: true}}]\n"
PLAN = """
name: p
steps:
  - {name: made, type: plan, instruction: Note two words., tools: [note]}
  - {name: last, tool: note, inputs: {text: "{{ steps.made.outputs.noted }}-again"}}
"""
DRAFT = {
    "steps": [
        {"name": "one", "tool": "note", "inputs": {"text": "one"}},
        {"name": "two", "tool": "note", "inputs": {"text": "two"}},
    ]
}


class Planned:
    """A run of a planned step, its model and its record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drafts = self.handed_over = 0
        self.hang = threading.Event()
        self.asked = threading.Event()
        (folder / "my_tools.py").write_text(TOOLS)
        (folder / "tools.yaml").write_text(REGISTRY)
        (folder / "p.yaml").write_text(PLAN)
        self.server = ModelServer(self.model)

    def model(self, request: ModelRequest) -> Reply:
        if '"plan_steps"' in json.dumps(request.body):
            self.handed_over += 1
            return Reply(tool_calls=[("plan_steps", {"known": "The words are one and two."})])
        if "Write the steps." not in json.dumps(request.body):
            return Reply(text="nothing to find out")
        self.drafts += 1
        self.asked.set()
        return Reply(data=DRAFT, delay=60 if self.hang.is_set() else 0)

    def start(self, *words: str) -> forked.Process:
        env = {n: v for n, v in os.environ.items() if not n.startswith("FRACTALE_")}
        env |= {"OPENAI_BASE_URL": self.server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        return forked.start(words, cwd=self.folder, env={**env, "HOME": str(self.folder)})

    def run(self) -> forked.Process:
        return self.start("run", "p.yaml", "-r", "tools.yaml", "--model", "openai:scripted")

    def resume(self, *words: str) -> tuple[int, str]:
        process = self.start("resume", "-1", *words)
        _, err = process.communicate(timeout=120)
        return process.returncode, err

    def draft_hash(self) -> str:
        (path,) = self.folder.glob(".fractale/runs/*/drafts/made.yaml")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def noted(self) -> list[str]:
        path = self.folder / "noted.txt"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Planned]:
    planned = Planned(tmp_path)
    with planned.server:
        yield planned


def wait_for(process: forked.Process, condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it never came so far")


def kill(process: forked.Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


def test_a_kill_while_the_model_drafts_asks_it_once_more(planned):
    planned.hang.set()
    process = planned.run()
    wait_for(process, planned.asked.is_set)
    kill(process)
    planned.hang.clear()
    assert planned.resume()[0] == 4, "the draft waits for its review"
    code, err = planned.resume("--answer", "made=accept", "--yes")
    assert code == 0, err
    assert planned.drafts == 2
    assert planned.noted() == ["one", "two", "two-again"]


def test_a_kill_after_the_review_waits_asks_nobody_again(planned):
    process = planned.run()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    code, err = planned.resume()
    assert code == 4, "it still waits"
    code, err = planned.resume("--answer", "made=accept", "--yes")
    assert code == 0, err
    assert planned.drafts == 1


@pytest.mark.parametrize("word", ["one", "two", "two-again"])
def test_a_kill_in_a_step_of_the_draft_keeps_the_draft(planned, word):
    (planned.folder / f"hold-{word}").touch()
    planned.run().communicate(timeout=120)
    process = planned.start("resume", "-1", "--answer", "made=accept", "--yes")
    wait_for(process, (planned.folder / f"held-{word}").exists)
    before = planned.draft_hash()
    kill(process)
    (planned.folder / f"hold-{word}").unlink()
    code, err = planned.resume("--yes")
    assert code == 0, err
    assert planned.drafts == 1
    assert planned.draft_hash() == before
    assert planned.noted() == ["one", "two", "two-again"]


@pytest.mark.parametrize("held", ["", "two"], ids=["while it drafts", "in a step of the draft"])
def test_a_kill_after_a_hand_over_does_not_ask_the_agent_again(planned, held):
    if held:
        (planned.folder / f"hold-{held}").touch()
    else:
        planned.hang.set()
    options = ("--yes", "-r", "tools.yaml", "--model", "openai:scripted")
    process = planned.start("prompt", *options, "Note two words.")
    reached = (planned.folder / f"held-{held}").exists if held else planned.asked.is_set
    wait_for(process, reached)
    kill(process)
    planned.hang.clear()
    (planned.folder / f"hold-{held}").unlink(missing_ok=True)
    code, err = planned.resume("--yes")
    assert code == 0, err
    assert planned.handed_over == 1
    assert planned.drafts == (1 if held else 2)
    assert planned.noted() == ["one", "two"]
