"""A run of another process, watched: in a pipe, on a terminal, to each of its ends."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from test_cli import TOOLS, environment, fractale

from forked import Process
from forked import start as start_process
from snapshot import assert_same
from tmux import Tmux, normal

PATIENCE = 60.0
PAUSED = '''
import pathlib

def paused(name: str = "go") -> dict:
    """Wait for a file."""
    while not pathlib.Path(name).exists():
        time.sleep(0.02)
    return {}
'''
PLAN = """
name: p
description: A plan that waits
steps:
  - {name: first, tool: greet, inputs: {who: you}}
  - {name: second, tool: paused}
outputs: {text: "{{ steps.first.outputs.text }}"}
"""
ASKS = """
name: p
steps:
  - {name: submit, tool: touch, inputs: {path: "made"}, approve: always}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS + PAUSED)
    names = ("greet", "fail", "touch", "paused")
    entries = "".join(f"  - path: my_tools.{name}\n" for name in names)
    (tmp_path / "tools.yaml").write_text(f"tools:\n{entries}")
    (tmp_path / "p.yaml").write_text(PLAN)
    return tmp_path


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., Process]]:
    """Starts commands; those that are left are killed."""
    processes: list[Process] = []

    def begin(*words: str, **env: str) -> Process:
        process = start_process(words, cwd=project, env=environment(project, **env))
        processes.append(process)
        return process

    yield begin
    (project / "go").touch()
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def events_of(project: Path) -> list[dict[str, Any]]:
    found = list(project.glob(".fractale/runs/*/events.jsonl"))
    return [json.loads(line) for line in found[0].read_text().splitlines()] if found else []


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_progress(project: Path, step: str) -> bool:
    return any(e["event"] == "step_started" and e["step"] == step for e in events_of(project))


def wait_for(process: Process, text: str) -> str:
    """Read stdout until a line with that text, and return the line."""
    assert process.stdout is not None
    while text not in (line := process.stdout.readline()):
        assert line, f"it ended before it said `{text}`"
    return line


def test_a_watched_run_reads_as_at_its_own_terminal_live_and_afterwards(project, start):
    run = start("run", "p.yaml", "-r", "tools.yaml")
    until(lambda: in_progress(project, "second"))
    watching, as_events = start("watch", "-1"), start("watch", "-1", "--json")
    first = [line for text in ("A plan", "first") if (line := wait_for(watching, text))]
    (project / "go").touch()
    out, _ = watching.communicate()
    _, err = run.communicate()
    assert (run.returncode, watching.returncode) == (0, 0)
    shown = [line for line in err.splitlines() if "noise" not in line]
    assert (first[0] + "\n" + first[1] + out).splitlines() == shown
    afterwards = fractale(project, "watch", "-1")
    assert afterwards.stdout.splitlines() == shown
    out, _ = as_events.communicate()
    assert [json.loads(line) for line in out.splitlines()] == events_of(project)
    quiet = fractale(project, "watch", "-1", "--quiet")
    assert quiet.stdout.startswith("success")


def test_a_question_that_is_asked_elsewhere_is_shown_with_the_command_that_answers_it(project):
    (project / "p.yaml").write_text(ASKS)
    command = (sys.executable, "-m", "fractale.cli")
    env = environment(project, FRACTALE_TRUST_PROJECT="1")
    run_words = (*command, "run", "p.yaml", "-r", "tools.yaml", "--run-id", "asks1")
    with Tmux(project, *run_words, env=env) as asking:
        asking.ask_for("y once")
        with Tmux(project, *command, "watch", "asks1", env=env, size=(80, 24)) as screen:
            shown = screen.wait_for("waits for you")
            asking.type("y")
            assert screen.end() == 0
            last = screen.screen()
        assert asking.end() == 0
    assert_same("watch_question", normal(shown).replace("asks1", "k7f3a"))
    assert "submit: touch → yes" in last
    assert "●" not in last


def test_ctrl_c_ends_the_watching_and_not_the_run(project, start):
    run = start("run", "p.yaml", "-r", "tools.yaml")
    until(lambda: in_progress(project, "second"))
    watching = start("watch", "-1")
    wait_for(watching, "first")
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate()
    assert watching.returncode == 130
    assert "no longer watched; run" in err
    assert "continues: process" in err
    (project / "go").touch()
    assert run.wait() == 0


def test_a_run_whose_process_is_killed_ends_the_watching_with_the_way_on(project, start):
    run = start("run", "p.yaml", "-r", "tools.yaml")
    until(lambda: in_progress(project, "second"))
    watching = start("watch", "-1")
    wait_for(watching, "first")
    run.kill()
    out, _ = watching.communicate()
    assert watching.returncode == 75
    assert "stopped · its process was killed" in out
    assert "fractale resume" in out


JOB = """
name: p
steps:
  - name: melt
    job: {script: "while [ ! -e go ]; do sleep 0.05; done", scheduler: local}
"""


def test_a_run_without_a_process_is_watched_until_one_resumes_it(project, start):
    (project / "p.yaml").write_text(JOB)
    assert fractale(project, "run", "p.yaml", "--detach").returncode == 4
    watching = start("watch", "-1")
    wait_for(watching, "waiting")
    wait_for(watching, "watched until a process resumes it")
    (project / "go").touch()
    assert "of `melt` has ended; next: fractale resume" in wait_for(watching, "job ")
    assert fractale(project, "resume", "--ready").returncode == 0
    out, _ = watching.communicate()
    assert watching.returncode == 0
    assert "✓ melt" in out
    assert "success" in out


def test_a_run_that_is_not_there_is_waited_for_a_moment_and_then_wrong_use(project):
    done = fractale(project, "watch", "abcde")
    assert done.returncode == 2
    assert "run `abcde` not found" in done.stderr


# -- the text of a model ---------------------------------------------------------------------------


class SlowModel(BaseHTTPRequestHandler):
    """Speaks OpenAI's protocol; the end of its answer comes when it is released."""

    release = Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._piece({"role": "assistant", "content": "Once upon a \x1b[31mtime\u202e"})
        self.release.wait(PATIENCE)
        self._piece({"content": " it ended."})
        self._piece({}, finish_reason="stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _piece(self, delta: dict[str, Any], **more: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
        body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        line = json.dumps({**body, "choices": [choice]})
        self.wfile.write(f"data: {line}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None: ...


def test_the_text_of_a_model_is_seen_while_another_process_receives_it(project, start):
    (project / "p.yaml").write_text(
        'name: p\nsteps: [{name: tell, type: agent, instruction: Tell., model: "openai:m"}]\n'
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowModel)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        run = start("run", "p.yaml", OPENAI_BASE_URL=url, OPENAI_API_KEY="k-1234567890")
        until(lambda: any(e["event"] == "model_started" for e in events_of(project)))
        words = (sys.executable, "-m", "fractale.cli", "watch", "-1")
        with Tmux(project, *words, env=environment(project), size=(40, 15)) as screen:
            shown = screen.wait_for("Once upon a")
            SlowModel.release.set()
            assert screen.end() == 0
        assert run.wait() == 0
    finally:
        SlowModel.release.set()
        server.shutdown()
        server.server_close()
    assert "\x1b" not in shown
    assert not list(project.glob(".fractale/runs/*/written.json"))
