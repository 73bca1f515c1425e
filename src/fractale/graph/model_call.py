"""Model calls: by the step's model, or by the next one if the first is out of reach. All count.

Data leaves the run in a request to a model, so each request is masked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.messages import AIMessage, BaseMessage, message_to_dict, messages_from_dict

from fractale.agents.own_words import given_of
from fractale.errors import CallError, ModelError, ModelUnavailable, without_positions
from fractale.graph.call import Attempt, Codec, once
from fractale.graph.errors_as_data import Elicited, Paused
from fractale.models import Answer, Usage
from fractale.models.usage import snapshot_of
from fractale.store.journal import Call, digest_of
from fractale.store.outputs import encode

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

M = TypeVar("M", bound=BaseMessage)
T = TypeVar("T", Answer, AIMessage)


async def ask(
    attempt: Attempt,
    messages: Sequence[BaseMessage],
    schema: Mapping[str, Any] | None = None,
    agent: str | None = None,
    *,
    correct: bool = True,
    model: str | None = None,
) -> Answer:
    """Ask the step's model once.

    Args:
        agent: The path of the sub-agent that asks, if it is not the step's own.
        model: Instead of the step's model.
        correct: Whether the model may correct an answer that does not fit the schema, once.

    Raises:
        ModelError: The model failed or gave no usable answer.
        LimitReached: A limit of the run is used up.
    """
    said = [masked(attempt, message) for message in messages]

    async def one(name: str | None) -> Answer:
        with attempt.text_of_model() as on_text:
            return await attempt.deps.models.ask(
                said, model=name, schema=schema, correct=correct, on_text=on_text
            )

    digests = _digests(attempt, said, schema)
    return await _by_first_model(attempt, one, AnswerCodec, agent, digests, model)


async def turn(
    attempt: Attempt,
    messages: Sequence[BaseMessage],
    tools: Sequence[BaseTool] = (),
    agent: str | None = None,
    *,
    model: str | None = None,
) -> AIMessage:
    """Make one turn of an agent's model; see `fractale.agents.subagent.AgentContext`."""
    said = [masked(attempt, message) for message in messages]
    shown = [_masked_tool(attempt, tool) for tool in tools]

    async def one(name: str | None) -> AIMessage:
        with attempt.text_of_model() as on_text:
            return await attempt.deps.models.turn(said, model=name, tools=shown, on_text=on_text)

    digests = _digests(attempt, said, None, [tool.name for tool in tools])
    return await _by_first_model(attempt, one, TurnCodec, agent, digests, model)


def masked(attempt: Attempt, message: M) -> M:
    """A message without secrets, so that neither its provider nor a checkpoint receives any."""
    mask = attempt.context.mask
    changes: dict[str, Any] = {}
    for name in ("content", "tool_calls", "invalid_tool_calls", "additional_kwargs"):
        value = getattr(message, name, None)
        if value and (without := mask(value)) != value:
            changes[name] = without
    return message.model_copy(update=changes) if changes else message


def _masked_tool(attempt: Attempt, tool: BaseTool) -> BaseTool:
    """A tool without secrets in its server's description of it."""
    mask = attempt.context.mask
    changes: dict[str, Any] = {}
    if (words := mask(tool.description)) != tool.description:
        changes["description"] = words
    if isinstance(tool.args_schema, dict) and (without := mask(tool.args_schema)) != (
        tool.args_schema
    ):
        changes["args_schema"] = without
    return tool.model_copy(update=changes) if changes else tool


def _digests(
    attempt: Attempt,
    messages: Sequence[BaseMessage],
    schema: Mapping[str, Any] | None,
    tools: Sequence[str] = (),
) -> tuple[str, str]:
    """Hashes of a request to a model: of all of it, and without fractale's own words.

    They have no random ids and no positions of errors. The second is empty if there are no such
    words.
    """
    if not messages:
        return "", ""
    asked = {
        "messages": [_said(message) for message in messages],
        "schema": None if schema is None else dict(schema),
        "tools": list(tools),
    }
    given = given_of(asked)
    return _hash(attempt, asked), "" if given is None else _hash(attempt, given)


def _hash(attempt: Attempt, request: Mapping[str, Any]) -> str:
    text = encode(attempt.context.mask(dict(request))).decode(errors="replace")
    return digest_of(without_positions(text))


def _said(message: BaseMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"type": message.type, "content": message.content}  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
    for name in ("tool_calls", "tool_call_id"):
        if value := getattr(message, name, None):
            said[name] = value
    return said


async def _by_first_model(
    attempt: Attempt,
    one: Callable[[str | None], Awaitable[T]],
    codec: type[ModelCodec[T]],
    agent: str | None,
    digests: tuple[str, str],
    model: str | None = None,
) -> T:
    """The answer of the step's model, or of the next one if that model is out of reach."""
    names = attempt.deps.models.chain(model or attempt.step.model)
    for name in names[:-1]:
        try:
            return await _call(attempt, one, name, codec, agent, digests)
        except ModelUnavailable as error:
            attempt.warn("fallback", f"trying the next model: {error}")
    return await _call(attempt, one, names[-1], codec, agent, digests)


async def _call(
    attempt: Attempt,
    one: Callable[[str | None], Awaitable[T]],
    name: str | None,
    codec: type[ModelCodec[T]],
    agent: str | None,
    digests: tuple[str, str],
) -> T:
    site, spec = attempt.journal.next_site(agent), attempt.deps.models.spec(name)
    call = Call(kind="model", name=spec, digest=digests[0], given=digests[1])
    async with attempt.context.meter.model_call():
        return await once(attempt, site, call, lambda: one(name), codec(attempt, name, spec))


class ModelCodec(Codec[T]):
    """A call of a model: counts its usage, also if the call failed."""

    events = ("model_started", "model_finished")

    def __init__(self, attempt: Attempt, name: str | None, spec: str) -> None:
        super().__init__(attempt, {"model": spec})
        self.name = name

    def finished(
        self, outcome: T | CallError | Elicited | Paused, *, recorded: bool
    ) -> dict[str, Any]:
        if isinstance(outcome, Exception):
            usage = outcome.usage if isinstance(outcome, ModelError) else None
            usage, text, snapshot = usage or Usage(), str(outcome), ""
        else:
            usage, text, snapshot = self.usage_of(outcome), outcome.text, self.snapshot(outcome)
        self.attempt.usage += usage
        if not recorded:  # a recorded call was counted when it was made
            self.attempt.context.meter.add(usage)
        return {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost": usage.cost,
            "text": text,
            **({"snapshot": snapshot} if snapshot else {}),
        }

    def usage_of(self, result: T) -> Usage:
        """The usage of an answer."""
        raise NotImplementedError

    def snapshot(self, result: T) -> str:
        """The version of the model that answered, as its server named it."""
        raise NotImplementedError


class AnswerCodec(ModelCodec[Answer]):
    """A question to a model."""

    def usage_of(self, result: Answer) -> Usage:
        return result.usage

    def snapshot(self, result: Answer) -> str:
        return result.snapshot

    def dump(self, result: Answer, seconds: float | None) -> dict[str, Any]:
        del seconds  # the answer has its own duration
        return asdict(result)

    def load(self, data: Mapping[str, Any]) -> Answer:
        return Answer(
            text=data["text"],
            data=data["data"],
            usage=Usage(**data["usage"]),
            model=data["model"],
            seconds=data["seconds"],
            snapshot=data.get("snapshot", ""),
        )


class TurnCodec(ModelCodec[AIMessage]):
    """One turn of an agent's model."""

    def usage_of(self, result: AIMessage) -> Usage:
        return self.attempt.deps.models.usage_of(result, self.name)

    def snapshot(self, result: AIMessage) -> str:
        return snapshot_of(result)

    def dump(self, result: AIMessage, seconds: float | None) -> dict[str, Any]:
        del seconds
        return message_to_dict(result)

    def load(self, data: Mapping[str, Any]) -> AIMessage:
        return cast("AIMessage", messages_from_dict([dict(data)])[0])
