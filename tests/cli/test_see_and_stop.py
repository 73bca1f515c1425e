"""Seeing and stopping batch jobs: `fractale cancel`, `fractale logs`, and what is shown of jobs.

The jobs are real processes of this machine, and the commands are processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forked import TRUSTED, Forking, Process, measured
from fractale.render.run_view import Running
from tmux import Tmux

PATIENCE = 60.0
LONG = """
name: long
steps:
  - name: melt
    job:
      script: |
        echo >> starts
        printf 'at work \\033[2J\\n'
        while [ ! -e go ]; do sleep 0.05; done
        echo speed=7
      scheduler: local
      outputs: {speed: 'speed=(.*)'}
outputs: {speed: "{{ steps.melt.outputs.speed }}"}
"""
TWO = """
name: two
steps:
  - name: both
    parallel:
      - name: one
        job: {script: "while [ ! -e go ]; do sleep 0.05; done", scheduler: local}
      - name: other
        job: {script: "while [ ! -e go ]; do sleep 0.05; done", scheduler: local}
    keep_going: true
  - name: after
    job:
      script: "echo {{ steps.one.outcome }}-{{ steps.other.outcome }} > after"
      scheduler: local
"""
SWEEP = """
name: sweep
steps:
  - name: sweep
    foreach: [3, 0, 4]
    keep_going: true
    job: {script: "echo exits with {{ item }}\\nexit {{ item }}", scheduler: local}
"""


class Place:
    """A directory in which a plan is run, and its processes."""

    def __init__(self, folder: Path, processes: Forking, plan: str) -> None:
        self.folder = folder
        self._processes = processes
        (folder / "plan.yaml").write_text(plan)
        cores = {"FRACTALE_LOCAL_CORES": "99"}
        known = {"PATH": os.environ["PATH"], "HOME": str(folder), TRUSTED: "1"}
        self.environment = {**measured(), **known, **cores}

    def start(self, *words: str) -> Process:
        return self._processes.start(words, cwd=self.folder, env=self.environment)

    def call(self, *words: str) -> tuple[int, str, str]:
        """A command that ends: its exit code and what it says."""
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in out + err, err
        return process.returncode or 0, out, err

    def go(self) -> None:
        (self.folder / "go").touch()

    def starts(self) -> int:
        path = self.folder / "starts"
        return path.read_text().count("\n") if path.exists() else 0

    @property
    def run(self) -> str:
        """The id of the one run."""
        (found,) = (self.folder / ".fractale" / "runs").iterdir()
        return found.name

    def events(self, kind: str) -> list[dict[str, Any]]:
        found = list((self.folder / ".fractale" / "runs").glob("*/events.jsonl"))
        lines = found[0].read_text().split("\n")[:-1] if found else []
        return [each for line in lines if (each := json.loads(line))["event"] == kind]

    def until(self, true: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := true()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return found

    def job_runs(self, count: int = 1) -> None:
        """Wait until the run's record says that so many jobs run."""

        def running() -> bool:
            states = {e["step"]: e["state"] for e in self.events("job_state")}
            return list(states.values()).count("running") >= count

        self.until(running)


@pytest.fixture
def place(tmp_path: Path, processes: Forking) -> Iterator[Callable[..., Place]]:
    """Makes a `Place` of a plan; what it started is ended after the test."""
    made: list[Place] = []

    def make(plan: str) -> Place:
        made.append(Place(tmp_path, processes, plan))
        return made[-1]

    with processes.ending():
        yield make
    for each in made:
        each.go()


# -- fractale cancel ------------------------------------------------------------------------------


def test_cancelling_a_run_stops_it_and_a_resume_submits_its_job_again(place):
    here = place(LONG)
    run = here.start("run", "plan.yaml")
    here.job_runs()
    code, out, _ = here.call("cancel", here.run, "--yes")
    assert code == 0
    assert "cancelled 1 job of run" in out
    assert f"fractale resume {here.run}" in out
    assert "melt  local job q1 was cancelled" in out
    said = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 75, said
    assert "stopped on request (fractale cancel)" in said
    assert re.search(r"\n  melt +local job q1 runs on \S+; `fractale cancel` ends it\n", said)
    # It is neither waited for nor taken up by a cron job; a person resumes it.
    assert "stopped" in here.call("runs")[1]
    assert "no run is waiting for a job or a time" in here.call("resume", "--ready")[2]
    here.go()
    code, _, said = here.call("resume", here.run)
    assert code == 0, said
    assert here.starts() == 2
    assert "speed   7" in said


def test_what_a_cancel_prints_is_in_the_order_in_which_it_happens(place):
    here = place(LONG + "finally: [{name: clean, set: {done: true}}]\n")
    assert here.call("run", "plan.yaml", "--detach")[0] == 4
    code, out, _ = here.call("cancel", here.run, "--yes")
    assert code == 0
    first, second, third, last = out.splitlines()
    assert "melt  local job q1 was cancelled" in first
    assert second.startswith(f"cancelled 1 job of run {here.run}")
    assert third == "  finally/clean  success"
    assert last.startswith("next ")


def test_a_run_that_was_left_is_cancelled_and_only_its_own_jobs_are(place):
    here = place(LONG)
    assert here.call("run", "plan.yaml", "--detach", "--run-id", "mine")[0] == 4
    assert here.call("run", "plan.yaml", "--detach", "--run-id", "mine-2")[0] == 4
    here.until(lambda: here.starts() == 2)
    code, out, _ = here.call("cancel", "mine", "--yes", "--json")
    told = json.loads(out)
    assert code == 0
    (job,) = told["jobs"]
    assert (told["run"], job["step"], job["state"], job["over"]) == (
        "mine",
        "melt",
        "cancelled",
        True,
    )
    assert job["log_file"].startswith(str(here.folder / ".fractale/runs/mine/jobs"))
    rows = [json.loads(line) for line in here.call("runs", "--json")[1].splitlines()]
    assert {row["id"]: row["status"] for row in rows} == {"mine": "stopped", "mine-2": "waiting"}
    here.go()
    code, _, said = here.call("resume", "mine-2")
    assert code == 0, said
    assert here.starts() == 2


def test_a_killed_run_is_cancelled_too(place):
    here = place(LONG)
    run = here.start("run", "plan.yaml")
    here.job_runs()
    run.kill()
    run.wait()
    assert here.call("cancel", here.run, "--yes")[0] == 0
    assert "stopped" in here.call("runs")[1]
    here.go()
    assert here.call("resume", here.run)[0] == 0
    assert here.starts() == 2


def test_a_step_is_cancelled_alone_and_the_run_continues_by_its_plan(place):
    here = place(TWO)
    run = here.start("run", "plan.yaml")
    here.job_runs(2)
    code, out, _ = here.call("cancel", here.run, "one", "--yes")
    assert code == 0
    assert "both/one" in out
    assert "both/other" not in out
    here.go()
    said = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 0, said
    assert (here.folder / "after").read_text() == "failure-success\n"


def test_without_yes_and_without_a_terminal_nothing_is_cancelled(place):
    here = place(LONG)
    here.call("run", "plan.yaml", "--detach")
    code, _, err = here.call("cancel", "-1")
    assert code == 2
    assert "--yes" in err
    here.go()
    assert here.call("resume", "-1")[0] == 0
    assert here.starts() == 1


def test_a_job_that_is_over_is_told_so_and_left(place):
    here = place(LONG)
    here.go()
    assert here.call("run", "plan.yaml")[0] == 0
    code, out, _ = here.call("cancel", "-1", "melt", "--yes")
    assert code == 0
    assert "no job of step `melt`" in out
    assert "local job q1 ended with exit code 0" in out
    code, out, _ = here.call("cancel", "-1", "--json")
    assert (code, json.loads(out)["jobs"]) == (0, [])


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["cancel", "none"], "run `none` not found", ""),
        (["cancel", "-1", "melts", "--yes"], "has no step `melts`", "steps with a job: melt"),
        (["logs", "-1", "melts"], "has no step `melts`", "steps with a job: melt"),
        (["logs", "-1", "melt", "--attempt", "2"], "no job of attempt 2", "fractale show"),
        (["logs", "-1", "melt", "--item", "2"], "no job of item 2", "fractale show"),
        (["logs", "-1", "melt", "--element", "2"], "is not an array", "leave out --element"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_way_on(place, words, says, hint):
    here = place(LONG)
    here.go()
    here.call("run", "plan.yaml")
    code, _, err = here.call(*words)
    assert code == 2, err
    assert says in err
    assert hint in err


def test_a_step_without_a_job_says_what_to_look_at(place):
    plan = "name: p\nsteps:\n  - {name: look, tool: queue_info, inputs: {scheduler: local}}\n"
    here = place(plan)
    (here.folder / "tools.yaml").write_text("tools: [{path: fractale.tools.jobs.queue_info}]\n")
    assert here.call("run", "plan.yaml", "-r", "tools.yaml")[0] == 0
    for command in ("logs", "cancel"):
        code, _, err = here.call(command, "-1", "look")
        assert code == 2
        assert "submitted no batch job" in err
        assert f"fractale show {here.run} look" in err


@pytest.mark.real  # tmux
@pytest.mark.parametrize("typed", ["c", "l"])
def test_ctrl_c_offers_to_cancel_the_jobs(place, typed):
    here = place(LONG)
    words = (sys.executable, "-m", "fractale.cli", "run", "plan.yaml")
    with Tmux(here.folder, *words, env=here.environment) as terminal:
        here.job_runs()
        terminal.key("C-c")
        screen = terminal.ask_for("l leave them (default) · c cancel them >")
        assert "these jobs keep running:" in screen
        assert f"fractale cancel {here.run}" in screen
        terminal.type(typed)
        assert terminal.end() == 130
        screen = terminal.screen()
    assert ("cancelled 1 job of run" in screen) == (typed == "c")
    here.go()
    assert here.call("resume", here.run)[0] == 0
    assert here.starts() == (2 if typed == "c" else 1)


@pytest.mark.real  # tmux
@pytest.mark.parametrize(("typed", "code"), [("y", 0), ("", 1)])
def test_on_a_terminal_it_says_what_it_will_end_and_asks(place, typed, code):
    here = place(LONG)
    here.call("run", "plan.yaml", "--detach")
    here.until(lambda: here.starts() == 1)
    words = (sys.executable, "-m", "fractale.cli", "cancel", "-1")
    with Tmux(here.folder, *words, env=here.environment) as terminal:
        screen = terminal.wait_for("cancel 1 job? [y/N]")
        assert "melt  local job q1 runs on" in screen
        terminal.type(typed)
        assert terminal.end() == code
    here.go()
    assert here.call("resume", "-1")[0] == 0
    assert here.starts() == (2 if code == 0 else 1)


# -- fractale logs --------------------------------------------------------------------------------


def test_a_log_is_printed_as_it_is_and_inert(place):
    here = place(LONG)
    here.call("run", "plan.yaml", "--detach")
    here.until(lambda: "at work" in here.call("logs", "-1", "melt")[1])
    code, out, err = here.call("logs", "-1", "melt")
    assert code == 0
    assert out == "at work \n"
    assert "local job" not in out
    assert "job q1 runs on" in err


def test_a_log_is_followed_until_its_job_is_over(place):
    here = place(LONG)
    run = here.start("run", "plan.yaml")
    here.job_runs()
    follows = here.start("logs", "-1", "melt", "--follow")
    here.until(lambda: "at work" in os.read(follows.stdout.fileno(), 1000).decode())
    here.go()
    out, err = follows.communicate(timeout=PATIENCE)
    assert out == "speed=7\n"
    assert follows.returncode == 0
    assert "job q1 ended with exit code 0" in err
    run.wait()


def test_a_log_has_its_last_lines_its_items_and_its_attempts(place):
    here = place(
        """
name: p
steps:
  - name: try
    job: {script: "seq 5\\necho try {{ attempts }}\\ntest {{ attempts }} -ge 2", scheduler: local}
    max_attempts: 3
    transitions: {failure: try}
  - name: each
    foreach: [a, b]
    job: {script: "echo {{ item }}{{ attempts }}", scheduler: local}
"""
    )
    code, _, said = here.call("run", "plan.yaml")
    assert code == 0, said
    assert here.call("logs", "-1", "try", "--tail", "2")[1] == "5\ntry 2\n"
    assert here.call("logs", "-1", "try", "--tail", "0")[1] == ""
    assert here.call("logs", "-1", "try", "--attempt", "1", "--tail", "1")[1] == "try 1\n"
    assert here.call("logs", "-1", "each", "--item", "2")[1] == "b1\n"
    assert here.call("logs", "-1", "each[0]")[1] == "a1\n"
    code, _, err = here.call("logs", "-1", "each")
    assert code == 2
    assert "2 jobs in step `each`" in err
    assert "--item N" in err


# -- this attempt's number ------------------------------------------------------------------------


def test_a_template_names_its_attempt_and_wrong_names_are_found_before_the_run(place):
    here = place(
        """
name: p
steps:
  - name: a
    when: attempts == 1
    job: {command: "echo {{ attempt }}", scheduler: local}
outputs: {n: "{{ attempts }}"}
"""
    )
    code, _, err = here.call("validate", "plan.yaml")
    flat = " ".join(err.replace("|", " ").split())
    assert code == 3
    assert "did you mean `attempts`?" in flat
    assert "write `steps.NAME.attempts`" in flat
    assert "2 errors" in err


# -- what is shown --------------------------------------------------------------------------------

BAD = """
name: relax
steps:
  - name: relax
    job:
      script: |
        sleep 1
        echo 'ERROR: Unknown pair style'
        echo 'Last command: pair_style reax/c'
        exit 3
      scheduler: local
"""


def test_the_end_of_a_run_shows_the_job_that_failed_and_how_to_see_more(place):
    here = place(BAD)
    code, _, said = here.call("run", "plan.yaml")
    (finished,) = here.events("run_finished")
    (job,) = finished["decided"]["jobs"]
    run, log = here.run, Path(job["log"]).relative_to(here.folder)
    assert code == 1
    end = said[said.index("failed · ") :]
    host = next(e["nodes"][0] for e in here.events("job_state") if e["nodes"])
    assert f"failed · job q1 of `relax` ended with exit code 3 on {host} after 0:01\n" in end
    assert f"  log         {log}\n" in end
    assert "ERROR: Unknown pair style\n" in end
    assert "Last command: pair_style reax/c\n" in end
    assert "last line:" not in end
    for command in (f"logs {run} relax", f"show {run} relax", f"fork {run} --at relax"):
        assert f"fractale {command}\n" in end
    assert end.index("fractale logs") < end.index("fractale fork")
    shown = here.call("show", run)[1]
    assert end.strip() in shown


def test_times_of_jobs_count_in_runs_and_a_failed_run_names_its_step(place):
    here = place(BAD)
    here.call("run", "plan.yaml", "--detach")
    here.until(lambda: "relax" in here.call("resume", "--ready")[2])
    (row,) = [json.loads(line) for line in here.call("runs", "--json")[1].splitlines()]
    assert row["failed_at"] == "relax"
    assert row["computed"] >= 1
    assert row["ran"] >= row["computed"]
    heading, line = here.call("runs")[1].splitlines()
    columns = ["RUN", "PLAN", "STATE", "STARTED", "RAN", "COMPUTED", "WAITED", "JOBS"]
    assert heading.split() == columns
    assert line.endswith("failed at relax")
    assert re.search(r" 0:0[1-9] +0:0[1-9] +\d:\d\d +1  failed at", line)
    usage = here.events("run_finished")[-1]["usage"]
    assert usage["elapsed"] == row["ran"]


def test_a_step_is_shown_without_raw_times_and_in_lines_that_fit(place):
    here = place(BAD.replace("Unknown pair style", "Unknown pair style " * 20))
    here.call("run", "plan.yaml")
    out = here.call("show", "-1", "relax")[1]
    assert not re.search(r"\b1[6-9]\d{8}\b", out), "a Unix time"
    assert re.search(r"submitted +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", out)
    assert re.search(r"seconds +\d\.\d s", out)
    assert f"fractale logs {here.run} relax" in out
    assert max(map(len, out.splitlines())) <= 100
    # Nothing is lost by that, and a pipe gets values whole on request.
    assert out.replace("\n", " ").count("Unknown") >= 20
    assert "Unknown pair style " * 20 in here.call("show", "-1", "relax", "--full")[1]


def test_items_of_a_sweep_are_counted_and_named_from_one(place):
    here = place(SWEEP)
    code, _, said = here.call("run", "plan.yaml")
    flat = " ".join(said.split())
    assert code == 0
    assert "success · `sweep`: 2 of 3 items failed" in flat
    assert "item 1: job q" in flat
    assert "item 3: local job q" in flat
    assert "sweep[" not in flat
    assert "3/3 done" not in flat
    assert re.search(r"1/3 done · \d running · \d waiting", flat)
    shown = here.call("show", "-1", "sweep")[1]
    assert "item 3, sweep[2]\n      failure: job q" in shown
    assert "with exit code 4" in shown


def test_a_failed_sweep_names_its_jobs_with_their_logs(place):
    here = place(SWEEP.replace("keep_going: true", "max_parallel: 1"))
    code, _, said = here.call("run", "plan.yaml")
    assert code == 1
    assert re.search(r"log +sweep\[0\]: .*/log\n +exits with 3\n", said)
    assert re.search(r"log +sweep\[2\]: .*/log\n +exits with 4\n", said)
    assert f"fractale logs {here.run} 'sweep[0]'" in said


def test_elements_of_an_array_are_counted_in_the_live_view():
    running = Running("scan", "job", "", 1, 0.0)
    assert running.counts == ""
    running.elements = {"completed": 3, "running": 2, "pending": 9, "failed": 1, "timeout": 1}
    assert running.counts == "5/16 done · 2 running · 9 waiting · 2 failed"


@pytest.mark.real  # tmux
def test_the_question_after_a_failure_shows_the_log(place):
    here = place(BAD)
    words = (sys.executable, "-m", "fractale.cli", "run", "plan.yaml")
    with Tmux(here.folder, *words, env=here.environment) as terminal:
        terminal.wait_for("r retry · s skip and continue · q quit · l show its job's log")
        terminal.type("l")
        screen = terminal.wait_for("│ ERROR: Unknown pair style")
        assert "│ Last command: pair_style reax/c" in screen
        assert f".fractale/runs/{here.run}/jobs/" in screen
        terminal.type("q")
        assert terminal.end() == 1
    shown = here.call("show", "-1", "relax")[1]
    assert "{" not in shown.partition("calls")[0].partition("asked")[2]


@pytest.mark.real  # tmux
def test_lines_about_a_job_fit_a_narrow_terminal(place):
    here = place(BAD.replace("pair style'", f"pair style {'and more ' * 20}'"))
    program = (sys.executable, "-m", "fractale.cli")

    def in_columns(screen: str) -> None:
        # tmux has a line of its own where a line of 80 columns went on in the next.
        for line in screen.splitlines():
            assert line[:1].strip() == "" or re.match(r"relax|failed|\?|[✗●▸r>$]|Pane", line), line

    with Tmux(here.folder, *program, "run", "plan.yaml", env=here.environment, size=(80, 24)) as t:
        t.wait_for("l show its job's log")
        t.type("l")
        in_columns(t.wait_for("│ Last command: pair_style reax/c"))
        t.type("q")
        assert t.end() == 1
        in_columns(t.screen())
    for words in (("show", "-1"), ("show", "-1", "relax"), ("cancel", "-1", "relax", "--yes")):
        with Tmux(here.folder, *program, *words, env=here.environment, size=(80, 24)) as t:
            t.end()
            screen = t.screen()
            assert words[0] == "cancel" or "and more and more" in screen
            for line in screen.splitlines():
                assert not line.startswith(("and more", "pair_style", "more ")), screen


# -- arrays ---------------------------------------------------------------------------------------

ARRAY = """
name: scan
steps:
  - name: scan
    job:
      array: 5-10
      command: [sh, -c, 'echo work of $FRACTALE_INDEX; while [ ! -e go ]; do sleep 0.1; done']
      scheduler: local
"""


def test_an_array_is_counted_looked_into_and_cancelled_as_a_whole(place):
    here = place(ARRAY)
    code, _, said = here.call("run", "plan.yaml", "--detach")
    assert code == 4
    assert re.search(r"scan +6 jobs: ", said), said
    here.until(lambda: here.call("logs", "-1", "scan", "--element", "6")[1] == "work of 6\n")
    code, _, err = here.call("logs", "-1", "scan", "--element", "77")
    assert code == 2
    assert "has no element 77" in err
    code, _, err = here.call("logs", "-1", "scan")
    assert code == 2
    assert "--element I" in err
    code, _, err = here.call("cancel", "-1", "scan[6]", "--yes")
    assert code == 2
    assert "whole array can be cancelled" in err
    code, out, _ = here.call("cancel", "-1", "scan", "--yes", "--json")
    assert code == 0
    (job,) = json.loads(out)["jobs"]
    assert (job["step"], job["state"], job["over"]) == ("scan", "cancelled", True)


def test_the_parts_of_an_array_are_elements_by_index_wherever_they_are_named(place):
    here = place(
        "name: p\nsteps:\n  - name: scan\n    job:\n      scheduler: local\n"
        "      script: |\n        #!/bin/sh\n        #SBATCH -a1-3\n"
        "        echo at $SLURM_ARRAY_TASK_ID; test $SLURM_ARRAY_TASK_ID != 2\n"
    )
    code, _, said = here.call("run", "plan.yaml")
    assert code == 1
    assert "item" not in said
    shown = here.call("show", "-1", "scan")[1]
    assert "  element 1, scan[1]\n" in shown
    assert ", element 3\n" in shown
    assert not re.search(r"\bitems?\b", shown)
    whole = here.call("show", "-1")[1]
    assert not re.search(r"\bitems?\b", whole)
    code, _, err = here.call("logs", "-1", "scan", "--item", "1")
    assert code == 2
    assert "it has elements, not items" in " ".join(err.split())
    code, _, err = here.call("logs", "-1", "scan")
    assert "add --element INDEX, or name one" in " ".join(err.split())
    assert "--item" not in err
    assert here.call("logs", "-1", "scan", "--element", "2")[1] == "at 2\n"
