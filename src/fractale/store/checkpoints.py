"""LangGraph's checkpoints, in SQLite or PostgreSQL, read with care."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fractale.store.postgres import is_postgres, open_postgres
from fractale.store.serializer import StrictSerializer
from fractale.store.sqlite import LOCK_WAIT, open_sqlite
from fractale.store.sqlite_saver import SqliteSaver

if TYPE_CHECKING:
    from fractale.store.postgres_saver import PostgresSaver

__all__ = ["SqliteSaver", "StrictSerializer", "open_checkpoints"]


@asynccontextmanager
async def open_checkpoints(
    where: Path | str, *, wait: float = LOCK_WAIT, mountinfo: str | None = None
) -> AsyncGenerator[SqliteSaver | PostgresSaver]:
    """The checkpoints at a place, which is made (for its owner only) where it is not there.

    Args:
        where: A SQLite file, or ``postgresql://user:password@host:port/database``.
        wait: Seconds to wait for another process's lock or for the server.
        mountinfo: The machine's mounts, see `fractale.store.filesystem`.

    Yields:
        A saver that LangGraph can use.

    Raises:
        DependencyMissing: The packages for PostgreSQL are not installed.
        StoreError: The place cannot be made, reached or written, or is damaged.
    """
    if is_postgres(where):
        async with open_postgres(str(where), wait=wait) as saver:
            yield saver
    else:
        async with open_sqlite(Path(where), wait=wait, mountinfo=mountinfo) as saver:
            yield saver
