"""Folders and files that are not what they should be: each works, or gets its clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fractale.cli import run_command

PLAN = """
name: p
steps:
  - {name: a, job: {scheduler: local, command: [echo, hi]}}
  - {name: b, tool: long_text}
outputs: {text: "{{ steps.b.outputs.content }}"}
"""
TOOLS = """
import os

def long_text() -> str:
    return "line\\n" * 500

def moves_away() -> str:
    os.chdir("/")
    return "x" * 3000
"""
IN_FOLDER = [
    ("run", "p.yaml", "-r", "r.yaml"),
    ("run", "p.yaml", "-r", "r.yaml", "--json"),
    ("show", "-1"),
    ("show", "-1", "--json"),
    ("show", "-1", "a"),
    ("runs",),
    ("runs", "--json"),
    ("replay", "-1"),
    ("diff", "-1", "-1"),
    ("resume", "-1"),
    ("export", "-1", "--recording", "x.zip"),
]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with a plan in it whose name is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "p.yaml").write_text(PLAN)
    (folder / "odd_place_tools.py").write_text(TOOLS)
    paths = [{"path": f"odd_place_tools.{name}"} for name in ("long_text", "moves_away")]
    (folder / "r.yaml").write_text(json.dumps({"tools": paths}))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def test_a_folder_may_have_a_name_that_is_not_utf_8(project, capsys):
    for words in IN_FOLDER:
        code = run_command([*words])
        said = capsys.readouterr()
        assert (words, code) == (words, 0), said.err
        for line in said.out.splitlines() if "--json" in words else ():
            json.loads(line.encode())
    [(file, *_)] = {(row["file"],) for row in _rows(capsys)}
    assert file.endswith("caf\ufffd/p.yaml")


def _rows(capsys):
    assert run_command(["runs", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_plan_may_have_a_name_that_is_not_utf_8(project, capsys):
    name = os.fsdecode(b"pl\xffan.yaml")
    (project / name).write_text("name: p\nsteps: [{name: a, colour: red}]\n")
    for words in (("validate", name), ("validate", name, "--json"), ("run", name)):
        assert run_command([*words]) == 3
        said = capsys.readouterr()
        assert "colour" in said.out + said.err


@pytest.mark.parametrize("state", ["file", "file/below"])
@pytest.mark.parametrize("words", [("run", "p.yaml"), ("runs",), ("show", "-1"), ("resume", "-1")])
def test_a_state_folder_that_is_a_file_is_told(tmp_path, monkeypatch, capsys, state, words):
    (tmp_path / "p.yaml").write_text("name: p\nsteps: [{name: a, job: {command: [true]}}]\n")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / state))
    assert run_command([*words]) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'file'} is not a directory" in said
    assert "FRACTALE_STATE_DIR" in said


@pytest.mark.parametrize(
    "words", [("run", "p.yaml"), ("runs",), ("config",), ("list",), ("resume", "-1")]
)
def test_a_working_folder_that_was_removed_is_told(tmp_path, monkeypatch, capsys, words):
    gone = tmp_path / "gone"
    gone.mkdir()
    (tmp_path / "p.yaml").write_text("name: p\nsteps: [{name: a, tool: t}]\n")
    monkeypatch.chdir(gone)
    gone.rmdir()
    named = [str(tmp_path / word) if word.endswith(".yaml") else word for word in words]
    assert run_command(named) == 2
    assert "was removed" in capsys.readouterr().err
    assert run_command(["validate", str(tmp_path / "p.yaml")]) == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("validate", "/dev/zero"), 3),
        (("run", "/dev/zero"), 3),
        (("graph", "/dev/zero"), 3),
        (("validate", "big.yaml"), 3),
        (("list", "-r", "/dev/zero"), 3),
        (("validate", "p.yaml", "-r", "/dev/zero"), 3),
        (("run", "p.yaml", "--inputs", "/dev/zero"), 2),
        (("run", "p.yaml", "--answers", "/dev/zero"), 2),
    ],
)
def test_an_endless_file_is_not_read_to_its_end(project, words, code):
    with (project / "big.yaml").open("wb") as file:
        file.truncate(2**40)
    limited = "import resource as r; r.setrlimit(r.RLIMIT_AS, (2**31, 2**31)); "
    done = subprocess.run(
        [sys.executable, "-c", f"{limited}from fractale.cli import main; main()", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "larger than" in done.stderr) == (code, True), done.stderr


def test_a_plan_may_come_through_a_pipe(project):
    os.mkfifo("pipe")
    wrong = "name: p\nsteps: [{name: a, colour: red}]\n"
    with subprocess.Popen(["sh", "-c", "cat > pipe"], stdin=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        writer.stdin.write(wrong)
        writer.stdin.close()
        assert run_command(["validate", "pipe"]) == 3


def test_a_tool_that_changes_the_folder_leaves_the_record_where_it_is(project, monkeypatch, capsys):
    (project / "m.yaml").write_text(
        "name: m\nsteps: [{name: a, tool: moves_away}, {name: b, tool: moves_away}]\n"
    )
    monkeypatch.setenv("FRACTALE_STATE_DIR", "state")
    here = Path.cwd()
    try:
        assert run_command(["run", "m.yaml", "-r", "r.yaml"]) == 0
    finally:
        os.chdir(here)
    [record] = (project / "state" / "runs").iterdir()
    assert f"record  state/runs/{record.name}\n" in capsys.readouterr().err
    assert list((record / "outputs").rglob("*.json"))
