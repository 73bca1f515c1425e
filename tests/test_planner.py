"""The manager's own words: what it is shown, what it may answer in, and what a draft may hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from langchain_core.messages import BaseMessage

from fractale.agents.offers import Offers
from fractale.agents.planner import plan_in
from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.narrow import both, narrow
from fractale.testing import FakeToolServer, Reply, ScriptedModel
from fractale.toolbox import PromptInfo, ToolInfo

SECRET = "the-secret-input-5521"
COUNT = ToolInfo(
    name="count",
    server="s",
    description="Count items.\n" + "x" * 500,
    input_schema={"type": "object", "properties": {"items": {"type": "array"}}},
)
STEP = {"name": "a", "tool": "count", "inputs": {"items": [1]}}
IN_YAML = 'steps:\n  - {name: a, tool: look, inputs: {"where": "home"}}\n'


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(annotations={"readOnlyHint": True})
    def look(where: str = ".") -> dict:
        """Look around."""
        return {"seen": where}

    @server.tool
    def erase(path: str) -> dict:
        """Erase a file."""
        return {"erased": path}

    return server


def drafts(*replies: Reply | dict[str, Any]) -> ScriptedModel:
    """A model that looks around with one word, and then gives its drafts in turn."""
    left = list(replies)

    def answer(messages: Sequence[BaseMessage]) -> Reply:
        if messages[-1].text != "Write the steps.":
            return Reply(text="nothing to find out")
        reply = left.pop(0)
        return reply if isinstance(reply, Reply) else Reply(data=reply)

    return ScriptedModel(answer)


def asked_for_drafts(model: ScriptedModel) -> list[str]:
    """The whole conversation of each request for a draft."""
    requests = [r for r in model.requests if r[-1].text == "Write the steps."]
    return ["\n".join(message.text for message in request) for request in requests]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# -- what it is shown -----------------------------------------------------------------------------


def test_the_catalogue_is_short_and_keeps_to_one_line_each():
    text = Offers(tools=[COUNT], inputs=["found"]).as_text()
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("- count")).endswith("…")
    assert max(map(len, lines)) < 300
    assert "- found" in lines


def test_the_schema_names_what_there_is_and_nothing_else():
    prompt = PromptInfo(name="s.expert", server="s")
    offers = Offers(tools=[COUNT], prompts=[prompt], inputs=["found"])
    valid = Draft202012Validator(offers.schema()).is_valid
    assert valid({"steps": [STEP]})
    assert valid({"steps": [{**STEP, "inputs": {"items": "{{ inputs.found }}"}}]})
    assert valid({"steps": [{"name": "a", "prompt": "s.expert", "instruction": "go"}]})
    assert not valid({"steps": [{"name": "a", "tool": "invented", "inputs": {}}]})
    assert not valid({"steps": [{"name": "a", "agent": "ask"}]})
    assert not valid({"steps": [{"name": "a", "type": "plan"}]})
    assert not valid({"steps": []})


def test_the_schema_says_how_steps_follow_each_other_but_not_to_a_small_model():
    whole = json.dumps(Offers(tools=[COUNT]).schema())
    small = json.dumps(Offers(tools=[COUNT], plain=True).schema())
    for word in ("transitions", "max_attempts", "rules", "outputs"):
        assert word in whole
        assert word not in small
    assert len(small) < 500


def test_many_tools_make_one_short_schema():
    many = [ToolInfo(name=f"tool_{i}", server="s", input_schema={}) for i in range(100)]
    schema = Offers(tools=many).schema()
    step = schema["$defs"]["step"]
    assert step["properties"]["tool"]["enum"] == [tool.name for tool in many]


# -- what it may answer in ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [IN_YAML, f"```yaml\n{IN_YAML}```", f"Here it is:\n```yml\n{IN_YAML}\n```\nGood?"],
    ids=["bare", "fenced", "in prose"],
)
async def test_a_draft_in_yaml_is_a_draft(run_plan, tools, text):
    model = drafts(Reply(text=text))
    seen = await run_plan("name: p\nsteps: [{name: m, type: plan, instruction: go}]\n",
                          tools=tools, model=model, yes=True)  # fmt: skip
    assert seen.status == "success", seen.result.error
    assert tools.calls == [("look", {"where": "home"})]


@pytest.mark.parametrize("text", ["", "I would look.", "- a\n- b", "steps", "```yaml\n: [\n```"])
def test_other_text_is_none(text):
    assert plan_in(text) is None


async def test_what_it_said_wrongly_is_shown_to_it_again(run_plan, tools):
    model = drafts(Reply(text="I would look."), {"steps": [{"name": "a", "tool": "look"}]},
                   {"steps": [{"name": "a", "tool": "look", "inputs": {}}]})  # fmt: skip
    seen = await run_plan("name: p\nsteps: [{name: m, type: plan, instruction: go}]\n",
                          tools=tools, model=model, yes=True)  # fmt: skip
    assert seen.status == "success", seen.result.error
    assert "I would look.\nThis draft can't be used" in asked_for_drafts(model)[1]


async def test_a_model_that_refuses_the_request_is_not_asked_for_more_drafts(run_plan, tools):
    model = drafts(Reply(status=401, text="wrong key"), {"steps": [STEP]})
    seen = await run_plan("name: p\nsteps: [{name: m, type: plan, instruction: go}]\n",
                          tools=tools, model=model, yes=True)  # fmt: skip
    assert seen.status == "failed"
    assert "wrong key" in seen.result.error
    assert len(asked_for_drafts(model)) == 1


# -- what a draft may hold ------------------------------------------------------------------------


def test_a_draft_is_shown_as_the_plan_that_it_is():
    plan, text = Offers(tools=[COUNT], inputs=["found"]).read("made", {"steps": [STEP]})
    assert parse_plan(text) == plan
    assert (plan.name, list(plan.inputs)) == ("made", ["found"])


@pytest.mark.parametrize(
    ("draft", "code"),
    [
        ([STEP], "not-a-draft"),
        ({"steps": [STEP], "secrets": ["x"]}, "draft-key"),
        ({"steps": [{**STEP, "name": f"s{i}"} for i in range(51)]}, "draft-too-long"),
        ({"steps": [{**STEP, "approve": "never"}]}, "draft-approve"),
        ({"steps": [{"name": "deeper", "type": "plan", "instruction": "go"}]}, "draft-too-deep"),
        ({"steps": [{"name": "a", "instruction": "go"}]}, "draft-agent"),
        ({"steps": [STEP, STEP]}, "duplicate-step"),
        ({"steps": [{**STEP, "inputs": {"items": "{{ steps.b.outputs }}"}}]}, "undefined"),
        ({"steps": [{**STEP, "inputs": {}, "tool": "other"}]}, "unknown-tool"),
        ({"steps": [{**STEP, "inputs": {"itmes": []}}]}, "unknown-argument"),
        ({"steps": [{**STEP, "when": "{{"}]}, "template-syntax"),
        ({"steps": [{**STEP, "model": ["x"]}]}, "wrong-type"),
        ({"steps": [{"name": "a", "plan": "./other.yaml"}]}, "bad-include"),
    ],
)
def test_each_fault_of_a_draft_has_its_code(draft, code):
    with pytest.raises(PlanError) as caught:
        Offers(tools=[COUNT]).read("made", draft)
    assert code in [problem.code for problem in caught.value.problems]


async def test_0_1_0s_prompt_among_the_inputs_is_the_instruction(run_plan, tools):
    model = drafts({"steps": [{"name": "a", "tool": "look", "inputs": {}}]})
    plan = "name: p\nsteps: [{name: m, type: plan, inputs: {prompt: Look at home}}]\n"
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.status == "success", seen.result.error
    assert "The task:\nLook at home" in asked_for_drafts(model)[0]


async def test_an_expert_that_is_not_there_is_said_before_any_model_is_asked(run_plan, tools):
    model = drafts()
    plan = "name: p\nsteps: [{name: m, type: plan, instruction: go, inputs: {agent: wizard}}]\n"
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.status == "failed"
    assert "`wizard`, which is not there" in seen.result.error
    assert model.requests == []


async def test_a_step_that_always_asks_has_a_draft_that_does(run_plan, tools):
    model = drafts({"steps": [{"name": "a", "tool": "look", "inputs": {}}]})
    plan = "name: p\nsteps: [{name: m, type: plan, instruction: go, approve: always}]\n"
    seen = await run_plan(plan, tools=tools, model=model, answers={"m": "accept"})
    assert seen.status == "waiting"
    assert [(q["kind"], q["step"]) for q in seen.result.waiting] == [("approval", "m/a")]


async def test_each_item_of_a_foreach_has_a_draft_of_its_own(run_plan, tools):
    step = {"name": "a", "tool": "look", "inputs": {"where": "{{ inputs.n }}"}}
    model = drafts({"steps": [step]}, {"steps": [step]})
    plan = """
    name: p
    steps:
      - {name: m, type: plan, instruction: go, foreach: [u, v], max_parallel: 1,
         inputs: {n: "{{ item }}"}}
    outputs: {seen: "{{ steps.m.outputs }}"}
    """
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.result.outputs == {"seen": [{"seen": "u"}, {"seen": "v"}]}


async def test_a_secret_input_is_not_told_to_the_manager_nor_kept(run_plan, tools, tmp_path):
    model = drafts({"steps": [{"name": "a", "tool": "look", "inputs": {}}]})
    plan = """
    name: p
    inputs: {password: {secret: true, required: true}}
    steps:
      - {name: m, type: plan, instruction: "Use {{ inputs.password }}.",
         inputs: {token: "{{ inputs.password }}"}}
    """
    seen = await run_plan(
        plan, tools=tools, model=model, yes=True, keep=True, secrets={"password": SECRET}
    )
    assert seen.status == "success", seen.result.error
    assert "Use ***." in asked_for_drafts(model)[0]
    files = files_in(tmp_path)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


# -- a draft within bounds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("some", "others", "common"),
    [
        (None, None, None),
        (("a",), None, ("a",)),
        (None, ("a",), ("a",)),
        (("flux_*", "b"), ("flux_submit", "b", "c"), ("b", "flux_submit")),
        (("a",), (), ()),
        ((), None, ()),
        (("*",), ("a*",), ("a*",)),
        (("a*",), ("b*",), ()),
    ],
)
def test_globs_in_common(some, others, common):
    assert both(some, others) == common


def test_steps_in_bounds_say_the_stricter_of_both():
    plan = parse_plan(
        "name: p\nsteps:\n"
        "  - {name: a, tool: t, approve: ask}\n"
        "  - {name: b, agent: ask, instruction: go, tools: [x, y], approve: always}\n"
        "  - parallel: [{name: d, agent: ask, instruction: go}]\n    name: c\n"
    )
    first, second, block = narrow(plan, ("y",), "always").steps
    assert (first.approve, first.tools) == ("always", None)
    assert (second.approve, second.tools) == ("always", ("y",))
    assert (block.approve, block.tools, block.steps[0].tools) == (None, None, ("y",))
    assert narrow(plan, None, "never") == plan


# -- asked like any other agent -------------------------------------------------------------------


async def test_as_an_agent_it_gives_the_plan_and_runs_nothing(run_plan, tools):
    good = {"steps": [{"name": "a", "tool": "look", "inputs": {}}]}
    model = drafts({"steps": [{"name": "a", "tool": "lok", "inputs": {}}]}, good)
    plan = """
    name: p
    steps: [{name: m, agent: planner, instruction: Look around}]
    outputs: {plan: "{{ steps.m.outputs.plan }}"}
    """
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.status == "success", seen.result.error
    assert [step.target for step in parse_plan(seen.result.outputs["plan"]).steps] == ["look"]
    assert tools.calls == []
    assert "did you mean `look`" in asked_for_drafts(model)[1]


async def test_as_an_agent_it_gives_up_after_so_many_drafts(run_plan, tools):
    wrong = {"steps": [{"name": "a", "tool": "lok", "inputs": {}}]}
    model = drafts(*[wrong] * 6)
    plan = "name: p\nsteps: [{name: m, agent: planner, instruction: Look around}]\n"
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.status == "failed"
    assert "no valid draft in 5 tries" in seen.result.error
    assert len(asked_for_drafts(model)) == 5
