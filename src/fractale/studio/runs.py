"""Runs in the development server: the same as on the command line, with a stream for the server.

`order_of` reads the server's request for a thread: start a run, or resume its run, with an answer
or from an earlier checkpoint. `RunPerformer` does the run in a `Workspace` and streams it.

A run waits for disks and for other processes, as its journal requires. In the server's own loop
such waits would block every other request, and the development server refuses them. So each run has
a separate thread and loop (`in_own_thread`); its chunks are passed to the server's loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from langgraph.errors import GraphDrained
from langgraph.types import Command

from fractale.errors import AnswerError, FractaleError, StoreError, UsageError
from fractale.events import Event
from fractale.loops import allow_blocking
from fractale.plan.inputs import read_secrets
from fractale.private import append_line, open_private
from fractale.questions import Answers, needs_no_answer
from fractale.runs.changes import plan_today
from fractale.runs.options import RunOptions
from fractale.runs.result import RunResult, fork_command
from fractale.runs.workspace import Extensions, Workspace, as_started, kept_store
from fractale.settings import Settings
from fractale.settings.own_runs import is_agreed, not_own
from fractale.store.run_record import RunRecord, RunRecords
from fractale.studio.saver import KEPT_AS, RunThreads, read_head, with_hint

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from fractale.studio.graphs import PlanSource, StudioGraph


BREAKPOINTS = ("interrupt_before", "interrupt_after")
NAMING = ("debug", "checkpoints", "tasks")
"""Kinds of chunk that contain the thread's name."""


class RunEnded(RuntimeError):
    """A run that failed or was stopped, with its final message.

    The server shows the messages of exceptions that it knows, and of no others.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPerformer:
    """Carries out the runs of one graph.

    Args:
        source: The origin of the plans of new runs.
        settings: The settings from when the graph was opened.
        extensions: Extensions of new runs; a resumed run keeps its own.
    """

    source: PlanSource
    settings: Settings
    extensions: Extensions

    async def __call__(
        self, graph: StudioGraph, given: Any, config: RunnableConfig, stream: Mapping[str, Any]
    ) -> AsyncGenerator[Any]:
        """Start or resume a run in a separate thread, and yield its stream.

        Raises:
            RunEnded: The run did not succeed and is not waiting.
        """
        threads = RunThreads(RunRecords(self.settings.state_dir))
        try:
            order = await order_of(graph, threads, given, config)

            async def work(emit: Emit) -> None:
                await self._do(order, stream, emit)

            async with aclosing(in_own_thread(work)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except FractaleError as error:
            raise RunEnded(with_hint(error)) from error

    async def _do(self, order: Order, stream: Mapping[str, Any], emit: Emit) -> None:
        feed = _Feed(order, stream, emit)
        options = RunOptions(
            listeners=[feed.listen],
            replies=order.replies,
            answers=order.answers,
            run_id=order.run_id if order.record is None else None,
            invoke=feed.invoke,
        )
        do = self._start if order.record is None else self._resume
        result = await do(order, options)
        if result.status not in ("success", "waiting") and not feed.at_breakpoint:
            hint = f" ({result.hint})" if result.hint else ""
            raise RunEnded(f"run {result.run}: {result.status}: {result.error}{hint}")

    async def _start(self, order: Order, options: RunOptions) -> RunResult:
        opened = self.source.opened_for(order.given, order.context)
        async with Workspace.open(self.settings, opened, self.extensions) as workspace:
            plan, inputs = await self.source.plan(order.given, opened, workspace)
            secrets = read_secrets(plan, self.settings.environment)
            return await workspace.runs.start(
                plan, inputs, options, secrets=secrets, head=order.head
            )

    async def _resume(self, order: Order, options: RunOptions) -> RunResult:
        assert order.record is not None  # noqa: S101 - the caller looked
        take(order.record, order.request)
        head = order.record.read_head()
        if not is_agreed(order.record.path, head, self.settings.environment):
            raise not_own(order.record.run_id, self.settings.environment)
        _check_store(self.settings, head)
        settings, extensions = as_started(self.settings, head)
        plan = plan_today(order.record, head)
        async with Workspace.open(settings, plan, extensions) as workspace:
            secrets = read_secrets(plan, settings.environment)
            return await workspace.runs.resume(order.run_id, options, secrets=secrets)


class _Feed:
    """The stream of a run, in the form that the server requests.

    Attributes:
        at_breakpoint: Whether the run stopped at a breakpoint of the server.
    """

    def __init__(self, order: Order, stream: Mapping[str, Any], emit: Emit) -> None:
        self._order = order
        self._stream = dict(stream)
        self._emit = emit
        modes: Any = stream.get("stream_mode") or ()
        self._modes = [modes] if isinstance(modes, str) else list(modes)
        self._subgraphs = bool(stream.get("subgraphs"))
        self.at_breakpoint = False

    async def invoke(
        self, graph: Any, given: Any, config: RunnableConfig, **more: Any
    ) -> Mapping[str, Any]:
        """Do the same as the graph's ``ainvoke``, and pass each chunk to the server."""
        known = {**config, "metadata": dict(self._order.metadata)}
        async with aclosing(graph.astream(given, known, **self._stream, **more)) as chunks:
            async for chunk in chunks:
                self._emit(self._renamed(chunk))
        state = await graph.aget_state(config)
        if state.next and not state.interrupts and any(map(self._stream.get, BREAKPOINTS)):
            self.at_breakpoint = True
            raise GraphDrained
        asked = {"__interrupt__": state.interrupts} if state.interrupts else {}
        return {**state.values, **asked}

    def listen(self, event: Event) -> None:
        """Emit an event of the run if the server asked for custom chunks."""
        if "custom" in self._modes:
            chunk = ("custom", event.as_dict())
            self._emit(((), *chunk) if self._subgraphs else chunk)

    def _renamed(self, chunk: Any) -> Any:
        """Replace the thread's name in a chunk with the server's name."""
        if not isinstance(chunk, tuple):
            return chunk
        *head, mode, payload = cast("tuple[Any, ...]", chunk)
        if mode not in NAMING:
            return cast("Any", chunk)
        return (*head, mode, _with_thread(payload, self._order.thread))


def _with_thread(value: Any, thread: str) -> Any:
    """Replace the thread's name in every config of a value; states stay as they are."""
    if isinstance(value, list):
        return [_with_thread(each, thread) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    table = cast("dict[str, Any]", value)
    if isinstance(fields := table.get("configurable"), dict) and "thread_id" in fields:
        known = {k: v for k, v in cast("dict[str, Any]", fields).items() if not k.startswith("__")}
        return {**table, "configurable": {**known, "thread_id": thread}}
    kept = ("values", "input", "result")
    return {k: v if k in kept else _with_thread(v, thread) for k, v in table.items()}


def _check_store(settings: Settings, head: Mapping[str, Any]) -> None:
    """Check that the run's checkpoints are in the server's store: the server opens no other.

    Raises:
        UsageError: The checkpoints are in another store.
    """
    there = head.get("store")
    if there not in (None, kept_store(settings)):
        raise UsageError(
            f"the run keeps its checkpoints in {there}",
            hint=f"start Studio with them: fractale studio --store {there}",
        )


# -- requests of the server ------------------------------------------------------------------------


LABELS = ("graph_id", "assistant_id", "run_id")
"""Metadata of the server that a run's checkpoints keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request of the server.

    Args:
        thread: The server's thread.
        run_id: The id of the run, whether new or not.
        record: The record of the run to resume; None for a new run.
        given: The input of a new run.
        context: The assistant's context.
        replies: Answers to the questions that the run waits for.
        answers: Answers to questions that the run asks again after an earlier checkpoint.
        graph_id: The server's name of the graph.
        request: The server's id of this request; a retry has the same id.
        metadata: The server's metadata that the run's checkpoints keep.
    """

    thread: str
    run_id: str
    record: RunRecord | None = None
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replies: Answers = field(default_factory=Answers)
    answers: Answers = field(default_factory=Answers)
    graph_id: str = ""
    request: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def head(self) -> dict[str, Any]:
        """The data that the record of a new run keeps about the request."""
        kept = {"thread": self.thread, "graph": self.graph_id, "request": self.request}
        return {KEPT_AS: kept}


async def order_of(
    graph: StudioGraph, threads: RunThreads, given: Any, config: RunnableConfig
) -> Order:
    """Read the server's request from the arguments for the graph's stream.

    Raises:
        UsageError: The request can't be carried out.
        AnswerError: An answer does not belong to a waiting question.
    """
    fields = config.get("configurable", {})
    thread, metadata = str(fields["thread_id"]), config.get("metadata", {})
    base: dict[str, Any] = {
        "thread": thread,
        "context": fields,
        "graph_id": str(fields.get("graph_id") or ""),
        "request": str(
            fields.get("run_id") or metadata.get("run_id") or config.get("run_id") or ""
        ),
        "metadata": {name: str(fields[name]) for name in LABELS if fields.get(name)},
    }
    record = await asyncio.to_thread(threads.run_of, thread)
    if record is not None and await asyncio.to_thread(was_taken, record, base["request"]):
        # The server was killed and retries: it only needs to resume. An answer that was already
        # used would now go to another question.
        return Order(**base, run_id=record.run_id, record=record)
    if record is None:
        if not isinstance(given, Mapping):
            raise UsageError("this thread has no run to resume", hint="give an input first")
        run_id = await asyncio.to_thread(threads.id_for, thread)
        known = cast("Mapping[str, Any]", given)
        return Order(**base, run_id=run_id, given=known)
    order = Order(**base, run_id=record.run_id, record=record)
    if isinstance(given, Mapping):
        await _check_resumable(graph, order, cast("Mapping[str, Any]", given))
        return order
    return await _resumed(graph, order, given, fields)


def take(record: RunRecord, request: str) -> None:
    """Record that a request was accepted, before any work on it.

    Raises:
        StoreError: The record can't be written.
    """
    try:
        descriptor = open_private(record.studio_orders, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            append_line(descriptor, f"{request}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"cannot write to the record of run {record.run_id}: {error}") from error


def was_taken(record: RunRecord, request: str) -> bool:
    """Whether a request was accepted before: as the run's first one, or later."""
    if read_head(record).get(KEPT_AS, {}).get("request") == request:
        return True
    try:
        return request in record.studio_orders.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return False


async def _check_resumable(graph: StudioGraph, order: Order, given: Mapping[str, Any]) -> None:
    """Check that the input for a started run is empty, and that the run can be resumed.

    An empty form is Studio's only way to resume a run.
    """
    state = await graph.aget_state({"configurable": {"thread_id": order.thread}})
    if given or (state.values and not state.tasks):
        raise UsageError(
            f"run {order.run_id} has started on this thread, and cannot get another input",
            hint="open a new thread for a new run, or resume this run without an input",
        )


async def _resumed(
    graph: StudioGraph, order: Order, given: Any, fields: Mapping[str, Any]
) -> Order:
    latest: RunnableConfig = {"configurable": {"thread_id": order.thread}}
    state = await graph.aget_state(latest)
    place = _place(state)
    at = str(fields.get("checkpoint_id") or place)
    if fields.get("checkpoint_ns"):
        raise UsageError(
            "a run cannot restart inside of a step here",
            hint=f"use the command line: {fork_command(order.run_id, 'STEP/INNER')}",
        )
    if at == place:
        return replace(order, replies=_replies(given, state.interrupts))
    # Resume from a copy of the earlier checkpoint, so that its steps are really done again.
    before: RunnableConfig = {"configurable": {"thread_id": order.thread, "checkpoint_id": at}}
    asked = (await graph.aget_state(before)).interrupts
    await graph.aupdate_state(before, None, as_node="__copy__")
    return replace(order, answers=_by_step(given, asked))


def _place(state: Any) -> str:
    config = cast("dict[str, Any]", state.config or {})
    return str(config.get("configurable", {}).get("checkpoint_id") or "")


def _resumed_with(given: Any) -> Any:
    """The answer in a command; None if it has none."""
    if not isinstance(given, Command):
        return None
    command = cast("Command[Any]", given)
    if command.update or command.goto:
        raise UsageError(
            "a run accepts answers, but not updates or jumps",
            hint="edit the thread's state, or fork the run",
        )
    return command.resume


def _replies(given: Any, interrupts: Sequence[Any]) -> Answers:
    """Answers by the ids of the waiting questions."""
    answer = _resumed_with(given)
    asked = [each for each in interrupts if not needs_no_answer(each.value)]
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
    """Answers by the steps that will ask again, under other ids."""
    if _resumed_with(given) is None:
        return Answers()
    answers = _replies(given, interrupts)
    asked = [
        {**each.value, "id": each.id} for each in interrupts if not needs_no_answer(each.value)
    ]
    return Answers({str(each["step"]): answers.find(each) for each in asked})


# -- a thread with its own loop --------------------------------------------------------------------


Emit = Callable[[Any], None]
"""Receives one chunk of a run's stream."""

Work = Callable[[Emit], Awaitable[None]]


class _End:
    """The end of the work, with the exception that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Worker:
    """A thread and its loop for one piece of work."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._home = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cancelled = False
        self.chunks: asyncio.Queue[Any] = asyncio.Queue()

    def start(self) -> None:
        threading.Thread(target=self._main, name="fractale-run", daemon=True).start()

    def cancel(self) -> None:
        """Cancel the work as Ctrl-C would."""
        self._cancelled = True
        if self._loop and self._task:
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _main(self) -> None:
        allow_blocking()
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(self._do())
        except BaseException as raised:  # noqa: BLE001 - the reader raises it again
            error = raised
        self._tell(_End(error))

    async def _do(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if not self._cancelled:
            await self._work(self._tell)

    def _tell(self, chunk: Any) -> None:
        self._home.call_soon_threadsafe(self.chunks.put_nowait, chunk)


async def in_own_thread(work: Work) -> AsyncGenerator[Any]:
    """Do work in a separate thread.

    Args:
        work: A function that receives an `Emit` for its chunks.

    Yields:
        The chunks. If the reader stops, the work is cancelled, and the generator waits for its end.

    Raises:
        BaseException: The exception that the work raised.
    """
    worker = _Worker(work)
    worker.start()
    ended = False
    try:
        while True:
            chunk = await worker.chunks.get()
            if isinstance(chunk, _End):
                ended = True
                if chunk.error:
                    raise chunk.error
                return
            yield chunk
    finally:
        if not ended:
            worker.cancel()
            await asyncio.shield(asyncio.ensure_future(_end_of(worker)))


async def _end_of(worker: _Worker) -> None:
    while not isinstance(await worker.chunks.get(), _End):
        pass
