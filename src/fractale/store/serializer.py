"""Values of checkpoints as bytes: plain types only, and with a sum that damage would not fit."""

from __future__ import annotations

import hashlib
from typing import Any

from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from fractale.errors import StoreError

HINT = "the database was damaged or written by something else; nothing in it was run"
KINDS = ("null", "bytes", "bytearray", "msgpack")
SUMMED = "summed:"
"""Before the kind of a value whose bytes start with a sum of the rest."""
SUM_BYTES = 8


def sum_of(*parts: bytes) -> bytes:
    """A short hash of some bytes, different for other bytes or other borders between them."""
    digest = hashlib.blake2b(digest_size=SUM_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


class StrictSerializer(JsonPlusSerializer):
    """Reads plain data and LangGraph's own safe types; anything else is an error.

    LangGraph's serializer is permissive by default (a crafted checkpoint can run code), and its
    strict mode hands back a raw value where it refused a type. Neither will do: a checkpoint
    that holds anything unexpected is not to be trusted at all. Nor is one whose bytes changed on
    the disk: each value is kept with a sum. Values without one, as fractale 0.2 and LangGraph
    itself write them, are read, too.
    """

    def __init__(self) -> None:
        super().__init__(
            pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None
        )

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """One value as its kind and bytes."""
        kind, data = super().dumps_typed(obj)
        if kind == "null":
            return kind, data
        return f"{SUMMED}{kind}", sum_of(kind.encode(), data) + data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read one stored value.

        Args:
            data: The serializer's type word and the bytes.

        Raises:
            StoreError: The bytes hold a type outside the allow-list, or are damaged.
        """
        kind, stored = _checked(*data)
        blocked: list[SerdeEvent] = []
        unregister = register_serde_event_listener(blocked.append)
        try:
            value = super().loads_typed((kind, stored))
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


def _checked(kind: Any, data: Any) -> tuple[str, bytes]:
    """The kind and the bytes without the sum, which fits them.

    A damaged file can hold anything in place of either.
    """
    summed = isinstance(kind, str) and kind.startswith(SUMMED)
    plain: Any = kind.removeprefix(SUMMED) if summed else kind
    if plain not in KINDS:
        raise StoreError(f"a checkpoint holds a value of the refused kind `{plain}`", hint=HINT)
    if not isinstance(data, bytes | bytearray):
        raise StoreError("a checkpoint holds a value that is not bytes", hint=HINT)
    stored = bytes(data)
    if not summed:
        return plain, stored
    if stored[:SUM_BYTES] != sum_of(plain.encode(), stored[SUM_BYTES:]):
        raise StoreError("a checkpoint was changed or damaged: its sum does not fit", hint=HINT)
    return plain, stored[SUM_BYTES:]
