"""Runs that wait for a time, killed at every point of their steps and resumed.

Real processes of the command line are killed with SIGKILL. The steps call a real tool, which writes
each call into a file.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forked import Forking, Process

PATIENCE = 60.0

TOOLS = '''
import json, os

def note(what: str) -> dict:
    """Note something."""
    file = os.open("calls.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, (what + "\\n").encode())
    os.close(file)
    return {"returncode": 0, "noted": what}
'''

WAIT = """
name: waits
inputs: {pause: 1h}
steps:
  - {name: first, tool: note, inputs: {what: first}}
  - {name: pause, wait: "{{ inputs.pause }}"}
  - {name: last, tool: note, inputs: {what: last}}
"""


class Place:
    """A directory in which a plan is run, and its processes."""

    def __init__(self, folder: Path, processes: Forking, plan: str, tools: str = TOOLS) -> None:
        self.folder = folder
        self._processes = processes
        (folder / "plan.yaml").write_text(plan)
        (folder / "note_tools.py").write_text(tools)
        paths = [f"note_tools.{name}" for name in ("note", "look") if f"def {name}" in tools]
        (folder / "tools.yaml").write_text(f"tools: {json.dumps(paths)}\n")
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def start(self, *words: str) -> Process:
        return self._processes.start(words, cwd=self.folder, env=self.environment)

    def run(self, *words: str) -> Process:
        return self.start("run", "plan.yaml", "-r", "tools.yaml", *words)

    def end(self, process: Process) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in out + err, err
        assert process.returncode is not None
        return process.returncode, out, err

    def call(self, *words: str) -> tuple[int, str, str]:
        """A command that ends: its exit code and what it prints."""
        return self.end(self.start(*words))

    def resume(self, *words: str) -> tuple[int, str, str]:
        """Resume the latest run, once the killed process has let it go."""
        while True:
            code, out, err = self.call("resume", "-1", *words)
            if not (code == 2 and "is held by process" in err):
                return code, out, err
            time.sleep(0.05)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def events(self) -> list[dict[str, Any]]:
        found = list((self.folder / ".fractale" / "runs").glob("*/events.jsonl"))
        lines = found[0].read_text().split("\n")[:-1] if found else []
        return [json.loads(line) for line in lines]

    def of(self, kind: str, step: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == kind and e.get("step") == step]

    def until(self, true: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := true()):
            assert time.monotonic() < deadline, f"{what} never came"
            time.sleep(0.02)
        return found


@pytest.fixture
def place(tmp_path: Path, processes: Forking) -> Callable[..., Place]:
    return lambda plan, tools=TOOLS: Place(tmp_path, processes, plan, tools)


def test_a_detached_run_holds_no_process_and_continues_when_the_time_has_come(place):
    here = place(WAIT)
    code, _, err = here.end(here.run("-i", "pause=2s", "--detach"))
    assert code == 4
    assert "waiting until " in err
    assert "fractale resume --ready" in err
    code, out, _ = here.call("runs")
    assert "waits for pause (until " in out
    code, _, err = here.call("resume", "--ready")
    assert code == 0
    if here.events[-1]["status"] == "waiting":  # a slow machine has waited long enough
        assert "no run is ready: 1 run waiting until " in err
    here.until(lambda: "is over" in here.call("resume", "--ready")[2] or len(here.calls) > 1, "it")
    assert here.events[-1]["status"] == "success"
    assert here.calls == ["first", "last"]
    assert "no run is waiting for a job or a time" in here.call("resume", "--ready")[2]


def test_a_kill_neither_lengthens_nor_shortens_the_wait(place):
    here = place(WAIT)
    process = here.run()
    (first,) = here.until(lambda: here.of("timer", "pause"), "the wait")
    process.kill()
    here.end(process)
    assert here.call("resume", "--ready")[2].startswith("no run is ready: 1 run waiting until ")
    code, out, _ = here.resume("--detach", "--json")
    assert code == 4
    last = json.loads(out.splitlines()[-1])
    (waiting,) = last["waiting"]
    assert waiting["due"] == first["due"]
    assert here.calls == ["first"]


@pytest.mark.parametrize("point", ["step_started", "timer", "step_finished"])
def test_a_kill_at_any_point_of_the_wait_repeats_nothing(place, point):
    here = place(WAIT)
    process = here.run("-i", "pause=1s")
    here.until(lambda: here.of(point, "pause"), point)
    process.kill()
    here.end(process)
    code, out, err = here.resume()
    assert code == 0, out + err
    assert here.calls == ["first", "last"]
    end = here.of("step_finished", "pause")[-1]  # told again if its checkpoint was not written
    assert end["seconds"] >= 1


LOOK = '''
import os, time

def look() -> dict:
    """Look whether the service is ready, and note that."""
    file = os.open("calls.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, b"look\\n")
    os.close(file)
    with open("calls.txt") as calls:
        count = len(calls.read().splitlines())
    time.sleep(0.3)
    if os.path.exists("fails") and count < 3:
        raise ValueError("the service is down")
    return {"status": "ready" if count >= 3 else "booting", "count": count}
'''

POLL = """
name: polls
steps:
  - {name: poll, tool: look, until: status == 'ready', every: 1s, timeout: 1m}
outputs: {count: "{{ steps.poll.outputs.count }}"}
"""

RETRY = """
name: retries
steps:
  - {name: poll, tool: look, retry: {attempts: 5, delay: 1s, on: failure}}
outputs: {count: "{{ steps.poll.outputs.count }}"}
"""


def finish(here: Place) -> dict[str, Any]:
    """Resume to the end, and say of a call in doubt that it was made, as `calls.txt` shows."""
    answers: list[str] = []
    for _ in range(10):
        code, out, err = here.resume("--json", *answers)
        last = json.loads(out.splitlines()[-1])
        if code == 0:
            return last
        assert code == 4, out + err
        (question,) = last["waiting"]
        assert question["kind"] == "in_doubt", question
        count = len(here.calls)
        outputs = {"status": "ready" if count >= 3 else "booting", "count": count}
        answers = ["--answer", f"poll={json.dumps({'outputs': outputs})}"]
    raise AssertionError("the run never ends")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("point", ["tool_started", "tool_finished", "timer"])
def test_a_killed_poll_repeats_no_call(place, point, number):
    here = place(POLL, LOOK)
    process = here.run()
    here.until(lambda: len(here.of(point, "poll")) >= number, point)
    if point == "tool_started":
        here.until(lambda: len(here.calls) >= number, "the call")
    process.kill()
    here.end(process)
    last = finish(here)
    assert last["outputs"] == {"count": 3}
    assert len(here.calls) == 3
    assert [step["attempt"] for step in last["steps"]] == [1]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("point", ["tool_finished", "warning", "timer"])
def test_a_killed_retry_repeats_no_try(place, point, number):
    here = place(RETRY, LOOK)
    (here.folder / "fails").touch()
    process = here.run()
    here.until(lambda: len(here.of(point, "poll")) >= number, point)
    process.kill()
    here.end(process)
    last = finish(here)
    assert last["outputs"] == {"count": 3}
    assert len(here.calls) == 3
    warnings = {each["message"] for each in here.of("warning", "poll")}
    assert len(warnings) == 2


def test_a_detached_poll_is_continued_by_ready_until_its_answer_is_there(place):
    here = place(POLL, LOOK)
    code, _, err = here.end(here.run("--detach"))
    assert code == 4
    assert "calls `look` again in 1.0 s (call 2), at " in err
    assert "; at most until " in err

    def ended() -> bool:
        here.call("resume", "--ready")
        return here.events[-1]["status"] == "success"

    here.until(ended, "the end")
    assert here.events[-1]["outputs"] == {"count": 3}
    assert len(here.calls) == 3


ITEMS = """
name: items
steps:
  - name: pause
    foreach: range(3) | list
    max_parallel: 2
    wait: 1s
  - {name: last, tool: note, inputs: {what: last}}
"""


def test_items_that_wait_keep_their_slots_and_are_continued(place):
    here = place(ITEMS)
    code, out, _ = here.end(here.run("--detach", "--json"))
    assert code == 4
    waiting = json.loads(out.splitlines()[-1])["waiting"]
    assert [each["step"] for each in waiting] == ["pause[0]", "pause[1]", "pause[2]"]
    assert "due" not in waiting[2], "it has no slot yet"

    def ended() -> bool:
        here.call("resume", "--ready")
        return here.events[-1]["status"] == "success"

    here.until(ended, "the end")
    assert here.calls == ["last"]


def test_a_cancelled_wait_is_left_alone_and_can_be_resumed(place):
    here = place(WAIT)
    here.end(here.run("--detach", "-i", "pause=1s"))
    code, out, _ = here.call("cancel", "-1", "--yes")
    assert code == 0
    assert "stopped run " in out
    assert "continues the run" in out
    time.sleep(1)
    assert "no run is waiting for a job or a time" in here.call("resume", "--ready")[2]
    assert here.resume()[0] == 0
    assert here.calls == ["first", "last"]


def test_a_waiting_run_that_is_cancelled_does_not_name_ready(place):
    here = place(WAIT)
    process = here.run()
    here.until(lambda: here.of("timer", "pause"), "the wait")
    assert here.call("cancel", "-1", "--yes")[0] == 0
    code, _, err = here.end(process)
    assert code == 75
    assert "stopped on request (fractale cancel)" in err
    assert "--ready" not in err
    stops = [each for each in here.events if each["event"] == "run_finished"]
    assert [each["next"] for each in stops] == [[f"fractale resume {stops[0]['run']}"]] * 2


def test_after_ctrl_c_cancel_is_named_for_a_plan_with_finally(place):
    here = place(WAIT + "finally: [{name: clean, tool: note, inputs: {what: clean}}]\n")
    process = here.run()
    here.until(lambda: here.of("timer", "pause"), "the wait")
    process.send_signal(signal.SIGINT)
    _, _, err = here.end(process)
    run = here.events[-1]["run"]
    assert f"fractale cancel {run}    runs its `finally` steps\n" in err
    assert here.events[-1]["finally_due"]
    assert f"fractale cancel {run}" in here.events[-1]["next"]
    assert here.call("cancel", "-1", "--yes")[0] == 0
    assert here.calls == ["first", "clean"]
    assert here.events[-1]["next"] == [f"fractale resume {run}"]
