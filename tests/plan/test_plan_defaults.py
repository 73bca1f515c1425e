"""`defaults`: keys that the steps of a kind have unless they set them."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.errors import PlanError, Problem
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.plan.model import Plan, Step, Template
from fractale.record.plans import plan_hash
from fractale.testing import FakeToolServer


def plan_of(defaults: str, *steps: str) -> Plan:
    body = "\n".join(f"  - {{name: s{n}, {step}}}" for n, step in enumerate(steps))
    return parse_plan(f"name: p\ndefaults:\n  {defaults}\nsteps:\n{body}\n", "plan.yaml")


def steps_of(defaults: str, *steps: str) -> tuple[Step, ...]:
    return plan_of(defaults, *steps).steps


def problems(defaults: str, *steps: str) -> list[Problem]:
    try:
        return check_plan(plan_of(defaults, *steps))
    except PlanError as error:
        return error.problems


class TestWhatAStepGets:
    def test_keys_that_it_lacks(self):
        one, two, three = steps_of(
            "agent: {model: 'a:b', max_attempts: 3}",
            "instruction: x",
            "instruction: x, model: 'c:d'",
            "tool: t",
        )
        assert (one.model, one.max_attempts) == ("a:b", 3)
        assert (two.model, two.max_attempts) == ("c:d", 3)
        assert (three.model, three.max_attempts) == (None, None)

    def test_an_empty_key_has_no_default(self):
        (one,) = steps_of("agent: {model: 'a:b'}", "instruction: x, model: ")
        assert one.model is None

    @pytest.mark.parametrize(
        ("given", "tools"),
        [("", ()), (", tools: [read_*]", ("read_*",)), (", allow_tools: true", None)],
    )
    def test_tools_and_allow_tools_are_one(self, given, tools):
        (one,) = steps_of("agent: {allow_tools: false}", f"instruction: x{given}")
        assert one.tools == tools

    def test_keys_of_a_job_however_it_is_written(self):
        defaults = "job: {queue: batch, account: mine, timeout: 1h, env: {A: 1, B: '{{ run.id }}'}}"
        one, two = steps_of(
            defaults,
            "job: {command: [x], account: other, env: {A: 2}}",
            "type: job, command: [x]",
        )
        assert one.job is not None
        assert two.job is not None
        assert (one.job.queue, one.job.account, one.timeout) == ("batch", "other", 3600)
        assert one.job.env["A"] == "2"
        assert isinstance(one.job.env["B"], Template)
        assert (two.job.queue, two.job.account, two.timeout) == ("batch", "mine", 3600)
        assert two.job.env["A"] == "1"

    def test_steps_inside_steps_have_them_too(self):
        block, chain = steps_of(
            "tool: {max_attempts: 2}",
            "parallel: [{name: a, tool: t}]",
            "steps: [{name: b, tool: t}]",
        )
        assert block.steps[0].max_attempts == 2
        assert chain.chain is not None
        assert chain.chain.steps[0].max_attempts == 2
        assert block.max_attempts is None

    def test_keys_that_do_not_fit_a_step_are_not_for_it(self, tmp_path):
        (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: a, tool: t}]\n")
        (tmp_path / "outer.yaml").write_text(
            "name: o\ndefaults: {plan: {allow_tools: false, keep_going: true, max_attempts: 2}}\n"
            "steps:\n  - {name: in, plan: inner.yaml}\n"
            "  - {name: made, type: plan, instruction: x}\n"
        )
        included, drafted = load_plan(tmp_path / "outer.yaml").steps
        assert (included.tools, included.max_attempts) == (None, 2)
        assert (drafted.tools, drafted.keep_going) == ((), False)

    def test_what_a_confined_job_may_do_needs_confine(self):
        open_, closed = steps_of(
            "job: {network: true, confine: true}",
            "job: {command: [x], confine: false}",
            "job: {command: [x]}",
        )
        assert open_.job is not None
        assert closed.job is not None
        assert (bool(open_.job.network), closed.job.network) == (False, True)

    def test_included_plans_have_their_own(self, tmp_path):
        (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: a, tool: t}]\n")
        (tmp_path / "outer.yaml").write_text(
            "name: o\ndefaults: {tool: {max_attempts: 2}}\nsteps: [{name: in, plan: inner.yaml}]\n"
        )
        (included,) = load_plan(tmp_path / "outer.yaml").steps
        assert included.plan is not None
        assert included.plan.steps[0].max_attempts is None


def test_a_plan_with_defaults_is_the_plan_written_out():
    short = plan_of("agent: {model: 'a:b'}", "instruction: x", "instruction: y")
    text = """\
        name: p
        steps:
          - {name: s0, instruction: x, model: 'a:b'}
          - {name: s1, instruction: y, model: 'a:b'}
        """
    long = parse_plan(textwrap.dedent(text))
    assert short == long
    assert plan_hash(short) == plan_hash(long)
    assert dump_plan(short) == dump_plan(long)


class TestFaults:
    def one(self, defaults: str, *steps: str) -> Problem:
        (found,) = problems(defaults, *(steps or ("tool: t", "tool: t")))
        assert found.position is not None
        assert found.position.line == 3  # in the block of the defaults
        return found

    def test_a_kind_that_is_none(self):
        found = self.one("tol: {timeout: 1m}")
        assert (found.path, found.suggestion) == ("defaults.tol", "tool")

    def test_a_key_that_the_kind_does_not_have(self):
        found = self.one("tool: {modle: x}")
        assert found.path == "defaults.tool.modle"
        assert self.one("tool: {queue: x}").path == "defaults.tool.queue"

    @pytest.mark.parametrize("key", ["name: x", "tool: x", "instruction: x", "foreach: [1]"])
    def test_a_key_that_says_what_one_step_does(self, key):
        found = self.one(f"tool: {{{key}}}")
        assert "it says what one step does, so write it there" in found.message

    def test_a_word_of_a_scheduler_is_answered_with_the_key(self):
        assert "write `time`" in self.one("job: {walltime: 1h}").message
        assert problems("job: {timeout: 1h}", "tool: t") == []

    def test_a_value_that_does_not_fit_is_told_once_and_not_used(self):
        found = self.one("tool: {timeout: soon}")
        assert (found.code, found.path) == ("wrong-type", "defaults.tool.timeout")

    def test_a_name_that_is_not_defined_is_told_once_at_the_default(self):
        found = self.one(
            "job: {env: {A: '{{ inputs.no }}'}}",
            "job: {command: [x]}",
            "steps: [{name: a, job: {command: [x]}}]",
        )
        assert found.code == "undefined"

    def test_something_that_is_no_mapping(self):
        with pytest.raises(PlanError) as caught:
            parse_plan("name: p\ndefaults: [1]\nsteps: [{name: a, tool: t}]\n")
        assert caught.value.problems[0].path == "defaults"


def files(folder: Path) -> list[Path]:
    return list(folder.glob("state/runs/*/plan.yaml"))


async def test_the_record_of_a_run_has_the_steps_written_out(settings, run_plan, tmp_path):
    server = FakeToolServer()

    @server.tool
    def say(text: str) -> dict:
        return {"text": text}

    seen = await run_plan(
        """
        name: p
        defaults: {tool: {inputs: {text: hello}, max_attempts: 2}}
        steps:
          - {name: a, tool: say}
          - {name: b, tool: say, inputs: {text: own}}
        """,
        tools=server,
        settings=replace(settings, state_dir=tmp_path / "state"),
        keep=True,
    )
    assert [call.arguments["text"] for call in server.calls] == ["hello", "own"]
    (kept,) = [path.read_text() for path in files(tmp_path)]
    assert "defaults" not in kept
    assert kept.count("max_attempts: 2") == 2
    assert seen.status == "success"
