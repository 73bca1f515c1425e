"""The example plans that ask: as a user runs and answers them, without a model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import forked

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "plans" / "examples"


class User:
    """Runs fractale in a directory of their own, without a terminal."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, code: int, *words: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), forked.TRUSTED: ""}
        done = forked.run(words, cwd=self.home, env={**env, **forked.measured()})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def end(self, *words: str) -> dict[str, object]:
        """The last line of a command that succeeds."""
        return json.loads(self(0, *words, "--json").strip().splitlines()[-1])


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


LONG = str(EXAMPLES / "ask-before-long-run.yaml")


def test_the_long_run_waits_for_a_decision_that_may_change_it(user):
    asked = user(4, "run", LONG, "-i", "program=true")
    assert "500000 cycles would take about" in asked
    assert "3  stop   (default)   (then asks: Why not?)" in asked
    assert "the default is taken: stop" in asked
    assert "How many cycles?" in user(4, "resume", "-1", "--answer", "gate=change")
    again = user(4, "resume", "-1", "--answer", "cycles=lots")
    assert "How many cycles?" in again
    assert "2000000 cycles" in user(4, "resume", "-1", "--answer", "cycles=2000000")
    end = user.end("resume", "-1", "--answer", "gate=run")
    assert end["outputs"] == {"said": "running 2000000 cycles"}


def test_nobody_there_means_no_long_run(user):
    assert "failed" in user(1, "run", LONG, "-i", "program=true", "--yes")
    shown = user(0, "show", "-1")
    assert "would take about" in shown
    assert '→ "stop" (yes)' in shown


def test_the_open_questions_are_answered_in_any_order(user):
    plan, registry = EXAMPLES / "open-questions.yaml", PROJECT / "registries" / "demo.yaml"
    asked = user(4, "run", str(plan), "-r", str(registry))
    assert "answers[0]  Which partition?" in asked
    user(4, "resume", "-1", "--answer", "answers[1]=astro", "--answer", "answers[0]=batch")
    user(4, "resume", "-1", "--answer", "answers[2]=./lmp -in in.lj")
    end = user.end("resume", "-1", "--answer", "size={nodes: 4, hours: 1.5}")
    script = Path(str(end["outputs"]["script"]))
    assert script.read_text().splitlines()[1:] == [
        "#SBATCH --partition=batch",
        "#SBATCH --account=astro",
        "#SBATCH --nodes=4",
        "#SBATCH --time=90",
        "srun ./lmp -in in.lj",
    ]
