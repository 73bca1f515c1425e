"""Arrays whose run is killed at random moments: no element runs twice, and none is lost.

Runs are killed up to six times each: eight with local jobs, half of them while the local queue's
own processes are killed, too; four with the stand-ins of PBS and LSF; two with a real Slurm.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forked import Forking, Process
from slurm import Slurm, running_slurm
from stand_in_site import stand_in

PLAN = """
name: arrays
steps:
  - name: scan
    job:
      scheduler: SCHEDULER
      array: 1-12%5
      command: [sh, -c, 'echo s{{ index }} >> ran; sleep 0.2; echo v={{ index }}']
      outputs: {v: 'v=(.*)'}
  - name: each
    foreach: range(10) | list
    job:
      scheduler: SCHEDULER
      command: [sh, -c, 'echo e{{ item }} >> ran; sleep 0.2; echo v={{ item }}']
      outputs: {v: 'v=(.*)'}
outputs:
  scan: "{{ steps.scan.outputs | map(attribute='v') | list }}"
  each: "{{ steps.each.outputs | map(attribute='v') | list }}"
"""
ELEMENTS = sorted([f"s{i}" for i in range(1, 13)] + [f"e{i}" for i in range(10)])
KILLS = 6
MOST_RESUMES = 40


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_slurm() as running:
        yield running


class Arrays:
    """One run, killed and resumed until it ends."""

    def __init__(
        self,
        folder: Path,
        processes: Forking,
        scheduler: str,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.processes = processes
        self.scheduler = scheduler
        (folder / "plan.yaml").write_text(PLAN.replace("SCHEDULER", scheduler))
        self.environment = environment or {}
        if scheduler in ("pbs", "lsf"):
            programs = ("PATH", "FAKE_STATE", "PYTHONPATH")
            known = stand_in(folder, scheduler).environment
            self.environment = {name: known[name] for name in programs}

    def start(self, *words: str) -> Process:
        env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
        env |= {"HOME": str(self.folder), "FRACTALE_LOCAL_CORES": "8", **self.environment}
        env["FRACTALE_POLL_SECONDS"] = "1"
        return self.processes.start([*words, "--json"], cwd=self.folder, env=env)

    def go_on(self) -> Process:
        if list(self.folder.glob(".fractale/runs/*/run.json")):
            return self.start("resume", "-1")
        return self.start("run", "plan.yaml")

    def kill_a_minder(self) -> None:
        """End a process of the queue that starts the next jobs at its end."""
        for path in self.folder.glob(".fractale/runs/*/jobs/*/elements/*/minder"):
            with contextlib.suppress(OSError, ValueError, LookupError):
                facts = dict(line.split("=", 1) for line in path.read_text().splitlines())
                command = Path("/proc", facts["id"], "cmdline").read_bytes()
                if b"supervisor.py" in command and not list(path.parent.glob("ended.*")):
                    os.kill(int(facts["id"]), signal.SIGKILL)
                    return

    @property
    def submissions(self) -> int:
        """How many jobs or arrays went out, whoever submitted them."""
        # A kill between drawing the number of a local job and writing the job leaves a gap.
        if self.scheduler in ("local", "slurm"):
            return len(list(self.folder.glob(".fractale/runs/*/jobs/*/handle.json")))
        return len([p for p in (self.folder / "state").glob("*.json") if "_" not in p.stem])


@pytest.mark.parametrize(
    ("scheduler", "seed"),
    [*(("local", n) for n in range(8)), *((name, n) for name in ("pbs", "lsf") for n in (8, 10))],
)
def test_no_element_runs_twice_and_none_is_lost_whatever_is_killed(
    tmp_path, processes, scheduler, seed
):
    check(Arrays(tmp_path, processes, scheduler), seed)


@pytest.mark.parametrize("seed", [20, 22])
def test_slurm_runs_each_element_once_whatever_is_killed(tmp_path, processes, slurm, seed):
    check(Arrays(tmp_path, processes, "slurm", dict(slurm.environment)), seed)


def check(arrays: Arrays, seed: int) -> None:
    """Kill a run at random moments and resume it, to its end."""
    moments = random.Random(seed)
    killed, code, out, err = 0, -1, "", ""
    for _ in range(MOST_RESUMES):
        process = arrays.go_on()
        timer = None
        if killed < KILLS:
            timer = threading.Timer(moments.uniform(0.1, 2.0), process.kill)
            timer.start()
        out, err = process.communicate(timeout=200)
        if timer is not None:
            timer.cancel()
            killed += process.returncode == -signal.SIGKILL
        code = process.returncode or 0
        assert "Traceback" not in err, err
        if code == 0:
            break
        if seed % 2:
            arrays.kill_a_minder()
    assert code == 0, out + err
    last = json.loads(out.splitlines()[-1])
    assert last["outputs"] == {"scan": list(range(1, 13)), "each": list(range(10))}
    assert sorted((arrays.folder / "ran").read_text().split()) == ELEMENTS
    assert arrays.submissions == 2
