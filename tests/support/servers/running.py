"""Starts the servers of this folder for a test, and ends them by their own pid."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fractale.settings import ServerSettings

FOLDER = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def stdio(name: str = "tools", file: str = "tools_server.py", **more) -> ServerSettings:
    arguments = (str(FOLDER / file), *more.pop("args", ()))
    return ServerSettings(
        name=name, transport="stdio", command=sys.executable, args=arguments, **more
    )


class HttpServer:
    """A server of this folder over HTTP, on a port of its own, that can be killed and restarted."""

    def __init__(self, file: str, kind: str = "http", *arguments: str) -> None:
        self.port = free_port()
        self._command = [sys.executable, str(FOLDER / file), kind, str(self.port), *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self.port}/{'sse' if kind == 'sse' else 'mcp'}"
        self.kind = kind

    def settings(self, name: str = "tools", **more) -> ServerSettings:
        return ServerSettings(name=name, transport=self.kind, url=self.url, **more)

    def start(self) -> HttpServer:
        self.process = subprocess.Popen(self._command)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self._command} did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> HttpServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def exists(pid: int) -> bool:
    """Whether a process is there; one that has ended but was not waited for is not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def children_of(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                yield int(entry.name)
