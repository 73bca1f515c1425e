"""A run that is killed at any moment goes on to the same end, and does nothing twice.

`make test` kills at a sample of the moments; `make test-faults` at all of them, and at 200
random ones, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fractale.testing import ModelServer
from kill_plan import CHANGES, OUTPUTS, PLAN, PROMPTS, REGISTRY, STEPS, TOOLS, model

FULL = bool(os.environ.get("FRACTALE_FAULTS"))
MOMENTS = [(step, when) for step in STEPS for when in ("before", "inside", "after")]
SAMPLE = [
    ("work", "inside"),
    ("many", "inside"),
    ("drafted", "inside"),
    ("last", "after"),
]
EVENTS = {"before": "step_started", "inside": "tool_started", "after": "step_finished"}


class Killed:
    """One run, killed and resumed until it ends."""

    def __init__(self, folder: Path, server: ModelServer) -> None:
        self.folder = folder
        self.server = server
        self.asked: list[dict[str, Any]] = []
        (folder / "kill_tools.py").write_text(TOOLS)
        (folder / "kill_prompts.py").write_text(PROMPTS)
        (folder / "tools.yaml").write_text(REGISTRY)
        (folder / "plan.yaml").write_text(PLAN)

    def start(self, *words: str) -> subprocess.Popen[str]:
        env = {n: v for n, v in os.environ.items() if not n.startswith("FRACTALE_")}
        env |= {"OPENAI_BASE_URL": self.server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        env |= {"HOME": str(self.folder), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "fractale.cli", *words, "--json"],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self) -> subprocess.Popen[str]:
        return self.start(
            "run", "plan.yaml", "-r", "tools.yaml", "--model", "openai:scripted"
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Resume, answering what is asked as a person would who looks what happened."""
        for _ in range(60):
            answers = [word for a in self._answers() for word in ("--answer", a)]
            self.asked = []
            process = self.start("resume", "-1", *answers)
            out, err = process.communicate(timeout=120)
            assert "Traceback" not in err, err
            last = json.loads(out.splitlines()[-1])
            if process.returncode == 0:
                return last
            assert process.returncode == 4, out + err
            self.asked = last["waiting"]
        raise AssertionError("the run never ends")

    def _answers(self) -> Iterator[str]:
        done = Counter(self.changes())
        for question in self.asked:
            step = question["step"]
            if question["kind"] == "in_doubt":
                what = question["arguments"]["what"]
                outputs = {"returncode": 0, "changed": what}
                yield f"{step}={json.dumps({'outputs': outputs}) if done[what] else 'again'}"
            elif question["kind"] == "review":
                yield f"{step}=accept"
            else:
                yield f"{step}=yes"

    def changes(self) -> list[str]:
        """What `change` was called with, each time it did its work."""
        path = self.folder / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = [json.loads(line) for line in lines]
        return [arguments["what"] for name, arguments in calls if name == "change"]

    def check(self, last: dict[str, Any]) -> None:
        """Whether the end is that of a run that nothing disturbed."""
        assert last["outputs"] == OUTPUTS
        assert sorted(self.changes()) == CHANGES
        names = [step["name"] for step in last["steps"] if "/" not in step["name"]]
        assert list(dict.fromkeys(names)) == list(STEPS)


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Killed]:
    with ModelServer(model) as server:
        yield Killed(tmp_path, server)


def kill_at(killed: Killed, step: str, when: str) -> None:
    """Run until an event of a step, answering as `finish` does, and kill the process there."""
    wanted = EVENTS[when]
    process = killed.run()
    for _ in range(30):
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            path = str(event.get("step") or "").partition("/")[0].partition("[")[0]
            kinds = (wanted, "model_started") if when == "inside" else (wanted,)
            if path == step and event["event"] in kinds:
                if when == "inside":
                    time.sleep(0.045)
                process.send_signal(signal.SIGKILL)
                process.communicate(timeout=30)
                killed.asked = []  # what was asked before has its answer
                return
            if event["event"] == "run_finished":
                killed.asked = event["waiting"]
        process.communicate(timeout=30)
        answers = [word for a in killed._answers() for word in ("--answer", a)]
        process = killed.start("resume", "-1", *answers)
    raise AssertionError(f"{step} was never reached")


@pytest.mark.parametrize(("step", "when"), MOMENTS if FULL else SAMPLE)
def test_a_kill_at_a_step_loses_nothing_and_repeats_nothing(killed, step, when):
    kill_at(killed, step, when)
    killed.check(killed.finish())


@pytest.mark.parametrize("seed", range(200 if FULL else 2))
def test_a_kill_at_a_random_moment_loses_nothing_and_repeats_nothing(killed, seed):
    moment = random.Random(seed).uniform(0.8, 3.5)
    process = killed.run()
    timer = threading.Timer(moment, process.kill)
    timer.start()
    out, err = process.communicate(timeout=120)
    timer.cancel()
    if process.returncode == 4:
        killed.asked = json.loads(out.splitlines()[-1])["waiting"]
    if not list(killed.folder.glob(".fractale/runs/*/run.json")):
        process = killed.run()  # killed before there was a run
        out, err = process.communicate(timeout=120)
        assert process.returncode == 4, err
        killed.asked = json.loads(out.splitlines()[-1])["waiting"]
    killed.check(killed.finish())
