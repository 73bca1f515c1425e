"""Sweeps whose driver and workers are processes of their own that start quickly, to be killed.

A process that has imported everything forks them. `STUB` is the program that a driver starts as its
worker: it hands its streams to that process, and ends when the worker does. The driver, its workers
and the pipes between them are what they are elsewhere; only their imports are shared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fractale.plan import load_plan
from fractale.record.plans import plan_hash
from fractale.store.run_record import RunRecord, RunRecords
from fractale.sweeps.record import SweepRecord, SweepRecords
from fractale.sweeps.results import SweepView, view_of
from store_runs import unmeasured

SERVE = """
import asyncio, faulthandler, gc, importlib, json, os, signal, socket, sys
for name in (
    "fractale.sweeps.driver", "fractale.sweeps.worker", "fractale.sweeps.local",
    "fractale.sweeps.cancelling", "fractale.runs.service", "fractale.runs.cancelling",
    "fractale.api", "fractale.mcp", "fractale.mcp.embedded", "fractale.registry.fastmcp_mount",
    "fractale.registry.server", "fractale.registry.build", "fractale.models.providers",
    "fractale.agents.catalog", "fractale.store.sqlite", "langgraph.checkpoint.sqlite.aio",
    "langchain_openai", "openai.resources.chat", "anyio._backends._asyncio",
    "fractale.jobs.service",
):
    importlib.import_module(name)
address, pids = sys.argv[1:]

class Fatal:
    # A ledger that kills its process before, in the middle of, or after the write of a line: the
    # first is 1. Lines of one write are written one by one.

    def __init__(self, ledger, path, when, line):
        self._ledger, self._path, self._when, self._line = ledger, path, when, line
        self._written = 0

    def add(self, *lines):
        for line in lines:
            self._written += 1
            if self._written < self._line:
                self._ledger.add(line)
                continue
            if self._when == "after":
                self._ledger.add(line)
            elif self._when == "inside":
                text = json.dumps(line)
                with open(self._path, "a") as file:
                    file.write(text[: len(text) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

def drive(words):
    from dataclasses import replace
    from pathlib import Path
    from fractale.settings import load_settings
    from fractale.sweeps.driver import drive, opened_sweep
    from fractale.sweeps.local import LocalExecutor
    from fractale.sweeps.record import SweepRecords

    async def main(state, sweep, workers, dies, *program):
        settings = load_settings(os.environ)
        record = SweepRecords(Path(state)).at(sweep)
        async with opened_sweep(record) as opened:
            if dies:
                when, line = dies.split(":")
                ledger = Fatal(opened.ledger, record.ledger, when, int(line))
                opened = replace(opened, ledger=ledger)
            local = LocalExecutor(record, settings, workers=int(workers), program=program)
            async with local:
                view = await drive(opened, local, settings=settings, pauses=(0.0, 0.1, 0.1))
        print(view.status, flush=True)

    asyncio.run(main(*words))

def work(words):
    from fractale.sweeps.worker import main
    main()

def become(order, streams):
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)
    faulthandler.register(signal.SIGUSR2, open(f"{pids}/stacks", "a"))
    role, *words = order["words"]
    mark = f"{pids}/{role}-{os.getpid()}"
    open(mark, "w").close()
    code = 1
    try:
        {"driver": drive, "worker": work}[role](words)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)

door = socket.socket(socket.AF_UNIX)
door.bind(address)
door.listen()
gc.collect()
gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    asked, _ = door.accept()
    data, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 3)
    if not data:
        break
    if os.fork() == 0:
        door.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if child == 0:
            asked.close()
            become(json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            asked.sendall(b"%d" % code)
        finally:
            os._exit(0)
    asked.close()
    for descriptor in descriptors:
        os.close(descriptor)
"""

STUB = """
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect(sys.argv[1])
order = {"words": sys.argv[2:], "cwd": os.getcwd(), "env": dict(os.environ)}
socket.send_fds(asked, [json.dumps(order).encode()], [0, 1, 2])
for number in (0, 1, 2):
    os.close(number)
code = int(asked.recv(16) or 1)
os._exit(code % 256)
"""

PATIENCE = 120


@dataclass
class SweepProcesses:
    """The process that forks. `folder` has its socket and the marks of what it started."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def program(self) -> tuple[str, ...]:
        return (sys.executable, "-S", "-E", "-c", STUB, str(self.folder / "door"))

    def start_driver(
        self, record: SweepRecord, *, workers: int, env: Mapping[str, str], dies: str = ""
    ) -> subprocess.Popen[str]:
        """Start a driver of a sweep. Its end is that of the process that is returned.

        Args:
            dies: ``before:3``, ``inside:3`` or ``after:3``: it is killed at the write of its third
                line of the ledger.
        """
        words = ("driver", str(record.state_dir), record.sweep_id, str(workers), dies)
        return subprocess.Popen(
            [*self.program, *words, *self.program, "worker"],
            cwd=record.state_dir.parent,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def alive(self, role: str) -> list[int]:
        """The processes of a role that have not ended, in no order."""
        found = list[int]()
        for mark in self.folder.glob(f"{role}-*"):
            pid = int(mark.name.rpartition("-")[2])
            if _is_alive(pid):
                found.append(pid)
            else:
                mark.unlink(missing_ok=True)
        return found

    def stacks(self) -> str:
        """Where its processes are: for the message of a test that one of them holds up."""
        for pid in (*self.alive("driver"), *self.alive("worker")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
                time.sleep(0.5)
        path = self.folder / "stacks"
        return path.read_text() if path.exists() else "no process is left"

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        for role in ("driver", "worker"):
            for pid in self.alive(role):
                self.kill(pid)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def sweep_processes() -> Iterator[SweepProcesses]:
    """Start the process that forks; what it started is ended after the block."""
    folder = Path(tempfile.mkdtemp(prefix="fractale-sweeps-"))  # a socket's path must be short
    door = folder / "door"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(door), str(folder)],
        stdin=subprocess.DEVNULL,
        env=unmeasured(),
    )
    made = SweepProcesses(folder, process)
    try:
        until = time.monotonic() + PATIENCE
        while not door.exists():
            assert process.poll() is None, "the process that forks has ended"
            assert time.monotonic() < until, "the process that forks was never ready"
            time.sleep(0.02)
        yield made
    finally:
        made.end()


def new_sweep(
    folder: Path,
    plan: str,
    rows: list[dict[str, Any]],
    *,
    sweep: str = "s",
    limits: Mapping[str, float] | None = None,
    run_limits: Mapping[str, float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> SweepRecord:
    """Make the record of a sweep that has not begun. `folder` is that of the project."""
    record = SweepRecords(folder / ".fractale").at(sweep)
    record.path.mkdir(parents=True, mode=0o700)
    record.plan.write_text(plan)
    record.write_rows(rows)
    found = load_plan(record.plan)
    head = {
        "version": 1,
        "plan": found.name,
        "file": str(folder / "plan.yaml"),
        "plan_hash": plan_hash(found),
        "sweep_file": None,
        "folder": str(folder),
        "inputs": {},
        "varied": list(rows[0]) if rows else [],
        "rows": len(rows),
        "limits": dict(limits or {}),
        "run_limits": dict(run_limits or {}),
        "executor": "local",
        "max_parallel": None,
        "options": dict(options or {}),
        "merit": None,
        "started": time.time(),
    }
    record.write_head(head)
    return record


def runs_of(record: SweepRecord) -> list[RunRecord]:
    """The records of all runs of a sweep, those of earlier attempts, too."""
    runs = RunRecords(record.state_dir)
    return [runs.at(name) for name in runs.names() if name.startswith(f"{record.sweep_id}.")]


def lines_of(record: SweepRecord) -> list[dict[str, Any]]:
    """The lines of a sweep's ledger."""
    return list(record.read_ledger())


def now(record: SweepRecord) -> SweepView:
    """The sweep as its record shows it."""
    return view_of(record)
