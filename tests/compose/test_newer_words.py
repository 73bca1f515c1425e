"""Questions of a plan, named values, chains, scripts, waiting and handlers in other graphs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from fractale import as_node, as_tool, plan_graph
from fractale.testing import ScriptedModel
from fractale.testing.replies import Reply

WORDS = """
name: words
servers: []
inputs: {names: {default: [a]}}
agents:
  - {name: adviser, instruction: You advise., tools: []}
outputs:
  said: "{{ values.said }}"
  parts: "{{ steps.each.outputs | map(attribute='word') | list }}"
  advice: "{{ steps.advise.outputs.content }}"
steps:
  - {name: start, set: {said: [begin]}}
  - name: count
    script: "#!/bin/sh\\ncat\\n"
    stdin: {n: 3}
    outputs: json
  - {name: poll, tool: poll, until: n >= 2, every: 100ms, timeout: 1m}
  - {name: settle, wait: 100ms}
  - name: each
    foreach: inputs.names
    when: item != 'left out'
    steps:
      - {name: pick, ask: "Which for {{ item }}?", choices: [x, {y: "Why?"}]}
      - name: keep
        tool: note
        inputs: {word: "{{ item }}{{ steps.pick.outputs.answer }}{{ steps.pick.outputs.text }}"}
  - {name: advise, agent: adviser, instruction: Advise.}
  - name: gate
    ask: Publish?
    choices: [publish, {revise: "What?"}, drop]
    rules: {revise: answer == 'revise', drop: answer == 'drop'}
    transitions: {revise: more, drop: failed, success: success}
    reason: "dropped after {{ values.said | join(', ') }}"
  - name: more
    set: {said: "{{ values.said + [steps.gate.outputs.text] }}"}
    transitions: {success: gate}
on_failure:
  - {name: sorry, tool: note, inputs: {word: "{{ run.failed.step }}: {{ run.failed.error }}"}}
finally:
  - {name: files, ask: Keep the files?, choices: [keep, delete]}
  - name: bye
    tool: note
    inputs: {word: "{{ run.outcome }} {{ steps.files.outputs.answer }} {{ values.said }}"}
"""
THREAD: Any = {"configurable": {"thread_id": "t"}}
REVIEW = {"decisions": [{"type": "approve"}]}
MORE = {"answer": "revise", "text": "shorter"}


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def parts(settings, notes) -> dict[str, Any]:
    polls = [0]

    def note(word: str) -> dict[str, str]:
        """Note."""
        notes.append(word)
        return {"word": word}

    def poll() -> dict[str, int]:
        """Poll."""
        polls[0] += 1
        return {"n": polls[0]}

    model = ScriptedModel([Reply(text="Scale.")])
    return {"settings": settings, "tools": [note, poll], "model": model}


def asked(result: Any) -> list[str]:
    return [each.value["step"] for each in result.get("__interrupt__", ())]


def in_form(form: str, result: Any, answer: Any) -> Any:
    (question,) = result["__interrupt__"]
    return {question.id: answer} if form == "by id" else answer


PATHS = [
    pytest.param(
        ["x", "publish", "keep"],
        {"status": "success", "said": ["begin"], "error": None},
        ["ax", 'success keep ["begin"]'],
        id="word",
    ),
    pytest.param(
        [{"answer": "y", "text": "!"}, MORE, "drop", "delete"],
        {"status": "failed", "said": ["begin", "shorter"], "error": "dropped after begin, shorter"},
        ["ay!", "gate: dropped after begin, shorter", 'failed delete ["begin","shorter"]'],
        id="mapping",
    ),
    pytest.param(
        [
            "z",
            "x",
            True,
            {"answer": "z"},
            {"decisions": [{"type": "approve"}]},
            "publish",
            3,
            "keep",
        ],
        {"status": "success", "said": ["begin"], "error": None},
        ["ax", 'success keep ["begin"]'],
        id="wrong",
    ),
]


@pytest.mark.parametrize("form", ["bare", "by id"])
@pytest.mark.parametrize(("answers", "end", "noted"), PATHS)
async def test_alone(parts, notes, form, answers, end, noted):
    graph = plan_graph(WORDS, checkpointer=InMemorySaver(), **parts)
    result = await graph.ainvoke({}, THREAD)
    for answer in answers:
        before = asked(result)
        result = await graph.ainvoke(Command(resume=in_form(form, result, answer)), THREAD)
        again = [each.value.get("problem") for each in result.get("__interrupt__", ())]
        assert asked(result) != before or any(again) or answer == MORE
    assert (result["status"], result["error"]) == (end["status"], end["error"])
    assert result["outputs"] == {"said": end["said"], "parts": noted[:1], "advice": "Scale."}
    assert notes == noted
    assert (await graph.aget_state(THREAD)).next == ()


class Mine(TypedDict, total=False):
    names: list[str]
    said: list[str]
    status: str
    error: str


@pytest.mark.parametrize("form", ["bare", "by id"])
@pytest.mark.parametrize(("answers", "end", "noted"), PATHS)
async def test_in_a_node(parts, notes, form, answers, end, noted):
    keys = {"said": "said", "status": "status", "error": "error"}
    builder = StateGraph(Mine)
    builder.add_node("plan", as_node(WORDS, outputs=keys, **parts))
    builder.add_edge(START, "plan")
    builder.add_edge("plan", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    result = await graph.ainvoke({"names": ["left out", "a"]}, THREAD)
    for answer in answers:
        result = await graph.ainvoke(Command(resume=in_form(form, result, answer)), THREAD)
    assert {key: result[key] for key in keys} == end
    assert notes == noted


async def test_as_a_tool(parts, notes):
    call = Reply(tool_calls=[("words", {})])
    agent: Any = create_agent(
        ScriptedModel([call, Reply(text="Done.")]),
        [as_tool(WORDS, **parts)],
        checkpointer=InMemorySaver(),
    )
    result = await agent.ainvoke({"messages": [("user", "Go.")]}, THREAD)
    for answer in ("x", "drop", "delete"):
        result = await agent.ainvoke(Command(resume=in_form("by id", result, answer)), THREAD)
    assert "dropped after begin" in result["messages"][-2].text
    assert notes == ["ax", "gate: dropped after begin", 'failed delete ["begin"]']


def test_without_async(parts, notes):
    with SqliteSaver.from_conn_string(":memory:") as saver:
        graph = plan_graph(WORDS, checkpointer=saver, **parts)
        result = graph.invoke({}, THREAD)
        for answer in ("x", "publish"):
            result = graph.invoke(Command(resume=answer), THREAD)
        last = list(graph.stream(Command(resume="keep"), THREAD, stream_mode="values"))[-1]
    assert (asked(result), last["status"]) == (["finally/files"], "success")
    assert notes == ["ax", 'success keep ["begin"]']


async def test_several_questions_and_an_edited_value(parts, notes):
    graph = plan_graph(WORDS, checkpointer=InMemorySaver(), **parts)
    result = await graph.ainvoke({"names": ["a", "b"]}, THREAD)
    first, second = result["__interrupt__"]
    answers = {first.id: "x", second.id: "nothing of it"}
    result = await graph.ainvoke(Command(resume=answers), THREAD)
    (left,) = result["__interrupt__"]
    assert left.value["problem"]
    result = await graph.ainvoke(Command(resume="x"), THREAD)
    assert (asked(result), sorted(notes)) == (["gate"], ["ax", "bx"])
    await graph.aupdate_state(THREAD, {"values": {"said": ["edited"]}})
    result = await graph.ainvoke(None, THREAD)
    for answer in ("publish", "keep"):
        result = await graph.ainvoke(Command(resume=answer), THREAD)
    assert (result["outputs"]["said"], sorted(notes)[:2]) == (["edited"], ["ax", "bx"])


@pytest.mark.parametrize("question", ["gate", "finally/files"])
async def test_two_answers_at_once_count_once(parts, notes, question):
    graph = plan_graph(WORDS, checkpointer=InMemorySaver(), **parts)
    result = await graph.ainvoke({}, THREAD)
    for answer in ("x", "publish"):
        if asked(result) != [question]:
            result = await graph.ainvoke(Command(resume=answer), THREAD)
    assert asked(result) == [question]
    words = ("publish", "drop") if question == "gate" else ("keep", "delete")
    both = [graph.ainvoke(Command(resume=word), THREAD) for word in words]
    await asyncio.gather(*both, return_exceptions=True)
    steps = (await graph.aget_state(THREAD)).values["steps"]
    name = question.rpartition("/")[2]
    assert (steps[name]["outputs"]["answer"], steps[name]["attempts"]) == (words[0], 1)
    assert notes.count("gate: dropped after begin") == 0


DUE = """
name: due
servers: []
outputs: {answer: "{{ steps.gate.outputs.answer }}"}
steps:
  - {name: gate, ask: Go?, choices: [go, stop], default: stop, default_after: 1s}
"""


async def test_the_default_is_taken_by_the_first_continuation_after_its_time(settings):
    graph = plan_graph(DUE, checkpointer=InMemorySaver(), settings=settings)
    (question,) = (await graph.ainvoke({}, THREAD))["__interrupt__"]
    assert question.value["due"]["seconds"] == 1
    result = await graph.ainvoke(None, THREAD)
    while asked(result):
        await asyncio.sleep(0.2)
        result = await graph.ainvoke(None, THREAD)
    assert result["outputs"] == {"answer": "stop"}
