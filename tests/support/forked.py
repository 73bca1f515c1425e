"""Many short-lived `fractale` processes, forked off one that has imported everything.

Most of the time of a short process goes into imports. Each is a process of its own all the same,
with its own pid, environment, working directory and streams. `run` and `Popen` stand in for those
of `subprocess`; only what a fresh interpreter reads at its start (``PYTHONHASHSEED``, the encoding
of its file names) needs ``python -m fractale.cli`` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
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
from typing import IO, Any, Self

from store_runs import unmeasured

COVERAGE = "COVERAGE_PROCESS_"
"""What variables begin with by which a process is measured that a test starts."""

TRUSTED = "FRACTALE_TRUST_PROJECT"
"""The projects of the tests are theirs; a test of strangers' projects gives it as empty."""

MODULES = """
import asyncio, atexit, fcntl, gc, importlib, json, os, pkgutil, resource, signal, socket, sys
import tempfile, termios, threading, time
import fractale.cli
for found in pkgutil.iter_modules(fractale.cli.__path__, "fractale.cli."):
    if found.name != "fractale.cli.__main__":
        importlib.import_module(found.name)
for name in (
    "fractale.runs.service", "fractale.runs.driver", "fractale.runs.workspace",
    "fractale.questions", "fractale.runs.options", "fractale.api", "fractale.mcp",
    "fractale.models.providers",
    "fractale.registry.fastmcp_mount", "fractale.registry.server", "fractale.registry.build",
    "fractale.graph.kinds.plan", "fractale.agents.planner", "fractale.agents.loop",
    "fractale.agents.catalog", "fractale.agents.ask", "fractale.store.sqlite",
    "langchain.agents", "langchain_openai", "openai.resources.chat",
    "langgraph.checkpoint.sqlite.aio", "fractale.store.postgres",
    "httpcore2", "truststore", "anyio._backends._asyncio", "fractale.mcp.embedded",
):
    importlib.import_module(name)
"""

SERVE = """
door = socket.socket(fileno=int(sys.argv[1]))

def prepare(order, streams):
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if os.isatty(0):  # the terminal that Ctrl-C is sent from
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    tempfile.tempdir = None
    os.chdir(order["cwd"])
    sys.path[:0] = ["", *filter(None, order["env"].get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["fractale", *order["words"]]
    encoding, _, errors = order["env"].get("PYTHONIOENCODING", "").partition(":")
    said = {"encoding": encoding or "utf-8", "closefd": False}
    sys.stdin = open(0, **said)
    sys.stdout = open(1, "w", errors=errors or None, **said)
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, **said)
    if order["largest"]:
        sys.dont_write_bytecode = True  # Python would leave half a file, and trust it later
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest"], order["largest"]))

def run(order, streams):
    prepare(order, streams)
    measured = any(name.startswith("COVERAGE_PROCESS_") for name in order["env"])
    if measured and not order["largest"]:
        import coverage
        coverage.process_startup(force=True)
    from fractale.cli import main
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # as an interpreter that ends does
        print(f"Exception ignored on flushing sys.stdout: {error}", file=sys.stderr)
        code = 120
    os._exit(code)

gc.collect()
gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    data, descriptors, _, _ = socket.recv_fds(door, 1 << 20, 4)
    if not data:
        break
    said, *streams = descriptors
    if os.fork() == 0:
        door.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if child == 0:
            os.close(said)
            run(json.loads(data), streams)
        for stream in streams:
            os.close(stream)
        os.write(said, b"%d\\n" % child)
        os.write(said, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
"""


class Process:
    """One of the processes, to be used as a `subprocess.Popen`."""

    def __init__(self, said: int, stdout: int, stderr: int, stdin: int | None) -> None:
        self._said = os.fdopen(said, "rb", buffering=0)
        self.stdin = None if stdin is None else os.fdopen(stdin, "w", encoding="utf-8")
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

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it still says until it ends, on stdout and on stderr."""
        until = time.monotonic() + timeout
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
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


def _input(stdin: int) -> tuple[int, int | None]:
    """What a process reads, and what we write to it if that is a pipe."""
    if stdin == subprocess.PIPE:
        return os.pipe()
    return (os.open(os.devnull, os.O_RDONLY) if stdin < 0 else os.dup(stdin)), None


def measured() -> dict[str, str]:
    """The variables by which the processes of a test are measured, if this one is."""
    return {name: value for name, value in os.environ.items() if name.startswith(COVERAGE)}


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
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        largest: int | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Process:
        """Start one; `cwd` and `env` are this process's if they are not given.

        Args:
            largest: Bytes that a file of it may have.
            stdin: What it reads: `PIPE`, or a descriptor that stays the caller's to close. A
                terminal becomes the one that controls it.
            stdout: What it writes to, instead of a pipe; it stays the caller's to close.
            stderr: As `stdout`; `STDOUT` for the same.
        """
        order = json.dumps(
            {
                "words": [os.fspath(word) for word in words],
                "cwd": str(cwd or Path.cwd()),
                "env": {TRUSTED: "1", **(os.environ if env is None else env)},
                "largest": largest,
            }
        )
        ours, theirs = zip(*(os.pipe() for _ in range(3)), strict=True)
        reads, written = _input(stdin)
        out = theirs[1] if stdout is None else stdout
        err = {None: theirs[2], subprocess.STDOUT: out}.get(stderr, stderr)
        socket.send_fds(self._door, [order.encode()], [theirs[0], reads, out, err])
        for descriptor in (*theirs, reads):
            os.close(descriptor)
        process = Process(*ours, written)
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def ending(self) -> Iterator[Self]:
        """End the processes that are started in the block and are left after it."""
        before = len(self._started)
        try:
            yield self
        finally:
            for process in self._started[before:]:
                process.kill()
            del self._started[before:]

    def close(self) -> None:
        for process in self._started:
            process.kill()
        self._door.close()
        self._process.wait(timeout=60)


@functools.cache
def forking() -> Forking:
    """The one of this process; it ends with it."""
    made = Forking()
    atexit.register(made.close)
    return made


def start(words: Sequence[str], **options: Any) -> Process:
    """Start ``fractale WORDS``; the options are those of `Forking.start`."""
    return forking().start(words, **options)


def run(
    words: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002  (the word of subprocess.run)
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run ``fractale WORDS`` to its end and keep what it prints; stdin is empty without `input`."""
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    process = start(words, cwd=cwd, env=env, stdin=stdin)
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(input or "")
            process.stdin.flush()
    stdout, stderr = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(["fractale", *words], process.returncode, stdout, stderr)
