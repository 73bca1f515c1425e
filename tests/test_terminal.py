"""A person at a terminal: what is asked, and what an answer does. On a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_cli import TOOLS, environment

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """`fractale` on a pseudo-terminal."""

    def __init__(self, project: Path, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fractale.cli", *words],
            cwd=project,
            env=environment(project, TERM="xterm-256color", COLUMNS="100", LINES="40"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            close_fds=True,
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            assert self._read(), self.seen

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 1.0)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.seen += ANSI.sub("", data.decode(errors="replace"))
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, f"{text}\n".encode())

    def end(self) -> int:
        while self._read():
            pass
        code = self.process.wait(timeout=30)
        os.close(self._master)
        return code


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    names = ("greet", "fail", "touch")
    entries = "".join(f"  - path: my_tools.{name}\n" for name in names)
    (tmp_path / "tools.yaml").write_text(f"tools:\n{entries}")
    return tmp_path


def run(project: Path, plan: str, *words: str) -> Terminal:
    (project / "p.yaml").write_text(plan)
    return Terminal(project, "run", "p.yaml", "-r", "tools.yaml", *words)


FAILS = """
name: p
steps:
  - {name: a, tool: fail}
  - {name: b, tool: touch, inputs: {path: made}}
"""


@pytest.mark.parametrize(
    ("answers", "code", "made"), [("q", 1, False), ("s", 0, True), ("rs", 0, True)]
)
def test_a_failure_asks_retry_skip_or_quit(project, answers, code, made):
    terminal = run(project, FAILS)
    for count, letter in enumerate(answers, 1):
        terminal.wait_for("r retry it")
        assert "no such queue" in terminal.seen
        terminal.seen = ""
        terminal.type(letter)
        assert count <= len(answers)
    assert terminal.end() == code
    assert (project / "made").exists() is made


APPROVE = """
name: p
steps: [{name: submit, tool: touch, inputs: {path: "made\\u001b[31m"}, approve: always}]
"""


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_an_approval_shows_the_exact_call_inert_and_does_as_told(project, answer, code):
    terminal = run(project, APPROVE)
    terminal.wait_for("y yes")
    assert "submit wants to call touch" in terminal.seen
    assert "approve: always" in terminal.seen
    assert "u001b[31m" in terminal.seen
    terminal.type(answer)
    if code:
        # A refused call is a failed step, and a failure asks, too.
        terminal.wait_for("r retry it")
        terminal.type("q")
    assert terminal.end() == code
    assert len(list(project.glob("made*"))) == (0 if code else 1)


def test_yes_agrees_beforehand(project):
    terminal = run(project, APPROVE, "--yes")
    assert terminal.end() == 0
    assert "wants to call" not in terminal.seen
