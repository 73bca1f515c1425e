"""Chains: steps that run one after the other as one step, alone, per item, or in a block."""

from __future__ import annotations

import asyncio
import os
import textwrap
from dataclasses import replace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import fractale
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies
from fractale.plan.build import parse_plan
from fractale.questions import MISSING
from fractale.settings import PolicySettings, SourcesSettings
from fractale.testing import FakeToolServer, Reply, ScriptedModel


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def say(text: str) -> dict:
        return {"text": text}

    @server.tool
    def fail(text: str) -> dict:
        return {"returncode": 1, "error": f"no {text}"}

    @server.tool
    def check(n: int) -> dict:
        return {"n": n, "returncode": 1 if n == 13 else 0}

    @server.tool(read_only=True)
    def read(text: str) -> dict:
        return {"text": text}

    return server


class Person:
    """Notes what is asked, and gives one answer to all of it."""

    def __init__(self, says: Any = MISSING) -> None:
        self.says = says
        self.asked: list[dict[str, Any]] = []

    async def answer(self, question):
        self.asked.append(dict(question))
        return self.says


async def test_a_group_runs_its_steps_and_gives_the_outputs_of_the_last(run_plan, tools):
    seen = await run_plan(
        """
        name: group
        inputs: {who: Ann}
        steps:
          - {name: before, tool: say, inputs: {text: "to {{ inputs.who }}"}}
          - name: group
            steps:
              - name: first
                tool: say
                inputs: {text: "{{ steps.before.outputs.text }}, after {{ previous.name }}"}
              - {name: second, tool: say, inputs: {text: "{{ steps.first.outputs.text }}!"}}
        outputs: {text: "{{ steps.group.outputs.text }}"}
        """,
        tools=tools,
    )
    assert seen.result.outputs == {"text": "to Ann, after before!"}
    assert seen.path == [
        "before:success",
        "group/first:success",
        "group/second:success",
        "group:success",
    ]


async def test_each_item_has_its_own_chain_which_sees_the_outer_values(run_plan, tools):
    seen = await run_plan(
        """
        name: each
        inputs: {names: [a, b, c]}
        steps:
          - {name: look, tool: say, inputs: {text: seen}}
          - name: samples
            foreach: inputs.names
            steps:
              - name: map
                tool: say
                inputs: {text: "{{ steps.look.outputs.text }} {{ item }}{{ index }}"}
              - {name: sort, tool: say, inputs: {text: "{{ steps.map.outputs.text }} sorted"}}
        outputs: {all: "{{ steps.samples.outputs | map(attribute='text') | list }}"}
        """,
        tools=tools,
    )
    assert seen.result.outputs == {"all": ["seen a0 sorted", "seen b1 sorted", "seen c2 sorted"]}
    assert sorted(p for p in seen.path if "[1]" in p) == [
        "samples[1]/map:success",
        "samples[1]/sort:success",
    ]


async def test_own_events_end_a_chain_early_and_loops_repeat_within_it(run_plan, tools):
    seen = await run_plan(
        """
        name: ways
        steps:
          - name: each
            foreach: [1, 2, 3]
            steps:
              - name: try
                tool: check
                inputs: {n: "{{ item * attempts }}"}
                rules: {again: n < 3, enough: item == 2}
                transitions: {again: try, enough: success}
              - {name: end, tool: check, inputs: {n: "{{ steps.try.outputs.n * 10 }}"}}
        outputs: {all: "{{ steps.each.outputs | map(attribute='n') | list }}"}
        """,
        tools=tools,
    )
    assert seen.result.outputs == {"all": [30, 4, 30]}
    assert seen.path.count("each[0]/try:success") == 3


@pytest.mark.parametrize(("keep_going", "status"), [("false", "failed"), ("true", "success")])
async def test_a_step_that_fails_in_an_item_fails_the_item(run_plan, tools, keep_going, status):
    seen = await run_plan(
        f"""
        name: each
        steps:
          - name: each
            foreach: [1, 13, 2]
            keep_going: {keep_going}
            steps:
              - {{name: check, tool: check, inputs: {{n: "{{{{ item }}}}"}}}}
              - {{name: after, tool: check, inputs: {{n: "{{{{ item + 1 }}}}"}}}}
        """,
        tools=tools,
    )
    assert seen.status == status
    assert "each[1]/after:success" not in seen.path
    assert "each[2]/after:success" in seen.path
    if status == "failed":
        assert "1 of 3 items failed; item 2: " in seen.result.error


async def test_a_transition_to_failed_fails_the_chain(run_plan, tools):
    seen = await run_plan(
        """
        name: end
        steps:
          - name: group
            steps:
              - name: a
                tool: say
                inputs: {text: x}
                rules: {stop: "true"}
                transitions: {stop: failed}
              - {name: b, tool: say, inputs: {text: y}, transitions: {failure: a}}
            transitions: {failure: rescue}
          - {name: rescue, tool: say, inputs: {text: "{{ previous.name }}"}}
        outputs: {text: "{{ steps.rescue.outputs.text }}"}
        """,
        tools=tools,
    )
    assert (seen.status, seen.outputs) == ("success", {"text": "group"})
    assert seen.path == ["group/a:success", "group:failure", "rescue:success"]


async def test_a_chain_in_a_chain_in_a_block(run_plan, tools):
    seen = await run_plan(
        """
        name: deep
        steps:
          - {name: before, tool: say, inputs: {text: x}}
          - name: both
            parallel:
              - name: left
                foreach: [1, 2]
                steps:
                  - name: inner
                    foreach: "[item, item * 10]"
                    steps:
                      - {name: a, tool: check, inputs: {n: "{{ item }}"}}
                      - {name: b, tool: check, inputs: {n: "{{ steps.a.outputs.n + 1 }}"}}
                  - name: sum
                    parallel:
                      - name: total
                        tool: check
                        inputs:
                          n: "{{ steps.inner.outputs | map(attribute='n') | sum + item }}"
              - name: right
                steps:
                  - {name: c, tool: say, inputs: {text: "{{ steps.before.outputs.text }}y"}}
        outputs:
          left: "{{ steps.both.outputs.left | map(attribute='total.n') | list }}"
          right: "{{ steps.both.outputs.right.text }}"
        """,
        tools=tools,
    )
    assert seen.result.outputs == {"left": [2 + 11 + 1, 3 + 21 + 2], "right": "xy"}
    assert "both/left[1]/inner[0]/a:success" in seen.path


async def test_an_included_plan_in_a_chain_has_its_own_names(run_plan, tools, tmp_path):
    (tmp_path / "inner.yaml").write_text(
        textwrap.dedent(
            """
            name: inner
            inputs: {text: none}
            steps:
              - {name: say, tool: say, inputs: {text: "{{ inputs.text }} -"}}
              - name: part
                foreach: [1]
                steps:
                  - {name: x, tool: say, inputs: {text: "{{ steps.say.outputs.text }}{{ item }}"}}
            outputs: {all: "{{ steps.part.outputs[0].text }}"}
            """
        )
    )
    (tmp_path / "outer.yaml").write_text(
        textwrap.dedent(
            """
            name: outer
            inputs: {text: outer}
            steps:
              - {name: x, tool: say, inputs: {text: x}}
              - name: each
                foreach: [a]
                steps: [{name: run, plan: inner.yaml, inputs: {text: "{{ item }}"}}]
            outputs: {all: "{{ steps.each.outputs[0].all }}"}
            """
        )
    )
    seen = await run_plan(tmp_path / "outer.yaml", tools=tools)
    assert seen.result.outputs == {"all": "a -1"}


async def test_at_most_so_many_chains_run_at_a_time(run_plan):
    server = FakeToolServer()
    running = {"now": 0, "most": 0}

    @server.tool
    async def work(n: int) -> dict:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        await asyncio.sleep(0.01)
        running["now"] -= 1
        return {"n": n}

    seen = await run_plan(
        """
        name: bounded
        steps:
          - name: each
            foreach: "range(8) | list"
            max_parallel: 3
            steps:
              - {name: a, tool: work, inputs: {n: "{{ item }}"}}
              - {name: b, tool: work, inputs: {n: "{{ item }}"}}
        """,
        tools=server,
    )
    assert seen.status == "success"
    assert running["most"] == 3


async def test_a_chain_of_many_steps_is_compiled_in_segments(run_plan, tools):
    more = "\n".join(
        f"      - {{name: s{n}, tool: check, "
        f'inputs: {{n: "{{{{ steps.s{n - 1}.outputs.n + steps.first.outputs.n + item }}}}"}}}}'
        for n in range(1, 41)
    )
    text = f"""\
name: long
steps:
  - {{name: first, tool: check, inputs: {{n: 2}}}}
  - name: each
    foreach: [0, 1]
    steps:
      - {{name: s0, tool: check, inputs: {{n: 0}}}}
{more}
outputs: {{all: "{{{{ steps.each.outputs | map(attribute='n') | list }}}}"}}
"""
    seen = await run_plan(text, tools=tools)
    assert (seen.result.error, seen.result.outputs) == (None, {"all": [80, 120]})


async def test_each_item_asks_its_own_question(run_plan, tools):
    person = Person("yes")
    seen = await run_plan(
        """
        name: asks
        steps:
          - name: each
            foreach: [a, b]
            steps:
              - {name: first, tool: say, inputs: {text: "{{ item }}"}}
              - {name: go, tool: say, approve: always, inputs: {text: "go {{ item }}"}}
        outputs: {all: "{{ steps.each.outputs | map(attribute='text') | list }}"}
        """,
        tools=tools,
        person=person,
    )
    assert seen.result.outputs == {"all": ["go a", "go b"]}
    assert sorted(q["step"] for q in person.asked) == ["each[0]/go", "each[1]/go"]
    assert [call.arguments["text"] for call in tools.calls].count("a") == 1


class TestSources:
    """What flows into a chain keeps its sources and stays secret."""

    async def test_sources_of_values_around_a_chain_reach_it_and_leave_it(
        self, settings, run_plan, tools
    ):
        policy = PolicySettings(sources=SourcesSettings(untrusted=("read",)))
        person = Person("yes")
        seen = await run_plan(
            """
            name: flows
            steps:
              - {name: look, tool: read, inputs: {text: hello}}
              - name: each
                foreach: "[steps.look.outputs.text]"
                steps:
                  - {name: a, tool: read, inputs: {text: fixed}}
                  - {name: b, tool: say, inputs: {text: "{{ item }}"}}
            """,
            tools=tools,
            settings=replace(settings, policy=policy),
            person=person,
        )
        assert seen.status == "success"
        (asked,) = [q for q in person.asked if q["step"] == "each[0]/b"]
        assert "read" in str(asked)

    async def test_a_secret_reaches_the_tool_and_nothing_else(self, run_plan, tools):
        seen = await run_plan(
            """
            name: secret
            inputs: {token: {secret: true}}
            steps:
              - name: each
                foreach: [1]
                steps:
                  - {name: a, tool: say, inputs: {text: "my {{ inputs.token }}"}}
                  - {name: b, tool: say, inputs: {text: "{{ steps.a.outputs.text }}"}}
            outputs: {text: "{{ steps.each.outputs[0].text }}"}
            """,
            secrets={"token": "hush-hush-hush"},
            tools=tools,
        )
        assert tools.calls[0].arguments == {"text": "my hush-hush-hush"}
        assert "hush-hush" not in str(seen.events) + str(seen.result)
        assert seen.result.outputs == {"text": "my ***"}


async def test_a_planned_step_in_a_chain_is_drafted_per_item(run_plan, tools):
    draft = {"steps": [{"name": "do", "tool": "say", "inputs": {"text": "{{ inputs.n }}!"}}]}
    model = ScriptedModel([Reply(data=draft), Reply(data=draft)])
    seen = await run_plan(
        """
        name: drafts
        steps:
          - name: each
            foreach: [a, b]
            max_parallel: 1
            steps:
              - name: made
                type: plan
                instruction: Do it.
                tools: [say]
                inputs: {n: "{{ item }}", known: all}
              - {name: after, tool: say, inputs: {text: "{{ steps.made.outputs.text }}?"}}
        outputs: {all: "{{ steps.each.outputs | map(attribute='text') | list }}"}
        """,
        tools=tools,
        model=model,
        yes=True,
    )
    assert seen.result.outputs == {"all": ["a!?", "b!?"]}


async def test_jobs_in_items_are_submitted_one_by_one(settings, run_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = replace(settings, environment={"PATH": os.environ["PATH"]}, local_cores=9)
    seen = await run_plan(
        """
        name: jobs
        steps:
          - name: each
            foreach: [3, 4]
            steps:
              - name: make
                job:
                  scheduler: local
                  command: [sh, -c, "echo v={{ item }}"]
                  outputs: {v: 'v=(.*)'}
              - name: use
                job:
                  scheduler: local
                  command: [sh, -c, "echo w=$V"]
                  env: {V: "{{ steps.make.outputs.v * 2 }}"}
                  outputs: {w: 'w=(.*)'}
        outputs: {all: "{{ steps.each.outputs | map(attribute='w') | list }}"}
        """,
        settings=settings,
        tools=FakeToolServer(),
    )
    assert (seen.result.error, seen.outputs) == (None, {"all": [6, 8]})


class TestZip:
    PLAN = """
        name: zip
        inputs: {greetings: [hello, hi], names: [Ann, Bob]}
        steps:
          - name: say
            foreach: {zip: {greeting: inputs.greetings, name: inputs.names}}
            tool: say
            inputs: {text: "{{ item.greeting }} {{ item.name }} {{ index }}"}
        outputs: {all: "{{ steps.say.outputs | map(attribute='text') | list }}"}
        """

    async def test_lists_are_gone_through_together(self, run_plan, tools):
        seen = await run_plan(self.PLAN, tools=tools)
        assert seen.result.outputs == {"all": ["hello Ann 0", "hi Bob 1"]}

    async def test_lists_of_different_lengths_fail_the_step(self, run_plan, tools):
        seen = await run_plan(self.PLAN, {"names": ["Ann"]}, tools=tools)
        assert seen.path == ["say:failure"]
        assert tools.calls == []
        assert (
            "the lists of `zip` must have the same length: `greeting` 2, `name` 1"
            in seen.result.error
        )


class TestWhenOfItems:
    async def test_items_for_which_it_is_false_are_left_out(self, run_plan, tools):
        seen = await run_plan(
            """
            name: some
            steps:
              - name: some
                foreach: [5, 6, 7, 8]
                when: item != 6 and index < 3
                tool: check
                inputs: {n: "{{ item * 10 + index }}"}
            outputs: {all: "{{ steps.some.outputs | map(attribute='n') | list }}"}
            """,
            tools=tools,
        )
        assert seen.result.outputs == {"all": [50, 71]}
        (step,) = seen.of("step_finished")
        assert step["reason"] == "2 of 4 items left out by `when`"

    async def test_no_item_is_a_success_of_nothing(self, run_plan, tools):
        seen = await run_plan(
            """
            name: none
            steps:
              - name: none
                foreach: [5, 6]
                when: item > 7
                steps: [{name: check, tool: check, inputs: {n: "{{ item }}"}}]
            outputs: {all: "{{ steps.none.outputs }}"}
            """,
            tools=tools,
        )
        assert (seen.path, seen.outputs) == (["none:success"], {"all": []})

    async def test_a_when_without_the_item_is_that_of_the_step(self, run_plan, tools):
        seen = await run_plan(
            """
            name: skipped
            inputs: {go: false}
            steps:
              - {name: s, foreach: [5], when: inputs.go, tool: check, inputs: {n: "{{ item }}"}}
            """,
            tools=tools,
        )
        assert seen.path == ["s:skipped"]

    async def test_in_a_chain_it_reads_the_outer_item_unless_the_step_has_its_own(
        self, run_plan, tools
    ):
        seen = await run_plan(
            """
            name: nested
            steps:
              - name: each
                foreach: [1, 2]
                steps:
                  - {name: some, when: item == 2, tool: check, inputs: {n: "{{ item }}"}}
                  - name: own
                    foreach: [1, 2, 3]
                    when: item != 2
                    tool: check
                    inputs: {n: "{{ item }}"}
            """,
            tools=tools,
        )
        assert "each[0]/some:skipped" in seen.path
        assert "each[1]/some:success" in seen.path
        assert [call.arguments["n"] for call in tools.calls].count(3) == 2

    async def test_jobs_of_the_chosen_items_only_are_submitted(
        self, settings, run_plan, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        seen = await run_plan(
            """
            name: jobs
            steps:
              - name: each
                foreach: [3, 4, 5]
                when: item != 4
                job:
                  scheduler: local
                  command: [sh, -c, "echo v={{ item }}{{ index }}"]
                  outputs: {v: 'v=(.*)'}
            outputs: {all: "{{ steps.each.outputs | map(attribute='v') | list }}"}
            """,
            settings=replace(settings, environment={"PATH": os.environ["PATH"]}, local_cores=9),
            tools=FakeToolServer(),
        )
        assert (seen.result.error, seen.outputs) == (None, {"all": [30, 51]})

    async def test_a_name_that_is_not_defined_is_told_once(self, run_plan, tools):
        seen = await run_plan(
            """
            name: undefined
            steps:
              - name: s
                foreach: [{a: 1}, {b: 2}, {b: 3}]
                when: item.a == 1
                tool: check
                inputs: {n: 1}
            """,
            tools=tools,
        )
        assert len(tools.calls) == 1
        assert len([w for w in seen.of("warning") if w["code"] == "undefined"]) == 1


def test_the_plan_of_a_chain_has_the_limits_of_the_plan():
    plan = parse_plan(
        "name: p\nlimits: {attempts: 4}\nsteps:\n  - {name: g, steps: [{name: a, tool: t}]}\n"
    )
    assert plan.steps[0].chain is not None
    assert plan.steps[0].chain.limits.attempts == 4


async def test_an_application_answers_the_questions_of_items(tools):
    plan = fractale.load(
        """\
name: asks
steps:
  - name: each
    foreach: [a, b]
    steps:
      - {name: first, tool: say, inputs: {text: "{{ item }}"}}
      - {name: go, tool: say, approve: always, inputs: {text: "go {{ steps.first.outputs.text }}"}}
outputs: {all: "{{ steps.each.outputs | map(attribute='text') | list }}"}
"""
    )
    graph = compile_plan(plan, Dependencies(toolbox=tools)).compile(InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    asked = (await graph.ainvoke({}, config))["__interrupt__"]
    assert sorted(each.value["step"] for each in asked) == ["each[0]/go", "each[1]/go"]
    after = await graph.ainvoke(Command(resume={each.id: "yes" for each in asked}), config)
    assert after["outputs"] == {"all": ["go a", "go b"]}
    assert len(tools.calls) == 4
