"""One attempt of one step: what it was given, and what its calls have used.

`tool_calls` and `model_calls` make the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, ToolMessage

from fractale.errors import TransportError
from fractale.evidence import outputs_of
from fractale.graph.context import Dependencies, RunContext
from fractale.graph.entry import Entry
from fractale.graph.flow import Flow
from fractale.graph.outcome import CallResult, match_rules, rule_scope
from fractale.graph.recorded import CallBook
from fractale.graph.state import PlanState, Record, Spent
from fractale.labels import Labels, Seen, Source, from_data, to_data
from fractale.models import Usage
from fractale.plan.expressions import references
from fractale.plan.model import Rule, Step
from fractale.toolbox import ToolResult

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

SHORT_TEXT = 2000
"""Characters of an answer that are told of it."""


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of one step: what it was given, and what its calls have used so far.

    Args:
        path: The step's path in the run, such as ``outer/inner``.
        scope: The names of its templates and rules.
        inputs: The rendered inputs, secrets in the clear.
        instruction: The rendered instruction.
        attempts: Which attempt of the step this is, from 1.
        tries: Which try of LangGraph's retry policy, from 1.
        conversation: The messages of the attempt before, where the step persists them.
        state: The state that the step was entered with.
        inside: The step's own compiled graph, where it has one.
        records: The records of steps inside, to be kept with the step's own.
        flow: Where the values of its templates come from.
        argument_sources: Input → where its value came from.
        seen: All that flowed into the attempt.
        agreed: A call that is about to be made → who agreed to it beforehand, in words.
        cut_off: What is known of the calls that were cancelled under way.
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
    agreed: dict[str, str] = field(default_factory=dict[str, str])
    cut_off: list[TransportError] = field(default_factory=list[TransportError])
    replies: dict[str, list[tuple[str, Any]]] = field(default_factory=dict[str, Any])
    book: CallBook = field(init=False)

    def __post_init__(self) -> None:
        context = self.context
        self.book = CallBook(context.journal, context.mask, self.path, self.attempts, self.tries)
        self.seen.add(from_data(context.notes.get(self._note)))

    @property
    def _note(self) -> str:
        """The key of what the attempt had seen when its process was killed."""
        return f"sources {self.path} {self.attempts}"

    def saw(self, source: Source | None, text: str) -> None:
        """Take note of what a call gave.

        What a model was shown is kept for as long as the attempt lasts: its context outlives the
        process. A tool step makes its call again, from the record.
        """
        new = source is not None and self.seen.add([source], text)
        if new and self.step.kind not in ("tool", "job"):
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
        self.book.settle()
        self.context.notes.drop(self._note)

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
        """The number of the next call of this attempt, from 1; stops at a limit first."""
        self.context.meter.check()
        self.calls += 1
        return self.calls

    @contextmanager
    def text_of_model(self) -> Generator[Callable[[str], None]]:
        """Takes a model's text piece by piece and tells it, secrets masked also over pieces."""
        stream = self.context.masker.stream(lambda text: self.emit("model_text", text=text))
        try:
            yield stream.feed
        finally:
            stream.end()

    def matched(self, messages: Sequence[BaseMessage]) -> CallResult | None:
        """The first of the last tool answers on which a rule of the step holds."""
        for message in _last_answers(messages) if self.step.rules else ():
            result = ToolResult(text=message.text, structured=message.artifact)
            failed = message.status == "error"
            call = CallResult(
                outputs={} if failed else outputs_of(result),
                text=result.text,
                error=result.text if failed else None,
            )
            scope = rule_scope(self.scope, call, self.scope.get("attempts", self.attempts))
            step = replace(self.step, rules=self._rules_about(call))
            if decision := match_rules(step, call, scope, lambda _rule, _name: None):
                return replace(call, matched=decision)
        return None

    def _rules_about(self, call: CallResult) -> tuple[Rule, ...]:
        """The rules that look at something in a tool's answer.

        `not jobspec` says nothing about the answer of a tool that gives no jobspecs, and
        `attempts > 2` about none; they wait for the agent's own answer.
        """
        known = {*call.outputs, "content", *(("error",) if call.error else ())} - set(self.scope)

        def looks_at(path: Sequence[str | int]) -> bool:
            return (path[1:] or path)[0] in known if path[0] == "outputs" else path[0] in known

        return tuple(
            rule
            for rule in self.step.rules
            if any(looks_at(reference.path) for reference in references(rule.expression))
        )


def _last_answers(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    """The tools' answers since the model's last turn, in order."""
    found: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        found.insert(0, message)
    return found
