"""The gallery of example plans: each is valid, drawn, named on its page, and run by a test."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest

from fractale.cli import run_command as fractale
from fractale.plan.check import file_problems
from fractale.plan.schema import plan_schema
from fractale.plan.source import read_file

ROOT = Path(__file__).parents[2]
PLANS = sorted((ROOT / "plans/examples").glob("*.yaml"))
PAGE = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
TESTS = [
    *Path(__file__).parent.glob("test_example_*.py"),
    Path(__file__).with_name("test_schedules.py"),
]
WORDS = [
    *("ask", "choices", "form", "default", "default_after", "script", "stdin", "creates", "needs"),
    *("wait", "until", "every", "retry", "steps", "zip", "defaults", "set", "reason", "agents"),
    *("judge", "on_failure", "finally", "foreach", "parallel", "keep_going", "job", "when"),
]


def keys_in(value: object) -> set[str]:
    """Each key of a plan, at any depth."""
    if isinstance(value, dict):
        return {str(key) for key in value}.union(*map(keys_in, value.values()))
    return set().union(*map(keys_in, value)) if isinstance(value, list) else set()


@pytest.fixture(params=PLANS, ids=lambda path: path.stem)
def plan(request) -> Path:
    return request.param


def commands(plan: Path) -> list[list[str]]:
    """The commands that run a plan, as the page shows them."""
    lines = re.sub(r"\\\n\s*", "", PAGE).splitlines()
    shown = [shlex.split(line[2:]) for line in lines if line.startswith("$ fractale run ")]
    return [words[1:] for words in shown if words[2] == f"fractale:{plan.stem}"]


def test_a_plan_is_valid(plan, monkeypatch, capsys):
    found, problems = file_problems(plan)
    assert found is not None
    assert problems == []
    monkeypatch.chdir(ROOT)
    used = [word for each in commands(plan) for word in each[2:] if word.startswith("fractale:")]
    used = [word for word in used if "/" not in word]
    options = [option for registry in sorted(set(used)) for option in ("-r", registry)]
    assert fractale(["validate", str(plan), *options]) == 0
    assert "no problems" in "".join(capsys.readouterr())


def test_a_plan_fits_the_json_schema(plan):
    jsonschema.validate(read_file(plan).plain(), plan_schema())


@pytest.mark.parametrize(
    ("form", "sign"), [("text", ""), ("mermaid", "flowchart"), ("svg", "<svg")]
)
def test_a_plan_is_drawn(plan, form, sign, capsys):
    assert fractale(["graph", str(plan), "-f", form]) == 0
    drawn = capsys.readouterr().out
    found, _ = file_problems(plan)
    assert found is not None
    assert sign in drawn
    for step in found.steps:
        assert step.name in drawn, f"{step.name} is missing"


def test_a_plan_has_its_part_of_the_page_with_a_command_that_is_accepted(plan, monkeypatch):
    assert f"[{plan.stem}](#{plan.stem})" in PAGE
    assert f"\n## {plan.stem}\n" in PAGE
    monkeypatch.chdir(ROOT)
    assert commands(plan)
    for words in commands(plan):
        assert fractale([*words, "--dry-run"]) == 0


def test_a_plan_is_run_by_a_test(plan):
    texts = [path.read_text(encoding="utf-8") for path in TESTS]
    assert any(f'"{plan.stem}' in text or f"/{plan.name}" in text for text in texts)


def test_the_page_names_no_other_plan():
    assert set(re.findall(r"\n## (\S+)\n", PAGE)) == {path.stem for path in PLANS}


def test_the_gallery_shows_each_word_of_the_language_that_needs_an_example():
    plans = [read_file(path).plain() for path in PLANS]
    missing = set(WORDS).difference(*map(keys_in, plans))
    assert not missing, json.dumps(sorted(missing))
