"""Detection of damage to a file of checkpoints.

**The threat** is the disk, not an attacker: a bit that changed, a file that was cut off, a frame of
the write-ahead log that was damaged after a crash. (`fractale.store.serializer` refuses code in a
crafted checkpoint; no checksum here has a key.) If fractale read a damaged checkpoint, a run could
skip a step, or repeat one that changes something outside.

**Detected damage**, and how it is detected:

- *Values*: the serializer keeps each value with a checksum.
- *Rows*: SQLite has no checksum over the keys of a row. So a seal, a checksum over the row's keys,
  is inside the value (`seal_checkpoint`, `seal_writes`). A value in another row is refused.
- *Missing rows*: SQLite doesn't notice a key that changed so that a row isn't found. Triggers keep
  a table ``heads`` in the same transaction: the latest checkpoint of each thread and the number of
  its pending writes. SQLite checks the whole file if ``heads`` disagrees with the rows, and before
  older checkpoints are read.
- *The write-ahead log*: after a crash, SQLite reads it up to the first frame whose checksum is
  wrong and silently ignores the rest. `check_wal` refuses a log with complete transactions after
  such a frame.

**Not detected** is a damaged *last* frame of the log: it looks like a transaction that the crash
cut. The run then resumes one checkpoint earlier, and the separate journal of calls prevents it from
repeating a recorded call. A whole file that was replaced by an older copy is not detected either.

**LangGraph internals** (1.2) that this module needs:

- the tables ``checkpoints`` and ``writes`` with their columns;
- ``WRITES_IDX_MAP`` and ``writes_sort_key`` for the order of writes;
- ``get_checkpoint_metadata`` for the future metadata of a checkpoint;
- ``conn``, ``lock`` and ``is_setup`` of its SQLite saver.

If an upgrade breaks it, this module can be removed: delete its calls in
`fractale.store.sqlite_saver` (and `HEADS` from its tables). `unseal` must stay as long as there are
sealed checkpoints to read.
"""

# ruff: noqa: S608 - the queries are put together from constants of this module
from __future__ import annotations

import json
import struct
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    get_checkpoint_metadata,
    writes_sort_key,
)

from fractale.errors import StoreError
from fractale.store.serializer import HINT, checksum

# -- seals: a value belongs to its row -------------------------------------------------------------

SEAL = "fractale_seal"


def seal_checkpoint(
    config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
) -> Checkpoint:
    """The checkpoint with a checksum over its row in it."""
    kept = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False)
    words = json.loads(kept.encode("utf-8", "ignore"))
    parent = _fields(config).get("checkpoint_id")
    seal = _row_checksum(config, checkpoint["id"], parent, words)
    return cast("Checkpoint", {**checkpoint, SEAL: seal})


def seal_writes(
    config: RunnableConfig, writes: Sequence[tuple[str, Any]], task: str, path: str
) -> list[tuple[str, Any]]:
    """The writes of a task, each with a checksum over its row and its place among the others."""
    return [
        # A bytearray would come back as bytes from within a list.
        (channel, value if isinstance(value, bytearray) else [SEAL, seal, path, place, value])
        for number, (channel, value) in enumerate(writes)
        for place in [WRITES_IDX_MAP.get(channel, number)]
        for seal in [_write_checksum(config, task, channel)]
    ]


def unseal(found: CheckpointTuple) -> CheckpointTuple:
    """The checkpoint as it was given, without seals; one without seals is accepted.

    Raises:
        StoreError: A seal does not match its row.
    """
    checkpoint: dict[str, Any] = dict(found.checkpoint)
    seal = checkpoint.pop(SEAL, None)
    parent = _fields(found.parent_config).get("checkpoint_id") if found.parent_config else None
    own = _fields(found.config)["checkpoint_id"]
    matches = seal is None or seal == _row_checksum(found.config, own, parent, found.metadata)
    if not matches or checkpoint.get("id") != own:
        raise StoreError("a checkpoint was changed or damaged: it is not its row's", hint=HINT)
    writes = found.pending_writes
    return found._replace(
        checkpoint=cast("Checkpoint", checkpoint),
        pending_writes=None if writes is None else _unseal_writes(found.config, writes),
    )


def _unseal_writes(config: RunnableConfig, writes: Sequence[PendingWrite]) -> list[PendingWrite]:
    """The writes in the order of their sealed places; as they come if one has none."""
    opened = [(_place(write), _unseal_write(config, write)) for write in writes]
    places = [place for place, _ in opened if place is not None]
    if len(places) == len(opened):
        opened = sorted(opened, key=lambda pair: pair[0] or ())
    return [write for _, write in opened]


def _sealed(value: Any) -> list[Any] | None:
    if not isinstance(value, list):
        return None
    parts = cast("list[Any]", value)
    return parts if len(parts) == 5 and parts[0] == SEAL else None


def _place(write: PendingWrite) -> tuple[Any, ...] | None:
    parts = _sealed(write[2])
    return tuple(writes_sort_key(parts[2], write[0], parts[3])) if parts else None


def _unseal_write(config: RunnableConfig, write: PendingWrite) -> PendingWrite:
    task, channel, value = write
    parts = _sealed(value)
    if parts is None:
        return write
    if parts[1] != _write_checksum(config, task, channel):
        raise StoreError("a checkpoint was changed or damaged: a write is not its row's", hint=HINT)
    return task, channel, parts[4]


def _row_checksum(config: RunnableConfig, own: str, parent: str | None, metadata: Any) -> bytes:
    words = json.dumps(metadata, sort_keys=True)
    return checksum(*_thread(config), own.encode(), (parent or "").encode(), words.encode())


def _write_checksum(config: RunnableConfig, task: str, channel: str) -> bytes:
    own = str(_fields(config)["checkpoint_id"])
    return checksum(*_thread(config), own.encode(), task.encode(), channel.encode())


def _thread(config: RunnableConfig) -> tuple[bytes, bytes]:
    fields = _fields(config)
    return str(fields["thread_id"]).encode(), str(fields.get("checkpoint_ns", "")).encode()


def _fields(config: RunnableConfig) -> Mapping[str, Any]:
    return config.get("configurable", {})


# -- heads: the latest checkpoint of each thread is known twice ------------------------------------


def _same_thread(row: str) -> str:
    return f"thread_id = {row}.thread_id AND checkpoint_ns = {row}.checkpoint_ns"


def _count_writes(row: str) -> str:
    here = f"{_same_thread(row)} AND checkpoint_id = {row}.checkpoint_id"
    return f"(SELECT count(*) FROM writes WHERE {here})"


HEADS = (
    """CREATE TABLE heads (
        thread_id TEXT NOT NULL,
        checkpoint_ns TEXT NOT NULL,
        checkpoint_id TEXT NOT NULL,
        writes INTEGER NOT NULL,
        PRIMARY KEY (thread_id, checkpoint_ns)) WITHOUT ROWID""",
    # Not ON CONFLICT: inside a trigger, the outer statement's OR REPLACE would replace it.
    f"""CREATE TRIGGER checkpoint_kept AFTER INSERT ON checkpoints BEGIN
        DELETE FROM heads WHERE {_same_thread("new")} AND checkpoint_id <= new.checkpoint_id;
        INSERT INTO heads
            SELECT new.thread_id, new.checkpoint_ns, new.checkpoint_id, {_count_writes("new")}
            WHERE NOT EXISTS (SELECT 1 FROM heads WHERE {_same_thread("new")});
        END""",
    f"""CREATE TRIGGER checkpoint_dropped AFTER DELETE ON checkpoints
        WHEN EXISTS (SELECT 1 FROM heads
            WHERE {_same_thread("old")} AND checkpoint_id = old.checkpoint_id) BEGIN
        DELETE FROM heads WHERE {_same_thread("old")};
        INSERT INTO heads
            SELECT thread_id, checkpoint_ns, checkpoint_id, {_count_writes("c")}
            FROM checkpoints AS c
            WHERE {_same_thread("old")} ORDER BY checkpoint_id DESC LIMIT 1;
        END""",
    f"""CREATE TRIGGER write_kept AFTER INSERT ON writes BEGIN
        UPDATE heads SET writes = writes + 1
            WHERE {_same_thread("new")} AND checkpoint_id = new.checkpoint_id;
        END""",
    f"""CREATE TRIGGER write_dropped AFTER DELETE ON writes BEGIN
        UPDATE heads SET writes = writes - 1
            WHERE {_same_thread("old")} AND checkpoint_id = old.checkpoint_id;
        END""",
    f"""INSERT INTO heads
        SELECT thread_id, checkpoint_ns, checkpoint_id, {_count_writes("c")} FROM (
            SELECT thread_id, checkpoint_ns, max(checkpoint_id) AS checkpoint_id
            FROM checkpoints GROUP BY thread_id, checkpoint_ns) AS c""",
)
"""The table, the triggers that keep it, and its content for a file that has checkpoints."""

HEAD = "SELECT checkpoint_id, writes FROM heads WHERE thread_id = ? AND checkpoint_ns = ?"

REPAIR = (
    "DELETE FROM heads WHERE thread_id = ?1 AND checkpoint_ns = ?2",
    f"""INSERT INTO heads
        SELECT thread_id, checkpoint_ns, checkpoint_id, {_count_writes("c")} FROM checkpoints AS c
        WHERE thread_id = ?1 AND checkpoint_ns = ?2 ORDER BY checkpoint_id DESC LIMIT 1""",
)


def head_of(found: CheckpointTuple | None) -> tuple[str, int] | None:
    """The row that ``heads`` must have for a thread whose latest checkpoint was found."""
    if found is None:
        return None
    latest = _fields(found.config)["checkpoint_id"]
    return str(latest), len(found.pending_writes or ())


# -- the write-ahead log: nothing complete comes after a damaged frame -----------------------------

HEADER, FRAME_HEADER = 32, 24
LOOKS = 3
"""Another process may be writing to the log meanwhile: a log that looks damaged is read again."""


def check_wal(database: Path) -> None:
    """Read the write-ahead log beside a database, if there is one.

    Raises:
        StoreError: Transactions that were complete can no longer be read.
    """
    path = Path(f"{database}-wal")
    for look in range(LOOKS):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}") from error
        if not is_damaged(data):
            return
        time.sleep(0.05 * (look + 1))
    raise StoreError(
        f"the log of the latest changes, {path}, is damaged: some of them cannot be read",
        hint=f"restore {database.parent} from a copy; or remove {path.name}, to continue from the "
        "state before those changes",
    )


def is_damaged(data: bytes) -> bool:
    """Whether a complete transaction follows a frame whose checksum is wrong.

    The format of the log is SQLite's: https://www.sqlite.org/fileformat2.html#walformat
    """
    if len(data) < HEADER + FRAME_HEADER:
        return False
    magic, _, page_size, _, salt1, salt2, sum1, sum2 = struct.unpack_from(">8I", data)
    words = "big" if magic & 1 else "little"
    state = _wal_checksum(data[:24], (0, 0), words)
    if magic | 1 != 0x377F0683 or state != (sum1, sum2):
        return True
    broken = False
    for start in range(HEADER, len(data) - FRAME_HEADER - page_size + 1, FRAME_HEADER + page_size):
        _, commit, *salts, sum1, sum2 = struct.unpack_from(">6I", data, start)
        if broken:
            if commit and salts == [salt1, salt2]:
                return True
            continue
        page = start + FRAME_HEADER
        state = _wal_checksum(data[start : start + 8], state, words)
        state = _wal_checksum(data[page : page + page_size], state, words)
        broken = salts != [salt1, salt2] or state != (sum1, sum2)
    return False


def _wal_checksum(data: bytes, state: tuple[int, int], order: str) -> tuple[int, int]:
    numbers = array("I", data)
    if order != sys.byteorder:
        numbers.byteswap()
    first, second = state
    pairs = iter(numbers)
    for even, odd in zip(pairs, pairs, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
