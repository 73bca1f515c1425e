"""Calls of a step, each made once in a run: through its journal."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, message_to_dict, messages_from_dict
from langgraph.config import get_config

from fractale.errors import (
    JobError,
    ModelError,
    StoreError,
    ToolError,
    TransportError,
    without_positions,
)
from fractale.graph.faults import Elicited, cut_data, cut_of, fault_data, fault_of
from fractale.models import Answer, Usage
from fractale.store.journal import Call, CallSite, Journal, KnownCall, digest_of
from fractale.store.outputs import encode
from fractale.toolbox import PromptMessage, ToolResult


class CallBook:
    """The calls of one attempt of a step, numbered within each task of LangGraph.

    Args:
        journal: Of the run.
        step: The step's path.
        attempt: Which attempt of the step it is.
        tries: Which try of LangGraph's retry policy.
        mask: Takes secrets out of what is written down.
    """

    def __init__(
        self, journal: Journal, mask: Callable[[Any], Any], step: str, attempt: int, tries: int
    ) -> None:
        self.journal = journal
        self._mask = mask
        self._step = step
        self._attempt = attempt
        self._tries = tries
        self._numbers: dict[str, int] = {}
        self._places: list[CallSite] = []

    def next_place(self, agent: str | None, *, prompt: bool = False) -> CallSite:
        """The place of the next call of the task that asks.

        Args:
            prompt: Of prompts, which are numbered by themselves.
        """
        task = f"{current_task()}|prompt" if prompt else current_task()
        place = self._place(task, self._numbers.get(task, 0) + 1, agent)
        self._numbers[task] = place.number
        self._places.append(place)
        return place

    def _place(self, task: str, number: int, agent: str | None) -> CallSite:
        return CallSite(
            task=task,
            number=number,
            tries=self._tries,
            step=self._step,
            attempt=self._attempt,
            agent=agent or "",
        )

    def is_begun(self, agent: str | None, call: Call) -> bool:
        """Whether the next call of this task is one that the run began before it was killed."""
        task = current_task()
        upcoming = self._place(task, self._numbers.get(task, 0) + 1, agent)
        return self.journal.is_begun(upcoming, call)

    def settle(self) -> None:
        """Called when the attempt is over."""
        self.journal.commit(self._places)

    async def tool(
        self,
        place: CallSite,
        call: Call,
        make: Callable[[], Awaitable[ToolResult]],
        in_doubt: Callable[[], ToolResult | None],
    ) -> tuple[ToolResult, bool]:
        """Make a tool call, or take what came of it before.

        Args:
            in_doubt: Asked where the call was begun before and may have happened: gives its
                result, or None to make it again.

        Returns:
            The result, and whether it was recorded.

        Raises:
            ToolError: The call failed, now or when it was recorded.
            CutOff: It was under way when the step's time was up, in the run that is replayed.
        """
        entry = self.journal.find(place, call)
        if entry is not None and entry.done:
            _raise_fault(entry)
            return _result_of(entry.result), not entry.replayed
        if entry is not None and not call.safe:
            told = self._told_of(place, call, in_doubt)
            if told is not None:
                self._finish(place, call, _data_of(told))
                return told, True
        self.journal.begin(place, call)
        started = time.monotonic()
        try:
            async with self._watched(place):
                result = await make()
        except ToolError as error:
            error.seconds = round(time.monotonic() - started, 3)
            self._finish(place, call, _error_data(error))
            raise
        result = replace(result, seconds=round(time.monotonic() - started, 3))
        self._finish(place, call, _data_of(result))
        return result, False

    def _told_of(
        self, place: CallSite, call: Call, in_doubt: Callable[[], ToolResult | None]
    ) -> ToolResult | None:
        """What a person says of a call that may have happened."""
        try:
            return in_doubt()
        except ToolError as error:
            self._finish(place, call, _error_data(error))
            raise

    @asynccontextmanager
    async def _watched(self, place: CallSite) -> AsyncGenerator[None]:
        """Around a call: what ends it without a result is told to replays."""
        try:
            yield
        except JobError as error:
            self._tell(place, {"fault": fault_data(error)})
            raise
        except asyncio.CancelledError as cancelled:
            with contextlib.suppress(StoreError):  # it ends anyway, and a resume needs no more
                self._tell(place, cut_data(cancelled))
            raise

    def _tell(self, place: CallSite, what: Mapping[str, Any]) -> None:
        self.journal.note(place, self._mask(dict(what)))

    async def prompt(
        self, place: CallSite, call: Call, make: Callable[[], Awaitable[list[PromptMessage]]]
    ) -> list[PromptMessage]:
        """Have a server render a prompt, or take what it gave before.

        Raises:
            ToolError: It failed, now or when it was recorded.
        """
        entry = self.journal.find(place, call)
        if entry is not None and entry.done:
            _raise_fault(entry)
            if "error" in entry.result:
                raise _error_of(entry.result["error"])
            return [PromptMessage(**message) for message in entry.result["messages"]]
        self.journal.begin(place, call)
        try:
            async with self._watched(place):
                messages = await make()
        except ToolError as error:
            self._finish(place, call, _error_data(error))
            raise
        self._finish(place, call, {"messages": [asdict(message) for message in messages]})
        return messages

    async def model(
        self, place: CallSite, call: Call, make: Callable[[], Awaitable[Any]], kind: type[Any]
    ) -> tuple[Any, bool]:
        """Ask a model, or take what it answered before.

        Args:
            kind: `Answer`, or `AIMessage` for one turn of an agent.

        Returns:
            The answer, and whether it was recorded.

        Raises:
            ModelError: The model failed.
        """
        entry = self.journal.find(place, call)
        if entry is not None and entry.done:
            _raise_fault(entry)
            answer = (_answer_of if kind is Answer else _message_of)(entry.result)
            return answer, not entry.replayed
        self.journal.begin(place, call)
        try:
            async with self._watched(place):
                answer = await make()
        except ModelError as error:
            self.journal.withdraw(place)
            self._tell(place, {"fault": fault_data(error)})
            raise
        data = asdict(answer) if kind is Answer else message_to_dict(answer)
        self._finish(place, call, data)
        return answer, False

    def _finish(self, place: CallSite, call: Call, result: Any) -> None:
        self.journal.finish(place, call, self._mask(result))


def current_task() -> str:
    """LangGraph's namespace of the task that runs now."""
    try:
        return str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    except RuntimeError:  # not inside a graph
        return ""


def asked_of_model(
    messages: Sequence[BaseMessage],
    schema: Mapping[str, Any] | None = None,
    tools: Sequence[str] = (),
) -> dict[str, Any]:
    """What a model is asked, as JSON: what its answer depends on, and no ids that are drawn."""
    return {
        "messages": [_said(message) for message in messages],
        "schema": None if schema is None else dict(schema),
        "tools": list(tools),
    }


def _said(message: BaseMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"type": message.type, "content": message.content}  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
    for name in ("tool_calls", "tool_call_id"):
        if value := getattr(message, name, None):
            said[name] = value
    return said


def digest_of_asked(asked: Mapping[str, Any]) -> str:
    """A hash of what a model is asked; where in its file an error stands is no part of it."""
    return digest_of(without_positions(encode(asked).decode(errors="replace")))


def _raise_fault(entry: KnownCall) -> None:
    """Raise what ended a call that is replayed and had no result."""
    if entry.replayed and "asks" in entry.result:
        raise Elicited(entry.result["asks"], played=True)
    if entry.replayed and "fault" in entry.result:
        raise fault_of(entry.result["fault"])
    if entry.replayed and "cut" in entry.result:
        raise cut_of(entry.result)


def _result_of(data: Mapping[str, Any]) -> ToolResult:
    if "error" in data:
        raise _error_of(data["error"])
    return ToolResult(
        text=data["text"],
        structured=data["structured"],
        is_error=data["is_error"],
        content=tuple(data["content"]),
        files=tuple(data.get("files", ())),
        misfit=data.get("misfit"),
        seconds=data.get("seconds"),
    )


def _error_of(data: Mapping[str, Any]) -> ToolError:
    if data["transport"]:
        error: ToolError = TransportError(data["message"], sent=data["sent"], hint=data["hint"])
    else:
        error = ToolError(data["message"], hint=data["hint"])
    error.seconds = data.get("seconds")
    return error


def _data_of(result: ToolResult) -> dict[str, Any]:
    """A result as JSON; its parts only where they are more than text."""
    only_text = all(part.get("type") == "text" for part in result.content)
    parts = [] if only_text else [dict(part) for part in result.content]
    return {
        "text": result.text,
        "structured": result.structured,
        "is_error": result.is_error,
        "content": parts,
        "seconds": result.seconds,
        **({"files": [dict(file) for file in result.files]} if result.files else {}),
        **({"misfit": result.misfit} if result.misfit else {}),
    }


def _error_data(error: ToolError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "hint": error.hint,
            "transport": isinstance(error, TransportError),
            "sent": getattr(error, "sent", False),
            "seconds": error.seconds,
        }
    }


def _answer_of(data: Mapping[str, Any]) -> Answer:
    return Answer(
        text=data["text"],
        data=data["data"],
        usage=Usage(**data["usage"]),
        model=data["model"],
        seconds=data["seconds"],
    )


def _message_of(data: Mapping[str, Any]) -> AIMessage:
    return cast("AIMessage", messages_from_dict([dict(data)])[0])
