"""Questions whose default is taken after a time: by a person or without, early, late, replayed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from fractale.api import areplay
from fractale.clock import SystemClock
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies
from fractale.plan.build import load_plan, parse_plan
from fractale.questions import MISSING, Answers
from fractale.runs import RunOptions, Runs
from fractale.runs.ready import look
from fractale.testing import FakeToolServer

PLAN = """
name: p
steps:
  - name: gate
    ask: Publish?
    choices: [publish, drop]
    default: drop
    default_after: 2h
    rules: {published: answer == 'publish'}
    transitions: {published: success}
outputs: {answer: "{{ steps.gate.outputs.answer }}"}
"""
NOTICE = "no answer within 2 h 00 min: the default `drop` was taken"


class Ahead(SystemClock):
    """A clock that is some seconds ahead of the machine's."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def wall(self) -> float:
        return super().wall() + self.seconds

    def boot(self) -> float:
        return super().boot() + self.seconds


class Person:
    """Gives some answers; after the last one, never answers."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def answer(self, question: dict[str, Any]) -> Any:
        self.asked.append(question["step"])
        if not self._answers:
            await asyncio.Event().wait()
        return self._answers.pop(0)


def plan_of(tmp_path, text=PLAN):
    (tmp_path / "p.yaml").write_text(text)
    return load_plan(tmp_path / "p.yaml")


async def begun(settings, tmp_path, text=PLAN, **options):
    """A run that waits for an answer, its service and its plan."""
    runs, plan = Runs(settings, FakeToolServer()), plan_of(tmp_path, text)
    first = await runs.start(plan, options=RunOptions(**options))
    assert first.status == "waiting", first
    return runs, plan, first


async def test_the_question_waits_and_the_default_is_taken_when_its_time_has_come(
    settings, tmp_path
):
    runs, plan, first = await begun(settings, tmp_path)
    (question,) = first.waiting
    assert question["due"]["seconds"] == 7200
    early = await runs.resume(first.run, RunOptions(clock=Ahead(7000)), plan=plan)
    assert early.status == "waiting"
    assert early.waiting[0]["due"] == question["due"], "counted from the first time it was asked"
    events: list[Any] = []
    options = RunOptions(clock=Ahead(7201), listeners=[events.append])
    late = await runs.resume(first.run, options, plan=plan)
    assert (late.status, late.outputs) == ("success", {"answer": "drop"})
    (answered,) = [event.data for event in events if event.kind == "answered"]
    assert (answered["by"], answered["answer"]) == ("default_after", "drop")
    assert [notice["message"] for notice in late.notices] == [NOTICE]


async def test_a_default_that_was_taken_keeps_its_sources(settings, tmp_path):
    """No person confirmed what a page wrote, so fractale asks before a call with it."""
    tools = FakeToolServer()

    @tools.tool(read_only=True, annotations={"openWorldHint": True})
    def get_page() -> dict[str, Any]:
        return {"page": "eve@evil.example"}

    @tools.tool
    def send(to: str) -> dict[str, Any]:
        return {"sent": to}

    text = """
name: p
steps:
  - {name: page, tool: get_page}
  - name: gate
    ask: To whom?
    form: {type: object, properties: {to: {type: string}, cc: {type: string, default: me}}}
    default: {to: "{{ steps.page.outputs.page }}"}
    default_after: 2h
  - {name: send, tool: send, inputs: {to: "{{ steps.gate.outputs.to }}"}}
"""
    runs, plan = Runs(settings, tools), plan_of(tmp_path, text)
    first = await runs.start(plan)
    late = await runs.resume(first.run, RunOptions(clock=Ahead(7201)), plan=plan)
    (question,) = late.waiting
    assert question["origins"][0]["from"] == ["fake.get_page"]


async def test_such_a_run_is_ready_once_the_time_has_come(settings, tmp_path):
    _, _, first = await begun(settings, tmp_path, PLAN.replace("2h", "1h"))
    waiting = await asyncio.to_thread(look, settings)
    assert (list(waiting.ready), list(waiting.timed)) == ([], [first.run])
    _, _, soon = await begun(settings, tmp_path, PLAN.replace("2h", "2s"))
    await asyncio.sleep(2.1)
    ready = (await asyncio.to_thread(look, settings)).ready
    assert [each.run for each in ready] == [soon.run]


@pytest.mark.parametrize("where", ["replies", "answers"])
async def test_an_answer_that_comes_late_precedes_the_default(settings, tmp_path, where):
    runs, plan, first = await begun(settings, tmp_path)
    given = {where: Answers({"gate": "publish"})}
    late = await runs.resume(first.run, RunOptions(clock=Ahead(9000), **given), plan=plan)
    assert (late.outputs, late.notices) == ({"answer": "publish"}, [])


async def test_the_default_is_taken_while_a_person_thinks(settings, tmp_path):
    plan, person = plan_of(tmp_path, PLAN.replace("2h", "50ms")), Person()
    runs = Runs(settings, FakeToolServer())
    result = await runs.start(plan, options=RunOptions(person=person))
    assert (result.status, result.outputs, person.asked) == (
        "success",
        {"answer": "drop"},
        ["gate"],
    )


BOTH = """
name: p
steps:
  - name: both
    parallel:
      - {name: slow, ask: Slow?, choices: [a, b]}
      - {name: soon, ask: Soon?, choices: [a, b], default: b, default_after: 50ms}
outputs:
  slow: "{{ steps.both.outputs.slow.answer }}"
  soon: "{{ steps.both.outputs.soon.answer }}"
"""


async def test_a_question_before_it_does_not_hold_up_the_default(settings, tmp_path):
    """The person sits at `slow` when the time of `soon` comes, and is then asked again."""

    class Thinks(Person):
        async def answer(self, question: dict[str, Any]) -> Any:
            self.asked.append(question["step"])
            if len(self.asked) == 1:
                await asyncio.Event().wait()
            return "a"

    person = Thinks()
    runs, plan = Runs(settings, FakeToolServer()), plan_of(tmp_path, BOTH)
    result = await runs.start(plan, options=RunOptions(person=person))
    assert result.outputs == {"slow": "a", "soon": "b"}
    assert person.asked == ["both/slow", "both/slow"]


async def test_each_item_has_its_own_time(settings, tmp_path):
    text = """
    name: p
    steps:
      - name: each
        foreach: [one, two]
        ask: "{{ item }}?"
        default: none
        default_after: 1h
    outputs: {all: "{{ steps.each.outputs | map(attribute='answer') | list }}"}
    """
    runs, plan, first = await begun(
        settings, tmp_path, text, replies=Answers(), answers=Answers({"each[1]": "2"})
    )
    assert [each["step"] for each in first.waiting] == ["each[0]"]
    late = await runs.resume(first.run, RunOptions(clock=Ahead(3601)), plan=plan)
    assert late.outputs == {"all": ["none", "2"]}


async def test_a_bare_graph_takes_the_default_when_it_is_invoked_late():
    plan = parse_plan(PLAN.replace("2h", "50ms"))
    graph = compile_plan(plan, Dependencies(toolbox=FakeToolServer())).compile(
        checkpointer=InMemorySaver()
    )
    thread = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in await graph.ainvoke({}, thread)
    await asyncio.sleep(0.1)
    last = await graph.ainvoke(None, thread)
    assert (last["status"], last["outputs"]) == ("success", {"answer": "drop"})


@pytest.mark.parametrize("answer", ["publish", MISSING])
async def test_a_replay_goes_by_the_record_and_not_by_the_time(settings, tmp_path, answer):
    text = PLAN.replace("2h", "50ms")
    given = {} if answer is MISSING else {"answers": Answers({"gate": answer})}
    runs, plan = Runs(settings, FakeToolServer()), plan_of(tmp_path, text)
    person = Person()
    result = await runs.start(plan, options=RunOptions(person=person, **given))
    assert result.outputs == {"answer": "drop" if answer is MISSING else "publish"}
    replayed = await areplay(result.run, settings=settings)
    assert replayed.equal, replayed


async def test_a_run_that_waits_is_replayed_as_one_that_waits(settings, tmp_path):
    _, _, first = await begun(settings, tmp_path, PLAN.replace("2h", "2s"))
    await asyncio.sleep(2.1)
    assert (await areplay(first.run, settings=settings)).equal
