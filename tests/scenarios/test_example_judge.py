"""The example of a judge with a criterion: a summary is written until it meets the criterion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fractale.plan.check import file_problems
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "plans/examples/judge-summary.yaml"
CRITERION = "every number in it has a unit"
GOOD = "The run ended after 100 steps, at 0.85 tau/day on 1 rank."


def judged(request: ModelRequest) -> Reply:
    """Forgets the units at first. As a judge, misses them."""
    said = " ".join(str(message["content"]) for message in request.body["messages"])
    if CRITERION in said:
        good = GOOD in said
        return Reply(
            data={"success": good, "reason": "all is there" if good else "0.85 has no unit"}
        )
    again = "The last attempt failed" in said
    return Reply(text=GOOD if again else "The run ended at 0.85.")


async def test_a_summary_is_written_again_until_its_criterion_is_met(run_plan, settings):
    assert file_problems(PLAN)[1] == []
    with ModelServer(judged) as server:
        here = replace(
            settings,
            openai_base_url=server.openai_url,
            openai_api_key="k-1234567890",
            provider="openai",
            model="scripted",
        )
        seen = await run_plan(
            PLAN,
            {"log": str(ROOT / "plans/data/lammps-lj.log")},
            registries=[str(ROOT / "registries/demo.yaml")],
            settings=here,
            yes=True,
        )
    assert seen.status == "success", seen.result
    assert seen.outputs == {"summary": GOOD}
    ends = [event for event in seen.of("step_finished") if event["step"] == "summary"]
    assert [(end["outcome"], end["decided_by"]) for end in ends] == [
        ("failure", "judge"),
        ("success", "judge"),
    ]
