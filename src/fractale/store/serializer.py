"""Values of checkpoints as bytes: plain types only, and with a sum that damage would not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, cast

import ormsgpack
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt

from fractale.errors import StoreError
from fractale.plain import readable

HINT = "the database was damaged or written by something else; nothing in it was run"
KINDS = ("null", "bytes", "bytearray", "msgpack")
SUMMED = "summed:"
"""Before the kind of a value whose bytes start with a sum of the rest."""
SUM_BYTES = 8
INTEGER, TEXT, PAIRS, MESSAGE, INTERRUPT = range(100, 105)
"""Types of our own in msgpack; LangGraph's own begin at 0."""
OPTIONS = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
"""LangGraph's, but for the one that replaces lone surrogates."""


def checksum(*parts: bytes) -> bytes:
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
    itself write them, are read, too. Integers of any size and lone
    surrogates are kept, which msgpack alone cannot.
    """

    def __init__(self) -> None:
        super().__init__(
            pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None
        )
        self._unpack_ext_hook = _with_own_types(self._unpack_ext_hook)
        self._custom_unpack_ext_hook = True  # or LangGraph's strict mode puts its own in its place

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """One value as its kind and bytes.

        Raises:
            StoreError: It holds something that no checkpoint can keep.
        """
        kind, data = self._dumps(obj)
        if kind == "null":
            return kind, data
        return f"{SUMMED}{kind}", checksum(kind.encode(), data) + data

    def _dumps(self, obj: Any) -> tuple[str, bytes]:
        if obj is None or isinstance(obj, bytes | bytearray):
            return super().dumps_typed(obj)
        try:
            try:
                return "msgpack", ormsgpack.packb(obj, default=self._langgraphs, option=OPTIONS)
            except TypeError:
                return "msgpack", self._pack(obj)
        except (TypeError, ValueError) as error:
            raise StoreError(f"a value cannot be kept in a checkpoint: {error}") from error

    def _langgraphs(self, obj: Any) -> ormsgpack.Fragment:
        """What is not plain data, as LangGraph writes it.

        Raises:
            TypeError: LangGraph would refuse what is in it, or replace it.
        """
        if isinstance(obj, Interrupt):
            ormsgpack.packb(obj.value, option=OPTIONS)
        elif isinstance(obj, BaseMessage):
            inside: list[Any] = [obj.content, getattr(obj, "tool_calls", None)]  # pyright: ignore[reportUnknownMemberType] - LangChain's list of anything
            ormsgpack.packb(inside, option=OPTIONS)
        return ormsgpack.Fragment(super().dumps_typed(obj)[1])

    def _pack(self, value: Any) -> bytes:
        return ormsgpack.packb(self._coded(value), option=OPTIONS)

    def _coded(self, value: Any) -> Any:
        """A value with what msgpack lacks, at any depth, as types of our own."""
        match value:
            case None | bool() | float() | bytes():
                return value
            case str():
                fits = readable(value) == value
                return (
                    value if fits else ormsgpack.Ext(TEXT, value.encode("utf-8", "surrogatepass"))
                )
            case int():
                fits = -(2**63) <= value < 2**64
                return value if fits else ormsgpack.Ext(INTEGER, str(value).encode())
            case dict():
                return self._coded_table(cast("dict[Any, Any]", value))
            case list() | tuple():
                return [self._coded(each) for each in cast("list[Any]", value)]
            case BaseMessage():
                return ormsgpack.Ext(MESSAGE, self._pack(message_to_dict(value)))
            case Interrupt():
                return ormsgpack.Ext(INTERRUPT, self._pack([value.value, value.id]))
            case _:
                return self._langgraphs(value)

    def _coded_table(self, table: dict[Any, Any]) -> Any:
        """A mapping; as pairs where a key is no key of msgpack."""
        keys = [self._coded(key) for key in table]
        values = [self._coded(value) for value in table.values()]
        if any(isinstance(key, ormsgpack.Ext) for key in keys):
            pairs = [list(pair) for pair in zip(keys, values, strict=True)]
            return ormsgpack.Ext(PAIRS, ormsgpack.packb(pairs, option=OPTIONS))
        return dict(zip(keys, values, strict=True))

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


def _with_own_types(hook: Callable[[int, bytes], Any]) -> Callable[[int, bytes], Any]:
    """What reads the extension types of a checkpoint: LangGraph's, and our own."""

    def inside(data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=read, option=ormsgpack.OPT_NON_STR_KEYS)

    own: dict[int, Callable[[bytes], Any]] = {
        INTEGER: int,
        TEXT: lambda data: data.decode("utf-8", "surrogatepass"),
        PAIRS: lambda data: dict(inside(data)),
        MESSAGE: lambda data: messages_from_dict([inside(data)])[0],
        INTERRUPT: lambda data: Interrupt(*inside(data)),
    }

    def read(code: int, data: bytes) -> Any:
        return own[code](data) if code in own else hook(code, data)

    return read


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
    if stored[:SUM_BYTES] != checksum(plain.encode(), stored[SUM_BYTES:]):
        raise StoreError("a checkpoint was changed or damaged: its sum does not fit", hint=HINT)
    return plain, stored[SUM_BYTES:]
