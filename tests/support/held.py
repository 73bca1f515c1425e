"""Runs of the command line that stand still where a test wants it: in a tool, or in the model."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forked import Forking, Process
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

PATIENCE = 60.0

TOOLS = '''
import os, time

def change(what: str, size: int = 0) -> dict:
    """Change something."""
    with open("changes.txt", "a") as file:
        file.write(what + "\\n")
    while os.path.exists("hold-" + what):
        open("held-" + what, "w").close()
        time.sleep(0.01)
    return {"changed": what, "filler": "x" * size}
'''
PROMPTS = '''
def expert(topic: str) -> str:
    """Ask an expert."""
    return f"EXPERT on {topic}"
'''
REGISTRY = """
tools: [{path: held_tools.change}]
prompts: [{path: held_prompts.expert}]
"""
DRAFT = {"steps": [{"name": "do", "tool": "change", "inputs": {"what": "drafted"}}]}


class Project:
    """A folder with tools, a model that can be held up, and processes that run plans in it.

    Args:
        store: A PostgreSQL URL; None: SQLite.
    """

    def __init__(self, folder: Path, processes: Forking, store: str | None = None) -> None:
        self.folder = folder
        self.env: dict[str, str] = {"FRACTALE_STORE": store} if store else {}
        self.asked = 0
        self.held = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._processes = processes
        self._server = ModelServer(self._model)
        (folder / "held_tools.py").write_text(TOOLS)
        (folder / "held_prompts.py").write_text(PROMPTS)
        (folder / "tools.yaml").write_text(REGISTRY)

    def _model(self, request: ModelRequest) -> Reply:
        self.asked += 1
        if not self._go.is_set():
            self.held.set()
            self._go.wait(PATIENCE)
        text = json.dumps(request.body["messages"])
        if "WORK" in text and all(m["role"] != "tool" for m in request.body["messages"]):
            return Reply(tool_calls=[("change", {"what": "by the agent"})])
        if "DRAFT" in text:
            return Reply(data=DRAFT)
        return Reply(text="answered")

    def hold_model(self) -> None:
        self._go.clear()

    def release_model(self) -> None:
        self._go.set()

    def hold(self, what: str) -> None:
        (self.folder / f"hold-{what}").touch()

    def release(self, what: str) -> None:
        (self.folder / f"hold-{what}").unlink()

    def is_held(self, what: str) -> Callable[[], bool]:
        return (self.folder / f"held-{what}").exists

    def start(self, *words: str, cwd: Path | None = None, largest: int | None = None) -> Process:
        env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
        env |= {"OPENAI_BASE_URL": self._server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        env |= {"HOME": str(self.folder), **self.env}
        words = (*words, "--json")
        return self._processes.start(words, cwd=cwd or self.folder, env=env, largest=largest)

    def run(self, plan: str, *words: str, **options: Any) -> Process:
        (self.folder / "plan.yaml").write_text(plan)
        given = ("-r", "tools.yaml", "--model", "openai:scripted", "--yes", *words)
        return self.start("run", "plan.yaml", *given, **options)

    def changes(self) -> list[str]:
        path = self.folder / "changes.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def events(self) -> list[dict[str, Any]]:
        (path,) = self.folder.glob(".fractale/runs/*/events.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def project(folder: Path, processes: Forking, store: str | None = None) -> Iterator[Project]:
    made = Project(folder, processes, store)
    with made._server:
        try:
            yield made
        finally:
            made.release_model()


def wait_until(condition: Callable[[], bool], process: Process) -> None:
    """Wait for something that a process does before its end."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it never came so far"
        time.sleep(0.01)


def ended(process: Process, code: int) -> dict[str, Any]:
    """The last event of a process that must end with a code, and without a traceback."""
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err, out + err
    assert process.returncode == code, (process.returncode, out[-2000:], err)
    return json.loads(out.splitlines()[-1]) if out else {"error": err}
