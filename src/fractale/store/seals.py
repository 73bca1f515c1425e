"""Ties what is stored in a row to the row: a value that stands in another row does not count.

The serializer's sum tells that the bytes of a value are as they were written. The rest of its
row (whose checkpoint it is, of which task, for which channel) SQLite keeps without a sum. So a
checkpoint and a write carry one over their rows inside their own, summed, bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from fractale.store.serializer import HINT, sum_of

SEAL = "fractale_seal"


def seal_checkpoint(
    config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
) -> Checkpoint:
    """The checkpoint with a sum over its row in it."""
    kept = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False)
    words = json.loads(kept.encode("utf-8", "ignore"))
    parent = _fields(config).get("checkpoint_id")
    seal = _row_sum(config, checkpoint["id"], parent, words)
    return cast("Checkpoint", {**checkpoint, SEAL: seal})


def seal_writes(
    config: RunnableConfig, writes: Sequence[tuple[str, Any]], task: str, path: str
) -> list[tuple[str, Any]]:
    """The writes of a task, each with a sum over its row and its place among the others."""
    return [
        # A bytearray would come back as bytes from within a list.
        (channel, value if isinstance(value, bytearray) else [SEAL, seal, path, place, value])
        for number, (channel, value) in enumerate(writes)
        for place in [WRITES_IDX_MAP.get(channel, number)]
        for seal in [_write_sum(config, task, channel)]
    ]


def unseal(found: CheckpointTuple) -> CheckpointTuple:
    """What was stored, without the sums.

    Raises:
        StoreError: A sum does not fit its row.
    """
    checkpoint: dict[str, Any] = dict(found.checkpoint)
    seal = checkpoint.pop(SEAL, None)
    parent = _fields(found.parent_config).get("checkpoint_id") if found.parent_config else None
    now = _fields(found.config)["checkpoint_id"]
    fits = seal is None or seal == _row_sum(found.config, now, parent, found.metadata)
    if not fits or checkpoint.get("id") != now:
        raise StoreError("a checkpoint was changed or damaged: it is not its row's", hint=HINT)
    writes = found.pending_writes
    return found._replace(
        checkpoint=cast("Checkpoint", checkpoint),
        pending_writes=None if writes is None else _unseal_writes(found.config, writes),
    )


def _unseal_writes(config: RunnableConfig, writes: Sequence[PendingWrite]) -> list[PendingWrite]:
    """The writes in the order of their sealed places; as they come where one has none."""
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
    if parts[1] != _write_sum(config, task, channel):
        raise StoreError("a checkpoint was changed or damaged: a write is not its row's", hint=HINT)
    return task, channel, parts[4]


def _row_sum(config: RunnableConfig, own: str, parent: str | None, metadata: Any) -> bytes:
    words = json.dumps(metadata, sort_keys=True)
    return sum_of(*_thread(config), own.encode(), (parent or "").encode(), words.encode())


def _write_sum(config: RunnableConfig, task: str, channel: str) -> bytes:
    own = str(_fields(config)["checkpoint_id"])
    return sum_of(*_thread(config), own.encode(), task.encode(), channel.encode())


def _thread(config: RunnableConfig) -> tuple[bytes, bytes]:
    fields = _fields(config)
    return str(fields["thread_id"]).encode(), str(fields.get("checkpoint_ns", "")).encode()


def _fields(config: RunnableConfig) -> Mapping[str, Any]:
    return config.get("configurable", {})
