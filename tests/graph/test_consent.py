"""Only a clear yes acts, and an answer goes to the question that it was given to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import fractale
from fractale.errors import AnswerError
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.state import initial_state
from fractale.plan.build import parse_plan
from fractale.policy import Policy
from fractale.questions import (
    MISSING,
    Answers,
    approval,
    elicitation,
    identity,
    in_doubt,
    question,
    read_answer,
    read_reply,
    reply,
    review,
)
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply

ASKED = "name: p\nsteps: [{name: s, tool: erase, inputs: {path: a}, approve: always}]\n"

NO = ["no", "n", "No", " NO ", "false", False]
YES = ["yes", "y", "YES", "ok", "true", True, "once"]
NEITHER = [
    "", " ", "nope", "never", "yes please", "failed", "again", "0", "1", "null", "none",
    None, 0, 1, 0.0, [], ["yes"], {}, {"approved": False}, {"approved": True},
    {"arguments": "yes"}, {"answer": "yes"},
]  # fmt: skip


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def erase(path: str) -> dict:
        """Erase a file."""
        return {"returncode": 0}

    return server


class Person:
    """Gives the same answer to every approval."""

    def __init__(self, says: Any) -> None:
        self.says = says

    async def answer(self, question):
        return self.says if question["kind"] == "approval" else MISSING


@pytest.mark.parametrize("says", NO)
async def test_a_no_of_a_person_in_python_makes_no_call(run_plan, tools, says):
    seen = await run_plan(ASKED, tools=tools, person=Person(says))
    assert tools.calls == []
    assert seen.status == "failed"
    assert "a person refused" in seen.result.error


@pytest.mark.parametrize("says", YES)
async def test_a_yes_makes_the_call_once(run_plan, tools, says):
    seen = await run_plan(ASKED, tools=tools, person=Person(says))
    assert [call.name for call in tools.calls] == ["erase"]
    assert seen.status == "success"


@pytest.mark.parametrize("says", NEITHER, ids=repr)
async def test_any_other_answer_is_refused_and_the_question_stays_open(run_plan, tools, says):
    with pytest.raises(AnswerError) as caught:
        await run_plan(ASKED, tools=tools, person=Person(says))
    assert tools.calls == []
    assert "yes, always, no" in str(caught.value.hint)


async def bare(tools: FakeToolServer, plan: str = ASKED):
    """A plan's graph without a run around it, as an engineer uses it."""
    graph = compile_plan(parse_plan(plan, "p.yaml"), Dependencies(toolbox=tools)).compile(
        checkpointer=InMemorySaver()
    )
    config = {"configurable": {"thread_id": "t"}}

    async def invoke(given: Any) -> dict[str, Any]:
        return await graph.ainvoke(given, config, context=RunContext())

    return invoke, await invoke(initial_state({}))


@pytest.mark.parametrize("says", NO)
async def test_a_no_to_the_bare_graph_makes_no_call(tools, says):
    invoke, _ = await bare(tools)
    after = await invoke(Command(resume=says))
    assert tools.calls == []
    assert after["status"] == "failed"


@pytest.mark.parametrize("says", [each for each in NEITHER if each not in (None, {})], ids=repr)
async def test_the_bare_graph_asks_again_and_says_what_was_wrong(tools, says):
    invoke, _ = await bare(tools)
    after = await invoke(Command(resume=says))
    assert tools.calls == []
    (waiting,) = after["__interrupt__"]
    assert "yes, always, no" in waiting.value["problem"]
    after = await invoke(Command(resume="yes"))
    assert (after["status"], len(tools.calls)) == ("success", 1)


async def test_a_bare_graph_answers_a_servers_question(tools):
    @tools.tool
    async def release(job: int) -> dict:
        return dict(await tools.elicit(f"Release job {job}?"))

    plan = (
        "name: p\noutputs: {said: '{{ steps.s.outputs }}'}\n"
        "steps: [{name: s, tool: release, inputs: {job: 4}}]\n"
    )
    invoke, first = await bare(tools, plan)
    assert first["__interrupt__"][0].value["message"] == "Release job 4?"
    after = await invoke(Command(resume="please"))
    assert after["status"] == "success"
    assert after["outputs"]["said"] == {"action": "accept", "content": {"value": "please"}}


# -- which question an answer belongs to -----------------------------------------------------------


def test_the_same_question_has_the_same_identity_whatever_is_said_about_it():
    asked = approval("s", "erase", {"path": "a"}, "the settings ask before it")
    again = {**approval("s", "erase", {"path": "a"}, "a model chose it"), "id": "4", "number": 2}
    assert identity(asked) == identity(again)


@pytest.mark.parametrize(
    "other",
    [
        approval("s", "erase", {"path": "b"}, ""),
        approval("s", "look", {"path": "a"}, ""),
        approval("t", "erase", {"path": "a"}, ""),
        in_doubt("s", "erase", {"path": "a"}),
        elicitation("s", "erase", "a", {}),
    ],
)
def test_another_question_has_another_identity(other):
    assert identity(approval("s", "erase", {"path": "a"}, "")) != identity(other)


def test_only_a_reply_is_read_as_one():
    asked = approval("s", "erase", {}, "")
    assert read_reply(reply(asked, "always")) == (identity(asked), "always")
    for value in ("yes", True, None, {}, {"arguments": {}}, {"fractale.answer": True}):
        assert read_reply(value) is None


async def test_an_answer_to_another_question_is_not_taken_for_agreement(tools):
    # What a run is asked can change between two of its processes: the answer waits for its own.
    invoke, first = await bare(tools)
    doubt = reply(in_doubt("s", "erase", {"path": "a"}), "again")
    after = await invoke(Command(resume=doubt))
    assert tools.calls == []
    assert after["__interrupt__"][0].value["kind"] == "approval"
    asked = first["__interrupt__"][0].value
    after = await invoke(Command(resume=reply(asked, True)))
    assert (after["status"], len(tools.calls)) == ("success", 1)


# -- a server's question ---------------------------------------------------------------------------

LOOP = """
name: p
steps:
  - name: release
    tool: release
    rules: {again: [attempts < 3]}
    transitions: {again: release}
    max_attempts: 3
"""


async def test_a_server_is_answered_anew_at_each_attempt_of_its_step(run_plan, tools):
    asked: list[dict[str, Any]] = []

    @tools.tool
    async def release() -> dict:
        return dict(await tools.elicit("Release the draft?"))

    class Once:
        async def answer(self, question):
            asked.append(dict(question))
            return "yes" if len(asked) == 1 else MISSING

    seen = await run_plan(LOOP, tools=tools, person=Once())
    assert seen.status == "waiting"  # the second draft is not released by the first answer
    assert len({question["call"] for question in asked}) == 2
    assert seen.result.waiting[0]["message"] == "Release the draft?"


async def test_a_server_that_asks_twice_in_one_call_gets_two_answers(run_plan, tools):
    @tools.tool
    async def release() -> dict:
        first = await tools.elicit("Release?")
        second = await tools.elicit("Release?")
        return {"first": first["content"]["value"], "second": second["content"]["value"]}

    class Counting:
        said = 0

        async def answer(self, question):
            self.said += 1
            return f"answer {self.said}"

    plan = "name: p\nsteps: [{name: s, tool: release}]\noutputs: {got: '{{ steps.s.outputs }}'}\n"
    seen = await run_plan(plan, tools=tools, person=Counting())
    assert seen.result.outputs["got"] == {"first": "answer 1", "second": "answer 2"}


# -- what is asked about ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({}, "'path' is a required property"),
        ({"path": 4}, "4 is not of type 'string'"),
        ({"path": "a", "nodes": "many"}, "'many' is not of type 'integer'"),
    ],
)
async def test_a_call_that_does_not_fit_its_tool_is_refused_before_a_person_is_asked(
    run_plan, arguments, wrong
):
    tools = FakeToolServer()

    @tools.tool
    def erase(path: str, nodes: int = 1) -> dict:
        return {"returncode": 0}

    model = ScriptedModel([Reply(tool_calls=[("erase", arguments)]), "I could not."])
    plan = "name: p\nsteps: [{name: s, agent: ask, instruction: Clean up}]\n"
    seen = await run_plan(plan, tools=tools, model=model)
    assert seen.of("waiting") == []
    assert wrong in str(model.requests[1][-1].content)
    assert tools.calls == []


async def test_text_that_a_server_converts_is_no_misfit(run_plan):
    tools = FakeToolServer()

    @tools.tool
    def resize(nodes: int) -> dict:
        return {"returncode": 0}

    plan = """
        name: p
        inputs: {n: 4}
        steps: [{name: s, tool: resize, inputs: {nodes: "{{ inputs.n }} "}, approve: always}]
    """
    seen = await run_plan(plan, tools=tools)
    assert seen.status == "waiting"


async def test_what_yes_agreed_to_stays_agreed_to_after_a_kill(settings, tmp_path):
    # The call had begun: it is in the journal, and only a call that was agreed to is.
    plan = tmp_path / "plan.yaml"
    plan.write_text(ASKED)
    tools, called = FakeToolServer(), asyncio.Event()

    @tools.tool
    async def erase(path: str) -> None:
        called.set()
        await asyncio.Event().wait()

    runs = Runs(settings, tools, policy=Policy(yes=True))
    begun = asyncio.create_task(runs.start(fractale.load(plan), {}, RunOptions(run_id="r1")))
    await called.wait()
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    journal = settings.state_dir / "runs" / "r1" / "journal.jsonl"
    assert "result" not in journal.read_text()

    runs = Runs(settings, tools)
    waiting = await runs.resume("r1", RunOptions())
    assert [q["kind"] for q in waiting.waiting] == ["in_doubt"]
    done = await runs.resume("r1", RunOptions(replies=Answers({"s": "failed"})))
    assert done.status == "failed"
    assert "counts as failed" in done.error
    assert len(tools.calls) == 1


@pytest.mark.parametrize("says", [each for each in NEITHER if each not in (None, {})], ids=repr)
async def test_an_answer_in_the_form_of_a_reply_is_read_too(tools, says):
    invoke, state = await bare(tools)
    question = state["__interrupt__"][0].value
    after = await invoke(Command(resume=reply(question, says)))
    assert tools.calls == []
    assert "yes, always" in after["__interrupt__"][0].value["problem"]
    await invoke(Command(resume=reply(question, True)))
    assert len(tools.calls) == 1


# -- the form of LangChain's human-in-the-loop middleware ------------------------------------------

DECISIONS = [
    ({"type": "approve"}, "a", ""),
    ({"type": "edit", "edited_action": {"name": "erase", "args": {"path": "b"}}}, "b", ""),
    ({"type": "edit", "edited_action": {"args": {"path": "b"}}}, "b", ""),
    ({"type": "reject"}, None, "a person refused the call of `erase`"),
    ({"type": "reject", "message": "not today"}, None, "the call of `erase`: not today"),
]


@pytest.mark.parametrize(("decision", "path", "error"), DECISIONS, ids=repr)
@pytest.mark.parametrize("form", ["batched", "per call", "by id"])
async def test_decisions_of_langchain_answer_an_approval(tools, decision, path, error, form):
    invoke, first = await bare(tools)
    (asked,) = first["__interrupt__"]
    answer = decision if form == "per call" else {"decisions": [decision]}
    after = await invoke(Command(resume={asked.id: answer} if form == "by id" else answer))
    assert [call.arguments["path"] for call in tools.calls] == ([path] if path else [])
    assert after["status"] == ("success" if path else "failed")
    assert error in str(after["error"])


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"decisions": []}, "a list of one decision"),
        ({"decisions": [{"type": "approve"}] * 2}, "a list of one decision"),
        ({"decisions": ["approve"]}, "answer with"),
        ({"decisions": [{"type": "accept"}]}, "answer with"),
        ({"decisions": [{"type": "approve", "args": {}}]}, "answer with"),
        ({"decisions": [{"type": "respond", "message": "yes"}]}, "approve, edit or reject it"),
        ({"decisions": [{"type": "edit"}]}, "answer with"),
        (
            {"decisions": [{"type": "edit", "edited_action": {"name": "rm", "args": {}}}]},
            "not of `rm`",
        ),
        ({"type": "accept"}, "answer with"),
        ({"type": "ignore"}, "answer with"),
        ([{"type": "response", "args": "yes"}], "answer with"),
        ({"refuse": ""}, "answer with"),
    ],
    ids=repr,
)
async def test_any_other_decision_is_asked_again(tools, answer, problem):
    invoke, _ = await bare(tools)
    after = await invoke(Command(resume=answer))
    assert tools.calls == []
    assert problem in after["__interrupt__"][0].value["problem"]
    after = await invoke(Command(resume={"decisions": [{"type": "approve"}]}))
    assert (after["status"], len(tools.calls)) == ("success", 1)


def test_decisions_answer_other_kinds_of_questions():
    draft = review("s", "name: p", None, 1)
    assert read_answer(draft, {"type": "approve"}) == "accept"
    assert read_answer(draft, {"decisions": [{"type": "reject"}]}) == "reject"
    edit = {"type": "edit", "edited_action": {"name": "plan", "args": {"plan": "name: q"}}}
    assert read_answer(draft, edit) == {"plan": "name: q"}
    asked = question("s", "Which?", ["a", "b"], free=False)
    assert read_answer(asked, {"type": "respond", "message": "b"}) == "b"
    for wrong in ({"type": "respond", "message": "c"}, {"type": "approve"}):
        with pytest.raises(AnswerError):
            read_answer(asked, wrong)
    server = elicitation("s", "srv", "Who?", {"properties": {"who": {"type": "string"}}})
    assert read_answer(server, {"type": "reject"}) == {"action": "decline"}
    answered = {"action": "accept", "content": {"who": "me"}}
    assert read_answer(server, {"type": "respond", "message": "me"}) == answered
    with pytest.raises(AnswerError):
        read_answer(server, {"type": "approve"})
    for doubtful in ({"type": "approve"}, {"type": "reject"}):
        with pytest.raises(AnswerError):
            read_answer(in_doubt("s", "t", {}), doubtful)
