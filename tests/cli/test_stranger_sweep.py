"""A sweep file from someone else: shown, and asked about before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_terminal import Terminal

ASKS = "Run it? [y/a/N]"
PLAN = """
name: greets
inputs: {who: world}
steps: [{name: greet, script: "echo hello >> ../mine/ran.txt", approve: always}]
"""
SWEEP = """
plan: plan.yaml
table: rows.csv
answers: {greet: yes}
run_limits: {time: 1m}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    (tmp_path / "theirs" / "plan.yaml").write_text(PLAN)
    (tmp_path / "theirs" / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "theirs" / "rows.csv").write_text("who\nyou\nme\n")
    return tmp_path


def on_terminal(project: Path, *words: str, answer: str | None) -> tuple[int, str]:
    known = {"FRACTALE_TRUST_PROJECT": "", "HOME": str(project), "FRACTALE_LOCAL_CORES": "1"}
    screen = Terminal(project / "mine", *words, **known)
    if answer is not None:
        screen.wait_for(ASKS)
        screen.type(answer)
    code = screen.end()
    return code, screen.seen


def test_a_strangers_sweep_is_shown_and_asked_about_until_it_changes(project):
    words = ("sweep", "../theirs/sweep.yaml")
    code, seen = on_terminal(project, *words, answer="n")
    assert code == 2, seen
    for shown in (
        "2 runs of greets",
        "rows.csv",
        'answer     greet: "yes"',
        'row 1      who="me"',
        "echo hello >> ../mine/ran.txt",
        "fractale trust ../theirs/sweep.yaml",
    ):
        assert shown in seen
    assert not (project / "mine" / "ran.txt").exists()
    assert not (project / "mine" / ".fractale" / "sweeps").exists()
    code, seen = on_terminal(project, *words, answer="y")
    assert code == 0, seen
    assert "all 2 rows" in seen
    assert (project / "mine" / "ran.txt").read_text() == "hello\nhello\n"
    (project / "theirs" / "rows.csv").write_text("who\nyou\nthem\n")
    code, seen = on_terminal(project, *words, answer="n")
    assert code == 2, seen
    assert "changed since you agreed to it" in seen
    assert "+table with the SHA-256" in seen


def test_a_plan_of_ones_own_command_line_is_asked_about_as_for_a_run(project):
    words = ("sweep", "../theirs/plan.yaml", "--over", "who=a,b")
    code, seen = on_terminal(project, *words, answer="n")
    assert code == 2, seen
    assert "fractale trust ../theirs/plan.yaml" in seen
