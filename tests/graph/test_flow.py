"""How a run goes from step to step: transitions, attempts, ends (plan language, §6)."""

from __future__ import annotations

import pytest

from fractale.testing import FakeToolServer


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()
    server.answer("ok", {"value": 1})
    server.answer("bad", {"returncode": 3, "stderr": "disk on fire"})
    return server


async def test_steps_run_in_file_order_and_end_in_success(run_plan, tools):
    seen = await run_plan(
        """
        name: two
        steps:
          - {name: a, tool: ok}
          - {name: b, tool: ok}
        outputs: {answer: "{{ steps.b.outputs.value }}"}
        """,
        tools=tools,
    )
    assert seen.status == "success"
    assert seen.path == ["a:success", "b:success"]
    assert seen.result.outputs == {"answer": 1}


async def test_a_failure_without_a_transition_ends_in_failed(run_plan, tools):
    seen = await run_plan(
        """
        name: fails
        steps:
          - {name: a, tool: bad}
          - {name: b, tool: ok}
        """,
        tools=tools,
    )
    assert seen.status == "failed"
    assert seen.path == ["a:failure"]
    assert "disk on fire" in seen.result.error


@pytest.mark.parametrize("word", ["failure", "failed"])
async def test_a_lone_failure_transition_keeps_the_rest_of_the_plan(run_plan, tools, word):
    # 0.1.0 dropped the steps after such a step and called the plan complete.
    seen = await run_plan(
        f"""
        name: goes on
        steps:
          - name: a
            tool: ok
            transitions: {{{word}: mend}}
          - {{name: b, tool: ok, transitions: {{success: success}}}}
          - {{name: mend, tool: ok, transitions: {{success: a}}}}
        """,
        tools=tools,
    )
    assert seen.path == ["a:success", "b:success"]
    assert seen.status == "success"


@pytest.mark.parametrize(("rule", "transition"), [("failed", "failure"), ("failure", "failed")])
async def test_failed_and_failure_are_one_event(run_plan, tools, rule, transition):
    # In 0.1.0 they were two, so a verdict "failed" took the way of success.
    seen = await run_plan(
        f"""
        name: one event
        steps:
          - name: a
            tool: ok
            rules: {{{rule}: [value == 1]}}
            transitions: {{{transition}: mend}}
          - {{name: b, tool: ok}}
          - {{name: mend, tool: ok}}
        """,
        tools=tools,
    )
    assert seen.path == ["a:failure", "mend:success"]


async def test_an_event_of_the_steps_own_chooses_its_transition(run_plan, tools):
    seen = await run_plan(
        """
        name: own event
        steps:
          - name: a
            tool: ok
            rules: {enough: [value >= 1]}
            transitions: {enough: c}
          - {name: b, tool: bad}
          - {name: c, tool: ok}
        """,
        tools=tools,
    )
    assert seen.path == ["a:success", "c:success"]
    assert seen.of("step_finished")[0]["event_name"] == "enough"
    assert seen.decided("a") == "rule"


async def test_an_event_of_its_own_does_not_make_a_failed_call_a_success(run_plan, tools):
    seen = await run_plan(
        """
        name: gives up
        steps:
          - name: a
            tool: bad
            rules: {give_up: [returncode == 3]}
            transitions: {give_up: b}
          - {name: b, tool: ok}
        """,
        tools=tools,
    )
    assert seen.path == ["a:failure", "b:success"]
    assert seen.decided("a") == "rule"
    assert "returncode is 3" in seen.result.steps[0]["error"]


async def test_going_back_after_a_failure_hands_over_the_error(run_plan):
    server = FakeToolServer()
    server.answer("check", {"returncode": 1, "stderr": "line 4"}, {"returncode": 0})
    server.answer("make", {"made": True})
    seen = await run_plan(
        """
        name: retry with the error
        steps:
          - name: make
            tool: make
            inputs: {why: "{{ previous.error | default('first time') }}"}
          - {name: check, tool: check, transitions: {failure: make}}
        """,
        tools=server,
    )
    assert seen.path == ["make:success", "check:failure", "make:success", "check:success"]
    asked = [arguments["why"] for name, arguments in server.calls if name == "make"]
    assert asked[0] == "first time"
    assert "line 4" in asked[1]


@pytest.mark.parametrize("limit", [1, 3])
async def test_max_attempts_counts_entries_exactly(run_plan, tools, limit):
    seen = await run_plan(
        f"""
        name: bounded
        steps:
          - {{name: a, tool: bad, max_attempts: {limit}, transitions: {{failure: a}}}}
        """,
        tools=tools,
    )
    assert seen.status == "failed"
    assert seen.path == ["a:failure"] * limit
    assert "its limit" in seen.result.error
    assert "`a`" in seen.result.error


async def test_a_step_whose_when_does_not_hold_is_skipped(run_plan, tools):
    seen = await run_plan(
        """
        name: when
        inputs: {deep: false}
        steps:
          - {name: a, tool: bad, when: inputs.deep}
          - {name: b, tool: ok}
        """,
        tools=tools,
    )
    assert seen.path == ["a:skipped", "b:success"]
    assert tools.calls == [("ok", {})]


async def test_a_step_entered_again_counts_its_attempts(run_plan):
    server = FakeToolServer()
    server.answer("try", {"n": 1}, {"n": 2}, {"n": 3})
    seen = await run_plan(
        """
        name: counted
        steps:
          - name: try
            tool: try
            rules: {failure: [attempts < 3]}
            transitions: {failure: try}
        outputs: {tries: "{{ steps.try.attempts }}"}
        """,
        tools=server,
    )
    assert seen.result.outputs == {"tries": 3}
    assert [s["attempt"] for s in seen.result.steps] == [1, 2, 3]


async def test_an_undefined_name_in_a_template_fails_the_step_with_its_place(run_plan, tools):
    seen = await run_plan(
        """
        name: undefined
        steps:
          - {name: a, tool: ok}
          - name: b
            tool: ok
            inputs: {x: "{{ steps.a.outputs.valeu }}"}
        """,
        tools=tools,
    )
    assert seen.status == "failed"
    assert "<string>:7:" in seen.result.error
    assert "valeu" in seen.result.error
    assert len(tools.calls) == 1


async def test_an_undefined_name_in_a_rule_is_false_and_told(run_plan, tools):
    seen = await run_plan(
        """
        name: undefined rule
        steps:
          - name: a
            tool: ok
            rules: {failure: [missing == 0, not value]}
        """,
        tools=tools,
    )
    assert seen.status == "success"
    assert [w["code"] for w in seen.of("warning")] == ["undefined"]


async def test_the_last_event_lists_every_entry_of_a_step_in_order(run_plan, tools):
    seen = await run_plan(
        """
        name: listed
        steps:
          - {name: a, tool: bad, max_attempts: 2, transitions: {failure: a}}
        """,
        tools=tools,
    )
    final = seen.of("run_finished")[-1]
    assert final["status"] == "failed"
    assert [(s["name"], s["attempt"], s["outcome"], s["decided_by"]) for s in final["steps"]] == [
        ("a", 1, "failure", "exit_code"),
        ("a", 2, "failure", "exit_code"),
    ]
    assert final["steps"][0]["error"].startswith("returncode is 3")


async def test_a_rule_that_cannot_be_evaluated_fails_the_step_and_says_where(run_plan, tools):
    seen = await run_plan(
        """
        name: ill-typed
        steps:
          - name: a
            tool: ok
            rules: {success: [value > 'ten']}
            transitions: {failure: b}
          - {name: b, tool: ok}
        """,
        tools=tools,
    )
    assert seen.path == ["a:failure", "b:success"]
    assert seen.decided("b") == "default"
    assert "<string>:6:" in seen.result.steps[0]["error"]


async def test_a_when_that_cannot_be_evaluated_fails_the_step(run_plan, tools):
    seen = await run_plan(
        """
        name: ill-typed
        inputs: {n: 3}
        steps: [{name: a, tool: ok, when: inputs.n > 'ten'}]
        """,
        tools=tools,
    )
    assert seen.path == ["a:failure"]
    assert tools.calls == []
