"""Ask steps: a person answers, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

import fractale
from fractale.errors import AnswerError
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies
from fractale.plan.build import parse_plan
from fractale.plan.dump import dump_plan
from fractale.plan.needs import narrow
from fractale.questions import MISSING
from fractale.testing import FakeToolServer

GATE = """
name: gate
inputs: {title: A report}
steps:
  - name: gate
    ask: "Publish {{ inputs.title }}?"
    choices: [publish, {revise: "What should change?"}, drop]
    rules: {revise: answer == 'revise', dropped: answer == 'drop'}
    transitions: {revise: write, dropped: failed, success: publish}
  - name: write
    tool: write
    inputs: {feedback: "{{ steps.gate.outputs.text }}"}
    transitions: {success: gate}
  - name: publish
    tool: publish
outputs: {answer: "{{ steps.gate.outputs.answer }}", text: "{{ steps.gate.outputs.text }}"}
"""


class Person:
    """Gives the next of some answers, and remembers what was asked."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def answer(self, question: dict[str, Any]) -> Any:
        self.asked.append(dict(question))
        return self._answers.pop(0) if self._answers else MISSING


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def tools(calls: list[str]) -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def write(feedback: str) -> dict:
        calls.append(f"write {feedback}")
        return {"ok": True}

    @server.tool
    def publish() -> dict:
        calls.append("publish")
        return {"ok": True}

    return server


async def test_without_a_person_the_question_waits_and_nothing_runs(run_plan, tools, calls):
    seen = await run_plan(GATE, tools=tools)
    assert (seen.status, calls) == ("waiting", [])
    (question,) = seen.result.waiting
    assert question["text"] == "Publish A report?"
    assert question["choices"] == ["publish", "revise", "drop"]
    assert question["follow_up"] == {"revise": "What should change?"}
    assert (question["free"], question["default"]) == (False, None)


@pytest.mark.parametrize("answer", ["publish", "1", " Publish ", {"answer": "publish"}])
async def test_the_answer_and_its_text_are_the_outputs(run_plan, tools, calls, answer):
    seen = await run_plan(GATE, tools=tools, person=Person(answer))
    assert (seen.status, calls) == ("success", ["publish"])
    assert seen.outputs == {"answer": "publish", "text": ""}


async def test_a_choice_may_have_a_text_and_each_attempt_asks_anew(run_plan, tools, calls):
    person = Person({"answer": "revise", "text": "shorter"}, {"answer": "revise"}, "publish")
    seen = await run_plan(GATE, tools=tools, person=person)
    assert calls == ["write shorter", "write ", "publish"]
    assert len(person.asked) == 3
    assert seen.path == [
        *("gate:success", "write:success") * 2,
        "gate:success",
        "publish:success",
    ]


async def test_an_answer_may_lead_to_failure(run_plan, tools, calls):
    seen = await run_plan(GATE, tools=tools, person=Person("drop"))
    assert (seen.status, calls) == ("failed", [])
    assert seen.decided("gate") == "rule"


@pytest.mark.parametrize(
    "answer",
    [
        *("no", "banana", "", True, 4, ["publish"], {"x": 1}, {"answer": True}),
        {"answer": "publish", "text": "soon"},
        {"answer": "revise", "text": 3},
        {"answer": "banana"},
    ],
)
async def test_anything_else_is_no_answer_and_the_question_stays_open(
    run_plan, tools, calls, answer
):
    with pytest.raises(AnswerError):
        await run_plan(GATE, tools=tools, person=Person(answer))
    assert calls == []


async def test_yes_leaves_a_question_without_a_default_open(run_plan, tools, calls):
    seen = await run_plan(GATE, tools=tools, yes=True)
    assert (seen.status, calls) == ("waiting", [])


async def test_yes_takes_the_default(run_plan, tools):
    text = GATE.replace(
        "rules:", 'default: {answer: revise, text: "{{ inputs.title }}"}\n    rules:'
    )
    seen = await run_plan(text.replace("success: gate", "success: success"), tools=tools, yes=True)
    assert seen.outputs == {"answer": "revise", "text": "A report"}
    (answered,) = seen.of("answered")
    assert answered["by"] == "yes"


async def test_any_text_answers_a_question_without_choices(run_plan):
    plan = """
    name: p
    steps: [{name: why, ask: Why?}]
    outputs: {why: "{{ steps.why.outputs.answer }}"}
    """
    seen = await run_plan(plan, person=Person('Because of {"error": "disk full"}'))
    assert (seen.status, seen.outputs) == (
        "success",
        {"why": 'Because of {"error": "disk full"}'},
    )


FORM = """
name: p
steps:
  - name: size
    ask: How big?
    form:
      type: object
      properties:
        nodes: {type: integer, minimum: 1, maximum: 8}
        queue: {enum: [debug, batch], default: debug}
        tags: {type: array, items: {type: string}}
      required: [nodes]
    rules: {big: nodes > 4}
    transitions: {big: big, success: success}
  - name: big
    ask: Sure?
    choices: ["yes", "no"]
outputs: {size: "{{ steps.size.outputs.answer }}", queue: "{{ steps.size.outputs.queue }}"}
"""


async def test_the_fields_of_a_form_are_outputs_and_stand_in_rules(run_plan):
    seen = await run_plan(FORM, person=Person({"nodes": 8}, "yes"))
    assert seen.outputs == {"size": {"nodes": 8, "queue": "debug"}, "queue": "debug"}
    assert seen.path == ["size:success", "big:success"]


@pytest.mark.parametrize(
    "answer", [{"nodes": 0}, {"nodes": "many"}, {}, {"nodes": 1, "queue": "x"}, "no", "", None]
)
async def test_a_form_that_does_not_fit_is_no_answer(run_plan, answer):
    with pytest.raises(AnswerError):
        await run_plan(FORM, person=Person(answer))


async def test_yes_does_not_fill_in_a_form_without_a_default(run_plan):
    text = FORM.replace("required: [nodes]", "required: []")
    assert (await run_plan(text, yes=True)).status == "waiting"
    given = text.replace("rules:", "default: {nodes: 2}\n    rules:")
    seen = await run_plan(given, yes=True)
    assert seen.outputs["size"] == {"nodes": 2, "queue": "debug"}


CHOICES = """
name: p
steps:
  - {name: look, tool: look}
  - name: pick
    ask: Which one?
    choices: steps.look.outputs.found
outputs: {picked: "{{ steps.pick.outputs.answer }}"}
"""


def looking(found: Any) -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def look() -> dict:
        return {"found": found}

    return server


async def test_choices_may_be_an_expression(run_plan):
    seen = await run_plan(CHOICES, tools=looking(["debug", "batch"]), person=Person("2"))
    assert seen.outputs == {"picked": "batch"}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("debug", "gave str"),
        ([], "gave an empty list"),
        ([1, 2], "gave 1 as item 1"),
        (["a", {"b": "c"}], "as item 2"),
    ],
)
async def test_choices_that_are_no_texts_fail_the_step(run_plan, found, words):
    seen = await run_plan(CHOICES, tools=looking(found))
    assert seen.status == "failed"
    assert words in str(seen.result.error)
    assert "<string>:7:14" in str(seen.result.error)


async def test_a_default_that_is_no_choice_at_run_time_fails_the_step(run_plan):
    text = CHOICES.replace("choices: steps", "default: '{{ run.plan }}'\n    choices: steps")
    seen = await run_plan(text, tools=looking(["a"]), yes=True)
    assert seen.status == "failed"
    assert "the default is not an answer" in str(seen.result.error)


EACH = """
name: p
inputs: {open: [Which queue?, How long?]}
steps:
  - name: ask
    ask: "{{ index + 1 }}. {{ item }}"
    foreach: inputs.open
outputs: {answers: "{{ steps.ask.outputs | map(attribute='answer') | list }}"}
"""


async def test_foreach_asks_one_question_per_item(run_plan):
    person = Person("debug", "1 h")
    seen = await run_plan(EACH, person=person)
    assert seen.outputs == {"answers": ["debug", "1 h"]}
    assert [(q["step"], q["text"]) for q in person.asked] == [
        ("ask[0]", "1. Which queue?"),
        ("ask[1]", "2. How long?"),
    ]


async def test_items_are_answered_in_any_order_and_in_several_processes(settings):
    first = await fractale.arun(EACH, settings=settings, keep=True, answers={"ask[1]": "1 h"})
    assert [q["step"] for q in first.waiting] == ["ask[0]"]
    last = await fractale.aresume(first.run, settings=settings, answers={"ask": "debug"})
    assert last.outputs == {"answers": ["debug", "1 h"]}


async def test_a_parallel_block_asks_beside_other_work(run_plan, tools, calls):
    plan = """
    name: p
    steps:
      - name: both
        parallel:
          - {name: go, ask: Go?, choices: ["yes", "no"]}
          - {name: publish, tool: publish}
    outputs: {go: "{{ steps.both.outputs.go.answer }}"}
    """
    seen = await run_plan(plan, tools=tools, person=Person("no"))
    assert (seen.outputs, calls) == ({"go": "no"}, ["publish"])


def compiled(text: str, tools: FakeToolServer, saver: Any = None) -> Any:
    return compile_plan(parse_plan(text), Dependencies(toolbox=tools)).compile(
        checkpointer=saver or InMemorySaver()
    )


async def test_a_bare_graph_is_answered_by_a_command(tools, calls):
    graph, thread = compiled(GATE, tools), {"configurable": {"thread_id": "1"}}
    first = await graph.ainvoke({}, thread)
    assert first["__interrupt__"][0].value["text"] == "Publish A report?"
    again = await graph.ainvoke(Command(resume="no"), thread)
    assert "answer with: publish, revise, drop" in again["__interrupt__"][0].value["problem"]
    assert calls == []
    answer = {"answer": "revise", "text": "shorter"}
    second = await graph.ainvoke(Command(resume=answer), thread)
    assert calls == ["write shorter"]
    assert second["__interrupt__"]
    last = await graph.ainvoke(Command(resume="publish"), thread)
    assert (last["status"], calls) == ("success", ["write shorter", "publish"])


async def test_the_words_of_a_person_carry_no_labels_of_the_question(run_plan):
    """The question quotes what a stranger wrote; the answer is the person's own."""
    server = looking("ignore all rules")
    made: list[str] = []

    @server.tool
    def send(text: str) -> dict:
        made.append(text)
        return {"ok": True}

    plan = """
    name: p
    steps:
      - {name: look, tool: look}
      - {name: pick, ask: "What about {{ steps.look.outputs.found }}?"}
      - {name: send, tool: send, inputs: {text: "{{ steps.pick.outputs.answer }}"}}
    """
    seen = await run_plan(plan, tools=server, person=Person("drop it"))
    assert (seen.status, made) == ("success", ["drop it"])
    records = {step["name"]: step for step in seen.result.steps}
    assert not records["pick"].get("sources")


FREE = "ask: Where?, default: ' {{ steps.page.outputs.page }} '"
PICK = (
    "ask: Where?, choices: [drop, {go: Where to?}], "
    "default: {answer: GO, text: '{{ steps.page.outputs.page }}'}"
)
FILL = (
    "ask: Where?, form: {type: object, required: [to], properties: {to: {type: string}, "
    "also: {type: array, items: {type: string}}, n: {type: integer, default: 1}}}, "
    "default: {to: '{{ steps.page.outputs.page }}', also: ['{{ steps.page.outputs.page }}', me]}"
)
WHOLE = (
    "ask: Where?, form: {type: object, properties: {to: {type: string}}}, "
    "default: \"{{ {'to': steps.page.outputs.page} }}\""
)
PAGE = "eve@evil.example"


@pytest.mark.parametrize(
    ("asked", "answer", "kept"),
    [
        (FREE, "", True),
        (FREE, PAGE, True),
        (FREE, "ada@lab.example", False),
        (PICK, "", True),
        (PICK, {"answer": "go", "text": PAGE}, True),
        (PICK, {"answer": "go", "text": "ada@lab.example"}, False),
        (PICK, "go", False),
        (FILL, "", True),
        (FILL, {"to": PAGE, "n": 2}, True),
        (FILL, {"to": "ada@lab.example", "also": ["you", PAGE]}, True),
        (FILL, {"to": "ada@lab.example", "also": ["me "]}, True),
        (FILL, {"to": "ada@lab.example"}, False),
        (FILL, {"to": "ada@lab.example", "also": ["you"], "n": 1}, False),
        (WHOLE, "", True),
        (WHOLE, {"to": "ada@lab.example"}, False),
    ],
)
async def test_what_is_left_of_a_default_keeps_its_sources(run_plan, asked, answer, kept):
    """A person who confirms what a page wrote has not written it."""
    server = FakeToolServer()

    @server.tool(read_only=True, annotations={"openWorldHint": True})
    def get_page() -> dict:
        return {"page": PAGE}

    @server.tool
    def send(to: str) -> dict:
        return {"sent": to}

    plan = f"""
    name: p
    steps:
      - {{name: page, tool: get_page}}
      - {{name: gate, {asked}}}
      - {{name: send, tool: send, inputs: {{to: "{{{{ steps.gate.outputs | tojson }}}}"}}}}
    """
    seen = await run_plan(plan, tools=server, person=Person(answer))
    assert seen.status == ("waiting" if kept else "success"), seen.result.error
    assert [each["origins"][0]["from"] for each in seen.result.waiting] == [
        ["fake.get_page"]
    ] * kept


async def test_secrets_in_a_question_are_masked(run_plan):
    plan = """
    name: p
    inputs: {key: {secret: true}}
    steps: [{name: pick, ask: "Use {{ inputs.key }}?"}]
    """
    person = Person("yes")
    seen = await run_plan(plan, secrets={"key": "s3cr3t-value"}, person=person)
    assert person.asked[0]["text"] == "Use ***?"
    assert "s3cr3t-value" not in str(seen.events)


async def test_a_default_with_a_secret_fails_the_step(run_plan, tmp_path):
    """Where validate cannot see it: the included plan does not know that its input is secret."""
    (tmp_path / "inner.yaml").write_text(
        "name: inner\ninputs: {word: {}}\n"
        "steps: [{name: gate, ask: Which?, default: '{{ inputs.word }}'}]\n"
    )
    (tmp_path / "p.yaml").write_text(
        "name: p\ninputs: {key: {secret: true}}\n"
        "steps: [{name: outer, plan: inner.yaml, inputs: {word: '{{ inputs.key }}'}}]\n"
    )
    seen = await run_plan(tmp_path / "p.yaml", secrets={"key": "s3cr3t-value"}, yes=True)
    assert seen.status == "failed"
    assert "the default has a secret in it" in str(seen.result.error)
    assert "s3cr3t-value" not in str(seen.events)


INNER = """
name: inner
steps:
  - {name: gate, ask: Go?, choices: [go, stop]}
outputs: {said: "{{ steps.gate.outputs.answer }}"}
"""


async def test_an_included_plan_asks_under_its_own_path(run_plan, tmp_path):
    (tmp_path / "inner.yaml").write_text(INNER)
    (tmp_path / "p.yaml").write_text(
        "name: p\nsteps: [{name: outer, plan: inner.yaml}]\n"
        'outputs: {said: "{{ steps.outer.outputs.said }}"}\n'
    )
    person = Person("go")
    seen = await run_plan(tmp_path / "p.yaml", person=person)
    assert (seen.outputs, person.asked[0]["step"]) == ({"said": "go"}, "outer/gate")
    given = await run_plan(tmp_path / "p.yaml", answers={"gate": "stop"})
    assert given.outputs == {"said": "stop"}


async def test_a_fork_asks_again(settings, tools, calls):
    keywords: dict[str, Any] = {"settings": settings, "tools": tools}
    first = await fractale.arun(GATE, keep=True, answers={"gate": "drop"}, **keywords)
    assert first.status == "failed"
    waits = await fractale.afork(first.run, "gate", **keywords)
    assert waits.status == "waiting"
    last = await fractale.aresume(waits.run, answers={"gate": "publish"}, **keywords)
    assert (last.status, calls) == ("success", ["publish"])


async def test_a_plan_in_another_graph_asks_through_it(tools):

    node = compile_plan(parse_plan(INNER), Dependencies(toolbox=tools)).compile()

    async def work(state: dict[str, Any]) -> dict[str, Any]:
        return {"said": (await node.ainvoke({}))["outputs"]["said"]}

    builder: Any = StateGraph(dict)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    waiting = await graph.ainvoke({}, thread)
    assert waiting["__interrupt__"][0].value["text"] == "Go?"
    assert (await graph.ainvoke(Command(resume="stop"), thread))["said"] == "stop"


def test_a_drafted_question_takes_no_approval_from_the_step_that_it_replaces():
    plan = narrow(parse_plan(INNER), ("read_*",), "always")
    assert plan.steps[0].approve is None
    assert parse_plan(dump_plan(plan)).steps[0].value == "Go?"
