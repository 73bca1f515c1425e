"""A run's record is acted on only if its user started it, or agreed to it."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

import forked
from fractale.settings.own_runs import KEY_FILE, MARK, is_own, marked

PLAN = """
name: p
steps:
  - {name: a, tool: note, inputs: {text: one}}
  - {name: b, tool: note, inputs: {text: two}, approve: always}
"""
TOOLS = """
from pathlib import Path
Path({marker!r}).write_text("imported")

def note(text: str) -> dict:
    return {{"text": text}}
"""
UNTRUSTED = {"FRACTALE_TRUST_PROJECT": ""}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a run that waits, and tools whose import leaves a marker."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "p.yaml").write_text(PLAN)
    (folder / "own_tools.py").write_text(TOOLS.format(marker=str(tmp_path / "marker")))
    (folder / "tools.yaml").write_text("tools: [{path: own_tools.note}]\n")
    assert command(folder, "run", "p.yaml", "-r", "tools.yaml").returncode == 4
    (tmp_path / "marker").unlink()
    return folder


def command(folder: Path, *words: str, **env: str):
    home = {"HOME": str(folder.parent / "home"), "PYTHONPATH": str(folder)}
    (folder.parent / "home").mkdir(exist_ok=True)
    return forked.run([*words], cwd=folder, env={**home, **UNTRUSTED, **env})


def run_of(folder: Path) -> Path:
    return next((folder / ".fractale" / "runs").iterdir())


def test_a_run_that_i_started_goes_on(project):
    done = command(project, "resume", "-1", "--answer", "b=yes")
    assert done.returncode == 0, done.stderr


def of_somebody_else(project: Path) -> None:
    shutil.rmtree(project.parent / "home")


def changed(project: Path) -> None:
    path = run_of(project) / "run.json"
    head = json.loads(path.read_text())
    path.write_text(json.dumps({**head, "registries": [str(project / "tools.yaml")] * 2}))


def without_mark(project: Path) -> None:
    path = run_of(project) / "run.json"
    head = json.loads(path.read_text())
    del head[MARK]
    path.write_text(json.dumps(head))


@pytest.mark.parametrize("how", [of_somebody_else, changed, without_mark])
@pytest.mark.parametrize(
    "words", [("resume", "-1", "--answer", "b=yes"), ("fork", "-1", "--at", "b")]
)
def test_any_other_is_refused_and_nothing_is_imported(project, how, words):
    how(project)
    done = command(project, *words)
    assert done.returncode == 2, done.stderr
    assert "you did not start run" in done.stderr
    assert "--trust-project" in done.stderr
    assert str(project.parent / "home" / ".config" / "fractale" / KEY_FILE) in done.stderr
    assert "another account, HOME or XDG_CONFIG_HOME" in done.stderr
    assert not (project.parent / "marker").exists()


@pytest.mark.parametrize("how", [of_somebody_else, changed])
def test_a_replay_of_it_imports_nothing(project, how):
    assert command(project, "resume", "-1", "--answer", "b=yes").returncode == 0
    (project.parent / "marker").unlink(missing_ok=True)
    how(project)
    command(project, "replay", "-1")
    assert not (project.parent / "marker").exists()


def test_the_person_can_agree_to_it(project):
    of_somebody_else(project)
    done = command(project, "resume", "-1", "--answer", "b=yes", FRACTALE_TRUST_PROJECT="1")
    assert done.returncode == 0, done.stderr


def test_with_the_option_too(project):
    of_somebody_else(project)
    done = command(project, "resume", "-1", "--answer", "b=yes", "--trust-project")
    assert done.returncode == 0, done.stderr


def test_a_folder_that_was_moved_as_a_whole_is_still_mine(project):
    moved = project.rename(project.parent / "moved")
    done = command(moved, "resume", "-1", "--answer", "b=yes")
    assert done.returncode == 0, done.stderr


class TestTheKey:
    def test_it_is_for_its_user_alone(self, tmp_path):
        env = {"HOME": str(tmp_path)}
        assert is_own(marked({"a": 1}, env), env)
        key = tmp_path / ".config" / "fractale" / KEY_FILE
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert [each.name for each in key.parent.iterdir()] == [KEY_FILE]
        key.chmod(0o644)
        assert not is_own(marked({"a": 1}, env), env), "others could have read it"

    def test_it_stays_the_same(self, tmp_path):
        env = {"HOME": str(tmp_path)}
        assert marked({"a": 1}, env) == marked({"a": 1}, env)

    @pytest.mark.parametrize("head", [{}, {MARK: ""}, {MARK: 7}, {MARK: None}, {MARK: "0" * 64}])
    def test_a_made_up_mark_is_none(self, tmp_path, head):
        env = {"HOME": str(tmp_path)}
        marked({}, env)
        assert not is_own(head, env)

    def test_without_a_home_there_is_no_mark(self):
        assert marked({"a": 1}, {}) == {"a": 1}
