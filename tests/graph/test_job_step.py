"""Job steps: submitted once, judged by evidence, read for figures.

The jobs are real: plain processes, and Slurm's where there is one (`test_job_runs.py`).
"""

# ruff: noqa: ASYNC240 - these tests look at the files that jobs leave
from __future__ import annotations

import asyncio
import json
import os
import re
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.types import Command, Interrupt

from fractale import questions
from fractale.agents.draft_catalog import DraftCatalog
from fractale.errors import (
    AnswerError,
    DependencyMissing,
    JobError,
    JobInDoubt,
    PlanError,
    SchedulerUnavailable,
)
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.kinds.foreach import ConcurrencyLimit, Full
from fractale.graph.state import initial_state
from fractale.jobs import Jobs
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.plan.model import Metric
from fractale.schedulers.local.jobs import Local
from fractale.settings import PolicySettings
from fractale.testing import FakeToolServer
from fractale.toolbox import ToolInfo

MINDER = '$(sed -n "s/^id=//p" "$FRACTALE_JOB_DIR/minder")'
"""In a local job, the process that minds it."""


@pytest.fixture
def settings(settings, tmp_path, monkeypatch):
    """Jobs work in a folder of their own, with the machine's own programs."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return replace(settings, environment={"PATH": os.environ["PATH"]}, local_cores=99)


def plan(*steps: str, top: str = "") -> str:
    """A plan of these steps, each the YAML of one without its dash."""
    body = "\n".join(
        textwrap.indent(textwrap.dedent(step).strip(), "    ").replace("    ", "  - ", 1)
        for step in steps
    )
    return f"name: jobs\n{textwrap.dedent(top)}steps:\n{body}\n"


def local(script: str, **keys: str) -> str:
    """A step `a` that runs a script as a plain process."""
    more = "".join(f"\n{key}: {value}" for key, value in keys.items())
    return f"name: a\ntype: job\nscheduler: local\nscript: {json.dumps(script)}{more}"


def problems_of(text: str) -> list[str]:
    try:
        found = check_plan(parse_plan(text, "p.yaml"))
    except PlanError as error:
        found = error.problems
    return [f"{p.position.line}:{p.position.column} {p.code} {p.message}" for p in found]


# The language


def test_a_job_says_the_same_below_its_key_and_beside_the_steps_own():
    job = """
        script: "#!/bin/sh\\necho {{ inputs.x }}"
        nodes: 2
        time: 10m
        env: {A: 1, B: "{{ inputs.x }}"}
        outputs: {f: 'f=(.*)', g: {pattern: 'g=(.)', type: string, take: all, required: false}}
    """
    top = "inputs: {x: 1}\n"
    beside = plan("name: a\ntype: job\n" + textwrap.dedent(job), top=top)
    below = plan("name: a\njob:\n" + textwrap.indent(textwrap.dedent(job), "  "), top=top)
    assert parse_plan(beside) == parse_plan(below)
    read = parse_plan(beside).steps[0]
    assert read.kind == "job"
    assert read.job.time == 600
    assert read.job.outputs["f"] == Metric(pattern="f=(.*)", type="number", take="last")
    assert problems_of(beside) == problems_of(below) == []
    assert parse_plan(dump_plan(parse_plan(beside))) == parse_plan(beside)


def test_a_command_of_one_line_is_split_as_a_shell_would_around_what_is_in_braces():
    read = parse_plan(
        plan("name: a\njob: {command: \"run -x {{ inputs.a + ' b' }} 'c d' e={{ inputs.e }}\"}")
    )
    words = [getattr(word, "source", word) for word in read.steps[0].job.command]
    assert words == ["run", "-x", "{{ inputs.a + ' b' }}", "c d", "e={{ inputs.e }}"]


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("name: a\ntype: job", r"4:11 missing-key a job needs `script` or `command`"),
        ("name: a\njob: {}", r"4:10 missing-key"),
        ("name: a\njob: x", r"4:10 wrong-type `job` must be a mapping"),
        ("name: a\njob: {script: x, command: y}", r"4:31 missing-key a job has both"),
        ("name: a\njob: {script: ' '}", r"4:20 wrong-type `script` must be text"),
        ("name: a\njob: {command: []}", r"4:11 wrong-type `command` must be a list of words"),
        ("name: a\njob: {command: [a, [b]]}", r"4:24 wrong-type a word of a command"),
        ("name: a\njob: {command: 'a \"b'}", r"4:21 bad-value `command` cannot be split"),
        ("name: a\njob: {script: x, nodes: 0}", r"bad-value `nodes` must be at least 1"),
        ("name: a\njob: {script: x, tasks: two}", r"wrong-type `tasks` must be a whole number"),
        ("name: a\njob: {script: x, tasks: 2000000}", r"bad-value `tasks` must be at most"),
        ("name: a\njob: {script: x, memory: lots}", r"wrong-type `memory` must be an amount"),
        ("name: a\njob: {script: x, time: soon}", r"wrong-type `time` must be a duration"),
        ("name: a\njob: {script: x, walltime: 5}", r"`walltime`; write `time`"),
        ("name: a\njob: {script: x, scheduler: slrum}", r"bad-value `scheduler` must be one of"),
        ("name: a\njob: {script: x, env: {A-B: 1}}", r"bad-name `A-B` cannot be the name of a v"),
        ("name: a\njob: {script: x, env: {A: [1]}}", r"wrong-type a variable must be text"),
        ("name: a\njob: {script: x}\nnodes: 2", r"5:12 misplaced-key `nodes` is beside `job:`"),
        ("name: a\njob: {script: x}\ninputs: {b: 1}", r"misplaced-key `inputs` has no meaning"),
        ("name: a\ntool: t\nnodes: 2", r"5:12 misplaced-key `nodes` belongs to a job"),
        ("name: a\ntool: t\njob: {script: x}", r"two-kinds"),
        ("name: a\njob: {script: x, outputs: {f: '(a'}}", r"4:36 bad-pattern .* missing \)"),
        ("name: a\njob: {script: x, outputs: {f: 'a'}}", r"bad-pattern .* it has 0 groups"),
        ("name: a\njob: {script: x, outputs: {f: '(a)(b)'}}", r"bad-pattern .* it has 2 groups"),
        ("name: a\njob: {script: x, outputs: {f: '(a)(?R)'}}", r"bad-pattern .* calls itself"),
        ("name: a\njob: {script: x, outputs: {f: {type: number}}}", r"an output of a job needs"),
        ("name: a\njob: {script: x, outputs: {f: {pattern: (a), take: any}}}", r"bad-value `take`"),
        ("name: a\njob: {script: x, outputs: {state: (a)}}", r"bad-name every job has an output"),
        ("name: a\njob: {script: '{{ nope }}'}", r"4:23 undefined `nope` is not defined"),
        ("name: a\njob: {command: 'b {{ nope }}'}", r"4:26 undefined `nope` is not defined"),
        ("name: a\njob: {script: x, outputs: {fom: (a)}}\nrules: {success: fmo > 1}",
         r"5:22 undefined .* the job's outputs are `fom`"),
        ("name: a\njob: {script: '{{ inputs.key }}'}", r"4:30 secret-in-job"),
        ("name: a\njob: {script: x, env: {A: '{{ inputs.key }}'}}", r"secret-in-job"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_job_is_told_with_its_place(step, problem):
    found = problems_of(plan(step) + "inputs: {key: {secret: true}}\n")
    assert len(found) == 1, found
    assert re.search(problem, found[0])


def test_outputs_of_a_job_are_known_to_the_steps_after_it():
    first = "name: a\njob: {script: x, outputs: {fom: (a)}}"
    good = "name: b\ntool: t\ninputs: {x: '{{ steps.a.outputs.fom }}{{ steps.a.outputs.log }}'}"
    assert problems_of(plan(first, good)) == []
    (problem,) = problems_of(plan(first, good.replace("fom", "fim")))
    assert "`fim` is not defined: the outputs of `a` are `fom`" in problem


def test_the_schema_takes_what_the_reader_takes():
    import jsonschema

    from fractale.plan.schema import plan_schema

    validator = jsonschema.Draft202012Validator(plan_schema())
    step = {"name": "a", "type": "job", "command": ["a", 1], "nodes": "{{ item }}", "time": "5m"}
    assert validator.is_valid({"name": "x", "steps": [step]})
    assert validator.is_valid({"name": "x", "steps": [{"name": "a", "job": {"script": "x"}}]})
    assert not validator.is_valid({"name": "x", "steps": [{"name": "a", "tool": "t", "nodes": 2}]})
    assert not validator.is_valid({"name": "x", "steps": [{"name": "a", "job": {"node": 2}}]})


# What a job gives


async def test_a_job_runs_and_its_figures_are_read_from_its_log(run_plan, settings):
    script = """
        echo "step 1 energy -1.5"; echo "step 2 energy -2.5e3"
        echo "atoms: 4000"; echo "done in $WHERE by $2" >&2
    """
    seen = await run_plan(
        plan(
            local(
                textwrap.dedent(script),
                env="{WHERE: '{{ inputs.where }}'}",
                outputs="""
                {energy: {pattern: 'energy (\\S+)'}, first: {pattern: 'energy (\\S+)', take: first},
                 energies: {pattern: 'energy (\\S+)', take: all},
                 atoms: {pattern: 'atoms: (\\d+)', type: integer},
                 place: {pattern: 'done in (?P<value>.*) (by)', type: string},
                 absent: {pattern: 'no such (line)', required: false}}""",
            ),
            top="inputs: {where: 'a b'}\n",
        )
        + "outputs:\n  all: '{{ steps.a.outputs }}'\n"
        + "  absent: '{{ steps.a.outputs.absent | default(7) }}'\n",
        keep=True,
    )
    assert seen.status == "success", seen.result.error
    given = seen.result.outputs["all"]
    assert (given["energy"], given["first"]) == (-2500.0, -1.5)
    assert given["energies"] == [-1.5, -2500.0]
    assert given["atoms"] == 4000
    assert type(given["atoms"]) is int
    assert given["place"] == "a b"
    assert seen.result.outputs["absent"] == 7
    assert (given["state"], given["exit_code"], given["scheduler"]) == ("completed", 0, "local")
    assert given["log"].endswith("done in a b by \n")
    assert Path(given["log_file"]).read_text() == given["log"]
    assert given["started"] <= given["ended"]
    assert "error" not in given


async def test_a_command_is_run_without_a_shell_in_the_folder_that_the_step_names(
    run_plan, settings
):
    Path("below").mkdir()
    seen = await run_plan(
        plan(
            """
            name: a
            job:
              command:
                - sh
                - -c
                - 'pwd; for each; do echo "<$each>"; done'
                - x
                - "{{ inputs.words }}"
                - $HOME
              folder: below
              scheduler: local
            """,
            top="inputs: {words: [a b, 2, true]}\n",
        )
        + "outputs: {log: '{{ steps.a.outputs.log }}'}"
    )
    assert seen.result.outputs["log"].splitlines() == [
        str(Path("below").resolve()),
        *("<a b>", "<2>", "<true>", "<$HOME>"),
    ]


async def test_a_job_that_fails_says_so_by_its_exit_code_and_with_its_last_line(run_plan, settings):
    seen = await run_plan(
        plan(local("echo all is well\necho but for this >&2\nexit 3", outputs="{f: 'is (well)'}"))
    )
    assert seen.status == "failed"
    assert seen.decided("a") == "exit_code"
    job = seen.of("job_state")[-1]["job"]
    assert re.fullmatch(
        rf"job {job} ended with exit code 3( on \S+)?; last line: but for this", seen.result.error
    )
    (finished,) = seen.of("step_finished")
    assert finished["outputs"]["exit_code"] == 3
    assert finished["outputs"]["error"] == seen.result.error
    assert "f" not in finished["outputs"]


async def test_rules_come_first_and_know_the_figures(run_plan, settings):
    step = local(
        "echo speed=5; exit 3",
        outputs="{speed: 'speed=(.*)'}",
        rules="{success: speed > 4 and exit_code == 3}",
    )
    seen = await run_plan(plan(step) + "outputs: {speed: '{{ steps.a.outputs.speed }}'}")
    assert seen.result.outputs == {"speed": 5}
    assert seen.decided("a") == "rule"
    seen = await run_plan(plan(step.replace("speed=5;", "speed=3;")))
    assert (seen.status, seen.decided("a")) == ("failed", "exit_code")


async def test_a_failed_job_leads_where_its_transition_says_with_the_error(run_plan, settings):
    seen = await run_plan(
        plan(
            local("exit 4", transitions="{failure: b}"),
            "name: b\njob: {command: [echo, '{{ previous.error }}'], scheduler: local}",
        )
        + "outputs: {said: '{{ steps.b.outputs.log }}'}"
    )
    assert seen.path == ["a:failure", "b:success"]
    assert "ended with exit code 4" in seen.result.outputs["said"]


async def test_a_figure_that_the_log_does_not_have_fails_the_step(run_plan, settings):
    seen = await run_plan(plan(local("echo speed: fast", outputs="{speed: 'speed=(.*)'}")))
    assert (seen.status, seen.decided("a")) == ("failed", "schema")
    assert "the job's log has no `speed`: its pattern `speed=(.*)` matches nothing" in (
        seen.result.error
    )
    seen = await run_plan(plan(local("echo speed=fast", outputs="{speed: 'speed=(.*)'}")))
    assert seen.decided("a") == "schema"
    assert "`speed` could not be read from the log: `fast` is not a number" in seen.result.error


async def test_a_pattern_that_takes_for_ever_is_given_up(run_plan, settings):
    script = "printf '%s' " + "a" * 40 + "b"
    seen = await run_plan(plan(local(script, outputs="{x: '((?:a|aa)+$)'}")))
    assert (seen.status, seen.decided("a")) == ("failed", "schema")
    assert "it took more than" in seen.result.error


async def test_a_figure_is_found_anywhere_in_a_long_log(run_plan, settings):
    script = """
        awk 'BEGIN { for (i = 0; i < 300000; i++) { print "step " i " nothing to see here"
             if (i % 100000 == 50000) print "mark=" i } }'
    """
    seen = await run_plan(
        plan(
            local(
                textwrap.dedent(script),
                outputs="""
                {last: 'mark=(.*)', first: {pattern: 'mark=(.*)', take: first},
                 every: {pattern: 'mark=(.*)', take: all},
                 top: 'step (0) nothing', end: 'step (299999) nothing'}""",
            )
        )
        + "outputs: {all: '{{ steps.a.outputs }}'}",
        keep=True,
    )
    given = seen.result.outputs["all"]
    assert Path(given["log_file"]).stat().st_size > 5_000_000
    assert (given["first"], given["last"]) == (50_000, 250_000)
    assert given["every"] == [50_000, 150_000, 250_000]
    assert (given["top"], given["end"]) == (0, 299_999)
    assert len(given["log"]) <= 65_536


# How it ends


async def test_a_job_that_hits_its_own_limit_says_so(run_plan, settings):
    seen = await run_plan(plan(local("echo at work; exec sleep 600", time="1s")))
    assert (seen.status, seen.decided("a")) == ("failed", "exit_code")
    assert re.search(r"job q\d+ hit its time limit of 1 s.*; last line: ", seen.result.error)
    outputs = seen.of("step_finished")[0]["outputs"]
    assert outputs["state"] == "timeout"
    assert outputs["log"].startswith("at work\n")


async def test_a_step_whose_time_is_up_cancels_its_job(run_plan, settings):
    seen = await run_plan(plan(local("echo $$ > pid; exec sleep 600", timeout="2s")))
    assert (seen.status, seen.decided("a")) == ("failed", "error")
    assert re.search(
        r"job q\d+ was not over within the step's timeout of 2s: it was cancelled",
        seen.result.error,
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


async def test_a_job_that_is_cancelled_from_outside_has_failed(run_plan, settings):
    seen = await run_plan(plan(local(f"kill -TERM {MINDER}; sleep 600")))
    assert (seen.status, seen.decided("a")) == ("failed", "exit_code")
    assert "was cancelled" in seen.result.error


VANISH = f"kill -9 {MINDER} $PPID; kill -9 $$"
"""A script that ends who minds it, its wrapper and itself: nothing is left to say what happened."""


async def test_a_job_of_which_nothing_shows_the_end_is_no_success_and_the_run_asks(
    run_plan, settings
):
    seen = await run_plan(plan(local(VANISH)))
    assert seen.status == "waiting"
    assert seen.result.exit_code == 4
    (question,) = seen.result.waiting
    assert question["kind"] == "job_unknown"
    assert "left no exit code" in question["reason"]


@pytest.mark.parametrize(("answer", "status"), [("success", "success"), ("failure", "failed")])
async def test_a_person_says_what_became_of_it(run_plan, settings, answer, status):
    seen = await run_plan(
        plan(local(f"echo speed=3; {VANISH}", outputs="{speed: 'speed=(.*)'}")),
        answers={"a": answer},
    )
    assert seen.status == status
    outputs = seen.of("step_finished")[0]["outputs"]
    assert (outputs["state"], outputs["speed"]) == ("unknown", 3)
    if status == "failed":
        assert "as a person said" in seen.result.error


async def test_submitted_again_it_is_another_job(run_plan, settings):
    script = f"echo >> starts; test $(wc -l < starts) -gt 1 && exit 0\n{VANISH}"
    seen = await run_plan(plan(local(script)), answers={"a": "again"})
    assert seen.status == "success", seen.result.error
    assert len({event["handle"]["key"] for event in seen.of("job_state")}) == 2


RETRY = "{attempts: 3, delay: 10ms, on: failure}"


async def test_a_job_that_a_person_counts_as_failed_is_not_tried_again(run_plan, settings):
    step = local(f"echo >> starts; {VANISH}", retry=RETRY)
    seen = await run_plan(plan(step), answers={"a": "failure"})
    assert seen.status == "failed"
    assert "as a person said" in seen.result.error
    assert Path("starts").read_text() == "\n"


# Policy and secrets


async def test_a_rule_that_names_job_submit_counts_for_job_steps(run_plan, settings):
    denied = replace(settings, policy=PolicySettings(deny=("job_submit",)))
    seen = await run_plan(plan(local("touch ran")), settings=denied)
    assert (seen.status, seen.decided("a")) == ("failed", "error")
    assert "`job_submit` was not called: the settings deny it" in seen.result.error
    assert not Path("ran").exists()


async def test_a_person_agrees_to_a_job_and_may_change_it(run_plan, settings):
    step = local("echo {{ inputs.x }}", approve="ask")
    text = plan(step, top="inputs: {x: 1}\n") + "outputs: {log: '{{ steps.a.outputs.log }}'}"
    seen = await run_plan(text)
    assert seen.status == "waiting"
    (question,) = seen.result.waiting
    assert (question["kind"], question["tool"]) == ("approval", "job_submit")
    assert question["arguments"]["script"] == "echo 1"
    assert not seen.of("job_state")
    assert (await run_plan(text, answers={"a": "no"})).status == "failed"
    edited = {"arguments": {**question["arguments"], "script": "echo 2"}}
    assert (await run_plan(text, answers={"a": edited})).result.outputs == {"log": "2\n"}
    broken = {"arguments": {**question["arguments"], "tasks": "many"}}
    assert (
        "`tasks` must be a whole number"
        in (await run_plan(text, answers={"a": broken})).result.error
    )


async def test_a_secret_never_gets_into_a_job(run_plan, settings):
    inner = Path("inner.yaml")
    inner.write_text(
        plan(local("echo {{ inputs.word }}"), top="inputs: {word: {required: true}}\n")
    )
    outer = Path("outer.yaml")
    outer.write_text(
        plan(
            "name: b\nplan: inner.yaml\ninputs: {word: '{{ inputs.key }}'}",
            top="inputs: {key: {secret: true}}\n",
        )
    )
    seen = await run_plan(outer, secrets={"key": "s3cr3t-canary"})
    assert seen.status == "failed"
    assert "there is a secret in it" in seen.result.error
    kept = [p for p in settings.state_dir.rglob("*") if p.is_file()]
    assert not any(b"s3cr3t-canary" in path.read_bytes() for path in kept)


def test_a_draft_submits_jobs_only_where_the_tool_for_it_is_offered():
    draft = {"steps": [{"name": "a", "job": {"script": "x"}}]}
    with pytest.raises(PlanError, match="a draft can submit a job only where it has the tool"):
        DraftCatalog().read("b", draft)
    DraftCatalog(tools=[ToolInfo(name="job_submit", server="local")]).read("b", draft)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tasks", "many", r"`tasks` must be a whole number of at least 1, not `many`"),
        ("time", "soon", r"`time` must be a duration such as `10m`, not `soon`"),
        ("memory", "some", r"`memory` must be an amount such as `4G`"),
        ("scheduler", "slrum", r"`scheduler` must be one of slurm, pbs"),
        ("queue", [1], r"`queue` must be text"),
        ("queue", "a\nb", r"`queue` must be text on one line"),
    ],
)
async def test_a_template_that_gives_nonsense_fails_the_step_with_its_place(
    run_plan, settings, key, value, words
):
    step = f"name: a\njob: {{script: x, {key}: '{{{{ inputs.x }}}}'}}"
    seen = await run_plan(plan(step, top=f"inputs: {{x: {json.dumps(value)}}}\n"))
    assert seen.status == "failed"
    assert re.search(rf"<string>:5:\d+ .*{words}", seen.result.error), seen.result.error
    assert not seen.of("tool_started")


# Many of them


async def test_a_sweep_is_as_many_jobs_at_once(run_plan, settings):
    seen = await run_plan(
        plan(
            """
            name: sweep
            foreach: range(10)
            job:
              script: |
                echo > here-{{ item }}
                while [ $(ls here-* | wc -l) -lt 10 ]; do sleep 0.1; done
                echo v={{ item * item }}
              scheduler: local
              time: 2m
              outputs: {v: 'v=(.*)'}
            """
        )
        + "outputs: {v: \"{{ steps.sweep.outputs | map(attribute='v') | list }}\"}"
    )
    # No job ends before all of them have started.
    assert seen.status == "success", seen.result.error
    assert seen.result.outputs["v"] == [n * n for n in range(10)]
    jobs = {(event["job"], event["index"]) for event in seen.of("job_state")}
    assert len(jobs) == 10


async def test_max_parallel_bounds_the_jobs(run_plan, settings):
    script = (
        "mkdir slot-1 2>/dev/null && mine=slot-1 || { mkdir slot-2 && mine=slot-2; } || exit 9; "
        "sleep 0.3; rmdir $mine"
    )
    seen = await run_plan(
        plan(
            f"name: sweep\nforeach: range(6)\nmax_parallel: 2\n"
            f"job: {{script: {json.dumps(script)}, scheduler: local}}"
        )
    )
    assert seen.status == "success", seen.result.error


async def test_jobs_of_a_parallel_block_run_at_the_same_time(run_plan, settings):
    one = "echo > {0}; until [ -e {1} ]; do sleep 0.1; done"
    seen = await run_plan(
        plan(
            f"""
            name: both
            parallel:
              - {{name: x, job: {{script: "{one.format("x", "y")}", scheduler: local, time: 2m}}}}
              - {{name: y, job: {{script: "{one.format("y", "x")}", scheduler: local, time: 2m}}}}
            """
        )
    )
    assert seen.status == "success", seen.result.error


async def test_each_visit_of_a_step_is_another_job(run_plan, settings):
    seen = await run_plan(
        plan(
            local(
                "echo >> visits; echo n=$(wc -l < visits)",
                outputs="{n: 'n=(.*)'}",
                rules="{again: n < 3}",
                transitions="{again: a}",
                max_attempts="5",
            )
        )
    )
    assert seen.path == ["a:success"] * 3
    assert len({event["handle"]["key"] for event in seen.of("job_state")}) == 3


async def test_waiting_for_a_job_takes_none_of_the_runs_time(run_plan, settings):
    begun = time.monotonic()
    seen = await run_plan(
        plan(
            "name: many\nforeach: [1, 2, 3]\njob: {script: sleep 2, scheduler: local}",
            local("true"),
            top="limits: {time: 2s}\n",
        )
    )
    assert seen.status == "success", seen.result.error
    assert time.monotonic() - begun >= 2
    assert seen.result.usage["seconds"] < time.monotonic() - begun - 1


async def test_items_that_left_their_jobs_running_keep_their_slots():
    slots = ConcurrencyLimit(2)

    async def leave(kind: str) -> None:
        async with slots:
            await asyncio.sleep(0.01)
            raise GraphInterrupt((Interrupt(value={"kind": kind}),))

    left = await asyncio.gather(*(leave("job") for _ in range(4)), return_exceptions=True)
    assert [type(error) for error in left] == [GraphInterrupt, GraphInterrupt, Full, Full]


async def test_items_that_ask_give_their_slots_back():
    slots = ConcurrencyLimit(1)

    async def ask() -> None:
        async with slots:
            raise GraphInterrupt((Interrupt(value={"kind": "approval"}),))

    left = await asyncio.gather(*(ask() for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in left] == [GraphInterrupt] * 3


async def test_the_graph_says_what_it_lacks_where_it_was_compiled_without_jobs():
    graph = compile_plan(parse_plan(plan(local("true"))), Dependencies(toolbox=FakeToolServer()))
    with pytest.raises(DependencyMissing, match="no batch jobs"):
        await graph.compile().ainvoke(initial_state({}), context=RunContext())


# A scheduler that does not answer


class Faulty:
    """A scheduler that fails at its first calls, and then is this machine.

    Args:
        faults: Raised one after the other; each after the job was submitted, where `late`.
    """

    def __init__(self, environment: dict[str, str], faults: list[Exception], *, late: bool) -> None:
        self._local = Local(environment, Path("queue").absolute())
        self._faults = faults
        self._late = late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    async def submit(self, folder, spec, lock) -> str:
        fault = self._faults.pop(0) if self._faults else None
        if fault is None or self._late:
            found = await self._local.submit(folder, spec, lock)
            if fault is None:
                return found
        raise fault


def faulty_graph(text: str, root: Path, faults: list[Exception], *, late: bool = False):
    environment = {"PATH": os.environ["PATH"]}
    adapters = {"local": Faulty(environment, faults, late=late)}
    deps = Dependencies(
        toolbox=FakeToolServer(),
        jobs=lambda name: Jobs(root, environment, name, adapters=adapters),
    )
    return compile_plan(parse_plan(text), deps).compile(checkpointer=InMemorySaver())


async def invoke(graph, given) -> dict[str, Any]:
    config = {"configurable": {"thread_id": "1"}}
    return await graph.ainvoke(given, config, context=RunContext(), durability="sync")


async def test_retry_is_for_a_scheduler_that_does_not_answer(settings, tmp_path):
    step = local("echo >> starts", retry="{attempts: 3, delay: 10ms}")
    busy = [SchedulerUnavailable("busy"), SchedulerUnavailable("busy")]
    graph = faulty_graph(plan(step), tmp_path / "jobs", busy, late=True)
    after = await invoke(graph, initial_state({}))
    assert after["status"] == "success", after["error"]
    assert Path("starts").read_text() == "\n", "found again by its key, not submitted twice"
    graph = faulty_graph(plan(local("true")), tmp_path / "jobs", [SchedulerUnavailable("busy")])
    after = await invoke(graph, initial_state({}))
    assert (after["status"], after["error"]) == ("failed", "busy")


@pytest.mark.parametrize("array", [False, True])
async def test_a_job_that_may_have_been_submitted_is_not_submitted_twice(settings, tmp_path, array):
    keys = {"array": "1-2"} if array else {}
    step = local("echo >> starts", retry=RETRY, **keys)
    busy = [SchedulerUnavailable("busy"), SchedulerUnavailable("busy")]
    graph = faulty_graph(plan(step), tmp_path / "jobs", busy, late=True)
    after = await invoke(graph, initial_state({}))
    assert after["status"] == "success", after["error"]
    assert Path("starts").read_text() == ("\n\n" if array else "\n"), "found again by its key"


@pytest.mark.parametrize("array", [False, True])
async def test_a_job_that_cannot_be_waited_for_is_not_submitted_again(settings, tmp_path, array):
    def jobs(name: str | None) -> Jobs:
        return Lost(tmp_path / "jobs", {"PATH": os.environ["PATH"]}, name)

    deps = Dependencies(toolbox=FakeToolServer(), jobs=jobs)
    step = local("sleep 1", retry=RETRY, **({"array": "1-2"} if array else {}))
    graph = compile_plan(parse_plan(plan(step)), deps).compile(checkpointer=InMemorySaver())
    after = await invoke(graph, initial_state({}))
    assert after["status"] == "failed"
    assert "its directory cannot be read" in after["error"]
    assert len(list((tmp_path / "jobs").glob("fr*"))) == 1


class Lost(Jobs):
    """Jobs that can be submitted, and are then out of sight."""

    async def wait(self, *words: Any, **names: Any) -> Any:
        raise JobError("its directory cannot be read")


async def test_a_job_that_the_scheduler_refuses_fails_the_step(settings, tmp_path):
    step = local("true", retry="{attempts: 3, delay: 10ms}")
    faults: list[Exception] = [JobError("no such queue", hint="ask for another")]
    after = await invoke(faulty_graph(plan(step), tmp_path / "jobs", faults), initial_state({}))
    assert after["error"] == "no such queue (ask for another)"


@pytest.mark.parametrize(
    ("answer", "starts", "status"),
    [("wait", 1, "success"), ("again", 2, "success"), ("failure", 1, "failed")],
)
async def test_a_submission_in_doubt_is_asked_about(settings, tmp_path, answer, starts, status):
    doubt: list[Exception] = [JobInDoubt("it may have been submitted", hint="look for it")]
    graph = faulty_graph(plan(local("echo >> starts")), tmp_path / "jobs", doubt, late=True)
    after = await invoke(graph, initial_state({}))
    (asked,) = after["__interrupt__"]
    assert asked.value["kind"] == "job_unknown"
    assert asked.value["reason"] == "it may have been submitted (look for it)"
    after = await invoke(graph, Command(resume=answer))
    assert after["status"] == status
    deadline = time.monotonic() + 60
    path = Path("starts")
    while not path.exists() or path.read_text() != "\n" * starts:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# People


class Agreeing:
    """Agrees to every call, and lets the jobs that wait for it end."""

    async def answer(self, question: dict[str, Any]) -> Any:
        Path("go").touch()
        return True


async def test_a_person_is_asked_while_a_job_beside_goes_on(run_plan, settings):
    seen = await run_plan(
        plan(
            """
            name: both
            parallel:
              - name: slow
                job: {script: "until [ -e go ]; do sleep 0.05; done", scheduler: local, time: 2m}
              - name: asks
                approve: always
                job: {script: "true", scheduler: local}
            """
        ),
        person=Agreeing(),
    )
    assert seen.status == "success", seen.result.error
    assert len({event["job"] for event in seen.of("job_state")}) == 2


@pytest.mark.parametrize(
    ("raw", "answer"),
    [("wait", "wait"), ("Success", "success"), ("failed", "failure"), ("again", "again")],
)
def test_what_people_write_about_a_job_that_nobody_knows_of(raw, answer):
    question = questions.job_unknown("a", "7", "slurm", "it is gone", "/jobs/7")
    assert questions.read_answer(question, raw) == answer
    assert questions.default_answer(question) is questions.MISSING
    with pytest.raises(AnswerError, match="not a valid answer"):
        questions.read_answer(question, "perhaps")
