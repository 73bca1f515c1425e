"""A run of `kill_plan` in processes of its own, killed and resumed until it ends."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forked import Forking, Process
from fractale.testing import ModelServer
from kill_plan import CHANGES, OUTPUTS, PLAN, PROMPTS, REGISTRY, STEPS, TOOLS

EVENTS = {"before": "step_started", "inside": "tool_started", "after": "step_finished"}


class Killed:
    """One run, killed and resumed until it ends."""

    def __init__(
        self, folder: Path, server: ModelServer, processes: Forking, store: str | None
    ) -> None:
        self.folder = folder
        self.server = server
        self.processes = processes
        self.store = store
        self.asked: list[dict[str, Any]] = []
        (folder / "kill_tools.py").write_text(TOOLS)
        (folder / "kill_prompts.py").write_text(PROMPTS)
        (folder / "tools.yaml").write_text(REGISTRY)
        (folder / "plan.yaml").write_text(PLAN)

    def start(self, *words: str) -> Process:
        env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
        env |= {"OPENAI_BASE_URL": self.server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        env |= {"HOME": str(self.folder), "PYTHONUNBUFFERED": "1"}
        if self.store:
            env["FRACTALE_STORE"] = self.store
        return self.processes.start([*words, "--json"], cwd=self.folder, env=env)

    def run(self) -> Process:
        return self.start(
            "run", "plan.yaml", "-r", "tools.yaml", "--model", "openai:scripted"
        )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Resume, answering what is asked as a person would who looks what happened."""
        for _ in range(60):
            process = self.start("resume", "-1", *self.answers())
            self.asked = []
            out, err = process.communicate(timeout=120)
            assert "Traceback" not in err, err
            last = json.loads(out.splitlines()[-1]) if out else {}
            if process.returncode == 0:
                return last
            if process.returncode == 2 and "is held by process" in err:
                time.sleep(0.1)  # the server has not noticed yet that the other one is dead
                continue
            assert process.returncode == 4, out + err
            self.asked = last["waiting"]
        raise AssertionError("the run never ends")

    def answers(self) -> list[str]:
        """The options that answer what was asked last."""
        return [word for answer in self._answers() for word in ("--answer", answer)]

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
        self.check_journal()
        names = [step["name"] for step in last["steps"] if "/" not in step["name"]]
        assert list(dict.fromkeys(names)) == list(STEPS)

    def check_journal(self) -> None:
        """Whether no call was begun again once its result was recorded."""
        (path,) = self.folder.glob(".fractale/runs/*/journal.jsonl")
        known: set[str] = set()
        for line in map(json.loads, path.read_text().splitlines()):
            assert line["key"] not in known, line
            if "result" in line:
                known.add(line["key"])


def kill_at(killed: Killed, step: str, when: str) -> None:
    """Run until an event of a step, answering as `finish` does, and kill the process there."""
    wanted = EVENTS[when]
    process = killed.run()
    for _ in range(30):
        for line in process.stdout:
            event = json.loads(line)
            path = str(event.get("step") or "").partition("/")[0].partition("[")[0]
            kinds = (wanted, "model_started") if when == "inside" else (wanted,)
            if path == step and event["event"] in kinds:
                if when == "inside":
                    time.sleep(0.045)
                process.kill()
                process.communicate(timeout=30)
                killed.asked = []  # what was asked before has its answer
                return
            if event["event"] == "run_finished":
                killed.asked = event["waiting"]
        _, err = process.communicate(timeout=60)
        assert process.returncode == 4, err
        process = killed.start("resume", "-1", *killed.answers())
    raise AssertionError(f"{step} was never reached")
