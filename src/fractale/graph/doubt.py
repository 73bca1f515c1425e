"""What is told about a call whose answer never came: it may have been made, or not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fractale.errors import JobError, ToolError, TransportError
from fractale.plan.model import Step
from fractale.policy import may_repeat
from fractale.toolbox import ToolInfo


def doubtful(error: ToolError | JobError, tool: ToolInfo) -> ToolError | JobError:
    """The error of a call, saying that it may have been made where that is so and matters."""
    if not isinstance(error, TransportError) or not error.sent or may_repeat(tool):
        return error
    return TransportError(
        f"{error.message}; {_doubt(tool)}", sent=True, hint=error.hint, position=error.position
    )


def cut_off(cancelled: asyncio.CancelledError | TimeoutError, tool: ToolInfo) -> TransportError:
    """What is known about a call that was cancelled; an empty message where that is nothing."""
    for waited_for in cancelled.args:
        if isinstance(waited_for, TransportError):
            return waited_for  # see `Toolbox.call_tool`: it was not sent yet
    if may_repeat(tool):
        return TransportError("", sent=False)
    return TransportError(_doubt(tool), sent=True)


def too_late(step: Step, calls: Sequence[TransportError]) -> TransportError:
    """The error of a step whose time is up.

    It counts as sent only where a call that may not be repeated was under way: a model that is
    asked again does no harm, and an agent goes on behind the calls that it has made.

    Args:
        calls: What `cut_off` gave for each call that was under way.
    """
    text = f"no answer within the step's timeout of {step.timeout:g} s"
    reasons = dict.fromkeys(call.message for call in calls if call.message)
    hints = [call.hint for call in calls if call.hint]
    return TransportError(
        ": ".join((text, "; ".join(reasons))) if reasons else text,
        sent=any(call.sent for call in calls),
        hint=hints[0] if hints else "raise `timeout` if the work takes longer",
        position=step.where("timeout"),
    )


def _doubt(tool: ToolInfo) -> str:
    return f"the call of `{tool.name}` may have been made, or not"
