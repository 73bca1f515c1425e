"""Agents that a plan writes itself: steps and other agents ask them by name."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import SystemMessage

from fractale import Dependencies, compile_plan
from fractale.models import Models
from fractale.plan.build import parse_plan
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.dump import dump_plan
from fractale.plan.needs import models_of, tools_of
from fractale.testing import FakeToolServer, ModelServer, ScriptedModel
from fractale.testing.model_server import ModelRequest, Reply
from replays import Stage

TEAM = """
name: team
agents:
  - name: critic
    description: Looks for holes in an argument.
    instruction: You are a critic. Name one hole.
    tools: ["read_*"]
  - name: counter
    instruction: You count words.
    tools: []
    output_schema: {type: object, properties: {words: {type: integer}}, required: [words]}
steps:
  - {name: review, agent: critic, instruction: "Review {{ steps | length }} claims."}
outputs: {said: "{{ steps.review.outputs.content }}"}
"""


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(read_only=True)
    def read_paper(name: str) -> dict:
        """Read a paper."""
        return {"text": f"{name} claims much"}

    @server.tool
    def publish(text: str) -> dict:
        """Publish a text."""
        return {"returncode": 0}

    return server


def system_of(request: list[Any]) -> str:
    return "\n".join(m.text for m in request if isinstance(m, SystemMessage))


def offered(options: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in options.get("tools", [])]


async def test_a_step_asks_it_with_its_role_and_its_tools_only(run_plan, tools):
    model = ScriptedModel([Reply(tool_calls=[("read_paper", {"name": "it"})]), "No error bars."])
    seen = await run_plan(TEAM, tools=tools, model=model)
    assert seen.outputs == {"said": "No error bars."}
    assert system_of(model.requests[0]).startswith("You are a critic. Name one hole.\n\n")
    assert "Review 0 claims." in model.requests[0][-1].text
    assert offered(model.options[0]) == ["read_paper", "not_done"]


async def test_the_steps_own_tools_narrow_it_further(run_plan, tools):
    plan = TEAM.replace("agent: critic,", "agent: critic, tools: [publish],")
    model = ScriptedModel(["No error bars."])
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.status == "success"
    assert model.options[0].get("tools") is None


async def test_without_tools_it_answers_in_its_role_by_its_schema(run_plan, tools):
    plan = TEAM.replace("agent: critic", "agent: counter").replace(
        "outputs.content", "outputs.words"
    )
    model = ScriptedModel(['{"words": 7}'])
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.outputs == {"said": 7}
    assert system_of(model.requests[0]) == "You count words."
    assert model.options[0]["response_format"]["json_schema"]["schema"]["required"] == ["words"]


async def test_an_answer_that_does_not_fit_its_schema_is_a_failure(run_plan, tools):
    plan = TEAM.replace("agent: critic", "agent: counter")
    model = ScriptedModel(['{"words": "many"}', '{"words": "still many"}'])
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.status == "failed"
    assert "`counter` does not fit its `output_schema`" in seen.result.error
    assert len(model.requests) == 2


async def test_a_step_may_give_it_no_task(run_plan, tools):
    plan = TEAM.replace(', instruction: "Review {{ steps | length }} claims."', "")
    model = ScriptedModel(["Fine."])
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.outputs == {"said": "Fine."}
    assert model.requests[0][-1].text == "Do what your role asks for."


CHIEF = """
name: chief
agents:
  - {name: critic, description: Looks for holes., instruction: You are a critic., tools: ["read_*"]}
  - {name: counter, instruction: You count words., tools: []}
steps:
  - {name: lead, type: agent, instruction: Have it reviewed.}
outputs: {said: "{{ steps.lead.outputs.content }}"}
"""


async def test_another_agent_asks_it_as_a_tool_within_its_own_tools(run_plan, tools):
    model = ScriptedModel([
        Reply(tool_calls=[("critic", {"instruction": "Look at it."})]),
        Reply(tool_calls=[("read_paper", {"name": "it"})]),
        "A hole.",
        "It has a hole.",
    ])  # fmt: skip
    seen = await run_plan(CHIEF, tools=tools, model=model)
    assert seen.outputs == {"said": "It has a hole."}
    assert {"critic", "counter", "publish", "read_paper"} <= {*offered(model.options[0])}
    (lead,) = [
        t["function"] for t in model.options[0]["tools"] if t["function"]["name"] == "critic"
    ]
    assert lead["description"] == "Ask the sub-agent critic: Looks for holes."
    assert system_of(model.requests[1]).startswith("You are a critic.")
    assert offered(model.options[1]) == ["read_paper", "not_done"]
    (read,) = seen.of("tool_started")
    assert (read["tool"], read["agent"]) == ("read_paper", "critic")


async def test_a_list_of_tools_that_lacks_its_name_hides_it(run_plan, tools):
    plan = CHIEF.replace("type: agent,", "type: agent, tools: [read_paper, counter],")
    model = ScriptedModel(["Fine."])
    await run_plan(plan, tools=tools, model=model)
    assert {*offered(model.options[0])} == {"counter", "read_paper", "not_done"}


async def test_it_does_not_ask_itself(run_plan, tools):
    plan = CHIEF.replace(', tools: ["read_*"]', "").replace("type: agent,", "agent: critic,")
    model = ScriptedModel(["Fine."])
    await run_plan(plan, tools=tools, model=model)
    assert "critic" not in offered(model.options[0])
    assert "counter" in offered(model.options[0])


async def test_it_has_its_own_model(run_plan, tools, settings):
    def answer(request: ModelRequest) -> Reply:
        answers = sum(message["role"] == "tool" for message in request.body["messages"])
        if request.model == "chief" and not answers:
            return Reply(tool_calls=[("critic", {"instruction": "Look."})])
        return Reply(text=f"said {request.model}")

    plan = CHIEF.replace("{name: critic,", '{name: critic, model: "openai:small",')
    with ModelServer(answer) as server:
        here = replace(
            settings,
            openai_base_url=server.openai_url,
            openai_api_key="k-1234567890",
            provider="openai",
            model="chief",
        )
        seen = await run_plan(plan, tools=tools, settings=here)
        assert seen.outputs == {"said": "said chief"}
        assert [request.model for request in server.requests] == ["chief", "small", "chief"]
        direct = TEAM.replace("name: critic\n", 'name: critic\n    model: "openai:small"\n')
        seen = await run_plan(direct, tools=tools, settings=here)
        assert seen.outputs == {"said": "said small"}
        own = direct.replace("agent: critic,", 'agent: critic, model: "openai:large",')
        seen = await run_plan(own, tools=tools, settings=here)
        assert seen.outputs == {"said": "said large"}
    assert models_of(parse_plan(plan)) == [None, "openai:small"]
    assert models_of(parse_plan(direct)) == ["openai:small"]


async def test_plans_inside_the_plan_may_ask_it(run_plan, tools, tmp_path):
    (tmp_path / "inner.yaml").write_text(
        "name: inner\nsteps: [{name: i, agent: critic, instruction: Look.}]\n"
        "outputs: {said: '{{ steps.i.outputs.content }}'}\n"
    )
    outer = TEAM.replace("agent: critic,", "plan: inner.yaml,").replace(
        '{name: review, plan: inner.yaml, instruction: "Review {{ steps | length }} claims."}',
        "{name: review, plan: inner.yaml}",
    )
    (tmp_path / "outer.yaml").write_text(outer.replace("outputs.content", "outputs.said"))
    seen = await run_plan(tmp_path / "outer.yaml", tools=tools, model=ScriptedModel(["A hole."]))
    assert seen.outputs == {"said": "A hole."}


async def test_a_draft_may_ask_it(run_plan, tools):
    plan = TEAM.replace(
        '{name: review, agent: critic, instruction: "Review {{ steps | length }} claims."}',
        "{name: review, type: plan, instruction: Have it reviewed.}",
    )
    draft = {"steps": [{"name": "do", "agent": "critic", "instruction": "Look at it."}]}

    def answer(request: list[Any]) -> Reply | str:
        return "A hole." if "You are a critic." in system_of(request) else Reply(data=draft)

    model = ScriptedModel(answer)
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.outputs == {"said": "A hole."}, seen.result.error
    assert "critic(" in json.dumps([m.text for m in model.requests[0]])


async def test_a_plans_graph_in_an_application_has_it(tools, settings):
    model = ScriptedModel(["A hole."])
    deps = Dependencies(toolbox=tools, models=Models(settings, given=model))
    after = await compile_plan(parse_plan(TEAM), deps).compile().ainvoke({})
    assert after["outputs"] == {"said": "A hole."}


async def test_a_replay_asks_it_again_without_a_model(tmp_path, settings, tools):
    stage = Stage(tmp_path, settings, tools)
    stage.script = ["A hole."]
    await stage.record(TEAM)
    await stage.equal()


# What is known before the run


def faults(text: str, **offers: Any) -> list[str]:
    plan = parse_plan(textwrap.dedent(text), "p.yaml")
    there = {"read_paper": {}, "publish": {}}
    found = [*check_plan(plan), *check_against_tools(plan, there, {}, offers.get("agents"))]
    near = [f" ({p.suggestion})" if p.suggestion else "" for p in found]
    return [f"{p.code} {p.path}{n}" for p, n in zip(found, near, strict=True)]


def test_the_team_is_right_and_is_dumped_as_it_was():
    plan = parse_plan(TEAM)
    assert faults(TEAM) == []
    assert parse_plan(dump_plan(plan)) == plan
    assert tools_of(plan) is None  # the critic may call all that it finds by a pattern


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("agent: critic", "agent: critik"), "unknown-agent steps[0].agent (critic)"),
        (("read_*", "read_papers"), "unknown-tool agents[0].tools[0] (read_paper)"),
        (("name: counter", "name: publish"), "same-name agents[1].name"),
        (
            ("agent: critic", "agent: counter"),
            "",
        ),
        (
            ("agent: critic,", "agent: counter, output_schema: {properties: {n: {}}},"),
            "",
        ),
    ],
)
def test_faults_that_show_before_the_run(change, fault):
    assert faults(TEAM.replace(*change)) == ([fault] if fault else [])


def test_the_name_of_another_sub_agent_is_taken():
    assert faults(TEAM, agents={"counter": {}}) == ["same-name agents[1].name"]
