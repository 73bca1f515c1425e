"""A state directory that fractale 0.2 left: it lists, shows, resumes, forks, replays and prunes.

`tests/support/state_0_2/make.py` says what is in it and how it was made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import forked
from fractale.testing import ModelServer
from state_0_2.make import model

MADE = Path(__file__).parents[1] / "support" / "state_0_2"
MADE_IN = "/tmp/demo"
ENDS = {
    "done1": "success",
    "fails": "failed",
    "waits": "waiting",
    "limit": "limit",
    "halfw": "stopped",
}


@dataclass
class OldProject:
    folder: Path
    server: ModelServer

    @property
    def state(self) -> Path:
        return self.folder / ".fractale"

    def call(self, *words: str, code: int = 0) -> str:
        env = {"OPENAI_BASE_URL": self.server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        done = forked.run(words, cwd=self.folder, env={"HOME": str(self.folder), **env})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def json(self, *words: str, code: int = 0):
        return json.loads(self.call(*words, "--json", code=code).splitlines()[-1])

    def runs(self) -> dict[str, str]:
        lines = self.call("runs", "--json").splitlines()
        return {row["id"]: row["status"] for row in map(json.loads, lines)}

    def calls(self) -> list[str]:
        """What was done since the directory was made."""
        path = self.folder / "calls.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def old(tmp_path) -> Iterator[OldProject]:
    """A copy of it, as if it had been made where the copy is."""
    with ModelServer(model) as server:
        yield copied(OldProject(tmp_path / "demo", server))


def copied(project: OldProject) -> OldProject:
    shutil.copytree(MADE / "project", project.folder)
    shutil.copytree(MADE / "state", project.state)
    for run in (project.state / "runs").iterdir():
        for name in ("run.json", "events.jsonl"):
            text = (run / name).read_text().replace(MADE_IN, str(project.folder))
            (run / name).write_text(text)
    return project


def test_its_runs_are_listed(old):
    found = old.runs()
    [fork] = set(found) - set(ENDS)
    assert found == ENDS | {fork: "success"}


@pytest.mark.parametrize("run", ENDS)
def test_its_runs_are_shown(old, run):
    assert old.json("show", run)["status"] == ENDS[run]
    assert f"run {run}" in old.call("show", run)


def test_a_run_that_waits_is_resumed_with_the_answer(old):
    ended = old.json("resume", "waits", "--answer", "asked=yes")
    assert (ended["status"], ended["outputs"]) == ("success", {"third": "after second"})
    assert old.calls() == ["asked after first", "second", "after second"]
    assert old.runs()["waits"] == "success"


def test_a_run_that_reached_a_limit_is_resumed(old):
    assert old.json("resume", "limit", "--limit", "steps=9")["status"] == "success"
    assert old.calls() == ["after second"]


def test_a_run_that_was_killed_in_a_foreach_is_resumed_and_repeats_no_item(old):
    [asked] = old.json("resume", "halfw", code=4)["waiting"]
    assert asked["kind"] == "in_doubt"
    ended = old.json("resume", "halfw", "--answer", f"{asked['step']}=again")
    assert ended["outputs"] == {"all": [f"item {n}" for n in range(6)]}
    assert sorted(old.calls()) == ["item 3", "item 4", "item 5", "last"]


def test_a_run_that_ended_is_resumed_to_the_same_end(old):
    ended = old.json("resume", "done1")
    assert (ended["status"], ended["outputs"]) == ("success", {"second": "after after included"})
    assert old.calls() == []


@pytest.mark.parametrize("at", ["second", "part/innermost", "drafted/do"])
def test_a_run_is_forked(old, at):
    old.call("fork", "done1", "--at", at, "--yes", "--quiet")
    assert old.calls()[-1] == "after after included"
    assert "first" not in old.calls()


def test_a_fork_is_forked(old):
    [fork] = set(old.runs()) - set(ENDS)
    old.call("fork", fork, "--at", "second", "--yes", "--quiet")
    assert old.calls() == ["after after included"]


def test_a_run_that_failed_is_forked_with_another_input(old):
    old.call("fork", "fails", "--at", "second", "--set", "inputs.second=well", "--quiet")
    assert old.calls() == ["well", "after well"]


def test_a_run_is_replayed(old):
    said = old.call("replay", "done1")
    assert "fractale's own prompts changed since: 1 request differs" in said
    assert old.calls() == []


def test_its_runs_are_pruned_and_others_left(old):
    old.call("runs", "prune", "--keep", "0")
    assert old.runs() == {"waits": "waiting"}
    old.call("resume", "waits", "--answer", "asked=yes", "--quiet")
    old.call("runs", "prune", "--keep", "0")
    assert old.runs() == {}
