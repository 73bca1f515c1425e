"""Sweeps whose driver or workers are killed: each row ends once, and no call is made twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from counts import FULL
from fractale.settings import Settings
from fractale.sweeps.answering import answer_sweep, question_groups
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.local import LocalExecutor
from fractale.sweeps.results import SweepView
from fractale.sweeps.task import RunTask
from sweep_processes import SweepProcesses, lines_of, new_sweep, now

ROWS = 5
TOOLS = '''
import os, time

def change(what: str) -> dict:
    """Change something: a line is the effect."""
    with open("effects.txt", "a") as file:
        file.write(what + "\\n")
        file.flush()
        os.fsync(file.fileno())
    time.sleep(0.03)
    return {"changed": what}
'''
PLAN = """
name: change
inputs: {x: 1}
steps:
  - {name: first, tool: change, inputs: {what: "first {{ inputs.x }}"}}
  - {name: second, tool: change, inputs: {what: "second {{ inputs.x }}"}}
outputs: {said: "{{ steps.second.outputs.changed }}"}
"""
EFFECTS = sorted(f"{step} {x}" for step in ("first", "second") for x in range(ROWS))


class Changing:
    """One sweep, whose calls leave an effect each."""

    def __init__(self, folder: Path, processes: SweepProcesses) -> None:
        self.folder, self.processes = folder, processes
        (folder / "sweep_tools.py").write_text(TOOLS)
        (folder / "tools.yaml").write_text("tools:\n  - path: sweep_tools.change\n")
        registries = [str(folder / "tools.yaml")]
        self.record = new_sweep(
            folder,
            PLAN,
            [{"x": x} for x in range(ROWS)],
            options={"registries": registries, "yes": True, "trusted": True},
        )
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
        self.environment = {**kept, "HOME": str(folder), "FRACTALE_TRUST_PROJECT": "1"}
        self.settings = replace(
            Settings(), state_dir=self.record.state_dir, environment=self.environment
        )

    def drive(self, dies: str = "") -> subprocess.Popen[str]:
        return self.processes.start_driver(self.record, workers=2, env=self.environment, dies=dies)

    def until_it_dies(self, dies: str) -> None:
        driver = self.drive(dies)
        out, _ = driver.communicate(timeout=120)
        assert driver.returncode == 256 - 9, (out, lines_of(self.record))

    def to_end(self) -> SweepView:
        """Drive to the end, answering as a person who looks what happened."""
        for _ in range(20):
            out, _ = self.drive().communicate(timeout=120)
            view = now(self.record)
            if view.counts == {"success": ROWS}:
                return view
            assert view.status == "waiting", (view, out)
            self.answer()
        raise AssertionError(f"the sweep never ends: {now(self.record)}")

    def answer(self) -> None:
        """Answer the questions whether a call that a kill cut off was made."""
        done = self.effects()
        for group in question_groups(self.record):
            assert group.question["kind"] == "in_doubt"
            what = group.question["arguments"]["what"]
            made = {"outputs": {"changed": what}}
            answer = json.dumps(made) if done[what] else "again"
            answer_sweep(self.record, self.settings, {group.key: answer}, via="a test")

    def effects(self) -> Counter[str]:
        path = self.folder / "effects.txt"
        return Counter(path.read_text().splitlines() if path.exists() else ())

    def check(self, view: SweepView) -> None:
        """Each row has ended once with its own outputs, and each call was made once."""
        assert sorted(self.effects().elements()) == EFFECTS
        assert [row.outputs for row in view.rows] == [{"said": f"second {x}"} for x in range(ROWS)]
        ends = Counter[str](
            line["run"]
            for line in lines_of(self.record)
            if line["is"] == "ended" and line["status"] != "waiting"
        )
        assert ends == {f"s.{row}": 1 for row in range(ROWS)}


@pytest.fixture
def changing(tmp_path: Path, sweeping: SweepProcesses) -> Changing:
    return Changing(tmp_path, sweeping)


# The first line of a driver says that it drives; then its rows start and end.
MOMENTS = [f"{when}:{line}" for when in ("before", "inside", "after") for line in range(1, 12)]


@pytest.mark.parametrize("dies", MOMENTS if FULL else ["before:2", "inside:4", "after:5"])
def test_a_driver_that_is_killed_at_a_line_of_its_ledger(changing: Changing, dies: str) -> None:
    changing.until_it_dies(dies)
    changing.check(changing.to_end())


@pytest.mark.parametrize("dies", ["before:4", "inside:3", "after:2"] if FULL else ["after:3"])
def test_a_driver_that_is_killed_again_while_it_resumes(changing: Changing, dies: str) -> None:
    changing.until_it_dies("before:4")
    changing.until_it_dies(dies)
    changing.check(changing.to_end())


@pytest.mark.parametrize("kills", [1, 2, 3, 4] if FULL else [2])
def test_workers_that_are_killed_in_the_middle_of_runs(changing: Changing, kills: int) -> None:
    driver, killed = changing.drive(), 0
    until = time.monotonic() + 60
    while killed < kills and driver.poll() is None and time.monotonic() < until:
        time.sleep(random.uniform(0.01, 0.1))
        effects = changing.effects().total()
        if effects > killed and (found := changing.processes.alive("worker")):
            changing.processes.kill(random.choice(found))
            killed += 1
    driver.communicate(timeout=120)
    assert killed
    view: Any = now(changing.record)
    if view.status == "waiting":
        changing.answer()
    changing.check(changing.to_end())
    assert sum(line["is"] == "lost" for line in lines_of(changing.record)) >= 1


class Hired:
    """A worker that the test gives tasks to."""

    def __init__(self, changing: Changing) -> None:
        self._changing = changing
        state = str(changing.record.state_dir)
        self._process = subprocess.Popen(
            [*changing.processes.program, "worker"],
            cwd=changing.folder,
            env={**changing.environment, "FRACTALE_STATE_DIR": state},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.answer()["hello"] == 1

    def give(self, row: int) -> None:
        head = self._changing.record.read_head()
        task = RunTask(
            run=f"s.{row}",
            sweep="s",
            row=row,
            plan=str(self._changing.record.plan),
            plan_hash=head["plan_hash"],
            inputs={"x": row},
            directory=str(self._changing.folder),
            state_dir=str(self._changing.record.state_dir),
            options=head["options"],
        )
        assert self._process.stdin
        self._process.stdin.write(json.dumps(task.as_dict()) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def dismiss(self) -> None:
        self._process.communicate(timeout=60)


def test_two_workers_that_get_one_row_at_once_make_one_run(changing: Changing) -> None:
    # As after the death of a driver, whose worker is still at the row that the next driver gives.
    workers = [Hired(changing) for _ in range(2)]
    answers = list[list[dict[str, Any]]]()
    for row in range(ROWS):
        for worker in workers:
            worker.give(row)
        answers.append([worker.answer() for worker in workers])
    for worker in workers:
        worker.dismiss()
    assert sorted(changing.effects().elements()) == EFFECTS
    for both in answers:
        assert all("report" in each for each in both), both
        done = [each["report"] for each in both if not each["report"]["held"]]
        assert {each["status"] for each in done} == {"success"}


DYING = """
import json, os, signal, sys, time
print(json.dumps({"hello": 1}), flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
with open("child", "w") as file:
    file.write(str(child))
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_the_death_of_a_worker_is_noticed_while_another_process_has_its_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such as a child of a tool, which outlives the worker.
    monkeypatch.chdir(tmp_path)
    record = new_sweep(tmp_path, PLAN, [{"x": 1}])
    task = RunTask(
        run="s.0",
        sweep="s",
        row=0,
        plan="",
        plan_hash="",
        inputs={},
        directory="",
        state_dir=str(record.state_dir),
    )
    settings = Settings(state_dir=record.state_dir, environment=os.environ)
    local = LocalExecutor(record, settings, workers=1, program=(sys.executable, "-c", DYING))
    async with local:
        with pytest.raises(WorkerLost, match="was killed by SIGKILL"):
            await local.perform(task)
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)  # it was there still
        await asyncio.sleep(1)  # the loop sees the end of the pipe
