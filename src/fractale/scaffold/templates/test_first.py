"""Tests of the project's plan and tools. They need neither a scheduler nor a model."""

from pathlib import Path

PROJECT = Path(__file__).parents[1]
TOOLS = [PROJECT / "registries" / "tools.yaml"]

SUMMARIZE = """
name: summarize
inputs: {log: {type: string, required: true}}
steps:
  - {name: summarize, tool: summarize_times, inputs: {log: "{{ inputs.log }}"}}
outputs: {found: "{{ steps.summarize.outputs }}"}
"""


def test_the_tool_summarizes_the_times_of_a_log(run_plan):
    run = run_plan(SUMMARIZE, {"log": "start\ntime 1.0\ntime 3.0\n"}, registries=TOOLS)
    assert run.outputs["found"] == {"count": 2, "mean": 2.0, "longest": 3.0}


def test_the_tool_refuses_a_log_without_times(run_plan):
    run = run_plan(SUMMARIZE, {"log": "nothing here"}, registries=TOOLS)
    assert run.status == "failed"
    assert "the log has no line" in run.result.error


def test_the_first_plan_makes_every_measurement(run_plan):
    run = run_plan(PROJECT / "plans" / "first.yaml", {"repeats": 2}, registries=TOOLS)
    assert run.path == ["measure:success", "summarize:success"]
    assert run.outputs["count"] == 2
