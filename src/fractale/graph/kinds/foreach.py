"""A step with `foreach`: it runs once per item. Each item is a task of the step's graph.

LangGraph looks at all tasks of a graph each time that one of them ends, so the cost of one graph is
quadratic in its tasks. From `CHUNKED` items on, the step's graph has about √n tasks, `items`, and
each of them has a graph of about √n items. One `ConcurrencyLimit` counts the items of all chunks
and lets the next chunk begin when its items are needed. So only the items that run or are next in
line take memory, and no chunk waits for the end of another.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from fractale import questions
from fractale.errors import TemplateError
from fractale.evidence import Notice
from fractale.graph.call import Attempt, labels_of
from fractale.graph.context import RunContext
from fractale.graph.interrupts import is_suspended, suspend
from fractale.graph.outcome import DEFAULT_SUCCESS, CallResult, Decision, failed_by
from fractale.graph.state import ItemState, Spent
from fractale.graph.step import StepNode, item_node, retry_policy
from fractale.plan.expressions import evaluate, holds
from fractale.plan.model import FAILURE, MOST_ITEMS, MOST_JOBS, SUCCESS, Expression, ForEach
from fractale.plan.rules import unequal
from fractale.plan.scope import is_per_item

CHUNKED: Final = 1_000
"""The least number of items that run in chunks. Chunks of fewer items cost more than they save."""


def foreach(node: StepNode) -> StepNode:
    """The node of a step, once per item.

    Args:
        node: Of the step, as its kind has built it.
    """
    over = node.step.foreach
    assert over is not None  # noqa: S101 - the caller looked
    leaf = item_node(node)
    when = node.step.when if is_per_item(node.step) else None
    if when is not None:
        node = replace(node, step=replace(node.step, when=None))

    async def call(attempt: Attempt) -> CallResult:
        items, given = chosen_items(over, when, attempt)
        left_out = _left_out(given - len(items), given)
        if not items:
            return CallResult(outputs=[], matched=left_out)
        slots = ConcurrencyLimit(
            over.max_parallel or (MOST_JOBS if leaf.step.kind == "job" else MOST_ITEMS)
        )
        jobs: dict[str, Any] = {}
        if leaf.step.kind == "job":
            from fractale.graph.kinds.job_array import arrays_of_items  # few plans have a job

            jobs = await arrays_of_items(leaf, attempt, items, over.max_parallel)
        context = replace(
            attempt.context,
            item_scope=attempt.scope,
            item_flow=attempt.flow.for_items(over),
            slots=slots,
            item_path=attempt.path,
            **jobs,
        )
        kept = [attempt.deps.outputs.put(item) for item in items]
        after = await attempt.inside.ainvoke({"items": kept}, attempt.config, context=context)
        attempt.charge(after.get("spent", Spent()))
        results = [after["results"][str(index)] for index in range(len(items))]
        attempt.seen.add(labels_of(*results))
        return _gather(node, results, left_out)

    return replace(node, perform=call, inside=_foreach_graph(leaf, most=_most_items(over)))


def _most_items(over: ForEach) -> float:
    """The number of items, if the plan has them as a list; else there may be any number."""
    items = over.items
    parts = list(items.values()) if isinstance(items, Mapping) else [items]
    lengths = [math.inf if isinstance(part, Expression) else len(part) for part in parts]
    return max(lengths) if over.zip else math.prod(lengths)


def _foreach_graph(leaf: StepNode, most: float) -> Any:
    """The graph of the items.

    A run that an earlier version began has its items in the state as tasks of `item`, however many
    they are. It continues with them.
    """
    builder = _items_graph(leaf)
    if most < CHUNKED:
        builder.add_conditional_edges(START, _fan_out, ["item"])
        return builder.compile()
    chunk = _items_graph(leaf)
    chunk.add_conditional_edges(START, _fan_out, ["item"])
    builder.add_node("items", _chunk_node(chunk.compile()), input_schema=ItemState)
    builder.add_conditional_edges(START, _fan_out_in_chunks, ["item", "items"])
    builder.add_edge("items", END)
    return builder.compile()


def _chunk_node(graph: Any) -> Any:
    async def items(
        state: ItemState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> ItemState:
        context = runtime.context
        # The scheduler limits how many elements of an array run.
        turn = nullcontext() if context.arrays else cast("ConcurrencyLimit", context.slots).chunk()
        async with turn:
            after = await _until_ended(graph.ainvoke(state, config, context=context))
        return ItemState(results=after["results"], spent=after.get("spent", Spent()))

    return items


async def _until_ended(graph: Coroutine[Any, Any, Any]) -> Any:
    """The result of a graph that has ended, with all its items, also if it is cancelled.

    LangGraph cancels the tasks of a graph that fails twice. The second time, a graph inside a task
    would no longer wait for its own tasks.
    """
    task = asyncio.ensure_future(graph)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


def _items_graph(leaf: StepNode) -> Any:
    """A graph with the node of the items, without the edge that leads to them."""
    graph = leaf.inside

    async def item(
        state: ItemState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> ItemState:
        async with runtime.context.slots:
            return await leaf(state, runtime, config)

    # Only an item with a graph of its own can suspend on a running job and keep its slot.

    async def item_with_inside(
        state: ItemState, runtime: Runtime[RunContext], config: RunnableConfig
    ) -> ItemState:
        context = runtime.context
        if state.get("index", 0) in context.arrays:  # the scheduler limits how many run
            return await leaf(state, runtime, config, graph)
        try:
            async with context.slots:
                return await leaf(state, runtime, config, graph)
        except Full:
            suspend(questions.job_held(f"{context.item_path}[{state.get('index', 0)}]"))

    builder: Any = StateGraph(ItemState)
    function = item if graph is None else item_with_inside
    policy = retry_policy(leaf)
    builder.add_node("item", function, input_schema=ItemState, retry_policy=policy)
    builder.add_edge("item", END)
    return builder


async def _fan_out(state: ItemState) -> list[Send]:
    items, first = state.get("items", []), state.get("index", 0)
    total = state.get("total", len(items))
    return [
        Send("item", ItemState(item=item, index=index, total=total))
        for index, item in enumerate(items, first)
    ]


async def _fan_out_in_chunks(state: ItemState) -> list[Send]:
    items = state.get("items", [])
    total = len(items)
    if total < CHUNKED:
        return await _fan_out(state)
    size = math.isqrt(total - 1) + 1
    return [
        Send("items", ItemState(items=items[first : first + size], index=first, total=total))
        for first in range(0, total, size)
    ]


def chosen_items(over: ForEach, when: Expression | None, attempt: Attempt) -> tuple[list[Any], int]:
    """The items for which the step runs, and the number of all items."""
    given = _items_of(over, attempt)
    return (given if when is None else _chosen(when, given, attempt)), len(given)


def _items_of(foreach: ForEach, attempt: Attempt) -> list[Any]:
    """The items in order; for a mapping of lists, their product in the order of the mapping."""
    items = foreach.items
    if not isinstance(items, Mapping):
        return _list_of(items, attempt, "foreach")
    axes = {
        name: _list_of(part, attempt, f"{foreach.prefix}.{name}") for name, part in items.items()
    }
    if not foreach.zip:
        return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    lengths = {name: len(axis) for name, axis in axes.items()}
    if len(set(lengths.values())) > 1:
        where = attempt.step.where(foreach.prefix)
        raise TemplateError(f"{unequal(lengths)} items", position=where)
    return [dict(zip(axes, point, strict=True)) for point in zip(*axes.values(), strict=True)]


def _chosen(when: Expression, items: list[Any], attempt: Attempt) -> list[Any]:
    """The items for which the step's `when` is true. There, `index` is the place in the list."""
    undefined: set[str] = set()
    chosen = [
        item
        for index, item in enumerate(items)
        if holds(when, {**attempt.scope, "item": item, "index": index}, undefined.add)
    ]
    for name in sorted(undefined):
        attempt.warn_undefined("when", name)
    return chosen


def _left_out(count: int, total: int) -> Decision:
    """The success of a step whose `when` left some of its items out."""
    if not count:
        return DEFAULT_SUCCESS
    return replace(DEFAULT_SUCCESS, reason=f"{count} of {total} items left out by `when`")


def _list_of(items: Expression | Sequence[Any], attempt: Attempt, path: str) -> list[Any]:
    if not isinstance(items, Expression):
        return list(items)
    value = evaluate(items, attempt.scope)
    if not isinstance(value, list):
        message = f"`{path}` must give a list, and gave {type(value).__name__}"
        raise TemplateError(message, position=items.position)
    return cast("list[Any]", value)


def _gather(node: StepNode, results: list[dict[str, Any]], success: Decision) -> CallResult:
    """The outputs of the items in order, and the outcome of the step.

    The step fails if any item failed, unless it keeps going. If rules gave items their own events,
    the first of these events is the step's event.

    Args:
        success: The decision if nothing else decides.
    """
    outputs = [item_outputs(node, result) for result in results]
    failed = [i for i, result in enumerate(results) if result["outcome"] == "failure"]
    reason = ""
    if failed:
        first = results[failed[0]]
        where = f"{len(failed)} of {len(results)} items failed; item {failed[0] + 1}"
        reason = f"{where}: {first['error']}"
        if not node.step.keep_going or len(failed) == len(results):
            return CallResult(outputs=outputs, matched=failed_by(first["decided_by"], reason))
    decision, own = success, [r for r in results if r["event"] not in (SUCCESS, FAILURE)]
    if own:
        decision = Decision(
            outcome="success", event=own[0]["event"], decided_by="rule", reason=own[0]["reason"]
        )
    known = sum(result["decided_by"] == "up_to_date" for result in results)
    if known and not own:
        words = f"{known} of {len(results)} items are up to date"
        left_out = f"{decision.reason}; " if decision.reason else ""
        decision = replace(decision, reason=f"{left_out}{words}")
    taken = sum("reused" in result for result in results)
    if taken and not own:
        words = f"{taken} of {len(results)} items were taken over from earlier runs"
        decision = replace(decision, reason="; ".join(filter(None, (decision.reason, words))))
    notices = [Notice(kind="failed", message=reason)] if failed else []
    notices += [
        Notice(kind=notice["kind"], message=f"item {number}: {notice['message']}")
        for number, result in enumerate(results, 1)
        for notice in result.get("notices", ())
    ]
    return CallResult(outputs=outputs, matched=decision, notices=tuple(notices))


def item_outputs(node: StepNode, result: dict[str, Any]) -> Any:
    """The outputs of an item, with its error if it failed."""
    outputs = node.deps.outputs.get(result["outputs"])
    if result["outcome"] == "failure" and isinstance(outputs, dict):
        return {**cast("dict[str, Any]", outputs), "error": result["error"]}
    return outputs


# The number of concurrent items


class Full(Exception):
    """Every slot belongs to an item that is suspended while its job runs."""


class ConcurrencyLimit:
    """Limits the number of concurrent items of a foreach, in the order of their arrival.

    An item that is suspended while its job runs keeps its slot, since the job still counts. Once
    such items have all slots, no other item starts.

    A freed slot goes to the item that has waited longest and wakes no other item. Waking all
    of them each time would take time quadratic in the number of items.

    Chunks of items begin one after another, in the order of their arrival. The next one begins as
    soon as fewer items wait than there are slots.

    Args:
        most: The number of slots.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._suspended = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._chunks: deque[asyncio.Future[None]] = deque()
        self._opening: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        """Wait for a slot.

        Raises:
            Full: No slot will become free in this process.
        """
        if self._opening is not None:  # the other items of its chunk arrive in the same round
            self._opening = None
            asyncio.get_running_loop().call_soon(self._open_chunk)
        if self._is_full:
            raise Full
        if self._taken < self._most:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._free()  # the item was cancelled after it had got the slot
            raise

    @property
    def _is_full(self) -> bool:
        return self._suspended >= self._most

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the slot, unless the item is suspended."""
        if not is_suspended(error):
            self._free()
            return
        self._suspended += 1
        while self._is_full and (turn := _next(self._waiting)):
            turn.set_exception(Full())
        self._open_chunk()

    def _free(self) -> None:
        if turn := _next(self._waiting):
            turn.set_result(None)
        else:
            self._taken -= 1
        self._open_chunk()

    @asynccontextmanager
    async def chunk(self) -> AsyncGenerator[None]:
        """A chunk of items, which begins when its items are needed.

        The chunk has begun when its first item arrives. If all of its items are done already, its
        end counts.
        """
        turn = asyncio.get_running_loop().create_future()
        self._chunks.append(turn)
        self._open_chunk()
        try:
            await turn
            yield
        finally:
            if self._opening is turn:
                self._opening = None
            self._open_chunk()

    def _open_chunk(self) -> None:
        if self._opening is not None or len(self._waiting) >= self._most:
            return
        if turn := _next(self._chunks):
            self._opening = turn
            turn.set_result(None)


def _next(waiting: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    """The one that has waited longest and still waits. It waits no longer."""
    while waiting:
        turn = waiting.popleft()
        if not turn.done():
            return turn
    return None
