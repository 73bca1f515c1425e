"""What grows: a foreach of thousands of items, an agent of 50 turns, runs at once, a large output.

Each is measured against a peer in turns. ``SCALE=full`` takes the sizes of the row's names; without
it, they are a fifth, so that the whole table stays a matter of minutes.
"""

from __future__ import annotations

import asyncio
import gc
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
from fractale.runs import RunOptions, Runs
from fractale.settings import Settings
from fractale.store.checkpoints import open_checkpoints
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply

FULL = os.environ.get("SCALE") == "full"
FEW, MANY = 500, 5_000
ITEMS = MANY if FULL else MANY // 5
ROUNDS = 3
TURNS = 50
AT_ONCE = 16
MEGABYTES = 100 if FULL else 20

Once = Callable[[], Awaitable[object]]


def scale_rows() -> list[Row]:
    """Every row of this file."""
    rows = foreach_rows()
    rows += asyncio.run(agent_rows())
    rows.append(asyncio.run(network_row()))
    rows.append(asyncio.run(large_output_row()))
    return rows


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


# -- runs at once, large outputs ------------------------------------------------------------------


async def network_row() -> Row:
    """Sixteen runs at once in one directory that the table of mounts calls a network's."""
    server = FakeToolServer()
    server.answer("t", {"text": "x" * 3000})
    plan = fractale.load("name: p\nsteps: [{name: a, tool: t}, {name: b, tool: t}]\n")
    with TemporaryDirectory() as name:
        state = Path(name)
        mounts = f"22 1 8:1 / / rw - ext4 /dev/a rw\n23 22 0:41 / {state} rw - nfs4 server:/ rw\n"
        all_open = asyncio.Barrier(AT_ONCE)

        async def start(run: str) -> bool:
            async with open_checkpoints(state, mountinfo=mounts) as saver:
                await saver.open_run(run)
                await all_open.wait()
                runs = Runs(replace(Settings(), state_dir=state), server)
                result = await runs.start(plan, {}, RunOptions(run_id=run, checkpointer=saver))
                return result.ok

        names = [f"r{number}" for number in range(AT_ONCE)]
        ended = await asyncio.gather(*map(start, names), return_exceptions=True)
    failed = sum(each is not True for each in ended)
    return Row(
        "runs that fail, of 16 at once in a directory on NFS (faked)",
        f"{failed}",
        f"{AT_ONCE - failed} of {AT_ONCE} ended",
        float(failed),
        0,
    )


async def large_output_row() -> Row:
    """The record of a run whose tool returns a large text that a second step uses."""
    server = FakeToolServer()
    text = "x" * (MEGABYTES * 1_000_000)

    @server.tool
    def make() -> str:
        return text

    @server.tool
    def use(text: str) -> dict:
        return {"length": len(text)}

    plan = fractale.load("""
name: large
steps:
  - {name: make, tool: make}
  - {name: use, tool: use, inputs: {text: "{{ steps.make.outputs.content }}"}}
outputs: {length: "{{ steps.use.outputs.length }}"}
""")
    with TemporaryDirectory() as folder:
        runs = Runs(replace(Settings(), state_dir=Path(folder)), server)
        result = await runs.start(plan, {})
        assert result.outputs == {"length": len(text)}, result.error
        size = _size_of(Path(folder))
    gc.collect()
    return Row(
        f"bytes of a run with a text of {MEGABYTES} MB that two steps use",
        f"{size / 1e6:.1f} MB",
        f"the text: {MEGABYTES} MB",
        size / len(text),
        1.3,
    )


def _size_of(folder: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_each(int(sys.argv[1])))
    else:
        import table

        for row in scale_rows():
            table.show(row)
