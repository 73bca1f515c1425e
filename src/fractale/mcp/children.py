"""Ending the children of a started server, including those that made themselves daemons.

A server's process group does not have them all: a child may outlive the server, or leave its group
and session. Each server gets a mark in its environment, which its children inherit. On Linux, the
marked processes of this user are found through ``/proc``.

A batch job that a server submitted also inherits the server's environment, if the scheduler passes
it on. Such a job must outlive the server. Its parent is a process of the scheduler, which has no
mark. A daemon's parent is marked, or it is the process that adopts orphans: process 1, or one of
fractale's ancestors.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from fractale.settings import STARTED_BY

_PROC = Path("/proc")


def new_mark() -> str:
    """A mark for one server of this process."""
    return f"{_of_process()}{uuid.uuid4().hex}"


def _of_process() -> str:
    return f"{os.getpid()}."


def started_by(mark: str) -> list[int]:
    """The living processes of the server with a mark, or of all marks that start with it."""
    needle = f"{STARTED_BY}={mark}".encode()
    parents = dict(_marked(needle))
    adopting = {0, 1, *_ancestors()}
    return [pid for pid, parent in parents.items() if parent in parents or parent in adopting]


def _marked(needle: bytes) -> Iterator[tuple[int, int]]:
    """The marked processes, each with its parent."""
    me = os.geteuid()
    for entry in os.scandir(_PROC) if _PROC.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if not entry.name.isdigit() or entry.stat().st_uid != me:
                continue
            environment = Path(entry.path, "environ").read_bytes()
            if any(each.startswith(needle) for each in environment.split(b"\0")):
                yield int(entry.name), _parent(int(entry.name))


def _parent(pid: int) -> int:
    # The name in brackets may itself have blanks and brackets.
    return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


def _ancestors() -> Iterator[int]:
    """This process, its parent, and so on."""
    pid = os.getpid()
    with contextlib.suppress(OSError, ValueError, IndexError):
        while pid > 1:
            yield pid
            pid = _parent(pid)


async def end_children(mark: str, seconds: float) -> None:
    """End the remaining processes of a server that has ended: ask each process, then kill it.

    Args:
        seconds: How long they may take to end.
    """
    for pid in started_by(mark):
        _signal(pid, signal.SIGTERM)
    until = time.monotonic() + seconds
    while started_by(mark) and time.monotonic() < until:  # noqa: ASYNC110 - no event for it
        await asyncio.sleep(0.02)
    kill_children(mark)


def kill_children(mark: str | None = None) -> None:
    """Kill the remaining processes of a server, or of all servers that this process started."""
    for _ in range(3):  # a process may have started another just before it was killed
        for pid in started_by(mark or _of_process()):
            _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
