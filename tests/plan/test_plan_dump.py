"""Plans back into YAML, and files that are nearly plans: nothing is lost, nothing crashes."""

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from counts import FULL
from fractale.errors import PlanError, Position, Problem
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.dump import dump_plan, dump_plan_fast
from fractale.plan.model import Plan, Rule, Step, Template
from fractale.plan.source import BREAK
from plan_texts import plan_data, yaml_text

MUTATIONS = 10_000 if FULL else 400

generated = settings(
    max_examples=10_000 if FULL else 100,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@generated
@given(plan_data())
def test_what_is_written_reads_as_the_same_plan(data: dict[str, Any]) -> None:
    plan = parse_plan(yaml_text(data))
    text = dump_plan(plan)
    again = parse_plan(text)
    assert again == plan
    assert dump_plan(again) == text
    assert parse_plan(dump_plan_fast(plan)) == plan, "as a run's record has it"


EXAMPLE = """\
name: Translate a job
description: From one scheduler to another
inputs:
  nodes: {type: integer, default: 2, minimum: 1}
  queue: debug
  token: {secret: true}
agents: [pkg.mod.Agent, {path: pkg.mod.Other, name: other}]
servers: [flux]
limits: {time: 1h30m, cost: 2}
steps:
  - name: transform
    prompt: expert
    inputs:
      script: |
        #!/bin/bash
        lmp -in {{ inputs.file }}
      count: "12"
    allow_tools: false
    rules:
      failed: [not jobspec]
    transitions:
      failed: transform
  - name: sweep
    tool: run
    foreach: {x: [1, 2], y: inputs.ys}
    max_parallel: 4
    retry: {attempts: 5}
    timeout: 600
  - name: both
    parallel:
      - {name: left, tool: t}
      - {name: right, type: agent, inputs: {goal: Do it}}
    keep_going: true
outputs: {job: "{{ steps.transform.outputs.jobspec }}"}
"""


def test_it_is_written_as_people_write_it() -> None:
    assert dump_plan(parse_plan(EXAMPLE)) == (
        """\
name: Translate a job
description: From one scheduler to another
inputs:
  nodes:
    type: integer
    minimum: 1
    default: 2
  queue: debug
  token:
    secret: true
    required: true
agents:
  - pkg.mod.Agent
  - path: pkg.mod.Other
    name: other
servers: [flux]
limits:
  time: 1h30m
  cost: 2
steps:
  - name: transform
    prompt: expert
    inputs:
      script: |
        #!/bin/bash
        lmp -in {{ inputs.file }}
      count: "12"
    allow_tools: false
    rules:
      failure: [not jobspec]
    transitions:
      failure: transform
  - name: sweep
    tool: run
    foreach:
      x: [1, 2]
      y: inputs.ys
    max_parallel: 4
    retry:
      attempts: 5
      delay: 1s
      backoff: 2.0
      max_delay: 1m
    timeout: 10m
  - name: both
    parallel:
      - name: left
        tool: t
      - name: right
        type: agent
        inputs:
          goal: Do it
    keep_going: true
outputs:
  job: '{{ steps.transform.outputs.jobspec }}'
"""
    )


def test_a_version_is_kept_if_it_was_written() -> None:
    text = "name: p\nversion: 1\nsteps:\n  - name: s\n    tool: t\n"
    assert dump_plan(parse_plan(text)) == text
    assert "version" not in dump_plan(parse_plan(text.replace("version: 1\n", "")))


def test_types_survive() -> None:
    text = 'name: p\nsteps: [{name: s, tool: t, inputs: {a: [1, 1.0, true, "1", "true", null]}}]\n'
    step = parse_plan(dump_plan(parse_plan(text))).steps[0]
    assert json.dumps(step.inputs["a"]) == '[1, 1.0, true, "1", "true", null]'


def test_equal_plans_are_equal_wherever_they_stand() -> None:
    assert parse_plan(EXAMPLE, "a") == parse_plan("# moved\n" + EXAMPLE, "b")
    here, there = Position("a", 1, 1), Position("b", 2, 2)
    assert Template("{{ x }}", here) == Template("{{ x }}", there)
    assert Template("{{ x }}", here) != Template("{{ y }}", here)


def test_a_step_that_includes_a_file_is_written_with_its_path(tmp_path) -> None:
    (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: a, tool: t}]\n")
    outer = tmp_path / "outer.yaml"
    outer.write_text("name: o\nsteps: [{name: s, plan: inner.yaml}]\n")
    plan = load_plan(outer)
    outer.write_text(dump_plan(plan))
    assert "plan: inner.yaml" in outer.read_text()
    assert load_plan(outer) == plan


def test_a_plan_made_by_hand_can_be_written() -> None:
    here = Position("x", 1, 1)
    rules = tuple(
        Rule(event, parse_plan(EXAMPLE).steps[0].rules[0].expression)
        for event in ("success", "failure")
    )
    plan = Plan(
        name="p",
        steps=(
            Step(
                name="s",
                kind="agent",
                instruction=Template("{{ inputs.x }}", here),
                tools=("a", "b*"),
                rules=rules,
            ),
        ),
    )
    assert parse_plan(dump_plan(plan)) == plan


# Files that are nearly plans


def nearly_plan_by_bytes(draw: random.Random) -> bytes:
    data = bytearray(EXAMPLE.encode())
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data))
        match draw.randrange(3):
            case 0:
                data[place] = draw.randrange(256)
            case 1:
                del data[place : place + draw.randint(1, 20)]
            case _:
                data[place:place] = bytes(draw.choices(b"{}[]:,-&*!|>'\"%@`\t\n #\0", k=2))
    return bytes(data)


def nearly_plan_by_words(draw: random.Random) -> str:
    parts = EXAMPLE.split(" ")
    lines = EXAMPLE.splitlines(keepends=True)
    match draw.randrange(4):
        case 0:
            parts[draw.randrange(len(parts))] = draw.choice(parts)
            return " ".join(parts)
        case 1:
            del parts[draw.randrange(len(parts))]
            return " ".join(parts)
        case 2:
            lines.insert(draw.randrange(len(lines)), draw.choice(lines))
        case _:
            draw.shuffle(lines)
    return "".join(lines)


ODD: list[Any] = [None, True, 0, -1, 1.5, "", "x", "{{ x }}", [], ["x"], {}, {"x": 1}, [[{}]]]


def nearly_plan_by_values(draw: random.Random, tree: Any) -> str:
    data = json.loads(json.dumps(tree))
    for _ in range(draw.randint(1, 3)):
        places = [place for place in containers(data) if place]
        inside = draw.choice(places)
        key = draw.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        match draw.randrange(3):
            case 0:
                inside[key] = draw.choice(ODD)
            case 1:
                del inside[key]
            case _ if isinstance(inside, dict):
                inside[str(key) + draw.choice("xs_")] = inside.pop(key)
            case _:
                inside.append(draw.choice(ODD))
        if not data:
            break
    return json.dumps(data)


def containers(data: Any) -> list[Any]:
    if not isinstance(data, (dict, list)):
        return []
    inner = data.values() if isinstance(data, dict) else data
    return [data, *(found for child in inner for found in containers(child))]


def check_only_told_problems(text: str | bytes) -> bool:
    """Whether it was refused; anything but a `PlanError` with places fails the test."""
    problems = told(text)
    lines = len(BREAK.split(text if isinstance(text, str) else text.decode(errors="replace")))
    for problem in problems:
        assert problem.code
        assert problem.message
        assert problem.position is not None
        assert problem.position.file == "plan.yaml"
        assert 1 <= problem.position.line <= lines
        assert problem.position.column >= 1
        assert problem.length >= 1
    return bool(problems)


def told(text: str | bytes) -> list[Problem]:
    """The problems of a text; none if it is a plan, which then can be written and read."""
    try:
        plan = parse_plan(text, "plan.yaml")
    except PlanError as error:
        return error.problems
    assert parse_plan(dump_plan(plan)) == plan
    return []


@pytest.mark.parametrize("way", ["bytes", "words", "values"])
def test_a_mutated_plan_is_read_or_refused_in_words(way: str) -> None:
    draw = random.Random(f"fractale {way}")
    tree = _tree(EXAMPLE)
    refused = 0
    for _ in range(MUTATIONS // 3 + 1):
        match way:
            case "bytes":
                text: str | bytes = nearly_plan_by_bytes(draw)
            case "words":
                text = nearly_plan_by_words(draw)
            case _:
                text = nearly_plan_by_values(draw, tree)
        refused += check_only_told_problems(text)
    assert refused > MUTATIONS // 10


def _tree(text: str) -> Any:
    from fractale.plan.source import read_source

    return read_source(text, "f").plain()
