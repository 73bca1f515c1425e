"""Checkpoints in a PostgreSQL server, for runs that several machines use."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.errors import DependencyMissing, StoreError
from fractale.settings import STORE_SCHEMES, store_password, without_password
from fractale.text import one_line

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from fractale.store.postgres_saver import PostgresSaver

TELLING = 3
"""A message with so many letters of a password in a row would reveal it."""


def is_postgres(where: Path | str) -> bool:
    """Whether checkpoints are in a PostgreSQL server."""
    return isinstance(where, str) and where.startswith(STORE_SCHEMES)


@asynccontextmanager
async def open_postgres(url: str, *, wait: float = 30.0) -> AsyncGenerator[PostgresSaver]:
    """Open the checkpoints in a database; its tables are made or brought up to date.

    Args:
        url: ``postgresql://user:password@host:port/database``. libpq's own variables and files
            (``PGPASSWORD``, ``~/.pgpass``) give what the URL leaves out.
        wait: Seconds to wait for the server.

    Yields:
        A saver that LangGraph can use.

    Raises:
        DependencyMissing: The packages for PostgreSQL are not installed.
        StoreError: The server cannot be reached, or refuses the user. The message has no password.
    """
    name = f"fractale {os.getpid()}@{socket.gethostname()}"
    async with connected(url, wait, name) as connection:
        from fractale.store.postgres_saver import PostgresSaver

        saver = PostgresSaver(connection, url)
        await saver.setup()
        try:
            yield saver
        finally:
            await saver.close()


@asynccontextmanager
async def connected(url: str, wait: float, name: str) -> AsyncGenerator[AsyncConnection[Any]]:
    """Connect to a server, and disconnect at the end.

    Args:
        wait: Seconds to wait for the server.
        name: The connection's name in the server's list of connections.

    Raises:
        DependencyMissing: The packages for PostgreSQL are not installed.
        StoreError: The server cannot be reached, or refuses the user.
    """
    try:
        import psycopg

        from fractale.store.postgres_saver import connect
    except ImportError as error:
        raise DependencyMissing(
            f"checkpoints in PostgreSQL need packages that are not installed ({error.name})",
            hint="pip install 'fractale[postgres]'",
        ) from error
    with postgres_faults(url, psycopg.Error):
        connection = await connect(url, wait, name)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def postgres_faults(url: str, *kinds: type[Exception]) -> Generator[None]:
    """Turn errors of the server or its library into a `StoreError` without a password."""
    try:
        yield
    except kinds as error:
        raise _unusable(url, error) from None  # a traceback would show the password
    except OSError as error:
        raise _unusable(url, error) from None


def _unusable(url: str, error: Exception) -> StoreError:
    words = one_line(str(error)) or type(error).__name__
    if _gives_away(words, store_password(url)):
        words = "details are left out, since they hold parts of the password"
    return StoreError(
        f"cannot use the checkpoints in {without_password(url)}: {words}",
        hint=_hint(str(getattr(error, "sqlstate", None) or ""), words),
    )


def _hint(state: str, words: str) -> str:
    """The hint for an error, by the server's SQLSTATE if the server sent one."""
    refused = any(word in words for word in ("authentication", "password", "role"))
    if state.startswith("28") or refused:
        return "check user and password in FRACTALE_STORE, or set PGPASSWORD or ~/.pgpass"
    if state == "42501" or state == "25006":
        return "the user must be allowed to write to the database and to make tables in it"
    if state.startswith("53"):
        return "the server is out of space or connections: the run can be resumed when it is not"
    if state.startswith("XX"):
        return "the database is damaged: ask who keeps it to put it back from a copy"
    return "check FRACTALE_STORE and that the server runs; the runs can be resumed then"


def _gives_away(words: str, password: str | None) -> bool:
    """Whether a message has the password or a piece of it: libpq may cut a bad URL wrongly."""
    if not password:
        return False
    pieces = [piece for piece in re.split(r"[@:/?#&=%]", password) if len(piece) >= TELLING]
    return password in words or any(piece in words for piece in pieces)
