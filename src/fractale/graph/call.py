"""One call of a step: made once in its run, reported in events, and kept in the journal.

Every call goes through `once`: of a tool, a prompt, a model, a resource, a batch job. What differs
from one kind to another is a `Codec`. The order is always the same:

1. Policy. A user may have to agree, see `fractale.graph.consent`. It comes first, since the
   question can end the node, and a refused call takes no call site.
2. Limits. The run stops here if its time, tokens or cost are used up.
3. Event ``…_started``.
4. Journal. A call that an earlier process finished is not made again: its result is returned.
   One that it began and that may have been made is *indeterminate*: the user is asked. Otherwise
   the intent is written down.
5. Timeout. The step's own (`fractale.graph.step`) and the server's (`fractale.mcp`) cancel 6.
6. Make. The call leaves.
7. Journal. The result is written down, masked, and is used from here on as a resume would read it.
8. Event ``…_finished``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from fractale.errors import AnswerError, CallError, JobError, ModelError, StoreError, ToolError
from fractale.events import EventKind
from fractale.graph.attempt import Attempt
from fractale.graph.errors_as_data import (
    CutOff,
    Elicited,
    cut_data,
    error_data,
    failure_data,
    raise_recorded,
)
from fractale.graph.interrupts import ask
from fractale.store.journal import Call, CallSite, Journal

T = TypeVar("T")


class Codec(Generic[T]):
    """What differs from one kind of call to another. There is one codec per call.

    Attributes:
        events: The kinds of its first and its last event; None for a call without events.
        told: Fields of all its events. `once` adds `call`, its number in the attempt, and `key`,
            its call site.
    """

    events: tuple[EventKind, EventKind] | None = None

    def __init__(self, attempt: Attempt, told: Mapping[str, Any]) -> None:
        self.attempt = attempt
        self.told = dict(told)

    def dump(self, result: T, seconds: float | None) -> dict[str, Any]:
        """A result as JSON for the journal, with how long the call took, if it was made."""
        raise NotImplementedError

    def load(self, data: Mapping[str, Any]) -> T:
        """The result that `dump` was given."""
        raise NotImplementedError

    def started(self) -> dict[str, Any]:
        """More fields of its first event."""
        return {}

    def finished(self, outcome: T | CallError | Elicited, *, recorded: bool) -> dict[str, Any]:
        """More fields of its last event: `text`, and those of its kind.

        Args:
            recorded: Whether an earlier process of the run made the call.
        """
        del outcome, recorded
        return {}

    def indeterminate(self) -> T | None:
        """The result of a call that was begun and may have been made; None: make it again.

        Raises:
            ToolError: It counts as failed.
        """
        return None

    def answered(self, question: Mapping[str, Any], answer: Any) -> None:
        """Take the user's answer to a question that the server asked in this call."""
        del question, answer

    def failed(self, error: CallError) -> CallError:
        """The error of the call as its step sees it."""
        return error

    def cut_off(self, cancelled: asyncio.CancelledError | TimeoutError) -> None:
        """Called when the call was cancelled while it was in progress."""
        del cancelled


Make = Callable[[], Awaitable[T]]


async def once(attempt: Attempt, site: CallSite, call: Call, make: Make[T], codec: Codec[T]) -> T:
    """Make a call once in its run, or return its recorded result. See the module for the order.

    Raises:
        CallError: The call failed, now or when it was recorded.
        LimitReached: A limit of the run is used up.
        GraphInterrupt: The user is asked: about an indeterminate call, or by the server.
    """
    if codec.events:  # 2. limits
        attempt.context.meter.check()
        attempt.calls += 1
        codec.told |= {"call": attempt.calls, "key": site.key}
        if site.agent:
            codec.told["agent"] = site.agent
        attempt.emit(codec.events[0], **codec.told, **codec.started())  # 3. event
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
            journal.withdraw(site)
            journal.note(site, {"asks": asked.question})
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
    journal.begin(site, call)
    started = time.monotonic()
    try:
        result = await make()
    except ToolError as error:  # it is the call's result
        error.seconds = round(time.monotonic() - started, 3)
        journal.finish(site, call, failure_data(error))
        raise
    except (JobError, ModelError) as error:  # a resume makes the call again, a replay must know
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


def _report(
    codec: Codec[T], outcome: T | CallError | Elicited, started: float, *, recorded: bool = False
) -> None:
    """Emit the last event of a call."""
    fields = codec.finished(outcome, recorded=recorded)
    if codec.events:
        seconds = round(time.monotonic() - started, 3)
        more = {"recorded": True} if recorded else {}
        codec.attempt.emit(codec.events[1], **codec.told, **more, seconds=seconds, **fields)
