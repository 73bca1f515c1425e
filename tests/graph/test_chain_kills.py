"""A run that is killed within chains continues at the step that was cut off, in each item."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forked import Forking
from fractale.testing import ModelServer
from kill_plan import model
from killed import EVENTS, Killed

PLAN = """
name: chains
inputs: {names: [a, b, c, skip]}
steps:
  - {name: first, tool: change, inputs: {what: first}}
  - name: each
    foreach: {zip: {name: inputs.names, number: "range(4) | list"}}
    when: item.name != 'skip'
    max_parallel: 2
    steps:
      - name: one
        tool: change
        inputs: {what: "{{ item.name }}{{ item.number }} {{ steps.first.outputs.changed }}"}
      - {name: two, tool: change, approve: always, inputs: {what: "{{ item.name }} two"}}
      - name: inner
        steps:
          - {name: three, tool: change, inputs: {what: "{{ steps.one.outputs.changed }} three"}}
          - {name: four, tool: look, inputs: {what: "{{ item.name }}"}}
  - {name: last, tool: change, inputs: {what: last}}
outputs: {seen: "{{ steps.each.outputs | map(attribute='seen') | list }}"}
"""
CHANGES = sorted(
    ["first", "last"]
    + [what for n, c in enumerate("abc") for what in (f"{c}{n} first", f"{c} two")]
    + [f"{c}{n} first three" for n, c in enumerate("abc")]
)
MOMENTS = [
    (step, when)
    for step in ("each[0]/one", "each[1]/two", "each[2]/one", "each[1]/inner/three", "each")
    for when in ("before", "inside", "after")
    if (step, when) != ("each", "inside")
]
SAMPLE = [
    ("each[0]/one", "after"),
    ("each[1]/two", "inside"),
    ("each[2]/one", "before"),
    ("each[1]/inner/three", "inside"),
    ("each", "after"),
]
FULL = bool(os.environ.get("FRACTALE_FAULTS"))


class Chained(Killed):
    """One run of the plan with chains."""

    def __init__(self, folder: Path, server: ModelServer, processes: Forking) -> None:
        super().__init__(folder, server, processes, None)
        (folder / "plan.yaml").write_text(PLAN)

    def check(self, last: dict[str, Any]) -> None:
        assert last["outputs"] == {"seen": ["a", "b", "c"]}
        assert sorted(self.changes()) == CHANGES
        self.check_journal()


@pytest.fixture
def killed(tmp_path: Path, processes: Forking) -> Iterator[Chained]:
    with ModelServer(model) as server:
        yield Chained(tmp_path, server, processes)


@pytest.mark.parametrize(("step", "when"), MOMENTS if FULL else SAMPLE)
def test_a_kill_in_a_chain_loses_nothing_and_repeats_nothing(killed, step, when):
    kill_at(killed, step, when)
    killed.check(killed.finish())


@pytest.mark.parametrize("seed", range(60) if FULL else range(4))
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(killed, seed):
    moments = random.Random(seed)
    process = killed.run()
    for _ in range(4):
        timer = threading.Timer(moments.uniform(0.1, 0.9), process.kill)
        timer.start()
        out, err = process.communicate(timeout=120)
        timer.cancel()
        assert "Traceback" not in err, err
        if process.returncode == 0:
            break
        killed.asked = []
        if process.returncode == 4:
            killed.asked = json.loads(out.splitlines()[-1])["waiting"]
        elif process.returncode != -signal.SIGKILL:
            assert "is held by process" in err, out + err
            time.sleep(0.1)
        if not list(killed.folder.glob(".fractale/runs/*/run.json")):
            process = killed.run()  # killed before there was a run
            continue
        process = killed.start("resume", "-1", *killed.answers())
    else:
        process.kill()
        process.communicate(timeout=30)
        killed.asked = []
    if not list(killed.folder.glob(".fractale/runs/*/run.json")):
        killed.run().communicate(timeout=120)
    killed.check(killed.finish())


JOBS = """
name: jobs
steps:
  - name: each
    foreach: [0, 1, 2]
    max_parallel: 2
    steps:
      - name: make
        job: {scheduler: local, command: [sh, -c, "echo make{{ item }} >> ran; sleep 0.5"]}
      - name: use
        job: {scheduler: local, command: [sh, -c, "echo use{{ item }} >> ran"]}
"""


def test_no_process_waits_for_jobs_of_chains_that_are_detached(tmp_path, processes):
    (tmp_path / "plan.yaml").write_text(JOBS)
    env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
    env["HOME"] = str(tmp_path)
    words = ["run", "plan.yaml"]
    for _ in range(60):
        process = processes.start([*words, "--detach", "--json"], cwd=tmp_path, env=env)
        out, err = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == 4, out + err
        words = ["resume", "-1"]
        time.sleep(0.2)
    assert json.loads(out.splitlines()[-1])["status"] == "success"
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == sorted(f"{name}{n}" for name in ("make", "use") for n in range(3))


def kill_at(killed: Chained, step: str, when: str) -> None:
    """Run until an event of a step, answering what is asked, and kill the process there."""
    process = killed.run()
    for _ in range(30):
        for line in process.stdout:
            event = json.loads(line)
            if event.get("step") == step and event["event"] == EVENTS[when]:
                if when == "inside":
                    time.sleep(0.045)
                process.kill()
                process.communicate(timeout=30)
                killed.asked = []
                return
            if event["event"] == "run_finished":
                killed.asked = event["waiting"]
        _, err = process.communicate(timeout=60)
        assert process.returncode == 4, err
        process = killed.start("resume", "-1", *killed.answers())
    raise AssertionError(f"{step} was never reached")
