"""A small graph on a saver of ours: what the tests of the stores keep and read back."""

from __future__ import annotations

import operator
import os
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt


def unmeasured() -> dict[str, str]:
    """The environment of a process that is to be killed: it would leave half its coverage."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


class State(TypedDict, total=False):
    numbers: Annotated[list[int], operator.add]
    steps: dict[str, Any]


def ask(_: State) -> State:
    return {"numbers": [interrupt({"question": "which number?"})]}


BUILDER = (
    StateGraph(State)
    .add_node("first", lambda _: {"numbers": [1], "steps": {"first": {"text": "x" * 300}}})
    .add_node("ask", ask)
    .add_node("beside", lambda _: {"numbers": [3]})
    .add_edge(START, "first")
    .add_edge("first", "ask")
    .add_edge("first", "beside")
    .add_edge("ask", END)
)


def config(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}


async def begin(saver, thread: str) -> None:
    """Run until the graph waits: one task's writes and an interrupt wait beside a checkpoint."""
    graph = BUILDER.compile(checkpointer=saver)
    await graph.ainvoke({"numbers": [0]}, config(thread), durability="sync")


async def finish(saver, thread: str) -> list[int]:
    graph = BUILDER.compile(checkpointer=saver)
    return (await graph.ainvoke(Command(resume=2), config(thread), durability="sync"))["numbers"]


async def latest(saver, thread: str) -> str:
    return repr(await saver.aget_tuple(config(thread)))


async def history(saver, thread: str) -> str:
    return repr([found async for found in saver.alist(config(thread))])
