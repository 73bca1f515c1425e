"""What a plan means, known before it runs: what exists, can be reached, has run, and ends."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counts import examples
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.flow import Flow
from plan_texts import plan_data, yaml_text


def check(text, head=""):
    return check_plan(parse_plan("name: p\n" + head + textwrap.dedent(text), "plan.yaml"))


def steps(text, head=""):
    """The problems of steps written as YAML, as (code, line:column of the steps, path)."""
    found = check("steps:\n" + textwrap.indent(textwrap.dedent(text), "  "), head)
    shift = 2 + head.count("\n")
    return [(p.code, f"{p.position.line - shift}:{p.position.column - 2}", p.path) for p in found]


def only(text, head=""):
    found = check("steps:\n" + textwrap.indent(textwrap.dedent(text), "  "), head)
    assert len(found) == 1, [str(p) for p in found]
    return found[0]


class TestPlansOf010:
    """The equivalents of the plans that came with fractale 0.1.0."""

    @pytest.mark.parametrize("event", ["failed", "failure"])
    def test_a_transition_to_a_step_that_was_never_written(self, event):
        text = f"""\
            - name: ask
              type: agent
              inputs:
                goal: |
                  Build a container image and check it with the build tool.
              rules:
                success: [returncode == 0]
              transitions:
                {event}: generate
            """
        column = 7 + len(event)
        assert steps(text) == [
            ("unknown-step", f"9:{column}", "steps[0].transitions.failure"),
        ]

    def test_an_agent_that_tries_until_it_is_done(self):
        text = """\
            - name: optimize
              type: agent
              persist: true
              instruction: Find the fastest command, and say "done" when you have it.
              rules:
                success: [done]
              transitions:
                failure: optimize
            """
        assert steps(text) == []

    def test_a_plan_that_the_manager_drafts(self):
        assert steps("- {name: planner, type: plan, instruction: Tell me a joke.}") == []

    def test_translate_and_try_again(self):
        text = """\
            - name: transform
              type: prompt
              prompt: transform_jobspec_expert
              allow_tools: false
              inputs:
                script: |
                  #!/bin/bash
                  #SBATCH --nodes=1
                  lmp ${#args[@]}
              transitions:
                failed: transform
                success: validate
              rules:
                failed: [not jobspec]
            - name: validate
              type: prompt
              prompt: validate_jobspec_expert
              inputs:
                script: "{{steps.transform.outputs.jobspec}}"
              transitions:
                failed: transform
                success: validate_manual
            - name: validate_manual
              type: tool
              tool: flux_validate_jobspec
              inputs:
                content: "{{steps.transform.outputs.jobspec}}"
              transitions:
                failed: transform
              rules:
                success: [valid]
            """
        assert steps(text) == []


class TestTransitions:
    def test_to_nowhere_with_what_was_meant(self):
        problem = only("""\
            - {name: a, tool: t, transitions: {success: validte}}
            - {name: validate, tool: t}
            """)
        assert problem.code == "unknown-step"
        assert problem.suggestion == "validate"
        assert problem.length == len("validte")

    def test_into_a_parallel_block(self):
        problem = only("""\
            - {name: a, tool: t, transitions: {failure: x}}
            - name: both
              parallel: [{name: x, tool: t}, {name: y, tool: t}]
            """)
        assert problem.code == "unknown-step"
        assert "inside the parallel block `both`" in problem.message

    def test_an_event_that_leads_nowhere(self):
        text = """\
            - name: a
              tool: t
              rules:
                later: [x == 1]
            """
        assert steps(text) == [("unknown-event", "4:5", "steps[0].rules.later")]

    def test_a_misspelt_event_is_one_fault(self):
        problem = only("""\
            - {name: a, tool: t, rules: {retyr: [x]}, transitions: {retry: a}}
            """)
        assert (problem.code, problem.suggestion) == ("unknown-event", "retry")

    def test_an_event_that_no_rule_gives(self):
        problem = only("- {name: a, tool: t, transitions: {again: a}}")
        assert (problem.code, problem.severity) == ("unused-transition", "warning")

    def test_out_of_a_parallel_block(self):
        text = """\
            - name: both
              parallel:
              - {name: x, tool: t, transitions: {failure: after}}
              - {name: y, tool: t, transitions: {failure: failed}}
            - {name: after, tool: t}
            """
        assert [code for code, *_ in steps(text)] == ["inside-parallel", "unused-transition"]


class TestReach:
    def test_a_step_that_nothing_leads_to(self):
        text = """\
            - {name: a, tool: t, transitions: {success: c}}
            - {name: b, tool: t}
            - {name: c, tool: t}
            """
        assert steps(text) == [("unreachable", "2:10", "steps[1]")]

    def test_what_only_an_unreachable_step_leads_to_is_not_another_fault(self):
        text = """\
            - {name: a, tool: t, transitions: {success: success}}
            - {name: b, tool: t}
            - {name: c, tool: t, transitions: {success: b}}
            """
        assert [code for code, *_ in steps(text)] == ["unreachable"]

    def test_a_misspelt_target_does_not_make_its_step_unreachable(self):
        text = """\
            - {name: a, tool: t, transitions: {success: cleen}}
            - {name: b, tool: t}
            - {name: clean, tool: t}
            """
        assert [code for code, *_ in steps(text)] == ["unknown-step", "unreachable"]

    def test_ends_may_be_named(self):
        assert steps("- {name: a, tool: t, transitions: {success: failed, failed: success}}") == []


class TestLoops:
    ROUND = """\
        - {name: a, tool: t}
        - {name: b, tool: t, transitions: {success: a}}
        """

    def test_round_for_ever(self):
        problem = only(self.ROUND)
        assert problem.code == "unbounded-loop"
        assert problem.path == "steps[1].transitions.success"
        assert "`a` → `b` → `a`" in problem.message

    def test_a_step_that_succeeds_into_itself(self):
        assert [c for c, *_ in steps("- {name: a, tool: t, transitions: {success: a}}")] == [
            "unbounded-loop"
        ]

    @pytest.mark.parametrize("limit", ["steps: 9", "attempts: 9", "time: 1h"])
    def test_limits_of_the_run_end_it(self, limit):
        assert steps(self.ROUND, f"limits: {{{limit}}}\n") == []

    def test_limits_of_models_end_it_only_where_a_model_is_asked(self):
        assert [c for c, *_ in steps(self.ROUND, "limits: {tokens: 9}\n")] == ["unbounded-loop"]
        assert steps(self.ROUND.replace("tool: t", "agent: x", 1), "limits: {cost: 9}\n") == []

    def test_an_attempt_count_ends_it(self):
        assert steps(self.ROUND.replace("name: b", "name: b, max_attempts: 3")) == []

    @pytest.mark.parametrize("rules", ["{failure: [x > 3]}", "{enough: [x > 3]}"])
    def test_a_rule_that_leads_out_ends_it(self, rules):
        text = f"""\
            - name: a
              tool: t
              rules: {rules}
              transitions: {{enough: success}}
            - {{name: b, tool: t, transitions: {{success: a}}}}
            """
        assert "unbounded-loop" not in [code for code, *_ in steps(text)]

    def test_a_rule_that_stays_inside_does_not(self):
        text = """\
            - {name: a, tool: t, rules: {again: [x]}, transitions: {again: b}}
            - {name: b, tool: t, transitions: {success: a}}
            """
        assert [code for code, *_ in steps(text)] == ["unbounded-loop"]

    def test_a_loop_on_failure_ends_with_success(self):
        text = """\
            - {name: run, tool: t, transitions: {failure: repair, success: success}}
            - {name: repair, tool: t, transitions: {success: run}}
            """
        assert steps(text) == []


class TestNames:
    def test_a_step_that_does_not_exist(self):
        problem = only("""\
            - {name: transform, tool: t}
            - name: validate
              tool: t
              inputs:
                script: "{{ steps.transfrm.outputs.jobspec }}"
            """)
        assert problem.code == "undefined"
        assert problem.suggestion == "transform"
        assert (problem.position.line, problem.position.column) == (7, 25)
        assert problem.length == len("transfrm")
        assert problem.path == "steps[1].inputs.script"

    def test_in_the_lines_of_a_block(self):
        text = """\
            - name: a
              tool: t
              inputs:
                script: |
                  #!/bin/sh
                  run {{ inputs.nods }}
            """
        assert steps(text, "inputs: {nodes: 1}\n") == [
            ("undefined", "6:21", "steps[0].inputs.script")
        ]

    def test_a_step_that_cannot_have_run(self):
        text = """\
            - {name: a, tool: t, inputs: {x: "{{ steps.b.outputs.x }}"}}
            - {name: b, tool: t}
            """
        assert steps(text) == [("not-yet-run", "1:44", "steps[0].inputs.x")]

    def test_a_step_that_runs_before_by_a_loop(self):
        text = """\
            - {name: a, tool: t, inputs: {x: "{{ steps.b.outputs.x | default(0) }}"}}
            - {name: b, tool: t, inputs: {x: "{{ steps.b.attempts }}"}, transitions: {failure: a}}
            """
        assert steps(text) == []

    def test_only_one_branch_runs_but_either_may_be_named(self):
        text = """\
            - {name: a, tool: t, rules: {b: [x], c: [not x]}, transitions: {b: b, c: c}}
            - {name: b, tool: t, transitions: {success: d}}
            - {name: c, tool: t}
            - name: d
              tool: t
              inputs: {x: "{{ steps.b.outputs.x | default(1) }}{{ steps.c.outputs.x }}"}
            """
        assert steps(text) == []

    @pytest.mark.parametrize(
        ("source", "suggestion"),
        [
            ("steps.a.output.x", "outputs"),
            ("steps.a.jobspec", "outputs.jobspec"),
            ("previous.nam", "name"),
            ("run.idd", "id"),
            ("inputs.nods", "nodes"),
            ("inputs.run-time", "inputs['run-time']"),
            ("input.nodes", "inputs"),
            ("nodes", "inputs.nodes"),
            ("a", "steps.a.outputs"),
            ("env.HOME", None),
            ("item.x", None),
            ("range", None),
            ("steps['a']['result']", "outputs.result"),
        ],
    )
    def test_unknown_names(self, source, suggestion):
        head = "inputs: {nodes: 1, run-time: 2}\n"
        problem = only(
            f"""\
            - {{name: a, tool: t}}
            - {{name: b, tool: t, inputs: {{x: "{{{{ {source} }}}}"}}}}
            """,
            head,
        )
        assert (problem.code, problem.suggestion) == ("undefined", suggestion)

    def test_without_declared_inputs_there_are_none(self):
        problem = only('- {name: a, tool: t, inputs: {x: "{{ inputs.n }}"}}')
        assert "declares no `inputs`" in problem.message

    def test_what_may_be_missing_is_no_fault(self):
        text = """\
            - name: a
              tool: t
              inputs: {x: "{{ inputs.n | default(1) }}", y: "{{ 1 if z is defined else 2 }}"}
            """
        assert steps(text) == []

    def test_items_are_known_in_a_foreach_only(self):
        text = """\
            - name: a
              tool: t
              foreach: "[1, 2]"
              inputs: {x: "{{ item }} {{ index }}"}
            - {name: b, tool: t, inputs: {x: "{{ item }}"}}
            - {name: c, tool: t, when: item > 1, foreach: item}
            - {name: d, tool: t, when: item > 1}
            """
        found = steps(text)
        assert [(code, path) for code, _, path in found] == [
            ("undefined", "steps[1].inputs.x"),
            ("undefined", "steps[2].foreach"),
            ("undefined", "steps[3].when"),
        ]

    def test_rules_see_the_keys_of_the_outputs(self):
        text = """\
            - name: a
              tool: t
              rules:
                success: [returncode == 0 and item and content and error]
                failure: [steps.b.outputs.x, previous.oops]
            """
        assert [(c, path) for c, _, path in steps(text)] == [
            ("undefined", "steps[0].rules.failure[0]"),
            ("undefined", "steps[0].rules.failure[1]"),
        ]

    def test_siblings_of_a_parallel_block_cannot_use_each_other(self):
        text = """\
            - name: both
              parallel:
              - {name: x, tool: t}
              - {name: y, tool: t, inputs: {a: "{{ steps.x.outputs.b }}"}}
            - name: after
              tool: t
              inputs:
                a: "{{ steps.both.outputs.x.b }} {{ steps.x.outputs.b }}"
                b: "{{ steps.both.outputs.z }}"
            """
        assert [(c, path) for c, _, path in steps(text)] == [
            ("inside-parallel", "steps[0].parallel[1].inputs.a"),
            ("undefined", "steps[1].inputs.b"),
        ]

    def test_outputs_of_the_plan(self):
        head = 'outputs: {x: "{{ steps.a.outputs.x }}", y: "{{ steps.aa.outputs.x }}"}\n'
        problem = only("- {name: a, tool: t}", head)
        assert (problem.code, problem.path, problem.suggestion) == ("undefined", "outputs.y", "a")


class TestSyntax:
    def test_everywhere(self):
        text = """\
            - name: a
              agent: x
              instruction: "do {{ a b }}"
              inputs: {goal: "{{ 1 | nope }}"}
              when: 1 +
              foreach: {m: "["}
              rules: {success: [x &&]}
            """
        head = 'outputs: {x: "{{ }}"}\n'
        assert sorted((code, path) for code, _, path in steps(text, head)) == [
            ("template-syntax", "outputs.x"),
            ("template-syntax", "steps[0].foreach.m"),
            ("template-syntax", "steps[0].instruction"),
            ("template-syntax", "steps[0].rules.success[0]"),
            ("template-syntax", "steps[0].when"),
            ("unknown-filter", "steps[0].inputs.goal"),
        ]

    def test_statements_in_plain_text_have_a_place_too(self):
        text = """\
            - name: a
              tool: t
              inputs:
                script: ["{% if x %}"]
            """
        assert steps(text) == [("template-statement", "4:15", "steps[0].inputs.script[0]")]

    def test_an_instruction_among_the_inputs_is_checked_once(self):
        assert only('- {name: a, type: agent, inputs: {goal: "{{ nope }}"}}').code == "undefined"


class TestIncludedPlans:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "inner.yaml").write_text(
            textwrap.dedent("""\
                name: inner
                inputs: {script: {type: string, required: true}, nodes: {type: integer, default: 1}}
                outputs: {spec: "{{ steps.t.outputs.x }}"}
                steps:
                - {name: t, tool: t, inputs: {x: "{{ inputs.script }}"}}
                """)
        )
        return tmp_path

    def check(self, folder, inputs, after=""):
        outer = folder / "outer.yaml"
        outer.write_text(
            f"name: outer\nsteps:\n- {{name: sub, plan: inner.yaml, inputs: {inputs}}}\n{after}"
        )
        return [(p.code, p.path, p.suggestion) for p in check_plan(load_plan(outer))]

    def test_what_it_needs_and_takes(self, folder):
        assert self.check(folder, "{script: x, nodes: 2}") == []
        assert self.check(folder, "{script: x, nodes: many}") == [
            ("bad-input", "steps[0].inputs.nodes", None)
        ]
        assert self.check(folder, "{script: x, node: 2}") == [
            ("unknown-input", "steps[0].inputs.node", "nodes")
        ]
        assert self.check(folder, "{}") == [("missing-input", "steps[0].inputs", None)]

    def test_what_it_gives(self, folder):
        after = '- {name: b, tool: t, inputs: {x: "{{ steps.sub.outputs.spek }}"}}\n'
        assert self.check(folder, "{script: x}", after) == [
            ("undefined", "steps[1].inputs.x", "spec")
        ]

    def test_its_own_faults_are_told_once(self, folder):
        inner = folder / "inner.yaml"
        inner.write_text(inner.read_text().replace("inputs.script }}", "inputs.scrpt }}"))
        after = "- {name: again, plan: inner.yaml, inputs: {script: x}}\n"
        assert self.check(folder, "{script: x}", after) == [
            ("undefined", "steps[0].plan.steps[0].inputs.x", "script")
        ]

    def test_limits_of_the_outer_plan_end_its_loops(self, folder):
        (folder / "inner.yaml").write_text(
            "name: inner\nsteps: [{name: t, tool: t, transitions: {success: t}}]\n"
        )
        assert self.check(folder, "{}") == [
            ("unbounded-loop", "steps[0].plan.steps[0].transitions.success", None)
        ]
        assert self.check(folder, "{}", "limits: {steps: 9}\n") == []


TOOLS = {
    "submit": {
        "input_schema": {
            "type": "object",
            "properties": {
                "nodes": {"type": "integer"},
                "command": {"type": "array", "items": {"type": "string"}},
                "mode": {"$ref": "#/$defs/Mode"},
                "when": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["command"],
            "$defs": {"Mode": {"enum": ["fast", "safe"]}},
        },
        "output_schema": {
            "type": "object",
            "properties": {
                "valid": {"type": "boolean"},
                "job": {"$ref": "#/$defs/Job"},
            },
            "additionalProperties": False,
            "$defs": {"Job": {"type": "object", "properties": {"id": {"type": "integer"}}}},
        },
    },
    "echo": {
        "input_schema": {"type": "object", "additionalProperties": True},
        "output_schema": {"type": "object", "properties": {"result": {"type": "string"}}},
    },
    "helper": {
        "input_schema": {
            "properties": {"instruction": {"type": "string"}, "error": {"type": "string"}},
            "required": ["instruction", "error"],
        },
        "output_schema": None,
    },
}
PROMPTS = {
    "expert": {
        "arguments": [
            {"name": "script", "required": True},
            {"name": "error", "required": True},
            {"name": "style", "required": False},
        ]
    }
}


class TestAgainstTools:
    def check(self, text):
        plan = parse_plan("name: p\nsteps:\n" + textwrap.indent(textwrap.dedent(text), "  "), "p")
        return [
            (p.code, p.path, p.suggestion, p.severity)
            for p in check_against_tools(plan, TOOLS, PROMPTS)
        ]

    def one(self, text):
        (found,) = self.check(text)
        return found[:3]

    def test_names(self):
        assert self.one("- {name: a, tool: submt, inputs: {command: []}}") == (
            "unknown-tool",
            "steps[0].tool",
            "submit",
        )
        assert self.one("- {name: a, prompt: exprt}") == (
            "unknown-prompt",
            "steps[0].prompt",
            "expert",
        )
        assert self.one("- {name: a, agent: helpr}") == (
            "unknown-agent",
            "steps[0].agent",
            "helper",
        )
        assert self.check("- {name: a, agent: ask}\n- {name: b, type: agent}") == []

    def test_the_tools_that_a_model_may_call(self):
        text = "- {name: a, type: agent, tools: [submit, 'ec*', sbmit, 'x*']}"
        assert [(c, s) for c, _, _, s in self.check(text)] == [
            ("unknown-tool", "error"),
            ("unknown-tool", "warning"),
        ]

    def test_arguments_of_a_tool(self):
        assert self.one("- {name: a, tool: submit}")[:2] == ("missing-argument", "steps[0].inputs")
        assert self.one("- {name: a, tool: submit, inputs: {command: [], node: 1}}") == (
            "unknown-argument",
            "steps[0].inputs.node",
            "nodes",
        )
        assert self.check("- {name: a, tool: echo, inputs: {anything: 1}}") == []

    @pytest.mark.parametrize(
        ("inputs", "fits"),
        [
            ("command: [lmp]", True),
            ("command: lmp", False),
            ("command: [1]", False),
            ("command: [], nodes: 2", True),
            ("command: [], nodes: 2.0", True),
            ("command: [], nodes: '2'", False),
            ("command: [], nodes: true", False),
            ("command: [], nodes: '{{ 2 }}'", True),
            ("command: [], mode: fast", True),
            ("command: [], mode: fsat", False),
            ("command: [], when: null", True),
            ("command: [], when: 3", False),
        ],
    )
    def test_types_of_arguments(self, inputs, fits):
        found = self.check(f"- {{name: a, tool: submit, inputs: {{{inputs}}}}}")
        assert [code for code, *_ in found] == ([] if fits else ["bad-argument"])

    def test_arguments_of_a_prompt(self):
        assert self.check("- {name: a, prompt: expert, inputs: {script: x, goal: y}}") == []
        assert self.one("- {name: a, prompt: expert}")[:1] == ("missing-argument",)
        assert self.one("- {name: a, prompt: expert, inputs: {script: x, styl: y}}") == (
            "unknown-argument",
            "steps[0].inputs.styl",
            "style",
        )

    def test_arguments_that_the_engine_gives(self):
        assert self.check("- {name: a, agent: helper, instruction: do}") == []
        assert self.one("- {name: a, agent: helper}")[:1] == ("missing-argument",)

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ("valid and job.id > 1", []),
            ("is_valid", [("impossible-key", "valid", "error")]),
            ("job.idd", [("impossible-key", "id", "warning")]),
            ("content and error and attempts", []),
            ("gone | default(0)", []),
        ],
    )
    def test_keys_that_the_answer_cannot_have(self, rule, expected):
        text = (
            f"- {{name: a, tool: submit, inputs: {{command: []}}, rules: {{success: ['{rule}']}}}}"
        )
        assert [(c, near, severity) for c, _, near, severity in self.check(text)] == expected

    def test_keys_of_another_steps_answer(self):
        text = """\
            - {name: a, tool: submit, inputs: {command: []}}
            - {name: b, tool: echo, inputs: {x: "{{ steps.a.outputs.jb.id }}"}}
            - {name: c, tool: echo, inputs: {x: "{{ steps.b.outputs.anything }}"}}
            """
        assert [(c, path) for c, path, *_ in self.check(text)] == [
            ("impossible-key", "steps[1].inputs.x")
        ]

    def test_a_schema_that_refers_to_itself_ends(self):
        loop = {"$defs": {"X": {"anyOf": [{"$ref": "#/$defs/X"}]}}, "$ref": "#/$defs/X"}
        tools = {"t": {"input_schema": {"properties": {"a": loop}, **loop}, "output_schema": loop}}
        plan = parse_plan(
            "name: p\nsteps: [{name: a, tool: t, inputs: {a: 1}, rules: {success: [x]}}]"
        )
        assert check_against_tools(plan, tools, {}) == []


# Properties


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(plan_data())
def test_any_plan_is_checked_without_a_crash(data):
    plan = parse_plan(yaml_text(data), "plan.yaml")
    for problem in check_plan(plan):
        assert problem.position is not None
        assert problem.position.file == "plan.yaml"
        assert problem.code
        assert problem.path
    assert isinstance(check_against_tools(plan, TOOLS, PROMPTS), list)


@st.composite
def sound_plans(draw):
    """Plans without a fault: references and failures lead back, successes onward."""
    count = draw(st.integers(2, 8))
    found = []
    for number in range(count):
        step = {"name": f"step{number}", "tool": "t", "inputs": {}, "transitions": {}}
        for back in draw(
            st.sets(st.integers(0, max(0, number - 1)), max_size=2) if number else st.just(())
        ):
            step["inputs"][f"in{back}"] = f"a {{{{ steps.step{back}.outputs.x }}}}"
        if draw(st.booleans()):
            step["transitions"]["failure"] = f"step{draw(st.integers(0, number))}"
        found.append(step)
    return found


@settings(max_examples=examples(100), deadline=None)
@given(sound_plans(), st.data())
def test_one_fault_is_one_problem_at_its_place(found, data):
    plan = {"name": "p", "steps": found}
    assert check_plan(parse_plan(yaml_text(plan), "plan.yaml")) == []
    step = data.draw(st.sampled_from(found))
    if data.draw(st.booleans()):
        step["transitions"]["failure"] = "nowhere"
        code = "unknown-step"
    else:
        step["inputs"]["bad"] = "x {{ steps.nowhere.outputs.x }}"
        code = "undefined"
    text = yaml_text(plan)
    (problem,) = check_plan(parse_plan(text, "plan.yaml"))
    assert problem.code == code
    line = text.splitlines()[problem.position.line - 1]
    assert line[problem.position.column - 1 :].startswith("nowhere")


@settings(max_examples=examples(100), deadline=None)
@given(
    st.integers(1, 7).flatmap(
        lambda n: st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), min_size=n, max_size=n)
    )
)
def test_what_can_run_before_what_is_what_a_walk_finds(edges):
    plan = parse_plan(
        yaml_text(
            {
                "name": "p",
                "steps": [
                    {
                        "name": f"s{number}",
                        "tool": "t",
                        "transitions": {"success": f"s{one}", "failure": f"s{other}"},
                    }
                    for number, (one, other) in enumerate(edges)
                ],
            }
        )
    )
    flow = Flow(plan)
    for number in range(len(edges)):
        reached, stack = set(), list(edges[number])
        while stack:
            step = stack.pop()
            if step not in reached:
                reached.add(step)
                stack += edges[step]
        found = {n for n in range(len(edges)) if flow.can_precede(f"s{number}", f"s{n}")}
        assert found == reached


def test_a_long_plan_is_checked_in_linear_memory():
    count = 3000
    text = "name: p\nsteps:\n" + "".join(
        f'- {{name: s{n}, tool: t, inputs: {{x: "{{{{ steps.s{max(0, n - 1)}.outputs.x'
        f' | default(0) }}}}"}}, transitions: {{failure: s{max(0, n - 50)}}}}}\n'
        for n in range(count)
    )
    assert check_plan(parse_plan(text)) == []


@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        ("[x in (1, 2)]", 2),
        ("[a | default('x', true)]", 2),
        ("[(a]", 1),
        ('["x in (1, 2)"]', 0),
        ("[x]", 0),
    ],
)
def test_an_expression_that_a_comma_cut_in_two_is_told_to_need_quotes(rule, messages):
    found = check(f"steps:\n  - {{name: s, tool: t, rules: {{success: {rule}}}}}\n")
    assert sum("needs quotes" in p.message for p in found) == messages


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("0755", "0755 is 755 here; write 0o755 for octal, or quote it"),
        ("-07", "-07 is -7 here; write 0o7 for octal, or quote it"),
        ("00", "00 is 0 here; write 0o0 for octal, or quote it"),
        ("755", None),
        ("0", None),
        ("0o755", None),
        ("'0755'", None),
        ("0.5", None),
        ("0x1F", None),
        ("089", None),
    ],
)
def test_an_integer_that_looks_octal_is_warned_of(written, message):
    for text, path in (
        (f"steps: [{{name: s, tool: t, inputs: {{mode: {written}}}}}]\n", "steps[0].inputs.mode"),
        (f"inputs: {{m: {written}}}\nsteps: [{{name: s, tool: t}}]\n", "inputs.m"),
    ):
        found = check(text)
        expected = [("leading-zero", "warning", message, path)] if message else []
        assert [(p.code, p.severity, p.message, p.path) for p in found] == expected
