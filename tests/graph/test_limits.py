"""Limits stop a run so that it can be resumed; a run that stopped goes on where it was."""

from __future__ import annotations

import asyncio
import textwrap

import pytest
from langgraph.runtime import RunControl

import fractale
from fractale.plan.model import Limits
from fractale.questions import Answers
from fractale.runs import RunOptions, Runs
from fractale.store.index import list_runs
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()
    server.answer("ok", {"x": 1})
    server.answer("bad", {"returncode": 1})
    return server


@pytest.fixture
def write(tmp_path):
    def write_plan(text: str):
        path = tmp_path / "plan.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write_plan


LOOP = """
name: loop
limits: {steps: 5}
steps:
  - {name: a, tool: bad, transitions: {failure: a}}
"""


async def test_the_steps_limit_stops_the_run_resumable(run_plan, tools):
    seen = await run_plan(LOOP, tools=tools)
    assert seen.status == "limit"
    assert seen.result.exit_code == 5
    assert len(tools.calls) == 5


async def test_a_raised_limit_goes_on_from_there(run_plan, tools, settings, write):
    seen = await run_plan(write(LOOP), tools=tools, keep=True)
    assert seen.status == "limit"
    runs = Runs(settings, tools)
    result = await runs.resume(seen.result.run, RunOptions(limits=Limits(steps=8)))
    assert result.status == "limit"
    assert len(tools.calls) == 8
    assert [s["attempt"] for s in result.steps] == list(range(1, 9))


async def test_the_token_limit_overshoots_by_one_call_at_most(run_plan):
    model = ScriptedModel([Reply(text="x", input_tokens=30, output_tokens=30)] * 9)
    seen = await run_plan(
        """
        name: tokens
        limits: {tokens: 100}
        steps:
          - {name: a, instruction: go, allow_tools: false, rules: {failure: ["true"]},
             transitions: {failure: a}}
        """,
        tools=FakeToolServer(),
        model=model,
    )
    assert seen.status == "limit"
    assert seen.result.usage["total_tokens"] == 120
    assert "tokens" in seen.result.error


async def test_the_time_limit_is_checked_before_each_call(run_plan):
    server = FakeToolServer()

    @server.tool
    async def slow() -> dict:
        await asyncio.sleep(0.6)
        return {"returncode": 1}

    seen = await run_plan(
        """
        name: time
        limits: {time: 0.5}
        steps: [{name: a, tool: slow, transitions: {failure: a}}]
        """,
        tools=server,
    )
    assert seen.status == "limit"
    assert len(server.calls) == 1


async def test_a_cost_limit_without_a_known_price_is_refused_before_anything_runs(run_plan):
    with pytest.raises(fractale.FractaleError, match="price"):
        await run_plan(
            """
            name: cost
            limits: {cost: 1}
            steps: [{name: a, instruction: go, allow_tools: false}]
            """,
            tools=FakeToolServer(),
            model=ScriptedModel(["x"]),
        )


async def test_an_approval_waits_and_is_answered_in_another_process(
    run_plan, tools, settings, write
):
    plan = write(
        """
        name: approve
        steps:
          - {name: before, tool: ok}
          - {name: submit, tool: ok, approve: always, inputs: {nodes: 2}}
          - {name: after, tool: ok}
        """
    )
    seen = await run_plan(plan, tools=tools, keep=True)
    assert seen.status == "waiting"
    assert seen.result.exit_code == 4
    question = seen.result.waiting[0]
    assert (question["tool"], question["arguments"]) == ("ok", {"nodes": 2})
    assert len(tools.calls) == 1
    result = await Runs(settings, tools).resume(
        seen.result.run, RunOptions(replies=Answers({"submit": "yes"}))
    )
    assert result.status == "success"
    assert [s["name"] for s in result.steps] == ["before", "submit", "after"]
    assert len(tools.calls) == 3


async def test_a_refused_approval_fails_the_step_and_calls_nothing(
    run_plan, tools, settings, write
):
    plan = write("name: p\nsteps: [{name: submit, tool: ok, approve: always}]\n")
    seen = await run_plan(plan, tools=tools, keep=True)
    result = await Runs(settings, tools).resume(
        seen.result.run, RunOptions(replies=Answers({"submit": "no"}))
    )
    assert result.status == "failed"
    assert "refused" in (result.error or "")
    assert tools.calls == []


async def test_a_waiting_run_that_gets_no_answer_still_waits(run_plan, tools, settings, write):
    plan = write("name: p\nsteps: [{name: submit, tool: ok, approve: always}]\n")
    seen = await run_plan(plan, tools=tools, keep=True)
    result = await Runs(settings, tools).resume(seen.result.run)
    assert result.status == "waiting"
    assert tools.calls == []


async def test_a_request_to_stop_ends_at_a_steps_boundary(run_plan, settings, write):
    control = RunControl()
    server = FakeToolServer()

    @server.tool
    def work(n: int) -> dict:
        if n == 1:
            control.request_drain("SIGTERM")
        return {"n": n}

    plan = fractale.load(
        write(
            """
            name: drain
            steps:
              - {name: a, tool: work, inputs: {n: 0}}
              - {name: b, tool: work, inputs: {n: 1}}
              - {name: c, tool: work, inputs: {n: 2}}
            """
        )
    )
    runs = Runs(settings, server)
    result = await runs.start(plan, {}, RunOptions(control=control))
    assert (result.status, result.exit_code) == ("stopped", 75)
    assert [s["name"] for s in result.steps] == ["a", "b"]
    after = await runs.resume(result.run)
    assert after.status == "success"
    assert [arguments["n"] for _, arguments in server.calls] == [0, 1, 2]


async def test_a_plan_that_changed_is_not_resumed(run_plan, tools, settings, write):
    path = write("name: p\nsteps: [{name: s, tool: ok, approve: always}]\n")
    seen = await run_plan(path, tools=tools, keep=True)
    write("name: p\nsteps: [{name: s, tool: bad, approve: always}]\n")
    with pytest.raises(fractale.FractaleError, match="has changed since"):
        await Runs(settings, tools).resume(seen.result.run)


class Answering:
    """A person who gives these answers, one after the other."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[dict] = []

    async def answer(self, question):
        self.asked.append(dict(question))
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("answers", "status", "path"),
    [
        (["quit"], "failed", ["a:failure"]),
        (["retry", "quit"], "failed", ["a:failure", "a:failure"]),
        (["skip"], "success", ["a:failure", "b:success"]),
        (["retry", "skip"], "success", ["a:failure", "a:failure", "b:success"]),
    ],
)
async def test_with_a_person_a_failure_asks_retry_skip_or_quit(
    run_plan, tools, answers, status, path
):
    person = Answering(*answers)
    seen = await run_plan(
        "name: p\nsteps: [{name: a, tool: bad}, {name: b, tool: ok}]\n", tools=tools, person=person
    )
    assert (seen.status, seen.path) == (status, path)
    assert person.asked[0]["kind"] == "failure"
    assert [event["question"]["kind"] for event in seen.of("waiting")] == ["failure"] * len(answers)
    assert [event["answer"] for event in seen.of("answered")] == answers
    assert {event["by"] for event in seen.of("answered")} == {"person"}


class Thinking:
    """A person who never comes to an answer."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def answer(self, question):
        self.asked.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_run_that_is_interrupted_at_a_question_waits_on(settings, tools, write, resumed):
    plan = fractale.load(write("name: p\nsteps: [{name: a, tool: ok, approve: always}]\n"))
    runs, person = Runs(settings, tools), Thinking()
    if resumed:
        assert (await runs.start(plan)).status == "waiting"
    options = RunOptions(person=person)
    going = asyncio.create_task(
        runs.resume("-1", options) if resumed else runs.start(plan, {}, options)
    )
    async with asyncio.timeout(60):
        await person.asked.wait()
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    (row,) = list_runs(settings.state_dir)
    assert (row.status, row.waits_for) == ("waiting", "a")
    done = await runs.resume("-1", RunOptions(replies=Answers({"a": "yes"})))
    assert done.status == "success"


async def test_with_a_person_a_failure_in_a_long_plan_is_retried_in_its_segment(run_plan, tools):
    steps = ", ".join(f"{{name: s{i}, tool: {'bad' if i == 40 else 'ok'}}}" for i in range(60))
    seen = await run_plan(
        f"name: p\nsteps: [{steps}]\n", tools=tools, person=Answering("retry", "skip")
    )
    assert seen.status == "success"
    assert [s["name"] for s in seen.result.steps][39:43] == ["s39", "s40", "s40", "s41"]


async def test_a_step_that_asked_is_entered_once(run_plan, tools):
    """It runs again from its start when there is an answer: that is no second entry."""
    seen = await run_plan(
        "name: p\nlimits: {steps: 2}\nsteps: [{name: a, tool: ok, approve: always}, "
        "{name: b, tool: ok}]\n",
        tools=tools,
        answers={"a": "yes"},
    )
    assert seen.path == ["a:success", "b:success"]
    assert [event["step"] for event in seen.of("step_started")] == ["a", "b"]


async def test_a_plan_that_is_included_again_counts_its_steps_again(
    run_plan, tools, write, tmp_path
):
    (tmp_path / "inner.yaml").write_text("name: inner\nsteps: [{name: x, tool: bad}]\n")
    plan = write(
        "name: p\nlimits: {steps: 6}\n"
        "steps: [{name: a, plan: ./inner.yaml, transitions: {failure: a}}]\n"
    )
    seen = await run_plan(plan, tools=tools)
    assert seen.status == "limit"
    assert [event["step"] for event in seen.of("step_started")] == ["a", "a/x"] * 3


async def test_a_run_that_nests_too_deep_goes_on_with_a_deeper_limit(settings, tools, write):
    """Three agents, each asked by the one before."""
    from dataclasses import replace

    from fractale.agents.catalog import Catalog
    from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
    from fractale.cli.options import read_limits
    from fractale.plan.build import load_plan

    async def run(host: AgentHost, request: AgentRequest) -> AgentAnswer:
        depth = request.inputs.get("depth", 0)
        if depth == 3:
            return AgentAnswer(outputs={"reached": depth})
        (me,) = [agent for agent in await host.agents() if agent.name == "down"]
        return await host.call_agent(me, AgentRequest(inputs={"depth": depth + 1}))

    down = Subagent(name="down", description="Goes down.", run=run)
    plan = write(
        "name: p\nlimits: {depth: 2}\nsteps: [{name: s, agent: down}]\n"
        "outputs: {reached: '{{ steps.s.outputs.reached }}'}\n"
    )
    runs = Runs(replace(settings), tools, agents=Catalog([down]))
    first = await runs.start(load_plan(plan))
    assert first.status == "limit"
    assert "nested 2 deep" in (first.error or "")
    again = await runs.resume(first.run, RunOptions(limits=read_limits(("depth=3",))))
    assert again.outputs == {"reached": 3}
