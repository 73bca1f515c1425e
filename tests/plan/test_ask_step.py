"""Ask steps in a plan's file: how they are read, checked, written and drawn."""

from __future__ import annotations

import textwrap

import jsonschema
import pytest
import yaml

from fractale.errors import PlanError
from fractale.evidence import DETAILS, EXIT_CODE_KEYS, NOTICES
from fractale.plan.ask import NOT_AS_FIELD
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.draw import mermaid
from fractale.plan.draw import text as drawn
from fractale.plan.dump import dump_plan
from fractale.plan.model import Expression
from fractale.plan.schema import plan_schema
from fractale.plan.scope import RULE_NAMES

GATE = """\
name: p
inputs: {x: 1}
steps:
  - name: gate
    ask: "Publish {{ inputs.x }}?"
    choices: [publish, {revise: "What of {{ inputs.x }}?"}, drop]
    default: drop
    default_after: 2d
    rules: {failed: answer == 'drop'}
"""
FORM = """\
name: p
steps:
  - name: size
    ask: How big?
    form:
      type: object
      properties:
        nodes: {type: integer, minimum: 1}
      required: [nodes]
    default: {nodes: 2}
"""
FOUND = """\
name: p
steps:
  - {name: look, tool: look}
  - name: pick
    type: ask
    ask: Which?
    choices: steps.look.outputs.found
"""


@pytest.mark.parametrize("text", [GATE, FORM, FOUND])
def test_a_question_is_written_as_it_was_read(text):
    plan = parse_plan(text)
    assert check_plan(plan) == []
    assert parse_plan(dump_plan(plan)) == plan


def test_the_key_names_the_kind():
    (step,) = parse_plan(GATE).steps
    assert step.kind == "ask"
    assert [choice.word for choice in step.choices or ()] == ["publish", "revise", "drop"]
    assert isinstance(parse_plan(FOUND).steps[1].choices, Expression)


def test_a_drawing_shows_the_question():
    assert "● gate  ask       Publish …?" in drawn(parse_plan(GATE))


def found(steps: str) -> list[tuple[str, str, str]]:
    """Code, place and message of each problem. Columns are those of the steps alone."""
    text = "name: p\nsteps:\n" + textwrap.indent(textwrap.dedent(steps), "  ")
    try:
        problems = check_plan(parse_plan(text, "p.yaml"))
    except PlanError as error:
        problems = error.problems
    return [
        (
            p.code,
            f"{p.position.line}:{p.position.column - 2} {p.path}" if p.position else "",
            str(p),
        )
        for p in problems
    ]


def only(steps: str) -> tuple[str, str, str]:
    (problem,) = found(steps)
    return problem


@pytest.mark.parametrize(
    ("step", "code", "place", "words"),
    [
        ("ask: ''", "wrong-type", "4:9 steps[0].ask", "`ask` must be text"),
        ("type: ask", "missing-key", "3:3 steps[0].ask", "needs `ask`: the question"),
        ("ask: Q\nchoices: []", "bad-value", "5:3 steps[0].choices", "at least one choice"),
        ("ask: Q\nchoices: [a, a]", "duplicate-choice", "5:16 steps[0].choices[1]", "already"),
        ("ask: Q\nchoices: [a, 2]", "wrong-type", "5:16 steps[0].choices[1]", "put quotes"),
        ("ask: Q\nchoices: [{a: b, c: d}]", "wrong-type", "5:13 steps[0].choices[0]", "one word"),
        (
            'ask: Q\nchoices: ["{{ run.id }}"]',
            "bad-value",
            "5:14 steps[0].choices[0]",
            "plain word",
        ),
        ("ask: Q\nchoices: '{{ run.id }}'", "bare-expression", "5:13 steps[0].choices", "without"),
        ("ask: Q\nchoices: [a]\ndefault: b", "bad-default", "6:12 steps[0].default", "one of `a`"),
        ("ask: Q\ndefault: 3", "bad-default", "5:12 steps[0].default", "must be text"),
        (
            "ask: Q\nchoices: [aa]\ndefault: {answer: aa, text: t}",
            *("bad-default", "6:3 steps[0].default", "has no text"),
        ),
        ("ask: Q\nmodel: a:b", "misplaced-key", "5:10 steps[0].model", "only waits for an answer"),
        ("ask: Q\ndefault_after: 2d", "misplaced-key", "5:18 steps[0].default_after", "`default`"),
        ("tool: t\nchoices: [a]", "misplaced-key", "5:3 steps[0].choices", "tool step"),
        ("tool: t\noptions: [a]", "unknown-key", "5:3 steps[0].options", "write `choices`"),
        ("question: Why", "unknown-key", "4:3 steps[0].question", "write `ask`"),
        (
            "ask: Q\nchoices: [a]\nform: {type: object, properties: {b: {type: string}}}",
            *("contradiction", "6:3 steps[0].form", "not both"),
        ),
        ("ask: Q\nform: {type: string}", "bad-form", "5:3 steps[0].form", "of an object"),
        (
            "ask: Q\nform: {type: object, properties: {a: {type: object}}}",
            *("bad-form", "5:37 steps[0].form.properties.a", "a form is flat"),
        ),
        (
            "ask: Q\nform: {type: object, properties: {error: {type: string}}}",
            *("bad-form", "5:37 steps[0].form.properties.error", "cannot be named"),
        ),
        (
            "ask: Q\nform: {type: object, properties: {api_key: {type: string}}}",
            *("bad-form", "5:37 steps[0].form.properties.api_key", "`secret: true`"),
        ),
        (
            "ask: Q\nform: {type: object, properties: {a: {type: integer, default: x}}}",
            *("bad-default", "5:40 steps[0].form.properties.a.default", "does not fit"),
        ),
        (
            "ask: Q\nform: {type: object, properties: {nodes: {type: integer}}, required: [node]}",
            *("bad-form", "5:72 steps[0].form.required", "did you mean `nodes`"),
        ),
        (
            "ask: Q\nform: {type: object, properties: {n: {type: integer}}}\ndefault: {n: x}",
            *("bad-default", "6:3 steps[0].default", "does not fit the form"),
        ),
        (
            "ask: Q\nchoices: [publish, drop]\nrules: {failed: answer == 'dorp'}",
            *("unknown-choice", "6:19 steps[0].rules.failure", "did you mean `drop`"),
        ),
        (
            "ask: Q\nchoices: [a]\nrules: {failed: anwser == 'a'}",
            *("undefined", "6:19 steps[0].rules.failure[0]", "did you mean `answer`"),
        ),
        ("ask: 'Q {{ inputs.x }}'", "undefined", "4:21 steps[0].ask", "no `inputs`"),
        (
            "ask: Q\nchoices: [{a: '{{ nope }}'}]",
            *("undefined", "5:21 steps[0].choices", "`nope` is not defined"),
        ),
    ],
)
def test_every_fault_has_its_place(step, code, place, words):
    step = "- name: a\n" + textwrap.indent(step, "  ")
    assert (problem := only(step))[:2] == (code, place), problem
    assert words in problem[2]


@pytest.mark.parametrize(
    ("form", "places"),
    [
        ("properties: {a: {type: string}}, required: [{}]", ["form.required", "form.required[0]"]),
        ("properties: {a: {type: string}}, required: 3", ["form.required"]),
        ("properties: {a: 3}", ["form.properties.a", "form.properties.a"]),
        (
            "properties: {a: {type: string, minLength: x, default: y}}",
            ["form.properties.a.minLength"],
        ),
    ],
)
@pytest.mark.parametrize("default", ["", "\ndefault: {a: b}"])
def test_a_form_that_is_no_json_schema_has_its_place(form, places, default):
    step = f"- name: a\n  ask: Q\n  form: {{type: object, {form}}}" + default.replace("\n", "\n  ")
    seen = found(step)
    assert [place.split()[1] for _, place, _ in seen] == [f"steps[0].{each}" for each in places]
    assert {code for code, _, _ in seen} <= {"bad-schema", "bad-form"}


def test_a_secret_is_no_default():
    text = (
        "name: p\ninputs: {key: {secret: true}}\nsteps:\n"
        "  - {name: a, ask: 'With {{ inputs.key }}?', default: 'not {{ inputs.key }}'}\n"
        "  - {name: b, ask: Q, form: {type: object, properties: {k: {type: string}}},\n"
        "     default: {k: '{{ inputs.key }}'}}\n"
    )
    problems = check_plan(parse_plan(text))
    assert [(p.code, p.path) for p in problems] == [
        ("secret-in-default", "steps[0].default"),
        ("secret-in-default", "steps[1].default"),
    ]
    assert "write `inputs.key` where the secret is needed" in problems[0].message


def test_the_outputs_of_a_question_are_known():
    problem = only(
        """
        - {name: gate, ask: Q}
        - {name: say, tool: say, inputs: {text: "{{ steps.gate.outputs.anwser }}"}}
        """
    )
    assert problem[0] == "undefined"
    assert "did you mean `answer`" in problem[2]


def test_no_field_of_a_form_is_evidence_or_hides_a_name():
    assert {*EXIT_CODE_KEYS, "error", "errors", "success", *NOTICES, *RULE_NAMES} <= NOT_AS_FIELD
    assert DETAILS  # details of a failure are fine as fields: they only explain


@pytest.mark.parametrize("judge", ["true", "'{{ steps.a.attempts }} is enough'", "It compiles."])
def test_a_judge_may_have_a_criterion(judge):
    text = f"name: p\nsteps:\n  - {{name: a, tool: t, max_attempts: 2, judge: {judge},"
    text += " transitions: {failure: a}}\n"
    plan = parse_plan(text)
    assert check_plan(plan) == []
    assert parse_plan(dump_plan(plan)) == plan


@pytest.mark.parametrize("judge", ["''", "3", "[a]"])
def test_a_judge_is_a_flag_or_a_text(judge):
    problem = only(f"- {{name: a, tool: t, judge: {judge}}}")
    assert problem[0] == "wrong-type"
    assert "the criterion as text" in problem[2]


def test_the_names_of_a_criterion_are_checked():
    assert only("- {name: a, tool: t, judge: 'as {{ inputs.x }}'}")[0] == "undefined"


@pytest.mark.parametrize("text", [GATE, FORM, FOUND])
def test_the_schema_for_editors_accepts_questions(text):
    jsonschema.validate(yaml.safe_load(text), plan_schema())


@pytest.mark.parametrize(
    "step", [{"ask": ""}, {"ask": "Q", "choices": []}, {"ask": "Q", "form": {}}, {"type": "ask"}]
)
def test_the_schema_for_editors_refuses_what_is_none(step):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "p", "steps": [{"name": "a", **step}]}, plan_schema())


def test_mermaid_draws_a_hexagon_with_the_escaped_question():
    assert '{{"gate<br/>ask Publish …?' in mermaid(parse_plan(GATE))
