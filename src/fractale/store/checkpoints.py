"""LangGraph's checkpoints in SQLite, read with a serializer that fails closed."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosqlite
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from fractale.errors import StoreError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver


class StrictSerializer(JsonPlusSerializer):
    """Reads plain data and LangGraph's own safe types; anything else is an error.

    LangGraph's serializer is permissive by default (a crafted checkpoint can run code), and its
    strict mode hands back a raw value where it refused a type. Neither will do: a checkpoint
    that holds anything unexpected is not to be trusted at all.
    """

    def __init__(self) -> None:
        super().__init__(
            pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None
        )

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read one stored value.

        Args:
            data: The serializer's type word and the bytes.

        Raises:
            StoreError: The bytes hold a type outside the allow-list, or are damaged.
        """
        kind = data[0]
        if kind not in ("null", "bytes", "bytearray", "msgpack"):
            raise StoreError(f"a checkpoint holds a value of the refused kind `{kind}`", hint=HINT)
        blocked: list[SerdeEvent] = []
        unregister = register_serde_event_listener(blocked.append)
        try:
            value = super().loads_typed(data)
        except Exception as error:
            raise StoreError(f"a checkpoint cannot be read: {error}", hint=HINT) from error
        finally:
            unregister()
        if blocked:
            first = blocked[0]
            raise StoreError(
                f"a checkpoint holds the refused type {first['module']}.{first['name']}", hint=HINT
            )
        return value


HINT = "the database was damaged or written by something else; nothing in it was run"


@asynccontextmanager
async def open_checkpoints(path: Path) -> AsyncGenerator[BaseCheckpointSaver[str]]:
    """The checkpoints in a SQLite file, made with its folder (0700, file 0600) if not there.

    Yields:
        A saver that LangGraph can use.

    Raises:
        StoreError: The folder or the file cannot be made, opened, or is not a database.
    """
    try:
        _make_private(path)
        connection = await aiosqlite.connect(path)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error
    try:
        saver = AsyncSqliteSaver(connection, serde=StrictSerializer())
        try:
            await saver.setup()
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        yield saver
    finally:
        await connection.close()


def _make_private(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600, exist_ok=True)


def _unusable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"cannot use the checkpoints in {path}: {error}",
        hint="check space and permissions, or set FRACTALE_STATE_DIR to another folder",
    )
