"""One attempt of one step: what it is given, where that comes from, and the calls that it makes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fractale.errors import TransportError
from fractale.events import EventKind
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.fork_point import ForkPoint
from fractale.graph.interrupts import current_task
from fractale.graph.scope import Flow
from fractale.graph.state import PlanState, Record, Spent
from fractale.labels import Labels, Seen, Source, from_data, to_data
from fractale.models import Usage
from fractale.plan.model import Step
from fractale.store.journal import Call, CallSite, Journal, digest_of
from fractale.store.outputs import MaskedOutputs

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


class CallJournal:
    """The run's journal for the calls of one attempt, numbered within each task of LangGraph.

    Args:
        run: The journal of the run.
        step: The step's path.
        attempt: Which attempt of the step it is.
        tries: Which try of LangGraph's retry policy.
    """

    def __init__(self, run: Journal, step: str, attempt: int, tries: int) -> None:
        self.run = run
        self._step = step
        self._attempt = attempt
        self._tries = tries
        self._numbers: dict[str, int] = {}
        self._sites: list[CallSite] = []

    def next_site(self, agent: str | None = None, *, prompt: bool = False) -> CallSite:
        """The call site of the next call of the running task.

        Args:
            agent: The path of the sub-agent that makes it, if it is not the step's own.
            prompt: Of a prompt. Prompts have numbers of their own.
        """
        task = f"{current_task()}|prompt" if prompt else current_task()
        site = self._site(task, agent)
        self._numbers[task] = site.number
        self._sites.append(site)
        return site

    def _site(self, task: str, agent: str | None) -> CallSite:
        return CallSite(
            task=task,
            number=self._numbers.get(task, 0) + 1,
            tries=self._tries,
            step=self._step,
            attempt=self._attempt,
            agent=agent or "",
        )

    def is_begun(self, agent: str | None, call: Call) -> bool:
        """Whether an earlier process of the run began the next call of the running task."""
        return self.run.is_begun(self._site(current_task(), agent), call)

    def commit(self) -> None:
        """Forget the calls: the attempt is over."""
        self.run.commit(self._sites)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of one step: what it was given, and what its calls have used so far.

    Args:
        path: The step's path in the run, such as ``outer/inner``.
        deps: The outside world. What is put into its store of outputs is masked.
        scope: The names of its templates and rules.
        inputs: The rendered inputs, secrets in the clear.
        instruction: The rendered instruction.
        attempts: Which attempt of the step this is, from 1.
        tries: Which try of LangGraph's retry policy, from 1.
        conversation: The messages of the attempt before, if the step persists them.
        state: The state that the step was entered with.
        inside: The step's own compiled graph, if it has one.
        records: The records of steps inside, to be kept with the step's own.
        flow: Where the values of its templates come from.
        argument_sources: Input → where its value came from.
        seen: All sources that flowed into the attempt.
        agreed: A call that is about to be made → who agreed to it beforehand, in words.
        cut_off: What is known of the calls that were cancelled in progress.
        replies: LangGraph task → answers that belong to questions it has yet to ask.
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
    flow: Flow = field(default_factory=Flow)
    argument_sources: dict[str, Labels] = field(default_factory=dict[str, Labels])
    seen: Seen = field(default_factory=Seen)
    agreed: dict[Call, str] = field(default_factory=dict[Call, str])
    cut_off: list[TransportError] = field(default_factory=list[TransportError])
    replies: dict[str, list[tuple[str, Any]]] = field(default_factory=dict[str, Any])
    journal: CallJournal = field(init=False)

    def __post_init__(self) -> None:
        context = self.context
        outputs = MaskedOutputs(self.deps.outputs, context.masker)
        self.deps = replace(self.deps, outputs=outputs)
        self.journal = CallJournal(context.journal, self.path, self.attempts, self.tries)
        if self._outlives_process:
            self.seen.add(from_data(context.notes.get(self._note)))

    @property
    def _outlives_process(self) -> bool:
        """Whether a killed attempt continues with what it had seen, as the context of a model.

        A tool or a job step makes its call again, from the journal.
        """
        return self.step.kind not in ("tool", "job")

    @property
    def _note(self) -> str:
        """The key of what the attempt had seen when its process was killed."""
        return f"sources {self.path} {self.attempts}"

    def saw(self, source: Source | None, text: str) -> None:
        """Add the source of a call's answer to what the attempt has seen."""
        new = source is not None and self.seen.add([source], text)
        if new and self._outlives_process:
            self.context.notes.put(self._note, to_data(self.seen.sources))

    def charge(self, spent: Spent) -> None:
        """Count what steps inside this one have used as its own."""
        self.usage += Usage(
            input_tokens=spent.get("input_tokens", 0),
            output_tokens=spent.get("output_tokens", 0),
            cost=spent.get("cost", 0.0),
        )

    def finish(self) -> None:
        """Called when the attempt is over."""
        self.journal.commit()
        if self._outlives_process:
            self.context.notes.drop(self._note)

    @property
    def entry(self) -> ForkPoint | None:
        """Where a fork enters the plan inside this step; None: at its first step."""
        entry = self.context.entry
        return entry.below(self.step.name, self.attempts) if entry else None

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Report an event of this step."""
        self.context.emit(kind, step=self.path, **data)

    def warn(self, code: str, message: str) -> None:
        """Report something that the run can continue with."""
        self.emit("warning", code=code, message=message)

    def warn_undefined(self, rule: str, name: str) -> None:
        """Warn that a rule names something that is not defined."""
        self.warn("undefined", f"rule `{rule}`: `{name}` is not defined")

    def digest(self, arguments: Mapping[str, Any]) -> str:
        """The digest of a call's arguments in the journal, which holds no secrets."""
        return digest_of(self.context.mask(dict(arguments)))

    @contextmanager
    def text_of_model(self) -> Generator[Callable[[str], None]]:
        """Reports a model's text piece by piece. A secret that is cut by pieces is masked, too."""
        stream = self.context.masker.stream(lambda text: self.emit("model_text", text=text))
        try:
            yield stream.feed
        finally:
            stream.end()
