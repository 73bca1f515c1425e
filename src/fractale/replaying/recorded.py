"""Everything outside of a replay, from its record: tools, models, users, jobs and sub-agents."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatResult

from fractale.agents.catalog import Catalog
from fractale.agents.conversation import CHANGES, FAILED_CHANGE
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.errors import NotDone, NotRecorded, ToolError
from fractale.graph.agent_context import StepAgentContext
from fractale.graph.bindings import Bindings, Bound
from fractale.graph.context import ResultCache
from fractale.graph.kinds.job import LOG_FILE
from fractale.masking import Masker
from fractale.models import Models, Usage
from fractale.pins import ToolChange, change_between
from fractale.plan.kinds import GENERAL_AGENTS
from fractale.policy import Grant, PlannedCall, Policy, Ruling
from fractale.questions import MISSING, Checked, tool_of
from fractale.record.snapshot import ToolSnapshot
from fractale.replaying.comparison import Comparison
from fractale.replaying.trace import Data, TraceEvent, question_content
from fractale.settings import Price, Settings
from fractale.store.journal import digest_of
from fractale.store.outputs import FileOutputs, MemoryOutputs, is_reference
from fractale.toolbox import (
    OnElicit,
    OnProgress,
    PromptInfo,
    PromptMessage,
    ResourceInfo,
    ServerStatus,
    ToolInfo,
    ToolResult,
)

if TYPE_CHECKING:
    from langchain_core.callbacks import CallbackManagerForLLMRun

    from fractale.graph.call import Attempt
    from fractale.jobs import JobHandle, JobLog


def _not_recorded(what: str) -> NoReturn:
    raise NotRecorded("no-result", f"the record does not have the result of {what}")


class RecordedToolbox:
    """The `Toolbox` of a run with the tools that it was offered; results are in the journal."""

    def __init__(self, offered: ToolSnapshot) -> None:
        self._offered = offered

    async def tools(self, names: Collection[str] | None = None) -> list[ToolInfo]:
        return list(self._offered.tools)

    async def prompts(self, names: Collection[str] | None = None) -> list[PromptInfo]:
        return list(self._offered.prompts)

    async def resources(self) -> list[ResourceInfo]:
        return list(self._offered.resources)

    async def servers(self, names: Collection[str] | None = None) -> list[ServerStatus]:
        return []

    async def find_tool(self, name: str) -> ToolInfo:
        tools = self._offered.tools
        found = [tool for tool in tools if name in (tool.name, tool.qualified_name)]
        if len(found) == 1:
            return found[0]
        several = [t for t in tools if t.qualified_name.partition(".")[2] == name]
        if several:
            choices = " or ".join(f"`{tool.qualified_name}`" for tool in several)
            raise ToolError(
                f"`{name}` is a tool of {len(several)} servers", hint=f"write {choices}"
            )
        near = difflib.get_close_matches(name, [tool.name for tool in tools], 1)
        tail = f"; did you mean `{near[0]}`?" if near else ""
        raise ToolError(f"no server has a tool `{name}`{tail}")

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        on_elicit: OnElicit | None = None,
        definition: str | None = None,
    ) -> ToolResult:
        _not_recorded(f"a call of `{name}`")

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        _not_recorded(f"the prompt `{name}`")

    async def read_resource(self, uri: str) -> ToolResult:
        _not_recorded(f"the resource `{uri}`")


class NoModel(BaseChatModel):
    """The model in an agent's constructor; it is never called."""

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        _not_recorded("the model")

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        del tools, kwargs
        return self


class RecordedModels(Models):
    """The models of a run: names and prices; their answers are in the journal.

    Args:
        settings: Of today, without secrets.
        recorded: The settings in the record (`fractale.record.snapshot.settings_data`).
        default: The model that the run began with, for records without settings.
    """

    def __init__(
        self, settings: Settings, recorded: Mapping[str, Any], default: str | None
    ) -> None:
        models: Mapping[str, Any] = recorded.get("models") or {}
        priced: Mapping[str, Any] = recorded.get("prices") or {}
        prices = {spec: Price(**price) for spec, price in priced.items()}
        super().__init__(
            replace(
                settings.with_flags(model=models.get("default") or default),
                fallback_models=tuple(recorded.get("fallback_models") or ()),
                prices=prices or settings.prices,
            ),
            given={spec: NoModel() for spec in models.get("given") or ()},
        )
        self._one: str | None = models.get("one")

    def spec(self, name: str | None) -> str:
        return self._one or super().spec(name)

    def chain(self, name: str | None) -> list[str | None]:
        return [name] if self._one else super().chain(name)

    def check(self, name: str | None) -> None:
        """Accept every name: a recorded model needs no key and no package."""

    def get(self, name: str | None) -> BaseChatModel:
        return NoModel()


class RecordedUser:
    """Answers questions from the record.

    Args:
        events: Of the record.
        unknown: Called with a question that has no recorded answer.
    """

    def __init__(self, events: Iterable[Data], unknown: Callable[[Data], None]) -> None:
        self._left = [(e["question"], e["answer"]) for e in events if e["event"] == "answered"]
        self._unknown = unknown

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The answer to the equal question, or to the next one of its step and kind.

        Returns:
            MISSING if the record has none.
        """
        kinds = [q for q, _ in self._left if _asks(q) == _asks(question)]
        equal = [q for q in kinds if question_content(q) == question_content(question)]
        for number, (asked, answer) in enumerate(self._left):
            if asked is (equal or kinds or [None])[0]:
                del self._left[number]
                return Checked(answer)
        if question.get("kind") != "failure":  # only asked if a user was there
            self._unknown(question)
        return MISSING


def _asks(question: Data) -> tuple[Any, ...]:
    return question.get("step"), question.get("kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPolicy(Policy):
    """Asks for approval only of the calls that the record has a question about.

    All other calls were made, so it no longer matters how they were approved (``--yes``, *always in
    this run*).
    """

    asked: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def of(cls, policy: Policy, events: Iterable[Data]) -> RecordedPolicy:
        return cls(settings=policy.settings, asked=frozenset(_approvals(events)))

    def rule(self, call: PlannedCall, grants: Collection[Grant] = ()) -> Ruling:
        ruling = Policy.rule(self, call, grants)
        digest = digest_of(dict(call.arguments))
        # Older records have the name that the run used, without its server.
        names = (call.tool.qualified_name, call.tool.name, call.tool.own_name)
        if ruling.verdict == "ask" and not any((name, digest) in self.asked for name in names):
            return Ruling("allow", "the recorded run did not ask")
        return ruling


@dataclass(slots=True)
class RecordedBindings(Bindings):
    """Asks only about the changes of tools that the record has a question about."""

    asked: frozenset[tuple[Bound, str]] = frozenset()

    @classmethod
    def recorded(cls, head: Data, events: Iterable[Data]) -> RecordedBindings:
        found = cls(asked=frozenset(_changes(events)))
        found.take(head.get("bindings") or {})
        return found

    def change_of(self, tool: ToolInfo) -> ToolChange | None:
        bound = Bound(tool.server, tool.own_name)
        if (bound, tool.definition) not in self.asked or bound in self.accepted:
            return None
        return change_between(None, tool)


def _changes(events: Iterable[Data]) -> Iterable[tuple[Bound, str]]:
    for event in events:
        for question in (event.get("question"), *(event.get("waiting") or ())):
            if question and question.get("kind") == "tool_changed":
                for name, definition in question["tools"].items():
                    yield Bound(str(question["server"]), name), definition


def _approvals(events: Iterable[Data]) -> Iterable[tuple[str, str]]:
    for event in events:
        questions = [event.get("question"), *(event.get("waiting") or ())]
        for question in questions:
            if question and question.get("kind") == "approval":
                yield tool_of(question), digest_of(question["arguments"])


class RecordedOutputs(MemoryOutputs):
    """Large values of the record, and those of the replay in memory."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._kept = FileOutputs(directory)

    def get(self, value: Any) -> Any:
        if is_reference(value) and value["$ref"].removeprefix("sha256:") not in self._values:
            return self._kept.get(value)
        return super().get(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLooks(ResultCache):
    """The look-ups of a record for results of earlier runs: exactly the same steps look.

    Their answers are in the journal. So neither the results of today nor the keys of today's plan
    change what is replayed.

    Args:
        looked: Path and attempt of each step that looked.
    """

    looked: frozenset[tuple[str, int]]

    @property
    def keeps(self) -> bool:
        return False

    def wants(self, attempt: Attempt) -> bool:
        return not attempt.is_again and (attempt.path, attempt.attempts) in self.looked


class RecordedJobs:
    """The logs of the batch jobs of a record.

    Args:
        directory: The directory of the jobs' directories in the record.
        masker: Masks the logs as the run did: the files are as the jobs wrote them.
        outside: Whether a log that the record lacks may be read in the job's own directory.
    """

    def __init__(
        self, directory: Path, masker: Masker | None = None, *, outside: bool = False
    ) -> None:
        self._jobs = directory
        self._masker = masker or Masker()
        self._outside = outside

    def __call__(self, scheduler: str | None) -> Any:
        del scheduler
        return self

    def has_log(self, handle: JobHandle) -> bool:
        kept = replace(handle, job_dir=self._directory(handle.job_dir))
        return (kept.own_dir / LOG_FILE).is_file()

    def _directory(self, job_dir: Path) -> Path:
        kept = self._jobs / job_dir.name
        return job_dir if self._outside and not kept.is_dir() else kept

    async def logs(self, handle: JobHandle, **options: Any) -> JobLog:
        log = await self._reader.logs(
            replace(handle, job_dir=self._directory(handle.job_dir)), **options
        )
        return replace(log, text=self._masker.text(log.text))

    @cached_property
    def _reader(self) -> Any:
        from fractale.jobs import Jobs

        return Jobs(self._jobs, {}, adapters={})


class RecordedAgents(Catalog):
    """A catalog of sub-agents, with stand-ins for those whose code a replay does not have.

    A replay imports no code that only its recording names. A step that called such a sub-agent gets
    its recorded outcome: the calls inside are counted, but not compared.

    Args:
        catalog: The sub-agents whose code is available.
        events: The record's events.
        tools: The tools that the run was offered; sub-agents of servers are among them.
        comparison: The comparison of the replay.

    Attributes:
        missing: The names of the sub-agents that have stand-ins.
    """

    def __init__(
        self,
        catalog: Catalog,
        events: Iterable[Data],
        tools: Collection[str],
        comparison: Comparison,
    ) -> None:
        super().__init__()
        self._inner = catalog
        known = {*catalog.names(), *tools, *GENERAL_AGENTS}
        started = (each for each in events if each["event"] == "step_started")
        asked = [str(each.get("target") or "") for each in started if each.get("type") == "agent"]
        self.missing = tuple(dict.fromkeys(name for name in asked if name and name not in known))
        self._comparison = comparison

    def find(self, name: str) -> Subagent | None:
        found = None if name in self.missing else self._inner.find(name)
        if name not in self.missing and (found is None or not found.is_graph):
            return found

        async def run(host: AgentContext, request: AgentRequest) -> AgentAnswer:
            del request
            return _as_recorded(name, cast("StepAgentContext", host), self._comparison)

        return replace(
            found or Subagent(name=name, description="recorded", run=run), run=run, is_graph=False
        )

    def is_own(self, name: str) -> bool:
        return self._inner.is_own(name)

    def names(self) -> list[str]:
        return [*self._inner.names(), *self.missing]


def _as_recorded(name: str, context: StepAgentContext, comparison: Comparison) -> AgentAnswer:
    """The answer of a sub-agent, from the recorded outcome of its step.

    Raises:
        NotRecorded: The record does not have it.
        NotDone, ToolError: The sub-agent raised it in the recorded run.
    """
    if context.agents_path:
        _unknown(name, context, "another sub-agent called it")
    inner, end = comparison.accept_inside(context.path)
    attempt = context.attempt
    for event in inner:
        if event.kind == "model_finished":
            usage = _usage_of(event)
            attempt.usage += usage
            attempt.context.meter.add(usage)
    if end is None:
        if not comparison.ended:
            comparison.end(f"in step `{context.path}`, in the sub-agent `{name}`")
        _unknown(name, context, "it had not ended")
    if end.data.get("decided_by") == "judge":
        _unknown(name, context, "a model judged its answer")
    return _answer_at(end)


def _answer_at(end: TraceEvent) -> AgentAnswer:
    """The answer of a sub-agent, from the end of its step.

    Raises:
        NotDone, ToolError: The sub-agent raised it in the recorded run.
    """
    data, outputs = end.data, end.refs.get("outputs")
    decided, error = data.get("decided_by"), str(data.get("error") or "")
    if decided == "agent":
        raise NotDone(str(data.get("reason") or error))
    if decided != "error":
        return AgentAnswer(outputs=outputs)
    if data.get("code") not in ("agent", None):
        raise ToolError(error)
    found = _FAILED_CHANGE.match(str(data.get("reason") or error))
    if found and not data.get("code"):
        return AgentAnswer(outputs=outputs, messages=[_failed(found[1], found[2])])
    return AgentAnswer(outputs=outputs, error=error)


_FAILED_CHANGE = re.compile(re.escape(FAILED_CHANGE) + r"`(.+?)`: (.*)", re.DOTALL)


def _failed(tool: str, text: str) -> ToolMessage:
    """The evidence that a sub-agent's last call that was to change something failed."""
    return ToolMessage(
        text, name=tool, tool_call_id="recorded", status="error", additional_kwargs={CHANGES: True}
    )


def _usage_of(event: TraceEvent) -> Usage:
    data = event.data
    return Usage(
        input_tokens=int(data.get("input_tokens") or 0),
        output_tokens=int(data.get("output_tokens") or 0),
        cost=float(data.get("cost") or 0.0),
        calls=1,
    )


def _unknown(name: str, context: StepAgentContext, why: str) -> NoReturn:
    raise NotRecorded(
        "no-agent",
        f"the record does not say what the sub-agent `{name}` answered in step `{context.path}`: "
        f"{why}",
        hint="review its code, then add it: fractale replay RUN -r REGISTRY, or -a PATH",
    )
