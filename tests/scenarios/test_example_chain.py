"""The examples with chains, zipped lists and defaults run on any machine with a shell."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import forked

EXAMPLES = Path(__file__).parents[2] / "plans" / "examples"


def fractale(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: v for name, v in os.environ.items() if not name.startswith("FRACTALE_")}
    env |= {"HOME": str(folder), "FRACTALE_TRUST_PROJECT": "1", "FRACTALE_POLL_SECONDS": "0.2"}
    return forked.run(words, cwd=folder, env=env)


def run(folder: Path, name: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Run an example with the local scheduler. Returns the exit code and the last event."""
    done = fractale(folder, "run", str(EXAMPLES / name), *words, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_samples_go_through_their_chains_and_are_merged(tmp_path):
    code, end = run(tmp_path, "samples.yaml")
    assert (code, end["status"]) == (0, "success")
    assert end["outputs"] == {"files": ["A.sorted", "B.sorted", "C.sorted"], "reads": 27}
    (merged,) = tmp_path.glob(".fractale/runs/*/all.sorted")
    lines = merged.read_text().splitlines()
    assert lines == sorted(lines)
    assert lines[0] == "A-1"
    shown = fractale(tmp_path, "show", "-1").stdout
    assert "3 items   1 of 4 items left out by `when`" in shown


def test_samples_can_be_chosen(tmp_path):
    words = ("-i", 'samples=["x", "y"]', "-i", 'without=["x"]')
    _, end = run(tmp_path, "samples.yaml", *words)
    assert end["outputs"] == {"files": ["y.sorted"], "reads": 9}


def test_a_case_of_the_study_that_is_too_coarse_fails_by_itself(tmp_path):
    code, end = run(tmp_path, "study.yaml")
    assert (code, end["status"]) == (0, "success")
    first, second, third = end["outputs"]["cases"]
    assert first.startswith("8 cells, off by ")
    assert second.startswith("16 cells, off by ")
    assert third == "failed"


@pytest.mark.parametrize("sweeps", ["[100, 400]", "[1, 1, 1]"])
def test_a_study_without_a_case_that_fits_fails(tmp_path, sweeps):
    code, end = run(tmp_path, "study.yaml", "-i", f"sweeps={sweeps}")
    assert (code, end["status"]) == (1, "failed")
