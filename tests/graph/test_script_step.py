"""Script steps, and what a job reads and answers: stdin, JSON and text, exit codes as evidence.

The programs are real processes of this machine.
"""

# ruff: noqa: ASYNC240 - these tests look at the files that programs leave
from __future__ import annotations

import json
import os
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from fractale.agents.draft_catalog import DraftCatalog
from fractale.errors import PlanError
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.settings import PolicySettings
from fractale.toolbox import ToolInfo


@pytest.fixture
def settings(settings, tmp_path, monkeypatch):
    """Programs work in a directory of their own, and two cores are all that jobs may use."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return replace(settings, environment={"PATH": os.environ["PATH"]}, local_cores=2)


def plan(*steps: str, top: str = "", end: str = "") -> str:
    """A plan of these steps, each the YAML of one without its dash."""
    body = "\n".join(
        textwrap.indent(textwrap.dedent(step).strip(), "    ").replace("    ", "  - ", 1)
        for step in steps
    )
    return f"name: scripts\n{textwrap.dedent(top)}steps:\n{body}\n{textwrap.dedent(end)}"


def shell(script: str, **keys: str) -> str:
    """A step `a` that runs a script of the shell."""
    more = "".join(f"\n{key}: {value}" for key, value in keys.items())
    return f"name: a\nscript: {json.dumps(script)}{more}"


def problems_of(text: str) -> list[str]:
    try:
        found = check_plan(parse_plan(text, "p.yaml"))
    except PlanError as error:
        found = error.problems
    return [f"{p.position.line}:{p.position.column} {p.code} {p.message}" for p in found]


ALL = "outputs: {all: '{{ steps.a.outputs }}'}"


# The language


def test_a_script_or_a_command_names_the_kind():
    text = plan(
        shell("echo {{ inputs.x }}", stdin="{b: ['{{ inputs.x }}']}", env="{A: 1}", outputs="json"),
        "name: b\ncommand: wc -l\noutputs: text\nconfine: true\nnetwork: true",
        "name: c\ntype: job\nscript: x",
        "name: d\ntype: script\ncommand: [x]",
        top="inputs: {x: 1}\n",
    )
    assert problems_of(text) == []
    read = parse_plan(text)
    assert [step.kind for step in read.steps] == ["script", "script", "job", "script"]
    assert parse_plan(dump_plan(read)) == read
    assert "scheduler" not in dump_plan(read)


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("name: a\ntype: script", r"4:11 missing-key a script step needs `script` or `command`"),
        ("name: a\nscript: x\ncommand: y", r"5:14 missing-key a script step has both"),
        ("name: a\nscript: x\nnodes: 2", r"5:12 misplaced-key `nodes` belongs to a job"),
        ("name: a\nscript: x\nmodel: 'a:b'", r"misplaced-key `model` has no meaning in a script"),
        ("name: a\nscript: x\ninputs: {b: 1}", r"misplaced-key `inputs` .* by `stdin`, `env`"),
        ("name: a\ntool: t\nscript: x", r"two-kinds"),
        ("name: a\ntool: t\nstdin: x", r"5:12 misplaced-key `stdin` belongs to a job or a script"),
        ("name: a\ntool: t\ncommand: x", r"misplaced-key `command` belongs to a job or a script"),
        ("name: a\nscript: x\noutputs: yaml", r"5:14 bad-value `outputs` must be one of `json`"),
        ("name: a\nscript: x\noutputs: {v: 'v=(.)'}", r"5:5 wrong-type .* is `json` or `text`"),
        ("name: a\nscript: x\noutputs: {file: o.json}", r"wrong-type .* is `json` or `text`"),
        ("name: a\nscript: x\nnetwork: true", r"5:14 missing-key `network` says what a confined"),
        ("name: a\nscript: '{{ nope }}'", r"undefined `nope` is not defined"),
        ("name: a\nscript: x\nstdin: {b: '{{ nope }}'}", r"5:20 undefined `nope`"),
        ("name: a\nscript: x\nstdin: '{{ inputs.key }}'", r"secret-in-job .* a script is written"),
        ("name: a\nscript: x\noutputs: text\nrules: {success: conten == ''}",
         r"undefined .* the script's outputs are `content`"),
        ("name: a\njob: {script: x, outputs: text}", r"bad-value .* in its output `log`"),
        ("name: a\njob: {script: x, outputs: {file: ' '}}", r"`pattern` must be text"),
        ("name: a\njob: {script: x, outputs: {file: '{{ nope }}.json'}}", r"undefined `nope`"),
        ("name: a\njob: {script: x, stdin: '{{ nope }}'}", r"undefined `nope`"),
    ],
)  # fmt: skip
def test_faults_have_a_place_and_a_way_out(step, problem):
    found = problems_of(plan(step) + "inputs: {key: {secret: true}}\n")
    assert len(found) == 1, found
    assert re.search(problem, found[0])


def test_the_schema_accepts_what_the_reader_accepts():
    from fractale.plan.schema import plan_schema

    validator = jsonschema.Draft202012Validator(plan_schema())

    def accepts(**step: object) -> bool:
        return validator.is_valid({"name": "x", "steps": [{"name": "a", **step}]})

    assert accepts(script="x", stdin={"a": 1}, outputs="json", env={"A": 1})
    assert accepts(command=["x"], outputs="text", folder="y", confine=True)
    assert accepts(job={"command": "x", "stdin": "a", "outputs": {"file": "o.json"}})
    assert accepts(job={"command": "x", "outputs": "json"})
    assert not accepts(script="x", nodes=2)
    assert not accepts(tool="t", stdin="x")


# What a script gives


async def test_values_go_in_as_json_and_come_out_as_json(run_plan):
    step = """
        name: a
        script: |
          #!/usr/bin/env python3
          import json, os, sys
          given = json.load(sys.stdin)
          print("a warning", file=sys.stderr)
          print(json.dumps({"n": len(given["words"]), "first": given["words"][0],
                            "who": os.environ["WHO"]}))
        stdin: {words: "{{ inputs.words }}"}
        env: {WHO: "{{ inputs.who }}"}
        output_schema:
          type: object
          required: [n]
          properties: {n: {type: integer}, first: {type: string}, who: {type: string}}
          additionalProperties: false
    """
    top = 'inputs: {words: ["a\'b $(id)", c], who: "x\' $(id)"}\n'
    seen = await run_plan(plan(step, top=top, end=ALL))
    assert seen.status == "success", seen.result.error
    assert seen.result.outputs["all"] == {"n": 2, "first": "a'b $(id)", "who": "x' $(id)"}
    assert seen.decided("a") == "default"


@pytest.mark.parametrize(
    ("script", "form", "outputs"),
    [
        ("cat", "", {"content": "two\nlines"}),
        ("cat", "text", {"content": "two\nlines"}),
        ("echo '[1, 2]'", "", {"result": [1, 2]}),
        ("echo '[1, 2]'", "text", {"content": "[1, 2]\n"}),
        ("echo; echo '{\"b\": 1}'; echo", "", {"b": 1}),
        ("echo 42", "", {"content": "42\n"}),
        ("echo 42", "json", {"result": 42}),
        ("echo said; echo '{\"b\": 1}'", "", {"content": 'said\n{"b": 1}\n'}),
        ("echo on stderr >&2", "", {"content": ""}),
        ("#!/bin/sh\n#SBATCH --array=1-4\n#PBS -l nodes=9\necho once", "", {"content": "once\n"}),
    ],
)
async def test_stdout_is_the_answer_as_json_if_it_is_json_as_a_whole(
    run_plan, script, form, outputs
):
    keys = {"stdin": '"two\\nlines"', **({"outputs": form} if form else {})}
    seen = await run_plan(plan(shell(script, **keys), end=ALL))
    assert seen.status == "success", seen.result.error
    assert seen.result.outputs["all"] == outputs


async def test_an_answer_that_must_be_json_and_is_not_fails(run_plan):
    seen = await run_plan(plan(shell("echo '{\"a\": 1} and more'", outputs="json")))
    assert (seen.status, seen.decided("a")) == ("failed", "schema")
    assert "stdout is not JSON: Extra data" in seen.result.error
    seen = await run_plan(plan(shell("true", outputs="json")))
    assert "stdout is empty, and must be JSON" in seen.result.error


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 2000])
async def test_a_number_that_json_cannot_hold_is_not_json(run_plan, number):
    seen = await run_plan(plan(shell(f"echo '[{{\"a\": {number}}}]'", outputs="json")))
    assert (seen.status, seen.decided("a")) == ("failed", "schema")
    assert "stdout is not JSON: " in seen.result.error


async def test_json_in_the_answer_is_evidence_as_that_of_a_tool(run_plan):
    seen = await run_plan(plan(shell('echo \'{"error": "no atoms"}\'')))
    assert (seen.status, seen.decided("a")) == ("failed", "exit_code")
    assert seen.result.error == "no atoms"


async def test_an_exit_code_fails_the_step_with_the_last_lines_of_stderr(run_plan):
    script = "echo '{\"done\": 3}'; echo looking >&2; echo 'no such atom' >&2; exit 3"
    seen = await run_plan(plan(shell(script, outputs="json")))
    assert (seen.status, seen.decided("a")) == ("failed", "exit_code")
    assert re.fullmatch(
        r"the script ended with exit code 3( on \S+)?; stderr: .*no such atom", seen.result.error
    )
    (finished,) = seen.of("step_finished")
    assert finished["outputs"] == {
        "done": 3,
        "exit_code": 3,
        "stderr": "looking\nno such atom\n",
        "error": seen.result.error,
    }


async def test_rules_see_the_exit_code_and_stderr_of_any_script(run_plan):
    step = shell(
        "echo none >&2; exit {{ inputs.code }}",
        rules="{none: \"exit_code == 1 and 'none' in stderr\", success: exit_code == 0}",
        transitions="{none: b}",
    )
    other = "name: b\nscript: echo '{{ steps.a.outputs.exit_code }}'"
    for code, event, after in (("0", "success", "failure"), ("1", "none", "success")):
        seen = await run_plan(plan(step, other, top=f"inputs: {{code: {code}}}\n"))
        first, second = seen.of("step_finished")
        assert (first["event_name"], second["outcome"]) == (event, after)
        assert not [each for each in seen.of("warning") if "exit_code" in each["message"]]


async def test_a_script_that_takes_too_long_is_ended(run_plan):
    seen = await run_plan(plan(shell("echo begun >&2; exec sleep 600", timeout="1s")))
    assert (seen.status, seen.decided("a")) == ("failed", "error")
    assert "the script was not over within the step's timeout of 1s" in seen.result.error


async def test_a_script_does_not_wait_for_the_cores_that_jobs_use(run_plan):
    """The job ends only when the script has run."""
    job = """
        name: busy
        job:
          scheduler: local
          tasks: 2
          command: [sh, -c, "until [ -e free ]; do sleep 0.05; done"]
    """
    block = "name: both\nparallel:\n" + textwrap.indent(
        "- " + textwrap.indent(textwrap.dedent(job).strip(), "  ").lstrip()
        + "\n- {name: quick, script: 'until [ -e .busy ]; do sleep 0.05; done; touch free'}",
        "  ",
    )  # fmt: skip
    text = plan(block).replace("until [ -e free ]", "touch .busy; until [ -e free ]")
    seen = await run_plan(text)
    assert seen.status == "success", seen.result.error


async def test_a_foreach_runs_a_script_per_item(run_plan):
    step = shell(
        'read word; echo "$word $N"',
        foreach="inputs.words",
        stdin="'{{ item }}'",
        env="{N: '{{ index }}'}",
        outputs="text",
    )
    seen = await run_plan(plan(step, top="inputs: {words: [a, b, c]}\n", end=ALL))
    assert seen.result.outputs["all"] == [
        {"content": "a 0\n"}, {"content": "b 1\n"}, {"content": "c 2\n"},
    ]  # fmt: skip


async def test_a_secret_never_gets_into_a_script_and_is_masked_in_its_output(run_plan, settings):
    top = "inputs: {key: {secret: true}}\n"
    text = plan(shell("cat {{ inputs.file }}"), top="inputs: {key: {secret: true}, file: k}\n",
                end=ALL)  # fmt: skip
    Path("k").write_text("it is hunter22-hunter22")
    seen = await run_plan(text, secrets={"key": "hunter22-hunter22"})
    assert seen.result.outputs["all"] == {"content": "it is ***"}
    text = plan(shell("cat", stdin="'{{ inputs[inputs.which] }}'"), top=top + "  which: key\n")
    text = text.replace("inputs: {key: {secret: true}}\n  which: key",
                        "inputs: {key: {secret: true}, which: key}")  # fmt: skip
    seen = await run_plan(text, secrets={"key": "hunter22-hunter22"})
    assert seen.status == "failed"
    assert "there is a secret in it" in seen.result.error


async def test_the_policy_of_jobs_is_that_of_scripts(run_plan, settings):
    text = plan(shell("touch done"))
    denied = replace(settings, policy=PolicySettings(deny=("job_submit",)))
    seen = await run_plan(text, settings=denied)
    assert (seen.status, seen.decided("a")) == ("failed", "error")
    assert "`job_submit` was not called" in seen.result.error
    assert not Path("done").exists()


async def test_no_budget_counts_a_script(run_plan):
    seen = await run_plan(plan(shell("echo a"), top="limits: {jobs: 1, node_hours: 0.1}\n"))
    assert seen.status == "success", seen.result.error


async def test_a_confined_script_writes_only_below_the_project(run_plan, tmp_path):
    from fractale.confine.ways import find_way
    from fractale.errors import DependencyMissing

    try:
        find_way(os.environ)
    except DependencyMissing as error:
        pytest.skip(f"confinement: {error.message}")
    outside = tmp_path / "outside"
    step = shell(f"cat; echo x > inside; echo x > {outside} || true", confine="true", stdin="hi")
    seen = await run_plan(plan(step, end=ALL))
    assert seen.result.outputs["all"] == {"content": "hi"}
    assert not outside.exists()


# What a job reads and answers


async def test_a_job_reads_its_stdin_and_answers_with_the_last_json_of_its_log(run_plan):
    job = """
        name: a
        job:
          scheduler: local
          script: |
            echo '{"not": "this"}'
            echo '[INFO] is not JSON'
            printf '{\\n"sum": %s,\\n"state": "mine"\\n}\\n' "$(cat)"
            echo a line after it >&2
          stdin: "{{ inputs.n }}"
          outputs: json
    """
    seen = await run_plan(plan(job, top="inputs: {n: 7}\n", end=ALL))
    assert seen.status == "success", seen.result.error
    given = seen.result.outputs["all"]
    assert (given["sum"], given["state"], given["exit_code"]) == (7, "completed", 0)
    assert "not" not in given
    (finished,) = seen.of("step_finished")
    assert finished["notices"][0]["message"] == (
        "the job's own outputs hide these keys of its JSON: `state`"
    )


async def test_the_last_json_of_a_log_has_only_numbers_of_json(run_plan):
    """An earlier one is not taken instead."""
    script = "echo '{\"loss\": 2}'; echo '{\"loss\": NaN}'"
    seen = await run_plan(
        plan(f"name: a\njob: {{scheduler: local, script: {json.dumps(script)}, outputs: json}}")
    )
    assert (seen.status, seen.decided("a")) == ("failed", "schema")
    assert "the last object or array of its log is not JSON: " in seen.result.error


async def test_a_job_answers_with_a_file(run_plan):
    job = """
        name: a
        job:
          scheduler: local
          folder: below
          command: [sh, -c, 'echo {{ inputs.json }} > {{ inputs.name }}.json']
          outputs: {file: "{{ inputs.name }}.json"}
    """
    Path("below").mkdir()
    top = "inputs: {name: out, json: '[3]'}\n"
    seen = await run_plan(plan(job, top=top, end=ALL))
    assert seen.result.outputs["all"]["result"] == [3]
    seen = await run_plan(plan(job, top=top.replace("[3]", "[3")))
    assert (seen.status, seen.decided("a")) == ("failed", "schema")
    assert "out.json` is not JSON" in seen.result.error
    seen = await run_plan(plan(job.replace("> {{", "> x{{"), top=top.replace("out", "other")))
    assert "the file of its outputs does not exist" in seen.result.error


async def test_a_job_without_json_fails_by_that_only_if_it_did_not_fail_before(run_plan):
    job = "name: a\njob: {scheduler: local, command: [sh, -c, 'exit CODE'], outputs: json}"
    seen = await run_plan(plan(job.replace("CODE", "0")))
    assert seen.decided("a") == "schema"
    assert "its log has no JSON object or array that begins a line" in seen.result.error
    seen = await run_plan(plan(job.replace("CODE", "2")))
    assert seen.decided("a") == "exit_code"


@pytest.mark.parametrize("top", ["foreach: inputs.words", ""])
async def test_each_job_of_an_array_reads_its_own_stdin(run_plan, top):
    if top:
        job = (
            "name: a\nforeach: inputs.words\njob:\n  scheduler: local\n  command: [cat]\n"
            "  stdin: {word: '{{ item }}'}\n  outputs: json"
        )
    else:
        job = (
            "name: a\njob:\n  scheduler: local\n  array: 0-1\n  command: [cat]\n"
            "  stdin: {word: '{{ inputs.words[0] }}'}\n  outputs: json"
        )
    seen = await run_plan(plan(job, top="inputs: {words: [a, b]}\n", end=ALL))
    assert seen.status == "success", seen.result.error
    words = [each["word"] for each in seen.result.outputs["all"]]
    assert words == (["a", "b"] if top else ["a", "a"])


# Drafts


def test_a_draft_may_have_a_script_where_it_may_submit_jobs():
    given = {"stdin": {"x": [1]}, "env": {"A": "b"}}
    step = {"name": "a", "script": "echo 1", "timeout": "10m", **given}
    with pytest.raises(PlanError, match="only where it has the tool for it"):
        DraftCatalog().read("d", {"steps": [step]})
    assert "script" not in DraftCatalog().schema()["$defs"]["step"]["properties"]
    catalog = DraftCatalog(tools=[ToolInfo(name="job_submit", server="jobs")])
    jsonschema.validate({"steps": [step]}, catalog.schema())
    plan, _ = catalog.read("d", {"steps": [step]})
    assert plan.steps[0].kind == "script"
    for widened in ({"confine": False}, {"confine": True, "network": True}):
        with pytest.raises(PlanError, match="its jobs are confined"):
            catalog.read("d", {"steps": [{**step, **widened}]})
    untimed = {name: value for name, value in step.items() if name != "timeout"}
    for slow in (untimed, {**step, "timeout": "10m1s"}, {"name": "c", "steps": [untimed]}):
        for block in ({"steps": [slow]}, {"steps": [step | {"name": "b"}], "finally": [slow]}):
            with pytest.raises(
                PlanError, match="at most 10m; for longer work, write a `job`"
            ) as at:
                catalog.read("d", block)
            assert [problem.code for problem in at.value.problems] == ["draft-script"]
    job = {"name": "a", "job": {"command": ["x"], "outputs": {"file": "/etc/secret.json"}}}
    with pytest.raises(PlanError, match="can't name a file of outputs"):
        catalog.read("d", {"steps": [job]})
