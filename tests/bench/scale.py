"""What grows: a foreach of thousands of items, and an agent of 50 turns.

Each is measured in turns with what it is compared with. ``SCALE=full`` makes it 5,000 items instead
of 1,000.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import aiosqlite
from langchain.agents import create_agent
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from measure import Row, cpu_in_turns

import fractale
from fractale.models import Models
from fractale.runs import Runs
from fractale.settings import Settings
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply

FULL = os.environ.get("SCALE") == "full"
FEW, MANY = 500, 5_000
ITEMS = MANY if FULL else MANY // 5
ROUNDS = 3
TURNS = 50

Once = Callable[[], Awaitable[object]]


def scale_rows() -> list[Row]:
    """Every row of this file."""
    rows = foreach_rows()
    return rows + asyncio.run(agent_rows())


# -- foreach --------------------------------------------------------------------------------------

EACH = """
name: each
inputs: {count: {type: integer}}
steps:
  - {name: s, tool: rest, foreach: "range(inputs.count) | list", max_parallel: 50,
     inputs: {n: "{{ item }}"}}
"""


def foreach_rows() -> list[Row]:
    """CPU per item and memory, each foreach in a process of its own, few and many in turns."""
    found: dict[int, list[tuple[float, float]]] = {FEW: [], ITEMS: []}
    for _ in range(ROUNDS):
        for count, taken in found.items():
            words = [sys.executable, __file__, str(count)]
            said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            seconds, megabytes = map(float, said.split())
            taken.append((seconds / count * 1000, megabytes))
    few, many = (list(zip(*found[count], strict=True)) for count in (FEW, ITEMS))
    rows: list[Row] = []
    for number, (what, unit, limit) in enumerate(
        ((f"CPU per item of a foreach of {ITEMS:,}", "ms", 1.2), ("its memory", "MB", 1.25))
    ):
        ratios = [a / b for a, b in zip(many[number], few[number], strict=True)]
        rows.append(
            Row(
                f"{what}; the tool sleeps" if not number else what,
                f"{median(many[number]):.2f} {unit}",
                f"{FEW} items: {median(few[number]):.2f} {unit}",
                median(ratios),
                limit,
            )
        )
    return rows


async def _each(count: int) -> None:
    """Print the CPU seconds of a foreach whose tool sleeps for 50 ms, and the peak memory in MB."""
    import resource

    server = FakeToolServer()

    @server.tool
    async def rest(n: int) -> dict:
        await asyncio.sleep(0.05)
        return {"n": n}

    plan = fractale.load(EACH)
    with TemporaryDirectory() as folder:
        runs = Runs(replace(Settings(), state_dir=Path(folder)), server)
        await runs.start(plan, {"count": 20})  # imports and caches
        started = time.process_time()
        result = await runs.start(plan, {"count": count})
        seconds = time.process_time() - started
    assert result.ok, result.error
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


# -- agents ---------------------------------------------------------------------------------------


async def look(what: str) -> dict[str, str]:
    """Look something up."""
    return {"found": what}


def _model() -> ScriptedModel:
    """Calls the tool in each turn but the last."""
    calls = [Reply(tool_calls=[("look", {"what": f"x{n}"})]) for n in range(TURNS - 1)]
    return ScriptedModel([*calls, "It is x."])


async def agent_rows() -> list[Row]:
    """An agent of 50 turns, kept in SQLite, against LangChain's `create_agent`."""
    plan = fractale.load("""
name: agent
steps:
  - {name: s, type: agent, instruction: "Look at x", tools: [look]}
""")
    server = FakeToolServer()
    server.tool(read_only=True)(look)
    with TemporaryDirectory() as name:
        ours, bare, count = Path(name) / "ours", Path(name) / "bare.sqlite", iter(range(1_000))
        rounds = 0

        async def run_ours() -> None:
            nonlocal rounds
            rounds += 1
            settings = replace(Settings(), state_dir=ours)
            runs = Runs(settings, server, models=Models(settings, given=_model()))
            result = await runs.start(plan, {})
            assert result.ok, result.error

        async def run_bare() -> None:
            config: Any = {"configurable": {"thread_id": str(next(count))}, "recursion_limit": 200}
            async with aiosqlite.connect(bare) as connection:
                graph: Any = create_agent(
                    _model(), tools=[look], checkpointer=AsyncSqliteSaver(connection)
                )
                said = {"role": "user", "content": "Look at x"}
                await graph.ainvoke({"messages": [said]}, config, durability="sync")

        with_us, without = await cpu_in_turns(run_ours, run_bare, tries=5)
        our_bytes = _size_of(ours, "checkpoints*")
        bare_bytes = bare.stat().st_size
    return [
        Row(
            f"an agent of {TURNS} turns (CPU)",
            str(with_us),
            f"bare create_agent: {without}",
            with_us.over(without),
            2.0,
        ),
        Row(
            "bytes of its checkpoints",
            f"{our_bytes / rounds / 1e6:.2f} MB",
            f"bare create_agent: {bare_bytes / rounds / 1e6:.2f} MB",
            our_bytes / bare_bytes,
            1.3,
        ),
    ]


def _size_of(folder: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_each(int(sys.argv[1])))
    else:
        import table

        for row in scale_rows():
            table.show(row)
