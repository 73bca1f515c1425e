"""One attempt of a step: the sources of its values, and its calls, each made once in the run.

Every call goes through `once`: of a tool, a prompt, a model, a resource, a batch job. A `Codec` has
the differences between these kinds. The order is always the same:

1. Policy. The call may need the user's approval, see `fractale.graph.kinds.tool`. Policy comes
   first: the question can end the node, and a refused call must not use a call site.
2. Limits. The run stops here if its time, tokens or cost are used up.
3. Event ``…_started``.
4. Journal. If an earlier process finished the call, its recorded result is returned. If an earlier
   process began the call and may have made it, the call is *indeterminate*: fractale asks the user.
   Otherwise the journal records the intent.
5. Timeout. The step's timeout (`fractale.graph.step`) and the server's (`fractale.mcp`) cancel 6.
6. Make. The call is sent.
7. Journal. The result is recorded, masked, and is used from here on as a resume would read it.
8. Event ``…_finished``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langgraph.config import get_config

from fractale.errors import (
    AnswerError,
    CallError,
    JobError,
    ModelError,
    StoreError,
    ToolError,
    TransportError,
)
from fractale.events import EventKind
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.continued import UNKNOWN, is_cut_off
from fractale.graph.errors_as_data import (
    CutOff,
    Elicited,
    Paused,
    cut_data,
    error_data,
    failure_data,
    raise_recorded,
)
from fractale.graph.interrupts import ask, asked_in
from fractale.graph.state import ForkPoint, PlanState, Record, Spent
from fractale.models import Usage
from fractale.plan.expressions import references
from fractale.plan.kinds import KINDS
from fractale.plan.model import Expression, ForEach, Step, Value
from fractale.policy import NO_LABELS, Labels, Seen, Source, from_data, to_data
from fractale.store.journal import Call, CallSite, Journal, digest_of
from fractale.store.outputs import MaskedOutputs

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from fractale.graph.made import Files

T = TypeVar("T")


# The sources of values


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFlow:
    """The labels of every name that the templates of a step can use.

    Args:
        records: Of the steps of the same plan.
        inputs: Of the plan's inputs that have labels.
        last: The step that led here.
        secrets: The names of the plan's secret inputs.
        item: Of the item, inside a foreach.
        base: Of the sources that a model had read before it wrote the step.
        values: Of the named values that have labels.
    """

    records: Mapping[str, Record] = field(default_factory=dict[str, Record])
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    last: str | None = None
    secrets: frozenset[str] = frozenset()
    item: Labels = NO_LABELS
    base: Labels = NO_LABELS
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def previous(self) -> Labels:
        """The labels of the step that led here."""
        return self._of_step(self.last) if self.last else NO_LABELS

    def of(self, value: Value | Expression) -> Labels:
        """The labels of the value's rendered result."""
        found: set[Source] = set(self.base)
        for reference in references(value):
            found.update(self._of_path(reference.path))
        return frozenset(found)

    def _of_path(self, path: tuple[str | int, ...]) -> Iterable[Source]:
        root, name = path[0], str(path[1]) if len(path) > 1 else None
        if root == "steps":
            return self._of_step(name) if name else self._of_all()
        if root == "inputs":
            return self._of_input(name) if name else self._of_inputs()
        if root == "previous":
            return self.previous
        if root == "values":
            return self._of_value(name) if name else self._of_values()
        if root == "run" and name in (None, "failed"):  # any step may have said what failed
            return self._of_all()
        return self.item if root == "item" else ()

    def _of_step(self, name: str) -> Labels:
        return labels_of(self.records.get(name, Record()))

    def _of_all(self) -> Labels:
        return labels_of(*self.records.values())

    def _of_input(self, name: str) -> Labels:
        labels = from_data(self.inputs.get(name))
        secret = Source(kind="input", name=name, private=True)
        return labels | {secret} if name in self.secrets else labels

    def _of_inputs(self) -> Labels:
        return NO_LABELS.union(*map(self._of_input, {*self.inputs, *self.secrets}))

    def _of_value(self, name: str) -> Labels:
        return from_data(self.values.get(name))

    def _of_values(self) -> Labels:
        return NO_LABELS.union(*map(self._of_value, self.values))

    def beside(self, outer: LabelFlow) -> LabelFlow:
        """The flow of a step of a chain, which also sees the values around the chain."""
        return replace(
            self,
            records={**outer.records, **self.records},
            inputs=outer.inputs,
            last=self.last or outer.last,
            item=outer.item,
            values={**outer.values, **self.values},
        )

    def for_items(self, foreach: ForEach) -> LabelFlow:
        """The flow inside a foreach, where `item` has the labels of the values it runs over."""
        item = NO_LABELS.union(*map(self.of, foreach_expressions(foreach)))
        return replace(self, item=item)


def foreach_expressions(foreach: ForEach) -> list[Expression]:
    """The expressions in the values that a foreach runs over."""
    items = foreach.items
    parts = items.values() if isinstance(items, Mapping) else [items]
    return [part for part in parts if isinstance(part, Expression)]


def labels_of(*records: Mapping[str, Any]) -> Labels:
    """The labels of the outputs of steps, or of items of a foreach."""
    return NO_LABELS.union(*(from_data(record.get("sources")) for record in records))


# An attempt


def current_task() -> str:
    """LangGraph's namespace of the task that runs now; empty outside a graph."""
    try:
        return str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    except RuntimeError:
        return ""


def has_callbacks() -> bool:
    """Whether anything listens to LangChain's callbacks of the task that runs now."""
    try:
        callbacks: Any = get_config().get("callbacks")
    except RuntimeError:
        return False
    return bool(getattr(callbacks, "handlers", callbacks))


class CallJournal:
    """The run's journal for the calls of one attempt, numbered within each task of LangGraph.

    Args:
        run: The journal of the run.
        step: The step's path.
        attempt: The number of the step's attempt.
        tries: The try of LangGraph's retry policy.
    """

    def __init__(self, run: Journal, step: str, attempt: int, tries: int) -> None:
        self.run = run
        self._step = step
        self._attempt = attempt
        self._tries = tries
        self._numbers: dict[str, int] = {}
        self._sites: list[CallSite] = []

    def at_try(self, tries: int) -> None:
        """Number the calls from here on by a new try of LangGraph's retry policy."""
        self._tries = tries

    @property
    def task(self) -> str:
        """The running task of LangGraph."""
        return current_task()

    def next_site(
        self, agent: str | None = None, *, prompt: bool = False, part: str = ""
    ) -> CallSite:
        """The call site of the next call of the running task.

        Args:
            agent: The path of the sub-agent that makes it, if it is not the step's own.
            prompt: Whether the call is of a prompt. Prompts have separate numbers.
            part: Calls with a part have separate numbers, too. So it does not matter in which
                order the parallel calls of a task are made.
        """
        part = "prompt" if prompt else part
        task = f"{current_task()}|{part}" if part else current_task()
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


@dataclass(slots=True)
class Consents:
    """The calls that the user agreed to in an attempt that may be made again.

    Args:
        known: Call → the answer that allowed it in an earlier try.
        words: How often the call may be made again, for the question to the user.
        new: The same as `known`, of this try.
    """

    known: Mapping[str, Any]
    words: str
    new: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of one step: its inputs, and the usage of its calls so far.

    Args:
        path: The step's path in the run, such as ``outer/inner``.
        deps: The outside world. Its store of outputs masks everything that it stores.
        scope: The names of its templates and rules.
        inputs: The rendered inputs, secrets in the clear.
        instruction: The rendered instruction.
        attempts: The number of this attempt, from 1.
        tries: The try of LangGraph's retry policy, from 1.
        conversation: The messages of the attempt before, if the step persists them.
        state: The state that the step was entered with.
        inside: The step's own compiled graph, if it has one.
        records: The records of steps inside, to be kept with the step's own.
        flow: The sources of the values of its templates.
        argument_sources: Input → the sources of its value.
        seen: All sources that flowed into the attempt.
        agreed: A call that is about to be made → a text that names who approved it beforehand.
        cut_off: The known facts about the calls that were cancelled in progress.
        replies: LangGraph task → answers to questions that it has not asked yet.
        named: What a `set` step, or one inside the step, named: changes of the state.
        consents: Call → the user's consent to it, given in this attempt. `fractale.graph.repeating`
            keeps it for the repetitions of the attempt. None: the attempt is not repeated.
        repetition: How often the attempt has failed and was made again.
        files: The files that the step creates and needs, if it names any.
        reused: The run and the step whose result was taken over, and the key: `{run, step, key}`.
        read: The files and programs that its inputs name (`fractale.graph.read_files`).
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
    flow: LabelFlow = field(default_factory=LabelFlow)
    argument_sources: dict[str, Labels] = field(default_factory=dict[str, Labels])
    seen: Seen = field(default_factory=Seen)
    agreed: dict[Call, str] = field(default_factory=dict[Call, str])
    cut_off: list[TransportError] = field(default_factory=list[TransportError])
    replies: dict[str, list[tuple[str, Any]]] = field(default_factory=dict[str, Any])
    named: PlanState = field(default_factory=PlanState)
    consents: Consents | None = None
    repetition: int = 0
    files: Files | None = None
    reused: Mapping[str, Any] | None = None
    read: Mapping[str, Any] | None = None
    journal: CallJournal = field(init=False)

    @property
    def is_again(self) -> bool:
        """Whether the run came back to the step, or to one around it."""
        return self.context.again or self.scope.get("attempts", self.attempts) > 1

    def __post_init__(self) -> None:
        context = self.context
        outputs = MaskedOutputs(self.deps.outputs, context.masker)
        self.deps = replace(self.deps, outputs=outputs)
        self.journal = CallJournal(context.journal, self.path, self.attempts, self.tries)
        if self._outlives_process:
            known = context.notes.get(self._note)
            self.seen.add(from_data(known))
            if context.cut_off and known is None and is_cut_off(self.path, context.cut_off):
                self.seen.add([UNKNOWN])

    @property
    def _outlives_process(self) -> bool:
        """Whether a killed attempt keeps the sources that it had seen, as a model's context.

        The others make their calls again, from the journal.
        """
        return KINDS[self.step.kind].keeps_sources

    @property
    def _note(self) -> str:
        """The key of the sources that the attempt had seen when its process was killed."""
        return f"sources {self.path} {self.attempts}"

    def saw(self, source: Source | None, text: str) -> None:
        """Add the source of a call's answer to the sources that the attempt has seen."""
        new = source is not None and self.seen.add([source], text)
        if new and self._outlives_process:
            self.context.notes.put(self._note, to_data(self.seen.sources))

    def charge(self, spent: Spent) -> None:
        """Add the usage of steps inside this one to its own usage."""
        self.usage += Usage(
            input_tokens=spent.get("input_tokens", 0),
            output_tokens=spent.get("output_tokens", 0),
            cost=spent.get("cost", 0.0),
        )

    def finish(self) -> None:
        """Clean up when the attempt is over."""
        self.journal.commit()
        if self.context.shown:  # a question was asked
            self.context.notes.drop(asked_in(self.journal.task))
        if self._outlives_process:
            self.context.notes.drop(self._note)
        if self.tries_ended:
            self.context.notes.drop(self._ended)

    def end_tries(self) -> None:
        """Let this try be the last, also in another process of the run.

        A person decided how it ended, or its work may still run.
        """
        if self.consents is not None:
            self.context.notes.put(self._ended, True)

    @property
    def tries_ended(self) -> bool:
        """Whether the attempt must not be made again, even if it failed."""
        return self.consents is not None and bool(self.context.notes.get(self._ended))

    @property
    def _ended(self) -> str:
        return f"tries ended {self.path} {self.attempts}"

    @property
    def entry(self) -> ForkPoint | None:
        """Where a fork enters the plan inside this step. None: at its first step."""
        entry = self.context.entry
        return entry.below(self.step.name, self.attempts) if entry else None

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Report an event of this step."""
        self.context.emit(kind, step=self.path, **data)

    def warn(self, code: str, message: str) -> None:
        """Report a problem that does not stop the run."""
        self.emit("warning", code=code, message=message)

    def warn_undefined(self, rule: str, name: str) -> None:
        """Warn that a rule names something that is not defined."""
        self.warn("undefined", f"rule `{rule}`: `{name}` is not defined")

    def digest(self, arguments: Mapping[str, Any]) -> str:
        """The digest of a call's arguments in the journal, which holds no secrets."""
        return digest_of(self.context.mask(dict(arguments)))

    @contextmanager
    def text_of_model(self) -> Generator[Callable[[str], None]]:
        """Report a model's text piece by piece. A secret that spans pieces is masked, too."""
        stream = self.context.masker.stream(lambda text: self.emit("model_text", text=text))
        try:
            yield stream.feed
        finally:
            stream.end()


# A call


class Codec(Generic[T]):
    """The differences between kinds of calls. There is one codec per call.

    Attributes:
        events: The kinds of its first and its last event; None for a call without events.
        fields: Fields of all its events. `once` adds `call`, its number in the attempt, and `key`,
            its call site.
    """

    events: tuple[EventKind, EventKind] | None = None

    def __init__(self, attempt: Attempt, fields: Mapping[str, Any]) -> None:
        self.attempt = attempt
        self.fields = dict(fields)

    def dump(self, result: T, seconds: float | None) -> dict[str, Any]:
        """A result as JSON for the journal, with how long the call took, if it was made."""
        raise NotImplementedError

    def load(self, data: Mapping[str, Any]) -> T:
        """Restore a result from the JSON that `dump` made of it."""
        raise NotImplementedError

    def started(self) -> dict[str, Any]:
        """More fields of its first event."""
        return {}

    def finished(
        self, outcome: T | CallError | Elicited | Paused, *, recorded: bool
    ) -> dict[str, Any]:
        """More fields of its last event: `text`, and those of its kind.

        Args:
            recorded: Whether an earlier process of the run made the call.
        """
        del outcome, recorded
        return {}

    def indeterminate(self) -> T | None:
        """The result of an indeterminate call. None makes the call again.

        Raises:
            ToolError: The call counts as failed.
        """
        return None

    def answered(self, question: Mapping[str, Any], answer: Any) -> None:
        """Record the user's answer to a question that the server asked in this call."""
        del question, answer

    def failed(self, error: CallError) -> CallError:
        """The error of the call as its step sees it."""
        return error

    def cut_off(self, cancelled: asyncio.CancelledError | TimeoutError) -> None:
        """Record that the call was cancelled while it was in progress."""
        del cancelled


Make = Callable[[], Awaitable[T]]


async def once(attempt: Attempt, site: CallSite, call: Call, make: Make[T], codec: Codec[T]) -> T:
    """Make a call once in its run, or return its recorded result. The module lists the order.

    Raises:
        CallError: The call failed, now or when it was recorded.
        LimitReached: A limit of the run is used up.
        GraphInterrupt: The user must answer about an indeterminate call, to the server, or to the
            tool's own code.
    """
    if codec.events:  # 2. limits
        attempt.context.meter.check()
        attempt.calls += 1
        codec.fields |= {"call": attempt.calls, "key": site.key}
        if site.agent:
            codec.fields["agent"] = site.agent
        attempt.emit(codec.events[0], **codec.fields, **codec.started())  # 3. event
    journal = attempt.journal.run
    while True:
        started = time.monotonic()
        try:
            result, recorded = await _journaled(journal, site, call, make, codec)  # 4. to 7.
        except (ToolError, JobError, ModelError) as error:
            failure = codec.failed(error)
            failure.message, failure.hint = attempt.context.mask([failure.message, failure.hint])
            _report(codec, failure, started)
            raise failure from error
        except AnswerError:
            journal.withdraw(site)
            raise
        except (asyncio.CancelledError, CutOff) as cancelled:
            codec.cut_off(cancelled)
            raise
        except Elicited as asked:
            _report(codec, asked, started)
            _withdraw(journal, site, asked)
            codec.answered(asked.question, ask(attempt, asked.question, replayed=asked.replayed))
        else:
            _report(codec, result, started, recorded=recorded)  # 8. event
            return result


async def _journaled(
    journal: Journal, site: CallSite, call: Call, make: Make[T], codec: Codec[T]
) -> tuple[T, bool]:
    """The result of a call, and whether an earlier process of the run made it."""
    known = journal.find(site, call)
    if known is not None and known.done:
        raise_recorded(known)
        return codec.load(known.result), not known.replayed
    if known is not None and not call.safe:
        try:
            said = codec.indeterminate()
        except ToolError as error:
            journal.finish(site, call, failure_data(error))
            raise
        if said is not None:
            return codec.load(journal.finish(site, call, codec.dump(said, None))), True
    await _begin(journal, site, call)
    started = time.monotonic()
    try:
        result = await make()
    except Paused as paused:
        _report(codec, paused, started)
        _withdraw(journal, site, paused)
        raise paused.error from None
    except ToolError as error:  # the error is the call's result
        error.seconds = round(time.monotonic() - started, 3)
        journal.finish(site, call, failure_data(error))
        raise
    except (JobError, ModelError) as error:  # only a replay needs it
        if isinstance(error, ModelError):
            journal.withdraw(site)
        journal.note(site, {"fault": error_data(error)})
        raise
    except asyncio.CancelledError as cancelled:
        with contextlib.suppress(StoreError):  # the call ends anyway, and a resume needs no note
            journal.note(site, cut_data(cancelled))
        raise
    data = codec.dump(result, round(time.monotonic() - started, 3))
    return codec.load(journal.finish(site, call, data)), False


async def _begin(journal: Journal, site: CallSite, call: Call) -> None:
    """Record the intent. That of a call that may not be repeated survives a power cut.

    Raises:
        StoreError: The journal cannot be written. The call must not be made.
    """
    journal.begin(site, call)
    if call.safe:
        return
    try:
        await journal.synced()
    except BaseException:
        with contextlib.suppress(StoreError):
            journal.withdraw(site)
        raise


def _withdraw(journal: Journal, site: CallSite, asked: Elicited | Paused) -> None:
    """Have the call made again, once its question is answered."""
    journal.withdraw(site)
    if asked.question is not None:
        journal.note(site, {"asks": asked.question})


def _report(
    codec: Codec[T],
    outcome: T | CallError | Elicited | Paused,
    started: float,
    *,
    recorded: bool = False,
) -> None:
    """Emit the last event of a call."""
    fields = codec.finished(outcome, recorded=recorded)
    if codec.events:
        seconds = round(time.monotonic() - started, 3)
        more = {"recorded": True} if recorded else {}
        codec.attempt.emit(codec.events[1], **codec.fields, **more, seconds=seconds, **fields)
