"""A site's rules, seen from outside on a whole run: by strace, by ss, and in /proc.

The run has each kind of thing that a run can do: a server that it starts, a model, a job of a batch
system (a stand-in), a local job, a call that needs approval, a secret input.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forked import run as run_cli
from fractale.settings import STARTED_BY
from fractale.testing import ModelServer
from fractale.testing.model_server import Reply
from servers.running import FOLDER as SERVERS
from stand_in_site import FOLDER as STAND_IN

NEEDED = ("strace", "ss")
ABSENT = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"no {', '.join(ABSENT)} (strace, iproute2)")

POLL_SECONDS = 2.0
KEY, INPUT, PASSWORD = "sk-canary-key-0123456789", "canary-input-987654", "canary-password-55555"
PLAN = """
name: all
inputs: {pw: {type: string, secret: true}}
steps:
  - {name: tool, tool: t.echo, inputs: {value: 1}}
  - {name: secret, tool: t.echo, inputs: {value: "{{ inputs.pw }}"}}
  - {name: slow, tool: t.slow, inputs: {seconds: 2, folder: FOLDER}}
  - {name: asked, instruction: WORK, tools: [t.echo]}
  - {name: local, job: {scheduler: local, command: [sh, -c, "echo local"]}}
  - {name: batch, job: {scheduler: pbs, command: [sleep, "7"]}}
"""
CALLS = "trace=execve,listen,bind,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink"
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
LINE = re.compile(r"^(\d+) +([\d.]+) (\w+)\((.*)\) += (-?\d+)")
OPENED = re.compile(r'^(?:AT_FDCWD<([^>]*)>|\d+<([^>]*)>), "((?:[^"\\]|\\.)*)", ([A-Z_|0-9a-x]+)')


class Traced:
    """A run, and each system call of it and of what it started."""

    def __init__(self, folder: Path, project: Path, listening: set[str]) -> None:
        self.folder, self.project, self.listening = folder, project, listening
        text = (folder / "trace").read_text(errors="replace")
        # What another process interrupted is in two lines.
        begun: dict[tuple[str, str], str] = {}
        self.calls: list[tuple[int, float, str, str, int]] = []
        for line in text.splitlines():
            pid, _, rest = line.partition(" ")
            if "<unfinished ...>" in rest:
                begun[pid, rest.split()[1].partition("(")[0]] = line.partition(" <unfinished")[0]
                continue
            if found := re.search(r"<\.\.\. (\w+) resumed>(.*)", rest):
                line = begun.pop((pid, found[1]), "") + found[2]
            if match := LINE.match(line):
                self.calls.append(
                    (int(match[1]), float(match[2]), match[3], match[4], int(match[5]))
                )

    def of(self, *names: str) -> Iterator[tuple[int, float, str]]:
        for pid, when, name, arguments, code in self.calls:
            if name in names and code >= 0:
                yield pid, when, arguments

    def written(self) -> set[str]:
        """The files that were opened for writing, and the folders that were made."""
        found = set()
        for _, _, arguments in self.of("openat"):
            opened = OPENED.match(arguments)
            if opened and WRITES.search(opened[4]):
                found.add(os.path.normpath(Path(opened[1] or opened[2] or "/") / opened[3]))
        for _, _, arguments in self.of("mkdir", "creat"):
            path = re.match(r'"([^"]*)"', arguments)
            found.add(os.path.normpath(self.project / path[1]) if path else arguments)
        return found


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> Traced:
    folder = tmp_path_factory.mktemp("rules").resolve()
    project, site, home = folder / "project", folder / "site", folder / "home"
    own = home / ".config" / "fractale"
    for each in (project, site / "bin", site / "state", own):
        each.mkdir(parents=True)
    for name in ("qsub", "qstat", "qselect", "qdel"):
        words = f'exec {sys.executable} {STAND_IN / "scheduler.py"} {name} "$@"'
        (site / "bin" / name).write_text(f"#!/bin/sh\n{words}\n")
        (site / "bin" / name).chmod(0o755)
    server = {
        "command": sys.executable,
        "args": [str(SERVERS / "tools_server.py")],
        "env": {"MY_PASSWORD": PASSWORD},
    }
    settings = {"servers": {"t": server}, "poll_seconds": POLL_SECONDS}
    (own / "config.yaml").write_text(json.dumps(settings))
    (project / "all.yaml").write_text(PLAN.replace("FOLDER", str(site)))

    def model(request) -> Reply:
        if all(each["role"] != "tool" for each in request.body["messages"]):
            return Reply(tool_calls=[("echo", {"value": 2})])
        return Reply(text="done")

    with ModelServer(model) as answers:
        env = {
            "PATH": f"{site / 'bin'}:{os.environ['PATH']}",
            "HOME": str(home),
            "FAKE_STATE": str(site / "state"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENAI_BASE_URL": answers.openai_url,
            "OPENAI_API_KEY": KEY,
            "FRACTALE_INPUT_PW": INPUT,
        }
        words = [sys.executable, "-m", "fractale.cli", "run", "all.yaml", "--yes", "--json"]
        words += ["--model", "openai:scripted"]
        trace = ["strace", "-f", "-y", "-ttt", "-s", "4096", "-o", str(folder / "trace"), "-e"]
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            process = subprocess.Popen(
                [*trace, CALLS, *words], cwd=project, env=env, stdout=out, stderr=err
            )
            listening = set()
            while process.poll() is None:
                listening |= _listening_of(process.pid)
                time.sleep(0.3)
    last = json.loads((folder / "out").read_text().splitlines()[-1])
    assert process.returncode == 0, (last, (folder / "err").read_text())
    return Traced(folder, project, listening)


def _listening_of(pid: int) -> set[str]:
    """What ss says that a process and its descendants listen on."""
    said = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    return {line for line in said.splitlines() if set(re.findall(r"pid=(\d+)", line)) & _below(pid)}


def _below(pid: int) -> set[str]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            parents[entry.name] = text.rpartition(")")[2].split()[1]
    found, before = {str(pid)}, set()
    while found != before:
        before = set(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def test_nothing_listens(traced):
    assert [*traced.of("listen")] == []
    assert traced.listening == set()


def test_no_secret_is_in_the_arguments_of_a_process(traced):
    started = [arguments for _, _, arguments in traced.of("execve")]
    programs = " ".join(started)
    for program in ("tools_server.py", "qsub", "qstat", "sleep"):
        assert program in programs, "the run has started what it should"
    for secret in (KEY, INPUT, PASSWORD):
        assert not [each for each in started if secret in each]


def test_a_scheduler_is_not_asked_more_often_than_the_setting_says(traced):
    program = f'"{traced.folder / "site" / "bin" / "qstat"}"'
    asked = [when for _, when, words in traced.of("execve") if words.startswith(program)]
    assert len(asked) >= 3, "the job is waited for"
    rounds = [asked[0]]
    for when in asked:
        if when - rounds[-1] > 1.0:  # one look may take two calls
            rounds.append(when)
    pauses = [b - a for a, b in itertools.pairwise(rounds)]
    # The first look comes at once; the last one may find the job's own files.
    assert all(pause > POLL_SECONDS * 0.75 for pause in pauses), pauses


def test_files_are_written_in_the_state_folder_alone(traced):
    state = str(traced.project / ".fractale")
    site = str(traced.folder / "site")  # the stand-in's own, and what the tool was told to write
    key = f"{traced.folder}/home/.config/fractale/key"  # of the mark of one's own runs
    written = traced.written()
    assert any(re.fullmatch(f"{state}/runs/[^/]+/journal.jsonl", path) for path in written)
    others = {
        path
        for path in written
        if not path.startswith((f"{state}/", f"{site}/", key, "/dev/", "/proc/")) and path != state
    }
    assert others == set()


def test_what_is_written_is_for_the_user_alone(traced):
    state = traced.project / ".fractale"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "audit.jsonl").stat().st_mode) == 0o600


def test_what_was_agreed_to_is_in_the_audit_log(traced):
    text = (traced.project / ".fractale" / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert (lines[0]["what"], lines[0]["yes"], lines[0]["plan"]) == ("run", True, "all")
    assert all(line["uid"] == os.getuid() and line["host"] and line["time"] for line in lines)
    assert not any(secret in text for secret in (KEY, INPUT, PASSWORD))


def test_the_doctor_says_so(traced):
    env = {"HOME": str(traced.folder / "home"), "PATH": os.environ["PATH"], "OPENAI_API_KEY": KEY}
    ran = run_cli(["doctor", "--site-rules", "--json"], cwd=traced.project, env=env)
    report = json.loads(ran.stdout)
    found = {check["what"]: check for check in report["checks"]}
    assert "at most every 2 s" in found["polling"]["found"]
    for what in ("secrets in arguments", "state directory", "audit log"):
        assert found[what]["verdict"] == "ok", found[what]
    assert found["audit copy"]["verdict"] == "warning"


def test_the_doctor_finds_each_rule_broken(tmp_path):
    (tmp_path / ".fractale").mkdir(mode=0o755)
    (tmp_path / ".fractale").chmod(0o755)
    (tmp_path / ".fractale" / "runs").mkdir()
    (tmp_path / ".fractale" / "runs").chmod(0o777)
    settings = {
        "servers": {
            "t": {"command": "x", "args": ["--api-key", "0123456789abc"]},
            "h": {"command": "x", "args": ["--header", "X-Api-Key: 0123456789abc"]},
        },
        "audit": "/nowhere/audit.jsonl",
        "poll_seconds": 0,
    }
    (tmp_path / ".fractale" / "config.yaml").write_text(json.dumps(settings))
    listens = (
        "import socket, sys, time; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); time.sleep(600)"
    )
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SOME_TOKEN": "canary-token-123456"}
    with subprocess.Popen(
        [sys.executable, "-c", listens, env["SOME_TOKEN"]],
        env={**env, STARTED_BY: "0.test"},
        stdout=subprocess.PIPE,
        text=True,
    ) as bad:
        assert bad.stdout is not None
        port = bad.stdout.readline().strip()
        try:
            ran = run_cli(["doctor", "--site-rules", "--json"], cwd=tmp_path, env=env)
        finally:
            bad.kill()
    assert ran.returncode == 1
    assert env["SOME_TOKEN"] not in ran.stdout
    told = [(c["what"], c["found"]) for c in json.loads(ran.stdout)["checks"] if c["fix"]]
    words = "\n".join(f"{what}: {found}" for what, found in told)
    assert f"listening sockets: process {bad.pid} listens on port {port}" in words
    assert f"secrets in arguments: process {bad.pid} has one" in words
    assert "secrets in arguments: server `t` gets one in `args`" in words
    assert "secrets in arguments: server `h` gets one in `args`" in words
    assert "is open to others (755)" in words
    assert "can be written by others" in words
    assert "audit.jsonl cannot be written" in words
    assert "`poll_seconds` is 0" in words
