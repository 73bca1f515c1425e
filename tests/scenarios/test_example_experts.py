"""The example of agents in a plan: a batch script reviewed by two of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from fractale.plan.check import file_problems
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "plans/examples/review-script.yaml"
SCRIPT = ROOT / "plans/data/lammps-reaxff.sbatch"


def model(request: ModelRequest) -> Reply:
    """Answers by the role that it is given, as three models would."""
    said = [str(message["content"]) for message in request.body["messages"]]
    answers = sum(message["role"] == "tool" for message in request.body["messages"])
    if said[0].startswith("You know Slurm."):
        if not answers:
            script = {"script": SCRIPT.read_text()}
            return Reply(tool_calls=[("validate_batch_script", script)])
        return Reply(text="All directives are valid.")
    if said[0].startswith("You watch the budget"):
        return Reply(data={"node_hours": 4.0, "waste": ["the GPUs are never used"]})
    if not answers:
        return Reply(tool_calls=[("cost_expert", {"instruction": "Are the GPUs used at all?"})])
    return Reply(text="Submit it, but drop the GPUs first.")


def test_it_is_valid():
    plan, problems = file_problems(PLAN)
    assert problems == []
    assert plan is not None
    assert [agent.name for agent in plan.experts] == ["scheduler_expert", "cost_expert"]


async def test_two_agents_of_the_plan_review_the_script_and_a_third_may_ask_them(
    run_plan, settings
):
    with ModelServer(model) as server:
        here = replace(
            settings,
            openai_base_url=server.openai_url,
            openai_api_key="k-1234567890",
            provider="openai",
            model="scripted",
        )
        seen = await run_plan(
            PLAN,
            {"script": str(SCRIPT)},
            registries=[str(ROOT / "registries/demo.yaml")],
            settings=here,
            yes=True,
        )
    assert seen.status == "success", seen.result
    assert seen.outputs == {
        "node_hours": 4.0,
        "answer": "Submit it, but drop the GPUs first.",
    }
    tools = [json.dumps(request.body.get("tools", [])) for request in server.requests]
    assert any("validate_batch_script" in each and "cost_expert" not in each for each in tools)
    asked = [event for event in seen.of("model_started") if event.get("agent") == "cost_expert"]
    assert [event["step"] for event in asked] == ["verdict"]


def coordinated(request: ModelRequest) -> Reply:
    """A coordinator that asks for two parts, then for one more."""
    said = [str(message["content"]) for message in request.body["messages"]]
    if said[0].startswith("You coordinate."):
        found = said[-1].count("m/s")
        parts = [["the speed of a", "the speed of b"], [], ["their difference"]][found % 3]
        return Reply(data={"parts": [] if found == 3 else parts})
    if said[0].startswith("You answer one small question"):
        return Reply(text=f"{said[-1]}: 3 m/s")
    return Reply(text=f"answered from {said[-1].count('m/s')} findings")


async def test_a_coordinator_asks_until_all_is_found(run_plan, settings):
    with ModelServer(coordinated) as server:
        here = replace(
            settings,
            openai_base_url=server.openai_url,
            openai_api_key="k-1234567890",
            provider="openai",
            model="scripted",
        )
        plan = ROOT / "plans/examples/coordinator-and-workers.yaml"
        seen = await run_plan(plan, {"question": "How fast?"}, settings=here, yes=True)
    assert seen.status == "success", seen.result
    assert seen.outputs == {
        "answer": "answered from 3 findings",
        "findings": ["the speed of a: 3 m/s", "the speed of b: 3 m/s", "their difference: 3 m/s"],
    }
