"""Sweeps whose runs happen in Parsl's workers, and whose drivers are processes to be killed.

A run writes a line when it calls the tool `mark`, and then rests: calls made twice are seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from fractale.plan.build import load_plan
from fractale.record.plans import plan_hash
from fractale.settings import Settings, load_settings
from fractale.sweeps.begin import prepare, write_sweep
from fractale.sweeps.parsl_executor import ParslExecutor
from fractale.sweeps.record import SweepRecord, SweepRecords
from fractale.sweeps.results import SweepView, view_of
from fractale.sweeps.spec import SweepSpec, axes_of
from fractale.sweeps.task import RunTask

HEARTBEAT = (1, 8)
PATIENCE = 120

TOOLS = '''
import os, time

def mark(x: int, log: str) -> dict:
    """Write a line, and say which process did."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{x}\\n".encode())
    os.close(descriptor)
    return {"y": x * x, "pid": os.getpid()}

def rest(seconds: float) -> dict:
    """Sleep."""
    time.sleep(seconds)
    return {}
'''
REGISTRY = """
tools:
  - path: node_tools.mark
  - path: node_tools.rest
    annotations: {readOnlyHint: true}
"""
PLAN = """
name: square
inputs: {x: {type: integer}, log: {type: string}, seconds: {type: number, default: 0.01}}
steps:
  - {name: mark, tool: local.mark, inputs: {x: "{{ inputs.x }}", log: "{{ inputs.log }}"}}
  - {name: rest, tool: local.rest, inputs: {seconds: "{{ inputs.seconds }}"}}
outputs: {y: "{{ steps.mark.outputs.y }}", pid: "{{ steps.mark.outputs.pid }}"}
"""

DRIVER = """
import asyncio, sys
from node_sweeps import drive_here
asyncio.run(drive_here(*sys.argv[1:]))
"""


@dataclass
class Site:
    """A project with the plan, and settings with the executor `nodes`."""

    folder: Path
    environment: dict[str, str]

    @property
    def settings(self) -> Settings:
        return load_settings(self.environment, self.folder)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.yaml"

    def calls(self) -> Counter[int]:
        """How often each row's tool was called."""
        return Counter(map(int, self.log.read_text().split())) if self.log.exists() else Counter()

    def executor(self, sweep: str = "s", **more: Any) -> ParslExecutor:
        settings = self.settings
        record = SweepRecords(settings.state_dir).at(sweep)
        more = {"heartbeat": HEARTBEAT, **more}
        return ParslExecutor(settings.executors["nodes"], record, user=settings, **more)

    def task(self, row: int, sweep: str = "s", **inputs: Any) -> RunTask:
        return RunTask(
            run=f"{sweep}.{row}",
            sweep=sweep,
            row=row,
            plan=str(self.plan),
            plan_hash=plan_hash(load_plan(self.plan)),
            inputs={"x": row, "log": str(self.log), **inputs},
            directory=str(self.folder),
            state_dir=str(self.settings.state_dir),
            options={"registries": [str(self.folder / "tools.yaml")]},
        )

    def sweep(self, rows: int, sweep: str = "s", **inputs: Any) -> SweepRecord:
        """Write the record of a sweep over `x`."""
        spec = SweepSpec(
            plan=str(self.plan),
            over=axes_of({"x": list(range(rows))}),
            inputs={"log": str(self.log), **inputs},
            on="nodes",
        )
        registries = (self.folder / "tools.yaml",)
        with contextlib.chdir(self.folder):
            prepared = prepare(spec, self.settings, registries=registries)
            return write_sweep(prepared, self.settings, sweep)

    def driver(self, sweep: str = "s") -> subprocess.Popen[bytes]:
        """Start a driver, which prints the status at the end into a file."""
        with (self.folder / "driver.txt").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", DRIVER, sweep],
                cwd=self.folder,
                env={**self.environment, "PYTHONPATH": str(Path(__file__).parent)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def view(self, sweep: str = "s") -> SweepView:
        return view_of(SweepRecords(self.settings.state_dir).at(sweep))

    def said(self) -> str:
        return (self.folder / "driver.txt").read_text()


async def drive_here(sweep: str) -> None:
    """Drive a sweep in this process, and print its status."""
    from fractale.sweeps.driver import drive, opened_sweep

    settings = load_settings(os.environ)
    record = SweepRecords(settings.state_dir).at(sweep)
    executor = ParslExecutor(
        settings.executors["nodes"], record, user=settings, heartbeat=HEARTBEAT
    )
    async with opened_sweep(record) as opened, executor:
        view = await drive(opened, executor, settings=settings, pauses=(0.0, 0.5, 1.0))
    print(view.status, dict(view.counts), view.reason or "", flush=True)


def site(folder: Path, executor: Mapping[str, Any], environment: Mapping[str, str]) -> Site:
    """Make a project.

    Args:
        executor: The settings of the executor `nodes`.
        environment: Of all processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "node_tools.py").write_text(TOOLS)
    (folder / "tools.yaml").write_text(REGISTRY)
    (folder / "plan.yaml").write_text(PLAN)
    # What a project must not do: stand before the libraries of the workers.
    for name in ("json", "mcp", "yaml", "zmq", "fractale"):
        (folder / f"{name}.py").write_text("raise SystemExit('the project came first')\n")
    (folder / ".fractale").mkdir(mode=0o700)
    config = folder / ".fractale" / "config.yaml"
    config.write_text(yaml.safe_dump({"executors": {"nodes": dict(executor)}}))
    return Site(
        folder,
        {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "FRACTALE_TRUST_PROJECT": "1",
            "FRACTALE_STATE_DIR": str(folder / ".fractale"),
            "FRACTALE_POLL_SECONDS": "1",
            **environment,
        },
    )


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes of this machine that name a directory in their command line."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process)
    return found


async def until(
    true: Callable[[], object], what: str | Callable[[], str], patience: float = PATIENCE
) -> None:
    """Wait until something is true; `what` says what is not, or what was said instead."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        await asyncio.sleep(0.1)


def kill(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
