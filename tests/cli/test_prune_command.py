"""`fractale runs prune`: which runs go, what stays, and what is said of it."""

from __future__ import annotations

import json

import pytest

from fractale.cli import run_command as fractale
from fractale.store.run_record import RunRecords
from recording import Recording


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state folder with three runs that are done and one that waits, all some years old."""
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for number, status in enumerate(("success", "waiting", "failed", "success")):
        run = Recording(tmp_path / "state", f"run{number}", started=OLD + number)
        run.time = OLD + number
        run.start().add("run_finished", status=status, waiting=WAITS[status], usage={})
    return tmp_path / "state"


OLD = 1_600_000_000.0
WAITS = {"success": [], "failed": [], "waiting": [{"kind": "approval", "step": "submit"}]}


def left(state) -> set[str]:
    return RunRecords(state).names()


def test_what_is_not_among_the_latest_goes_and_what_waits_stays(state, capsys):
    assert fractale(["runs", "prune", "--keep", "1"]) == 0
    assert left(state) == {"run3", "run1"}
    said = capsys.readouterr().out
    assert "2 runs removed" in said
    assert "waiting for submit" in said


def test_force_takes_also_what_waits(state):
    assert fractale(["runs", "prune", "--older-than", "1s", "--force"]) == 0
    assert left(state) == set()


def test_a_dry_run_says_the_same_and_removes_nothing(state, capsys):
    assert fractale(["runs", "prune", "--max-size", "0.5k", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dry_run"]
    assert left(state) == {"run0", "run1", "run2", "run3"}
    assert fractale(["runs", "prune", "--max-size", "0.5k", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [run["id"] for run in done["removed"]] == [run["id"] for run in told["removed"]]
    assert left(state).isdisjoint(run["id"] for run in done["removed"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which runs to remove"),
        (["--older-than", "soon"], "`soon` is not a duration"),
        (["--max-size", "much"], "not a valid size"),
    ],
)
def test_a_rule_that_says_nothing_is_an_error(state, capsys, words, says):
    assert fractale(["runs", "prune", *words]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert len(left(state)) == 4


def test_where_no_runs_are_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "none"))
    assert fractale(["runs", "prune", "--keep", "1"]) == 2
    assert "no runs found" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
