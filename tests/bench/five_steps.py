"""The same flow of five steps in fractale and in plain LangGraph, in one process.

The steps: a tool, an agent that calls a tool, two tools side by side, a tool for each of three
items, and a tool. The model is scripted, and the tools are functions that answer at once. So the
ratio is fractale's own work on top of LangGraph's.

Each side builds and compiles its graph in each run, as `fractale.arun` does. `graph_rows` also
takes graphs that were compiled before.

Alone, it prints where the time goes: ``python tests/bench/five_steps.py graph`` (or ``arun``).
"""

from __future__ import annotations

import asyncio
import cProfile
import operator
import pstats
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from langchain.agents import (
    create_agent,  # pyright: ignore[reportUnknownVariableType] - its saver is untyped
)
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from measure import Row, cpu_in_turns
from typing_extensions import TypedDict

import fractale
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies
from fractale.models import Models
from fractale.settings import Settings
from fractale.testing import FakeToolServer, Reply, ScriptedModel

PLAN = """
name: five
inputs:
  nodes: {type: integer, default: 2}
steps:
  - {name: prepare, tool: measure, inputs: {n: "{{ inputs.nodes }}"}}
  - name: think
    agent: ask
    instruction: "Look at {{ steps.prepare.outputs.n }}"
    tools: [look]
  - name: pair
    parallel:
      - {name: left, tool: measure, inputs: {n: 1}}
      - {name: right, tool: measure, inputs: {n: 2}}
  - {name: each, tool: measure, foreach: [1, 2, 3], inputs: {n: "{{ item }}"}}
  - {name: last, tool: measure, inputs: {n: "{{ steps.each.outputs | length }}"}}
outputs: {n: "{{ steps.last.outputs.n }}"}
"""
TURNS = 15
"""Runs of each side. A run takes some ten milliseconds, and the median of ratios is steady."""

LINES = 300
"""Functions that a profile lists."""

Once = Callable[[], Awaitable[object]]


async def measure(n: int) -> dict[str, int]:
    """Measure something."""
    return {"n": n}


async def look(what: str) -> dict[str, str]:
    """Look something up."""
    return {"found": what}


def _model() -> ScriptedModel:
    return ScriptedModel([Reply(tool_calls=[("look", {"what": "x"})]), "It is x."])


# -- fractale -------------------------------------------------------------------------------------


def our_builder(model: ScriptedModel) -> Any:
    """The plan as a graph that is not compiled yet."""
    toolbox = FakeToolServer()
    toolbox.tool(measure)
    toolbox.tool(read_only=True)(look)
    models = Models(Settings(), given=model)
    return compile_plan(fractale.load(PLAN), Dependencies(toolbox=toolbox, models=models))


async def run_graph(graph: Any) -> None:
    """Run a compiled plan."""
    after = await graph.ainvoke({"nodes": 2})
    assert after["status"] == "success", after
    assert after["outputs"] == {"n": 3}, after


async def run_arun() -> None:
    """Run the plan by `fractale.arun`."""
    result = await fractale.arun(
        PLAN, {"nodes": 2}, tools=[measure, look], model=_model(), settings=Settings(), yes=True
    )
    assert result.ok, result.error
    assert result.outputs == {"n": 3}


# -- plain LangGraph ------------------------------------------------------------------------------


class Flow(TypedDict, total=False):
    """The state of the plain flow."""

    nodes: int
    prepared: dict[str, int]
    answer: str
    left: dict[str, int]
    right: dict[str, int]
    each: Annotated[list[dict[str, int]], operator.add]
    last: dict[str, int]


class Item(TypedDict):
    """An item of the fan-out."""

    n: int


def bare_builder(model: ScriptedModel) -> Any:
    """The same flow as LangGraph's documentation would write it."""
    agent = cast("Any", create_agent(model, tools=[look]))

    async def prepare(state: Flow) -> Flow:
        return {"prepared": await measure(state.get("nodes", 2))}

    async def think(state: Flow) -> Flow:
        said = f"Look at {state.get('prepared', {})['n']}"
        after = await agent.ainvoke({"messages": [{"role": "user", "content": said}]})
        return {"answer": after["messages"][-1].text}

    async def left(state: Flow) -> Flow:
        return {"left": await measure(1)}

    async def right(state: Flow) -> Flow:
        return {"right": await measure(2)}

    async def join(state: Flow) -> Flow:
        return {}

    def fan_out(state: Flow) -> list[Send]:
        return [Send("_each", {"n": n}) for n in (1, 2, 3)]

    async def each(item: Item) -> Flow:
        return {"each": [await measure(item["n"])]}

    async def last(state: Flow) -> Flow:
        return {"last": await measure(len(state.get("each", [])))}

    builder: Any = StateGraph(Flow)
    nodes = (prepare, think, left, right, join, each, last)
    for node in nodes:
        builder.add_node(f"_{node.__name__}", node)
    builder.add_edge(START, "_prepare")
    builder.add_edge("_prepare", "_think")
    builder.add_edge("_think", "_left")
    builder.add_edge("_think", "_right")
    builder.add_edge(["_left", "_right"], "_join")
    builder.add_conditional_edges("_join", fan_out, ["_each"])
    builder.add_edge("_each", "_last")
    builder.add_edge("_last", END)
    return builder


async def run_bare(graph: Any) -> None:
    """Run the compiled flow."""
    after = await graph.ainvoke({"nodes": 2})
    assert after["last"] == {"n": 3}, after


# -- rows -----------------------------------------------------------------------------------------


class Scripted:
    """A graph that is compiled once. Its model starts its script again in each run."""

    def __init__(self, build: Callable[[ScriptedModel], Any]) -> None:
        self._next = 0
        self.graph = build(ScriptedModel(self._reply)).compile()

    def _reply(self, _messages: object) -> Reply | str:
        self._next += 1
        return Reply(tool_calls=[("look", {"what": "x"})]) if self._next % 2 else "It is x."


async def five_step_rows() -> list[Row]:
    """The flow as a graph, compiled before and compiled in each run, and by `arun`."""
    ours, bare = Scripted(our_builder).graph, Scripted(bare_builder).graph
    pieces: list[Once] = [
        lambda: run_bare(bare),
        lambda: run_graph(ours),
        lambda: run_bare(bare_builder(_model()).compile()),
        lambda: run_graph(our_builder(_model()).compile()),
        run_arun,
    ]
    compiled, by_graph, built, by_build, by_arun = await cpu_in_turns(*pieces, tries=TURNS)
    return [
        Row(
            "five steps, a graph that is compiled already (CPU)",
            str(by_graph),
            f"plain LangGraph: {compiled}",
            by_graph.over(compiled),
            None,  # the row below includes what `compile_plan` itself costs
        ),
        Row(
            "five steps, loaded, built, compiled and run (CPU)",
            str(by_build),
            f"plain LangGraph: {built}",
            by_build.over(built),
            1.5,
        ),
        Row(
            "five steps by fractale.arun (CPU)",
            str(by_arun),
            f"plain LangGraph: {built}",
            by_arun.over(built),
            2.0,
        ),
    ]


async def profiled(what: str) -> None:
    """Print the functions that take most of the time."""
    graph = Scripted(bare_builder if what == "bare" else our_builder).graph
    once: dict[str, Once] = {
        "graph": lambda: run_graph(graph),
        "bare": lambda: run_bare(graph),
        "build": lambda: run_graph(our_builder(_model()).compile()),
        "arun": run_arun,
    }
    for _ in range(3):
        await once[what]()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(30):
        await once[what]()
    profile.disable()
    pstats.Stats(profile).sort_stats("cumulative").print_stats(LINES)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(profiled(sys.argv[1]))
    else:
        import table

        for row in asyncio.run(five_step_rows()):
            table.show(row)
