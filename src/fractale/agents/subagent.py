"""What a sub-agent is, and what it may do to the outside.

A sub-agent is described by a `Subagent` and works through an `AgentHost`, which the step that
runs it provides: the host decides what may be called, counts what it costs, tells about it, and
puts questions to people. So an agent holds no key, no session and no settings, and an agent
asked by another one can do no more than the one that asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fractale.toolbox import PromptInfo, PromptMessage, ResourceInfo, ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool

    from fractale.models import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRequest:
    """What a sub-agent is asked.

    Args:
        inputs: Its arguments, as its `input_schema` says.
        instruction: What to do, in words.
        messages: A conversation that it goes on with; empty for a new one.
        schema: JSON Schema that the answer must fit, where the asker has one.
        config: The node's, so that what the agent's graph does is checkpointed under the run.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    instruction: str = ""
    messages: Sequence[BaseMessage] = ()
    schema: Mapping[str, Any] | None = None
    config: RunnableConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAnswer:
    """What a sub-agent came to.

    Args:
        outputs: JSON; a mapping where the agent has an `output_schema`.
        text: The same for a reader.
        messages: The whole conversation, to go on with later.
        error: Why it failed; None if it did not.
    """

    outputs: Any
    text: str = ""
    messages: Sequence[BaseMessage] = ()
    error: str | None = None


class AgentHost(Protocol):
    """What a sub-agent may do to the outside, decided by the step that runs it."""

    @property
    def path(self) -> str:
        """The step's path in the run; an agent asked by another has ``step/agent``."""
        ...

    async def tools(self) -> list[ToolInfo]:
        """The tools that this agent may call; other agents are not among them."""
        ...

    async def agents(self) -> list[Subagent | ToolInfo]:
        """The sub-agents that it may ask: fractale's own, and those that a server offers."""
        ...

    async def prompts(self) -> list[PromptInfo]:
        """The prompts of the run's servers."""
        ...

    async def call_tool(self, tool: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool that the model chose.

        Raises:
            ToolError: The call failed; the model is told.
            PolicyError: The call is not allowed; the model is told.
        """
        ...

    async def call_agent(self, agent: Subagent | ToolInfo, request: AgentRequest) -> AgentAnswer:
        """Ask another sub-agent, with what is left of this one's tools, budget and depth.

        Raises:
            CallError: It failed, or may not be asked; the model is told.
        """
        ...

    async def resources(self) -> list[ResourceInfo]:
        """The resources of the run's servers, and templates of resources."""
        ...

    async def read_resource(self, uri: str) -> ToolResult:
        """Read a resource; recorded as a call.

        Raises:
            ToolError: There is no such resource, or its server failed.
            PolicyError: The settings or a person refuse it.
        """
        ...

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt of the run's servers.

        Raises:
            ToolError: There is no such prompt, or it did not take the arguments.
        """
        ...

    @property
    def is_small(self) -> bool:
        """Whether the step's model is so small that it cannot call tools."""
        ...

    def chat_model(self) -> BaseChatModel:
        """The step's model, for what it can do; each of its calls goes through `call_model`."""
        ...

    async def call_model(
        self, messages: Sequence[BaseMessage], tools: Sequence[BaseTool] = ()
    ) -> AIMessage:
        """Make one turn of an agent's model, counted and reported.

        The model is the step's, or, if that is out of reach, the next of the settings'
        `fallback_models`. What it says is shown as it comes.

        Args:
            messages: All that the model is told.
            tools: The tools that it is shown.

        Raises:
            LimitReached: A limit of the run is used up.
            ModelError: The model failed.
        """
        ...

    async def ask_model(
        self,
        messages: Sequence[BaseMessage],
        schema: Mapping[str, Any] | None = None,
        *,
        correct: bool = True,
    ) -> Answer:
        """Ask the step's model one question; its answer is JSON of the schema, if there is one.

        Args:
            correct: Whether an answer that does not fit the schema goes back once.

        Raises:
            LimitReached: A limit of the run is used up.
            ModelError: The model failed or answered nothing usable.
        """
        ...

    @property
    def offers(self) -> frozenset[str]:
        """What the agent may do beside calling tools: of `fractale.plan.kinds.EXTRA_TOOLS`."""
        ...

    def ask_person(self, question: Mapping[str, Any]) -> Any:
        """The person's answer to a question of `fractale.questions`.

        This is LangGraph's interrupt: the run can end here, and the node runs again from its
        start once there is an answer. So it belongs at the start of a node of its own.
        """
        ...

    def recall(self, key: str) -> Any:
        """What `remember` kept under the key in this run; None if nothing."""
        ...

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value for the rest of the run, over processes."""
        ...

    def on_text(self, text: str) -> None:
        """Take a piece of the model's text as it comes."""
        ...

    def show(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the person a table, such as the trials so far; it is an event of the run."""
        ...

    def warn(self, code: str, message: str) -> None:
        """Report something that the run can continue with; it is an event of the run."""
        ...

    def decided(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether a rule of the step already holds on the last tool's answer."""
        ...


Run: TypeAlias = Callable[[AgentHost, AgentRequest], Awaitable[AgentAnswer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subagent:
    """An expert that a plan, a person, the manager or another agent can choose.

    Args:
        name: What a plan's `agent:` calls it by.
        description: Says to people and models what it is for.
        input_schema: JSON Schema of its arguments.
        output_schema: JSON Schema of its outputs.
        tools: Globs of the tools that it may call at most; None: all that its asker may.
        run: Does the work. All that costs something happens in nodes of LangGraph graphs that
            are given `request.config`, so that a resume goes on inside the agent.
    """

    name: str
    description: str
    run: Run
    input_schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    output_schema: Mapping[str, Any] | None = None
    tools: tuple[str, ...] | None = None
