"""Checkpoints in a PostgreSQL server, for runs that several machines use.

A server has few connections: 100, unless its owner raised that. So the runs of one process share at
most `MOST_CONNECTIONS`, each opened when a run needs it and closed when its last run ends. If the
server has none left, fractale tries again for `PATIENCE` seconds, at growing intervals.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import re
import socket
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fractale.errors import DependencyMissing, StoreError
from fractale.settings import STORE_SCHEMES, store_password, without_password
from fractale.text import one_line

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from fractale.store.postgres_saver import PostgresSaver

MOST_CONNECTIONS = 4
"""The connections of one event loop to one database, however many runs it has."""
PATIENCE = 300.0
"""Seconds for which a run waits until the server has a connection left."""
PAUSES = (0.1, 5.0)
"""The first and the longest pause between two tries, in seconds."""
NONE_LEFT = ("too many clients", "too many connections", "remaining connection slots")
"""Words of the server's messages; libpq does not pass on their code."""

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
    _check_packages()
    from fractale.store.postgres_saver import PostgresSaver  # after the check

    async with _shared(url, wait) as shared:
        saver = PostgresSaver(shared.connection, url, lock=shared.lock, held=shared.held)
        if not shared.is_current:
            await saver.setup()
            shared.is_current = True
        try:
            yield saver
        finally:
            await saver.close()


@dataclass(slots=True, eq=False)
class _Shared:
    """A connection that several runs use in turns.

    Args:
        lock: Taken while a run uses the connection.
        held: The runs that are locked in the database by this connection.
        users: How many runs use it.
        is_current: Whether the tables are known to be up to date.
    """

    connection: AsyncConnection[Any]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: set[str] = field(default_factory=set[str])
    users: int = 0
    is_current: bool = False


@dataclass(slots=True)
class _Pool:
    """The connections of one event loop to one database."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    connections: list[_Shared] = field(default_factory=list[_Shared])


_POOLS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Pool]] = WeakKeyDictionary()
"""A connection belongs to the event loop that opened it, so a loop is what its runs share."""


@asynccontextmanager
async def _shared(url: str, wait: float) -> AsyncGenerator[_Shared]:
    """A connection of this event loop: a new one, or the one with the fewest users."""
    pools = _POOLS.setdefault(asyncio.get_running_loop(), {})
    pool = pools.setdefault(url, _Pool())
    async with pool.turn:
        found = await _opened(pool, url, wait)
        found.users += 1
    try:
        yield found
    finally:
        found.users -= 1
        if not found.users:
            if found in pool.connections:
                pool.connections.remove(found)
            async with found.lock:  # after the change of a run that was cancelled
                await found.connection.close()


async def _opened(pool: _Pool, url: str, wait: float) -> _Shared:
    pool.connections = [each for each in pool.connections if not each.connection.closed]
    if len(pool.connections) < MOST_CONNECTIONS:
        made = _Shared(await _connect(url, wait, _name()))
        pool.connections.append(made)
        return made
    return min(pool.connections, key=lambda each: each.users)


def _name() -> str:
    """The name of this process's connections in the server's list."""
    return f"fractale {os.getpid()}@{socket.gethostname()}"


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
    _check_packages()
    connection = await _connect(url, wait, name)
    try:
        yield connection
    finally:
        await connection.close()


def _check_packages() -> None:
    """Import what PostgreSQL needs.

    Raises:
        DependencyMissing: It is not installed.
    """
    try:
        importlib.import_module("fractale.store.postgres_saver")
    except ImportError as error:
        raise DependencyMissing(
            f"checkpoints in PostgreSQL need packages that are not installed ({error.name})",
            hint="pip install 'fractale[postgres]'",
        ) from error


async def _connect(url: str, wait: float, name: str) -> AsyncConnection[Any]:
    """Connect; wait while the server has no connection left.

    Raises:
        StoreError: The server cannot be reached, or refuses.
    """
    import psycopg

    from fractale.store.postgres_saver import connect

    until, pause = time.monotonic() + PATIENCE, PAUSES[0]
    with postgres_faults(url, psycopg.Error):
        while True:
            try:
                return await connect(url, wait, name)
            except psycopg.OperationalError as error:
                none_left = any(words in str(error) for words in NONE_LEFT)
                if not none_left or time.monotonic() + pause > until:
                    raise
            # At random, so that those who were refused together do not return together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, PAUSES[1])


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
    if state.startswith("53") or any(each in words for each in NONE_LEFT):
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
