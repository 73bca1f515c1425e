"""Serving over stdin and stdout, for a program that starts its servers itself."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any, TextIO

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server


async def serve_stdio(build: Callable[[], Server[Any]]) -> None:
    """Serve until stdin ends. SIGINT and SIGTERM end the process at once.

    Args:
        build: Makes the server. Called once stdout is redirected, because modules may print when
            they are imported.
    """
    with _own_streams() as (stdin, stdout), _deadly_interrupt():
        server = build()
        async with stdio_server(anyio.wrap_file(stdin), anyio.wrap_file(stdout)) as (read, write):
            await server.run(read, write, server.create_initialization_options())


@contextlib.contextmanager
def _deadly_interrupt() -> Generator[None]:
    """Let Ctrl-C end the process: cancelling would wait for the next line of stdin."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _own_streams() -> Generator[tuple[TextIO, TextIO]]:
    """Keep stdin and stdout for the protocol.

    The output of local tools and of the programs they start goes to stderr; their stdin is empty.

    Yields:
        The real stdin and stdout, UTF-8.
    """
    sys.stdout.flush()
    stdin = os.fdopen(os.dup(0), encoding="utf-8", errors="replace")
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with stdin, stdout, open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a path is no Path
        os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        try:
            yield stdin, stdout
        finally:
            sys.stdout.flush()
            os.dup2(stdin.fileno(), 0)
            os.dup2(stdout.fileno(), 1)
