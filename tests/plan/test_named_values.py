"""The checks of named values before a run: their names, and whether they can be set by then."""

from __future__ import annotations

import textwrap

import pytest

from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.draw import mermaid
from fractale.plan.draw import text as drawn
from fractale.plan.dump import dump_plan
from fractale.record.plans import plan_hash


def faults(text: str, head: str = "") -> list[str]:
    found = check_plan(parse_plan(f"name: p\n{head}steps:\n{textwrap.dedent(text)}", "p.yaml"))
    near = [f" ({p.suggestion})" if p.suggestion else "" for p in found]
    return [f"{p.code} {p.path}: {p.message}{n}" for p, n in zip(found, near, strict=True)]


def refused(text: str) -> list[str]:
    with pytest.raises(PlanError) as error:
        parse_plan(f"name: p\nsteps:\n{textwrap.dedent(text)}", "p.yaml")
    return [f"{p.position.line}:{p.position.column} {p.message}" for p in error.value.problems]


def test_a_name_that_no_step_sets():
    assert faults(
        """
        - {name: a, set: {shots: []}}
        - {name: b, tool: t, inputs: {x: "{{ values.shot }}"}, when: values.none | default(true)}
        """
    ) == [
        "undefined steps[1].inputs.x: `shot` is not defined: no `set` step of the plan sets it "
        "(shots)",
        "undefined steps[1].when: `none` is not defined: no `set` step of the plan sets it",
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('- {name: a, set: {n: "{{ values.n + 1 }}"}}', "not-yet-set"),
        ('- {name: a, set: {n: "{{ values.n | default(0) + 1 }}"}}', ""),
        (
            # Even where the loop comes back, the first attempt has no value.
            '- {name: a, set: {n: "{{ values.n + 1 }}"}, rules: {more: values.n < 3}, '
            "transitions: {more: a}}",
            "not-yet-set",
        ),
        (
            '- {name: z, set: {n: 0}}\n- {name: a, set: {n: "{{ values.n + 1 }}"}, '
            "rules: {more: values.n < 3}, transitions: {more: a}}",
            "",
        ),
        ('- {name: a, set: {n: 1}, rules: {failure: values.n > 2}}', ""),
        (
            '- {name: a, tool: t, inputs: {n: "{{ values.n }}"}}\n- {name: b, set: {n: 1}}',
            "not-yet-set",
        ),
        (
            "- name: both\n  parallel:\n    - {name: l, set: {n: 1}}\n"
            '    - {name: r, set: {m: "{{ values.n }}"}}',
            "not-yet-set",
        ),
        (
            "- name: both\n  parallel:\n    - {name: l, set: {n: 1}}\n    - {name: r, set: {n: 2}}",
            "set-twice",
        ),
        # Steps at the end see the values of the plan, and those of the list before.
        (
            "- {name: a, set: {n: 1}}\non_failure:\n- {name: b, set: {m: 1}}\nfinally:\n"
            '- {name: c, set: {o: "{{ values.n + values.m }}"}}\n'
            '- {name: d, set: {p: "{{ values.o }}"}}',
            "",
        ),
        (
            "- {name: a, set: {n: 1}}\nfinally:\n"
            '- {name: c, set: {o: "{{ values.p }}"}}\n- {name: d, set: {p: 1}}',
            "not-yet-set",
        ),
        (
            '- {name: a, set: {n: "{{ values.m }}"}}\nfinally:\n- {name: b, set: {m: 1}}',
            "not-yet-set",
        ),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_set_by_then(text, code):
    assert [found.partition(" ")[0] for found in faults(text)] == ([code] if code else [])


def test_a_plan_that_sets_nothing_has_no_values():
    (found,) = faults('- {name: a, tool: t, inputs: {x: "{{ values.n }}"}}')
    assert "no `set` step of the plan sets it" in found
    assert faults("- {name: a, tool: t, rules: {failure: values | length > 3}}") == []


def test_a_name_without_its_scope_is_recognized():
    (found,) = faults('- {name: a, set: {n: 1}}\n- {name: b, tool: t, inputs: {x: "{{ n }}"}}')
    assert found.endswith("(values.n)")


def test_a_secret_is_not_named():
    (found,) = faults(
        '- {name: a, set: {n: "{{ inputs.key }}"}}', "inputs: {key: {secret: true}}\n"
    )
    assert found.startswith("secret-in-value steps[0].set.n")


def test_the_form_of_a_set_step():
    assert refused(
        """
        - {name: a, set: {}}
        - {name: b, set: [1]}
        - {name: c, set: {my-name: 1}}
        - {name: d, set: {n: 1}, foreach: [1]}
        - {name: e, type: set}
        - {name: f, set: {n: 1}, instruction: Think.}
        - {name: g, tool: t, vars: {n: 1}}
        """
    ) == [
        "4:13 `set` needs at least one name with its value",
        "5:13 `set` must be a mapping, not a list",
        "6:19 `my-name` cannot name a value: a letter, then letters, digits, `_`",
        "7:26 `foreach` has no meaning in a set step, which only gives names to values",
        "8:3 a set step needs `set`: names with their values",
        "9:39 `instruction` has no meaning in a set step, which only gives names to values",
        "10:22 a step has no key `vars`; write `set: {NAME: value}` as a step before; its values "
        "are `values.NAME`",
    ]


def test_it_is_dumped_drawn_and_changes_no_other_plan():
    text = "name: p\nsteps:\n  - {name: a, set: {n: '{{ 1 }}', m: {k: [1]}}}\n"
    plan = parse_plan(text)
    assert parse_plan(dump_plan(plan)) == plan
    assert "set       n, m" in drawn(plan)
    old = parse_plan("name: p\nsteps:\n  - {name: a, tool: t}\n")
    assert "set" not in dump_plan(old)
    assert plan_hash(old).startswith("b6a2a8c6e57483e8")
    assert "n, m" in mermaid(plan)
