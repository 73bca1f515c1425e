"""The outside of a replay: tools, models, people and jobs, as the record has them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult

from fractale.errors import NotRecorded, ToolError
from fractale.grants import Grant
from fractale.graph.bindings import Bindings, Bound
from fractale.graph.kinds.job import LOG_FILE
from fractale.masking import Masker
from fractale.models import Models
from fractale.pins import ToolChange, change_between
from fractale.policy import PlannedCall, Policy, Ruling
from fractale.questions import MISSING, Checked, tool_of
from fractale.record.offered import Offered
from fractale.replay.events import Data, question_words
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

    from fractale.jobs import JobHandle, JobLog


def _nothing(what: str) -> NoReturn:
    raise NotRecorded("no-result", f"the record does not say what {what} gave")


class RecordedToolbox:
    """A `Toolbox` that only knows what there was: what calls gave is in the journal."""

    def __init__(self, offered: Offered) -> None:
        self._offered = offered

    async def tools(self, names: Collection[str] | None = None) -> list[ToolInfo]:
        """Every tool that there was."""
        return list(self._offered.tools)

    async def prompts(self, names: Collection[str] | None = None) -> list[PromptInfo]:
        """Every prompt that there was."""
        return list(self._offered.prompts)

    async def resources(self) -> list[ResourceInfo]:
        """Every resource that there was."""
        return list(self._offered.resources)

    async def servers(self, names: Collection[str] | None = None) -> list[ServerStatus]:
        """No server is started."""
        return []

    async def find_tool(self, name: str) -> ToolInfo:
        """The tool of that bare or qualified name.

        Raises:
            ToolError: There was none, or several.
        """
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
        """No tool is called."""
        _nothing(f"a call of `{name}`")

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        """No prompt is fetched."""
        _nothing(f"the prompt `{name}`")

    async def read_resource(self, uri: str) -> ToolResult:
        """No resource is read."""
        _nothing(f"the resource `{uri}`")


class NoModel(BaseChatModel):
    """Stands where an agent is built around a model: it is never asked."""

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
        _nothing("the model")

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """The same."""
        del tools, kwargs
        return self


class RecordedModels(Models):
    """The models that a run had: their names and prices; what they answered is in the journal.

    Args:
        settings: Of today, without secrets.
        said: What the record has of the settings (`fractale.record.offered.settings_data`).
        default: The model that the run began with, where its record does not have them.
    """

    def __init__(self, settings: Settings, said: Mapping[str, Any], default: str | None) -> None:
        models: Mapping[str, Any] = said.get("models") or {}
        priced: Mapping[str, Any] = said.get("prices") or {}
        prices = {spec: Price(**price) for spec, price in priced.items()}
        super().__init__(
            replace(
                settings.with_flags(model=models.get("default") or default),
                fallback_models=tuple(said.get("fallback_models") or ()),
                prices=prices or settings.prices,
            ),
            given={spec: NoModel() for spec in models.get("given") or ()},
        )
        self._one: str | None = models.get("one")

    def spec(self, name: str | None) -> str:
        """``provider:name`` of a step's `model:`, as it was."""
        return self._one or super().spec(name)

    def chain(self, name: str | None) -> list[str | None]:
        """A step's `model:` and those that were taken where it was out of reach."""
        return [name] if self._one else super().chain(name)

    def check(self, name: str | None) -> None:
        """Nothing keeps a recorded model from answering."""

    def get(self, name: str | None) -> BaseChatModel:
        """A model that is not asked."""
        return NoModel()


class RecordedPerson:
    """Gives the answers that people gave.

    Args:
        events: Of the record.
        unknown: Told of a question that is not in the record.
    """

    def __init__(self, events: Iterable[Data], unknown: Callable[[Data], None]) -> None:
        self._left = [(e["question"], e["answer"]) for e in events if e["event"] == "answered"]
        self._unknown = unknown

    async def answer(self, question: Mapping[str, Any]) -> Any:
        """The answer to a question, or MISSING: then nobody gave one."""
        kinds = [q for q, _ in self._left if _asks(q) == _asks(question)]
        same = [q for q in kinds if question_words(q) == question_words(question)]
        for number, (asked, answer) in enumerate(self._left):
            if asked is (same or kinds or [None])[0]:
                del self._left[number]
                return Checked(answer)
        if question.get("kind") != "failure":  # only asked where somebody was there
            self._unknown(question)
        return MISSING


def _asks(question: Data) -> tuple[Any, ...]:
    return question.get("step"), question.get("kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPolicy(Policy):
    """Asks before the calls that the record asked about, and before no others.

    Who agreed to the others (``--yes``, *always in this run*) does not matter any more: they were
    made.
    """

    asked: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def of(cls, policy: Policy, events: Iterable[Data]) -> RecordedPolicy:
        """The policy of a run, with what was asked in it."""
        return cls(settings=policy.settings, asked=frozenset(_approvals(events)))

    def rule(self, call: PlannedCall, grants: Collection[Grant] = ()) -> Ruling:
        """Decide about a call as it was decided."""
        ruling = Policy.rule(self, call, grants)
        digest = digest_of(dict(call.arguments))
        # Older records have the name that the run used, without its server.
        names = (call.tool.qualified_name, call.tool.name, call.tool.own_name)
        if ruling.verdict == "ask" and not any((name, digest) in self.asked for name in names):
            return Ruling("allow", "nobody was asked in the run that is replayed")
        return ruling


@dataclass(slots=True)
class RecordedBindings(Bindings):
    """Asks about the changes of tools that the record asked about, and about no others."""

    asked: frozenset[tuple[Bound, str]] = frozenset()

    @classmethod
    def recorded(cls, head: Data, events: Iterable[Data]) -> RecordedBindings:
        """The bindings of a run when it began, with what was asked in it."""
        found = cls(asked=frozenset(_changes(events)))
        found.take(head.get("bindings") or {})
        return found

    def change_of(self, tool: ToolInfo) -> ToolChange | None:
        """A change that was asked about and is not accepted yet."""
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
    """Large values: those of the record are read, those of the replay end with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._kept = FileOutputs(folder)

    def get(self, value: Any) -> Any:
        """The value that a reference stands for; any other value unchanged."""
        if is_reference(value) and value["$ref"].removeprefix("sha256:") not in self._values:
            return self._kept.get(value)
        return super().get(value)


class RecordedJobs:
    """The batch jobs of a record: of each, its log.

    Args:
        folder: Where the record has their folders.
        masker: Masks logs as the run did, where they are as their jobs wrote them.
        outside: Whether a log that is not there may be read in the job's own folder, of which the
            record says where it is.
    """

    def __init__(
        self, folder: Path, masker: Masker | None = None, *, outside: bool = False
    ) -> None:
        self._folder = folder
        self._masker = masker or Masker()
        self._outside = outside

    def __call__(self, scheduler: str | None) -> Any:
        """The same for every scheduler."""
        del scheduler
        return self

    def has_log(self, handle: JobHandle) -> bool:
        """Whether the log of a job is still there."""
        kept = replace(handle, job_dir=self._place(handle.job_dir))
        return (kept.own_dir / LOG_FILE).is_file()

    def _place(self, job_dir: Path) -> Path:
        kept = self._folder / job_dir.name
        return job_dir if self._outside and not kept.is_dir() else kept

    async def logs(self, handle: JobHandle, **options: Any) -> JobLog:
        """A part of a job's log."""
        log = await self._reader.logs(
            replace(handle, job_dir=self._place(handle.job_dir)), **options
        )
        return replace(log, text=self._masker.text(log.text))

    @cached_property
    def _reader(self) -> Any:
        from fractale.jobs import Jobs

        return Jobs(self._folder, {}, adapters={})
