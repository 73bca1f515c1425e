"""Every command with every kind of output: a closed pipe, a full device, a terminal, JSON, Ctrl-C.

The processes are forked off one that has imported everything; a few real ones have closed
streams, which a forked one can't have.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forked import Forking, Process, forking
from fractale.cli import COMMANDS
from fractale.settings import Settings
from fractale.sweeps.begin import prepare, write_sweep
from fractale.sweeps.spec import SweepSpec, axes_from_texts
from fractale.testing import ModelServer, Reply
from fractale.testing.model_server import ModelRequest
from store_runs import unmeasured

ANSI = re.compile(r"\x1b")
COLOR = re.compile(r"\x1b\[(?!0?m)[0-9;]*m")
TOOLS = '''
import os, time

print("noise on stdout while it is imported")
os.system("echo noise of a program")

def greet(who: str) -> dict:
    """Say hello."""
    print("noise on stdout from inside a tool")
    return {"text": f"hello {who}"}

def wait(seconds: float = 300) -> dict:
    """Wait."""
    open("waiting", "w").close()
    time.sleep(seconds)
    return {}

def expert_on(topic: str) -> str:
    """An expert."""
    return f"You are an expert on {topic}."

class Tuner:
    """A sub-agent."""
    name = "tuner"
    description = "Tunes."
    input_schema = {
        "type": "object",
        "properties": {"goal": {"type": "string"}, "nodes": {"type": "integer"}},
        "required": ["goal", "nodes"],
        "annotations": {"fractale.type": "agent"},
    }
    async def __call__(self, goal, nodes):
        print("noise on stdout from inside an agent")
        return {"tuned": goal, "nodes": nodes}
'''
REGISTRY = """
tools:
  - {path: my_tools.greet, annotations: {readOnlyHint: true}}
  - {path: my_tools.wait}
prompts:
  - {path: my_tools.expert_on}
"""
HELLO = """
name: hello
inputs: {who: world}
steps: [{name: greet, tool: greet, inputs: {who: "{{ inputs.who }}"}}]
outputs: {text: "{{ steps.greet.outputs.text }}"}
"""
ASKS = """
name: asks
steps: [{name: greet, tool: greet, inputs: {who: me}, approve: always}]
"""
DRAFTS = "name: drafts\nsteps: [{name: made, type: plan, instruction: Greet.}]\n"
WAITS = "name: waits\nsteps: [{name: wait, tool: wait}]\n"
PLANS = {"hello": HELLO, "asks": ASKS, "drafts": DRAFTS, "waits": WAITS}

R = ("-r", "tools.yaml")
AGENT = ("agent", "-a", "my_tools.Tuner", "-i", "nodes=2", "--direct", "tuner", "faster")
MODEL = ("--model", "openai:scripted", "--yes")
PROMPT = ("prompt", "--direct", *R, *MODEL, "Greet Ada.")
CALLS: dict[str, tuple[tuple[str, ...], int]] = {
    "run": (("run", "hello.yaml", *R), 0),
    "run, waits": (("run", "asks.yaml", *R), 4),
    "run --dry-run": (("run", "hello.yaml", *R, "--dry-run"), 0),
    "agent": (AGENT, 0),
    "prompt": (PROMPT, 0),
    "resume": (("resume", "asked"), 4),
    "fork": (("fork", "first", "--at", "greet"), 0),
    "replay": (("replay", "first"), 0),
    "test": (("test", "recordings"), 0),
    "runs": (("runs",), 0),
    "runs prune": (("runs", "prune", "--keep", "1000", "--dry-run"), 0),
    "sweep --dry-run": (("sweep", "hello.yaml", *R, "--over", "who=Ada,Bo", "--dry-run"), 0),
    "sweep list": (("sweep", "list"), 0),
    "sweep show": (("sweep", "show", "greetings"), 0),
    "sweep watch": (("sweep", "watch", "greetings"), 75),
    "sweep export": (("sweep", "export", "greetings"), 0),
    "run --why": (("run", "hello.yaml", *R, "--why", "--dry-run"), 0),
    "cache": (("cache",), 0),
    "watch": (("watch", "first"), 0),
    "show": (("show", "first"), 0),
    "show step": (("show", "first", "greet"), 0),
    "answer": (("answer", "asked"), 0),
    "cancel": (("cancel", "first"), 0),
    "diff": (("diff", "first", "second"), 0),
    "why": (("why", "second", "--since", "first"), 0),
    "report": (("report", "first", "-o", "-"), 0),
    "export": (("export", "first", "--graph", "mermaid"), 0),
    "export lines": (("export", "first", "--transitions", "-"), 0),
    "freeze": (("freeze", "drafted", "-o", "frozen.yaml"), 0),
    "validate": (("validate", "hello.yaml", *R, "--online"), 0),
    "graph": (("graph", "hello.yaml"), 0),
    "graph png": (("graph", "hello.yaml", "-f", "png"), 0),
    "list": (("list", *R), 0),
    "list --policy": (("list", *R, "--policy"), 0),
    "doctor": (("doctor", "hello.yaml", *R), 0),
    "discover": (("discover",), 0),
    "schema": (("schema",), 0),
    "schema --with-tools": (("schema", "--with-tools", *R), 0),
    "init": (("init", "begun"), 0),
    "new tool": (("new", "tool", "made_tool", "--registry", "added/tools.yaml"), 0),
    "examples": (("examples",), 0),
    "list shipped": (("list", "shipped"), 0),
    "config": (("config",), 0),
    "trust --show": (("trust", "--show"), 0),
    "version": (("version",), 0),
    "--help": (("--help",), 0),
    "run --help": (("run", "--help"), 0),
}
"""What is called, and its exit code where nothing is in its way."""

NOT_CALLED = {
    "demo": "loads a model, or runs batch jobs: tests/cli/test_wheel.py",
    "serve": "serves until it is stopped",
    "studio": "starts a server of its own",
    "top": "needs a terminal: tests/top",
    "web": "serves until it is stopped: tests/web",
    "logs": "needs a batch job: tests/cli/test_see_and_stop.py",
}
SAYS_IT_ON_STDERR = {"run", "run, waits", "agent", "prompt", "resume", "fork", "validate"}
"""What people read of these goes to stderr."""

HAS_JSON = {
    *(
        "run",
        "run, waits",
        "run --why",
        "agent",
        "prompt",
        "resume",
        "fork",
        "replay",
        "test",
        "runs",
    ),
    *(
        "answer",
        "watch",
        "cancel",
        "runs prune",
        "cache",
        "sweep list",
        "sweep show",
        "sweep watch",
        "show",
        "show step",
        "diff",
        "why",
        "validate",
        "list",
        "list --policy",
        "doctor",
    ),
    *(
        "discover",
        "config",
        "trust --show",
        "version",
        "examples",
        "list shipped",
        "init",
        "new tool",
    ),
}
GIVES_OUTPUTS = {"run", "agent", "prompt", "fork"}
"""Of these, the commands whose run succeeds and has outputs: the outputs go to stdout."""
ON_STDOUT = [name for name in CALLS if name not in SAYS_IT_ON_STDERR]
LINES = {
    *("run", "run, waits", "agent", "prompt", "resume", "fork", "runs", "watch"),
    *("sweep list", "sweep watch"),
}
"""Whose JSON is one object a line."""


WITHIN = {"new tool", "runs prune", "sweep list", "sweep show", "sweep watch", "sweep export"}
"""Commands of a group."""


def words_of(name: str, *more: str) -> list[str]:
    """The words of a call with more options, which stand behind the command."""
    words, _ = CALLS[name]
    head = 2 if name in WITHIN else 1
    return [*words[:head], *more, *words[head:]]


class Place:
    """A folder with plans, tools, runs and a recording, and processes that work in it."""

    def __init__(self, folder: Path, processes: Forking, url: str) -> None:
        self.folder, self._processes = folder, processes
        kept = {k: v for k, v in unmeasured().items() if k in ("PATH", "LANG", "TMPDIR")}
        self.environment = {
            **kept,
            "HOME": str(folder),
            "PYTHONPATH": str(folder),
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": "k-1234567890",
        }

    def start(self, *words: str, **options) -> Process:
        env = {**self.environment, **options.pop("env", {})}
        for left in (*self.folder.glob("frozen*"), *self.folder.glob("added")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return self._processes.start(words, cwd=self.folder, env=env, **options)

    def run(self, *words: str, **options) -> tuple[int, str, str]:
        """The exit code, stdout and stderr of a command."""
        process = self.start(*words, **options)
        stdout, stderr = process.communicate()
        assert process.returncode is not None
        return process.returncode, stdout, stderr


def manager(request: ModelRequest) -> Reply:
    """A manager that drafts one step, and an agent that is done at once."""
    if "Write the steps." not in json.dumps(request.body):
        return Reply(text="nothing to find out")
    greet = {"name": "greet", "tool": "greet", "inputs": {"who": "Ada"}}
    return Reply(data={"steps": [greet], "outputs": {}})


def write_greetings(folder: Path) -> None:
    """The record of a sweep that was written and not driven."""
    settings = replace(Settings(), state_dir=folder / ".fractale")
    over = axes_from_texts(["who=Ada,Bo"])
    spec = SweepSpec(plan=str(folder / "hello.yaml"), over=over)
    write_sweep(prepare(spec, settings), settings, "greetings")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "my_tools.py").write_text(TOOLS)
    (folder / "tools.yaml").write_text(REGISTRY)
    for name, plan in PLANS.items():
        (folder / f"{name}.yaml").write_text(plan)
    with ModelServer(manager) as model, forking().ending() as processes:
        made = Place(folder, processes, model.openai_url)
        for run, who in (("first", "Ada"), ("second", "Bo")):
            code, _, said = made.run("run", "hello.yaml", *R, "--run-id", run, "-i", f"who={who}")
            assert code == 0, said
        drafted = made.run("run", "drafts.yaml", *R, *MODEL, "--run-id", "drafted")
        assert drafted[0] == 0, drafted
        assert made.run("run", "asks.yaml", *R, "--run-id", "asked")[0] == 4
        write_greetings(folder)
        done = made.run("export", "first", "--recording", "recordings/first.zip")
        assert done[0] == 0, done
        yield made


def test_every_command_is_called_here():
    called = {words[0] for words, _ in CALLS.values()} - {"--help"}
    missing = set(COMMANDS) - called - set(NOT_CALLED)
    assert not missing, f"add {sorted(missing)} to CALLS above, or to NOT_CALLED with the reason"
    assert called | set(NOT_CALLED) == set(COMMANDS)


def test_the_commands_that_have_json_are_known():
    import click

    from fractale.cli import cli

    for name in CALLS:
        words = [word for word in CALLS[name][0] if not word.startswith("-")]
        if not words:
            continue
        command = cli.get_command(click.Context(cli), words[0])
        if name in WITHIN:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), words[1])
        assert command is not None
        has = any("--json" in param.opts for param in command.params)
        if name not in ("run --help", "run --dry-run", "run --why", "sweep --dry-run"):
            where = "add it to" if has else "take it out of"
            assert has == (name in HAS_JSON), f"`{name}`: {where} HAS_JSON above"


@contextlib.contextmanager
def nobody_reads() -> Iterator[int]:
    """The end of a pipe whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def is_quiet(said: str) -> bool:
    """Whether nothing is said of what only looks like a fault."""
    signs = ("Traceback", "Exception ignored", "Broken pipe", "BrokenPipe", "bug in fractale")
    return not any(sign in said for sign in signs)


@pytest.mark.parametrize("name", ON_STDOUT)
def test_where_nobody_reads_on_a_command_ends_quietly(place, name):
    with nobody_reads() as stdout:
        code, _, said = place.run(*words_of(name), stdout=stdout)
    assert code == 141, said
    assert "error" not in said
    assert is_quiet(said)


@pytest.mark.parametrize("name", sorted(HAS_JSON))
def test_where_nobody_reads_its_json_a_command_ends_quietly(place, name):
    with nobody_reads() as stdout:
        code, _, said = place.run(*words_of(name, "--json"), stdout=stdout)
    assert code == 141, said
    assert is_quiet(said)


@pytest.mark.parametrize("name", sorted(SAYS_IT_ON_STDERR))
def test_where_nobody_reads_what_is_said_a_command_ends_without_a_traceback(place, name):
    with nobody_reads() as stderr:
        code, told, _ = place.run(*words_of(name), stderr=stderr)
    assert code in (CALLS[name][1], 75, 141)
    assert is_quiet(told)


@pytest.mark.parametrize("name", ON_STDOUT)
def test_output_that_cannot_be_written_is_an_error_that_says_so(place, name):
    stdout = os.open("/dev/full", os.O_WRONLY)
    try:
        code, _, said = place.run(*words_of(name), stdout=stdout)
    finally:
        os.close(stdout)
    assert code == 1, said
    assert "cannot write" in said
    assert is_quiet(said)


@pytest.mark.parametrize("name", ["list", "runs", "schema"])
def test_output_that_may_not_be_written_is_an_error_that_says_so(place, name):
    stdout = os.open("/dev/null", os.O_RDONLY)
    try:
        code, _, said = place.run(*words_of(name), stdout=stdout)
    finally:
        os.close(stdout)
    assert code == 1, said
    assert "cannot write" in said
    assert is_quiet(said)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_terminal_gets_no_escape_codes(place, name):
    code, stdout, stderr = place.run(*words_of(name), env={"COLUMNS": "80", "TERM": "xterm"})
    assert code == CALLS[name][1], stdout + stderr
    if name != "graph png":
        assert not ANSI.search(stdout + stderr)
    if name in SAYS_IT_ON_STDERR:
        assert bool(stdout) == (name in GIVES_OUTPUTS)
        assert stderr
    else:
        assert stdout


@pytest.mark.parametrize("name", sorted(HAS_JSON))
def test_json_alone_is_on_stdout(place, name):
    code, stdout, stderr = place.run(*words_of(name, "--json"))
    assert code == CALLS[name][1], stdout + stderr
    assert not ANSI.search(stdout + stderr)
    texts = stdout.splitlines() if name in LINES else [stdout]
    assert texts
    assert all(isinstance(json.loads(text), dict | list) for text in texts)


def on_a_terminal(place: Place, words: Sequence[str], **env: str) -> tuple[int, str]:
    """The exit code of a command and all that it wrote to a terminal."""
    master, slave = pty.openpty()
    given = {"TERM": "xterm-256color", "LANG": "C.UTF-8", **env}
    process = place.start(*words, env=given, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    with contextlib.suppress(OSError):  # nobody writes to it any more
        while data := os.read(master, 1 << 16):
            seen += data
    os.close(master)
    return process.wait(), seen.decode(errors="replace")


@pytest.mark.parametrize("name", [name for name in CALLS if name != "graph png"])
def test_a_terminal_without_colour(place, name):
    code, seen = on_a_terminal(place, words_of(name), NO_COLOR="1")
    assert code == CALLS[name][1], seen
    assert not COLOR.search(seen)
    if name in ON_STDOUT:  # the others move the cursor where steps are shown
        assert not ANSI.search(seen)


@pytest.mark.parametrize("name", sorted(HAS_JSON))
def test_json_on_a_terminal_has_no_escape_codes(place, name):
    code, seen = on_a_terminal(place, words_of(name, "--json"))
    assert code == CALLS[name][1], seen
    assert not ANSI.search(seen)


def test_a_terminal_has_colour_where_nothing_speaks_against_it(place):
    for name in ("run", "show", "doctor", "discover", "runs"):
        assert COLOR.search(on_a_terminal(place, words_of(name))[1]), name


# -- Ctrl-C ----------------------------------------------------------------------------------------

SLOW = "#!/bin/sh\necho $$ > {folder}/{name}.pid\nexec sleep 300\n"


@pytest.fixture
def slow(place) -> Iterator[Path]:
    """A folder of programs that never answer, and a settings file with such a server."""
    folder = place.folder / "slow"
    folder.mkdir(exist_ok=True)
    for name in ("sinfo", "mcp-server"):
        (folder / name).write_text(SLOW.format(folder=folder, name=name))
        (folder / name).chmod(0o755)
        (folder / f"{name}.pid").unlink(missing_ok=True)
    (place.folder / "waiting").unlink(missing_ok=True)
    settings = place.folder / ".config" / "fractale" / "config.yaml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(f"servers: {{slow: {{command: {folder}/mcp-server}}}}\n")
    yield folder
    settings.unlink()


def until(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONG: dict[str, tuple[tuple[str, ...], str]] = {
    "run": (("run", "waits.yaml", *R), "waiting"),
    "run, servers": (("run", "hello.yaml", *R), "slow/mcp-server.pid"),
    "validate": (("validate", "hello.yaml", *R, "--online"), "slow/mcp-server.pid"),
    "list": (("list", *R), "slow/mcp-server.pid"),
    "agent": (AGENT, "slow/mcp-server.pid"),
    "prompt": (PROMPT, "slow/mcp-server.pid"),
    "fork": (("fork", "first", "--at", "greet"), "slow/mcp-server.pid"),
    "resume": (("resume", "asked", "--answer", "greet=yes"), "slow/mcp-server.pid"),
    "replay": (("replay", "first", "--live", "tools"), "slow/mcp-server.pid"),
    "doctor": (("doctor",), "slow/sinfo.pid"),
    "discover": (("discover", "--refresh"), "slow/sinfo.pid"),
}
"""What is called, and the file that is there once it waits for something slow."""


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_ends_a_command_that_waits(place, slow, name):
    words, sign = LONG[name]
    if name == "run":
        (place.folder / ".fractale" / "config.yaml").write_text("{}\n")
    path = f"{slow}:{place.environment['PATH']}"
    process = place.start(*words, env={"PATH": path})
    file = place.folder / sign
    said = ""  # kept, since another program that is started may write the file anew

    def begun() -> bool:
        nonlocal said
        said = file.read_text() if file.exists() else ""
        return bool(said.strip()) or (sign == "waiting" and file.exists())

    until(begun, process)
    process.send_signal(signal.SIGINT)
    told, error = process.communicate(timeout=60)
    assert process.returncode == 130, told + error
    assert is_quiet(error)
    assert "interrupted" in error
    if sign != "waiting":
        assert not is_there(int(said))


# -- streams that are closed from the start --------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("name", ["list", "run", "runs", "doctor", "config"])
def test_a_stream_that_is_closed_from_the_start(place, name, number):
    words, code = CALLS[name]
    command = [sys.executable, "-m", "fractale.cli", *words]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {number}{"<" if number == 0 else ">"}&-', "sh", *command],
        cwd=place.folder,
        env=place.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert is_quiet(done.stderr)
    if number != 1 and name in ON_STDOUT:
        assert done.stdout
