"""Plan files → `Plan`: every key of the language, and every structural mistake at once."""

import subprocess
import sys
from pathlib import Path

import pytest

import fractale.plan
from fractale.durations import format_duration, parse_duration
from fractale.errors import PlanError, Position, Problem
from fractale.plan.build import MAX_INCLUDES, load_plan, parse_plan
from fractale.plan.fields import MOST_PROBLEMS
from fractale.plan.model import (
    LANGUAGE_VERSION,
    AgentRef,
    Expression,
    ForEach,
    InputSpec,
    Limits,
    Plan,
    Retry,
    Rule,
    Step,
    Template,
)

HERE = Position("plan.yaml", 1, 1)


def expression(source: str) -> Expression:
    return Expression(source, HERE)


def plan_of(step: str, head: str = "") -> Plan:
    """A plan of one step, given as the inside of a flow mapping."""
    return parse_plan(f"name: p\n{head}steps:\n  - {{name: s, {step}}}\n", "plan.yaml")


def step_of(step: str) -> Step:
    return plan_of(step).steps[0]


def problems(text: str) -> list[Problem]:
    with pytest.raises(PlanError) as caught:
        parse_plan(text, "plan.yaml")
    return caught.value.problems


def problem(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, [str(p) for p in found]
    return found[0]


def step_problem(step: str) -> Problem:
    return problem(f"name: p\nsteps:\n  - {{name: s, {step}}}\n")


def head_problem(head: str) -> Problem:
    return problem(f"name: p\n{head}\nsteps: [{{name: s, tool: t}}]\n")


def at(found: Problem) -> tuple[int, int, int]:
    assert found.position is not None
    return found.position.line, found.position.column, found.length


# What 0.1.0's plans look like: each keeps its meaning.

RETRY = """\
name: "Translate a job"
steps:
  # A persona writes the job
  - name: transform
    type: prompt
    prompt: jobspec_expert
    allow_tools: false
    inputs:
      from_manager: slurm
      script: |
        #!/bin/bash
        #SBATCH --nodes=1
        lmp -v x 8
    transitions:
      failed: transform
      success: validate
    rules:
      failed: [not jobspec]
  - name: validate
    type: tool
    tool: validate_jobspec
    inputs:
      content: "{{steps.transform.outputs.jobspec}}"
    transitions:
      failed: transform
    rules:
      success: [valid]
"""


def test_a_plan_of_0_1_0_with_a_prompt_a_tool_and_a_way_back() -> None:
    plan = parse_plan(RETRY, "plan.yaml")
    transform, validate = plan.steps
    assert (transform.kind, transform.target, transform.tools) == ("prompt", "jobspec_expert", ())
    assert transform.rules == (Rule("failure", expression("not jobspec")),)
    assert transform.transitions == {"failure": "transform", "success": "validate"}
    assert transform.inputs["script"] == "#!/bin/bash\n#SBATCH --nodes=1\nlmp -v x 8\n"
    assert validate.inputs == {"content": Template("{{steps.transform.outputs.jobspec}}", HERE)}
    assert plan.target_of(validate, "success") == "success"


def test_a_plan_of_0_1_0_whose_agent_has_its_goal_in_the_inputs() -> None:
    plan = parse_plan(
        "name: Build\n"
        "steps:\n"
        "  - name: ask\n"
        "    type: agent\n"
        "    inputs:\n"
        "      goal: |\n"
        "        Build a container.\n"
        "    rules:\n"
        "      success: [returncode == 0]\n"
        "    transitions:\n"
        "      failure: generate\n"
    )
    (ask,) = plan.steps
    assert (ask.kind, ask.target, ask.instruction) == ("agent", None, "Build a container.\n")
    assert ask.inputs == {"goal": "Build a container.\n"}
    assert ask.transitions == {"failure": "generate"}


def test_a_plan_of_0_1_0_that_the_manager_writes() -> None:
    (planner,) = parse_plan(
        "name: Run\nsteps:\n  - name: planner\n    type: plan\n    instruction: Echo a joke.\n"
    ).steps
    assert (planner.kind, planner.plan, planner.target) == ("plan", None, None)
    assert planner.instruction == "Echo a joke."


def test_a_plan_of_0_1_0_whose_agent_remembers() -> None:
    step = step_of("persist: true, instruction: x, rules: {success: [done]}, type: agent")
    assert step.persist
    assert step.rules == (Rule("success", expression("done")),)


# The top level


def test_every_key_of_the_top_level() -> None:
    plan = parse_plan(
        """\
name: p
description: What it does
inputs:
  nodes: {type: integer, default: 2, minimum: 1, maximum: 8, description: How many}
  app: lammps
  queue: {type: string, enum: [debug, batch], required: true}
  token: {secret: true}
  size: {x: 8, y: 8}
  wrapped: {default: {type: any}}
  empty:
  must: {type: string}
  may: {type: string, required: false}
agents: [pkg.mod.Agent, {path: pkg.other.Agent, name: helper}]
servers: [flux, hpc]
limits: {steps: 10, attempts: 3, time: 1h30m, tokens: 1000, cost: 1.5, depth: 0}
steps:
  - {name: only, tool: t}
outputs:
  answer: "{{ steps.only.outputs.x }}"
  fixed: 3
""",
        "plan.yaml",
    )
    assert plan == Plan(
        name="p",
        description="What it does",
        inputs={
            "nodes": InputSpec(
                name="nodes",
                type="integer",
                default=2,
                minimum=1,
                maximum=8,
                description="How many",
            ),
            "app": InputSpec(name="app", default="lammps"),
            "queue": InputSpec(name="queue", type="string", enum=("debug", "batch"), required=True),
            "token": InputSpec(name="token", secret=True, required=True),
            "size": InputSpec(name="size", default={"x": 8, "y": 8}),
            "wrapped": InputSpec(name="wrapped", default={"type": "any"}),
            "empty": InputSpec(name="empty"),
            "must": InputSpec(name="must", type="string", required=True),
            "may": InputSpec(name="may", type="string"),
        },
        agents=(AgentRef(path="pkg.mod.Agent"), AgentRef(path="pkg.other.Agent", name="helper")),
        servers=("flux", "hpc"),
        limits=Limits(steps=10, attempts=3, time=5400.0, tokens=1000, cost=1.5, depth=0),
        steps=(Step(name="only", kind="tool", target="t"),),
        outputs={"answer": Template("{{ steps.only.outputs.x }}", HERE), "fixed": 3},
    )
    assert plan.file == "plan.yaml"
    assert plan.inputs["nodes"].position == Position("plan.yaml", 4, 3)


def test_keys_without_a_value_count_as_left_out() -> None:
    plan = parse_plan(
        "name: p\ninputs:\noutputs:\nagents:\nservers:\nlimits:\n"
        "steps: [{name: s, tool: t, inputs: , rules: , transitions: , timeout: }]\n"
    )
    assert plan == Plan(name="p", steps=(Step(name="s", kind="tool", target="t"),))
    assert plan.servers is None


@pytest.mark.parametrize("key", ["foreach", "when", "tools", "allow_tools", "approve"])
def test_an_empty_key_that_would_have_a_step_do_more_is_an_error(key: str) -> None:
    found = problem(f"name: p\nsteps: [{{name: s, type: agent, keep_going: , {key}: }}]\n")
    assert (found.code, found.path) == ("empty-value", f"steps[0].{key}")


@pytest.mark.parametrize(
    ("head", "code", "path", "place"),
    [
        ("description: [x]", "wrong-type", "description", (2, 1, 11)),
        ("inputs: [x]", "wrong-type", "inputs", (2, 1, 6)),
        ("inputs: {a b: 1}", "bad-name", "inputs.a b", (2, 10, 3)),
        ("inputs: {n: {type: strng}}", "bad-value", "inputs.n.type", (2, 20, 5)),
        ("inputs: {n: {type: integer, default: x}}", "bad-value", "inputs.n.default", (2, 38, 1)),
        ("inputs: {n: {type: integer, default: true}}", "bad-value", "inputs.n.default", None),
        ("inputs: {n: {type: integer, default: 9, maximum: 8}}", "bad-value", None, None),
        ("inputs: {n: {enum: [a, b], default: c}}", "bad-value", "inputs.n.default", (2, 37, 1)),
        ("inputs: {n: {enum: []}}", "wrong-type", "inputs.n.enum", (2, 14, 4)),
        ("inputs: {n: {type: string, enum: [1]}}", "bad-value", "inputs.n.enum", None),
        ("inputs: {n: {type: string, minimum: 1}}", "bad-value", "inputs.n.minimum", (2, 37, 1)),
        ("inputs: {n: {minimum: 3, maximum: 1}}", "bad-value", "inputs.n.maximum", None),
        ("inputs: {n: {required: true, default: 1}}", "bad-value", "inputs.n.default", None),
        ("inputs: {n: {secret: true, default: x}}", "bad-value", "inputs.n.default", None),
        ("inputs: {n: {required: maybe}}", "wrong-type", "inputs.n.required", (2, 24, 5)),
        ("agents: pkg.Agent", "wrong-type", "agents", (2, 9, 9)),
        ("agents: [agent]", "bad-value", "agents[0]", (2, 10, 5)),
        ("agents: [{name: x}]", "missing-key", "agents[0]", None),
        ("agents: [{path: a.b, nme: x}]", "unknown-key", "agents[0].nme", (2, 22, 3)),
        ("agents: [3]", "wrong-type", "agents[0]", None),
        ("limits: {steps: 0}", "bad-value", "limits.steps", (2, 17, 1)),
        ("limits: {steps: 1.5}", "wrong-type", "limits.steps", None),
        ("limits: {attempts: true}", "wrong-type", "limits.attempts", None),
        ("limits: {time: soon}", "wrong-type", "limits.time", (2, 16, 4)),
        ("limits: {time: 0}", "bad-value", "limits.time", None),
        ("limits: {cost: 0}", "bad-value", "limits.cost", None),
        ("limits: {cost: cheap}", "wrong-type", "limits.cost", None),
        ("limits: {depth: -1}", "bad-value", "limits.depth", None),
        ("limits: 3", "wrong-type", "limits", (2, 9, 1)),
        ("outputs: [a]", "wrong-type", "outputs", (2, 1, 7)),
        ("tools: [x]", "unknown-key", "tools", (2, 1, 5)),
    ],
)
def test_what_is_wrong_around_the_steps(
    head: str, code: str, path: str | None, place: tuple[int, int, int] | None
) -> None:
    found = head_problem(head)
    assert found.code == code
    assert path is None or found.path == path
    assert place is None or at(found) == place


@pytest.mark.parametrize(
    "servers",
    [
        "[https://example.org/mcp]",
        "[{hpc: {url: https://example.org}}]",
        "['flux-mcp --port 3']",
        "{hpc: {command: flux-mcp}}",
        "http://localhost:3000",
        "[3]",
    ],
)
def test_a_plan_never_says_how_to_reach_a_server(servers: str) -> None:
    found = head_problem(f"servers: {servers}")
    assert found.code == "server-by-name"
    assert "settings" in found.message


def test_one_server_needs_no_list() -> None:
    assert plan_of("tool: t", "servers: flux\n").servers == ("flux",)


def test_an_unknown_key_comes_with_the_nearest_valid_one() -> None:
    found = head_problem("desciption: x")
    assert (found.code, found.suggestion, at(found)) == ("unknown-key", "description", (2, 1, 10))
    assert step_problem("tool: t, max-attempts: 3").suggestion == "max_attempts"
    assert head_problem("inputs: {n: {type: string, defualt: x}}").suggestion == "default"


def test_a_misspelt_word_does_not_turn_a_description_into_a_default() -> None:
    found = head_problem("inputs: {n: {description: x, defaul: 3}}")
    assert (found.code, found.suggestion) == ("unknown-key", "default")


def test_a_sweep_file_is_no_plan_and_its_only_problem_names_the_command() -> None:
    found = problem("plan: p.yaml\nover: {n: 1..4}\nmerit: y\n")
    assert found.code == "not-a-plan"
    assert "`fractale sweep plan.yaml`" in found.message


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("- a\n", "wrong-type", (1, 1, 1)),
        ("just text\n", "wrong-type", (1, 1, 9)),
        ("steps: [{name: s, tool: t}]\n", "missing-key", (1, 1, 1)),
        ("name: 3\nsteps: [{name: s, tool: t}]\n", "wrong-type", (1, 7, 1)),
        ("name: ' '\nsteps: [{name: s, tool: t}]\n", "wrong-type", (1, 8, 1)),
        ("name: p\n", "missing-key", (1, 1, 1)),
        ("name: p\nsteps: []\n", "missing-key", (2, 1, 5)),
        ("name: p\nsteps: {a: b}\n", "wrong-type", (2, 1, 5)),
        ("name: p\nsteps: [a]\n", "wrong-type", (2, 9, 1)),
        ("name: p\nsteps: [null]\n", "wrong-type", (2, 9, 4)),
    ],
)
def test_a_plan_needs_a_name_and_steps(text: str, code: str, place: tuple[int, int, int]) -> None:
    found = problem(text)
    assert (found.code, at(found)) == (code, place)


@pytest.mark.parametrize(
    ("version", "code"),
    [("0", "bad-value"), ("-1", "bad-value"), ("1.0", "wrong-type"), ("'1'", "wrong-type")],
)
def test_what_is_not_a_version_of_the_language(version: str, code: str) -> None:
    found = head_problem(f"version: {version}")
    assert (found.code, found.path, at(found)[:2]) == (code, "version", (2, 10 + ("'" in version)))


def test_a_plan_without_a_version_is_of_the_first() -> None:
    assert parse_plan("name: p\nsteps: [{name: s, tool: t}]\n").version is None
    assert plan_of("tool: t", "version: 1\n").version == 1


def test_a_plan_of_a_newer_version_is_one_problem() -> None:
    """What else does not fit may be right in that version."""
    found = problem(
        f"name: p\nversion: {LANGUAGE_VERSION + 1}\nnew: x\nsteps: [{{name: s, newer: t}}]\n"
    )
    assert (found.code, found.path, at(found)) == ("newer-version", "version", (2, 10, 1))
    assert f"version {LANGUAGE_VERSION + 1} of the plan language" in found.message
    assert f"reads up to version {LANGUAGE_VERSION}; install a newer fractale" in found.message


# Steps


@pytest.mark.parametrize(
    ("written", "kind", "target"),
    [
        ("tool: hpc.run", "tool", "hpc.run"),
        ("prompt: expert", "prompt", "expert"),
        ("agent: optimize", "agent", "optimize"),
        ("agent: ", "agent", None),
        ("type: agent", "agent", None),
        ("description: x", "agent", None),
        ("type: tool, tool: t", "tool", "t"),
        ("type: agent, tool: t", "tool", "t"),
        ("type: agent, prompt: p", "prompt", "p"),
        ("type: plan", "plan", None),
        ("plan: ", "plan", None),
        ("parallel: [{name: a, tool: t}]", "parallel", None),
        ("type: parallel, parallel: [{name: a, tool: t}]", "parallel", None),
    ],
)
def test_the_kind_of_a_step(written: str, kind: str, target: str | None) -> None:
    step = step_of(written)
    assert (step.kind, step.target) == (kind, target)


def test_every_key_of_a_step() -> None:
    (step,) = parse_plan(
        """\
name: p
steps:
  - name: all
    description: For people
    agent: optimize
    instruction: Make {{ inputs.app }} fast
    inputs: {n: 3, deep: [{t: "{{ inputs.n }}"}, null, 1.5, true]}
    tools: [flux_*, hpc.load]
    when: inputs.n > 1
    foreach: {n: [1, 2], app: inputs.apps}
    max_parallel: 4
    keep_going: true
    rules: {success: [done, fom > 3], retry: stuck, failed: [false, 0]}
    transitions: {success: success, retry: all, failure: failed}
    retry: {attempts: 5, delay: 0, backoff: 1.5, max_delay: 2m}
    timeout: 90
    max_attempts: 3
    approve: ask
    output_schema: {type: object, properties: {done: {type: boolean}}}
    judge: true
    model: openai:gpt-4.1
    persist: true
"""
    ).steps
    assert step == Step(
        name="all",
        kind="agent",
        target="optimize",
        description="For people",
        instruction=Template("Make {{ inputs.app }} fast", HERE),
        inputs={"n": 3, "deep": [{"t": Template("{{ inputs.n }}", HERE)}, None, 1.5, True]},
        tools=("flux_*", "hpc.load"),
        when=expression("inputs.n > 1"),
        foreach=ForEach(items={"n": (1, 2), "app": expression("inputs.apps")}, max_parallel=4),
        keep_going=True,
        rules=(
            Rule("success", expression("done")),
            Rule("success", expression("fom > 3")),
            Rule("retry", expression("stuck")),
            Rule("failure", expression("false")),
            Rule("failure", expression("0")),
        ),
        transitions={"success": "success", "retry": "all", "failure": "failed"},
        retry=Retry(attempts=5, delay=0.0, backoff=1.5, max_delay=120.0),
        timeout=90.0,
        max_attempts=3,
        approve="ask",
        output_schema={"type": "object", "properties": {"done": {"type": "boolean"}}},
        judge=True,
        model="openai:gpt-4.1",
        persist=True,
    )


def test_a_parallel_block_holds_steps_of_the_plan() -> None:
    plan = plan_of("keep_going: true, parallel: [{name: a, tool: t}, {name: b, prompt: p}]")
    assert [step.name for step in plan.walk()] == ["s", "a", "b"]
    assert plan.steps[0].keep_going


@pytest.mark.parametrize(
    ("written", "tools"),
    [
        ("type: agent", None),
        ("allow_tools: true", None),
        ("allow_tools: false", ()),
        ("tools: []", ()),
        ("tools: flux_*", ("flux_*",)),
        ("tools: [a, b], allow_tools: true", ("a", "b")),
        ("tools: [], allow_tools: false", ()),
    ],
)
def test_the_tools_a_model_may_call(written: str, tools: tuple[str, ...] | None) -> None:
    assert step_of(written).tools == tools


@pytest.mark.parametrize(
    ("written", "instruction"),
    [
        ("inputs: {goal: g, prompt: p}", "g"),
        ("inputs: {prompt: p, instruction: i}", "p"),
        ("inputs: {instruction: i}", "i"),
        ("instruction: x, inputs: {goal: g}", "x"),
        ("inputs: {goal: 3, prompt: p}", "p"),
        ("inputs: {goal: '{{ inputs.g }}'}", Template("{{ inputs.g }}", HERE)),
        ("type: plan, inputs: {goal: g}", "g"),
        ("prompt: e, inputs: {goal: g}", "g"),
        ("tool: t, inputs: {prompt: p}", None),
        ("inputs: {x: 1}", None),
    ],
)
def test_the_instruction_may_stand_in_the_inputs(written: str, instruction: object) -> None:
    assert step_of(written).instruction == instruction


@pytest.mark.parametrize(
    ("written", "items"),
    [
        ("inputs.files", expression("inputs.files")),
        ("range(3)", expression("range(3)")),
        ("[1, two, {x: 3}]", (1, "two", {"x": 3})),
        ("{n: [1, 2], f: inputs.files}", {"n": (1, 2), "f": expression("inputs.files")}),
    ],
)
def test_what_a_step_goes_through(written: str, items: object) -> None:
    assert step_of(f"tool: t, foreach: {written}").foreach == ForEach(items=items)  # type: ignore[arg-type]


def test_failed_and_failure_are_one_event_and_one_end() -> None:
    step = step_of("rules: {failed: x}, transitions: {failed: failure}")
    assert step.rules[0].event == "failure"
    assert step.transitions == {"failure": "failed"}
    assert str(step.where("rules.failure")) == "plan.yaml:3:31"
    assert str(step.where("transitions.failure")) == "plan.yaml:3:57"


def test_a_step_knows_where_its_parts_stand() -> None:
    step = parse_plan(RETRY, "plan.yaml").steps[0]
    assert str(step.position) == "plan.yaml:4:5"
    assert str(step.where("name")) == "plan.yaml:4:11"
    assert str(step.where("transitions")) == "plan.yaml:14:5"
    assert str(step.where("transitions.success")) == "plan.yaml:16:16"
    assert str(step.where("rules.failure")) == "plan.yaml:18:7"
    assert str(step.where("rules.failure[0]")) == "plan.yaml:18:16"
    assert str(step.where("inputs.script")) == "plan.yaml:11:9"
    assert str(step.where("inputs.unknown")) == "plan.yaml:8:5"


def test_a_template_and_an_expression_know_where_they_stand() -> None:
    step = parse_plan(RETRY, "plan.yaml").steps[1]
    content = step.inputs["content"]
    assert isinstance(content, Template)
    assert str(content.position) == "plan.yaml:23:17"
    assert str(step.rules[0].expression.position) == "plan.yaml:27:17"


@pytest.mark.parametrize(
    ("step", "code", "path", "suggestion"),
    [
        ("tool: t, typ: tool", "unknown-key", "typ", "type"),
        ("tool: t, args: {}", "unknown-key", "args", None),
        ("tool: t, initial: true", "unknown-key", "initial", None),
        ("tool: t, schema: {}", "unknown-key", "schema", None),
        ("tool: t, validate: x", "unknown-key", "validate", None),
        ("tool: t, next: x", "unknown-key", "next", None),
        ("type: tol", "bad-value", "type", "tool"),
        ("type: tool", "missing-key", "tool", None),
        ("type: prompt", "missing-key", "prompt", None),
        ("type: parallel", "missing-key", "parallel", None),
        ("tool: t, prompt: p", "two-kinds", "prompt", None),
        ("type: tool, prompt: p, tool: t", "two-kinds", "prompt", None),
        ("type: prompt, agent: a", "two-kinds", "type", None),
        ("tool: a b", "bad-value", "tool", None),
        ('tool: "{{ inputs.tool }}"', "bad-value", "tool", None),
        ("tool: [a]", "wrong-type", "tool", None),
        ("tool: 3", "wrong-type", "tool", None),
        ("tool: t, description: 3", "wrong-type", "description", None),
        ("instruction: [x]", "wrong-type", "instruction", None),
        ("tool: t, inputs: [x]", "wrong-type", "inputs", None),
        ("tools: [a, 3]", "wrong-type", "tools[1]", None),
        ("tools: {a: b}", "wrong-type", "tools", None),
        ("allow_tools: sure", "wrong-type", "allow_tools", None),
        ("allow_tools: false, tools: [a]", "contradiction", "allow_tools", None),
        ("tool: t, rules: [x]", "wrong-type", "rules", None),
        ("tool: t, rules: {success: }", "wrong-type", "rules.success", None),
        ("tool: t, rules: {success: [{}]}", "wrong-type", "rules.success[0]", None),
        ("tool: t, rules: {success: ['']}", "wrong-type", "rules.success[0]", None),
        ('tool: t, rules: {success: "{{ x }}"}', "bare-expression", "rules.success", None),
        ("tool: t, rules: {a b: x}", "bad-name", "rules.a b", None),
        ("tool: t, rules: {failed: x, failure: y}", "duplicate-event", "rules.failure", None),
        ("tool: t, transitions: {failed: a, failure: b}", "duplicate-event", None, None),
        ("tool: t, transitions: {success: [a]}", "wrong-type", "transitions.success", None),
        ("tool: t, transitions: {success: }", "wrong-type", "transitions.success", None),
        ("tool: t, transitions: a", "wrong-type", "transitions", None),
        ("tool: t, when: [a]", "wrong-type", "when", None),
        ('tool: t, when: "{{ a }}"', "bare-expression", "when", None),
        ("tool: t, foreach: []", "bad-value", "foreach", None),
        ("tool: t, foreach: {}", "wrong-type", "foreach", None),
        ("tool: t, foreach: {a: {b: c}}", "wrong-type", "foreach.a", None),
        ('tool: t, foreach: ["{{ a }}"]', "bare-expression", "foreach[0]", None),
        ("tool: t, max_parallel: 2", "misplaced-key", "max_parallel", None),
        ("tool: t, keep_going: true", "misplaced-key", "keep_going", None),
        ("tool: t, foreach: a, max_parallel: 0", "bad-value", "max_parallel", None),
        ("tool: t, retry: 3", "wrong-type", "retry", None),
        ("tool: t, retry: {atempts: 3}", "unknown-key", "retry.atempts", "attempts"),
        ("tool: t, retry: {attempts: 0}", "bad-value", "retry.attempts", None),
        ("tool: t, retry: {backoff: 0.5}", "bad-value", "retry.backoff", None),
        ("tool: t, retry: {delay: -1}", "wrong-type", "retry.delay", None),
        ("tool: t, timeout: 10 minutes", "wrong-type", "timeout", None),
        ("tool: t, timeout: 01:30", "wrong-type", "timeout", None),
        ("tool: t, max_attempts: 0", "bad-value", "max_attempts", None),
        ("tool: t, max_attempts: '3'", "wrong-type", "max_attempts", None),
        ("tool: t, approve: alway", "bad-value", "approve", "always"),
        ("tool: t, approve: true", "bad-value", "approve", None),
        ("tool: t, judge: 1", "wrong-type", "judge", None),
        ("tool: t, model: gpt-4.1", "bad-value", "model", None),
        ("tool: t, persist: true", "misplaced-key", "persist", None),
        ("tool: t, tools: [a]", "misplaced-key", "tools", None),
        ("type: plan, persist: true", "misplaced-key", "persist", None),
        ("parallel: [{name: a, tool: t}], judge: true", "misplaced-key", "judge", None),
        ("parallel: [{name: a, tool: t}], inputs: {a: 1}", "misplaced-key", "inputs", None),
        ("parallel: []", "missing-key", "parallel", None),
        ("parallel: {a: b}", "wrong-type", "parallel", None),
        ("parallel: [x]", "wrong-type", "parallel[0]", None),
        ("plan: other.yaml", "bad-include", "plan", None),
        ("plan: https://example.org/p.yaml", "bad-include", "plan", None),
        ("tool: t, output_schema: true", "wrong-type", "output_schema", None),
        ("tool: t, output_schema: {type: objct}", "bad-schema", "output_schema.type", None),
        ("tool: t, output_schema: {$ref: 'http://x/y'}", "bad-schema", "output_schema.$ref", None),
        ("tool: t, output_schema: {$ref: '#/$defs/a'}", "bad-schema", "output_schema.$ref", None),
        ("tool: t, output_schema: {pattern: '('}", "bad-schema", "output_schema.pattern", None),
    ],
)
def test_what_is_wrong_with_a_step(
    step: str, code: str, path: str | None, suggestion: str | None
) -> None:
    found = step_problem(step)
    assert (found.code, found.suggestion) == (code, suggestion)
    assert path is None or found.path == f"steps[0].{path}"
    assert found.position is not None
    assert found.position.line == 3


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("1st", "bad-name"),
        ("a b", "bad-name"),
        ("a.b", "bad-name"),
        ("a:b", "bad-name"),
        ("é", "bad-name"),
        ("success", "bad-name"),
        ("failed", "bad-name"),
        ("failure", "bad-name"),
        ("12", "wrong-type"),
        ("''", "wrong-type"),
        ("", "missing-key"),
    ],
)
def test_what_cannot_name_a_step(name: str, code: str) -> None:
    found = problem(f"name: p\nsteps:\n  - name: {name}\n    tool: t\n")
    assert (found.code, found.path) == (code, "steps[0].name")


def test_a_step_needs_a_name() -> None:
    found = problem("name: p\nsteps:\n  - tool: t\n")
    assert (found.code, at(found)) == ("missing-key", (3, 5, 1))


def test_step_names_are_unique_in_the_whole_plan() -> None:
    found = problem(
        "name: p\nsteps:\n  - {name: a, tool: t}\n  - name: block\n    parallel:\n"
        "      - {name: a, tool: t}\n"
    )
    assert (found.code, found.path, at(found)) == (
        "duplicate-step",
        "steps[1].parallel[0].name",
        (6, 16, 1),
    )
    assert "line 3" in found.message


def test_parallel_blocks_do_not_nest() -> None:
    found = step_problem("parallel: [{name: a, parallel: [{name: b, tool: t}]}]")
    assert (found.code, found.path) == ("nested-parallel", "steps[0].parallel[0].parallel")


def test_references_inside_an_output_schema_are_followed() -> None:
    schema = "{$defs: {a: {type: string}}, properties: {x: {$ref: '#/$defs/a'}}, const: {$ref: h}}"
    assert step_of(f"tool: t, output_schema: {schema}").output_schema


def test_an_output_schema_is_checked_in_its_lists_too() -> None:
    good = "{anyOf: [{type: string}, {$ref: '#/anyOf/0'}]}"
    assert step_of(f"tool: t, output_schema: {good}").output_schema
    wrong = step_problem("tool: t, output_schema: {anyOf: [{type: string}, {type: strng}]}")
    assert wrong.path == "steps[0].output_schema.anyOf[1].type"
    lost = step_problem("tool: t, output_schema: {anyOf: [{$ref: '#/anyOf/7'}]}")
    assert lost.path == "steps[0].output_schema.anyOf[0].$ref"


def test_no_suggestion_is_looked_for_a_word_that_is_none() -> None:
    assert head_problem(f"{'description' * 10}: x").suggestion is None


def test_all_problems_come_at_once_in_file_order() -> None:
    found = problems(
        "nme: p\nsteps:\n  - name: a\n    tol: t\n    timeout: soon\n  - name: a\nlimits: {x: 1}\n"
    )
    assert [(p.code, p.position and p.position.line) for p in found] == [
        ("unknown-key", 1),
        ("missing-key", 1),
        ("unknown-key", 4),
        ("wrong-type", 5),
        ("duplicate-step", 6),
        ("unknown-key", 7),
    ]


def test_very_many_problems_are_cut_off() -> None:
    found = problems("name: p\nsteps:\n" + "  - {nme: x}\n" * 1_000)
    assert len(found) == MOST_PROBLEMS
    assert found[-1].code == "too-many-problems"


def test_a_problem_reads_as_one_line_with_its_place() -> None:
    found = head_problem("desciption: x")
    assert str(found) == (
        "plan.yaml:2:1  unknown-key  desciption: a plan has no key `desciption`; "
        "did you mean `description`?"
    )


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1d", 86400),
        ("250ms", 0.25),
        ("1m500ms", 60.5),
        ("90", 90),
        ("0.5", 0.5),
        (" 10m ", 600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert step_of(f"tool: t, timeout: {text}").timeout == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "1x",
        "-1s",
        "30m1h",
        "1m1m",
        "1 h",
        "1e3s",
        "99999999999s",
        "999999999m",
        "٣s",
        "1h 2",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [1.0, 60.0, 5400.0, 3661.0, 0.25, 90_000.0])
def test_a_duration_is_written_so_that_it_reads_the_same(seconds: float) -> None:
    assert parse_duration(str(format_duration(seconds))) == seconds


# Including plans


def write(folder: Path, **files: str) -> None:
    for name, steps in files.items():
        (folder / f"{name}.yaml").write_text(f"name: {name}\nsteps:\n{steps}", encoding="utf-8")


def load_problems(path: Path) -> list[Problem]:
    with pytest.raises(PlanError) as caught:
        load_plan(path)
    return caught.value.problems


def test_a_step_includes_a_plan_beside_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(tmp_path, outer="  - {name: s, plan: parts/inner.yaml, inputs: {goal: g}}\n")
    write(tmp_path / "parts", inner="  - {name: t, plan: last.yaml}\n")
    write(tmp_path / "parts", last="  - {name: u, tool: x}\n")
    step = load_plan(tmp_path / "outer.yaml").steps[0]
    assert (step.kind, step.target, step.instruction) == ("plan", "parts/inner.yaml", None)
    assert step.plan is not None
    assert step.plan.file == str(tmp_path / "parts" / "inner.yaml")
    last = step.plan.steps[0].plan
    assert last is not None
    assert last.steps[0].name == "u"


def test_a_missing_include_is_an_error_where_it_is_included(tmp_path: Path) -> None:
    write(tmp_path, outer="  - name: s\n    plan: inner.yaml\n")
    (found,) = load_problems(tmp_path / "outer.yaml")
    assert (found.code, found.path) == ("missing-include", "steps[0].plan")
    assert str(tmp_path / "inner.yaml") in found.message
    assert at(found) == (4, 11, len("inner.yaml"))


def test_the_problems_of_included_plans_come_with_those_of_the_plan(tmp_path: Path) -> None:
    write(
        tmp_path, outer="  - {name: s, plan: inner.yaml}\n  - {name: t, plan: inner.yaml, x: 1}\n"
    )
    write(tmp_path, inner="  - {name: u, tol: x}\n")
    found = load_problems(tmp_path / "outer.yaml")
    assert sorted((Path(str(p.position).split(":")[0]).name, p.code) for p in found) == [
        ("inner.yaml", "unknown-key"),
        ("outer.yaml", "unknown-key"),
    ]


@pytest.mark.parametrize("key", ["instruction: x", "allow_tools: false", "approve: ask"])
def test_what_the_steps_of_an_included_plan_say_its_step_does_not(tmp_path, key: str) -> None:
    write(tmp_path, inner="  - {name: t, tool: x}\n")
    write(tmp_path, outer=f"  - {{name: s, plan: inner.yaml, {key}}}\n")
    (found,) = load_problems(tmp_path / "outer.yaml")
    assert found.code == "misplaced-key"


def test_plans_that_include_each_other_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, a="  - {name: s, plan: b.yaml}\n", b="  - {name: s, plan: ./a.yaml}\n")
    (found,) = load_problems(tmp_path / "a.yaml")
    assert found.code == "include-cycle"
    assert "a.yaml → b.yaml → a.yaml" in found.message
    assert found.position is not None
    assert found.position.file == str(tmp_path / "b.yaml")


def chain(folder: Path, length: int) -> Path:
    """Plans p0 → p1 → …, the last of which includes nothing."""
    for n in range(length):
        write(folder, **{f"p{n}": f"  - {{name: s, plan: p{n + 1}.yaml}}\n"})
    write(folder, **{f"p{length}": "  - {name: s, tool: t}\n"})
    return folder / "p0.yaml"


def test_includes_go_so_deep_and_no_deeper(tmp_path: Path) -> None:
    assert load_plan(chain(tmp_path, MAX_INCLUDES)).name == "p0"
    (found,) = load_problems(chain(tmp_path, MAX_INCLUDES + 1))
    assert found.code == "too-deep-plan"


def test_a_plans_own_depth_limit_holds_for_includes(tmp_path: Path) -> None:
    start = chain(tmp_path, 3)
    start.write_text("limits: {depth: 2}\n" + start.read_text(encoding="utf-8"), encoding="utf-8")
    (found,) = load_problems(start)
    assert (found.code, at(found)) == ("too-deep-plan", (4, 21, len("p1.yaml")))
    start.write_text(start.read_text(encoding="utf-8").replace("2}", "3}"), encoding="utf-8")
    assert load_plan(start).limits.depth == 3


def test_includes_that_multiply_are_refused(tmp_path: Path) -> None:
    for n in range(15):
        steps = (f"  - {{name: {name}, plan: p{n + 1}.yaml}}\n" for name in ("a", "b", "c"))
        write(tmp_path, **{f"p{n}": "".join(steps)})
    write(tmp_path, p15="  - {name: s, tool: t}\n")
    assert {p.code for p in load_problems(tmp_path / "p0.yaml")} == {"too-many-steps"}


def test_a_plan_file_that_is_not_there(tmp_path: Path) -> None:
    (found,) = load_problems(tmp_path / "none.yaml")
    assert found.code == "unreadable-file"


def test_a_plan_from_text_includes_only_through_its_caller() -> None:
    inner = parse_plan("name: inner\nsteps: [{name: a, tool: t}]\n")
    asked: list[tuple[str, Position]] = []

    def include(name: str, position: Position) -> Plan:
        asked.append((name, position))
        return inner

    text = "name: p\nsteps: [{name: s, plan: x.yaml}]\n"
    assert parse_plan(text, "f", include=include).steps[0].plan is inner
    assert asked == [("x.yaml", Position("f", 2, 25))]


def test_the_package_gives_its_names_when_they_are_used() -> None:
    for name in fractale.plan.__all__:
        assert callable(getattr(fractale.plan, name))
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = fractale.plan.nothing_such


def test_reading_a_plan_imports_no_engine() -> None:
    heavy = ("jinja2", "pydantic", "jsonschema", "click", "langgraph", "langchain_core", "mcp")
    code = (
        "import sys, fractale.plan.build, fractale.plan.dump, fractale.plan.schema\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
