"""Runs under a budget of batch jobs, through the command line: stopped, resumed, forked, killed."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from forked import Forking, Process, measured

PATIENCE = 90.0
FULL = bool(os.environ.get("FRACTALE_FAULTS"))

SWEEP = """
name: sweep
limits: {LIMITS}
steps:
  - name: sweep
    foreach: range(6)
    max_parallel: PARALLEL
    job:
      command: [sh, -c, "echo {{ item }} >> starts; sleep 0.2; echo v={{ item }}"]
      time: 1h
      tasks: 1
      scheduler: local
      outputs: {v: 'v=(.*)'}
outputs: {v: "{{ steps.sweep.outputs | map(attribute='v') | list }}"}
"""


class Place:
    """A folder in which a plan is run."""

    def __init__(self, folder: Path, processes: Forking, plan: str) -> None:
        self.folder = folder
        self._processes = processes
        (folder / "plan.yaml").write_text(plan)
        self.environment = {
            **measured(),
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "FRACTALE_LOCAL_CORES": "99",
        }

    def start(self, *words: str) -> Process:
        return self._processes.start(words, cwd=self.folder, env=self.environment)

    def call(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in out + err, err
        return process.returncode, out, err

    def json(self, *words: str) -> tuple[int, dict[str, Any]]:
        code, out, err = self.call(*words, "--json")
        assert out, err
        return code, json.loads(out.splitlines()[-1])

    def starts(self) -> list[str]:
        path = self.folder / "starts"
        return path.read_text().split() if path.exists() else []

    def ledger(self, run: str) -> list[dict[str, Any]]:
        path = self.folder / ".fractale" / "runs" / run / "jobs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def hours_by_files(self, run: str) -> float:
        """Node-hours as the jobs' own files show them."""
        folders = (self.folder / ".fractale" / "runs" / run / "jobs").iterdir()
        seconds = [
            max(0.0, next(f.glob("ended.*")).stat().st_mtime - (f / "started").stat().st_mtime)
            for f in folders
            if (f / "started").exists()
        ]
        return math.fsum(seconds) / 3600


@pytest.fixture
def place(tmp_path: Path, processes: Forking) -> Callable[[str], Place]:
    return lambda plan: Place(tmp_path, processes, plan)


def sweep(limits: str, parallel: int = 1) -> str:
    return SWEEP.replace("LIMITS", limits).replace("PARALLEL", str(parallel))


def used_in(lines: list[Mapping[str, Any]]) -> float:
    return math.fsum(x["amount"]["node_hours"] for x in lines if x["is"] == "used")


def test_jobs_that_use_less_than_they_reserve_all_run_one_after_the_other(place):
    here = place(sweep("node_hours: 1.1", parallel=4))
    code, end = here.json("run", "plan.yaml")
    assert code == 0, end
    assert end["outputs"] == {"v": list(range(6))}
    assert end["usage"]["jobs"] == 6
    assert 0 < end["usage"]["node_hours"] < 0.1
    assert end["usage"]["node_hours"] == pytest.approx(here.hours_by_files(end["run"]), abs=1e-5)
    code, out, _ = here.call("show", "-1")
    assert "6 jobs" in out


def test_a_run_stops_before_the_job_that_does_not_fit_and_goes_on_with_more(place):
    here = place(sweep("jobs: 2"))
    code, end = here.json("run", "plan.yaml")
    assert (code, end["status"]) == (5, "limit"), end
    assert "more than the limit of 2 leaves: 2 are used" in end["error"]
    assert here.starts() == ["0", "1"]
    code, end = here.json("resume", "-1", "--limit", "jobs=6")
    assert code == 0, end
    assert sorted(here.starts()) == sorted(map(str, range(6)))
    assert end["usage"]["jobs"] == 6


def test_a_job_larger_than_the_limit_is_never_submitted(place):
    here = place(sweep("node_hours: 0.5"))
    code, end = here.json("run", "plan.yaml")
    assert (code, end["status"]) == (5, "limit")
    assert here.starts() == []


def test_under_a_limit_of_hours_a_job_without_a_time_limit_is_refused(place):
    here = place(sweep("node_hours: 5").replace("      time: 1h\n", ""))
    code, end = here.json("run", "plan.yaml")
    assert code == 1
    assert "the job has no time limit" in end["error"]
    assert here.starts() == []


def test_included_plans_and_branches_share_the_limit_of_the_whole_run(place):
    here = place("""
name: outer
limits: {jobs: 3}
steps:
  - name: both
    parallel:
      - {name: inner, plan: inner.yaml}
      - {name: own, job: {command: [sh, -c, "echo own >> starts"], scheduler: local}}
  - {name: again, plan: inner.yaml}
""")
    (here.folder / "inner.yaml").write_text("""
name: inner
limits: {jobs: 50}
steps:
  - {name: a, job: {command: [sh, -c, "echo a >> starts"], scheduler: local}}
""")
    code, end = here.json("run", "plan.yaml")
    assert code == 0, end
    assert end["usage"]["jobs"] == 3
    code, end = here.json("run", "plan.yaml", "--limit", "jobs=2")
    assert (code, end["status"]) == (5, "limit")


def test_a_fork_begins_with_what_the_run_before_it_had_used(place):
    here = place("""
name: two
limits: {jobs: 3}
steps:
  - {name: a, job: {command: [sh, -c, "echo a >> starts"], scheduler: local}}
  - {name: b, job: {command: [sh, -c, "echo b >> starts"], scheduler: local}}
""")
    code, first = here.json("run", "plan.yaml")
    assert code == 0, first
    code, end = here.json("fork", "-1", "--at", "b")
    assert code == 0, end
    assert end["usage"]["jobs"] == 2
    code, end = here.json("fork", first["run"], "--at", "a", "--limit", "jobs=1")
    assert (code, end["status"]) == (5, "limit"), "the second job is one too many"
    assert end["usage"]["jobs"] == 1


def test_whoever_agrees_to_a_job_sees_what_it_may_use(place):
    here = place("""
name: ask
limits: {node_hours: 10}
steps:
  - name: a
    approve: always
    job: {command: [sh, -c, "echo a >> starts"], time: 2h, scheduler: local}
""")
    code, _, out = here.call("run", "plan.yaml")
    assert code == 4
    assert "at most 2.00" in out, out
    assert "of 10 taken so far" in out
    assert here.starts() == []


def test_jobs_that_a_tool_submits_count(place):
    here = place("""
name: tools
limits: {jobs: 2}
steps:
  - name: a
    tool: job_submit
    inputs: {command: [sh, -c, "echo a >> starts"], time: 60, scheduler: local, key: one}
  - {name: w, tool: job_wait, inputs: {key: one}}
  - name: b
    tool: job_submit
    inputs: {command: [sh, -c, "echo b >> starts"], time: 60, scheduler: local}
  - {name: w2, tool: job_wait, inputs: {key: "{{ steps.b.outputs.key }}"}}
  - name: c
    tool: job_submit
    inputs: {command: [sh, -c, "echo c >> starts"], time: 60, scheduler: local}
""")
    registry = "tools:\n" + "".join(
        f"  - path: fractale.tools.jobs.{name}\n" for name in ("job_submit", "job_wait")
    )
    (here.folder / "jobs.yaml").write_text(registry)
    code, end = here.json("run", "plan.yaml", "-r", "jobs.yaml", "--yes")
    assert (code, end["status"]) == (5, "limit"), end
    assert here.starts() == ["a", "b"]
    assert end["usage"]["jobs"] == 2
    assert "reserved" not in end["usage"], "both are over, and were seen to be"


def test_a_cancelled_run_goes_on_within_its_limit(place):
    here = place("""
name: again
limits: {node_hours: 0.5}
steps:
  - name: a
    job:
      command: [sh, -c, "echo a >> starts; while [ ! -e go ]; do sleep 0.05; done"]
      time: 15m
      scheduler: local
""")
    assert here.call("run", "plan.yaml", "--detach")[0] == 4
    assert here.call("cancel", "-1", "--yes")[0] == 0
    (here.folder / "go").touch()
    code, end = here.json("resume", "-1", "--limit", "node_hours=0.3")
    assert code == 0, end
    assert here.starts().count("a") in (1, 2), "the first may have been cancelled before it began"
    assert end["usage"]["jobs"] == 2
    lines = here.ledger(end["run"])
    assert [line["is"] for line in lines] == ["reserved", "used", "reserved", "used"]


def test_a_job_of_a_tool_that_failed_or_never_began_counts_as_what_it_used(place):
    here = place("""
name: tools
limits: {node_hours: 5}
steps:
  - name: a
    tool: job_run
    inputs: {script: "exit 3", key: one, time: 3600, scheduler: local}
    transitions: {failure: b}
  - name: b
    tool: job_submit
    inputs: {command: [sleep, "60"], key: two, time: 3600, scheduler: local}
  - {name: c, tool: job_cancel, inputs: {key: two}}
""")
    registry = "tools:\n" + "".join(
        f"  - path: fractale.tools.{name}\n"
        for name in ("job_run.job_run", "jobs.job_submit", "jobs.job_cancel")
    )
    (here.folder / "jobs.yaml").write_text(registry)
    code, end = here.json("run", "plan.yaml", "-r", "jobs.yaml", "--yes")
    assert code == 0, end
    assert end["usage"]["jobs"] == 2
    assert end["usage"]["node_hours"] < 0.05, end["usage"]
    assert "reserved" not in end["usage"]


@pytest.mark.real
@pytest.mark.parametrize("seed", range(60 if FULL else 6))
def test_a_run_that_is_killed_at_random_counts_each_job_once(place, seed):
    chance = random.Random(seed)
    here = place(sweep("node_hours: 3.2, jobs: 6", parallel=3))
    process = here.start("run", "plan.yaml")
    until = time.monotonic() + PATIENCE
    while not list(here.folder.glob(".fractale/runs/*/events.jsonl")):
        assert time.monotonic() < until, "the run did not begin"
        time.sleep(0.05)
    for _ in range(chance.randrange(1, 5)):
        time.sleep(chance.uniform(0.2, 1.2))
        process.kill()
        process.communicate()
        process = here.start("resume", "-1")
    process.kill()
    process.communicate()
    for _ in range(5):
        code, end = here.json("resume", "-1")
        if code != 2:  # the one that was killed may still hold the run
            break
        time.sleep(0.2)
    assert code == 0, end
    assert sorted(here.starts()) == sorted(map(str, range(6)))
    lines = here.ledger(end["run"])
    assert len([x for x in lines if x["is"] == "reserved"]) == 6
    assert len([x for x in lines if x["is"] == "used"]) == 6
    assert end["usage"]["node_hours"] == used_in(lines)
    assert used_in(lines) == pytest.approx(here.hours_by_files(end["run"]), abs=1e-5)
