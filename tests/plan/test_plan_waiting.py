"""Plans that wait, poll and try again: how they are read, checked, written and drawn."""

import pytest

from fractale.errors import PlanError, Problem
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.draw import mermaid, text
from fractale.plan.dump import dump_plan, step_data
from fractale.plan.model import Plan, Retry, Step, Template


def plan_of(step: str, more: str = "") -> Plan:
    return parse_plan(f"name: p\nsteps:\n  - {{name: s, {step}}}\n{more}", "plan.yaml")


def step_of(step: str) -> Step:
    return plan_of(step).steps[0]


def problems(step: str, more: str = "") -> list[Problem]:
    try:
        plan = plan_of(step, more)
    except PlanError as error:
        return error.problems
    return check_plan(plan)


def messages(step: str, more: str = "") -> list[str]:
    return [f"{p.code}: {p.message}" for p in problems(step, more)]


def test_a_wait_is_a_duration_or_a_template():
    assert step_of("wait: 10m").value == 600
    assert step_of("wait: 10m").kind == "wait"
    assert step_of("type: wait, wait: 1.5").value == 1.5
    template = step_of('wait: "{{ inputs.pause }}"').value
    assert isinstance(template, Template)
    assert template.source == "{{ inputs.pause }}"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("wait: soon", "wrong-type: `wait` must be a duration such as `90s`"),
        ("wait: 0", "bad-value: `wait` must be longer than 0 s"),
        ("type: wait", "missing-key: a wait step needs `wait`: how long"),
        ("wait: 1s, timeout: 2s", "misplaced-key: `timeout` has no meaning in a wait step"),
        ("wait: 1s, inputs: {a: 1}", "misplaced-key: `inputs` has no meaning in a wait step"),
        ('wait: "{{ inputs.pause }}"', "undefined: `pause` is not defined"),
        ("tool: t, sleep: 1s", "unknown-key: a step has no key `sleep`; write `wait`"),
        ("tool: t, until: ready", "misplaced-key: `until` needs `timeout` beside it"),
        ("tool: t, timeout: 1m, every: 1s", "misplaced-key: `every` needs `until` beside it"),
        ("agent: ask, timeout: 1m, until: ready", "misplaced-key: `until` has no meaning"),
        ('tool: t, timeout: 1m, until: ""', "wrong-type: an expression is empty"),
        ("tool: t, timeout: 1m, until: '{{ a }}'", "bare-expression: write the expression"),
        ("tool: t, timeout: 1m, until: a ==", "template-syntax: the expression ends too early"),
        ("tool: t, timeout: 1m, until: steps.x.outputs.y", "undefined: `x` is not defined"),
        ("tool: t, retry: {on: sunday}", "bad-value: `on` must be one of `transport`, `failure`"),
        ("type: plan, instruction: do, retry: {on: failure}", "misplaced-key: `on: failure`"),
    ],
)
def test_each_fault_is_one_problem_with_its_place(step, expected):
    (found,) = problems(step)
    said = f"{found.code}: {found.message}"
    assert said.startswith(expected), said
    assert found.position is not None
    assert found.position.line == 3


def test_until_sees_what_a_rule_sees():
    assert not problems("tool: t, timeout: 1m, until: status == 'ready' and attempts < 3")
    assert not problems("tool: t, timeout: 1m, until: item in content, foreach: '[1]'")


def test_a_wait_has_no_outputs():
    more = 'outputs: {a: "{{ steps.s.outputs.seconds }}"}\n'
    (found,) = messages("wait: 1s", more)
    assert found.startswith("undefined: `seconds` is not defined: the outputs of `s` are"), found


def test_the_words_are_written_as_they_are_read():
    steps = [
        "wait: 10m",
        'wait: "{{ inputs.pause }}"',
        "tool: t, timeout: 1h, until: status == 'ready', every: 30s",
        "tool: t, retry: {attempts: 5, delay: 1m, on: failure}",
    ]
    for step in steps:
        plan = plan_of(step)
        assert parse_plan(dump_plan(plan), "plan.yaml") == plan
    assert step_data(step_of(steps[0])) == {"name": "s", "wait": "10m"}
    assert "every" not in step_data(step_of("tool: t, timeout: 1h, until: a"))


def test_other_plans_are_written_as_before():
    written = step_data(step_of("tool: t, retry: {attempts: 5}"))
    assert written["retry"] == {"attempts": 5, "delay": "1s", "backoff": 2.0, "max_delay": "1m"}
    assert step_of("tool: t, retry: {on: transport}").retry == Retry(on="transport")


def test_the_drawings_show_the_wait_and_the_loop():
    plan = parse_plan(
        "name: p\nsteps:\n  - {name: settle, wait: 90s}\n"
        "  - {name: poll, tool: t, timeout: 2h, until: ready, every: 30s}\n"
        "  - {name: try, tool: t, retry: {attempts: 4, on: failure}}\n"
    )
    drawn = text(plan)
    assert "settle  wait      1m30s" in drawn
    assert "until ready, for at most 2h" in drawn
    assert "every 30s → poll (again) if not (ready)" in drawn
    assert "tries up to 4 times if it fails" in drawn
    assert 'n2 -->|"every 30s"| n2' in mermaid(plan)
