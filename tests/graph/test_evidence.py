"""What decides a step's outcome (plan language, §5): evidence, in a fixed order."""

from __future__ import annotations

import pytest

from fractale.evidence import exit_code_evidence, outputs_of
from fractale.graph.outcome import CallResult
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply
from fractale.toolbox import ToolInfo, ToolResult


async def outcome_of(run_plan, outputs, extra="", **options):
    server = FakeToolServer()
    server.answer("t", outputs)
    seen = await run_plan(
        f"name: p\nsteps:\n  - name: s\n    tool: t\n{extra}", tools=server, **options
    )
    step = seen.result.steps[0]
    return step["outcome"], step["decided_by"]


async def test_no_evidence_against_it_is_success_by_default(run_plan):
    assert await outcome_of(run_plan, {"x": 1}) == ("success", "default")


@pytest.mark.parametrize(
    "key", ["returncode", "return_code", "exit_code", "exitcode", "retval", "return_value"]
)
@pytest.mark.parametrize("value", [1, -9, "2", " 3 ", 1.0])
def test_a_non_zero_exit_code_is_a_failure_also_as_text(key, value):
    assert exit_code_evidence({key: value}) is not None


@pytest.mark.parametrize(
    "outputs",
    [
        {"returncode": 0},
        {"returncode": "0"},
        {"returncode": "none"},
        {"errors": []},
        {"error": ""},
        {"error": None},
        {"success": True},
        {"stderr": "warning: deprecated"},
        {"content": "error: nothing matched"},
    ],
)
def test_these_are_no_evidence_of_a_failure(outputs):
    assert exit_code_evidence(outputs) is None


@pytest.mark.parametrize(
    "outputs", [{"error": "boom"}, {"errors": ["a", "b"]}, {"success": False}, {"errors": {"a": 1}}]
)
def test_these_are_evidence_of_a_failure(outputs):
    assert exit_code_evidence(outputs) is not None


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ({"errors": ["no such queue", "no time"]}, "no such queue; no time"),
        ({"errors": [{"line": 1}]}, '[{"line": 1}]'),
        ({"exit_code": 1, "output": "connection refused"}, "exit_code is 1: connection refused"),
        ({"exit_code": 3, "reason": "ended on n1"}, "exit_code is 3: ended on n1"),
        ({"success": False, "output": "x", "stderr": "denied"}, "success is false: denied"),
        ({"returncode": 2}, "returncode is 2"),
    ],
)
def test_what_the_outputs_say_in_words_is_told(outputs, why):
    assert exit_code_evidence(outputs) == why


async def test_a_rule_goes_before_the_exit_code(run_plan):
    rule = "    rules: {success: ['returncode == 7']}"
    assert await outcome_of(run_plan, {"returncode": 7}, rule) == ("success", "rule")


async def test_the_first_rule_that_holds_in_file_order_decides(run_plan):
    rules = "    rules:\n      failure: [x == 1]\n      success: [x == 1]"
    assert await outcome_of(run_plan, {"x": 1}, rules) == ("failure", "rule")


@pytest.mark.parametrize("rules", ["{success: state == 'ready'}", "{again: x == 1, success: y}"])
async def test_a_success_that_the_rules_describe_must_come(run_plan, rules):
    text = f"""
        name: p
        steps:
          - {{name: a, tool: look, rules: {rules}, transitions: {{again: a}}}}
    """
    tools = FakeToolServer()
    tools.tool(lambda: {"state": "broken", "x": 2, "y": False}, name="look")
    seen = await run_plan(text, tools=tools)
    (step,) = seen.of("step_finished")
    assert (step["outcome"], step["decided_by"]) == ("failure", "rule")
    assert "no rule for `success` is true" in step["reason"]


async def test_outputs_that_break_their_schema_are_a_failure(run_plan):
    schema = "    output_schema: {type: object, required: [y]}"
    assert await outcome_of(run_plan, {"x": 1}, schema) == ("failure", "schema")


async def test_a_tool_that_reports_an_error_is_a_failure_and_keeps_its_structured_answer(run_plan):
    server = FakeToolServer()
    server.fail("t", "no such partition", structured={"partition": "debgu"})
    rules = "rules: {success: job > 0}"  # that the call has no `job` is no news
    seen = await run_plan(f"name: p\nsteps: [{{name: s, tool: t, {rules}}}]\n", tools=server)
    assert seen.path == ["s:failure"]
    assert seen.decided("s") == "error"
    assert "no such partition" in seen.result.error
    assert seen.of("step_finished")[0]["outputs"] == {"partition": "debgu"}
    assert seen.of("warning") == []


async def test_an_exception_in_a_tool_is_never_a_success(run_plan):
    # 0.1.0 turned an exception into content, which counted as success.
    def explode() -> dict:
        raise RuntimeError("segmentation fault")

    seen = await run_plan("name: p\nsteps: [{name: s, tool: explode}]\n", tools=[explode])
    assert seen.path == ["s:failure"]
    assert "segmentation fault" in seen.result.error


async def test_a_lost_server_is_never_a_success(run_plan):
    server = FakeToolServer()
    server.lose("t")
    seen = await run_plan("name: p\nsteps: [{name: s, tool: t}]\n", tools=server)
    assert seen.path == ["s:failure"]
    assert seen.decided("s") == "error"


@pytest.mark.parametrize("word", ["error", "fail", "abort"])
async def test_a_word_in_the_text_is_no_evidence(run_plan, word):
    # 0.1.0 searched the pattern for the text, so no text was ever found to speak of an error, and
    # a text that was part of the pattern counted as one.
    assert await outcome_of(run_plan, word) == ("success", "default")


async def test_a_judge_decides_only_where_asked_and_where_no_evidence_does(run_plan):
    model = ScriptedModel([Reply(data={"success": False, "reason": "it printed nothing"})])
    assert await outcome_of(run_plan, {"x": 1}, "    judge: true", model=model) == (
        "failure",
        "judge",
    )


async def test_a_judge_may_have_a_criterion_with_values(run_plan):
    model = ScriptedModel([Reply(data={"success": True, "reason": "it does"})])
    criterion = "    judge: It names {{ run.plan }}, attempt {{ attempts }}."
    assert await outcome_of(run_plan, {"x": 1}, criterion, model=model) == ("success", "judge")
    (request,) = model.requests
    said = request[-1].text
    assert "It succeeded if and only if this is true: It names " in said
    assert ", attempt 1." in said


async def test_a_criterion_that_cannot_be_rendered_is_a_failure(run_plan):
    judge = "    judge: As {{ 1 / 0 }}"
    found = await outcome_of(run_plan, {"x": 1}, judge, model=ScriptedModel([]))
    assert found == ("failure", "error")


async def test_a_judge_is_not_asked_where_evidence_decides(run_plan):
    model = ScriptedModel([])
    found = await outcome_of(run_plan, {"returncode": 1}, "    judge: true", model=model)
    assert found == ("failure", "exit_code")


async def test_a_judge_that_gives_no_verdict_is_a_failure(run_plan):
    model = ScriptedModel(["I would say so", "Yes, sure"])
    found = await outcome_of(run_plan, {"x": 1}, "    judge: true", model=model)
    assert found[0] == "failure"


async def test_an_empty_answer_of_a_model_is_never_a_success(run_plan):
    plan = "name: p\nsteps: [{name: s, type: agent, instruction: Hello, allow_tools: false}]\n"
    seen = await run_plan(plan, tools=FakeToolServer(), model=ScriptedModel([Reply(text="")]))
    assert seen.path == ["s:failure"]
    assert seen.decided("s") == "error"


LOG = "step 1 done"
QUOTED = 'The config {"error": "none"} was read.'


@pytest.mark.parametrize(
    ("result", "outputs"),
    [
        (ToolResult(text="x", structured={"a": 1}), {"a": 1}),
        (ToolResult(text='{"a": 1}'), {"a": 1}),
        (ToolResult(text="[1, 2]"), {"result": [1, 2]}),
        (ToolResult(text='```json\n{"a": 1}\n```\n'), {"a": 1}),
        (ToolResult(text=f'{LOG}\n{{"a": 1}}\n'), {"a": 1}),
        (ToolResult(text=f'{QUOTED}\n{{"a": 1}}'), {"a": 1}),
        (ToolResult(text=f'{LOG}\n{{\n  "a": {{\n"b": 1\n}}\n}}'), {"a": {"b": 1}}),
        (ToolResult(text=f'{LOG}\n[{{"a": 1}}]'), {"result": [{"a": 1}]}),
        (ToolResult(text='Sure:\n```json\n{"a": 1}\n```'), {"a": 1}),
        (ToolResult(text='{"a": 1}\n{"error": "b"}'), {"result": [{"a": 1}, {"error": "b"}]}),
        (ToolResult(text="3", structured=3), {"result": 3}),
        (ToolResult(text="", structured={"result": '{"returncode": 1}'}), {"returncode": 1}),
        (ToolResult(text="", structured={"result": "words"}), {"content": "words"}),
    ],
)
def test_outputs_are_the_structured_answer_else_json_that_is_the_answer(result, outputs):
    assert outputs_of(result) == outputs


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "3",
        QUOTED,
        'CMD ["/bin/busybox"]',
        'The result is {"a": 1}',
        f'{LOG}\n{{"error": "quoted"}}\nand more words',
        f'{LOG}\n  {{"error": "quoted"}}',
        'Sure:\n```json\n{"error": "quoted"}\n```\nDone.',
        f"{LOG}\n[1]",
        f"{LOG}\n[0.12, 0.5]",
        f'{LOG}\n{{"a": 1',
        f'{{"a": 1}}\n{LOG}',
    ],
)
def test_a_text_that_quotes_json_stays_a_text(text):
    assert outputs_of(ToolResult(text=text)) == {"content": text}


@pytest.mark.parametrize("piece", ["{\n", "[\n", '{"a":\n', '{"a": 1}\nx\n', "{} x\n"])
def test_a_long_text_of_brackets_is_read_in_time(piece):
    text = piece * (1_000_000 // len(piece))
    assert outputs_of(ToolResult(text=text)) == {"content": text}


def test_what_fastmcp_wraps_is_looked_into_so_that_no_exit_code_is_overlooked():
    schema = {"type": "object", "x-fastmcp-wrap-result": True}
    tool = ToolInfo(name="t", server="s", output_schema=schema)
    result = ToolResult(text="", structured={"result": {"returncode": 1}})
    assert outputs_of(result, tool) == {"returncode": 1}
    assert outputs_of(result) == {"result": {"returncode": 1}}


def test_a_call_result_without_anything_is_empty_not_none():
    assert CallResult().outputs == {}
