"""What a run costs the disk: how often it waits until something is really there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CHAIN = """
import sys
import fractale

def change(x: int) -> str:
    "Change something."
    return f"v{x}"

lines = [f"  - {{name: s{i}, tool: change, inputs: {{x: {i}}}}}" for i in range(int(sys.argv[1]))]
plan = fractale.load("\\n".join(["name: chain", "steps:", *lines]) + "\\n")
result = fractale.run(plan, tools=[change], keep=True)
assert result.status == "success", result.error
"""
SYNC = re.compile(r"^(?P<thread>\d+) +(?:fsync|fdatasync)\(\d+<(?P<path>[^>]*)>", re.MULTILINE)


@pytest.fixture
def syncs(tmp_path: Path):
    """Counts the syncs of each file of a run, and those of the main thread."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")

    def count(code: str, *words: str) -> tuple[Counter[str], int]:
        log = tmp_path / "syncs.txt"
        home = {
            "HOME": str(tmp_path),
            "FRACTALE_STATE_DIR": str(tmp_path / f"state{'-'.join(words)}"),
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        order = [strace, "-f", "-qq", "-y", "-o", str(log), "-e", "trace=fsync,fdatasync"]
        subprocess.run(
            [*order, sys.executable, "-c", code, *words],
            check=True,
            cwd=tmp_path,
            env={**env, **home},
        )
        # The first sync is that of the run's head, which the main thread writes.
        found = [match.groups() for match in SYNC.finditer(log.read_text())]
        main = found[0][0]
        in_main = sum(thread == main and path.endswith("journal.jsonl") for thread, path in found)
        return Counter(Path(path).name for _, path in found), in_main

    return count


def test_a_step_that_changes_something_costs_two_syncs(syncs):
    """One for the intent of its call, one for its checkpoint; before, there were four."""
    short, _ = syncs(CHAIN, "2")
    long, in_main = syncs(CHAIN, "22")
    more = long - short
    assert more["journal.jsonl"] <= 21
    # On a busy machine, the writes of a task may be earlier than its checkpoint, in their own.
    assert more["checkpoints.sqlite-wal"] <= 30
    assert in_main == 0, "the event loop never waits for the journal"


def test_a_run_of_one_step_costs_few(syncs):
    found, _ = syncs(CHAIN, "1")
    assert found["journal.jsonl"] <= 2
    assert found.total() <= 14, found
