"""The calls of a model in one attempt of a step: made by the first that can, told and counted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.messages import AIMessage, BaseMessage

from fractale.errors import ModelError, ModelUnavailable
from fractale.graph.attempt import SHORT_TEXT, Attempt
from fractale.graph.recorded import asked_of_model, digest_of_asked
from fractale.models import Answer, Usage
from fractale.store.journal import Call

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

M = TypeVar("M", bound=BaseMessage)


async def ask(
    attempt: Attempt,
    messages: Sequence[BaseMessage],
    schema: Mapping[str, Any] | None = None,
    agent: str | None = None,
    *,
    correct: bool = True,
) -> Answer:
    """Ask the model once and tell about it.

    Args:
        agent: The sub-agent that asks, where it is not the step's own.

    Raises:
        ModelError: The model failed or answered nothing usable.
        LimitReached: A limit of the run is used up.
    """
    said = [masked(attempt, message) for message in messages]

    async def one(name: str | None) -> Answer:
        with attempt.text_of_model() as on_text:
            return await attempt.deps.models.ask(
                said, model=name, schema=schema, correct=correct, on_text=on_text
            )

    asked = asked_of_model(said, schema)
    answer: Answer = await _by_first_model(attempt, one, Answer, agent, asked)
    mask = attempt.context.mask
    return replace(answer, text=mask(answer.text), data=mask(answer.data))


async def turn(
    attempt: Attempt,
    messages: Sequence[BaseMessage],
    tools: Sequence[BaseTool] = (),
    agent: str | None = None,
) -> AIMessage:
    """Make one turn of an agent's model; see `fractale.agents.subagent.AgentContext`."""
    said = [masked(attempt, message) for message in messages]
    shown = [_masked_tool(attempt, tool) for tool in tools]

    async def one(name: str | None) -> AIMessage:
        with attempt.text_of_model() as on_text:
            return await attempt.deps.models.turn(said, model=name, tools=shown, on_text=on_text)

    asked = asked_of_model(said, tools=[tool.name for tool in tools])
    return masked(attempt, await _by_first_model(attempt, one, AIMessage, agent, asked))


def masked(attempt: Attempt, message: M) -> M:
    """A message without secrets: its provider learns none, and no checkpoint has any."""
    mask = attempt.context.mask
    changes: dict[str, Any] = {}
    for name in ("content", "tool_calls", "invalid_tool_calls", "additional_kwargs"):
        value = getattr(message, name, None)
        if value and (without := mask(value)) != value:
            changes[name] = without
    return message.model_copy(update=changes) if changes else message


def _masked_tool(attempt: Attempt, tool: BaseTool) -> BaseTool:
    """A tool without secrets in what its server says of it."""
    mask = attempt.context.mask
    changes: dict[str, Any] = {}
    if (words := mask(tool.description)) != tool.description:
        changes["description"] = words
    if isinstance(tool.args_schema, dict) and (without := mask(tool.args_schema)) != (
        tool.args_schema
    ):
        changes["args_schema"] = without
    return tool.model_copy(update=changes) if changes else tool


async def _by_first_model(
    attempt: Attempt,
    one: Callable[[str | None], Awaitable[Any]],
    kind: type[Any],
    agent: str | None,
    asked: dict[str, Any],
) -> Any:
    """The answer of the step's model; where it is out of reach, of the next that is given."""
    names = attempt.deps.models.chain(attempt.step.model)
    digest = digest_of_asked(attempt.context.mask(asked)) if asked["messages"] else ""
    for name in names[:-1]:
        try:
            return await _told(attempt, one, name, kind, agent, digest)
        except ModelUnavailable as error:
            attempt.emit("warning", code="fallback", message=f"trying the next model: {error}")
    return await _told(attempt, one, names[-1], kind, agent, digest)


async def _told(
    attempt: Attempt,
    one: Callable[[str | None], Awaitable[Any]],
    name: str | None,
    kind: type[Any],
    agent: str | None,
    digest: str,
) -> Any:
    models, place = attempt.deps.models, attempt.book.next_place(agent)
    spec = models.spec(name)
    async with attempt.context.meter.model_call():
        told: dict[str, Any] = {"model": spec, "call": attempt.next_call(), "key": place.key}
        if agent:
            told["agent"] = agent
        attempt.emit("model_started", **told)
        started = time.monotonic()
        call = Call(kind="model", name=spec, digest=digest)
        try:
            answer, recorded = await attempt.book.model(place, call, lambda: one(name), kind)
        except ModelError as error:
            # A call that failed may have cost something all the same.
            _finished(attempt, told, error.usage or Usage(), started, str(error))
            raise
        usage = answer.usage if kind is Answer else models.usage_of(answer, name)
        if recorded:
            told["recorded"] = True
        _finished(attempt, told, usage, started, answer.text)
    return answer


def _finished(
    attempt: Attempt, told: Mapping[str, Any], usage: Usage, started: float, text: str
) -> None:
    attempt.usage += usage
    if not told.get("recorded"):  # it was counted when it was made
        attempt.context.meter.add(usage)
    attempt.emit(
        "model_finished",
        **told,
        seconds=round(time.monotonic() - started, 3),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=usage.cost,
        text=attempt.context.mask(text)[:SHORT_TEXT],  # a secret that is cut is not known any more
    )
