"""What it costs that runs last: each step's time and bytes, and looking at many or long runs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiosqlite
from inside import Bare
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from measure import Row, command, commands_in_turns, fractale, in_turns

import fractale as library
from fractale.runs import RunOptions, Runs
from fractale.settings import Settings
from fractale.testing import FakeToolServer

STEPS = 40
TEXT = "x" * 2000
RUNS = 10_000
LONG = 1_000
ENDS = ("success",) * 17 + ("failed", "waiting", "stopped")


async def durability_rows() -> list[Row]:
    """Time and bytes that each of 40 steps with 2 KB outputs pays for being kept."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        ours = await _cost(lambda keep: _our_runs(folder / "ours", keep=keep))
        bare = await _cost(lambda keep: _bare_runs(folder / "bare.sqlite", keep=keep))
        our_bytes, parts = _our_bytes(folder / "ours")
        bare_bytes = (folder / "bare.sqlite").stat().st_size / STEPS / TRIES
    return [
        Row(
            "durability: time per step, journal and record too",
            f"{ours:.2f} ms",
            f"bare LangGraph saver: {bare:.2f} ms",
            ours / bare,
            None,
        ),
        Row(
            "durability: bytes per step, the same",
            f"{our_bytes:,.0f} B ({parts})",
            f"bare LangGraph saver: {bare_bytes:,.0f} B",
            our_bytes / bare_bytes,
            None,
        ),
    ]


TRIES = 6
"""Of each, one of which is not counted; all of them leave their bytes."""


async def _cost(runs_of: Callable[[bool], Callable[[], Awaitable[object]]]) -> float:
    """Milliseconds per step of a kept run over one that is not kept."""
    kept, free = await in_turns(runs_of(True), runs_of(False), tries=TRIES - 1)
    return (kept.median - free.median) / STEPS * 1000


def _server() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def big(n: int = 0) -> dict:
        return {"text": f"{n}{TEXT}"}

    return server


def _plan(steps: int) -> Any:
    lines = "\n".join(f"  - {{name: s{i}, tool: big, inputs: {{n: {i}}}}}" for i in range(steps))
    return library.load(f"name: chain\nsteps:\n{lines}\n")


def _our_runs(folder: Path, *, keep: bool) -> Callable[[], Awaitable[object]]:
    runs = Runs(replace(Settings(), state_dir=folder), _server())
    plan = _plan(STEPS)
    return lambda: runs.start(plan, {}, RunOptions(keep=keep))


def _bare_runs(path: Path, *, keep: bool) -> Callable[[], Awaitable[object]]:
    """LangGraph's own chain of functions, each output in a channel that the next replaces."""
    count = iter(range(1_000_000))

    def big(state: Bare) -> Bare:
        n = (state.get("n") or 0) + 1
        return {"n": n, "answer": {"text": f"{n}{TEXT}"}}

    async def once() -> None:
        builder: Any = StateGraph(Bare)
        names = [f"s{i}" for i in range(STEPS)]
        for name in names:
            builder.add_node(name, big)
        for before, after in zip([START, *names], names, strict=False):
            builder.add_edge(before, after)
        config = {"configurable": {"thread_id": str(next(count))}, "recursion_limit": 100}
        if not keep:
            await builder.compile(checkpointer=InMemorySaver()).ainvoke({"n": 0}, config)
            return
        async with aiosqlite.connect(path) as connection:
            graph = builder.compile(checkpointer=AsyncSqliteSaver(connection))
            await graph.ainvoke({"n": 0}, config, durability="sync")

    return once


def _our_bytes(folder: Path) -> tuple[float, str]:
    """Bytes per step, and of what they are."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    kinds = {"checkpoints": 0, "journal": 0, "events": 0, "outputs": 0}
    for file in files:
        kind = "outputs" if "outputs" in file.parts else file.name.split(".")[0]
        if kind in kinds:
            kinds[kind] += file.stat().st_size
    each = {kind: size / STEPS / TRIES for kind, size in kinds.items()}
    return sum(each.values()), ", ".join(f"{kind} {size:,.0f}" for kind, size in each.items())


# -- looking back ----------------------------------------------------------------------------------


def runs_rows() -> list[Row]:
    """``fractale runs`` with 10,000 runs, against one."""
    with TemporaryDirectory() as few, TemporaryDirectory() as many:
        _make_runs(Path(few), 1)
        _make_runs(Path(many), RUNS)
        first = command(fractale("runs"), cwd=Path(many))()
        start, ours, all_of_them = commands_in_turns(
            command(fractale("runs"), cwd=Path(few)),
            command(fractale("runs"), cwd=Path(many)),
            command(fractale("runs", "--json"), cwd=Path(many)),
            tries=5,
        )
    over = ours.median - start.median
    return [
        Row("fractale runs, 10,000 runs: seconds over one run", f"{ours}", f"{start}", over, 0.5),
        Row(
            "the same, all of them as JSON",
            f"{all_of_them}",
            f"{start}",
            all_of_them.median - start.median,
            None,
        ),
        Row("fractale runs twice, the index to be made first", f"{first:.1f} s", "", first, None),
    ]


def _make_runs(folder: Path, count: int) -> None:
    """A state folder with runs as `Runs` leaves them."""
    for number in range(count):
        path = folder / ".fractale" / "runs" / f"r{number:05}"
        path.mkdir(parents=True)
        status = ENDS[number % len(ENDS)]
        started = 1_790_000_000.0 + 60 * number
        head = {"version": 1, "plan": f"plan{number % 30}", "file": "plan.yaml", "inputs": {}}
        (path / "run.json").write_text(json.dumps({**head, "started": started, "plan_hash": "0"}))
        waiting = [{"id": "1", "kind": "approval", "step": "s"}] if status == "waiting" else []
        usage = {"total_tokens": number, "cost": 0.001, "seconds": 12.5}
        events = [
            {"event": "run_started", "time": started, "plan": head["plan"], "steps": []},
            {
                "event": "run_finished",
                "time": started + 12.5,
                "status": status,
                "usage": usage,
                "waiting": waiting,
            },
        ]
        lines = [json.dumps({**event, "run": path.name}) for event in events]
        (path / "events.jsonl").write_text("\n".join(lines) + "\n")


async def show_row() -> Row:
    """``fractale show`` of a run of 1,000 steps, against a run of one."""
    with TemporaryDirectory() as one, TemporaryDirectory() as long:
        for folder, steps in ((one, 1), (long, LONG)):
            settings = replace(Settings(), state_dir=Path(folder) / ".fractale")
            result = await Runs(settings, _server()).start(_plan(steps), {})
            assert result.ok, result.error
        start, ours = commands_in_turns(
            command(fractale("show", "-1"), cwd=Path(one)),
            command(fractale("show", "-1"), cwd=Path(long)),
        )
    over = ours.median - start.median
    what = "fractale show, 1,000 steps: seconds over one step"
    return Row(what, f"{ours}", f"{start}", over, 0.5)
