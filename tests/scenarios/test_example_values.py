"""The example of named values and of a run that fails with a reason: a benchmark, repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from fractale.plan.check import file_problems
from fractale.plan.draw import mermaid

PLAN = Path(__file__).parents[2] / "plans/examples/repeat-until-stable.yaml"


def test_it_is_valid_and_drawn():
    plan, problems = file_problems(PLAN)
    assert problems == []
    assert plan is not None
    assert "newest, mean" in mermaid(plan)


@pytest.mark.parametrize(("tolerance", "status"), [(100.0, "success"), (-1.0, "failed")])
async def test_it_ends_when_the_times_agree_or_says_that_they_do_not(
    run_plan, monkeypatch, tmp_path, tolerance, status
):
    monkeypatch.chdir(tmp_path)
    given = {"command": ["sleep", "0.02"], "last": 2, "rounds": 3, "tolerance": tolerance}
    seen = await run_plan(PLAN, given, yes=True, keep=True)
    assert seen.status == status, seen.result
    times = seen.outputs["times"]
    assert len(times) == (2 if status == "success" else 3)
    assert seen.outputs["seconds"] == pytest.approx(sum(times[-2:]) / 2, abs=0.001)
    if status == "failed":
        assert seen.result.error == (
            "after 3 runs the last 2 times still differ by more than -100.0 %"
        )
