"""The end of a run that failed or reached a limit: its reason, and the outputs it could render."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from fractale import Dependencies, compile_plan
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.model import Limits
from fractale.render.summary import summary
from fractale.runs.result import finished_data
from fractale.testing import FakeToolServer
from replays import Stage

THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}

GATE = """
name: gate
steps:
  - {name: draft, tool: write, inputs: {text: "a draft"}}
  - name: review
    tool: review
    rules: {drop: verdict == 'drop'}
    transitions: {drop: failed}
    reason: "the reviewer dropped {{ steps.draft.outputs.text }}: {{ steps.review.outputs.why }}"
  - {name: publish, tool: write, inputs: {text: published}}
outputs:
  draft: "{{ steps.draft.outputs.text }}"
  verdict: "{{ steps.review.outputs.verdict }}"
  published: "{{ steps.publish.outputs.text }}"
"""


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def write(text: str) -> dict:
        return {"text": text}

    @server.tool
    def review() -> dict:
        return {"verdict": "drop", "why": "too short"}

    @server.tool
    def crash() -> dict:
        raise ValueError("the disk is full")

    return server


async def test_an_event_that_leads_to_failed_has_the_plans_own_reason(run_plan, tools):
    seen = await run_plan(GATE, tools=tools)
    assert seen.status == "failed"
    assert seen.result.error == "the reviewer dropped a draft: too short"
    assert seen.outputs == {"draft": "a draft", "verdict": "drop"}
    assert seen.result.left_out == ["published"]
    words = summary(finished_data(seen.result), color=False)
    assert "failed · the reviewer dropped a draft: too short" in words
    assert "no output  `published`" in words


async def test_the_steps_own_error_stands_beside_the_reason(run_plan, tools):
    seen = await run_plan(
        """
        name: crash
        steps: [{name: save, tool: crash, reason: nothing was saved}]
        outputs: {n: 1}
        """,
        tools=tools,
    )
    assert seen.result.error == "nothing was saved: the disk is full"
    assert seen.outputs == {"n": 1}


@pytest.mark.parametrize(
    ("returns", "error"), [({}, "no review"), ({"message": "too late"}, "no review: too late")]
)
async def test_a_rule_that_decides_a_failure_is_not_quoted_beside_the_reason(
    run_plan, returns, error
):
    server = FakeToolServer()

    @server.tool
    def review() -> dict:
        return {"ok": False, **returns}

    seen = await run_plan(
        """
        name: rule
        steps: [{name: r, tool: review, rules: {failure: not ok}, reason: no review}]
        """,
        tools=server,
    )
    assert seen.result.error == error


async def test_a_reason_is_not_used_where_the_event_leads_elsewhere(run_plan, tools):
    seen = await run_plan(
        """
        name: elsewhere
        steps:
          - {name: save, tool: crash, reason: not said, transitions: {failure: report}}
          - {name: report, tool: crash}
        """,
        tools=tools,
    )
    assert seen.result.error == "the disk is full"


async def test_a_reason_that_cannot_be_rendered_hides_no_error(run_plan, tools):
    seen = await run_plan(
        """
        name: wrong
        steps: [{name: save, tool: crash, reason: "{{ steps.save.outputs.size }} bytes are lost"}]
        """,
        tools=tools,
    )
    assert seen.result.error == "the disk is full"
    (warning,) = seen.of("warning")
    assert warning["code"] == "reason"
    assert "size" in warning["message"]


async def test_a_secret_in_a_reason_is_masked(run_plan, tools):
    seen = await run_plan(
        """
        name: secret
        inputs: {token: {type: string, secret: true}}
        steps: [{name: save, tool: crash, reason: "with {{ inputs.token }}"}]
        """,
        tools=tools,
        secrets={"token": "hunter2-is-secret"},
    )
    assert seen.result.error == "with ***: the disk is full"


async def test_outputs_that_cannot_be_rendered_fail_the_run_and_leave_the_others(run_plan, tools):
    seen = await run_plan(
        """
        name: some
        steps: [{name: w, tool: write, inputs: {text: x}}]
        outputs: {text: "{{ steps.w.outputs.text }}", size: "{{ steps.w.outputs.size }}"}
        """,
        tools=tools,
    )
    assert (seen.status, seen.outputs, seen.result.left_out) == ("failed", {"text": "x"}, ["size"])
    assert "size" in seen.result.error


async def test_an_included_plan_that_failed_gives_its_reason_and_outputs(run_plan, tools, tmp_path):
    (tmp_path / "gate.yaml").write_text(GATE)
    (tmp_path / "outer.yaml").write_text(
        textwrap.dedent(
            """
            name: outer
            steps:
              - {name: gate, plan: gate.yaml, transitions: {failure: report}}
              - {name: report, tool: write, inputs: {text: "{{ steps.gate.outputs.verdict }}"}}
            outputs: {error: "{{ steps.gate.error }}", said: "{{ steps.report.outputs.text }}"}
            """
        )
    )
    seen = await run_plan(tmp_path / "outer.yaml", tools=tools)
    assert seen.outputs == {
        "error": "the reviewer dropped a draft: too short",
        "said": "drop",
    }


async def test_a_limit_gives_the_outputs_so_far(run_plan, tools):
    seen = await run_plan(GATE, tools=tools, limits=Limits(steps=1))
    assert (seen.status, seen.outputs) == ("limit", {"draft": "a draft"})
    assert seen.result.left_out == ["verdict", "published"]


async def test_a_limit_inside_a_segment_of_a_long_plan_gives_the_outputs_so_far(run_plan, tools):
    more = [f"  - {{name: s{i}, tool: write, inputs: {{text: '{i}'}}}}" for i in range(40)]
    outputs = (
        "outputs: {early: '{{ steps.s3.outputs.text }}', late: '{{ steps.s20.outputs.text }}'}"
    )
    text = "\n".join(["name: long", "steps:", *more, outputs])
    seen = await run_plan(text, tools=tools, limits=Limits(steps=22), keep=True)
    assert (seen.status, seen.outputs) == ("limit", {"early": "3", "late": "20"})


async def test_a_step_without_attempts_left_gives_the_outputs_so_far(run_plan, tools):
    seen = await run_plan(
        """
        name: again
        steps:
          - {name: w, tool: write, inputs: {text: "{{ attempts }}"}, max_attempts: 2}
          - {name: c, tool: crash, transitions: {failure: w}}
        outputs: {text: "{{ steps.w.outputs.text }}", why: "{{ steps.c.error }}"}
        """,
        tools=tools,
    )
    assert seen.status == "failed"
    assert seen.outputs == {"text": 2, "why": "the disk is full"}


async def test_a_plans_graph_gives_them_too(tools):
    graph = compile_plan(parse_plan(GATE), Dependencies(toolbox=tools)).compile(InMemorySaver())
    after = await graph.ainvoke({}, THREAD)
    assert after["status"] == "failed"
    assert after["error"] == "the reviewer dropped a draft: too short"
    assert after["outputs"] == {"draft": "a draft", "verdict": "drop"}
    limited = await graph.ainvoke({}, THREAD, context={"limits": {"steps": 1}})
    assert (limited["status"], limited["outputs"]) == ("limit", {"draft": "a draft"})


async def test_a_replay_ends_with_the_same_reason_and_outputs(tmp_path, settings, tools):
    stage = Stage(tmp_path, settings, tools)
    result = await stage.record(GATE)
    assert result.outputs["verdict"] == "drop"
    await stage.equal()


def faults(steps: str) -> list[str]:
    found = check_plan(parse_plan(f"name: p\nsteps:\n{textwrap.dedent(steps)}", "p.yaml"))
    return [f"{p.severity} {p.code} {p.path} {p.suggestion or ''}".strip() for p in found]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("- {name: a, tool: t, reason: '{{ steps.a.outputs.x }} {{ steps.a.error }}'}", []),
        (
            "- {name: a, tool: t, reason: '{{ x }}'}",
            ["error undefined steps[0].reason steps.a.outputs.x"],
        ),
        (
            "- {name: a, tool: t, reason: '{{ steps.b.error }}'}\n- {name: b, tool: t}",
            ["error not-yet-run steps[0].reason"],
        ),
        (
            "- {name: a, tool: t, reason: why, transitions: {failure: success}}",
            ["warning unused-reason steps[0].reason"],
        ),
        (
            "- name: p\n  parallel: [{name: a, tool: t, reason: why}]",
            ["error inside-parallel steps[0].parallel[0].reason"],
        ),
        ("- {name: a, set: {n: 1}, reason: '{{ values.n }}'}", []),
    ],
)
def test_a_reason_is_checked_before_the_run(steps, expected):
    assert faults(steps) == expected
