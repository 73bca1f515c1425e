"""The verdict of a run: no success where work was not done, and nothing hidden in a success."""

from __future__ import annotations

import pytest

from fractale.errors import PolicyError, ToolError
from fractale.render.summary import summary
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply
from fractale.toolbox import ServerStatus, ToolResult

REASON = "the cluster has 1 node, 50 were asked for"
GIVES_UP = Reply(tool_calls=[("not_done", {"reason": REASON})])


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(read_only=True)
    def look() -> dict:
        """Look around."""
        return {"nodes": 1}

    @server.tool
    def submit(nodes: int) -> dict:
        """Submit a job."""
        if nodes > 1:
            raise ToolError("only 1 node is there")
        return {"job": 7}

    server.prompt("expert", "Submit the job.")
    return server


def head(seen) -> str:
    """The first line of what a person reads at the end."""
    return summary(seen.of("run_finished")[-1], color=False).splitlines()[0]


ASKS = {
    "an agent": "{name: s, agent: ask, instruction: Submit}",
    "a prompt": "{name: s, prompt: expert, tools: [submit, look]}",
    "an item": "{name: s, foreach: '[1]', agent: ask, instruction: Submit}",
}


@pytest.mark.parametrize("step", ASKS.values(), ids=ASKS.keys())
async def test_an_agent_that_reports_not_done_fails_its_step_with_the_reason(run_plan, tools, step):
    model = ScriptedModel([Reply(tool_calls=[("look", {})]), GIVES_UP])
    seen = await run_plan(f"name: p\nsteps:\n  - {step}\n", tools=tools, model=model)
    assert seen.result.exit_code == 1
    assert seen.decided("s") == "agent"
    assert REASON in head(seen)
    assert seen.result.error.endswith(f"not done: {REASON}") or REASON in seen.result.error


async def test_a_step_that_gave_up_says_what_its_agent_reported_last(run_plan, tools):
    step = "{name: s, agent: ask, instruction: Submit, max_attempts: 2, transitions: {failure: s}}"
    model = ScriptedModel([GIVES_UP, GIVES_UP])
    seen = await run_plan(f"name: p\nsteps: [{step}]\n", tools=tools, model=model)
    assert seen.result.exit_code == 1
    assert (
        head(seen) == f"failed · step `s` failed 2 of 2 attempts (max_attempts): not done: {REASON}"
    )


UNOFFERED = '<tool_call>\n{"name": "run_shell", "arguments": {"cmd": "ls"}}\n</tool_call>'
"""What a model writes that was trained with other tools."""


@pytest.mark.parametrize(
    "step",
    [
        *ASKS.values(),
        "{name: s, agent: ask, allow_tools: false, instruction: Submit}",
        "{name: s, prompt: expert}",
        "{name: s, prompt: expert, allow_tools: false}",
    ],
)
async def test_a_call_in_text_of_a_tool_that_is_not_there_is_no_answer(run_plan, tools, step):
    model = ScriptedModel([UNOFFERED, UNOFFERED])
    seen = await run_plan(f"name: p\nsteps:\n  - {step}\n", tools=tools, model=model)
    assert (seen.result.exit_code, seen.decided("s")) == (1, "error")
    assert "`run_shell`" in seen.result.error
    assert "nothing was called" in seen.result.error


async def test_the_report_is_offered_beside_the_tools_and_named_in_the_instruction(run_plan, tools):
    model = ScriptedModel(["ok"])
    await run_plan("name: p\nsteps: [{name: s, agent: ask}]\n", tools=tools, model=model)
    assert "not_done" in [tool["function"]["name"] for tool in model.options[0]["tools"]]
    assert "`not_done`" in str(model.requests[0][0].content)


@pytest.mark.parametrize(
    "said",
    [
        "NOT DONE: no input file",
        "**NOT DONE:** no input file",
        "NOT DONE - no input file",
        "NOT DONE. no input file",
        "NOT DONE\nno input file",
        '"NOT DONE, no input file',
    ],
)
@pytest.mark.parametrize("extra", ["", ", allow_tools: false"], ids=["tools", "no tools"])
async def test_a_report_in_words_counts_too(run_plan, tools, said, extra):
    plan = f"name: p\nsteps: [{{name: s, agent: ask, instruction: Go{extra}}}]\n"
    seen = await run_plan(plan, tools=tools, model=ScriptedModel([said]))
    assert seen.decided("s") == "agent"
    assert head(seen) == "failed · `s` reported that it was not done: no input file"


@pytest.mark.parametrize(
    "said",
    [
        "Done.",
        "It is NOT DONE: see above.",
        "Nothing to report",
        "not done: really?",
        "## NOT DONE\n- the docs\n\n## DONE\n- the tests",
    ],
)
async def test_other_words_are_an_answer(run_plan, tools, said):
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Go, allow_tools: false}]\n"
    seen = await run_plan(plan, tools=tools, model=ScriptedModel([said]))
    assert seen.status == "success"


async def test_a_reason_is_asked_for(run_plan, tools):
    model = ScriptedModel([Reply(tool_calls=[("not_done", {})]), GIVES_UP])
    seen = await run_plan("name: p\nsteps: [{name: s, agent: ask}]\n", tools=tools, model=model)
    assert "`reason` is missing" in str(model.requests[1][-1].content)
    assert seen.decided("s") == "agent"


ASKS_FOR_JSON = """
name: p
steps:
  - name: s
    agent: ask
    instruction: Count the nodes
    EXTRA
    output_schema: {type: object, properties: {n: {type: integer}}, required: [n]}
"""


@pytest.mark.parametrize("extra", ["", "allow_tools: false"], ids=["tools", "no tools"])
@pytest.mark.parametrize(
    "said",
    [
        ['NOT DONE: no {"n": 5} here', '{"n": 5}'],
        ["I can't say.", 'NOT DONE: no {"n": 5} here', '{"n": 5}'],
        ['{"n": "none"}', 'NOT DONE: no {"n": 5} here', '{"n": 5}'],
    ],
    ids=["at once", "for words", "for JSON"],
)
async def test_no_schema_makes_an_answer_of_a_report(run_plan, tools, said, extra):
    model = ScriptedModel(said)
    seen = await run_plan(ASKS_FOR_JSON.replace("EXTRA", extra), tools=tools, model=model)
    assert (seen.decided("s"), len(model.requests)) == ("agent", len(said) - 1)
    assert seen.result.error == 'not done: no {"n": 5} here'


async def test_a_bare_report_is_one(run_plan, tools):
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Go, allow_tools: false}]\n"
    seen = await run_plan(plan, tools=tools, model=ScriptedModel(["NOT DONE"]))
    assert head(seen) == "failed · `s` reported that it was not done: it gave no reason"


SUBMITS = Reply(tool_calls=[("submit", {"nodes": 50})])

HIDDEN_FAILURES = {
    "a nested agent's call": [
        Reply(tool_calls=[("ask", {"instruction": "Submit"})]),
        SUBMITS,
        "It is submitted.",
    ],
    "a look in the same turn": [Reply(tool_calls=[("submit", {"nodes": 50}), ("look", {})])],
    "a tool that is not there": [Reply(tool_calls=[("submit_job", {"nodes": 1})])],
    "an exit code": [Reply(tool_calls=[("build", {})])],
    "an error in a text": [Reply(tool_calls=[("send", {})])],
}


@pytest.mark.parametrize("script", HIDDEN_FAILURES.values(), ids=HIDDEN_FAILURES.keys())
async def test_words_do_not_hide_that_the_last_change_failed(run_plan, tools, script):
    tools.answer("build", {"returncode": 2, "stderr": "no space left"})
    tools.answer("send", 'sending\n{"error": "no such partition"}')
    plan = (
        "name: p\nsteps:\n"
        "  - {name: s, agent: ask, instruction: Go, tools: [ask, look, submit, build, send]}\n"
    )
    model = ScriptedModel([*script, "All is done."])
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert (seen.status, seen.decided("s")) == ("failed", "error")
    assert "the last call that was to change something failed" in seen.result.error


async def test_a_failed_change_that_worked_later_is_no_failure(run_plan, tools):
    nested = [Reply(tool_calls=[("ask", {"instruction": "Submit"})]), SUBMITS, "It did not work."]
    script = [*nested, Reply(tool_calls=[("submit", {"nodes": 1})]), "Job 7."]
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Go, tools: [ask, submit]}]\n"
    model = ScriptedModel(script)
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert seen.status == "success"
    assert "It did not work." in str(model.requests[3][-1].content)


@pytest.mark.parametrize(
    ("rules", "decided", "turns"),
    [
        ("{success: [not failed_jobs]}", "agent", 2),
        ("{success: [not error]}", "agent", 2),
        ("{success: ['attempts == 1']}", "agent", 2),
        ("{success: ['inputs.sure']}", "agent", 2),
        ("{failure: [not jobspec]}", "rule", 2),
        ("{success: [nodes == 1]}", "rule", 1),
        ("{success: ['outputs.nodes == 1']}", "rule", 1),
        ("{success: ['\"nodes\" in content']}", "rule", 1),
    ],
)
async def test_a_rule_ends_an_agent_only_if_it_looks_at_the_tools_answer(
    run_plan, tools, rules, decided, turns
):
    plan = (
        "name: p\ninputs: {sure: true}\nsteps:\n"
        f"  - {{name: s, agent: ask, instruction: Go, rules: {rules}}}\n"
    )
    model = ScriptedModel([Reply(tool_calls=[("look", {})]), GIVES_UP])
    seen = await run_plan(plan, tools=tools, model=model)
    assert (seen.decided("s"), len(model.requests)) == (decided, turns)


@pytest.mark.parametrize(
    "verdict",
    [
        '{"success": true, "reason": "a"}\nOr no: {"success": false, "reason": "b"}',
        'Hm.\n<think>{"success": true, "reason": "a"}</think>\n{"success": false, "reason": "b"}',
    ],
)
async def test_a_judge_of_two_minds_finds_no_success(run_plan, tools, verdict):
    plan = "name: p\nsteps: [{name: s, tool: look, judge: true}]\n"
    seen = await run_plan(plan, tools=tools, model=ScriptedModel([verdict]))
    assert (seen.status, seen.decided("s")) == ("failed", "judge")


class WithoutOne(FakeToolServer):
    """Tools of which one more server is not there."""

    async def servers(self, names=None):
        gone = ServerStatus(name="gone", connected=False, error="cannot be reached")
        return [*await super().servers(names), gone]


@pytest.mark.parametrize("listed", ["[submti]", "['slurm_*']", "[look, gone.submit]"])
async def test_an_agent_whose_tools_are_not_there_is_not_asked(run_plan, listed):
    tools = WithoutOne().answer("look", {"nodes": 1})
    plan = f"name: p\nsteps: [{{name: s, agent: ask, instruction: Submit, tools: {listed}}}]\n"
    model = ScriptedModel(["It is submitted."])
    seen = await run_plan(plan, tools=tools, model=model)
    assert (seen.status, seen.decided("s"), model.requests) == ("failed", "error", [])
    assert listed.strip("[]'").split(" ")[-1] in seen.result.error


async def test_a_server_that_is_not_there_is_told(run_plan):
    tools = WithoutOne().answer("look", {"nodes": 1})
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Go, tools: [look, 'gone.*']}]\n"
    seen = await run_plan(plan, tools=tools, model=ScriptedModel(["One node."]))
    assert seen.status == "success"
    assert [e["code"] for e in seen.of("warning")] == ["server-not-there", "tool-not-there"]
    assert "`gone` are not there: cannot be reached" in seen.of("warning")[0]["message"]


@pytest.mark.parametrize(
    "answer",
    [
        "building\n" * 10_000 + "FATAL: no space left",
        ToolResult(text="submitted", structured={"state": "FATAL"}),
    ],
    ids=["end", "structure"],
)
async def test_a_judge_sees_how_a_result_ends_and_its_structure(run_plan, answer):
    tools = FakeToolServer().answer("build", answer)
    plan = "name: p\nsteps: [{name: s, tool: build, judge: true}]\n"
    model = ScriptedModel(['{"success": false, "reason": "it says so"}'])
    await run_plan(plan, tools=tools, model=model)
    shown = str(model.requests[0][-1].content)
    assert "FATAL" in shown
    assert len(shown) < 25_000


@pytest.mark.parametrize(
    "said",
    [
        Reply(text="Submitted.", tool_calls=[("submit", {"nodes": 1})]),
        '<tool_call>{"name": "submit", "arguments": {"nodes": 1}}</tool_call>',
    ],
    ids=["call", "call as text"],
)
async def test_a_call_where_there_are_no_tools_is_no_answer(run_plan, tools, said):
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Go, allow_tools: false}]\n"
    seen = await run_plan(plan, tools=tools, model=ScriptedModel([said]))
    assert seen.status == "failed"
    assert "called `submit`, but it has no tools here" in seen.result.error


async def test_a_nested_agents_report_reaches_the_one_that_asked_it(run_plan, tools):
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Go, tools: [ask, look]}]\n"
    nested = Reply(tool_calls=[("ask", {"instruction": "Submit"})])
    model = ScriptedModel([nested, GIVES_UP, "I asked, and it is done."])
    seen = await run_plan(plan, tools=tools, model=model)
    assert f"not done: {REASON}" in str(model.requests[2][-1].content)
    assert seen.status == "failed"  # nothing worked after it, whatever the words say
    assert REASON in seen.result.error


async def test_a_rule_does_not_make_a_success_of_a_report(run_plan, tools):
    plan = (
        "name: p\nsteps:\n"
        "  - {name: s, agent: ask, instruction: Go, rules: {success: [not failed_jobs]}}\n"
    )
    seen = await run_plan(plan, tools=tools, model=ScriptedModel([GIVES_UP]))
    assert seen.decided("s") == "agent"


async def test_a_report_goes_back_with_its_reason(run_plan, tools):
    plan = """
        name: p
        steps:
          - {name: write, agent: ask, instruction: Write it, allow_tools: false, max_attempts: 2}
          - name: s
            agent: ask
            instruction: Submit it
            transitions: {failure: write}
    """
    model = ScriptedModel(["50 nodes", GIVES_UP, "1 node", "submitted"])
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.status == "success"
    assert f"not done: {REASON}" in str(model.requests[2][-1].content)


# -- what the calls of an agent show ---------------------------------------------------------------


async def agent(run_plan, tools, *script):
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Submit}]\n"
    return await run_plan(plan, tools=tools, model=ScriptedModel(script), yes=True)


FAILS = Reply(tool_calls=[("submit", {"nodes": 50})])
WORKS = Reply(tool_calls=[("submit", {"nodes": 1})])
LOOKS = Reply(tool_calls=[("look", {})])


async def test_words_do_not_outweigh_a_failed_call_that_was_to_change_something(run_plan, tools):
    seen = await agent(run_plan, tools, LOOKS, FAILS, "I could not do it: nothing was submitted.")
    assert seen.status == "failed"
    assert seen.decided("s") == "error"
    assert "only 1 node is there" in seen.result.error


@pytest.mark.parametrize(
    "script", [(FAILS, WORKS), (WORKS,), (LOOKS,), (WORKS, LOOKS), ()], ids=str
)
async def test_a_later_call_that_worked_or_no_failed_one_leaves_the_answer(run_plan, tools, script):
    seen = await agent(run_plan, tools, *script, "Job 7 runs.")
    assert seen.status == "success"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"returncode": 2, "stderr": "meson: not found"}, "returncode is 2: meson: not found"),
        ({"errors": ["no such queue"]}, "no such queue"),
        ({"success": False, "reason": "quota"}, "success is false: quota"),
    ],
)
async def test_a_call_whose_answer_speaks_of_a_failure_has_failed_too(run_plan, answer, why):
    tools = FakeToolServer().answer("build", answer)
    build = Reply(tool_calls=[("build", {})])
    seen = await agent(run_plan, tools, build, "It is built.")
    assert (seen.status, seen.decided("s")) == ("failed", "error")
    assert f"`build`: {why}" in seen.result.error


async def test_an_exit_code_of_a_tool_that_only_reads_is_what_it_found_out(run_plan):
    tools = FakeToolServer().answer("search", {"returncode": 1, "stdout": ""})
    tools.describe("search", annotations={"readOnlyHint": True})
    seen = await agent(run_plan, tools, Reply(tool_calls=[("search", {})]), "It is nowhere.")
    assert seen.status == "success"


async def test_warnings_and_losses_in_the_calls_of_an_agent_are_in_the_verdict(run_plan):
    tools, answers = FakeToolServer(), iter([["--gres", "--mem"], ["--gres"]])

    @tools.tool(read_only=True)
    def translate(lossy: bool) -> dict:
        return {"script": "#!/bin/sh", "not_translated": next(answers), "warnings": ["no srun"]}

    calls = [Reply(tool_calls=[("translate", {"lossy": lossy})]) for lossy in (True, False)]
    seen = await agent(run_plan, tools, *calls, "Translated.")
    assert head(seen) == "success · with losses · with warnings · last step: `s`"
    assert seen.of("run_finished")[-1]["notices"] == [
        {"step": "s", "kind": "warning", "message": "no srun"},
        {"step": "s", "kind": "lost", "message": "--gres"},
    ]


# -- a rule needs something to look at -------------------------------------------------------------

RULE = "name: p\nsteps: [{name: s, tool: t, rules: {success: [not broken]}}]\n"


@pytest.mark.parametrize(
    "kind", ["refused", "denied by policy", "lost", "isError without text", "exception"]
)
async def test_a_rule_finds_no_success_in_a_call_without_outputs(run_plan, kind, settings):
    tools, options = FakeToolServer(), {}
    if kind == "refused":

        @tools.tool(name="t")
        def refuse() -> None:
            raise PolicyError("not here")

    elif kind == "denied by policy":
        from dataclasses import replace

        from fractale.settings import PolicySettings

        tools.answer("t", "fine")
        options["settings"] = replace(settings, policy=PolicySettings(deny=("t",)))
    elif kind == "lost":
        tools.lose("t")
    elif kind == "exception":

        @tools.tool(name="t")
        def refuse() -> None:
            raise ToolError("it did not start")

    else:
        tools.fail("t", "")
    seen = await run_plan(RULE, tools=tools, **options)
    assert (seen.status, seen.decided("s")) == ("failed", "error")


@pytest.mark.parametrize(
    ("rule", "decided"),
    [
        ("not broken", "error"),
        ("broken != 1", "error"),
        ("not (broken | default(false))", "rule"),
        ("'already' in content", "rule"),
        ("'already' in content or not broken", "rule"),
    ],
)
async def test_after_a_failed_call_a_rule_that_reads_what_is_not_there_finds_no_success(
    run_plan, rule, decided
):
    tools = FakeToolServer().fail("t", "the queue is there already")
    plan = f'name: p\nsteps: [{{name: s, tool: t, rules: {{success: ["{rule}"]}}}}]\n'
    seen = await run_plan(plan, tools=tools)
    assert seen.decided("s") == decided
    assert seen.status == ("success" if decided == "rule" else "failed")


async def test_a_timeout_is_no_success_by_rule(run_plan):
    import asyncio

    tools = FakeToolServer()

    @tools.tool(name="t")
    async def slow() -> None:
        await asyncio.Event().wait()

    plan = "name: p\nsteps: [{name: s, tool: t, timeout: 50ms, rules: {success: [not broken]}}]\n"
    seen = await run_plan(plan.replace("50ms", "1s"), tools=tools)
    assert (seen.status, seen.decided("s")) == ("failed", "error")


async def test_a_rule_still_decides_on_what_a_failed_call_said(run_plan):
    tools = FakeToolServer().fail("t", "the queue is there already")
    plan = "name: p\nsteps: [{name: s, tool: t, rules: {success: [\"'already' in content\"]}}]\n"
    seen = await run_plan(plan, tools=tools)
    assert (seen.status, seen.decided("s")) == ("success", "rule")


async def test_a_rule_for_an_event_of_its_own_still_leads_on(run_plan):
    tools = FakeToolServer().lose("t").answer("u", "fine")
    plan = """
        name: p
        steps:
          - {name: s, tool: t, rules: {gone: ["'lost' in error"]}, transitions: {gone: u}}
          - {name: u, tool: u}
    """
    seen = await run_plan(plan, tools=tools)
    assert seen.path == ["s:failure", "u:success"]
    assert seen.result.steps[0]["event"] == "gone"


async def test_a_rule_inside_an_agent_does_not_make_a_success_of_a_failed_call(run_plan, tools):
    plan = (
        "name: p\nsteps:\n"
        "  - {name: s, agent: ask, instruction: Go, rules: {success: [not error and job]}}\n"
    )
    model = ScriptedModel([FAILS, WORKS])
    seen = await run_plan(plan, tools=tools, model=model, yes=True)
    assert (seen.status, seen.decided("s"), len(model.requests)) == ("success", "rule", 2)
    assert [call.arguments for call in tools.calls] == [{"nodes": 50}, {"nodes": 1}]


# -- what failed, in the tool's own words ----------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"valid": False, "errors": ["line 4: unknown directive -c8"]},
        {"valid": False, "error": "line 4: unknown directive -c8"},
        {"valid": False, "stderr": "line 4: unknown directive -c8"},
    ],
)
async def test_a_step_that_a_rule_fails_shows_the_tools_own_errors(run_plan, said):
    tools = FakeToolServer().answer("validate", said)
    plan = "name: p\nsteps: [{name: s, tool: validate, rules: {failure: [not valid]}}]\n"
    seen = await run_plan(plan, tools=tools)
    assert seen.result.error == "rule `not valid`: line 4: unknown directive -c8"


# -- loops that keep going -------------------------------------------------------------------------


def jobs(*codes: int) -> FakeToolServer:
    tools = FakeToolServer()

    @tools.tool
    def job(code: int) -> dict:
        return {"returncode": code}

    return tools


def sweep(*codes: int) -> str:
    return (
        "name: p\nsteps:\n"
        f"  - {{name: sweep, tool: job, foreach: '{list(codes)}', keep_going: true,"
        " inputs: {code: '{{ item }}'}}\n"
    )


@pytest.mark.parametrize("codes", [(3,), (3, 3, 3)])
async def test_a_loop_of_which_all_items_failed_fails(run_plan, codes):
    seen = await run_plan(sweep(*codes), tools=jobs())
    assert seen.result.exit_code == 1
    assert f"{len(codes)} of {len(codes)} items failed" in seen.result.error


async def test_a_loop_that_kept_going_says_how_many_failed(run_plan):
    seen = await run_plan(sweep(0, 3, 0), tools=jobs())
    assert seen.result.exit_code == 0
    assert head(seen).startswith("success · `sweep`: 1 of 3 items failed · ")
    assert "all steps completed" not in head(seen)
    (notice,) = seen.result.notices
    assert (notice["step"], notice["kind"]) == ("sweep", "failed")
    assert notice["message"].startswith("1 of 3 items failed; ")
    assert seen.of("step_finished")[0]["notices"] == [
        {"kind": "failed", "message": notice["message"]}
    ]
    assert seen.of("run_finished")[0]["notices"] == seen.result.notices


@pytest.mark.parametrize(("codes", "status"), [((0, 3), "success"), ((3, 3), "failed")])
async def test_a_parallel_block_that_keeps_going_does_the_same(run_plan, codes, status):
    steps = "".join(
        f"      - {{name: {name}, tool: job, inputs: {{code: {code}}}}}\n"
        for name, code in zip("ab", codes, strict=True)
    )
    plan = f"name: p\nsteps:\n  - name: both\n    keep_going: true\n    parallel:\n{steps}"
    seen = await run_plan(plan, tools=jobs())
    assert seen.status == status
    if status == "success":
        assert "1 of 2 steps failed" in head(seen)


async def test_a_loop_without_items_is_a_success(run_plan):
    seen = await run_plan(sweep(), tools=jobs())
    assert (seen.status, seen.result.notices) == ("success", [])


# -- warnings and losses ---------------------------------------------------------------------------


async def test_warnings_and_losses_that_a_tool_names_are_in_the_verdict(run_plan):
    said = {
        "script": "#!/bin/sh",
        "warnings": ["line 12: srun does not exist under Flux"],
        "not_translated": [{"line": 7, "directive": "--gres=gpu:2"}, "line 8: --constraint"],
    }
    tools = FakeToolServer().answer("translate", said)
    seen = await run_plan("name: p\nsteps: [{name: s, tool: translate}]\n", tools=tools)
    text = summary(seen.of("run_finished")[0], color=False)
    assert text.startswith("success · with losses · with warnings · last step: `s`")
    assert "all steps completed" not in text
    assert "--gres=gpu:2" in text
    assert "srun does not exist under Flux" in text
    assert [n["kind"] for n in seen.result.notices] == ["warning", "lost", "lost"]


@pytest.mark.parametrize("nothing", [{"warnings": []}, {"warnings": 0}, {"warnings": None}, {}])
async def test_no_warnings_are_none(run_plan, nothing):
    tools = FakeToolServer().answer("translate", {"script": "x", **nothing})
    seen = await run_plan("name: p\nsteps: [{name: s, tool: translate}]\n", tools=tools)
    assert seen.result.notices == []
    assert head(seen) == "success · all steps completed; last step: `s`"


async def test_only_the_latest_attempt_of_a_step_counts(run_plan):
    tools = FakeToolServer().answer("t", {"n": 1, "warnings": ["rough"]}, {"n": 2})
    plan = """
        name: p
        steps:
          - {name: s, tool: t, rules: {again: [n < 2]}, transitions: {again: s}, max_attempts: 2}
    """
    seen = await run_plan(plan, tools=tools)
    assert seen.result.notices == []


async def test_the_warnings_of_items_name_their_item(run_plan):
    tools = FakeToolServer().answer("t", {"n": 1}, {"n": 2, "warnings": ["rough"]})
    plan = "name: p\nsteps: [{name: s, tool: t, foreach: '[1, 2]', max_parallel: 1}]\n"
    seen = await run_plan(plan, tools=tools)
    assert [n["message"] for n in seen.result.notices] == ["item 2: rough"]


@pytest.mark.parametrize(
    "step",
    [
        "{name: s, plan: inner.yaml}",
        "{name: s, parallel: [{name: t, tool: translate}]}",
    ],
)
async def test_a_warning_is_told_once_by_the_step_that_it_comes_from(run_plan, tmp_path, step):
    tools = FakeToolServer().answer("translate", {"script": "x", "warnings": ["no srun"]})
    (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: t, tool: translate}]\n")
    (tmp_path / "plan.yaml").write_text(f"name: p\nsteps: [{step}]\n")
    seen = await run_plan(tmp_path / "plan.yaml", tools=tools)
    assert seen.of("run_finished")[-1]["notices"] == [
        {"step": "s/t", "kind": "warning", "message": "no srun"}
    ]
