"""Many short-lived `fractale` processes, forked off one that has imported everything.

A test that kills a run and resumes it starts half a dozen of them; most of the time of each goes
into imports. Each is a process of its own all the same, with its own pid, to be killed by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from store_runs import unmeasured

MODULES = """
import asyncio, atexit, importlib, json, os, resource, signal, socket, sys
import fractale.cli
for name in (
    "fractale.cli.run", "fractale.cli.resume", "fractale.cli.running", "fractale.cli.display",
    "fractale.cli.problems", "fractale.cli.answers", "fractale.cli.live", "fractale.cli.summary",
    "fractale.runs.service", "fractale.runs.session", "fractale.runs.opening", "fractale.questions",
    "fractale.runs.options", "fractale.api", "fractale.mcp", "fractale.models.providers",
    "fractale.registry.fastmcp_server", "fractale.registry.local_server", "fractale.registry.build",
    "fractale.graph.drafting", "fractale.agents.planner", "fractale.agents.loop",
    "fractale.agents.catalog", "fractale.agents.ask", "fractale.store.sqlite",
    "langchain.agents", "langchain_openai", "openai.resources.chat",
    "langgraph.checkpoint.sqlite.aio", "fractale.store.postgres",
    "httpcore2", "truststore", "anyio._backends._asyncio", "fractale.mcp.memory",
):
    importlib.import_module(name)
"""

SERVE = """
door = socket.socket(fileno=int(sys.argv[1]))

def run(order, descriptors):
    os.setsid()
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), *descriptors)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    door.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.path.insert(0, "")
    sys.argv = ["fractale", *order["words"]]
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)
    if order["largest"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"], order["largest"]))
    from fractale.cli import main
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    data, descriptors, _, _ = socket.recv_fds(door, 1 << 20, 3)
    if not data:
        break
    said, *streams = descriptors
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if child == 0:
            os.close(said)
            run(json.loads(data), streams)
        for stream in streams:
            os.close(stream)
        door.close()
        os.write(said, b"%d\\n" % child)
        os.write(said, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
"""


class Process:
    """One of the processes, to be used as a `subprocess.Popen`."""

    def __init__(self, said: int, stdout: int, stderr: int) -> None:
        self._said = os.fdopen(said, "rb", buffering=0)
        self.stdout: IO[str] = os.fdopen(stdout, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(stderr, encoding="utf-8")
        self.returncode: int | None = None
        self._asking = threading.Lock()  # a test may kill it from a timer's thread
        self.pid = int(self._line())

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            piece = self._said.read(1)
            assert piece, "the process that forks was ended"
            line += piece
        return line

    def poll(self) -> int | None:
        """The exit code; None while the process goes on."""
        with self._asking:
            if self.returncode is None and self._has_ended():
                self.returncode = int(self._line())
        return self.returncode

    def _has_ended(self) -> bool:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._said, selectors.EVENT_READ)
            return bool(waiting.select(0))

    def wait(self, timeout: float = 120) -> int:
        """Wait for its end; what it says must fit into a pipe."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < until, "it never ended"
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens where the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it still says until it ends, on stdout and on stderr."""
        until = time.monotonic() + timeout
        said: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        with selectors.DefaultSelector() as waiting:
            for name in said:
                waiting.register(getattr(self, name), selectors.EVENT_READ, name)
            while waiting.get_map():
                ready = waiting.select(max(0.0, until - time.monotonic()))
                if not ready:
                    self.kill()
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    said[key.data].append(data)
                    if not data:
                        waiting.unregister(key.fileobj)
        left = {n: b"".join(pieces).decode(errors="replace") for n, pieces in said.items()}
        with self._asking:
            if self.returncode is None:
                self.returncode = int(self._line())
        for stream in (self._said, self.stdout, self.stderr):
            stream.close()
        return left["stdout"], left["stderr"]


class Forking:
    """Starts processes of the command line; `start` takes what follows ``fractale``."""

    def __init__(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-c", MODULES + SERVE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=unmeasured(),
        )
        theirs.close()
        self._started: list[Process] = []

    def start(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        largest: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Process:
        """Start one, with this environment and no other.

        Args:
            largest: Bytes that a file of it may have.
            stdout: What it writes to, in place of a pipe; it stays the caller's to close.
            stderr: As `stdout`.
        """
        order = json.dumps(
            {"words": list(words), "cwd": str(cwd), "env": dict(env), "largest": largest}
        )
        pipes = [os.pipe() for _ in range(3)]
        said, out, err = (there for _, there in pipes)
        given = [out if stdout is None else stdout, err if stderr is None else stderr]
        socket.send_fds(self._door, [order.encode()], [said, *given])
        for _, there in pipes:
            os.close(there)
        process = Process(*(here for here, _ in pipes))
        self._started.append(process)
        return process

    def end_all(self) -> None:
        """End those that a failed test left."""
        for process in self._started:
            process.kill()
        self._started.clear()

    def close(self) -> None:
        self.end_all()
        self._door.close()
        self._process.wait(timeout=60)


@contextlib.contextmanager
def forking() -> Iterator[Forking]:
    """A `Forking` and its end."""
    made = Forking()
    try:
        yield made
    finally:
        made.close()
