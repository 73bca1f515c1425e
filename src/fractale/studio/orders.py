"""What the server asks of a run: a start, or to go on, with an answer or from an earlier place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from langgraph.types import Command

from fractale.errors import AnswerError, StoreError, UsageError
from fractale.private import open_private
from fractale.questions import Answers, is_job
from fractale.store.lines import append_line
from fractale.store.run_record import RunRecord
from fractale.studio.threads import KEPT_AS, RunThreads, read_head

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from fractale.studio.graph import StudioGraph

TOLD = ("graph_id", "assistant_id", "run_id")
"""What a run's checkpoints are told of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done.

    Args:
        thread: The server's thread.
        run_id: The run's id, of a new one too.
        folder: The run to go on with; None: a new one.
        given: The input of a new run.
        context: What the assistant was given.
        replies: Answers to what the run waits for.
        answers: Answers to what it asks again on the way from an earlier place.
        graph_id: The server's name of the graph.
        request: The server's id of this order; the same where it tries once more.
        metadata: What the run's checkpoints are told of the server.
    """

    thread: str
    run_id: str
    folder: RunRecord | None = None
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replies: Answers = field(default_factory=Answers)
    answers: Answers = field(default_factory=Answers)
    graph_id: str = ""
    request: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def head(self) -> dict[str, Any]:
        """What the record of a new run keeps of it."""
        told = {"thread": self.thread, "graph": self.graph_id, "request": self.request}
        return {KEPT_AS: told}


async def order_of(
    graph: StudioGraph, threads: RunThreads, given: Any, config: RunnableConfig
) -> Order:
    """What the server wants, by what it gives the graph to stream.

    Raises:
        UsageError: It can't be done.
        AnswerError: An answer is for no question that waits.
    """
    fields = config.get("configurable", {})
    thread, told = str(fields["thread_id"]), config.get("metadata", {})
    base: dict[str, Any] = {
        "thread": thread,
        "context": fields,
        "graph_id": str(fields.get("graph_id") or ""),
        "request": str(fields.get("run_id") or told.get("run_id") or config.get("run_id") or ""),
        "metadata": {
            name: str(fields[name])
            for name in ("graph_id", "assistant_id", "run_id")
            if fields.get(name)
        },
    }
    folder = await asyncio.to_thread(threads.run_of, thread)
    if folder is not None and await asyncio.to_thread(was_taken, folder, base["request"]):
        # The server was killed, and tries once more: to go on is all that is left to do. An answer
        # that was given once would be one to another question now.
        return Order(**base, run_id=folder.run_id, folder=folder)
    if folder is None:
        if not isinstance(given, Mapping):
            raise UsageError("this thread has no run to go on with", hint="give an input first")
        run_id = await asyncio.to_thread(threads.id_for, thread)
        known = cast("Mapping[str, Any]", given)
        return Order(**base, run_id=run_id, given=known)
    order = Order(**base, run_id=folder.run_id, folder=folder)
    if isinstance(given, Mapping):
        await _check_goes_on(graph, order, cast("Mapping[str, Any]", given))
        return order
    return await _going_on(graph, order, given, fields)


def take(folder: RunRecord, request: str) -> None:
    """Keep that an order was taken, before anything of it is done.

    Raises:
        StoreError: It can't be written.
    """
    try:
        descriptor = open_private(folder.studio_orders, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            append_line(descriptor, f"{request}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"cannot write to the record of run {folder.run_id}: {error}") from error


def was_taken(folder: RunRecord, request: str) -> bool:
    """Whether an order was taken before: as a run's first one, or later."""
    if read_head(folder).get(KEPT_AS, {}).get("request") == request:
        return True
    try:
        return request in folder.studio_orders.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return False


async def _check_goes_on(graph: StudioGraph, order: Order, given: Mapping[str, Any]) -> None:
    """See that an input for a run that has begun says nothing, and that there is a way to go on.

    Studio has no other way to say so than a form that is left empty.
    """
    state = await graph.aget_state({"configurable": {"thread_id": order.thread}})
    if given or (state.values and not state.tasks):
        raise UsageError(
            f"run {order.run_id} has begun on this thread, and a run takes its input once",
            hint="open a new thread for another run, or go on with this one without an input",
        )


async def _going_on(
    graph: StudioGraph, order: Order, given: Any, fields: Mapping[str, Any]
) -> Order:
    latest: RunnableConfig = {"configurable": {"thread_id": order.thread}}
    state = await graph.aget_state(latest)
    place = _place(state)
    at = str(fields.get("checkpoint_id") or place)
    if fields.get("checkpoint_ns"):
        raise UsageError(
            "a run can't begin again inside of a step here",
            hint=f"fractale fork {order.run_id} --at STEP/INNER does that",
        )
    if at == place:
        return replace(order, replies=_replies(given, state.interrupts))
    # From an earlier place: as a copy of it, so that what is done there again is done for real.
    before: RunnableConfig = {"configurable": {"thread_id": order.thread, "checkpoint_id": at}}
    asked = (await graph.aget_state(before)).interrupts
    await graph.aupdate_state(before, None, as_node="__copy__")
    return replace(order, answers=_by_step(given, asked))


def _place(state: Any) -> str:
    config = cast("dict[str, Any]", state.config or {})
    return str(config.get("configurable", {}).get("checkpoint_id") or "")


def _resumed_with(given: Any) -> Any:
    """The answer in a command; None where there is none."""
    if not isinstance(given, Command):
        return None
    command = cast("Command[Any]", given)
    if command.update or command.goto:
        raise UsageError(
            "a run takes answers, no updates and no jumps",
            hint="edit the thread's state, or fork the run",
        )
    return command.resume


def _replies(given: Any, interrupts: Sequence[Any]) -> Answers:
    """Answers by the ids of the questions that wait."""
    answer = _resumed_with(given)
    asked = [each for each in interrupts if not is_job(each.value)]
    if answer is None:
        return Answers()
    if isinstance(answer, Mapping) and {*answer} <= {each.id for each in asked}:  # pyright: ignore[reportUnknownVariableType] - JSON is untyped
        return Answers(cast("Mapping[str, Any]", answer))
    if len(asked) != 1:
        steps = ", ".join(str(each.value.get("step")) for each in asked) or "nothing"
        raise AnswerError(
            f"{len(asked)} questions wait: {steps}",
            hint="answer them by their ids: {ID: ANSWER, …}",
        )
    return Answers({asked[0].id: answer})


def _by_step(given: Any, interrupts: Sequence[Any]) -> Answers:
    """Answers by the steps that will ask once more, under other ids."""
    if _resumed_with(given) is None:
        return Answers()
    answers = _replies(given, interrupts)
    asked = [{**each.value, "id": each.id} for each in interrupts if not is_job(each.value)]
    return Answers({str(each["step"]): answers.find(each) for each in asked})
