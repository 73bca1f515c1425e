"""The interface of sub-agents: the agent (`Subagent`) and its context (`AgentContext`).

The step that runs an agent provides its context. The context decides which calls are allowed,
counts the cost, emits the events, and asks the user. So an agent has no key, no session and no
settings. An agent that another agent asks can do no more than the other agent.
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
    """A request to a sub-agent.

    Args:
        inputs: Its arguments, by its `input_schema`.
        instruction: The task, as text.
        messages: A conversation to continue; empty for a new one.
        schema: JSON Schema that the answer must fit; None: any answer.
        config: The node's, so that the nodes of the agent's graph are checkpoints of the run.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    instruction: str = ""
    messages: Sequence[BaseMessage] = ()
    schema: Mapping[str, Any] | None = None
    config: RunnableConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAnswer:
    """A sub-agent's answer.

    Args:
        outputs: JSON; a mapping if the agent has an `output_schema`.
        text: The same for readers.
        messages: The whole conversation, for later requests.
        error: Why the agent failed; None if it did not.
    """

    outputs: Any
    text: str = ""
    messages: Sequence[BaseMessage] = ()
    error: str | None = None


class AgentContext(Protocol):
    """The abilities of a sub-agent. The step that runs the agent decides them."""

    @property
    def path(self) -> str:
        """The step's path in the run. An agent that another agent asks has ``step/agent``."""
        ...

    async def tools(self) -> list[ToolInfo]:
        """The tools that this agent may call, without other agents."""
        ...

    async def agents(self) -> list[Subagent | ToolInfo]:
        """The sub-agents that it may ask: fractale's, the user's, and those of servers."""
        ...

    async def prompts(self) -> list[PromptInfo]:
        """The prompts of the run's servers."""
        ...

    async def call_tool(self, tool: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool that the model chose. The model should see the errors.

        Raises:
            ToolError: The call failed.
            PolicyError: The call is not allowed.
        """
        ...

    async def call_agent(self, agent: Subagent | ToolInfo, request: AgentRequest) -> AgentAnswer:
        """Ask another sub-agent, within this agent's tools, budget and depth.

        Raises:
            CallError: The sub-agent failed, or may not be asked. The model should see the error.
        """
        ...

    async def resources(self) -> list[ResourceInfo]:
        """The resources of the run's servers, and templates of resources."""
        ...

    async def read_resource(self, uri: str) -> ToolResult:
        """Read a resource. The run records this as a call.

        Raises:
            ToolError: The resource does not exist, or its server failed.
            PolicyError: The settings or the user refuse the call.
        """
        ...

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt of the run's servers.

        Raises:
            ToolError: The prompt does not exist, or refused the arguments.
        """
        ...

    @property
    def is_small(self) -> bool:
        """Whether the step's model is so small that it cannot call tools."""
        ...

    def chat_model(self) -> BaseChatModel:
        """The step's model, to read its profile. Calls go through `call_model`."""
        ...

    async def call_model(
        self, messages: Sequence[BaseMessage], tools: Sequence[BaseTool] = ()
    ) -> AIMessage:
        """Make one model turn, counted and reported. Its text is streamed.

        The model is the step's. If that model is out of reach, it is the next of the settings'
        `fallback_models`.

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
        """Ask the step's model one question. With a schema, its answer is JSON.

        Args:
            correct: Whether the model may correct an answer that does not fit the schema, once.

        Raises:
            LimitReached: A limit of the run is used up.
            ModelError: The model failed, or its answer is not usable.
        """
        ...

    @property
    def offers(self) -> frozenset[str]:
        """The agent's abilities beside calling tools: of `fractale.plan.kinds.EXTRA_TOOLS`."""
        ...

    async def run_graph(
        self, graph: Any, given: Any, request: AgentRequest, *, name: str, context: Any = None
    ) -> Any:
        """Run a compiled LangGraph graph that has its own models and tools.

        Its calls are counted, limited and under the policy. Its interrupts are questions of the
        run, and its checkpoints are those of the run.

        Args:
            given: The input of the graph.
            name: The agent's name, for events.
            context: Of the graph's context schema.

        Returns:
            The output of the graph.

        Raises:
            LimitReached: A limit of the run is used up.
            CallError: The graph failed.
        """
        ...

    def ask_person(self, question: Mapping[str, Any]) -> Any:
        """The user's answer to a question of `fractale.questions`.

        This is LangGraph's interrupt: the run can end here, and the node runs again from its start
        with the answer. So ask at the start of a separate node.
        """
        ...

    def recall(self, key: str) -> Any:
        """The value that `remember` kept under the key in this run; None if there is none."""
        ...

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value for the rest of the run. A resumed run has it, too."""
        ...

    def on_text(self, text: str) -> None:
        """Report a piece of the model's text when it arrives."""
        ...

    def show(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the user a table, such as the trials so far. It is an event of the run."""
        ...

    def warn(self, code: str, message: str) -> None:
        """Report a problem that does not stop the run. It is an event of the run."""
        ...

    def decided(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether a rule of the step is true for the last tool's answer."""
        ...


Run: TypeAlias = Callable[[AgentContext, AgentRequest], Awaitable[AgentAnswer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subagent:
    """An expert that a plan, a user, the planner or another agent can choose.

    Args:
        name: For a plan's `agent:`.
        description: Its purpose, for users and models.
        input_schema: JSON Schema of its arguments.
        output_schema: JSON Schema of its outputs.
        tools: Globs of the most tools that it may call; None: without its own limit.
        run: Does the work. Expensive work belongs in nodes of LangGraph graphs that get
            `request.config`, so that a resume continues inside the agent.
        path: The dotted path by which the user named it; also a name for a plan's `agent:`.
        model: Its model, `provider:name`; None: that of the step that asks it.
        is_graph: Whether it is a LangGraph graph with its own models and tools. A replay does not
            run it: it takes the recorded outcome.
    """

    name: str
    description: str
    run: Run
    input_schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    output_schema: Mapping[str, Any] | None = None
    tools: tuple[str, ...] | None = None
    path: str = ""
    model: str | None = None
    is_graph: bool = False
