"""The page of what is stable names the exit codes and versions that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import fractale
from fractale import events
from fractale.plan.model import LANGUAGE_VERSION
from fractale.runs.result import EXIT_CODES

PAGE = (Path(__file__).parents[2] / "docs/stability.md").read_text()


def test_the_exit_codes_are_those_of_runs_and_errors():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    errors = [value for name in fractale.__all__ if _is_error(value := getattr(fractale, name))]
    assert listed == {*EXIT_CODES.values(), *(error.exit_code for error in errors)}


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, fractale.FractaleError)


def test_the_versions_are_those_of_the_code():
    assert f"| Plan language | `version: {LANGUAGE_VERSION}`" in PAGE
    assert f"`fractale.events.VERSION`, {events.VERSION} |" in PAGE
