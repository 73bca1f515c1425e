"""What a run of a sweep costs: CPU against bare LangGraph, the driver's memory, runs a minute.

All use the same plan: one step that calls one function. Each run has a SQLite file of its own, also
on the other side. Two workers take the sweep; ``SCALE=full`` makes it 10,000 runs instead of 1,000.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiosqlite
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from measure import Row, cpu_in_turns
from typing_extensions import TypedDict

import fractale
from fractale.settings import load_settings
from fractale.sweeps.begin import prepare, write_sweep
from fractale.sweeps.driver import run_sweep
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.spec import Axis, SweepSpec
from fractale.sweeps.task import RunTask
from fractale.sweeps.worker import Worker

RUNS = 10_000 if os.environ.get("SCALE") == "full" else 1_000
WORKERS = 2
BATCH, TURNS = 10, 12
ALLOWED = 0.015
"""CPU seconds that a run may cost above bare LangGraph."""

TOOL = 'def double(x: int) -> int:\n    """Double a number."""\n    return 2 * x\n'
PLAN = """name: one
inputs: {x: {type: integer}}
steps:
  - {name: only, tool: double, inputs: {x: "{{ inputs.x }}"}}
outputs: {y: "{{ steps.only.outputs.result }}"}
"""

Once = Callable[[], Awaitable[object]]


def sweep_rows() -> list[Row]:
    """Every row about sweeps."""
    with TemporaryDirectory() as name:
        before = Path.cwd()
        folder = Path(name).resolve()
        os.chdir(folder)
        try:
            return [*asyncio.run(_cpu_rows(folder)), *_whole_rows(folder)]
        finally:
            os.chdir(before)


def made_sweep(folder: Path, runs: int, sweep_id: str) -> SweepRecord:
    """A sweep in a folder, which is the working directory. Nothing runs."""
    (folder / "bench_tool.py").write_text(TOOL, encoding="utf-8")
    (folder / "tools.yaml").write_text("tools:\n  - path: bench_tool.double\n", encoding="utf-8")
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    spec = SweepSpec(plan="plan.yaml", over=(Axis("x", [*range(runs)]),), max_parallel=WORKERS)
    settings = _settings(folder)
    return write_sweep(prepare(spec, settings, registries=("tools.yaml",)), settings, sweep_id)


def _settings(folder: Path) -> Any:
    return load_settings(_environment(folder), folder)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "FRACTALE_STATE_DIR": str(folder / "state")}


# -- CPU of one run -------------------------------------------------------------------------------


async def _cpu_rows(folder: Path) -> list[Row]:
    record = made_sweep(folder, 2 * BATCH * (TURNS + 3), "cpu")
    async with Worker(_environment(folder)) as worker:
        ours = _our_runs(record, worker)
        alone = _single_runs(folder)
        bare = _bare_runs(folder)
        sample, single, peer = await cpu_in_turns(ours, alone, bare, tries=TURNS)
    run, other, least = (each.median / BATCH for each in (sample, single, peer))
    return [
        Row(
            "a run of a sweep above bare LangGraph, of 15 CPU ms",
            f"{run * 1000:.1f} ms a run",
            f"bare LangGraph, warm: {least * 1000:.1f} ms",
            (run - least) / ALLOWED,
            1.0,
        ),
        Row(
            "the same against `fractale.arun`, warm (CPU)",
            f"{run * 1000:.1f} ms a run",
            f"`fractale.arun(…, keep=True)`: {other * 1000:.1f} ms",
            sample.over(single),
            1 / 1.5,
        ),
    ]


def _our_runs(record: SweepRecord, worker: Worker) -> Once:
    head, rows = record.read_head(), record.read_rows()
    numbers = iter(range(len(rows)))

    async def batch() -> None:
        for number in [next(numbers) for _ in range(BATCH)]:
            task = RunTask(
                run=f"{record.sweep_id}.{number}",
                sweep=record.sweep_id,
                row=number,
                plan=str(record.plan),
                plan_hash=head["plan_hash"],
                inputs=rows[number],
                directory=head["folder"],
                state_dir=str(record.state_dir),
                options=head["options"],
            )
            report = await worker.perform(task)
            assert report.status == "success", report.error

    return batch


def _single_runs(folder: Path) -> Once:
    settings = _settings(folder)

    async def batch() -> None:
        for number in range(BATCH):
            result = await fractale.arun(
                "plan.yaml", {"x": number}, keep=True, registries=["tools.yaml"], settings=settings
            )
            assert result.ok, result.error

    return batch


class State(TypedDict, total=False):
    """The state of the bare graph."""

    x: int
    y: int


def _bare_runs(folder: Path) -> Once:
    """As a run of ours: the graph is built, a database of its own is opened."""
    (folder / "bare").mkdir()
    names = iter(range(1_000_000))

    async def double(state: State) -> State:
        return {"y": 2 * state.get("x", 0)}

    async def batch() -> None:
        for number in range(BATCH):
            builder: Any = StateGraph(State)
            builder.add_node("only", double)
            builder.add_edge(START, "only")
            path = folder / "bare" / f"{next(names)}.sqlite"
            async with aiosqlite.connect(path) as connection:
                graph = builder.compile(checkpointer=AsyncSqliteSaver(connection))
                config = {"configurable": {"thread_id": "t"}}
                await graph.ainvoke({"x": number}, config, durability="sync")

    return batch


# -- a whole sweep --------------------------------------------------------------------------------


def _whole_rows(folder: Path) -> Iterator[Row]:
    """A sweep in a process of its own, whose memory is the driver's."""
    words = [sys.executable, __file__, str(folder), str(RUNS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    rate = found["runs"] / found["seconds"] * 60
    yield Row(
        f"a sweep of {RUNS:,} runs: rows that did not succeed",
        f"{found['others']} ({found['cpu_ms']:.1f} CPU ms a run in workers, "
        f"{found['driver_ms']:.1f} in the driver)",
        f"{RUNS:,} rows",
        float(found["others"]),
        0.0,
    )
    yield Row(
        "memory of its driver, at the end against a tenth",
        f"{found['end_mb']:.1f} MB",
        f"at a tenth: {found['tenth_mb']:.1f} MB",
        found["end_mb"] / found["tenth_mb"],
        1.1,
    )
    pool = _pool_rate(folder)
    yield Row(
        "time of its runs, against `fractale.run` in a pool",
        f"{rate:,.0f} runs a minute",
        f"2 processes: {pool:,.0f} a minute",
        pool / rate,
        1 / 1.5,
    )


def _drive(folder: Path, runs: int) -> dict[str, Any]:
    """Drive a sweep, and measure."""
    record = made_sweep(folder, runs, "whole")
    found: dict[str, Any] = {"first": 0.0, "tenth_mb": 0.0}

    def hear(line: Any, counts: Any) -> None:
        over = counts.get("success", 0)
        if line["is"] != "ended":
            return
        if over == WORKERS:
            found["first"] = time.perf_counter()
        if over == runs // 10:
            found["tenth_mb"] = _resident()
        if over == runs:
            found["seconds"] = time.perf_counter() - found["first"]
            found["end_mb"] = _resident()

    view = asyncio.run(run_sweep(record, settings=_settings(folder), listener=hear))
    times = os.times()
    return {
        **found,
        "runs": runs - WORKERS,
        "others": runs - view.counts.get("success", 0),
        "cpu_ms": (times.children_user + times.children_system) / runs * 1000,
        "driver_ms": (times.user + times.system) / runs * 1000,
    }


def _resident() -> float:
    """The memory of this process now, in MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _pool_rate(folder: Path) -> float:
    """Runs a minute of `fractale.run` in two warm processes."""
    runs = max(200, RUNS // 10)
    context = multiprocessing.get_context("spawn")
    environment = {"FRACTALE_STATE_DIR": str(folder / "pool")}
    with context.Pool(WORKERS, _ready, (str(folder), environment)) as pool:
        pool.map(_one_run, range(2 * WORKERS), chunksize=1)
        started = time.perf_counter()
        assert all(pool.imap_unordered(_one_run, range(runs)))
        return runs / (time.perf_counter() - started) * 60


def _ready(folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)


def _one_run(number: int) -> bool:
    return fractale.run("plan.yaml", {"x": number}, keep=True, registries=["tools.yaml"]).ok


if __name__ == "__main__":
    print(json.dumps(_drive(Path(sys.argv[1]), int(sys.argv[2]))))
