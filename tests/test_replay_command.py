"""`fractale replay`, `fractale test`, and `fractale export --recording`: what a person sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from fractale.cli import run_command as fractale

TOOLS = '''
def greet(who: str) -> dict:
    """Say hello."""
    return {"text": f"hello {who}"}
'''
PLAN = """
name: hello
inputs: {who: world}
steps:
  - {name: greet, tool: greet, inputs: {who: "{{ inputs.who }}"}}
  - name: again
    tool: greet
    inputs: {who: "{{ steps.greet.outputs.text }}"}
outputs: {text: "{{ steps.again.outputs.text }}"}
"""


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A folder with a plan that was run once, by a process of its own."""
    (tmp_path / "greeting_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text("tools: [{path: greeting_tools.greet}]\n")
    (tmp_path / "hello.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    done = subprocess.run(
        [sys.executable, "-m", "fractale.cli", "run", "hello.yaml", "-r", "tools.yaml"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_a_run_is_the_same_again_without_its_tools(recorded, capsys):
    (recorded / "greeting_tools.py").unlink()
    assert fractale(["replay", "-1"]) == 0
    assert capsys.readouterr().out.startswith("equal, ")


def test_as_json_it_says_the_same(recorded, capsys):
    assert fractale(["replay", "-1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"]


def test_another_plan_diverges_and_says_where(recorded, capsys):
    other = PLAN.replace("{{ steps.greet.outputs.text }}", "you")
    (recorded / "hello.yaml").write_text(other)
    assert fractale(["replay", "-1"]) == 0, "by the plan that was run"
    capsys.readouterr()
    assert fractale(["replay", "-1", "--today"]) == 1
    assert "again" in capsys.readouterr().out


def test_a_folder_of_recordings_is_a_test_of_todays_plans(recorded, capsys):
    assert fractale(["export", "-1", "--recording", "recordings/hello.zip"]) == 0
    assert fractale(["test", "recordings"]) == 0
    assert "1 equal" in capsys.readouterr().out
    (recorded / "hello.yaml").write_text(PLAN.replace("name: again", "name: once-more"))
    assert fractale(["test", "recordings"]) == 1
    said = capsys.readouterr().out
    assert "hello.zip" in said
    assert fractale(["test", "recordings", "--json"]) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["replay", "nothing"], "nothing"),
        (["replay", "nothing.zip"], "there is no file nothing.zip"),
        (["replay", "."], ". is no recording"),
        (["test", "nowhere"], "nowhere"),
    ],
)
def test_what_is_not_there_is_told(recorded, capsys, words, says):
    assert fractale(words) == 2
    assert says in capsys.readouterr().err
