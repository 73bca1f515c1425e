"""Runs that wait for jobs, through the command line: left, stopped, killed, and gone on with.

Plain processes are the jobs, and a real Slurm's where there is one. `make test-real` kills at a
sample of the moments; `make test-faults` at a hundred.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forked import Forking, Process
from slurm import Slurm, running_slurm

FULL = bool(os.environ.get("FRACTALE_FAULTS"))
PATIENCE = 60.0

ONE = """
name: one
steps:
  - name: melt
    job:
      script: |
        echo >> starts
        echo at work
        while [ ! -e go ]; do sleep 0.05; done
        echo speed=7
      scheduler: SCHEDULER
      outputs: {speed: 'speed=(.*)'}
  - name: after
    job: {script: "echo {{ steps.melt.outputs.speed }} >> after", scheduler: SCHEDULER}
outputs: {speed: "{{ steps.melt.outputs.speed }}"}
"""
SWEEP = """
name: sweep
steps:
  - name: sweep
    foreach: range(10)
    MAX
    job:
      script: |
        echo {{ item }} >> starts
        while [ ! -e go ]; do sleep 0.05; done
        echo v={{ item }}
      scheduler: local
      outputs: {v: 'v=(.*)'}
outputs: {v: "{{ steps.sweep.outputs | map(attribute='v') | list }}"}
"""


class Place:
    """A folder in which a plan is run, and its processes."""

    def __init__(
        self, folder: Path, processes: Forking, plan: str, more: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._processes = processes
        (folder / "plan.yaml").write_text(plan)
        known = {"PATH": os.environ["PATH"], "HOME": str(folder), "FRACTALE_LOCAL_CORES": "99"}
        known["FRACTALE_POLL_SECONDS"] = "1"
        self.environment = {**known, **(more or {})}

    def start(self, *words: str) -> Process:
        return self._processes.start(words, cwd=self.folder, env=self.environment)

    def call(self, *words: str) -> tuple[int, str, str]:
        """A command that ends: its exit code and what it says."""
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in out + err, err
        return process.returncode, out, err

    def go(self) -> None:
        """Let the jobs end."""
        (self.folder / "go").touch()

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().split("\n")[:-1] if path.exists() else []

    @property
    def events(self) -> list[dict[str, Any]]:
        found = list((self.folder / ".fractale" / "runs").glob("*/events.jsonl"))
        lines = found[0].read_text().split("\n")[:-1] if found else []
        return [json.loads(line) for line in lines]

    def until(self, true: Callable[[], Any], what: str = "it") -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := true()):
            assert time.monotonic() < deadline, f"{what} never came"
            time.sleep(0.02)
        return found

    def started(self, count: int = 1) -> None:
        """Wait until so many jobs have begun their work."""
        self.until(lambda: len(self.lines("starts")) >= count, "the start of a job")

    def ready(self) -> tuple[int, str, str]:
        """`fractale resume --ready`, once there is something ready."""

        def once() -> tuple[int, str, str] | None:
            code, out, err = self.call("resume", "--ready")
            return None if "no run is ready" in err else (code, out, err)

        return self.until(once, "a run that is ready")


@pytest.fixture
def place(tmp_path: Path, processes: Forking) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(plan: str, **more: str) -> Place:
        made.append(Place(tmp_path, processes, plan.replace("SCHEDULER", "local"), more))
        return made[-1]

    yield make
    for each in made:  # no job is left behind
        each.go()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_slurm() as running:
        yield running


def test_a_detached_run_holds_no_process_and_goes_on_when_its_job_has_ended(place):
    here = place(ONE)
    code, _, out = here.call("run", "plan.yaml", "--detach")
    assert code == 4
    assert "waiting for job " in out
    assert "fractale resume --ready" in out
    here.started()
    code, out, _ = here.call("runs")
    assert "waiting" in out
    assert "waits for melt (job " in out
    code, _, err = here.call("resume", "--ready")
    assert code == 0
    assert "no run is ready: 1 run waiting for 1 job" in err
    code, _, out = here.call("resume", "-1", "--detach")
    assert code == 4
    here.go()
    code, _, err = here.ready()
    assert code == 0
    assert "completed" in err
    # The plan's next job is a new one, so the run may wait again.
    while here.events[-1]["status"] == "waiting":
        here.ready()
    assert here.events[-1]["outputs"] == {"speed": 7}
    assert len(here.lines("starts")) == len(here.lines("after")) == 1
    assert "no run is waiting for a job or a time" in here.call("resume", "--ready")[2]


def test_what_a_run_waits_for_is_told_as_json(place):
    here = place(ONE)
    code, out, _ = here.call("run", "plan.yaml", "--detach", "--json")
    assert code == 4
    last = json.loads(out.splitlines()[-1])
    (job,) = last["waiting"]
    assert (job["kind"], job["step"], job["scheduler"]) == ("job", "melt", "local")
    assert job["state"] in ("pending", "running")
    states = [json.loads(line) for line in out.splitlines() if '"job_state"' in line]
    assert [state["job"] for state in states] == [job["job"]] * len(states)
    assert json.loads(here.call("runs", "--json")[1])["waits_for"] == f"melt (job {job['job']})"
    assert f"local job {job['job']}" in here.call("show", "-1")[1]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)],
)
def test_a_signal_ends_the_wait_at_once_and_the_job_goes_on(place, number, expected):
    here = place(ONE)
    process = here.start("run", "plan.yaml")
    here.started()
    here.until(lambda: any(e["event"] == "job_state" for e in here.events))
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == expected, out + err
    assert here.events[-1]["status"] == "stopped"
    assert [job["step"] for job in here.events[-1]["waiting"]] == ["melt"]
    assert not here.lines("after")
    here.go()
    here.ready()  # a stop leaves the run waiting for its job, too
    while here.events[-1]["status"] == "waiting":
        here.ready()
    assert here.events[-1]["outputs"] == {"speed": 7}
    assert len(here.lines("starts")) == 1


def finish(here: Place) -> dict[str, Any]:
    """Resume until the run has ended; gives its last event."""
    for _ in range(5):
        code, out, err = here.call("resume", "-1", "--json")
        if code == 2 and "is held by process" in err:
            time.sleep(0.05)
            continue
        assert code == 0, out + err
        return json.loads(out.splitlines()[-1])
    raise AssertionError("the run never ends")


MOMENTS: dict[str, Callable[[list[dict[str, Any]]], bool]] = {
    "before the intent": lambda seen: any(e["event"] == "step_started" for e in seen),
    "while it is submitted": lambda seen: any(e["event"] == "tool_started" for e in seen),
    "once it is submitted": lambda seen: any(e["event"] == "tool_finished" for e in seen),
    "while it is waited for": lambda seen: any(e["event"] == "job_state" for e in seen),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_finds_its_job_again(place, moment):
    here = place(ONE)
    process = here.start("run", "plan.yaml")
    here.until(lambda: MOMENTS[moment](here.events), moment)
    process.kill()
    process.communicate()
    here.go()
    assert finish(here)["outputs"] == {"speed": 7}
    assert len(here.lines("starts")) == len(here.lines("after")) == 1


@pytest.mark.parametrize("seed", range(100 if FULL else 3))
def test_a_sweep_that_is_killed_at_random_submits_each_job_once(place, seed):
    chance = random.Random(seed)
    here = place(SWEEP.replace("MAX", "max_parallel: 4" if seed % 2 else ""))
    process = here.start("run", "plan.yaml")
    for _ in range(chance.randrange(1, 4)):
        here.until(lambda: here.events)
        time.sleep(chance.uniform(0, 0.6))
        if chance.random() < 0.3:
            here.go()
        process.kill()
        process.communicate()
        process = here.start("resume", "-1")
    process.kill()
    process.communicate()
    here.go()
    assert finish(here)["outputs"] == {"v": list(range(10))}
    assert sorted(map(int, here.lines("starts"))) == list(range(10))


@pytest.mark.parametrize("together", [True, False])
def test_a_detached_sweep_never_has_more_jobs_than_it_may(place, together):
    own = "" if together else '      time: "{{ 600 + item }}"\n'  # unlike jobs go by themselves
    sweep = SWEEP.replace("MAX", "max_parallel: 4")
    here = place(sweep.replace("      scheduler: local\n", f"      scheduler: local\n{own}"))
    code, _, out = here.call("run", "plan.yaml", "--detach")
    assert code == 4
    assert together or "waiting for 4 jobs, with 6 more to be submitted" in out
    here.started(4)
    assert here.call("resume", "--ready")[0] == 0
    assert sorted(here.lines("starts")) == ["0", "1", "2", "3"]
    here.go()
    while here.events[-1]["status"] == "waiting":
        here.ready()
    assert here.events[-1]["outputs"] == {"v": list(range(10))}
    assert sorted(map(int, here.lines("starts"))) == list(range(10))


def test_ready_goes_on_with_each_run_and_tells_how_they_went(place):
    one = "name: {0}\nsteps:\n  - {{name: a, job: {{script: '{1}', scheduler: local}}}}\n"
    until = "while [ ! -e {} ] && [ ! -e go ]; do sleep 0.05; done; exit {}"
    here = place(one.format("good", until.format("end", 0)))
    (here.folder / "bad.yaml").write_text(one.format("bad", until.format("end", 3)))
    (here.folder / "wait.yaml").write_text(one.format("wait", until.format("go", 0)))
    for name in ("plan", "bad", "wait"):
        assert here.call("run", f"{name}.yaml", "--detach")[0] == 4
    (here.folder / "end").touch()
    seen: list[tuple[int, str, str]] = []

    def done() -> bool:
        seen.append(here.call("resume", "--ready"))
        rows = [json.loads(line) for line in here.call("runs", "--json")[1].splitlines()]
        return {row["plan"]: row["status"] for row in rows} == {
            "good": "success",
            "bad": "failed",
            "wait": "waiting",
        }

    here.until(done, "the end of two runs")
    assert 1 in [code for code, _, _ in seen]
    assert all(code in (0, 1) for code, _, _ in seen)
    here.go()


def test_unknown_needs_a_person_and_ready_leaves_it_to_one(place):
    minder = '$(sed -n s/^id=//p "$FRACTALE_JOB_DIR/minder")'
    script = f"echo at work; kill -9 {minder} $PPID; kill -9 $$"
    here = place(
        f"name: x\nsteps:\n  - {{name: a, job: {{script: '{script}', scheduler: local}}}}\n"
    )
    code, _, out = here.call("run", "plan.yaml")
    assert code == 4
    assert "the outcome of its job" in out
    assert "answer with: wait, success, failure, or again" in out
    assert "no run is waiting for a job or a time" in here.call("resume", "--ready")[2]
    code, _, out = here.call("resume", "-1", "--answer", "a=wait", "--detach")
    assert code == 4
    assert "waiting for job " in out
    assert "no run is ready" in here.call("resume", "--ready")[2], "its patience lasts"
    code, _, out = here.call("run", "plan.yaml")
    code, _, out = here.call("resume", "-1", "--answer", "a=success")
    assert code == 0


def test_a_question_beside_a_job_does_not_wait_for_it(place):
    here = place(
        """
name: both
steps:
  - name: both
    parallel:
      - name: slow
        job:
          script: "echo >> starts; while [ ! -e go ]; do sleep 0.05; done"
          scheduler: local
      - {name: asks, approve: always, job: {script: "echo >> agreed", scheduler: local}}
"""
    )
    code, _, out = here.call("run", "plan.yaml", "--detach")
    assert code == 4
    assert "both/asks" in out
    assert "waiting for your answer" in out
    code, _, out = here.call("resume", "-1", "--answer", "asks=yes", "--detach")
    here.until(lambda: here.lines("agreed"), "the job that was agreed to")
    assert len(here.lines("starts")) == 1
    here.go()
    while here.events[-1]["status"] == "waiting":
        here.ready()
    assert here.events[-1]["status"] == "success"
    assert len(here.lines("starts")) == len(here.lines("agreed")) == 1


def test_ready_and_a_run_exclude_each_other(place):
    here = place(ONE)
    assert here.call("resume")[0] == 2
    code, _, err = here.call("resume", "-1", "--ready")
    assert code == 2
    assert "RUN and --ready exclude each other" in err


def test_a_dry_run_says_what_would_be_submitted(place):
    here = place(ONE)
    code, out, _ = here.call("run", "plan.yaml", "--dry-run")
    assert code == 0
    assert "melt" in out
    assert "jobs" in out
    found = json.loads(here.call("run", "plan.yaml", "--dry-run", "--json")[1])
    assert found["steps"][0]["job"]["scheduler"] == "local"
    assert not (here.folder / ".fractale" / "runs").exists()


# Slurm


def at_slurm(place: Callable[..., Place], slurm: Slurm, plan: str = ONE) -> Place:
    own = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"  # where `fractale` is
    return place(plan.replace("SCHEDULER", "slurm"), **{**slurm.environment, "PATH": own})


def test_slurm_goes_on_with_a_detached_run_itself(place, slurm):
    here = at_slurm(place, slurm)
    code, _, out = here.call("run", "plan.yaml", "--detach")
    assert code == 4
    (command,) = [line.strip() for line in out.splitlines() if "sbatch --dependency" in line]
    done = subprocess.run(
        shlex.split(command), cwd=here.folder, env=here.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    here.started()
    here.go()
    here.until(lambda: sum(e["event"] == "run_started" for e in here.events) == 2, "the epilogue")
    here.until(lambda: here.events[-1]["event"] == "run_finished", "its end")
    while here.events[-1]["status"] == "waiting":
        here.ready()
    assert here.events[-1]["outputs"] == {"speed": 7}
    assert len(here.lines("starts")) == 1


def test_slurm_is_killed_beside_and_every_job_is_submitted_once(place, slurm):
    here = at_slurm(place, slurm)
    before = set(slurm.jobs())
    process = here.start("run", "plan.yaml")
    here.until(lambda: any(e["event"] == "tool_started" for e in here.events))
    time.sleep(random.Random(3).uniform(0, 0.1))
    process.kill()
    process.communicate()
    here.go()
    assert finish(here)["outputs"] == {"speed": 7}
    assert len(here.lines("starts")) == 1
    assert len(set(slurm.jobs()) - before) == 2, "the plan's two jobs"


def test_a_job_that_is_cancelled_at_slurm_fails_the_step_with_what_shows_it(place, slurm):
    here = at_slurm(place, slurm)
    process = here.start("run", "plan.yaml")
    here.started()
    state = here.until(lambda: [e for e in here.events if e["event"] == "job_state"])[-1]
    slurm.run("scancel", state["job"])
    _, out = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, out
    assert f"job {state['job']} was cancelled" in out
    assert "exit_code (scontrol: CANCELLED" in " ".join(out.split())


@pytest.mark.skipif(not FULL, reason="takes half a minute: FRACTALE_FAULTS=1")
def test_slurmctld_is_restarted_while_a_job_is_waited_for(place, slurm):
    here = at_slurm(place, slurm)
    process = here.start("run", "plan.yaml")
    here.started()
    here.until(lambda: any(e["event"] == "job_state" for e in here.events))
    slurm.stop_controller()
    here.until(
        lambda: "is not known" in here.events[-1].get("reason", ""), "a look that finds nobody"
    )
    slurm.start_controller()
    here.go()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    assert len(here.lines("starts")) == 1


JSON_JOBS = """
name: json
steps:
  - name: each
    foreach: range(3) | list
    job:
      scheduler: slurm
      command: [cat]
      stdin: {n: "{{ item }}"}
      outputs: json
      time: 2m
  - name: one
    job:
      scheduler: slurm
      script: |
        #!/bin/sh
        read -r line
        echo "{\\"said\\": \\"$line\\"}" > out.json
      stdin: "{{ steps.each.outputs | map(attribute='n') | list | join(' ') }}"
      outputs: {file: out.json}
      time: 2m
outputs: {said: "{{ steps.one.outputs.said }}"}
"""


def test_jobs_of_slurm_read_stdin_and_answer_with_json(place, slurm):
    here = at_slurm(place, slurm, JSON_JOBS)
    out, err = here.start("run", "plan.yaml", "--json").communicate(timeout=240)
    assert json.loads(out.splitlines()[-1])["outputs"] == {"said": "0 1 2"}, out + err
