"""A run in which every field of every event would do harm if it were more than text."""

from __future__ import annotations

import pytest

from fractale.store.run_record import RunRecord
from made_runs import HOSTILE, MARK, MadeRuns, hostile_run, inert


@pytest.fixture(scope="module")
def hostile(made: MadeRuns) -> RunRecord:
    """The hostile run, with lines of 10 MB."""
    return hostile_run(made.state_dir)


@pytest.mark.parametrize(
    "words",
    [("runs",), ("show", "hostile"), ("show", "hostile", HOSTILE[0]), ("diff", "hostile", "steps")],
    ids=lambda words: " ".join(words)[:12],
)
def test_a_command_prints_it_as_text(made: MadeRuns, hostile: RunRecord, words) -> None:
    made.run("steps")
    process = made.start(*words)
    out, err = process.communicate()
    assert process.returncode in (0, 1), err
    assert "unexpected" not in err, err
    assert MARK in out
    assert not inert(out + err)
    assert len(out) < 200_000, "what is long is cut"
