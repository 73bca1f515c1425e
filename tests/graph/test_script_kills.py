"""Script steps whose run is killed: the program runs once, and a resume reads its end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import Forking, Process

PLAN = """
name: scripts
steps:
  - name: first
    script: |
      echo first >> ran
      cat
    stdin: {said: first}
    outputs: json
  - name: each
    foreach: range(4) | list
    max_parallel: 2
    script: |
      echo "each {{ item }}" >> ran
      sleep 0.2
      cat
    stdin: [ "{{ item }}" ]
  - name: last
    command: [sh, -c, 'echo last >> ran; sleep 0.3; echo "$SAID"']
    env: {SAID: "{{ steps.first.outputs.said }}"}
    outputs: text
outputs:
  each: "{{ steps.each.outputs | map(attribute='result') | list }}"
  last: "{{ steps.last.outputs.content }}"
"""
RAN = sorted(["first", "last", *(f"each {n}" for n in range(4))])
WAITS = """
name: waits
steps:
  - name: long
    script: |
      echo ran >> ran
      echo from the script >&2
      until [ -e go ]; do sleep 0.05; done
      echo '{"said": "done"}'
outputs: {said: "{{ steps.long.outputs.said }}"}
"""
MOST_RESUMES = 40


class Scripts:
    """One run, killed and resumed."""

    def __init__(self, folder: Path, processes: Forking, plan: str) -> None:
        self.folder = folder
        self.processes = processes
        (folder / "plan.yaml").write_text(plan)

    def start(self, *words: str) -> Process:
        env = {n: v for n, v in os.environ.items() if not n.startswith(("FRACTALE_", "COV"))}
        env |= {"HOME": str(self.folder)}
        return self.processes.start([*words, "--json"], cwd=self.folder, env=env)

    def go_on(self, *words: str) -> Process:
        if list(self.folder.glob(".fractale/runs/*/run.json")):
            return self.start("resume", "-1", *words)
        return self.start("run", "plan.yaml")

    @property
    def ran(self) -> list[str]:
        """The lines that the programs wrote when they began."""
        file = self.folder / "ran"
        return file.read_text().splitlines() if file.exists() else []

    def facts(self, name: str) -> dict[str, str]:
        """The note of the supervisor or of the wrapper of the only job."""
        (path,) = self.folder.glob(f".fractale/runs/*/jobs/*/{name}")
        return dict(line.split("=", 1) for line in path.read_text().splitlines())


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def last_line(process: Process) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("seed", range(4))
def test_no_script_runs_twice_and_no_answer_is_lost_whenever_the_run_is_killed(
    tmp_path, processes, seed
):
    scripts, moments = Scripts(tmp_path, processes, PLAN), random.Random(seed)
    kills = 0
    for _ in range(MOST_RESUMES):
        process = scripts.go_on()
        timer = threading.Timer(moments.uniform(0.1, 1.5), process.kill)
        if kills < 6:
            timer.start()
        out, err = process.communicate(timeout=200)
        timer.cancel()
        kills += process.returncode == -signal.SIGKILL
        assert "Traceback" not in err, err
        if process.returncode == 0:
            assert json.loads(out.splitlines()[-1])["outputs"] == {
                "each": [[0], [1], [2], [3]],
                "last": "first\n",
            }
            break
    else:
        pytest.fail("the run never ended")
    assert sorted(scripts.ran) == RAN


def test_a_resume_waits_for_the_same_process_and_reads_its_answer(tmp_path, processes):
    scripts = Scripts(tmp_path, processes, WAITS)
    process = scripts.go_on()
    until(lambda: scripts.ran)
    process.kill()
    process.communicate()
    process = scripts.go_on()
    (tmp_path / "go").touch()
    assert last_line(process)["outputs"] == {"said": "done"}
    assert scripts.ran == ["ran"]


def test_a_script_whose_end_nobody_recorded_is_in_doubt_and_the_user_decides(tmp_path, processes):
    scripts = Scripts(tmp_path, processes, WAITS)
    process = scripts.go_on()
    until(lambda: scripts.ran)
    for name, of in (("id", "minder"), ("pid", "started")):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(scripts.facts(of)[name]), signal.SIGKILL)
    process.kill()
    process.communicate()
    process = scripts.go_on()
    asked = last_line(process)
    assert process.returncode == 4, asked
    (question,) = asked["waiting"]
    assert question["step"] == "long"
    (tmp_path / "go").touch()
    ended = last_line(scripts.go_on("--answer", "long=again"))
    assert ended["outputs"] == {"said": "done"}
    assert scripts.ran == ["ran", "ran"]


def test_a_detached_run_holds_no_process_while_its_script_runs(tmp_path, processes):
    scripts = Scripts(tmp_path, processes, WAITS)
    process = scripts.start("run", "plan.yaml", "--detach")
    last_line(process)
    until(lambda: scripts.ran)
    (tmp_path / "go").touch()
    until(lambda: list(tmp_path.glob(".fractale/runs/*/jobs/*/minded.*")))
    assert last_line(scripts.go_on())["outputs"] == {"said": "done"}
    assert scripts.ran == ["ran"]


MAKES = """
name: makes
steps:
  - name: half
    script: |
      cat in.txt > half.txt
      echo half >> ran
      sleep 0.2
    needs: in.txt
    creates: half.txt
  - name: each
    foreach: [a, b, c]
    script: |
      cat half.txt > {{ item }}.txt
      echo {{ item }} >> ran
    needs: half.txt
    creates: "{{ item }}.txt"
"""


@pytest.mark.parametrize("seed", range(2))
def test_files_are_made_once_whenever_the_run_is_killed(tmp_path, processes, seed):
    """A killed run leaves nothing up to date that is not, and a later run makes nothing again."""
    scripts, moments = Scripts(tmp_path, processes, MAKES), random.Random(seed)
    (tmp_path / "in.txt").write_text("a\n")
    kills = 0
    for _ in range(MOST_RESUMES):
        process = scripts.go_on()
        timer = threading.Timer(moments.uniform(0.1, 1.5), process.kill)
        if kills < 5:
            timer.start()
        out, err = process.communicate(timeout=200)
        timer.cancel()
        kills += process.returncode == -signal.SIGKILL
        assert "Traceback" not in err, err
        if process.returncode == 0:
            break
    else:
        pytest.fail("the run never ended")
    assert sorted(scripts.ran) == ["a", "b", "c", "half"]
    out, err = scripts.start("run", "plan.yaml").communicate(timeout=120)
    ends = [json.loads(line) for line in out.splitlines()]
    outcomes = [e["outcome"] for e in ends if e["event"] in ("step_finished", "item_finished")]
    assert outcomes == ["skipped", "skipped", "skipped", "skipped", "success"], err
    assert sorted(scripts.ran) == ["a", "b", "c", "half"]
    replay = scripts.start("replay", "-1")
    out, err = replay.communicate(timeout=120)
    assert replay.returncode == 0, out + err
