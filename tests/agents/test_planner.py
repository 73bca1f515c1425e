"""The planner's own words: what it is shown, what it may answer in, and what a draft may hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from langchain_core.messages import BaseMessage

from fractale.agents.draft_catalog import DraftCatalog, hand_on
from fractale.agents.planner import plan_in
from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.needs import both, narrow
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
    text = DraftCatalog(tools=[COUNT], inputs=["found"]).as_text()
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("- count")).endswith("…")
    assert max(map(len, lines)) < 300
    assert "- found" in lines


def test_the_schema_names_what_there_is_and_nothing_else():
    prompt = PromptInfo(name="s.expert", server="s")
    catalog = DraftCatalog(tools=[COUNT], prompts=[prompt], inputs=["found"])
    valid = Draft202012Validator(catalog.schema()).is_valid
    assert valid({"steps": [STEP]})
    assert valid({"steps": [{**STEP, "inputs": {"items": "{{ inputs.found }}"}}]})
    assert valid({"steps": [{"name": "a", "prompt": "s.expert", "instruction": "go"}]})
    assert not valid({"steps": [{"name": "a", "tool": "invented", "inputs": {}}]})
    assert not valid({"steps": [{"name": "a", "agent": "ask"}]})
    assert not valid({"steps": [{"name": "a", "type": "plan"}]})
    assert not valid({"steps": []})


def test_the_schema_says_how_steps_follow_each_other_but_not_to_a_small_model():
    whole = json.dumps(DraftCatalog(tools=[COUNT]).schema())
    small = json.dumps(DraftCatalog(tools=[COUNT], plain=True).schema())
    for word in ("transitions", "max_attempts", "rules", "outputs"):
        assert word in whole
        assert word not in small
    assert len(small) < 500


def test_many_tools_make_one_short_schema():
    many = [ToolInfo(name=f"tool_{i}", server="s", input_schema={}) for i in range(100)]
    schema = DraftCatalog(tools=many).schema()
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
    plan, text = DraftCatalog(tools=[COUNT], inputs=["found"]).read("made", {"steps": [STEP]})
    assert parse_plan(text) == plan
    assert (plan.name, list(plan.inputs)) == ("made", ["found"])


@pytest.mark.parametrize(
    ("draft", "code"),
    [
        ([STEP], "not-a-draft"),
        ({"steps": [STEP], "secrets": ["x"]}, "draft-key"),
        ({"steps": [{**STEP, "name": f"s{i}"} for i in range(51)]}, "draft-too-long"),
        ({"steps": [{**STEP, "approve": "never"}]}, "draft-approve"),
        ({"steps": [{"name": "a", "ask": "Go?", "default": "yes"}]}, "draft-default"),
        ({"steps": [{"name": "a", "ask": "Go?", "choices": []}]}, "bad-value"),
        ({"steps": [{"name": "deeper", "type": "plan", "instruction": "go"}]}, "draft-too-deep"),
        ({"steps": [{"name": "a", "instruction": "go"}]}, "draft-agent"),
        ({"steps": [STEP, STEP]}, "duplicate-step"),
        ({"steps": [{**STEP, "inputs": {"items": "{{ steps.b.outputs }}"}}]}, "undefined"),
        ({"steps": [{**STEP, "inputs": {}, "tool": "other"}]}, "unknown-tool"),
        ({"steps": [{**STEP, "inputs": {"itmes": []}}]}, "unknown-argument"),
        ({"steps": [{**STEP, "when": "{{"}]}, "template-syntax"),
        ({"steps": [{**STEP, "model": ["x"]}]}, "wrong-type"),
        ({"steps": [{"name": "a", "plan": "./other.yaml"}]}, "bad-include"),
        ({"steps": [{"name": "c", "steps": [{**STEP, "approve": "never"}]}]}, "draft-approve"),
        ({"steps": [{"name": "c", "steps": [{**STEP, "tool": "other"}]}]}, "unknown-tool"),
        ({"steps": [STEP], "defaults": {"tool": {"approve": "never"}}}, "draft-key"),
    ],
)
def test_each_fault_of_a_draft_has_its_code(draft, code):
    with pytest.raises(PlanError) as caught:
        DraftCatalog(tools=[COUNT]).read("made", draft)
    assert code in [problem.code for problem in caught.value.problems]


async def test_a_draft_may_have_chains_which_are_bound_by_the_tools_of_their_step(run_plan, tools):
    steps = [
        {
            "name": "each",
            "foreach": {"zip": {"a": ["x", "y"], "b": [1, 2]}},
            "when": "item.b == 2",
            "steps": [
                {"name": "one", "tool": "look", "inputs": {"where": "{{ item.a }}"}},
                {
                    "name": "two",
                    "tool": "look",
                    "inputs": {"where": "{{ steps.one.outputs.seen }}!"},
                },
            ],
        }
    ]
    plan = "name: p\nsteps: [{name: m, type: plan, instruction: go, tools: [look]}]\n"
    model = drafts({"steps": steps})
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.status == "success", seen.result.error
    assert [call.arguments["where"] for call in tools.calls] == ["y", "y!"]
    other = {"name": "three", "tool": "erase", "inputs": {"path": "x"}}
    worse = {"steps": [{"name": "each", "steps": [other]}]}
    seen = await run_plan(plan, tools=tools, model=drafts(worse, worse, worse), yes=True)
    assert seen.status == "failed"


def test_findings_reach_a_generalist_in_a_chain():
    asks = {"name": "a", "agent": "ask", "instruction": "go"}
    (step,) = hand_on({"steps": [{"name": "c", "steps": [asks]}]})["steps"]
    assert step["steps"][0]["inputs"] == {"known": "{{ inputs.known }}"}


@pytest.mark.parametrize("block", ["steps", "on_failure", "finally"])
def test_findings_reach_a_generalist_in_a_handler(block):
    asks = {"name": "a", "agent": "ask", "instruction": "go"}
    draft = {"steps": [{"name": "s", "tool": "look"}], block: [asks]}
    (step,) = hand_on(draft)[block]
    assert step["inputs"] == {"known": "{{ inputs.known }}"}
    assert draft[block] == [asks]


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
    assert "no valid draft in 5 attempts" in seen.result.error
    assert len(asked_for_drafts(model)) == 5


# -- what it is told of tools and of the language -------------------------------------------------

RUN = ToolInfo(
    name="run_md",
    server="s",
    description="Run it.",
    input_schema={
        "type": "object",
        "properties": {
            "script": {"type": "string"},
            "ranks": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "mode": {"enum": ["fast", "safe"]},
            "box": {"$ref": "#/$defs/Box"},
            "extra": {"type": "object", "description": "Variables: name -> value."},
        },
        "required": ["script"],
        "$defs": {"Box": {"type": "object", "properties": {"x": {"type": "number"}},
                          "required": ["x"]}},
    },
    output_schema={
        "type": "object",
        "properties": {"rate": {"type": "number"}, "logs": {"type": "array",
                                                            "items": {"type": "string"}}},
    },
)  # fmt: skip


def agent(name: str) -> Any:
    from fractale.agents.catalog import Catalog

    return Catalog().find(name)


@pytest.mark.parametrize(
    ("offered", "line"),
    [
        ({"tools": [RUN]}, 'run_md(script*: string, ranks: integer, mode: "fast"|"safe", '
         "box: {x*: number}, extra: object (Variables: name -> value.)) "
         "-> rate: number, logs: [string]: Run it."),
        ({"agents": [agent("ask")]}, "ask() -> content: string: The generalist"),
        ({"agents": [agent("result_parse")]}, "result_parse(metric_name*: string"),
        ({"prompts": [PromptInfo(name="s.e", server="s", arguments=(
            {"name": "topic", "required": True}, {"name": "depth"}))]}, "s.e(topic*, depth)"),
    ],
)  # fmt: skip
def test_the_catalog_says_what_is_required_and_what_comes_back(offered, line):
    assert line in DraftCatalog(**offered).as_text()


def test_the_planner_is_told_the_language_that_a_draft_may_use():
    from fractale.agents.planner import task_messages

    jobs = ToolInfo(name="job_submit", server="s", input_schema={})
    catalog = DraftCatalog(tools=[RUN, jobs], agents=[agent("ask")], may_nest=True)
    system, task = task_messages("Do it.", {}, catalog)
    told = system.text + task.text + json.dumps(catalog.schema())
    for word in ("foreach", "parallel", '"job"', "retry", "output_schema", "default(",
                 "previous.error", "outputs.KEY", "exit_code", "inputs.known"):  # fmt: skip
        assert word in told, word


def test_a_kind_of_step_is_explained_where_it_is_offered_or_not_offered():
    nested = json.dumps(DraftCatalog(tools=[RUN], may_nest=True).schema())
    assert "the steps that its `instruction` needs are written when" in nested
    flat = json.dumps(DraftCatalog(tools=[RUN]).schema())
    assert '"plan"' not in flat
    assert '"job"' not in flat


def test_the_schema_says_a_step_once():
    """So that it stays short with any number of kinds, tools and agents."""
    many = [ToolInfo(name=f"tool_{i}", server="s", input_schema=RUN.input_schema) for i in range(7)]
    schema = DraftCatalog(tools=many, agents=[agent("ask")], may_nest=True).schema()
    text = json.dumps(schema)
    assert text.count('"transitions"') == text.count('"rules"') == 1
    assert len(text) < 3500
    Draft202012Validator.check_schema(schema)
    inside = {"name": "p", "parallel": [{"name": "a", "tool": "tool_1", "inputs": {}}]}
    assert Draft202012Validator(schema).is_valid({"steps": [inside]})
    wrong = {"name": "p", "parallel": [{"name": "a", "tool": "other", "inputs": {}}]}
    assert not Draft202012Validator(schema).is_valid({"steps": [wrong]})


# -- what a reference may name --------------------------------------------------------------------

SAY = {"name": "say", "agent": "ask"}
ASKED = {"type": "object", "properties": {"total": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("first", "reference", "is_there"),
    [
        ({"tool": "run_md", "inputs": {"script": "x"}}, "rate", True),
        ({"tool": "run_md", "inputs": {"script": "x"}}, "speed", False),
        ({"tool": "count", "inputs": {}}, "anything", True),  # it does not say what it gives
        ({"agent": "ask", "instruction": "x"}, "content", True),
        ({"agent": "ask", "instruction": "x"}, "summary", False),
        ({"agent": "ask", "instruction": "x", "output_schema": ASKED}, "total", True),
        ({"agent": "ask", "instruction": "x", "output_schema": ASKED}, "content", True),
        ({"agent": "ask", "instruction": "x", "output_schema": ASKED}, "sum", False),
        ({"agent": "result_parse", "inputs": {"metric_name": "a", "log_text": "b"}}, "value", True),
        ({"agent": "result_parse", "inputs": {"metric_name": "a", "log_text": "b"}}, "val", False),
        ({"tool": "run_md", "foreach": ["a"], "inputs": {"script": "x"}}, "rate", False),
    ],
)
def test_a_reference_to_an_output_that_is_not_there_is_an_error_of_the_draft(
    first, reference, is_there
):
    text = f"It is {{{{ steps.first.outputs.{reference} }}}}."
    draft = {"steps": [{"name": "first", **first}, {**SAY, "instruction": text}]}
    catalog = DraftCatalog(tools=[RUN, COUNT], agents=[agent("ask"), agent("result_parse")])
    if is_there:
        catalog.read("made", draft)
        return
    with pytest.raises(PlanError) as caught:
        catalog.read("made", draft)
    assert [problem.code for problem in caught.value.problems] == ["impossible-key"]
    optional = {**SAY, "instruction": text.replace(" }}", " | default('') }}")}
    catalog.read("made", {"steps": [draft["steps"][0], optional]})


def test_a_rule_of_the_generalist_may_name_what_its_tools_answer():
    step = {**SAY, "instruction": "x", "rules": {"success": ["returncode == 0"]}}
    last = {"name": "last", "agent": "ask", "instruction": "{{ steps.say.outputs.returncode }}"}
    DraftCatalog(tools=[COUNT], agents=[agent("ask")]).read("made", {"steps": [step, last]})


@pytest.mark.parametrize("value", [[], [""], {"x": 0}])
def test_a_value_that_its_tool_would_refuse_is_an_error_of_the_draft(value):
    bounded = ToolInfo(name="start", server="s", input_schema={"properties": {"command": {
        "type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}}})  # fmt: skip
    step = {"name": "a", "tool": "start", "inputs": {"command": value}}
    with pytest.raises(PlanError) as caught:
        DraftCatalog(tools=[bounded]).read("made", {"steps": [step]})
    assert [problem.code for problem in caught.value.problems] == ["bad-argument"]


def test_a_strangers_schema_can_not_hang_the_check():
    slow = ToolInfo(
        name="t",
        server="s",
        input_schema={
            "properties": {
                "a": {"type": "string", "pattern": "^(a+)+$"},
                "b": {"$ref": "http://127.0.0.1:1/x"},
            }
        },
    )
    step = {"name": "a", "tool": "t", "inputs": {"a": "a" * 60 + "!", "b": 1}}  # fmt: skip
    DraftCatalog(tools=[slow]).read("made", {"steps": [step]})


# -- what was found out goes on -------------------------------------------------------------------


async def test_what_was_found_out_goes_into_the_step_that_runs(run_plan, tools):
    """The step's agent is told it, sees that the draft says so, and need not look again."""
    found = "There is only home/x.log."
    replies = [
        Reply(tool_calls=[("look", {"where": "home"})]),
        found,
        Reply(data={"steps": [{"name": "a", "agent": "ask", "instruction": "Name the log."}]}),
        "x.log",
    ]
    model = ScriptedModel(replies)
    plan = "name: p\nsteps: [{name: m, type: plan, instruction: go}]\n"
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.status == "success", seen.result.error
    assert f"known: {found}" in model.requests[-1][-1].text
    assert [name for name, _ in tools.calls] == ["look"]


async def test_a_draft_with_what_was_found_out_can_be_frozen(run_plan, tools, tmp_path):
    from fractale.record.freeze import freeze
    from fractale.store.run_record import RunRecords

    (tmp_path / "p.yaml").write_text("name: p\nsteps: [{name: m, type: plan, instruction: go}]\n")
    model = ScriptedModel([
        Reply(tool_calls=[("look", {})]), "Only x.log.",
        Reply(data={"steps": [{"name": "a", "agent": "ask", "instruction": "Name it."}]}),
        "x.log", "x.log",
    ])  # fmt: skip
    seen = await run_plan(tmp_path / "p.yaml", tools=tools, model=model, yes=True, keep=True)
    folder = RunRecords(tmp_path / ".fractale").find(seen.result.run)
    freeze(folder, tmp_path / "frozen.yaml")
    again = await run_plan(tmp_path / "frozen.yaml", tools=tools, model=model)
    assert again.status == "success", again.result.error
    assert "known: Only x.log." in model.requests[-1][-1].text


async def test_what_is_known_is_not_looked_for(run_plan, tools):
    model = drafts({"steps": [{"name": "a", "tool": "look", "inputs": {}}]})
    plan = """
    name: p
    steps: [{name: m, type: plan, instruction: go, inputs: {known: Home has x.log.}}]
    """
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.status == "success", seen.result.error
    assert len(model.requests) == 1
    assert "Home has x.log." in asked_for_drafts(model)[0]


# -- after a failure ------------------------------------------------------------------------------


async def test_a_draft_that_failed_is_written_again_with_its_error(run_plan, tools):
    tools.fail("burn", "disk is read-only")
    first = {"steps": [{"name": "a", "tool": "burn", "inputs": {"path": "/x"}}]}
    model = ScriptedModel([
        Reply(tool_calls=[("look", {})]), "Home has /x.", Reply(data=first),
        Reply(data={"steps": [{"name": "b", "tool": "look", "inputs": {}}]}),
    ])  # fmt: skip
    plan = """
    name: p
    steps: [{name: m, type: plan, instruction: go, max_attempts: 2, transitions: {failure: m}}]
    """
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.path == ["m/a:failure", "m:failure", "m/b:success", "m:success"]
    told = "\n".join(message.text for message in model.requests[-1])
    assert "These steps ran and failed: " in told
    assert "disk is read-only" in told
    assert "tool: burn" in told
    assert "Home has /x." in told
    assert len(model.requests) == 4  # it did not look around again


async def test_a_person_at_the_terminal_can_have_a_failed_draft_written_again(run_plan, tools):
    class Person:
        def __init__(self) -> None:
            self.asked: list[str] = []

        async def answer(self, question: Any) -> Any:
            self.asked.append(question["kind"])
            return {"review": "accept", "approval": True, "failure": "retry"}[question["kind"]]

    tools.fail("burn", "disk is read-only")
    model = drafts({"steps": [{"name": "a", "tool": "burn", "inputs": {}}]},
                   {"steps": [{"name": "b", "tool": "look", "inputs": {}}]})  # fmt: skip
    person = Person()
    plan = "name: p\nsteps: [{name: m, type: plan, instruction: go}]\n"
    seen = await run_plan(plan, tools=tools, model=model, person=person)
    assert seen.status == "success", seen.result.error
    assert person.asked == ["review", "approval", "failure", "review"]
    assert "disk is read-only" in asked_for_drafts(model)[1]


async def test_what_failed_before_is_told_to_the_planner(run_plan, tools):
    tools.fail("burn", "disk is read-only")
    model = drafts({"steps": [{"name": "a", "tool": "look", "inputs": {}}]})
    plan = """
    name: p
    steps:
      - {name: x, tool: burn, inputs: {path: /x}, transitions: {failure: m}}
      - {name: m, type: plan, instruction: go}
    """
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.status == "success", seen.result.error
    assert "The last attempt failed: disk is read-only" in asked_for_drafts(model)[0]


async def test_a_draft_may_ask_the_person(run_plan, tools):
    ask = {"name": "which", "ask": "Which one?", "choices": ["a", "b"]}
    look = {
        "name": "look",
        "tool": "look",
        "inputs": {},
        "when": "steps.which.outputs.answer == 'b'",
    }
    model = drafts({"steps": [ask, look]})

    class Person:
        def __init__(self) -> None:
            self.asked: list[str] = []

        async def answer(self, question: Any) -> Any:
            self.asked.append(question["kind"])
            return {"review": "accept", "question": "b"}[question["kind"]]

    person = Person()
    plan = "name: p\nsteps: [{name: m, type: plan, instruction: go}]\n"
    seen = await run_plan(plan, tools=tools, model=model, person=person)
    assert seen.status == "success", seen.result.error
    assert person.asked == ["review", "question"]
    assert "m/look" in str(seen.events)


# -- one expert -----------------------------------------------------------------------------------

ONE_EXPERT = """
name: p
steps: [{{name: m, type: plan, instruction: go, inputs: {inputs}}}]
"""


async def test_the_planner_sees_what_the_expert_takes(run_plan, tools):
    step = {"name": "a", "agent": "result_parse",
            "inputs": {"metric_name": "x", "log_text": "x = 1"}}  # fmt: skip
    model = ScriptedModel(["nothing", Reply(data={"steps": [step]}),
                           Reply(data={"why": "", "regex": r"x = (\\d)"})])  # fmt: skip
    await run_plan(ONE_EXPERT.format(inputs="{agent: result_parse}"), tools=tools, model=model,
                   yes=True)  # fmt: skip
    request = model.requests[1]
    told = "\n".join(message.text for message in request)
    schema = json.dumps(model.options[1])
    for word in ("metric_name", "log_text", "Proposals of the model at most"):
        assert word in told
    assert '"log_text"' in schema
    assert '"required": ["metric_name", "log_text"]' in schema


@pytest.mark.parametrize("name", ["optimize", "ask", "result_parse"])
def test_a_request_has_one_instruction(name):
    from fractale.agents.planner import task_messages

    catalog = DraftCatalog(tools=[COUNT], agents=[agent(name)], expert=("agent", name))
    asked = json.dumps(catalog.schema()) + task_messages("Do it.", {}, catalog)[1].text
    assert asked.count('"instruction"') == 1


def test_an_expert_of_a_server_that_takes_no_words_gets_none():
    served = ToolInfo(name="tuner", server="s", annotations={"fractale.type": "agent"},
                      input_schema={"properties": {"nodes": {"type": "integer"}}})  # fmt: skip
    catalog = DraftCatalog(agents=[served], expert=("agent", "tuner"), inputs=["n"])
    step = catalog.schema()["properties"]["steps"]["items"]
    assert set(step["properties"]) == {"name", "agent", "inputs"}


async def test_inputs_that_no_model_can_mend_are_refused_before_one_is_asked(run_plan, tools):
    model = drafts()
    inputs = "{agent: result_parse, log_text: x, max_tries: 0}"
    seen = await run_plan(ONE_EXPERT.format(inputs=inputs), tools=tools, model=model, yes=True)
    assert seen.status == "failed"
    assert "`result_parse` can't take these inputs: $.max_tries: 0 is less" in seen.result.error
    assert model.requests == []


def test_a_tools_own_definitions_are_written_out_in_the_schema_of_a_draft():
    schema = DraftCatalog(tools=[RUN], plain=True).schema()
    assert "$ref" not in json.dumps(schema)
    step = {"name": "a", "tool": "run_md", "inputs": {"script": "x", "box": {"x": "far"}}}
    assert not Draft202012Validator(schema).is_valid({"steps": [step]})
    step["inputs"]["box"] = {"x": 1}
    assert Draft202012Validator(schema).is_valid({"steps": [step]})
