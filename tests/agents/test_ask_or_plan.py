"""`fractale prompt`: an agent goes to work at once, and hands over where steps are needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from fractale.errors import UsageError
from fractale.models import Models
from fractale.plan.build import load_plan
from fractale.questions import Answers
from fractale.runs import RunOptions, Runs
from fractale.runs.one_step import NamedExpert, keep_plan, one_step_plan
from fractale.settings import PolicySettings
from fractale.testing import FakeToolServer, ModelServer, Reply, ScriptedModel

ASK = NamedExpert(kind="agent", name="ask")
KNOWN = "The logs are a.log and b.log."
HANDS_OVER = Reply(tool_calls=[("plan_steps", {"known": KNOWN})])
COUNT = {"name": "count", "tool": "count", "inputs": {"items": ["a.log", "b.log"]}}
LOG = "Loop time of 1.25 on 4 procs\n"
FOUND = Reply(data={"why": "line 1", "regex": r"Loop time of ([\d.]+)"})


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(annotations={"readOnlyHint": True})
    def look(where: str = ".") -> dict:
        """Look around."""
        return {"files": ["a.log", "b.log"]}

    @server.tool(annotations={"readOnlyHint": True})
    def count(items: list) -> dict:
        """Count items."""
        return {"total": len(items)}

    @server.tool
    def erase(path: str) -> dict:
        """Erase a file."""
        return {"erased": path}

    return server


@pytest.fixture
def prompt(run_plan, tools) -> Callable[..., Any]:
    """Run what `fractale prompt` runs, with a scripted model."""

    async def run(words: str, model: ScriptedModel, **options: Any) -> Any:
        inputs = options.pop("inputs", {})
        plan = yaml.safe_dump(one_step_plan(ASK, words, inputs, direct=False))
        given = {**inputs, "instruction": words}
        return await run_plan(plan, given, tools=tools, model=model, **options)

    return run


def shown(model: ScriptedModel, request: int = 0) -> list[str]:
    """The tools that the model was shown."""
    return [tool["function"]["name"] for tool in model.options[request].get("tools", [])]


def told(model: ScriptedModel, request: int) -> str:
    return "\n".join(message.text for message in model.requests[request])


async def test_it_goes_to_work_at_once_with_the_tools(prompt, tools):
    model = ScriptedModel([Reply(tool_calls=[("look", {})]), "There are two logs."])
    seen = await prompt("Which logs are there?", model)
    assert seen.result.outputs == {"answer": "There are two logs."}
    assert seen.path == ["ask:success"]
    assert len(model.requests) == 2
    assert {"look", "count", "erase", "ask_expert", "plan_steps", "ask_person"} <= {*shown(model)}


async def test_an_answer_in_json_is_given_as_it_is(prompt):
    seen = await prompt("What is there?", ScriptedModel(['{"logs": 2}']))
    assert seen.status == "success", seen.result.error
    assert "2" in str(seen.result.outputs["answer"])


async def test_a_call_that_changes_something_still_asks(prompt, tools):
    model = ScriptedModel([Reply(tool_calls=[("erase", {"path": "/"})]), "Done."])
    seen = await prompt("Erase all.", model)
    assert [q["kind"] for q in seen.result.waiting] == ["approval"]
    assert tools.calls == []


async def test_it_asks_an_expert_itself(prompt):
    inputs = {"metric_name": "loop time", "log_text": LOG}
    call = Reply(tool_calls=[("ask_expert", {"name": "result_parse", "inputs": inputs})])
    model = ScriptedModel([call, FOUND, "It took 1.25 s."])
    seen = await prompt("Ask the result parser for the loop time.", model, yes=True,
                        answers={"ask": "yes"})  # fmt: skip
    assert seen.status == "success", seen.result.error
    assert seen.result.outputs == {"answer": "It took 1.25 s."}
    assert "1.25" in told(model, -1)


async def test_an_expert_asked_wrongly_says_what_it_takes(prompt):
    call = Reply(tool_calls=[("ask_expert", {"name": "result_parse", "inputs": {"log": LOG}})])
    model = ScriptedModel([call, "I could not."])
    await prompt("Ask the result parser.", model)
    answer = told(model, -1)
    assert "'metric_name' is a required property" in answer
    assert '"log_text"' in answer


async def test_what_it_hands_over_is_planned_with_what_it_knows(prompt, tools):
    """No one looks again: the model is asked twice, and `look` is never called."""
    model = ScriptedModel([HANDS_OVER, Reply(data={"steps": [COUNT]})])
    seen = await prompt("Count the logs.", model, yes=True)
    assert seen.result.outputs == {"answer": {"total": 2}}, seen.result.error
    assert seen.path == ["ask:success", "plan/count:success", "plan:success"]
    assert len(model.requests) == 2
    assert "The task:\nCount the logs." in told(model, 1)
    assert KNOWN in told(model, 1)
    assert [call.name for call in tools.calls] == ["count"]


async def test_an_answer_that_the_plan_names_is_the_answer(prompt):
    draft = {"steps": [COUNT], "outputs": {"answer": "{{ steps.count.outputs.total }}"}}
    model = ScriptedModel([HANDS_OVER, Reply(data=draft)])
    seen = await prompt("Count the logs.", model, yes=True)
    assert seen.result.outputs == {"answer": 2}, seen.result.error


async def test_a_drafted_generalist_is_given_what_is_known(prompt):
    step = {"name": "sum", "agent": "ask", "instruction": "Say how many there are."}
    model = ScriptedModel([HANDS_OVER, Reply(data={"steps": [step]}), "Two."])
    seen = await prompt("Count the logs.", model, yes=True)
    assert seen.result.outputs == {"answer": "Two."}, seen.result.error
    assert KNOWN in told(model, 2)


async def test_the_draft_is_reviewed_and_a_resume_asks_nothing_again(settings, tools, tmp_path):
    model = ScriptedModel([HANDS_OVER, Reply(data={"steps": [COUNT]})])
    words, data = "Count the logs.", one_step_plan(ASK, "Count the logs.", {}, direct=False)
    plan = load_plan(keep_plan(data, tmp_path))
    runs = Runs(settings, tools, models=Models(settings, given=model))
    before = await runs.start(plan, {"instruction": words}, RunOptions(run_id="r1"))
    (question,) = before.waiting
    assert (question["kind"], question["step"]) == ("review", "plan")
    assert [t for t in tools.calls if t.name == "count"] == []
    later = ScriptedModel([])  # another process: whatever it is asked, it has no answer
    runs = Runs(settings, tools, models=Models(settings, given=later))
    answers = RunOptions(replies=Answers({"plan": "accept"}))
    result = await runs.resume("r1", answers)
    assert result.status == "success", result.error
    assert result.outputs == {"answer": {"total": 2}}
    assert later.requests == []


async def test_inputs_go_to_the_agent_and_to_the_plan(prompt):
    model = ScriptedModel([HANDS_OVER, Reply(data={"steps": [
        {"name": "c", "tool": "count", "inputs": {"items": "{{ inputs.names }}"}}]})])  # fmt: skip
    seen = await prompt("Count them.", model, yes=True, inputs={"names": ["x", "y", "z"]})
    assert seen.result.outputs == {"answer": {"total": 3}}, seen.result.error
    assert '["x", "y", "z"]' in told(model, 0)


async def test_tools_that_the_settings_deny_are_not_shown(prompt, settings):
    denied = replace(settings, policy=PolicySettings(deny=("erase",)))
    model = ScriptedModel([HANDS_OVER, Reply(data={"steps": [COUNT]})])
    seen = await prompt("Count the logs.", model, yes=True, settings=denied)
    assert seen.status == "success", seen.result.error
    assert "look" in shown(model)
    assert "erase" not in shown(model)
    assert "erase" not in told(model, 1)


@pytest.mark.parametrize("protocol", ["openai", "gemini"])
async def test_over_a_models_protocol(run_plan, settings, tools, protocol):
    """Looks, hands over, is planned, and the drafted agent is told what is known."""
    step = {"name": "sum", "agent": "ask", "instruction": "Say how many there are."}
    said = [Reply(tool_calls=[("look", {})]), HANDS_OVER, Reply(data={"steps": [COUNT, step]}),
            "Two."]  # fmt: skip
    with ModelServer(said) as model:
        there = replace(
            settings,
            model=f"{protocol}:any",
            openai_api_key="k-1234567890",
            gemini_api_key="k-1234567890",
            openai_base_url=model.openai_url,
            gemini_base_url=model.gemini_url,
        )
        plan = yaml.safe_dump(one_step_plan(ASK, "Count the logs.", {}, direct=False))
        seen = await run_plan(
            plan, {"instruction": "Count the logs."}, tools=tools, settings=there, yes=True
        )
    assert seen.result.outputs == {"answer": "Two."}, seen.result.error
    assert seen.path == ["ask:success", "plan/count:success", "plan/sum:success", "plan:success"]
    bodies = [json.dumps(request.body) for request in model.requests]
    assert len(bodies) == 4
    assert "plan_steps" in bodies[0]
    assert KNOWN in bodies[2]
    assert "plan_steps" not in bodies[3]
    assert KNOWN in bodies[3]


def test_a_small_model_plans_since_it_cannot_call_tools():
    data = one_step_plan(ASK, "Count.", {}, direct=False, small=True)
    assert [step["type"] for step in data["steps"]] == ["plan"]


@pytest.mark.parametrize("name", ["known", "agent"])
def test_inputs_that_mean_something_to_the_planner_are_refused(name):
    with pytest.raises(UsageError, match=f"-i {name}="):
        one_step_plan(ASK, "Count.", {name: "x"}, direct=False)
