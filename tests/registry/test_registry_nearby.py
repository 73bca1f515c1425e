"""What a plan lacks is looked for in the registry files near it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fractale.registry.files import registries_with

PLAN = """
name: p
steps:
  - {name: look, tool: queue_info}
  - {name: go, agent: ask, instruction: x, tools: [submit, "other_*"]}
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "registries"
    folder.mkdir()
    (folder / "a.yaml").write_text("tools: [pkg.queue_info]\n")
    (folder / "b.yaml").write_text("tools: [pkg.queue_info, {path: pkg.x, name: submit}]\n")
    (folder / "broken.yaml").write_text("tools: [queue_info\n")
    (folder / "prompts.yml").write_text("prompts: [pkg.expert]\n")
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "p.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["queue_info"], {"registries/a.yaml": ["queue_info"]}),
        (["queue_info", "submit"], {"registries/b.yaml": ["queue_info", "submit"]}),
        (
            ["expert", "nobody", "submit"],
            {"registries/b.yaml": ["submit"], "registries/prompts.yml": ["expert"]},
        ),
        (["nobody"], {}),
        ([], {}),
    ],
)
def test_as_few_files_as_will_do_are_named(project, names, expected):
    assert registries_with(names, "plans/p.yaml") == expected


@pytest.mark.parametrize(
    ("folder", "plan", "expected"),
    [
        ("plans", "p.yaml", "../registries/a.yaml"),
        (".", "{project}/plans/p.yaml", "registries/a.yaml"),
        ("/", "{project}/plans/p.yaml", "{project}/registries/a.yaml"),
        (".", "<string>", "registries/a.yaml"),
    ],
)
def test_they_are_named_as_seen_from_here(project, monkeypatch, folder, plan, expected):
    monkeypatch.chdir(project / folder)
    known = {"project": str(project)}
    found = registries_with(["queue_info"], plan.format(**known))
    assert list(found) == [expected.format(**known)]


def said(processes, folder: Path, *words: str) -> list[str]:
    """The lines that a command of ours says, on both its streams."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    out, err = processes.start(words, cwd=folder, env=env).communicate()
    return [*out.splitlines(), *err.splitlines()]


@pytest.mark.parametrize("words", [["run"], ["validate", "--online"]])
def test_the_command_line_says_which_file_to_add(project, processes, words):
    lines = said(processes, project, *words, "plans/p.yaml")
    assert lines[-1] == "add -r registries/b.yaml: it lists `queue_info`, `submit`"


def test_of_several_plans_it_says_which(project, processes):
    (project / "q.yaml").write_text("name: q\nsteps: [{name: s, prompt: expert}]\n")
    lines = said(processes, project, "validate", "--online", "plans/p.yaml", "q.yaml")
    assert lines[-2].startswith("plans/p.yaml: add -r registries/b.yaml: ")
    assert lines[-1] == "q.yaml: add -r registries/prompts.yml: it lists `expert`"


def test_the_doctor_says_it_too(project, processes):
    lines = said(processes, project, "doctor", "plans/p.yaml")
    assert any("→ add `-r registries/b.yaml`, which lists it" in line for line in lines), lines
