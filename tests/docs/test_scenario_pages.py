"""The README and the pages of the scenarios: the commands in them are ones that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fractale.cli import run_command as fractale

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/first-run.md", *(ROOT / "docs/scenarios").glob("*.md")]
COMMAND = re.compile(r"fractale ((?:run|graph) fractale:[^|`\n]+)")
GAP = re.compile(r"\s{3,}")


def commands() -> list[str]:
    """Each command that runs or draws a shipped plan, once, without the remark behind it."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        found |= dict.fromkeys(GAP.split(match[1])[0].strip() for match in COMMAND.finditer(text))
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_is_taken_as_it_stands(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    assert fractale([*words, "--dry-run"] if words[0] == "run" else words) == 0


def test_there_are_such_commands():
    plans = {re.search(r"fractale:([\w-]+)", command)[1] for command in commands()}
    assert plans == {path.stem for path in (ROOT / "plans").glob("*.yaml")}
