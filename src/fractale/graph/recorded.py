"""Calls of a step, each made once in a run: through its journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

from langchain_core.messages import AIMessage, message_to_dict, messages_from_dict
from langgraph.config import get_config

from fractale.errors import ModelError, ToolError, TransportError
from fractale.models import Answer, Usage
from fractale.store.journal import Call, Journal, Place
from fractale.toolbox import ToolResult


class CallBook:
    """The calls of one visit of a step, numbered within each task of LangGraph.

    Args:
        journal: Of the run.
        step: The step's path.
        attempt: Which visit of the step it is.
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
        self._places: list[Place] = []

    def next_place(self, agent: str | None) -> Place:
        """The place of the next call of the task that asks."""
        task = _task()
        self._numbers[task] = self._numbers.get(task, 0) + 1
        place = Place(
            task=task,
            number=self._numbers[task],
            tries=self._tries,
            step=self._step,
            attempt=self._attempt,
            agent=agent or "",
        )
        self._places.append(place)
        return place

    def settle(self) -> None:
        """Called when the visit is over."""
        self.journal.settle(self._places)

    async def tool(
        self,
        place: Place,
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
        """
        entry = self.journal.find(place, call)
        if entry is not None and entry.done:
            return _result_of(entry.result), True
        if entry is not None and not call.safe and (told := in_doubt()) is not None:
            self._finish(place, call, _data_of(told))
            return told, True
        self.journal.begin(place, call)
        try:
            result = await make()
        except ToolError as error:
            self._finish(place, call, _error_data(error))
            raise
        self._finish(place, call, _data_of(result))
        return result, False

    async def model(
        self, place: Place, call: Call, make: Callable[[], Awaitable[Any]], kind: type[Any]
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
            return (_answer_of if kind is Answer else _message_of)(entry.result), True
        self.journal.begin(place, call)
        try:
            answer = await make()
        except ModelError:
            self.journal.withdraw(place)
            raise
        data = asdict(answer) if kind is Answer else message_to_dict(answer)
        self._finish(place, call, data)
        return answer, False

    def _finish(self, place: Place, call: Call, result: Any) -> None:
        self.journal.finish(place, call, self._mask(result))


def _task() -> str:
    """LangGraph's namespace of the task that runs now."""
    try:
        return str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    except RuntimeError:  # not inside a graph
        return ""


def _result_of(data: Mapping[str, Any]) -> ToolResult:
    if "error" in data:
        error = cast("Mapping[str, Any]", data["error"])
        if error["transport"]:
            raise TransportError(error["message"], sent=error["sent"], hint=error["hint"])
        raise ToolError(error["message"], hint=error["hint"])
    return ToolResult(
        text=data["text"],
        structured=data["structured"],
        is_error=data["is_error"],
        content=tuple(data["content"]),
    )


def _data_of(result: ToolResult) -> dict[str, Any]:
    """A result as JSON; its parts only where they are more than text."""
    only_text = all(part.get("type") == "text" for part in result.content)
    parts = [] if only_text else [dict(part) for part in result.content]
    return {
        "text": result.text,
        "structured": result.structured,
        "is_error": result.is_error,
        "content": parts,
    }


def _error_data(error: ToolError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "hint": error.hint,
            "transport": isinstance(error, TransportError),
            "sent": getattr(error, "sent", False),
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
