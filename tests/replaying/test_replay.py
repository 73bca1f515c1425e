"""A recorded run again: nothing is called, and event for event it is the same."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from fractale.agents.catalog import Catalog
from fractale.agents.subagent import AgentAnswer, Subagent
from fractale.errors import NotDone, NotRecorded, PlanError, ToolError, TransportError
from fractale.models import RetryPolicy
from fractale.plan.model import Limits
from fractale.record.recordings import open_recording, write_recording
from fractale.replaying.replay import Live, replay
from fractale.runs.fork import ForkChanges
from fractale.settings import Settings
from fractale.testing import FakeCall, FakeToolServer
from fractale.testing.model_server import ModelRequest, Reply
from replays import Stage


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def change(what: str) -> dict:
        """Change something."""
        return {"changed": what, "filler": "x" * 2000}

    @server.tool(read_only=True)
    def look(at: str = ".") -> dict:
        """Look at something."""
        return {"seen": at, "nodes": 4}

    @server.tool
    async def wait(seconds: float) -> dict:
        """Take some time."""
        await asyncio.sleep(seconds)
        return {"waited": seconds}

    @server.tool
    def check(level: int, enough: int = 3) -> dict:
        """Whether it is enough."""
        return {"level": level, "error": "" if level >= enough else f"{level} is not enough"}

    return server


@pytest.fixture
def stage(tmp_path: Path, settings: Settings, tools: FakeToolServer) -> Stage:
    return Stage(tmp_path, settings, tools)


CHAIN = """
name: chain
inputs: {what: one}
steps:
  - {name: first, tool: change, inputs: {what: "{{ inputs.what }}"}}
  - {name: second, tool: look, inputs: {at: "{{ steps.first.outputs.changed }}"}}
outputs: {seen: "{{ steps.second.outputs.seen }}"}
"""


def called(stage: Stage) -> list[str]:
    return [call.name for call in stage.server.calls]


# -- what is replayed -----------------------------------------------------------------------------


async def test_a_chain_of_tools_is_the_same_again(stage):
    await stage.record(CHAIN)
    replayed = await stage.equal()
    kept = [e for e in stage.last.read_events() if e["event"] != "log"]
    assert replayed.events == replayed.of == len(kept) == 10
    assert [e["event"] for e in stage.told] == [e["event"] for e in kept]
    assert stage.told[-1]["outputs"] == {"seen": "one"}


async def test_a_replay_writes_nothing(stage):
    await stage.record(CHAIN)

    def content() -> dict[str, bytes]:
        files = [path for path in stage.settings.state_dir.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files}

    before = content()
    await stage.equal()
    assert content() == before


async def test_a_loop_is_the_same_again(stage):
    await stage.record(
        """
        name: loop
        steps:
          - name: make
            tool: change
            inputs: {what: "try {{ steps.make.attempts | default(0) }}"}
          - name: check
            tool: check
            inputs: {level: "{{ steps.make.attempts }}"}
            transitions: {failure: make}
        """
    )
    assert called(stage) == ["change", "check"] * 3
    await stage.equal()


async def test_skipped_steps_are_skipped_again(stage):
    await stage.record(
        """
        name: p
        steps:
          - {name: a, tool: change, inputs: {what: "{{ steps.b.attempts | default(0) }}"}}
          - {name: b, tool: change, inputs: {what: x}, when: steps.a.attempts > 1}
          - name: c
            tool: check
            inputs: {level: "{{ steps.a.attempts }}"}
            transitions: {failure: a}
        """
    )
    assert stage.result.status == "success"
    await stage.equal()


@pytest.mark.parametrize("lost", [1, 3])
async def test_tries_are_tried_again_without_waiting(stage, lost):
    for _ in range(lost):
        stage.server.lose("flaky", sent=False)
    stage.server.answer("flaky", {"ok": 1})
    await stage.record(
        """
        name: p
        steps:
          - {name: a, tool: flaky, retry: {attempts: 3, delay: 0.01, max_delay: 0.01}}
        """
    )
    assert len(called(stage)) == min(lost + 1, 3)
    kept = stage.last.path / "plan.yaml"  # as if the run had waited
    kept.write_text(kept.read_text().replace("delay: 0.01", "delay: 100"))
    started = asyncio.get_running_loop().time()
    await stage.equal()
    assert asyncio.get_running_loop().time() - started < 60


async def test_calls_that_failed_fail_again(stage):
    stage.server.fail("broken", "no such queue", structured={"queue": "debug"})
    stage.server.lose("gone")
    await stage.record(
        """
        name: p
        steps:
          - {name: a, tool: broken, transitions: {failure: b}}
          - {name: b, tool: gone, transitions: {failure: c}}
          - {name: c, tool: look, inputs: {at: "{{ steps.b.error }}"}}
        """
    )
    assert [s["outcome"] for s in stage.result.steps] == ["failure", "failure", "success"]
    await stage.equal()


async def test_items_that_ran_beside_others_are_the_same_in_any_order(stage):
    random.seed(7)
    await stage.record(
        """
        name: p
        inputs: {times: {type: array, required: true}}
        steps:
          - name: many
            foreach: inputs.times
            max_parallel: 8
            tool: wait
            inputs: {seconds: "{{ item }}"}
          - name: both
            parallel:
              - {name: slow, tool: wait, inputs: {seconds: 0.05}}
              - {name: quick, tool: look}
        """,
        {"times": [random.choice([0, 0.01, 0.02, 0.03]) for _ in range(24)]},
    )
    assert stage.result.status == "success", stage.result.error
    replayed = await stage.equal()
    assert replayed.of > 24 * 4


async def test_items_that_failed_fail_again(stage):
    await stage.record(
        """
        name: p
        steps:
          - name: many
            foreach: [1, 2, 3, 4]
            keep_going: true
            tool: check
            inputs: {level: "{{ item }}"}
          - {name: last, tool: look, inputs: {at: "{{ steps.many.outputs | length }}"}}
        """
    )
    await stage.equal()


INNER = """
name: inner
inputs: {n: 1}
steps:
  - {name: make, tool: change, inputs: {what: "{{ inputs.n }}"}}
  - {name: check, tool: check, inputs: {level: "{{ inputs.n }}", enough: 2}}
outputs: {made: "{{ steps.make.outputs.changed }}"}
"""


async def test_an_included_plan_that_is_entered_again_is_the_same_each_time(stage):
    stage.write(INNER, "inner.yaml")
    await stage.record(
        """
        name: outer
        steps:
          - name: part
            plan: ./inner.yaml
            inputs: {n: "{{ steps.part.attempts | default(0) + 1 }}"}
            transitions: {failure: part}
          - name: each
            foreach: [2, 3]
            plan: ./inner.yaml
            inputs: {n: "{{ item }}"}
        outputs: {made: "{{ steps.part.outputs.made }}"}
        """
    )
    assert stage.result.status == "success", stage.result.error
    await stage.equal()


def talking(request: ModelRequest) -> Reply:
    """An agent that makes two calls at the same time, then one, then answers."""
    done = sum(message["role"] == "tool" for message in request.body["messages"])
    if done == 0:
        return Reply(tool_calls=[("wait", {"seconds": 0.05}), ("look", {"at": "here"})])
    if done == 2:
        return Reply(tool_calls=[("change", {"what": "all"})])
    return Reply(text="all is done")


AGENT = """
name: p
steps:
  - {name: work, type: agent, instruction: Do it., tools: [wait, look, change]}
  - {name: last, tool: look, inputs: {at: "{{ steps.work.outputs.content }}"}}
"""


async def test_an_agent_of_several_turns_is_the_same_again(stage):
    stage.script = talking
    await stage.record(AGENT, yes=True)
    assert sorted(called(stage)) == ["change", "look", "look", "wait"]
    assert (await stage.equal()).of > 14


async def test_a_judge_a_schema_and_a_conversation_are_the_same_again(stage):
    def script(request: ModelRequest) -> Reply:
        text = json.dumps(request.body["messages"])
        if "You judge whether" in text:
            return Reply(data={"success": "second" in text, "reason": "as it seems"})
        return Reply(text='{"n": 2, "said": "second"}' if "not so" in text else '{"n": 1}')

    stage.script = script
    stage.server.prompt("expert", "EXPERT on {topic}", arguments=[{"name": "topic"}])
    await stage.record(
        """
        name: p
        steps:
          - name: ask
            prompt: expert
            inputs: {topic: MPI}
            persist: true
            judge: true
            instruction: "{{ 'not so' if steps.ask.attempts | default(0) else 'go' }}"
            output_schema: {type: object, required: [n], properties: {n: {type: integer}}}
            transitions: {failure: ask}
        """
    )
    assert [s["outcome"] for s in stage.result.steps] == ["failure", "success"]
    await stage.equal()


class Forgetful(FakeToolServer):
    """A server that can't render its prompt the first time."""

    async def get_prompt(self, name, arguments):
        self.calls.append(FakeCall(name, arguments))
        if len(self.calls) == 1:
            raise ToolError("the template is broken", hint="mend it")
        return await super().get_prompt(name, arguments)


async def test_a_prompt_that_could_not_be_fetched_fails_again(stage):
    stage.server, stage.script = Forgetful(), ["fine"]
    stage.server.prompt("expert", "on {topic}", arguments=[{"name": "topic"}])
    await stage.record(
        """
        name: p
        steps:
          - {name: ask, prompt: expert, inputs: {topic: a}, transitions: {failure: again}}
          - {name: again, prompt: expert, inputs: {topic: b}, allow_tools: false}
        """
    )
    assert [s["outcome"] for s in stage.result.steps] == ["failure", "success"]
    await stage.equal()


async def test_models_that_failed_and_those_taken_in_their_place_are_the_same_again(stage):
    stage.script = [Reply(status=503, text="busy"), Reply(text="from the other one")]
    stage.settings = replace(stage.settings, fallback_models=("openai:other",))
    await stage.record("name: p\nsteps: [{name: a, type: agent, instruction: Say., tools: []}]\n")
    assert stage.result.status == "success", stage.result.error
    stage.settings = replace(stage.settings, fallback_models=())
    await stage.equal()


async def test_a_model_that_is_gone_for_good_fails_again(stage):
    stage.script = [Reply(status=500, text="broken")] * 9
    stage.retry = RetryPolicy(tries=2, delay=0.01)
    await stage.record("name: p\nsteps: [{name: a, type: agent, instruction: Say., tools: []}]\n")
    assert stage.result.status == "failed"
    await stage.equal()


OPTIMIZE = """
name: p
steps:
  - name: tune
    agent: optimize
    inputs:
      goal: the least time
      tool: job
      metric: time
      direction: minimize
      space: {ranks: {type: int, low: 1, high: 8}}
      max_trials: 4
      seed: 3
  - {name: use, tool: look, inputs: {at: "{{ steps.tune.outputs | tojson }}"}}
"""


async def test_a_search_is_the_same_again_with_the_times_of_its_trials(stage):
    @stage.server.tool(name="job")
    async def job(ranks: int) -> dict:
        await asyncio.sleep(0.02)
        if len(called(stage)) == 2:
            raise ValueError("no such layout")
        return {"time": 10 / ranks}

    take = {"why": "as good as any", "stop": False, "use": "algorithm"}
    own = {"why": "I know it", "stop": False, "use": "own", "params": {"ranks": 8}}
    stage.script = [Reply(data=take), Reply(data=own), Reply(text="no JSON"), Reply(text="none")]
    stage.script = [*stage.script, Reply(data=take)]
    await stage.record(OPTIMIZE, yes=True)
    assert stage.result.status == "success", stage.result.error
    assert called(stage).count("job") == 4
    await stage.equal()


async def test_what_result_parse_tried_is_the_same_again(stage):
    stage.server.answer("log", {"text": "steps 100\nLoop time of 12.5 on 4 procs\n"})
    stage.script = [
        Reply(data={"why": "as it looks", "regex": "("}),
        Reply(data={"why": "as it looks", "regex": "steps ([0-9]+)"}),
        Reply(data={"why": "as it looks", "regex": "Loop time of ([0-9.]+)"}),
    ]
    await stage.record(
        """
        name: p
        steps:
          - {name: run, tool: log}
          - name: parse
            agent: result_parse
            inputs: {metric_name: loop time, log_text: "{{ steps.run.outputs.text }}"}
        outputs: {value: "{{ steps.parse.outputs.value }}"}
        """
    )
    assert stage.result.status == "waiting", stage.result.error
    await stage.equal()
    await stage.resume(replies={"parse": "no, the loop time"})
    assert stage.result.status == "waiting"
    await stage.resume(replies={"parse": "yes"})
    assert stage.result.outputs == {"value": "12.5"}
    await stage.equal()


DRAFTED = """
name: p
steps:
  - {name: made, type: plan, instruction: Look at it., tools: [look, change]}
  - {name: last, tool: look, inputs: {at: "{{ steps.made.outcome }}"}}
"""


async def test_drafts_that_were_corrected_discussed_and_accepted_are_the_same_again(stage):
    good = {"steps": [{"name": "do", "tool": "look", "inputs": {"at": "there"}}]}
    other = {"steps": [{"name": "do", "tool": "change", "inputs": {"what": "it"}}]}
    drafts = [{"steps": [{"name": "do", "tool": "erase"}]}, other, good]

    def script(request: ModelRequest) -> Reply:
        if "Write the steps." not in json.dumps(request.body):
            return Reply(text="nothing to find out")
        return Reply(data=drafts.pop(0))

    stage.script = script
    await stage.record(DRAFTED)
    assert stage.result.status == "waiting"
    await stage.resume(replies={"made": "only look"})
    await stage.resume(replies={"made": "accept"})
    assert stage.result.status == "success", stage.result.error
    assert drafts == []
    replayed = await stage.equal()
    assert replayed.of > 20
    assert any(event.get("step") == "made/do" for event in stage.told)


# -- people ---------------------------------------------------------------------------------------


class Person:
    """Gives its answers in turn."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def answer(self, question):
        return self.answers.pop(0)


@pytest.mark.parametrize("there", [True, False])
async def test_what_a_person_agreed_to_is_agreed_to_again(stage, there):
    stage.script = talking
    person = Person("always", {"arguments": {"what": "less"}}) if there else None
    await stage.record(AGENT, person=person)
    while stage.result.status == "waiting":
        kind = stage.result.waiting[0]["tool"]
        await stage.resume(replies={"work": "always" if kind == "wait" else "yes"})
    assert stage.result.status == "success", stage.result.error
    await stage.equal()


async def test_what_a_person_refused_is_refused_again(stage):
    stage.script = talking
    await stage.record(AGENT, person=Person(False, False, "quit"))
    assert stage.result.status == "failed"
    assert "a person refused the call of `change`" in stage.result.error
    assert "change" not in called(stage)
    await stage.equal()


async def test_a_failure_that_a_person_had_tried_again_is_tried_again(stage):
    stage.server.fail("flaky", "first").answer("flaky", {"ok": 1})
    await stage.record("name: p\nsteps: [{name: a, tool: flaky}]\n", person=Person("retry"))
    assert stage.result.status == "success"
    await stage.equal()


@pytest.mark.parametrize("there", [True, False])
async def test_what_a_server_asked_needs_no_answer_again(stage, there):
    @stage.server.tool(name="submit")
    async def submit() -> dict:
        answer = await stage.server.elicit("Where?")
        return dict(answer.get("content") or {})

    place = {"action": "accept", "content": {"value": "debug"}}
    plan = (
        "name: p\nsteps: [{name: a, tool: submit}]\noutputs: {at: '{{ steps.a.outputs.value }}'}\n"
    )
    await stage.record(plan, person=Person(place) if there else None)
    if not there:
        assert stage.result.status == "waiting"
        await stage.equal()
        await stage.resume(replies={"a": place})
    assert stage.result.outputs == {"at": "debug"}
    await stage.equal()


async def test_a_run_that_waits_waits_again(stage):
    await stage.record(
        "name: p\nsteps: [{name: a, tool: look}, "
        "{name: b, tool: change, inputs: {what: x}, approve: always}]\n"
    )
    assert stage.result.status == "waiting"
    replayed = await stage.equal()
    assert replayed.status == "waiting"


# -- secrets, limits, times -----------------------------------------------------------------------


async def test_a_secret_is_replayed_as_it_was_masked(stage):
    await stage.record(
        """
        name: p
        inputs: {key: {secret: true, required: true}}
        steps:
          - {name: a, tool: change, inputs: {what: "key={{ inputs.key }}"}}
          - {name: b, tool: look, inputs: {at: "{{ steps.a.outputs.changed }}"}}
        """,
        secrets={"key": "hunter2hunter2"},
    )
    assert stage.result.status == "success", stage.result.error
    text = b"".join(p.read_bytes() for p in stage.last.path.rglob("*") if p.is_file())
    assert b"hunter2" not in text
    await stage.equal()


@pytest.mark.parametrize("limits", [{"steps": 2}, {"tokens": 30}])
async def test_a_run_that_met_a_limit_meets_it_again(stage, limits):
    stage.script = lambda _: Reply(text="fine", input_tokens=20, output_tokens=5)
    await stage.record(
        """
        name: p
        steps:
          - {name: a, type: agent, instruction: Say., tools: []}
          - {name: b, type: agent, instruction: Say., tools: []}
          - {name: c, type: agent, instruction: Say., tools: []}
        """,
        limits=Limits(**limits),
    )
    assert stage.result.status == "limit"
    assert (await stage.equal()).status == "limit"
    await stage.resume(limits=Limits(**{name: 10 * value for name, value in limits.items()}))
    assert stage.result.status == "success", stage.result.error
    await stage.equal()


async def test_a_step_whose_time_was_up_is_too_late_again(stage):
    await stage.record(
        """
        name: p
        steps:
          - {name: a, tool: wait, inputs: {seconds: 60}, timeout: 0.2s, transitions: {failure: b}}
          - {name: b, tool: look, inputs: {at: "{{ steps.a.error }}"}}
        """
    )
    assert stage.result.status == "success", stage.result.error
    assert "may have been made, or not" in stage.server.calls[-1].arguments["at"]
    await stage.equal()


async def test_an_agent_whose_time_was_up_is_too_late_again(stage):
    turns = iter([Reply(tool_calls=[("look", {"at": "x"})]), Reply(text="late", delay=60)])
    stage.script = lambda _: next(turns, Reply(text="in time"))
    await stage.record(
        """
        name: p
        steps:
          - {name: a, type: agent, instruction: Do it., tools: [look], timeout: 5s,
             retry: {attempts: 2, delay: 0.01}}
        """
    )
    assert stage.result.status == "success", stage.result.error
    await stage.equal()


async def test_a_run_that_was_stopped_is_the_same_as_far_as_it_came(stage):
    @stage.server.tool(name="stop")
    def stop() -> dict:
        control.request_drain("test")
        return {}

    from langgraph.runtime import RunControl

    control = RunControl()
    await stage.record(
        "name: p\nsteps: [{name: a, tool: stop}, {name: b, tool: look}]\n", control=control
    )
    assert stage.result.status == "stopped"
    replayed = await stage.replay()
    assert replayed.equal
    assert (replayed.status, replayed.events) == ("stopped", replayed.of)
    assert replayed.ends == "before step `b`"


# -- where it is another one ----------------------------------------------------------------------


async def test_other_arguments_are_shown_with_those_of_the_record(stage):
    await stage.record(CHAIN)
    replayed = await stage.replay(CHAIN.replace("{{ inputs.what }}", "{{ inputs.what }}!"))
    found = replayed.divergence
    assert (found.what, found.step, found.attempt) == ("arguments", "first", 1)
    assert (found.recorded, found.now) == ({"what": "one"}, {"what": "one!"})
    assert found.changes[0].path == "what"
    assert replayed.events == 2


async def test_a_visit_is_named_where_it_is_not_the_first(stage):
    plan = """
    name: loop
    steps:
      - {name: make, tool: change, inputs: {what: "try {{ steps.make.attempts | default(0) }}"}}
      - name: check
        tool: check
        inputs: {level: "{{ steps.make.attempts }}"}
        transitions: {failure: make}
    """
    await stage.record(plan)
    today = plan.replace(
        "steps.make.attempts | default(0)", "[steps.make.attempts | default(0), 1] | min"
    )
    found = (await stage.replay(today)).divergence
    assert (found.what, found.step, found.attempt) == ("arguments", "make", 3)
    assert "attempt 3" in found.message


async def test_another_call_is_told(stage):
    await stage.record(CHAIN)
    today = CHAIN.replace("tool: look, inputs: {at:", "tool: change, inputs: {what:")
    found = (await stage.replay(today)).divergence
    assert (found.what, found.step) == ("path", "second")
    assert found.changes[0].a == "look"


async def test_another_outcome_is_told(stage):
    await stage.record(CHAIN)
    today = CHAIN.replace(
        'outputs.changed }}"}', 'outputs.changed }}"}, rules: [{if: nodes == 4, event: failure}]'
    )
    found = (await stage.replay(_rule(today))).divergence
    assert (found.what, found.step) == ("outcome", "second")
    assert found.now["outcome"] == "failure"


def _rule(text: str) -> str:
    return text.replace("rules: [{if: nodes == 4, event: failure}]", "rules: {failure: nodes == 4}")


async def test_another_path_is_told(stage):
    plan = CHAIN.replace("outputs: {seen", "  - {name: third, tool: look}\noutputs: {seen")
    await stage.record(plan)
    today = plan.replace(
        'at: "{{ steps.first.outputs.changed }}"}}',
        'at: "{{ steps.first.outputs.changed }}"}, '
        "transitions: {success: success, failure: third}}",
    )
    found = (await stage.replay(today)).divergence
    assert (found.what, found.step) == ("path", "second")
    assert (found.recorded, found.now) == ({"next": "third"}, {"next": "success"})


async def test_a_step_more_and_a_step_less_are_other_paths(stage):
    await stage.record(CHAIN)
    more = CHAIN.replace("outputs: {seen", "  - {name: third, tool: look}\noutputs: {seen")
    found = (await stage.replay(more)).divergence
    assert (found.what, found.step, found.now) == ("path", "second", {"next": "third"})
    await stage.record(more)
    found = (await stage.replay(CHAIN)).divergence
    assert (found.what, found.step, found.now) == ("path", "second", {"next": "success"})


async def test_what_a_model_is_asked_counts(stage):
    stage.script = talking
    await stage.record(AGENT, yes=True)
    found = (await stage.replay(AGENT.replace("Do it.", "Do all."))).divergence
    assert (found.what, found.step) == ("arguments", "work")
    assert "the request to model openai:scripted differs" in found.message
    fewer = await stage.replay(AGENT.replace("[wait, look, change]", "[wait, look]"))
    assert fewer.divergence.what == "arguments"


def drafting(request: ModelRequest) -> Reply:
    if "Write the steps." not in json.dumps(request.body):
        return Reply(text="nothing to find out")
    return Reply(data={"steps": [{"name": "do", "tool": "look", "inputs": {"at": "there"}}]})


def requests_otherwise(stage: Stage, **other: str | None) -> None:
    """Make the record say other hashes of what the model was asked; None: leave them out."""
    path, lines = stage.last.path / "journal.jsonl", []
    for line in map(json.loads, path.read_text().splitlines()):
        line.pop("sum", None)
        changed = {**line, **other} if line.get("kind") == "model" else line
        lines.append({key: each for key, each in changed.items() if each is not None})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.mark.parametrize("recorded", ["with the rest of the request", "by an earlier version"])
async def test_prompts_of_fractale_that_changed_since_are_counted(stage, recorded):
    stage.script = drafting
    await stage.record(DRAFTED, yes=True)
    assert (await stage.equal()).reworded == 0
    older = {"given": None} if recorded == "by an earlier version" else {}
    requests_otherwise(stage, digest="of other prompts", **older)
    assert (await stage.equal()).reworded == 2


async def test_another_request_diverges_whatever_fractales_prompts_are(stage):
    stage.script = drafting
    await stage.record(DRAFTED, yes=True)
    requests_otherwise(stage, digest="of other prompts")
    found = (await stage.replay(DRAFTED.replace("Look at it.", "Look at all."))).divergence
    assert (found.what, found.step) == ("arguments", "made")
    fewer = await stage.replay(DRAFTED.replace("[look, change]", "[look]"))
    assert fewer.divergence.what == "arguments"


async def test_what_does_not_change_the_run_is_no_divergence(stage):
    await stage.record(CHAIN)
    today = CHAIN.replace("name: chain", "name: renamed\ndescription: Other words.").replace(
        "outputs: {seen", "  - {name: never, tool: look, when: 'false'}\noutputs: {seen"
    )
    replayed = await stage.replay(today)
    assert replayed.divergence.what == "path"  # it is passed, and that is told
    same = await stage.equal(plan=CHAIN.replace("name: chain", "name: renamed"))
    assert same.plan == "renamed"


async def test_a_question_that_was_not_asked_is_told(stage):
    await stage.record(CHAIN)
    today = CHAIN.replace('what }}"}}', 'what }}"}, approve: always}')
    replayed = await stage.replay(today)
    assert replayed.divergence is None  # nobody was asked: that it was called says enough


async def test_a_question_that_is_not_asked_any_more_is_told(stage):
    plan = CHAIN.replace('what }}"}}', 'what }}"}, approve: always}')
    await stage.record(plan, answers={"first": True})
    await stage.equal()
    found = (await stage.replay(CHAIN)).divergence
    assert (found.what, found.step) == ("question", "first")


async def test_a_plan_that_needs_other_tools_is_none_to_replay(stage):
    await stage.record(CHAIN)
    with pytest.raises(PlanError, match="erase"):
        await stage.replay(CHAIN.replace("tool: change", "tool: erase"))


# -- one side is real -----------------------------------------------------------------------------


async def test_with_real_tools_models_answer_as_recorded(stage):
    stage.script = talking
    await stage.record(AGENT, yes=True)
    before = called(stage)
    replayed = await stage.equal(live=Live(tools=stage.server))
    assert sorted(called(stage)) == sorted(before * 2)
    assert replayed.of > 14


async def test_a_real_tool_that_answers_otherwise_ends_the_replay_there(stage):
    stage.server.answer("figure", {"value": 1}, {"value": 2})
    plan = """
    name: p
    steps:
      - {name: a, tool: figure}
      - {name: b, tool: change, inputs: {what: "{{ steps.a.outputs.value }}"}}
    """
    await stage.record(plan)
    replayed = await stage.replay(live=Live(tools=stage.server))
    assert (replayed.divergence.what, replayed.divergence.step) == ("outcome", "a")
    assert called(stage) == ["figure", "change", "figure"]
    assert json.loads(replayed.divergence.now["text"]) == {"value": 2}
    loose = await stage.replay(live=Live(tools=stage.server, loose=True))
    assert (loose.divergence.what, loose.divergence.step) == ("arguments", "b")
    assert called(stage)[3:] == ["figure"]  # what would be another call is not made


async def test_a_real_tool_that_fails_ends_the_replay_there(stage):
    stage.server.answer("figure", {"value": 1}).lose("figure")
    await stage.record("name: p\nsteps: [{name: a, tool: figure}]\n")
    found = (await stage.replay(live=Live(tools=stage.server, loose=True))).divergence
    assert (found.what, found.step) == ("outcome", "a")


async def test_what_a_real_server_asks_is_answered_as_it_was(stage):
    @stage.server.tool(name="submit")
    async def submit() -> dict:
        answer = await stage.server.elicit("Where?")
        return dict(answer.get("content") or {})

    place = {"action": "accept", "content": {"value": "debug"}}
    await stage.record("name: p\nsteps: [{name: a, tool: submit}]\n", person=Person(place))
    await stage.equal(live=Live(tools=stage.server))
    assert called(stage) == ["submit"] * 2


async def test_with_a_real_model_tools_answer_as_recorded(stage):
    from fractale.models import Models
    from fractale.testing import ScriptedModel

    stage.script = talking
    await stage.record(AGENT, yes=True)
    turns = [
        Reply(tool_calls=[("wait", {"seconds": 0.05}), ("look", {"at": "here"})]),
        Reply(tool_calls=[("change", {"what": "everything"})]),
    ]
    models = Models(stage.settings, given=ScriptedModel(turns))
    found = (await stage.replay(live=Live(models=models, loose=True))).divergence
    assert (found.what, found.step) == ("arguments", "work")
    assert (found.recorded, found.now) == ({"what": "all"}, {"what": "everything"})
    same = [*turns[:1], Reply(tool_calls=[("change", {"what": "all"})]), "all is done"]
    models = Models(stage.settings, given=ScriptedModel(same))
    await stage.equal(live=Live(models=models))
    same[-1] = "it is all done"
    models = Models(stage.settings, given=ScriptedModel(same))
    strict = await stage.replay(live=Live(models=models))
    assert strict.divergence.what == "outcome"


# -- what can't be replayed -----------------------------------------------------------------------


async def test_a_record_without_its_tools_says_so(stage):
    await stage.record(CHAIN)
    (stage.last.path / "tools.json").unlink()
    with pytest.raises(NotRecorded, match="does not list the tools") as told:
        await stage.replay()
    assert told.value.reason == "no-tools"


async def test_a_record_without_its_journal_says_so(stage):
    await stage.record(CHAIN)
    (stage.last.path / "journal.jsonl").unlink()
    with pytest.raises(NotRecorded, match="was not found, and the run made calls") as told:
        await stage.replay()
    assert told.value.reason == "no-journal"


async def test_a_run_without_calls_needs_no_journal(stage):
    step = "{name: a, tool: change, inputs: {what: x}, when: 'false'}"
    await stage.record(f"name: p\nsteps: [{step}]\n")
    (stage.last.path / "journal.jsonl").unlink(missing_ok=True)
    await stage.equal()


async def test_a_figure_that_changed_in_the_journal_is_told(stage):
    await stage.record(CHAIN)
    path = stage.last.path / "journal.jsonl"
    text = path.read_text()
    changed = text.replace('"result": {', '"result": { ', 1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(NotRecorded, match="a line is damaged") as told:
        await stage.replay()
    assert told.value.reason == "no-journal"


async def test_a_damaged_journal_is_told(stage):
    await stage.record(CHAIN)
    path = stage.last.path / "journal.jsonl"
    path.write_bytes(b"\x00broken\n" + path.read_bytes())
    with pytest.raises(NotRecorded) as told:
        await stage.replay()
    assert told.value.reason == "no-journal"


async def test_a_model_that_failed_in_an_older_record_is_told(stage):
    stage.script = [Reply(status=400, text="no")]
    await stage.record("name: p\nsteps: [{name: a, type: agent, instruction: Say., tools: []}]\n")
    path = stage.last.path / "journal.jsonl"
    lines = [line for line in path.read_text().splitlines() if '"told"' not in line]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(NotRecorded, match="does not say how the call") as told:
        await stage.replay()
    assert told.value.reason == "no-result"


async def test_the_tools_of_many_runs_are_kept_once(stage):
    for _ in range(3):
        await stage.record(CHAIN)
    files = list(stage.settings.state_dir.glob("runs/*/tools.json"))
    assert len(files) == 3
    assert len({file.stat().st_ino for file in files}) == 1
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)


def test_a_lost_call_keeps_what_was_known_of_it():
    from fractale.graph.errors_as_data import cut_data, cut_of

    told = cut_data(asyncio.CancelledError(TransportError("not there", sent=False, hint="wait")))
    (known,) = cut_of(told).args
    assert (known.message, known.sent, known.hint) == ("not there", False, "wait")
    assert cut_of(cut_data(asyncio.CancelledError())).args == ()


# -- jobs and forks -------------------------------------------------------------------------------

JOB = """
name: p
steps:
  - name: melt
    job:
      script: |
        echo "speed=7 steps=100"
      scheduler: local
      outputs: {speed: 'speed=([0-9]+)'}
  - {name: use, tool: look, inputs: {at: "{{ steps.melt.outputs.speed }}"}}
"""


async def test_a_batch_job_is_not_submitted_and_its_log_is_read_by_todays_plan(stage):
    stage.settings = replace(stage.settings, environment=dict(os.environ))
    await stage.record(JOB)
    assert stage.result.status == "success", stage.result.error
    folders = sorted(stage.last.path.glob("jobs/*"))
    await stage.equal()
    assert sorted(stage.last.path.glob("jobs/*")) == folders
    found = (await stage.replay(JOB.replace("speed=([0-9]+)", "steps=([0-9]+)"))).divergence
    assert (found.what, found.step) == ("outcome", "melt")
    assert (found.recorded["outputs"]["speed"], found.now["outputs"]["speed"]) == (7, 100)
    shutil.rmtree(stage.last.path / "jobs")
    await stage.equal()  # as it was read then


SAYS_SECRET = """
name: p
steps:
  - name: melt
    job: {script: cat key.txt; echo speed=7, scheduler: local, outputs: {speed: 'speed=([0-9]+)'}}
"""


async def test_a_job_s_log_with_a_secret_is_replayed_here_and_packed_without_it(stage):
    secret = "read-by-the-job-4711"
    stage.settings = replace(stage.settings, environment=dict(os.environ), secrets=(secret,))
    (stage.folder / "key.txt").write_text(secret)
    await stage.record(SAYS_SECRET.replace("key.txt", str(stage.folder / "key.txt")))
    assert stage.result.status == "success", stage.result.error
    with open_recording(stage.last.path) as own:
        assert (await replay(own, stage.settings)).divergence is None
    for name in ("packed", "packed.zip"):
        write_recording(stage.last, stage.folder / name, [secret])
        with open_recording(stage.folder / name) as packed:
            kept = [path for path in packed.record.path.rglob("*") if path.is_file()]
            assert any(path.name == "log" and b"***" in path.read_bytes() for path in kept)
            assert not [path for path in kept if secret.encode() in path.read_bytes()]
            elsewhere = replace(stage.settings, secrets=("speed=7",))
            assert (await replay(packed, elsewhere)).divergence is None


async def test_a_fork_is_replayed_from_where_it_began(stage):
    await stage.record(CHAIN)
    changes = ForkChanges(outputs={"first": {"changed": "other"}})
    with stage.runs() as runs:
        stage.result = await runs.fork(stage.result.run, "second", changes=changes)
    assert stage.result.outputs == {"seen": "other"}
    replayed = await stage.equal()
    assert [e["step"] for e in stage.told if e["event"] == "step_started"] == ["second"]
    assert replayed.of < 8


# -- sub-agents whose code is not there ------------------------------------------------------------


async def tell(host, request) -> AgentAnswer:
    answer = await host.ask_model([HumanMessage("What of this?")])
    (tool,) = [each for each in await host.tools() if each.name == "look"]
    seen = await host.call_tool(tool, {"at": str(request.inputs.get("at") or answer.text)})
    host.show("seen", [{"at": seen.structured["seen"]}])
    return AgentAnswer(outputs={"told": seen.structured["seen"]}, text="as seen")


async def give_up(host, request) -> AgentAnswer:
    return AgentAnswer(outputs={}, error="there is nothing to tell")


async def not_done(host, request) -> AgentAnswer:
    raise NotDone("too hard")


async def stumble(host, request) -> AgentAnswer:
    raise ToolError("it stumbled")


MINE = [
    Subagent(name=run.__name__, description="Mine.", run=run)
    for run in (tell, give_up, not_done, stumble)
]
ASKED = """
name: p
steps:
  - {name: one, agent: tell, instruction: Look., inputs: {at: here}}
  - {name: each, agent: tell, foreach: [a, b], instruction: Look., inputs: {at: "{{ item }}"}}
  - {name: up, agent: give_up, instruction: x, transitions: {failed: not}}
  - {name: not, agent: not_done, instruction: x, transitions: {failed: over}}
  - {name: over, agent: stumble, instruction: x, transitions: {failed: last}}
  - {name: last, tool: look, inputs: {at: "{{ steps.one.outputs.told }}"}}
outputs: {seen: "{{ steps.last.outputs.seen }}", each: "{{ steps.each.outputs }}"}
"""


async def test_what_a_sub_agent_did_is_taken_from_the_record(stage):
    stage.agents = Catalog(MINE)
    stage.script = lambda request: Reply(text="x", input_tokens=7, output_tokens=2)
    await stage.record(ASKED, yes=True)
    assert stage.result.status == "success", stage.result.error
    whole = await stage.equal()
    assert whole.missing == ()
    stage.agents = Catalog()
    without = await stage.equal()
    assert without.missing == ("tell", "give_up", "not_done", "stumble")
    assert without.of == whole.of
    today = ASKED.replace("steps.one.outputs.told", "steps.one.outputs.told }}!{{ ''")
    found = (await stage.replay(today)).divergence
    assert (found.what, found.step) == ("arguments", "last")


async def test_what_the_record_does_not_have_of_a_sub_agent_is_said(stage):
    stage.agents = Catalog(MINE)
    text = """
    name: p
    steps: [{name: one, agent: tell, instruction: Look., judge: true}]
    """
    stage.script = [Reply(text="x"), Reply(data={"reason": "so", "success": True})]
    await stage.record(text, yes=True)
    stage.agents = Catalog()
    with pytest.raises(NotRecorded, match="`tell` answered in step `one`: a model judged"):
        await stage.replay()
    with pytest.raises(PlanError, match="strange"):
        await stage.replay(text.replace("agent: tell", "agent: strange"))
