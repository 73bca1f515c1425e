"""Sub-agents over HTTP, in both protocols: what they are shown, may do, and how they end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fractale.agents.catalog import Catalog
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.events import Event
from fractale.models import Models
from fractale.plan.build import parse_plan
from fractale.plan.model import Limits
from fractale.policy import Policy
from fractale.questions import Answers
from fractale.runs import RunOptions, Runs
from fractale.settings import Settings
from fractale.testing import FakeToolServer, ModelServer
from fractale.testing.model_server import ModelRequest, Reply

READS = {"readOnlyHint": True}


@pytest.fixture(params=["openai", "gemini"])
def provider(request) -> str:
    """Both protocols that models are asked in."""
    return request.param


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(annotations=READS)
    def look(where: str = ".") -> dict:
        """Look around."""
        return {"files": ["a", "b"]}

    @server.tool(annotations=READS)
    def other() -> dict:
        """Look elsewhere."""
        return {"files": []}

    @server.tool
    def erase(path: str) -> dict:
        """Erase a file."""
        return {"erased": path}

    @server.tool(annotations=READS)
    def broken() -> dict:
        """Break."""
        raise RuntimeError("the file system is gone")

    server.prompt("expert", "You are an expert in {field}.", arguments=[{"name": "field"}])
    return server


class Ran:
    """A run with its events."""

    def __init__(self, result: Any, events: list[Event]) -> None:
        self.result, self.events = result, events

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]


@pytest.fixture
def ask(settings: Settings, provider: str, tools: FakeToolServer):
    """Run a plan against a scripted model server; gives the run."""

    async def run(plan: str, server: ModelServer, **options: Any) -> Ran:
        events: list[Event] = []
        given = replace(
            settings,
            provider=provider,
            model=f"{provider}:scripted",
            openai_base_url=server.openai_url,
            openai_api_key="k-1234567890",
            gemini_base_url=server.gemini_url,
            gemini_api_key="k-1234567890",
            **options.pop("settings", {}),
        )
        yes = options.get("yes", False)
        runs = Runs(
            given,
            tools,
            models=Models(given),
            policy=Policy(settings=given.policy, yes=yes),
            agents=Catalog(options.pop("own", ())),
        )
        inputs = options.pop("inputs", {})
        run_options = RunOptions(listeners=[events.append], **options)
        return Ran(await runs.start(parse_plan(plan), inputs, run_options), events)

    return run


def shown(request: ModelRequest) -> set[str]:
    """The names of the tools that a request offers."""
    body = request.body
    if request.protocol == "openai":
        return {tool["function"]["name"] for tool in body.get("tools", [])}
    found: set[str] = set()
    for group in body.get("tools", []):
        for each in group.get("functionDeclarations", group.get("function_declarations", [])):
            found.add(each["name"])
    return found


def said(request: ModelRequest) -> str:
    """All that the model was told."""
    return json.dumps(request.body)


AGENT = "name: p\nsteps: [{name: s, type: agent, instruction: Look around}]\n"


async def test_an_agent_is_shown_the_runs_tools_people_and_prompts(ask):
    with ModelServer(["done"]) as server:
        ran = await ask(AGENT, server)
    names = {"look", "other", "erase", "broken", "ask_person", "get_prompt", "not_done"}
    assert shown(server.requests[0]) == names
    assert ran.result.status == "success"


async def test_several_calls_of_one_turn_are_all_made(ask, tools):
    turn = Reply(tool_calls=[("look", {"where": "x"}), ("other", {}), ("look", {"where": "y"})])
    with ModelServer([turn, "done"]) as server:
        ran = await ask(AGENT, server)
    made = sorted(json.dumps(call) for call in tools.calls)
    assert made == ['["look", {"where": "x"}]', '["look", {"where": "y"}]', '["other", {}]']
    assert ran.result.status == "success"


async def test_a_tool_that_raises_is_told_to_the_model(ask):
    with ModelServer([Reply(tool_calls=[("broken", {})]), "it is gone"]) as server:
        ran = await ask(AGENT, server)
    assert "the file system is gone" in said(server.requests[1])
    assert ran.of("tool_finished")[0]["is_error"] is True


async def test_a_tool_that_is_not_there_is_told_to_the_model(ask, tools):
    with ModelServer([Reply(tool_calls=[("invented", {})]), "sorry"]) as server:
        ran = await ask(AGENT, server)
    assert "look" in said(server.requests[1]).split("invented", 1)[1]
    assert tools.calls == []
    assert ran.result.status == "failed"
    assert "invented" in ran.result.error


async def test_an_agent_asks_the_person_with_choices_and_goes_on_with_the_answer(ask):
    question = {"question": "Which category?", "choices": ["computers", "penguins"]}
    turn = Reply(tool_calls=[("ask_person", {**question, "default": "computers"})])
    with ModelServer([turn, "A penguin walks into a bar."]) as server:
        waits = await ask(AGENT, server)
        assert waits.result.status == "waiting"
        (waiting,) = waits.result.waiting
        assert waiting["text"] == "Which category?"
        assert waiting["choices"] == ["computers", "penguins"]
        assert waiting["default"] == "computers"
    with ModelServer([turn, "A penguin walks into a bar."]) as server:
        ran = await ask(AGENT, server, answers=Answers({"s": "penguins"}))
        assert "penguins" in said(server.requests[1]).split("Which category", 1)[1]
    assert ran.result.status == "success"


async def test_yes_takes_the_default_of_a_question(ask):
    turn = Reply(tool_calls=[("ask_person", {"question": "Which?", "default": "owls"})])
    with ModelServer([turn, "done"]) as server:
        ran = await ask(AGENT, server, yes=True)
        assert "owls" in said(server.requests[1])
    assert [event["by"] for event in ran.of("answered")] == ["yes"]


async def test_several_questions_wait_at_once(ask):
    plan = """
name: p
steps:
  - {name: s, type: agent, instruction: "Ask about {{ item }}", foreach: "['a', 'b']"}
outputs: {said: "{{ steps.s.outputs | map(attribute='content') | list }}"}
"""

    def model(request: ModelRequest) -> Reply:
        about = "a" if "Ask about a" in said(request) else "b"
        if "so be it" in said(request):
            return Reply(text=f"{about} is settled")
        return Reply(tool_calls=[("ask_person", {"question": f"What about {about}?"})])

    with ModelServer(model) as server:
        waits = await ask(plan, server)
        assert sorted(q["text"] for q in waits.result.waiting) == ["What about a?", "What about b?"]
        ran = await ask(plan, server, answers=Answers({"*": "so be it"}))
    assert ran.result.outputs == {"said": ["a is settled", "b is settled"]}


async def test_an_agent_reads_the_prompts_of_the_run(ask):
    turn = Reply(tool_calls=[("get_prompt", {"name": "expert", "arguments": {"field": "MPI"}})])
    with ModelServer([turn, "done"]) as server:
        await ask(AGENT, server)
    assert "You are an expert in MPI." in said(server.requests[1])


async def test_agents_that_ask_agents_for_ever_end_at_the_runs_depth(ask):
    plan = (
        "name: p\nlimits: {depth: 3}\n"
        "steps: [{name: s, type: agent, instruction: Go on, tools: [ask]}]\n"
    )

    def model(request: ModelRequest) -> Reply:
        return Reply(tool_calls=[("ask", {"instruction": "Go on"})])

    with ModelServer(model) as server:
        ran = await ask(plan, server)
    assert ran.result.status == "limit"
    assert "nested 3 deep" in ran.result.error
    assert len(server.requests) == 4


async def test_an_agent_that_another_asks_has_the_tools_of_both_and_no_more(ask, tools):
    """The child's own list names `erase`, its parent's doesn't: it is not called."""

    async def child(host: AgentContext, request: AgentRequest) -> AgentAnswer:
        (look,) = await host.tools()
        result = await host.call_tool(look, {})
        erase = replace(look, name="erase")
        return AgentAnswer(
            outputs={"found": result.text, "too": (await host.call_tool(erase, {})).text}
        )

    plan = (
        "name: p\nsteps: [{name: s, type: agent, instruction: Look, tools: [look, other, child]}]\n"
    )
    own = Subagent(name="child", description="Looks.", run=child, tools=("look", "erase"))
    turn = Reply(tool_calls=[("child", {})])
    with ModelServer([turn, "refused"]) as server:
        ran = await ask(plan, server, own=[own], yes=True)
    assert [name for name, _ in tools.calls] == ["look"]
    assert "`erase` was not called" in said(server.requests[1])
    assert [event.get("agent") for event in ran.of("tool_started")] == ["child"]


async def test_an_agent_knows_that_a_person_had_other_arguments_sent(ask, tools):
    async def run(host: AgentContext, request: AgentRequest) -> AgentAnswer:
        (erase,) = await host.tools()
        result = await host.call_tool(erase, {"path": "/"})
        return AgentAnswer(outputs={"sent": result.arguments})

    own = Subagent(name="eraser", description="Erases.", run=run, tools=("erase",))
    plan = (
        "name: p\nsteps: [{name: s, agent: eraser}]\noutputs: {sent: '{{ steps.s.outputs.sent }}'}"
    )
    edited = Answers({"s": {"arguments": {"path": "/tmp/a"}}})
    with ModelServer([]) as server:
        ran = await ask(plan, server, own=[own], answers=edited)
    assert tools.calls == [("erase", {"path": "/tmp/a"})]
    assert ran.result.outputs == {"sent": {"path": "/tmp/a"}}


async def test_an_agent_is_not_given_what_it_does_not_take(ask):
    async def strict(host: AgentContext, request: AgentRequest) -> AgentAnswer:
        return AgentAnswer(outputs=dict(request.inputs))

    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    own = Subagent(name="strict", description="Counts.", run=strict, input_schema=schema)
    plan = "name: p\nsteps: [{name: s, agent: strict, inputs: {n: \"{{ 'x' }}\"}}]\n"
    with ModelServer([]) as server:
        ran = await ask(plan, server, own=[own])
    assert ran.result.status == "failed"
    assert "$.n" in ran.result.error


async def test_calls_at_the_same_time_do_not_pass_a_limit_together(ask):
    """Eight prompts at once, room for about two: at most one is over."""
    plan = """
name: p
limits: {tokens: 100}
steps:
  - {name: s, type: agent, instruction: Hi, allow_tools: false, foreach: "range(8) | list"}
"""

    def model(request: ModelRequest) -> Reply:
        return Reply(text="ok", input_tokens=40, output_tokens=10, delay=0.05)

    with ModelServer(model) as server:
        ran = await ask(plan, server)
    assert ran.result.status == "limit"
    assert len(server.requests) <= 3


async def test_the_next_model_is_asked_where_the_steps_own_is_out_of_reach(ask, provider):
    def model(request: ModelRequest) -> Reply:
        if request.model == "scripted":
            return Reply(status=503, text="overloaded")
        return Reply(text="here I am")

    fallback = {"fallback_models": (f"{provider}:second",)}
    with ModelServer(model) as server:
        ran = await ask(AGENT, server, settings=fallback)
    assert ran.result.status == "success"
    assert ran.of("model_finished")[-1]["model"] == f"{provider}:second"
    assert [event["code"] for event in ran.of("warning")] == ["fallback"]


async def test_a_long_conversation_is_summarized_and_the_summary_counted(ask, tools):
    tools.answer("look", *[{"content": "word " * 4_700}] * 40)
    asked: list[str] = []

    def model(request: ModelRequest) -> Reply:
        text = said(request)
        if "Summarize this conversation" in text:
            asked.append("summary")
            return Reply(text="SUMMARY: looked around, nothing found")
        asked.append("turn")
        if len(asked) > 22:
            return Reply(text="done")
        return Reply(tool_calls=[("look", {})])

    with ModelServer(model) as server:
        ran = await ask(AGENT, server)
    assert ran.result.status == "success"
    assert "summary" in asked
    assert len(ran.of("model_finished")) == len(asked)
    assert "SUMMARY: looked around" in said(server.requests[-1])
    assert max(len(said(request)) for request in server.requests) < 700_000


async def test_limits_of_the_options_hold_for_agents(ask):
    def model(request: ModelRequest) -> Reply:
        return Reply(tool_calls=[("look", {})], input_tokens=10, output_tokens=1)

    with ModelServer(model) as server:
        ran = await ask(AGENT, server, limits=Limits(tokens=30))
    assert ran.result.status == "limit"
    assert len(server.requests) == 3


async def test_an_agent_that_never_ends_is_a_failure_that_says_so(ask):
    with ModelServer(lambda request: Reply(tool_calls=[("look", {})])) as server:
        ran = await ask(AGENT, server)
    assert ran.result.status == "failed"
    assert "did not finish within 50 turns" in ran.result.error
    assert len(server.requests) == 50
