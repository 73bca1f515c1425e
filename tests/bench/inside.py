"""What a step costs inside a run: time and bytes, as plans and loops grow."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

import aiosqlite
from commands import plan_of
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from measure import HERE, Row, in_turns, work

import fractale
from fractale.mcp import McpToolbox
from fractale.runs import Runs
from fractale.settings import ServerSettings, Settings
from fractale.testing import FakeToolServer

SERVE = ["-m", "fractale.cli", "serve", "--stdio", "tools.yaml"]
STEP_TRIES = 15
"""Half a millisecond a step decides: five tries are too few for a steady median."""

Once = Callable[[], Awaitable[object]]
"""Does a piece of work once."""


async def step_row(folder: Path) -> Row:
    """One more tool step over stdio, against LangGraph's bare loop with a raw MCP session."""
    async with our_steps(folder) as our_run, bare_steps(folder) as bare_run:
        ours, bare = await in_turns(our_run, bare_run, tries=STEP_TRIES)
    return Row(
        "one more tool step (40 steps, SQLite, sync)",
        f"{ours.median / 40 * 1000:.2f} ms",
        f"bare LangGraph + raw MCP session: {bare.median / 40 * 1000:.2f} ms",
        ours.over(bare),
        1.3,
    )


@asynccontextmanager
async def our_steps(folder: Path) -> AsyncGenerator[Once]:
    """Runs forty steps of a plan on a kept session."""
    env = {"PYTHONPATH": str(HERE)}
    server = ServerSettings(
        name="bench",
        transport="stdio",
        command=sys.executable,
        args=tuple(SERVE),
        env=env,
        cwd=str(folder),
    )
    plan = fractale.load(plan_of(40))
    async with McpToolbox([server]) as toolbox:
        with TemporaryDirectory() as state:
            runs = Runs(replace(Settings(), state_dir=Path(state)), toolbox)
            yield lambda: runs.start(plan, {})


class Bare(TypedDict, total=False):
    """The state of the bare loop."""

    n: int
    answer: Any


@asynccontextmanager
async def bare_steps(folder: Path) -> AsyncGenerator[Once]:
    """Runs forty nodes of LangGraph's own that each call the tool once."""
    env = {"PYTHONPATH": str(HERE)}
    parameters = StdioServerParameters(command=sys.executable, args=SERVE, env=env, cwd=str(folder))
    async with (
        stdio_client(parameters) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()

        async def call(state: Bare) -> Bare:
            result = await session.call_tool("echo", {"n": state["n"]})
            return {"answer": result.structuredContent}

        names = [f"s{i}" for i in range(40)]
        with TemporaryDirectory() as state:
            count = iter(range(1_000_000))

            async def once() -> None:
                # As a run of ours does: build the graph, open the database, go.
                builder: Any = StateGraph(Bare)
                for name in names:
                    builder.add_node(name, call)
                for before, after in zip([START, *names], names, strict=False):
                    builder.add_edge(before, after)
                config = {"configurable": {"thread_id": str(next(count))}, "recursion_limit": 100}
                async with aiosqlite.connect(Path(state) / "checkpoints.sqlite") as connection:
                    graph = builder.compile(checkpointer=AsyncSqliteSaver(connection))
                    await graph.ainvoke({"n": 1}, config, durability="sync")

            yield once


async def growth_rows() -> list[Row]:
    """Bytes and time per step of chains of 10, 100 and 1,000 steps with 2 KB outputs."""
    rows: list[Row] = []
    base = await _chain(10)
    for steps in (100, 1000):
        now = await _chain(steps)
        rows.append(_ratio(f"checkpoint bytes per step, {steps} steps", base[0], now[0], "B", 2))
        rows.append(_ratio(f"time per step, {steps} steps", base[1], now[1], "ms", 1.5))
    return rows


async def loop_rows() -> list[Row]:
    """A loop of three steps, 10 and 1,000 visits."""
    base = await _loop(10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now = await _loop(1000)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [
        _ratio("checkpoint bytes per visit, 1,000 visits of a loop", base[0], now[0], "B", 2),
        _ratio("time per visit, the same", base[1], now[1], "ms", 1.5),
        Row(
            "peak memory, the same",
            f"{after / 1024:.0f} MB",
            f"10 visits: {before / 1024:.0f} MB",
            after / before,
            1.1,
        ),
    ]


def _ratio(what: str, base: float, now: float, unit: str, limit: float) -> Row:
    return Row(what, f"{now:,.1f} {unit}", f"10: {base:,.1f} {unit}", now / base, limit)


async def _chain(steps: int) -> tuple[float, float]:
    lines = "\n".join(f"  - {{name: s{i}, tool: big, inputs: {{n: {i}}}}}" for i in range(steps))
    return await _run(f"name: chain\nsteps:\n{lines}\n", steps, tries=3 if steps < 1000 else 1)


async def _loop(visits: int) -> tuple[float, float]:
    plan = """
name: loop
steps:
  - {name: a, tool: big}
  - {name: b, tool: big}
  - {name: c, tool: big, rules: {again: [go]}, transitions: {again: a, success: success}}
"""
    return await _run(plan, 3 * visits, tries=3 if visits < 1000 else 1)


async def _run(text: str, steps: int, tries: int) -> tuple[float, float]:
    """Bytes of the checkpoints and milliseconds, per step."""
    found: list[tuple[float, float]] = []
    for _ in range(tries):
        server = FakeToolServer()
        calls = [0]

        @server.tool
        def big(n: int = 0, calls: list[int] = calls) -> dict:
            calls[0] += 1
            return {"text": f"{calls[0]:>2000}", "go": calls[0] < steps}

        with TemporaryDirectory() as folder:
            settings = replace(Settings(), state_dir=Path(folder), max_attempts=1_000_000)
            started = time.perf_counter()
            result = await Runs(settings, server).start(fractale.load(text), {})
            seconds = time.perf_counter() - started
            assert result.ok, result.error
            size = _bytes_of_checkpoints(folder)
        found.append((size / steps, seconds / steps * 1000))
    found.sort(key=lambda pair: pair[1])
    return found[len(found) // 2]


def _bytes_of_checkpoints(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("checkpoints*"))


async def foreach_row() -> Row:
    """A hundred calls of one second each, all at the same time."""
    import asyncio

    server = FakeToolServer()

    @server.tool
    async def second(n: int) -> dict:
        await asyncio.sleep(1.0)
        return {"n": n}

    plan = """
name: each
steps:
  - {name: s, tool: second, foreach: "range(100) | list", max_parallel: 100,
     inputs: {n: "{{ item }}"}}
"""
    with TemporaryDirectory() as folder:
        runs = Runs(replace(Settings(), state_dir=Path(folder)), server)
        sample = await work(lambda: runs.start(fractale.load(plan), {}), tries=3)
    return Row("foreach of 100 calls of 1 s", str(sample), "1 s", sample.median, 2)
