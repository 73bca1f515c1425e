"""LangGraph's and LangChain's agents as sub-agents: their calls are seen, their questions asked."""

from __future__ import annotations

import operator
import textwrap
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelRetryMiddleware,
    TodoListMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import interrupt
from typing_extensions import TypedDict

from fractale.api import load
from fractale.errors import PlanError
from fractale.events import Event
from fractale.plan.model import Limits
from fractale.questions import Answers
from fractale.runs import Extensions, RunOptions, Workspace
from fractale.settings import PolicySettings, Settings
from fractale.testing import Reply, ScriptedModel

PLAN = """
name: p
steps: [{name: s, agent: helper, instruction: Do it.}]
outputs: {all: "{{ steps.s.outputs }}"}
"""


@dataclass
class Ended:
    result: Any
    events: list[Event] = field(default_factory=list)

    @property
    def outputs(self) -> Any:
        return self.result.outputs.get("all")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]


@pytest.fixture
def ask(settings: Settings) -> Callable[..., Any]:
    """Run a plan with agents that are given as objects."""

    async def run(
        agents: Any,
        plan: str = PLAN,
        inputs: dict[str, Any] | None = None,
        *,
        policy: PolicySettings | None = None,
        answers: dict[str, Any] | None = None,
        yes: bool = False,
        resume: str | None = None,
        **options: Any,
    ) -> Ended:
        events: list[Event] = []
        given = agents if isinstance(agents, (dict, list)) else {"helper": agents}
        chosen = replace(settings, policy=policy) if policy else settings
        loaded = load(textwrap.dedent(plan))
        async with Workspace.open(chosen, loaded, Extensions(given=given), yes=yes) as workspace:
            started = RunOptions(
                listeners=[events.append], answers=Answers(answers or {}), yes=yes, **options
            )
            if resume:
                return Ended(await workspace.runs.resume(resume, started), events)
            return Ended(await workspace.runs.start(loaded, inputs, started), events)

    return run


def calls(*names: str, **arguments: Any) -> Reply:
    return Reply(tool_calls=[(name, arguments) for name in names])


class Shop:
    """Tools, and the calls that reached them."""

    def __init__(self) -> None:
        self.made: list[Any] = []

        @tool
        def buy(what: str) -> str:
            """Buy something."""
            self.made.append(("buy", what))
            return f"bought {what}"

        @tool
        async def look(what: str) -> str:
            """Look something up."""
            self.made.append(("look", what))
            return f"{what} costs 3"

        look.metadata = {"readOnlyHint": True}
        self.buy, self.look = buy, look


async def test_an_agent_of_langchain_answers_in_a_step(ask):
    model = ScriptedModel(["Done as asked."])
    ended = await ask(create_agent(model, tools=[]))
    assert ended.result.status == "success", ended.result.error
    assert ended.outputs == {"content": "Done as asked."}
    assert model.requests[0][-1].text == "Do it."


async def test_its_calls_are_events_and_count(ask):
    shop = Shop()
    model = ScriptedModel([calls("look", what="tea"), "It costs 3."])
    ended = await ask(create_agent(model, tools=[shop.look]))
    assert ended.outputs == {"content": "It costs 3."}
    assert [e["agent"] for e in ended.of("model_started")] == ["helper", "helper"]
    (started,), (finished,) = ended.of("tool_started"), ended.of("tool_finished")
    assert (started["tool"], started["arguments"]) == ("look", {"what": "tea"})
    assert (finished["text"], finished["is_error"]) == ("tea costs 3", False)
    counted = [e["input_tokens"] + e["output_tokens"] for e in ended.of("model_finished")]
    assert all(counted)
    assert ended.result.usage["total_tokens"] == sum(counted)
    assert ended.of("step_finished")[0]["tokens"] == sum(counted)
