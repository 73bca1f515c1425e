"""Steps that wait, poll and try again: in every kind of step, in graphs, replays and forks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from fractale import Dependencies, compile_plan
from fractale.models import Models
from fractale.plan.build import load_plan, parse_plan
from fractale.policy import Policy
from fractale.questions import Answers
from fractale.render.summary import summary
from fractale.runs import RunOptions, Runs
from fractale.runs.result import finished_data
from fractale.testing import FakeToolServer, Reply, ScriptedModel
from replays import Stage

THREAD: dict[str, Any] = {"configurable": {"thread_id": "t"}}

PLAN = """
name: p
steps:
  - {name: pause, wait: 100ms}
  - {name: poll, tool: state, until: status == 'ready', every: 20ms, timeout: 20s}
  - {name: flaky, tool: fails_twice, retry: {attempts: 4, delay: 10ms, on: failure}}
outputs: {calls: "{{ steps.poll.outputs.calls }}", tried: "{{ steps.flaky.outputs.tried }}"}
"""


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()
    counts: dict[str, int] = {}

    def count(name: str) -> int:
        counts[name] = counts.get(name, 0) + 1
        return counts[name]

    @server.tool
    def state(name: str = "state") -> dict[str, Any]:
        calls = count(name)
        return {"status": "ready" if calls >= 3 else "booting", "calls": calls}

    @server.tool
    def fails_twice(name: str = "fails") -> dict[str, Any]:
        tried = count(name)
        if tried < 3:
            raise ValueError(f"failure {tried}")
        return {"tried": tried}

    @server.tool
    def code(name: str = "code") -> dict[str, Any]:
        tried = count(name)
        return {"returncode": 0 if tried >= 3 else 1, "tried": tried}

    return server


@pytest.fixture
def stage(tmp_path, settings, tools) -> Stage:
    return Stage(tmp_path, settings, tools)


# The verdict


async def test_a_success_after_failed_tries_has_a_warning(run_plan, tools):
    result = await run_plan(PLAN, tools=tools)
    assert result.status == "success", result.result.error
    notice = {"step": "flaky", "kind": "warning", "message": "2 tries failed before"}
    assert result.result.notices == [notice]
    head, *rows = summary(finished_data(result.result), color=False).splitlines()
    assert head.startswith("success · with warnings · ")
    assert "  warning  flaky: 2 tries failed before" in rows


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("tool: fails_twice", "failure 2 (after 2 tries)"),
        ("tool: code", "(after 2 tries)"),
        ("tool: state, rules: {failure: calls < 9}", "rule `calls < 9` (after 2 tries)"),
        (
            'script: "#!/bin/sh\\necho gone >&2; exit 3"',
            " (after 2 tries); stderr: gone",
        ),
    ],
)
async def test_the_error_after_the_last_try_says_how_many_there_were(run_plan, tools, step, error):
    retry = "retry: {attempts: 2, delay: 0, on: failure}"
    result = await run_plan(f"name: p\nsteps: [{{name: s, {step}, {retry}}}]", tools=tools)
    assert result.status == "failed"
    assert error in result.result.error
    assert result.result.error.count("after 2 tries") == 1
    assert "after 2 tries" in summary(finished_data(result.result), color=False)


async def test_one_try_is_not_counted(run_plan, tools):
    retry = "retry: {attempts: 1, delay: 0, on: failure}"
    result = await run_plan(f"name: p\nsteps: [{{name: s, tool: code, {retry}}}]", tools=tools)
    assert "tries" not in result.result.error


class Hanging(FakeToolServer):
    """A server with a tool whose first call never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.count = 0
        self.tool(self.launch)

    async def launch(self) -> dict[str, Any]:
        """Launch it."""
        self.count += 1
        if self.count == 1:
            self.called.set()
            await asyncio.Event().wait()
        raise ValueError("launched once more")


async def in_doubt(settings, text: str, answer: str, model: Any = None) -> tuple[Any, Hanging]:
    """A run that is cancelled in a call and resumed with an answer about the call."""
    tools, known = Hanging(), {"policy": Policy(yes=True), "models": model}
    begun = asyncio.create_task(
        Runs(settings, tools, **known).start(parse_plan(text), {}, RunOptions(run_id="r1"))
    )
    await tools.called.wait()
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    waiting = await Runs(settings, tools, **known).resume("r1", RunOptions())
    assert [each["kind"] for each in waiting.waiting] == ["in_doubt"]
    replies = RunOptions(replies=Answers({"s": answer}))
    return await Runs(settings, tools, **known).resume("r1", replies), tools


@pytest.mark.parametrize(("answer", "count"), [("failed", 1), ("again", 3)])
async def test_a_call_that_a_person_counts_as_failed_is_not_tried_again(settings, answer, count):
    retry = "retry: {attempts: 2, delay: 0, on: failure}"
    text = f"name: p\nsteps: [{{name: s, tool: launch, {retry}}}]"
    result, tools = await in_doubt(settings, text, answer)
    assert (result.status, tools.count) == ("failed", count)


async def test_an_agents_call_that_a_person_counts_as_failed_ends_the_tries(settings):
    retry = "retry: {attempts: 2, delay: 0, on: failure}"
    rule = "rules: {failure: \"'broke' in content\"}"
    text = f"name: p\nsteps: [{{name: s, type: agent, instruction: Go, {retry}, {rule}}}]"
    model = ScriptedModel([Reply(tool_calls=[("launch", {})]), "It broke"] * 2)
    result, tools = await in_doubt(settings, text, "failed", Models(settings, given=model))
    assert (result.status, tools.count) == ("failed", 1), result.error


# In an application


async def test_a_graph_waits_polls_and_tries_again(tools):
    graph = compile_plan(parse_plan(PLAN), Dependencies(toolbox=tools)).compile(InMemorySaver())
    result = await graph.ainvoke({}, THREAD)
    assert result["status"] == "success", result
    assert result["outputs"] == {"calls": 3, "tried": 3}
    state = await graph.aget_state(THREAD)
    assert state.values["steps"]["poll"]["attempts"] == 1


async def test_a_graph_that_is_stopped_while_it_waits_repeats_nothing(tools):
    text = PLAN.replace("every: 20ms", "every: 300ms")
    saver = InMemorySaver()
    graph = compile_plan(parse_plan(text), Dependencies(toolbox=tools)).compile(saver)
    running = asyncio.create_task(graph.ainvoke({}, THREAD))
    while len(tools.calls) < 2:  # noqa: ASYNC110 - the tool has no event
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the checkpoint of the call
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    graph = compile_plan(parse_plan(text), Dependencies(toolbox=tools)).compile(saver)
    result = await graph.ainvoke(None, THREAD)
    assert result["outputs"] == {"calls": 3, "tried": 3}


# Kinds of steps


async def test_an_exit_code_counts_as_a_failure(run_plan, tools):
    plan = "name: p\nsteps: [{name: s, tool: code, retry: {attempts: 3, delay: 0, on: failure}}]"
    result = await run_plan(plan, tools=tools)
    assert result.status == "success", result.result.error
    assert len(tools.calls) == 3


async def test_an_agent_starts_again_from_the_beginning(run_plan, tools):
    plan = (
        "name: p\nsteps:\n  - name: s\n    type: agent\n    instruction: Do it\n"
        "    allow_tools: false\n    output_schema: {type: object, required: [n]}\n"
        "    rules: {failure: n < 2}\n    retry: {attempts: 3, delay: 0, on: failure}\n"
        'outputs: {n: "{{ steps.s.outputs.n }}"}\n'
    )
    model = ScriptedModel([Reply(data={"n": 1}), Reply(data={"n": 2})])
    result = await run_plan(plan, tools=tools, model=model)
    assert result.status == "success", result.result.error
    assert result.outputs == {"n": 2}
    assert result.result.usage["total_tokens"] > 0
    first, second = model.requests
    assert len(first) == len(second), "the second try sees nothing of the first"


async def test_each_item_is_tried_again_alone(run_plan, tools):
    plan = (
        "name: p\nsteps:\n  - name: s\n    tool: fails_twice\n    foreach: [a, b, c]\n"
        '    inputs: {name: "{{ item }}"}\n    retry: {attempts: 3, delay: 10ms, on: failure}\n'
        "outputs: {tried: \"{{ steps.s.outputs | map(attribute='tried') | list }}\"}\n"
    )
    result = await run_plan(plan, tools=tools)
    assert result.status == "success", result.result.error
    assert result.outputs == {"tried": [3, 3, 3]}
    assert len(tools.calls) == 9


async def test_items_and_branches_poll_side_by_side(run_plan, tools):
    plan = (
        "name: p\nsteps:\n  - name: both\n    parallel:\n"
        "      - {name: one, tool: state, inputs: {name: one}, until: status == 'ready', "
        "every: 10ms, timeout: 9s}\n"
        "      - {name: two, wait: 20ms}\n"
        "  - name: items\n    foreach: [a, b]\n    tool: state\n"
        '    inputs: {name: "{{ item }}"}\n    until: calls > index + 1\n'
        "    every: 10ms\n    timeout: 9s\n"
        "outputs: {calls: \"{{ steps.items.outputs | map(attribute='calls') | list }}\"}\n"
    )
    result = await run_plan(plan, tools=tools)
    assert result.status == "success", result.result.error
    assert result.outputs == {"calls": [2, 3]}


async def test_jobs_of_a_foreach_are_tried_again_alone(run_plan, tools, tmp_path):
    plan = (
        "name: p\nsteps:\n  - name: s\n    foreach: [1, 2, 3]\n"
        "    retry: {attempts: 3, delay: 100ms, on: failure}\n    job:\n      scheduler: local\n"
        f"      folder: {tmp_path}\n      script: |\n        #!/bin/sh\n"
        "        echo x >> tries-{{ item }}\n"
        "        [ {{ item }} != 2 ] || [ $(wc -l < tries-2) -ge 2 ]\n"
    )
    result = await run_plan(plan, tools=tools, keep=True)
    assert result.status == "success", result.result.error
    tries = {n: (tmp_path / f"tries-{n}").read_text().count("x") for n in (1, 2, 3)}
    assert tries == {1: 1, 2: 2, 3: 1}


async def test_an_included_plan_waits(run_plan, tools, tmp_path):
    (tmp_path / "inner.yaml").write_text(PLAN)
    (tmp_path / "outer.yaml").write_text(
        "name: o\nsteps: [{name: inner, plan: inner.yaml}]\n"
        'outputs: {calls: "{{ steps.inner.outputs.calls }}"}\n'
    )
    result = await run_plan(load_plan(tmp_path / "outer.yaml"), tools=tools)
    assert result.status == "success", result.result.error
    assert result.outputs == {"calls": 3}


async def test_a_wait_that_is_no_duration_fails_its_step(run_plan, tools):
    plan = 'name: p\ninputs: {t: soon}\nsteps: [{name: s, wait: "{{ inputs.t }}"}]'
    result = await run_plan(plan, tools=tools)
    assert result.status == "failed"
    assert "`wait` must be a duration such as `10m`, and is `soon`" in str(result.result.error)


async def test_transport_is_tried_again_within_a_poll(run_plan, tools):
    tools.lose("state", sent=False)
    plan = (
        "name: p\nsteps:\n  - {name: s, tool: state, until: status == 'ready', every: 10ms, "
        "timeout: 9s, retry: {attempts: 2, delay: 0}}\n"
    )
    lost = FakeToolServer().lose("state", sent=False)
    lost.answer("state", {"status": "ready"})
    result = await run_plan(plan, tools=lost)
    assert result.status == "success", result.result.error
    assert len(lost.calls) == 2


async def test_a_call_that_hangs_ends_with_the_timeout(run_plan):
    server = FakeToolServer()

    @server.tool(read_only=True)
    async def state() -> dict[str, Any]:
        await asyncio.sleep(30)
        return {}

    plan = (
        "name: p\nsteps:\n  - {name: s, tool: state, until: status == 'ready', every: 10ms, "
        "timeout: 200ms}\n"
    )
    result = await run_plan(plan, tools=server)
    assert result.status == "failed"
    assert "no answer within the step's timeout of 0.2 s" in str(result.result.error)


# Records


async def test_a_replay_does_not_wait_and_is_equal(stage):
    long = PLAN.replace("100ms", "1s").replace("delay: 10ms", "delay: 1s")
    result = await stage.record(long)
    assert result.status == "success"
    loop = asyncio.get_running_loop()
    began = loop.time()
    await stage.equal()
    assert loop.time() - began < result.steps.__len__() * 10


async def test_a_recorded_timeout_is_replayed(stage):
    plan = (
        "name: p\nsteps:\n  - {name: s, tool: state, until: status == 'never', every: 50ms, "
        "timeout: 200ms}\n"
    )
    result = await stage.record(plan)
    assert result.status == "failed"
    await stage.equal()


async def test_a_fork_polls_anew(stage):
    result = await stage.record(PLAN)
    with stage.runs() as runs:
        forked = await runs.fork(result.run, "poll")
    assert forked.status == "success"
    assert forked.outputs["calls"] == 4, "it was ready at the first call"


DRAFT = {
    "steps": [
        {"name": "settle", "wait": "10ms"},
        {
            "name": "poll",
            "tool": "state",
            "until": "status == 'ready'",
            "every": "10ms",
            "timeout": "1m",
            "retry": {"attempts": 2, "delay": "10ms", "on": "failure"},
        },
    ],
    "outputs": {"calls": "{{ steps.poll.outputs.calls }}"},
}


async def test_a_draft_waits_and_polls(run_plan, tools):
    plan = (
        "name: p\nsteps: [{name: s, type: plan, instruction: Wait for it, tools: [state]}]\n"
        'outputs: {calls: "{{ steps.s.outputs.calls }}"}\n'
    )
    model = ScriptedModel([Reply(data=DRAFT)])
    result = await run_plan(plan, tools=tools, model=model, yes=True)
    assert result.status == "success", result.result.error
    assert result.outputs == {"calls": 3}


async def test_the_user_approves_the_calls_of_a_drafted_poll_once(run_plan, tools):
    plan = "name: p\nsteps: [{name: s, type: plan, instruction: Wait for it, tools: [state]}]\n"

    class Person:
        def __init__(self) -> None:
            self.asked: list[Any] = []

        async def answer(self, question: Any) -> Any:
            self.asked.append(question)
            return "accept" if question["kind"] == "review" else "yes"

    person = Person()
    model = ScriptedModel([Reply(data=DRAFT)])
    result = await run_plan(plan, tools=tools, model=model, person=person)
    assert result.status == "success", result.result.error
    assert len(tools.calls) == 3
    assert [each["kind"] for each in person.asked] == ["review", "approval"]
    assert "it is called again until `status == 'ready'`" in person.asked[1]["why"]


async def test_a_question_beside_a_wait_is_asked_at_once(run_plan, tools):
    plan = (
        "name: p\nsteps:\n  - name: both\n    parallel:\n      - {name: long, wait: 3s}\n"
        "      - {name: asks, tool: code, approve: always}\n"
    )
    loop = asyncio.get_running_loop()
    asked: list[float] = []

    class Person:
        async def answer(self, question: Any) -> Any:
            asked.append(loop.time())
            return "quit" if question["kind"] == "failure" else "yes"

    result = await run_plan(plan, tools=tools, person=Person())
    assert len(tools.calls) == 1
    assert loop.time() - asked[0] > 1, "the wait continued after the answer"
    (end,) = [e for e in result.of("step_finished") if e["step"] == "both/long"]
    assert end["seconds"] >= 3


def test_the_graph_of_a_plan_that_waits_is_drawn(tools):
    graph = compile_plan(parse_plan(PLAN), Dependencies(toolbox=tools)).compile()
    drawn = graph.get_graph(xray=True).draw_mermaid()
    assert "pause\\3apause" in drawn or "pause:pause" in drawn
    assert "try" in drawn
