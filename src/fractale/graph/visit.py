"""One visit of one step: its calls, with everything that is agreed, told and counted about them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.types import interrupt

from fractale import questions
from fractale.errors import (
    AnswerError,
    JobError,
    ModelError,
    ModelUnavailable,
    PolicyError,
    ToolError,
    TransportError,
)
from fractale.evidence import outputs_of
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.doubt import cut_off, doubtful
from fractale.graph.entry import Entry
from fractale.graph.faults import CutOff, Elicited
from fractale.graph.outcome import CallResult, match_rules, rule_scope
from fractale.graph.recorded import CallBook, asked_of_model, digest_of_asked
from fractale.graph.state import PlanState, Record
from fractale.models import Answer, Usage
from fractale.plan.model import Step
from fractale.policy import Chooser, PlannedCall, may_repeat
from fractale.store.journal import Call, digest_of
from fractale.toolbox import Elicitation, PromptMessage, ToolInfo, ToolResult

if TYPE_CHECKING:
    from langchain.agents.middleware import ModelResponse
    from langchain_core.runnables import RunnableConfig

    from fractale.agents.subagent import ModelCall

SHORT_TEXT = 2000


@dataclass(slots=True, kw_only=True)
class Visit:
    """One visit of one step: what it was given, and what its calls have used so far.

    Args:
        path: The step's path in the run, such as ``outer/inner``.
        scope: The names of its templates and rules.
        inputs: The rendered inputs, secrets in the clear.
        instruction: The rendered instruction.
        attempts: Which visit of the step this is, from 1.
        tries: Which try of LangGraph's retry policy, from 1.
        conversation: The messages of the visit before, where the step persists them.
        state: The state that the step was entered with.
        inside: The step's own compiled graph, where it has one.
        records: The records of steps inside, to be kept with the step's own.
        cut_off: What is known of the calls that were cancelled under way.
    """

    step: Step
    path: str
    deps: Dependencies
    context: RunContext
    config: RunnableConfig
    state: PlanState = field(default_factory=PlanState)
    inside: Any = None
    scope: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    instruction: str | None = None
    attempts: int = 1
    tries: int = 1
    conversation: list[Any] | None = None
    usage: Usage = field(default_factory=Usage)
    calls: int = 0
    records: dict[str, Record] = field(default_factory=dict[str, Record])
    cut_off: list[TransportError] = field(default_factory=list[TransportError])
    book: CallBook = field(init=False)

    def __post_init__(self) -> None:
        context = self.context
        self.book = CallBook(context.journal, context.mask, self.path, self.attempts, self.tries)

    @property
    def entry(self) -> Entry | None:
        """Where a fork enters the plan inside this step; None: at its first step."""
        entry = self.context.entry
        return entry.below(self.step.name, self.attempts) if entry else None

    def emit(self, kind: Any, **data: Any) -> None:
        """Tell what happened in this step."""
        self.context.emit(kind, step=self.path, **data)

    def warn_undefined(self, rule: str, name: str) -> None:
        """Tell that a rule names something that is not defined."""
        self.emit("warning", code="undefined", message=f"rule `{rule}`: `{name}` is not defined")

    def next_call(self) -> int:
        """The number of the next call of this visit, from 1; stops at a limit first."""
        self.context.meter.check()
        self.calls += 1
        return self.calls

    # -- tools ----------------------------------------------------------------------------------

    def agree(
        self, tool: ToolInfo, arguments: Mapping[str, Any], chosen_by: Chooser
    ) -> Mapping[str, Any]:
        """See that a call may be made; a person may have to agree to it.

        The question is an interrupt: the run can end here and go on in another process. What
        comes before it in its node only reads, so doing that again on the way back does no harm.

        Returns:
            The arguments, as the person wants them.

        Raises:
            PolicyError: The settings or a person refuse it.
        """
        call = PlannedCall(
            tool=tool, arguments=arguments, chosen_by=chosen_by, approve=self.step.approve
        )
        ruling = self.deps.policy.rule(call, grants=frozenset(self.context.grants))
        if ruling.verdict == "deny":
            raise PolicyError(f"`{tool.name}` was not called: {ruling.why}")
        if ruling.verdict == "allow":
            return arguments
        shown = self.context.mask(dict(arguments))
        answer = interrupt(questions.approval(self.path, tool.name, shown, ruling.why))
        if answer == "always":
            self.context.grants.add(tool.qualified_name)
        elif isinstance(answer, dict):
            edited = cast("dict[str, Any]", answer).get("arguments", arguments)
            return unmask(edited, shown, arguments)
        elif not answer:
            raise PolicyError(f"a person refused the call of `{tool.name}`")
        return arguments

    async def tool(
        self,
        tool: ToolInfo,
        arguments: Mapping[str, Any],
        agent: str | None = None,
        *,
        make: Callable[[], Awaitable[ToolResult]] | None = None,
    ) -> ToolResult:
        """Make one tool call and tell about it.

        Args:
            agent: The sub-agent that makes the call, where it is not the step's own.
            make: Makes a call of fractale's own, in place of the toolbox, and never does its work
                twice; so it is made again where it was begun before.

        Raises:
            ToolError: The tool or its server failed.
            LimitReached: A limit of the run is used up.
        """
        place = self.book.next_place(agent)
        call = Call(
            kind="tool",
            name=tool.qualified_name,
            digest=digest_of(self.context.mask(dict(arguments))),
            safe=may_repeat(tool),
        )
        told: dict[str, Any] = {
            "tool": tool.name,
            "call": self.next_call(),
            "key": place.key,
        }
        if agent:
            told["agent"] = agent
        self.emit("tool_started", **told, arguments=dict(arguments))
        started = time.monotonic()

        def progress(done: float, total: float | None, message: str | None) -> None:
            self.emit("tool_progress", **told, progress=done, total=total, message=message)

        def finished(text: str, **more: Any) -> None:
            seconds = round(time.monotonic() - started, 3)
            self.emit("tool_finished", **told, **more, seconds=seconds, text=text[:SHORT_TEXT])

        async def from_toolbox() -> ToolResult:
            return await self.deps.toolbox.call_tool(
                tool.name, arguments, on_progress=progress, on_elicit=self._elicited
            )

        try:
            result, recorded = await self.book.tool(
                place,
                call,
                make or from_toolbox,
                lambda: None if make else self._in_doubt(tool, arguments),
            )
        except (ToolError, JobError) as error:
            told_error = doubtful(error, tool)
            finished(str(told_error), is_error=True)
            raise told_error from error
        except AnswerError:
            self.context.journal.withdraw(place)
            raise
        except (asyncio.CancelledError, CutOff) as error:
            self.cut_off.append(cut_off(error, tool))
            raise
        except Elicited as asked:
            # The call is made again, with the answer at hand, once there is one.
            self.context.journal.withdraw(place)
            self.context.journal.tell(place, {"asks": self.context.mask(dict(asked.question))})
            finished("the server waits for an answer", is_error=False)
            interrupt(asked.question)
            raise ToolError(f"`{tool.name}` asked again after its question was answered") from None
        more = {"recorded": True} if recorded else {}
        finished(result.text, is_error=result.is_error, **more)
        return result

    def _in_doubt(self, tool: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult | None:
        """What a person knows of a call that the run was killed in; None: make it again.

        Raises:
            ToolError: It is to count as failed.
        """
        shown = self.context.mask(dict(arguments))
        question = questions.in_doubt(self.path, tool.name, shown)
        answer = interrupt(question)
        if answer == "again":
            return None
        if isinstance(answer, dict):
            outputs = cast("dict[str, Any]", answer)["outputs"]
            return ToolResult(text=json.dumps(outputs, ensure_ascii=False), structured=outputs)
        raise ToolError(f"the run was killed during the call of `{tool.name}`: it counts as failed")

    async def _elicited(self, asked: Elicitation) -> Mapping[str, Any]:
        question = questions.elicitation(self.path, asked.server, asked.message, asked.schema)
        answer = await self.context.ask_now(question)
        if answer is None:
            raise Elicited(question)
        return answer

    async def prompt(
        self, name: str, arguments: Mapping[str, Any], agent: str | None = None
    ) -> list[PromptMessage]:
        """Have a server render a prompt.

        Raises:
            ToolError: There is no such prompt, or it did not take the arguments.
        """
        place = self.book.next_place(agent, prompt=True)
        digest = digest_of(self.context.mask(dict(arguments)))
        call = Call(kind="prompt", name=name, digest=digest, safe=True)
        return await self.book.prompt(
            place, call, lambda: self.deps.toolbox.get_prompt(name, arguments)
        )

    def matched(self, messages: Sequence[BaseMessage]) -> CallResult | None:
        """The first of the last tool answers on which a rule of the step holds."""
        for message in _last_answers(messages) if self.step.rules else ():
            result = ToolResult(text=message.text, structured=message.artifact)
            call = CallResult(outputs=outputs_of(result), text=result.text)
            scope = rule_scope(self.scope, call, self.attempts)
            if decision := match_rules(self.step, scope, lambda _rule, _name: None):
                return replace(call, matched=decision)
        return None

    # -- models ---------------------------------------------------------------------------------

    async def ask(
        self,
        messages: Sequence[BaseMessage],
        schema: Mapping[str, Any] | None = None,
        agent: str | None = None,
        *,
        correct: bool = True,
    ) -> Answer:
        """Ask the model once and tell about it.

        Raises:
            ModelError: The model failed or answered nothing usable.
            LimitReached: A limit of the run is used up.
        """

        async def one(name: str | None) -> Answer:
            return await self.deps.models.ask(
                messages, model=name, schema=schema, correct=correct, on_text=self.on_text
            )

        asked = asked_of_model(messages, schema)
        return await self._by_first_model(one, Answer, agent, asked)

    async def call_model(
        self,
        invoke: ModelCall,
        agent: str | None = None,
        asked: Sequence[BaseMessage] = (),
        tools: Sequence[str] = (),
    ) -> ModelResponse[Any]:
        """Make one turn of an agent's model; see `fractale.agents.subagent.AgentHost`."""
        models = self.deps.models

        async def one(name: str | None) -> AIMessage:
            response = await models.call(lambda: invoke(models.get(name)), name)
            return cast("AIMessage", response.result[0])

        from langchain.agents.middleware import ModelResponse

        told = asked_of_model(asked, tools=tools)
        return ModelResponse(result=[await self._by_first_model(one, AIMessage, agent, told)])

    async def _by_first_model(
        self, one: Any, kind: type[Any], agent: str | None, asked: dict[str, Any]
    ) -> Any:
        """The answer of the step's model; where it is out of reach, of the next that is given."""
        names = self.deps.models.chain(self.step.model)
        digest = digest_of_asked(self.context.mask(asked)) if asked["messages"] else ""
        for name in names[:-1]:
            try:
                return await self._told(one, name, kind, agent, digest)
            except ModelUnavailable as error:
                self.emit("warning", code="fallback", message=f"trying the next model: {error}")
        return await self._told(one, names[-1], kind, agent, digest)

    async def _told(
        self, one: Any, name: str | None, kind: type[Any], agent: str | None, digest: str
    ) -> Any:
        models, place = self.deps.models, self.book.next_place(agent)
        spec = models.spec(name)
        async with self.context.meter.model_call():
            told: dict[str, Any] = {"model": spec, "call": self.next_call(), "key": place.key}
            if agent:
                told["agent"] = agent
            self.emit("model_started", **told)
            started = time.monotonic()
            call = Call(kind="model", name=spec, digest=digest)
            try:
                answer, recorded = await self.book.model(place, call, lambda: one(name), kind)
            except ModelError as error:
                # A call that failed may have cost something all the same.
                self._model_finished(told, error.usage or Usage(), started, str(error))
                raise
            usage = answer.usage if kind is Answer else models.usage_of(answer, name)
            if recorded:
                told["recorded"] = True
            self._model_finished(told, usage, started, answer.text)
        return answer

    def _model_finished(
        self, told: Mapping[str, Any], usage: Usage, started: float, text: str
    ) -> None:
        self.usage += usage
        if not told.get("recorded"):  # it was counted when it was made
            self.context.meter.add(usage)
        self.emit(
            "model_finished",
            **told,
            seconds=round(time.monotonic() - started, 3),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost=usage.cost,
            text=text[:SHORT_TEXT],
        )

    def on_text(self, text: str) -> None:
        """Tell a piece of the model's text."""
        self.emit("model_text", text=text)


def unmask(edited: Any, shown: Any, real: Any) -> Any:
    """What a person left as it was shown, as it really is: secrets are shown as ``***``."""
    if edited == shown:
        return real
    if isinstance(edited, dict) and isinstance(shown, Mapping):
        table, seen = cast("dict[str, Any]", edited), cast("Mapping[str, Any]", shown)
        return {k: unmask(v, seen[k], real[k]) if k in seen else v for k, v in table.items()}
    return cast("Any", edited)


def _last_answers(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    """The tools' answers since the model's last turn, in order."""
    found: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        found.insert(0, message)
    return found
