"""Errors of calls as JSON in the journal, for a resume or a replay to raise again.

A tool's failure is its result: `failure_data`, in a ``result`` line. Other ends without a result
are notes for replays, in ``told`` lines:

- an error of a model or a job (`error_data`),
- a call that was cancelled (`cut_data`),
- a question of the server (`Elicited`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from fractale.errors import (
    CallError,
    JobError,
    JobInDoubt,
    ModelError,
    ModelUnavailable,
    SchedulerUnavailable,
    ToolError,
    TransportError,
)
from fractale.models import Usage
from fractale.store.journal import KnownCall

BY_CODE: Final[Mapping[str, type[CallError]]] = {
    kind.code: kind
    for kind in (
        JobError,
        JobInDoubt,
        SchedulerUnavailable,
        ModelError,
        ModelUnavailable,
        TransportError,
    )
}


class CutOff(TimeoutError):
    """In the replayed run, the step timed out during this call.

    The arguments are those of the `CancelledError` that ended the call.
    """


class Elicited(Exception):
    """A server asks a question in the middle of a call, and the user has not answered yet.

    Args:
        replayed: Whether the question is from the record that is replayed.
    """

    def __init__(self, question: Mapping[str, Any], *, replayed: bool = False) -> None:
        super().__init__()
        self.question = question
        self.replayed = replayed


class Paused(Exception):
    """The code of a tool, or a graph inside it, paused the run in the middle of a call.

    Args:
        error: LangGraph's exception, which ends the task. The call is made again later.
        question: The question, if the code asks one.
    """

    def __init__(self, error: Exception, question: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.error = error
        self.question = question


def raise_recorded(known: KnownCall) -> None:
    """Raise the error that ended a recorded call. Return if the call has a result.

    Raises:
        CallError: The call failed.
        Elicited: Its server asked a question, in the run that is replayed.
        CutOff: The call was cancelled, in the run that is replayed.
    """
    data = known.result
    if known.replayed and "asks" in data:
        raise Elicited(data["asks"], replayed=True)
    if known.replayed and "fault" in data:
        raise error_of(data["fault"])
    if known.replayed and "cut" in data:
        raise cut_of(data)
    if "error" in data:
        raise _failure_of(data["error"])


def failure_data(error: ToolError) -> dict[str, Any]:
    """The failure of a tool or a prompt, as the result of its call."""
    return {
        "error": {
            "message": error.message,
            "hint": error.hint,
            "transport": isinstance(error, TransportError),
            "sent": getattr(error, "sent", False),
            "seconds": error.seconds,
        }
    }


def _failure_of(data: Mapping[str, Any]) -> ToolError:
    if data["transport"]:
        error: ToolError = TransportError(data["message"], sent=data["sent"], hint=data["hint"])
    else:
        error = ToolError(data["message"], hint=data["hint"])
    error.seconds = data.get("seconds")
    return error


def error_data(error: CallError) -> dict[str, Any]:
    """An error that ended a call without a result."""
    data: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, TransportError):
        data["sent"] = error.sent
    if isinstance(error, ModelError):
        data["text"] = error.text
        data["usage"] = asdict(error.usage) if error.usage else None
    if isinstance(error, ModelUnavailable):
        data["retry_after"] = error.retry_after
    return data


def error_of(data: Mapping[str, Any]) -> CallError:
    """Restore the error that `error_data` wrote."""
    kind = BY_CODE.get(str(data["code"]), CallError)
    own = {name: data[name] for name in ("sent", "retry_after") if name in data}
    error = kind(data["message"], hint=data.get("hint"), **own)
    if isinstance(error, ModelError):
        error.text = data.get("text") or ""
        error.usage = Usage(**data["usage"]) if data.get("usage") else None
    return error


def cut_data(cancelled: asyncio.CancelledError) -> dict[str, Any]:
    """A cancelled call, with the reason why it had not been sent, if the reason is known."""
    waited = next((each for each in cancelled.args if isinstance(each, TransportError)), None)
    return {"cut": error_data(waited) if waited else {}}


def cut_of(data: Mapping[str, Any]) -> CutOff:
    """Restore the cancelled call that `cut_data` wrote, as the timeout that ends a step."""
    return CutOff(error_of(data["cut"])) if data["cut"] else CutOff()
