"""What never returns can be ended: the second SIGTERM does it at once, and says what is unknown."""

from __future__ import annotations

import json
import signal
import sys
import time

import pytest

from held import PATIENCE, ended, project, wait_until
from servers.running import FOLDER, children_of, exists

STUCK = '''
import time

def change(what: str) -> dict:
    """Change something, in a thread."""
    open("held", "w").close()
    time.sleep(600)

async def block(what: str) -> dict:
    """Change something, and hold up the event loop."""
    open("held", "w").close()
    time.sleep(600)
'''
LOG = '''
def change(what: str) -> dict:
    """Give a log."""
    return {"log": "a" * 60 + "!"}
'''
REGISTRY = "tools: [{path: held_tools.change}, {path: held_tools.block}]\n"


@pytest.fixture
def held(tmp_path, processes):
    with project(tmp_path, processes) as made:
        yield made


def plan(tool: str, inputs: str = "what: it") -> str:
    return f"name: p\nsteps: [{{name: s, tool: {tool}, inputs: {{{inputs}}}}}]\n"


def with_server(held, *words: str) -> None:
    own = held.folder / ".config" / "fractale"  # a server of a project would be confined
    own.mkdir(parents=True)
    servers = {"servers": {"t": {"command": sys.executable, "args": [*words]}}}
    (own / "config.yaml").write_text(json.dumps(servers))


def send(process, *numbers: int) -> None:
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.5)


def ends_soon(process) -> None:
    """Long before the call that it waits for would return."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None:
        assert time.monotonic() < until, "it never ended"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGTERM, signal.SIGTERM), 75),
        ((signal.SIGUSR1, signal.SIGTERM), 75),
        ((signal.SIGINT,), 130),
    ],
    ids=["twice", "slurm", "ctrl-c"],
)
def test_a_call_that_never_returns_is_ended_and_asked_about(held, numbers, code):
    with_server(held, str(FOLDER / "tools_server.py"))
    process = held.run(plan("t.slow", f"seconds: 600, folder: {held.folder}"))
    wait_until((held.folder / "started").exists, process)
    children = [*children_of(process.pid)]
    assert children
    send(process, *numbers)
    last = ended(process, code)
    assert last["event"] == "run_finished"
    assert last["status"] == "stopped"
    assert "it is not known whether `t.slow` of step `s` was done" in last["error"]
    assert last["next"] == [f"fractale resume {last['run']}"]
    assert not any(exists(child) for child in children)
    asked = ended(held.start("resume", "-1"), 4)
    assert asked["waiting"][0]["kind"] == "in_doubt"
    assert asked["waiting"][0]["step"] == "s"


def test_two_signals_within_a_moment_are_one(held):
    with_server(held, str(FOLDER / "tools_server.py"))
    process = held.run(plan("t.slow", f"seconds: 3, folder: {held.folder}"))
    wait_until((held.folder / "started").exists, process)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    last = ended(process, 0)
    assert last["status"] == "success", "the run was at its last step"


def test_a_server_that_never_says_hello_is_ended_by_the_first(held):
    with_server(held, "-c", "import time; open('held', 'w').close(); time.sleep(600)")
    process = held.run(plan("t.slow"))
    wait_until((held.folder / "held").exists, process)
    children = [*children_of(process.pid)]
    send(process, signal.SIGTERM)
    ends_soon(process)
    out, err = process.communicate()
    assert (process.returncode, out) == (75, "")
    assert "stopped before the run began" in err
    assert not any(exists(child) for child in children)


def test_a_model_that_never_answers_is_ended(held):
    held.hold_model()
    process = held.run("name: p\nsteps: [{name: s, instruction: WORK, tools: [change]}]\n")
    wait_until(held.held.is_set, process)
    send(process, signal.SIGTERM, signal.SIGTERM)
    last = ended(process, 75)
    assert last["error"] == "interrupted", "a model may be asked again"
    held.release_model()
    assert ended(held.start("resume", "-1", "--yes"), 0)["status"] == "success"


@pytest.mark.parametrize("tool", ["change", "block"], ids=["thread", "loop"])
@pytest.mark.parametrize("numbers", [(15, 15, 15), (2, 2)], ids=["third", "ctrl-c"])
def test_a_function_that_never_returns_is_left_behind(held, tool, numbers):
    (held.folder / "held_tools.py").write_text(STUCK)
    (held.folder / "tools.yaml").write_text(REGISTRY)
    process = held.run(plan(tool))
    wait_until((held.folder / "held").exists, process)
    send(process, *numbers)
    ends_soon(process)
    out, err = process.communicate()
    assert process.returncode == (130 if 2 in numbers else 75), err
    assert "Traceback" not in out + err
    told = out + err
    assert f"it is not known whether `{tool}` of step `s` was done" in told.replace("local.", "")
    assert "fractale resume" in told
    (held.folder / "held_tools.py").write_text(STUCK.replace("600", "0"))
    assert ended(held.start("resume", "-1"), 4)["waiting"][0]["kind"] == "in_doubt"


def test_what_holds_up_the_loop_is_left_behind_after_a_while(held):
    (held.folder / "held_tools.py").write_text(STUCK)
    (held.folder / "tools.yaml").write_text(REGISTRY)
    process = held.run(plan("block"))
    wait_until((held.folder / "held").exists, process)
    send(process, signal.SIGTERM, signal.SIGTERM)
    ends_soon(process)
    assert process.returncode == 75


def test_a_pattern_that_takes_forever_ends_the_step(held):
    (held.folder / "held_tools.py").write_text(LOG)
    (held.folder / "tools.yaml").write_text("tools: [{path: held_tools.change}]\n")
    log = "{type: string, pattern: '^(?=a)(a|aa)+$'}"
    schema = f"output_schema: {{type: object, properties: {{log: {log}}}}}"
    step = f"name: s, tool: change, inputs: {{what: it}}, {schema}"
    last = ended(held.run(f"name: p\nsteps: [{{{step}}}]\n"), 1)
    assert last["decided"]["by"] == "schema"
    assert "avoid repeats inside repeats" in last["decided"]["reason"]
