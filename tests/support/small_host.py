"""A sub-agent in a graph of one node: its host on fakes, its questions answered in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from fractale.agents.subagent import AgentAnswer, AgentRequest, Subagent
from fractale.errors import PolicyError
from fractale.models import Answer, Models, RetryPolicy
from fractale.settings import Settings
from fractale.store.checkpoints import StrictSerializer
from fractale.testing import FakeToolServer, ScriptedModel


@dataclass
class SmallHost:
    """As much of an `AgentContext` as an agent without a loop of its own needs."""

    model: ScriptedModel
    server: FakeToolServer = field(default_factory=FakeToolServer)
    refused: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    path: str = "step"

    async def tools(self):
        return await self.server.tools()

    async def call_tool(self, tool, arguments):
        if tool.name in self.refused:
            raise PolicyError(f"`{tool.name}` was not called: a person refused it")
        return await self.server.call_tool(tool.name, arguments)

    async def ask_model(
        self, messages: Sequence[Any], schema: Mapping[str, Any] | None = None
    ) -> Answer:
        models = Models(Settings(), given=self.model, retry=RetryPolicy(tries=1))
        return await models.ask(messages, schema=schema)

    def ask_person(self, question: Mapping[str, Any]) -> Any:
        return interrupt(dict(question))

    def recall(self, key: str) -> Any:
        return self.notes.get(key)

    def remember(self, key: str, value: Any) -> None:
        self.notes[key] = value


@dataclass
class Asked:
    """An agent's answer and the questions that it asked on the way."""

    answer: AgentAnswer | None = None
    questions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outputs(self) -> dict[str, Any]:
        assert self.answer is not None
        return self.answer.outputs


class _State(TypedDict, total=False):
    began: bool


async def ask(
    agent: Subagent,
    host: Any,
    inputs: Mapping[str, Any],
    answers: Sequence[Any] = (),
    instruction: str = "",
) -> Asked:
    """Ask an agent; each answer resumes it from its checkpoint. Ends early without one left."""
    asked = Asked()

    async def node(state: _State, config: RunnableConfig) -> _State:
        request = AgentRequest(inputs=inputs, instruction=instruction, config=config)
        asked.answer = await agent.run(host, request)
        return {}

    builder: Any = StateGraph(_State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver(serde=StrictSerializer()))
    config = {"configurable": {"thread_id": "t"}}
    given: Any = _State(began=True)
    left = list(answers)
    while True:
        after = await graph.ainvoke(given, config)
        waiting = after.get("__interrupt__") or ()
        asked.questions += [each.value for each in waiting]
        if not waiting or not left:
            return asked
        given = Command(resume=left.pop(0))
