"""The calls of a model in one visit of a step: made by the first that can, told and counted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, BaseMessage

from fractale.errors import ModelError, ModelUnavailable
from fractale.graph.recorded import asked_of_model, digest_of_asked
from fractale.graph.visit import SHORT_TEXT, Visit
from fractale.models import Answer, Usage, sendable
from fractale.store.journal import Call

if TYPE_CHECKING:
    from langchain.agents.middleware import ModelResponse

    from fractale.agents.subagent import ModelCall


async def ask(
    visit: Visit,
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
    messages = sendable(messages)

    async def one(name: str | None) -> Answer:
        return await visit.deps.models.ask(
            messages, model=name, schema=schema, correct=correct, on_text=visit.on_text
        )

    asked = asked_of_model(messages, schema)
    return await _by_first_model(visit, one, Answer, agent, asked)


async def turn(
    visit: Visit,
    invoke: ModelCall,
    agent: str | None = None,
    asked: Sequence[BaseMessage] = (),
    tools: Sequence[str] = (),
) -> ModelResponse[Any]:
    """Make one turn of an agent's model; see `fractale.agents.subagent.AgentHost`."""
    models = visit.deps.models

    async def one(name: str | None) -> AIMessage:
        response = await models.call(lambda: invoke(models.get(name)), name)
        return cast("AIMessage", response.result[0])

    from langchain.agents.middleware import ModelResponse

    told = asked_of_model(asked, tools=tools)
    return ModelResponse(result=[await _by_first_model(visit, one, AIMessage, agent, told)])


async def _by_first_model(
    visit: Visit,
    one: Callable[[str | None], Awaitable[Any]],
    kind: type[Any],
    agent: str | None,
    asked: dict[str, Any],
) -> Any:
    """The answer of the step's model; where it is out of reach, of the next that is given."""
    names = visit.deps.models.chain(visit.step.model)
    digest = digest_of_asked(visit.context.mask(asked)) if asked["messages"] else ""
    for name in names[:-1]:
        try:
            return await _told(visit, one, name, kind, agent, digest)
        except ModelUnavailable as error:
            visit.emit("warning", code="fallback", message=f"trying the next model: {error}")
    return await _told(visit, one, names[-1], kind, agent, digest)


async def _told(
    visit: Visit,
    one: Callable[[str | None], Awaitable[Any]],
    name: str | None,
    kind: type[Any],
    agent: str | None,
    digest: str,
) -> Any:
    models, place = visit.deps.models, visit.book.next_place(agent)
    spec = models.spec(name)
    async with visit.context.meter.model_call():
        told: dict[str, Any] = {"model": spec, "call": visit.next_call(), "key": place.key}
        if agent:
            told["agent"] = agent
        visit.emit("model_started", **told)
        started = time.monotonic()
        call = Call(kind="model", name=spec, digest=digest)
        try:
            answer, recorded = await visit.book.model(place, call, lambda: one(name), kind)
        except ModelError as error:
            # A call that failed may have cost something all the same.
            _finished(visit, told, error.usage or Usage(), started, str(error))
            raise
        usage = answer.usage if kind is Answer else models.usage_of(answer, name)
        if recorded:
            told["recorded"] = True
        _finished(visit, told, usage, started, answer.text)
    return answer


def _finished(
    visit: Visit, told: Mapping[str, Any], usage: Usage, started: float, text: str
) -> None:
    visit.usage += usage
    if not told.get("recorded"):  # it was counted when it was made
        visit.context.meter.add(usage)
    visit.emit(
        "model_finished",
        **told,
        seconds=round(time.monotonic() - started, 3),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=usage.cost,
        text=text[:SHORT_TEXT],
    )
