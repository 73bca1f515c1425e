"""Runs with fixed times for `fractale top`, and its screen as plain text."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from fractale.events import Event, EventLog
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecord, RunRecords

NOW = 1_795_400_000.0
PATIENCE = 60.0
TIMES = "0:12:03 · jobs ran 0:11:50"


def screen_text(pilot: Pilot[Any]) -> str:
    """What is on the screen, without color."""
    strips = pilot.app.screen._compositor.render_strips()
    lines = ["".join(segment.text for segment in strip).rstrip() for strip in strips]
    # A run in progress is measured by the machine's own clock.
    return re.sub(r"\d+:\d\d:\d\d · jobs ran \d+:\d\d:\d\d", TIMES, "\n".join(lines)) + "\n"


async def until_true(pilot: Pilot[Any], true: Callable[[], object], what: str = "") -> None:
    """Wait until something is so of the screen."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"{what}:\n{screen_text(pilot)}"
        await pilot.pause(0.05)


async def until(pilot: Pilot[Any], *texts: str) -> str:
    """Wait until all texts are on the screen; returns the screen."""
    await until_true(pilot, lambda: all(text in screen_text(pilot) for text in texts), str(texts))
    return screen_text(pilot)


async def typed(pilot: Pilot[Any], text: str) -> None:
    """Type a line and Enter, once a line is asked for."""
    await until_true(pilot, lambda: pilot.app.focused, "a line")
    await pilot.press(*text, "enter")


def run(state_dir: Path, run_id: str, plan: str, ago: float, *events: tuple) -> RunRecord:
    """A record that began some seconds before `NOW`; events are ``(seconds, kind, fields)``."""
    record, began = RunRecords(state_dir).new(run_id), NOW - ago
    head = {"version": 1, "plan": plan, "file": f"plans/{plan}.yaml", "started": began}
    record.write_head({**head, "inputs": {"n": 8}, "versions": {"fractale": "0.2.0"}, "tools": {}})
    record.plan.write_text(f"name: {plan}\nsteps: [{{name: a, tool: a}}]\n")
    log = EventLog(record.events)
    first = {"plan": plan, "title": plan, "steps": [], "limits": {}, "resumed": False}
    for seconds, kind, data in [(0.0, "run_started", first), *events]:
        if kind == "run_started":
            data = {**first, **data}
        log(Event(kind, run_id, data, began + seconds))
    log.close()
    return record


def step(name: str, kind: str = "tool", target: str | None = None, **more: Any) -> dict[str, Any]:
    """The fields of `step_started`."""
    return {"step": name, "attempt": 1, "type": kind, "target": target, "description": "", **more}


def done(name: str, outcome: str = "success", **more: Any) -> dict[str, Any]:
    """The fields of `step_finished`."""
    known = {"step": name, "attempt": 1, "outcome": outcome, "event_name": outcome, "outputs": {}}
    known |= {"decided_by": "default", "reason": "", "error": None, "seconds": 2.0, "tokens": 0}
    return {**known, "next": None, "notices": [], **more}


def finished(status: str, **more: Any) -> dict[str, Any]:
    """The fields of `run_finished`."""
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "cost": 0.0, "seconds": 4.0}
    known = {"status": status, "steps": [], "outputs": {}, "usage": usage, "decided": None}
    return {**known, "waiting": [], "notices": [], "next": [], **more}


QUESTION = {
    "kind": "approval",
    "id": "0123456789abcdef",
    "step": "review",
    "server": "local",
    "tool": "write_text_file",
    "definition": "d",
    "arguments": {"path": "jobs/melt.flux.sh", "text": "#!/bin/bash\nflux run -n 8 lmp\n"},
    "why": "it changes something",
    "origins": [{"argument": "text", "value": "…", "from": ["model"], "copied": False}],
}


def written(state_dir: Path) -> None:
    """Six runs, one of each state that the list shows."""
    run(state_dir, "k7f3", "lammps", 723.0, *_lammps())
    asked = (100.0, "waiting", {"step": "review", "question": QUESTION})
    ended = finished(
        "waiting", waiting=[QUESTION], next=["fractale resume m2q9 --answer review=yes"]
    )
    begun = (90.0, "step_started", step("review", target="write_text_file"))
    run(state_dir, "m2q9", "translate", 200.0, begun, asked, (100.0, "run_finished", ended))
    failed = done("build", "failure", decided_by="error", error="exit 127: meson: not found")
    decided = {"step": "build", "by": "error", "reason": "exit 127: meson: not found"}
    last = {"name": "build", "attempt": 1, "outcome": "failure", "error": failed["error"]}
    end = finished("failed", decided=decided, error=failed["error"], steps=[last])
    begun = (1.0, "step_started", step("build", target="build_image"))
    run(state_dir, "c0de", "build-container", 9000.0, begun, (3.0, "step_finished", failed),
        (4.0, "run_finished", end))  # fmt: skip
    job = {"kind": "job", "step": "relax", "job": "4712", "scheduler": "slurm", "state": "pending"}
    end = finished("waiting", waiting=[{**job, "reason": "waits for its turn"}])
    run(state_dir, "w41t", "relax", 3600.0, (5.0, "run_finished", end))
    run(state_dir, "st0p", "sweep", 4000.0)  # no end, and no process
    usage = {"total_tokens": 9120, "seconds": 8.0, "node_hours": 9.8, "cost": 0.0}
    end = finished("success", usage=usage, outputs={"best": 0.3})
    run(state_dir, "d0ne", "tune", 8000.0, (8.0, "run_finished", end))


def _lammps() -> list[tuple]:
    handle = {"scheduler": "slurm", "native_id": "4711", "key": "k7f3-tune", "job_dir": "/x"}
    job = {"step": "tune", "job": "4711", "scheduler": "slurm", "nodes": ["n3"], "handle": handle}
    job |= {"state": "running", "reason": "runs on n3", "line": "Step 81000", "over": False}
    asks = {"step": "plan", "model": "openai:gpt", "call": 1}
    said = {**asks, "input_tokens": 4000, "output_tokens": 310, "cost": 0.011, "seconds": 2.0}
    return [
        (0.0, "run_started", {"limits": {"node_hours": 40}}),
        (1.0, "step_started", step("plan", "agent", "ask")),
        (1.0, "model_started", asks),
        (3.0, "model_finished", {**said, "text": "Eight ranks."}),
        (3.0, "step_finished", done("plan", tokens=4310)),
        (4.0, "step_started", step("tune", "job", "slurm")),
        (5.0, "job_state", {**job, "submitted": NOW - 700, "started": NOW - 690}),
    ]


@contextmanager
def held(state_dir: Path, run_id: str) -> Iterator[None]:
    """This process holds a run in the block, as one that works on it does."""
    with RunLock(RunRecords(state_dir).at(run_id)):
        yield


def answered(record: RunRecord) -> list[dict[str, Any]]:
    """The events `answered` of a run."""
    lines = record.events.read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "answered"]
