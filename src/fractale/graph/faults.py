"""How a call without a result ended, as JSON in the journal: what a replay raises again."""

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
    TransportError,
)
from fractale.models import Usage

KINDS: Final[Mapping[str, type[CallError]]] = {
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
    """The call was under way when its step's time was up, in the run that is replayed.

    Its arguments are those of the `CancelledError` that ended the call.
    """


class Elicited(Exception):
    """A server asks the person something in the middle of a call, and nobody is there.

    Args:
        played: Whether that was so in the run that is replayed.
    """

    def __init__(self, question: Mapping[str, Any], *, played: bool = False) -> None:
        super().__init__()
        self.question = question
        self.played = played


def fault_data(error: CallError) -> dict[str, Any]:
    """An error that ended a call, as JSON."""
    data: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, TransportError):
        data["sent"] = error.sent
    if isinstance(error, ModelError):
        data["text"] = error.text
        data["usage"] = asdict(error.usage) if error.usage else None
    if isinstance(error, ModelUnavailable):
        data["retry_after"] = error.retry_after
    return data


def fault_of(data: Mapping[str, Any]) -> CallError:
    """The error that `fault_data` was given."""
    kind = KINDS.get(str(data["code"]), CallError)
    own = {name: data[name] for name in ("sent", "retry_after") if name in data}
    error = kind(data["message"], hint=data.get("hint"), **own)
    if isinstance(error, ModelError):
        error.text = data.get("text") or ""
        error.usage = Usage(**data["usage"]) if data.get("usage") else None
    return error


def cut_data(cancelled: asyncio.CancelledError) -> dict[str, Any]:
    """A call that was cancelled, as JSON: with why it had not been sent, where that is known."""
    waited = next((each for each in cancelled.args if isinstance(each, TransportError)), None)
    return {"cut": fault_data(waited) if waited else {}}


def cut_of(data: Mapping[str, Any]) -> CutOff:
    """What `cut_data` was given, as it ends a step whose time is up."""
    return CutOff(fault_of(data["cut"])) if data["cut"] else CutOff()
