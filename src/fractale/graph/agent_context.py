"""The `AgentContext` of one agent in one attempt of a step: it calls tools, models and agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.errors import GraphInterrupt

from fractale.agents.conversation import FAILED_CHANGE, failed_change
from fractale.agents.subagent import AgentAnswer, AgentRequest, Subagent
from fractale.errors import PolicyError, ToolError
from fractale.evidence import outputs_of
from fractale.graph import model_call
from fractale.graph.bindings import offered
from fractale.graph.call import Attempt
from fractale.graph.context import RunContext
from fractale.graph.interrupts import ask
from fractale.graph.kinds.tool import agree, call_tool
from fractale.graph.outcome import matched
from fractale.graph.resources import read_resource
from fractale.models import Answer
from fractale.plan.kinds import EXTRA_TOOLS
from fractale.policy import PlannedCall, Source, allowed_by
from fractale.registry.calls import BY_HAND, is_raised_by_hand
from fractale.schemas import UnusableSchema, misfits
from fractale.toolbox import PromptInfo, PromptMessage, ResourceInfo, ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.tools import BaseTool


@dataclass(frozen=True, slots=True)
class StepAgentContext:
    """See `fractale.agents.subagent.AgentContext`.

    Args:
        attempt: The step's attempt, which makes and counts the calls.
        context: The run as this agent sees it: its depth and its tool scopes.
        agents_path: The agents between the step and this one, as ``optimize/result_parse``;
            empty for the step's own.
        extras: What it may do beside calling tools.
        model: Its model; None: the step's.
    """

    attempt: Attempt
    context: RunContext
    agents_path: str = ""
    extras: frozenset[str] = frozenset(EXTRA_TOOLS)
    model: str | None = None

    @property
    def path(self) -> str:
        """The path of the step in the run."""
        return self.attempt.path

    @property
    def offers(self) -> frozenset[str]:
        """The agent's abilities beside calling tools."""
        return frozenset(each for each in self.extras if self.names(each))

    def names(self, name: str) -> bool:
        """Whether the tool scopes of this agent have the name of an agent, or of an extra."""
        return all(any(fnmatchcase(name, glob) for glob in globs) for globs in self.context.within)

    def may_call(self, tool: ToolInfo) -> bool:
        """Whether the tool scopes of this agent have the tool."""
        exact = self.context.bindings.exact
        return all(allowed_by(exact(globs), tool) for globs in self.context.within)

    def _wanted(self) -> list[str] | None:
        """The innermost list of tools, without tools that no server has. None means all tools."""
        if not self.context.within:
            return None
        own = {*EXTRA_TOOLS, *self.attempt.deps.agents.names()}
        wanted = [name for name in self.context.within[-1] if name not in own]
        return list(self.context.bindings.exact(wanted))

    def is_offered(self, tool: ToolInfo) -> bool:
        """Whether a call could be approved. A rule that needs certain arguments denies no tool."""
        planned = PlannedCall(tool=tool, arguments={}, chosen_by="model", is_example=True)
        denied = self.attempt.deps.policy.rule(planned).verdict == "deny"
        return self.may_call(tool) and not denied

    async def tools(self) -> list[ToolInfo]:
        """The tools that this agent may call, without those that the settings deny."""
        if () in self.context.within:
            return []
        return await self._offered(lambda tool: not tool.is_agent)

    async def _offered(self, is_meant: Callable[[ToolInfo], bool]) -> list[ToolInfo]:
        """The bound and approved tools of the servers that the agent may be shown."""
        toolbox = self.attempt.deps.toolbox
        tools = await toolbox.tools(self._wanted())
        unheard = {status.name for status in await toolbox.servers(()) if not status.listed}
        tools += self.context.bindings.absent(unheard) if unheard else []
        return offered(self.attempt, [t for t in tools if is_meant(t) and self.is_offered(t)])

    async def agents(self) -> list[Subagent | ToolInfo]:
        """The sub-agents that this agent may ask.

        Sub-agents of servers and the user's own are offered like tools. fractale's own sub-agents
        are offered only if a list of tools names them: each one makes every model turn cost more.
        """
        if () in self.context.within:
            return []
        deps = self.attempt.deps
        tools = await self._offered(lambda tool: tool.is_agent)
        named = deps.agents.matching(
            lambda name: (
                self.names(name) and (bool(self.context.within) or deps.agents.is_own(name))
            )
        )
        return [*tools, *named]

    async def prompts(self) -> list[PromptInfo]:
        """The prompts of the run's servers."""
        return await self.attempt.deps.toolbox.prompts()

    async def call_tool(self, tool: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool that the model chose."""
        if not self.may_call(tool):
            raise PolicyError(f"`{tool.name}` was not called: it is not one of the step's tools")
        agent = self.agents_path or None
        agreed = agree(self.attempt, tool, arguments, "model", agent)
        result = await call_tool(self.attempt, tool, agreed, agent)
        if agreed == arguments:
            return result
        return replace(result, arguments=self.context.mask(dict(agreed)))

    async def call_agent(self, agent: Subagent | ToolInfo, request: AgentRequest) -> AgentAnswer:
        """Ask another sub-agent, with the rest of this agent's tools, budget and depth."""
        if isinstance(agent, ToolInfo):
            result = await self.call_tool(agent, request.inputs)
            return AgentAnswer(
                outputs=outputs_of(result, agent), text=result.text, error=result.fault
            )
        if not self.names(agent.name):
            raise PolicyError(f"`{agent.name}` was not asked: it is not one of the step's agents")
        within = self.context.within if agent.tools is None else (*self.context.within, agent.tools)
        below = self.context.deeper(within=within, drafted=self.context.drafted)
        path = f"{self.agents_path}/{agent.name}" if self.agents_path else agent.name
        host = replace(self, context=below, agents_path=path, model=agent.model or self.model)
        return with_evidence(await run_agent(agent, host, request))

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """Render a prompt of the run's servers."""
        from fractale.graph.kinds.prompt import get_prompt

        messages = await get_prompt(self.attempt, name, arguments, self.agents_path or None)
        source = Source(kind="prompt", name=name, untrusted=True)
        self.attempt.saw(source, "\n".join(message.text for message in messages))
        return messages

    @property
    def is_small(self) -> bool:
        """Whether the step's model is so small that it cannot call tools."""
        return self.attempt.deps.models.spec(self._model).startswith("local:")

    @property
    def _model(self) -> str | None:
        return self.model or self.attempt.step.model

    async def resources(self) -> list[ResourceInfo]:
        """The resources of the run's servers."""
        return await self.attempt.deps.toolbox.resources()

    async def read_resource(self, uri: str) -> ToolResult:
        """Read a resource that the model chose."""
        agent = self.agents_path or None
        return await read_resource(self.attempt, uri, "model", agent)

    def chat_model(self) -> BaseChatModel:
        """The step's model."""
        return self.attempt.deps.models.get(self._model)

    async def call_model(
        self, messages: Sequence[BaseMessage], tools: Sequence[BaseTool] = ()
    ) -> AIMessage:
        """Make one turn of an agent's model, counted and reported."""
        agent = self.agents_path or None
        return await model_call.turn(self.attempt, messages, tools, agent, model=self.model)

    async def ask_model(
        self,
        messages: Sequence[BaseMessage],
        schema: Mapping[str, Any] | None = None,
        *,
        correct: bool = True,
    ) -> Answer:
        """Ask the step's model one question."""
        agent = self.agents_path or None
        return await model_call.ask(
            self.attempt, messages, schema, agent, correct=correct, model=self.model
        )

    async def run_graph(
        self, graph: Any, given: Any, request: AgentRequest, *, name: str, context: Any = None
    ) -> Any:
        """Run a graph that has its own models and tools."""
        from fractale.graph.agent_graph import run_graph

        return await run_graph(
            self.attempt,
            graph,
            given,
            agent=self.agents_path or name,
            config=request.config,
            context=context,
        )

    def ask_person(self, question: Mapping[str, Any]) -> Any:
        """The user's answer, by LangGraph's interrupt."""
        asked = {**question, "agent": self.agents_path} if self.agents_path else dict(question)
        answer = ask(self.attempt, asked)
        # The agent words the options of a choice.
        if question["kind"] == "question" and answer not in question["choices"]:
            self.attempt.seen.trust(answer)
        return answer

    def recall(self, key: str) -> Any:
        """What `remember` kept under the key in this run."""
        return self.attempt.deps.outputs.get(self.context.notes.get(key))

    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value for the rest of the run."""
        # Each change rewrites all notes, so a large value gets its own file.
        self.context.notes.put(key, self.attempt.deps.outputs.put(value))

    def on_text(self, text: str) -> None:
        """Report a piece of the model's text when it arrives."""
        with self.attempt.text_of_model() as feed:
            feed(text)

    def show(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show the user a table."""
        self.attempt.emit("table", title=title, rows=[dict(row) for row in rows])

    def warn(self, code: str, message: str) -> None:
        """Report a problem that does not stop the run."""
        self.attempt.warn(code, message)

    def decided(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether a rule of the step is true already. A rule ends only the step's own agent."""
        return not self.agents_path and matched(self.attempt, messages) is not None


def with_evidence(answer: AgentAnswer) -> AgentAnswer:
    """An agent's answer, as a failure if the evidence of its calls shows one.

    The agent's own answer follows the error.
    """
    failed = failed_change(answer.messages)
    if answer.error or not failed:
        return answer
    return replace(answer, error=f"{FAILED_CHANGE}{failed}\n{answer.text}".rstrip())


async def run_agent(agent: Subagent, host: StepAgentContext, request: AgentRequest) -> AgentAnswer:
    """Let a sub-agent work. Its request is masked, since its checkpoints store the request.

    Raises:
        ToolError: The inputs do not fit the agent.
        CallError: The agent failed.
        LimitReached: A limit of the run is used up.
    """
    mask = host.context.mask
    instruction = mask(request.instruction or str(request.inputs.get("instruction") or ""))
    given: dict[str, Any] = mask(dict(request.inputs))
    messages = [model_call.masked(host.attempt, message) for message in request.messages]
    if instruction and "instruction" in agent.input_schema.get("properties", {}):
        given.setdefault("instruction", instruction)
    try:
        faults = misfits(agent.input_schema, given)
    except UnusableSchema as error:
        raise ToolError(
            f"`{agent.name}` has an `input_schema` that is unusable: {error}"
        ) from error
    if faults:
        raise ToolError(f"`{agent.name}` can't take these inputs: {'; '.join(map(str, faults))}")
    try:
        return await agent.run(
            host, replace(request, inputs=given, instruction=instruction, messages=messages)
        )
    except GraphInterrupt as error:
        if is_raised_by_hand(error):
            raise ToolError(f"the agent `{agent.name}` {BY_HAND}") from error
        raise
