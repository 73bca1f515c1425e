"""Times that a step waits for, each counted from a moment that the run remembers.

A time is counted from its moment, and not from the start of a process. So a kill neither lengthens
nor shortens it. While it passes, the run keeps its process, or is suspended as for a batch job: it
can be resumed at any time, and waits for the rest.

`timed_graph` is for steps that wait for one time. The graph below such a step has two nodes, and
each is a checkpoint:

- `begin`: remembers the moment.
- The node that does the step's work, which knows the moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale import questions
from fractale.clock import elapsed, moment
from fractale.errors import CallError
from fractale.graph.call import Attempt, once
from fractale.graph.interrupts import suspend
from fractale.graph.kinds.tool import QuietCodec
from fractale.store.journal import Call
from fractale.toolbox import ToolResult

GLANCE_SECONDS = 0.5
"""Seconds between two checks whether the run is to be suspended."""

BEGIN = "begin"

Work: TypeAlias = Callable[[Attempt, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""The work of a step, from the attempt and the moment when the step began. Returns JSON."""


class Timed(TypedDict, total=False):
    """The state of the graph.

    Keys:
        began: The moment when the step began (`fractale.clock`).
        result: The result of the work.
    """

    began: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TimedRun:
    """The context of the nodes."""

    attempt: Attempt


def timed_graph(name: str, work: Work) -> Any:
    """The compiled graph below a step that waits for a time.

    Args:
        name: Of the node that does the work.
        work: Runs again from its start if the run is resumed.
    """

    async def do(state: Timed, runtime: Runtime[TimedRun]) -> Timed:
        attempt = runtime.context.attempt
        try:
            return Timed(result=await work(attempt, state.get("began", {})))
        except CallError as error:
            # LangGraph stores the error of a node as it is.
            error.message, error.hint = attempt.context.mask([error.message, error.hint])
            error.args = (error.message,)
            raise

    builder: Any = StateGraph(Timed)
    builder.add_node(BEGIN, _begin, input_schema=Timed)
    builder.add_node(name, do, input_schema=Timed)
    builder.add_edge(START, BEGIN)
    builder.add_edge(BEGIN, name)
    builder.add_edge(name, END)
    return builder.compile()


async def run_timed(attempt: Attempt) -> dict[str, Any]:
    """Run the step's `timed_graph`. Returns the result of the work."""
    after = cast(
        "Timed",
        await attempt.inside.ainvoke(Timed(), attempt.config, context=TimedRun(attempt)),
    )
    return after.get("result", {})


async def _begin(state: Timed, runtime: Runtime[TimedRun]) -> Timed:
    del state
    return Timed(began=await now(runtime.context.attempt))


async def now(attempt: Attempt) -> dict[str, Any]:
    """The present moment. A replay gets the recorded one."""
    call = Call(kind="tool", name="clock", digest="", safe=True)

    async def make() -> ToolResult:
        return ToolResult(text="", structured=moment(attempt.context.clock))

    result = await once(attempt, attempt.journal.next_site(), call, make, QuietCodec(attempt))
    return cast("dict[str, Any]", result.structured)


async def pause(attempt: Attempt, at: Mapping[str, Any], reason: str) -> None:
    """Wait until a time has come, or suspend the run. A replay does not wait.

    Args:
        at: The time, as `fractale.questions.due` returns it.
        reason: Why the step waits, as text for the user.
    """
    context, began, seconds = attempt.context, at["began"], float(at["seconds"])
    if not attempt.deps.patient or elapsed(context.clock, began) >= seconds:
        context.jobs_waited_for.pop(attempt.path, None)
        return
    waiting = questions.timer(attempt.path, context.mask(reason), at)
    context.jobs_waited_for[attempt.path] = waiting
    attempt.emit("timer", **{k: v for k, v in waiting.items() if k not in ("kind", "step")})
    with context.meter.paused():
        while (left := seconds - elapsed(context.clock, began)) > 0:
            if context.leave_jobs():
                suspend(waiting)
            await asyncio.sleep(min(left, GLANCE_SECONDS))
    context.jobs_waited_for.pop(attempt.path, None)
