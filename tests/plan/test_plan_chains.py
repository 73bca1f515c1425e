"""Chains, zipped lists and the `when` of items: how they are read, checked, written and drawn."""

from __future__ import annotations

import textwrap

import pytest

from fractale.errors import PlanError
from fractale.plan import draw
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.dump import dump_plan
from fractale.plan.model import Plan
from fractale.plan.needs import narrow, tools_of

SAMPLES = """\
name: samples
inputs: {names: [a, b], token: {secret: true, type: string}}
steps:
  - {name: look, tool: look}
  - name: samples
    foreach: inputs.names
    max_parallel: 2
    steps:
      - name: map
        tool: map
        inputs: {name: "{{ item }}", from: "{{ steps.look.outputs.folder }}", at: "{{ index }}"}
      - name: sort
        tool: sort
        when: index > 0
        inputs: {file: "{{ steps.map.outputs.file }}"}
  - name: merge
    tool: merge
    inputs: {files: "{{ steps.samples.outputs | map(attribute='file') | list }}"}
"""


def plan_of(text: str) -> Plan:
    return parse_plan(textwrap.dedent(text), "plan.yaml")


def errors_of(text: str) -> list[str]:
    """Code, path and message of each problem, however it is found."""
    try:
        found = check_plan(plan_of(text))
    except PlanError as error:
        found = error.problems
    return [f"{p.code} {p.path}: {p.message}" for p in found]


def inside(steps: str, foreach: str = "foreach: [1, 2]") -> list[str]:
    """The problems of a chain with these steps, after a step `before` and before one `after`."""
    head = f"name: p\nsteps:\n  - {{name: before, tool: t}}\n  - name: each\n    {foreach}\n"
    body = textwrap.indent(textwrap.dedent(steps), "      ")
    return errors_of(f"{head}    steps:\n{body}\n  - {{name: after, tool: t}}\n")


def test_a_chain_is_read_and_written_as_the_same_plan():
    plan = plan_of(SAMPLES)
    assert check_plan(plan) == []
    assert [step.name for step in plan.walk()] == ["look", "samples", "map", "sort", "merge"]
    assert dump_plan(parse_plan(dump_plan(plan))) == dump_plan(plan)
    assert parse_plan(dump_plan(plan)) == plan
    assert tools_of(plan) == {"look", "map", "sort", "merge"}


def test_type_steps_needs_the_steps():
    found = errors_of("name: p\nsteps:\n  - {name: s, type: steps}\n")
    assert found == ["missing-key steps[0].steps: a chain needs a list of steps"]
    assert "a list of steps" in errors_of("name: p\nsteps:\n  - {name: s, steps: []}\n")[0]


@pytest.mark.parametrize("key", ["inputs: {a: 1}", "timeout: 1m", "model: 'p:m'", "judge: true"])
def test_keys_of_a_single_call_belong_to_the_steps_inside(key):
    (found,) = errors_of(
        f"name: p\nsteps:\n  - {{name: s, {key}, steps: [{{name: t, tool: t}}]}}\n"
    )
    assert found.startswith(f"misplaced-key steps[0].{key.partition(':')[0]}: ")
    assert "belongs to the steps inside the chain" in found


def test_names_are_unique_over_the_whole_file():
    (found,) = inside("- {name: before, tool: t}")
    assert found.startswith("duplicate-step steps[1].steps[0].name: line 3 has a step `before`")


class TestNames:
    def test_a_step_sees_what_is_around_the_chain(self):
        steps = """\
            - {name: a, tool: t, inputs: {x: "{{ steps.before.outputs.y }} {{ item }} {{ index }}"}}
            - {name: b, tool: t, when: item > 1, inputs: {x: "{{ steps.a.outputs.y }}"}}
            - {name: c, tool: t, foreach: "[item]", inputs: {x: "{{ item }}"}}
            """
        assert inside(steps) == []

    def test_items_are_known_in_a_foreach_only(self):
        (found,) = inside('- {name: a, tool: t, inputs: {x: "{{ item }}"}}', "description: none")
        assert found.startswith("undefined steps[1].steps[0].inputs.x: `item` is not defined")

    def test_a_chain_in_a_chain_sees_both(self):
        steps = """\
            - name: inner
              steps:
                - {name: a, tool: t, inputs: {x: "{{ item }} {{ steps.before.outputs.y }}"}}
            """
        assert inside(steps) == []

    def test_what_runs_later_or_never_is_a_fault(self):
        steps = """\
            - {name: a, tool: t, inputs: {x: "{{ steps.b.outputs.y }}"}}
            - {name: b, tool: t, inputs: {x: "{{ steps.after.outputs.y }}"}}
            - {name: c, tool: t, inputs: {x: "{{ steps.each.outputs }}"}}
            - {name: d, tool: t, inputs: {x: "{{ steps.befroe.outputs }}"}}
            """
        assert inside(steps) == [
            "not-yet-run steps[1].steps[0].inputs.x: `b` cannot have run before `a`",
            "not-yet-run steps[1].steps[1].inputs.x: `after` cannot have run before `each`",
            "not-yet-run steps[1].steps[2].inputs.x: `each` has not run yet when it is entered, "
            "and nothing leads back to it",
            "undefined steps[1].steps[3].inputs.x: `befroe` is not defined: no step has this name",
        ]

    def test_a_step_inside_is_not_seen_from_outside(self):
        text = """\
            name: p
            steps:
              - {name: each, steps: [{name: a, tool: t}]}
              - {name: b, tool: t, inputs: {x: "{{ steps.a.outputs.y }}"}}
            """
        (found,) = check_plan(plan_of(text))
        assert found.message == (
            "`a` is not defined: it is inside `each`, whose outputs are those of its last step"
        )
        assert found.suggestion == "steps.each.outputs"

    def test_a_chain_in_a_block_does_not_see_the_steps_beside_it(self):
        text = """\
            name: p
            steps:
              - name: both
                parallel:
                  - {name: left, tool: t}
                  - name: right
                    steps: [{name: a, tool: t, inputs: {x: "{{ steps.left.outputs.y }}"}}]
            """
        (found,) = errors_of(text)
        assert found.startswith("inside-parallel steps[0].parallel[1].steps[0].inputs.x: `left` ")

    def test_a_secret_may_not_be_in_a_job(self):
        text = """\
            name: p
            inputs: {token: {secret: true}}
            steps:
              - name: each
                steps: [{name: a, job: {command: [x, "{{ inputs.token }}"]}}]
            """
        (found,) = errors_of(text)
        assert found.startswith("secret-in-job steps[0].steps[0].job.command: ")


class TestTransitions:
    def test_they_lead_to_steps_of_the_chain_or_end_it(self):
        steps = """\
            - {name: a, tool: t, rules: {again: x, stop: y}, transitions: {again: a, stop: success}}
            - {name: b, tool: t, transitions: {failure: a}, max_attempts: 3}
            """
        assert inside(steps) == []

    def test_they_do_not_lead_out(self):
        (found,) = inside("- {name: a, tool: t, transitions: {failure: after}}")
        assert found == (
            "unknown-step steps[1].steps[0].transitions.failure: `after` is outside of the chain "
            "`each`; lead to `success` or `failed` here, and from `each` to `after`"
        )

    def test_they_do_not_lead_in(self):
        text = """\
            name: p
            steps:
              - {name: a, tool: t, transitions: {success: b}}
              - {name: each, steps: [{name: b, tool: t}]}
            """
        assert errors_of(text)[0] == (
            "unknown-step steps[0].transitions.success: `b` is inside `each`; lead to that"
        )

    def test_a_loop_that_nothing_ends_is_a_fault(self):
        (found,) = inside("- {name: a, tool: t, transitions: {success: a}}")
        assert found.startswith("unbounded-loop steps[1].steps[0].transitions.success: ")

    def test_the_limit_of_attempts_of_the_plan_ends_a_loop(self):
        text = """\
            name: p
            limits: {attempts: 3}
            steps:
              - {name: each, steps: [{name: a, tool: t, transitions: {success: a}}]}
            """
        assert errors_of(text) == []


def test_the_limit_of_depth_counts_chains():
    text = """\
        name: p
        limits: {depth: 1}
        steps:
          - {name: a, steps: [{name: b, steps: [{name: c, tool: t}]}]}
        """
    (found,) = errors_of(text)
    assert found.startswith("too-deep-plan : plans nest deeper here")


@pytest.mark.parametrize("handler", ["on_failure", "finally"])
def test_the_limit_of_depth_counts_the_chains_of_handlers(handler):
    text = f"""\
        name: p
        limits: {{depth: 1}}
        steps: [{{name: s, tool: t}}]
        {handler}:
          - {{name: a, steps: [{{name: b, steps: [{{name: c, tool: t}}]}}]}}
        """
    (found,) = errors_of(text)
    assert found.startswith("too-deep-plan : plans nest deeper here")
    assert errors_of(text.replace("depth: 1", "depth: 2")) == []


def test_the_limit_of_depth_counts_the_handlers_of_an_included_plan(tmp_path):
    (tmp_path / "inner.yaml").write_text(
        "name: i\nsteps: [{name: s, tool: t}]\nfinally: [{name: a, steps: [{name: b, tool: t}]}]\n"
    )
    outer = tmp_path / "outer.yaml"
    outer.write_text("name: o\nlimits: {depth: 1}\nsteps: [{name: i, plan: inner.yaml}]\n")
    with pytest.raises(PlanError, match="plans nest deeper here"):
        load_plan(outer)


def test_tools_are_checked_inside():
    plan = plan_of(SAMPLES)
    known = {"input_schema": None, "output_schema": None}
    tools = dict.fromkeys(("look", "map", "merge"), known)
    (found,) = check_against_tools(plan, tools, {})
    assert (found.code, found.path) == ("unknown-tool", "steps[1].steps[1].tool")


def test_a_draft_in_a_chain_may_do_no_more_than_its_step():
    plan = plan_of("name: p\nsteps:\n  - {name: a, steps: [{name: b, type: agent}]}\n")
    narrowed = narrow(plan, ("read_*",), "always")
    assert narrowed.steps[0].chain is not None
    inner = narrowed.steps[0].chain.steps[0]
    assert (inner.tools, inner.approve) == (("read_*",), "always")


def test_steps_of_included_plans_in_chains_are_counted(tmp_path):
    (tmp_path / "inner.yaml").write_text("name: i\nsteps:\n  - {name: x, tool: t}\n")
    (tmp_path / "outer.yaml").write_text(
        "name: o\nsteps:\n  - {name: a, steps: [{name: b, plan: inner.yaml}]}\n"
    )
    plan = load_plan(tmp_path / "outer.yaml")
    assert check_plan(plan) == []
    assert plan.steps[0].chain is not None
    assert plan.steps[0].chain.steps[0].plan is not None


def test_a_chain_is_drawn_with_its_steps():
    plan = plan_of(SAMPLES)
    assert draw.text(plan).splitlines()[3:-2] == [
        "● look     tool      look",
        "│",
        "● samples  steps     one after the other",
        "│          for each item of inputs.names, 2 at a time",
        "│",
        "│   ● map   tool      map",
        "│   │",
        "│   ● sort  tool      sort",
        "│   │       only when index > 0",
        "│   │",
        "│   ◆ success",
        "│",
        "● merge    tool      merge",
        "│",
        "◆ success",
    ]
    assert 'subgraph n2["samples<br/>steps one after the other' in draw.mermaid(plan)


class TestZip:
    def test_it_is_written_as_it_was_read(self):
        plan = plan_of("name: p\nsteps:\n  - {name: s, tool: t, foreach: {zip: {a: x, b: [1]}}}\n")
        assert plan.steps[0].foreach is not None
        assert plan.steps[0].foreach.zip
        assert parse_plan(dump_plan(plan)) == plan

    @pytest.mark.parametrize(
        ("foreach", "found"),
        [
            (
                "{zip: {a: [1, 2], b: [1]}}",
                "bad-value steps[0].foreach.zip: the lists of `zip` must have the same length: "
                "`a` 2, `b` 1",
            ),
            (
                "{zip: {a: [1]}, c: [2]}",
                "misplaced-key steps[0].foreach.c: `c` is beside `zip`; put it below that, or take "
                "`zip` away",
            ),
            (
                "{zip: {a: inputs.no}}",
                "undefined steps[0].foreach.zip.a: `no` is not defined: the plan declares no "
                "`inputs`",
            ),
        ],
    )
    def test_its_faults(self, foreach, found):
        assert errors_of(f"name: p\nsteps:\n  - {{name: s, tool: t, foreach: {foreach}}}\n") == [
            found
        ]

    def test_a_list_of_that_name_is_an_axis_as_before(self):
        plan = plan_of("name: p\nsteps:\n  - {name: s, tool: t, foreach: {zip: [1], b: [1]}}\n")
        assert plan.steps[0].foreach is not None
        assert not plan.steps[0].foreach.zip


def test_a_when_that_reads_the_item_is_asked_per_item():
    text = "name: p\nsteps:\n  - {name: s, tool: t, foreach: [1], when: 'item > 1 and index'}\n"
    assert errors_of(text) == []
    assert "only items with item > 1 and index" in draw.text(plan_of(text))
