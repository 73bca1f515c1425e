"""A run that is killed while it asks: the question stays open, and each answer is used once.

Real processes on a pseudo-terminal are killed with SIGKILL. The steps call a real tool, which
writes each call into a file.
"""

from __future__ import annotations

import json
import os
import pty
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import Forking, Process

PATIENCE = 60.0

TOOLS = '''
import os

def note(what: str) -> dict:
    """Note something."""
    file = os.open("calls.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, (what + "\\n").encode())
    os.close(file)
    return {"returncode": 0}
'''

PLAN = """
name: asks
steps:
  - {name: first, tool: note, inputs: {what: first}}
  - name: gate
    ask: Publish?
    choices: [publish, {revise: What then?}]
    default: publish
    default_after: 1h
    rules: {revise: answer == 'revise'}
    transitions: {revise: again, success: last}
  - name: again
    tool: note
    inputs: {what: "again {{ steps.gate.outputs.text }}"}
    transitions: {success: gate}
  - {name: last, tool: note, inputs: {what: last}}
"""


class Place:
    """A directory in which the plan is run, on terminals that the test reads."""

    def __init__(self, folder: Path, processes: Forking) -> None:
        self.folder, self._processes = folder, processes
        (folder / "plan.yaml").write_text(PLAN)
        (folder / "ask_tools.py").write_text(TOOLS)
        (folder / "tools.yaml").write_text("tools: [ask_tools.note]\n")
        self._env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "xterm"}
        self._env["FRACTALE_TRUST_PROJECT"] = "1"

    def terminal(self, *words: str) -> tuple[Process, int]:
        """A command at a terminal."""
        master, slave = pty.openpty()
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        process = self._processes.start(words, cwd=self.folder, env=self._env, **streams)
        os.close(slave)
        return process, master

    def run(self) -> tuple[Process, int]:
        return self.terminal("run", "plan.yaml", "-r", "tools.yaml")

    def call(self, *words: str) -> tuple[int, str]:
        """A command without a terminal, once the killed process has let the run go."""
        while True:
            process = self._processes.start(words, cwd=self.folder, env=self._env)
            out, err = process.communicate(timeout=PATIENCE)
            assert "Traceback" not in out + err, err
            if not (process.returncode == 2 and "is held by process" in err):
                return process.wait(), out + err
            time.sleep(0.05)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def of(self, kind: str, step: str = "gate") -> list[dict[str, Any]]:
        found = list((self.folder / ".fractale" / "runs").glob("*/events.jsonl"))
        lines = found[0].read_text().split("\n")[:-1] if found else []
        events = [json.loads(line) for line in lines]
        return [e for e in events if e["event"] == kind and e.get("step") == step]


@pytest.fixture
def place(tmp_path: Path, processes: Forking) -> Place:
    return Place(tmp_path, processes)


def until(true: Callable[[], Any], master: int) -> Any:
    """Wait for something, and read the terminal meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline
        if select.select([master], [], [], 0.02)[0]:
            try:
                os.read(master, 65536)
            except OSError:
                time.sleep(0.02)
    return found


def kill(process: Process) -> None:
    process.kill()
    process.wait()


def test_a_question_that_was_open_stays_open_with_its_time(place):
    process, master = place.run()
    (asked,) = until(lambda: place.of("waiting"), master)
    kill(process)
    code, out = place.call("resume", "-1", "--json")
    assert code == 4
    (waiting,) = json.loads(out.splitlines()[-1])["waiting"]
    assert waiting["due"] == asked["question"]["due"]
    assert place.calls == ["first"]
    code, _ = place.call("resume", "-1", "--answer", "gate=publish")
    assert (code, place.calls) == (0, ["first", "last"])


@pytest.mark.parametrize("point", ["answered", "step_finished"])
def test_a_kill_after_an_answer_uses_it_once(place, point):
    """Killed before the answer was kept, the run asks again; it never answers twice."""
    process, master = place.run()
    until(lambda: place.of("waiting"), master)
    time.sleep(0.2)  # the terminal forgets what was typed before the prompt
    os.write(master, b"2\nshorter\n")
    until(lambda: place.of(point), master)
    kill(process)
    code, out = place.call("resume", "-1", "--json")
    assert code == 4, out
    last = json.loads(out.splitlines()[-1])
    assert last["waiting"][0]["step"] == "gate"
    if place.calls == ["first"]:  # the answer was lost with the process
        code, out = place.call("resume", "-1", "--answer", "gate={answer: revise, text: shorter}")
        assert code == 4, out
    assert place.calls == ["first", "again shorter"]
    code, _ = place.call("resume", "-1", "--answer", "gate=1")
    assert (code, place.calls) == (0, ["first", "again shorter", "last"])


def test_a_kill_before_the_question_asks_it_once(place):
    process, master = place.run()
    until(lambda: place.of("step_started"), master)
    kill(process)
    code, out = place.call("resume", "-1", "--json")
    assert code == 4, out
    assert len(json.loads(out.splitlines()[-1])["waiting"]) == 1
    assert place.call("resume", "-1", "--yes")[0] == 0
    assert place.calls == ["first", "last"]
